/* The filter chain: handshakes, data, backpressure, ends and moves, through one and two xor
 * filters. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/berth.h"
#include "core/conn_out.h"
#include "core/shard.h"
#include "tests/support/xor_filter.h"
#include "tests/support/xor_server.h"

#include <mooring/mooring.h>

#include <errno.h>

struct fixture {
    struct xor_server *server;
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
};

static const char *backend;
static unsigned layers;        /* what `secure` adds */
static uint32_t record_max[3]; /* of each, bottom first */
static moor_err secure_fails;

static moor_err secure(struct mr_upstream *u, struct mr_conn *c)
{
    for (unsigned i = 0; i < layers; i++)
        MR_TRY(xor_filter_add(u, c, &(struct xor_options){.record_max = record_max[i]}));
    return secure_fails;
}

static void make_runtime(struct fixture *f, uint32_t buffer_size, uint32_t buffers)
{
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.io_backend = backend;
    o.recv_buffer_size = buffer_size;
    o.recv_buffers = buffers;
    o.log_level = MOOR_LOG_OFF;
    assert_int_equal(moor_runtime_create(&o, &f->runtime), MOOR_OK);
}

static void open_pool(struct fixture *f, const moor_pool_options *o)
{
    assert_int_equal(moor_pool_open(f->runtime, xor_server_url(f->server), o, &f->pool), MOOR_OK);
    f->pool->secure = secure;
}

static void pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
    o->backoff_min_ms = 10000;
}

/* One adopted shard, a server of as many layers, a pool. */
static void begin(struct fixture *f, const struct xor_server_options *server,
                  const moor_pool_options *pool)
{
    moor_pool_options defaults;
    pool_options(&defaults);
    memset(f, 0, sizeof *f);
    memset(&xor_counts, 0, sizeof xor_counts);
    layers = server->layers;
    secure_fails = MOOR_OK;
    f->server = xor_server_start(server);
    make_runtime(f, 4096, 64);
    assert_int_equal(moor_shard_adopt(f->runtime, &f->shard), MOOR_OK);
    open_pool(f, pool ? pool : &defaults);
}

static void finish(struct fixture *f)
{
    assert_int_equal(moor_pool_close(f->pool, 1000), MOOR_OK);
    moor_shard_leave(f->shard);
    assert_int_equal(moor_runtime_destroy(f->runtime, 1000), MOOR_OK);
    xor_server_stop(f->server);
    assert_int_equal(xor_counts.made, xor_counts.dropped);
}

/* ---- requests ---- */

struct request {
    size_t came, length;  /* body bytes: came, as announced */
    size_t posted, given; /* of our body: in all, so far */
    uint8_t piece[5000];
    int status;
    unsigned dones;
    moor_fault fault;
    bool holds; /* keeps chunks */
    moor_chunk held[512];
    unsigned held_count;
};

static void on_head(void *user, const moor_http_head *h)
{
    ((struct request *)user)->status = h->status;
}

static void on_chunk(void *user, moor_chunk c)
{
    struct request *r = user;
    const uint8_t *bytes = c.bytes.base;
    for (size_t i = 0; i < c.bytes.len; i++)
        if (bytes[i] != xor_body(r->came + i))
            fail_msg("byte %zu is %u", r->came + i, bytes[i]);
    r->came += c.bytes.len;
    if (r->holds) {
        assert_true(r->held_count < 512);
        r->held[r->held_count++] = c;
    } else {
        moor_chunk_return(c);
    }
}

static void on_done(void *user, const moor_http_done *d)
{
    struct request *r = user;
    r->fault = d->fault;
    r->dones++;
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_head = on_head, .on_chunk = on_chunk, .on_done = on_done};

