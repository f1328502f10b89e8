/*
 * Ours, lean: one shard on the public API, the next request submitted from on_done. What a service built
 * on the library pays, without the histograms of the program mooring.
 * The shard is the one thread, adopted; with -l a thread of the library's, and main waits.
 */
#include "client.h"

#include <mooring/mooring.h>

#include <semaphore.h>

enum { PATIENCE_MS = 100 };

/* A reader that stops once its windows have grown; of mooring-origin. */
#define BESIDE_PATH "/bytes/1000000000000"
enum {
    BESIDE_MAX = 100,
    READ_FIRST = 16 << 20,
    HELD_MAX = 4096,
    STANDS_MS = 20,
    STANDS_TURNS = 10
};
struct beside {
    uint64_t bytes;
    moor_op op;
    moor_chunk held[HELD_MAX];
    unsigned count;
    bool is_over;
};

struct client {
    moor_pool *pool;
    moor_http_request request;
    uint64_t left; /* requests still to be made */
    unsigned in_flight;
    int version; /* of HTTP that is right, as moor_http_head has it */
    moor_task task;
    unsigned conc;
    double until; /* with -l */
    sem_t over;   /* the same */
    struct load_result result;
};

static void submit(struct client *c);

static void on_head(void *user, const moor_http_head *head)
{
    struct client *c = user;
    if (head->status != 200 || head->version != c->version)
        c->result.errors++;
}

static void on_chunk(void *user, moor_chunk chunk)
{
    struct client *c = user;
    c->result.bytes += chunk.bytes.len;
    moor_chunk_return(chunk);
}

static void on_done(void *user, const moor_http_done *done)
{
    struct client *c = user;
    c->in_flight--;
    if (done->fault.err == MOOR_OK)
        c->result.requests++;
    else if (c->result.errors++ == 0)
        fprintf(stderr, "%s: %s\n", moor_err_name(done->fault.err), done->fault.what);
    if (c->until > 0 && (c->result.requests & 63) == 0 && load_clock() >= c->until)
        c->left = 0;
    submit(c);
    if (c->until > 0 && c->in_flight == 0)
        sem_post(&c->over);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_head = on_head, .on_chunk = on_chunk, .on_done = on_done};

static void submit(struct client *c)
{
    if (c->left == 0)
        return;
    c->left--;
    const moor_err e = moor_http_send(c->pool, &c->request, &handlers, c, NULL);
    if (e == MOOR_OK) {
        c->in_flight++;
        return;
    }
    if (c->result.errors++ == 0)
        fprintf(stderr, "refused: %s\n", moor_err_text(e));
}

/* ---- readers that have stopped ---- */

static void beside_chunk(void *user, moor_chunk chunk)
{
    struct beside *b = user;
    b->bytes += chunk.bytes.len;
    if (b->bytes > READ_FIRST && b->count < HELD_MAX)
        b->held[b->count++] = chunk;
    else
        moor_chunk_return(chunk);
}

static void beside_done(void *user, const moor_http_done *done)
{
    struct beside *b = user;
    (void)done;
    b->is_over = true;
}

static const moor_http_handlers beside_handlers = {
    .size = sizeof beside_handlers, .on_chunk = beside_chunk, .on_done = beside_done};

/* Until nothing more comes to it. False: it ended. */
static bool wait_until_stands(struct beside *b, moor_shard *shard)
{
    uint64_t before = 0;
    for (int turns = 0; turns < STANDS_TURNS; turns++) {
        if (moor_shard_wait(shard, STANDS_MS) != MOOR_OK || b->is_over)
            return false;
        if (b->bytes != before || b->bytes <= READ_FIRST)
            turns = 0;
        before = b->bytes;
    }
    return true;
}

static bool stop_beside(struct client *c, struct beside *all, unsigned count, moor_shard *shard)
{
    moor_http_request r = c->request;
    r.url = BESIDE_PATH;
    for (unsigned i = 0; i < count; i++)
        if (moor_http_send(c->pool, &r, &beside_handlers, &all[i], &all[i].op) != MOOR_OK ||
            !wait_until_stands(&all[i], shard)) {
            fprintf(stderr, "a reader to be stopped was not served\n");
            return false;
        }
    return true;
}

/* Returns what they held. */
static uint64_t end_beside(struct beside *all, unsigned count, moor_shard *shard)
{
    uint64_t held = 0;
    for (unsigned i = 0; i < count; i++) {
        moor_cancel(all[i].op);
        for (unsigned j = 0; j < all[i].count; j++) {
            held += all[i].held[j].bytes.len;
            moor_chunk_return(all[i].held[j]);
        }
        while (!all[i].is_over && moor_shard_wait(shard, PATIENCE_MS) == MOOR_OK)
            ;
    }
    return held;
}

