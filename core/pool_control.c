/*
 * Steering an open pool: pause and resume, one option at a time, warm-up. Any thread; warm-up sleeps.
 */
#include "core/keeper.h"

#include "base/futex.h"
#include "base/options.h"
#include "core/pool_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- pause ---- */

moor_err moor_pool_pause(moor_pool *p, bool fail_waiters)
{
    static const moor_fault paused = {
        .err = MOOR_ECLOSED, .safe_to_retry = true, .what = "the pool is paused"};
    MR_FAIL_IF(!p || !p->rack, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    MR_FAIL_IF(!mr_pool_is_open(p), MOOR_ECLOSED);
    mr_lock_lock(&p->lock);
    p->rack->is_pause_failing = fail_waiters;
    const bool was_paused = atomic_load(&p->rack->gate) & MR_RACK_PAUSED;
    mr_lock_unlock(&p->lock);
    mr_rack_shut(p->rack, MR_RACK_PAUSED);
    if (fail_waiters)
        mr_rack_fail_waiters(p->rack, MOOR_WAIT_PAUSED, &paused);
    if (!was_paused)
        mr_pool_event(p, NULL, MOOR_EVENT_POOL_PAUSED, NULL);
    mr_keeper_kick(p->rack);
    return MOOR_OK;
}

void moor_pool_resume(moor_pool *p)
{
    if (!p || !p->rack || mr_runtime_is_forked(p->runtime))
        return;
    mr_lock_lock(&p->lock);
    const bool was_paused =
        atomic_fetch_and(&p->rack->gate, ~(uint32_t)MR_RACK_PAUSED) & MR_RACK_PAUSED;
    mr_lock_unlock(&p->lock);
    if (!was_paused)
        return;
    mr_pool_event(p, NULL, MOOR_EVENT_POOL_RESUMED, NULL);
    mr_rack_note_reason(p->rack, MOOR_WAIT_CONNECTING); /* until the keeper knows better */
    mr_rack_serve(p->rack);
    mr_keeper_kick(p->rack);
}

/* ---- options ---- */

/* Read each time they matter, so a change counts from then on. Others are used up when a pool opens. */
static const char *const live[] = {
    "conns_max",
    "conns_min_idle",
    "conns_max_pool",
    "dials_max",
    "waiters_max",
    "uses_max",
    "connect_timeout_ms",
    "acquire_timeout_ms",
    "total_timeout_ms",
    "first_byte_timeout_ms",
    "idle_timeout_ms",
    "lifetime_max_ms",
    "lifetime_jitter_percent",
    "check_after_ms",
    "check_every_ms",
    "check_on_return",
    "eviction",
    "surplus_decay_ms",
    "leak_after_ms",
    "acquire_spin_us",
    "backoff_min_ms",
    "backoff_max_ms",
    "replays_max",
    "steal_keep",
};

static const struct mr_option *find_live(const char *name)
{
    for (size_t i = 0; i < sizeof live / sizeof *live; i++)
        for (size_t j = 0; !strcmp(live[i], name) && j < mr_option_count; j++)
            if (mr_options[j].scope == MR_OPTION_POOL && !strcmp(mr_options[j].field, name))
                return &mr_options[j];
    return NULL;
}

static void apply_to_gates(struct moor_pool *p)
{
    const moor_pool_options *o = &p->options;
    for (size_t i = 0; i < MR_ORIGIN_BUCKETS; i++)
        for (struct mr_upstream *u = atomic_load(&p->upstreams[i]); u; u = u->next) {
            u->gate.limits.conns_max = o->conns_max;
            atomic_store(&u->is_above, u->gate.conns > o->conns_max);
            u->gate.limits.dials_max = o->dials_max;
            u->gate.limits.backoff_min_ns = o->backoff_min_ms * MR_NS_PER_MS;
            u->gate.limits.backoff_max_ns =
                (o->backoff_max_ms > o->backoff_min_ms ? o->backoff_max_ms : o->backoff_min_ms) *
                MR_NS_PER_MS;
        }
}

static void apply_to_rack(struct moor_pool *p)
{
    mr_rack_read_options(p->rack);
    atomic_store(&p->rack->keeper->is_full, false);
}

/* Readers look at an option without the lock: each is one aligned word, written whole. */
static void write_option(const struct mr_option *o, moor_pool_options *to, struct mr_option_value v)
{
    char *at = (char *)to + o->offset;
    if (mr_option_is_text(o))
        __atomic_store_n((const char **)(void *)at, mr_eviction_text(v.text), __ATOMIC_RELAXED);
    else if (o->kind == MR_OPTION_BOOL)
        __atomic_store_n((bool *)(void *)at, v.number != 0, __ATOMIC_RELAXED);
    else if (o->size == sizeof(uint32_t))
        __atomic_store_n((uint32_t *)(void *)at, (uint32_t)v.number, __ATOMIC_RELAXED);
    else
        __atomic_store_n((int64_t *)(void *)at, v.number, __ATOMIC_RELAXED);
}

static moor_err refuse(char *why, size_t cap, const char *option, const char *value,
                       const char *what, const char *more)
{
    if (cap)
        snprintf(why, cap, "%s=\"%s\": %s%s", option, value, what, more);
    return MOOR_EINVAL;
}

moor_err moor_pool_set(moor_pool *p, const char *option, const char *value, char *why,
                       size_t why_cap)
{
    MR_FAIL_IF(!p || !option || !value, MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(p->runtime), MOOR_EFORKED);
    const struct mr_option *o = find_live(option);
    if (!o)
        return refuse(why, why_cap, option, value, "not an option that can change in an open pool",
                      "");
    struct mr_option_value v;
    enum mr_option_verdict verdict = mr_option_parse(o, value, &v);
    if (!verdict)
        verdict = mr_option_check(o, v);
    char range[128];
    if (verdict)
        return refuse(why, why_cap, option, value,
                      verdict == MR_OPTION_MALFORMED ? "is malformed: " : "is out of range: ",
                      mr_option_range(o, range, sizeof range));
    mr_lock_lock(&p->lock);
    write_option(o, &p->options, v);
    apply_to_gates(p);
    if (p->rack)
        apply_to_rack(p);
    mr_lock_unlock(&p->lock);
    mr_pool_kick_all(p);
    return MOOR_OK;
}

/* ---- warm-up ---- */

#define LOOK_NS (20 * MR_NS_PER_MS)

static bool has_failed(struct moor_pool *p, uint64_t failed_before, moor_err *out_err)
{
    moor_stats s;
    moor_stats_read(p, &s);
    if (s.dials_failed == failed_before || s.conns_open)
        return false;
    moor_why why;
    mr_rack_why(p->rack, MOOR_WAIT_CONNECTING, 0, &why);
    *out_err = why.connect_err;
    return why.connect_err != MOOR_OK;
}

/* Of several at once, the one that wants most has its way. */
static void ask_for(struct mr_rack *k, uint32_t wanted)
{
    uint32_t before = atomic_load(&k->keeper->warm);
    while (before < wanted)
        if (atomic_compare_exchange_weak(&k->keeper->warm, &before, wanted)) {
            mr_keeper_kick(k);
            return;
        }
}

static moor_err warm_up(moor_pool *p, uint32_t count, moor_ms timeout_ms,
                        void (*progress)(void *user, uint32_t ready, uint32_t wanted), void *user)
{
    struct mr_rack *k = p->rack;
    const struct mr_clock *clock = p->runtime->clock;
    const int64_t deadline = mr_deadline(mr_clock_now(clock), timeout_ms);
    const uint32_t max = p->options.conns_max;
    uint32_t wanted = count ? count : p->options.conns_min_idle;
    wanted = wanted < max ? wanted : max;
    moor_stats before;
    moor_stats_read(p, &before);
    uint32_t told = UINT32_MAX;
    moor_err e = MOOR_OK;
    for (;;) {
        ask_for(k, wanted); /* again: another may have ended its own since */
        const uint32_t open = atomic_load(&k->open);
        if (open != told && progress)
            progress(user, open < wanted ? open : wanted, wanted);
        told = open;
        if (open >= wanted || has_failed(p, before.dials_failed, &e))
            break;
        const int64_t now = mr_clock_now(clock);
        e = !mr_pool_is_open(p) ? MOOR_ECLOSED : now >= deadline ? MOOR_ETIMEDOUT : MOOR_OK;
        if (e)
            break;
        struct moor_shard *s = moor_shard_self();
        const int64_t until = now + LOOK_NS < deadline ? now + LOOK_NS : deadline;
        if (s)
            (void)!moor_shard_wait(s, (until - now) / MR_NS_PER_MS);
        else
            (void)!mr_futex_wait(&k->open, open, until);
    }
    atomic_store(&k->keeper->warm, 0);
    return e;
}

moor_err moor_pool_warm(moor_pool *p, uint32_t count, moor_ms timeout_ms,
                        void (*progress)(void *user, uint32_t ready, uint32_t wanted), void *user)
{
    MR_FAIL_IF(!p || !p->rack, MOOR_EINVAL);
    MR_TRY(mr_check_blocking(p->runtime));
    /* Whoever closes the pool frees it when this has heard of it and left. */
    MR_FAIL_IF(!mr_pool_hold_end(p), MOOR_ECLOSED);
    const moor_err e = warm_up(p, count, timeout_ms, progress, user);
    mr_pool_unhold_end(p);
    return e;
}
