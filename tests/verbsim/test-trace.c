/*
 * Unit tests of trace: names, control types, lines and counters
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "tools-fakes.h"

#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <glib/gstdio.h>

static char *folder;

static char *file_of_process(pid_t pid, const char *suffix)
{
    g_autofree char *path = g_strdup_printf("%s/a_b.%d.%s", folder, (int)pid,
                                            suffix);
    char *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_unlink(path);
    return text;
}

/* Runs @fn in a child with a trace of its own; returns the child's pid. */
static pid_t traced_until(void (*fn)(void), int *status)
{
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        g_setenv("VERBSIM_TRACE", folder, true);
        vs_trace_start(5);
        fn();
        exit(0);
    }
    g_assert_cmpint(waitpid(pid, status, 0), ==, pid);
    return pid;
}

static pid_t traced(void (*fn)(void))
{
    int status;

    return traced_until(fn, &status);
}

/* ----------------------------------------------------------- control types */

static int type_of(uint32_t len, uint32_t type, size_t length)
{
    uint32_t head[4] = { GUINT32_TO_BE(len), GUINT32_TO_BE(type),
                         GUINT32_TO_BE(1), 0 };

    return vs_control_type(head, length);
}

static void test_control_type(void)
{
    g_assert_cmpint(type_of(0, 2, 16), ==, 2);
    g_assert_cmpint(type_of(32768, 3, 32784), ==, 3);
    g_assert_cmpint(type_of(0, 31, 16), ==, 31);
    /* No such type; no such length; too short for a header. */
    g_assert_cmpint(type_of(0, 32, 16), ==, -1);
    g_assert_cmpint(type_of(1, 2, 16), ==, -1);
    g_assert_cmpint(type_of(0, 2, 17), ==, -1);
    g_assert_cmpint(vs_control_type("", 0), ==, -1);
    g_assert_cmpint(vs_control_type((uint8_t[16]) { 0 }, 16), ==, -1);
    g_assert_cmpint(type_of(0xfffffff1, 2, 1), ==, -1);
}

static void test_control_name(void)
{
    static const char *const known[] = {
        "NONE", "ERROR", "READY", "QEMU_FILE", "RAM_BLOCKS_REQUEST",
        "RAM_BLOCKS_RESULT", "COMPRESS", "REGISTER_REQUEST",
        "REGISTER_RESULT", "REGISTER_FINISHED", "UNREGISTER_REQUEST",
        "UNREGISTER_FINISHED", "LOAD_REQUEST", "LOADED", "START", "STARTED",
    };

    for (int i = 0; i < 32; i++) {
        g_autofree char *number = g_strdup_printf("TYPE_%d", i);

        g_assert_cmpstr(vs_control_name(i), ==,
                        i < (int)G_N_ELEMENTS(known) ? known[i] : number);
    }
    g_assert_cmpstr(vs_control_name(-1), ==, "-");
    g_assert_cmpstr(vs_control_name(32), ==, "-");
}

/* ------------------------------------------------------------------- lines */

static void many_lines(void)
{
    for (unsigned i = 0; i < 5000; i++) {
        fake_now_ns = i;
        VS_TRACE("tick", "i=%u text=\"%s\"", i, "some words to fill it");
    }
}

/* More than the buffer holds, in order, whole. */
static void test_lines(void)
{
    pid_t pid = traced(many_lines);
    g_autofree char *text = file_of_process(pid, "trace");
    g_autofree char *stats = file_of_process(pid, "stats");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *start = g_strdup_printf(
        "1000 a_b start pid=%d slot=5 profile=fast copy=yes", (int)pid);

    g_assert_cmpuint(g_strv_length(lines), ==, 5002);
    g_assert_cmpstr(lines[0], ==, start);
    for (unsigned i = 0; i < 5000; i++) {
        g_autofree char *line = g_strdup_printf(
            "%u a_b tick i=%u text=\"some words to fill it\"", i, i);

        g_assert_cmpstr(lines[i + 1], ==, line);
    }
    g_assert_cmpstr(lines[5001], ==, "");
}

static void long_line(void)
{
    g_autofree char *word = g_strnfill(5000, 'x');

    VS_TRACE("long", "%s", word);
    VS_TRACE("next", "end=1");
}

static void test_long_line(void)
{
    pid_t pid = traced(long_line);
    g_autofree char *text = file_of_process(pid, "trace");
    g_autofree char *stats = file_of_process(pid, "stats");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    g_assert_cmpuint(g_strv_length(lines), ==, 4);
    g_assert_cmpuint(strlen(lines[1]), ==, 1022);
    g_assert_cmpstr(lines[2], ==, "1000 a_b next end=1");
}

