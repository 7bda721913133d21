/*
 * Conformance tests: where an iWARP adapter is not like InfiniBand's
 *
 * For devices whose transport is iWARP; verbsim's is with the profile "iwarp".
 * What is expected is what libcxgb4 and the kernel's iWARP connection manager
 * do, and RFC 5040 to 5044 ask for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "rig-cm.h"

enum { WR_RECV = 21, WR_SEND, WR_WRITE, BYTES = 64 };

/* A connection whose passive side has a buffer and a receive for it. */
typedef struct Ends {
    RigCmPair pair;
    uint8_t buf[2 * BYTES];
    struct ibv_mr *there, *here;
} Ends;

static enum ibv_qp_state state_of(const RigCm *cm)
{
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;

    g_assert_cmpint(ibv_query_qp(cm->id->qp, &attr, IBV_QP_STATE, &init), ==,
                    0);
    return attr.qp_state;
}

static int post_recv(Ends *e)
{
    struct ibv_sge sge = { (uintptr_t)e->buf, BYTES, e->there->lkey };
    struct ibv_recv_wr wr = { .wr_id = WR_RECV, .sg_list = &sge,
                              .num_sge = 1 };
    struct ibv_recv_wr *bad = NULL;
    int ret = ibv_post_recv(e->pair.passive->id->qp, &wr, &bad);

    g_assert_true(bad == (ret ? &wr : NULL));
    return ret;
}

static int post(Ends *e, RigCm *from, enum ibv_wr_opcode opcode, uint32_t rkey)
{
    struct ibv_mr *mr = from == e->pair.active ? e->here : e->there;
    struct ibv_sge sge = { (uintptr_t)e->buf + BYTES, BYTES, mr->lkey };
    struct ibv_send_wr wr = {
        .wr_id = opcode == IBV_WR_RDMA_WRITE ? WR_WRITE : WR_SEND,
        .sg_list = &sge, .num_sge = 1, .opcode = opcode,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = { (uintptr_t)e->buf, rkey },
    };
    struct ibv_send_wr *bad = NULL;
    int ret = ibv_post_send(from->id->qp, &wr, &bad);

    g_assert_true(bad == (ret ? &wr : NULL));
    return ret;
}

static Ends *ends_new(void)
{
    int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    Ends *e = g_new0(Ends, 1);

    e->pair = rig_cm_pair(AF_INET);
    e->here = ibv_reg_mr(e->pair.active->id->pd, e->buf, sizeof(e->buf),
                         access);
    e->there = ibv_reg_mr(e->pair.passive->id->pd, e->buf, sizeof(e->buf),
                          access);
    g_assert_nonnull(e->here);
    g_assert_nonnull(e->there);
    return e;
}

static void ends_free(Ends *e)
{
    g_assert_cmpint(ibv_dereg_mr(e->here), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(e->there), ==, 0);
    rig_cm_pair_free(e->pair);
    g_free(e);
}

/* Nothing can be posted to it any more, and what there was is flushed. */
static void expect_dead(Ends *e, RigCm *cm)
{
    g_assert_cmpint(state_of(cm), ==, IBV_QPS_ERR);
    g_assert_cmpint(post(e, cm, IBV_WR_SEND, 0), ==, -EINVAL);
    rig_quiet(cm->id->send_cq);
}

static void test_device(void)
{
    struct ibv_device *device = rig_device()->device;

    g_assert_cmpint(device->node_type, ==, IBV_NODE_RNIC);
    g_assert_cmpint(device->transport_type, ==, IBV_TRANSPORT_IWARP);
}

static void test_messages(void)
{
    Ends *e = ends_new();

    rig_cm_send(e->pair.active, e->pair.passive);
    rig_cm_send(e->pair.passive, e->pair.active);
    rig_fill(e->buf + BYTES, BYTES, 4);
    g_assert_cmpint(post(e, e->pair.active, IBV_WR_RDMA_WRITE, e->there->rkey),
                    ==, 0);
    rig_done(e->pair.active->id->send_cq, WR_WRITE, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(e->buf, BYTES, 4));
    ends_free(e);
}

/*
 * The last message is there, its sender has gone: the completion can be had,
 * but no receive can take its place.
 */
static void test_peer_leaves(void)
{
    Ends *e = ends_new();
    RigCm *passive = e->pair.passive;

    g_assert_cmpint(post_recv(e), ==, 0);
    g_assert_cmpint(post_recv(e), ==, 0);
    g_assert_cmpint(post(e, e->pair.active, IBV_WR_SEND, 0), ==, 0);
    rig_done(e->pair.active->id->send_cq, WR_SEND, IBV_WC_SUCCESS);
    g_assert_cmpint(rdma_disconnect(e->pair.active->id), ==, 0);
    rig_cm_expect(passive, RDMA_CM_EVENT_DISCONNECTED);
    rig_done(passive->id->recv_cq, WR_RECV, IBV_WC_SUCCESS);
    rig_done(passive->id->recv_cq, WR_RECV, IBV_WC_WR_FLUSH_ERR);
    g_assert_cmpint(post_recv(e), ==, -EINVAL);
    expect_dead(e, passive);
    expect_dead(e, e->pair.active);
    ends_free(e);
}

/* Who puts a queue pair into error ends the connection. */
static void test_error_ends_it(void)
{
    struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };
    Ends *e = ends_new();

    g_assert_cmpint(ibv_modify_qp(e->pair.passive->id->qp, &attr,
                                  IBV_QP_STATE), ==, 0);
    rig_cm_expect(e->pair.active, RDMA_CM_EVENT_DISCONNECTED);
    expect_dead(e, e->pair.active);
    rig_cm_expect(e->pair.passive, RDMA_CM_EVENT_DISCONNECTED);
    ends_free(e);
}

