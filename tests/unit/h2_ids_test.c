/*
 * Stream ids end at 2^31-1: the conn that used the last one drains, and who finds none there goes elsewhere.
 * The session alone, then whole requests on a shard that the test drives, so that it may look at its conns.
 */
#include "client/h2_conn.h"
#include "core/shard.h"
#include "tests/support/h2_pair.h"
#include "tests/support/h2_server.h"

#include <mooring/mooring.h>

enum { LAST_ID = INT32_MAX };

/* ---- the session ---- */

static void test_the_last_ids_are_used(void **state)
{
    (void)state;
    static struct pair_request r[3];
    struct mr_h2_session h;
    static struct pair_server v;
    memset(r, 0, sizeof r);
    pair_open(&v);
    assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0), MOOR_OK);
    assert_int_equal(nghttp2_session_set_next_stream_id(h.ng, LAST_ID - 2), 0);
    for (int i = 0; i < 2; i++) {
        assert_false(mr_h2_is_exhausted(&h));
        assert_int_equal(pair_submit(&h, &r[i], false), MOOR_OK);
    }
    assert_true(mr_h2_is_exhausted(&h));
    assert_int_equal(pair_submit(&h, &r[2], false), MOOR_ECLOSED);
    assert_null(r[2].stream.session);
    mr_h2_go_away(&h);
    assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
    for (int i = 0; i < 2; i++)
        assert_true(r[i].end.is_complete);
    assert_int_equal(v.asked_late, 0);
    assert_true(mr_h2_is_over(&h));
    pair_close(&h, &v);
}

static void test_nothing_is_taken_after_a_goodbye(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        static struct pair_request r[2];
        struct mr_h2_session h;
        static struct pair_server v;
        memset(r, 0, sizeof r);
        pair_open(&v);
        v.goes_away = true;
        assert_int_equal(mr_h2_session_init(&h, &pair_heap, &pair_limits, &pair_events, 0),
                         MOOR_OK);
        if (i)
            mr_h2_go_away(&h);
        else
            assert_int_equal(pair_submit(&h, &r[0], false), MOOR_OK);
        assert_int_equal(pair_pump(&h, &v, 4096), MOOR_OK);
        assert_int_equal(pair_submit(&h, &r[1], false), MOOR_ECLOSED);
        pair_close(&h, &v);
    }
}

/* ---- requests ---- */

struct fixture {
    struct h2_server *server;
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
};

struct answer {
    unsigned dones;
    uint32_t replays;
    size_t came, sent;
    moor_fault fault;
};

static uint8_t body(size_t i)
{
    return (uint8_t)(i * 7);
}

static void set_up(struct fixture *f, uint32_t replays_max)
{
    f->server = h2_server_start(&(struct h2_server_options){.body = body});
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.log_level = MOOR_LOG_OFF;
    assert_int_equal(moor_runtime_create(&o, &f->runtime), MOOR_OK);
    assert_int_equal(moor_shard_adopt(f->runtime, &f->shard), MOOR_OK);
    moor_pool_options p;
    moor_pool_options_init(&p);
    p.conns_min_idle = 0;
    p.replays_max = replays_max;
    assert_int_equal(moor_pool_open(f->runtime, h2_server_url(f->server), &p, &f->pool), MOOR_OK);
}

static void tear_down(struct fixture *f)
{
    assert_int_equal(moor_pool_close(f->pool, 2000), MOOR_OK);
    moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 2000), MOOR_OK);
    h2_server_stop(f->server);
}

static void on_chunk(void *user, moor_chunk c)
{
    ((struct answer *)user)->came += c.bytes.len;
    moor_chunk_return(c);
}

static void on_done(void *user, const moor_http_done *d)
{
    struct answer *a = user;
    a->dones++;
    a->fault = d->fault;
    a->replays = d->replays;
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_chunk = on_chunk,
    .on_done = on_done,
};

static moor_body_more give_body(void *user, moor_piece *out)
{
    static const char bytes[1000];
    ((struct answer *)user)->sent += sizeof bytes;
    out->bytes = (moor_span){bytes, sizeof bytes};
    return MOOR_BODY_LAST;
}

