/*
 * What libmariadb says of a failure, in the library's words. Any hook's thread. Never shows a secret: the texts
 * are libmariadb's and the server's, which name users and hosts.
 */
#include "drivers/mysql/internal.h"

#include <errmsg.h>
#include <mysqld_error.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    unsigned code;
    moor_err err;
} table[] = {
    {ER_ACCESS_DENIED_ERROR, MOOR_EAUTH},
    {ER_ACCESS_DENIED_NO_PASSWORD_ERROR, MOOR_EAUTH},
    {ER_DBACCESS_DENIED_ERROR, MOOR_EAUTH},
    {ER_HOST_NOT_PRIVILEGED, MOOR_EAUTH},
    {ER_NOT_SUPPORTED_AUTH_MODE, MOOR_EAUTH},
    {ER_PLUGIN_IS_NOT_LOADED, MOOR_EAUTH},
    {ER_MUST_CHANGE_PASSWORD, MOOR_EAUTH},
    {ER_MUST_CHANGE_PASSWORD_LOGIN, MOOR_EAUTH},
    {3118, MOOR_EAUTH}, /* ER_ACCOUNT_HAS_BEEN_LOCKED of MySQL                               */
    {4151, MOOR_EAUTH}, /* ER_ACCOUNT_HAS_BEEN_LOCKED of MariaDB                             */
    {CR_AUTH_PLUGIN_CANNOT_LOAD, MOOR_EAUTH},
    {CR_AUTH_PLUGIN_ERR, MOOR_EAUTH},
    {CR_SECURE_AUTH, MOOR_EAUTH},
    {CR_PLUGIN_NOT_ALLOWED, MOOR_EAUTH},
    {CR_SSL_CONNECTION_ERROR, MOOR_ETLS},
    {CR_OUT_OF_MEMORY, MOOR_ENOMEM},
    {CR_MALFORMED_PACKET, MOOR_EPROTO},
    {CR_VERSION_ERROR, MOOR_EPROTO},
    {CR_NET_PACKET_TOO_LARGE, MOOR_ETOOBIG},
    {CR_COMMANDS_OUT_OF_SYNC, MOOR_EPROTO},
    {CR_SERVER_LOST, MOOR_ERESET},
    {CR_SERVER_GONE_ERROR, MOOR_ERESET},
    {CR_SERVER_LOST_EXTENDED, MOOR_ERESET},
    {CR_ERR_NET_READ, MOOR_ERESET},
    {CR_ERR_NET_WRITE, MOOR_ERESET},
    {ER_CONNECTION_KILLED, MOOR_ERESET},
};

static moor_err err_of(unsigned code, moor_task_kind task)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].code == code)
            return table[i].err;
    return task == MOOR_TASK_CONNECT || task == MOOR_TASK_PREPARE ? MOOR_ECONNECT : MOOR_ERESET;
}

/* "Can't connect to server on '10.0.0.1' (111)": the number is an errno. */
static int errno_in(unsigned code, const char *text)
{
    const char *at = strrchr(text, '(');
    const bool has_one = code == CR_CONNECTION_ERROR || code == CR_CONN_HOST_ERROR ||
                         code == CR_SOCKET_CREATE_ERROR || code == CR_IPSOCK_ERROR;
    const long number = has_one && at ? strtol(at + 1, NULL, 10) : 0;
    return number > 0 && number < 4096 ? (int)number : 0;
}

moor_step mr_mysql_fail(moor_link *l, const char *what)
{
    const struct mr_mysql_link *s = moor_link_state(l);
    const unsigned code = mysql_errno(s->my);
    const char *said = mysql_error(s->my);
    char text[MR_MYSQL_TEXT_MAX];
    if (code == CR_PLUGIN_NOT_ALLOWED)
        said = "the server wants a way to authenticate that `auth` does not allow; some need "
               "ssl-mode=required";
    snprintf(text, sizeof text, "%s%s%s (%u)", what, *what ? ": " : "",
             *said ? said : "no answer that makes sense", code);
    /* Whatever a server sends, it goes to logs and terminals. */
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    const int os_errno = errno_in(code, mysql_error(s->my));
    const bool has_no_room = os_errno == EMFILE || os_errno == ENFILE;
    return moor_link_fail(l, has_no_room ? MOOR_ENOFILES : err_of(code, moor_link_task(l)),
                          os_errno, text);
}
