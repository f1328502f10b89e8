/*
 * Pictures of a rack: counts, why an acquire failed, who holds what. Any thread; stops nobody.
 */
#include "core/keeper.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *mr_rack_held(struct mr_rack *k, int64_t now_ns, moor_ns *out_for)
{
    const char *site = "";
    *out_for = 0;
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        if (!l || mr_link_state_of(mr_link_word(l)) != MR_LINK_LEASED)
            continue;
        const char *here = atomic_load_explicit(&l->site, memory_order_relaxed);
        const int64_t since = atomic_load_explicit(&l->seen_ns, memory_order_relaxed);
        const moor_ns held = since && since < now_ns ? now_ns - since : 0;
        if (here && (held > *out_for || !*site)) {
            site = here;
            *out_for = held;
        }
    }
    return site;
}

void mr_rack_why(struct mr_rack *k, moor_wait_reason reason, int64_t asked_ns, moor_why *out)
{
    struct moor_pool *p = k->pool;
    const int64_t now = mr_clock_now(p->runtime->clock);
    *out = (moor_why){.size = sizeof *out,
                      .reason = reason,
                      .conns_max = MR_OPTION(p->options.conns_max),
                      .waited = now - asked_ns,
                      .connect_what = ""};
    mr_lock_lock(&p->lock);
    struct mr_upstream *u = k->route->upstream;
    out->waiters = k->waiting;
    mr_lock_unlock(&p->lock);
    mr_pool_why(u, out);
    uint32_t idle = 0, leased = 0;
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        const enum mr_link_state s = l ? mr_link_state_of(mr_link_word(l)) : MR_LINK_EMPTY;
        idle += s == MR_LINK_IDLE || s == MR_LINK_STALE;
        leased += s == MR_LINK_LEASED;
    }
    out->conns_idle = idle;
    out->conns_leased = leased;
    out->held_site = mr_rack_held(k, now, &out->held_for);
}

void mr_rack_stats(struct mr_rack *k, moor_stats *sum)
{
    uint64_t uses = atomic_load_explicit(&k->gone_uses, memory_order_relaxed);
    uint64_t first = atomic_load_explicit(&k->first_uses, memory_order_relaxed);
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct moor_link *l = mr_rack_at(k, i);
        const enum mr_link_state s = l ? mr_link_state_of(mr_link_word(l)) : MR_LINK_EMPTY;
        const uint64_t n = l ? atomic_load_explicit(&l->uses, memory_order_relaxed) : 0;
        uses += n;
        first += n > 0;
        sum->conns_idle += s == MR_LINK_IDLE || s == MR_LINK_STALE;
        sum->conns_leased += s == MR_LINK_LEASED;
    }
    sum->acquires += uses;
    sum->acquires_reused += uses - first;
    sum->acquires_failed += atomic_load_explicit(&k->failed, memory_order_relaxed);
    sum->leases_held_long += atomic_load_explicit(&k->leaks, memory_order_relaxed);
    mr_lock_lock(&k->pool->lock);
    sum->waiters += k->waiting;
    mr_lock_unlock(&k->pool->lock);
}

void mr_rack_waits(struct mr_rack *k, struct mr_histogram_snapshot *to)
{
    moor_stats all = {0};
    const uint64_t before = to->count;
    mr_rack_stats(k, &all);
    mr_histogram_read(&k->waits, to);
    const uint64_t waited = to->count - before;
    if (all.acquires > waited) {
        to->buckets[0] += all.acquires - waited;
        to->count += all.acquires - waited;
    }
}

/* ---- JSON ---- */

struct writer {
    char *buf;
    size_t cap, len;
};

static void put(struct writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const size_t left = w->len < w->cap ? w->cap - w->len : 0;
    const int n = vsnprintf(left ? w->buf + w->len : NULL, left, format, args);
    va_end(args);
    w->len += n > 0 ? (size_t)n : 0;
}

/* Bytes of the UTF-8 character at c; 0: none. */
static int utf8_len(const unsigned char *c)
{
    const int n = *c < 0xc2 ? 0 : *c < 0xe0 ? 2 : *c < 0xf0 ? 3 : *c < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    const bool is_bad = (*c == 0xe0 && c[1] < 0xa0) || (*c == 0xed && c[1] > 0x9f) ||
                        (*c == 0xf0 && c[1] < 0x90) || (*c == 0xf4 && c[1] > 0x8f);
    return is_bad ? 0 : n;
}

/* A server's words may be cut anywhere and in any encoding: what is no UTF-8 is replaced. */
static void put_text(struct writer *w, const char *key, const char *text)
{
    put(w, "\"%s\":\"", key);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        const int len = utf8_len(c);
        if (len) {
            put(w, "%.*s", len, (const char *)c);
            c += len - 1;
        } else if (*c >= 0x80)
            put(w, "\\ufffd");
        else if (*c == '"' || *c == '\\')
            put(w, "\\%c", *c);
        else if (*c < ' ')
            put(w, "\\u%04x", *c);
        else
            put(w, "%c", *c);
    }
    put(w, "\"");
}

static const char *const state_names[] = {"empty", "idle", "stale", "leased", "kept"};

