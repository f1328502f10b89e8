/* moor_http_prioritize: what the server hears of it, by its own HTTP/2 session. */
#include "alloc/slab.h"
#include "tests/support/fixture_pool.h"

#include <nghttp2/nghttp2.h>

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TEXT_MAX = 32 };

struct server {
    struct peer peer;
    bool heeds_updates; /* SETTINGS_NO_RFC7540_PRIORITIES */
    atomic_bool may_answer;
    pthread_mutex_t lock;  /* over what follows */
    char header[TEXT_MAX]; /* the priority of the last request */
    char update[TEXT_MAX]; /* of the last PRIORITY_UPDATE */
    int updates, requests;
};

struct served {
    struct server *server;
    int32_t waiting[8];
    int count;
};

static void keep(char to[TEXT_MAX], const uint8_t *text, size_t len)
{
    snprintf(to, TEXT_MAX, "%.*s", (int)len, (const char *)text);
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    struct served *v = user;
    (void)ng;
    (void)f;
    (void)flags;
    pthread_mutex_lock(&v->server->lock);
    if (name_len == 8 && !memcmp(name, "priority", 8))
        keep(v->server->header, value, value_len);
    pthread_mutex_unlock(&v->server->lock);
    return 0;
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
    struct served *v = user;
    (void)ng;
    pthread_mutex_lock(&v->server->lock);
    if (f->hd.type == NGHTTP2_PRIORITY_UPDATE) {
        const nghttp2_ext_priority_update *u = f->ext.payload;
        keep(v->server->update, u->field_value, u->field_value_len);
        v->server->updates++;
    } else if (f->hd.type == NGHTTP2_HEADERS) {
        v->server->requests++;
        v->waiting[v->count++ % 8] = f->hd.stream_id;
    }
    pthread_mutex_unlock(&v->server->lock);
    return 0;
}

static nghttp2_session *open_session(struct served *v)
{
    nghttp2_session_callbacks *c;
    nghttp2_option *o;
    nghttp2_session *ng = NULL;
    nghttp2_session_callbacks_new(&c);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
    nghttp2_option_new(&o);
    nghttp2_option_set_builtin_recv_extension_type(o, NGHTTP2_PRIORITY_UPDATE);
    nghttp2_session_server_new2(&ng, c, v, o);
    nghttp2_option_del(o);
    nghttp2_session_callbacks_del(c);
    const nghttp2_settings_entry s = {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES,
                                      v->server->heeds_updates};
    nghttp2_submit_settings(ng, 0, &s, 1);
    return ng;
}

static void answer(struct served *v, nghttp2_session *ng)
{
    const nghttp2_nv status = {
        .name = (uint8_t *)":status", .namelen = 7, .value = (uint8_t *)"204", .valuelen = 3};
    while (v->count > 0)
        nghttp2_submit_response(ng, v->waiting[--v->count], &status, 1, NULL);
}

static bool write_all(nghttp2_session *ng, int fd)
{
    const uint8_t *bytes;
    for (ssize_t n; (n = nghttp2_session_mem_send(ng, &bytes)) != 0;)
        if (n < 0 || send(fd, bytes, (size_t)n, MSG_NOSIGNAL) != n)
            return false;
    return true;
}

static void serve(struct peer_conn *c)
{
    struct served v = {.server = c->peer->user};
    nghttp2_session *ng = open_session(&v);
    uint8_t bytes[4096];
    while (write_all(ng, c->fd)) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        const int ready = poll(&p, 1, 5);
        const ssize_t n = ready > 0 ? recv(c->fd, bytes, sizeof bytes, 0) : 0;
        if (ready > 0 && (n <= 0 || nghttp2_session_mem_recv(ng, bytes, (size_t)n) < 0))
            break;
        if (atomic_load(&v.server->may_answer))
            answer(&v, ng);
    }
    nghttp2_session_del(ng);
}

static struct server server;
static struct fixture f;

static void begin(bool heeds_updates)
{
    memset(&server, 0, sizeof server);
    pthread_mutex_init(&server.lock, NULL);
    server.heeds_updates = heeds_updates;
    atomic_store(&server.may_answer, true);
    peer_start(&server.peer, serve, &server);
    moor_pool_options o;
    fixture_pool_options(&o);
    o.http_version = "2";
    o.conns_max = 1;
    o.h2_streams_max = 1;
    fixture_open(&f, NULL, server.peer.url, &o);
}

static void end(void)
{
    fixture_close(&f);
    peer_stop(&server.peer);
    pthread_mutex_destroy(&server.lock);
}

static int count(const int *number)
{
    pthread_mutex_lock(&server.lock);
    const int n = *number;
    pthread_mutex_unlock(&server.lock);
    return n;
}

static void expect(const char text[TEXT_MAX], const char *wanted)
{
    char copy[TEXT_MAX];
    pthread_mutex_lock(&server.lock);
    memcpy(copy, text, TEXT_MAX);
    pthread_mutex_unlock(&server.lock);
    assert_string_equal(copy, wanted);
}

static void start(struct call *c)
{
    call_init(c, f.pool, "/");
    call_start(&f, c);
}

static void finish(struct call *c)
{
    call_wait(c);
    call_check(c);
    assert_err(c->done.fault.err, MOOR_OK);
    assert_int_equal(c->status, 204);
    call_fini(c);
}

/* Its SETTINGS have come with the first response. */
static void warm(void)
{
    struct call c;
    start(&c);
    finish(&c);
    atomic_store(&server.may_answer, false);
}

static void test_a_running_request(void **state)
{
    (void)state;
    struct call c;
    begin(true);
    warm();
    start(&c);
    eventually(count(&server.requests) == 2);
    expect(server.header, "");
    moor_http_prioritize(c.op, 0, true);
    eventually(count(&server.updates) >= 1);
    expect(server.update, "u=0, i");
    moor_http_prioritize(c.op, 99, false);
    eventually(count(&server.updates) >= 2);
    expect(server.update, "u=7");
    atomic_store(&server.may_answer, true);
    finish(&c);
    const int before = count(&server.updates);
    moor_http_prioritize(c.op, 1, false); /* stale */
    moor_http_prioritize((moor_op){0}, 1, false);
    warm();
    assert_int_equal(count(&server.updates), before);
    end();
}

static void test_a_waiting_request_is_sent_with_it(void **state)
{
    (void)state;
    struct call runs, waits;
    begin(true);
    warm();
    start(&runs);
    eventually(count(&server.requests) == 2);
    start(&waits);
    moor_http_prioritize(waits.op, 1, true);
    atomic_store(&server.may_answer, true);
    finish(&runs);
    finish(&waits);
    expect(server.header, "u=1, i");
    assert_int_equal(count(&server.updates), 0);
    end();
}

static void test_a_server_that_does_not_heed_it_hears_nothing(void **state)
{
    (void)state;
    struct call c;
    begin(false);
    warm();
    start(&c);
    eventually(count(&server.requests) == 2);
    moor_http_prioritize(c.op, 0, false);
    struct moor_slot_ *slot = c.op.slot_;
    eventually(!atomic_load(&slot->is_posted)); /* heard on the shard */
    atomic_store(&server.may_answer, true);
    finish(&c);
    assert_int_equal(count(&server.updates), 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_running_request),
        cmocka_unit_test(test_a_waiting_request_is_sent_with_it),
        cmocka_unit_test(test_a_server_that_does_not_heed_it_hears_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
