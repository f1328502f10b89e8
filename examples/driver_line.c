/* A whole driver, and a program on it: driver_line line://127.0.0.1:7000. See docs/drivers.md. */
#include <errno.h>
#include <mooring/driver.h>
#include <mooring/mooring.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the library that is driven: like libpq it owns its socket and knows no pool ---- */

struct line {
    int fd;
    bool asked;     /* an answer is still to come */
    size_t len;     /* bytes of a line that has not ended yet */
    char text[128]; /* a longer line is an error: else a server could fill the memory */
};

static int line_put(struct line *c, const char *text) /* 0, or an errno */
{
    ssize_t sent = send(c->fd, text, strlen(text), MSG_NOSIGNAL);
    c->asked = true;
    return sent == (ssize_t)strlen(text) ? 0 : sent < 0 ? errno : EMSGSIZE;
}

/* 1: a line has come and stands in text; 0: not yet; -1: none will. */
static int line_get(struct line *c)
{
    ssize_t got = recv(c->fd, c->text + c->len, sizeof c->text - c->len, MSG_DONTWAIT);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    c->len += (size_t)got;
    char *end = memchr(c->text, '\n', c->len);
    if (end == NULL || end + 1 != c->text + c->len) /* no whole line, or more than was asked for */
        return end == NULL && c->len < sizeof c->text ? 0 : -1;
    *end = 0;
    c->len = 0;
    c->asked = false;
    return 1;
}

/* ---- the driver: every hook returns at once, and says whether it is done or waits ---- */

static moor_step begin(moor_link *l)
{
    const moor_target *to = moor_link_target(l);
    struct addrinfo *at, hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
    struct line *c = calloc(1, sizeof *c);
    char port[8];
    snprintf(port, sizeof port, "%u", to->port);
    if (c == NULL || getaddrinfo(to->address, port, &hints, &at)) { /* numeric: it asks nobody */
        free(c);
        return moor_link_fail(l, MOOR_ECONNECT, 0, "no memory, or no address");
    }
    moor_link_set_native(l, c); /* from here on it is freed by drop */
    c->fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int e = c->fd < 0 || connect(c->fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
    freeaddrinfo(at);
    if (e && e != EINPROGRESS)
        return moor_link_fail(l, c->fd < 0 ? MOOR_ENOFILES : MOOR_ECONNECT, e, "connect");
    return moor_link_wait(l, c->fd, POLLOUT, MOOR_FOREVER); /* the task has its own deadline */
}

/* prepare and reset: HELLO begins a session anew. check: PING. resume reads the answer. */
static moor_step ask(moor_link *l)
{
    struct line *c = moor_link_native(l);
    int e = line_put(c, moor_link_task(l) == MOOR_TASK_CHECK ? "PING\n" : "HELLO\n");
    return e ? moor_link_fail(l, MOOR_ERESET, e, "send")
             : moor_link_wait(l, c->fd, POLLIN, MOOR_FOREVER);
}

static moor_step resume(moor_link *l, unsigned events)
{
    struct line *c = moor_link_native(l);
    (void)events; /* MOOR_RESUME_TIMEOUT cannot come: no wait here has a time of its own */
    if (moor_link_task(l) == MOOR_TASK_CONNECT) {
        int e = 0;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &(socklen_t){sizeof e});
        return e ? moor_link_fail(l, MOOR_ECONNECT, e, "connect") : MOOR_STEP_DONE;
    }
    int got = line_get(c);
    if (got == 0)
        return moor_link_wait(l, c->fd, POLLIN, MOOR_FOREVER);
    if (got > 0 && !strcmp(c->text, moor_link_task(l) == MOOR_TASK_CHECK ? "PONG" : "OK"))
        return MOOR_STEP_DONE;
    return moor_link_fail(l, got > 0 ? MOOR_EPROTO : MOOR_ERESET, 0, "not the answer to that");
}

static moor_step goodbye(moor_link *l)
{
    (void)line_put(moor_link_native(l),
                   "BYE\n"); /* a courtesy: whether it arrives is all the same */
    return MOOR_STEP_DONE;
}

static void drop(moor_link *l)
{
    struct line *c = moor_link_native(l);
    if (c != NULL && c->fd >= 0)
        close(c->fd);
    free(c);
}

static int descriptor(moor_link *l)
{
    const struct line *c = moor_link_native(l);
    return c->fd;
}

/* Nobody has it, and something comes: the server says that it goes, or closes. */
static moor_verdict idle(moor_link *l)
{
    struct line *c = moor_link_native(l);
    int got = line_get(c);
    if (got > 0 && !strcmp(c->text, "GOING"))
        return MOOR_VERDICT_FLUSH; /* all the others will hear the same */
    return got == 0 && c->len == 0 ? MOOR_VERDICT_KEEP : MOOR_VERDICT_DISCARD;
}

/* On the holder's thread, so no I/O: what can be seen is whether it waited for its answer. */
static moor_verdict returned(moor_link *l, moor_release_how how)
{
    const struct line *c = moor_link_native(l);
    if (how == MOOR_DISCARD || c->asked)
        return MOOR_VERDICT_DISCARD;
    return how == MOOR_DIRTY ? MOOR_VERDICT_RESET : MOOR_VERDICT_KEEP;
}

static const moor_driver line_driver = {.size = sizeof line_driver,
                                        .name = "line",
                                        .schemes = "line",
                                        .handle_bytes = sizeof(struct line),
                                        .connect = begin,
                                        .prepare = ask,
                                        .check = ask,
                                        .reset = ask,
                                        .resume = resume,
                                        .close = goodbye,
                                        .drop = drop,
                                        .fd = descriptor,
                                        .idle = idle,
                                        .returned = returned};

/* ---- a program: two threads share its connections ---- */

static const char *line_ask(struct line *c, const char *text) /* sleeps; NULL: broken */
{
    struct pollfd readable = {.fd = c->fd, .events = POLLIN};
    int got = line_put(c, text) ? -1 : 0;
    while (got == 0)
        got = poll(&readable, 1, 5000) > 0 ? line_get(c) : -1;
    return got > 0 ? c->text : NULL;
}

static void *work(void *pool)
{
    size_t answers = 0;
    for (int i = 0; i < 100; i++) {
        moor_acquired got;
        moor_err e = moor_acquire_wait(pool, NULL, &got);
        if (e) {
            fprintf(stderr, "%s\n", moor_err_text(e));
            break;
        }
        const char *text = line_ask(got.native, "TIME\n");
        answers += text != NULL;
        moor_release(got.lease, text ? MOOR_REUSE : MOOR_DISCARD);
    }
    return (void *)answers;
}

int main(int argc, char **argv)
{
    moor_runtime *runtime = NULL;
    moor_pool *pool = NULL;
    pthread_t threads[2];
    size_t answers = 0;
    moor_err e = moor_runtime_create(NULL, &runtime);
    if (!e)
        e = moor_driver_use(runtime, &line_driver);
    if (!e)
        e = moor_pool_open(runtime, argc > 1 ? argv[1] : "line://127.0.0.1:7000", NULL, &pool);
    for (int i = 0; !e && i < 2; i++)
        if (pthread_create(&threads[i], NULL, work, pool))
            abort();
    for (int i = 0; !e && i < 2; i++) {
        void *of_thread;
        pthread_join(threads[i], &of_thread);
        answers += (size_t)of_thread;
    }
    if (e)
        fprintf(stderr, "%s\n", moor_err_text(e));
    printf("%zu answers\n", answers);
    return moor_pool_close(pool, 1000) | moor_runtime_destroy(runtime, 1000) | (answers != 200);
}
