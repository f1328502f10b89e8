/*
 * The runtime: makes shards and their threads, hands out shards to work from, ends everything.
 * Any thread; lists and shard slots under the runtime's lock. Turns only the shards of its threads.
 */
#include "core/runtime.h"

#include "base/futex.h"
#include "core/helpers.h"
#include "core/keep.h"
#include "core/link.h"
#include "core/rack.h"
#include "core/pool.h"
#include "core/resolver.h"
#include "core/shard.h"

#include <linux/membarrier.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What thread_words says. */
enum { WORD_STARTING, WORD_RUNNING, WORD_FAILED };

static moor_err start_threads(struct moor_runtime *r);
static void stop_threads(struct moor_runtime *r);
static void free_runtime(struct moor_runtime *r);

/* ---- creation ---- */

static moor_err make_fork_page(struct moor_runtime *r)
{
    const size_t size = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *page =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MR_FAIL_IF(page == MAP_FAILED, MOOR_ENOMEM);
    *page = 1;
    madvise(page, size, MADV_WIPEONFORK);
    r->fork_page = page;
    return MOOR_OK;
}

void mr_runtime_barrier(const struct moor_runtime *r)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (r->has_membarrier)
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

static moor_err make_resolver(struct moor_runtime *r)
{
    if (r->hooks.resolver) {
        r->resolver = r->hooks.resolver;
        return MOOR_OK;
    }
    const moor_runtime_options *o = &r->options;
    struct mr_resolver_config c;
    mr_resolver_config_init(&c);
    c.servers = o->dns_servers;
    c.hosts_path = o->hosts_file;
    c.resolv_path = o->resolv_conf;
    c.timeout_ms = o->dns_timeout_ms;
    c.tries = o->dns_tries;
    c.ttl_max_ms = o->dns_ttl_max_ms;
    c.files_check_ms = o->dns_files_check_ms;
    c.negative_ttl_ms = o->dns_negative_ttl_ms;
    c.names_max = o->dns_cache_max;
    return mr_resolver_create(&c, &r->heap, &r->resolver);
}

moor_err mr_runtime_create(const moor_runtime_options *o, const struct mr_runtime_hooks *hooks,
                           struct moor_runtime **out_runtime)
{
    struct mr_heap heap;
    MR_TRY(mr_heap_init(&heap, SIZE_MAX, true));
    struct moor_runtime *r = mr_heap_zalloc(&heap, sizeof *r);
    if (!r) {
        mr_heap_fini(&heap);
        return MOOR_ENOMEM;
    }
    r->heap = heap;
    r->options = *o;
    if (hooks)
        r->hooks = *hooks;
    r->clock = r->hooks.clock ? r->hooks.clock : &mr_clock_system;
    mr_lock_init(&r->lock);
    mr_lock_init(&r->gone_lock);
    mr_list_init(&r->pools);
    mr_panic_set_hook(mr_trace_panic);
    mr_log_init(&r->log, r->options.log_level, r->options.on_log, r->options.log_user, r->clock);
    moor_err e = mr_options_keep(MR_OPTION_RUNTIME, &r->options, &r->heap);
    if (!e)
        e = make_fork_page(r);
    r->has_membarrier =
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    if (!e)
        e = mr_hints_make(r);
    if (!e)
        e = make_resolver(r);
    if (!e)
        e = start_threads(r);
    if (e) {
        stop_threads(r);
        free_runtime(r);
        return e;
    }
    *out_runtime = r;
    return MOOR_OK;
}

static void warn(void *user, const char *text)
{
    mr_log(user, MOOR_LOG_WARN, "options.unknown", "%s", text);
}

static moor_err take_options(const moor_runtime_options *given, moor_runtime_options *out)
{
    struct mr_log log;
    mr_log_init(&log, MOOR_LOG_WARN, given ? given->on_log : NULL, given ? given->log_user : NULL,
                &mr_clock_system);
    struct mr_options_report report = {.warn = warn, .user = &log};
    const moor_err e = mr_runtime_options_resolve(given, mr_options_environment(), &report, out);
    if (e)
        mr_log(&log, MOOR_LOG_ERROR, "options", "%s", report.fault);
    mr_log_fini(&log);
    return e;
}

moor_err moor_runtime_create(const moor_runtime_options *options, moor_runtime **out_runtime)
{
    MR_FAIL_IF(!out_runtime, MOOR_EINVAL);
    moor_runtime_options o;
    MR_TRY(take_options(options, &o));
    return mr_runtime_create(&o, NULL, out_runtime);
}

/* ---- shards and their threads ---- */

struct moor_shard *mr_runtime_make_shard(struct moor_runtime *r, uint32_t index, bool is_adopted)
{
    struct moor_shard *s = mr_heap_zalloc(&r->heap, sizeof *s);
    if (!s)
        return NULL;
    s->runtime = r;
    s->index = index;
    s->is_adopted = is_adopted;
    mr_list_init(&s->mine.locals);
    mr_list_init(&s->mine.keepers);
    mr_inbox_close(&s->shared.inbox); /* others find the slot before its thread is ready */
    atomic_store(&s->shared.state, MR_SHARD_STARTING);
    return s;
}