static moor_body_more body(void *user, moor_piece *out)
{
    struct request *r = user;
    size_t n = r->posted - r->given;
    if (n > sizeof r->piece)
        n = sizeof r->piece;
    for (size_t i = 0; i < n; i++)
        r->piece[i] = xor_body(r->given + i);
    r->given += n;
    out->bytes = (moor_span){r->piece, n};
    return r->given == r->posted ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

static void send_request(struct fixture *f, struct request *r, const char *path, size_t n)
{
    char url[64];
    snprintf(url, sizeof url, "%s/%zu", path, n);
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = r->posted ? "/echo" : url;
    q.timeout_ms = 20000;
    if (r->posted) {
        q.method = "POST";
        q.body_cb = body;
        q.body_length = r->posted;
    }
    r->length = n;
    assert_int_equal(moor_http_send(f->pool, &q, &handlers, r, NULL), MOOR_OK);
}

static void turn(struct fixture *f, int ms)
{
    assert_int_equal(moor_shard_wait(f->shard, ms), MOOR_OK);
}

#define TURN_UNTIL(f, condition)                                                                   \
    do {                                                                                           \
        for (int64_t end_ = mr_clock_now(&mr_clock_system) + 60 * MR_NS_PER_SEC; !(condition);) {  \
            assert_true(mr_clock_now(&mr_clock_system) < end_);                                    \
            turn(f, 5);                                                                            \
        }                                                                                          \
    } while (0)

static void run_request(struct fixture *f, struct request *r, const char *path, size_t n)
{
    send_request(f, r, path, n);
    TURN_UNTIL(f, r->dones);
}

static void expect_bytes(struct fixture *f, size_t n)
{
    struct request r = {0};
    run_request(f, &r, "/bytes", n);
    assert_int_equal(r.fault.err, MOOR_OK);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.came, n);
    assert_int_equal(r.dones, 1);
}

static void expect_echo(struct fixture *f, size_t n)
{
    struct request r = {.posted = n};
    run_request(f, &r, "", n);
    assert_int_equal(r.fault.err, MOOR_OK);
    assert_int_equal(r.came, n);
}

static struct mr_berth *berth_of(struct fixture *f)
{
    return mr_berth_of(f->pool->upstream, f->shard);
}

static struct mr_conn *first_of(struct mr_list *l)
{
    struct mr_list *first = mr_list_first(l);
    return first ? MR_CONTAINER_OF(first, struct mr_conn, link) : NULL;
}

/* ---- handshakes ---- */

static void test_handshakes_that_succeed(void **state)
{
    (void)state;
    static const enum xor_handshake ways[] = {XOR_WHOLE, XOR_DRIBBLED};
    for (unsigned n = 1; n <= 3; n++)
        for (unsigned hit = 0; hit < n; hit++)
            for (size_t i = 0; i < 2; i++) {
                struct fixture f;
                begin(&f,
                      &(struct xor_server_options){
                          .layers = n, .handshake = ways[i], .hit_layer = hit},
                      NULL);
                expect_bytes(&f, 1000);
                expect_bytes(&f, 10);
                assert_int_equal(xor_server_conns(f.server), 1);
                assert_int_equal(xor_counts.opened, n);
                finish(&f);
            }
}

static void test_handshakes_that_fail(void **state)
{
    (void)state;
    static const struct {
        enum xor_handshake how;
        moor_err err;
        int tls_code;
        const char *what[2]; /* in the lower layer, in the upper */
    } ways[] = {
        {XOR_STALLED, MOOR_ETIMEDOUT, 0, {"secure the connection", "secure the connection"}},
        {XOR_REFUSED, MOOR_ETLS, 42, {"xor handshake refused", "xor handshake refused"}},
        {XOR_CUT,
         MOOR_ERESET,
         0,
         {"the peer closed the connection in the TLS handshake",
          "the connection ended without the peer's word for it"}},
    };
    moor_pool_options o;
    pool_options(&o);
    o.connect_timeout_ms = 60;
    for (size_t i = 0; i < 3; i++)
        for (unsigned hit = 0; hit < 2; hit++) {
            struct fixture f;
            begin(&f,
                  &(struct xor_server_options){
                      .layers = 2, .handshake = ways[i].how, .hit_layer = hit},
                  &o);
            struct request r[2] = {0};
            send_request(&f, &r[0], "/bytes", 1);
            send_request(&f, &r[1], "/bytes", 1);
            TURN_UNTIL(&f, r[0].dones && r[1].dones);
            for (int j = 0; j < 2; j++) {
                assert_int_equal(r[j].fault.err, ways[i].err);
                assert_int_equal(r[j].fault.tls_code, ways[i].tls_code);
                assert_string_equal(r[j].fault.what, ways[i].what[hit]);
                assert_true(r[j].fault.safe_to_retry);
            }
            finish(&f);
        }
}

