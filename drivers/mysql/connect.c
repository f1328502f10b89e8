/*
 * How a connection begins and ends. Runs on the keeper, and on a helper thread where libmariadb can only block.
 * Owns the MYSQL from mysql_init to mysql_close; must never resolve a name or wait on the keeper.
 *
 * libmariadb suspends every wait of a connect but the TLS handshake, which also reads the certificates' files:
 * it blocks, so it goes to a helper. Which call will begin it cannot be known from outside: if the server's
 * greeting is there when TCP has connected, the same call goes on to the handshake. So with TLS the greeting
 * is waited for before libmariadb is called again, and from then on a helper calls. A server that says nothing
 * thus keeps no helper.
 *
 * A helper goes on with what the keeper has suspended, on the same stack: all that such a stack holds of a thread
 * is where errno is, and libmariadb looks for that anew after each wait, but for a TCP connect that has failed,
 * which therefore ends on the keeper.
 */
#include "drivers/mysql/internal.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Steps of a call that is told on every one that it is too late, its socket being shut down: one or two. */
#define UNWIND_STEPS_MAX 64

static moor_step go_on(moor_link *l);

/* ---- options ---- */

static bool set_texts(MYSQL *my, const struct mr_mysql_config *c)
{
    static const enum mysql_option options[MR_MYSQL_TEXTS] = {
        [MR_MYSQL_SSL_CA] = MYSQL_OPT_SSL_CA,
        [MR_MYSQL_SSL_CAPATH] = MYSQL_OPT_SSL_CAPATH,
        [MR_MYSQL_SSL_CERT] = MYSQL_OPT_SSL_CERT,
        [MR_MYSQL_SSL_KEY] = MYSQL_OPT_SSL_KEY,
        [MR_MYSQL_SSL_CRL] = MYSQL_OPT_SSL_CRL,
        [MR_MYSQL_SSL_CIPHER] = MYSQL_OPT_SSL_CIPHER,
        [MR_MYSQL_TLS_VERSION] = MARIADB_OPT_TLS_VERSION,
        [MR_MYSQL_CHARSET] = MYSQL_SET_CHARSET_NAME,
        [MR_MYSQL_PLUGIN_DIR] = MYSQL_PLUGIN_DIR,
        [MR_MYSQL_PUBLIC_KEY] = MYSQL_SERVER_PUBLIC_KEY,
        [MR_MYSQL_AUTH] = MARIADB_OPT_RESTRICTED_AUTH,
    };
    bool good = true;
    for (size_t i = 0; i < MR_MYSQL_TEXTS; i++)
        good = good && (!c->text[i] || !mysql_optionsv(my, options[i], c->text[i]));
    return good;
}

