/*
 * Unit tests of shape: profiles, the transmitter, and what registering costs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "shape.h"
#include "tools-fakes.h"
#include "units.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <glib/gstdio.h>

#define MIB (1u << 20)

static char *write_profile(const char *text)
{
    g_autoptr(GError) err = NULL;
    char *path = NULL;
    int fd = g_file_open_tmp("vs-XXXXXX.profile", &path, &err);

    g_assert_no_error(err);
    close(fd);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    return path;
}

static void accepts(const char *text, VsShape *shape)
{
    g_autofree char *path = write_profile(text);
    g_autofree char *error = NULL;

    if (!vs_shape_parse(path, shape, &error)) {
        g_error("%s", error);
    }
    g_unlink(path);
}

static void refuses(const char *text, const char *because)
{
    g_autofree char *path = write_profile(text);
    g_autofree char *error = NULL;
    g_autofree char *place = g_strconcat(path, ":2: ", NULL);
    VsShape shape;

    g_assert_false(vs_shape_parse(path, &shape, &error));
    if (!g_str_has_prefix(error, place) || !strstr(error, because)) {
        g_error("\"%s\" does not say \"%s%s\"", error, place, because);
    }
    g_unlink(path);
}

/* ---------------------------------------------------------------- profiles */

static void test_units(void)
{
    uint64_t n = 1;
    double rate = 1;

    g_assert_true(vs_parse_time("1.3us", &n));
    g_assert_cmpuint(n, ==, 1300);
    g_assert_true(vs_parse_time("2 s", &n));
    g_assert_cmpuint(n, ==, 2000000000);
    g_assert_true(vs_parse_time("0", &n));
    g_assert_cmpuint(n, ==, 0);
    g_assert_true(vs_parse_bytes("1.5GiB", &n));
    g_assert_cmpuint(n, ==, UINT64_C(1536) << 20);
    g_assert_true(vs_parse_bytes("unlimited", &n));
    g_assert_cmpuint(n, ==, UINT64_MAX);
    g_assert_true(vs_parse_rate("40Gbit/s", &rate));
    g_assert_cmpfloat(rate, ==, 5.0);
    g_assert_true(vs_parse_rate("250 MB/s", &rate));
    g_assert_cmpfloat(rate, ==, 0.25);

    g_assert_false(vs_parse_time("1", &n));
    g_assert_false(vs_parse_time("-1us", &n));
    g_assert_false(vs_parse_time("1.2.3us", &n));
    g_assert_false(vs_parse_time("1 us later", &n));
    g_assert_false(vs_parse_time("99999999999999s", &n));
    g_assert_false(vs_parse_time("", &n));
    g_assert_false(vs_parse_bytes("1GB", &n));
    g_assert_false(vs_parse_rate("0Gbit/s", &rate));
    g_assert_false(vs_parse_rate("1 GiB", &rate));
    g_assert_false(vs_parse_count("1.5", &n));
    g_assert_false(vs_parse_count("0x10", &n));
    g_assert_false(vs_parse_fraction("half", &rate));
}

