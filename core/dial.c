/*
 * One race of connects. Runs only on its loop's thread; owns one mr_sock per attempt until
 * closed(). Never reports before every loser is closed, never from inside start or cancel.
 */
#include "core/dial.h"

#include "base/assert.h"

#include <errno.h>
#include <string.h>

/* One address being tried. Never reused: its mr_sock is the backend's until closed(). */
struct attempt {
    struct mr_sock sock;
    struct mr_addr to; /* with the port; connect needs it until connected() */
    struct mr_dial *dial;
    uint32_t index; /* in addrs->list */
    bool is_open;   /* begun, and closed() has not come */
    bool is_closing;
};

struct mr_dial {
    struct mr_loop *loop;
    struct mr_addrs *addrs;
    struct mr_sock_options options;
    void (*done)(void *ctx, const struct mr_dial_result *r);
    void *ctx;
    int64_t started_ns;
    int64_t stagger_ns;
    struct mr_timer deadline;
    struct mr_timer stagger;
    struct mr_deferred report; /* when the end came inside start or cancel */
    struct mr_dial_result result;
    uint32_t next;     /* attempt to begin next */
    uint32_t connects; /* connects under way */
    uint32_t open;     /* attempts whose sockets are not closed; none left: report */
    bool is_over;      /* the result stands */
    bool is_inside;    /* in start or cancel: done must wait */
    bool is_starved;   /* out of descriptors or memory: further connects fail as well */
    uint32_t count;
    struct attempt attempts[]; /* in the order to try */
};

static void on_connected(struct mr_sock *s, int err);
static void on_closed(struct mr_sock *s);
static void on_received(struct mr_sock *s, struct mr_buf *buf, uint32_t len);
static void on_recv_ended(struct mr_sock *s, int err);
static void on_sent(struct mr_sock *s, int err, size_t taken);
static void on_deadline(struct mr_timer *t, int64_t now_ns);
static void on_stagger(struct mr_timer *t, int64_t now_ns);
static void on_report(struct mr_deferred *r);
static void choose_order(struct mr_dial *d, const struct mr_dial_args *a);
static void begin_next(struct mr_dial *d);
static void close_attempt(struct attempt *t);
static void finish(struct mr_dial *d, moor_err err, const char *what);

static const struct mr_sock_events attempt_events = {
    .connected = on_connected,
    .received = on_received,
    .recv_ended = on_recv_ended,
    .sent = on_sent,
    .closed = on_closed,
};

static size_t dial_bytes(uint32_t count)
{
    return sizeof(struct mr_dial) + count * sizeof(struct attempt);
}

moor_err mr_dial_start(struct mr_loop *l, const struct mr_dial_args *a, struct mr_dial **out_)
{
    uint32_t count = a->addrs->count < MR_DIAL_TRIES_MAX ? a->addrs->count : MR_DIAL_TRIES_MAX;
    MR_ASSERT(count > 0);
    struct mr_dial *d = mr_heap_zalloc(l->heap, dial_bytes(count));
    if (!d)
        return MOOR_ENOMEM;
    d->loop = l;
    d->addrs = mr_addrs_ref(a->addrs);
    if (a->options)
        d->options = *a->options;
    d->done = a->done;
    d->ctx = a->ctx;
    d->started_ns = l->now_ns;
    d->stagger_ns = a->stagger_ns > 0 ? a->stagger_ns : MR_DIAL_STAGGER_NS;
    d->deadline.fire = on_deadline;
    d->stagger.fire = on_stagger;
    d->report.run = on_report;
    d->result = (struct mr_dial_result){.fd = -1, .family = AF_UNSPEC};
    d->count = count;
    choose_order(d, a);

    *out_ = d;
    d->is_inside = true;
    mr_loop_timer(l, &d->deadline, a->deadline_ns);
    begin_next(d);
    d->is_inside = false;
    return MOOR_OK;
}

void mr_dial_cancel(struct mr_dial *d)
{
    d->is_inside = true;
    finish(d, MOOR_ECANCELED, "dial canceled");
    d->is_inside = false;
}

