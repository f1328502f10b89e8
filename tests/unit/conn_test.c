/* A plain conn under a protocol that records: writing, refusing, both ends, failures, timeouts. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/shard.h"
#include "tests/support/count_protocol.h"

#include <mooring/mooring.h>

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

/* ---- a protocol that writes down what happens to it ---- */

static struct {
    char heard[256];
    size_t len, take_max; /* how much it takes at all; SIZE_MAX = everything */
    unsigned drained, ended, dropped;
    moor_fault fault;
    moor_err open_fails;
    bool opens_late;
} tape;

static moor_err tape_open(struct mr_conn *c)
{
    if (tape.open_fails)
        return tape.open_fails;
    if (!tape.opens_late)
        mr_conn_set_capacity(c, 1);
    return MOOR_OK;
}

static size_t tape_input(struct mr_conn *c, const struct mr_in *in)
{
    (void)c;
    size_t n = tape.take_max - tape.len;
    if (n > in->len)
        n = in->len;
    memcpy(tape.heard + tape.len, in->base, n);
    tape.len += n;
    return n;
}

static void tape_ended(struct mr_conn *c, const moor_fault *fault)
{
    (void)c;
    tape.ended++;
    tape.fault = *fault;
}

static void tape_drained(struct mr_conn *c)
{
    (void)c;
    tape.drained++;
}

static void tape_dropped(struct mr_conn *c)
{
    (void)c;
    tape.dropped++;
}

static const struct mr_protocol tape_protocol = {
    .name = "tape",
    .capacity_expected = 1,
    .open = tape_open,
    .input = tape_input,
    .ended = tape_ended,
    .drained = tape_drained,
    .dropped = tape_dropped,
};

/* ---- one shard, one claim ---- */

struct fixture {
    struct count_server server;
    moor_runtime *runtime;
    moor_shard *shard;
    moor_pool *pool;
    struct mr_berth *berth;
    struct mr_claim claim;
    struct mr_conn *conn;
    unsigned failed;
    moor_fault fault;
};

static struct fixture f;

static void granted(struct mr_claim *claim, struct mr_conn *c, bool is_reused)
{
    (void)claim;
    (void)is_reused;
    f.conn = c;
}

static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why)
{
    (void)claim;
    (void)why;
    f.failed++;
    f.fault = *fault;
}

static void turn(void)
{
    assert_int_equal(moor_shard_wait(f.shard, 1), MOOR_OK);
    count_server_look(&f.server, 0);
}

#define TURN_UNTIL(condition)                                                                      \
    for (int turns_ = 0; !(condition); turns_++) {                                                 \
        assert_true(turns_ < 5000);                                                                \
        turn();                                                                                    \
    }

static void some_turns(void)
{
    for (int i = 0; i < 20; i++)
        turn();
}

static void acquire(void)
{
    f.conn = NULL;
    f.claim = (struct mr_claim){.granted = granted, .failed = failed, .deadline_ns = MR_NEVER};
    assert_int_equal(mr_berth_acquire(f.berth, &f.claim), MOOR_OK);
}

static int begin(void **state)
{
    (void)state;
    memset(&f, 0, sizeof f);
    memset(&tape, 0, sizeof tape);
    tape.take_max = sizeof tape.heard;
    count_server_init(&f.server);
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 0;
    o.log_level = MOOR_LOG_OFF;
    assert_int_equal(moor_runtime_create(&o, &f.runtime), MOOR_OK);
    assert_int_equal(moor_shard_adopt(f.runtime, &f.shard), MOOR_OK);
    struct mr_pool_spec spec = {.name = "tape", .protocol = &tape_protocol};
    moor_pool_options_init(&spec.options);
    spec.options.conns_min_idle = 0;
    spec.options.connect_timeout_ms = 60;
    spec.options.backoff_min_ms = 10000;
    assert_int_equal(mr_pool_create(f.runtime, &spec, &f.pool), MOOR_OK);
    struct mr_upstream *u;
    assert_int_equal(mr_pool_upstream(f.pool, &(struct mr_place){.host = {"127.0.0.1", 9}, .port = f.server.port}, &u),
                     MOOR_OK);
    f.berth = mr_berth_of(u, f.shard);
    assert_non_null(f.berth);
    return 0;
}

static int end(void **state)
{
    (void)state;
    assert_int_equal(moor_pool_close(f.pool, 0), MOOR_OK);
    moor_shard_leave(f.shard);
    assert_int_equal(moor_runtime_destroy(f.runtime, 100), MOOR_OK);
    count_server_fini(&f.server);
    return 0;
}