static bool set_tls(MYSQL *my, enum mr_mysql_tls tls)
{
    const my_bool enforce = tls != MR_MYSQL_TLS_DISABLED,
                  verify = tls == MR_MYSQL_TLS_VERIFY_IDENTITY;
    bool good = !mysql_optionsv(my, MYSQL_OPT_SSL_ENFORCE, &enforce) &&
                !mysql_optionsv(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
    /* "Enforce" does not: whoever takes the TLS bit out of the greeting gets a plain connection, and what is
     * needed to guess the password. A fingerprint does, and one that is empty is not compared with anything. */
    if (tls >= MR_MYSQL_TLS_REQUIRED)
        good = good && !mysql_optionsv(my, MARIADB_OPT_TLS_PEER_FP, "");
    return good;
}

static bool set_options(MYSQL *my, const struct mr_mysql_config *c, const moor_target *t)
{
    const unsigned connect_s = (unsigned)((t->timeout_ms + 999) / 1000);
    const unsigned local_infile = c->local_infile;
    const unsigned protocol = t->path[0] ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP;
    const my_bool never = 0;
    bool good = !mysql_optionsv(my, MYSQL_OPT_NONBLOCK, NULL) &&
                !mysql_optionsv(my, MYSQL_OPT_PROTOCOL, &protocol) &&
                !mysql_optionsv(my, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s) &&
                !mysql_optionsv(my, MYSQL_OPT_LOCAL_INFILE, &local_infile) &&
                !mysql_optionsv(my, MYSQL_OPT_RECONNECT, &never) &&
                !mysql_optionsv(my, MYSQL_OPT_MAX_ALLOWED_PACKET, &c->packet_max);
    if (c->read_timeout_s)
        good = good && !mysql_optionsv(my, MYSQL_OPT_READ_TIMEOUT, &c->read_timeout_s);
    if (c->write_timeout_s)
        good = good && !mysql_optionsv(my, MYSQL_OPT_WRITE_TIMEOUT, &c->write_timeout_s);
    if (c->compress)
        good = good && !mysql_optionsv(my, MYSQL_OPT_COMPRESS, NULL);
    return good && set_texts(my, c) && set_tls(my, c->tls);
}

/* ---- calls, and waiting for them ---- */

static void start(struct mr_mysql_link *s, const struct mr_mysql_config *c)
{
    const moor_target *t = s->target;
    const bool is_path = t->path[0];
    s->call = MR_MYSQL_CONNECT;
    /* A password of NULL would be looked for in the environment, a user of NULL among the system's. */
    s->waits = mysql_real_connect_start(&s->connected, s->my, is_path ? NULL : s->host, t->user,
                                        t->password, c->database[0] ? c->database : NULL, t->port,
                                        is_path ? t->path : NULL, c->client_flags);
    const int fd = mysql_get_socket(s->my);
    if (fd >= 0) /* libmariadb would leave it open to what the program executes */
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    /* What libmariadb was given to dial is an address. What it then compares the certificate with is the same
     * text, of which it has kept the place until now, when the socket is connecting: so the name can be put
     * there. If a newer one copies the text, it compares with the address, and refuses. */
    if (!is_path && s->waits)
        snprintf(s->host, sizeof s->host, "%s", t->host);
}

int mr_mysql_ready(int waits, unsigned events)
{
    if (!events)
        return MYSQL_WAIT_TIMEOUT;
    int ready = 0;
    if (events & (POLLIN | POLLERR | POLLHUP))
        ready |= waits & MYSQL_WAIT_READ;
    if (events & (POLLOUT | POLLERR | POLLHUP))
        ready |= waits & MYSQL_WAIT_WRITE;
    if (events & POLLPRI)
        ready |= waits & MYSQL_WAIT_EXCEPT;
    return ready ? ready : waits & (MYSQL_WAIT_READ | MYSQL_WAIT_WRITE);
}

moor_step mr_mysql_wait(moor_link *l)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    const int events = (s->waits & MYSQL_WAIT_READ ? POLLIN : 0) |
                       (s->waits & MYSQL_WAIT_WRITE ? POLLOUT : 0) |
                       (s->waits & MYSQL_WAIT_EXCEPT ? POLLPRI : 0);
    const moor_ms timeout =
        s->waits & MYSQL_WAIT_TIMEOUT ? (moor_ms)mysql_get_timeout_value_ms(s->my) : MOOR_FOREVER;
    return moor_link_wait(l, mysql_get_socket(s->my), (short)events, timeout);
}

void mr_mysql_forget_errors(const moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    if (c->forget_errors && c->tls != MR_MYSQL_TLS_DISABLED)
        c->forget_errors();
}

static void continue_call(struct mr_mysql_link *s)
{
    switch (s->call) {
    case MR_MYSQL_IDLE:
        s->waits = 0;
        break;
    case MR_MYSQL_CONNECT:
        s->waits = mysql_real_connect_cont(&s->connected, s->my, s->ready);
        break;
    case MR_MYSQL_PING:
        s->waits = mysql_ping_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_RESET:
        s->waits = mysql_reset_connection_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_SELECT_DB:
        s->waits = mysql_select_db_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_SET_CHARSET:
        s->waits = mysql_set_character_set_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_QUERY:
        s->waits = mysql_real_query_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_FETCH_ROW:
        s->waits = mysql_fetch_row_cont(&s->row, s->result, s->ready);
        break;
    case MR_MYSQL_NEXT_RESULT:
        s->waits = mysql_next_result_cont(&s->answer, s->my, s->ready);
        break;
    case MR_MYSQL_CLOSE:
        s->waits = mysql_close_cont(s->my, s->ready);
        break;
    }
}

