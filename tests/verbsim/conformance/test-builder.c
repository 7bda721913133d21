/*
 * Conformance tests: the newer ways to post and to complete
 *
 * ibv_create_qp_ex() with the ibv_wr_*() calls, which perftest prefers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "rig.h"

/* A pair whose queue pairs know the ibv_wr_*() calls. */
static RigPair builder_pair(void)
{
    RigOptions options = rig_defaults;
    RigPair pair = { rig_end(&options), rig_end(&options) };
    RigEnd *ends[] = { pair.a, pair.b };
    RigWhere a, b;

    for (int i = 0; i < 2; i++) {
        struct ibv_qp_init_attr_ex attr = {
            .qp_type = IBV_QPT_RC,
            .send_cq = ends[i]->send_cq,
            .recv_cq = ends[i]->recv_cq,
            .pd = ends[i]->pd,
            .cap = { .max_send_wr = 7, .max_recv_wr = 16, .max_send_sge = 4,
                     .max_recv_sge = 4, .max_inline_data = 64 },
            .comp_mask = IBV_QP_INIT_ATTR_PD |
                         IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
            .send_ops_flags = IBV_QP_EX_WITH_SEND |
                              IBV_QP_EX_WITH_SEND_WITH_IMM |
                              IBV_QP_EX_WITH_RDMA_WRITE |
                              IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
                              IBV_QP_EX_WITH_RDMA_READ,
        };

        g_assert_cmpint(ibv_destroy_qp(ends[i]->qp), ==, 0);
        ends[i]->qp = ibv_create_qp_ex(rig_device(), &attr);
        g_assert_nonnull(ends[i]->qp);
        g_assert_nonnull(ibv_qp_to_qp_ex(ends[i]->qp));
    }
    a = rig_where(pair.a);
    b = rig_where(pair.b);
    rig_to_init(pair.a);
    rig_to_init(pair.b);
    rig_to_rtr(pair.a, &b);
    rig_to_rtr(pair.b, &a);
    rig_to_rts(pair.a);
    rig_to_rts(pair.b);
    return pair;
}

/* What wr_flags must say of a request with inline data. */
static unsigned inline_flags(void)
{
    return IBV_SEND_SIGNALED | (differs("builder-inline") ? IBV_SEND_INLINE :
                                                            0);
}

static void test_batch(void)
{
    RigPair pair = builder_pair();
    struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(pair.a->qp);
    RigWhere far = rig_where(pair.b);
    struct ibv_wc wc;

    rig_fill(pair.a->buf, 1000, 1);
    g_assert_cmpint(rig_recv(pair.b, 11, 50000, 1000), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 12, 60000, 1000), ==, 0);

    ibv_wr_start(qp);
    qp->wr_id = 1;
    qp->wr_flags = 0;
    ibv_wr_rdma_write(qp, far.rkey, far.addr);
    ibv_wr_set_sge(qp, pair.a->mr->lkey, (uintptr_t)pair.a->buf, 1000);
    qp->wr_id = 2;
    qp->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_send(qp);
    ibv_wr_set_sge(qp, pair.a->mr->lkey, (uintptr_t)pair.a->buf, 100);
    qp->wr_id = 3;
    qp->wr_flags = inline_flags();
    ibv_wr_send_imm(qp, htonl(77));
    ibv_wr_set_inline_data(qp, (void *)"inline", 6);
    qp->wr_id = 4;
    qp->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_rdma_read(qp, far.rkey, far.addr);
    ibv_wr_set_sge(qp, pair.a->mr->lkey, (uintptr_t)pair.a->buf + 70000,
                   1000);
    /* Nothing goes before it is all there. */
    rig_quiet(pair.b->recv_cq);
    g_assert_cmpint(ibv_wr_complete(qp), ==, 0);

    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
    rig_done(pair.a->send_cq, 4, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 11, IBV_WC_SUCCESS);
    wc = rig_done(pair.b->recv_cq, 12, IBV_WC_SUCCESS);
    g_assert_cmphex(wc.imm_data, ==, htonl(77));
    g_assert_cmpuint(wc.byte_len, ==, 6);
    g_assert_true(rig_filled(pair.b->buf, 1000, 1));
    g_assert_true(rig_filled(pair.b->buf + 50000, 100, 1));
    g_assert_cmpmem(pair.b->buf + 60000, 6, "inline", 6);
    g_assert_true(rig_filled(pair.a->buf + 70000, 1000, 1));
    rig_pair_free(pair);
}

static void test_gather(void)
{
    RigPair pair = builder_pair();
    struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(pair.a->qp);
    RigWhere far = rig_where(pair.b);
    struct ibv_sge list[] = { rig_sge(pair.a, 100, 10),
                              rig_sge(pair.a, 0, 10) };
    struct ibv_data_buf bufs[] = { { (void *)"one", 3 },
                                   { (void *)"two", 3 } };

    rig_fill(pair.a->buf, 200, 2);
    ibv_wr_start(qp);
    qp->wr_id = 1;
    qp->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_rdma_write(qp, far.rkey, far.addr);
    ibv_wr_set_sge_list(qp, 2, list);
    qp->wr_id = 2;
    qp->wr_flags = inline_flags();
    ibv_wr_rdma_write(qp, far.rkey, far.addr + 100);
    ibv_wr_set_inline_data_list(qp, 2, bufs);
    g_assert_cmpint(ibv_wr_complete(qp), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpmem(pair.b->buf, 10, pair.a->buf + 100, 10);
    g_assert_cmpmem(pair.b->buf + 10, 10, pair.a->buf, 10);
    g_assert_cmpmem(pair.b->buf + 100, 6,
                    differs("builder-inline-list") ? "\0\0\0\0\0" : "onetwo",
                    6);
    rig_pair_free(pair);
}

static void test_abort(void)
{
    RigPair pair = builder_pair();
    struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(pair.a->qp);

    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    ibv_wr_start(qp);
    qp->wr_id = 1;
    qp->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_send(qp);
    ibv_wr_set_sge(qp, pair.a->mr->lkey, (uintptr_t)pair.a->buf, 8);
    ibv_wr_abort(qp);
    rig_quiet(pair.a->send_cq);
    rig_quiet(pair.b->recv_cq);
    /* Both ways may be used on one queue pair. */
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

/* One too many: none of the batch goes. */
static void test_overflow(void)
{
    RigPair pair = builder_pair();
    struct ibv_qp_ex *qp = ibv_qp_to_qp_ex(pair.a->qp);

    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    ibv_wr_start(qp);
    for (int i = 0; i < 150; i++) {
        qp->wr_id = i;
        qp->wr_flags = IBV_SEND_SIGNALED;
        ibv_wr_send(qp);
        ibv_wr_set_sge(qp, pair.a->mr->lkey, (uintptr_t)pair.a->buf, 8);
    }
    g_assert_cmpint(ibv_wr_complete(qp), ==,
                    differs("builder-overflow") ? ENOSPC : ENOMEM);
    rig_quiet(pair.a->send_cq);
    rig_quiet(pair.b->recv_cq);
    g_assert_cmpint(rig_send(pair.a, 200, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 200, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/builder/batch", test_batch);
    g_test_add_func("/builder/gather", test_gather);
    g_test_add_func("/builder/abort", test_abort);
    g_test_add_func("/builder/overflow", test_overflow);
    return rig_run();
}
