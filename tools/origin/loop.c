/*
 * The epoll loop of one thread: accepts, wakes conns, fires timers. Owns every conn accepted here
 * until it closes. One thread; only loop_stop may be called from another.
 */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "conn.h"

enum { EVENTS_MAX = 256, ACCEPTS_PER_TURN = 64, ACCEPT_PAUSE_MS = 50 };

static void accept_some(struct loop *l, struct listener *from);
static void resume_listeners(struct loop *l);
static void wake_conn(struct conn *c, uint32_t events);
static void run_ready(struct loop *l);
static void fire_timers(struct loop *l);
static int time_to_wait(const struct loop *l);

static uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool loop_init(struct loop *l, const struct options *options, struct loop *peers,
               unsigned peers_len, struct ssl_ctx_st *tls_context)
{
    *l = (struct loop){
        .options = options, .peers = peers, .peer_count = peers_len, .tls_context = tls_context};
    LIST_INIT(&l->conns);
    TAILQ_INIT(&l->ready);
    l->now_ms = clock_ms();
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->in_scratch = malloc(IN_SCRATCH);
    l->out_scratch = malloc(OUT_SCRATCH);
    if (tls_context) {
        l->raw_scratch = malloc(RAW_SCRATCH);
        l->sealed_scratch = malloc(SEALED_SCRATCH);
    }
    const bool has_tls_memory = !tls_context || (l->raw_scratch && l->sealed_scratch);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    return l->epoll_fd >= 0 && l->wake_fd >= 0 && l->in_scratch && l->out_scratch &&
           has_tls_memory && epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &ev) == 0;
}

/* A listener's event carries its own address, which no conn can have. */
static struct epoll_event listener_event(struct listener *from)
{
    return (struct epoll_event){.events = EPOLLIN, .data.ptr = from};
}

bool loop_add_listener(struct loop *l, int fd, const struct protocol *protocol)
{
    struct listener *added = &l->listeners[l->listener_count++];
    *added = (struct listener){.fd = fd, .protocol = protocol};
    struct epoll_event ev = listener_event(added);
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

void loop_run(struct loop *l)
{
    struct epoll_event events[EVENTS_MAX];
    while (!atomic_load_explicit(&l->stopping, memory_order_acquire)) {
        const int n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, time_to_wait(l));
        l->now_ms = clock_ms();
        for (int i = 0; i < n; i++) {
            void *who = events[i].data.ptr;
            if (who == NULL)
                continue; /* woken to stop: the loop's condition looks */
            if (who >= (void *)l->listeners && who < (void *)(l->listeners + LISTENERS_MAX))
                accept_some(l, who);
            else
                wake_conn(who, events[i].events);
        }
        run_ready(l);
        fire_timers(l);
        resume_listeners(l);
    }
}

void loop_stop(struct loop *l)
{
    atomic_store_explicit(&l->stopping, true, memory_order_release);
    const uint64_t one = 1;
    (void)!write(l->wake_fd, &one, sizeof one);
}

void loop_fini(struct loop *l)
{
    struct conn *c;
    while ((c = LIST_FIRST(&l->conns)))
        c->protocol->stop(c);
    free(l->heap);
    free(l->in_scratch);
    free(l->out_scratch);
    free(l->raw_scratch);
    free(l->sealed_scratch);
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
}

static void accept_some(struct loop *l, struct listener *from)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        const int fd = accept4(from->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            (void)conn_open(l, fd, from->protocol);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The listener stays readable: without a pause the loop would spin until a conn ends.
             */
            from->is_paused = epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, from->fd, NULL) == 0;
            from->resume_ms = l->now_ms + ACCEPT_PAUSE_MS;
        }
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static void resume_listeners(struct loop *l)
{
    for (unsigned i = 0; i < l->listener_count; i++) {
        struct listener *from = &l->listeners[i];
        if (!from->is_paused || from->resume_ms > l->now_ms)
            continue;
        struct epoll_event ev = listener_event(from);
        from->is_paused = epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, from->fd, &ev) != 0;
    }
}

static void wake_conn(struct conn *c, uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP)) {
        conn_close(c);
        return;
    }
    if (events & EPOLLRDHUP)
        c->peer_ended = true;
    if (events & (EPOLLIN | EPOLLRDHUP))
        c->readable = true;
    c->protocol->drive(c);
}

static void run_ready(struct loop *l)
{
    /* Those that join while this runs wait for the next turn, after the kernel was asked. */
    struct conn *last = TAILQ_LAST(&l->ready, ready_list), *c;
    while (last && (c = TAILQ_FIRST(&l->ready))) {
        const bool is_last = c == last;
        TAILQ_REMOVE(&l->ready, c, ready);
        c->is_ready = false;
        c->protocol->drive(c);
        if (is_last)
            return;
    }
}

static int time_to_wait(const struct loop *l)
{
    if (!TAILQ_EMPTY(&l->ready))
        return 0;
    uint64_t next = l->heap_len ? l->heap[0]->timer_ms : UINT64_MAX;
    for (unsigned i = 0; i < l->listener_count; i++)
        if (l->listeners[i].is_paused && l->listeners[i].resume_ms < next)
            next = l->listeners[i].resume_ms;
    if (next == UINT64_MAX)
        return -1;
    if (next <= l->now_ms)
        return 0;
    const uint64_t wait = next - l->now_ms;
    return wait > 60000 ? 60000 : (int)wait;
}

/* --- timers: a binary heap of conns, each knowing its place --- */

static void heap_place(struct loop *l, size_t slot, struct conn *c)
{
    l->heap[slot] = c;
    c->timer_slot = (long)slot;
}

static void heap_settle(struct loop *l, size_t slot, struct conn *c)
{
    while (slot > 0 && l->heap[(slot - 1) / 2]->timer_ms > c->timer_ms) {
        heap_place(l, slot, l->heap[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    for (size_t child; (child = 2 * slot + 1) < l->heap_len; slot = child) {
        if (child + 1 < l->heap_len && l->heap[child + 1]->timer_ms < l->heap[child]->timer_ms)
            child++;
        if (l->heap[child]->timer_ms >= c->timer_ms)
            break;
        heap_place(l, slot, l->heap[child]);
    }
    heap_place(l, slot, c);
}

void timer_set(struct conn *c, uint64_t when_ms)
{
    struct loop *l = c->loop;
    c->timer_ms = when_ms;
    if (c->timer_slot != TIMER_OFF) {
        heap_settle(l, (size_t)c->timer_slot, c);
        return;
    }
    if (l->heap_len == l->heap_cap) {
        const size_t cap = l->heap_cap ? l->heap_cap * 2 : 64;
        struct conn **grown = realloc(l->heap, cap * sizeof *grown);
        if (!grown)
            abort();
        l->heap = grown;
        l->heap_cap = cap;
    }
    heap_settle(l, l->heap_len++, c);
}

void timer_clear(struct conn *c)
{
    struct loop *l = c->loop;
    if (c->timer_slot == TIMER_OFF)
        return;
    struct conn *moved = l->heap[--l->heap_len];
    if (moved != c)
        heap_settle(l, (size_t)c->timer_slot, moved);
    c->timer_slot = TIMER_OFF;
}

static void fire_timers(struct loop *l)
{
    while (l->heap_len && l->heap[0]->timer_ms <= l->now_ms) {
        struct conn *c = l->heap[0];
        timer_clear(c);
        c->protocol->on_timer(c);
    }
}
