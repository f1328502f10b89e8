/*
 * The threads of mooring pool: closed loops of acquire, query, hold, release. All here but starting,
 * waking, cutting and joining runs on the worker's own thread; they share the pool and, if paced, a
 * counter. Must not end with a lease held.
 */
#include "pool.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS 1000000LL

static bool is_stopping(const struct pool_run *r)
{
    return atomic_load_explicit(&r->is_stopping, memory_order_relaxed);
}

/* Until then, or until the run is to stop. */
static void sleep_until(struct pool_worker *w, int64_t until)
{
    const struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
    while (!is_stopping(w->run) && now_ns() < until)
        (void)sem_clockwait(&w->wake, CLOCK_MONOTONIC, &t);
}

/* ---- errors ---- */

void error_list_add(struct error_list *l, const char *kind, const char *example, uint64_t count)
{
    struct error_kind *k = l->kinds;
    while (k < l->kinds + l->count && strcmp(k->kind, kind) != 0)
        k++;
    if (k == l->kinds + ERROR_KINDS_MAX)
        k--;
    if (k == l->kinds + l->count) {
        l->count++;
        const bool is_last = l->count == ERROR_KINDS_MAX;
        snprintf(k->kind, sizeof k->kind, "%s", is_last ? "other" : kind);
        snprintf(k->example, sizeof k->example, "%s", example);
    }
    k->count += count;
}