static void note_backend(struct moor_runtime *r, struct moor_shard *s, const char *why)
{
    mr_lock_lock(&r->lock);
    const bool is_first = !r->backend[0];
    if (is_first) {
        snprintf(r->backend, sizeof r->backend, "%s", s->mine.loop.io->ops->name);
        snprintf(r->backend_reason, sizeof r->backend_reason, "%s", why);
        atomic_store_explicit(&r->has_backend, true, memory_order_release);
    }
    mr_lock_unlock(&r->lock);
    if (is_first && why[0])
        mr_log(&r->log, MOOR_LOG_WARN, "runtime.backend", "using %s: io_uring refused: %s",
               r->backend, why);
}

moor_err mr_runtime_open_shard(struct moor_shard *s, bool is_embedded)
{
    char why[160] = "";
    const moor_err e = mr_shard_open(s, is_embedded, why, sizeof why);
    if (e)
        mr_log(&s->runtime->log, MOOR_LOG_ERROR, "runtime.shard", "no I/O backend for a shard: %s",
               why[0] ? why : moor_err_text(e));
    else
        note_backend(s->runtime, s, why);
    return e;
}

static void pin(uint32_t index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    const uint32_t count = (uint32_t)CPU_COUNT(&allowed);
    uint32_t skip = count ? index % count : 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || skip-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

static void announce(struct moor_runtime *r, uint32_t index, uint32_t word)
{
    atomic_store(&r->thread_words[index], word);
    mr_futex_wake(&r->thread_words[index], 1);
}

/* The kernel's slack of 50 us would be all the sleep there is. */
static void settle_gathering(struct moor_shard *s)
{
    const moor_runtime_options *o = &s->runtime->options;
    if (o->gather_us && !o->spin_us && !prctl(PR_SET_TIMERSLACK, 1))
        s->mine.loop.gather_max_ns = o->gather_us * MR_NS_PER_US;
}

static void *run_shard(void *arg)
{
    struct moor_shard *s = arg;
    struct moor_runtime *r = s->runtime;
    if (r->options.shard_pin)
        pin(s->index);
    mr_shard_enter(s);
    const moor_err e = mr_runtime_open_shard(s, false);
    if (e) {
        announce(r, s->index, WORD_FAILED + (uint32_t)e);
        return NULL;
    }
    settle_gathering(s);
    announce(r, s->index, WORD_RUNNING);
    while (!s->mine.is_over || !mr_inbox_is_empty(&s->shared.inbox))
        if (mr_shard_turn(s, MR_NEVER, 0))
            break;
    while (!mr_shard_seal(s))
        (void)!mr_shard_turn(s, 0, 0);
    mr_shard_shut(s);
    mr_shard_enter(NULL);
    return NULL;
}

static moor_err start_thread(struct moor_runtime *r, uint32_t i)
{
    struct moor_shard *s = mr_runtime_make_shard(r, i, false);
    MR_FAIL_IF(!s, MOOR_ENOMEM);
    s->spin_ns = r->options.spin_us * MR_NS_PER_US;
    atomic_store(&r->shards[i], s);
    /* Shard threads take no signals: they are the application's business. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&r->threads[i], NULL, run_shard, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        atomic_store(&r->shards[i], NULL);
        mr_shard_free(s);
        return MOOR_ENOMEM;
    }
    char name[32]; /* MR_SHARDS_MAX keeps it under the 16 bytes the kernel takes */
    snprintf(name, sizeof name, "mooring/%u", i);
    pthread_setname_np(r->threads[i], name);
    r->thread_count = i + 1;
    atomic_store(&r->shard_count, i + 1);
    return MOOR_OK;
}

static uint32_t allowed_cpus(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        return 1;
    const int count = CPU_COUNT(&allowed);
    return count < 1 ? 1 : count > MR_SHARDS_MAX ? MR_SHARDS_MAX : (uint32_t)count;
}

static moor_err start_threads(struct moor_runtime *r)
{
    const uint32_t count =
        r->options.shards == MOOR_SHARDS_AUTO ? allowed_cpus() : r->options.shards;
    moor_err e = MOOR_OK;
    for (uint32_t i = 0; i < count && !e; i++)
        e = start_thread(r, i);
    for (uint32_t i = 0; i < r->thread_count; i++) {
        uint32_t word;
        while ((word = atomic_load(&r->thread_words[i])) == WORD_STARTING)
            (void)!mr_futex_wait(&r->thread_words[i], WORD_STARTING, MR_NEVER);
        if (word != WORD_RUNNING && !e)
            e = (moor_err)(word - WORD_FAILED);
    }
    return e;
}

struct stop {
    struct mr_message message;
    struct moor_shard *shard;
};

static void run_stop(struct mr_message *m)
{
    MR_CONTAINER_OF(m, struct stop, message)->shard->mine.is_over = true;
}

static void stop_threads(struct moor_runtime *r)
{
    for (uint32_t i = 0; i < r->thread_count; i++) {
        struct moor_shard *s = atomic_load(&r->shards[i]);
        struct stop stop = {.message.run = run_stop, .shard = s};
        if (atomic_load(&r->thread_words[i]) == WORD_RUNNING) {
            const bool is_posted = mr_shard_post(s, &stop.message);
            MR_ASSERT(is_posted && "a running thread's inbox is open");
        }
        pthread_join(r->threads[i], NULL);
    }
    r->thread_count = 0;
}

/* ---- the end ---- */

static void free_runtime(struct moor_runtime *r)
{
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct moor_shard *s = atomic_load(&r->shards[i]);
        if (s)
            mr_shard_free(s);
    }
    if (r->tls_end)
        r->tls_end(r);
    mr_links_free(r);
    mr_racks_free(r);
    mr_hints_free(r);
    mr_resolver_destroy(r->resolver);
    if (r->fork_page)
        munmap((void *)(uintptr_t)r->fork_page, (size_t)sysconf(_SC_PAGESIZE));
    mr_options_drop(MR_OPTION_RUNTIME, &r->options, &r->heap);
    mr_log_fini(&r->log);
    mr_lock_fini(&r->lock);
    mr_lock_fini(&r->gone_lock);
    struct mr_heap heap = r->heap;
    mr_heap_free(&heap, r, sizeof *r);
    mr_heap_fini(&heap);
}

