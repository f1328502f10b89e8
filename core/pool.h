/*
 * A pool: its policy, its upstreams, and what it has on each shard.
 * The pool and its upstreams: any thread, under `lock` where it says so. mr_pool_shard: that shard.
 */
#ifndef MR_CORE_POOL_H
#define MR_CORE_POOL_H

#include "base/histogram.h"
#include "base/lock.h"
#include "core/berth.h"
#include "core/runtime.h"
#include "core/shard.h"
#include "policy/gate.h"

#include <mooring/event.h>
#include <mooring/stats.h>

#include <sys/un.h>

#define MR_ORIGIN_BUCKETS 64

/* An option that moor_pool_set may change at any time: one word, read whole. */
#define MR_OPTION(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

struct mr_rack;

enum mr_pool_state { MR_POOL_OPEN, MR_POOL_DRAINING, MR_POOL_DRAINED };

/* What tells one upstream from another. Borrowed. */
struct mr_place {
    moor_span host;
    uint16_t port;
    const char *path; /* of a Unix socket, instead of host and port */
    bool is_secure;   /* under TLS: another upstream than the same place without */
};

/* Where conns go: one host and port, or a socket's path. */
struct mr_upstream {
    struct moor_pool *pool;
    struct mr_upstream *next; /* in its bucket */
    char *host;               /* name or literal; NULL for a Unix socket */
    char *path;               /* of a Unix socket, else NULL */
    uint16_t port;
    bool is_secure;
    struct mr_gate gate;          /* under the pool's lock */
    char connect_text[160];       /* what a driver said of the last failed dial; under it too */
    _Atomic(bool) is_above;       /* more conns than conns_max allows since it was lowered */
    _Atomic(int) family;          /* of the last winner, AF_UNSPEC: a hint */
    _Atomic(uint32_t) home;       /* index + 1 of the shard that keeps min idle; 0 = none */
    _Atomic(uint32_t) idle_total; /* over all shards */
    _Atomic(uint32_t) waiters;    /* over all shards */
    _Atomic(uint32_t) capacity;   /* claims a conn carried when it was last told, or is hoped to */
    _Atomic(bool) wants_place;    /* see core/place.h */
    _Atomic(uint32_t) wasted;     /* conns the peer ended unused since one was used */
    _Atomic(int64_t) expiry_told_s; /* when its certificate's end was last warned of, since 1970 */
    _Atomic(int64_t) calm_until_ns; /* wasted > 0: no dial for min idle before */
    _Atomic(struct mr_berth *) berths[MR_SHARDS_MAX]; /* set once by their shard, release */
};

/* Its host or its socket's path, for people. */
static inline const char *mr_upstream_text(const struct mr_upstream *u)
{
    return u->host ? u->host : u->path;
}

/* Something of a pool that is under way on a shard and can be told to end. */
struct mr_pool_op {
    struct mr_list link;
    void (*abort)(struct mr_pool_op *op); /* ends it, with its callback, later or now */
};

struct mr_pool_shard {
    struct moor_pool *pool;
    struct moor_shard *shard;
    struct mr_list link; /* shard->mine.locals */
    struct mr_list berths;
    struct mr_list ops; /* mr_pool_op */
    uint32_t live;      /* conns, ops, loans, moves: 0 = this shard is done */
    bool is_draining, is_reported;
    bool is_leaving; /* its thread gives the shard up */
    struct mr_message drain;
    _Atomic(bool) is_drain_posted;
    struct mr_timer deadline;
    struct mr_deferred report;
#define X(name, text) _Atomic(uint64_t) name; /* one writer, relaxed */
    struct {
        MOOR_STATS(X)
    } stats;
#undef X
    struct mr_histogram histograms[MOOR_HISTOGRAM_COUNT_];
};

