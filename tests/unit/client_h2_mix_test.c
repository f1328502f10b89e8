/*
 * 10,000 requests of every kind over one HTTP/2 conn: downloads and uploads of random sizes, byte by byte,
 * readers that are slow, callers that cancel or abort in the middle.
 *
 * What a request is follows from the seed and its number; callbacks run on the shard, this thread returns
 * chunks and resumes bodies for those that are slow.
 */
#include "tests/support/fixture_pool.h"
#include "tests/support/seed.h"

#include <time.h>

enum { TOTAL = 10000, TOGETHER = 100, DOWN_MAX = 20000, BIG_MAX = 300000, PIECE_MAX = 9000 };
/* The server takes 1,000 resets in a row, nghttp2's bound: stay well below. */
enum { CANCELS_OF_100 = 6 };

/* Loans for this thread to give back. */
enum { SLOW_MAX = 8192, SLEEPERS_MAX = 256 };

enum kind { DOWNLOAD, SLOW_DOWNLOAD, ECHO_AT_ONCE, ECHO_IN_PIECES, CANCEL_DOWN, CANCEL_UP, ABORT };

struct mix;

struct job {
    struct mix *mix;
    unsigned number;
    enum kind kind;
    uint64_t random;  /* of this job */
    uint64_t size;    /* of the body that goes up or, without one, down */
    uint64_t stop_at; /* cancel or abort after so many bytes */
    uint64_t up, down;
    uint8_t salt; /* of the bytes that go up */
    int status;
    bool is_stopping, is_over;
    moor_op op;
    uint8_t piece[PIECE_MAX];
};

struct mix {
    uint64_t seed;
    moor_task task;
    struct job jobs[TOGETHER];
    unsigned begun, running; /* shard's */
    unsigned completed, canceled;
    atomic_uint over;
    pthread_mutex_t lock; /* over what follows */
    moor_chunk slow[SLOW_MAX];
    unsigned slow_count;
    moor_op sleepers[SLEEPERS_MAX];
    unsigned sleeper_count;
    char failure[256]; /* the first; "" = none */
};

static struct origin_process origin;

#define WRONG(job, ...)                                                                            \
    do {                                                                                           \
        char text_[160];                                                                           \
        snprintf(text_, sizeof text_, __VA_ARGS__);                                                \
        note_wrong((job), text_);                                                                  \
    } while (0)

static void note_wrong(struct job *j, const char *text)
{
    pthread_mutex_lock(&j->mix->lock);
    if (!*j->mix->failure)
        snprintf(j->mix->failure, sizeof j->mix->failure,
                 "request %u, kind %d, size %" PRIu64 ": %s", j->number, (int)j->kind, j->size,
                 text);
    pthread_mutex_unlock(&j->mix->lock);
}

/* ---- bodies ---- */

static uint8_t byte_up(const struct job *j, uint64_t at)
{
    return (uint8_t)((at ^ at >> 8) * 167 + j->salt);
}

static bool is_echo(const struct job *j)
{
    return j->kind == ECHO_AT_ONCE || j->kind == ECHO_IN_PIECES;
}

static moor_body_more give_piece(void *user, moor_piece *out)
{
    struct job *j = user;
    const uint64_t end = j->kind == CANCEL_UP || j->kind == ABORT ? j->stop_at : j->size;
    if (j->up == end && j->kind == ABORT)
        return MOOR_BODY_ABORT;
    if (j->up == end && j->kind == CANCEL_UP) {
        j->is_stopping = true;
        moor_cancel(j->op);
        return MOOR_BODY_LATER;
    }
    if (seed_below(&j->random, 4) == 0) {
        struct mix *m = j->mix;
        pthread_mutex_lock(&m->lock);
        const bool may_sleep = m->sleeper_count < SLEEPERS_MAX;
        if (may_sleep)
            m->sleepers[m->sleeper_count++] = j->op;
        pthread_mutex_unlock(&m->lock);
        if (may_sleep)
            return MOOR_BODY_LATER;
    }
    uint64_t len = 1 + seed_below(&j->random, PIECE_MAX);
    len = len < end - j->up ? len : end - j->up;
    for (uint64_t i = 0; i < len; i++)
        j->piece[i] = byte_up(j, j->up + i);
    out->bytes = (moor_span){j->piece, len};
    j->up += len;
    return j->up == j->size ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

static void check_down(struct job *j, const uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        const uint64_t n = j->down + i;
        const uint8_t wanted = is_echo(j) ? byte_up(j, n) : (uint8_t)(n % 251 * 131 % 251);
        if (at[i] != wanted) {
            WRONG(j, "byte %" PRIu64 " is %02x, not %02x", n, at[i], wanted);
            return;
        }
    }
}

