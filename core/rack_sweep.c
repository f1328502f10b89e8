/*
 * What time does to links: the watch over those that lie idle, checks, ages, surplus, leases held for long.
 * The keeper's thread, by one timer: soon again while anything changes, slowly while nothing does. It claims
 * a link by the same compare-and-swap as everybody before it touches it.
 */
#include "core/keeper.h"

#include <poll.h>
#include <string.h>

#define GAP_MIN_NS MR_SWEEP_MIN_NS
#define GAP_MAX_NS MR_NS_PER_SEC
#define LEAP_NS                                                                                    \
    (30 * MR_NS_PER_SEC) /* the sweep came so late: the machine slept, or the shard hung */

struct pass {
    struct mr_rack *rack;
    const moor_pool_options *o;
    int64_t now_ns;
    int64_t next_ns; /* the earliest that something is due */
    uint32_t idle, leased;
    bool has_changed;
};

static void due_by(struct pass *p, int64_t at_ns)
{
    if (at_ns < p->next_ns)
        p->next_ns = at_ns;
}

static int64_t after(int64_t from_ns, moor_ms ms)
{
    return mr_deadline(from_ns, ms);
}

/* ---- the watch ---- */

/* The descriptor of an idle link became readable: the peer ended it, or its library has something to take in. An
 * event of one that is leased by now is its holder's affair. */
static void on_readable(void *ctx, uint32_t events)
{
    struct moor_link *l = ctx;
    struct mr_rack *k = l->rack;
    l->watch_id = 0;
    (void)events;
    const uint64_t word = mr_link_word(l);
    if (!mr_link_lies_idle(word) || !mr_link_claim(l, word, MR_LINK_KEPT)) {
        mr_keeper_sweep_by(k, mr_shard_now(mr_keeper_shard(k)) + GAP_MIN_NS);
        return;
    }
    const moor_verdict v = l->driver->idle ? l->driver->idle(l) : MOOR_VERDICT_DISCARD;
    if (v == MOOR_VERDICT_KEEP) {
        mr_rack_put(k, l);
        mr_keeper_sweep_by(k, mr_shard_now(mr_keeper_shard(k)) + GAP_MIN_NS);
        return;
    }
    MR_STAT_ADD(k->keeper->local, conns_retired, 1);
    if (!atomic_load_explicit(&l->uses, memory_order_relaxed))
        mr_pool_note_wasted(l->route->upstream, mr_shard_now(mr_keeper_shard(k)),
                            mr_loop_random(mr_keeper_loop(k)));
    if (v == MOOR_VERDICT_FLUSH)
        mr_pool_flush_of(k->pool, l->generation, "an idle connection was told so");
    mr_keeper_close(l, "the peer ended it");
}

/* KEPT: nobody can close the descriptor meanwhile. */
static void watch(struct pass *p, struct moor_link *l)
{
    const int fd = l->driver->fd ? l->driver->fd(l) : -1;
    if (fd < 0 || l->watch_id)
        return;
    l->watch_id = mr_io_poll(mr_keeper_loop(p->rack)->io, fd, POLLIN | POLLRDHUP, on_readable, l);
}

/* ---- one link ---- */

static bool has_watch(const struct moor_link *l)
{
    return l->watch_id || !l->driver->fd;
}

/* Why it is to close now; NULL: it is not. */
static const char *why_close(struct pass *p, struct moor_link *l, int64_t idle_since)
{
    const uint32_t uses_max = atomic_load_explicit(&p->rack->uses_max, memory_order_relaxed);
    if (l->generation != atomic_load_explicit(&p->rack->pool->generation, memory_order_relaxed))
        return "the pool was flushed";
    if (p->now_ns >= l->expires_ns)
        return "reached its maximum lifetime";
    if (uses_max && atomic_load_explicit(&l->uses, memory_order_relaxed) >= uses_max)
        return "reached its maximum uses";
    if (atomic_load_explicit(&l->is_worn, memory_order_relaxed))
        return "not reusable";
    if (p->now_ns >= after(idle_since, MR_OPTION(p->o->idle_timeout_ms)) &&
        p->idle > MR_OPTION(p->o->conns_min_idle))
        return "idle for longer than idle_timeout_ms";
    return NULL;
}