/* The rotation picks who is first; after it families alternate again, so that a rotation by one
 * does not put two addresses of the broken family in front. */
static void choose_order(struct mr_dial *d, const struct mr_dial_args *a)
{
    const struct mr_addrs *l = a->addrs;
    bool is_taken[MR_ADDRS_MAX] = {false};
    uint32_t start = a->start_index % l->count;
    int want = a->first_family;
    for (uint32_t i = 0; i < d->count; i++) {
        uint32_t pick = UINT32_MAX;
        for (uint32_t k = 0; k < l->count; k++) {
            uint32_t at = (start + k) % l->count;
            bool is_wanted = want == AF_UNSPEC || l->list[at].sa.sa_family == want;
            if (is_taken[at])
                continue;
            if (pick == UINT32_MAX || is_wanted)
                pick = at;
            if (is_wanted)
                break;
        }
        is_taken[pick] = true;
        struct attempt *t = &d->attempts[i];
        t->sock.events = &attempt_events;
        t->sock.fd = -1;
        t->dial = d;
        t->index = pick;
        t->to = l->list[pick];
        if (a->port)
            mr_addr_set_port(&t->to, a->port);
        want = t->to.sa.sa_family == AF_INET ? AF_INET6 : AF_INET;
    }
}

static bool is_local_shortage(int err)
{
    return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS;
}

static void note_failure(struct mr_dial *d, const struct attempt *t, int err)
{
    /* What kept the other addresses from being tried matters more than what the tried ones said. */
    if (d->is_starved)
        return;
    d->result.os_errno = err;
    d->result.index = t->index;
    d->is_starved = is_local_shortage(err);
}

static void finish_failed(struct mr_dial *d)
{
    switch (d->result.os_errno) {
    case EMFILE:
    case ENFILE:
        finish(d, MOOR_ENOFILES, "connect: out of file descriptors");
        break;
    case ENOMEM:
    case ENOBUFS:
        finish(d, MOOR_ENOMEM, "connect: out of memory");
        break;
    case ECONNREFUSED:
        finish(d, MOOR_ECONNECT, "connection refused");
        break;
    case ETIMEDOUT:
        finish(d, MOOR_ECONNECT, "connect timed out in the kernel");
        break;
    case ENETUNREACH:
    case EHOSTUNREACH:
        finish(d, MOOR_ECONNECT, "no route to the address");
        break;
    case EADDRNOTAVAIL:
        finish(d, MOOR_ECONNECT, "no local address or port left");
        break;
    default:
        finish(d, MOOR_ECONNECT, "connect failed");
        break;
    }
}

/* Begins attempts until one is under way; without any left and none running the race is lost. */
static void begin_next(struct mr_dial *d)
{
    while (d->next < d->count && !d->is_starved) {
        struct attempt *t = &d->attempts[d->next++];
        d->result.tried++;
        int err = mr_io_connect(d->loop->io, &t->sock, &t->to.sa, t->to.len, &d->options);
        if (err == 0) {
            t->is_open = true;
            d->open++;
            d->connects++;
            bool is_last = d->next == d->count;
            mr_loop_timer(d->loop, &d->stagger,
                          is_last ? MR_NEVER : d->loop->now_ns + d->stagger_ns);
            return;
        }
        note_failure(d, t, err);
    }
    mr_loop_untimer(d->loop, &d->stagger);
    if (d->connects == 0)
        finish_failed(d);
}

static void on_stagger(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    begin_next(MR_CONTAINER_OF(t, struct mr_dial, stagger));
}

static void on_deadline(struct mr_timer *t, int64_t now_ns)
{
    (void)now_ns;
    finish(MR_CONTAINER_OF(t, struct mr_dial, deadline), MOOR_ETIMEDOUT,
           "no address accepted before the deadline");
}

/* A dead server's port in the ephemeral range, dialled over loopback, can be given to the dialling
 * socket itself: TCP's simultaneous open then connects it to itself, which looks like success. */
