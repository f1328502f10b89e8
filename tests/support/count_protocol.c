/*
 * The line protocol "count", both sides. Client: the conn's shard. Server: the test's thread.
 */
#include "tests/support/count_protocol.h"

#include "core/shard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct count_counts count_counts;

struct count_conn {
    struct mr_list requests;
    struct mr_out bye;
    char line[64];
    size_t len;
};

static struct mr_heap *heap_of(struct mr_conn *c)
{
    return &c->slot.shard->runtime->heap;
}

static void piece_sent(struct mr_out *o, int err)
{
    (void)err;
    o->len = 0;
}

static moor_err count_open(struct mr_conn *c)
{
    struct count_conn *n = mr_heap_zalloc(heap_of(c), sizeof *n);
    MR_FAIL_IF(!n, MOOR_ENOMEM);
    mr_list_init(&n->requests);
    c->state = n;
    count_counts.opened++;
    return MOOR_OK;
}

static struct count_request *find(struct count_conn *n, unsigned id)
{
    for (struct mr_list *l = n->requests.next; l != &n->requests; l = l->next) {
        struct count_request *r = MR_CONTAINER_OF(l, struct count_request, link);
        if (r->id == id)
            return r;
    }
    return NULL;
}

static void leave(struct count_request *r)
{
    mr_list_remove(&r->link);
    r->conn = NULL;
}

static void read_line(struct mr_conn *c, const char *line)
{
    count_counts.heard++;
    struct count_conn *n = c->state;
    unsigned value;
    if (sscanf(line, "cap %u", &value) == 1) {
        mr_conn_set_capacity(c, value);
    } else if (sscanf(line, "done %u", &value) == 1) {
        struct count_request *r = find(n, value);
        if (!r)
            return;
        leave(r);
        r->done++;
        mr_berth_release(c, true);
    } else if (!strcmp(line, "drain")) {
        mr_conn_drain(c, "the server asked for it");
    } else if (!strcmp(line, "note")) {
        count_counts.notes++;
    } else {
        mr_conn_fail(c, &(moor_fault){.err = MOOR_EPROTO, .what = "an unknown line"});
    }
}

static size_t count_input(struct mr_conn *c, const struct mr_in *in)
{
    struct count_conn *n = c->state;
    for (size_t i = 0; i < in->len && mr_conn_state(c) < MR_CONN_CLOSING; i++) {
        if (in->base[i] != '\n') {
            n->line[n->len++ % (sizeof n->line - 1)] = (char)in->base[i];
            continue;
        }
        n->line[n->len % (sizeof n->line)] = '\0';
        n->len = 0;
        read_line(c, n->line);
    }
    return in->len;
}

static void tell_failure(struct count_request *r, const moor_fault *fault)
{
    r->failed++;
    r->fault = *fault;
    if (r->next && count_acquire(r->next_berth, r->next, r->id + 100))
        abort();
}

static void count_ended(struct mr_conn *c, const moor_fault *fault)
{
    struct count_conn *n = c->state;
    const moor_fault reset = {.err = MOOR_ERESET, .what = fault->what};
    for (struct mr_list *l; (l = mr_list_first(&n->requests));) {
        struct count_request *r = MR_CONTAINER_OF(l, struct count_request, link);
        leave(r);
        tell_failure(r, fault->err ? fault : &reset);
    }
    if (!fault->err)
        mr_conn_close(c, "the server went");
}

static void count_drain(struct mr_conn *c)
{
    struct count_conn *n = c->state;
    count_counts.drains++;
    n->bye = (struct mr_out){.base = (const uint8_t *)"bye\n", .len = 4, .sent = piece_sent};
    if (!mr_conn_write(c, &n->bye))
        count_counts.written += n->bye.len;
}

static void count_dropped(struct mr_conn *c)
{
    struct count_conn *n = c->state;
    if (!n) /* closed before it was opened */
        return;
    count_counts.dropped++;
    c->state = NULL;
    mr_heap_free(heap_of(c), n, sizeof *n);
}

