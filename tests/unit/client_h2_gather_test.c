/* Small responses that come one by one: a shard pauses for them, where it may, and nothing is lost by it. */
#include "core/runtime.h"
#include "core/shard.h"
#include "tests/support/fixture_pool.h"
#include "tests/support/h2_server.h"

#include <semaphore.h>

enum { OPEN = 100, REQUESTS = 6000 };

static struct fixture f;

struct load {
    moor_http_request request;
    moor_task task;
    unsigned left, open, failed;
    uint64_t gathers;
    sem_t over;
};

static void submit(struct load *l);

static void on_done(void *user, const moor_http_done *done)
{
    struct load *l = user;
    l->open--;
    l->failed += done->fault.err != MOOR_OK || done->bytes_down != 10;
    submit(l);
    if (l->open)
        return;
    l->gathers = f.runtime->shards[0]->mine.loop.gathers;
    sem_post(&l->over);
}

static void on_chunk(void *user, moor_chunk chunk)
{
    (void)user;
    moor_chunk_return(chunk);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_chunk = on_chunk, .on_done = on_done};

static void submit(struct load *l)
{
    if (!l->left)
        return;
    l->left--;
    l->open++;
    assert_err(moor_http_send(f.pool, &l->request, &handlers, l, NULL), MOOR_OK);
}

static void begin(void *user)
{
    for (int i = 0; i < OPEN; i++)
        submit(user);
}

static uint8_t byte(size_t i)
{
    return (uint8_t)i;
}

static uint64_t gathers_of(uint32_t gather_us, uint32_t spin_us)
{
    struct h2_server *server = h2_server_start(&(struct h2_server_options){.body = byte});
    moor_runtime_options ro;
    moor_pool_options po;
    fixture_runtime_options(&f, &ro);
    fixture_pool_options(&po);
    ro.gather_us = gather_us;
    ro.spin_us = spin_us;
    po.conns_max = 1;
    fixture_open(&f, &ro, h2_server_url(server), &po);
    struct load l = {.left = REQUESTS, .task = {.run = begin, .user = &l}};
    sem_init(&l.over, 0, 0);
    moor_http_request_init(&l.request);
    l.request.url = "/bytes/10";
    assert_err(moor_post(moor_shard_at(f.runtime, 0), &l.task), MOOR_OK);
    while (sem_wait(&l.over))
        ;
    sem_destroy(&l.over);
    assert_int_equal(l.failed, 0);
    assert_int_equal(h2_server_requests(server), REQUESTS);
    fixture_close(&f);
    h2_server_stop(server);
    return l.gathers;
}

static void test_it_pauses(void **state)
{
    (void)state;
    assert_in_range(gathers_of(1000, 0), 1, REQUESTS);
}

static void test_it_does_not_where_it_is_told_not_to(void **state)
{
    (void)state;
    assert_int_equal(gathers_of(0, 0), 0);
    assert_int_equal(gathers_of(1000, 5), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_pauses),
        cmocka_unit_test(test_it_does_not_where_it_is_told_not_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
