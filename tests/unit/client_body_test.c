/*
 * Request bodies: fixed, streamed, paused, given up, announced wrongly, and asked for with
 * "Expect: 100-continue".
 */
#include "tests/support/fixture_pool.h"

#include <sys/socket.h>

static struct origin_process origin;
static struct fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_open(&f, NULL, origin.url, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_close(&f);
    return 0;
}

/* ---- a body source that plays steps ---- */

enum { PATTERN_MAX = 1 << 20 };
static uint8_t pattern[PATTERN_MAX + 251];

struct step {
    moor_body_more more;
    size_t len;
};

struct source {
    const struct step *steps;
    int at;
    uint64_t given;
    atomic_int asked, pieces, let_go; /* calls; pieces handed out; sent() of them */
};

static void piece_sent(void *ctx)
{
    atomic_fetch_add(&((struct source *)ctx)->let_go, 1);
}

static moor_body_more next_piece(void *user, moor_piece *out)
{
    struct source *s = ((struct call *)user)->user;
    const struct step step = s->steps[s->at++];
    atomic_fetch_add(&s->asked, 1);
    if (step.more == MOOR_BODY_MORE || step.more == MOOR_BODY_LAST) {
        *out = (moor_piece){{pattern + s->given % 251, step.len}, piece_sent, s};
        s->given += step.len;
        atomic_fetch_add(&s->pieces, 1);
    }
    return step.more;
}

static void upload(struct call *c, struct source *s, const struct step *steps, const char *url,
                   uint64_t length)
{
    memset(s, 0, sizeof *s);
    s->steps = steps;
    call_init(c, f.pool, url);
    c->user = s;
    c->request.body_cb = next_piece;
    c->request.body_length = length;
}

static void expect_sunk(struct call *c, const struct source *s)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, "{\"bytes\":%llu,\"matches\":true}\n",
             (unsigned long long)s->given);
    assert_string_equal(c->text, wanted);
    assert_int_equal(c->done.bytes_up, s->given);
    assert_int_equal(s->let_go, s->pieces);
    call_fini(c);
}

/* ---- fixed ---- */

static void test_a_fixed_body(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/sink");
    uint8_t bytes[3000];
    memcpy(bytes, pattern, sizeof bytes);
    c.request.body = (moor_span){bytes, sizeof bytes};
    call_start(&f, &c);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_OK);
    assert_string_equal(c.text, "{\"bytes\":3000,\"matches\":true}\n");
    assert_int_equal(c.done.bytes_up, 3000);
    call_fini(&c);
    call_init(&c, f.pool, "/echo");
    c.request.body = (moor_span){"small", 5};
    call_expect(&f, &c, MOOR_OK);
    assert_string_equal(c.text, "small");
    call_fini(&c);
}

static void test_a_fixed_body_is_copied(void **state)
{
    (void)state;
    char url[] = "/echo", method[] = "PUT", body[] = "before", name[] = "X-A", value[] = "1";
    const moor_header h = {{name, 3}, {value, 1}};
    struct call c;
    call_init(&c, f.pool, url);
    c.request.method = method;
    c.request.headers = &h;
    c.request.header_count = 1;
    c.request.body = (moor_span){body, 6};
    call_start(&f, &c);
    memset(body, 'x', 6);
    memset(url, '?', 5);
    memset(method, '?', 3);
    memset(name, '\n', 3);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_OK);
    assert_string_equal(c.text, "before");
    call_fini(&c);
}

static void test_method_and_length_by_default(void **state)
{
    (void)state;
    struct call c;
    call_init(&c, f.pool, "/headers");
    c.request.method = "POST";
    call_expect(&f, &c, MOOR_OK);
    assert_non_null(strstr(c.text, "Content-Length: 0"));
    call_fini(&c);
    call_init(&c, f.pool, "/headers");
    call_expect(&f, &c, MOOR_OK);
    assert_null(strstr(c.text, "Content-Length"));
    call_fini(&c);
}

/* ---- streamed ---- */

