/*
 * Conformance tests: RDMA Write and RDMA Read that are as they should be
 *
 * Those that are refused are in test-access.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "rig.h"

#define MIB (1 << 20)

static const uint32_t sizes[] = { 1, 1023, 1025, 4096, 65537, MIB };

static RigPair large_pair(void)
{
    RigOptions options = rig_defaults;

    options.bytes = 2 * MIB;
    return rig_pair(&options);
}

static void test_write(void)
{
    RigPair pair = large_pair();
    RigWhere target = rig_where(pair.b);

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint8_t *to = pair.b->buf + 100;
        struct ibv_wc wc;

        rig_fill(pair.a->buf + 100, sizes[i], i);
        memset(pair.b->buf, 0xee, 2 * MIB);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, i, 100, sizes[i],
                                 &target, IBV_SEND_SIGNALED), ==, 0);
        wc = rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpint(wc.opcode, ==, IBV_WC_RDMA_WRITE);
        g_assert_true(rig_filled(to, sizes[i], i));
        g_assert_cmphex(to[-1], ==, 0xee);
        g_assert_cmphex(to[sizes[i]], ==, 0xee);
    }
    /* The far side's program hears nothing of it. */
    rig_quiet(pair.b->recv_cq);
    rig_pair_free(pair);
}

static void test_write_gather(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere target = rig_where(pair.b);
    struct ibv_sge sge[] = { rig_sge(pair.a, 9000, 3000),
                             rig_sge(pair.a, 10, 1),
                             rig_sge(pair.a, 20000, 5000) };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 1, .sg_list = sge, .num_sge = 3,
        .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { target.addr + 3, target.rkey },
    };

    rig_fill(pair.a->buf, 30000, 1);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpmem(pair.b->buf + 3, 3000, pair.a->buf + 9000, 3000);
    g_assert_cmpmem(pair.b->buf + 3003, 1, pair.a->buf + 10, 1);
    g_assert_cmpmem(pair.b->buf + 3004, 5000, pair.a->buf + 20000, 5000);
    g_assert_cmpint(pair.b->buf[8004], ==, 0);
    rig_pair_free(pair);
}

static void test_write_inline(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere target = rig_where(pair.b);

    memcpy(pair.a->buf, "before", 6);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 1, 0, 6, &target,
                             IBV_SEND_SIGNALED | IBV_SEND_INLINE), ==, 0);
    memcpy(pair.a->buf, "after.", 6);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpmem(pair.b->buf, 6, "before", 6);
    rig_pair_free(pair);
}

static void test_write_immediate(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere target = rig_where(pair.b);
    struct ibv_recv_wr *bad, wr = { .wr_id = 8 };
    struct ibv_wc wc;

    rig_fill(pair.a->buf, 5000, 4);
    /* The receive is for the number only: it needs no memory. */
    g_assert_cmpint(ibv_post_recv(pair.b->qp, &wr, &bad), ==, 0);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE_WITH_IMM, 1, 0, 5000,
                             &target, IBV_SEND_SIGNALED), ==, 0);
    wc = rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpint(wc.opcode, ==, IBV_WC_RDMA_WRITE);
    wc = rig_done(pair.b->recv_cq, 8, IBV_WC_SUCCESS);
    g_assert_cmpint(wc.opcode, ==, IBV_WC_RECV_RDMA_WITH_IMM);
    g_assert_cmpint(wc.wc_flags & IBV_WC_WITH_IMM, !=, 0);
    g_assert_cmphex(wc.imm_data, ==, 0x01020304);
    g_assert_cmpuint(wc.byte_len, ==, 5000);
    g_assert_true(rig_filled(pair.b->buf, 5000, 4));
    /* Without a receive it waits for one. */
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE_WITH_IMM, 2, 0, 0,
                             &target, IBV_SEND_SIGNALED), ==, 0);
    rig_quiet(pair.a->send_cq);
    g_assert_cmpint(ibv_post_recv(pair.b->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    wc = rig_done(pair.b->recv_cq, 8, IBV_WC_SUCCESS);
    g_assert_cmpuint(wc.byte_len, ==, 0);
    rig_pair_free(pair);
}

/* No bytes: neither key nor address is looked at. */
static void test_empty(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere junk = { .addr = 5, .rkey = 0xdeadbeef };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 2, .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { junk.addr, junk.rkey },
    };

    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 1, 0, 0, &junk,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, 3, 0, 0, &junk,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
    g_assert_cmpint(rig_state(pair.a), ==, IBV_QPS_RTS);
    rig_pair_free(pair);
}

