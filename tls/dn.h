/*
 * Distinguished names (X.501 Name), for people to read. Never for deciding whom one talks to:
 * that is tls/name.h. Pure; any thread.
 */
#ifndef MR_TLS_DN_H
#define MR_TLS_DN_H

#include <mooring/types.h>

/* Contents of a Name: a list, maybe empty, of non-empty sets of a type and a value? */
bool mr_dn_is_valid(moor_span body);

/* A valid Name, with its header, as mr_cert_subject_text says. cap > 0. Returns buf. */
const char *mr_dn_text(moor_span name, char *buf, size_t cap);

#endif
