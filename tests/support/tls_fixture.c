/*
 * A scripted TLS server and a pool to it. Events come on shards and are copied under the fixture's lock;
 * assertions are made by the test's thread.
 */
#include "tests/support/tls_fixture.h"

#include <ctype.h>
#include <stdlib.h>

#define KEEP(to, from) snprintf((to), sizeof(to), "%s", (from))

static void keep_info(struct tls_told *told, const moor_tls_info *i)
{
    told->version = i->version;
    KEEP(told->cipher, i->cipher);
    KEEP(told->group, i->group);
    KEEP(told->alpn, i->alpn);
    KEEP(told->subject, i->subject);
    KEEP(told->issuer, i->issuer);
    told->resumed = i->resumed;
    told->has_certificate = i->certificate.len > 0;
    told->expires_s = i->expires_s;
    told->ready++;
}

static void on_event(void *user, const moor_event *e)
{
    struct tls_fixture *t = user;
    pthread_mutex_lock(&t->lock);
    if (e->type == MOOR_EVENT_TLS_READY)
        keep_info(&t->told, e->tls);
    t->told.expiring += e->type == MOOR_EVENT_CERT_EXPIRING;
    if (e->type == MOOR_EVENT_CONN_CLOSED) {
        t->told.closed++;
        KEEP(t->told.why_closed, e->why);
    }
    pthread_mutex_unlock(&t->lock);
}

struct tls_told tls_told(struct tls_fixture *t)
{
    pthread_mutex_lock(&t->lock);
    const struct tls_told told = t->told;
    pthread_mutex_unlock(&t->lock);
    return told;
}

void tls_options(struct tls_fixture *t, moor_pool_options *o)
{
    const char *root = tls_identity(TLS_P256, 0)->root_pem;
    fixture_pool_options(o);
    o->tls_ca_pem = (moor_span){root, strlen(root)};
    o->tls_tickets_max = t->tickets_max;
    o->on_event = on_event;
    o->event_user = t;
    o->backoff_min_ms = 1;
    o->backoff_max_ms = 1;
}

void tls_begin_closed(struct tls_fixture *t, const struct tls_script *script,
                      const moor_runtime_options *ro)
{
    memset(&t->told, 0, sizeof t->told);
    pthread_mutex_init(&t->lock, NULL);
    t->server = tls_server_start(script);
    fixture_open_runtime(&t->f, ro);
}

void tls_reopen(struct tls_fixture *t, const char *url, const moor_pool_options *o)
{
    moor_pool_options mine;
    tls_options(t, &mine);
    if (t->f.pool)
        assert_err(moor_pool_close(t->f.pool, 10000), MOOR_OK);
    t->f.pool = NULL;
    assert_err(moor_pool_open(t->f.runtime, url ? url : tls_server_url(t->server), o ? o : &mine,
                              &t->f.pool),
               MOOR_OK);
}

void tls_begin(struct tls_fixture *t, const struct tls_script *script, const moor_pool_options *o)
{
    tls_begin_closed(t, script, NULL);
    tls_reopen(t, NULL, o);
}

void tls_end(struct tls_fixture *t)
{
    fixture_close(&t->f);
    tls_server_stop(t->server);
    pthread_mutex_destroy(&t->lock);
}

/* ---- requests ---- */

void tls_expect_get(struct tls_fixture *t, const char *path, size_t n)
{
    struct call c;
    call_init(&c, t->f.pool, path);
    c.request.timeout_ms = 20000;
    call_expect(&t->f, &c, MOOR_OK);
    assert_int_equal(c.status, 200);
    assert_int_equal(c.bytes, n);
    assert_true(c.is_pattern);
    call_fini(&c);
}

void tls_expect_bytes(struct tls_fixture *t, size_t n)
{
    char path[32];
    snprintf(path, sizeof path, "/bytes/%zu", n);
    tls_expect_get(t, path, n);
}

struct upload {
    size_t length, given;
    uint8_t piece[5000];
};

static moor_body_more give(void *user, moor_piece *out)
{
    struct upload *u = ((struct call *)user)->user;
    size_t n = u->length - u->given;
    if (n > sizeof u->piece)
        n = sizeof u->piece;
    for (size_t i = 0; i < n; i++)
        u->piece[i] = tls_body(u->given + i);
    u->given += n;
    out->bytes = (moor_span){u->piece, n};
    return u->given == u->length ? MOOR_BODY_LAST : MOOR_BODY_MORE;
}

void tls_expect_echo(struct tls_fixture *t, size_t n)
{
    struct call c;
    struct upload u = {.length = n};
    call_init(&c, t->f.pool, "/echo");
    c.request.method = "POST";
    c.request.timeout_ms = 20000;
    c.request.body_cb = give;
    c.request.body_length = n;
    c.user = &u;
    call_expect(&t->f, &c, MOOR_OK);
    assert_int_equal(c.bytes, n);
    assert_true(c.is_pattern);
    call_fini(&c);
}

moor_fault tls_expect_fault(struct tls_fixture *t, const char *path, moor_err err)
{
    struct call c;
    call_init(&c, t->f.pool, path ? path : "/bytes/1000");
    c.request.timeout_ms = 20000;
    call_expect(&t->f, &c, err);
    const moor_fault fault = c.done.fault;
    call_fini(&c);
    return fault;
}

/* ---- texts ---- */

bool tls_says(const moor_fault *fault, const char *words)
{
    char plain[512];
    size_t n = 0;
    for (const char *at = fault->what; *at && n < sizeof plain - 1; at++)
        plain[n++] = *at == '_' ? ' ' : *at;
    plain[n] = '\0';
    return strcasestr(plain, words) != NULL;
}

void tls_assert_says(const moor_fault *fault, const char *words)
{
    if (!tls_says(fault, words))
        fail_msg("\"%s\" does not say \"%s\"", fault->what, words);
}

const char *tls_alert_name(int description)
{
    static const char *const names[] = {
        [10] = "unexpected message",
        [20] = "bad record mac",
        [22] = "record overflow",
        [40] = "handshake failure",
        [42] = "bad certificate",
        [43] = "unsupported certificate",
        [44] = "certificate revoked",
        [45] = "certificate expired",
        [46] = "certificate unknown",
        [47] = "illegal parameter",
        [48] = "unknown ca",
        [49] = "access denied",
        [50] = "decode error",
        [51] = "decrypt error",
        [70] = "protocol version",
        [71] = "insufficient security",
        [80] = "internal error",
        [86] = "inappropriate fallback",
        [109] = "missing extension",
        [110] = "unsupported extension",
        [112] = "unrecognized name",
        [113] = "bad certificate status response",
        [115] = "unknown psk identity",
        [116] = "certificate required",
        [120] = "no application protocol",
    };
    return description >= 0 && description < (int)(sizeof names / sizeof *names)
               ? names[description]
               : NULL;
}