static void test_filters_that_cannot_be_made(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
    secure_fails = MOOR_ENOMEM;
    struct request r = {0};
    run_request(&f, &r, "/bytes", 1);
    assert_int_equal(r.fault.err, MOOR_ENOMEM);
    assert_string_equal(r.fault.what, "secure the connection");
    finish(&f);
}

/* A server that speaks first: its first byte comes with the last of the handshake. */
static uint8_t greeting;

static size_t greeted(struct mr_conn *c, const struct mr_in *in)
{
    greeting = in->base[0];
    mr_conn_set_capacity(c, 1);
    return 1;
}

static moor_err wait_for_greeting(struct mr_conn *c)
{
    (void)c;
    return MOOR_OK;
}

static void test_data_that_comes_with_the_handshake(void **state)
{
    (void)state;
    static const struct mr_protocol greeter = {
        .name = "greeter", .capacity_expected = 1, .open = wait_for_greeting, .input = greeted};
    for (unsigned n = 1; n <= 2; n++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = n, .is_eager = true}, NULL);
        f.pool->protocol = &greeter;
        f.pool->options.conns_min_idle = 1;
        greeting = 0;
        assert_non_null(berth_of(&f));
        TURN_UNTIL(&f, berth_of(&f)->idle_count == 1);
        assert_int_equal(greeting, '!');
        finish(&f);
    }
}

/* ---- data ---- */

static void test_data_both_ways(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 99, 100, 101, 4095, 4096, 20000, 300000};
    static const uint32_t records[][2] = {{100, 100}, {1000, 64}, {65535, 16384}, {3, 1}};
    for (unsigned n = 0; n <= 2; n++)
        for (size_t i = 0; i < 4; i++) {
            struct fixture f;
            record_max[0] = records[i][0];
            record_max[1] = records[i][1];
            begin(&f, &(struct xor_server_options){.layers = n, .record_max = records[i][1]}, NULL);
            for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
                if (sizes[j] > 5000 && records[i][1] == 1)
                    continue;
                expect_bytes(&f, sizes[j]);
                expect_echo(&f, sizes[j]);
            }
            assert_int_equal(xor_server_conns(f.server), 1);
            finish(&f);
        }
    record_max[0] = record_max[1] = record_max[2] = 16384;
}

static void test_much_data(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
    expect_bytes(&f, 8 << 20);
    expect_echo(&f, 8 << 20);
    assert_int_equal(xor_server_conns(f.server), 1);
    assert_true(xor_counts.partial > 0);
    finish(&f);
}

/* ---- backpressure ---- */

static void return_all(struct request *r)
{
    for (unsigned i = 0; i < r->held_count; i++)
        moor_chunk_return(r->held[i]);
    r->held_count = 0;
}

