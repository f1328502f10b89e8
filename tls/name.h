/*
 * Does a certificate name the host we meant to talk to? RFC 9525, for hosts of URLs.
 * Pure; any thread.
 */
#ifndef MR_TLS_NAME_H
#define MR_TLS_NAME_H

#include "tls/cert.h"

/*
 * host: as in the URL: in any case, IPv6 without brackets, maybe with a final dot, which does not
 * count. is_ip: it is an address, not a name.
 *
 * Only the subjectAltName is asked, never the common name: a certificate without one names nobody.
 *   An address matches iPAddress entries of its bytes, and no dNSName that looks like it. An IPv4
 *   address written as IPv6 (::ffff:1.2.3.4) is 16 bytes, and matches only those. Scoped addresses
 *   (fe80::1%eth0) match nothing.
 *   A name matches dNSName entries: equal but for the case of ASCII letters, or a wildcard. It is
 *   "*." and at least two labels; the star stands for exactly one label. A star anywhere else,
 *   beside other characters, alone or before a whole top-level domain matches nothing. Which names
 *   are public suffixes (*.co.uk) is not known here: not to sign those is the CA's duty.
 * Entries and hosts that are no host names match nothing: those with an empty label, with one over
 * 63 bytes, of over 253 bytes in all, or with anything but letters, digits, '-' and '_'. That
 * includes a dNSName with a final dot (the syntax RFC 5280 4.2.1.6 names has none), U-labels
 * (A-labels compare as ASCII) and NUL bytes. Nor does a name that ends in a number: resolvers take
 * 1.2.3.4 and 0x7f.1 for addresses.
 */
bool mr_tls_name_matches(const struct mr_cert *c, moor_span host, bool is_ip);

#endif
