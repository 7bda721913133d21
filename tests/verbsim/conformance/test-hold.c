/*
 * verbsim's mode that holds pages: how it is made, and its limits
 *
 * What it is for is in test-pages.c, which real devices pass as well.  Here is
 * what only verbsim's way of doing it might get wrong: regions beyond the size
 * of one of io_uring's buffers and beyond the number of them, memory that is
 * not held, more data than a stage has, and the report of replaced pages.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"

enum { PAGE = 4096 };
#define MIB (1u << 20)
#define GIB (1ull << 30)

static uint8_t *map(uint64_t bytes, int prot)
{
    void *mem = mmap(NULL, bytes, prot,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(mem != MAP_FAILED);
    return mem;
}

static struct ibv_mr *reg(RigEnd *end, void *mem, uint64_t bytes, int access)
{
    struct ibv_mr *mr = ibv_reg_mr(end->pd, mem, bytes, access);

    g_assert_nonnull(mr);
    return mr;
}

static struct ibv_sge piece(struct ibv_mr *mr, uint64_t offset, uint32_t bytes)
{
    return (struct ibv_sge) { (uintptr_t)mr->addr + offset, bytes, mr->lkey };
}

/* Skips the test where less may be pinned. */
static bool may_pin(RigEnd *end, uint64_t bytes)
{
    uint8_t *mem = map(bytes, PROT_READ | PROT_WRITE);
    struct ibv_mr *mr = ibv_reg_mr(end->pd, mem, bytes, 0);

    if (mr) {
        g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    } else {
        g_test_skip("it pins more than the limit on locked memory (ulimit -l)");
    }
    munmap(mem, bytes);
    return mr;
}

/* A Write of @list into @to, at the start of it; not waited for. */
static void post(RigEnd *end, uint64_t wr_id, struct ibv_sge *list,
                 int count, const struct ibv_mr *to)
{
    struct ibv_send_wr *bad, wr = {
        .wr_id = wr_id, .sg_list = list, .num_sge = count,
        .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { (uintptr_t)to->addr, to->rkey },
    };

    g_assert_cmpint(ibv_post_send(end->qp, &wr, &bad), ==, 0);
}

/* Of /proc/self/status, in KiB. */
static long pinned_kib(void)
{
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &text, NULL, NULL));
    line = strstr(text, "VmPin:");
    g_assert_nonnull(line);
    return strtol(line + strlen("VmPin:"), NULL, 10);
}

/* The kernel knows of the pages, once for each region, and lets them go. */
static void test_pinned(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    uint8_t *mem = map(64 * PAGE, PROT_READ | PROT_WRITE);
    long before = pinned_kib();
    struct ibv_mr *a = reg(pair.a, mem + 100, 64 * PAGE - 100,
                           IBV_ACCESS_LOCAL_WRITE);
    struct ibv_mr *b = reg(pair.a, mem + PAGE, 8 * PAGE,
                           IBV_ACCESS_LOCAL_WRITE);

    g_assert_cmpint(pinned_kib() - before, ==, (64 + 8) * 4);
    g_assert_cmpint(ibv_dereg_mr(a), ==, 0);
    g_assert_cmpint(pinned_kib() - before, ==, 8 * 4);
    g_assert_cmpint(ibv_dereg_mr(b), ==, 0);
    g_assert_cmpint(pinned_kib(), ==, before);
    rig_pair_free(pair);
    munmap(mem, 64 * PAGE);
}

/* A region that is more than one buffer; a Write over where they meet. */
static void test_large(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    uint64_t bytes = GIB + 4 * PAGE, edge = GIB - PAGE;
    struct ibv_sge sge;
    struct ibv_mr *mr;
    uint8_t *mem;

    if (!may_pin(pair.a, bytes)) {
        rig_pair_free(pair);
        return;
    }
    mem = map(bytes, PROT_READ | PROT_WRITE);
    mr = reg(pair.a, mem, bytes, IBV_ACCESS_LOCAL_WRITE);
    sge = piece(mr, edge, 2 * PAGE);
    rig_fill(mem + edge, 2 * PAGE, 1);
    g_assert_cmpint(madvise(mem + edge, 2 * PAGE, MADV_DONTNEED), ==, 0);
    rig_fill(mem + edge, 2 * PAGE, 2);
    post(pair.a, 3, &sge, 1, pair.b->mr);
    rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(pair.b->buf, 2 * PAGE, 1));
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    rig_pair_free(pair);
    munmap(mem, bytes);
}

/* More of them than one instance of io_uring takes; each is its own. */
static void test_many(void)
{
    enum { MANY = 17000 };
    RigPair pair = rig_pair(&rig_defaults);
    uint8_t *mem = map(PAGE, PROT_READ | PROT_WRITE);
    g_autofree struct ibv_mr **mrs = g_new(struct ibv_mr *, MANY);

    if (!may_pin(pair.a, (MANY + 1) * PAGE)) {
        rig_pair_free(pair);
        return;
    }
    for (unsigned i = 0; i < MANY; i++) {
        if (i % 1000 == 0) {
            g_assert_cmpint(madvise(mem, PAGE, MADV_DONTNEED), ==, 0);
            memset(mem, (int)(i / 1000 + 1), PAGE);
        }
        mrs[i] = reg(pair.a, mem, PAGE, IBV_ACCESS_LOCAL_WRITE);
    }
    for (unsigned i = 500; i < MANY; i += 1000) {
        struct ibv_sge sge = piece(mrs[i], 0, PAGE);

        post(pair.a, i, &sge, 1, pair.b->mr);
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpint(pair.b->buf[PAGE - 1], ==, i / 1000 + 1);
    }
    for (unsigned i = 0; i < MANY; i++) {
        g_assert_cmpint(ibv_dereg_mr(mrs[i]), ==, 0);
    }
    rig_pair_free(pair);
    munmap(mem, PAGE);
}