/* ---- what is told ---- */

static void on_head(void *user, const moor_http_head *h)
{
    struct job *j = user;
    j->status = h->status;
    if (h->version != 20)
        WRONG(j, "version %d", h->version);
}

static void on_chunk(void *user, moor_chunk c)
{
    struct job *j = user;
    struct mix *m = j->mix;
    check_down(j, c.bytes.base, c.bytes.len);
    j->down += c.bytes.len;
    bool is_kept = false;
    if (j->kind == SLOW_DOWNLOAD) {
        pthread_mutex_lock(&m->lock);
        is_kept = m->slow_count < SLOW_MAX;
        if (is_kept)
            m->slow[m->slow_count++] = c;
        pthread_mutex_unlock(&m->lock);
    }
    if (!is_kept)
        moor_chunk_return(c);
    if (j->kind == CANCEL_DOWN && j->down >= j->stop_at && !j->is_stopping) {
        j->is_stopping = true;
        moor_cancel(j->op);
    }
}

static void start_more(struct mix *m);

static void on_done(void *user, const moor_http_done *d)
{
    struct job *j = user;
    struct mix *m = j->mix;
    const bool may_be_canceled = j->is_stopping || j->kind == ABORT;
    if (j->is_over)
        WRONG(j, "done twice");
    if (d->fault.err == MOOR_ECANCELED && may_be_canceled)
        m->canceled++;
    else if (d->fault.err)
        WRONG(j, "%s: %s", moor_err_name(d->fault.err), d->fault.what);
    else if (j->status != 200 || j->down != j->size || j->kind == ABORT)
        WRONG(j, "status %d, %" PRIu64 " bytes", j->status, j->down);
    else if (is_echo(j) && d->bytes_up != j->size)
        WRONG(j, "%" PRIu64 " bytes up", d->bytes_up);
    else
        m->completed++;
    j->is_over = true;
    m->running--;
    start_more(m);
    atomic_fetch_add(&m->over, 1); /* last: this thread ends the test at the last one */
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_done = on_done,
};

/* ---- requests ---- */

static struct fixture f;

static void draw(struct job *j)
{
    const unsigned percent = (unsigned)seed_below(&j->random, 100);
    const bool is_big = seed_below(&j->random, 50) == 0;
    j->size = seed_below(&j->random, is_big ? BIG_MAX : seed_below(&j->random, DOWN_MAX) + 1);
    j->salt = (uint8_t)seed_next(&j->random);
    if (percent < CANCELS_OF_100) {
        j->kind = CANCEL_DOWN + percent % 3;
        j->size = 20000 + seed_below(&j->random, BIG_MAX);
        j->stop_at = seed_below(&j->random, 20000);
    } else if (percent < 30) {
        j->kind = ECHO_IN_PIECES;
    } else if (percent < 45) {
        j->kind = ECHO_AT_ONCE;
        j->size %= PIECE_MAX;
    } else {
        j->kind = percent < 55 ? SLOW_DOWNLOAD : DOWNLOAD;
    }
}

static void start(struct mix *m, struct job *j)
{
    memset(j, 0, offsetof(struct job, piece));
    j->mix = m;
    j->number = m->begun++;
    j->random = m->seed + j->number * UINT64_C(0x9e3779b97f4a7c15);
    draw(j);
    char url[64];
    moor_http_request r;
    moor_http_request_init(&r);
    r.url = url;
    r.urgency = (uint32_t)seed_below(&j->random, 8);
    r.incremental = seed_below(&j->random, 2);
    snprintf(url, sizeof url, "/echo");
    if (j->kind == ECHO_AT_ONCE) {
        for (uint64_t i = 0; i < j->size; i++)
            j->piece[i] = byte_up(j, i);
        r.method = "POST";
        r.body = (moor_span){j->piece, j->size};
    } else if (j->kind == ECHO_IN_PIECES || j->kind == CANCEL_UP || j->kind == ABORT) {
        r.body_cb = give_piece;
        r.body_length = seed_below(&j->random, 2) ? MOOR_LENGTH_UNKNOWN : j->size;
    } else {
        snprintf(url, sizeof url, "/bytes/%" PRIu64, j->size);
    }
    m->running++;
    const moor_err e = moor_http_send(f.pool, &r, &handlers, j, &j->op);
    if (e)
        WRONG(j, "not sent: %s", moor_err_name(e));
    else if (j->kind == CANCEL_DOWN && j->stop_at % 4 == 0) { /* before a byte of it was sent */
        j->is_stopping = true;
        moor_cancel(j->op);
    }
}