void mr_mysql_continue(moor_link *l)
{
    mr_mysql_forget_errors(l);
    continue_call(moor_link_state(l));
    mr_mysql_forget_errors(l);
}

void mr_mysql_set_blocking(const struct mr_mysql_link *s, bool blocking)
{
    const int fd = mysql_get_socket(s->my);
    const int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

/* ---- on a helper ---- */

/* libmariadb bounds each read by what connect_timeout_ms was, not all of them: whoever sends a byte now and then
 * would hold a helper for ever. */
static void watch_passed(moor_poll *p, unsigned events)
{
    struct mr_mysql_link *s = p->user;
    (void)events;
    s->is_late = true;
    shutdown(s->watch_fd, SHUT_RDWR);
}

static void watch_end(struct mr_mysql_link *s)
{
    if (s->watch_fd < 0)
        return;
    moor_poll_stop(&s->watch);
    close(s->watch_fd);
    s->watch_fd = -1;
}

/* Helper. */
static void work(moor_link *l)
{
    struct mr_mysql_link *s = moor_link_state(l);
    if (s->call != MR_MYSQL_IDLE) {
        mr_mysql_continue(l);
        return;
    }
    mr_mysql_forget_errors(l);
    start(s, moor_link_config(l));
    mr_mysql_forget_errors(l);
}

static moor_step block(moor_link *l)
{
    struct mr_mysql_link *s = moor_link_state(l);
    const int fd = mysql_get_socket(s->my);
    if (fd >= 0) { /* a socket's path has none yet, and nobody strange at its other end */
        s->watch_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (s->watch_fd < 0)
            return moor_link_fail(l, MOOR_ENOFILES, 0, "no descriptor left to watch the handshake");
        s->watch = (moor_poll){.ready = watch_passed, .user = s};
        if (moor_poll_start(&s->watch, -1, 0, moor_link_target(l)->timeout_ms) != MOOR_OK) {
            close(s->watch_fd);
            s->watch_fd = -1;
            return moor_link_fail(l, MOOR_ENOMEM, 0, "no timer for the handshake");
        }
    }
    return moor_link_block(l, work);
}

/* ---- connect ---- */

moor_step mr_mysql_connect(moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    const moor_target *t = moor_link_target(l);
    struct mr_mysql_link *s = calloc(1, sizeof *s);
    if (!s)
        return moor_link_fail(l, MOOR_ENOMEM, 0, "no memory");
    s->watch_fd = -1;
    s->target = t;
    moor_link_set_state(l, s);
    if (!t->user[0])
        return moor_link_fail(l, MOOR_EAUTH, 0, "neither the URL nor the credentials name a user");
    if (strlen(t->host) >= sizeof s->host || strlen(t->address) >= sizeof s->host)
        return moor_link_fail(l, MOOR_ERESOLVE, 0, "the host's name is too long");
    snprintf(s->host, sizeof s->host, "%s", t->address);
    s->my = mysql_init(NULL);
    if (!s->my || !set_options(s->my, c, t))
        return moor_link_fail(l, MOOR_ENOMEM, 0, "libmariadb takes no options");
    moor_link_set_native(l, s->my);
    if (t->path[0] && c->tls != MR_MYSQL_TLS_DISABLED) {
        /* Such a socket connects at once: the very first call may go to the end. */
        s->is_greeted = true;
        return block(l);
    }
    start(s, c);
    return go_on(l);
}

static moor_step connected(moor_link *l)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    struct mr_mysql_link *s = moor_link_state(l);
    if (!s->connected && s->is_late)
        return moor_link_fail(l, MOOR_ETIMEDOUT, 0, "the TLS handshake took too long");
    if (!s->connected)
        return mr_mysql_fail(l, "");
    s->call = MR_MYSQL_IDLE;
    s->has_tls = mysql_get_ssl_cipher(s->my) != NULL;
    /* Both are libmariadb's to see to, by the means above; if another version has lost one, nobody gets this. */
    if (c->tls >= MR_MYSQL_TLS_REQUIRED && !s->has_tls)
        return moor_link_fail(l, MOOR_ETLS, 0, "not encrypted, though ssl-mode wants it");
    if (c->tls == MR_MYSQL_TLS_VERIFY_IDENTITY &&
        (!s->my->host || strcmp(s->my->host, s->target->host) != 0))
        return moor_link_fail(l, MOOR_ETLS, 0, "libmariadb has verified another name");
    /* It keeps the password to connect again, which it never shall. */
    if (s->my->passwd)
        explicit_bzero(s->my->passwd, strlen(s->my->passwd));
    snprintf(s->user, sizeof s->user, "%s", s->my->user ? s->my->user : "");
    s->thread_id = s->my->thread_id;
    mr_mysql_note_session(s->my, &s->fresh);
    s->usual = s->fresh;
    return MOOR_STEP_DONE;
}

