/*
 * MySQL and MariaDB: mysql_real_query on the leased MYSQL, all results read. Runs on the thread that
 * holds the lease; the library waits without limit.
 */
#include "drive.h"

#include <mooring/mysql.h>
#include <mysql.h>
#include <stdio.h>

/* Of all statements of the query. False: one failed. */
static bool read_results(MYSQL *m)
{
    for (int more = 0; more == 0; more = mysql_next_result(m)) {
        MYSQL_RES *rows = mysql_store_result(m);
        if (rows)
            mysql_free_result(rows);
        else if (mysql_field_count(m) > 0)
            return false;
    }
    return mysql_errno(m) == 0;
}

static bool run(struct drive_call *c)
{
    enum { CLIENT_ERRORS = 2000, CLIENT_ERRORS_END = 3000 };
    MYSQL *m = c->native;
    if (mysql_real_query(m, c->query, c->query_len) == 0 && read_results(m))
        return true;
    const unsigned number = mysql_errno(m);
    drive_kind(c, "error %u", number);
    drive_text(c, mysql_error(m));
    moor_mysql_report(c->lease);
    /* The client's own errors are about the connection, the server's about the query. */
    if (number >= CLIENT_ERRORS && number < CLIENT_ERRORS_END)
        c->how = MOOR_DISCARD;
    return false;
}

static bool version(struct drive_call *c)
{
    const char *number = mysql_get_server_info(c->native);
    snprintf(c->text, sizeof c->text, "%s%s",
             mysql_get_server_version(c->native) < 100000 ? "MySQL " : "", number ? number : "");
    return number;
}

static int descriptor(void *native)
{
    return (int)mysql_get_socket(native);
}

const struct drive drive_mysql = {
    .name = "mysql",
    .schemes = "mysql mariadb",
    .driver = moor_mysql_driver,
    .query = "SELECT 1",
    .run = run,
    .version = version,
    .fd = descriptor,
};
