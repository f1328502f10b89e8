/*
 * What a connection is still good for, told without I/O: by its handle when a lease comes back, by the code of
 * an error, by the bytes that came while nobody had it. Holder's and keeper's threads, as driver.h says; takes
 * no lock and sends nothing.
 */
#include "drivers/mysql/internal.h"

#include <errmsg.h>
#include <mysqld_error.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* Error codes of MySQL that MariaDB's header does not have. */
#define OFFLINE_MODE               3032
#define SESSION_WAS_KILLED         3169
#define CLIENT_INTERACTION_TIMEOUT 4031

static const struct {
    unsigned code;
    moor_verdict verdict;
} table[] = {
    /* Only if the option is read_only: see is_about_writing. */
    {ER_OPTION_PREVENTS_STATEMENT, MOOR_VERDICT_FLUSH},
    {ER_READ_ONLY_MODE, MOOR_VERDICT_FLUSH},
    {ER_SERVER_SHUTDOWN, MOOR_VERDICT_FLUSH},
    {ER_NORMAL_SHUTDOWN, MOOR_VERDICT_FLUSH},
    {ER_SHUTDOWN_COMPLETE, MOOR_VERDICT_FLUSH},
    {OFFLINE_MODE, MOOR_VERDICT_FLUSH},
    {CR_SERVER_GONE_ERROR, MOOR_VERDICT_DISCARD},
    {CR_SERVER_LOST, MOOR_VERDICT_DISCARD},
    {CR_SERVER_LOST_EXTENDED, MOOR_VERDICT_DISCARD},
    {CR_COMMANDS_OUT_OF_SYNC, MOOR_VERDICT_DISCARD},
    {CR_NET_PACKET_TOO_LARGE, MOOR_VERDICT_DISCARD},
    {CR_SSL_CONNECTION_ERROR, MOOR_VERDICT_DISCARD},
    {CR_MALFORMED_PACKET, MOOR_VERDICT_DISCARD},
    {CR_ERR_NET_READ, MOOR_VERDICT_DISCARD},
    {CR_ERR_NET_WRITE, MOOR_VERDICT_DISCARD},
    {ER_CONNECTION_KILLED, MOOR_VERDICT_DISCARD},
    {ER_FORCING_CLOSE, MOOR_VERDICT_DISCARD},
    {ER_ABORTING_CONNECTION, MOOR_VERDICT_DISCARD},
    {ER_NEW_ABORTING_CONNECTION, MOOR_VERDICT_DISCARD},
    {ER_NET_PACKET_TOO_LARGE, MOOR_VERDICT_DISCARD},
    {ER_NET_READ_ERROR_FROM_PIPE, MOOR_VERDICT_DISCARD},
    {ER_NET_FCNTL_ERROR, MOOR_VERDICT_DISCARD},
    {ER_NET_PACKETS_OUT_OF_ORDER, MOOR_VERDICT_DISCARD},
    {ER_NET_UNCOMPRESS_ERROR, MOOR_VERDICT_DISCARD},
    {ER_NET_READ_ERROR, MOOR_VERDICT_DISCARD},
    {ER_NET_READ_INTERRUPTED, MOOR_VERDICT_DISCARD},
    {ER_NET_ERROR_ON_WRITE, MOOR_VERDICT_DISCARD},
    {ER_NET_WRITE_INTERRUPTED, MOOR_VERDICT_DISCARD},
    {SESSION_WAS_KILLED, MOOR_VERDICT_DISCARD},
    {CLIENT_INTERACTION_TIMEOUT, MOOR_VERDICT_DISCARD},
};

static moor_verdict verdict_of(unsigned code)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].code == code)
            return table[i].verdict;
    return MOOR_VERDICT_KEEP;
}

/* 1290 also says that secure_file_priv or another option forbids a statement. The handle still has the text. */
static bool is_about_writing(const MYSQL *my)
{
    const char *text = mysql_error((MYSQL *)my);
    return strstr(text, "read-only") || strstr(text, "read_only");
}

