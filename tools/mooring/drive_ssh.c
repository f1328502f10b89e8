/*
 * SSH: a command on a channel of the leased session, its output read and dropped. Runs on the thread
 * that holds the lease. An exit status other than 0 is a failure of the command, not of the session.
 */
#include "drive.h"

#include <libssh/libssh.h>
#include <mooring/ssh.h>
#include <stdio.h>

enum { OUTPUT_CAP = 16384 };

static bool fail(struct drive_call *c, const char *step)
{
    char text[DRIVE_TEXT_CAP];
    snprintf(text, sizeof text, "%s: %s", step, ssh_get_error(c->native));
    drive_kind(c, "%s", ssh_is_connected(c->native) ? step : "connection lost");
    drive_text(c, text);
    c->how = MOOR_DISCARD;
    return false;
}

/* What there is of one stream. False: the session failed. */
static bool take_output(ssh_channel channel, int is_stderr)
{
    char bytes[OUTPUT_CAP];
    int n = 1;
    while (n > 0)
        n = ssh_channel_read_nonblocking(channel, bytes, sizeof bytes, is_stderr);
    return n != SSH_ERROR;
}

/* Both streams in turn: one that is not read can fill the window and stop the command. */
static bool read_output(ssh_channel channel)
{
    enum { STDERR_LOOK_MS = 50 };
    for (;;) {
        if (!take_output(channel, 0) || !take_output(channel, 1))
            return false;
        if (ssh_channel_is_eof(channel))
            return true;
        if (ssh_channel_poll_timeout(channel, STDERR_LOOK_MS, 0) == SSH_ERROR)
            return false;
    }
}

static bool run_command(struct drive_call *c, ssh_channel channel)
{
    if (ssh_channel_open_session(channel) != SSH_OK)
        return fail(c, "open a channel");
    if (ssh_channel_request_exec(channel, c->query) != SSH_OK)
        return fail(c, "start the command");
    if (!read_output(channel))
        return fail(c, "read the output");
    const int status = ssh_channel_get_exit_status(channel);
    if (status == 0)
        return true;
    if (status < 0 && !ssh_is_connected(c->native))
        return fail(c, "await the exit status");
    drive_kind(c, "exit %d", status);
    drive_text(c, status < 0 ? "the command ended without an exit status" : "the command failed");
    return false;
}

static bool run(struct drive_call *c)
{
    ssh_channel channel = ssh_channel_new(c->native);
    bool is_good = false;
    if (channel)
        is_good = run_command(c, channel);
    else
        (void)fail(c, "make a channel");
    if (channel) {
        if (c->how == MOOR_REUSE)
            (void)ssh_channel_close(channel);
        ssh_channel_free(channel);
    }
    return is_good;
}

static bool version(struct drive_call *c)
{
    const char *banner = ssh_get_serverbanner(c->native);
    snprintf(c->text, sizeof c->text, "%s", banner ? banner : "");
    return banner;
}

static int descriptor(void *native)
{
    return ssh_get_fd(native);
}

const struct drive drive_ssh = {
    .name = "ssh",
    .schemes = "ssh",
    .driver = moor_ssh_driver,
    .query = "true",
    .run = run,
    .version = version,
    .fd = descriptor,
};
