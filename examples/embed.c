/* One thread and its own poll(): the shard lives inside. examples/embed http://127.0.0.1:8080/ */
#include <mooring/mooring.h>
#include <poll.h>
#include <stdio.h>

static void on_done(void *user, const moor_http_done *d)
{
    printf("%s, %llu bytes\n", moor_err_name(d->fault.err), (unsigned long long)d->bytes_down);
    *(bool *)user = true;
}

static const moor_http_handlers handlers = {.size = sizeof handlers, .on_done = on_done};

/* Drives the shard until *is_done; the descriptors of the program would stand beside it in polled[]. */
static moor_err drive(moor_shard *shard, const bool *is_done)
{
    struct pollfd polled[] = {{.fd = moor_shard_fd(shard), .events = POLLIN}};
    moor_err e = MOOR_OK;
    while (!e && !*is_done) {
        poll(polled, 1, (int)moor_shard_timeout(shard));
        e = moor_shard_step(shard, 0);
    }
    return e;
}

int main(int argc, char **argv)
{
    moor_runtime *runtime = NULL;
    moor_shard *shard = NULL;
    moor_pool *pool = NULL;
    bool is_done = false;
    moor_runtime_options options;
    moor_runtime_options_init(&options);
    options.shards = 0; /* no thread of the library's */
    moor_http_request request;
    moor_http_request_init(&request);
    request.url = argc > 1 ? argv[1] : "http://127.0.0.1:8080/";

    moor_err e = moor_runtime_create(&options, &runtime);
    if (!e)
        e = moor_shard_adopt(runtime, &shard);
    if (!e)
        e = moor_pool_open(runtime, NULL, NULL, &pool);
    if (!e)
        e = moor_http_send(pool, &request, &handlers, &is_done, NULL);
    if (!e)
        e = drive(shard, &is_done);
    if (e)
        fprintf(stderr, "%s\n", moor_err_text(e));
    moor_err end = moor_pool_close(pool, 1000);
    moor_shard_leave(shard);
    return moor_runtime_destroy(runtime, 1000) | end | e;
}
