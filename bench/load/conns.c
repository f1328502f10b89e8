/*
 * Opens conns and rests, so that bench/load/memory can look at the process from outside:
 * `load_conns -c CONNS [-n REQUESTS] URL` makes so many requests at once, waits until all conns are
 * idle, says so in one line, and ends when its standard input does. With as many requests as conns
 * (the default) the URL must answer late enough that all are under way together; with fewer the
 * pool is told to keep CONNS idle. The main thread waits; the shard is a thread of the library.
 */
#include <mooring/mooring.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 20000, LOOK_MS = 10 };

struct crowd {
    moor_pool *pool;
    moor_http_request request;
    uint32_t conns;
    uint32_t requests;
    atomic_uint done;
    atomic_uint failed;
};

static void on_done(void *user, const moor_http_done *done)
{
    struct crowd *c = user;
    if (done->fault.err != MOOR_OK)
        atomic_fetch_add(&c->failed, 1);
    atomic_fetch_add(&c->done, 1);
}

static void on_chunk(void *user, moor_chunk chunk)
{
    (void)user;
    moor_chunk_return(chunk);
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_chunk = on_chunk, .on_done = on_done};

/* On the shard. */
static void send_all(void *user)
{
    struct crowd *c = user;
    for (uint32_t i = 0; i < c->requests; i++) {
        if (moor_http_send(c->pool, &c->request, &handlers, c, NULL) != MOOR_OK) {
            atomic_fetch_add(&c->failed, 1);
            atomic_fetch_add(&c->done, 1);
        }
    }
}

/* Until all requests are over and all conns rest. */
static bool wait_for(const struct crowd *c)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    for (int waited = 0; waited < PATIENCE_MS; waited += LOOK_MS) {
        moor_stats s = {.size = sizeof s};
        moor_stats_read(c->pool, &s);
        if (s.conns_idle >= c->conns && atomic_load(&c->done) >= c->requests)
            return true;
        nanosleep(&pause, NULL);
    }
    moor_stats s = {.size = sizeof s};
    moor_stats_read(c->pool, &s);
    fprintf(stderr, "after %d s %u of %u requests are done and %llu conns idle\n",
            PATIENCE_MS / 1000, atomic_load(&c->done), c->requests,
            (unsigned long long)s.conns_idle);
    return false;
}

static int open_pool(struct crowd *c, moor_runtime *runtime, const char *origin)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = c->conns ? c->conns : 1;
    o.conns_min_idle = c->requests < c->conns ? c->conns : 0;
    o.waiters_max = c->conns;
    o.dials_max = 64;
    o.idle_timeout_ms = MOOR_FOREVER;
    o.lifetime_max_ms = MOOR_FOREVER;
    const moor_err e = moor_pool_open(runtime, origin, &o, &c->pool);
    if (e == MOOR_OK)
        return 0;
    fprintf(stderr, "pool: %s\n", moor_err_text(e));
    return e == MOOR_ENOSYS ? 77 : 1;
}

static int run(struct crowd *c, moor_runtime *runtime)
{
    moor_task task = {.run = send_all, .user = c};
    if (moor_post(moor_shard_at(runtime, 0), &task) != MOOR_OK || !wait_for(c))
        return 1;
    moor_stats s = {.size = sizeof s};
    moor_runtime_stats r = {.size = sizeof r};
    moor_stats_read(c->pool, &s);
    moor_runtime_stats_read(runtime, &r);
    printf("{\"idle\":%llu,\"created\":%llu,\"requests\":%llu,\"errors\":%u,\"memory_used\":%llu,"
           "\"backend\":\"%s\"}\n",
           (unsigned long long)s.conns_idle, (unsigned long long)s.conns_created,
           (unsigned long long)s.requests, atomic_load(&c->failed),
           (unsigned long long)r.memory_used, moor_runtime_backend(runtime));
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    const moor_err e = moor_pool_close(c->pool, 10000);
    if (e != MOOR_OK)
        fprintf(stderr, "the pool does not close: %s\n", moor_err_text(e));
    return e != MOOR_OK;
}

int main(int argc, char **argv)
{
    static struct crowd c;
    char origin[128];
    for (int option; (option = getopt(argc, argv, "c:n:")) != -1;) {
        if (option == 'c')
            c.conns = (uint32_t)strtoul(optarg, NULL, 10);
        if (option == 'n')
            c.requests = (uint32_t)strtoul(optarg, NULL, 10);
    }
    if (c.requests == 0)
        c.requests = c.conns;
    const char *url = optind + 1 == argc ? argv[optind] : "";
    const char *host = strstr(url, "://");
    const char *path = host ? strchr(host + 3, '/') : NULL;
    if (!path || (size_t)(path - url) >= sizeof origin) {
        fprintf(stderr, "usage: %s -c CONNS [-n REQUESTS] http[s]://HOST:PORT/PATH\n", argv[0]);
        return 2;
    }
    snprintf(origin, sizeof origin, "%.*s", (int)(path - url), url);
    moor_http_request_init(&c.request);
    c.request.url = path;

    moor_runtime_options o;
    moor_runtime *runtime = NULL;
    moor_runtime_options_init(&o);
    o.shards = 1;
    const moor_err e = moor_runtime_create(&o, &runtime);
    if (e != MOOR_OK) {
        fprintf(stderr, "%s\n", moor_err_text(e));
        return e == MOOR_ENOSYS ? 77 : 1;
    }
    int status = open_pool(&c, runtime, origin);
    if (status == 0)
        status = run(&c, runtime);
    if (moor_runtime_destroy(runtime, 10000) != MOOR_OK)
        fprintf(stderr, "something is still out\n");
    return status;
}
