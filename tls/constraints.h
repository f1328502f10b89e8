/*
 * Name constraints (RFC 5280 4.2.1.10): which names an authority may vouch for. The TLS library enforces those for
 * DNS names in certificates; here are addresses, and exclusions as they touch the host we mean. Pure; any thread.
 */
#ifndef MR_TLS_CONSTRAINTS_H
#define MR_TLS_CONSTRAINTS_H

#include "tls/cert.h"

/* Is the extension's value well-formed? */
bool mr_constraints_are_valid(moor_span value);

/* May an authority with this (valid) value vouch for the leaf, and for it as this host? */
bool mr_constraints_allow(moor_span value, const struct mr_cert *leaf, moor_span host, bool is_ip);

#endif