/* ---- the load ---- */

static moor_err work(struct client *c, const struct load_job *job, moor_shard *shard)
{
    const double start = load_clock();
    moor_err e = MOOR_OK;
    for (unsigned i = 0; i < job->conc; i++)
        submit(c);
    while (c->in_flight > 0 && e == MOOR_OK) {
        e = moor_shard_wait(shard, PATIENCE_MS);
        if (c->left && load_clock() - start >= job->seconds)
            c->left = 0;
    }
    c->result.seconds = load_clock() - start;
    return e;
}

static void begin(void *user)
{
    struct client *c = user;
    for (unsigned i = 0; i < c->conc; i++)
        submit(c);
    if (c->in_flight == 0)
        sem_post(&c->over);
}

/* On the library's thread; the shard is its first. */
static moor_err work_there(struct client *c, const struct load_job *job, moor_runtime *runtime)
{
    const double start = load_clock();
    c->conc = job->conc;
    c->until = start + job->seconds;
    sem_init(&c->over, 0, 0);
    c->task = (moor_task){.run = begin, .user = c};
    const moor_err e = moor_post(moor_shard_at(runtime, 0), &c->task);
    if (e == MOOR_OK)
        sem_wait(&c->over);
    c->result.seconds = load_clock() - start;
    return e;
}

static int run(const struct load_job *job, moor_runtime *runtime, moor_shard *shard)
{
    struct client c = {.left = job->requests, .version = job->is_h2 ? 20 : 11};
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = job->is_h2 ? 1 : job->conc;
    o.http_version = job->is_h2 ? "2" : "1.1";
    o.h2_streams_max = job->conc + job->beside;
    o.conns_min_idle = 0;
    o.tls_ca = job->tls.roots;
    o.tls_server_name = job->tls.name;
    moor_err e = moor_pool_open(runtime, job->origin, &o, &c.pool);
    if (e != MOOR_OK) {
        fprintf(stderr, "pool: %s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? 77 : 1;
    }
    moor_http_request_init(&c.request);
    c.request.url = job->path;
    static struct beside beside[BESIDE_MAX], passing;
    if (job->has_beside) { /* the windows have grown, whether one holds on to them or not */
        if (!stop_beside(&c, &passing, 1, shard))
            return 1;
        (void)end_beside(&passing, 1, shard);
        if (!stop_beside(&c, beside, job->beside, shard))
            return 1;
        load_begin(&c.result, 0);
    }
    e = shard ? work(&c, job, shard) : work_there(&c, job, runtime);
    const uint64_t held = end_beside(beside, job->beside, shard);
    moor_stats pool = {.size = sizeof pool};
    moor_stats_read(c.pool, &pool);
    if (e == MOOR_OK)
        e = moor_pool_close(c.pool, 1000);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return 1;
    }
    char more[256];
    moor_runtime_stats s = {.size = sizeof s};
    moor_runtime_stats_read(runtime, &s);
    snprintf(more, sizeof more,
             ",\"backend\":\"%s\",\"turns\":%llu,\"enters\":%llu,\"other_syscalls\":%llu"
             ",\"conns\":%llu,\"held\":%llu",
             moor_runtime_backend(runtime), (unsigned long long)s.turns,
             (unsigned long long)s.enters, (unsigned long long)s.syscalls,
             (unsigned long long)pool.conns_created, (unsigned long long)held);
    return load_report(&c.result, more);
}

int main(int argc, char **argv)
{
    struct load_job job;
    moor_runtime_options o;
    moor_runtime *runtime = NULL;
    moor_shard *shard = NULL;
    if (!load_job_read(argc, argv, moor_build_info(), &job))
        return 2;
    if (job.is_threaded && job.has_beside) {
        fprintf(stderr, "-z needs the thread of main: not with -l\n");
        return 2;
    }
    moor_runtime_options_init(&o);
    if (moor_runtime_options_from_env(&o, NULL, 0) != MOOR_OK) /* the backend, above all */
        return 2;
    o.shards = job.is_threaded;
    moor_err e = moor_runtime_create(&o, &runtime);
    if (e == MOOR_OK && !job.is_threaded)
        e = moor_shard_adopt(runtime, &shard);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? 77 : 1;
    }
    const int status = run(&job, runtime, shard);
    if (shard)
        moor_shard_leave(shard);
    if (moor_runtime_destroy(runtime, 1000) != MOOR_OK)
        fprintf(stderr, "something is still out\n");
    return status;
}
