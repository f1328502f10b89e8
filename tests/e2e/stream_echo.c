/*
 * Byte streams through the installed library's public calls only, against mooring-origin's raw echo:
 * several threads, large amounts both ways, connections reused.
 *
 *     stream_echo_test PATH-OF-MOORING-ORIGIN
 */
#include <mooring/mooring.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS    4
#define ROUNDS     50
#define BLOCK_SIZE ((size_t)256 << 10)

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Starts the server; its echo's "tcp://HOST:PORT" to url. */
static pid_t start_origin(const char *program, char url[64])
{
    int out[2];
    CHECK(pipe(out) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(out[1], STDOUT_FILENO) >= 0)
            execl(program, program, "--echo-port", "0", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    CHECK(lines);
    char line[128];
    url[0] = '\0';
    while (!url[0] && fgets(line, sizeof line, lines)) {
        const char *host = strstr(line, "echo on ");
        const char *colon = host ? strrchr(line, ':') : NULL;
        if (colon)
            snprintf(url, 64, "tcp://127.0.0.1:%d", (int)strtol(colon + 1, NULL, 10));
    }
    CHECK(url[0]);
    (void)fclose(lines);
    return pid;
}

struct worker {
    moor_pool *pool;
    unsigned index;
    pthread_t thread;
};

static void round_trip(moor_pool *pool, unsigned char *block, unsigned char seed)
{
    moor_acquired a;
    CHECK(moor_acquire_wait(pool, NULL, &a) == MOOR_OK);
    for (size_t i = 0; i < BLOCK_SIZE; i++)
        block[i] = (unsigned char)(i * 7 + seed);
    CHECK(moor_stream_send_wait(a.lease, (moor_span){block, BLOCK_SIZE}, 10000) == MOOR_OK);
    for (size_t got = 0; got < BLOCK_SIZE;) {
        moor_chunk c;
        CHECK(moor_stream_read_wait(a.lease, 10000, &c) == MOOR_OK);
        CHECK(c.bytes.len > 0 && c.bytes.len <= BLOCK_SIZE - got);
        CHECK(memcmp(c.bytes.base, block + got, c.bytes.len) == 0);
        got += c.bytes.len;
        moor_chunk_return(c);
    }
    moor_release(a.lease, MOOR_REUSE);
}

static void *work(void *arg)
{
    const struct worker *w = arg;
    unsigned char *block = malloc(BLOCK_SIZE);
    CHECK(block);
    for (unsigned i = 0; i < ROUNDS; i++)
        round_trip(w->pool, block, (unsigned char)(w->index * ROUNDS + i));
    free(block);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    char url[64];
    const pid_t origin = start_origin(argv[1], url);
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    ro.shards = 2;
    moor_runtime *runtime;
    CHECK(moor_runtime_create(&ro, &runtime) == MOOR_OK);
    moor_pool_options po;
    moor_pool_options_init(&po);
    po.conns_min_idle = 0;
    moor_pool *pool;
    CHECK(moor_pool_open(runtime, url, &po, &pool) == MOOR_OK);
    struct worker workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.pool = pool, .index = i};
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    moor_stats s;
    moor_stats_read_sized(pool, &s, sizeof s);
    CHECK(s.acquires == THREADS * ROUNDS);
    CHECK(s.conns_created <= (uint64_t)THREADS * 4); /* a dial may lose against a returned conn */
    CHECK(s.bytes_out == (uint64_t)THREADS * ROUNDS * BLOCK_SIZE);
    CHECK(s.bytes_in == s.bytes_out);
    printf("%s: %llu acquires on %llu connections\n", moor_runtime_backend(runtime),
           (unsigned long long)s.acquires, (unsigned long long)s.conns_created);
    CHECK(moor_pool_close(pool, 1000) == MOOR_OK);
    CHECK(moor_runtime_destroy(runtime, 1000) == MOOR_OK);
    kill(origin, SIGTERM);
    CHECK(waitpid(origin, NULL, 0) == origin);
    return 0;
}
