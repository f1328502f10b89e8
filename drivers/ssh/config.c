/*
 * What a pool's URL comes to: checked once, on the thread that opens the pool, so that no connect can fail for a
 * word that nobody could ever have accepted. Reads the environment (HOME, SSH_AUTH_SOCK), no file.
 */
#include "drivers/ssh/internal.h"

#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AGENT_TIMEOUT_MS     5000
#define AGENT_TIMEOUT_MAX_MS 600000

/* Who reads the query. */
struct reader {
    struct mr_ssh_config *config;
    char *why;
    size_t why_cap;
};

static moor_err refuse(const struct reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static moor_err refuse(const struct reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->why, r->why_cap, format, args);
    va_end(args);
    return MOOR_EINVAL;
}

static moor_err keep(const char *text, char **out)
{
    *out = strdup(text);
    return *out ? MOOR_OK : MOOR_ENOMEM;
}

/* ---- one option each ---- */

static moor_err read_known_hosts(struct reader *r, const char *value)
{
    return *value ? keep(value, &r->config->known_hosts) : refuse(r, "known_hosts names no file");
}

/* Calls `each` for the parts of a list with commas. */
static moor_err read_list(struct reader *r, const char *value,
                          moor_err (*each)(struct reader *r, const char *part))
{
    for (const char *at = value;; at++) {
        char part[PATH_MAX];
        const size_t len = strcspn(at, ",");
        if (len == 0 || len >= sizeof part)
            return refuse(r, "an empty or oversized part in \"%.60s\"", value);
        memcpy(part, at, len);
        part[len] = 0;
        const moor_err e = each(r, part);
        at += len;
        if (e || !*at)
            return e;
    }
}

/* As ssh-keygen -l prints it, with or without its name in front. */
static moor_err add_pin(struct reader *r, const char *part)
{
    struct mr_ssh_config *c = r->config;
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *digits = strncmp(part, "SHA256:", 7) ? part : part + 7;
    size_t len = strspn(digits, alphabet);
    const char *rest = digits + len;
    if (len != 43 || (*rest && strcmp(rest, "=") != 0))
        return refuse(r, "host_key_sha256 is 43 base64 characters, as ssh-keygen -l prints them");
    if (c->pin_count == MR_SSH_PINS_MAX)
        return refuse(r, "host_key_sha256: at most %d", MR_SSH_PINS_MAX);
    char text[MR_SSH_FINGERPRINT_MAX];
    snprintf(text, sizeof text, "SHA256:%.43s", digits);
    const moor_err e = keep(text, &c->pins[c->pin_count]);
    c->pin_count += !e;
    return e;
}

static moor_err read_pins(struct reader *r, const char *value)
{
    return read_list(r, value, add_pin);
}

static moor_err read_insecure(struct reader *r, const char *value)
{
    if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
        return refuse(r, "insecure is 0 or 1");
    r->config->is_insecure = *value == '1';
    return MOOR_OK;
}

static moor_err add_identity(struct reader *r, const char *part)
{
    struct mr_ssh_config *c = r->config;
    if (c->identity_count == MR_SSH_IDENTITIES_MAX)
        return refuse(r, "identity: at most %d files", MR_SSH_IDENTITIES_MAX);
    const moor_err e = keep(part, &c->identities[c->identity_count]);
    c->identity_count += !e;
    return e;
}

static moor_err read_identity(struct reader *r, const char *value)
{
    return read_list(r, value, add_identity);
}

static moor_err read_agent(struct reader *r, const char *value)
{
    free(r->config->agent);
    r->config->agent = NULL;
    if (!strcmp(value, "none"))
        return MOOR_OK;
    return *value == '/' ? keep(value, &r->config->agent)
                         : refuse(r, "agent is none, or the path of its socket");
}

static moor_err read_agent_timeout(struct reader *r, const char *value)
{
    char *end = NULL;
    const long ms = strtol(value, &end, 10);
    if (end == value || *end || ms < 1 || ms > AGENT_TIMEOUT_MAX_MS)
        return refuse(r, "agent_timeout_ms is 1..%d", AGENT_TIMEOUT_MAX_MS);
    r->config->agent_timeout_ms = ms;
    return MOOR_OK;
}