static void test_all_keys(void)
{
    VsShape shape;

    accepts("device = mine\nlink-layer = infiniband # it is\n"
            "bandwidth = 8Gbit/s\nlatency = 2us\nregister-call = 3us\n"
            "register-mib-4k = 4us\nregister-mib-2m = 5us\n"
            "deregister-call = 6us\nmax-mr = 7\nmax-mr-bytes = 8MiB\n"
            "max-qp = 9\nmax-qp-wr = 10\nmax-sge = 11\nmax-inline = 12\n"
            "max-cq = 13\nmax-cqe = 14\nmax-rd-atomic = 15\n"
            "ack-timeout = 16\ncm-timeout = 1.5s\ncm-retries = 17\n"
            "transport = infiniband\ncopy = no", &shape);
    g_assert_true(g_str_has_prefix(shape.name, "vs-"));
    g_assert_null(strstr(shape.name, ".profile"));
    g_assert_cmpstr(shape.device, ==, "mine");
    g_assert_true(shape.infiniband);
    g_assert_false(shape.iwarp);
    g_assert_cmpfloat(shape.bytes_per_ns, ==, 1.0);
    g_assert_cmpuint(shape.latency_ns, ==, 2000);
    g_assert_cmpuint(shape.reg_call_ns, ==, 3000);
    g_assert_cmpuint(shape.reg_mib_4k_ns, ==, 4000);
    g_assert_cmpuint(shape.reg_mib_2m_ns, ==, 5000);
    g_assert_cmpuint(shape.dereg_call_ns, ==, 6000);
    g_assert_cmpuint(shape.max_mr, ==, 7);
    g_assert_cmpuint(shape.max_mr_bytes, ==, 8 * MIB);
    g_assert_cmpuint(shape.max_qp, ==, 9);
    g_assert_cmpuint(shape.max_qp_wr, ==, 10);
    g_assert_cmpuint(shape.max_sge, ==, 11);
    g_assert_cmpuint(shape.max_inline, ==, 12);
    g_assert_cmpuint(shape.max_cq, ==, 13);
    g_assert_cmpuint(shape.max_cqe, ==, 14);
    g_assert_cmpuint(shape.max_rd_atomic, ==, 15);
    g_assert_cmpuint(shape.ack_timeout, ==, 16);
    g_assert_cmpuint(shape.cm_timeout_ms, ==, 1500);
    g_assert_cmpuint(shape.cm_retries, ==, 17);
    g_assert_true(shape.no_copy);
}

static void test_bad_profiles(void)
{
    refuses("\nspeed = 1", "unknown key \"speed\"");
    refuses("\nlatency", "not \"key = value\"");
    refuses("\nlatency = 5", "\"5\" is no time like");
    refuses("\nbandwidth = 40Gbps", "is no rate like");
    refuses("\nmax-mr = many", "is no number");
    refuses("\nmax-mr = 0", "is out of range");
    refuses("\nmax-sge = 33", "is out of range");
    refuses("\nmax-inline = 1025", "is out of range");
    refuses("\nack-timeout = 32", "is out of range");
    refuses("\nmax-mr-bytes = 2GB", "is no size like");
    refuses("\nlink-layer = token-ring", "neither ethernet nor");
    refuses("\ntransport = udp", "neither infiniband nor");
    refuses("\ncopy = maybe", "neither yes nor no");
    refuses("\ndevice = a/b", "is no name");
}

static void test_missing_profile(void)
{
    if (g_test_subprocess()) {
        g_setenv("VERBSIM_PROFILE", "carrier-pigeon", true);
        vs_shape_load();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*no profile \"carrier-pigeon\"*fdr40*");
}