static void lease(void)
{
    acquire();
    TURN_UNTIL(f.conn && f.server.conns);
}

/* ---- writing ---- */

static int sent_err[64];
static unsigned sent_count;

static void piece_sent(struct mr_out *o, int err)
{
    (void)o;
    sent_err[sent_count++] = err;
}

static void write_pieces(struct mr_out *pieces, const char *text)
{
    sent_count = 0;
    for (size_t i = 0; text[i]; i++) {
        pieces[i] =
            (struct mr_out){.base = (const uint8_t *)&text[i], .len = 1, .sent = piece_sent};
        assert_int_equal(mr_conn_write(f.conn, &pieces[i]), MOOR_OK);
    }
}

static void test_pieces_leave_in_order_and_together(void **state)
{
    (void)state;
    struct mr_out pieces[40];
    lease();
    const char *text = "thirty-six pieces are three messages";
    write_pieces(pieces, text);
    assert_int_equal(mr_conn_unsent(f.conn), strlen(text));
    assert_false(mr_conn_is_sending(f.conn)); /* not inside the call */
    assert_int_equal(f.conn->bytes_out, 0);
    TURN_UNTIL(tape.drained);
    assert_int_equal(sent_count, strlen(text));
    for (unsigned i = 0; i < sent_count; i++)
        assert_int_equal(sent_err[i], 0);
    assert_int_equal(tape.drained, 1);
    assert_null(f.conn->out); /* an idle conn has no queue */
    TURN_UNTIL(f.server.heard_len[0] >= strlen(text));
    assert_string_equal(f.server.heard[0], text);
}

static void test_our_fin_follows_what_is_queued(void **state)
{
    (void)state;
    struct mr_out pieces[8], late = {.base = (const uint8_t *)"x", .len = 1, .sent = piece_sent};
    char byte;
    lease();
    write_pieces(pieces, "bye");
    mr_conn_finish(f.conn);
    assert_int_equal(mr_conn_write(f.conn, &late), MOOR_ERESET);
    TURN_UNTIL(f.conn->is_finished);
    assert_int_equal(sent_count, 3);
    TURN_UNTIL(f.server.heard_len[0] == 3);
    assert_int_equal(recv(f.server.fds[0], &byte, 1, 0), 0);
    mr_berth_release(f.conn, true);
    assert_int_equal(f.berth->idle_count, 0); /* it cannot speak any more */
}