static void look_at_idle(struct pass *p, struct moor_link *l, uint64_t word)
{
    const int64_t since = atomic_load_explicit(&l->seen_ns, memory_order_relaxed);
    const int64_t alive = atomic_load_explicit(&l->alive_ns, memory_order_relaxed);
    const int64_t proven = alive > since ? alive : since;
    const char *why = why_close(p, l, since);
    const bool has_check = l->driver->check;
    const int64_t check_at = has_check ? after(proven, MR_OPTION(p->o->check_every_ms)) : MR_NEVER;
    const int64_t stale_at = has_check ? after(proven, MR_OPTION(p->o->check_after_ms)) : MR_NEVER;
    const bool is_new = p->now_ns < since + GAP_MIN_NS;
    due_by(p, l->expires_ns);
    due_by(p, check_at);
    if (p->idle > MR_OPTION(p->o->conns_min_idle))
        due_by(p, after(since, MR_OPTION(p->o->idle_timeout_ms)));
    if (mr_link_state_of(word) == MR_LINK_IDLE)
        due_by(p, stale_at);
    const bool is_deaf = !has_watch(l) && l->deaf_word != word;
    if (is_deaf)
        due_by(p, since + GAP_MIN_NS);
    const bool is_stale = p->now_ns >= stale_at && mr_link_state_of(word) == MR_LINK_IDLE;
    const bool is_due = p->now_ns >= check_at || (has_check && l->is_doubted);
    const bool wants_watch = !is_new && is_deaf;
    if (!why && !is_due && !is_stale && !wants_watch)
        return;
    if (!mr_link_claim(l, word, MR_LINK_KEPT))
        return;
    if (why) {
        p->idle--;
        mr_keeper_close(l, why);
        return;
    }
    if (is_due) {
        l->is_doubted = false;
        mr_keeper_check(p->rack, l);
        return;
    }
    watch(p, l);
    mr_link_set(l,
                is_stale || mr_link_state_of(word) == MR_LINK_STALE ? MR_LINK_STALE : MR_LINK_IDLE);
    /* It lay there all the time. */
    l->seen_word = mr_link_word(l);
    if (!has_watch(l))
        l->deaf_word = l->seen_word;
    if (is_stale)
        atomic_store(&p->rack->keeper->is_full, false);
    if (atomic_load(&p->rack->gate))
        mr_keeper_kick(p->rack);
}

/* ---- leases held for long ---- */

static void tell_held(struct pass *p, struct moor_link *l, uint64_t word, int64_t held_ns)
{
    l->told_word = word;
    l->told_site = atomic_load_explicit(&l->site, memory_order_relaxed);
    l->told_ns = p->now_ns - held_ns;
    atomic_fetch_add_explicit(&p->rack->leaks, 1, memory_order_relaxed);
    mr_pool_tell_lease(l->route->upstream, l->told_site, held_ns, false);
}

/* It came back, or is gone. */
void mr_keeper_tell_returned(struct moor_link *l)
{
    if (!l->told_word)
        return;
    l->told_word = 0;
    mr_pool_tell_lease(l->route->upstream, l->told_site,
                       mr_clock_now(l->pool->runtime->clock) - l->told_ns, true);
}

static void look_at_leased(struct pass *p, struct moor_link *l, uint64_t word)
{
    const int64_t since = atomic_load_explicit(&l->seen_ns, memory_order_relaxed);
    p->leased++;
    if (atomic_load_explicit(&l->route->upstream->wasted, memory_order_relaxed))
        atomic_store(&l->route->upstream->wasted, 0);
    if (p->now_ns >= l->expires_ns)
        mr_link_wear(l);
    if (l->told_word == word)
        return;
    const int64_t at = after(since, MR_OPTION(p->o->leak_after_ms));
    due_by(p, at);
    if (p->now_ns >= at)
        tell_held(p, l, word, p->now_ns - since);
}

