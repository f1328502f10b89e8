/*
 * Everything at once, for sanitizers: two shards and an adopted one that comes and goes, small caps, cancels
 * and chunks returned from other threads, servers that hang up, and pools that are drained meanwhile.
 * Runs for STRESS_MS (default 1500) on each backend; what has to hold is that every accepted request ends
 * once and everything can be closed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <mooring/mooring.h>
#include <mooring/stats.h>

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SENDERS = 3, HELD_MAX = 256, ROUND_MS = 150 };

struct world {
    moor_runtime *runtime;
    _Atomic(moor_pool *) pool;
    _Atomic(bool) is_over;
    _Atomic(uint32_t) users; /* threads inside a call on the pool */
    _Atomic(uint64_t) sent, done, refused;
    pthread_mutex_t lock;
    moor_chunk held[HELD_MAX];
    size_t held_count;
    moor_op op; /* the newest: somebody cancels it */
    int listener;
    int port;
    _Atomic(uint32_t) serving;
};

static struct world w;

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % below;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the server ---- */

static bool put(int fd, const char *bytes, size_t len)
{
    while (len) {
        const ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static bool answer(int fd, uint32_t *seed)
{
    static const char zeros[1 << 16];
    char text[96];
    size_t body = draw(seed, 4) ? draw(seed, 2000) : draw(seed, 120000);
    const char *close_ = draw(seed, 16) ? "" : "Connection: close\r\n";
    const int n = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n%sContent-Length: %zu\r\n\r\n",
                           close_, body);
    if (!put(fd, text, (size_t)n))
        return false;
    while (body) {
        const size_t part = body < sizeof zeros ? body : sizeof zeros;
        if (!put(fd, zeros, part))
            return false;
        body -= part;
        if (!draw(seed, 40))
            return false; /* in the middle */
    }
    return !*close_;
}

static void *serve(void *arg)
{
    const int fd = (int)(intptr_t)arg;
    uint32_t seed = (uint32_t)fd * 7919u + (uint32_t)now_ms();
    struct timeval limit = {.tv_sec = 2};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char text[512];
    while (recv(fd, text, sizeof text, 0) > 0)
        if (!draw(&seed, 30) || !answer(fd, &seed))
            break; /* some requests are never answered */
    close(fd);
    atomic_fetch_sub(&w.serving, 1);
    return NULL;
}

static void *accept_all(void *arg)
{
    (void)arg;
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    for (int fd; (fd = accept(w.listener, NULL, NULL)) >= 0;) {
        pthread_t t;
        atomic_fetch_add(&w.serving, 1);
        if (pthread_create(&t, &a, serve, (void *)(intptr_t)fd)) {
            atomic_fetch_sub(&w.serving, 1);
            close(fd);
        }
    }
    pthread_attr_destroy(&a);
    return NULL;
}

static void listen_anywhere(void)
{
    w.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(w.listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(w.listener, 256), 0);
    getsockname(w.listener, (struct sockaddr *)&at, &len);
    w.port = ntohs(at.sin_port);
}

/* ---- requests ---- */

/* The pool, for as long as it is not given back; NULL between rounds. */
static moor_pool *use_pool(void)
{
    atomic_fetch_add(&w.users, 1);
    moor_pool *p = atomic_load(&w.pool);
    if (!p)
        atomic_fetch_sub(&w.users, 1);
    return p;
}

static void unuse_pool(void)
{
    atomic_fetch_sub(&w.users, 1);
}

struct request {
    moor_task task;
    moor_pool *pool;
    _Atomic(uint32_t) dones;
    moor_ms timeout_ms;
};

static void on_chunk(void *user, moor_chunk c)
{
    (void)user;
    pthread_mutex_lock(&w.lock);
    const bool is_held = w.held_count < HELD_MAX;
    if (is_held)
        w.held[w.held_count++] = c;
    pthread_mutex_unlock(&w.lock);
    if (!is_held)
        moor_chunk_return(c);
}

static void on_done(void *user, const moor_http_done *d)
{
    (void)d;
    struct request *r = user;
    if (atomic_fetch_add(&r->dones, 1))
        abort(); /* twice */
    atomic_fetch_add(&w.done, 1);
    free(r);
    unuse_pool();
}

static const moor_http_handlers handlers = {
    .size = sizeof handlers, .on_chunk = on_chunk, .on_done = on_done};

static void run_request(void *user)
{
    struct request *r = user;
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = "/";
    q.timeout_ms = r->timeout_ms;
    moor_op op;
    if (moor_http_send(r->pool, &q, &handlers, r, &op)) {
        atomic_fetch_add(&w.refused, 1);
        free(r);
        unuse_pool();
        return;
    }
    atomic_fetch_add(&w.sent, 1);
    pthread_mutex_lock(&w.lock);
    w.op = op;
    pthread_mutex_unlock(&w.lock);
}

static void post_request(moor_pool *p, moor_shard *s, uint32_t *seed)
{
    struct request *r = calloc(1, sizeof *r);
    r->task = (moor_task){.run = run_request, .user = r};
    r->pool = p;
    r->timeout_ms = 1 + draw(seed, 40);
    if (!s || moor_post(s, &r->task)) {
        free(r);
        unuse_pool();
    }
}

static void fetch(moor_pool *p, uint32_t *seed)
{
    moor_http_request q;
    moor_http_request_init(&q);
    q.url = "/";
    q.timeout_ms = 1 + draw(seed, 60);
    moor_http_response *response = NULL;
    if (moor_http_fetch(p, &q, &response, NULL) == MOOR_OK)
        moor_http_response_free(response);
    unuse_pool();
}

static void *send_all(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    while (!atomic_load(&w.is_over)) {
        moor_pool *p = use_pool();
        if (!p) {
            usleep(200);
            continue;
        }
        if (!draw(&seed, 3)) {
            fetch(p, &seed);
            continue;
        }
        post_request(p, moor_shard_at(w.runtime, draw(&seed, moor_runtime_shard_count(w.runtime))),
                     &seed);
        if (!draw(&seed, 4))
            usleep(draw(&seed, 500));
    }
    return NULL;
}

static bool return_some(uint32_t *seed)
{
    pthread_mutex_lock(&w.lock);
    const moor_op op = w.op;
    moor_chunk c = {0};
    if (w.held_count)
        c = w.held[--w.held_count];
    pthread_mutex_unlock(&w.lock);
    if (!draw(seed, 20))
        moor_cancel(op);
    if (c.slot_)
        moor_chunk_return(c);
    if (c.slot_ && !draw(seed, 50))
        moor_chunk_return(c); /* twice is nothing */
    return c.slot_;
}

static void *meddle(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    while (!atomic_load(&w.is_over)) {
        if (!return_some(&seed))
            usleep(100);
        moor_runtime_stats sum;
        if (!draw(&seed, 10))
            moor_runtime_stats_read(w.runtime, &sum);
    }
    return NULL;
}

/* A shard that comes and goes; what it had under way ends when it leaves. */
static void *adopt_and_leave(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    while (!atomic_load(&w.is_over)) {
        moor_shard *s;
        if (moor_shard_adopt(w.runtime, &s)) {
            usleep(1000);
            continue;
        }
        const int64_t until = now_ms() + 5 + draw(&seed, 20);
        while (now_ms() < until) {
            moor_pool *p = draw(&seed, 2) ? use_pool() : NULL;
            if (p && draw(&seed, 2))
                post_request(p, s, &seed);
            else if (p)
                fetch(p, &seed);
            if (moor_shard_wait(s, 1))
                abort();
        }
        moor_shard_leave(s);
    }
    return NULL;
}

/* ---- rounds ---- */

static moor_pool *open_pool(uint32_t *seed)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", w.port);
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_max = 1 + draw(seed, 4);
    o.conns_min_idle = draw(seed, 2);
    o.conns_max_pool = draw(seed, 2) ? 3 : 0;
    o.waiters_max = 20;
    o.window_bytes = 32768;
    o.steal_keep = draw(seed, 2);
    o.acquire_timeout_ms = 30;
    o.backoff_min_ms = 1;
    o.lifetime_max_ms = draw(seed, 2) ? 20 : MOOR_FOREVER;
    o.idle_timeout_ms = draw(seed, 2) ? 5 : 1000;
    moor_pool *p = NULL;
    assert_int_equal(moor_pool_open(w.runtime, url, &o, &p), MOOR_OK);
    return p;
}