static void test_iova(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    uint64_t iova = 0x123400000000ull;
    struct ibv_mr *mr = ibv_reg_mr_iova(pair.b->pd, pair.b->buf + 4096, 8192,
                                        iova, pair.b->options.mr_access);
    RigWhere target = { .addr = iova + 10, .rkey = 0 };

    g_assert_nonnull(mr);
    target.rkey = mr->rkey;
    rig_fill(pair.a->buf, 5000, 6);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 1, 0, 5000, &target,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(pair.b->buf + 4096 + 10, 5000, 6));
    memset(pair.a->buf, 0, 5000);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, 2, 0, 5000, &target,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(pair.a->buf, 5000, 6));
    /* Its own address is not the one it is known by. */
    target.addr = (uintptr_t)pair.b->buf + 4096;
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 3, 0, 8, &target,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 3, IBV_WC_REM_ACCESS_ERR);
    rig_await_state(pair.b, IBV_QPS_ERR);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    rig_pair_free(pair);
}

/* A SEND that comes after a Write shows that the Write is there. */
static void test_order(void)
{
    RigPair pair = large_pair();
    RigWhere target = rig_where(pair.b);

    for (int i = 0; i < 8; i++) {
        rig_fill(pair.a->buf, 300000, i);
        g_assert_cmpint(rig_recv(pair.b, i, MIB, 64), ==, 0);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 100, 0, 300000,
                                 &target, 0), ==, 0);
        g_assert_cmpint(rig_send(pair.a, i, MIB, 8, IBV_SEND_SIGNALED), ==,
                        0);
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
        g_assert_true(rig_filled(pair.b->buf, 300000, i));
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
}

static void test_read(void)
{
    RigPair pair = large_pair();
    RigWhere source = rig_where(pair.b);

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint8_t *to = pair.a->buf + 77;
        struct ibv_wc wc;

        rig_fill(pair.b->buf + 77, sizes[i], i);
        memset(pair.a->buf, 0xee, 2 * MIB);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, i, 77, sizes[i],
                                 &source, IBV_SEND_SIGNALED), ==, 0);
        wc = rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpint(wc.opcode, ==, IBV_WC_RDMA_READ);
        g_assert_true(rig_filled(to, sizes[i], i));
        g_assert_cmphex(to[-1], ==, 0xee);
        g_assert_cmphex(to[sizes[i]], ==, 0xee);
    }
    rig_quiet(pair.b->recv_cq);
    rig_pair_free(pair);
}

static void test_read_scatter(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere source = rig_where(pair.b);
    struct ibv_sge sge[] = { rig_sge(pair.a, 9000, 3000),
                             rig_sge(pair.a, 10, 1),
                             rig_sge(pair.a, 20000, 5000) };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 1, .sg_list = sge, .num_sge = 3,
        .opcode = IBV_WR_RDMA_READ, .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { source.addr + 3, source.rkey },
    };

    rig_fill(pair.b->buf, 30000, 1);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpmem(pair.a->buf + 9000, 3000, pair.b->buf + 3, 3000);
    g_assert_cmpmem(pair.a->buf + 10, 1, pair.b->buf + 3003, 1);
    g_assert_cmpmem(pair.a->buf + 20000, 5000, pair.b->buf + 3004, 5000);
    rig_pair_free(pair);
}

