/*
 * Berths: who gets which conn, and that a conn fit for the next claim is kept for it.
 */
#include "tests/support/shards.h"

static const char *backend;

/* ---- requests whose chunks the test keeps ---- */

#define HELD_MAX 512

struct request {
    moor_chunk held[HELD_MAX];
    size_t count;
    uint64_t bytes;
    unsigned done;
    moor_fault fault;
    bool is_reused;
};

static void on_chunk(void *user, moor_chunk c)
{
    struct request *r = user;
    assert_true(r->count < HELD_MAX);
    r->held[r->count++] = c;
    r->bytes += c.bytes.len;
}

static void on_done(void *user, const moor_http_done *d)
{
    struct request *r = user;
    r->done++;
    r->fault = d->fault;
    r->is_reused = d->reused;
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_chunk = on_chunk, .on_done = on_done};

static void ask_at(struct shards *s, unsigned shard, moor_pool *p, const char *url,
                   struct request *r)
{
    memset(r, 0, sizeof *r);
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = url;
    q.timeout_ms = 3000;
    mr_shard_enter(s->at[shard]);
    assert_int_equal(moor_http_send(p, &q, &handlers, r, NULL), MOOR_OK);
    mr_shard_enter(NULL);
}

static void ask(struct shards *s, moor_pool *p, struct request *r)
{
    ask_at(s, 0, p, "/", r);
}

static void return_chunks(struct request *r)
{
    while (r->count)
        moor_chunk_return(r->held[--r->count]);
}

static void answer(struct shards *s, int fd, size_t body)
{
    char text[128];
    SHARDS_UNTIL(s, shards_readable(fd));
    assert_true(read(fd, text, sizeof text) > 0);
    const int n =
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", body);
    assert_int_equal(write(fd, text, (size_t)n), n);
    static char zeros[1 << 16];
    while (body) {
        const size_t part = body < sizeof zeros ? body : sizeof zeros;
        assert_int_equal(write(fd, zeros, part), (ssize_t)part);
        body -= part;
    }
}

static moor_pool *open_http(struct shards *s, const moor_pool_options *o)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u", s->port);
    moor_pool *p = NULL;
    assert_int_equal(moor_pool_open(s->runtime, url, o, &p), MOOR_OK);
    return p;
}

static moor_stats stats_of(moor_pool *p)
{
    moor_stats out;
    moor_stats_read(p, &out);
    return out;
}

static void a_response_read_with_pauses_leaves_its_conn_idle(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    moor_pool_options o;
    shards_pool_options(&o);
    o.window_bytes = 32768;
    moor_pool *p = open_http(&s, &o);
    static struct request r;
    ask(&s, p, &r);
    shards_turn_for(&s, 5);
    const int fd = shards_accept(&s, s.listener);
    const size_t size = 300000;
    shards_turn_for(&s, 5);
    answer(&s, fd, size);
    shards_turn_for(&s, 10);
    assert_true(r.bytes < size); /* it waits for the chunks */
    while (!r.done) {
        return_chunks(&r);
        shards_turn(&s);
    }
    return_chunks(&r);
    assert_int_equal(r.fault.err, MOOR_OK);
    assert_int_equal(r.bytes, size);
    assert_int_equal(stats_of(p).conns_idle, 1);

    ask(&s, p, &r);
    shards_turn_for(&s, 5);
    answer(&s, fd, 10);
    SHARDS_UNTIL(&s, r.done);
    assert_int_equal(r.fault.err, MOOR_OK);
    assert_true(r.is_reused);
    return_chunks(&r);
    close(fd);
    SHARDS_UNTIL(&s, stats_of(p).conns_open == 0); /* its read was armed */
    shards_drain(&s, p);
    shards_fini(&s);
}

static void a_first_byte_timeout_of_ages_is_no_timeout(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    moor_pool_options o;
    shards_pool_options(&o);
    moor_pool *p = open_http(&s, &o);
    static struct request r;
    memset(&r, 0, sizeof r);
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = "/";
    q.first_byte_timeout_ms = INT64_MAX / MR_NS_PER_MS;
    mr_shard_enter(s.at[0]);
    assert_int_equal(moor_http_send(p, &q, &handlers, &r, NULL), MOOR_OK);
    mr_shard_enter(NULL);
    shards_turn_for(&s, 10);
    assert_false(r.done);
    const int fd = shards_accept(&s, s.listener);
    answer(&s, fd, 0);
    SHARDS_UNTIL(&s, r.done);
    assert_int_equal(r.fault.err, MOOR_OK);
    shards_drain(&s, p);
    close(fd);
    shards_fini(&s);
}

