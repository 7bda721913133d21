/*
 * What verbsim's libibverbs does beyond what any device does
 *
 * The builder of work requests, draining, what a frozen program sees, and what
 * is said of misuse and leaks.  Two queue pairs of this process, joined.  The
 * conformance tests have the rest, and run on a real device as well.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "test-capture.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 4096, DEPTH = 8, INLINE = 64, WAIT_US = 10 * 1000000 };

/* The fault script: any RDMA Read freezes the program for a while. */
#define FREEZE_MS 300
#define SCRIPT "*: on read: freeze for 300ms\n"

typedef struct Fixture {
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_mr *from, *to;
    struct ibv_qp *a, *b;       /* a is made for the builder */
    char source[BYTES], target[BYTES];
} Fixture;

/* ----------------------------------------------------------------- fixture */

static void join(Fixture *f, struct ibv_qp *qp, struct ibv_qp *peer)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT,
        .port_num = 1,
        .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
        .path_mtu = IBV_MTU_4096,
        .dest_qp_num = peer->qp_num,
        .max_dest_rd_atomic = 1,
        .max_rd_atomic = 1,
        .min_rnr_timer = 1,
        .rnr_retry = 7,
        .timeout = 14,
        .retry_cnt = 7,
        .ah_attr = { .is_global = 1, .port_num = 1 },
    };

    g_assert_cmpint(ibv_query_gid(f->context, 1, 0, &attr.ah_attr.grh.dgid),
                    ==, 0);
    g_assert_cmpint(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PORT |
                                  IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS),
                    ==, 0);
    attr.qp_state = IBV_QPS_RTR;
    g_assert_cmpint(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV |
                                  IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                  IBV_QP_RQ_PSN | IBV_QP_MIN_RNR_TIMER |
                                  IBV_QP_MAX_DEST_RD_ATOMIC), ==, 0);
    attr.qp_state = IBV_QPS_RTS;
    g_assert_cmpint(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT |
                                  IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                  IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
                    ==, 0);
}

static struct ibv_qp *make_qp(Fixture *f, uint64_t ops)
{
    struct ibv_qp_init_attr_ex attr = {
        .send_cq = f->cq,
        .recv_cq = f->cq,
        .qp_type = IBV_QPT_RC,
        .cap = { DEPTH, DEPTH, 2, 1, INLINE },
        .comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
        .pd = f->pd,
        .send_ops_flags = ops,
    };
    struct ibv_qp *qp = ibv_create_qp_ex(f->context, &attr);

    g_assert_nonnull(qp);
    return qp;
}