static void look_at(struct pass *p, struct moor_link *l)
{
    const uint64_t word = mr_link_word(l);
    if (word != l->seen_word) {
        mr_keeper_tell_returned(l);
        l->seen_word = word;
        l->is_doubted = false; /* somebody used it since */
        atomic_store_explicit(&l->seen_ns, p->now_ns, memory_order_relaxed);
        p->has_changed = true;
    }
    switch (mr_link_state_of(word)) {
    case MR_LINK_IDLE:
    case MR_LINK_STALE:
        look_at_idle(p, l, word);
        break;
    case MR_LINK_LEASED:
        look_at_leased(p, l, word);
        break;
    default:
        break;
    }
}

/* ---- which goes first ---- */

struct choice {
    struct moor_link *link;
    uint64_t word;
};

/* Smaller goes first. */
static int64_t rank(const struct mr_rack *k, const struct moor_link *l)
{
    const char *eviction = MR_OPTION(k->pool->options.eviction);
    struct moor_link *m = (struct moor_link *)(uintptr_t)l;
    if (!strcmp(eviction, "fifo"))
        return atomic_load_explicit(&m->born_ns, memory_order_relaxed);
    if (!strcmp(eviction, "lru"))
        return (int64_t)atomic_load_explicit(&m->uses, memory_order_relaxed);
    return atomic_load_explicit(&m->seen_ns, memory_order_relaxed);
}

#define ASKED_MAX 64 /* idle connections shown to the user's function at a time */

static uint32_t gather(struct mr_rack *k, struct choice *to, uint32_t cap)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < mr_rack_used(k) && n < cap; i++) {
        struct moor_link *l = mr_rack_at(k, i);
        const uint64_t word = l ? mr_link_word(l) : 0;
        if (l && mr_link_lies_idle(word))
            to[n++] = (struct choice){l, word};
    }
    return n;
}

static uint32_t choose(struct mr_rack *k, const struct choice *from, uint32_t n)
{
    const moor_pool_hooks *hooks = &k->pool->options.hooks;
    const int64_t now = mr_shard_now(mr_keeper_shard(k));
    if (hooks->evict) {
        moor_idle_conn shown[ASKED_MAX];
        for (uint32_t i = 0; i < n; i++)
            shown[i] = (moor_idle_conn){
                .age = now - atomic_load_explicit(&from[i].link->born_ns, memory_order_relaxed),
                .idle = now - atomic_load_explicit(&from[i].link->seen_ns, memory_order_relaxed),
                .uses = atomic_load_explicit(&from[i].link->uses, memory_order_relaxed),
            };
        const size_t at = hooks->evict(hooks->evict_user, shown, n);
        return at < n ? (uint32_t)at : 0;
    }
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (rank(k, from[i].link) < rank(k, from[best].link))
            best = i;
    return best;
}

void mr_keeper_evict(struct mr_rack *k, uint32_t count, const char *why)
{
    while (count--) {
        struct choice all[ASKED_MAX];
        const uint32_t n = gather(k, all, ASKED_MAX);
        if (!n)
            return;
        const struct choice *c = &all[choose(k, all, n)];
        if (mr_link_claim(c->link, c->word, MR_LINK_KEPT))
            mr_keeper_close(c->link, why);
    }
}

/* ---- the whole ---- */

