/*
 * Misbehaviour on HTTP/1, one function each: writes the exact bytes, waits and ends of a faulty
 * server as a script. Runs on the conn's loop; sends nothing itself.
 */
#include "conn.h"

enum { MISSING_BYTES = 1000 };

static void say_head(struct script *s, uint64_t length)
{
    buf_add_text(&s->text, "HTTP/1.1 200 OK\r\nContent-Length: ");
    buf_add_u64(&s->text, length);
    buf_add_text(&s->text, "\r\n\r\n");
    script_add_text(s);
}

static void say_ok(struct script *s)
{
    script_say(s, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
}

/* Promises more than it sends; the caller adds how it breaks off. */
static struct script *say_part(struct conn *c, uint64_t length)
{
    struct script *s = &c->h1.script;
    say_head(s, length + MISSING_BYTES);
    script_add(s, STEP_PATTERN, length);
    return s;
}

/* `how` is STEP_CLOSE or STEP_DROP. */
static void end(struct conn *c, enum step_kind how)
{
    if (c->h1.answer.notifies)
        script_add(&c->h1.script, STEP_NOTIFY, 0);
    script_add(&c->h1.script, how, 0);
}

static void write_reset(struct conn *c)
{
    script_add(say_part(c, c->h1.answer.after), STEP_RESET, 0);
}

static void write_reset_before(struct conn *c)
{
    script_add(&c->h1.script, STEP_RESET, 0);
}

static void write_stall(struct conn *c)
{
    script_add(say_part(c, c->h1.answer.after), STEP_STALL, 0);
}

static void write_stall_head(struct conn *c)
{
    script_add(&c->h1.script, STEP_STALL, 0);
}

static void write_garbage(struct conn *c)
{
    struct script *s = &c->h1.script;
    const struct span bytes = SPAN("\x16\x03\x01\x00\xff\x00garbage, not HTTP\r\n\r\n");
    buf_add_span(&s->text, bytes);
    script_add_text(s);
    end(c, STEP_CLOSE);
}

static void write_huge_headers(struct conn *c)
{
    struct script *s = &c->h1.script;
    script_say(s, "HTTP/1.1 200 OK\r\nX-Huge: ");
    script_add(s, STEP_FILL, c->h1.answer.amount);
    script_say(s, "\r\nContent-Length: 3\r\n\r\nok\n");
}

static void write_close_mid_head(struct conn *c)
{
    script_say(&c->h1.script, "HTTP/1.1 200 OK\r\nContent-Le");
    end(c, STEP_CLOSE);
}

static void write_extra(struct conn *c)
{
    say_ok(&c->h1.script);
    script_add(&c->h1.script, STEP_FILL, c->h1.answer.amount);
}

static void write_unasked(struct conn *c)
{
    struct script *s = &c->h1.script;
    say_ok(s);
    script_add(s, STEP_WAIT, c->h1.answer.after);
    script_say(s, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nunasked\n");
}

static void write_close_idle(struct conn *c)
{
    say_ok(&c->h1.script);
    script_add(&c->h1.script, STEP_WAIT, c->h1.answer.after);
    end(c, STEP_DROP);
}

static void write_reset_idle(struct conn *c)
{
    say_ok(&c->h1.script);
    script_add(&c->h1.script, STEP_WAIT, c->h1.answer.after);
    script_add(&c->h1.script, STEP_RESET, 0);
}

static void write_smuggle(struct conn *c)
{
    script_say(&c->h1.script,
               "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
               "\r\n5\r\nhello\r\n0\r\n\r\n");
}

static void write_cl_conflict(struct conn *c)
{
    script_say(&c->h1.script,
               "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!");
}

static void write_eof_body(struct conn *c)
{
    script_say(&c->h1.script, "HTTP/1.1 200 OK\r\n\r\n");
    script_add(&c->h1.script, STEP_PATTERN, c->h1.answer.amount);
    end(c, STEP_CLOSE);
}

static void write_short(struct conn *c)
{
    (void)say_part(c, c->h1.answer.amount);
    end(c, STEP_CLOSE);
}

static void write_1xx(struct conn *c)
{
    struct script *s = &c->h1.script;
    for (uint64_t i = 0; i < c->h1.answer.amount; i++)
        buf_add_text(&s->text, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
    script_add_text(s);
    say_ok(s);
}

static void write_split(struct conn *c)
{
    struct script *s = &c->h1.script;
    say_head(s, c->h1.answer.amount);
    script_add(s, STEP_PATTERN, c->h1.answer.amount);
    for (unsigned i = 0; i < s->count; i++) {
        s->steps[i].piece = 1;
        s->steps[i].flush_pieces = true;
        s->steps[i].interval_ms = (uint32_t)c->h1.answer.after;
    }
}

static void write_early(struct conn *c)
{
    answer_refuse(&c->h1.answer, 413);
    h1_write_answer(c);
}

/* Columns: name, usage, default of after=, default of bytes= or count=, flags. */
static const struct misdeed misdeeds[] = {
    {"reset", "reset?after=N          RST after N bytes of the body", 100, 0, 0, write_reset},
    {"reset-before", "reset-before           RST instead of an answer", 0, 0, MISDEED_AT_ONCE,
     write_reset_before},
    {"stall", "stall?after=N          stops after N bytes of the body", 100, 0, 0, write_stall},
    {"stall-head", "stall-head             never answers", 0, 0, MISDEED_AT_ONCE, write_stall_head},
    {"garbage", "garbage                bytes that are not HTTP, then FIN", 0, 0, 0, write_garbage},
    {"huge-headers", "huge-headers?bytes=N   a header line of N bytes", 0, 1048576, 0,
     write_huge_headers},
    {"close-mid-head", "close-mid-head         FIN inside the head, no close_notify", 0, 0,
     MISDEED_TRUNCATES, write_close_mid_head},
    {"extra", "extra?bytes=N          N bytes behind the answer", 0, 10, 0, write_extra},
    {"unasked", "unasked?after=MS       a second answer to one request", 20, 0, 0, write_unasked},
    {"close-idle", "close-idle?after=MS    FIN on the idle conn", 20, 0, 0, write_close_idle},
    {"reset-idle", "reset-idle?after=MS    RST on the idle conn", 20, 0, 0, write_reset_idle},
    {"smuggle", "smuggle                Content-Length and chunked", 0, 0, 0, write_smuggle},
    {"cl-conflict", "cl-conflict            two Content-Lengths", 0, 0, 0, write_cl_conflict},
    {"eof-body", "eof-body?bytes=N       N bytes ended by FIN, after close_notify", 0, 1000, 0,
     write_eof_body},
    {"short", "short?bytes=N          FIN after N bytes of a longer body, no close_notify", 0, 100,
     MISDEED_TRUNCATES, write_short},
    {"1xx", "1xx?count=N            N times 103, then 200", 0, 3, 0, write_1xx},
    {"split-writes", "split-writes?bytes=N&after=MS  one byte per segment, MS apart", 0, 20, 0,
     write_split},
    {"early", "early                  413 before the request's body is read", 0, 0, MISDEED_AT_ONCE,
     write_early},
};

const struct misdeed *misdeed_at(size_t index)
{
    return index < sizeof misdeeds / sizeof *misdeeds ? &misdeeds[index] : NULL;
}

const struct misdeed *misdeed_find(struct span name)
{
    const struct misdeed *m;
    for (size_t i = 0; (m = misdeed_at(i)); i++)
        if (span_is(name, (struct span){m->name, strlen(m->name)}))
            return m;
    return NULL;
}
