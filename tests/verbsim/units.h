/*
 * units: numbers with units, as profiles and fault scripts have them
 *
 * No locks, no state.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_UNITS_H
#define VERBSIM_UNITS_H

#include <stdbool.h>
#include <stdint.h>

/* Each is false, with nothing stored, if @text is not wholly such a number. */
bool vs_parse_count(const char *text, uint64_t *count);     /* 0, 1, 2... */
bool vs_parse_fraction(const char *text, double *value);    /* 0.25 */
bool vs_parse_time(const char *text, uint64_t *ns);         /* ns us ms s */
bool vs_parse_bytes(const char *text, uint64_t *bytes);     /* B KiB ... TiB */
bool vs_parse_rate(const char *text, double *bytes_per_ns); /* Gbit/s GB/s */

#endif
