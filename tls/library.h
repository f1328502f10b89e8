/*
 * The TLS library inside the process: begun once, given our memory and our time for each call.
 * Any thread. Every call into it, of any file here, stands between mr_tls_enter and mr_tls_leave.
 */
#ifndef MR_TLS_LIBRARY_H
#define MR_TLS_LIBRARY_H

#include <mooring/error.h>

struct moor_runtime;

#define MR_TLS_HASH_SIZE 32 /* SHA-256 */

/* ENOSYS: the library found at run time is not the one of the headers. */
MOOR_NODISCARD moor_err mr_tls_library_begin(void);

/* From here to leave, on this thread, memory is the runtime's shared heap's and time its clock's. */
struct moor_runtime *mr_tls_enter(struct moor_runtime *r);
/* What enter returned. */
void mr_tls_leave(struct moor_runtime *before);

/* Since enter an allocation failed: whatever the library made of that, out of memory is what it is. */
bool mr_tls_is_short(void);

/* After each step of a handshake: some builds keep a table of 800 KB, on each thread, for every key they have
 * seen twice. */
void mr_tls_library_rest(void);

/* Several spans as one message. */
void mr_tls_hash(const moor_span *parts, size_t count, uint8_t out[MR_TLS_HASH_SIZE]);
/* False: not base64. *out_len: room before, used after. */
bool mr_tls_base64(moor_span text, uint8_t *out, size_t *out_len);

/* Builds that imitate OpenSSL tell verify callbacks its numbers: as the library's own. */
int mr_tls_verify_code(int code);
/* What a code of the library means for a user; static text. `alert`: the last one the peer sent, -1 = none. */
const char *mr_tls_error_text(int code, int alert);
/* In the library's own words, for the log. */
const char *mr_tls_error_detail(int code);

#endif