static void test_a_slow_caller_stops_the_recv(void **state)
{
    (void)state;
    moor_pool_options o;
    pool_options(&o);
    o.window_bytes = 20000;
    for (unsigned n = 1; n <= 2; n++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = n, .record_max = 3000}, &o);
        struct request r = {.holds = true};
        const size_t all = 3 << 20;
        send_request(&f, &r, "/bytes", all);
        TURN_UNTIL(&f, r.came >= o.window_bytes);
        for (int i = 0; i < 50; i++)
            turn(&f, 1);
        struct mr_conn *c = first_of(&berth_of(&f)->busy);
        assert_non_null(c);
        assert_false(c->sock.is_receiving);
        assert_true(c->is_paused);
        /* One record may go beyond the window; after that nothing more was even decoded. */
        assert_true(r.came < o.window_bytes + 3000);
        const size_t came = r.came;
        for (int i = 0; i < 20; i++)
            turn(&f, 1);
        assert_int_equal(r.came, came);
        while (r.came < all || r.held_count) {
            return_all(&r);
            turn(&f, 5);
        }
        TURN_UNTIL(&f, r.dones);
        assert_int_equal(r.fault.err, MOOR_OK);
        assert_int_equal(r.came, all);
        finish(&f);
    }
}

/* As many stuck callers as would hold every buffer, and one more request. */
static void test_stuck_callers_leave_buffers_to_others(void **state)
{
    (void)state;
    moor_pool_options o;
    pool_options(&o);
    o.window_bytes = 16384;
    struct fixture f = {0};
    memset(&xor_counts, 0, sizeof xor_counts);
    layers = 2;
    f.server = xor_server_start(&(struct xor_server_options){.layers = 2, .record_max = 400});
    make_runtime(&f, 512, 16);
    assert_int_equal(moor_shard_adopt(f.runtime, &f.shard), MOOR_OK);
    open_pool(&f, &o);
    enum { STUCK = 24 };
    struct request *r = calloc(STUCK, sizeof *r);
    for (int i = 0; i < STUCK; i++) {
        r[i].holds = true;
        send_request(&f, &r[i], "/bytes", 200000);
    }
    for (int i = 0; i < STUCK; i++)
        TURN_UNTIL(&f, r[i].came >= o.window_bytes);
    expect_bytes(&f, 100000);
    for (bool is_done = false; !is_done;) {
        is_done = true;
        for (int i = 0; i < STUCK; i++) {
            return_all(&r[i]);
            is_done = is_done && r[i].dones;
        }
        turn(&f, 5);
    }
    for (int i = 0; i < STUCK; i++) {
        assert_int_equal(r[i].fault.err, MOOR_OK);
        assert_int_equal(r[i].came, 200000);
        return_all(&r[i]);
    }
    free(r);
    finish(&f);
}

/* ---- ends ---- */

static void test_an_announced_end(void **state)
{
    (void)state;
    for (unsigned n = 0; n <= 2; n++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = n}, NULL);
        struct request r = {0};
        run_request(&f, &r, "/eof", 50000);
        assert_int_equal(r.fault.err, MOOR_OK);
        assert_int_equal(r.came, 50000);
        assert_int_equal(xor_counts.truncated, 0);
        finish(&f);
    }
}

static void test_a_truncated_end(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 2; n++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = n, .cuts = true}, NULL);
        struct request r = {0};
        run_request(&f, &r, "/eof", 50000);
        assert_int_equal(r.fault.err, MOOR_ERESET);
        assert_string_equal(r.fault.what, "the connection ended without the peer's word for it");
        assert_false(r.fault.safe_to_retry);
        assert_int_equal(r.came, 50000);
        assert_int_equal(xor_counts.truncated, 1);
        finish(&f);
    }
}

/* An end the caller is too slow to see at once: what came before goes first. */
static void test_an_end_behind_held_bytes(void **state)
{
    (void)state;
    moor_pool_options o;
    pool_options(&o);
    o.window_bytes = 16384;
    for (int cuts = 0; cuts < 2; cuts++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = 2, .cuts = cuts, .record_max = 3000}, &o);
        struct request r = {.holds = true};
        send_request(&f, &r, "/eof", 30000);
        TURN_UNTIL(&f, r.came >= o.window_bytes);
        for (int i = 0; i < 30; i++)
            turn(&f, 1);
        assert_int_equal(r.dones, 0);
        while (!r.dones) {
            return_all(&r);
            turn(&f, 5);
        }
        return_all(&r);
        assert_int_equal(r.came, 30000);
        assert_int_equal(r.fault.err, cuts ? MOOR_ERESET : MOOR_OK);
        finish(&f);
    }
}

