/* The inbox: order of each producer kept, each message exactly once, empty noticed. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/inbox.h"

#include <pthread.h>
#include <stdlib.h>

static void test_messages_come_oldest_first(void **state)
{
    (void)state;
    struct mr_inbox b = {NULL};
    struct mr_message m[3];
    assert_null(mr_inbox_take(&b));
    assert_true(mr_inbox_is_empty(&b));
    assert_true(mr_inbox_push(&b, &m[0]));
    assert_true(mr_inbox_push(&b, &m[1]));
    assert_true(mr_inbox_push(&b, &m[2]));
    assert_false(mr_inbox_is_empty(&b));
    struct mr_message *first = mr_inbox_take(&b);
    assert_ptr_equal(first, &m[0]);
    assert_ptr_equal(first->next, &m[1]);
    assert_ptr_equal(first->next->next, &m[2]);
    assert_null(first->next->next->next);
    assert_true(mr_inbox_is_empty(&b));
    assert_true(mr_inbox_push(&b, &m[1]));
    assert_ptr_equal(mr_inbox_take(&b), &m[1]);
}

static void test_a_closed_inbox_takes_nothing(void **state)
{
    (void)state;
    struct mr_inbox b = {NULL};
    struct mr_message m[2];
    assert_true(mr_inbox_push(&b, &m[0]));
    assert_false(mr_inbox_close_if_empty(&b));
    assert_ptr_equal(mr_inbox_take(&b), &m[0]);
    assert_true(mr_inbox_close_if_empty(&b));
    assert_false(mr_inbox_push(&b, &m[1]));
    mr_inbox_open(&b);
    assert_true(mr_inbox_push(&b, &m[1]));
    mr_inbox_close(&b);
    assert_false(mr_inbox_push(&b, &m[0]));
}

enum { PRODUCERS = 4, MESSAGES = 100000 };

struct note {
    struct mr_message message;
    unsigned producer;
    unsigned number; /* plain memory: the inbox alone makes it visible */
};

struct producer {
    struct mr_inbox *inbox;
    struct note *notes;
    unsigned index;
    unsigned pushed;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (unsigned i = 0; i < MESSAGES; i++) {
        p->notes[i].producer = p->index;
        p->notes[i].number = i;
        p->pushed += mr_inbox_push(p->inbox, &p->notes[i].message);
    }
    return NULL;
}

static void test_many_producers(void **state)
{
    (void)state;
    struct mr_inbox inbox = {NULL};
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    for (unsigned i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){
            .inbox = &inbox, .notes = calloc(MESSAGES, sizeof(struct note)), .index = i};
        assert_non_null(producers[i].notes);
    }
    for (unsigned i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);

    unsigned expected[PRODUCERS] = {0};
    unsigned taken = 0;
    while (taken < PRODUCERS * MESSAGES) {
        struct mr_message *m = mr_inbox_take(&inbox);
        while (m) {
            struct note *n = (struct note *)m;
            m = m->next;
            assert_int_equal(n->number, expected[n->producer]);
            expected[n->producer]++;
            taken++;
            n->message.next = NULL;
        }
    }
    for (unsigned i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(expected[i], MESSAGES);
        assert_int_equal(producers[i].pushed, MESSAGES);
        free(producers[i].notes);
    }
    assert_null(mr_inbox_take(&inbox));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_come_oldest_first),
        cmocka_unit_test(test_a_closed_inbox_takes_nothing),
        cmocka_unit_test(test_many_producers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
