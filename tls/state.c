/*
 * Makes a runtime's TLS state when it is first needed, and ends it with the runtime.
 * Any thread. Must not be asked for again once the runtime ends.
 */
#include "tls/state.h"

#include "base/assert.h"

static void end(struct moor_runtime *r)
{
    struct mr_tls_state *s = atomic_load(&r->tls);
    MR_ASSERT(mr_list_is_empty(&s->contexts) && "a pool or a conn still uses one");
    mr_tickets_destroy(s->tickets);
    mr_lock_fini(&s->lock);
    mr_heap_free(&r->heap, s, sizeof *s);
}

static struct mr_tls_state *make(struct moor_runtime *r)
{
    struct mr_tls_state *s = mr_heap_zalloc(&r->heap, sizeof *s);
    if (!s)
        return NULL;
    s->runtime = r;
    s->tickets = mr_tickets_create(&r->heap);
    if (!s->tickets) {
        mr_heap_free(&r->heap, s, sizeof *s);
        return NULL;
    }
    mr_lock_init(&s->lock);
    mr_list_init(&s->contexts);
    for (size_t i = 0; i < MR_SHARDS_MAX; i++)
        mr_list_init(&s->shards[i].waiting);
    return s;
}

moor_err mr_tls_state_of(struct moor_runtime *r, struct mr_tls_state **out)
{
    struct mr_tls_state *there = atomic_load(&r->tls);
    if (!there) {
        MR_TRY(mr_tls_library_begin());
        struct mr_tls_state *made = make(r);
        MR_FAIL_IF(!made, MOOR_ENOMEM);
        mr_lock_lock(&r->lock);
        there = atomic_load(&r->tls);
        if (!there) {
            there = made;
            r->tls_end = end;
            atomic_store(&r->tls, made);
        }
        mr_lock_unlock(&r->lock);
        if (there != made) {
            mr_tickets_destroy(made->tickets);
            mr_lock_fini(&made->lock);
            mr_heap_free(&r->heap, made, sizeof *made);
        }
    }
    *out = there;
    return MOOR_OK;
}
