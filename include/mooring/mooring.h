/*
 * mooring: connections kept ready. The public API in one include.
 */
#ifndef MOORING_H
#define MOORING_H

#include <mooring/error.h>
#include <mooring/event.h>
#include <mooring/handle.h>
#include <mooring/hooks.h>
#include <mooring/http.h>
#include <mooring/options.h>
#include <mooring/pool.h>
#include <mooring/runtime.h>
#include <mooring/stats.h>
#include <mooring/tls.h>
#include <mooring/types.h>

#endif
