/*
 * Constants newer than the kernel headers and liburing of Debian 12. Used only after the kernel has
 * said that it knows them.
 */
#ifndef MR_CORE_URING_COMPAT_H
#define MR_CORE_URING_COMPAT_H

#define MR_URING_FEAT_NO_IOWAIT  (1u << 17) /* 6.15 */
#define MR_URING_ENTER_NO_IOWAIT (1u << 7)  /* 6.15 */

#endif
