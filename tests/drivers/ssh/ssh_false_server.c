/*
 * A server that sshd is not: on libssh's server half, one process per connection. Takes user u with password s3cret,
 * and behaves as its last argument says:
 *
 *     ssh_false_server HOST-KEY PORT echo|partial|no-status|refuse-exec|no-close|long-signal|refuse-channel|asks
 */
#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <libssh/server.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char *behaviour;
static bool is_in, had_key;
static ssh_channel channels[64];
static struct ssh_channel_callbacks_struct channel_callbacks;
static unsigned channel_count;

static bool is(const char *name)
{
    return !strcmp(behaviour, name);
}

static int on_password(ssh_session s, const char *user, const char *password, void *arg)
{
    (void)s, (void)arg;
    if (strcmp(user, "u") != 0 || strcmp(password, "s3cret") != 0 || (is("partial") && !had_key))
        return SSH_AUTH_DENIED;
    is_in = true;
    return SSH_AUTH_SUCCESS;
}

static int on_key(ssh_session s, const char *user, struct ssh_key_struct *key, char state,
                  void *arg)
{
    (void)s, (void)user, (void)key, (void)arg;
    if (!is("partial"))
        return SSH_AUTH_DENIED;
    if (state == SSH_PUBLICKEY_STATE_NONE)
        return SSH_AUTH_SUCCESS;
    had_key = true;
    return SSH_AUTH_PARTIAL;
}

static int on_exec(ssh_session s, ssh_channel c, const char *command, void *arg)
{
    (void)s, (void)arg;
    if (is("refuse-exec"))
        return 1;
    (void)ssh_channel_write(c, command, (uint32_t)strlen(command));
    if (is("no-close"))
        return 0;
    if (is("long-signal")) {
        char name[300];
        memset(name, 'X', sizeof name - 1);
        name[sizeof name - 1] = 0;
        (void)ssh_channel_request_send_exit_signal(c, name, 0, name, "");
    } else if (!is("no-status")) {
        (void)ssh_channel_request_send_exit_status(c, 42);
    }
    (void)ssh_channel_send_eof(c);
    (void)ssh_channel_close(c);
    return 0;
}

static ssh_channel on_channel(ssh_session s, void *arg)
{
    (void)arg;
    if (is("refuse-channel") || channel_count == sizeof channels / sizeof *channels)
        return NULL;
    ssh_channel c = ssh_channel_new(s);
    (void)ssh_set_channel_callbacks(c, &channel_callbacks);
    return channels[channel_count++] = c;
}

static int serve(ssh_session s)
{
    struct ssh_server_callbacks_struct callbacks = {
        .auth_password_function = on_password,
        .auth_pubkey_function = on_key,
        .channel_open_request_session_function = on_channel,
    };
    channel_callbacks.channel_exec_request_function = on_exec;
    ssh_callbacks_init(&callbacks);
    ssh_callbacks_init(&channel_callbacks);
    (void)ssh_set_server_callbacks(s, &callbacks);
    ssh_set_auth_methods(s, SSH_AUTH_METHOD_PASSWORD | SSH_AUTH_METHOD_PUBLICKEY);
    ssh_event e = ssh_event_new();
    if (ssh_handle_key_exchange(s) != SSH_OK || ssh_event_add_session(e, s) != SSH_OK)
        return 1;
    ssh_channel asked = NULL;
    while (ssh_is_connected(s)) {
        if (ssh_event_dopoll(e, 50) == SSH_ERROR)
            break;
        if (!is("asks") || !is_in)
            continue;
        /* What no server has to ask of us: a channel to the client, again and again. */
        ssh_set_blocking(s, 0);
        if (!asked)
            asked = ssh_channel_new(s);
        const int rc = ssh_channel_open_reverse_forward(asked, "127.0.0.1", 1, "127.0.0.1", 1);
        if (rc == SSH_OK)
            printf("opened\n");
        if (rc == SSH_ERROR)
            printf("refused\n");
        if (rc != SSH_AGAIN)
            asked = NULL;
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    behaviour = argv[3];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGCHLD, SIG_IGN);
    ssh_bind b = ssh_bind_new();
    const bool no_files = false;
    (void)ssh_bind_options_set(b, SSH_BIND_OPTIONS_PROCESS_CONFIG, &no_files);
    (void)ssh_bind_options_set(b, SSH_BIND_OPTIONS_BINDADDR, "127.0.0.1");
    (void)ssh_bind_options_set(b, SSH_BIND_OPTIONS_BINDPORT_STR, argv[2]);
    (void)ssh_bind_options_set(b, SSH_BIND_OPTIONS_HOSTKEY, argv[1]);
    if (ssh_bind_listen(b) < 0) {
        fprintf(stderr, "%s\n", ssh_get_error(b));
        return 1;
    }
    for (;;) {
        ssh_session s = ssh_new();
        if (ssh_bind_accept(b, s) != SSH_OK)
            return 1;
        const pid_t pid = fork();
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(serve(s));
        }
        close(ssh_get_fd(s));
        ssh_silent_disconnect(s);
        ssh_free(s);
    }
}