static void setup(Fixture *f, gconstpointer data)
{
    struct ibv_device **list = ibv_get_device_list(NULL);

    (void)data;
    f->context = ibv_open_device(list[0]);
    ibv_free_device_list(list);
    f->pd = ibv_alloc_pd(f->context);
    f->channel = ibv_create_comp_channel(f->context);
    f->cq = ibv_create_cq(f->context, 4 * DEPTH, NULL, f->channel, 0);
    f->from = ibv_reg_mr(f->pd, f->source, BYTES, IBV_ACCESS_LOCAL_WRITE);
    f->to = ibv_reg_mr(f->pd, f->target, BYTES, IBV_ACCESS_LOCAL_WRITE |
                       IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
    f->a = make_qp(f, IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
                      IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_RDMA_READ);
    f->b = make_qp(f, 0);
    join(f, f->a, f->b);
    join(f, f->b, f->a);
}

static void teardown(Fixture *f, gconstpointer data)
{
    (void)data;
    g_assert_cmpint(ibv_destroy_qp(f->a), ==, 0);
    g_assert_cmpint(ibv_destroy_qp(f->b), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(f->from), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(f->to), ==, 0);
    g_assert_cmpint(ibv_destroy_cq(f->cq), ==, 0);
    g_assert_cmpint(ibv_destroy_comp_channel(f->channel), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(f->pd), ==, 0);
    g_assert_cmpint(ibv_close_device(f->context), ==, 0);
}

static void receive(Fixture *f)
{
    struct ibv_sge sge = { (uintptr_t)f->target, BYTES, f->to->lkey };
    struct ibv_recv_wr wr = { .wr_id = 1000, .sg_list = &sge, .num_sge = 1 };
    struct ibv_recv_wr *bad;

    g_assert_cmpint(ibv_post_recv(f->b, &wr, &bad), ==, 0);
}

static int post(Fixture *f, uint64_t wr_id, enum ibv_wr_opcode opcode)
{
    struct ibv_sge sge = { (uintptr_t)f->source, 8, f->from->lkey };
    struct ibv_send_wr *bad, wr = {
        .wr_id = wr_id,
        .sg_list = &sge,
        .num_sge = 1,
        .opcode = opcode,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { .remote_addr = (uintptr_t)f->target,
                     .rkey = f->to->rkey },
    };

    return ibv_post_send(f->a, &wr, &bad);
}

/* The next completion is @wr_id's and a success. */
static struct ibv_wc completes(Fixture *f, uint64_t wr_id)
{
    gint64 until = g_get_monotonic_time() + WAIT_US;
    struct ibv_wc wc;
    int n;

    while (!(n = ibv_poll_cq(f->cq, 1, &wc))) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
    }
    g_assert_cmpint(n, ==, 1);
    g_assert_cmpint(wc.status, ==, IBV_WC_SUCCESS);
    g_assert_cmpuint(wc.wr_id, ==, wr_id);
    return wc;
}

static void nothing_completes(Fixture *f)
{
    struct ibv_wc wc;

    g_usleep(50 * 1000);
    g_assert_cmpint(ibv_poll_cq(f->cq, 1, &wc), ==, 0);
}

/* ----------------------------------------------------------------- builder */

/* Several requests at once; the inline data may be overwritten at once. */
static void test_build(Fixture *f, gconstpointer data)
{
    struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(f->a);
    struct ibv_data_buf parts[] = { { f->source, 2 }, { f->source + 2, 3 } };
    struct ibv_wc wc;

    (void)data;
    g_assert_nonnull(ex);
    g_assert_null(ibv_qp_to_qp_ex(f->b));
    receive(f);
    memcpy(f->source, "hello", 5);
    ibv_wr_start(ex);
    ex->wr_id = 1;
    ex->wr_flags = 0;
    ibv_wr_rdma_write_imm(ex, f->to->rkey, (uintptr_t)f->target + 100, 77);
    ibv_wr_set_inline_data_list(ex, 2, parts);
    memcpy(f->source, "wrong", 5);
    ex->wr_id = 2;
    ex->wr_flags = IBV_SEND_SIGNALED;
    ibv_wr_send(ex);
    ibv_wr_set_sge(ex, f->from->lkey, (uintptr_t)f->source, 5);
    receive(f);
    nothing_completes(f);
    g_assert_cmpint(ibv_wr_complete(ex), ==, 0);

    wc = completes(f, 1000);
    g_assert_cmpint(wc.opcode, ==, IBV_WC_RECV_RDMA_WITH_IMM);
    g_assert_cmpuint(wc.imm_data, ==, 77);
    completes(f, 1000);
    completes(f, 2);
    g_assert_cmpmem(f->target + 100, 5, "hello", 5);
    g_assert_cmpmem(f->target, 5, "wrong", 5);
}

