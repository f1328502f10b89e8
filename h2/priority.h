/*
 * The value of the `priority` header field and of PRIORITY_UPDATE, RFC 9218 4: a structured field
 * dictionary in which a member at its default is left out.
 * Pure: any thread.
 */
#ifndef MR_H2_PRIORITY_H
#define MR_H2_PRIORITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MR_H2_URGENCIES       8 /* 0 is the most urgent; RFC 9218 4.1 */
#define MR_H2_URGENCY_DEFAULT 3

/* Room for the longest value, "u=7, i", and its NUL. */
#define MR_H2_PRIORITY_CAP 8

/* Writes the value and a NUL, answers the length: 0 = both defaults, the field need not be sent.
 * urgency is below MR_H2_URGENCIES: what a caller gave was checked before. */
size_t mr_h2_priority_write(char out_[MR_H2_PRIORITY_CAP], uint8_t urgency, bool incremental);

#endif