static void count_drained(void *user)
{
    atomic_fetch_add((_Atomic(uint32_t) *)user, 1);
}

static void one_round(uint32_t *seed)
{
    moor_pool *p = open_pool(seed);
    atomic_store(&w.pool, p);
    usleep(ROUND_MS * 1000);
    atomic_store(&w.pool, NULL);
    _Atomic(uint32_t) drained = 0;
    moor_pool_drain(p, draw(seed, 2) ? 0 : 30, count_drained, &drained);
    const int64_t until = now_ms() + 20000;
    while (atomic_load(&w.users)) { /* every request hears of its end */
        if (now_ms() > until)
            abort(); /* somebody never came back: the other threads still use this memory */
        usleep(500);
    }
    while (moor_pool_close(p, draw(seed, 2) ? 0 : 20) == MOOR_EBUSY)
        assert_true(now_ms() < until);
    assert_int_equal(atomic_load(&drained), 1);
}

static void run_for(const char *backend, int ms)
{
    memset(&w, 0, sizeof w);
    pthread_mutex_init(&w.lock, NULL);
    listen_anywhere();
    moor_runtime_options o;
    moor_runtime_options_init(&o);
    o.shards = 2;
    o.io_backend = backend;
    o.log_level = MOOR_LOG_OFF;
    o.recv_buffers = 32;
    o.conns_max_runtime = 6;
    if (moor_runtime_create(&o, &w.runtime) != MOOR_OK)
        skip();
    pthread_t acceptor, meddler, adopter, senders[SENDERS];
    pthread_create(&acceptor, NULL, accept_all, NULL);
    pthread_create(&meddler, NULL, meddle, (void *)(uintptr_t)5);
    pthread_create(&adopter, NULL, adopt_and_leave, (void *)(uintptr_t)9);
    for (uintptr_t i = 0; i < SENDERS; i++)
        pthread_create(&senders[i], NULL, send_all, (void *)(i * 77 + 1));
    uint32_t seed = (uint32_t)now_ms();
    for (const int64_t until = now_ms() + ms; now_ms() < until;)
        one_round(&seed);
    atomic_store(&w.is_over, true);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(senders[i], NULL);
    pthread_join(adopter, NULL);
    pthread_join(meddler, NULL);
    while (w.held_count)
        moor_chunk_return(w.held[--w.held_count]);
    assert_int_equal(moor_runtime_destroy(w.runtime, 1000), MOOR_OK);
    shutdown(w.listener, SHUT_RDWR);
    pthread_join(acceptor, NULL);
    close(w.listener);
    while (atomic_load(&w.serving))
        usleep(1000);
    assert_int_equal(atomic_load(&w.sent), atomic_load(&w.done));
    print_message("%llu requests, %llu refused\n", (unsigned long long)w.done,
                  (unsigned long long)w.refused);
    pthread_mutex_destroy(&w.lock);
}

static int stress_ms(void)
{
    const char *text = getenv("STRESS_MS");
    return text ? atoi(text) : 1500;
}

static void on_io_uring(void **state)
{
    (void)state;
    run_for("io_uring", stress_ms());
}

static void on_epoll(void **state)
{
    (void)state;
    run_for("epoll", stress_ms());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_io_uring),
        cmocka_unit_test(on_epoll),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
