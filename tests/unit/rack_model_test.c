/*
 * A model of how links are taken, returned and waited for (core/rack*.c, core/handle.c), in all interleavings of its
 * atomic steps on a machine whose cores buffer stores: a return is a plain store and one look at the gate, and who
 * begins to wait makes every core pass a barrier. Shown for a few threads and links, in every state that can be
 * reached: no link is served twice, none is lost, nobody sleeps while a link lies idle, nobody is overtaken by who
 * came after it had queued. Each rule of the protocol, left out, must break one of these: else the model shows
 * nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { THREADS = 4, LINKS = 2, IDLE = 0, NOBODY = 0xff };

/* What is left out. */
enum {
    NO_BARRIER = 1,      /* who waits does not make the others pass one */
    NO_SECOND_LOOK = 2,  /* who returned does not look at the gate again */
    NO_LOOK_FOR_ALL = 4, /* who shut the gate looks for itself only */
    OPENS_EARLY = 8,     /* the gate opens although somebody waits */
    NO_RECHECK = 16,     /* whether the gate is still shut, once under the lock */
    NEVER_FIRST = 32     /* who comes to wait takes what is idle, whoever waits */
};

/* Where a thread is. */
enum pc {
    START,
    TAKE_GATE,
    TAKE_SCAN,
    WAIT_SHUT,
    WAIT_BARRIER,
    WAIT_LOCK,
    WAIT_SERVE,
    WAIT_NOW,
    WAIT_QUEUE,
    ASLEEP,
    GIVE_GATE,
    GIVE_STORE,
    GIVE_LOOK,
    SETTLE_LOCK,
    SETTLE,
    SERVE_LOCK,
    SERVE,
    CANCEL_LOCK,
    OVER
};

struct thread {
    uint8_t pc, at; /* of its program */
    uint8_t link;   /* held, or NOBODY */
    uint8_t scan;
    uint8_t was_shut;
    uint8_t before; /* who waited when it asked, and still does: a bit each */
    uint8_t buffer; /* a link whose store of IDLE only this thread sees, or NOBODY */
};

struct state {
    uint8_t gate, lock;  /* lock: the thread, or NOBODY */
    uint8_t word[LINKS]; /* IDLE, or 1 + holder */
    uint8_t waiting, queue[THREADS];
    struct thread t[THREADS];
};

/* A program: 'a' take or wait, 'c' the same but it may give up, 'r' return, 'k' take if idle as the keeper does
 * (no gate, no wait), 'p' return as the keeper does (under the lock). */
struct world {
    const char *program[THREADS];
    unsigned links, missing;
};

static const struct world *world;
static const char *broken; /* the rule, or NULL */

static void expect(bool is_kept, const char *rule)
{
    if (!is_kept && !broken)
        broken = rule;
}

static bool lacks(unsigned what)
{
    return world->missing & what;
}

/* ---- steps ---- */

static void flush(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    if (t->buffer == NOBODY)
        return;
    s->word[t->buffer] = IDLE;
    t->buffer = NOBODY;
}

static void own(struct state *s, unsigned i, unsigned link)
{
    expect(s->word[link] == IDLE, "a link has one holder");
    s->word[link] = (uint8_t)(i + 1);
    s->t[i].link = (uint8_t)link;
}

static void served(struct state *s, unsigned i)
{
    expect(s->t[i].before == 0, "who came later is not served before");
    for (unsigned j = 0; j < THREADS; j++)
        s->t[j].before &= (uint8_t) ~(1u << i);
}

static void leave_queue(struct state *s, unsigned at)
{
    memmove(s->queue + at, s->queue + at + 1, (size_t)(s->waiting - at - 1));
    s->queue[--s->waiting] = 0;
}

static void grant(struct state *s, unsigned link)
{
    const unsigned i = s->queue[0];
    leave_queue(s, 0);
    s->word[link] = IDLE;
    own(s, i, link);
    served(s, i);
    s->t[i].pc = START;
    s->t[i].at++;
}

