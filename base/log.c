/*
 * Formatting, limiting and delivering log records. Any thread.
 * The lock guards the limits only: never held while formatting or while the program's callback
 * runs.
 */
#include "base/log.h"
#include "base/mask.h"
#include "base/span.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

void mr_log_init(struct mr_log *l, moor_log_level level,
                 void (*on_log)(void *user, int level, const char *code, const char *text),
                 void *user, const struct mr_clock *clock)
{
    memset(l, 0, sizeof *l);
    atomic_init(&l->level, level);
    l->on_log = on_log;
    l->user = user;
    l->clock = clock;
    mr_lock_init(&l->lock);
}

void mr_log_fini(struct mr_log *l)
{
    mr_lock_fini(&l->lock);
}

const char *mr_log_level_name(int level)
{
    static const char *const names[] = {"off", "error", "warning", "info", "debug"};
    return level >= 0 && level <= MOOR_LOG_DEBUG ? names[level] : "?";
}

/* Under the lock. Codes are static texts, but one text may have several addresses. */
static struct mr_log_code *find_code(struct mr_log *l, const char *code)
{
    struct mr_log_code *oldest = &l->codes[0];
    for (size_t i = 0; i < MR_LOG_CODES; i++) {
        struct mr_log_code *c = &l->codes[i];
        if (!c->code || c->code == code || strcmp(c->code, code) == 0) {
            if (!c->code)
                *c = (struct mr_log_code){.code = code, .begun_ns = -MR_LOG_WINDOW_NS};
            return c;
        }
        if (c->begun_ns < oldest->begun_ns)
            oldest = c;
    }
    *oldest = (struct mr_log_code){.code = code, .begun_ns = -MR_LOG_WINDOW_NS};
    return oldest;
}

/* Whether this record passes, and how many before it did not. */
static bool admit(struct mr_log *l, const char *code, uint32_t *out_suppressed)
{
    const int64_t now = mr_clock_now(l->clock);
    mr_lock_lock(&l->lock);
    struct mr_log_code *c = find_code(l, code);
    *out_suppressed = 0;
    if (now - c->begun_ns >= MR_LOG_WINDOW_NS) {
        *out_suppressed = c->suppressed;
        c->begun_ns = now;
        c->passed = 0;
        c->suppressed = 0;
    }
    const bool passes = c->passed < MR_LOG_BURST;
    if (passes)
        c->passed++;
    else if (c->suppressed < UINT32_MAX)
        c->suppressed++;
    mr_lock_unlock(&l->lock);
    return passes;
}

static void deliver(struct mr_log *l, int level, const char *code, const char *text)
{
    if (l->on_log)
        l->on_log(l->user, level, code, text);
    else
        fprintf(stderr, "mooring: %s: %s [%s]\n", mr_log_level_name(level), text, code);
}

void mr_log_write(struct mr_log *l, moor_log_level level, const char *code, const char *format, ...)
{
    char raw[MR_LOG_TEXT_MAX];
    char text[MR_LOG_TEXT_MAX];
    uint32_t suppressed;
    MR_DEBUG_ASSERT(level > MOOR_LOG_OFF);
    if (!mr_log_wants(l, level) || !admit(l, code, &suppressed))
        return;
    va_list args;
    va_start(args, format);
    const int len = vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    if (len < 0)
        return;
    const size_t used = (size_t)len < sizeof raw ? (size_t)len : sizeof raw - 1;
    /* Half a secret at a cut end is recognised by what is before it. */
    mr_mask((moor_span){raw, used}, text, sizeof text);
    if ((size_t)len >= sizeof raw)
        memcpy(text + (strlen(text) > 3 ? strlen(text) - 3 : 0), "...", 4);
    deliver(l, level, code, text);
    if (!suppressed)
        return;
    snprintf(text, sizeof text, "%" PRIu32 " more of these were not logged", suppressed);
    deliver(l, level, code, text);
}
