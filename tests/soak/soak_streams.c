/*
 * Byte streams: threads that send, read back what they sent, keep some chunks for later, and leave some
 * streams in the middle; a server of another process, which mostly echoes. Each checks every byte it gets.
 */
#include "tests/soak/soak.h"

#include "tests/support/stream_server.h"

#include <mooring/stats.h>

#include <signal.h>
#include <sys/prctl.h>

enum { WORKERS = 2, SEND_MAX = 20000, KEPT_MAX = 4 };

struct worker {
    struct soak_streams *t;
    pthread_t thread;
    uint64_t seed;
    moor_chunk kept[KEPT_MAX];
    unsigned kept_count;
    uint64_t turns;
    char bytes[SEND_MAX];
};

struct soak_streams {
    struct soak *s;
    moor_pool *pool;
    struct worker workers[WORKERS];
    _Atomic(uint64_t) acquired, released, echoed, broken;
};

/* ---- the server ---- */

static void serve(int to_parent)
{
    uint64_t seed = 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct stream_server *server = stream_server_start();
    if (write(to_parent, server->url, sizeof server->url) != sizeof server->url)
        _exit(1);
    close(to_parent);
    while (getppid() != 1) {
        static const int modes[] = {STREAM_RESET, STREAM_GOODBYE, STREAM_SILENT};
        soak_sleep_us(100000);
        atomic_store(&server->mode, modes[seed_below(&seed, 3)]);
        soak_sleep_us(1000);
        atomic_store(&server->mode, STREAM_ECHO);
    }
    _exit(0);
}

const char *soak_stream_server(void)
{
    static char url[sizeof((struct stream_server *)NULL)->url];
    int ends[2];
    if (pipe(ends))
        return NULL;
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        serve(ends[1]);
    }
    close(ends[1]);
    const bool is_there = child > 0 && read(ends[0], url, sizeof url) == sizeof url;
    close(ends[0]);
    return is_there ? url : NULL;
}

/* ---- who uses streams ---- */

static void give_back_chunks(struct worker *w)
{
    while (w->kept_count)
        moor_chunk_return(w->kept[--w->kept_count]);
}

static void keep_or_return(struct worker *w, moor_chunk c)
{
    if (w->t->s->leak == LEAK_CHUNK && seed_below(&w->seed, 64) == 0)
        return;
    if (seed_below(&w->seed, 8) == 0 && w->kept_count < KEPT_MAX)
        w->kept[w->kept_count++] = c;
    else
        moor_chunk_return(c);
}

/* False: the stream is broken, or was left on purpose. */
static bool read_back(struct worker *w, moor_lease lease, size_t len)
{
    size_t at = 0;
    while (at < len) {
        moor_chunk c;
        if (seed_below(&w->seed, 100) == 0)
            return false; /* the rest comes when nobody wants it */
        const moor_err e = moor_stream_read_wait(lease, 50, &c);
        if (e == MOOR_ERESET || e == MOOR_ETIMEDOUT)
            return false;
        if (e) {
            soak_complain("a read failed with %s", moor_err_name(e));
            return false;
        }
        const size_t got = c.bytes.len;
        /* A server that greets or says goodbye does not echo: those streams are not looked at. */
        const bool is_echo = got <= len - at && !memcmp(c.bytes.base, w->bytes + at, got);
        const bool is_greeting = at == 0 && got >= 5 && !memcmp(c.bytes.base, "hello", 5);
        if (got)
            keep_or_return(w, c);
        else
            moor_chunk_return(c);
        if (got == 0 || is_greeting)
            return false;
        if (!is_echo) {
            soak_complain("%zu bytes at %zu are not those that were sent", got, at);
            return false;
        }
        at += got;
    }
    return true;
}