static void ask(struct fixture *f, struct answer *a, bool has_body)
{
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = has_body ? "/echo" : "/bytes/1000";
    q.timeout_ms = 10000;
    if (has_body) {
        q.method = "POST";
        q.body_cb = give_body;
        q.body_length = 1000;
    }
    assert_int_equal(moor_http_send(f->pool, &q, &handlers, a, NULL), MOOR_OK);
    assert_int_equal(a->dones, 0);
}

static void await(struct fixture *f, struct answer *a, int count)
{
    for (int i = 0; i < count; i++)
        while (!a[i].dones)
            assert_int_equal(moor_shard_wait(f->shard, 100), MOOR_OK);
}

static void assert_is_whole(const struct answer *a)
{
    assert_string_equal(moor_err_name(a->fault.err), "MOOR_OK");
    assert_int_equal(a->came, 1000);
}

/* After a first request: the only conn, which lies idle. */
static struct mr_h2_conn *only_conn(struct fixture *f)
{
    struct answer a = {0};
    ask(f, &a, false);
    await(f, &a, 1);
    assert_is_whole(&a);
    const struct mr_http_pool *http = f->pool->wiring;
    struct mr_list *l = mr_list_first(&mr_berth_of(http->upstream, f->shard)->idle);
    assert_non_null(l);
    return mr_h2_conn_of(MR_CONTAINER_OF(l, struct mr_conn, link));
}

static void test_a_conn_without_ids_is_followed_by_another(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 0); /* nobody has to go again */
    assert_int_equal(nghttp2_session_set_next_stream_id(only_conn(&f)->session.ng, LAST_ID - 2), 0);
    struct answer a[6] = {0};
    for (int i = 0; i < 6; i++)
        ask(&f, &a[i], i % 2);
    await(&f, a, 6);
    for (int i = 0; i < 6; i++)
        assert_is_whole(&a[i]);
    assert_int_equal(h2_server_conns(f.server), 2);
    assert_int_equal(h2_server_requests(f.server), 7);
    tear_down(&f);
}

/* The conn's last id goes in a way that the pool does not see. */
static void use_up(struct mr_h2_conn *h)
{
    static struct mr_h2_stream unseen;
    const moor_header fields[] = {
        {mr_span_cstr(":method"), mr_span_cstr("GET")},
        {mr_span_cstr(":scheme"), mr_span_cstr("http")},
        {mr_span_cstr(":authority"), mr_span_cstr("a.example")},
        {mr_span_cstr(":path"), mr_span_cstr("/never")},
    };
    memset(&unseen, 0, sizeof unseen);
    assert_int_equal(nghttp2_session_set_next_stream_id(h->session.ng, LAST_ID), 0);
    assert_int_equal(mr_h2_submit(&h->session, &unseen, fields, 4, false, 3, false), MOOR_OK);
    mr_h2_stream_leave(&unseen, NGHTTP2_CANCEL);
}

static void test_who_finds_no_id_goes_elsewhere(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 1);
    use_up(only_conn(&f));
    struct answer a[3] = {0};
    for (int i = 0; i < 3; i++)
        ask(&f, &a[i], i % 2);
    await(&f, a, 3);
    for (int i = 0; i < 3; i++) {
        assert_is_whole(&a[i]);
        assert_int_equal(a[i].sent, i % 2 ? 1000 : 0); /* asked for once */
    }
    assert_int_equal(a[0].replays, 1);
    assert_int_equal(h2_server_conns(f.server), 2);
    assert_int_equal(h2_server_requests(f.server), 4);
    tear_down(&f);
}

static void test_who_may_not_go_elsewhere_hears_why(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 0);
    use_up(only_conn(&f));
    struct answer a[2] = {0};
    for (int i = 0; i < 2; i++) {
        ask(&f, &a[i], true);
        await(&f, &a[i], 1);
    }
    assert_string_equal(moor_err_name(a[0].fault.err), "MOOR_ECLOSED");
    assert_true(a[0].fault.safe_to_retry);
    assert_int_equal(a[0].sent, 0);
    assert_is_whole(&a[1]);
    assert_int_equal(h2_server_conns(f.server), 2);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_ids_are_used),
        cmocka_unit_test(test_nothing_is_taken_after_a_goodbye),
        cmocka_unit_test(test_a_conn_without_ids_is_followed_by_another),
        cmocka_unit_test(test_who_finds_no_id_goes_elsewhere),
        cmocka_unit_test(test_who_may_not_go_elsewhere_hears_why),
    };
    return cmocka_run_group_tests(tests, pair_set_up, pair_tear_down);
}