static void count_error(struct pool_worker *w, const char *kind, const char *example)
{
    /* One writer; the order against others does not matter to who shows it. */
    atomic_store_explicit(&w->failed, atomic_load_explicit(&w->failed, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    error_list_add(&w->errors, kind, example, 1);
}

static void count_failed_acquire(struct pool_worker *w, moor_err e)
{
    if (atomic_load_explicit(&w->run->is_canceling, memory_order_relaxed)) {
        w->unfinished++;
        return;
    }
    char text[ERROR_TEXT_CAP - 64], example[ERROR_TEXT_CAP];
    snprintf(example, sizeof example, "%s: %s", moor_err_text(e),
             moor_why_text(&w->why, text, sizeof text));
    count_error(w, moor_err_name(e), example);
}

static void count_failed_query(struct pool_worker *w, const struct drive_call *c, bool was_cut)
{
    if (atomic_load_explicit(&w->run->is_canceling, memory_order_relaxed)) {
        w->unfinished++;
        return;
    }
    char kind[ERROR_KIND_CAP];
    snprintf(kind, sizeof kind, "query %s", was_cut ? moor_err_name(MOOR_ETIMEDOUT) : c->kind);
    count_error(w, kind, was_cut ? "the query took longer than --timeout" : c->text);
}

/* ---- one round ---- */

/* A handle's library may wait for ever. Main ends that with a shutdown of our own descriptor of the
 * socket: the library's may be closed, and its number somebody else's, at any moment of the query. */
static bool run_query(struct pool_worker *w, struct drive_call *c)
{
    const struct drive *d = w->run->plan.drive;
    if (!d->fd)
        return d->run(c);
    const int fd = fcntl(d->fd(c->native), F_DUPFD_CLOEXEC, 0);
    pthread_mutex_lock(&w->lock);
    w->asking_fd = fd;
    w->asked_ns = now_ns();
    w->was_cut = false;
    pthread_mutex_unlock(&w->lock);
    const bool is_good = d->run(c);
    pthread_mutex_lock(&w->lock);
    w->asking_fd = -1;
    pthread_mutex_unlock(&w->lock);
    if (fd >= 0)
        close(fd);
    if (w->was_cut)
        c->how = MOOR_DISCARD;
    return is_good;
}

static void query(struct pool_worker *w, struct drive_call *c, int64_t begin)
{
    const struct pool_plan *p = &w->run->plan;
    c->query = p->query;
    c->query_len = p->query_len;
    c->timeout_ms = p->timeout_ms ? p->timeout_ms : MOOR_FOREVER;
    if (run_query(w, c)) {
        w->queries++;
        latency_record(&w->query, now_ns() - begin);
    } else {
        count_failed_query(w, c, w->was_cut);
    }
}

/* Where every acquire fails at once, a loop would prove nothing and starve the others. A schedule is its
 * own bound, and a rest would look like a wait for the pool. */
static void rest_after_failure(struct pool_worker *w, int64_t began)
{
    enum { REST_MS_MAX = 100, DOUBLINGS = 7 };
    const int64_t now = now_ns();
    w->failed_in_row++;
    if (w->run->interval_ns > 0 || now - began > NS_PER_MS)
        return;
    const int64_t rest = w->failed_in_row < DOUBLINGS ? 1 << w->failed_in_row : REST_MS_MAX;
    sleep_until(w, now + rest * NS_PER_MS);
}

static void run_round(struct pool_worker *w, const moor_acquire_options *o, int64_t due)
{
    const struct pool_plan *p = &w->run->plan;
    moor_acquired a = {.size = sizeof a};
    const int64_t began = now_ns();
    const moor_err e = moor_acquire_wait(w->run->pool, o, &a);
    if (e != MOOR_OK) {
        count_failed_acquire(w, e);
        rest_after_failure(w, began);
        return;
    }
    const int64_t got = now_ns();
    w->failed_in_row = 0;
    w->acquires++;
    w->reused += a.reused;
    latency_record(&w->wait, got - (due ? due : began));
    struct drive_call *c = &w->call;
    c->lease = a.lease;
    c->native = a.native;
    c->session = NULL;
    c->how = MOOR_REUSE;
    if (p->query)
        query(w, c, got);
    if (p->hold_ns)
        sleep_until(w, now_ns() + p->hold_ns);
    drive_release(p->drive, c);
}

/* False: there is nothing more to do. */
static bool await_turn(struct pool_worker *w, int64_t *out_due)
{
    struct pool_run *r = w->run;
    if (w->left == 0 || is_stopping(r))
        return false;
    w->left -= w->left != UINT64_MAX;
    *out_due = 0;
    if (r->interval_ns > 0) {
        const uint64_t n = atomic_fetch_add_explicit(&r->next_paced, 1, memory_order_relaxed);
        *out_due = r->start_ns + (int64_t)((double)n * r->interval_ns);
        sleep_until(w, *out_due);
    }
    return !is_stopping(r);
}

static void *work(void *user)
{
    struct pool_worker *w = user;
    /* Sleeps as exact as the kernel can: the schedule and --hold-ms are made of them. */
    prctl(PR_SET_TIMERSLACK, 1);
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    if (w->run->plan.timeout_ms)
        o.timeout_ms = w->run->plan.timeout_ms;
    w->why.size = sizeof w->why;
    o.why = &w->why;
    for (int64_t due; await_turn(w, &due);)
        run_round(w, &o, due);
    /* Release: main reads the worker's counters after it has seen the count. */
    atomic_fetch_add_explicit(&w->run->finished, 1, memory_order_release);
    sem_post(&w->run->news);
    return NULL;
}

/* ---- from the main thread ---- */

bool pool_workers_start(struct pool_run *r)
{
    enum { STACK_BYTES = 1 << 20 };
    const uint32_t threads = r->plan.threads;
    const size_t bytes = threads * sizeof *r->workers;
    r->workers = aligned_alloc(_Alignof(struct pool_worker), bytes);
    if (!r->workers)
        return false;
    memset(r->workers, 0, bytes);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = 0;
    for (; r->started < threads && !failed; r->started += !failed) {
        struct pool_worker *w = &r->workers[r->started];
        w->run = r;
        w->asking_fd = -1;
        w->left = UINT64_MAX;
        if (r->plan.count)
            w->left = r->plan.count / threads + (r->started < r->plan.count % threads);
        sem_init(&w->wake, 0, 0);
        pthread_mutex_init(&w->lock, NULL);
        failed = pthread_create(&w->thread, &attributes, work, w);
    }
    pthread_attr_destroy(&attributes);
    return r->started == threads;
}

void pool_workers_wake(struct pool_run *r)
{
    for (uint32_t i = 0; i < r->started; i++)
        sem_post(&r->workers[i].wake);
}

void pool_workers_cut(struct pool_run *r, int64_t now)
{
    const struct drive *d = r->plan.drive;
    const bool cuts_all = atomic_load_explicit(&r->is_canceling, memory_order_relaxed);
    if (!d->fd || (!cuts_all && !r->plan.timeout_ms))
        return;
    for (uint32_t i = 0; i < r->started; i++) {
        struct pool_worker *w = &r->workers[i];
        pthread_mutex_lock(&w->lock);
        if (w->asking_fd >= 0 && !w->was_cut &&
            (cuts_all || now - w->asked_ns > r->plan.timeout_ms * NS_PER_MS)) {
            (void)shutdown(w->asking_fd, SHUT_RDWR);
            w->was_cut = true;
        }
        pthread_mutex_unlock(&w->lock);
    }
}

void pool_workers_join(struct pool_run *r, struct pool_report *out)
{
    for (uint32_t i = 0; i < r->started; i++) {
        struct pool_worker *w = &r->workers[i];
        pthread_join(w->thread, NULL);
        out->acquires += w->acquires;
        out->reused += w->reused;
        out->queries += w->queries;
        out->unfinished += w->unfinished;
        out->errors += atomic_load_explicit(&w->failed, memory_order_relaxed);
        latency_merge(&out->wait, &w->wait);
        latency_merge(&out->query, &w->query);
        for (uint32_t k = 0; k < w->errors.count; k++)
            error_list_add(&out->by_kind, w->errors.kinds[k].kind, w->errors.kinds[k].example,
                           w->errors.kinds[k].count);
    }
}

void pool_workers_destroy(struct pool_run *r)
{
    for (uint32_t i = 0; i < r->started; i++) {
        sem_destroy(&r->workers[i].wake);
        pthread_mutex_destroy(&r->workers[i].lock);
    }
    free(r->workers);
    r->workers = NULL;
}
