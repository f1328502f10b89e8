/*
 * The simulated HTTP/2 server, prior knowledge in clear text: what sim_http is for HTTP/1.1, with the same
 * requests, and of each connection an nghttp2 session. The world's faults mean: close_said, a GOAWAY in
 * good order; close_after, one with an older last id; early, REFUSED_STREAM; cut_short, a reset in the
 * middle; extra, other SETTINGS; garbage, a frame that breaks a rule; silent, no answer, or nothing at all.
 */
#ifndef TESTS_SUPPORT_SIM_H2_H
#define TESTS_SUPPORT_SIM_H2_H

#include "tests/support/sim_http.h"

/* The host's ctx is a sim_http. */
extern const struct sim_service sim_h2_service;

#endif
