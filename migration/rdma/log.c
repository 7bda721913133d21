/*
 * RDMA migration transport: a line of text for each thing that happens
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See log.h.
 */
#include <stdarg.h>
#include <stdio.h>

#include "log.h"

#define LINE_BYTES 256

void (*rmig_trace)(const char *line);

void rmig_log_line(const char *fmt, ...)
{
    void (*listener)(const char *line) = rmig_trace;
    char line[LINE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (listener) {
        listener(line);
    }
}