/* What was left in the middle has an answer on its way, which no next holder may get. */
static moor_release_how use(struct worker *w, moor_lease lease)
{
    const size_t len = 1 + seed_below(&w->seed, seed_below(&w->seed, 4) ? 500 : SEND_MAX);
    const size_t offset = seed_below(&w->seed, SEND_MAX - len + 1);
    memmove(w->bytes, w->bytes + offset, len);
    for (size_t i = 0; i < len; i += 61)
        w->bytes[i] = (char)('A' + seed_below(&w->seed, 26)); /* never a greeting */
    const moor_err e = moor_stream_send_wait(lease, (moor_span){w->bytes, len}, 50);
    if (e && e != MOOR_ERESET && e != MOOR_ETIMEDOUT)
        soak_complain("a send failed with %s", moor_err_name(e));
    const bool is_echoed = !e && read_back(w, lease, len);
    atomic_fetch_add(is_echoed ? &w->t->echoed : &w->t->broken, 1);
    return is_echoed && seed_below(&w->seed, 10) ? MOOR_REUSE : MOOR_DISCARD;
}

static void turn(struct worker *w)
{
    struct soak_streams *t = w->t;
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    o.timeout_ms = (moor_ms)seed_below(&w->seed, 100);
    moor_acquired got = {.size = sizeof got};
    const moor_err e = moor_acquire_wait(t->pool, &o, &got);
    if (!e) {
        atomic_fetch_add(&t->acquired, 1);
        const moor_release_how how = use(w, got.lease);
        atomic_fetch_add(&t->released, 1);
        moor_release(got.lease, how);
    } else if (e != MOOR_ETIMEDOUT && e != MOOR_ECONNECT && e != MOOR_ERESET) {
        soak_complain("an acquire of a stream failed with %s", moor_err_name(e));
    }
    if (seed_below(&w->seed, 4) == 0)
        give_back_chunks(w);
    if (seed_below(&w->seed, 200) == 0)
        moor_pool_flush(t->pool);
    soak_sleep_us(seed_below(&w->seed, 1000));
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (size_t i = 0; i < SEND_MAX; i++)
        w->bytes[i] = (char)('A' + seed_below(&w->seed, 26));
    for (; !atomic_load(&w->t->s->is_over); w->turns++)
        turn(w);
    give_back_chunks(w);
    return NULL;
}

/* ---- begin and end ---- */

struct soak_streams *soak_streams_start(struct soak *s, const char *url)
{
    struct soak_streams *t = calloc(1, sizeof *t);
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.name = "streams";
    o.conns_max = 4;
    o.conns_min_idle = 1;
    o.uses_max = 50;
    o.lifetime_max_ms = 500;
    o.backoff_min_ms = 1;
    o.backoff_max_ms = 5;
    if (!t || moor_pool_open(s->runtime, url, &o, &t->pool))
        abort();
    t->s = s;
    for (uint64_t i = 0; i < WORKERS; i++) {
        t->workers[i].t = t;
        t->workers[i].seed = s->seed + 100 + i;
        if (pthread_create(&t->workers[i].thread, NULL, work, &t->workers[i]))
            abort();
    }
    return t;
}

void soak_streams_end(struct soak_streams *t)
{
    moor_stats s;
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(t->workers[i].thread, NULL);
        if (!t->workers[i].turns)
            soak_complain("a thread never had its turn");
    }
    printf("streams: %" PRIu64 " acquired, %" PRIu64 " echoed, %" PRIu64 " left or broken\n",
           t->acquired, t->echoed, t->broken);
    if (!t->echoed)
        soak_complain("streams: nothing was echoed");
    soak_check_counts(t->s, "streams", t->pool, t->acquired, t->released);
    moor_stats_read(t->pool, &s);
    if (s.chunks_lent)
        soak_complain("streams: %" PRIu64 " chunks are lent", s.chunks_lent);
    if (moor_pool_close(t->pool, soak_patience_ms(t->s))) {
        soak_complain("streams: something is out when the pool is closed");
        return;
    }
    free(t);
}
