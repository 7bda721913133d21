/*
 * Conformance tests: what those of librdmacm share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See rig-cm.h.
 */
#include <arpa/inet.h>
#include <string.h>

#include "rig-cm.h"

RigCm *rig_cm(void)
{
    RigCm *cm = g_new0(RigCm, 1);

    cm->channel = rdma_create_event_channel();
    g_assert_nonnull(cm->channel);
    g_assert_cmpint(rdma_create_id(cm->channel, &cm->id, cm, RDMA_PS_TCP), ==,
                    0);
    return cm;
}

void rig_cm_free(RigCm *cm)
{
    if (cm->id) {
        if (cm->id->qp) {
            rdma_destroy_qp(cm->id);
        }
        g_assert_cmpint(rdma_destroy_id(cm->id), ==, 0);
    }
    rdma_destroy_event_channel(cm->channel);
    g_free(cm);
}

RigCmEvent rig_cm_event(RigCm *cm)
{
    struct rdma_cm_event *event;
    RigCmEvent copy = { 0 };

    if (!rig_readable(cm->channel->fd, RIG_WAIT_MS)) {
        g_error("no CM event came");
    }
    g_assert_cmpint(rdma_get_cm_event(cm->channel, &event), ==, 0);
    copy.type = event->event;
    copy.status = event->status;
    copy.id = event->id;
    copy.listen_id = event->listen_id;
    copy.conn = event->param.conn;
    copy.priv_bytes = event->param.conn.private_data_len;
    if (copy.priv_bytes) {
        memcpy(copy.priv, event->param.conn.private_data, copy.priv_bytes);
    }
    g_assert_cmpint(rdma_ack_cm_event(event), ==, 0);
    return copy;
}

RigCmEvent rig_cm_expect(RigCm *cm, enum rdma_cm_event_type type)
{
    RigCmEvent event = rig_cm_event(cm);

    if (event.type != type) {
        g_error("%s (status %d) came, not %s", rdma_event_str(event.type),
                event.status, rdma_event_str(type));
    }
    return event;
}

void rig_cm_quiet(RigCm *cm)
{
    if (rig_readable(cm->channel->fd, RIG_QUIET_MS)) {
        g_error("an unexpected CM event: %s",
                rdma_event_str(rig_cm_event(cm).type));
    }
}

RigCm *rig_cm_listen(int family)
{
    struct sockaddr_storage address = rig_address(family, 0);
    RigCm *cm = rig_cm();

    g_assert_cmpint(rdma_bind_addr(cm->id, (struct sockaddr *)&address), ==,
                    0);
    g_assert_cmpint(rdma_listen(cm->id, 8), ==, 0);
    return cm;
}

uint16_t rig_cm_port(const RigCm *cm)
{
    return ntohs(rdma_get_src_port(cm->id));
}

void rig_cm_resolve(RigCm *cm, int family, uint16_t port)
{
    struct sockaddr_storage address = rig_address(family, port);

    g_assert_cmpint(rdma_resolve_addr(cm->id, NULL,
                                      (struct sockaddr *)&address,
                                      RIG_RESOLVE_MS), ==, 0);
    rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_RESOLVED);
    g_assert_cmpint(rdma_resolve_route(cm->id, RIG_RESOLVE_MS), ==, 0);
    rig_cm_expect(cm, RDMA_CM_EVENT_ROUTE_RESOLVED);
}

void rig_cm_create_qp(RigCm *cm)
{
    struct ibv_qp_init_attr attr = {
        .qp_type = IBV_QPT_RC,
        .cap = { .max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1,
                 .max_recv_sge = 1 },
    };

    g_assert_cmpint(rdma_create_qp(cm->id, NULL, &attr), ==, 0);
    g_assert_nonnull(cm->id->qp);
    g_assert_nonnull(cm->id->pd);
}

