/*
 * Tests of what verbsim says on stderr
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_TEST_CAPTURE_H
#define VERBSIM_TEST_CAPTURE_H

/* From here on stderr goes to a file... */
void capture(void);
/* ... until here: what was written (g_free()). */
char *captured_text(void);
/* The same, and the text must be "verbsim: @what" and anything behind it. */
void assert_said(const char *what);

#endif