static void unlock_and_open(struct state *s)
{
    s->lock = NOBODY;
    if (!s->waiting || lacks(OPENS_EARLY))
        s->gate = 0;
}

/* Compare-and-swap: a locked instruction, so the thread's own store leaves its buffer first. */
static bool claim(struct state *s, unsigned i, unsigned link)
{
    flush(s, i);
    if (s->word[link] != IDLE)
        return false;
    own(s, i, link);
    return true;
}

static void go(struct thread *t, enum pc pc)
{
    t->pc = (uint8_t)pc;
    t->scan = 0;
}

static void begin(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    switch (world->program[i][t->at]) {
    case 'a':
    case 'c':
        for (unsigned w = 0; w < s->waiting; w++)
            t->before |= (uint8_t)(1u << s->queue[w]);
        go(t, TAKE_GATE);
        break;
    case 'r':
        go(t, GIVE_GATE);
        break;
    case 'k':
        go(t, TAKE_SCAN);
        break;
    case 'p':
        go(t, t->link == NOBODY ? START : SETTLE_LOCK);
        t->at += t->link == NOBODY;
        break;
    default:
        go(t, OVER);
    }
}

static void take_one(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    const bool is_keeper = world->program[i][t->at] == 'k';
    if (claim(s, i, t->scan)) {
        if (!is_keeper)
            served(s, i);
        t->at++;
        go(t, START);
    } else if (++t->scan == world->links) {
        t->at += is_keeper;
        go(t, is_keeper ? START : WAIT_SHUT);
    }
}

static void look_for_all(struct state *s, unsigned i, enum pc then)
{
    struct thread *t = &s->t[i];
    if (s->waiting && s->word[t->scan] == IDLE)
        grant(s, t->scan);
    if (++t->scan == world->links)
        go(t, then);
}

static void look_for_itself(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    if (s->waiting && !lacks(NEVER_FIRST)) {
        go(t, WAIT_QUEUE);
    } else if (claim(s, i, t->scan)) {
        served(s, i);
        t->at++;
        s->lock = NOBODY;
        go(t, START);
    } else if (++t->scan == world->links) {
        go(t, WAIT_QUEUE);
    }
}

static void take_lock(struct state *s, unsigned i, enum pc then)
{
    flush(s, i);
    s->lock = (uint8_t)i;
    go(&s->t[i], then);
}

static void enter_wait(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    take_lock(s, i, t->was_shut || lacks(NO_LOOK_FOR_ALL) ? WAIT_NOW : WAIT_SERVE);
    if (!s->gate && !lacks(NO_RECHECK)) {
        s->lock = NOBODY;
        go(t, WAIT_SHUT);
    }
}

/* The store: seen by others some time later. */
static void give(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    t->buffer = t->link;
    t->link = NOBODY;
    go(t, GIVE_LOOK);
}

static void settle(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    const unsigned link = t->link;
    t->link = NOBODY;
    t->at++;
    go(t, START);
    s->word[link] = IDLE;
    if (s->waiting)
        grant(s, link);
    unlock_and_open(s);
}

static void give_up(struct state *s, unsigned i)
{
    for (unsigned at = 0; at < s->waiting; at++)
        if (s->queue[at] == i) {
            leave_queue(s, at);
            for (unsigned j = 0; j < THREADS; j++)
                s->t[j].before &= (uint8_t) ~(1u << i);
            s->t[i].at += 2; /* without a link nothing is returned */
            s->t[i].before = 0;
            go(&s->t[i], START);
        }
    s->lock = NOBODY;
}

static bool waits_for_lock(const struct thread *t)
{
    return t->pc == WAIT_LOCK || t->pc == SETTLE_LOCK || t->pc == SERVE_LOCK ||
           t->pc == CANCEL_LOCK;
}

static bool can_step(const struct state *s, unsigned i)
{
    const struct thread *t = &s->t[i];
    if (t->pc == OVER || t->pc == ASLEEP)
        return false;
    return !waits_for_lock(t) || s->lock == NOBODY;
}

