/*
 * Intrusive doubly linked list: a link is a member of the thing linked, the head is a link too.
 * Pure, inline; whoever owns the head owns the thread.
 */
#ifndef MR_BASE_LIST_H
#define MR_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#define MR_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct mr_list {
    struct mr_list *next;
    struct mr_list *prev;
};

static inline void mr_list_init(struct mr_list *l)
{
    l->next = l;
    l->prev = l;
}

static inline bool mr_list_is_empty(const struct mr_list *l)
{
    return l->next == l;
}

/* True for an initialised link that is on some list. A zeroed link counts as unlinked. */
static inline bool mr_list_is_linked(const struct mr_list *l)
{
    return l->next && l->next != l;
}

static inline void mr_list_insert_after(struct mr_list *at, struct mr_list *l)
{
    l->next = at->next;
    l->prev = at;
    at->next->prev = l;
    at->next = l;
}

static inline void mr_list_push_front(struct mr_list *head, struct mr_list *l)
{
    mr_list_insert_after(head, l);
}

static inline void mr_list_push_back(struct mr_list *head, struct mr_list *l)
{
    mr_list_insert_after(head->prev, l);
}

/* Leaves `l` initialised, so removing twice is harmless. */
static inline void mr_list_remove(struct mr_list *l)
{
    if (!l->next)
        return;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    mr_list_init(l);
}

static inline struct mr_list *mr_list_first(const struct mr_list *head)
{
    return mr_list_is_empty(head) ? NULL : head->next;
}

static inline struct mr_list *mr_list_last(const struct mr_list *head)
{
    return mr_list_is_empty(head) ? NULL : head->prev;
}

static inline struct mr_list *mr_list_pop_front(struct mr_list *head)
{
    struct mr_list *l = mr_list_first(head);
    if (l)
        mr_list_remove(l);
    return l;
}

/* Moves everything of `from` to the empty or unset head `to`, in order. */
static inline void mr_list_take_all(struct mr_list *to, struct mr_list *from)
{
    mr_list_init(to);
    if (mr_list_is_empty(from))
        return;
    to->next = from->next;
    to->prev = from->prev;
    to->next->prev = to;
    to->prev->next = to;
    mr_list_init(from);
}

#endif
