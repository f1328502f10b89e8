/*
 * Text options outlive the call that gave them: copies in a heap, made and dropped together.
 * Any thread that may use the heap.
 */
#ifndef MR_CORE_KEEP_H
#define MR_CORE_KEEP_H

#include "alloc/heap.h"
#include "base/options.h"

/* Replaces every text of the struct by a copy. ENOMEM: the struct holds no text any more. */
MOOR_NODISCARD moor_err mr_options_keep(enum mr_option_scope scope, void *options,
                                        struct mr_heap *h);
void mr_options_drop(enum mr_option_scope scope, void *options, struct mr_heap *h);

#endif