static void step(struct state *s, unsigned i)
{
    struct thread *t = &s->t[i];
    switch ((enum pc)t->pc) {
    case START:
        begin(s, i);
        break;
    case TAKE_GATE:
        go(t, s->gate ? WAIT_SHUT : TAKE_SCAN);
        break;
    case TAKE_SCAN:
        take_one(s, i);
        break;
    case WAIT_SHUT:
        flush(s, i);
        t->was_shut = s->gate;
        s->gate = 1;
        go(t, t->was_shut ? WAIT_LOCK : WAIT_BARRIER);
        break;
    case WAIT_BARRIER:
        for (unsigned j = 0; j < THREADS && !lacks(NO_BARRIER); j++)
            flush(s, j);
        go(t, WAIT_LOCK);
        break;
    case WAIT_LOCK:
        enter_wait(s, i);
        break;
    case WAIT_SERVE:
        look_for_all(s, i, WAIT_NOW);
        break;
    case WAIT_NOW:
        look_for_itself(s, i);
        break;
    case WAIT_QUEUE:
        s->queue[s->waiting++] = (uint8_t)i;
        s->lock = NOBODY;
        go(t, ASLEEP);
        break;
    case GIVE_GATE:
        go(t, s->gate ? SETTLE_LOCK : GIVE_STORE);
        break;
    case GIVE_STORE:
        give(s, i);
        break;
    case GIVE_LOOK:
        t->at += !s->gate || lacks(NO_SECOND_LOOK);
        go(t, s->gate && !lacks(NO_SECOND_LOOK) ? SERVE_LOCK : START);
        break;
    case SETTLE_LOCK:
        take_lock(s, i, SETTLE);
        break;
    case SETTLE:
        settle(s, i);
        break;
    case SERVE_LOCK:
        take_lock(s, i, SERVE);
        break;
    case SERVE:
        look_for_all(s, i, START);
        if (t->pc == START) {
            t->at++;
            unlock_and_open(s);
        }
        break;
    case CANCEL_LOCK:
        take_lock(s, i, OVER);
        give_up(s, i);
        break;
    case ASLEEP:
    case OVER:
        break;
    }
}

/* ---- all of them ---- */

#define SEEN_SIZE (1u << 20)
static struct state
    *seen; /* open addressing; a state that was never reached has lock 0 and gate 2 */
static size_t seen_count;

static bool is_new(const struct state *s)
{
    uint64_t h = UINT64_C(1469598103934665603);
    for (size_t i = 0; i < sizeof *s; i++)
        h = (h ^ ((const uint8_t *)s)[i]) * UINT64_C(1099511628211);
    for (size_t at = h % SEEN_SIZE;; at = (at + 1) % SEEN_SIZE) {
        if (seen[at].gate == 2) {
            seen[at] = *s;
            seen_count++;
            assert_true(seen_count < SEEN_SIZE / 2);
            return true;
        }
        if (!memcmp(&seen[at], s, sizeof *s))
            return false;
    }
}

/* Nobody can move any more. */
static void judge(const struct state *s)
{
    bool is_idle = false;
    for (unsigned i = 0; i < world->links; i++)
        is_idle |= s->word[i] == IDLE;
    for (unsigned i = 0; i < THREADS; i++) {
        expect(s->t[i].pc != ASLEEP || !is_idle, "nobody sleeps while a link lies idle");
        expect(s->t[i].pc != ASLEEP || s->waiting, "who sleeps is in the queue");
        for (unsigned l = 0; l < world->links; l++)
            expect(s->word[l] != i + 1 || s->t[i].link == l, "no link is lost");
    }
    expect(s->lock == NOBODY, "the lock is free");
}

