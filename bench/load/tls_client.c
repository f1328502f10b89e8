/*
 * Ours over TLS, on the public API: conns of one request each, for what a handshake costs, or
 * requests in flight while the pool is flushed, for how many handshakes are resumed. One thread,
 * which is the adopted shard. Idle conns are conns.c's, bulk and small requests ours.c's.
 */
#include "client.h"

#include <mooring/mooring.h>

enum { PATIENCE_MS = 10, FLUSH_EVERY_S = 1, STATUS_UNAVAILABLE = 77 };

struct client {
    const struct load_job *job;
    moor_shard *shard;
    moor_pool *pool;
    moor_http_request request;
    uint64_t left; /* requests still to be made */
    unsigned in_flight;
    unsigned flushes;
    double submitted;  /* when the newest request was, by load_clock */
    moor_stats before; /* what the measured part began with */
    char session[128]; /* version, cipher and group of the newest handshake */
    struct load_result result;
};

static void on_head(void *user, const moor_http_head *head)
{
    struct client *c = user;
    c->result.errors += head->status != 200;
}

static void on_chunk(void *user, moor_chunk chunk)
{
    struct client *c = user;
    c->result.bytes += chunk.bytes.len;
    moor_chunk_return(chunk);
}

static void submit(struct client *c);

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
    /* After an error the figures are worth nothing: do not repeat it a thousand times. */
    if (c->left == 0 || c->result.errors)
        return;
    c->left--;
    c->submitted = load_clock();
    const moor_err e = moor_http_send(c->pool, &c->request, &handlers, c, NULL);
    if (e == MOOR_OK) {
        c->in_flight++;
        return;
    }
    c->result.errors++;
    fprintf(stderr, "refused: %s\n", moor_err_text(e));
}

static void on_event(void *user, const moor_event *event)
{
    struct client *c = user;
    if (event->type != MOOR_EVENT_TLS_READY)
        return;
    load_wall(&c->result, load_clock() - c->submitted);
    if (c->session[0] == '\0')
        snprintf(c->session, sizeof c->session, "TLS 1.%d, %s, %s", event->tls->version - 10,
                 event->tls->cipher, event->tls->group);
}

static moor_stats stats_of(const struct client *c)
{
    moor_stats s = {.size = sizeof s};
    moor_stats_read(c->pool, &s);
    return s;
}

/* Until `count` requests are over, `conc` of them in flight. */
static moor_err perform(struct client *c, uint64_t count, unsigned conc)
{
    moor_err e = MOOR_OK;
    c->left = count;
    for (unsigned i = 0; i < conc; i++)
        submit(c);
    while (c->in_flight > 0 && e == MOOR_OK)
        e = moor_shard_wait(c->shard, PATIENCE_MS);
    return e;
}

/* One conn first: it pays for what is loaded once, and brings the first ticket. */
static moor_err shake_hands(struct client *c)
{
    moor_err e = perform(c, 1, 1);
    c->result.requests = 0;
    c->before = stats_of(c);
    load_begin(&c->result, c->job->requests);
    const double start = load_clock();
    if (e == MOOR_OK)
        e = perform(c, c->job->requests, 1);
    c->result.seconds = load_clock() - start;
    return e;
}

/* The first flush comes after a second of load, and with it the path that says so in a log. */
static moor_err flush_under_load(struct client *c)
{
    char path[256];
    moor_err e = MOOR_OK;
    const double start = load_clock();
    double next = start + FLUSH_EVERY_S;
    snprintf(path, sizeof path, "%.200s?flushed", c->job->path);
    c->left = UINT64_MAX;
    for (unsigned i = 0; i < c->job->conc; i++)
        submit(c);
    while (c->in_flight > 0 && e == MOOR_OK) {
        e = moor_shard_wait(c->shard, PATIENCE_MS);
        const double now = load_clock();
        if (now - start >= c->job->seconds)
            c->left = 0;
        if (c->left == 0 || now < next)
            continue;
        if (c->flushes++ == 0) {
            c->before = stats_of(c);
            c->request.url = path;
        }
        moor_pool_flush(c->pool);
        next += FLUSH_EVERY_S;
    }
    c->request.url = c->job->path;
    c->result.seconds = load_clock() - start;
    return e;
}

static moor_err open_pool(struct client *c, moor_runtime *runtime)
{
    const struct load_job *job = c->job;
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_min_idle = 0;
    o.on_event = on_event;
    o.event_user = c;
    o.tls_ca = job->tls.roots;
    o.tls_cert = job->tls.cert;
    o.tls_server_name = job->tls.name;
    if (job->tls.version_min)
        o.tls_version_min = job->tls.version_min;
    if (job->work == LOAD_FLUSH) {
        o.conns_max = job->conc;
    } else {
        o.uses_max = 1;
        if (!job->tls.is_resumed)
            o.tls_tickets_max = 0;
    }
    moor_http_request_init(&c->request);
    c->request.url = job->path;
    return moor_pool_open(runtime, job->origin, &o, &c->pool);
}

static int report(struct client *c)
{
    char more[512];
    const moor_stats s = stats_of(c);
    const uint64_t handshakes = s.tls_handshakes - c->before.tls_handshakes;
    const uint64_t resumed = s.tls_resumed - c->before.tls_resumed;
    snprintf(more, sizeof more,
             ",\"handshakes\":%llu,\"resumed\":%llu,\"flushes\":%u,\"session\":\"%s\"",
             (unsigned long long)handshakes, (unsigned long long)resumed, c->flushes, c->session);
    return load_report(&c->result, more);
}

static int run(struct client *c, moor_runtime *runtime)
{
    moor_err e = open_pool(c, runtime);
    if (e != MOOR_OK) {
        fprintf(stderr, "pool: %s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? STATUS_UNAVAILABLE : 1;
    }
    e = c->job->work == LOAD_FLUSH ? flush_under_load(c) : shake_hands(c);
    const int status = report(c);
    if (e == MOOR_OK)
        e = moor_pool_close(c->pool, 1000);
    if (e == MOOR_OK)
        return status;
    fprintf(stderr, "%s\n", moor_err_text(e));
    return 1;
}

int main(int argc, char **argv)
{
    struct load_job job;
    moor_runtime_options o;
    moor_runtime *runtime = NULL;
    struct client c = {.job = &job};
    if (!load_job_read(argc, argv, moor_build_info(), &job))
        return 2;
    if (job.work == LOAD_IDLE || (job.work == LOAD_HANDSHAKES && job.requests == UINT64_MAX)) {
        fprintf(stderr, "-w handshakes needs -n; idle conns are load_conns's\n");
        return 2;
    }
    moor_runtime_options_init(&o);
    if (moor_runtime_options_from_env(&o, NULL, 0) != MOOR_OK) /* the backend, above all */
        return 2;
    o.shards = 0;
    moor_err e = moor_runtime_create(&o, &runtime);
    if (e == MOOR_OK)
        e = moor_shard_adopt(runtime, &c.shard);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? STATUS_UNAVAILABLE : 1;
    }
    const int status = run(&c, runtime);
    moor_shard_leave(c.shard);
    if (moor_runtime_destroy(runtime, 1000) != MOOR_OK)
        fprintf(stderr, "something is still out\n");
    return status;
}