static void test_a_close_lets_go_of_pieces(void **state)
{
    (void)state;
    struct mr_out pieces[8], late = {.base = (const uint8_t *)"x", .len = 1, .sent = piece_sent};
    lease();
    write_pieces(pieces, "never");
    mr_conn_close(f.conn, "test");
    mr_conn_close(f.conn, "test");
    assert_int_equal(sent_count, 0); /* later: the kernel may still look at them */
    assert_int_equal(mr_conn_write(f.conn, &late), MOOR_ERESET);
    TURN_UNTIL(tape.dropped);
    assert_int_equal(sent_count, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(sent_err[i], ECONNRESET);
    assert_int_equal(tape.ended, 0);
    some_turns();
    assert_int_equal(tape.dropped, 1);
}

/* ---- reading ---- */

static void test_what_is_refused_comes_again(void **state)
{
    (void)state;
    lease();
    tape.take_max = 3;
    count_say(&f.server, 0, "abcdef");
    TURN_UNTIL(tape.len == 3);
    count_say(&f.server, 0, "ghi");
    some_turns();
    assert_int_equal(tape.len, 3);
    assert_true(f.conn->is_paused);
    assert_false(f.conn->sock.is_receiving);
    tape.take_max = 5;
    some_turns(); /* not by itself */
    assert_int_equal(tape.len, 3);
    mr_conn_resume(f.conn);
    assert_int_equal(tape.len, 3); /* not inside the call */
    TURN_UNTIL(tape.len == 5);
    count_hang_up(&f.server, 0, false);
    some_turns();
    assert_int_equal(tape.ended, 0); /* the end comes after the bytes before it */
    tape.take_max = sizeof tape.heard;
    mr_conn_resume(f.conn);
    TURN_UNTIL(tape.ended);
    assert_memory_equal(tape.heard, "abcdef\nghi\n", 11);
    assert_int_equal(tape.len, 11);
    assert_int_equal(tape.fault.err, MOOR_OK);
    assert_int_equal(tape.ended, 1);
    mr_berth_release(f.conn, true);
    TURN_UNTIL(tape.dropped);
}

static void test_a_reset_is_told_once(void **state)
{
    (void)state;
    lease();
    count_hang_up(&f.server, 0, true);
    TURN_UNTIL(tape.dropped);
    some_turns();
    assert_int_equal(tape.ended, 1);
    assert_int_equal(tape.dropped, 1);
    assert_int_equal(tape.fault.err, MOOR_ERESET);
    assert_int_equal(tape.fault.os_errno, ECONNRESET);
}

/* It answered and closed, with bytes of ours unread: the next send fails before what it said was read. */
static void test_what_was_said_before_a_failed_send_is_heard(void **state)
{
    (void)state;
    struct mr_out pieces[8];
    lease();
    write_pieces(pieces, "a");
    struct pollfd unread = {.fd = f.server.fds[0], .events = POLLIN};
    while (sent_count == 0 || poll(&unread, 1, 0) == 0)
        assert_int_equal(moor_shard_wait(f.shard, 1), MOOR_OK);
    count_say(&f.server, 0, "response");
    count_hang_up(&f.server, 0, false);
    write_pieces(pieces, "b");
    TURN_UNTIL(tape.dropped);
    assert_int_equal(tape.len, 9);
    assert_memory_equal(tape.heard, "response\n", 9);
    assert_int_equal(tape.ended, 1);
    assert_int_equal(tape.fault.err, MOOR_ERESET);
    assert_int_equal(sent_count, 1);
    assert_int_not_equal(sent_err[0], 0);
}

/* Nothing more is to be heard that could tell of it. */
static void test_a_failed_send_after_the_end_is_told_at_once(void **state)
{
    (void)state;
    struct mr_out pieces[8];
    lease();
    count_hang_up(&f.server, 0, false);
    TURN_UNTIL(tape.ended == 1);
    write_pieces(pieces, "a"); /* is answered with an RST */
    TURN_UNTIL(sent_count == 1);
    some_turns();
    write_pieces(pieces, "b");
    TURN_UNTIL(tape.dropped);
    assert_int_equal(tape.ended, 2);
    assert_string_equal(tape.fault.what, "send");
    assert_int_equal(tape.fault.os_errno, EPIPE);
}

static void test_bytes_between_claims_retire_a_conn(void **state)
{
    (void)state;
    lease();
    mr_berth_release(f.conn, true);
    assert_int_equal(f.berth->idle_count, 1);
    count_say(&f.server, 0, "hello?");
    TURN_UNTIL(tape.dropped);
    assert_int_equal(tape.len, 0);
    assert_int_equal(f.berth->idle_count, 0);
    assert_int_equal(atomic_load(&f.berth->local->stats.conns_retired), 1);
}

/* ---- becoming ready ---- */

static void test_a_protocol_that_cannot_open(void **state)
{
    (void)state;
    tape.open_fails = MOOR_EPROTO;
    acquire();
    TURN_UNTIL(f.failed);
    assert_int_equal(f.fault.err, MOOR_EPROTO);
    assert_string_equal(f.fault.what, "prepare connection");
    assert_int_equal(tape.ended, 0);
    TURN_UNTIL(tape.dropped);
    assert_int_equal(atomic_load(&f.berth->local->stats.dials_failed), 1);
}

static void test_the_connect_timeout_covers_preparation(void **state)
{
    (void)state;
    tape.opens_late = true;
    acquire();
    TURN_UNTIL(f.failed);
    assert_int_equal(f.fault.err, MOOR_ETIMEDOUT);
    assert_string_equal(f.fault.what, "prepare connection");
    TURN_UNTIL(tape.dropped);
}

static void test_a_server_that_ends_during_preparation(void **state)
{
    (void)state;
    tape.opens_late = true;
    acquire();
    TURN_UNTIL(f.server.conns);
    count_hang_up(&f.server, 0, false);
    TURN_UNTIL(f.failed);
    assert_int_equal(f.fault.err, MOOR_ERESET);
    TURN_UNTIL(tape.dropped);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        CASE(test_pieces_leave_in_order_and_together),
        CASE(test_our_fin_follows_what_is_queued),
        CASE(test_a_close_lets_go_of_pieces),
        CASE(test_what_is_refused_comes_again),
        CASE(test_a_reset_is_told_once),
        CASE(test_what_was_said_before_a_failed_send_is_heard),
        CASE(test_a_failed_send_after_the_end_is_told_at_once),
        CASE(test_bytes_between_claims_retire_a_conn),
        CASE(test_a_protocol_that_cannot_open),
        CASE(test_the_connect_timeout_covers_preparation),
        CASE(test_a_server_that_ends_during_preparation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
