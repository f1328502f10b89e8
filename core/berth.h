/*
 * An upstream's part on one shard: its idle conns, those in use, who waits for one, what is dialled.
 * Owner thread: the shard. Other shards read the atomics and send messages, nothing else.
 *
 * Vocabulary. Claim: a request for a conn, then the right to use it. Grant: hand a conn to a claim.
 * Dial: a conn being made; not tied to the claim that caused it (late binding). Move: an idle conn
 * changes shards.
 *
 * Invariants, checked by mr_berth_check in debug builds:
 *  - a waiter waits only while no conn here could serve it;
 *  - every conn of the berth is on exactly one of its lists and counted in the upstream's gate;
 *  - a claim is granted or failed exactly once, or cancelled.
 */
#ifndef MR_CORE_BERTH_H
#define MR_CORE_BERTH_H

#include "core/conn.h"
#include "core/inbox.h"

#include <mooring/pool.h>

struct mr_upstream;
struct mr_pool_shard;

/* Embedded in an exchange or an acquire. Zeroed before first use. */
struct mr_claim {
    struct mr_list link;    /* the berth's waiters */
    struct mr_timer timer;  /* deadline while waiting */
    struct mr_berth *berth; /* set while waiting */
    int64_t asked_ns;
    int64_t since_ns;        /* first asked: a replay keeps its age among the waiters */
    int64_t deadline_ns;     /* absolute; MR_NEVER */
    bool is_replayable;      /* may be sent before the peer is known to be there only once */
    bool is_again;           /* asked before: keeps its age, and its place among the waiters */
    bool wants_fresh;        /* a replay: a dial, and an idle conn only if none can be begun */
    moor_wait_reason reason; /* why it (last) waited */
    /* May be called inside mr_berth_acquire. The conn is LEASED and clean. */
    void (*granted)(struct mr_claim *c, struct mr_conn *conn, bool is_reused);
    /* Never called inside mr_berth_acquire. */
    void (*failed)(struct mr_claim *c, const moor_fault *fault, const moor_why *why);
};

#define MR_MOVES_MAX        4            /* conns asked of other shards at once, per berth */
#define MR_MOVE_PATIENCE_NS MR_NS_PER_MS /* then the asker dials, whoever comes first serves */

/* A conn on its way from one shard to another, or the question for one. */
struct mr_move {
    struct mr_message message;
    struct mr_berth *from, *to;
    struct mr_conn *conn;    /* asked: the slot waiting at `to`; donated: NULL */
    struct mr_conn *leaving; /* at `from`, while its read is being stopped */
    struct mr_list link;
    int fd; /* -1 = none could be had */
    int64_t born_ns, expires_ns;
    uint32_t uses, generation;
    struct mr_filter *top, *bottom;
    const struct mr_protocol *protocol;
    void *state; /* the protocol's */
    bool is_donation;
    bool is_needed; /* asked at the cap: the other shard keeps none back */
    bool is_late;   /* patience has ended: the asker dials meanwhile */
    int64_t asked_ns;
    struct mr_sock spare; /* closes a descriptor nobody has memory for */
};

/* Of a pool's spec.meets, which fills it in. */
struct mr_instead {
    struct mr_berth *berth; /* NULL: none. Of the same pool and shard */
    struct mr_addrs *addrs; /* a reference: of this upstream */
    int64_t until_ns;
    bool is_alone; /* it was tried and did not do: never again */
};

struct mr_berth {
    struct mr_upstream *upstream;
    struct moor_shard *shard;
    struct mr_pool_shard *local; /* this pool's counters on this shard */
    struct mr_list link;         /* local->berths */
    struct mr_list idle;         /* used == 0; newest first, so the oldest is at the back */
    struct mr_list shared;       /* 0 < used < capacity */
    struct mr_list busy;         /* full, being made, moving, draining or closing */
    struct mr_list waiters;      /* mr_claim: FIFO */
    struct mr_list fresh;        /* mr_claim: those who want a conn nobody has used */
    uint32_t idle_count;
    uint32_t movable_count;     /* of those idle, not multiplexed: may move to another shard */
    uint32_t waiter_count;      /* in both */
    uint32_t dialing;           /* conns of ours being resolved, connected or secured */
    uint32_t moving_in, asking; /* moves asked of others; of those, not late */
    uint32_t next_other;        /* rotating start for asking other shards */
    bool wants_more;            /* every conn carries more than its ideal: one more dial */
    int64_t expires_min_ns;     /* lower bound of expires_ns of the idle conns */
    struct mr_timer sweep;      /* idle timeout, lifetime, min idle */
    struct mr_timer retry;      /* backoff is over */
    struct mr_deferred feed;    /* get conns for the waiters */
    struct mr_message kick;     /* another shard: caps have room, or a waiter is older */
    _Atomic(bool) is_kicked;    /* kick is on its way */
    struct mr_list moves;       /* asked of others, under way */
    struct mr_instead instead;  /* HTTP/2: another upstream's conns serve this one, too */
    /* Read by other shards as hints. Order: see publish_idle and publish_waiting.               */
    int64_t yields_until_ns;    /* of place.c: others dial first */
    _Atomic(uint32_t) idle_seen;    /* movable_count */
    _Atomic(uint32_t) waiters_seen; /* waiter_count */
    _Atomic(uint32_t) donated;      /* conns given by others and not yet here */
    _Atomic(int64_t) waiting_since; /* since_ns of the first of `waiters`, MR_NEVER */
};

