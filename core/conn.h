/*
 * One transport connection: socket, filters, protocol, what is queued on it and how it may change.
 * Owned by exactly one shard and touched by no other thread. Knows berths only as a name.
 */
#ifndef MR_CORE_CONN_H
#define MR_CORE_CONN_H

#include "alloc/slab.h"
#include "base/state.h"
#include "core/filter.h"
#include "core/loop.h"
#include "core/protocol.h"

struct moor_shard;
struct mr_berth;
struct mr_attempt;

enum mr_conn_state {
    MR_CONN_NEW,
    MR_CONN_CONNECTING, /* a dial is under way */
    MR_CONN_SECURING,   /* filters open */
    MR_CONN_PREPARING,  /* the protocol opens */
    MR_CONN_IDLE,       /* nobody uses it; its read is armed */
    MR_CONN_LEASED,     /* one claim or more */
    MR_CONN_MOVING,     /* its read is being stopped so that another shard may have it */
    MR_CONN_DRAINING,   /* claims finish, no new ones */
    MR_CONN_CLOSING,    /* the backend was told */
    MR_CONN_DEAD,
    MR_CONN_STATES
};

/* One piece of bytes on its way out; len > 0. Embedded in what owns the bytes. */
struct mr_out {
    struct mr_out *next;
    const uint8_t *base;
    size_t len;
    /* The bytes are no longer needed. err is 0 or the errno that kept them from leaving. */
    void (*sent)(struct mr_out *o, int err);
};

struct mr_outq; /* attached only while something is queued */

struct mr_conn {
    struct moor_slot_ slot; /* generation: the lease handle's */
    struct mr_sock sock;
    const struct mr_protocol *protocol;
    void *state; /* the protocol's, for the conn's life; NULL if it has none;
                                        of the runtime's heap where conns may move: if exclusive */
    void *claim; /* exclusive protocols: who uses it now */
    struct mr_berth *berth;
    struct mr_list link;            /* the berth's: idle, shared or busy */
    struct mr_filter *top, *bottom; /* NULL = plain */
    struct mr_outq *out;
    struct mr_rest *rest, **rest_tail; /* received but not taken, oldest first */
    struct mr_attempt *attempt;        /* until it is settled: attempt.c's */
    struct mr_deferred flush;          /* one send per turn */
    struct mr_deferred feed;           /* rest is to be offered again */
    int64_t born_ns, idle_since_ns;
    int64_t proven_ns;              /* when a check last passed; 0 = never */
    int64_t expires_ns;             /* max lifetime with its jitter, MR_NEVER */
    uint64_t bytes_out;             /* handed to the kernel since the conn was made */
    uint32_t uses;                  /* claims granted */
    uint32_t capacity, used;        /* claims it can carry, carries */
    struct mr_sm sm;                /* enum mr_conn_state; written by mr_conn_move_to only */
    bool is_ready;                  /* was secured and prepared once: counted as open */
    bool is_settled;                /* its dial is counted as a success or a failure */
    bool is_retired;                /* the peer did something to it while nobody used it */
    bool is_listed_idle;            /* on the berth's idle list */
    bool is_checked;                /* claimed by its own check: goes back to where it lay */
    bool is_paused;                 /* rest waits for mr_conn_resume */
    bool is_replayable;             /* the claim that has it may be repeated by an attacker */
    uint32_t generation;            /* the pool's when it was dialled */
    bool has_ended;                 /* FIN or error seen */
    bool is_fin_pending;            /* FIN seen, rest not yet consumed */
    bool is_finishing, is_finished; /* our FIN is to follow what is queued, has followed */
    bool gives_place;              /* ends for another shard: place.c */
    int send_errno;                 /* nothing can be sent any more; the recv goes on to its end */
    const char *close_why;          /* static text; set: it is about to close, or does */
};

extern const struct mr_machine mr_conn_machine;

const char *mr_conn_state_name(enum mr_conn_state s);
static inline enum mr_conn_state mr_conn_state(const struct mr_conn *c)
{
    return (enum mr_conn_state)c->sm.state;
}
/* The only writer of the state; panics unless the table allows the move. */
void mr_conn_move_to(struct mr_conn *c, enum mr_conn_state to);

/* From the shard's slab, state NEW, in no list. NULL: out of memory. */
struct mr_conn *mr_conn_create(struct moor_shard *s, struct mr_berth *b,
                               const struct mr_protocol *protocol);
/* For one that never had a descriptor, or has given it away (NEW or DEAD). */
void mr_conn_destroy(struct mr_conn *c);

/* A connected descriptor becomes the conn's: it is SECURING, and filters may be added. */
void mr_conn_connected(struct mr_conn *c, int fd);
/* Adds a filter above those there, before mr_conn_secure. The conn drops it. */
void mr_conn_add_filter(struct mr_conn *c, struct mr_filter *f);
/* Each is dropped and forgotten. */
void mr_conn_drop_filters(struct mr_conn *c);
/* Opens the filters, bottom-up, then the protocol; later the berth hears mr_berth_ready or _lost. */
void mr_conn_secure(struct mr_conn *c);
/* A conn moved here from another shard: secured and prepared already. */
void mr_conn_arrived(struct mr_conn *c, int fd);

/* Protocols: how many claims at once, from now on; those there are stay. 0 = none for now: a conn that
 * nobody uses, or that the last claim leaves meanwhile, closes. */
void mr_conn_set_capacity(struct mr_conn *c, uint32_t capacity);
/* So many claims are to be expected of further conns of its upstream; 0 says nothing. */
void mr_conn_expect(struct mr_conn *c, uint32_t capacity);
/* No claims from now on, for good; it closes with the last of those it has, at once if it has none.
 * Protocols call it for a peer's goodbye, berths when a conn is worn or the pool drains. */
void mr_conn_drain(struct mr_conn *c, const char *why);

/* Queues bytes; all that is queued in a turn leaves in one send. MOOR_ERESET when closing (sent() is
 * not called), MOOR_ENOMEM. */
MOOR_NODISCARD moor_err mr_conn_write(struct mr_conn *c, struct mr_out *o);
/* From the loop's flushes: now, instead of with the next ones. */
void mr_conn_flush_now(struct mr_conn *c);
/* Bytes queued and not yet handed to the kernel. */
size_t mr_conn_unsent(const struct mr_conn *c);
/* A send is in the kernel's hands: some of it may have left. */
bool mr_conn_is_sending(const struct mr_conn *c);
/* Our FIN after what is queued. */
void mr_conn_finish(struct mr_conn *c);

/* The protocol can take more: rest is offered again, later in this turn. */
void mr_conn_resume(struct mr_conn *c);
/* True when nothing is unread, unsent or ended: a claim may begin. What filters say on their own is no claim's. */
bool mr_conn_is_clean(const struct mr_conn *c);
/* Clean, and nothing at all is on its way out: another shard may have it. */
bool mr_conn_may_move(const struct mr_conn *c);

/* Closes; idempotent. `why` is static text for log and stats. Pieces queued hear sent(o, err) later, when the
 * kernel no longer looks at them. */
void mr_conn_close(struct mr_conn *c, const char *why);
/* As close, after telling the protocol with ended(fault) if it has a claim. */
void mr_conn_fail(struct mr_conn *c, const moor_fault *fault);

#endif