static void start_more(struct mix *m)
{
    for (unsigned i = 0; i < TOGETHER && m->begun < TOTAL && m->running < TOGETHER; i++)
        if (!m->jobs[i].mix || m->jobs[i].is_over)
            start(m, &m->jobs[i]);
}

static void run(void *user)
{
    start_more(user);
}

/* ---- this thread ---- */

/* Half of what is held, and all who sleep. */
static void serve_slow(struct mix *m)
{
    moor_chunk chunks[SLOW_MAX / 2];
    moor_op sleepers[SLEEPERS_MAX];
    pthread_mutex_lock(&m->lock);
    const unsigned n = (m->slow_count + 1) / 2, sleeping = m->sleeper_count;
    memcpy(chunks, m->slow, n * sizeof *chunks);
    m->slow_count -= n;
    memmove(m->slow, m->slow + n, m->slow_count * sizeof *chunks);
    memcpy(sleepers, m->sleepers, sleeping * sizeof *sleepers);
    m->sleeper_count = 0;
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < n; i++)
        moor_chunk_return(chunks[i]);
    for (unsigned i = 0; i < sleeping; i++)
        moor_body_resume(sleepers[i]);
}

static bool has_failed(struct mix *m)
{
    pthread_mutex_lock(&m->lock);
    const bool has = *m->failure;
    pthread_mutex_unlock(&m->lock);
    return has;
}

static void test_a_mix_on_one_conn(void **state)
{
    (void)state;
    static struct mix m;
    moor_pool_options po;
    fixture_pool_options(&po);
    po.http_version = "2";
    po.conns_max = 1;
    fixture_open(&f, NULL, origin.url, &po);
    memset(&m, 0, sizeof m);
    m.seed = seed_start();
    pthread_mutex_init(&m.lock, NULL);
    m.task = (moor_task){.run = run, .user = &m};
    assert_err(moor_post(moor_shard_at(f.runtime, 0), &m.task), MOOR_OK);
    unsigned before = 0;
    for (int64_t since = fixture_now_ms(); before < TOTAL && !has_failed(&m);) {
        serve_slow(&m);
        peer_sleep_ms(1);
        const unsigned now = atomic_load(&m.over);
        if (now != before)
            since = fixture_now_ms();
        before = now;
        if (fixture_now_ms() - since > 30000)
            fail_msg("stuck after %u requests, seed 0x%" PRIx64, now, m.seed);
    }
    if (*m.failure)
        fail_msg("%s; seed 0x%" PRIx64, m.failure, m.seed);
    for (int i = 0; i < 16; i++)
        serve_slow(&m);
    eventually(fixture_stats(&f).requests == TOTAL);
    const moor_stats s = fixture_stats(&f);
    assert_int_equal(m.completed + m.canceled, TOTAL);
    assert_true(m.canceled > TOTAL / 100);
    assert_int_equal(s.conns_created, 1);
    assert_int_equal(s.requests_failed, m.canceled);
    assert_int_equal(s.replays, 0);
    eventually(fixture_stats(&f).chunks_lent == 0);
    struct call c;
    call_init(&c, f.pool, "/bytes/1"); /* it still serves */
    call_expect(&f, &c, MOOR_OK);
    call_fini(&c);
    assert_int_equal(fixture_stats(&f).conns_created, 1);
    fixture_close(&f);
    pthread_mutex_destroy(&m.lock);
}

static int start_origin(void **state)
{
    (void)state;
    origin_start(&origin);
    return 0;
}

static int stop_origin(void **state)
{
    (void)state;
    origin_stop(&origin);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_mix_on_one_conn)};
    return cmocka_run_group_tests(tests, start_origin, stop_origin);
}
