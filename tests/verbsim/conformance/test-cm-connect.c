/*
 * Conformance tests: librdmacm's connections
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "rig-cm.h"

/* What private data there is room for beside librdmacm's own. */
enum { REQUEST_BYTES = 56, ACCEPT_BYTES = 196, REJECT_BYTES = 148 };

/* The reasons of the InfiniBand CM's REJ message. */
enum { REASON_NO_SERVICE = 8, REASON_CONSUMER = 28 };

static enum ibv_qp_state state_of(const RigCm *cm)
{
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;

    g_assert_cmpint(ibv_query_qp(cm->id->qp, &attr, IBV_QP_STATE, &init), ==,
                    0);
    return attr.qp_state;
}

static void connect_and_send(int family)
{
    RigCmPair pair = rig_cm_pair(family);

    g_assert_cmpint(state_of(pair.active), ==, IBV_QPS_RTS);
    g_assert_cmpint(state_of(pair.passive), ==, IBV_QPS_RTS);
    rig_cm_send(pair.active, pair.passive);
    rig_cm_send(pair.passive, pair.active);
    g_assert_cmpint(rdma_get_dst_port(pair.active->id), ==,
                    rdma_get_src_port(pair.passive->id));
    g_assert_cmpint(rdma_get_src_port(pair.active->id), ==,
                    rdma_get_dst_port(pair.passive->id));
    rig_cm_quiet(pair.active);
    rig_cm_quiet(pair.passive);
    rig_cm_pair_free(pair);
}

static void test_v4(void)
{
    connect_and_send(AF_INET);
}

static void test_v6(void)
{
    connect_and_send(AF_INET6);
}

static void test_no_listener(void)
{
    RigCm *bound = rig_cm(), *active;
    struct sockaddr_storage address = rig_address(AF_INET, 0);
    RigCmEvent event;

    /* A port that is certainly nobody's: bound, but nobody listens. */
    g_assert_cmpint(rdma_bind_addr(bound->id, (struct sockaddr *)&address),
                    ==, 0);
    active = rig_cm_ask(AF_INET, rig_cm_port(bound), NULL, 0);
    event = rig_cm_expect(active, RDMA_CM_EVENT_REJECTED);
    g_assert_cmpint(event.status, ==, REASON_NO_SERVICE);
    rig_cm_quiet(active);
    rig_cm_free(active);
    rig_cm_free(bound);
}

/* ------------------------------------------------------------- private data */

static void test_request_data(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active, *passive;
    static const uint8_t zero[REQUEST_BYTES];
    uint8_t priv[REQUEST_BYTES];
    RigCmEvent event;

    rig_fill(priv, sizeof(priv), 3);
    for (size_t bytes = 0; bytes <= REQUEST_BYTES; bytes += 28) {
        active = rig_cm_ask(AF_INET, rig_cm_port(listener), priv, bytes);
        passive = rig_cm_take(listener, &event);
        /* The message has a fixed size: there is always all of it. */
        g_assert_cmpuint(event.priv_bytes, ==, REQUEST_BYTES);
        g_assert_cmpmem(event.priv, bytes, priv, bytes);
        g_assert_cmpmem(event.priv + bytes, REQUEST_BYTES - bytes, zero,
                        REQUEST_BYTES - bytes);
        rig_cm_free(passive);
        rig_cm_free(active);
    }
    rig_cm_free(listener);
}

static void test_request_parameters(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active, *passive;
    RigCmEvent event;

    active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
    passive = rig_cm_take(listener, &event);
    /* As the active side gave them, but seen from this one. */
    g_assert_cmpint(event.conn.responder_resources, ==, 1);
    g_assert_cmpint(event.conn.initiator_depth, ==, 2);
    g_assert_cmpint(event.conn.retry_count, ==, 6);
    g_assert_cmpint(event.conn.rnr_retry_count, ==, 5);
    g_assert_cmpuint(event.conn.qp_num, ==, active->id->qp->qp_num);
    g_assert_true(passive->id->context == listener->id->context);
    rig_cm_free(passive);
    rig_cm_free(active);
    rig_cm_free(listener);
}

