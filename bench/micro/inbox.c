/*
 * Messages to a shard: push and take where nobody else pushes, in groups of several sizes, and the
 * look at an empty inbox that every turn takes. One thread.
 */
#include "bench/harness.h"
#include "core/inbox.h"

enum { BATCH = 64 };

static uint64_t drain(struct mr_inbox *inbox)
{
    uint64_t count = 0;
    for (struct mr_message *m = mr_inbox_take(inbox); m; m = m->next)
        count++;
    return count;
}

/* arg: messages that one take finds. */
static void push_and_take(struct mr_bench *b)
{
    struct mr_inbox inbox = {NULL};
    struct mr_message messages[BATCH];
    size_t group = (size_t)mr_bench_arg(b);
    uint64_t lost = 0;
    while (mr_bench_next(b, BATCH)) {
        for (size_t i = 0; i < BATCH; i += group) {
            for (size_t j = 0; j < group; j++)
                (void)!mr_inbox_push(&inbox, &messages[i + j]);
            lost += group - drain(&inbox);
        }
    }
    mr_bench_checksum(b, lost);
}

static void take_nothing(struct mr_bench *b)
{
    struct mr_inbox inbox = {NULL};
    uint64_t found = 0;
    while (mr_bench_next(b, BATCH)) {
        for (size_t i = 0; i < BATCH; i++) {
            found += mr_inbox_take(&inbox) != NULL;
            mr_bench_keep(&inbox);
        }
    }
    mr_bench_checksum(b, found);
}

const struct mr_bench_case mr_bench_cases[] = {
    {.name = "inbox/push_and_take", .run = push_and_take, .args = {1, 8, 64}, .arg_count = 3},
    {.name = "inbox/take_nothing", .run = take_nothing},
    {.name = NULL},
};