/* One bad request, and none is posted. */
static void test_build_all_or_none(Fixture *f, gconstpointer data)
{
    struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(f->a);
    char much[INLINE + 1] = { 0 };

    (void)data;
    receive(f);
    ibv_wr_start(ex);
    ibv_wr_send(ex);
    ibv_wr_set_sge(ex, f->from->lkey, (uintptr_t)f->source, 5);
    ibv_wr_send(ex);
    ibv_wr_set_inline_data(ex, much, sizeof(much));
    g_assert_cmpint(ibv_wr_complete(ex), ==, EINVAL);

    ibv_wr_start(ex);
    for (unsigned i = 0; i <= DEPTH; i++) {
        ibv_wr_send(ex);
        ibv_wr_set_inline_data(ex, much, 1);
    }
    g_assert_cmpint(ibv_wr_complete(ex), ==, ENOMEM);

    ibv_wr_start(ex);
    ibv_wr_send(ex);
    ibv_wr_abort(ex);
    nothing_completes(f);
    g_assert_cmpint(post(f, 3, IBV_WR_SEND), ==, 0);
    completes(f, 1000);
    completes(f, 3);
}

/* Operations that were not asked for, and that verbsim does not have */
static void test_build_unasked(Fixture *f, gconstpointer data)
{
    struct ibv_qp_ex *ex = ibv_qp_to_qp_ex(f->a);

    (void)data;
    capture();
    ibv_wr_start(ex);
    ibv_wr_send_imm(ex, 1);
    g_assert_cmpint(ibv_wr_complete(ex), ==, EINVAL);
    assert_said("ibv_wr_*: queue pair");
    capture();
    ibv_wr_start(ex);
    ibv_wr_atomic_fetch_add(ex, 0, 0, 0);
    g_assert_cmpint(ibv_wr_complete(ex), ==, ENOSYS);
    assert_said("ibv_wr_atomic_fetch_add");
}

/* ------------------------------------------------------------------- states */

static bool is_draining(Fixture *f)
{
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;

    g_assert_cmpint(ibv_query_qp(f->a, &attr, IBV_QP_STATE, &init), ==, 0);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_SQD);
    return attr.sq_draining;
}

/*
 * SQD: the request that was begun and has no receive yet is tried on, what is
 * posted later waits for RTS, and the event comes in between.
 */
static void test_drain(Fixture *f, gconstpointer data)
{
    struct ibv_qp_attr attr = { .qp_state = IBV_QPS_SQD,
                                .en_sqd_async_notify = 1 };
    struct ibv_async_event event;

    (void)data;
    g_assert_cmpint(post(f, 1, IBV_WR_SEND), ==, 0);
    nothing_completes(f);
    g_assert_cmpint(ibv_modify_qp(f->a, &attr, IBV_QP_STATE |
                                  IBV_QP_EN_SQD_ASYNC_NOTIFY), ==, 0);
    g_assert_cmpint(post(f, 2, IBV_WR_SEND), ==, 0);
    nothing_completes(f);
    g_assert_true(is_draining(f));

    receive(f);
    receive(f);
    completes(f, 1000);
    completes(f, 1);
    g_assert_cmpint(ibv_get_async_event(f->context, &event), ==, 0);
    g_assert_cmpint(event.event_type, ==, IBV_EVENT_SQ_DRAINED);
    g_assert_true(event.element.qp == f->a);
    ibv_ack_async_event(&event);
    g_assert_false(is_draining(f));
    nothing_completes(f);

    attr.qp_state = IBV_QPS_RTS;
    g_assert_cmpint(ibv_modify_qp(f->a, &attr, IBV_QP_STATE), ==, 0);
    completes(f, 1000);
    completes(f, 2);
}

/* ------------------------------------------------------------------- freeze */

/* A frozen program sees no completion; when it is over, its event comes. */
static void test_freeze(Fixture *f, gconstpointer data)
{
    struct pollfd channel = { .fd = f->channel->fd, .events = POLLIN };
    gint64 start = g_get_monotonic_time();
    struct ibv_cq *cq;
    struct ibv_wc wc;
    void *cookie;

    (void)data;
    g_assert_cmpint(post(f, 1, IBV_WR_RDMA_READ), ==, 0);
    g_usleep(FREEZE_MS * 1000 / 2);
    g_assert_cmpint(ibv_req_notify_cq(f->cq, 0), ==, 0);
    g_assert_cmpint(ibv_poll_cq(f->cq, 1, &wc), ==, 0);
    g_assert_cmpint(poll(&channel, 1, 0), ==, 0);

    g_assert_cmpint(ibv_get_cq_event(f->channel, &cq, &cookie), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - start, >=,
                    FREEZE_MS * 1000 - 10000);
    ibv_ack_cq_events(cq, 1);
    completes(f, 1);
}