static struct moor_pool *first_pool(struct moor_runtime *r)
{
    mr_lock_lock(&r->lock);
    struct mr_list *l = mr_list_first(&r->pools);
    mr_lock_unlock(&r->lock);
    return l ? MR_CONTAINER_OF(l, struct moor_pool, link) : NULL;
}

/* After the deadline everything is cancelled; that takes a few turns more. */
static int64_t grace(int64_t deadline)
{
    return deadline == MR_NEVER ? MR_NEVER : deadline + MR_NS_PER_SEC;
}

static bool has_adopted(struct moor_runtime *r)
{
    for (uint32_t i = 0; i < MR_SHARDS_MAX; i++) {
        struct moor_shard *s = atomic_load(&r->shards[i]);
        if (s && s->is_adopted && atomic_load(&s->shared.state) != MR_SHARD_VACANT)
            return true;
    }
    return false;
}

moor_err moor_runtime_destroy(moor_runtime *r, moor_ms timeout_ms)
{
    if (!r)
        return MOOR_OK;
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    MR_FAIL_IF(moor_shard_self() || has_adopted(r), MOOR_EWRONGTHREAD);
    const int64_t deadline = mr_deadline(mr_clock_now(r->clock), timeout_ms);
    mr_lock_lock(&r->lock);
    for (struct mr_list *l = r->pools.next; l != &r->pools; l = l->next) {
        struct moor_pool *p = MR_CONTAINER_OF(l, struct moor_pool, link);
        mr_lock_unlock(&r->lock);
        moor_pool_drain(p, timeout_ms, NULL, NULL);
        mr_lock_lock(&r->lock);
    }
    mr_lock_unlock(&r->lock);
    for (struct moor_pool *p; (p = first_pool(r));) {
        MR_TRY(mr_pool_wait_drained(p, grace(deadline)));
        mr_pool_free(p);
    }
    mr_helpers_end(r);
    stop_threads(r);
    free_runtime(r);
    return MOOR_OK;
}

/* ---- looking ---- */

struct moor_shard *mr_runtime_pick(struct moor_runtime *r)
{
    const uint32_t count = atomic_load(&r->shard_count);
    const uint32_t start = atomic_fetch_add_explicit(&r->next_shard, 1, memory_order_relaxed);
    struct moor_shard *adopted = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct moor_shard *s = atomic_load(&r->shards[(start + i) % count]);
        if (!s || atomic_load_explicit(&s->shared.state, memory_order_acquire) != MR_SHARD_RUNNING)
            continue;
        if (!s->is_adopted)
            return s;
        adopted = s; /* its owner may be busy elsewhere for long */
    }
    return adopted;
}

uint32_t moor_runtime_shard_count(const moor_runtime *r)
{
    return atomic_load(&((moor_runtime *)(uintptr_t)r)->shard_count);
}

moor_shard *moor_shard_at(const moor_runtime *r, uint32_t i)
{
    return i < moor_runtime_shard_count(r) ? atomic_load(&((moor_runtime *)(uintptr_t)r)->shards[i])
                                           : NULL;
}

const char *moor_runtime_backend(const moor_runtime *r)
{
    return atomic_load_explicit(&r->has_backend, memory_order_acquire) ? r->backend : "";
}

const char *moor_runtime_backend_reason(const moor_runtime *r)
{
    return atomic_load_explicit(&r->has_backend, memory_order_acquire) ? r->backend_reason : "";
}
