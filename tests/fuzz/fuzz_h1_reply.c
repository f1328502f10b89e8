/*
 * The reply parser, whole against cut. Input: one byte of what was asked and which limits, two
 * bytes of how to cut, then the reply. However it is cut the events must be the same text.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/h1_reply_log.h"

enum { ASKED = 7, CLOSES = 8, TIGHT = 16, PREFIX = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct mr_h1_limits tight = {
    .head_bytes_max = 96,
    .header_count_max = 20,
    .trailer_bytes_max = 24,
    .chunk_ext_bytes_max = 8,
    .interim_count_max = 2,
    .body_bytes_max = 16,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < PREFIX)
        return 0;
    struct h1_feed f = {
        .bytes = data + PREFIX,
        .len = size - PREFIX,
        .limits = data[0] & TIGHT ? &tight : NULL,
        .asked = data[0] & ASKED,
        .eof = data[0] & CLOSES,
    };
    const size_t cuts[][2] = {{1, 1}, {data[1], data[2]}, {data[1], 0}};
    char *const whole = h1_log_of(&f);

    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        f.first = cuts[i][0];
        f.step = cuts[i][1];
        char *const cut = h1_log_of(&f);
        if (strcmp(whole, cut) != 0) {
            fprintf(stderr, "whole: %s\ncut %zu/%zu: %s\n", whole, f.first, f.step, cut);
            abort();
        }
        free(cut);
    }
    free(whole);
    return 0;
}
