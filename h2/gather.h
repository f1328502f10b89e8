/*
 * How long to let responses gather before they are received. A server that sends many small ones one by one wakes us for
 * each; a wake costs more than what it brings. Pure: time is an argument.
 */
#ifndef MR_H2_GATHER_H
#define MR_H2_GATHER_H

#include <stdint.h>

enum {
    MR_H2_GATHER_SHARE = 16, /* at most this part of the time a response takes is waited */
    MR_H2_GATHER_SPAN_NS = 1000000
};

struct mr_h2_gather {
    int64_t begun_ns; /* of the span that is counted */
    int64_t heard_ns; /* the last receive */
    int64_t each_ns;  /* a response came every so often in the last span; 0 = none did */
    uint32_t ended;   /* in this span */
    uint32_t now;     /* of them, by the receives of this turn */
};

/* After a receive that ended so many streams and left `open`: nanoseconds the next may wait, 0..max_ns. 0 unless two
 * responses are expected in a sixteenth of what one takes, more than one in max_ns, and this receive brought fewer. */
int64_t mr_h2_gather(struct mr_h2_gather *g, uint32_t ended, uint32_t open, int64_t max_ns,
                     int64_t now_ns);

#endif