static void test_an_idle_conn_ends(void **state)
{
    (void)state;
    for (int cuts = 0; cuts < 2; cuts++) {
        struct fixture f;
        begin(&f, &(struct xor_server_options){.layers = 2, .cuts = cuts, .requests_max = 1}, NULL);
        expect_bytes(&f, 10);
        TURN_UNTIL(&f, xor_counts.dropped == 2);
        assert_int_equal(berth_of(&f)->idle_count, 0);
        expect_bytes(&f, 10);
        assert_int_equal(xor_server_conns(f.server), 2);
        finish(&f);
    }
}

struct raw_claim {
    struct mr_claim claim;
    struct mr_conn *conn;
};

static void raw_granted(struct mr_claim *claim, struct mr_conn *c, bool is_reused)
{
    (void)is_reused;
    MR_CONTAINER_OF(claim, struct raw_claim, claim)->conn = c;
}

static void raw_failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why)
{
    (void)claim;
    (void)why;
    fail_msg("%s", fault->what);
}

static void acquire_raw(struct fixture *f, struct raw_claim *raw)
{
    *raw = (struct raw_claim){
        .claim = {.granted = raw_granted, .failed = raw_failed, .deadline_ns = MR_NEVER}};
    assert_int_equal(mr_berth_acquire(berth_of(f), &raw->claim), MOOR_OK);
    TURN_UNTIL(f, raw->conn);
}

static void piece_sent(struct mr_out *o, int err)
{
    assert_int_equal(err, 0);
    o->len = 0;
}

static void test_our_end_is_announced_once_by_every_filter(void **state)
{
    (void)state;
    for (int writes = 0; writes < 2; writes++) {
        struct fixture f;
        struct raw_claim raw;
        begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
        record_max[1] = 7;
        acquire_raw(&f, &raw);
        struct mr_out o = {
            .base = (const uint8_t *)"GET /bytes/5 HT", .len = 15, .sent = piece_sent};
        if (writes)
            assert_int_equal(mr_conn_write(raw.conn, &o), MOOR_OK);
        mr_conn_finish(raw.conn);
        mr_conn_finish(raw.conn);
        TURN_UNTIL(&f, raw.conn->is_finished);
        assert_true(!writes || o.len == 0);
        assert_int_equal(xor_counts.shut, 2);
        TURN_UNTIL(&f, xor_server_ends(f.server, 0) == 1);
        assert_int_equal(xor_server_ends(f.server, 1), 1);
        mr_berth_release(raw.conn, true);
        record_max[1] = 16384;
        finish(&f);
    }
}

static unsigned swallowed;

static void swallow(struct mr_io *io, struct mr_sock *s, const struct msghdr *m)
{
    (void)io;
    (void)s;
    assert_true(m->msg_iovlen > 0);
    swallowed++;
}

static void piece_refused(struct mr_out *o, int err)
{
    (void)err;
    o->len = 0;
}