/* The shipped ones are found by name and say what their names promise. */
static void test_shipped(void)
{
    static const struct {
        const char *name;
        double min_gbit, max_gbit;
        bool infiniband, iwarp;
    } shipped[] = {
        { "fast", 0, 0, false, false },
        { "fdr40", 38, 40, true, false },
        { "roce100", 95, 100, false, false },
        { "ndr400", 380, 400, true, false },
        { "iwarp", 0, 0, false, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(shipped); i++) {
        double gbit;

        g_setenv("VERBSIM_PROFILE", shipped[i].name, true);
        vs_shape_load();
        gbit = vs_shape.bytes_per_ns * 8;
        g_assert_cmpstr(vs_shape.name, ==, shipped[i].name);
        g_assert_cmpint(vs_shape.infiniband, ==, shipped[i].infiniband);
        g_assert_cmpint(vs_shape.iwarp, ==, shipped[i].iwarp);
        g_assert_cmpfloat(gbit, >=, shipped[i].min_gbit);
        g_assert_cmpfloat(gbit, <=, shipped[i].max_gbit);
        g_assert_cmpint(vs_shape.latency_ns > 0, ==, gbit > 0);
        g_assert_cmpint(vs_shape.reg_mib_4k_ns > vs_shape.reg_mib_2m_ns, ==,
                        gbit > 0);
        g_assert_false(vs_shape.no_copy);
    }
    g_setenv("VERBSIM_COPY", "none", true);
    vs_shape_load();
    g_assert_true(vs_shape.no_copy);
    g_unsetenv("VERBSIM_COPY");
}

/* ------------------------------------------------------------- transmitter */

static void test_transmit(void)
{
    uint64_t start;

    /* 1 byte a ns, 500 ns away */
    accepts("bandwidth = 1GB/s\nlatency = 500ns", &vs_shape);
    fake_now_ns = start = 1000000;
    g_assert_cmpuint(vs_shape_transmit(1000), ==, start + 1500);
    /* The second waits for the first, but not for its flight. */
    g_assert_cmpuint(vs_shape_transmit(1000), ==, start + 2500);
    fake_now_ns = start + 1200;
    g_assert_cmpuint(vs_shape_transmit(0), ==, start + 2500);
    /* An idle port keeps nothing back. */
    fake_now_ns = start + 10000;
    g_assert_cmpuint(vs_shape_transmit(1000), ==, start + 11500);

    accepts("latency = 1us", &vs_shape);
    fake_now_ns = start = 5000000;
    g_assert_cmpuint(vs_shape_transmit(MIB), ==, start + 1000);
    accepts("", &vs_shape);
    g_assert_cmpuint(vs_shape_transmit(MIB), ==, 0);
}

/* Rounding must not add up: a million small messages at 39.7 Gbit/s. */
static void test_transmit_exactly(void)
{
    uint64_t end = 0, start;
    const unsigned messages = 1000000, bytes = 4096;
    double exact;

    accepts("bandwidth = 39.7Gbit/s", &vs_shape);
    fake_now_ns = start = 100000000;
    for (unsigned i = 0; i < messages; i++) {
        end = vs_shape_transmit(bytes);
    }
    exact = (double)messages * bytes / (39.7 / 8);
    g_assert_cmpfloat((double)(end - start), >, exact * 0.9995);
    g_assert_cmpfloat((double)(end - start), <, exact * 1.0005);
}

/* ------------------------------------------------------------- registering */

static void test_reg_cost(void)
{
    void *small = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(small != MAP_FAILED);
    accepts("register-call = 10us\nregister-mib-4k = 100us\n"
            "register-mib-2m = 1us", &vs_shape);
    g_assert_cmpuint(vs_shape_reg_cost(small, MIB), ==, 110000);
    g_assert_cmpuint(vs_shape_reg_cost(small, 4 * MIB), ==, 410000);
    g_assert_cmpuint(vs_shape_reg_cost((char *)small + MIB, MIB / 2), ==,
                     60000);
    munmap(small, 4 * MIB);
}

static void test_reg_cost_huge(void)
{
    void *huge = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

    if (huge == MAP_FAILED) {
        g_test_skip("no huge pages; to enable: sysctl vm.nr_hugepages=2");
        return;
    }
    accepts("register-call = 10us\nregister-mib-4k = 100us\n"
            "register-mib-2m = 1us", &vs_shape);
    g_assert_cmpuint(vs_shape_reg_cost(huge, MIB), ==, 11000);
    g_assert_cmpuint(vs_shape_reg_cost((char *)huge + 3 * MIB, MIB), ==,
                     11000);
    munmap(huge, 4 * MIB);
}

int main(int argc, char **argv)
{
    g_unsetenv("VERBSIM_PROFILES");
    g_unsetenv("VERBSIM_COPY");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shape/units", test_units);
    g_test_add_func("/shape/all-keys", test_all_keys);
    g_test_add_func("/shape/bad-profiles", test_bad_profiles);
    g_test_add_func("/shape/missing-profile", test_missing_profile);
    g_test_add_func("/shape/shipped", test_shipped);
    g_test_add_func("/shape/transmit", test_transmit);
    g_test_add_func("/shape/transmit-exactly", test_transmit_exactly);
    g_test_add_func("/shape/reg-cost", test_reg_cost);
    g_test_add_func("/shape/reg-cost-huge", test_reg_cost_huge);
    return g_test_run();
}
