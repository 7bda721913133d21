/*
 * What verbsim does not implement fails and names itself, on stderr
 *
 * A program like any other: run it with verbsim's libraries.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glib.h>
#include <infiniband/verbs.h>
#include <rdma/rsocket.h>
#include <unistd.h>

static int saved_stderr, captured;
static char *capture_path;

static void capture(void)
{
    captured = g_file_open_tmp("loud-XXXXXX", &capture_path, NULL);
    g_assert_cmpint(captured, >=, 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(captured, STDERR_FILENO);
}

static void end_capture(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(captured);
    unlink(capture_path);
    g_clear_pointer(&capture_path, g_free);
}

/* What was written to stderr since capture() begins with @name. */
static void assert_named(const char *name)
{
    g_autofree char *text = NULL;
    g_autofree char *expected = g_strdup_printf("verbsim: %s", name);

    g_assert_true(g_file_get_contents(capture_path, &text, NULL, NULL));
    end_capture();
    if (!g_str_has_prefix(text, expected)) {
        g_error("stderr has '%s', not '%s...'", text, expected);
    }
}

static struct ibv_context *open_device(void)
{
    struct ibv_device **list = ibv_get_device_list(NULL);
    struct ibv_context *context = ibv_open_device(list[0]);

    g_assert_nonnull(context);
    ibv_free_device_list(list);
    return context;
}

/* A function of the library that gives a pointer */
static void test_stub_pointer(void)
{
    struct ibv_srq_init_attr init = { .attr.max_wr = 1 };
    struct ibv_context *context = open_device();
    struct ibv_pd *pd = ibv_alloc_pd(context);

    capture();
    errno = 0;
    g_assert_null(ibv_create_srq(pd, &init));
    g_assert_cmpint(errno, ==, ENOSYS);
    assert_named("ibv_create_srq");
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    g_assert_cmpint(ibv_close_device(context), ==, 0);
}

/* A function of the library that gives an error number */
static void test_stub_int(void)
{
    capture();
    g_assert_cmpint(ibv_destroy_ah(NULL), ==, ENOSYS);
    assert_named("ibv_destroy_ah");
}

/* An operation that verbs.h calls through a pointer */
static void test_operation(void)
{
    struct ibv_cq_init_attr_ex attr = { .cqe = 1 };
    struct ibv_context *context = open_device();

    capture();
    errno = 0;
    g_assert_null(ibv_create_cq_ex(context, &attr));
    g_assert_cmpint(errno, ==, ENOSYS);
    assert_named("ibv_create_cq_ex");
    g_assert_cmpint(ibv_close_device(context), ==, 0);
}

/* A function with an old ABI: programs from before 2008 ask for it */
static void test_old_version(void)
{
    int (*dealloc)(void *) =
        (int (*)(void *))dlvsym(RTLD_DEFAULT, "ibv_dealloc_pd", "IBVERBS_1.0");

    g_assert_nonnull(dealloc);
    capture();
    g_assert_cmpint(dealloc(NULL), ==, ENOSYS);
    assert_named("ibv_dealloc_pd@IBVERBS_1.0");
}

/* librdmacm's functions give -1 and errno */
static void test_rdmacm(void)
{
    capture();
    errno = 0;
    g_assert_cmpint(rsocket(0, 0, 0), ==, -1);
    g_assert_cmpint(errno, ==, ENOSYS);
    assert_named("rsocket");
}

/* What providers' constructors call, in any program linked against them */
static void test_silent(void)
{
    g_autofree char *text = NULL;
    void *library;

    capture();
    library = dlopen("libmlx5.so.1", RTLD_NOW);
    g_assert_true(g_file_get_contents(capture_path, &text, NULL, NULL));
    end_capture();
    if (!library) {
        g_test_skip("no libmlx5.so.1: apt install ibverbs-providers");
        return;
    }
    g_assert_cmpstr(text, ==, "");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/verbsim/loud/pointer", test_stub_pointer);
    g_test_add_func("/verbsim/loud/int", test_stub_int);
    g_test_add_func("/verbsim/loud/operation", test_operation);
    g_test_add_func("/verbsim/loud/old-version", test_old_version);
    g_test_add_func("/verbsim/loud/rdmacm", test_rdmacm);
    g_test_add_func("/verbsim/loud/silent", test_silent);
    return g_test_run();
}