/* More Reads than may be under way at a time, and other things between. */
static void test_many_reads(void)
{
    RigOptions options = rig_defaults;
    RigWhere source;
    RigPair pair;

    options.rd_atomic = 1;
    pair = rig_pair(&options);
    source = rig_where(pair.b);
    rig_fill(pair.b->buf, 120000, 3);
    for (int i = 0; i < 12; i++) {
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, i, i * 10000,
                                 10000, &source, IBV_SEND_SIGNALED), ==, 0);
    }
    for (int i = 0; i < 12; i++) {
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    g_assert_true(rig_filled(pair.a->buf, 120000, 3));
    rig_pair_free(pair);
}

/* Completions come in the order of the requests, whatever answers first. */
static void test_mixed_order(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere far = rig_where(pair.b);

    for (int i = 0; i < 5; i++) {
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, 3 * i, 0, 60000,
                                 &far, IBV_SEND_SIGNALED), ==, 0);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 3 * i + 1, 70000,
                                 10, &far, IBV_SEND_SIGNALED), ==, 0);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 3 * i + 2, 70000,
                                 10, &far, IBV_SEND_SIGNALED), ==, 0);
    }
    for (int i = 0; i < 15; i++) {
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
}

/* A fenced request sees what the Reads before it have brought. */
static void test_fence(void)
{
    RigPair pair = large_pair();
    RigWhere far = rig_where(pair.b);

    for (int i = 0; i < 8; i++) {
        struct ibv_sge sge = rig_sge(pair.a, 0, 400000);
        struct ibv_send_wr *bad, wr = {
            .wr_id = 2, .sg_list = &sge, .num_sge = 1,
            .opcode = IBV_WR_RDMA_WRITE,
            .send_flags = IBV_SEND_SIGNALED | IBV_SEND_FENCE,
            .wr.rdma = { far.addr + MIB, far.rkey },
        };

        rig_fill(pair.b->buf, 400000, i);
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_READ, 1, 0, 400000, &far,
                                 IBV_SEND_SIGNALED), ==, 0);
        g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
        rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
        rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
        g_assert_true(rig_filled(pair.b->buf + MIB, 400000, i));
    }
    rig_pair_free(pair);
}

/* Memory of the requester that may not be written to. */
static void test_read_into_read_only(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigWhere source = rig_where(pair.b);
    struct ibv_mr *mr = ibv_reg_mr(pair.a->pd, pair.a->buf, 4096, 0);
    struct ibv_sge sge = rig_sge(pair.a, 0, 64);
    struct ibv_send_wr *bad, wr = {
        .wr_id = 1, .sg_list = &sge, .num_sge = 1,
        .opcode = IBV_WR_RDMA_READ,
        .wr.rdma = { source.addr, source.rkey },
    };

    g_assert_nonnull(mr);
    sge.lkey = mr->lkey;
    rig_fill(pair.b->buf, 64, 3);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_LOC_PROT_ERR);
    rig_await_state(pair.a, IBV_QPS_ERR);
    g_assert_cmpint(pair.a->buf[0], ==, 0);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    rig_pair_free(pair);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/rdma/write", test_write);
    g_test_add_func("/rdma/write-gather", test_write_gather);
    g_test_add_func("/rdma/write-inline", test_write_inline);
    g_test_add_func("/rdma/write-immediate", test_write_immediate);
    g_test_add_func("/rdma/empty", test_empty);
    g_test_add_func("/rdma/iova", test_iova);
    g_test_add_func("/rdma/order", test_order);
    g_test_add_func("/rdma/read", test_read);
    g_test_add_func("/rdma/read-scatter", test_read_scatter);
    g_test_add_func("/rdma/many-reads", test_many_reads);
    g_test_add_func("/rdma/mixed-order", test_mixed_order);
    g_test_add_func("/rdma/fence", test_fence);
    g_test_add_func("/rdma/read-into-read-only", test_read_into_read_only);
    return rig_run();
}