static void test_data_limits(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active = rig_cm(), *passive;
    uint8_t priv[255] = { 0 };
    struct rdma_conn_param param = rig_cm_param(priv, REQUEST_BYTES + 1);

    rig_cm_resolve(active, AF_INET, rig_cm_port(listener));
    rig_cm_create_qp(active);
    g_assert_cmpint(rdma_connect(active->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    param.private_data_len = REQUEST_BYTES;
    g_assert_cmpint(rdma_connect(active->id, &param), ==, 0);
    passive = rig_cm_take(listener, NULL);
    rig_cm_create_qp(passive);
    g_assert_cmpint(rdma_reject(passive->id, priv, REJECT_BYTES + 1), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    param.private_data_len = ACCEPT_BYTES + 1;
    g_assert_cmpint(rdma_accept(passive->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    rig_cm_free(passive);
    rig_cm_free(active);
    rig_cm_free(listener);
}

static void test_accept_data(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active, *passive;
    static const uint8_t zero[ACCEPT_BYTES];
    uint8_t priv[ACCEPT_BYTES];
    RigCmEvent event;

    rig_fill(priv, sizeof(priv), 4);
    for (size_t bytes = 0; bytes <= ACCEPT_BYTES; bytes += 98) {
        struct rdma_conn_param param = rig_cm_param(priv, bytes);

        active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
        passive = rig_cm_take(listener, NULL);
        rig_cm_create_qp(passive);
        g_assert_cmpint(rdma_accept(passive->id, &param), ==, 0);
        event = rig_cm_expect(active, RDMA_CM_EVENT_ESTABLISHED);
        g_assert_cmpuint(event.priv_bytes, ==, ACCEPT_BYTES);
        g_assert_cmpmem(event.priv, bytes, priv, bytes);
        g_assert_cmpmem(event.priv + bytes, ACCEPT_BYTES - bytes, zero,
                        ACCEPT_BYTES - bytes);
        g_assert_cmpint(event.conn.responder_resources, ==, 1);
        g_assert_cmpint(event.conn.initiator_depth, ==, 2);
        event = rig_cm_expect(passive, RDMA_CM_EVENT_ESTABLISHED);
        g_assert_cmpuint(event.priv_bytes, ==, 0);
        rig_cm_free(passive);
        rig_cm_free(active);
    }
    rig_cm_free(listener);
}

static void test_reject(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active, *passive;
    static const uint8_t zero[REJECT_BYTES];
    uint8_t priv[REJECT_BYTES];
    RigCmEvent event;

    rig_fill(priv, sizeof(priv), 5);
    for (size_t bytes = 0; bytes <= REJECT_BYTES; bytes += 74) {
        active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
        passive = rig_cm_take(listener, NULL);
        g_assert_cmpint(rdma_reject(passive->id, priv, bytes), ==, 0);
        event = rig_cm_expect(active, RDMA_CM_EVENT_REJECTED);
        g_assert_cmpint(event.status, ==, REASON_CONSUMER);
        g_assert_cmpuint(event.priv_bytes, ==, REJECT_BYTES);
        g_assert_cmpmem(event.priv, bytes, priv, bytes);
        g_assert_cmpmem(event.priv + bytes, REJECT_BYTES - bytes, zero,
                        REJECT_BYTES - bytes);
        rig_cm_quiet(active);
        rig_cm_free(passive);
        rig_cm_free(active);
    }
    rig_cm_free(listener);
}

/* A request that is let go is rejected. */
static void test_request_destroyed(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active;
    RigCmEvent event;

    active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
    rig_cm_free(rig_cm_take(listener, NULL));
    event = rig_cm_expect(active, RDMA_CM_EVENT_REJECTED);
    g_assert_cmpint(event.status, ==, REASON_CONSUMER);
    rig_cm_free(active);
    rig_cm_free(listener);
}

/* So is one that nobody has looked at when the listener goes. */
static void test_listener_destroyed(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active;

    active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
    g_assert_true(rig_readable(listener->channel->fd, RIG_WAIT_MS));
    rig_cm_free(listener);
    rig_cm_expect(active, RDMA_CM_EVENT_REJECTED);
    rig_cm_free(active);
}

/* ------------------------------------------------------------ disconnecting */

static void disconnect_from(bool passive_side)
{
    RigCmPair pair = rig_cm_pair(AF_INET);
    RigCm *one = passive_side ? pair.passive : pair.active;
    RigCm *other = passive_side ? pair.active : pair.passive;
    struct ibv_recv_wr *bad, wr = { .wr_id = 7 };

    g_assert_cmpint(ibv_post_recv(one->id->qp, &wr, &bad), ==, 0);
    g_assert_cmpint(rdma_disconnect(one->id), ==, 0);
    /* One's own queue pair is in error at once. */
    g_assert_cmpint(state_of(one), ==, IBV_QPS_ERR);
    rig_done(one->id->recv_cq, 7, IBV_WC_WR_FLUSH_ERR);
    rig_cm_expect(other, RDMA_CM_EVENT_DISCONNECTED);
    g_assert_cmpint(rdma_disconnect(other->id), ==, 0);
    g_assert_cmpint(state_of(other), ==, IBV_QPS_ERR);
    rig_cm_expect(one, RDMA_CM_EVENT_DISCONNECTED);
    rig_cm_pair_free(pair);
}

static void test_disconnect_active(void)
{
    disconnect_from(false);
}

static void test_disconnect_passive(void)
{
    disconnect_from(true);
}

/* Destroying it is disconnecting. */
static void test_destroy(void)
{
    RigCmPair pair = rig_cm_pair(AF_INET);

    rig_cm_free(pair.active);
    rig_cm_expect(pair.passive, RDMA_CM_EVENT_DISCONNECTED);
    rig_cm_free(pair.passive);
    rig_cm_free(pair.listener);
}

/* The far side's queue pair lives until its owner acts, but for iWARP's. */
static void test_disconnect_state(void)
{
    RigCmPair pair = rig_cm_pair(AF_INET);

    g_assert_cmpint(rdma_disconnect(pair.active->id), ==, 0);
    rig_cm_expect(pair.passive, RDMA_CM_EVENT_DISCONNECTED);
    g_assert_cmpint(state_of(pair.passive), ==,
                    rig_iwarp() ? IBV_QPS_ERR : IBV_QPS_RTS);
    rig_cm_pair_free(pair);
}

static void role_peer(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *passive;
    uint16_t port = rig_cm_port(listener);
    char end;

    rig_tell(&port, sizeof(port));
    passive = rig_cm_accept(listener);
    rig_cm_expect(passive, RDMA_CM_EVENT_ESTABLISHED);
    rig_tell("e", 1);
    rig_hear(&end, 1);
    rig_cm_free(passive);
    rig_cm_free(listener);
}

static RigCm *connect_to_child(RigChild *child)
{
    uint16_t port;
    RigCm *active;
    char ready;

    rig_child_hear(child, &port, sizeof(port));
    active = rig_cm_ask(AF_INET, port, NULL, 0);
    rig_cm_expect(active, RDMA_CM_EVENT_ESTABLISHED);
    rig_child_hear(child, &ready, 1);
    return active;
}

static void test_peer_killed(void)
{
    RigChild *child = rig_child("peer");
    RigCm *active = connect_to_child(child);
    int64_t start = g_get_monotonic_time();

    rig_child_kill(child, SIGKILL);
    rig_cm_expect(active, RDMA_CM_EVENT_DISCONNECTED);
    g_assert_cmpfloat(rig_seconds_since(start), <, 5);
    rig_cm_free(active);
    rig_child_free(child);
}

static void test_peer_stopped(void)
{
    RigChild *child = rig_child("peer");
    RigCm *active = connect_to_child(child);

    /* It is only slow. */
    rig_child_kill(child, SIGSTOP);
    rig_cm_quiet(active);
    rig_child_kill(child, SIGCONT);
    rig_child_tell(child, "q", 1);
    rig_child_free(child);
    rig_cm_expect(active, RDMA_CM_EVENT_DISCONNECTED);
    rig_cm_free(active);
}

/* ---------------------------------------------------------- several of them */

static void test_several(void)
{
    RigCm *listener[2], *active[4], *passive[4];

    for (int i = 0; i < 2; i++) {
        listener[i] = rig_cm_listen(i ? AF_INET6 : AF_INET);
    }
    for (int i = 0; i < 4; i++) {
        active[i] = rig_cm_ask(i % 2 ? AF_INET6 : AF_INET,
                               rig_cm_port(listener[i % 2]), NULL, 0);
    }
    for (int i = 0; i < 4; i++) {
        RigCmEvent event;
        struct rdma_conn_param param = rig_cm_param(NULL, 0);

        passive[i] = rig_cm_take(listener[i % 2], &event);
        /* In the order of their asking. */
        g_assert_cmpuint(event.conn.qp_num, ==, active[i]->id->qp->qp_num);
        rig_cm_create_qp(passive[i]);
        g_assert_cmpint(rdma_accept(passive[i]->id, &param), ==, 0);
    }
    for (int i = 3; i >= 0; i--) {
        rig_cm_expect(active[i], RDMA_CM_EVENT_ESTABLISHED);
        rig_cm_expect(passive[i], RDMA_CM_EVENT_ESTABLISHED);
        rig_cm_send(active[i], passive[i]);
    }
    for (int i = 0; i < 4; i++) {
        rig_cm_free(active[i]);
        rig_cm_expect(passive[i], RDMA_CM_EVENT_DISCONNECTED);
        rig_cm_free(passive[i]);
    }
    rig_cm_free(listener[0]);
    rig_cm_free(listener[1]);
}

/* No more requests wait than the listener has asked for. */
static void test_backlog(void)
{
    struct sockaddr_storage address = rig_address(AF_INET, 0);
    RigCm *listener = rig_cm(), *active[3], *passive[2];

    g_assert_cmpint(rdma_bind_addr(listener->id, (struct sockaddr *)&address),
                    ==, 0);
    g_assert_cmpint(rdma_listen(listener->id, 2), ==, 0);
    for (int i = 0; i < 3; i++) {
        active[i] = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
        g_usleep(50000);
    }
    /* The third is neither heard nor refused: it will ask again. */
    rig_cm_quiet(active[2]);
    for (int i = 0; i < 2; i++) {
        passive[i] = rig_cm_accept(listener);
        rig_cm_expect(active[i], RDMA_CM_EVENT_ESTABLISHED);
        rig_cm_expect(passive[i], RDMA_CM_EVENT_ESTABLISHED);
    }
    rig_cm_quiet(listener);
    for (int i = 0; i < 3; i++) {
        rig_cm_free(active[i]);
    }
    rig_cm_free(passive[0]);
    rig_cm_free(passive[1]);
    rig_cm_free(listener);
}

/* --------------------------------------------------- queue pairs of our own */

typedef struct Own {
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
} Own;

static Own own_create(RigCm *cm)
{
    struct ibv_qp_init_attr attr = {
        .qp_type = IBV_QPT_RC,
        .cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1,
                 .max_recv_sge = 1 },
    };
    Own own;

    own.pd = ibv_alloc_pd(cm->id->verbs);
    own.cq = ibv_create_cq(cm->id->verbs, 16, NULL, NULL, 0);
    attr.send_cq = attr.recv_cq = own.cq;
    own.qp = ibv_create_qp(own.pd, &attr);
    g_assert_nonnull(own.qp);
    g_assert_null(cm->id->qp);
    return own;
}

static void own_free(Own own)
{
    g_assert_cmpint(ibv_destroy_qp(own.qp), ==, 0);
    g_assert_cmpint(ibv_destroy_cq(own.cq), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(own.pd), ==, 0);
}

/* Asks librdmacm what the step needs, and expects at least @wanted of it. */
static void own_move(RigCm *cm, Own own, enum ibv_qp_state state, int wanted)
{
    struct ibv_qp_attr attr = { .qp_state = state };
    int mask = 0;

    g_assert_cmpint(rdma_init_qp_attr(cm->id, &attr, &mask), ==, 0);
    g_assert_cmphex(mask & wanted, ==, wanted);
    g_assert_cmpint(attr.qp_state, ==, state);
    g_assert_cmpint(ibv_modify_qp(own.qp, &attr, mask), ==, 0);
}

static void own_to_init(RigCm *cm, Own own)
{
    own_move(cm, own, IBV_QPS_INIT, IBV_QP_STATE | IBV_QP_PKEY_INDEX |
             IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
}

static void own_to_rts(RigCm *cm, Own own)
{
    own_move(cm, own, IBV_QPS_RTR, IBV_QP_STATE | IBV_QP_AV |
             IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    own_move(cm, own, IBV_QPS_RTS, IBV_QP_STATE | IBV_QP_SQ_PSN |
             IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
             IBV_QP_MAX_QP_RD_ATOMIC);
}

static void own_message(Own from, Own to)
{
    struct ibv_send_wr *bad, wr = {
        .wr_id = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED,
    };
    struct ibv_recv_wr *bad_recv, recv = { .wr_id = 2 };

    g_assert_cmpint(ibv_post_recv(to.qp, &recv, &bad_recv), ==, 0);
    g_assert_cmpint(ibv_post_send(from.qp, &wr, &bad), ==, 0);
    rig_done(from.cq, 1, IBV_WC_SUCCESS);
    rig_done(to.cq, 2, IBV_WC_SUCCESS);
}

/* The program moves its queue pairs itself, and confirms the answer. */
static void test_own_queue_pairs(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active = rig_cm(), *passive;
    struct rdma_conn_param param = rig_cm_param("hello", 5);
    struct ibv_qp_attr attr;
    struct ibv_qp_init_attr init;
    RigCmEvent event;
    Own a, p;

    rig_cm_resolve(active, AF_INET, rig_cm_port(listener));
    a = own_create(active);
    own_to_init(active, a);
    param.qp_num = a.qp->qp_num;
    g_assert_cmpint(rdma_connect(active->id, &param), ==, 0);

    passive = rig_cm_take(listener, &event);
    g_assert_cmpuint(event.conn.qp_num, ==, a.qp->qp_num);
    p = own_create(passive);
    own_to_init(passive, p);
    own_to_rts(passive, p);
    param.qp_num = p.qp->qp_num;
    g_assert_cmpint(rdma_accept(passive->id, &param), ==, 0);
    rig_cm_quiet(passive);

    event = rig_cm_expect(active, RDMA_CM_EVENT_CONNECT_RESPONSE);
    g_assert_cmpmem(event.priv, 5, "hello", 5);
    g_assert_cmpuint(event.conn.qp_num, ==, p.qp->qp_num);
    own_to_rts(active, a);
    g_assert_cmpint(rdma_establish(active->id), ==, 0);
    rig_cm_expect(passive, RDMA_CM_EVENT_ESTABLISHED);
    rig_cm_quiet(active);
    g_assert_cmpint(ibv_query_qp(a.qp, &attr, IBV_QP_DEST_QPN |
                                 IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY, &init),
                    ==, 0);
    g_assert_cmpuint(attr.dest_qp_num, ==, p.qp->qp_num);
    g_assert_cmpint(attr.retry_cnt, ==, 6);
    g_assert_cmpint(attr.rnr_retry, ==, 5);
    own_message(a, p);
    own_message(p, a);

    /* Nobody but the program touches them. */
    g_assert_cmpint(rdma_disconnect(active->id), ==, 0);
    g_assert_cmpint(ibv_query_qp(a.qp, &attr, IBV_QP_STATE, &init), ==, 0);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_RTS);
    rig_cm_expect(passive, RDMA_CM_EVENT_DISCONNECTED);
    own_free(a);
    own_free(p);
    rig_cm_free(active);
    rig_cm_free(passive);
    rig_cm_free(listener);
}

/* The active side thinks better of it when the answer is there. */
static void test_own_gives_up(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active = rig_cm(), *passive;
    struct rdma_conn_param param = rig_cm_param(NULL, 0);
    RigCmEvent event;
    Own a;

    rig_cm_resolve(active, AF_INET, rig_cm_port(listener));
    a = own_create(active);
    param.qp_num = a.qp->qp_num;
    g_assert_cmpint(rdma_connect(active->id, &param), ==, 0);
    passive = rig_cm_accept(listener);
    rig_cm_expect(active, RDMA_CM_EVENT_CONNECT_RESPONSE);
    g_assert_cmpint(rdma_reject(active->id, NULL, 0), ==, 0);
    event = rig_cm_event(passive);
    g_assert_true(event.type == RDMA_CM_EVENT_REJECTED);
    own_free(a);
    rig_cm_free(active);
    rig_cm_free(passive);
    rig_cm_free(listener);
}

/* ----------------------------------------------------------- event channels */

static void test_nonblocking(void)
{
    RigCm *listener = rig_cm_listen(AF_INET), *active;
    struct rdma_cm_event *event;
    int fd = listener->channel->fd;

    g_assert_cmpint(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), ==,
                    0);
    errno = 0;
    g_assert_cmpint(rdma_get_cm_event(listener->channel, &event), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    g_assert_false(rig_readable(fd, 0));
    active = rig_cm_ask(AF_INET, rig_cm_port(listener), NULL, 0);
    g_assert_true(rig_readable(fd, RIG_WAIT_MS));
    rig_cm_free(rig_cm_take(listener, NULL));
    g_assert_false(rig_readable(fd, 0));
    rig_cm_free(active);
    rig_cm_free(listener);
}

typedef struct Destroyer {
    RigCm *cm;
    int over;                   /* atomic */
} Destroyer;

static gpointer destroyer_run(gpointer opaque)
{
    Destroyer *destroyer = opaque;
    int error = rdma_destroy_id(destroyer->cm->id);

    g_atomic_int_set(&destroyer->over, 1);
    return GINT_TO_POINTER(error);
}

/* An id lives until the last of its events has been acknowledged. */
static void test_ack(void)
{
    RigCm *cm = rig_cm();
    Destroyer destroyer = { .cm = cm };
    struct sockaddr_storage own = rig_address(AF_INET, 1234);
    struct rdma_cm_event *event;
    GThread *thread;

    g_assert_cmpint(rdma_resolve_addr(cm->id, NULL, (struct sockaddr *)&own,
                                      RIG_RESOLVE_MS), ==, 0);
    g_assert_cmpint(rdma_get_cm_event(cm->channel, &event), ==, 0);
    g_assert_true(event->id == cm->id);
    thread = g_thread_new("destroy", destroyer_run, &destroyer);
    g_usleep(RIG_QUIET_MS * 1000);
    g_assert_cmpint(g_atomic_int_get(&destroyer.over), ==, 0);
    g_assert_cmpint(rdma_ack_cm_event(event), ==, 0);
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(thread)), ==, 0);
    cm->id = NULL;
    rig_cm_free(cm);
}

/* One nobody has fetched goes with its id. */
static void test_unread(void)
{
    RigCm *cm = rig_cm();
    struct sockaddr_storage own = rig_address(AF_INET, 1234);

    g_assert_cmpint(rdma_resolve_addr(cm->id, NULL, (struct sockaddr *)&own,
                                      RIG_RESOLVE_MS), ==, 0);
    g_assert_true(rig_readable(cm->channel->fd, RIG_WAIT_MS));
    g_assert_cmpint(rdma_destroy_id(cm->id), ==, 0);
    g_assert_false(rig_readable(cm->channel->fd, 0));
    cm->id = NULL;
    rig_cm_free(cm);
}

/* Several ids share a channel; one moves to another and takes its events. */
static void test_migrate(void)
{
    struct rdma_event_channel *other = rdma_create_event_channel();
    RigCm *cm = rig_cm();
    struct sockaddr_storage own = rig_address(AF_INET, 1234);

    g_assert_nonnull(other);
    g_assert_cmpint(rdma_resolve_addr(cm->id, NULL, (struct sockaddr *)&own,
                                      RIG_RESOLVE_MS), ==, 0);
    g_assert_true(rig_readable(cm->channel->fd, RIG_WAIT_MS));
    g_assert_cmpint(rdma_migrate_id(cm->id, other), ==, 0);
    g_assert_true(cm->id->channel == other);
    g_assert_false(rig_readable(cm->channel->fd, 0));
    g_assert_true(rig_readable(other->fd, 0));
    rdma_destroy_event_channel(cm->channel);
    cm->channel = other;
    rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_RESOLVED);
    rig_cm_free(cm);
}

static void test_names(void)
{
    g_assert_cmpstr(rdma_event_str(RDMA_CM_EVENT_ADDR_RESOLVED), ==,
                    "RDMA_CM_EVENT_ADDR_RESOLVED");
    g_assert_cmpstr(rdma_event_str(RDMA_CM_EVENT_TIMEWAIT_EXIT), ==,
                    "RDMA_CM_EVENT_TIMEWAIT_EXIT");
    g_assert_cmpstr(rdma_event_str(1000), ==, "UNKNOWN EVENT");
}

static void test_connect_twice(void)
{
    RigCmPair pair = rig_cm_pair(AF_INET);
    struct rdma_conn_param param = rig_cm_param(NULL, 0);

    g_assert_cmpint(rdma_connect(pair.active->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(rdma_accept(pair.passive->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    rig_cm_send(pair.active, pair.passive);
    rig_cm_pair_free(pair);
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = {
        { "peer", role_peer },
        { NULL, NULL },
    };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/cm/v4", test_v4);
    g_test_add_func("/cm/v6", test_v6);
    g_test_add_func("/cm/no-listener", test_no_listener);
    g_test_add_func("/cm/request-data", test_request_data);
    g_test_add_func("/cm/request-parameters", test_request_parameters);
    g_test_add_func("/cm/data-limits", test_data_limits);
    g_test_add_func("/cm/accept-data", test_accept_data);
    g_test_add_func("/cm/reject", test_reject);
    g_test_add_func("/cm/request-destroyed", test_request_destroyed);
    g_test_add_func("/cm/listener-destroyed", test_listener_destroyed);
    g_test_add_func("/cm/disconnect-active", test_disconnect_active);
    g_test_add_func("/cm/disconnect-passive", test_disconnect_passive);
    g_test_add_func("/cm/destroy", test_destroy);
    g_test_add_func("/cm/disconnect-state", test_disconnect_state);
    g_test_add_func("/cm/peer-killed", test_peer_killed);
    g_test_add_func("/cm/peer-stopped", test_peer_stopped);
    g_test_add_func("/cm/several", test_several);
    g_test_add_func("/cm/backlog", test_backlog);
    if (!rig_iwarp()) {         /* there, the CM moves them: test-iwarp.c */
        g_test_add_func("/cm/own-queue-pairs", test_own_queue_pairs);
        g_test_add_func("/cm/own-gives-up", test_own_gives_up);
    }
    g_test_add_func("/cm/nonblocking", test_nonblocking);
    g_test_add_func("/cm/ack", test_ack);
    g_test_add_func("/cm/unread", test_unread);
    g_test_add_func("/cm/migrate", test_migrate);
    g_test_add_func("/cm/names", test_names);
    g_test_add_func("/cm/connect-twice", test_connect_twice);
    return rig_run();
}