const struct mr_protocol count_protocol = {
    .name = "count",
    .capacity_expected = COUNT_EXPECTED,
    .is_multiplexed = true,
    .open = count_open,
    .input = count_input,
    .ended = count_ended,
    .drain = count_drain,
    .dropped = count_dropped,
};

/* ---- requests ---- */

static void granted(struct mr_claim *claim, struct mr_conn *c, bool is_reused)
{
    struct count_request *r = MR_CONTAINER_OF(claim, struct count_request, claim);
    struct count_conn *n = c->state;
    r->granted++;
    r->conn = r->was_on = c;
    r->is_reused = is_reused;
    mr_list_push_back(&n->requests, &r->link);
    const int len = snprintf(r->line, sizeof r->line, "do %u\n", r->id);
    r->out =
        (struct mr_out){.base = (const uint8_t *)r->line, .len = (size_t)len, .sent = piece_sent};
    if (!mr_conn_write(
            c, &r->out)) /* else the server never hears of it, and the claim ends with its conn */
        count_counts.written += r->out.len;
}

static void failed(struct mr_claim *claim, const moor_fault *fault, const moor_why *why)
{
    (void)why;
    tell_failure(MR_CONTAINER_OF(claim, struct count_request, claim), fault);
}

moor_err count_acquire(struct mr_berth *b, struct count_request *r, unsigned id)
{
    r->id = id;
    r->claim.granted = granted;
    r->claim.failed = failed;
    r->claim.deadline_ns = MR_NEVER;
    return mr_berth_acquire(b, &r->claim);
}

void count_give_up(struct count_request *r, bool is_reusable)
{
    struct mr_conn *c = r->conn;
    leave(r);
    mr_berth_release(c, is_reusable);
}

/* ---- the server ---- */

void count_server_init(struct count_server *s)
{
    memset(s, 0, sizeof *s);
    memset(&count_counts, 0, sizeof count_counts);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    if (bind(s->listener, (void *)&at, sizeof at) || listen(s->listener, 64) ||
        getsockname(s->listener, (void *)&at, &len))
        abort();
    s->port = ntohs(at.sin_port);
}

void count_server_fini(struct count_server *s)
{
    for (unsigned i = 0; i < s->conns; i++)
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    close(s->listener);
}

void count_server_look(struct count_server *s, unsigned announces)
{
    for (int fd; (fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
        if (s->conns == COUNT_CONNS_MAX)
            abort();
        s->fds[s->conns++] = fd;
        char line[16];
        snprintf(line, sizeof line, "cap %u", announces);
        if (announces)
            count_say(s, s->conns - 1, line);
    }
    for (unsigned i = 0; i < s->conns; i++) {
        const size_t room = sizeof s->heard[i] - 1 - s->heard_len[i];
        const ssize_t n =
            s->fds[i] < 0 ? 0 : recv(s->fds[i], s->heard[i] + s->heard_len[i], room, 0);
        if (n <= 0)
            continue;
        s->heard_len[i] += (size_t)n;
        count_counts.read += (size_t)n;
    }
}

bool count_is_quiet(void)
{
    return count_counts.said == count_counts.heard && count_counts.written == count_counts.read;
}

void count_say(struct count_server *s, unsigned conn, const char *line)
{
    char text[64];
    const int len = snprintf(text, sizeof text, "%s\n", line);
    if (send(s->fds[conn], text, (size_t)len, MSG_NOSIGNAL) != len)
        abort();
    count_counts.said++;
}

unsigned count_heard(const struct count_server *s, unsigned conn, const char *line)
{
    char text[64];
    snprintf(text, sizeof text, "%s\n", line);
    unsigned n = 0;
    for (const char *at = s->heard[conn]; (at = strstr(at, text)); at++)
        n += at == s->heard[conn] || at[-1] == '\n';
    return n;
}

void count_hang_up(struct count_server *s, unsigned conn, bool with_reset)
{
    const struct linger at_once = {.l_onoff = 1};
    if (with_reset)
        setsockopt(s->fds[conn], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(s->fds[conn]);
    s->fds[conn] = -1;
}