/* ---- caps that upstreams share ---- */

static moor_pool *open_any(struct shards *s, uint32_t conns_max_pool)
{
    moor_pool_options o;
    shards_pool_options(&o);
    o.conns_max_pool = conns_max_pool;
    moor_pool *p = NULL;
    assert_int_equal(moor_pool_open(s->runtime, NULL, &o, &p), MOOR_OK);
    return p;
}

static void origin_url(char *url, size_t cap, uint16_t port)
{
    snprintf(url, cap, "http://127.0.0.1:%u/", port);
}

static void an_idle_conn_of_another_shard_gives_way_under_a_shared_cap(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 2, backend, NULL);
    moor_pool *p = open_any(&s, 1);
    char url[64];
    static struct request r;
    origin_url(url, sizeof url, s.port);
    ask_at(&s, 0, p, url, &r);
    shards_turn_for(&s, 5);
    const int first = shards_accept(&s, s.listener);
    answer(&s, first, 0);
    SHARDS_UNTIL(&s, r.done);
    assert_int_equal(stats_of(p).conns_idle, 1);

    uint16_t port;
    const int other = shards_listen(&port);
    origin_url(url, sizeof url, port);
    ask_at(&s, 1, p, url, &r);
    SHARDS_UNTIL(&s, r.done || stats_of(p).conns_leased == 1);
    assert_false(r.done);
    const int second = shards_accept(&s, other);
    shards_turn_for(&s, 5);
    answer(&s, second, 0);
    SHARDS_UNTIL(&s, r.done);
    assert_int_equal(r.fault.err, MOOR_OK);
    shards_drain(&s, p);
    close(first);
    close(second);
    close(other);
    shards_fini(&s);
}

static void a_conn_that_becomes_idle_gives_way_to_who_waits_already(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 2, backend, NULL);
    moor_pool *p = open_any(&s, 1);
    char url[64];
    static struct request a, b;
    origin_url(url, sizeof url, s.port);
    ask_at(&s, 0, p, url, &a);
    shards_turn_for(&s, 5);
    const int fd = shards_accept(&s, s.listener);
    uint16_t port;
    const int other = shards_listen(&port);
    origin_url(url, sizeof url, port);
    ask_at(&s, 1, p, url, &b);
    shards_turn_for(&s, 5); /* it has found no idle conn by now */
    answer(&s, fd, 0);
    SHARDS_UNTIL(&s, a.done && (b.done || stats_of(p).conns_leased == 1));
    assert_false(b.done);
    shards_drain(&s, p);
    close(fd);
    close(other);
    shards_fini(&s);
}

static void a_failed_dial_frees_its_place_under_a_shared_cap(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 1, backend, NULL);
    moor_pool *p = open_any(&s, 1);
    uint16_t dead;
    close(shards_listen(&dead));
    char url[64];
    static struct request refused, r;
    origin_url(url, sizeof url, dead);
    ask_at(&s, 0, p, url, &refused);
    origin_url(url, sizeof url, s.port);
    ask_at(&s, 0, p, url, &r);
    SHARDS_UNTIL(&s, r.done || stats_of(p).conns_leased == 1);
    assert_false(r.done);
    assert_int_equal(refused.fault.err, MOOR_ECONNECT);
    shards_drain(&s, p);
    assert_int_equal(r.fault.err, MOOR_ECANCELED);
    shards_fini(&s);
}

static void min_idle_of_one_pool_does_not_starve_another(void **state)
{
    (void)state;
    struct shards s;
    moor_runtime_options ro;
    shards_options(&ro, backend);
    ro.conns_max_runtime = 1;
    shards_init(&s, 1, backend, &ro);
    moor_pool_options o;
    shards_pool_options(&o);
    o.conns_min_idle = 1;
    moor_pool *warm = shards_open(&s, s.port, &o);
    struct taker t;
    shards_acquire(&s, 0, warm, 1000, &t);
    SHARDS_UNTIL(&s, t.calls);
    shards_release(&s, 0, &t);
    assert_int_equal(stats_of(warm).conns_idle, 1);

    uint16_t port;
    const int other = shards_listen(&port);
    moor_pool *cold = shards_open(&s, port, NULL);
    shards_acquire(&s, 0, cold, 3000, &t);
    SHARDS_UNTIL(&s, t.calls);
    assert_int_equal(t.err, MOOR_OK);
    assert_int_equal(stats_of(warm).conns_created, 1); /* none came and went meanwhile */
    mr_shard_enter(s.at[0]);
    moor_release(t.lease, MOOR_DISCARD);
    mr_shard_enter(NULL);
    SHARDS_UNTIL(&s, stats_of(warm).conns_idle == 1);
    shards_drain(&s, warm);
    shards_drain(&s, cold);
    close(other);
    shards_fini(&s);
}