static moor_step go_on(moor_link *l)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    return s->waits ? mr_mysql_wait(l) : connected(l);
}

moor_step mr_mysql_connect_resume(moor_link *l, unsigned events)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    struct mr_mysql_link *s = moor_link_state(l);
    if (events & MOOR_RESUME_UNBLOCKED) {
        watch_end(s);
        return go_on(l);
    }
    s->ready = mr_mysql_ready(s->waits, events);
    if (c->tls != MR_MYSQL_TLS_DISABLED && events && !(events & POLLERR)) {
        s->is_greeted = s->is_greeted || events & POLLIN;
        /* is_greeted: libmariadb may begin the handshake in its next call, whatever it waits for. */
        return s->is_greeted ? block(l)
                             : moor_link_wait(l, mysql_get_socket(s->my), POLLIN, MOOR_FOREVER);
    }
    mr_mysql_continue(l); /* refused or too late: it ends */
    return go_on(l);
}

/* ---- the end ---- */

/* The suspended call returns: its stack holds memory that only it can free. */
static void unwind(struct mr_mysql_link *s)
{
    s->ready = MYSQL_WAIT_TIMEOUT;
    for (int i = 0; s->waits && i < UNWIND_STEPS_MAX; i++)
        continue_call(s);
    /* Freed; or, if the call does not end, nobody's any more: rather lost than freed in use. */
    if (s->waits || s->call == MR_MYSQL_CLOSE)
        s->my = NULL;
}

void mr_mysql_drop(moor_link *l)
{
    struct mr_mysql_link *s = moor_link_state(l);
    if (!s)
        return;
    watch_end(s);
    mr_mysql_forget_errors(l);
    const int fd = s->my ? mysql_get_socket(s->my) : -1;
    if (fd >= 0) {
        mr_mysql_set_blocking(s, false);
        if (s->waits || s->result)
            shutdown(fd, SHUT_RDWR); /* nothing waits for a peer from here on */
    }
    if (s->my && s->waits)
        unwind(s);
    if (s->my && s->result)
        mysql_free_result(s->result);
    if (s->my) {
        s->call = MR_MYSQL_CLOSE;
        s->waits = mysql_close_start(s->my); /* says COM_QUIT if there is room for it */
        if (s->waits) {
            shutdown(fd, SHUT_RDWR);
            unwind(s);
        }
    }
    mr_mysql_forget_errors(l);
    moor_link_set_native(l, NULL);
    moor_link_set_state(l, NULL);
    free(s);
}
