/*
 * Messages of PostgreSQL's protocol 3.0, written and read on a peer's thread.
 */
#include "tests/drivers/postgres/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

static bool read_all(struct peer_conn *c, void *into, size_t len)
{
    char *at = into;
    while (len) {
        const ssize_t n = read(c->fd, at, len);
        /* The peer's sockets look up now and then whether the test ends. */
        if (n < 0 && (errno == EINTR || errno == EAGAIN) && !atomic_load(&c->peer->is_stopping))
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static bool read_length(struct peer_conn *c, uint32_t *out)
{
    uint32_t len;
    if (!read_all(c, &len, sizeof len))
        return false;
    *out = ntohl(len) - 4;
    return *out < PEER_HEAD_MAX;
}

uint32_t wire_request(struct peer_conn *c)
{
    uint32_t len, code;
    if (!read_length(c, &len) || len < sizeof code || !read_all(c, &code, sizeof code) ||
        !read_all(c, c->head, len - sizeof code))
        return 0;
    return ntohl(code);
}

char wire_read(struct peer_conn *c)
{
    char type;
    uint32_t len;
    if (!read_all(c, &type, 1) || !read_length(c, &len) || !read_all(c, c->head, len))
        return 0;
    c->head[len] = '\0';
    return type;
}

bool wire_send(struct peer_conn *c, char type, const void *body, size_t len)
{
    char message[4096];
    const uint32_t length = htonl((uint32_t)len + 4);
    if (len > sizeof message - 5)
        return false;
    message[0] = type;
    memcpy(message + 1, &length, sizeof length);
    memcpy(message + 5, body, len);
    return peer_send(c, message, len + 5);
}

static size_t put(char *at, const char *text)
{
    memcpy(at, text, strlen(text) + 1);
    return strlen(text) + 1;
}

bool wire_parameter(struct peer_conn *c, const char *name, const char *value)
{
    char body[512];
    size_t len = put(body, name);
    len += put(body + len, value);
    return wire_send(c, 'S', body, len);
}

bool wire_error(struct peer_conn *c, char type, const char *severity, const char *sqlstate,
                const char *text)
{
    char body[1024] = "S";
    size_t len = 1 + put(body + 1, severity);
    body[len++] = 'V';
    len += put(body + len, severity);
    body[len++] = 'C';
    len += put(body + len, sqlstate);
    body[len++] = 'M';
    len += put(body + len, text);
    body[len++] = '\0';
    return wire_send(c, type, body, len);
}

bool wire_notify(struct peer_conn *c, const char *channel, const char *payload)
{
    char body[2048] = {0}; /* process 0 */
    size_t len = 4;
    len += put(body + len, channel);
    len += put(body + len, payload);
    return wire_send(c, 'A', body, len);
}

bool wire_ready(struct peer_conn *c, char status)
{
    return wire_send(c, 'Z', &status, 1);
}

bool wire_complete(struct peer_conn *c, const char *tag, char status)
{
    return wire_send(c, 'C', tag, strlen(tag) + 1) && wire_ready(c, status);
}

bool wire_welcome(struct peer_conn *c, const char *standby)
{
    static const char ok[4], key[8];
    uint32_t code = wire_request(c);
    if (code == WIRE_SSL_REQUEST && peer_say(c, "N"))
        code = wire_request(c);
    return code == WIRE_STARTUP && wire_send(c, 'R', ok, sizeof ok) &&
           wire_parameter(c, "server_version", "15.0") &&
           wire_parameter(c, "client_encoding", "UTF8") &&
           (!standby || (wire_parameter(c, "in_hot_standby", standby) &&
                         wire_parameter(c, "default_transaction_read_only", "off"))) &&
           wire_send(c, 'K', key, sizeof key);
}

bool wire_login(struct peer_conn *c, const char *standby)
{
    return wire_welcome(c, standby) && wire_ready(c, 'I');
}
