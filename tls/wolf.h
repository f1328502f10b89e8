/*
 * wolfSSL's headers, in the order they need, for the few files of tls/ that call it.
 */
#ifndef MR_TLS_WOLF_H
#define MR_TLS_WOLF_H

#include <wolfssl/options.h>
/* After the options. */
#include <wolfssl/error-ssl.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/asn_public.h>
#include <wolfssl/wolfcrypt/coding.h>
#include <wolfssl/wolfcrypt/ecc.h>
#include <wolfssl/wolfcrypt/error-crypt.h>
#include <wolfssl/wolfcrypt/memory.h>
#include <wolfssl/wolfcrypt/sha256.h>

#endif
