/*
 * Tests of what verbsim says on stderr
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "test-capture.h"

#include <glib.h>
#include <unistd.h>

static int saved_stderr, captured;
static char *path;

void capture(void)
{
    captured = g_file_open_tmp("verbsim-XXXXXX", &path, NULL);
    g_assert_cmpint(captured, >=, 0);
    saved_stderr = dup(STDERR_FILENO);
    g_assert_cmpint(dup2(captured, STDERR_FILENO), ==, STDERR_FILENO);
}

char *captured_text(void)
{
    char *text = NULL;

    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(captured);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    unlink(path);
    g_clear_pointer(&path, g_free);
    return text;
}

void assert_said(const char *what)
{
    g_autofree char *text = captured_text();
    g_autofree char *expected = g_strdup_printf("verbsim: %s", what);

    if (!g_str_has_prefix(text, expected)) {
        g_error("stderr has '%s', not '%s...'", text, expected);
    }
}
