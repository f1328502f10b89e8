/*
 * A program on the ssh driver, told what to do by lines on standard input; one line of JSON answers each. Uses
 * public headers only. The shard also runs a timer of 1 ms: its pulse shows that it goes on.
 *
 *     ssh_shell URL [OPTION=VALUE ...]      pool options by name, sessions_max, channels_max, keepalive_ms, hold_max_ms
 */
#include <mooring/mooring.h>
#include <mooring/ssh.h>

#include <libssh/libssh.h>

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static moor_runtime *runtime;
static moor_pool *pool, *other_pool;
static moor_ssh_mux *mux;
static moor_ssh_mux_options mux_options;
static char logged[4096];

static void print_text(const char *name, const void *bytes, size_t len)
{
    printf(", \"%s\": \"", name);
    for (size_t i = 0; i < len && i < 2000; i++) {
        const unsigned char c = ((const unsigned char *)bytes)[i];
        if (c < ' ' || c >= 127 || c == '"' || c == '\\')
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static uint64_t hash(uint64_t h, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        h = (h ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
    return h;
}
#define HASH_START 14695981039346656037u

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- the shard's pulse ---- */

static moor_poll pulse;
static int64_t pulse_at;
static _Atomic(int64_t) pulse_worst;
static _Atomic(unsigned) pulses;

static void beat(moor_poll *p, unsigned events)
{
    (void)events;
    const int64_t now = now_us(), late = now - pulse_at;
    if (pulse_at && late > atomic_load(&pulse_worst))
        atomic_store(&pulse_worst, late);
    atomic_fetch_add(&pulses, 1);
    pulse_at = now;
    CHECK(moor_poll_start(p, -1, 0, 1) == MOOR_OK);
}

static void start_pulse(void *user)
{
    (void)user;
    pulse.ready = beat;
    beat(&pulse, 0);
}

static void stop_pulse(void *user)
{
    moor_poll_stop(&pulse);
    sem_post(user);
}

static void do_pulse(char *args)
{
    (void)args;
    printf("{\"pulses\": %u, \"worst_us\": %lld}\n", atomic_exchange(&pulses, 0),
           (long long)atomic_exchange(&pulse_worst, 0));
}

/* ---- commands ---- */

/* run TIMEOUT_MS OUTPUT_MAX INPUT_BYTES COMMAND */
static void do_run(char *args)
{
    moor_ssh_command c;
    moor_ssh_command_init(&c);
    c.timeout_ms = strtol(args, &args, 10);
    c.output_max = strtoul(args, &args, 10);
    const size_t len = strtoul(args, &args, 10);
    char *input = malloc(len + 1), why[160] = "";
    for (size_t i = 0; i < len; i++)
        input[i] = (char)(i * 131 % 251);
    c.input = (moor_span){input, len};
    c.text = args + 1;
    c.why = why;
    c.why_cap = sizeof why;
    moor_ssh_result *r = NULL;
    const moor_err e = moor_ssh_exec_wait(mux, &c, &r);
    flockfile(stdout);
    printf("{\"verb\": \"run\", \"err\": \"%s\"", moor_err_name(e));
    print_text("why", why, strlen(why));
    if (!e) {
        printf(", \"status\": %d, \"signal\": \"%s\", \"out_len\": %zu, \"out_hash\": \"%llx\"",
               r->exit_status, r->signal, r->out.len,
               (unsigned long long)hash(HASH_START, r->out.base, r->out.len));
        print_text("out", r->out.base, r->out.len);
        print_text("stderr", r->err.base, r->err.len);
    }
    printf("}\n");
    funlockfile(stdout);
    moor_ssh_result_free(r);
    free(input);
}

struct storm {
    moor_task task;
    char *text;
    unsigned count, cancel_every;
    moor_ms timeout_ms;
    unsigned done, failed, retryable, bad_status, bytes;
    char first_error[300];
    sem_t over;
};

static void storm_output(void *user, bool is_stderr, moor_span bytes)
{
    (void)is_stderr;
    CHECK(bytes.len > 0 && bytes.len <= MOOR_SSH_CHUNK_MAX);
    ((struct storm *)user)->bytes += (unsigned)bytes.len;
}

static void storm_done(void *user, const moor_ssh_done *d)
{
    struct storm *s = user;
    if (d->fault.err) {
        s->retryable += d->fault.safe_to_retry;
        if (!s->failed++)
            snprintf(s->first_error, sizeof s->first_error, "%s: %s: %s",
                     moor_err_name(d->fault.err), d->fault.what, d->text);
    } else if (d->exit_status != 0) {
        s->bad_status++;
    }
    if (++s->done == s->count)
        sem_post(&s->over);
}

static void storm_start(void *user)
{
    struct storm *s = user;
    const moor_ssh_handlers h = {
        .size = sizeof h, .on_output = storm_output, .on_done = storm_done};
    moor_ssh_command c;
    moor_ssh_command_init(&c);
    c.text = s->text;
    c.timeout_ms = s->timeout_ms;
    const unsigned count = s->count;
    for (unsigned i = 0; i < count; i++) {
        moor_ssh_op op;
        const moor_err e = moor_ssh_exec(mux, &c, &h, s, &op);
        if (e) {
            const moor_ssh_done d = {.fault = {.err = e, .what = "refused"}, .text = ""};
            storm_done(s, &d);
        } else if (s->cancel_every && i % s->cancel_every == 0) {
            moor_ssh_cancel(op);
        }
    }
}

/* storm COUNT TIMEOUT_MS CANCEL_EVERY COMMAND: all at once, from the shard */
static void do_storm(char *args)
{
    struct storm s = {.count = (unsigned)strtoul(args, &args, 10)};
    s.timeout_ms = strtol(args, &args, 10);
    s.cancel_every = (unsigned)strtoul(args, &args, 10);
    s.text = args + 1;
    sem_init(&s.over, 0, 0);
    s.task = (moor_task){.run = storm_start, .user = &s};
    CHECK(moor_post(moor_shard_at(runtime, 0), &s.task) == MOOR_OK);
    sem_wait(&s.over);
    sem_destroy(&s.over);
    printf("{\"done\": %u, \"failed\": %u, \"retryable\": %u, \"bad_status\": %u, \"bytes\": %u",
           s.done, s.failed, s.retryable, s.bad_status, s.bytes);
    print_text("first_error", s.first_error, strlen(s.first_error));
    printf("}\n");
}

/* ---- leases ---- */

/* As a program on libssh would: its blocking calls. The exit status, -1 on any failure. */
static int run_on(ssh_session session, const char *command, char *out, size_t cap)
{
    int status = -1;
    size_t len = 0;
    ssh_channel c = ssh_channel_new(session);
    if (c && ssh_channel_open_session(c) == SSH_OK &&
        ssh_channel_request_exec(c, command) == SSH_OK) {
        int n = 0;
        while (len + 1 < cap &&
               (n = ssh_channel_read(c, out + len, (uint32_t)(cap - len - 1), 0)) > 0)
            len += (size_t)n;
        ssh_channel_send_eof(c);
        if (n >= 0)
            status = ssh_channel_get_exit_status(c);
        ssh_channel_close(c);
    }
    out[len] = 0;
    ssh_channel_free(c);
    return status;
}

static void print_why(moor_err e, const moor_why *why)
{
    char text[512];
    printf(", \"err\": \"%s\"", moor_err_name(e));
    if (e) {
        (void)moor_why_text(why, text, sizeof text);
        print_text("why", text, strlen(text));
        print_text("connect_text", why->connect_text, strlen(why->connect_text));
        printf(", \"connect_err\": \"%s\"", moor_err_name(why->connect_err));
    }
}

/* lease TIMEOUT_MS HOW COMMAND */
static void do_lease(char *args)
{
    moor_acquire_options o;
    moor_acquire_options_init(&o);
    moor_why why = {.size = sizeof why};
    o.why = &why;
    o.timeout_ms = strtol(args, &args, 10);
    const moor_release_how how = (moor_release_how)strtol(args, &args, 10);
    moor_acquired a = {.size = sizeof a};
    const moor_err e = moor_acquire_wait(pool, &o, &a);
    char out[4096];
    const int status = e ? -1 : run_on(a.native, args + 1, out, sizeof out);
    flockfile(stdout);
    printf("{\"verb\": \"lease\"");
    print_why(e, &why);
    if (!e) {
        printf(", \"status\": %d, \"reused\": %s, \"blocking\": %d, \"nonblock\": %d", status,
               a.reused ? "true" : "false", ssh_is_blocking(a.native),
               (fcntl(ssh_get_fd(a.native), F_GETFL) & O_NONBLOCK) != 0);
        print_text("out", out, strlen(out));
    }
    printf("}\n");
    funlockfile(stdout);
    if (!e && status < 0)
        moor_lease_report(a.lease, NULL, SSH_FATAL);
    if (!e)
        moor_release(a.lease, how);
}

struct worker {
    pthread_t thread;
    unsigned rounds, ok;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; i < w->rounds; i++) {
        moor_acquired a = {.size = sizeof a};
        if (moor_acquire_wait(pool, NULL, &a))
            continue;
        char command[64], out[64], expected[64];
        snprintf(command, sizeof command, "echo %p.%u", arg, i);
        snprintf(expected, sizeof expected, "%p.%u\n", arg, i);
        w->ok += run_on(a.native, command, out, sizeof out) == 0 && !strcmp(out, expected);
        moor_release(a.lease, MOOR_REUSE);
    }
    return NULL;
}

/* leases THREADS ROUNDS */
static void do_leases(char *args)
{
    struct worker w[16];
    const unsigned n = (unsigned)strtoul(args, &args, 10),
                   rounds = (unsigned)strtoul(args, &args, 10);
    unsigned ok = 0;
    CHECK(n <= 16);
    for (unsigned i = 0; i < n; i++) {
        w[i] = (struct worker){.rounds = rounds};
        CHECK(pthread_create(&w[i].thread, NULL, work, &w[i]) == 0);
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(w[i].thread, NULL);
        ok += w[i].ok;
    }
    printf("{\"ok\": %u}\n", ok);
}

/* hangup: the holder does what it should not, and ends the session itself */
static void do_hangup(char *args)
{
    (void)args;
    moor_acquired a = {.size = sizeof a};
    const moor_err e = moor_acquire_wait(pool, NULL, &a);
    if (!e) {
        ssh_disconnect(a.native);
        moor_release(a.lease, MOOR_REUSE);
    }
    printf("{\"err\": \"%s\"}\n", moor_err_name(e));
}

/* other URL: another pool of the same shard; lease it once a call afterwards */
static void do_other(char *args)
{
    moor_pool_options o;
    moor_pool_options_init(&o);
    o.conns_min_idle = 0;
    moor_acquired a = {.size = sizeof a};
    moor_err e = other_pool ? MOOR_OK : moor_pool_open(runtime, args + 1, &o, &other_pool);
    if (!e)
        e = moor_acquire_wait(other_pool, NULL, &a);
    if (!e)
        moor_release(a.lease, MOOR_DISCARD);
    printf("{\"err\": \"%s\"}\n", moor_err_name(e));
}

/* close TIMEOUT_MS: the multiplexer, whatever runs */
static void do_close(char *args)
{
    const moor_err e = moor_ssh_mux_close(mux, strtol(args, NULL, 10));
    if (!e)
        mux = NULL;
    flockfile(stdout);
    printf("{\"err\": \"%s\"}\n", moor_err_name(e));
    funlockfile(stdout);
}

/* adopted URL COMMAND: on a shard that this thread drives */
static void do_adopted(char *args)
{
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    ro.shards = 0;
    moor_runtime *r;
    moor_shard *shard;
    moor_pool *p;
    moor_ssh_mux *m;
    char *url = args + 1, *text = strchr(url, ' ');
    *text++ = 0;
    CHECK(moor_runtime_create(&ro, &r) == MOOR_OK);
    CHECK(moor_driver_use(r, moor_ssh_driver()) == MOOR_OK);
    CHECK(moor_shard_adopt(r, &shard) == MOOR_OK);
    moor_pool_options po;
    moor_pool_options_init(&po);
    po.conns_min_idle = 0;
    CHECK(moor_pool_open(r, url, &po, &p) == MOOR_OK);
    CHECK(moor_ssh_mux_open(p, shard, NULL, &m) == MOOR_OK);
    moor_ssh_command c;
    moor_ssh_command_init(&c);
    c.text = text;
    moor_ssh_result *result = NULL;
    const moor_err e = moor_ssh_exec_wait(m, &c, &result);
    printf("{\"err\": \"%s\"", moor_err_name(e));
    if (!e)
        print_text("out", result->out.base, result->out.len);
    printf("}\n");
    moor_ssh_result_free(result);
    CHECK(moor_ssh_mux_close(m, 1000) == MOOR_OK);
    CHECK(moor_pool_close(p, 1000) == MOOR_OK);
    moor_shard_leave(shard);
    CHECK(moor_runtime_destroy(r, 5000) == MOOR_OK);
}

struct wrong {
    moor_task task;
    sem_t over;
    moor_err wait, close;
};

static void wrong_on_shard(void *user)
{
    struct wrong *w = user;
    moor_ssh_command c;
    moor_ssh_command_init(&c);
    c.text = "true";
    moor_ssh_result *result;
    w->wait = moor_ssh_exec_wait(mux, &c, &result);
    w->close = moor_ssh_mux_close(mux, 0);
    sem_post(&w->over);
}

static void wrong_done(void *user, const moor_ssh_done *done)
{
    (void)user, (void)done;
    abort();
}

/* wrong: calls from threads that may not make them */
static void do_wrong(char *args)
{
    (void)args;
    struct wrong w = {.task = {.run = wrong_on_shard}};
    w.task.user = &w;
    sem_init(&w.over, 0, 0);
    CHECK(moor_post(moor_shard_at(runtime, 0), &w.task) == MOOR_OK);
    sem_wait(&w.over);
    sem_destroy(&w.over);
    moor_ssh_command c;
    moor_ssh_command_init(&c);
    c.text = "true";
    const moor_ssh_handlers h = {.size = sizeof h, .on_done = wrong_done};
    const moor_err e = moor_ssh_exec(mux, &c, &h, NULL, NULL);
    moor_ssh_cancel((moor_ssh_op){0});
    printf("{\"exec_wait\": \"%s\", \"close\": \"%s\", \"exec\": \"%s\"}\n", moor_err_name(w.wait),
           moor_err_name(w.close), moor_err_name(e));
}

static void do_stats(char *args)
{
    (void)args;
    moor_stats s;
    moor_stats_read(pool, &s);
    printf(
        "{\"open\": %llu, \"idle\": %llu, \"leased\": %llu, \"created\": %llu, \"closed\": %llu, "
        "\"dials_failed\": %llu, \"acquires\": %llu, \"retired\": %llu",
        (unsigned long long)s.conns_open, (unsigned long long)s.conns_idle,
        (unsigned long long)s.conns_leased, (unsigned long long)s.conns_created,
        (unsigned long long)s.conns_closed, (unsigned long long)s.dials_failed,
        (unsigned long long)s.acquires, (unsigned long long)s.conns_retired);
    print_text("log", logged, strlen(logged));
    printf("}\n");
}

/* remux [OPTION=VALUE ...] */
static void set_mux_option(const char *name, long value)
{
    if (!strcmp(name, "sessions_max"))
        mux_options.sessions_max = (uint32_t)value;
    else if (!strcmp(name, "channels_max"))
        mux_options.channels_max = (uint32_t)value;
    else if (!strcmp(name, "commands_max"))
        mux_options.commands_max = (uint32_t)value;
    else if (!strcmp(name, "keepalive_ms"))
        mux_options.keepalive_ms = value;
    else if (!strcmp(name, "hold_max_ms"))
        mux_options.hold_max_ms = value;
    else
        CHECK(!"option");
}

static const struct {
    const char *name;
    void (*run)(char *args);
} verbs[] = {{"run", do_run},         {"storm", do_storm},   {"lease", do_lease},
             {"leases", do_leases},   {"stats", do_stats},   {"pulse", do_pulse},
             {"other", do_other},     {"hangup", do_hangup}, {"close", do_close},
             {"adopted", do_adopted}, {"wrong", do_wrong}};

static void on_log(void *user, int level, const char *code, const char *text)
{
    (void)user, (void)level, (void)code;
    const size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", text);
}

static void open_all(int argc, char **argv)
{
    moor_runtime_options ro;
    moor_runtime_options_init(&ro);
    CHECK(moor_runtime_options_from_env(&ro, NULL, 0) == MOOR_OK);
    ro.shards = 1;
    ro.on_log = on_log;
    CHECK(moor_runtime_create(&ro, &runtime) == MOOR_OK);
    CHECK(moor_driver_use(runtime, moor_ssh_driver()) == MOOR_OK);
    moor_pool_options po;
    moor_pool_options_init(&po);
    po.name = "t";
    po.conns_min_idle = 0;
    moor_ssh_mux_options_init(&mux_options);
    for (int i = 2; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        CHECK(value);
        *value++ = 0;
        if (strstr("sessions_max channels_max commands_max keepalive_ms hold_max_ms", argv[i])) {
            set_mux_option(argv[i], strtol(value, NULL, 10));
            continue;
        }
        char name[80] = "MOORING_POOL_T_";
        for (size_t k = strlen(name), j = 0; argv[i][j]; j++)
            name[k++] =
                (char)(argv[i][j] >= 'a' && argv[i][j] <= 'z' ? argv[i][j] - 32 : argv[i][j]);
        setenv(name, value, 1);
    }
    const moor_err e = moor_pool_open(runtime, argv[1], &po, &pool);
    printf("{\"err\": \"%s\"", moor_err_name(e));
    print_text("log", logged, strlen(logged));
    printf("}\n");
    if (e)
        exit(0);
    CHECK(moor_ssh_mux_open(pool, moor_shard_at(runtime, 0), &mux_options, &mux) == MOOR_OK);
}

static void perform(char *line)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        const size_t n = strlen(verbs[i].name);
        if (strncmp(line, verbs[i].name, n) != 0 || (line[n] && line[n] != ' '))
            continue;
        verbs[i].run(line + n);
        return;
    }
    CHECK(!"a verb");
}

