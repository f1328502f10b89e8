/*
 * Races of connects over loopback, on both backends. A listener whose backlog is full is the black
 * hole: Linux drops the SYN, so such a connect hangs as if the address were unroutable.
 */
#include "core/dial.h"

#include "tests/support/loop_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

struct fixture {
    struct loop_fixture l;
    int fds[16]; /* of listeners and of what fills them: closed at the end */
    int fd_count;
    bool is_done;
    unsigned calls;
    struct mr_dial_result result;
};

static const char *backend;

static int keep(struct fixture *f, int fd)
{
    assert_true(fd >= 0 && f->fd_count < 16);
    return f->fds[f->fd_count++] = fd;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!loop_fixture_init(&f->l, backend)) {
        free(f);
        *state = NULL;
    }
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    if (!f)
        return 0;
    loop_fixture_fini(&f->l);
    for (int i = 0; i < f->fd_count; i++)
        close(f->fds[i]);
    free(f);
    return 0;
}

static struct fixture *start(void **state)
{
    if (!*state)
        skip();
    return *state;
}

/* A bound socket on a free port of an address; its own address comes back with the port. */
static int bound(struct fixture *f, const char *ip, struct mr_addr *a)
{
    assert_int_equal(mr_addr_parse(ip, strlen(ip), a), MOOR_OK);
    int fd = keep(f, socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    socklen_t len = a->len;
    assert_int_equal(bind(fd, &a->sa, a->len), 0);
    assert_int_equal(getsockname(fd, &a->sa, &len), 0);
    return fd;
}

static int listener(struct fixture *f, const char *ip, struct mr_addr *a)
{
    int fd = bound(f, ip, a);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

/* Bound but not listening: refuses for as long as nobody else can take the port. */
static void refuser(struct fixture *f, const char *ip, struct mr_addr *a)
{
    (void)bound(f, ip, a);
}

static void black_hole(struct fixture *f, const char *ip, struct mr_addr *a)
{
    int fd = bound(f, ip, a);
    assert_int_equal(listen(fd, 0), 0);
    for (int i = 0; i < 3; i++) {
        int c = keep(f, socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        (void)connect(c, &a->sa, a->len);
    }
    usleep(20 * 1000);
}

static void on_done(void *ctx, const struct mr_dial_result *r)
{
    struct fixture *f = ctx;
    f->calls++;
    f->is_done = true;
    f->result = *r;
    assert_true((r->err == MOOR_OK) == (r->fd >= 0));
    assert_true((r->err == MOOR_OK) == (r->what == NULL));
}

static struct mr_dial *begin(struct fixture *f, const struct mr_addr *list, uint32_t count,
                             struct mr_dial_args args)
{
    struct mr_dial *d = NULL;
    loop_fixture_turn(&f->l, 0);
    args.addrs = mr_addrs_create(&f->l.shared, list, count, MR_NEVER);
    assert_non_null(args.addrs);
    /* Tests say the order themselves. */
    memcpy(args.addrs->list, list, count * sizeof *list);
    args.deadline_ns = args.deadline_ns ? f->l.loop.now_ns + args.deadline_ns : MR_NEVER;
    args.done = on_done;
    args.ctx = f;
    f->is_done = false;
    f->calls = 0;
    assert_int_equal(mr_dial_start(&f->l.loop, &args, &d), MOOR_OK);
    mr_addrs_unref(args.addrs);
    assert_int_equal(f->calls, 0);
    return d;
}

static void run(struct fixture *f)
{
    assert_true(loop_fixture_run(&f->l, &f->is_done, 5000));
    assert_int_equal(f->calls, 1);
}

static void dial(struct fixture *f, const struct mr_addr *list, uint32_t count,
                 struct mr_dial_args args)
{
    begin(f, list, count, args);
    run(f);
}

static unsigned open_files(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void assert_works(struct fixture *f, int listener_fd)
{
    char c = 0;
    int fd = keep(f, f->result.fd);
    int peer = keep(f, accept(listener_fd, NULL, NULL));
    assert_int_equal(send(fd, "x", 1, 0), 1);
    assert_int_equal(recv(peer, &c, 1, 0), 1);
    assert_int_equal(c, 'x');
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void one_address_connects(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a;
    int l = listener(f, "127.0.0.1", &a);
    uint16_t port = mr_addr_port(&a);
    mr_addr_set_port(&a, 0);
    dial(f, &a, 1, (struct mr_dial_args){.port = port, .deadline_ns = MR_NS_PER_SEC});
    assert_int_equal(f->result.err, MOOR_OK);
    assert_int_equal(f->result.tried, 1);
    assert_int_equal(f->result.family, AF_INET);
    assert_works(f, l);
}

static void a_refusal_starts_the_next_at_once(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[3];
    refuser(f, "127.0.0.1", &a[0]);
    refuser(f, "127.0.0.1", &a[1]);
    int l = listener(f, "127.0.0.1", &a[2]);
    dial(f, a, 3, (struct mr_dial_args){.stagger_ns = 2 * MR_NS_PER_SEC});
    assert_int_equal(f->result.err, MOOR_OK);
    assert_int_equal(f->result.index, 2);
    assert_int_equal(f->result.tried, 3);
    assert_int_equal(f->result.os_errno, ECONNREFUSED);
    assert_true(f->result.elapsed_ns < 2 * MR_NS_PER_SEC);
    assert_works(f, l);
}

static void when_all_refuse_the_last_errno_is_told(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[2];
    refuser(f, "127.0.0.1", &a[0]);
    refuser(f, "127.0.0.1", &a[1]);
    unsigned files = open_files();
    dial(f, a, 2, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
    assert_int_equal(f->result.err, MOOR_ECONNECT);
    assert_int_equal(f->result.os_errno, ECONNREFUSED);
    assert_int_equal(f->result.tried, 2);
    assert_int_equal(f->result.index, 1);
    assert_string_equal(f->result.what, "connection refused");
    assert_int_equal(open_files(), files);
}

static void a_black_hole_is_overtaken_after_the_stagger(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[2];
    black_hole(f, "127.0.0.1", &a[0]);
    int l = listener(f, "127.0.0.1", &a[1]);
    unsigned files = open_files();
    dial(f, a, 2, (struct mr_dial_args){.stagger_ns = 60 * MR_NS_PER_MS});
    assert_int_equal(f->result.err, MOOR_OK);
    assert_int_equal(f->result.index, 1);
    assert_int_equal(f->result.os_errno, 0);
    assert_true(f->result.elapsed_ns >= 60 * MR_NS_PER_MS);
    assert_int_equal(open_files(), files + 1); /* the loser is closed */
    assert_works(f, l);
}

static void attempts_begin_one_by_one(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[4];
    for (int i = 0; i < 4; i++)
        black_hole(f, "127.0.0.1", &a[i]);
    loop_fixture_freeze(&f->l);
    unsigned files = open_files();
    struct mr_dial *d = begin(f, a, 4, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
    static const struct {
        int ms;
        unsigned open;
    } steps[] = {{249, 1}, {2, 2}, {248, 2}, {3, 3}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        loop_fixture_pass(&f->l, steps[i].ms);
        assert_int_equal(open_files(), files + steps[i].open);
    }
    mr_dial_cancel(d);
    run(f);
    assert_int_equal(f->result.err, MOOR_ECANCELED);
    assert_int_equal(f->result.tried, 3);
    assert_int_equal(f->result.elapsed_ns, 502 * MR_NS_PER_MS);
    assert_int_equal(open_files(), files);
}

static void rotation_and_family_choose_the_first(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[4];
    listener(f, "::1", &a[0]);
    listener(f, "127.0.0.1", &a[1]);
    listener(f, "::1", &a[2]);
    listener(f, "127.0.0.1", &a[3]);
    static const struct {
        uint32_t start;
        int family;
        uint32_t index;
    } cases[] = {{0, AF_UNSPEC, 0}, {1, AF_UNSPEC, 1}, {6, AF_UNSPEC, 2}, {0, AF_INET, 1},
                 {2, AF_INET, 3},   {1, AF_INET6, 2},  {3, AF_UNIX, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dial(f, a, 4,
             (struct mr_dial_args){.start_index = cases[i].start, .first_family = cases[i].family});
        assert_int_equal(f->result.err, MOOR_OK);
        assert_int_equal(f->result.index, cases[i].index);
        assert_int_equal(f->result.family, cases[i].index % 2 ? AF_INET : AF_INET6);
        close(f->result.fd);
    }
}

/* Six of one family, then one of the other: the second attempt is the other family's. */
static void families_alternate_after_the_rotation(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[7];
    for (int i = 0; i < 6; i++)
        refuser(f, "::1", &a[i]);
    int l = listener(f, "127.0.0.1", &a[6]);
    dial(f, a, 7, (struct mr_dial_args){.start_index = 3});
    assert_int_equal(f->result.err, MOOR_OK);
    assert_int_equal(f->result.index, 6);
    assert_int_equal(f->result.tried, 2);
    assert_works(f, l);
}

static void the_deadline_ends_the_race(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[2];
    refuser(f, "127.0.0.1", &a[0]);
    black_hole(f, "127.0.0.1", &a[1]);
    unsigned files = open_files();
    dial(f, a, 2, (struct mr_dial_args){.deadline_ns = 80 * MR_NS_PER_MS});
    assert_int_equal(f->result.err, MOOR_ETIMEDOUT);
    assert_int_equal(f->result.os_errno, ECONNREFUSED);
    assert_int_equal(f->result.tried, 2);
    assert_true(f->result.elapsed_ns >= 80 * MR_NS_PER_MS);
    assert_int_equal(open_files(), files);
}

static void cancel_is_answered_later_and_once(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a;
    black_hole(f, "127.0.0.1", &a);
    unsigned files = open_files();
    struct mr_dial *d = begin(f, &a, 1, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
    mr_dial_cancel(d);
    mr_dial_cancel(d);
    assert_int_equal(f->calls, 0);
    run(f);
    assert_int_equal(f->result.err, MOOR_ECANCELED);
    assert_int_equal(open_files(), files);
    d = begin(f, &a, 1, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
    loop_fixture_run_for(&f->l, 10);
    mr_dial_cancel(d);
    run(f);
    assert_int_equal(f->result.err, MOOR_ECANCELED);
    assert_int_equal(open_files(), files);
}

static void unix_sockets_are_dialled_too(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a;
    char path[64];
    snprintf(path, sizeof path, "/tmp/mooring-dial-%d.sock", (int)getpid());
    unlink(path);
    assert_int_equal(mr_addr_from_path(path, strlen(path), &a), MOOR_OK);
    dial(f, &a, 1, (struct mr_dial_args){.port = 1});
    assert_int_equal(f->result.err, MOOR_ECONNECT);
    assert_int_equal(f->result.os_errno, ENOENT);
    int l = keep(f, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    assert_int_equal(bind(l, &a.sa, a.len), 0);
    assert_int_equal(listen(l, 4), 0);
    dial(f, &a, 1, (struct mr_dial_args){.port = 1});
    unlink(path);
    assert_int_equal(f->result.err, MOOR_OK);
    assert_works(f, l);
}

static void running_out_of_files_is_its_own_error(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[2];
    struct rlimit before, tight;
    listener(f, "127.0.0.1", &a[0]);
    a[1] = a[0];
    a[1].in.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    int next = dup(0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = (struct rlimit){(rlim_t)next, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    begin(f, a, 2, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
    bool is_done = loop_fixture_run(&f->l, &f->is_done, 2000);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(is_done);
    assert_int_equal(f->result.err, MOOR_ENOFILES);
    assert_int_equal(f->result.os_errno, EMFILE);
    assert_int_equal(f->result.tried, 1);
}

/* A backend whose connect does as the test says, for what loopback cannot be made to do. */
static struct {
    const struct mr_io_ops *real;
    struct mr_io_ops ops;
    int err; /* connect returns it; 0 = connects a socket to itself */
    struct mr_deferred connected;
    struct mr_loop *loop;
    struct mr_sock *sock;
} fake;

static void report_connected(struct mr_deferred *d)
{
    (void)d;
    fake.sock->events->connected(fake.sock, 0);
}

static int fake_connect(struct mr_io *io, struct mr_sock *s, const struct sockaddr *to,
                        socklen_t len, const struct mr_sock_options *o)
{
    (void)o;
    if (fake.err)
        return fake.err;
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, to, len), 0);
    assert_int_equal(connect(fd, to, len), 0);
    fake.real->attach(io, s, fd);
    fake.sock = s;
    mr_loop_defer(fake.loop, &fake.connected);
    return 0;
}

static void fake_begin(struct fixture *f)
{
    memset(&fake, 0, sizeof fake);
    fake.real = f->l.loop.io->ops;
    fake.ops = *fake.real;
    fake.ops.connect = fake_connect;
    fake.connected.run = report_connected;
    fake.loop = &f->l.loop;
    f->l.loop.io->ops = &fake.ops;
}

static void a_socket_connected_to_itself_is_refused(void **state)
{
    struct fixture *f = start(state);
    static const char *const ips[] = {"127.0.0.1", "::1"};
    fake_begin(f);
    for (int i = 0; i < 2; i++) {
        struct mr_addr a;
        int fd = bound(f, ips[i], &a); /* finds a free port, then gives it up */
        f->fd_count--;
        close(fd);
        unsigned files = open_files();
        dial(f, &a, 1, (struct mr_dial_args){.deadline_ns = MR_NS_PER_SEC});
        assert_int_equal(f->result.err, MOOR_ECONNECT);
        assert_int_equal(f->result.os_errno, ECONNREFUSED);
        assert_int_equal(open_files(), files);
    }
    f->l.loop.io->ops = fake.real;
}

static void errnos_become_errors(void **state)
{
    struct fixture *f = start(state);
    static const struct {
        int os_errno;
        moor_err err;
        uint32_t tried;
    } cases[] = {{ENETUNREACH, MOOR_ECONNECT, 2},   {EHOSTUNREACH, MOOR_ECONNECT, 2},
                 {EADDRNOTAVAIL, MOOR_ECONNECT, 2}, {ETIMEDOUT, MOOR_ECONNECT, 2},
                 {EACCES, MOOR_ECONNECT, 2},        {ENOBUFS, MOOR_ENOMEM, 1},
                 {ENOMEM, MOOR_ENOMEM, 1},          {ENFILE, MOOR_ENOFILES, 1}};
    struct mr_addr a[2];
    assert_int_equal(mr_addr_parse("192.0.2.1", 9, &a[0]), MOOR_OK);
    assert_int_equal(mr_addr_parse("192.0.2.2", 9, &a[1]), MOOR_OK);
    fake_begin(f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fake.err = cases[i].os_errno;
        dial(f, a, 2, (struct mr_dial_args){.port = 1});
        assert_int_equal(f->result.err, cases[i].err);
        assert_int_equal(f->result.os_errno, cases[i].os_errno);
        assert_int_equal(f->result.tried, cases[i].tried);
        assert_non_null(f->result.what);
    }
    f->l.loop.io->ops = fake.real;
}

static void many_addresses_cost_sixteen_attempts(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a[40];
    refuser(f, "127.0.0.1", &a[0]);
    for (uint32_t i = 1; i < 40; i++) {
        a[i] = a[0];
        a[i].in.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i);
    }
    dial(f, a, 40, (struct mr_dial_args){.start_index = 30});
    assert_int_equal(f->result.err, MOOR_ECONNECT);
    assert_int_equal(f->result.tried, MR_DIAL_TRIES_MAX);
    assert_int_equal(f->result.index, (30 + 15) % 40);
}

static void without_memory_nothing_begins(void **state)
{
    struct fixture *f = start(state);
    struct mr_addr a;
    struct mr_dial *d;
    listener(f, "127.0.0.1", &a);
    struct mr_addrs *l = mr_addrs_create(&f->l.shared, &a, 1, MR_NEVER);
    struct mr_dial_args args = {.addrs = l, .deadline_ns = MR_NEVER, .done = on_done, .ctx = f};
    mr_heap_fault_at(0);
    assert_int_equal(mr_dial_start(&f->l.loop, &args, &d), MOOR_ENOMEM);
    mr_heap_fault_at(-1);
    mr_addrs_unref(l);
    loop_fixture_run_for(&f->l, 5);
    assert_int_equal(f->calls, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_address_connects),
        T(a_refusal_starts_the_next_at_once),
        T(when_all_refuse_the_last_errno_is_told),
        T(a_black_hole_is_overtaken_after_the_stagger),
        T(attempts_begin_one_by_one),
        T(rotation_and_family_choose_the_first),
        T(families_alternate_after_the_rotation),
        T(the_deadline_ends_the_race),
        T(cancel_is_answered_later_and_once),
        T(unix_sockets_are_dialled_too),
        T(running_out_of_files_is_its_own_error),
        T(a_socket_connected_to_itself_is_refused),
        T(errnos_become_errors),
        T(many_addresses_cost_sixteen_attempts),
        T(without_memory_nothing_begins),
    };
    backend = "epoll";
    int failed = cmocka_run_group_tests_name("dial on epoll", tests, NULL, NULL);
    backend = "io_uring";
    return failed + cmocka_run_group_tests_name("dial on io_uring", tests, NULL, NULL);
}
