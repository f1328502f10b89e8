/*
 * TLS on a conn: when a handshake may begin, what comes of it, records up and down, the end.
 * Owner thread: the conn's shard. Knows records only through tls/session.h.
 */
#include "tls/filter.h"

#include "base/span.h"
#include "core/shard.h"
#include "tls/hello.h"
#include "tls/name.h"

#include <errno.h>
#include <string.h>

/* Pieces up to this are gathered into one record by a copy; larger ones are records of their own. */
#define GATHER_MAX 4096

static struct mr_tls_conn *tls_of(struct mr_filter *f)
{
    return MR_CONTAINER_OF(f, struct mr_tls_conn, filter);
}

/* What the library wrote during a call goes its way after it. */
static void emit(struct mr_tls_conn *t)
{
    struct mr_out *o = t->made;
    *t->made_last = NULL;
    t->made = NULL;
    t->made_last = &t->made;
    for (struct mr_out *next; o; o = next) {
        next = o->next;
        mr_filter_emit(&t->filter, o);
    }
}

static void break_off(struct mr_tls_conn *t)
{
    t->is_broken = true;
    emit(t); /* our alert */
    mr_conn_fail(t->filter.conn, &t->filter.fault);
}

/* ---- the handshake ---- */

/* One step of it with what there is. FAILED: the fault is set. */
static enum mr_step shake_hands(struct mr_tls_conn *t)
{
    const enum mr_step step = mr_tls_session_handshake(t);
    emit(t);
    if (step == MR_STEP_FAILED)
        mr_tls_hello_failed(t);
    if (step != MR_STEP_DONE)
        return step;
    t->filter.alpn = mr_tls_session_alpn(t);
    mr_tls_hello_done(t);
    emit(t);
    return t->is_broken ? MR_STEP_FAILED : MR_STEP_DONE;
}

static enum mr_step tls_open(struct mr_filter *f)
{
    struct mr_tls_conn *t = tls_of(f);
    if (t->is_broken)
        return MR_STEP_FAILED;
    if (t->is_connected)
        return MR_STEP_DONE;
    if (t->wolf)
        return MR_STEP_AGAIN; /* `pulled` takes the steps */
    if (!mr_tls_hello_has_turn(t))
        return MR_STEP_AGAIN;
    const bool wants_early =
        t->upstream->pool->options.tls_early_data && mr_berth_wants_early(f->conn->berth);
    const moor_err e = mr_tls_session_begin(t, wants_early);
    emit(t);
    if (e) {
        f->fault = (moor_fault){.err = e, .what = "begin the TLS handshake"};
        mr_tls_hello_failed(t);
        return MR_STEP_FAILED;
    }
    mr_conn_resume(f->conn); /* what came before its turn */
    if (t->hello->may_send_early && mr_tls_hello_begin_early(t))
        return MR_STEP_DONE;
    return shake_hands(t);
}

/* ---- out ---- */

static size_t gather(const struct iovec *iov, unsigned count, uint8_t *into, size_t cap)
{
    size_t len = 0;
    for (unsigned i = 0; i < count && len < cap; i++) {
        const size_t n = iov[i].iov_len < cap - len ? iov[i].iov_len : cap - len;
        memcpy(into + len, iov[i].iov_base, n);
        len += n;
    }
    return len;
}

static size_t tls_push(struct mr_filter *f, const struct iovec *iov, unsigned count)
{
    struct mr_tls_conn *t = tls_of(f);
    uint8_t together[GATHER_MAX];
    const void *bytes = iov[0].iov_base;
    size_t len = iov[0].iov_len < MR_TLS_PLAIN_MAX ? iov[0].iov_len : MR_TLS_PLAIN_MAX;
    if (t->unsent >= MR_TLS_UNSENT_MAX || t->is_broken)
        return 0;
    if (count > 1 && len < GATHER_MAX) {
        len = gather(iov, count, together, sizeof together);
        bytes = together;
    }
    const bool is_taken = t->is_connected ? mr_tls_session_write(t, bytes, len)
                                          : mr_tls_hello_push_early(t, bytes, len);
    emit(t);
    if (!is_taken && (t->is_connected || t->is_broken))
        break_off(t);
    return is_taken ? len : 0;
}

static void tls_shut(struct mr_filter *f)
{
    struct mr_tls_conn *t = tls_of(f);
    if (!t->is_connected || t->is_broken)
        return;
    mr_tls_session_shut(t);
    emit(t);
}

/* ---- in ---- */

/* Room for what the bytes at hand can make, of the record they are of. */
static size_t room_wanted(const struct mr_tls_conn *t)
{
    const size_t n = t->in_len > t->record ? t->in_len : t->record;
    return n == 0 ? 1 : n < MR_TLS_PLAIN_MAX ? n : MR_TLS_PLAIN_MAX;
}