static void test_a_streamed_body_of_known_length(void **state)
{
    (void)state;
    static const struct step steps[] = {
        {MOOR_BODY_MORE, 1}, {MOOR_BODY_MORE, 0}, {MOOR_BODY_MORE, 100000}, {MOOR_BODY_LAST, 5}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", 100006);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    static const struct step ends_empty[] = {{MOOR_BODY_MORE, 10}, {MOOR_BODY_LAST, 0}};
    upload(&c, &s, ends_empty, "/sink", 10);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    static const struct step empty[] = {{MOOR_BODY_LAST, 0}};
    upload(&c, &s, empty, "/sink", 0);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_a_chunked_body(void **state)
{
    (void)state;
    static const struct step steps[] = {
        {MOOR_BODY_MORE, 1}, {MOOR_BODY_MORE, 0}, {MOOR_BODY_MORE, 70000}, {MOOR_BODY_LAST, 3}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", MOOR_LENGTH_UNKNOWN);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    static const struct step ends_empty[] = {{MOOR_BODY_MORE, 10}, {MOOR_BODY_LAST, 0}};
    upload(&c, &s, ends_empty, "/sink", MOOR_LENGTH_UNKNOWN);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    static const struct step empty[] = {{MOOR_BODY_LAST, 0}};
    upload(&c, &s, empty, "/sink", MOOR_LENGTH_UNKNOWN);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
}

static void test_ten_megabytes_up(void **state)
{
    (void)state;
    static struct step steps[10];
    for (int i = 0; i < 10; i++)
        steps[i] = (struct step){i < 9 ? MOOR_BODY_MORE : MOOR_BODY_LAST, 1 << 20};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", 10 << 20);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
    upload(&c, &s, steps, "/sink", MOOR_LENGTH_UNKNOWN);
    call_expect(&f, &c, MOOR_OK);
    expect_sunk(&c, &s);
}

static void test_later_and_resume_from_another_thread(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_LATER, 0},
                                        {MOOR_BODY_MORE, 100},
                                        {MOOR_BODY_LATER, 0},
                                        {MOOR_BODY_LATER, 0},
                                        {MOOR_BODY_LAST, 100}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", MOOR_LENGTH_UNKNOWN);
    call_start(&f, &c);
    static const int asked_then[] = {1, 3, 4};
    for (int i = 0; i < 3; i++) {
        eventually(atomic_load(&s.asked) == asked_then[i]);
        peer_sleep_ms(20);
        assert_int_equal(atomic_load(&s.asked), asked_then[i]);
        moor_body_resume(c.op);
    }
    call_wait(&c);
    moor_body_resume(c.op); /* stale */
    call_check(&c);
    expect_sunk(&c, &s);
}

static void test_the_source_gives_up(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_MORE, 100}, {MOOR_BODY_ABORT, 0}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", MOOR_LENGTH_UNKNOWN);
    call_expect(&f, &c, MOOR_ECANCELED);
    assert_false(c.done.fault.safe_to_retry);
    assert_int_equal(s.let_go, s.pieces);
    call_fini(&c);
    eventually(fixture_stats(&f).conns_open == 0);
}

static void test_too_long_and_too_short(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_MORE, 100}, {MOOR_BODY_LAST, 100}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", 150);
    call_expect(&f, &c, MOOR_EINVAL);
    assert_string_equal(c.done.fault.what, "the body is longer than body_length");
    assert_int_equal(s.let_go, 2);
    call_fini(&c);
    upload(&c, &s, steps, "/sink", 250);
    call_expect(&f, &c, MOOR_EINVAL);
    assert_string_equal(c.done.fault.what, "the body is shorter than body_length");
    assert_int_equal(s.let_go, 2);
    call_fini(&c);
}

static void test_cancel_while_paused(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_MORE, 100}, {MOOR_BODY_LATER, 0}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", 1000);
    call_start(&f, &c);
    eventually(atomic_load(&s.asked) == 2);
    moor_cancel(c.op);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_ECANCELED);
    assert_int_equal(s.let_go, 1);
    call_check(&c);
    call_fini(&c);
}

static void reset_after_head(struct peer_conn *c)
{
    if (peer_head(c) && peer_body(c, 100))
        peer_reset(c);
}

