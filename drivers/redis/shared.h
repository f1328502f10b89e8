/*
 * The shared use of a redis pool: commands in numbered slots, each handed to one connection.
 */
#ifndef DRIVERS_REDIS_SHARED_H
#define DRIVERS_REDIS_SHARED_H

#include "drivers/redis/internal.h"

/*
 * A command's state, with the generation of its slot in one word. Whoever moves it to TOLD owns the outcome and
 * tells the caller; SENT is the connection's alone, so that "not sent" is a fact and not a guess.
 */
enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_SENT, SLOT_TOLD };
#define SLOT_STATE(word)      ((enum slot_state)((word)&3))
#define SLOT_GENERATION(word) ((uint32_t)((word) >> 2))

/* The connection's, the one who is told, and the call that submits, which still posts when the others are through. */
#define SLOT_REFS 3

/* Of moor_redis_shared_command_wait's sleep. */
enum { WAITER_RUNS, WAITER_SLEEPS, WAITER_TOLD };

struct slot {
    _Atomic(uint64_t) word;
    _Atomic(uint32_t) refs; /* SLOT_REFS at first */
    _Atomic(uint32_t) next_free;
    uint32_t index;
    struct moor_redis_shared *shared;
    struct conn *conn;
    struct slot *next; /* in the inbox, then in one of the connection's lists */
    char *bytes;       /* freed once they are in a batch */
    size_t len, charged;
    int64_t deadline_ns; /* REDIS_NEVER: none, or the waiter sees to it */
    size_t heap_at;      /* its place in the connection's heap, from 1; 0 = not there */
    /* the caller's side */
    moor_redis_cb cb;
    void *user;
    moor_shard *shard; /* where cb runs; NULL: a thread waits */
    moor_task tell;
    _Atomic(uint32_t) waiter; /* futex */
    moor_fault fault;
    struct moor_redis_reply *reply;
};

struct slot_list {
    struct slot *first, *last;
    uint32_t count;
};

/* One lease of a connection, until its last byte is let go of. */
struct wire {
    struct conn *conn; /* NULL: it was given back, only a piece is still under way */
    moor_lease lease;
    struct redis_codec codec;
    struct redis_buf batch; /* what is being sent */
    bool is_sending;
    bool has_served; /* a reply came: it is worth replacing at once */
};

/* One of the few connections. All but the inbox belongs to its shard. */
struct conn {
    struct moor_redis_shared *shared;
    moor_shard *shard;
    _Atomic(struct slot *) inbox; /* newest first; who finds it empty posts `pump` */
    _Atomic(bool) has_abandoned;  /* somebody gave up while queued */
    moor_task pump, stop;

    struct slot_list queue; /* to be sent */
    struct slot_list sent;  /* replies are to come, in this order */
    struct slot **heap;     /* by deadline */
    size_t heap_count, heap_cap;
    struct wire *wire; /* NULL: not connected */
    moor_op acquire;
    bool is_acquiring, is_turning_over, is_stopping;
    moor_poll timer;
    int64_t timer_at_ns; /* REDIS_NEVER: not armed */
    int64_t heard_ns;    /* the last byte came, or the first of `sent` left */
    int64_t rotate_at_ns;
    _Atomic(bool) is_stopped;
    _Atomic(uint64_t) replies, replies_late, connects, sends;
    _Atomic(bool) is_connected;
};

#define SLOTS_PER_CHUNK 256

struct moor_redis_shared {
    moor_redis_shared_options options;
    moor_pool *pool;
    moor_runtime *runtime;
    _Atomic(bool) is_closing;
    _Alignas(64) _Atomic(uint64_t) free_head; /* a count against ABA, then index + 1; 0 = none */
    _Atomic(uint32_t) made;                   /* slots that were ever used */
    _Alignas(64) _Atomic(uint32_t) inflight;  /* futex of the closer */
    _Atomic(uint64_t) inflight_bytes;
    _Atomic(uint64_t) commands;
    _Atomic(struct slot *) *chunks;
    uint32_t conn_count;
    struct conn conns[];
};

/* ---- slots: shared_slot.c, any thread ---- */

/* A slot and its share of the limits; EBUSY, ENOMEM, ECLOSED. In state FREE. */
moor_err slot_take(struct moor_redis_shared *s, size_t bytes, struct slot **out);
/* One of its refs; the last frees it. */
void slot_unref(struct slot *slot);
/* The slot of a handle, whether or not it still is that command's. NULL: none. */
struct slot *slot_at(struct moor_redis_shared *s, uint32_t index);
/* The outcome, reply taken. False: the caller was told before, or generation (unless 0) is another's; then the
 * reply is left. is_inside: on a shard, below none of the caller's calls: its callback may run now. */
bool slot_finish(struct slot *slot, uint32_t generation, moor_err e, const char *what,
                 struct moor_redis_reply *reply, bool is_inside);
/* Queued becomes sent. False: the caller was told already. */
bool slot_send(struct slot *slot);

static inline bool slot_is_told(struct slot *slot)
{
    return SLOT_STATE(atomic_load_explicit(&slot->word, memory_order_acquire)) == SLOT_TOLD;
}

/* ---- connections: shared_conn.c ---- */

void conn_init(struct conn *c, struct moor_redis_shared *s, moor_shard *shard);
/* Any thread. ECLOSED: the shard is gone, and the slot not taken. EFORKED. */
moor_err conn_submit(struct conn *c, struct slot *slot);
/* Any thread: a slot of its queue was given up. */
void conn_abandoned(struct conn *c);
/* Any thread: asks it to fail what it has and to release its lease; is_stopped tells when. */
void conn_stop(struct conn *c);
void conn_fini(struct conn *c);

/* ---- deadlines: heap.c, the connection's shard ---- */

/* ENOMEM. */
moor_err heap_add(struct conn *c, struct slot *slot);
/* Nothing if it is not there. */
void heap_remove(struct conn *c, struct slot *slot);

/* ---- sleeping ---- */

/* Sleeps while *word is value, at most until deadline_ns. May return early. */
void redis_futex_wait(_Atomic(uint32_t) *word, uint32_t value, int64_t deadline_ns);
void redis_futex_wake(_Atomic(uint32_t) *word);

#endif