/* What the far side refuses ends the connection, and is not named. */
static void refused(enum ibv_wr_opcode opcode)
{
    Ends *e = ends_new();

    g_assert_cmpint(post(e, e->pair.active, opcode, e->there->rkey + 1), ==, 0);
    g_assert_cmpint(rig_poll(e->pair.active->id->send_cq).status, ==,
                    IBV_WC_WR_FLUSH_ERR);
    rig_cm_expect(e->pair.active, RDMA_CM_EVENT_DISCONNECTED);
    rig_cm_expect(e->pair.passive, RDMA_CM_EVENT_DISCONNECTED);
    expect_dead(e, e->pair.active);
    expect_dead(e, e->pair.passive);
    ends_free(e);
}

static void test_bad_key(void)
{
    refused(IBV_WR_RDMA_WRITE);
}

/* There is no "receiver not ready". */
static void test_no_receive(void)
{
    refused(IBV_WR_SEND);
}

static void test_immediate(void)
{
    Ends *e = ends_new();

    g_assert_cmpint(post(e, e->pair.active, IBV_WR_SEND_WITH_IMM, 0), ==,
                    -EINVAL);
    g_assert_cmpint(post(e, e->pair.active, IBV_WR_RDMA_WRITE_WITH_IMM,
                         e->there->rkey), ==, -EINVAL);
    ends_free(e);
}

/* A queue pair of the program's own: the CM moves it, and says ESTABLISHED. */
static void test_own_queue_pair(void)
{
    struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT };
    RigCm *listener = rig_cm_listen(AF_INET), *active = rig_cm(), *passive;
    struct rdma_conn_param param = rig_cm_param(NULL, 0);
    struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC,
                                     .cap = { 1, 1, 1, 1, 0 } };
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    int mask;

    rig_cm_resolve(active, AF_INET, rig_cm_port(listener));
    pd = ibv_alloc_pd(active->id->verbs);
    cq = ibv_create_cq(active->id->verbs, 4, NULL, NULL, 0);
    init.send_cq = init.recv_cq = cq;
    qp = ibv_create_qp(pd, &init);
    g_assert_cmpint(rdma_init_qp_attr(active->id, &attr, &mask), ==, 0);
    g_assert_cmpint(ibv_modify_qp(qp, &attr, mask), ==, 0);
    param.qp_num = qp->qp_num;
    g_assert_cmpint(rdma_connect(active->id, &param), ==, 0);
    passive = rig_cm_accept(listener);
    rig_cm_expect(passive, RDMA_CM_EVENT_ESTABLISHED);
    rig_cm_expect(active, RDMA_CM_EVENT_ESTABLISHED);
    g_assert_cmpint(qp->state, ==, IBV_QPS_RTS);
    attr.qp_state = IBV_QPS_RTS;
    g_assert_cmpint(rdma_init_qp_attr(active->id, &attr, &mask), ==, 0);
    g_assert_false(mask & IBV_QP_STATE);
    g_assert_cmpint(ibv_modify_qp(qp, &attr, mask), ==, 0);

    /* Nor does it outlive the connection, though librdmacm has it not. */
    g_assert_cmpint(rdma_disconnect(active->id), ==, 0);
    g_assert_cmpint(qp->state, ==, IBV_QPS_ERR);
    rig_cm_expect(passive, RDMA_CM_EVENT_DISCONNECTED);
    g_assert_cmpint(state_of(passive), ==, IBV_QPS_ERR);
    g_assert_cmpint(ibv_destroy_qp(qp), ==, 0);
    g_assert_cmpint(ibv_destroy_cq(cq), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    rig_cm_free(active);
    rig_cm_free(passive);
    rig_cm_free(listener);
}

static void role_peer(void)
{
    RigCm *listener = rig_cm_listen(AF_INET);
    uint16_t port = rig_cm_port(listener);
    char end;

    rig_tell(&port, sizeof(port));
    rig_cm_expect(rig_cm_accept(listener), RDMA_CM_EVENT_ESTABLISHED);
    rig_hear(&end, 1);
}

/* Its kernel closes what it had: the end is known at once. */
static void test_peer_killed(void)
{
    RigChild *child = rig_child("peer");
    RigCm *active;
    uint16_t port;

    rig_child_hear(child, &port, sizeof(port));
    active = rig_cm_ask(AF_INET, port, NULL, 0);
    rig_cm_expect(active, RDMA_CM_EVENT_ESTABLISHED);
    rig_child_kill(child, SIGKILL);
    rig_cm_expect(active, RDMA_CM_EVENT_DISCONNECTED);
    g_assert_cmpint(state_of(active), ==, IBV_QPS_ERR);
    rig_cm_free(active);
    rig_child_free(child);
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = { { "peer", role_peer }, { 0 } };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/iwarp/device", test_device);
    g_test_add_func("/iwarp/messages", test_messages);
    g_test_add_func("/iwarp/peer-leaves", test_peer_leaves);
    g_test_add_func("/iwarp/error-ends-it", test_error_ends_it);
    g_test_add_func("/iwarp/bad-key", test_bad_key);
    g_test_add_func("/iwarp/no-receive", test_no_receive);
    g_test_add_func("/iwarp/immediate", test_immediate);
    g_test_add_func("/iwarp/own-queue-pair", test_own_queue_pair);
    g_test_add_func("/iwarp/peer-killed", test_peer_killed);
    return rig_run();
}