static void fork_in_the_middle(void)
{
    pid_t pid;

    VS_TRACE("before", "once=1");
    pid = fork();
    if (pid == 0) {
        VS_TRACE("child", "never=1");
        exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* A forked child neither writes lines nor repeats its parent's. */
static void test_fork(void)
{
    pid_t pid = traced(fork_in_the_middle);
    g_autofree char *text = file_of_process(pid, "trace");
    g_autofree char *stats = file_of_process(pid, "stats");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    g_assert_cmpuint(g_strv_length(lines), ==, 3);
    g_assert_cmpstr(lines[1], ==, "1000 a_b before once=1");
}

static void trace_complaint(void)
{
    VS_TRACE("complaint", "again=1");
}

static void onto_a_full_disk(void)
{
    struct rlimit limit = { 65536, 65536 };

    signal(SIGXFSZ, SIG_IGN);
    alarm(20);                  /* a hang is a failure */
    fake_on_complaint = trace_complaint;
    if (setrlimit(RLIMIT_FSIZE, &limit) < 0) {
        abort();
    }
    many_lines();
    vs_trace_flush();
    if (vs_trace_on) {
        abort();
    }
    _exit(7);
}

/* A trace that cannot be written ends; the program goes on. */
static void test_full_disk(void)
{
    int status;
    pid_t pid = traced_until(onto_a_full_disk, &status);
    g_autofree char *text = file_of_process(pid, "trace");
    g_autofree char *stats = file_of_process(pid, "stats");

    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 7);
    g_assert_cmpuint(strlen(text), ==, 65536);
}

/* ---------------------------------------------------------------- counters */

static void count_and_die(void)
{
    vs_stats->tx_write = 42;
    vs_stats->control[31] = 7;
    VS_TRACE("flushed", "kept=1");
    vs_trace_flush();
    VS_TRACE("buffered", "lost=1");
    kill(getpid(), SIGKILL);
}

/* Counters, and the lines that were flushed, outlive a kill. */
static void test_killed(void)
{
    pid_t pid = traced(count_and_die);
    g_autofree char *text = file_of_process(pid, "trace");
    g_autofree char *path = g_strdup_printf("%s/a_b.%d.stats", folder,
                                            (int)pid);
    g_autofree char *data = NULL;
    const uint32_t *head;
    const uint64_t *counters;
    size_t size;

    g_assert_nonnull(strstr(text, " flushed kept=1\n"));
    g_assert_null(strstr(text, "buffered"));
    g_assert_true(g_file_get_contents(path, &data, &size, NULL));
    g_assert_cmpint(memcmp(data, "VERBSIM\n", 8), ==, 0);
    head = (const uint32_t *)(const void *)(data + 8);
    g_assert_cmpuint(head[0], ==, 1);
    g_assert_cmpuint(head[1], ==, sizeof(VsStats) / 8);
    counters = (const uint64_t *)(const void *)(data + head[2]);
    g_assert_cmpuint(counters[offsetof(VsStats, tx_write) / 8], ==, 42);
    g_assert_cmpuint(counters[head[1] - 1], ==, 7);
    /* The first name and the last. */
    g_assert_cmpstr(data + head[3], ==, "tx_send");
    g_assert_nonnull(memmem(data + head[3], size - head[3],
                            "control_TYPE_31", 16));
    g_unlink(path);
}

static void test_without_trace(void)
{
    g_unsetenv("VERBSIM_TRACE");
    vs_trace_start(0);
    g_assert_nonnull(vs_stats);
    g_assert_false(vs_trace_on);
    vs_stats->faults = 1;
    vs_trace_flush();
}

int main(int argc, char **argv)
{
    int status;

    g_setenv("VERBSIM_NAME", "a b", true);
    g_unsetenv("VERBSIM_TRACE");
    g_test_init(&argc, &argv, NULL);
    vs_shape_load();
    folder = g_dir_make_tmp("vs-trace-XXXXXX", NULL);
    g_assert_nonnull(folder);
    g_test_add_func("/trace/control-type", test_control_type);
    g_test_add_func("/trace/control-name", test_control_name);
    g_test_add_func("/trace/lines", test_lines);
    g_test_add_func("/trace/long-line", test_long_line);
    g_test_add_func("/trace/fork", test_fork);
    g_test_add_func("/trace/full-disk", test_full_disk);
    g_test_add_func("/trace/killed", test_killed);
    g_test_add_func("/trace/without-trace", test_without_trace);
    status = g_test_run();
    g_rmdir(folder);
    return status;
}
