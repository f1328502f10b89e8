/*
 * A statistic with one writer that any thread may read: a figure may be a moment old, never torn.
 * Reading: __atomic_load_n(&field, __ATOMIC_RELAXED).
 */
#ifndef MR_BASE_COUNT_H
#define MR_BASE_COUNT_H

/* field: a plain integer; n may be negative. One writer at a time. */
#define MR_COUNT(field, n) __atomic_store_n(&(field), (field) + (n), __ATOMIC_RELAXED)

#endif