static void explore(const struct state *s)
{
    if (broken || !is_new(s))
        return;
    bool has_moved = false;
    for (unsigned i = 0; i < THREADS && !broken; i++) {
        const struct thread *t = &s->t[i];
        struct state next = *s;
        if (can_step(s, i)) {
            step(&next, i);
            explore(&next);
            has_moved = true;
        }
        next = *s;
        if (t->buffer != NOBODY) {
            flush(&next, i);
            explore(&next);
            has_moved = true;
        }
        next = *s;
        if (t->pc == ASLEEP && world->program[i][t->at] == 'c') {
            next.t[i].pc = CANCEL_LOCK;
            explore(&next);
            /* It may as well sleep on: that alone is no way out of a lost wake-up. */
        }
    }
    if (!has_moved)
        judge(s);
}

static void check(const char *const program[THREADS], unsigned links, unsigned missing,
                  bool expect_broken)
{
    const struct world w = {
        .program = {program[0], program[1], program[2], program[3]},
        .links = links,
        .missing = missing,
    };
    world = &w;
    broken = NULL;
    seen_count = 0;
    for (size_t i = 0; i < SEEN_SIZE; i++)
        seen[i].gate = 2;
    struct state s;
    memset(&s, 0, sizeof s);
    s.lock = NOBODY;
    for (unsigned i = 0; i < THREADS; i++) {
        s.t[i].link = s.t[i].buffer = NOBODY;
        /* Who begins with a return holds a link. */
        for (unsigned l = 0; program[i][0] == 'r' && s.t[i].link == NOBODY && l < links; l++)
            if (s.word[l] == IDLE)
                own(&s, i, l);
    }
    explore(&s);
    printf("%zu states, %s\n", seen_count, broken ? broken : "nothing broken");
    if (expect_broken)
        assert_non_null(broken);
    else if (broken)
        fail_msg("%s", broken);
}

static int setup(void **state)
{
    (void)state;
    seen = malloc(SEEN_SIZE * sizeof *seen);
    return !seen;
}

static int teardown(void **state)
{
    (void)state;
    free(seen);
    return 0;
}

static void test_two_takers_a_returner_and_a_waiter(void **state)
{
    (void)state;
    check((const char *const[]){"r", "ar", "ar", ""}, 1, 0, false);
    check((const char *const[]){"r", "ar", "ar", "ar"}, 1, 0, false);
    check((const char *const[]){"r", "ar", "ar", "ar"}, 2, 0, false);
    check((const char *const[]){"r", "r", "ar", "ar"}, 2, 0, false);
}

static void test_again_and_again(void **state)
{
    (void)state;
    check((const char *const[]){"rar", "arar", "ar", ""}, 1, 0, false);
    check((const char *const[]){"rar", "arar", "ar", ""}, 2, 0, false);
}

static void test_the_keeper_claims_too(void **state)
{
    (void)state;
    check((const char *const[]){"r", "ar", "ar", "kpkp"}, 1, 0, false);
    check((const char *const[]){"r", "ar", "ar", "kp"}, 2, 0, false);
}

static void test_waiters_give_up(void **state)
{
    (void)state;
    check((const char *const[]){"r", "cr", "ar", ""}, 1, 0, false);
    check((const char *const[]){"r", "cr", "cr", "ar"}, 1, 0, false);
    check((const char *const[]){"r", "cr", "ar", "kp"}, 1, 0, false);
}

static void test_each_rule_is_needed(void **state)
{
    (void)state;
    static const char *const few[] = {"r", "ar", "ar", ""};
    static const char *const more[] = {"rar", "ar", "ar", "ar"};
    check(few, 1, NO_BARRIER, true);
    check(few, 1, NO_SECOND_LOOK, true);
    check(more, 1, NO_LOOK_FOR_ALL, true);
    check(more, 1, OPENS_EARLY, true);
    check(more, 1, NO_RECHECK, true);
    check(more, 2, NEVER_FIRST, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_takers_a_returner_and_a_waiter),
        cmocka_unit_test(test_again_and_again),
        cmocka_unit_test(test_the_keeper_claims_too),
        cmocka_unit_test(test_waiters_give_up),
        cmocka_unit_test(test_each_rule_is_needed),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