/* io_uring wants to write; read-only memory is used by its addresses. */
static void test_read_only(void)
{
    RigOptions options = rig_defaults;
    uint8_t *mem = map(2 * PAGE, PROT_READ | PROT_WRITE);
    struct ibv_sge list[2];
    struct ibv_mr *held, *other;
    RigPair pair;

    options.sge = 2;
    pair = rig_pair(&options);
    rig_fill(mem, 2 * PAGE, 4);
    held = reg(pair.a, mem, PAGE, 0);
    g_assert_cmpint(mprotect(mem + PAGE, PAGE, PROT_READ), ==, 0);
    other = reg(pair.a, mem + PAGE, PAGE, 0);
    list[0] = piece(held, 0, PAGE);
    list[1] = piece(other, 0, PAGE);
    post(pair.a, 1, list, 2, pair.b->mr);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(pair.b->buf, 2 * PAGE, 4));
    g_assert_cmpint(ibv_dereg_mr(held), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(other), ==, 0);
    rig_pair_free(pair);
    munmap(mem, 2 * PAGE);
}

/* More than the stage holds at once, in one Write and in several. */
static void test_much(void)
{
    enum { PARTS = 4, PART = 80 * MIB, ALL = PARTS * PART };
    RigPair pair = rig_pair(&rig_defaults);
    int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    struct ibv_mr *source, *target;
    struct ibv_sge sge;
    uint8_t *from, *to;

    if (!may_pin(pair.a, 2ull * ALL)) {
        rig_pair_free(pair);
        return;
    }
    from = map(ALL, PROT_READ | PROT_WRITE);
    to = map(ALL, PROT_READ | PROT_WRITE);
    source = reg(pair.a, from, ALL, access);
    target = reg(pair.b, to, ALL, access);
    sge = piece(source, 0, ALL);
    for (unsigned i = 0; i < PARTS; i++) {
        memset(from + i * PART, (int)i + 1, PART);
    }
    post(pair.a, 1, &sge, 1, target);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpmem(from, ALL, to, ALL);
    for (unsigned i = 0; i < PARTS; i++) {
        sge = piece(source, i * PART, PART);
        post(pair.a, i, &sge, 1, target);
    }
    for (unsigned i = 0; i < PARTS; i++) {
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    g_assert_cmpmem(from + (PARTS - 1) * PART, PART, to, PART);
    g_assert_cmpint(ibv_dereg_mr(source), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(target), ==, 0);
    rig_pair_free(pair);
    munmap(from, ALL);
    munmap(to, ALL);
}

/* ------------------------------------------------------------------- report */

/* Whether the kernel shows this process the numbers of page frames. */
static bool frames_are_shown(void)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(pread(fd, &entry, sizeof(entry),
                          (off_t)((uintptr_t)&entry / PAGE * sizeof(entry))),
                    ==, sizeof(entry));
    close(fd);
    return entry << 9;
}

static void write_replaced(bool replaced)
{
    RigPair pair = rig_pair(&rig_defaults);

    if (replaced) {
        madvise(pair.a->buf + PAGE, 2 * PAGE, MADV_DONTNEED);
    }
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(rig_send(pair.a, i, 0, 0, IBV_SEND_SIGNALED), ==, 0);
        g_assert_cmpint(rig_recv(pair.b, i, 0, 4 * PAGE), ==, 0);
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpint(rig_recv(pair.b, i, 0, 4 * PAGE), ==, 0);
        g_assert_cmpint(rig_send(pair.a, i, 0, 4 * PAGE, IBV_SEND_SIGNALED),
                        ==, 0);
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
}

static void test_report(void)
{
    if (g_test_subprocess()) {
        write_replaced(true);
        return;
    }
    if (!frames_are_shown()) {
        g_test_skip("only root is shown page frame numbers");
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*pages of a registered region were replaced: "
                              "the adapter uses 2 page(s) from *");
    /* Once for each region. */
    g_test_trap_assert_stderr_unmatched("*replaced*replaced*");
}

static void test_no_report(void)
{
    if (g_test_subprocess()) {
        write_replaced(false);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr_unmatched("*replaced*");
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    if (!rig_can_hold()) {
        return 0;
    }
    g_test_add_func("/hold/pinned", test_pinned);
    g_test_add_func("/hold/large", test_large);
    g_test_add_func("/hold/many", test_many);
    g_test_add_func("/hold/read-only", test_read_only);
    g_test_add_func("/hold/much", test_much);
    g_test_add_func("/hold/report", test_report);
    g_test_add_func("/hold/no-report", test_no_report);
    return rig_run();
}