/* ------------------------------------------------------------------- misuse */

static void test_misuse(Fixture *f, gconstpointer data)
{
    struct ibv_mr *mr = ibv_reg_mr(f->pd, f->source, 16, 0);

    (void)data;
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    capture();
    g_assert_cmpint(ibv_dereg_mr(mr), ==, EINVAL);
    assert_said("ibv_dereg_mr(");

    capture();
    g_assert_cmpint(ibv_close_device(f->context), ==, EBUSY);
    assert_said("ibv_close_device(): 7 object(s) still use");

    capture();
    ibv_ack_cq_events(f->cq, 1);
    assert_said("ibv_ack_cq_events(): 1 events acknowledged, 0 got");

    g_assert_cmpint(ibv_dealloc_pd(f->pd), ==, EBUSY);
    g_assert_cmpint(ibv_destroy_cq(f->cq), ==, EBUSY);
    g_assert_cmpint(ibv_destroy_comp_channel(f->channel), ==, EBUSY);
}

/* --------------------------------------------------------- memory that goes */

/*
 * A part of registered memory is unmapped, which real adapters would not
 * notice.  The requester is at fault, and the responder lives on; also where
 * only the last page is missing, and the data begins in the middle of one.
 */
static void test_unmapped_source(Fixture *f, gconstpointer data)
{
    char *area = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct ibv_mr *mr = ibv_reg_mr(f->pd, area, 2 * BYTES,
                                   IBV_ACCESS_LOCAL_WRITE);
    struct ibv_sge sge = { (uintptr_t)area + 100, BYTES, mr->lkey };
    struct ibv_send_wr *bad, wr = {
        .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { .remote_addr = (uintptr_t)f->target,
                     .rkey = f->to->rkey },
    };
    gint64 until = g_get_monotonic_time() + WAIT_US;
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;
    struct ibv_wc wc;

    (void)data;
    g_assert_cmpint(munmap(area + BYTES, BYTES), ==, 0);
    g_assert_cmpint(ibv_post_send(f->a, &wr, &bad), ==, 0);
    while (!ibv_poll_cq(f->cq, 1, &wc)) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
    }
    g_assert_cmpint(wc.status, ==, IBV_WC_LOC_PROT_ERR);
    g_assert_cmpint(ibv_query_qp(f->b, &attr, IBV_QP_STATE, &init), ==, 0);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_RTS);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    munmap(area, BYTES);
}

/* --------------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    g_autofree char *script = NULL;
    int fd = g_file_open_tmp("verbsim-XXXXXX.faults", &script, NULL);
    int status;

    /* What happens to addresses without memory; test-pages.c has the other. */
    g_setenv("VERBSIM_PAGES", "follow", true);
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(write(fd, SCRIPT, strlen(SCRIPT)), ==, strlen(SCRIPT));
    close(fd);
    g_setenv("VERBSIM_FAULTS", script, true);
    g_setenv("VERBSIM_LEAKS", "fail", true);
#define ADD(name, fn) \
    g_test_add("/verbsim/api/" name, Fixture, NULL, setup, fn, teardown)
    ADD("build", test_build);
    ADD("build-all-or-none", test_build_all_or_none);
    ADD("build-unasked", test_build_unasked);
    ADD("drain", test_drain);
    ADD("freeze", test_freeze);
    ADD("misuse", test_misuse);
    ADD("unmapped-source", test_unmapped_source);
    status = g_test_run();
    g_unlink(script);
    return status;
}
