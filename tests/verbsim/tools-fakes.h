/*
 * verbsim: what shape, trace and fault call, faked for their unit tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_TOOLS_FAKES_H
#define VERBSIM_TOOLS_FAKES_H

#include "vs.h"

/* The clock stands still unless a test moves it. */
extern uint64_t fake_now_ns;
/* To @ns, firing the timers that are due, in order. */
void fake_run_until(uint64_t ns);
unsigned fake_timers_set(void);

/* What was done to the process: one line an action, "port 0", "freeze 1"... */
extern GString *fake_log;
/* The log so far, which is cleared (g_free()). */
char *fake_take_log(void);

/* Called by vs_complain(): the real one writes a line into the trace. */
extern void (*fake_on_complaint)(void);

#endif
