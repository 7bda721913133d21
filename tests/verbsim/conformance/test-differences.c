/*
 * Conformance tests: the table of differences stands in the documents, too
 *
 *   test-differences FILE      checks it
 *   test-differences --print   prints it as it has to be there
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "differs.h"

static const char *document;

static char *row_of(const Difference *difference)
{
    return g_strdup_printf("| `%s` | %s | %s | %s |", difference->what,
                           difference->who, difference->expected,
                           difference->instead);
}

static void print_table(void)
{
    for (const Difference *difference = differences; difference->what;
         difference++) {
        g_autofree char *row = row_of(difference);

        puts(row);
    }
}

static void test_table(void)
{
    const Difference *difference = differences;
    g_autofree char *text = NULL;
    g_autoptr(GError) err = NULL;
    g_auto(GStrv) lines = NULL;
    char *section;

    g_file_get_contents(document, &text, NULL, &err);
    g_assert_no_error(err);
    section = strstr(text, "\n## Where they differ\n");
    g_assert_nonnull(section);
    lines = g_strsplit(section, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_autofree char *row = NULL;

        if (!g_str_has_prefix(*line, "| `")) {
            continue;
        }
        if (!difference->what) {
            g_error("%s has a difference too many: %s", document, *line);
        }
        row = row_of(difference++);
        g_assert_cmpstr(*line, ==, row);
    }
    if (difference->what) {
        g_error("%s lacks the difference '%s'; see --print", document,
                difference->what);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--print")) {
        print_table();
        return 0;
    }
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(argc, ==, 2);
    document = argv[1];
    g_test_add_func("/differences/table", test_table);
    return g_test_run();
}
