/*
 * The driver's table of hooks, and what it offers to holders. Owns nothing.
 */
#include "drivers/mysql/internal.h"

#include <string.h>

static moor_step resume(moor_link *l, unsigned events)
{
    return moor_link_task(l) == MOOR_TASK_CONNECT ? mr_mysql_connect_resume(l, events)
                                                  : mr_mysql_session_resume(l, events);
}

static const moor_driver driver = {
    .size = sizeof driver,
    .name = "mysql",
    .schemes = "mysql mariadb",
    .port = 3306,
    /* The handle, its buffers of 24 KiB, and a stack of 60 KiB for suspended calls, of which 4 to 10 are ever
     * touched. TLS is 76 KiB more. */
    .handle_bytes = (size_t)100 << 10,
    .open = mr_mysql_open,
    .shut = mr_mysql_shut,
    .connect = mr_mysql_connect,
    .prepare = mr_mysql_prepare,
    .check = mr_mysql_check,
    .reset = mr_mysql_reset,
    .close = mr_mysql_close,
    .resume = resume,
    .drop = mr_mysql_drop,
    .fd = mr_mysql_fd,
    .idle = mr_mysql_idle,
    .returned = mr_mysql_returned,
    .judge = mr_mysql_judge,
};

const moor_driver *moor_mysql_driver(void)
{
    return &driver;
}

void moor_mysql_options_init_sized(moor_mysql_options *o, size_t size)
{
    const moor_mysql_options defaults = {.size = size, .reset = MOOR_MYSQL_RESET_MARKED};
    memset(o, 0, size);
    memcpy(o, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

void moor_mysql_report(moor_lease lease)
{
    moor_link *l = moor_lease_link(lease);
    if (!l || moor_link_driver(l) != &driver)
        return;
    MYSQL *my = moor_link_native(l);
    if (mysql_errno(my))
        moor_lease_report(lease, mysql_sqlstate(my), (int)mysql_errno(my));
}
