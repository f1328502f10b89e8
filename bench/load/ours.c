/*
 * Ours, lean: one adopted shard on the public API, the next request submitted from on_done. What
 * a service built on the library pays, without the threads and histograms of the program mooring.
 * One thread, which is the shard.
 */
#include "client.h"

#include <mooring/mooring.h>

enum { PATIENCE_MS = 100 };

struct client {
    moor_pool *pool;
    moor_http_request request;
    uint64_t left; /* requests still to be made */
    unsigned in_flight;
    int version; /* of HTTP that is right, as moor_http_head has it */
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
    submit(c);
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

static int run(const struct load_job *job, moor_runtime *runtime, moor_shard *shard)
{
    struct client c = {.left = job->requests, .version = job->is_h2 ? 20 : 11};
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = job->is_h2 ? 1 : job->conc;
    o.http_version = job->is_h2 ? "2" : "1.1";
    o.h2_streams_max = job->conc;
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
    e = work(&c, job, shard);
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
             ",\"conns\":%llu",
             moor_runtime_backend(runtime), (unsigned long long)s.turns,
             (unsigned long long)s.enters, (unsigned long long)s.syscalls,
             (unsigned long long)pool.conns_created);
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
    moor_runtime_options_init(&o);
    if (moor_runtime_options_from_env(&o, NULL, 0) != MOOR_OK) /* the backend, above all */
        return 2;
    o.shards = 0;
    moor_err e = moor_runtime_create(&o, &runtime);
    if (e == MOOR_OK)
        e = moor_shard_adopt(runtime, &shard);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? 77 : 1;
    }
    const int status = run(&job, runtime, shard);
    moor_shard_leave(shard);
    if (moor_runtime_destroy(runtime, 1000) != MOOR_OK)
        fprintf(stderr, "something is still out\n");
    return status;
}