/* "& VERB ...": in a thread of its own, while others go on. */
static pthread_t beside[64];
static unsigned beside_count;

static void *perform_beside(void *line)
{
    perform(line);
    free(line);
    return NULL;
}

static void begin(char *line)
{
    if (*line != '&') {
        perform(line);
        return;
    }
    CHECK(beside_count < sizeof beside / sizeof *beside);
    CHECK(pthread_create(&beside[beside_count++], NULL, perform_beside, strdup(line + 2)) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_all(argc, argv);
    moor_task start = {.run = start_pulse};
    CHECK(moor_post(moor_shard_at(runtime, 0), &start) == MOOR_OK);
    char line[70000];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        begin(line);
    }
    while (beside_count)
        pthread_join(beside[--beside_count], NULL);
    CHECK(moor_ssh_mux_close(mux, 1000) == MOOR_OK);
    sem_t stopped;
    sem_init(&stopped, 0, 0);
    moor_task stop = {.run = stop_pulse, .user = &stopped};
    CHECK(moor_post(moor_shard_at(runtime, 0), &stop) == MOOR_OK);
    sem_wait(&stopped);
    CHECK(moor_pool_close(other_pool, 1000) == MOOR_OK);
    CHECK(moor_pool_close(pool, 1000) == MOOR_OK);
    CHECK(moor_runtime_destroy(runtime, 5000) == MOOR_OK);
    printf("{\"closed\": true}\n");
    return 0;
}
