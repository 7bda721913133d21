/*
 * Tests of the connection manager: connections as programs make them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "test-cm.h"

#include <poll.h>

static void expect_attr(struct rdma_cm_id *id, enum ibv_qp_state state,
                        struct ibv_qp_attr *attr, int mask)
{
    int got = 0;

    memset(attr, 0, sizeof(*attr));
    attr->qp_state = state;
    g_assert_ok(rdma_init_qp_attr(id, attr, &got));
    g_assert_cmphex(got, ==, mask);
}

static void expect_no_attr(struct rdma_cm_id *id, enum ibv_qp_state state)
{
    struct ibv_qp_attr attr = { .qp_state = state };
    int mask;

    g_assert_errno(rdma_init_qp_attr(id, &attr, &mask), EINVAL);
}

enum {
    INIT_MASK = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                IBV_QP_ACCESS_FLAGS,
    RTR_MASK = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
               IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
               IBV_QP_MIN_RNR_TIMER,
    RTS_MASK = IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT |
               IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC,
};

/* -------------------------------------------------------------- connecting */

static void check_request(Rig *rig)
{
    struct rdma_cm_event *event;
    const struct rdma_conn_param *conn;

    rig_ask(rig);
    event = expect(rig->server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    conn = &event->param.conn;
    rig->passive = event->id;
    g_assert_true(event->listen_id == rig->listener);
    g_assert_true(event->id->context == &rig->listener);
    g_assert_true(event->id->channel == rig->server);
    g_assert_nonnull(event->id->verbs);
    g_assert_cmpint(event->id->port_num, ==, 1);
    g_assert_cmpuint(rdma_get_dst_port(event->id), ==,
                     rdma_get_src_port(rig->active));
    g_assert_cmpuint(rdma_get_src_port(event->id), ==,
                     rdma_get_src_port(rig->listener));
    expect_private(event, "hello", 56);
    /* What one side is ready to serve, the other may ask for. */
    g_assert_cmpint(conn->responder_resources, ==, 4);
    g_assert_cmpint(conn->initiator_depth, ==, 3);
    g_assert_cmpint(conn->retry_count, ==, 6);
    g_assert_cmpint(conn->rnr_retry_count, ==, 5);
    g_assert_cmpint(conn->qp_num, ==, CLIENT_QPN);
    g_assert_ok(rdma_ack_cm_event(event));
}

static void check_passive_attr(Rig *rig, uint32_t *psn, uint32_t *peer_psn)
{
    struct ibv_qp_attr attr;

    expect_attr(rig->passive, IBV_QPS_INIT, &attr, INIT_MASK);
    g_assert_cmphex(attr.qp_access_flags, ==, IBV_ACCESS_REMOTE_WRITE |
                    IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC);
    expect_attr(rig->passive, IBV_QPS_RTR, &attr, RTR_MASK);
    g_assert_cmpint(attr.dest_qp_num, ==, CLIENT_QPN);
    g_assert_cmpint(attr.max_dest_rd_atomic, ==, 4);
    g_assert_cmpint(attr.ah_attr.is_global, ==, 1);
    *psn = attr.rq_psn;
    expect_attr(rig->passive, IBV_QPS_RTS, &attr, RTS_MASK);
    g_assert_cmpint(attr.max_rd_atomic, ==, 3);
    g_assert_cmpint(attr.retry_cnt, ==, 6);
    g_assert_cmpint(attr.rnr_retry, ==, 5);
    g_assert_cmpint(attr.timeout, ==, 20);      /* the active side's wish */
    *peer_psn = attr.sq_psn;
}

static void test_connect(void)
{
    struct rdma_conn_param param = {
        .private_data = "welcome", .private_data_len = 7,
        .responder_resources = 2, .initiator_depth = 1,
        .rnr_retry_count = 1, .qp_num = SERVER_QPN,
    };
    uint32_t server_psn, client_psn;
    struct rdma_cm_event *event;
    struct ibv_qp_attr attr;
    uint8_t timeout = 20;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    g_assert_ok(rdma_set_option(rig.active, RDMA_OPTION_ID,
                                RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, 1));
    expect_attr(rig.active, IBV_QPS_INIT, &attr, INIT_MASK);
    g_assert_cmphex(attr.qp_access_flags, ==, 0);
    check_request(&rig);
    check_passive_attr(&rig, &server_psn, &client_psn);
    expect_no_attr(rig.active, IBV_QPS_RTR);

    g_assert_ok(rdma_accept(rig.passive, &param));
    event = expect(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_true(event->id == rig.active);
    expect_private(event, "welcome", 196);
    g_assert_cmpint(event->param.conn.responder_resources, ==, 1);
    g_assert_cmpint(event->param.conn.initiator_depth, ==, 2);
    g_assert_cmpint(event->param.conn.qp_num, ==, SERVER_QPN);
    g_assert_ok(rdma_ack_cm_event(event));

    expect_attr(rig.active, IBV_QPS_RTR, &attr, RTR_MASK);
    g_assert_cmpint(attr.dest_qp_num, ==, SERVER_QPN);
    g_assert_cmpint(attr.max_dest_rd_atomic, ==, 1);
    g_assert_cmphex(attr.rq_psn, ==, client_psn);
    expect_attr(rig.active, IBV_QPS_RTS, &attr, RTS_MASK);
    g_assert_cmpint(attr.max_rd_atomic, ==, 2);
    g_assert_cmpint(attr.rnr_retry, ==, 1);     /* the peer's wish */
    g_assert_cmphex(attr.sq_psn, ==, server_psn);

    expect_nothing(rig.server, 20);
    g_assert_ok(rdma_establish(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_ESTABLISHED, 0);
    rig_free(&rig);
}

static void make_qp(struct rdma_cm_id *id)
{
    struct ibv_qp_init_attr attr = {
        .cap = { .max_send_wr = 2, .max_recv_wr = 2, .max_send_sge = 1,
                 .max_recv_sge = 1 },
        .qp_type = IBV_QPT_RC,
    };

    g_assert_ok(rdma_create_qp(id, NULL, &attr));
    g_assert_nonnull(id->qp);
    g_assert_nonnull(id->send_cq);
    g_assert_cmpint(id->qp->state, ==, IBV_QPS_INIT);
    g_assert_errno(rdma_create_qp(id, NULL, &attr), EINVAL);
}

static void test_managed(void)
{
    struct rdma_conn_param param = { .responder_resources = 1 };
    struct rdma_cm_event *event;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    make_qp(rig.active);
    g_assert_ok(rdma_connect(rig.active, &param));
    event = expect(rig.server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    rig.passive = event->id;
    g_assert_cmpint(event->param.conn.qp_num, ==, rig.active->qp->qp_num);
    g_assert_ok(rdma_ack_cm_event(event));
    make_qp(rig.passive);
    g_assert_ok(rdma_accept(rig.passive, NULL));
    g_assert_cmpint(rig.passive->qp->state, ==, IBV_QPS_RTS);
    event = expect(rig.client, RDMA_CM_EVENT_ESTABLISHED, 0);
    expect_private(event, "", 196);
    g_assert_ok(rdma_ack_cm_event(event));
    g_assert_cmpint(rig.active->qp->state, ==, IBV_QPS_RTS);
    g_assert_errno(rdma_establish(rig.active), EINVAL);
    expect_only(rig.server, RDMA_CM_EVENT_ESTABLISHED, 0);

    g_assert_ok(rdma_disconnect(rig.active));
    g_assert_cmpint(rig.active->qp->state, ==, IBV_QPS_ERR);
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    g_assert_cmpint(rig.passive->qp->state, ==, IBV_QPS_RTS);
    g_assert_ok(rdma_disconnect(rig.passive));
    g_assert_cmpint(rig.passive->qp->state, ==, IBV_QPS_ERR);
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    rdma_destroy_qp(rig.active);
    rdma_destroy_qp(rig.passive);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

static void test_states(void)
{
    struct rdma_conn_param param = { .qp_num = CLIENT_QPN };
    struct rdma_cm_id *id;
    uint8_t much[255];
    Rig rig = rig_new();

    memset(much, 1, sizeof(much));
    param.private_data = much;
    g_assert_ok(rdma_create_id(rig.client, &id, NULL, RDMA_PS_TCP));
    g_assert_errno(rdma_resolve_route(id, 10), EINVAL);
    g_assert_errno(rdma_connect(id, &param), EINVAL);
    g_assert_errno(rdma_accept(id, &param), EINVAL);
    g_assert_errno(rdma_reject(id, NULL, 0), EINVAL);
    g_assert_errno(rdma_disconnect(id), EINVAL);
    g_assert_errno(rdma_establish(id), EINVAL);
    g_assert_errno(rdma_create_qp(id, NULL, &(struct ibv_qp_init_attr) { 0 }),
                   EINVAL);
    expect_no_attr(id, IBV_QPS_INIT);
    g_assert_ok(rdma_bind_addr(id, address("127.0.0.1", 0)));
    g_assert_errno(rdma_bind_addr(id, address("127.0.0.1", 0)), EINVAL);
    g_assert_errno(rdma_resolve_addr(id, NULL, address("::1", 1), 10), EINVAL);
    g_assert_ok(rdma_destroy_id(id));

    rig_listen(&rig, 1);
    g_assert_errno(rdma_listen(rig.listener, 1), EINVAL);
    param.private_data_len = 57;
    g_assert_errno(rdma_connect(rig.active, &param), EINVAL);
    g_assert_errno(rdma_connect(rig.active, NULL), EINVAL);
    param.private_data_len = 0;
    param.initiator_depth = 254;
    g_assert_errno(rdma_connect(rig.active, &param), EINVAL);
    rig_request(&rig);
    g_assert_errno(rdma_connect(rig.active, &param), EINVAL);
    param.initiator_depth = 0;
    param.private_data_len = 197;
    g_assert_errno(rdma_accept(rig.passive, &param), EINVAL);
    g_assert_errno(rdma_reject(rig.passive, much, 149), EINVAL);
    param.private_data_len = 196;
    g_assert_ok(rdma_accept(rig.passive, &param));
    g_assert_errno(rdma_accept(rig.passive, &param), EINVAL);
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_establish(rig.active));
    g_assert_errno(rdma_establish(rig.active), EINVAL);
    g_assert_errno(rdma_reject(rig.active, NULL, 0), EINVAL);
    expect_only(rig.server, RDMA_CM_EVENT_ESTABLISHED, 0);
    rig_free(&rig);
}

/* --------------------------------------------------------- ports, addresses */

/* 0 or the errno; *@id is left bound. */
static int bind_one(Rig *rig, struct rdma_cm_id **id, const char *text,
                    uint16_t port, int reuse, int v6only)
{
    g_assert_ok(rdma_create_id(rig->client, id, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_set_option(*id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR,
                                &reuse, sizeof(reuse)));
    g_assert_ok(rdma_set_option(*id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY,
                                &v6only, sizeof(v6only)));
    return rdma_bind_addr(*id, address(text, port)) ? errno : 0;
}

static void test_ports(void)
{
    struct rdma_cm_id *id[6];
    Rig rig = rig_new();
    uint16_t port;

    g_assert_ok(bind_one(&rig, &id[0], "::", 0, 0, 1));
    port = ntohs(rdma_get_src_port(id[0]));
    g_assert_cmpuint(port, !=, 0);
    g_assert_null(id[0]->verbs);
    g_assert_cmpint(bind_one(&rig, &id[1], "::1", port, 0, 0), ==, EADDRINUSE);
    /* [::] that leaves IPv4 to others */
    g_assert_ok(bind_one(&rig, &id[2], "127.0.0.1", port, 1, 0));
    g_assert_nonnull(id[2]->verbs);
    g_assert_cmpint(bind_one(&rig, &id[3], "127.0.0.1", port, 0, 0), ==,
                    EADDRINUSE);
    g_assert_ok(bind_one(&rig, &id[4], "127.0.0.1", port, 1, 0));
    g_assert_errno(rdma_listen(id[4], 1), EADDRINUSE);
    g_assert_ok(rdma_destroy_id(id[2]));
    g_assert_ok(rdma_listen(id[4], 1));
    g_assert_cmpint(bind_one(&rig, &id[2], "127.0.0.1", port, 1, 0), ==,
                    EADDRINUSE);
    g_assert_cmpint(bind_one(&rig, &id[5], "203.0.113.7", 0, 0, 0), ==,
                    EADDRNOTAVAIL);
    for (unsigned i = 0; i < G_N_ELEMENTS(id); i++) {
        g_assert_ok(rdma_destroy_id(id[i]));
    }
    /* All of it is free again. */
    g_assert_ok(bind_one(&rig, &id[0], "::", port, 0, 0));
    g_assert_ok(rdma_destroy_id(id[0]));
    rig_free(&rig);
}

static void test_unresolved(void)
{
    int64_t start = g_get_monotonic_time();
    struct rdma_cm_id *id;
    Rig rig = rig_new();

    g_assert_ok(rdma_create_id(rig.client, &id, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_resolve_addr(id, NULL, address("203.0.113.7", 4),
                                  3000));
    /* It has not waited */
    expect_nothing(rig.client, 0);
    expect_only(rig.client, RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT);
    g_assert_cmpfloat(seconds_since(start), >=, 3);
    /* The same identifier may try another address. */
    g_assert_ok(rdma_resolve_addr(id, NULL, address("127.0.0.1", 4), 300));
    expect_only(rig.client, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
    g_assert_nonnull(id->verbs);
    g_assert_cmpuint(rdma_get_src_port(id), !=, 0);
    g_assert_cmpuint(rdma_get_dst_port(id), ==, htons(4));
    g_assert_ok(rdma_destroy_id(id));
    rig_free(&rig);
}

/* [::] takes IPv4, too, and the connection shows the IPv4 addresses. */
static void test_any_address(void)
{
    struct rdma_cm_event *event;
    Rig rig = rig_new();

    g_assert_ok(rdma_create_id(rig.server, &rig.listener, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_bind_addr(rig.listener, address("::", 0)));
    g_assert_ok(rdma_listen(rig.listener, 1));
    g_assert_null(rig.listener->verbs);
    rig.active = rig_route(&rig, ntohs(rdma_get_src_port(rig.listener)));
    rig_ask(&rig);
    event = expect(rig.server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    rig.passive = event->id;
    g_assert_cmpint(rdma_get_local_addr(event->id)->sa_family, ==, AF_INET);
    g_assert_nonnull(event->id->verbs);
    g_assert_ok(rdma_ack_cm_event(event));
    rig_free(&rig);
}

/* ------------------------------------------------------------------ refusal */

static void test_no_listener(void)
{
    struct rdma_cm_event *event;
    Rig rig = rig_new();

    rig.active = rig_route(&rig, 9);
    rig_ask(&rig);
    event = expect(rig.client, RDMA_CM_EVENT_REJECTED, 8);
    expect_private(event, "", 148);
    g_assert_ok(rdma_ack_cm_event(event));
    rig_free(&rig);
}

static void test_reject(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    struct rdma_cm_event *event;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_request(&rig);
    g_assert_ok(rdma_reject(rig.passive, "no", 2));
    event = expect(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    expect_private(event, "no", 148);
    g_assert_ok(rdma_ack_cm_event(event));
    g_assert_errno(rdma_accept(rig.passive, &param), EINVAL);
    rig_free(&rig);
}

/* The active side may refuse as well, after it was accepted. */
static void test_reject_answer(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_request(&rig);
    g_assert_ok(rdma_accept(rig.passive, &param));
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_reject(rig.active, NULL, 0));
    expect_only(rig.server, RDMA_CM_EVENT_REJECTED, 28);
    rig_free(&rig);
}

/* Requests that nobody has taken are refused with the listener's end. */
static void test_listener_destroyed(void)
{
    Rig rig = rig_new();
    struct pollfd pfd = { .fd = rig.server->fd, .events = POLLIN };

    rig_listen(&rig, 1);
    rig_ask(&rig);
    g_assert_cmpint(poll(&pfd, 1, 1000), ==, 1);
    g_assert_ok(rdma_destroy_id(rig.listener));
    rig.listener = NULL;
    expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    expect_nothing(rig.server, 0);
    rig_free(&rig);
}

/*
 * A listener whose program does not look: as with the kernel, what is above
 * the backlog is dropped, and comes through once there is room.
 */
static void test_backlog(void)
{
    struct rdma_cm_event *event;
    struct rdma_cm_id *second, *server_side[2];
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_ask(&rig);
    second = rig.active;
    rig.active = rig_route(&rig, ntohs(rdma_get_src_port(rig.listener)));
    rig_ask(&rig);
    expect_nothing(rig.client, CM_TIMEOUT_MS / 2);
    for (unsigned i = 0; i < 2; i++) {
        event = expect(rig.server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
        server_side[i] = event->id;
        g_assert_ok(rdma_ack_cm_event(event));
    }
    g_assert_cmpuint(rdma_get_dst_port(server_side[1]), ==,
                     rdma_get_src_port(rig.active));
    for (unsigned i = 0; i < 2; i++) {
        g_assert_ok(rdma_destroy_id(server_side[i]));
        expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    }
    g_assert_ok(rdma_destroy_id(second));
    rig_free(&rig);
}

static void test_never_accepted(void)
{
    int64_t start = g_get_monotonic_time();
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_request(&rig);
    expect_only(rig.client, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
    g_assert_cmpfloat(seconds_since(start), >=, GIVE_UP_SECONDS);
    /* One request, however often it was repeated. */
    expect_nothing(rig.server, 0);
    rig_free(&rig);
}

static void test_never_established(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_request(&rig);
    g_assert_ok(rdma_accept(rig.passive, &param));
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    expect_only(rig.server, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
    rig_free(&rig);
}

int main(int argc, char **argv)
{
    cm_test_init(&argc, &argv);
    g_test_add_func("/cm/connect", test_connect);
    g_test_add_func("/cm/managed", test_managed);
    g_test_add_func("/cm/states", test_states);
    g_test_add_func("/cm/ports", test_ports);
    g_test_add_func("/cm/unresolved", test_unresolved);
    g_test_add_func("/cm/any-address", test_any_address);
    g_test_add_func("/cm/no-listener", test_no_listener);
    g_test_add_func("/cm/reject", test_reject);
    g_test_add_func("/cm/reject-answer", test_reject_answer);
    g_test_add_func("/cm/listener-destroyed", test_listener_destroyed);
    g_test_add_func("/cm/backlog", test_backlog);
    g_test_add_func("/cm/never-accepted", test_never_accepted);
    g_test_add_func("/cm/never-established", test_never_established);
    return g_test_run();
}
