/*
 * A runtime with one pool, and requests that record all that is told about them.
 * Callbacks run on shards and only record; assertions are made by the test's thread.
 */
#include "tests/support/fixture_pool.h"

#include <stdlib.h>
#include <time.h>

int64_t fixture_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the runtime ---- */

static void keep_log(void *user, int level, const char *code, const char *text)
{
    (void)level;
    struct fixture *f = user;
    pthread_mutex_lock(&f->log_lock);
    const int n = snprintf(f->log + f->log_len, LOG_MAX - f->log_len, "%s %s\n", code, text);
    if (n > 0 && f->log_len + (size_t)n < LOG_MAX)
        f->log_len += (size_t)n;
    pthread_mutex_unlock(&f->log_lock);
}

bool fixture_has_logged(struct fixture *f, const char *text)
{
    pthread_mutex_lock(&f->log_lock);
    const bool has = strstr(f->log, text) != NULL;
    pthread_mutex_unlock(&f->log_lock);
    return has;
}

void fixture_runtime_options(struct fixture *f, moor_runtime_options *o)
{
    moor_runtime_options_init(o);
    o->shards = 1;
    o->log_level = MOOR_LOG_DEBUG;
    o->on_log = keep_log;
    o->log_user = f;
    o->shard_pin = false;
}

void fixture_pool_options(moor_pool_options *o)
{
    moor_pool_options_init(o);
    o->conns_min_idle = 0;
}

void fixture_open_runtime(struct fixture *f, const moor_runtime_options *ro)
{
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->log_lock, NULL);
    moor_runtime_options o;
    if (ro)
        o = *ro;
    else
        fixture_runtime_options(f, &o);
    o.on_log = keep_log;
    o.log_user = f;
    const moor_err e = moor_runtime_create(&o, &f->runtime);
    const char *backend = getenv("MOORING_IO_BACKEND");
    if (e == MOOR_ENOSYS && backend && !strcmp(backend, "io_uring")) {
        printf("skipped: no io_uring here\n");
        exit(77);
    }
    assert_err(e, MOOR_OK);
}

void fixture_open(struct fixture *f, const moor_runtime_options *ro, const char *url,
                  const moor_pool_options *po)
{
    fixture_open_runtime(f, ro);
    moor_pool_options p;
    fixture_pool_options(&p);
    assert_err(moor_pool_open(f->runtime, url, po ? po : &p, &f->pool), MOOR_OK);
}

void fixture_close(struct fixture *f)
{
    if (f->pool)
        assert_err(moor_pool_close(f->pool, 10000), MOOR_OK);
    assert_err(moor_runtime_destroy(f->runtime, 10000), MOOR_OK);
    pthread_mutex_destroy(&f->log_lock);
}

moor_stats fixture_stats(struct fixture *f)
{
    moor_stats s;
    moor_stats_read(f->pool, &s);
    return s;
}

/* ---- calls ---- */

static void note(struct call *c, char event)
{
    pthread_mutex_lock(&c->lock);
    if (c->event_count < CALL_EVENTS_MAX - 1)
        c->events[c->event_count++] = event;
    c->is_over |= event == 'd';
    c->was_told_inside |= c->is_inside;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void keep_header(struct call *c, const moor_header *h, size_t n)
{
    const moor_http_head head = {.headers = h, .header_count = n};
    const moor_span v = moor_http_header(&head, "x-test");
    if (v.base)
        snprintf(c->header, sizeof c->header, "%.*s", (int)v.len, (const char *)v.base);
}

static void told_head(void *user, const moor_http_head *h)
{
    struct call *c = user;
    if (h->status >= 200 || h->status == 101) {
        c->status = h->status;
        keep_header(c, h->headers, h->header_count);
    }
    note(c, h->status >= 200 ? 'h' : 'i');
    if (c->on_head)
        c->on_head(c);
}

static void check_bytes(struct call *c, const uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (c->bytes + i < sizeof c->text - 1)
            c->text[c->bytes + i] = (char)at[i];
        if (at[i] != (uint8_t)((c->bytes + i) % 251 * 131 % 251))
            c->is_pattern = false;
    }
}

