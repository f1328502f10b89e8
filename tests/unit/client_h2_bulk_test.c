/*
 * Much data on one HTTP/2 conn: 100 MB up and down at once, and readers that stop while others go on.
 * Bounds are counted in bytes.
 */
#include "tests/support/fixture_pool.h"

enum { PERIOD = 251, PIECE = PERIOD * 256 };
static const uint64_t bulk_bytes = 100 * 1000 * 1000;
/* Neither direction gets ahead of the other by more than this, so both run all the time. */
static const uint64_t lead_max = 4 * 1000 * 1000;

static struct origin_process origin;
static struct fixture f;
static uint8_t pattern[2 * PIECE]; /* byte i = i * 131 % 251, as the origin's */

static void open_pool(size_t window_max)
{
    moor_pool_options po;
    fixture_pool_options(&po);
    po.http_version = "2";
    po.conns_max = 1;
    if (window_max)
        po.h2_window_max = window_max;
    fixture_open(&f, NULL, origin.url, &po);
}

static void close_pool(void)
{
    eventually(fixture_stats(&f).chunks_lent == 0);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
    assert_int_equal(fixture_stats(&f).replays, 0);
    fixture_close(&f);
}

/* ---- both ways at once ---- */

struct bulk {
    uint64_t up, down; /* the shard's */
    struct call upload, download;
};

static bool is_upload_ahead(const struct bulk *b)
{
    return b->up > b->down + lead_max && b->down < bulk_bytes;
}

static bool is_download_ahead(const struct bulk *b)
{
    return b->down > b->up + lead_max && b->up < bulk_bytes;
}

