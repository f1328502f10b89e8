/*
 * Logging in: agent, keys and password in the configured order, each until the server takes or refuses it. Reads
 * key files, signs and talks to the agent, so it runs on a helper. Nobody is ever asked for a passphrase.
 */
#include "drivers/ssh/internal.h"

#include <stdio.h>
#include <string.h>

/* Without one libssh and OpenSSL would open the terminal. */
static int deny_prompt(const char *prompt, char *buf, size_t len, int echo, int verify, void *user)
{
    (void)prompt, (void)echo, (void)verify, (void)user;
    if (len)
        *buf = 0;
    return -1;
}

static void note(struct mr_ssh_link *s, const char *what, const char *outcome)
{
    const size_t used = strlen(s->tried);
    snprintf(s->tried + used, sizeof s->tried - used, "%s%s%s", used ? ", " : "", what, outcome);
}

/* What is left of a method: the next one, or a wait, or the end. True: logged in. */
enum outcome { LOGGED_IN, WAITS, NEXT_METHOD, LOST };

static enum outcome judge(struct mr_ssh_link *s, int rc, const char *what)
{
    if (rc == SSH_AUTH_SUCCESS)
        return LOGGED_IN;
    if (rc == SSH_AUTH_AGAIN) {
        s->next = MR_SSH_NEXT_WAIT;
        return WAITS;
    }
    if (!mr_ssh_is_alive(s->session)) {
        mr_ssh_failed(s, MOOR_ERESET, "lost while logging in (tried: %s%s%s): %.70s", s->tried,
                      *s->tried ? ", " : "", what, ssh_get_error(s->session));
        return LOST;
    }
    /* Partial: this one was right, and the server wants another besides. */
    note(s, what,
         rc == SSH_AUTH_PARTIAL ? " accepted, not enough"
         : rc == SSH_AUTH_ERROR ? " failed"
                                : " refused");
    return NEXT_METHOD;
}

/* ---- agent ---- */

static enum outcome try_agent(struct mr_ssh_link *s)
{
    if (s->is_agent_over) {
        note(s, "agent: ", s->text);
        s->text[0] = 0;
        return NEXT_METHOD;
    }
    if (!s->is_agent_ready) {
        s->next = MR_SSH_NEXT_PROBE;
        return WAITS;
    }
    const int rc = ssh_userauth_agent(s->session, NULL);
    const enum outcome o =
        judge(s, rc, atomic_load(&s->is_agent_late) ? "agent (no answer)" : "agent");
    s->is_agent_over = o != WAITS;
    return o;
}

/* ---- keys ---- */

static const char *passphrase(const struct mr_ssh_link *s)
{
    return *s->target->password ? s->target->password : NULL;
}

/* False: it cannot be used, which is noted unless it is one that only may be there. */
static bool load_key(struct mr_ssh_link *s, const char *path)
{
    const int rc = ssh_pki_import_privkey_file(path, passphrase(s), deny_prompt, NULL, &s->key);
    if (rc == SSH_OK)
        return true;
    s->key = NULL;
    if (!s->config->are_default || rc != SSH_EOF)
        note(s, path, rc == SSH_EOF ? " not readable" : ": no key, or another passphrase");
    return false;
}

static enum outcome try_keys(struct mr_ssh_link *s)
{
    for (; s->identity_at < s->config->identity_count; s->identity_at++) {
        const char *path = s->config->identities[s->identity_at];
        if (!s->key && !load_key(s, path))
            continue;
        const enum outcome o = judge(s, ssh_userauth_publickey(s->session, NULL, s->key), path);
        if (o == WAITS)
            return o;
        ssh_key_free(s->key);
        s->key = NULL;
        if (o != NEXT_METHOD)
            return o;
    }
    return NEXT_METHOD;
}

static enum outcome try_password(struct mr_ssh_link *s)
{
    if (!*s->target->password)
        return NEXT_METHOD;
    return judge(s, ssh_userauth_password(s->session, NULL, s->target->password), "password");
}

/* What the server would take, if it said so. */
static const char *wanted(ssh_session session, char *buf, size_t cap)
{
    static const struct {
        int flag;
        const char *name;
    } names[] = {{SSH_AUTH_METHOD_PUBLICKEY, "publickey"},
                 {SSH_AUTH_METHOD_PASSWORD, "password"},
                 {SSH_AUTH_METHOD_INTERACTIVE, "keyboard-interactive"},
                 {SSH_AUTH_METHOD_GSSAPI_MIC, "gssapi"}};
    const int taken = ssh_userauth_list(session, NULL);
    buf[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t used = strlen(buf);
        if (taken & names[i].flag)
            snprintf(buf + used, cap - used, "%s%s", used ? "," : "; it takes ", names[i].name);
    }
    return buf;
}

bool mr_ssh_log_in(struct mr_ssh_link *s)
{
    static enum outcome (*const methods[MR_SSH_METHODS])(struct mr_ssh_link *) = {
        [MR_SSH_AGENT] = try_agent, [MR_SSH_KEY] = try_keys, [MR_SSH_PASSWORD] = try_password};
    for (; s->method_at < s->config->method_count; s->method_at++) {
        const enum outcome o = methods[s->config->methods[s->method_at]](s);
        if (o != NEXT_METHOD)
            return o == LOGGED_IN;
    }
    char taken[80];
    mr_ssh_failed(s, MOOR_EAUTH, "no login: %s%s",
                  *s->tried ? s->tried : "nothing to try: no agent, key or password",
                  wanted(s->session, taken, sizeof taken));
    return false;
}