/* The claim hears that its bytes were not sent: they must not leave with a goodbye after all. */
static void test_what_could_not_be_sent_goes_with_no_goodbye(void **state)
{
    (void)state;
    static const int errors[] = {ENOBUFS, ENOMEM, EPIPE, ECONNRESET};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct fixture f;
        struct raw_claim raw;
        begin(&f, &(struct xor_server_options){.layers = 1 + i % 2}, NULL);
        acquire_raw(&f, &raw);
        struct mr_io *io = f.shard->mine.loop.io;
        const struct mr_io_ops *real = io->ops;
        struct mr_io_ops ops = *real;
        ops.send = swallow;
        io->ops = &ops;
        swallowed = 0;
        struct mr_out o = {
            .base = (const uint8_t *)"POST / HTTP/1.1", .len = 15, .sent = piece_refused};
        assert_int_equal(mr_conn_write(raw.conn, &o), MOOR_OK);
        TURN_UNTIL(&f, swallowed == 1);
        mr_conn_out_sent(raw.conn, errors[i], 0);
        if (mr_conn_state(raw.conn) == MR_CONN_DRAINING) { /* what the peer said before is to be heard */
            assert_true(errors[i] == EPIPE || errors[i] == ECONNRESET);
            mr_conn_close(raw.conn, "test");
        }
        assert_int_equal(mr_conn_state(raw.conn), MR_CONN_CLOSING);
        assert_int_equal(swallowed, 1);
        io->ops = real;
        TURN_UNTIL(&f, o.len == 0 && xor_counts.dropped == xor_counts.made);
        finish(&f);
    }
}

/* ---- whenever a conn goes, its filters go once ---- */

static void test_filters_go_with_their_conn(void **state)
{
    (void)state;
    struct fixture f;
    /* connecting, not yet asked */
    begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
    struct request r = {0};
    send_request(&f, &r, "/bytes", 100);
    assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
    assert_int_equal(r.dones, 1);
    open_pool(&f, NULL);
    finish(&f);
    /* securing */
    for (unsigned hit = 0; hit < 2; hit++) {
        begin(&f,
              &(struct xor_server_options){.layers = 2, .handshake = XOR_STALLED, .hit_layer = hit},
              NULL);
        struct request stalled = {0};
        send_request(&f, &stalled, "/bytes", 100);
        TURN_UNTIL(&f, xor_counts.made == 2 && xor_counts.opened == hit);
        finish(&f);
        assert_int_equal(stalled.dones, 1);
        assert_int_equal(xor_counts.dropped, 2);
    }
    /* leased, in the middle of both bodies */
    for (int posts = 0; posts < 2; posts++) {
        begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
        struct request *big = calloc(1, sizeof *big);
        big->posted = posts ? 50 << 20 : 0;
        send_request(&f, big, "/bytes", 50 << 20);
        TURN_UNTIL(&f, posts ? big->given > 100000 : big->came > 100000);
        assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
        assert_int_equal(big->dones, 1);
        assert_int_equal(big->fault.err, MOOR_ECANCELED);
        assert_int_equal(xor_counts.dropped, 2);
        free(big);
        open_pool(&f, NULL);
        finish(&f);
    }
}

static void test_idle_costs_the_filters_alone(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, &(struct xor_server_options){.layers = 2}, NULL);
    expect_bytes(&f, 100000);
    struct mr_conn *c = first_of(&berth_of(&f)->idle);
    assert_non_null(c);
    assert_null(c->out);
    assert_null(c->rest);
    assert_null(c->attempt);
    const size_t with = atomic_load(&f.runtime->heap.used);
    mr_conn_close(c, "test");
    TURN_UNTIL(&f, xor_counts.dropped == 2);
    assert_int_equal(with - atomic_load(&f.runtime->heap.used), 2 * xor_counts.idle_bytes);
    finish(&f);
}

/* ---- moves ---- */

static void run_on(struct moor_shard *s, struct moor_shard *other)
{
    mr_shard_enter(s);
    assert_int_equal(mr_shard_turn(s, MR_NS_PER_MS, 0), MOOR_OK);
    mr_shard_enter(other);
    assert_int_equal(mr_shard_turn(other, 0, 0), MOOR_OK);
}