struct moor_pool {
    struct moor_runtime *runtime;
    struct mr_list link;       /* runtime->pools, under its lock */
    moor_pool_options options; /* strings are the pool's own */
    char *name;
    const struct mr_protocol *protocol;
    moor_err (*secure)(struct mr_upstream *u, struct mr_conn *c); /* see mr_pool_spec */
    const struct mr_protocol *(*choose)(struct mr_upstream *u, const char *alpn); /* the same */
    bool (*meets)(struct mr_berth *b, struct mr_addrs *addrs);                    /* the same */
    uint32_t capacity_hoped;
    void *security; /* secure's own; freed by unwire */
    void *wiring;   /* the floor above's; freed by unwire */
    void (*unwire)(struct moor_pool *p);
    struct mr_sock_options sock_options;
    struct mr_rack *rack; /* of a driver that hands out its library's handles; else NULL */
    struct mr_lock lock;  /* gates, list of upstreams, locals being made, state */
    _Atomic(struct mr_upstream *) upstreams[MR_ORIGIN_BUCKETS]; /* by hash; lists only ever grow */
    struct mr_upstream *upstream; /* the one it was opened for; NULL = any */
    uint32_t upstream_count;
    _Atomic(uint32_t) generation; /* conns of an older one are used no more */
    uint32_t conns;               /* of all upstreams, open and being dialled; under lock */
    _Atomic(bool) wants_room;     /* somebody waits under conns_max_pool: an idle conn may go */
    _Atomic(struct mr_pool_shard *) locals[MR_SHARDS_MAX];
    _Atomic(uint32_t) state;        /* enum mr_pool_state */
    _Atomic(uint32_t) shards_live;  /* locals not yet drained, plus 1 while open, plus
                                           messages of the pool on their way                    */
    _Atomic(uint32_t) drained_word; /* futex: 1 = nothing is left */
    int64_t drain_deadline_ns;      /* under lock */
    void (*on_drained)(void *user);
    void *on_drained_user;
    struct mr_message finish; /* on_drained on a shard where no shard used the pool */
};

#define MR_STAT_ADD(local, name, n)                                                                \
    atomic_store_explicit(&(local)->stats.name,                                                    \
                          atomic_load_explicit(&(local)->stats.name, memory_order_relaxed) +       \
                              (uint64_t)(n),                                                       \
                          memory_order_relaxed)

struct mr_pool_spec {
    const char *name; /* for logs; NULL = made of the upstream */
    const struct mr_protocol *protocol;
    moor_pool_options options; /* overlaid and checked */
    /* Adds filters to a conn that has just connected; it may choose c->protocol later, when they are
     * open. NULL = plain. Not OK: the dial fails with it. On the conn's shard. */
    moor_err (*secure)(struct mr_upstream *u, struct mr_conn *c);
    /* The protocol of a conn whose filters are open, by what its peer picked; NULL result: none fits, the
     * conn fails. NULL = `protocol`. On the conn's shard. */
    const struct mr_protocol *(*choose)(struct mr_upstream *u, const char *alpn);
    /* Its name is resolved: conns of another upstream serve b's claims, which have been sent there; no dial is
     * made. NULL = never. On b's shard. */
    bool (*meets)(struct mr_berth *b, struct mr_addrs *addrs);
    /* Claims a conn under TLS is hoped to carry before the first has told; 0 = `protocol` says. */
    uint32_t capacity_hoped;
    void *security;
    void *wiring;
    void (*unwire)(struct moor_pool *p);
};

/* Opens a pool without upstreams. On failure wiring stays the caller's. */
MOOR_NODISCARD moor_err mr_pool_create(struct moor_runtime *r, const struct mr_pool_spec *spec,
                                       struct moor_pool **out_pool);
/* Finds or adds one. EBUSY: origins_max. Any thread. */
MOOR_NODISCARD moor_err mr_pool_upstream(struct moor_pool *p, const struct mr_place *place,
                                         struct mr_upstream **out_upstream);
/* What the pool has on this shard, made at first use. NULL: draining or out of memory. Owner thread. */
struct mr_pool_shard *mr_pool_local(struct moor_pool *p, struct moor_shard *s);

/* The gate, under its lock. enter also asks the runtime's cap; is_ours as in mr_gate_failed. */
enum mr_gate_verdict mr_pool_gate_enter(struct mr_upstream *u, int64_t now_ns);
/* True: it had failed before. */
bool mr_pool_gate_dialed(struct mr_upstream *u);
/* True: it is the first failure in a row. */
bool mr_pool_gate_failed(struct mr_upstream *u, const moor_fault *fault, bool is_ours,
                         int64_t now_ns, uint64_t random);
void mr_pool_conn_left(struct mr_upstream *u);
/* Open and being dialled, over all shards. */
uint32_t mr_pool_conn_count(struct mr_upstream *u);
/* Everyone who waits on this shard looks again if there is room, and an idle conn gives way if room is
 * wanted. */