/* What is told of one link, read under the lock and printed outside. */
struct seen {
    uint64_t word, uses;
    int64_t born_ns, seen_ns, alive_ns;
    const char *site;
    bool is_worn;
    char text[160];
};

static bool look(struct mr_rack *k, uint32_t i, struct seen *out)
{
    mr_lock_lock(&k->pool->lock);
    struct moor_link *l = mr_rack_at(k, i);
    if (l) {
        out->word = mr_link_word(l);
        out->uses = atomic_load_explicit(&l->uses, memory_order_relaxed);
        out->born_ns = atomic_load_explicit(&l->born_ns, memory_order_relaxed);
        out->seen_ns = atomic_load_explicit(&l->seen_ns, memory_order_relaxed);
        out->alive_ns = atomic_load_explicit(&l->alive_ns, memory_order_relaxed);
        out->site = atomic_load_explicit(&l->site, memory_order_relaxed);
        out->is_worn = atomic_load_explicit(&l->is_worn, memory_order_relaxed);
        memcpy(out->text, l->text, sizeof out->text);
    }
    mr_lock_unlock(&k->pool->lock);
    return l;
}

static void put_links(struct writer *w, struct mr_rack *k, int64_t now)
{
    bool is_first = true;
    put(w, ",\"connections\":[");
    for (uint32_t i = 0; i < mr_rack_used(k); i++) {
        struct seen s;
        if (!look(k, i, &s))
            continue;
        const enum mr_link_state state = mr_link_state_of(s.word);
        const bool is_known = state < MR_LINK_STATES;
        put(w, "%s{\"id\":%u,\"state\":\"%s\",\"for_ms\":%lld,\"age_ms\":%lld,\"uses\":%llu",
            is_first ? "" : ",", i, is_known ? state_names[state] : "?",
            (long long)(s.seen_ns ? (now - s.seen_ns) / MR_NS_PER_MS : 0),
            (long long)((now - s.born_ns) / MR_NS_PER_MS), (unsigned long long)s.uses);
        put(w, ",\"proven_ms_ago\":%lld,\"retires\":%s,",
            (long long)((now - s.alive_ns) / MR_NS_PER_MS), s.is_worn ? "true" : "false");
        put_text(w, "site", s.site ? s.site : "");
        put(w, ",");
        put_text(w, "last_error", s.text);
        put(w, "}");
        is_first = false;
    }
    put(w, "]");
}

void moor_pool_snapshot(const moor_pool *p, char *buf, size_t cap, size_t *out_len)
{
    struct writer w = {buf, cap, 0};
    static const char *const pool_states[] = {"open", "draining", "drained"};
    moor_pool *q = (moor_pool *)(uintptr_t)p;
    const int64_t now = mr_clock_now(p->runtime->clock);
    moor_stats s;
    moor_stats_read(p, &s);
    const uint32_t gate = p->rack ? atomic_load(&q->rack->gate) : 0;
    put(&w, "{");
    put_text(&w, "pool", p->name);
    const uint32_t pool_state = atomic_load(&q->state);
    put(&w, ",\"state\":\"%s\"",
        pool_state == MR_POOL_OPEN && gate & MR_RACK_PAUSED ? "paused" : pool_states[pool_state]);
    put(&w, ",\"generation\":%u,\"conns_max\":%u", atomic_load(&q->generation),
        MR_OPTION(p->options.conns_max));
#define X(name, text) put(&w, ",\"" #name "\":%llu", (unsigned long long)s.name);
    MOOR_STATS(X)
#undef X
    moor_why why = {0};
    if (p->rack)
        mr_rack_why(q->rack, MOOR_WAIT_NONE, now, &why);
    else if (p->upstream)
        mr_pool_why(p->upstream, &why);
    put(&w, ",");
    put_text(&w, "last_connect_error", why.connect_err ? moor_err_name(why.connect_err) : "");
    put(&w, ",");
    put_text(&w, "last_connect_text", why.connect_text);
    if (p->rack)
        put_links(&w, q->rack, now);
    put(&w, "}");
    if (out_len)
        *out_len = w.len;
}

const char *moor_why_text(const moor_why *why, char *buf, size_t cap)
{
    struct writer w = {buf, cap, 0};
    put(&w, "%s; waited %lld ms; %u open (at most %u): %u idle, %u leased, %u being made; %u wait",
        moor_wait_reason_text(why->reason), (long long)(why->waited / MR_NS_PER_MS),
        why->conns_open, why->conns_max, why->conns_idle, why->conns_leased, why->dials,
        why->waiters);
    if (why->connect_err)
        put(&w, "; last connect: %s: %s%s%s%s%s", moor_err_name(why->connect_err),
            why->connect_what ? why->connect_what : "", why->connect_errno ? ": " : "",
            why->connect_errno ? strerrordesc_np(why->connect_errno) : "",
            why->connect_text[0] ? ": " : "", why->connect_text);
    if (why->held_site && *why->held_site)
        put(&w, "; held for longest: %s, %lld ms", why->held_site,
            (long long)(why->held_for / MR_NS_PER_MS));
    return buf;
}