/* Fills one buffer and delivers it. MORE and the like: what stopped it. */
static enum mr_tls_read read_buffer(struct mr_tls_conn *t, bool *goes_on)
{
    struct mr_buf *b = mr_filter_buf(&t->filter, room_wanted(t));
    if (!b)
        return MR_TLS_BROKEN;
    size_t filled = 0;
    enum mr_tls_read got = MR_TLS_BYTES;
    while (filled < b->cap && got == MR_TLS_BYTES) {
        size_t len = 0;
        got = mr_tls_session_read(t, b->data + filled, b->cap - filled, &len);
        filled += len;
        if (!*goes_on && mr_tls_session_unread(t) == 0)
            break; /* only the rest of a record that was begun is read for nobody */
    }
    emit(t);
    if (filled > 0 && !mr_filter_deliver(&t->filter, &(struct mr_in){b, b->data, filled}))
        *goes_on = false;
    mr_buf_unref(b);
    return got;
}

static void read_records(struct mr_tls_conn *t)
{
    struct mr_conn *c = t->filter.conn;
    bool goes_on = true;
    for (;;) {
        const enum mr_tls_read got = read_buffer(t, &goes_on);
        if (mr_conn_state(c) >= MR_CONN_CLOSING || got == MR_TLS_MORE)
            return;
        if (got == MR_TLS_END) {
            mr_filter_end(&t->filter);
            return;
        }
        if (got == MR_TLS_BROKEN) {
            break_off(t);
            return;
        }
        if (!goes_on && mr_tls_session_unread(t) == 0)
            return;
    }
}

static size_t tls_pulled(struct mr_filter *f, const struct mr_in *in)
{
    struct mr_tls_conn *t = tls_of(f);
    if (!t->wolf || t->is_broken)
        return t->is_broken ? in->len : 0;
    if (f->has_ended)
        return in->len;
    t->in = in->base;
    t->in_len = in->len;
    if (!t->is_connected && shake_hands(t) == MR_STEP_FAILED) {
        t->is_broken = true;
        if (f->is_open) /* early data: nobody will ask `open` again */
            mr_conn_fail(f->conn, &f->fault);
    }
    if (t->is_connected && f->is_open && mr_conn_state(f->conn) < MR_CONN_CLOSING && t->in_len > 0)
        read_records(t);
    const size_t used = in->len - t->in_len;
    t->in = NULL;
    t->in_len = 0;
    return f->has_ended || t->is_broken ? in->len : used;
}

static moor_err tls_ended(struct mr_filter *f)
{
    (void)f;
    return MOOR_ERESET; /* a FIN that no close_notify announced may be anybody's */
}

/* ---- made and dropped ---- */

static void tls_drop(struct mr_filter *f)
{
    struct mr_tls_conn *t = tls_of(f);
    for (struct mr_out *o = t->made, *next; o; o = next) { /* of a last call that failed half way */
        next = o->next;
        o->sent(o, ECONNRESET);
    }
    MR_ASSERT(t->unsent == 0 && "every piece is let go before");
    mr_tls_hello_end(t);
    mr_tls_session_end(t);
    mr_tls_context_unref(t->context);
    mr_heap_free(&t->runtime->heap, t->named.base, t->named.len);
    mr_heap_free(&t->runtime->heap, t, sizeof *t);
}

static const struct mr_filter_type tls_type = {
    .name = "tls",
    .open = tls_open,
    .push = tls_push,
    .pulled = tls_pulled,
    .ended = tls_ended,
    .shut = tls_shut,
    .drop = tls_drop,
};

moor_err mr_tls_filter_add(struct mr_upstream *u, struct mr_conn *c)
{
    struct moor_runtime *r = u->pool->runtime;
    struct mr_tls_conn *t = mr_heap_zalloc(&r->heap, sizeof *t);
    MR_FAIL_IF(!t, MOOR_ENOMEM);
    t->filter.type = &tls_type;
    t->runtime = r;
    t->upstream = u;
    t->made_last = &t->made;
    if (mr_tls_hello_make(t, c->slot.shard)) {
        mr_heap_free(&r->heap, t, sizeof *t);
        return MOOR_ENOMEM;
    }
    t->context = mr_tls_pool_context(mr_tls_pool_of(u));
    mr_conn_add_filter(c, &t->filter);
    return MOOR_OK;
}

bool mr_tls_filter_names(const struct mr_conn *c, const struct mr_upstream *u)
{
    const struct mr_filter *f = c->bottom;
    struct mr_cert leaf;
    if (!f || f->type != &tls_type || !u->host)
        return false;
    const struct mr_tls_text *named = &MR_CONTAINER_OF(f, struct mr_tls_conn, filter)->named;
    return named->base && !mr_cert_parse((moor_span){named->base, named->len}, &leaf, NULL) &&
           mr_tls_name_matches(&leaf, mr_span_cstr(u->host), mr_tls_is_address(u->host));
}