static void test_every_piece_is_let_go_when_the_peer_resets(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, reset_after_head, NULL);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    static struct step steps[64];
    for (int i = 0; i < 64; i++)
        steps[i] = (struct step){i < 63 ? MOOR_BODY_MORE : MOOR_BODY_LAST, 1 << 20};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/", MOOR_LENGTH_UNKNOWN);
    c.pool = p;
    call_expect(&f, &c, MOOR_ERESET);
    assert_false(c.done.fault.safe_to_retry);
    assert_int_equal(c.done.replays, 0);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    assert_int_equal(s.let_go, s.pieces);
    peer_stop(&peer);
}

static void test_an_answer_before_the_body_was_sent(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_MORE, 100}, {MOOR_BODY_LATER, 0}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/bad/early", 1000);
    call_expect(&f, &c, MOOR_OK);
    assert_int_equal(c.status, 413);
    assert_int_equal(s.let_go, 1);
    call_fini(&c);
    eventually(fixture_stats(&f).conns_open == 0); /* what is left would be read as a request */
}

/* ---- Expect: 100-continue ---- */

static void say_continue(struct peer_conn *c)
{
    if (!peer_head(c) || !strstr(c->head, "Expect: 100-continue\r\n"))
        return;
    peer_sleep_ms(100);
    char none;
    if (recv(c->fd, &none, 1, MSG_DONTWAIT | MSG_PEEK) == 1)
        return; /* the body did not wait */
    if (peer_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25) && peer_body(c, 200))
        peer_say(c, PEER_OK);
    peer_linger(c);
}

static void say_no(struct peer_conn *c)
{
    if (peer_head(c))
        peer_say(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    c->body_len = peer_linger(c);
    atomic_fetch_add((atomic_int *)c->peer->user, (int)c->body_len);
}

static void say_nothing_until_the_body(struct peer_conn *c)
{
    if (peer_head(c) && peer_body(c, 200))
        peer_say(c, PEER_OK);
    peer_linger(c);
}

static const struct step two_hundred[] = {{MOOR_BODY_MORE, 100}, {MOOR_BODY_LAST, 100}};

static void with_expect(peer_fn serve, void *user, moor_ms patience,
                        void (*check)(struct call *c, struct source *s))
{
    struct peer peer;
    peer_start(&peer, serve, user);
    moor_pool_options po;
    fixture_pool_options(&po);
    po.expect_continue_timeout_ms = patience;
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, &po, &p), MOOR_OK);
    struct call c;
    struct source s;
    upload(&c, &s, two_hundred, "/", 200);
    c.pool = p;
    c.request.expect_continue = true;
    call_expect(&f, &c, MOOR_OK);
    check(&c, &s);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

static void check_continued(struct call *c, struct source *s)
{
    assert_string_equal(c->events, "ihcd");
    assert_string_equal(c->text, "ok");
    assert_int_equal(s->let_go, 2);
}

static void test_expect_and_continue(void **state)
{
    (void)state;
    with_expect(say_continue, NULL, 10000, check_continued);
}

static void check_refused(struct call *c, struct source *s)
{
    assert_int_equal(c->status, 417);
    assert_int_equal(s->asked, 0);
    assert_int_equal(c->done.bytes_up, 0);
}

static void test_expect_and_a_final_answer(void **state)
{
    (void)state;
    atomic_int body_bytes = 0;
    with_expect(say_no, &body_bytes, 10000, check_refused);
    assert_int_equal(body_bytes, 0);
}

static void check_silence(struct call *c, struct source *s)
{
    assert_string_equal(c->events, "hcd");
    assert_int_equal(s->let_go, 2);
    assert_true(c->done.total >= 150 * 1000000LL);
}

static void test_expect_and_silence(void **state)
{
    (void)state;
    with_expect(say_nothing_until_the_body, NULL, 150, check_silence);
}

/* ---- bodies and the first byte's timeout ---- */

static void continue_then_drip(struct peer_conn *c)
{
    if (!peer_head(c) || !peer_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25) || !peer_body(c, 200))
        return;
    peer_say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    peer_sleep_ms(400);
    peer_send(c, "k", 1);
    peer_linger(c);
}