static const char *const method_names[MR_SSH_METHODS] = {"agent", "key", "password"};

static moor_err add_method(struct reader *r, const char *part)
{
    struct mr_ssh_config *c = r->config;
    for (unsigned i = 0; i < MR_SSH_METHODS; i++) {
        if (strcmp(part, method_names[i]) != 0)
            continue;
        for (unsigned k = 0; k < c->method_count; k++)
            if (c->methods[k] == i)
                return refuse(r, "auth: %s is there twice", part);
        c->methods[c->method_count++] = (enum mr_ssh_method)i;
        c->are_methods_given = true;
        return MOOR_OK;
    }
    return refuse(r, "auth: \"%.40s\" is none of agent, key, password", part);
}

static moor_err read_auth(struct reader *r, const char *value)
{
    return read_list(r, value, add_method);
}

static moor_err read_algorithms(struct reader *r, enum ssh_options_e option, const char *value)
{
    struct mr_ssh_algorithms *a = &r->config->algorithms[r->config->algorithm_count];
    const moor_err e = keep(value, &a->names);
    a->option = option;
    r->config->algorithm_count += !e;
    return e;
}

static moor_err read_ciphers(struct reader *r, const char *value)
{
    return read_algorithms(r, SSH_OPTIONS_CIPHERS_C_S, value);
}

static moor_err read_kex(struct reader *r, const char *value)
{
    return read_algorithms(r, SSH_OPTIONS_KEY_EXCHANGE, value);
}

static moor_err read_macs(struct reader *r, const char *value)
{
    return read_algorithms(r, SSH_OPTIONS_HMAC_C_S, value);
}

static moor_err read_host_keys(struct reader *r, const char *value)
{
    return read_algorithms(r, SSH_OPTIONS_HOSTKEYS, value);
}

/* ---- all of them ---- */

static const struct {
    const char *name;
    moor_err (*read)(struct reader *r, const char *value);
} options[] = {
    {"agent", read_agent},
    {"agent_timeout_ms", read_agent_timeout},
    {"auth", read_auth},
    {"ciphers", read_ciphers},
    {"host_key_algorithms", read_host_keys},
    {"host_key_sha256", read_pins},
    {"identity", read_identity},
    {"insecure", read_insecure},
    {"kex", read_kex},
    {"known_hosts", read_known_hosts},
    {"macs", read_macs},
};
#define OPTION_COUNT (sizeof options / sizeof *options)

static moor_err read_option(struct reader *r, const char *query, const char *name, bool *seen)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(options[i].name, name) != 0)
            continue;
        if (seen[i])
            return refuse(r, "%s is there twice", name);
        seen[i] = true;
        char value[MR_SSH_VALUE_MAX];
        if (!moor_driver_query(query, name, value, sizeof value))
            return refuse(r, "%s has no value, or one that is too long", name);
        return options[i].read(r, value);
    }
    return refuse(r, "no such option: %.60s (docs/ssh.md lists them)", name);
}

static moor_err read_query(struct reader *r, const char *query)
{
    bool seen[OPTION_COUNT] = {false};
    for (const char *at = query; *at;) {
        const size_t pair = strcspn(at, "&"), len = strcspn(at, "=&");
        char name[64];
        if (len >= sizeof name)
            return refuse(r, "no such option: %.60s", at);
        memcpy(name, at, len);
        name[len] = 0;
        const moor_err e = pair ? read_option(r, query, name, seen) : MOOR_OK;
        if (e)
            return e;
        at += pair + (at[pair] == '&');
    }
    return MOOR_OK;
}

/* Those of ssh(1), without the kinds that need a device. */
static moor_err default_identities(struct mr_ssh_config *c)
{
    static const char *const names[] = {"id_ed25519", "id_ecdsa", "id_rsa"};
    struct passwd entry, *user = NULL;
    char memory[4096];
    (void)getpwuid_r(getuid(), &entry, memory, sizeof memory, &user);
    const char *home = user ? user->pw_dir : getenv("HOME");
    for (size_t i = 0; home && i < sizeof names / sizeof *names; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/.ssh/%s", home, names[i]);
        const moor_err e = keep(path, &c->identities[c->identity_count]);
        if (e)
            return e;
        c->identity_count++;
    }
    c->are_default = true;
    return MOOR_OK;
}

