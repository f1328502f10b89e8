/*
 * redis-server as a child process. Test's own thread.
 */
#include "tests/drivers/redis/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <hiredis/hiredis.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define NOBODY 65534 /* in every Debian; if not, the number is as good */

void server_need(void)
{
    if (!access("/usr/bin/redis-server", X_OK) || !access("/usr/local/bin/redis-server", X_OK))
        return;
    puts("skipped: no redis-server");
    exit(77);
}

static int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof at));
    assert_true(!getsockname(fd, (struct sockaddr *)&at, &len));
    close(fd);
    return ntohs(at.sin_port);
}

static void nap(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l}, NULL);
}

void server_make(struct redis_server *s)
{
    *s = (struct redis_server){.pid = 0};
    snprintf(s->dir, sizeof s->dir, "/tmp/mooring-redis-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    if (!geteuid())
        assert_int_equal(chown(s->dir, NOBODY, NOBODY), 0);
    snprintf(s->socket, sizeof s->socket, "%s/sock", s->dir);
    s->port = free_port();
    s->tls_port = free_port();
}

static void become(struct redis_server *s, pid_t parent)
{
    char port[8], log[128];
    const char *argv[64] = {"redis-server", "--port",           port,      "--bind",
                            "127.0.0.1",    "--unixsocket",     s->socket, "--dir",
                            s->dir,         "--save",           "",        "--appendonly",
                            "no",           "--logfile",        log,       "--enable-debug-command",
                            "yes",          "--unixsocketperm", "777"};
    unsigned count = 0;
    snprintf(port, sizeof port, "%d", s->port);
    snprintf(log, sizeof log, "%s/log", s->dir);
    while (argv[count])
        count++;
    for (unsigned i = 0; s->args[i]; i++)
        argv[count++] = s->args[i];
    if (!geteuid() && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

void server_run(struct redis_server *s)
{
    const pid_t parent = getpid();
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (!s->pid)
        become(s, parent);
    for (int i = 0; i < 1000; i++) {
        redisContext *c = redisConnect("127.0.0.1", s->port);
        const bool is_there = c && !c->err;
        if (c)
            redisFree(c);
        if (is_there)
            return;
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
            break;
        nap(10);
    }
    fail_msg("redis-server does not answer on port %d, see %s/log", s->port, s->dir);
}

void server_start(struct redis_server *s, const char *const *args)
{
    server_make(s);
    for (unsigned i = 0; args && args[i]; i++)
        s->args[i] = args[i];
    server_run(s);
}

void server_signal(struct redis_server *s, int number)
{
    assert_true(s->pid > 0); /* 0 would be the test and all around it */
    assert_int_equal(kill(s->pid, number), 0);
}

void server_kill(struct redis_server *s)
{
    if (s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

const char *server_ask(struct redis_server *s, const char *format, ...)
{
    static char text[65536];
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    redisContext *c = redisConnectUnix(s->socket);
    assert_true(c && !c->err);
    if (s->password)
        freeReplyObject(redisCommand(c, "AUTH %s", s->password));
    redisReply *r = redisCommand(c, command); /* NOLINT: words of the test, no user's */
    if (!r)
        snprintf(text, sizeof text, "?%s", c->errstr);
    else if (r->type == REDIS_REPLY_INTEGER)
        snprintf(text, sizeof text, "%lld", r->integer);
    else
        snprintf(text, sizeof text, "%s", r->str ? r->str : "");
    if (r)
        freeReplyObject(r);
    redisFree(c);
    return text;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void server_stop(struct redis_server *s)
{
    server_kill(s);
    if (s->dir[0])
        nftw(s->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    s->dir[0] = 0;
}
