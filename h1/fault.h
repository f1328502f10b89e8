/*
 * Every way a reply can be refused: name, error number, sentence. One list, so that the enum, the
 * texts and the tests cannot disagree.
 */
#ifndef MR_H1_FAULT_H
#define MR_H1_FAULT_H

#include <mooring/error.h>

#define MR_H1_FAULTS(X)                                                                            \
    X(NONE, OK, "no fault")                                                                        \
    X(NOT_HTTP, EPROTO, "reply does not start with HTTP/1.")                                       \
    X(VERSION, EPROTO, "HTTP version is neither 1.0 nor 1.1")                                      \
    X(STATUS, EPROTO, "status code is not three digits from 100 to 999")                           \
    X(REASON, EPROTO, "control character in the reason phrase")                                    \
    X(BARE_LF, EPROTO, "line ends with LF alone")                                                  \
    X(BARE_CR, EPROTO, "CR not followed by LF")                                                    \
    X(FOLDED, EPROTO, "folded header line")                                                        \
    X(NAME, EPROTO, "character not allowed in a header name")                                      \
    X(NAME_EMPTY, EPROTO, "header line without a name")                                            \
    X(NO_COLON, EPROTO, "header line without a colon")                                             \
    X(NAME_SPACE, EPROTO, "white space between header name and colon")                             \
    X(VALUE, EPROTO, "control character in a header value")                                        \
    X(HEAD_TOO_BIG, ETOOBIG, "reply head exceeds head_bytes_max")                                  \
    X(HEADERS_TOO_MANY, ETOOBIG, "more fields than header_count_max")                              \
    X(LENGTH, EPROTO, "Content-Length is not a number")                                            \
    X(LENGTH_TWICE, EPROTO, "more than one Content-Length")                                        \
    X(CODING, EPROTO, "Transfer-Encoding is not exactly chunked")                                  \
    X(CODING_TWICE, EPROTO, "more than one Transfer-Encoding")                                     \
    X(LENGTH_AND_CODING, EPROTO, "both Content-Length and Transfer-Encoding")                      \
    X(CODING_HTTP10, EPROTO, "Transfer-Encoding in an HTTP/1.0 reply")                             \
    X(INTERIM_BODY, EPROTO, "1xx reply announces a body")                                          \
    X(INTERIM_TOO_MANY, ETOOBIG, "more 1xx replies than interim_count_max")                        \
    X(UPGRADE_UNASKED, EPROTO, "101 reply to a request that did not ask for an upgrade")           \
    X(BODY_TOO_BIG, ETOOBIG, "reply body exceeds body_bytes_max")                                  \
    X(CHUNK_SIZE, EPROTO, "chunk size is not a hexadecimal number")                                \
    X(CHUNK_OVERFLOW, EPROTO, "chunk size overflows")                                              \
    X(CHUNK_EXT, EPROTO, "control character in a chunk extension")                                 \
    X(CHUNK_EXT_TOO_BIG, ETOOBIG, "chunk extensions exceed chunk_ext_bytes_max")                   \
    X(CHUNK_END, EPROTO, "chunk data not followed by CRLF")                                        \
    X(TRAILER_FRAMING, EPROTO, "framing field in the trailers")                                    \
    X(TRAILERS_TOO_BIG, ETOOBIG, "trailers exceed trailer_bytes_max")                              \
    X(NO_MEMORY, ENOMEM, "memory limit reached while parsing a reply")                             \
    X(EOF_UNTOUCHED, ERESET, "connection closed before any byte of a reply")                       \
    X(EOF_IN_HEAD, ERESET, "connection closed inside the reply head")                              \
    X(EOF_IN_BODY, ERESET, "connection closed inside the reply body")

enum mr_h1_fault {
#define X(name, err, text) MR_H1_FAULT_##name,
    MR_H1_FAULTS(X)
#undef X
        MR_H1_FAULT_COUNT
};

moor_err mr_h1_fault_err(enum mr_h1_fault f);
/* Static text, never NULL. */
const char *mr_h1_fault_text(enum mr_h1_fault f);

#endif
