/*
 * What verbsim does not implement fails and names itself, on stderr
 *
 * A program like any other: run it with verbsim's libraries.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "test-capture.h"

#include <dlfcn.h>
#include <glib.h>
#include <infiniband/verbs.h>
#include <rdma/rsocket.h>

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
    assert_said("ibv_create_srq");
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    g_assert_cmpint(ibv_close_device(context), ==, 0);
}

/* A function of the library that gives an error number */
static void test_stub_int(void)
{
    capture();
    g_assert_cmpint(ibv_destroy_ah(NULL), ==, ENOSYS);
    assert_said("ibv_destroy_ah");
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
    assert_said("ibv_create_cq_ex");
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
    assert_said("ibv_dealloc_pd@IBVERBS_1.0");
}

/* librdmacm's functions give -1 and errno */
static void test_rdmacm(void)
{
    capture();
    errno = 0;
    g_assert_cmpint(rsocket(0, 0, 0), ==, -1);
    g_assert_cmpint(errno, ==, ENOSYS);
    assert_said("rsocket");
}

/* What providers' constructors call, in any program linked against them */
static void test_silent(void)
{
    g_autofree char *text = NULL;
    void *library;

    capture();
    library = dlopen("libmlx5.so.1", RTLD_NOW);
    text = captured_text();
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