static bool is_self_connected(const struct attempt *t)
{
    bool is_loopback =
        (t->to.sa.sa_family == AF_INET && (ntohl(t->to.in.sin_addr.s_addr) >> 24) == 127) ||
        (t->to.sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&t->to.in6.sin6_addr));
    if (!is_loopback)
        return false;
    struct mr_addr own = {.len = sizeof own.un};
    if (getsockname(t->sock.fd, &own.sa, &own.len) != 0)
        return false;
    return own.sa.sa_family == t->to.sa.sa_family && mr_addr_port(&own) == mr_addr_port(&t->to) &&
           mr_addr_is_equal(&own, &t->to);
}

static void on_connected(struct mr_sock *s, int err)
{
    struct attempt *t = MR_CONTAINER_OF(s, struct attempt, sock);
    struct mr_dial *d = t->dial;
    MR_ASSERT(!d->is_over && d->connects > 0);
    d->connects--;
    if (err == 0 && is_self_connected(t))
        err = ECONNREFUSED;
    if (err == 0) {
        d->result.fd = mr_io_detach(d->loop->io, s);
        d->result.index = t->index;
        d->result.family = t->to.sa.sa_family;
        t->is_open = false;
        d->open--;
        finish(d, MOOR_OK, NULL);
        return;
    }
    note_failure(d, t, err);
    close_attempt(t);
    /* RFC 8305 5: a failure starts the next attempt at once, and its delay anew. */
    begin_next(d);
}

static void close_attempt(struct attempt *t)
{
    if (!t->is_open || t->is_closing)
        return;
    t->is_closing = true;
    mr_io_close(t->dial->loop->io, &t->sock);
}

static void finish(struct mr_dial *d, moor_err err, const char *what)
{
    if (d->is_over)
        return;
    d->is_over = true;
    d->result.err = err;
    d->result.what = what;
    d->result.elapsed_ns = d->loop->now_ns - d->started_ns;
    mr_loop_untimer(d->loop, &d->deadline);
    mr_loop_untimer(d->loop, &d->stagger);
    for (uint32_t i = 0; i < d->next; i++)
        close_attempt(&d->attempts[i]);
    if (d->open > 0)
        return;
    if (d->is_inside)
        mr_loop_defer(d->loop, &d->report);
    else
        on_report(&d->report);
}

static void on_closed(struct mr_sock *s)
{
    struct attempt *t = MR_CONTAINER_OF(s, struct attempt, sock);
    struct mr_dial *d = t->dial;
    MR_ASSERT(t->is_open && d->open > 0);
    t->is_open = false;
    d->open--;
    if (d->is_over && d->open == 0)
        on_report(&d->report);
}

static void on_report(struct mr_deferred *r)
{
    struct mr_dial *d = MR_CONTAINER_OF(r, struct mr_dial, report);
    MR_ASSERT(d->is_over && d->open == 0);
    mr_loop_undefer(&d->report);
    struct mr_dial_result result = d->result;
    void (*done)(void *, const struct mr_dial_result *) = d->done;
    void *ctx = d->ctx;
    /* Free first: done may dial again and must find the memory and a quiet loop. */
    mr_addrs_unref(d->addrs);
    mr_heap_free(d->loop->heap, d, dial_bytes(d->count));
    done(ctx, &result);
}

/* A dial never reads or writes: the backend has no reason to call these. */
static void on_received(struct mr_sock *s, struct mr_buf *buf, uint32_t len)
{
    (void)s;
    (void)buf;
    (void)len;
    MR_ASSERT(!"a dial does not receive");
}

static void on_recv_ended(struct mr_sock *s, int err)
{
    (void)s;
    (void)err;
    MR_ASSERT(!"a dial does not receive");
}

static void on_sent(struct mr_sock *s, int err, size_t taken)
{
    (void)s;
    (void)err;
    (void)taken;
    MR_ASSERT(!"a dial does not send");
}