/* Demand falls: an eighth of what was not needed since the last time goes, never all at once. */
static void decay(struct pass *p)
{
    struct mr_keeper *b = p->rack->keeper;
    if (p->leased > b->busy_max)
        b->busy_max = p->leased;
    if (MR_OPTION(p->o->surplus_decay_ms) < 0)
        return;
    if (p->now_ns < b->decay_ns) {
        due_by(p, b->decay_ns);
        return;
    }
    const uint32_t open = p->idle + p->leased;
    const uint32_t need = b->busy_max + MR_OPTION(p->o->conns_min_idle);
    if (b->decay_ns && open > need && open > b->warm)
        mr_keeper_evict(p->rack, (open - need + 7) / 8, "not needed any more");
    b->busy_max = p->leased;
    b->decay_ns = after(p->now_ns, MR_OPTION(p->o->surplus_decay_ms));
    if (open > MR_OPTION(p->o->conns_min_idle))
        due_by(p, b->decay_ns);
}

/* A machine that slept finds its connections forgotten by everyone between it and the peer. */
static void check_clock(struct pass *p)
{
    struct mr_keeper *b = p->rack->keeper;
    const int64_t wall = mr_clock_wall(p->rack->pool->runtime->clock) * MR_NS_PER_SEC;
    const int64_t slept = b->swept_ns ? (wall - b->wall_ns) - (p->now_ns - b->swept_ns) : 0;
    b->wall_ns = wall;
    b->swept_ns = p->now_ns;
    if (slept < LEAP_NS)
        return;
    struct moor_pool *pool = p->rack->pool;
    mr_log(
        &pool->runtime->log, MOOR_LOG_WARN, "pool.clock_leap",
        "pool %s: %lld s passed unseen, as if the machine had slept: idle connections are checked",
        pool->name, (long long)(slept / MR_NS_PER_SEC));
    mr_pool_event(pool, NULL, MOOR_EVENT_CLOCK_LEAP, NULL);
    for (uint32_t i = 0; i < mr_rack_used(p->rack); i++) {
        struct moor_link *l = mr_rack_at(p->rack, i);
        if (l && mr_link_word(l) == l->seen_word)
            l->is_doubted = true;
    }
}

/* A cap was lowered: what is idle goes, what is leased when it comes back. */
static void shrink(struct pass *p)
{
    const uint32_t surplus = mr_keeper_surplus(p->rack);
    if (surplus)
        mr_keeper_evict(p->rack, surplus, "above conns_max");
}

static int64_t next_gap(int64_t gap_ns, bool has_changed)
{
    if (has_changed)
        return GAP_MIN_NS;
    return gap_ns * 2 < GAP_MAX_NS ? gap_ns * 2 : GAP_MAX_NS;
}

void mr_keeper_fire_sweep(struct mr_timer *t, int64_t now_ns)
{
    struct mr_keeper *b = MR_CONTAINER_OF(t, struct mr_keeper, sweep);
    struct mr_rack *k = b->rack;
    if (b->is_over)
        return;
    struct pass p = {
        .rack = k, .o = &k->pool->options, .now_ns = now_ns, .next_ns = now_ns + GAP_MAX_NS};
    p.idle = mr_keeper_count_idle(k);
    check_clock(&p);
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        if (l)
            look_at(&p, l);
    }
    shrink(&p);
    decay(&p);
    const bool gives = mr_pool_wants_room(k->pool);
    b->sweep_gap_ns = next_gap(b->sweep_gap_ns, p.has_changed || gives);
    if (p.idle < MR_OPTION(p.o->conns_min_idle) || (gives && p.idle))
        mr_keeper_kick(k);
    /* What is due and could not be done now is not tried in each turn. */
    int64_t at = now_ns + b->sweep_gap_ns;
    if (p.next_ns < at)
        at = p.next_ns > now_ns + MR_NS_PER_MS ? p.next_ns : now_ns + MR_NS_PER_MS;
    if (b->links)
        mr_keeper_sweep_by(k, at);
}

void mr_keeper_sweep_by(struct mr_rack *k, int64_t at_ns)
{
    struct mr_keeper *b = k->keeper;
    if (b->is_over)
        return;
    if (!mr_timer_is_armed(&b->sweep) || at_ns < b->sweep.at_ns)
        mr_loop_timer(mr_keeper_loop(k), &b->sweep, at_ns);
}