struct rdma_conn_param rig_cm_param(const void *priv, size_t bytes)
{
    return (struct rdma_conn_param) {
        .private_data = priv,
        .private_data_len = bytes,
        .responder_resources = 2,
        .initiator_depth = 1,
        .retry_count = 6,
        .rnr_retry_count = 5,
    };
}

RigCm *rig_cm_ask(int family, uint16_t port, const void *priv, size_t bytes)
{
    struct rdma_conn_param param = rig_cm_param(priv, bytes);
    RigCm *cm = rig_cm();

    rig_cm_resolve(cm, family, port);
    rig_cm_create_qp(cm);
    g_assert_cmpint(rdma_connect(cm->id, &param), ==, 0);
    return cm;
}

RigCm *rig_cm_take(RigCm *listener, RigCmEvent *event)
{
    RigCmEvent own = rig_cm_expect(listener, RDMA_CM_EVENT_CONNECT_REQUEST);
    RigCm *cm = g_new0(RigCm, 1);

    g_assert_true(own.listen_id == listener->id);
    g_assert_true(own.id != listener->id);
    cm->channel = rdma_create_event_channel();
    g_assert_nonnull(cm->channel);
    cm->id = own.id;
    g_assert_cmpint(rdma_migrate_id(cm->id, cm->channel), ==, 0);
    if (event) {
        *event = own;
    }
    return cm;
}

RigCm *rig_cm_accept(RigCm *listener)
{
    struct rdma_conn_param param = rig_cm_param(NULL, 0);
    RigCm *cm = rig_cm_take(listener, NULL);

    rig_cm_create_qp(cm);
    g_assert_cmpint(rdma_accept(cm->id, &param), ==, 0);
    return cm;
}

RigCmPair rig_cm_pair(int family)
{
    RigCmPair pair = { .listener = rig_cm_listen(family) };

    pair.active = rig_cm_ask(family, rig_cm_port(pair.listener), NULL, 0);
    pair.passive = rig_cm_accept(pair.listener);
    rig_cm_expect(pair.active, RDMA_CM_EVENT_ESTABLISHED);
    rig_cm_expect(pair.passive, RDMA_CM_EVENT_ESTABLISHED);
    return pair;
}

void rig_cm_pair_free(RigCmPair pair)
{
    rig_cm_free(pair.active);
    rig_cm_free(pair.passive);
    rig_cm_free(pair.listener);
}

void rig_cm_send(RigCm *from, RigCm *to)
{
    uint8_t out[64], in[64] = { 0 };
    struct ibv_mr *mr_out, *mr_in;
    struct ibv_sge sge_out = { (uintptr_t)out, sizeof(out), 0 };
    struct ibv_sge sge_in = { (uintptr_t)in, sizeof(in), 0 };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 1, .sg_list = &sge_out, .num_sge = 1,
        .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED,
    };
    struct ibv_recv_wr *bad_recv, recv = {
        .wr_id = 2, .sg_list = &sge_in, .num_sge = 1,
    };

    rig_fill(out, sizeof(out), 5);
    mr_out = ibv_reg_mr(from->id->pd, out, sizeof(out), 0);
    mr_in = ibv_reg_mr(to->id->pd, in, sizeof(in), IBV_ACCESS_LOCAL_WRITE);
    g_assert_nonnull(mr_out);
    g_assert_nonnull(mr_in);
    sge_out.lkey = mr_out->lkey;
    sge_in.lkey = mr_in->lkey;
    g_assert_cmpint(ibv_post_recv(to->id->qp, &recv, &bad_recv), ==, 0);
    g_assert_cmpint(ibv_post_send(from->id->qp, &wr, &bad), ==, 0);
    rig_done(from->id->send_cq, 1, IBV_WC_SUCCESS);
    rig_done(to->id->recv_cq, 2, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(in, sizeof(in), 5));
    g_assert_cmpint(ibv_dereg_mr(mr_out), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(mr_in), ==, 0);
}
