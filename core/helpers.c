/*
 * The helper threads of a runtime. Any thread submits; each helper runs one job at a time.
 * Must not be used for what can be waited for on a shard.
 */
#include "core/helpers.h"

#include "base/futex.h"
#include "core/runtime.h"

#include <signal.h>

struct mr_helpers {
    struct mr_lock lock;
    struct mr_list jobs;
    uint32_t queued;  /* jobs nobody has taken */
    uint32_t idle;    /* helpers that will take one */
    uint32_t started; /* threads that run */
    bool is_over;
    _Atomic(uint32_t) word; /* futex: counts jobs and the end */
    struct {
        pthread_t thread;
        bool is_taken; /* started, or about to be */
        bool is_started;
    } threads[];
};

static struct mr_helper_job *next_job(struct mr_helpers *h, bool *out_over)
{
    mr_lock_lock(&h->lock);
    struct mr_list *l = mr_list_pop_front(&h->jobs);
    *out_over = h->is_over;
    if (l) {
        h->idle--;
        h->queued--;
    }
    mr_lock_unlock(&h->lock);
    return l ? MR_CONTAINER_OF(l, struct mr_helper_job, link) : NULL;
}

static void *run_helper(void *arg)
{
    struct mr_helpers *h = arg;
    for (;;) {
        const uint32_t seen = atomic_load(&h->word);
        bool is_over;
        struct mr_helper_job *job = next_job(h, &is_over);
        if (!job && is_over)
            return NULL;
        if (!job) {
            (void)!mr_futex_wait(&h->word, seen, MR_NEVER);
            continue;
        }
        job->run(job);
        job->done(job);
        mr_lock_lock(&h->lock);
        h->idle++;
        mr_lock_unlock(&h->lock);
    }
}

static size_t helpers_size(const struct moor_runtime *r)
{
    return sizeof(struct mr_helpers) +
           r->options.helpers_max * sizeof(((struct mr_helpers *)0)->threads[0]);
}

static struct mr_helpers *helpers_of(struct moor_runtime *r)
{
    struct mr_helpers *h = atomic_load_explicit(&r->helpers, memory_order_acquire);
    if (h)
        return h;
    h = mr_heap_zalloc(&r->heap, helpers_size(r));
    if (!h)
        return NULL;
    mr_lock_init(&h->lock);
    mr_list_init(&h->jobs);
    struct mr_helpers *other = NULL;
    if (atomic_compare_exchange_strong(&r->helpers, &other, h))
        return h;
    mr_lock_fini(&h->lock);
    mr_heap_free(&r->heap, h, helpers_size(r));
    return other;
}

/* With every signal blocked: they are the program's. */
static bool start_thread(struct mr_helpers *h, uint32_t at)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&h->threads[at].thread, NULL, run_helper, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed)
        pthread_setname_np(h->threads[at].thread, "mooring-helper");
    return !failed;
}

/* Few threads are a delay, none is an error. The next job may try again. */
static bool is_lost(struct mr_helpers *h, uint32_t at, bool is_started, struct mr_helper_job *job)
{
    mr_lock_lock(&h->lock);
    h->threads[at].is_taken = h->threads[at].is_started = is_started;
    if (is_started)
        h->started++;
    else
        h->idle--;
    const bool lost = h->started == 0 && mr_list_is_linked(&job->link);
    if (lost) {
        mr_list_remove(&job->link);
        h->queued--;
    }
    mr_lock_unlock(&h->lock);
    return lost;
}

/* Under the lock. max: there are as many as allowed. */
static uint32_t find_slot(const struct mr_helpers *h, uint32_t max)
{
    uint32_t at = 0;
    while (at < max && h->threads[at].is_taken)
        at++;
    return at;
}

moor_err mr_helpers_submit(struct moor_runtime *r, struct mr_helper_job *job)
{
    struct mr_helpers *h = helpers_of(r);
    MR_FAIL_IF(!h, MOOR_ENOMEM);
    mr_lock_lock(&h->lock);
    h->queued++;
    mr_list_push_back(&h->jobs, &job->link);
    const uint32_t max = r->options.helpers_max;
    const uint32_t at = h->idle < h->queued ? find_slot(h, max) : max;
    const bool wants_thread = at < max;
    if (wants_thread) {
        h->threads[at].is_taken = true;
        h->idle++;
    }
    mr_lock_unlock(&h->lock);
    /* A job in the list may be run and gone at any time from here, unless there is no thread at all. */
    if (wants_thread && is_lost(h, at, start_thread(h, at), job))
        return MOOR_ENOMEM;
    atomic_fetch_add(&h->word, 1);
    mr_futex_wake(&h->word, 1);
    return MOOR_OK;
}

void mr_helpers_end(struct moor_runtime *r)
{
    struct mr_helpers *h = atomic_load(&r->helpers);
    if (!h)
        return;
    mr_lock_lock(&h->lock);
    h->is_over = true;
    mr_lock_unlock(&h->lock);
    atomic_fetch_add(&h->word, 1);
    mr_futex_wake(&h->word, UINT32_MAX);
    for (uint32_t i = 0; i < r->options.helpers_max; i++)
        if (h->threads[i].is_started)
            pthread_join(h->threads[i].thread, NULL);
    mr_lock_fini(&h->lock);
    mr_heap_free(&r->heap, h, helpers_size(r));
    atomic_store(&r->helpers, NULL);
}
