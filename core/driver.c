/*
 * The drivers a runtime knows, and what their hooks see of a link. Registry: any thread, entries set once.
 */
#include "core/driver.h"

#include "core/rack.h"

#include <ctype.h>
#include <string.h>

/* ---- the registry ---- */

static bool names(const moor_driver *d, moor_span scheme)
{
    for (const char *at = d->schemes; *at;) {
        const size_t len = strcspn(at, " ");
        if (len == scheme.len && !memcmp(at, scheme.base, len))
            return true;
        at += len + strspn(at + len, " ");
    }
    return false;
}

const moor_driver *mr_driver_find(struct moor_runtime *r, moor_span scheme)
{
    for (uint32_t i = 0; i < MOOR_DRIVERS_MAX; i++) {
        const moor_driver *d = atomic_load_explicit(&r->drivers[i], memory_order_acquire);
        if (d && names(d, scheme))
            return d;
    }
    return NULL;
}

static bool is_whole(const moor_driver *d)
{
    if (d->size < sizeof *d || !d->name || !d->schemes || !*d->schemes)
        return false;
    if (d->flags & MOOR_DRIVER_STREAM)
        return !d->connect && d->input;
    return d->connect && d->resume && d->drop;
}

static moor_err add(struct moor_runtime *r, const moor_driver *d)
{
    uint32_t at = MOOR_DRIVERS_MAX;
    for (uint32_t i = MOOR_DRIVERS_MAX; i-- > 0;) {
        const moor_driver *known = atomic_load(&r->drivers[i]);
        if (known == d)
            return MOOR_OK;
        if (!known)
            at = i;
    }
    for (const char *s = d->schemes; *s;) {
        const size_t len = strcspn(s, " ");
        MR_FAIL_IF(mr_driver_find(r, (moor_span){s, len}), MOOR_EBUSY);
        s += len + strspn(s + len, " ");
    }
    MR_FAIL_IF(at == MOOR_DRIVERS_MAX, MOOR_EBUSY);
    atomic_store_explicit(&r->drivers[at], d, memory_order_release);
    return MOOR_OK;
}

moor_err moor_driver_use(moor_runtime *r, const moor_driver *d)
{
    MR_FAIL_IF(!r || !d || !is_whole(d), MOOR_EINVAL);
    MR_FAIL_IF(mr_runtime_is_forked(r), MOOR_EFORKED);
    mr_lock_lock(&r->lock);
    const moor_err e = add(r, d);
    mr_lock_unlock(&r->lock);
    return e;
}

/* ---- queries ---- */

static int nibble(char c)
{
    const int lower = tolower((unsigned char)c);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : c >= '0' && c <= '9' ? c - '0' : -1;
}

static bool decode(const char *from, size_t len, char *buf, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = from[i];
        if (c == '%') {
            const int high = i + 2 < len ? nibble(from[i + 1]) : -1;
            const int low = i + 2 < len ? nibble(from[i + 2]) : -1;
            if (high < 0 || low < 0 || high + low == 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (n + 1 >= cap)
            return false;
        buf[n++] = c;
    }
    buf[n] = 0;
    return true;
}

bool moor_driver_query(const char *query, const char *key, char *buf, size_t cap)
{
    const size_t key_len = strlen(key);
    for (const char *at = query; at && *at;) {
        const size_t len = strcspn(at, "&");
        if (len > key_len && at[key_len] == '=' && !memcmp(at, key, key_len))
            return decode(at + key_len + 1, len - key_len - 1, buf, cap);
        at += len + (at[len] == '&');
    }
    return false;
}

/* ---- links ---- */

const moor_driver *moor_link_driver(const moor_link *l)
{
    return l->driver;
}

void *moor_link_config(const moor_link *l)
{
    return l->route->config;
}

void *moor_link_state(const moor_link *l)
{
    return l->state;
}

void moor_link_set_state(moor_link *l, void *state)
{
    l->state = state;
}

void *moor_link_native(const moor_link *l)
{
    return l->native;
}

void moor_link_set_native(moor_link *l, void *native)
{
    l->native = native;
}

moor_task_kind moor_link_task(const moor_link *l)
{
    return l->task;
}

void moor_link_flush(moor_link *l, const char *why)
{
    mr_pool_flush_because(l->pool, why);
}
