/*
 * An HTTP/2 server on nghttp2's session. One thread per conn; blocking.
 */
#include "tests/support/h2_server.h"

#include "tests/support/peer.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { STREAMS = 100, BODY_MAX = 1 << 20 };

struct h2_server {
    struct peer peer;
    struct h2_server_options options;
    nghttp2_session_callbacks *callbacks;
    char url[64];
    atomic_uint requests, resets, pings;
};

struct conn {
    struct h2_server *server;
    nghttp2_session *ng;
    struct exchange *open;
    unsigned requests;
};

/* Of one request, until its stream is closed. */
struct exchange {
    struct exchange *next; /* the conn's */
    char path[64];
    uint8_t *body; /* what came, then what goes */
    size_t len, given;
    bool has_trailers;
};

/* ---- the answer ---- */

static ssize_t give(nghttp2_session *ng, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                    nghttp2_data_source *source, void *user)
{
    (void)user;
    struct exchange *x = source->ptr;
    size_t n = x->len - x->given;
    if (n > cap)
        n = cap;
    if (n)
        memcpy(to, x->body + x->given, n);
    x->given += n;
    if (x->given < x->len)
        return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (x->has_trailers) {
        nghttp2_nv trailer = {(uint8_t *)"x-trailer", (uint8_t *)"here", 9, 4, 0};
        *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        if (nghttp2_submit_trailer(ng, id, &trailer, 1))
            abort();
    }
    return (ssize_t)n;
}

static void answer(struct conn *c, int32_t id, struct exchange *x)
{
    if (!strcmp(x->path, "/never"))
        return;
    const char *digits = strpbrk(x->path, "0123456789");
    if (digits) {
        x->len = strtoul(digits, NULL, 10);
        x->body = realloc(x->body, x->len + 1);
        for (size_t i = 0; i < x->len; i++)
            x->body[i] = c->server->options.body(i);
    }
    x->has_trailers = !strncmp(x->path, "/trailers/", 10);
    char length[24];
    const int n = snprintf(length, sizeof length, "%zu", x->len);
    const nghttp2_nv head[] = {
        {(uint8_t *)":status", (uint8_t *)"200", 7, 3, 0},
        {(uint8_t *)"content-length", (uint8_t *)length, 14, (size_t)n, 0},
    };
    const nghttp2_data_provider body = {.source.ptr = x, .read_callback = give};
    if (nghttp2_submit_response(c->ng, id, head, 2, &body))
        abort();
}

/* ---- the request ---- */

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
    struct conn *c = user;
    if (f->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct exchange *x = calloc(1, sizeof *x);
    x->next = c->open;
    c->open = x;
    nghttp2_session_set_stream_user_data(ng, f->hd.stream_id, x);
    atomic_fetch_add(&c->server->requests, 1);
    c->requests++;
    if (c->requests == c->server->options.requests_max)
        nghttp2_submit_goaway(ng, 0, f->hd.stream_id, NGHTTP2_NO_ERROR, NULL, 0);
    return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    (void)flags;
    (void)user;
    struct exchange *x = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);
    if (x && name_len == 5 && !memcmp(name, ":path", 5))
        snprintf(x->path, sizeof x->path, "%.*s", (int)value_len, (const char *)value);
    return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len,
                   void *user)
{
    (void)flags;
    (void)user;
    struct exchange *x = nghttp2_session_get_stream_user_data(ng, id);
    if (!x || x->len + len > BODY_MAX)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    x->body = realloc(x->body, x->len + len);
    memcpy(x->body + x->len, bytes, len);
    x->len += len;
    return 0;
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *user)
{
    struct conn *c = user;
    struct exchange *x = nghttp2_session_get_stream_user_data(ng, f->hd.stream_id);
    if (f->hd.type == NGHTTP2_PING && !(f->hd.flags & NGHTTP2_FLAG_ACK))
        atomic_fetch_add(&c->server->pings, 1);
    if (f->hd.type == NGHTTP2_RST_STREAM)
        atomic_fetch_add(&c->server->resets, 1);
    const bool is_request = f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA;
    if (!x || !is_request || !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    if (atomic_load(&c->server->requests) <= c->server->options.refuses)
        nghttp2_submit_rst_stream(ng, 0, f->hd.stream_id, NGHTTP2_REFUSED_STREAM);
    else
        answer(c, f->hd.stream_id, x);
    return 0;
}

static void forget(struct conn *c, struct exchange *x)
{
    struct exchange **at = &c->open;
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    free(x->body);
    free(x);
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
    (void)code;
    struct exchange *x = nghttp2_session_get_stream_user_data(ng, id);
    if (x)
        forget(user, x);
    return 0;
}

/* ---- a conn ---- */

static bool write_all(struct peer_conn *p, struct conn *c)
{
    const uint8_t *bytes;
    ssize_t n;
    while ((n = nghttp2_session_mem_send(c->ng, &bytes)) > 0)
        if (!peer_send(p, bytes, (size_t)n))
            return false;
    return n == 0;
}

static void serve(struct peer_conn *p)
{
    struct conn c = {.server = p->peer->user};
    const struct h2_server_options *o = &c.server->options;
    const nghttp2_settings_entry ours[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, o->streams_max ? o->streams_max : STREAMS},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, o->window ? o->window : 65535},
    };
    uint8_t bytes[16384];
    nghttp2_option *option = NULL;
    if (nghttp2_option_new(&option))
        abort();
    nghttp2_option_set_no_auto_window_update(option, o->keeps_shut);
    nghttp2_option_set_no_auto_ping_ack(option, o->is_deaf_to_pings);
    if (nghttp2_session_server_new2(&c.ng, c.server->callbacks, &c, option) ||
        nghttp2_submit_settings(c.ng, 0, ours, 2))
        abort();
    nghttp2_option_del(option);
    while (write_all(p, &c) &&
           (nghttp2_session_want_read(c.ng) || nghttp2_session_want_write(c.ng))) {
        const size_t n = peer_read(p, bytes, sizeof bytes);
        if (!n || nghttp2_session_mem_recv(c.ng, bytes, n) < 0)
            break;
    }
    shutdown(p->fd, SHUT_WR);
    peer_linger(p); /* what is unread would turn our FIN into a reset */
    while (c.open)
        forget(&c, c.open);
    nghttp2_session_del(c.ng);
}

struct h2_server *h2_server_start(const struct h2_server_options *o)
{
    struct h2_server *s = calloc(1, sizeof *s);
    s->options = *o;
    if (nghttp2_session_callbacks_new(&s->callbacks))
        abort();
    nghttp2_session_callbacks_set_on_begin_headers_callback(s->callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(s->callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(s->callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(s->callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(s->callbacks, on_stream_close);
    peer_start(&s->peer, serve, s);
    snprintf(s->url, sizeof s->url, "h2c://127.0.0.1:%d", s->peer.port);
    return s;
}

void h2_server_stop(struct h2_server *s)
{
    peer_stop(&s->peer);
    nghttp2_session_callbacks_del(s->callbacks);
    free(s);
}

const char *h2_server_url(const struct h2_server *s)
{
    return s->url;
}

unsigned h2_server_conns(struct h2_server *s)
{
    return (unsigned)atomic_load(&s->peer.accepted);
}

unsigned h2_server_requests(struct h2_server *s)
{
    return atomic_load(&s->requests);
}

unsigned h2_server_pings(struct h2_server *s)
{
    return atomic_load(&s->pings);
}

unsigned h2_server_resets(struct h2_server *s)
{
    return atomic_load(&s->resets);
}
