/*
 * Conformance tests: where implementations differ from what is expected
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef CONFORMANCE_DIFFERS_H
#define CONFORMANCE_DIFFERS_H

typedef struct Difference {
    const char *what;           /* the key for differs() */
    const char *who;            /* "rxe" (Soft-RoCE) or "verbsim" */
    const char *expected;       /* what the specification says */
    const char *instead;        /* what it does, and why */
} Difference;

extern const Difference differences[];  /* ends with .what == NULL */

#endif