static void test_filters_move_with_their_conn(void **state)
{
    (void)state;
    struct fixture f = {0};
    struct moor_shard *shards[2];
    moor_pool_options o;
    pool_options(&o);
    o.steal_keep = 0;
    o.conns_max = 1;
    memset(&xor_counts, 0, sizeof xor_counts);
    layers = 2;
    f.server = xor_server_start(&(struct xor_server_options){.layers = 2});
    make_runtime(&f, 4096, 64);
    for (int i = 0; i < 2; i++)
        assert_int_equal(mr_runtime_add_shard(f.runtime, &shards[i]), MOOR_OK);
    mr_shard_enter(shards[0]);
    open_pool(&f, &o);
    for (int i = 0; i < 6; i++) { /* there and back, and waiting at both: given and asked for */
        struct request r[2] = {0};
        for (int j = 0; j < 2; j++) {
            if (j == 1 && i < 4)
                continue;
            mr_shard_enter(shards[(i + j) % 2]);
            send_request(&f, &r[j], "/bytes", 10000);
        }
        for (int n = 0; !r[0].dones || (i >= 4 && !r[1].dones); n++) {
            assert_true(n < 5000);
            run_on(shards[0], shards[1]);
        }
        for (int j = 0; j < (i < 4 ? 1 : 2); j++) {
            assert_int_equal(r[j].fault.err, MOOR_OK);
            assert_int_equal(r[j].came, 10000);
        }
    }
    assert_int_equal(xor_server_conns(f.server), 1);
    assert_int_equal(xor_counts.made, 2);
    moor_pool_drain(f.pool, 1000, NULL, NULL);
    while (!atomic_load(&f.pool->drained_word))
        run_on(shards[0], shards[1]);
    mr_pool_free(f.pool);
    for (int i = 0; i < 2; i++) {
        mr_shard_enter(shards[i]);
        mr_shard_leave(shards[i]);
    }
    mr_shard_enter(NULL);
    assert_int_equal(moor_runtime_destroy(f.runtime, 1000), MOOR_OK);
    xor_server_stop(f.server);
    assert_int_equal(xor_counts.dropped, 2);
}

static int use_uring(void **state)
{
    (void)state;
    backend = "io_uring";
    record_max[0] = record_max[1] = record_max[2] = 16384;
    return 0;
}

static int use_epoll(void **state)
{
    (void)use_uring(state);
    backend = "epoll";
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshakes_that_succeed),
        cmocka_unit_test(test_handshakes_that_fail),
        cmocka_unit_test(test_filters_that_cannot_be_made),
        cmocka_unit_test(test_data_that_comes_with_the_handshake),
        cmocka_unit_test(test_data_both_ways),
        cmocka_unit_test(test_much_data),
        cmocka_unit_test(test_a_slow_caller_stops_the_recv),
        cmocka_unit_test(test_stuck_callers_leave_buffers_to_others),
        cmocka_unit_test(test_an_announced_end),
        cmocka_unit_test(test_a_truncated_end),
        cmocka_unit_test(test_an_end_behind_held_bytes),
        cmocka_unit_test(test_an_idle_conn_ends),
        cmocka_unit_test(test_our_end_is_announced_once_by_every_filter),
        cmocka_unit_test(test_what_could_not_be_sent_goes_with_no_goodbye),
        cmocka_unit_test(test_filters_go_with_their_conn),
        cmocka_unit_test(test_idle_costs_the_filters_alone),
        cmocka_unit_test(test_filters_move_with_their_conn),
    };
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 1;
    o.io_backend = "io_uring";
    o.log_level = MOOR_LOG_OFF;
    moor_runtime *r;
    const bool has_uring = moor_runtime_create(&o, &r) == MOOR_OK;
    int failed = 0;
    if (has_uring) {
        failed += moor_runtime_destroy(r, 0) != MOOR_OK;
        failed += cmocka_run_group_tests_name("filter, io_uring", tests, use_uring, NULL);
    } else {
        print_message("no io_uring here: epoll only\n");
    }
    return failed + cmocka_run_group_tests_name("filter, epoll", tests, use_epoll, NULL);
}
