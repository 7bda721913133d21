/*
 * RDMA migration transport: a line of text for each thing that happens
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_trace of migration/rdma-transport.h, made cheap to leave in place.
 * Callers: every room that posts, reaps, registers or changes a state.
 * Thread: any.
 */
#ifndef RMIG_LOG_H
#define RMIG_LOG_H

#include "migration/rdma-transport.h"

/* printf-like; the arguments are only looked at while somebody listens */
#define RMIG_LOG(...) \
    do { \
        if (G_UNLIKELY(rmig_trace)) { \
            rmig_log_line(__VA_ARGS__); \
        } \
    } while (0)

void rmig_log_line(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

#endif
