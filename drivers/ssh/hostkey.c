/*
 * Whether the server is who the pool's URL names: its key against the pins, or against known hosts. Reads those
 * files, so it runs on a helper. Never asks, never writes a file, never lets an unknown key pass.
 */
#include "drivers/ssh/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "SHA256:..." of the key that signed the key exchange. */
static bool fingerprint(ssh_session session, char out[MR_SSH_FINGERPRINT_MAX])
{
    ssh_key key = NULL;
    unsigned char *hash = NULL;
    size_t len = 0;
    bool is_known = false;
    if (ssh_get_server_publickey(session, &key) == SSH_OK &&
        ssh_get_publickey_hash(key, SSH_PUBLICKEY_HASH_SHA256, &hash, &len) == 0) {
        char *text = ssh_get_fingerprint_hash(SSH_PUBLICKEY_HASH_SHA256, hash, len);
        is_known =
            text && snprintf(out, MR_SSH_FINGERPRINT_MAX, "%s", text) < MR_SSH_FINGERPRINT_MAX;
        ssh_string_free_char(text);
    }
    ssh_clean_pubkey_hash(&hash);
    ssh_key_free(key);
    return is_known;
}

static bool is_pinned(const struct mr_ssh_config *c, const char *print)
{
    for (unsigned i = 0; i < c->pin_count; i++)
        if (!strcmp(c->pins[i], print))
            return true;
    return false;
}

/* The file that was looked into first, for people. */
static void refuse(struct mr_ssh_link *s, const char *print, enum ssh_known_hosts_e found)
{
    char *file = NULL;
    (void)ssh_options_get(s->session, SSH_OPTIONS_KNOWNHOSTS, &file);
    const char *name = file ? file : "known_hosts";
    switch (found) {
    case SSH_KNOWN_HOSTS_CHANGED:
        mr_ssh_failed(s, MOOR_EAUTH, "host key %s is not the one in %s: changed, or another server",
                      print, name);
        break;
    case SSH_KNOWN_HOSTS_OTHER:
        mr_ssh_failed(s, MOOR_EAUTH, "host key %s is not in %s, which has others of this host",
                      print, name);
        break;
    case SSH_KNOWN_HOSTS_ERROR:
        mr_ssh_failed(s, MOOR_EAUTH, "host key %s: could not read %s", print, name);
        break;
    default:
        mr_ssh_failed(s, MOOR_EAUTH, "host key %s is not in %s", print, name);
    }
    ssh_string_free_char(file);
}

bool mr_ssh_check_host(struct mr_ssh_link *s)
{
    const struct mr_ssh_config *c = s->config;
    if (c->is_insecure)
        return true;
    char print[MR_SSH_FINGERPRINT_MAX];
    if (!fingerprint(s->session, print)) {
        mr_ssh_failed(s, MOOR_EPROTO, "the server's host key has no fingerprint");
        return false;
    }
    if (c->pin_count) {
        if (is_pinned(c, print))
            return true;
        mr_ssh_failed(s, MOOR_EAUTH, "host key %s is not one of host_key_sha256", print);
        return false;
    }
    const enum ssh_known_hosts_e found = ssh_session_is_known_server(s->session);
    if (found == SSH_KNOWN_HOSTS_OK)
        return true;
    refuse(s, print, found);
    return false;
}