/* The berth of this upstream on this shard, made at first use. NULL: out of memory. */
struct mr_berth *mr_berth_of(struct mr_upstream *u, struct moor_shard *s);
/* Only when no conn, waiter or move is left. */
void mr_berth_destroy(struct mr_berth *b);

/* OK: granted() has run, or it or failed() will, unless mr_berth_cancel comes first. */
MOOR_NODISCARD moor_err mr_berth_acquire(struct mr_berth *b, struct mr_claim *claim);
/* The claim that the next conn would be granted to is replayable: a conn may be ready for it early. */
bool mr_berth_wants_early(const struct mr_berth *b);
/* All who wait at b wait at `to` from now on, with their age. */
void mr_berth_redirect(struct mr_berth *b, struct mr_berth *to);
/* For a waiting claim: it hears nothing more. */
void mr_berth_cancel(struct mr_claim *claim);
/* One claim is done with the conn. Not reusable, unclean, old or draining: it closes. */
void mr_berth_release(struct mr_conn *c, bool is_reusable);

/* From conn. Secured and prepared, or its capacity changed. */
void mr_berth_ready(struct mr_conn *c);
/* It failed before it was ready: counts as a failed dial. */
void mr_berth_lost(struct mr_conn *c, const moor_fault *fault);
/* Ended or failing: no new claim may be granted on it. */
void mr_berth_withdraw(struct mr_conn *c);
/* It began to close out of state `was`: off the lists that hand it out. */
void mr_berth_closing(struct mr_conn *c, enum mr_conn_state was);
/* Closed: count it out and destroy it. */
void mr_berth_closed(struct mr_conn *c);
/* MOVING and its read has stopped: give the descriptor away. */
void mr_berth_unhook(struct mr_conn *c);

/* The pool drains: waiters fail, idle conns close, no dial begins. */
void mr_berth_drain(struct mr_berth *b);
/* The deadline of a drain: everything closes. */
void mr_berth_abort(struct mr_berth *b);
/* Waiters may be served by what changed elsewhere. Any thread. */
void mr_berth_kick(struct mr_berth *b);

/* Gets conns for the waiters, later in this turn. */
void mr_berth_feed_later(struct mr_berth *b);
/* Looks again at the latest then. */
void mr_berth_retry_by(struct mr_berth *b, int64_t at_ns);
/* The oldest idle conn closes where others wait for room under a cap they share with it. */
void mr_berth_give_way(struct mr_berth *b);
/* Whoever waits for this upstream, on any shard, hears that something has room. Any thread. */
void mr_berth_kick_waiting(struct mr_upstream *u);
/* It became idle, or is about to, and the peer takes no claims on it: closed, the next dial waits a little. */
void mr_berth_useless(struct mr_conn *c);
/* Off the idle list and onto the busy one, still IDLE. */
void mr_berth_unlist(struct mr_conn *c);
/* The same, of the newest or the oldest. NULL: none. */
struct mr_conn *mr_berth_take_idle(struct mr_berth *b, bool oldest);
/* Timers and deferred work off: nothing is left to do here. */
void mr_berth_quiet(struct mr_berth *b);

/* A picture for errors. */
void mr_berth_why(struct mr_berth *b, moor_wait_reason reason, int64_t asked_ns, moor_why *out);

#if defined(MR_DEBUG)
void mr_berth_check(struct mr_berth *b);
#else
static inline void mr_berth_check(struct mr_berth *b)
{
    (void)b;
}
#endif

#endif