static void told_chunk(void *user, moor_chunk k)
{
    struct call *c = user;
    pthread_mutex_lock(&c->lock);
    check_bytes(c, k.bytes.base, k.bytes.len);
    c->bytes += k.bytes.len;
    const bool is_kept = c->is_holding && c->held_count < CALL_HELD_MAX;
    if (is_kept)
        c->held[c->held_count++] = k;
    pthread_mutex_unlock(&c->lock);
    if (!is_kept)
        moor_chunk_return(k);
    note(c, 'c');
    if (c->on_chunk)
        c->on_chunk(c);
}

static void told_trailers(void *user, const moor_header *h, size_t n)
{
    keep_header(user, h, n);
    note(user, 't');
}

static void told_done(void *user, const moor_http_done *d)
{
    struct call *c = user;
    c->done = *d;
    if (d->why)
        c->why = *d->why;
    c->done_count++;
    if (c->on_done)
        c->on_done(c);
    note(c, 'd');
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers,
    .on_head = told_head,
    .on_chunk = told_chunk,
    .on_trailers = told_trailers,
    .on_done = told_done,
};

void call_init(struct call *c, moor_pool *p, const char *url)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    moor_http_request_init(&c->request);
    c->request.url = url;
    c->pool = p;
    c->is_pattern = true;
}

void call_fini(struct call *c)
{
    pthread_mutex_lock(&c->lock); /* the last callback is out of it */
    pthread_mutex_unlock(&c->lock);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
}

void call_start_here(struct call *c)
{
    c->shard_thread = pthread_self();
    c->is_inside = true;
    c->sent = moor_http_send(c->pool, &c->request, &handlers, c, &c->op);
    pthread_mutex_lock(&c->lock);
    c->is_inside = false;
    c->is_submitted = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void run_call(void *user)
{
    call_start_here(user);
}

static void wait_for(struct call *c, const bool *flag, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&c->lock);
    int e = 0;
    while (!*flag && !e)
        e = pthread_cond_timedwait(&c->changed, &c->lock, &until);
    const bool is_set = *flag;
    pthread_mutex_unlock(&c->lock);
    if (!is_set)
        fail_msg("%s: never %s; events \"%s\"", c->request.url, what, c->events);
}

void call_start_on(struct call *c, moor_runtime *r, uint32_t i)
{
    c->task = (moor_task){.run = run_call, .user = c};
    assert_err(moor_post(moor_shard_at(r, i), &c->task), MOOR_OK);
    wait_for(c, &c->is_submitted, "submitted");
}

bool call_is_over(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    const bool is_over = c->is_over;
    pthread_mutex_unlock(&c->lock);
    return is_over;
}

size_t call_event_count(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    const size_t n = c->event_count;
    pthread_mutex_unlock(&c->lock);
    return n;
}

void call_wait(struct call *c)
{
    assert_err(c->sent, MOOR_OK);
    wait_for(c, &c->is_over, "done");
}

void call_check(struct call *c)
{
    assert_int_equal(c->done_count, 1);
    assert_false(c->was_told_inside);
    const char *at = c->events + strspn(c->events, "i");
    at += *at == 'h';
    at += strspn(at, "c");
    at += *at == 't';
    if (strcmp(at, "d") != 0 && c->event_count < CALL_EVENTS_MAX - 1)
        fail_msg("%s: events out of order: %s", c->request.url, c->events);
}

void call_expect(struct fixture *f, struct call *c, moor_err err)
{
    call_start(f, c);
    call_wait(c);
    if (c->done.fault.err != err)
        print_error("%s: %s (%d)\n", c->request.url, c->done.fault.what ? c->done.fault.what : "",
                    c->done.fault.tls_code);
    assert_err(c->done.fault.err, err);
    if (err)
        assert_non_null(c->done.fault.what);
    call_check(c);
}

void call_return_all(struct call *c)
{
    for (int i = 0; i < c->held_count; i++)
        moor_chunk_return(c->held[i]);
    c->held_count = 0;
}

void fixture_get_ok(struct fixture *f)
{
    struct call c;
    call_init(&c, f->pool, "/");
    call_expect(f, &c, MOOR_OK);
    assert_int_equal(c.status, 200);
    assert_string_equal(c.text, "ok");
    call_fini(&c);
}