void mr_pool_feed_shard(struct moor_shard *s, bool has_room);
/* A cap that u shares is reached: an idle conn closes, the first there is on any shard or will be. */
void mr_pool_make_room(struct mr_upstream *u);
/* True: an idle conn of u is to close for that, or because descriptors ran out. Once per call of the above. */
bool mr_pool_gives_way(struct mr_upstream *u);
/* It would be. */
bool mr_pool_wants_room(struct moor_pool *p);
/* No conn is there and none is tried before retry_at: the last dial's fault says why. */
bool mr_pool_is_upstream_down(struct mr_upstream *u, moor_fault *out_last, int64_t *out_retry_at);
/* Is this the shard that keeps the upstream's idle conns at the minimum: the first that used it. */
bool mr_pool_is_home(struct mr_upstream *u, const struct moor_shard *s);
void mr_pool_log_dial_failed(struct mr_upstream *u, const moor_fault *fault);
/* u and fault may be NULL. */
void mr_pool_event(struct moor_pool *p, const struct mr_upstream *u, moor_event_type type,
                   const moor_fault *fault);
/* TLS_READY and CERT_EXPIRING. */
void mr_pool_event_tls(const struct mr_upstream *u, moor_event_type type,
                       const moor_tls_info *info);
/* Why a dial that is not over yet will fail. */
void mr_pool_note_failure(struct mr_upstream *u, const moor_fault *fault);
/* The peer ended a conn before its first use: calm_until_ns follows. random: any 64 bits. */
void mr_pool_note_wasted(struct mr_upstream *u, int64_t now_ns, uint64_t random);
/* The peer takes no claims on a conn, for now: the same, and those who wait are not dialled for either. */
void mr_pool_note_useless(struct mr_upstream *u, const char *what, int64_t now_ns, uint64_t random);
void mr_pool_note_connect_text(struct mr_upstream *u, const char *text);
/* A lease is held for long, or has come back since: logged, and the events. site may be NULL. */
void mr_pool_tell_lease(struct mr_upstream *u, const char *site, moor_ns held, bool is_back);
/* Every shard that used the pool looks anew at what is idle and who waits, later. Any thread. */
void mr_pool_kick_all(struct moor_pool *p);
/* moor_pool_flush, and says why. */
void mr_pool_flush_because(struct moor_pool *p, const char *why);
/* The same because of a conn of that generation: if it was flushed since, that says nothing of what took its
 * place. */
void mr_pool_flush_of(struct moor_pool *p, uint32_t generation, const char *why);
/* When a conn made now reaches its maximum lifetime, jitter included; MR_NEVER. random: any 64 bits. */
int64_t mr_pool_draw_expiry(const struct moor_pool *p, int64_t now_ns, uint64_t random);
/* Fills counts and the last connect error. */
void mr_pool_why(struct mr_upstream *u, moor_why *out);

/* Something live began or ended here. */
static inline void mr_pool_hold(struct mr_pool_shard *local)
{
    local->live++;
}
void mr_pool_unhold(struct mr_pool_shard *local);

/* The pool is not freed while one of its own messages is in an inbox. False: it has ended, post nothing. */
bool mr_pool_hold_end(struct moor_pool *p);
void mr_pool_unhold_end(struct moor_pool *p);

/* Ops hear abort() when a drain's deadline has passed. */
void mr_pool_op_begin(struct mr_pool_shard *local, struct mr_pool_op *op);
void mr_pool_op_end(struct mr_pool_shard *local, struct mr_pool_op *op);

static inline bool mr_pool_is_open(struct moor_pool *p)
{
    return atomic_load_explicit(&p->state, memory_order_acquire) == MR_POOL_OPEN;
}

/* Its timers and deferred work off. */
void mr_pool_quiet(struct mr_pool_shard *local);

/* New claims may begin and conns may idle here. */
static inline bool mr_pool_takes_work(struct mr_pool_shard *local)
{
    return !local->is_leaving && mr_pool_is_open(local->pool);
}
static inline bool mr_pool_shares_caps(const struct moor_pool *p)
{
    return p->options.conns_max_pool || p->runtime->options.conns_max_runtime;
}
/* The shard's thread gives it up: operations end with ECANCELED, conns close. */
void mr_pool_leave(struct mr_pool_shard *local);
/* Nothing but loans is left here. */
bool mr_pool_is_quiet(struct mr_pool_shard *local);

/* Drain and wait until nothing is left; a second use may follow a MOOR_EBUSY. */
MOOR_NODISCARD moor_err mr_pool_wait_drained(struct moor_pool *p, int64_t deadline_ns);
/* Frees a drained pool. */
void mr_pool_free(struct moor_pool *p);

#endif