moor_verdict mr_mysql_judge(moor_link *l, const char *sqlstate, int code)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    const moor_verdict verdict = verdict_of((unsigned)code);
    if (code == ER_OPTION_PREVENTS_STATEMENT &&
        mysql_errno(s->my) == ER_OPTION_PREVENTS_STATEMENT && !is_about_writing(s->my))
        return MOOR_VERDICT_KEEP;
    /* Class 08 is that of broken connections, for reports without a code. */
    if (!code && sqlstate && !strncmp(sqlstate, "08", 2))
        return MOOR_VERDICT_DISCARD;
    return verdict;
}

/* Whether a reset makes it as it was. If connections have no database, there is no way back from one. */
static bool is_changed(const struct mr_mysql_link *s, bool *out_is_final)
{
    const unsigned told = SERVER_STATUS_IN_TRANS | SERVER_STATUS_AUTOCOMMIT;
    const char *database = s->my->db ? s->my->db : "";
    const bool other_db = strcmp(database, s->usual.database) != 0;
    *out_is_final = other_db && !s->fresh.database[0];
    return other_db || s->my->charset != s->usual.charset || s->my->stmts ||
           (s->my->server_status & told) != (s->usual.status & told);
}

/* A command was sent, and nothing read of its answer: mysql_send_query, or a call of the holder's own that it
 * left suspended. Closing a statement and sending it a long value have no answer; the buffer still has which
 * of them it was, unless it was longer. With compression packets are counted otherwise. */
static bool is_unanswered(const NET *net)
{
    if (net->reading_or_writing)
        return true;
    return !net->compress && net->pkt_nr == 1 && net->buff && net->buff[4] != COM_STMT_CLOSE &&
           net->buff[4] != COM_STMT_SEND_LONG_DATA;
}

/* Nothing that a reset could undo: mysql_change_user, or a holder that let libmariadb connect again. */
static bool is_another(const struct mr_mysql_link *s)
{
    const MYSQL *my = s->my;
    return my->options.reconnect || my->thread_id != s->thread_id || !my->user ||
           strcmp(my->user, s->user) != 0;
}

moor_verdict mr_mysql_returned(moor_link *l, moor_release_how how)
{
    const struct mr_mysql_config *c = moor_link_config(l);
    const struct mr_mysql_link *s = moor_link_state(l);
    const MYSQL *my = s->my;
    if (how == MOOR_DISCARD || !my->net.pvio || my->status != MYSQL_STATUS_READY ||
        my->server_status & SERVER_MORE_RESULTS_EXIST || is_unanswered(&my->net) || is_another(s))
        return MOOR_VERDICT_DISCARD;
    /* The last call's error, for holders that do not report. */
    const moor_verdict told = mr_mysql_judge(l, NULL, (int)mysql_errno(s->my));
    if (told != MOOR_VERDICT_KEEP)
        return told;
    bool is_final = false;
    const bool changed = is_changed(s, &is_final);
    if (is_final)
        return MOOR_VERDICT_DISCARD;
    switch (c->reset) {
    case MOOR_MYSQL_RESET_ALWAYS:
        return MOOR_VERDICT_RESET;
    case MOOR_MYSQL_RESET_NEVER:
        return how == MOOR_DIRTY || my->server_status & SERVER_STATUS_IN_TRANS
                   ? MOOR_VERDICT_DISCARD
                   : MOOR_VERDICT_KEEP;
    default:
        return how == MOOR_DIRTY || changed ? MOOR_VERDICT_RESET : MOOR_VERDICT_KEEP;
    }
}

int mr_mysql_fd(moor_link *l)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    return mysql_get_socket(s->my);
}

/* Servers do not speak unasked, but to say why they close: an error packet, of which nobody asked the number. */
moor_verdict mr_mysql_idle(moor_link *l)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    unsigned char packet[7];
    const ssize_t got =
        recv(mysql_get_socket(s->my), packet, sizeof packet, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return MOOR_VERDICT_KEEP;
    if (s->has_tls || s->my->net.compress || got < (ssize_t)sizeof packet || packet[4] != 0xff)
        return MOOR_VERDICT_DISCARD;
    const unsigned code = packet[5] | (unsigned)packet[6] << 8;
    return verdict_of(code) == MOOR_VERDICT_FLUSH && code != ER_OPTION_PREVENTS_STATEMENT
               ? MOOR_VERDICT_FLUSH
               : MOOR_VERDICT_DISCARD;
}