/*
 * A password beside an identity is that key's passphrase, which must not be sent to a server; auth=key,password
 * says that it is both.
 */
static moor_err default_methods(struct mr_ssh_config *c)
{
    const bool has_identity = c->identity_count > 0;
    if (c->agent)
        c->methods[c->method_count++] = MR_SSH_AGENT;
    c->methods[c->method_count++] = MR_SSH_KEY;
    if (!has_identity)
        c->methods[c->method_count++] = MR_SSH_PASSWORD;
    return has_identity ? MOOR_OK : default_identities(c);
}

int mr_ssh_config_apply(const struct mr_ssh_config *c, ssh_session session)
{
    const bool no_files = false;
    const int strict = 1;
    /* ~/.ssh/config could run a program (ProxyCommand) and change everything that was decided here. */
    int failed = ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &no_files);
    failed |= ssh_options_set(session, SSH_OPTIONS_STRICTHOSTKEYCHECK, &strict);
    if (c->known_hosts) {
        failed |= ssh_options_set(session, SSH_OPTIONS_KNOWNHOSTS, c->known_hosts);
        failed |= ssh_options_set(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null");
    }
    for (unsigned i = 0; i < c->algorithm_count; i++) {
        const struct mr_ssh_algorithms *a = &c->algorithms[i];
        failed |= ssh_options_set(session, a->option, a->names);
        if (a->option == SSH_OPTIONS_CIPHERS_C_S)
            failed |= ssh_options_set(session, SSH_OPTIONS_CIPHERS_S_C, a->names);
        if (a->option == SSH_OPTIONS_HMAC_C_S)
            failed |= ssh_options_set(session, SSH_OPTIONS_HMAC_S_C, a->names);
    }
    return failed;
}

/* What libssh will not take later is found out now. */
static moor_err try_out(const struct reader *r)
{
    ssh_session session = ssh_new();
    if (!session)
        return MOOR_ENOMEM;
    const int failed = mr_ssh_config_apply(r->config, session);
    const moor_err e =
        failed ? refuse(r, "libssh does not take an option: %s", ssh_get_error(session)) : MOOR_OK;
    ssh_free(session);
    return e;
}

static moor_err read_url(struct reader *r, const moor_driver_url *url)
{
    struct mr_ssh_config *c = r->config;
    if (*url->path || *url->host == '/' || !*url->host)
        return refuse(r, "ssh://user@host:port, without a path");
    const char *agent = getenv("SSH_AUTH_SOCK");
    moor_err e = agent && *agent == '/' ? keep(agent, &c->agent) : MOOR_OK;
    if (!e)
        e = read_query(r, url->query);
    if (!e && c->is_insecure && (c->pin_count || c->known_hosts))
        e = refuse(r, "insecure=1 contradicts known_hosts and host_key_sha256");
    if (!e && c->are_methods_given && c->identity_count == 0)
        e = default_identities(c);
    else if (!e && !c->are_methods_given)
        e = default_methods(c);
    return e ? e : try_out(r);
}

moor_err mr_ssh_config_open(const moor_driver_url *url, const void *unused, void **out, char *why,
                            size_t why_cap)
{
    (void)unused;
    struct mr_ssh_config *c = calloc(1, sizeof *c);
    if (!c)
        return MOOR_ENOMEM;
    c->agent_timeout_ms = AGENT_TIMEOUT_MS;
    struct reader r = {.config = c, .why = why, .why_cap = why_cap};
    const moor_err e = read_url(&r, url);
    if (e) {
        mr_ssh_config_shut(c);
        return e;
    }
    if (c->is_insecure && why_cap)
        snprintf(why, why_cap, "insecure=1: the server's key is not looked at, anyone may answer");
    *out = c;
    return MOOR_OK;
}

void mr_ssh_config_shut(void *config)
{
    struct mr_ssh_config *c = config;
    free(c->known_hosts);
    free(c->agent);
    for (unsigned i = 0; i < c->pin_count; i++)
        free(c->pins[i]);
    for (unsigned i = 0; i < c->identity_count; i++)
        free(c->identities[i]);
    for (unsigned i = 0; i < c->algorithm_count; i++)
        free(c->algorithms[i].names);
    free(c);
}