static void test_the_first_byte_after_continue_ends_its_timeout(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, continue_then_drip, NULL);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    struct call c;
    struct source s;
    upload(&c, &s, two_hundred, "/", 200);
    c.pool = p;
    c.request.expect_continue = true;
    c.request.first_byte_timeout_ms = 200;
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

static void test_a_slow_upload_is_not_a_slow_answer(void **state)
{
    (void)state;
    static const struct step steps[] = {{MOOR_BODY_LATER, 0}, {MOOR_BODY_LAST, 10}};
    struct call c;
    struct source s;
    upload(&c, &s, steps, "/sink", 10);
    c.request.first_byte_timeout_ms = 150;
    call_start(&f, &c);
    peer_sleep_ms(400);
    moor_body_resume(c.op);
    call_wait(&c);
    assert_err(c.done.fault.err, MOOR_OK);
    expect_sunk(&c, &s);
}

static void test_silence_after_an_upload_is_a_timeout(void **state)
{
    (void)state;
    struct call c;
    struct source s;
    upload(&c, &s, two_hundred, "/bad/stall-head", 200);
    c.request.first_byte_timeout_ms = 150;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_string_equal(c.done.fault.what, "wait for the response's first byte");
    assert_int_equal(s.let_go, 2);
    call_fini(&c);
    static const struct step ends_empty[] = {{MOOR_BODY_MORE, 10}, {MOOR_BODY_LAST, 0}};
    upload(&c, &s, ends_empty, "/bad/stall-head", 10);
    c.request.first_byte_timeout_ms = 150;
    c.request.timeout_ms = 5000;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_string_equal(c.done.fault.what, "wait for the response's first byte");
    call_fini(&c);
}

static void continue_then_nothing(struct peer_conn *c)
{
    if (peer_head(c) && peer_send(c, "HTTP/1.1 100 Continue\r\n\r\n", 25))
        peer_linger(c);
}

static void test_silence_after_continue_is_a_timeout(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, continue_then_nothing, NULL);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    struct call c;
    struct source s;
    upload(&c, &s, two_hundred, "/", 200);
    c.pool = p;
    c.request.expect_continue = true;
    c.request.first_byte_timeout_ms = 100;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

static void hint_then_nothing(struct peer_conn *c)
{
    if (peer_head(c) && peer_say(c, "HTTP/1.1 103 Early Hints\r\n\r\n"))
        peer_linger(c);
}

static void test_silence_after_an_interim_response_is_a_timeout(void **state)
{
    (void)state;
    struct peer peer;
    peer_start(&peer, hint_then_nothing, NULL);
    moor_pool *p = NULL;
    assert_err(moor_pool_open(f.runtime, peer.url, NULL, &p), MOOR_OK);
    struct call c;
    call_init(&c, p, "/");
    c.request.first_byte_timeout_ms = 100;
    c.request.timeout_ms = 5000;
    call_expect(&f, &c, MOOR_ETIMEDOUT);
    assert_string_equal(c.done.fault.what, "wait for the response's first byte");
    call_fini(&c);
    assert_err(moor_pool_close(p, 5000), MOOR_OK);
    peer_stop(&peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        T(a_fixed_body),
        T(a_fixed_body_is_copied),
        T(method_and_length_by_default),
        T(a_streamed_body_of_known_length),
        T(a_chunked_body),
        T(ten_megabytes_up),
        T(later_and_resume_from_another_thread),
        T(the_source_gives_up),
        T(too_long_and_too_short),
        T(cancel_while_paused),
        T(every_piece_is_let_go_when_the_peer_resets),
        T(an_answer_before_the_body_was_sent),
        T(expect_and_continue),
        T(expect_and_a_final_answer),
        T(expect_and_silence),
        T(the_first_byte_after_continue_ends_its_timeout),
        T(silence_after_an_interim_response_is_a_timeout),
        T(a_slow_upload_is_not_a_slow_answer),
        T(silence_after_an_upload_is_a_timeout),
        T(silence_after_continue_is_a_timeout),
#undef T
    };
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i % 251 * 131 % 251);
    origin_start(&origin);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    origin_stop(&origin);
    return failed;
}