static moor_body_more give(void *user, moor_piece *out)
{
    struct bulk *b = ((struct call *)user)->user;
    if (is_upload_ahead(b))
        return MOOR_BODY_LATER;
    const uint64_t left = bulk_bytes - b->up;
    out->bytes = (moor_span){pattern + b->up % PERIOD, left < PIECE ? left : PIECE};
    b->up += out->bytes.len;
    struct call *down = &b->download;
    if (!is_download_ahead(b) && down->is_holding) {
        down->is_holding = false;
        call_return_all(down);
    }
    return b->up == bulk_bytes ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

static void came_down(struct call *c)
{
    struct bulk *b = c->user;
    b->down = c->bytes;
    c->is_holding = is_download_ahead(b);
    if (!is_upload_ahead(b))
        moor_body_resume(b->upload.op);
}

static void test_much_both_ways_at_once(void **state)
{
    (void)state;
    static struct bulk b;
    char url[64], verdict[64];
    open_pool(0);
    memset(&b, 0, sizeof b);
    call_init(&b.upload, f.pool, "/sink");
    b.upload.request.body_cb = give;
    b.upload.request.body_length = bulk_bytes;
    snprintf(url, sizeof url, "/bytes/%llu", (unsigned long long)bulk_bytes);
    call_init(&b.download, f.pool, url);
    b.download.on_chunk = came_down;
    b.upload.user = b.download.user = &b;
    call_start(&f, &b.upload);
    call_start(&f, &b.download);
    call_wait(&b.upload);
    call_wait(&b.download);
    assert_err(b.upload.done.fault.err, MOOR_OK);
    assert_err(b.download.done.fault.err, MOOR_OK);
    snprintf(verdict, sizeof verdict, "{\"bytes\":%llu,\"matches\":true}",
             (unsigned long long)bulk_bytes);
    assert_non_null(strstr(b.upload.text, verdict));
    assert_true(b.download.bytes == bulk_bytes);
    assert_true(b.download.is_pattern);
    assert_true(b.upload.done.bytes_up == bulk_bytes);
    call_check(&b.upload);
    call_check(&b.download);
    call_fini(&b.upload);
    call_fini(&b.download);
    close_pool();
}

/* ---- readers that stop ---- */

enum { WINDOW_MAX = 1 << 20, LONG = 8 << 20, OTHERS = 64 };
/* Beside what is lent: frames, sessions, requests, and buffers while the others run. */
enum { MEMORY_BESIDE = 1 << 20 };

static uint64_t stop_after; /* bytes of the stopped call */

static void stop(struct call *c)
{
    c->is_holding = c->bytes >= stop_after;
}

static void stopped_init(struct call *c)
{
    static char url[32];
    snprintf(url, sizeof url, "/bytes/%d", (int)LONG);
    call_init(c, f.pool, url);
    c->is_holding = stop_after == 0;
    c->on_chunk = stop;
}

static uint64_t bytes_of(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    const uint64_t n = c->bytes;
    pthread_mutex_unlock(&c->lock);
    return n;
}

/* Nothing more comes. */
static void wait_until_it_stands(struct call *c)
{
    for (uint64_t before = 0, quiet = 0; quiet < 50; quiet++) {
        const uint64_t now = bytes_of(c);
        assert_true(now < LONG);
        quiet = now && now == before ? quiet : 0;
        before = now;
        peer_sleep_ms(2);
    }
}

static void go_on(void *user)
{
    struct call *c = user;
    c->on_chunk = NULL;
    c->is_holding = false;
    call_return_all(c);
}

static void finish_stopped(struct call *calls, int count)
{
    for (int i = 0; i < count; i++) {
        struct call *c = &calls[i];
        assert_false(call_is_over(c));
        c->task = (moor_task){.run = go_on, .user = c};
        assert_err(moor_post(moor_shard_at(f.runtime, 0), &c->task), MOOR_OK);
    }
    for (int i = 0; i < count; i++) {
        struct call *c = &calls[i];
        call_wait(c);
        assert_err(c->done.fault.err, MOOR_OK);
        assert_int_equal(c->bytes, LONG);
        assert_true(c->is_pattern);
        call_check(c);
        call_fini(c);
    }
}

static uint64_t memory_used(void)
{
    moor_runtime_stats s;
    moor_runtime_stats_read(f.runtime, &s);
    return s.memory_used;
}

static void others_complete(void)
{
    static struct call others[OTHERS];
    for (int i = 0; i < OTHERS; i++) {
        call_init(&others[i], f.pool, i % 2 ? "/bytes/300000" : "/bytes/1000");
        call_start(&f, &others[i]);
    }
    for (int i = 0; i < OTHERS; i++) {
        call_wait(&others[i]);
        assert_err(others[i].done.fault.err, MOOR_OK);
        assert_int_equal(others[i].bytes, i % 2 ? 300000 : 1000);
        assert_true(others[i].is_pattern);
        call_check(&others[i]);
        call_fini(&others[i]);
    }
}

/* after: bytes the reader takes before it stops. */
static void others_go_on(uint64_t after)
{
    static struct call stopped;
    open_pool(WINDOW_MAX);
    stop_after = after;
    others_complete(); /* what stays allocated is there */
    const uint64_t before = memory_used();
    stopped_init(&stopped);
    call_start(&f, &stopped);
    wait_until_it_stands(&stopped);
    others_complete(); /* whose speed may let its window grow once more */
    assert_in_range(bytes_of(&stopped) - after, 1, WINDOW_MAX / 2 + 65536);
    assert_in_range(memory_used(), 0, before + 2 * WINDOW_MAX + MEMORY_BESIDE);
    finish_stopped(&stopped, 1);
    close_pool();
}

static void test_others_go_on_beside_one_that_never_reads(void **state)
{
    (void)state;
    others_go_on(0);
}

/* Its window has grown meanwhile. */
static void test_others_go_on_beside_one_that_stops(void **state)
{
    (void)state;
    others_go_on(4 << 20);
}

static void test_what_all_hold_is_bounded(void **state)
{
    (void)state;
    enum { STOPPED = 40 };
    static struct call stopped[STOPPED];
    open_pool(WINDOW_MAX);
    stop_after = 0;
    const uint64_t before = memory_used();
    for (int i = 0; i < STOPPED; i++) {
        stopped_init(&stopped[i]);
        call_start(&f, &stopped[i]);
    }
    for (uint64_t last = 0, quiet = 0, sum = 0; quiet < 100; quiet++, sum = 0) {
        for (int i = 0; i < STOPPED; i++)
            sum += bytes_of(&stopped[i]);
        /* What is out, and what had been allowed before that was too much. */
        assert_in_range(sum, 0, 2 * WINDOW_MAX);
        quiet = sum > WINDOW_MAX / 2 && sum == last ? quiet : 0;
        last = sum;
        peer_sleep_ms(2);
    }
    assert_in_range(memory_used(), 0, before + 4 * WINDOW_MAX + MEMORY_BESIDE);
    finish_stopped(stopped, STOPPED);
    close_pool();
}

static int start(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i % PERIOD * 131 % PERIOD);
    origin_start(&origin);
    return 0;
}

static int end(void **state)
{
    (void)state;
    origin_stop(&origin);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_much_both_ways_at_once),
        cmocka_unit_test(test_others_go_on_beside_one_that_never_reads),
        cmocka_unit_test(test_others_go_on_beside_one_that_stops),
        cmocka_unit_test(test_what_all_hold_is_bounded),
    };
    return cmocka_run_group_tests(tests, start, end);
}