/* ---- an upstream that takes no new conns ---- */

static void the_last_idle_conn_of_another_shard_serves_where_dials_fail(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 2, backend, NULL);
    moor_pool *p = shards_open(&s, s.port, NULL);
    struct taker t;
    shards_acquire(&s, 0, p, 1000, &t);
    SHARDS_UNTIL(&s, t.calls);
    shards_release(&s, 0, &t);
    const int fd = shards_accept(&s, s.listener);
    close(s.listener);
    s.listener = -1;
    shards_acquire(&s, 1, p, 3000, &t);
    SHARDS_UNTIL(&s, t.calls);
    assert_int_equal(t.err, MOOR_OK);
    assert_true(t.is_reused);
    shards_release(&s, 1, &t);
    shards_drain(&s, p);
    close(fd);
    shards_fini(&s);
}

/* ---- conns that have moved ---- */

/* One conn, made by shard 0 and idle on shard 1. Returns the peer's end. */
static int move_one(struct shards *s, moor_pool *p)
{
    struct taker t;
    for (unsigned i = 0; i < 2; i++) {
        shards_acquire(s, i, p, 3000, &t);
        SHARDS_UNTIL(s, t.calls);
        assert_int_equal(t.err, MOOR_OK);
        shards_release(s, i, &t);
    }
    assert_int_equal(stats_of(p).conns_moved, 1);
    assert_int_equal(stats_of(p).conns_open, 1);
    return accept(s->listener, NULL, NULL);
}

static void min_idle_is_kept_where_a_moved_conn_has_closed(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 2, backend, NULL);
    moor_pool_options o;
    shards_pool_options(&o);
    o.conns_min_idle = o.conns_max = 1;
    o.steal_keep = 0;
    moor_pool *p = shards_open(&s, s.port, &o);
    close(move_one(&s, p));
    SHARDS_UNTIL(&s, stats_of(p).conns_closed == 1);
    SHARDS_UNTIL(&s, stats_of(p).conns_idle == 1);
    assert_int_equal(stats_of(p).conns_created, 2);
    shards_drain(&s, p);
    shards_fini(&s);
}

static void a_moved_conn_ends_with_its_lifetime(void **state)
{
    (void)state;
    struct shards s;
    shards_init(&s, 2, backend, NULL);
    moor_pool_options o;
    shards_pool_options(&o);
    o.conns_max = 1;
    o.steal_keep = 0;
    o.idle_timeout_ms = MOOR_FOREVER;
    o.lifetime_max_ms = 100;
    moor_pool *p = shards_open(&s, s.port, &o);
    const int fd = move_one(&s, p);
    SHARDS_UNTIL(&s, stats_of(p).conns_open == 0);
    close(fd);
    shards_drain(&s, p);
    shards_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_conn_of_another_shard_gives_way_under_a_shared_cap),
        cmocka_unit_test(a_conn_that_becomes_idle_gives_way_to_who_waits_already),
        cmocka_unit_test(a_failed_dial_frees_its_place_under_a_shared_cap),
        cmocka_unit_test(min_idle_of_one_pool_does_not_starve_another),
        cmocka_unit_test(the_last_idle_conn_of_another_shard_serves_where_dials_fail),
        cmocka_unit_test(min_idle_is_kept_where_a_moved_conn_has_closed),
        cmocka_unit_test(a_moved_conn_ends_with_its_lifetime),
        cmocka_unit_test(a_first_byte_timeout_of_ages_is_no_timeout),
        cmocka_unit_test(a_response_read_with_pauses_leaves_its_conn_idle),
    };
    int failed = 0;
    static const char *const backends[] = {"io_uring", "epoll"};
    for (size_t i = 0; i < 2; i++) {
        backend = backends[i];
        failed += cmocka_run_group_tests_name(backend, tests, NULL, NULL);
    }
    return failed;
}
