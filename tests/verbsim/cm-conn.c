/*
 * verbsim: what a program asks of a connection
 *
 * rdma_connect(), rdma_accept(), rdma_reject(), rdma_establish(),
 * rdma_disconnect() and their like, on the program's threads, and the sending
 * of messages for them and for cm-wire.c.
 *
 * REQ, REP and DREQ wait for an answer: they are kept in the identifier and
 * repeated by its timer.  The others are sent once; if one is lost, the peer
 * repeats what it answered, and it is sent again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "cm.h"

enum { DEFAULT_RETRIES = 7, MAX_RETRIES = 7 };

static const char *const kind_names[] = {
    [CM_REQ] = "REQ",
    [CM_REP] = "REP",
    [CM_RTU] = "RTU",
    [CM_REJ] = "REJ",
    [CM_DREQ] = "DREQ",
    [CM_DREP] = "DREP",
};

/* ----------------------------------------------------------------- sending */

void cm_send(CmId *id, CmMsg *msg)
{
    msg->src_id = id->number;
    msg->dst_id = id->peer_number;
    if (id->peer) {
        VS_TRACE("cm-send", "kind=%s id=%u to=%u qp=%u reason=%u",
                 kind_names[msg->kind], id->number, id->peer_number,
                 id->qp_num, msg->reason);
        vs_peer_send_cm(id->peer, msg, sizeof(*msg));
    }
}

void cm_send_kind(CmId *id, CmKind kind)
{
    CmMsg msg = { .kind = kind, .qp_num = id->qp_num };

    cm_send(id, &msg);
}

void cm_send_reject(CmId *id, uint32_t reason, const void *data,
                    uint8_t bytes)
{
    CmMsg msg = { .kind = CM_REJ, .reason = reason, .private_bytes = bytes };

    if (bytes) {
        memcpy(msg.private_data, data, bytes);
    }
    cm_send(id, &msg);
}

/*
 * Who listens may change between two attempts.  With our own link down the
 * request is lost, whoever listens.  False: a host without a listener, which
 * says so.
 */
bool cm_find_server(CmId *id)
{
    int slot;

    if (!vs_port_up) {
        return true;
    }
    if (id->peer) {
        vs_peer_unref(id->peer);
        id->peer = NULL;
    }
    slot = vs_fabric_find(&id->id.route.addr.dst_addr);
    if (slot >= 0) {
        id->peer = vs_peer_get((unsigned)slot);
    }
    return id->peer != NULL;
}

void cm_send_request(CmId *id)
{
    uint64_t wait = vs_shape.cm_timeout_ms * UINT64_C(1000000);

    if (id->sent.kind == CM_REQ && !cm_find_server(id)) {
        id->unserved = true;
        wait = CM_LAST_LOOK_NS + 2 * vs_shape.latency_ns;
    } else {
        cm_send(id, &id->sent);
    }
    vs_timer_set(&id->timer, vs_now_ns() + wait);
}

/* A message that will be repeated. */
static CmMsg *new_request(CmId *id, CmKind kind)
{
    memset(&id->sent, 0, sizeof(id->sent));
    id->sent.kind = kind;
    id->sent.qp_num = id->qp_num;
    id->tries = 0;
    return &id->sent;
}

int cm_send_ready(CmId *id)
{
    if (id->state != CM_REP_RCVD) {
        return -EINVAL;
    }
    cm_set_state(id, CM_ESTABLISHED);
    cm_send_kind(id, CM_RTU);
    return 0;
}

void cm_enter_timewait(CmId *id)
{
    cm_set_state(id, CM_TIMEWAIT);
    vs_timer_set(&id->timer,
                 vs_now_ns() + (UINT64_C(4096) << vs_shape.ack_timeout));
}

void cm_end_qp(const CmId *id)
{
    VsQp *qp = vs_shape.iwarp ? vs_qp_find(id->qp_num) : NULL;

    if (qp) {
        vs_qp_error(qp);
    }
}

void cm_break(CmId *id)
{
    VsQp *qp = vs_qp_find(id->qp_num);

    if (id->state != CM_ESTABLISHED && id->state != CM_REP_SENT &&
        id->state != CM_REP_RCVD) {
        return;
    }
    cm_send_kind(id, CM_DREQ);
    vs_timer_clear(&id->timer);
    cm_set_state(id, CM_DREQ_RCVD);
    if (qp) {
        vs_qp_error(qp);
    }
    cm_event_post_new(id, RDMA_CM_EVENT_DISCONNECTED, 0);
}

/* -------------------------------------------------------------- connecting */

static bool too_deep(uint8_t wanted, uint8_t device_max)
{
    return wanted != device_max && wanted > vs_shape.max_rd_atomic;
}

/* Are the program's parameters good?  Without a queue pair they must be. */
static bool valid_param(const CmId *id, const struct rdma_conn_param *param,
                        unsigned max_private)
{
    if (!param) {
        return id->id.qp != NULL;
    }
    return param->private_data_len <= max_private &&
           (param->private_data || !param->private_data_len) &&
           !too_deep(param->responder_resources, RDMA_MAX_RESP_RES) &&
           !too_deep(param->initiator_depth, RDMA_MAX_INIT_DEPTH);
}

/* What the program asks for, or as much as it may have. */
static uint8_t depth(bool given, uint8_t wanted, uint8_t device_max,
                     uint8_t otherwise)
{
    if (given && wanted != device_max) {
        return wanted;
    }
    return MIN(otherwise, vs_shape.max_rd_atomic);
}

static void set_depths(CmId *id, const struct rdma_conn_param *param)
{
    id->responder_resources = depth(param, param ? param->responder_resources
                                                 : 0,
                                    RDMA_MAX_RESP_RES,
                                    id->responder_resources);
    id->initiator_depth = depth(param, param ? param->initiator_depth : 0,
                                RDMA_MAX_INIT_DEPTH, id->initiator_depth);
}

static void fill(CmId *id, CmMsg *msg, const struct rdma_conn_param *param)
{
    msg->psn = id->psn;
    msg->responder_resources = id->responder_resources;
    msg->initiator_depth = id->initiator_depth;
    msg->retry_count = DEFAULT_RETRIES;
    msg->rnr_retry_count = DEFAULT_RETRIES;
    msg->ack_timeout = id->ack_timeout >= 0 ? (uint8_t)id->ack_timeout :
                                              vs_shape.ack_timeout;
    if (!param) {
        return;
    }
    msg->flow_control = param->flow_control;
    msg->retry_count = MIN(param->retry_count, MAX_RETRIES);
    msg->rnr_retry_count = MIN(param->rnr_retry_count, MAX_RETRIES);
    msg->srq = param->srq;
    msg->private_bytes = param->private_data_len;
    if (param->private_data_len) {
        memcpy(msg->private_data, param->private_data,
               param->private_data_len);
    }
}

int rdma_connect(struct rdma_cm_id *rid, struct rdma_conn_param *param)
{
    CmId *id = cm_id(rid);
    CmMsg *req;

    cm_lock();
    if (!cm_id_alive(rid, "rdma_connect") || id->state != CM_ROUTE_RESOLVED ||
        !valid_param(id, param, CM_REQ_PRIVATE)) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    id->responder_resources = id->initiator_depth = UINT8_MAX;
    set_depths(id, param);
    id->qp_num = rid->qp ? rid->qp->qp_num : param->qp_num;
    req = new_request(id, CM_REQ);
    fill(id, req, param);
    req->src = rid->route.addr.src_storage;
    req->dst = rid->route.addr.dst_storage;
    id->retry_count = req->retry_count;
    cm_set_state(id, CM_REQ_SENT);
    cm_send_request(id);
    cm_unlock();
    return cm_complete(id);
}

int rdma_accept(struct rdma_cm_id *rid, struct rdma_conn_param *param)
{
    CmId *id = cm_id(rid);
    int error;

    cm_lock();
    if (!cm_id_alive(rid, "rdma_accept") || id->state != CM_REQ_RCVD ||
        !valid_param(id, param, CM_REP_PRIVATE)) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    set_depths(id, param);
    id->qp_num = rid->qp ? rid->qp->qp_num : param->qp_num;
    error = vs_shape.iwarp ? cm_qp_connect(id) : 0;
    cm_unlock();
    if (error) {
        return cm_errno(-error);
    }
    if (rid->qp && !vs_shape.iwarp) {
        error = cm_qp_ready(rid, id->responder_resources,
                            id->initiator_depth);
        if (error) {
            cm_qp_error(rid);
            return cm_errno(-error);
        }
    }
    cm_lock();
    if (id->state != CM_REQ_RCVD) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    fill(id, new_request(id, CM_REP), param);
    cm_set_state(id, CM_REP_SENT);
    cm_send_request(id);
    cm_unlock();
    return cm_complete(id);
}

int rdma_establish(struct rdma_cm_id *rid)
{
    int error;

    cm_lock();
    error = !cm_id_alive(rid, "rdma_establish") || rid->qp ? -EINVAL :
            cm_send_ready(cm_id(rid));
    cm_unlock();
    return cm_result(error);
}

int rdma_notify(struct rdma_cm_id *rid, enum ibv_event_type event)
{
    CmId *id = cm_id(rid);
    int error = 0;

    cm_lock();
    if (!cm_id_alive(rid, "rdma_notify") || event != IBV_EVENT_COMM_EST) {
        error = -EINVAL;
    } else if (id->state == CM_REP_SENT) {
        vs_timer_clear(&id->timer);
        cm_set_state(id, CM_ESTABLISHED);
        cm_event_post_new(id, RDMA_CM_EVENT_ESTABLISHED, 0);
    } else if (id->state != CM_ESTABLISHED) {
        error = -EINVAL;
    }
    cm_unlock();
    return cm_result(error);
}

/* The next request of a synchronous listener. */
int rdma_get_request(struct rdma_cm_id *listen, struct rdma_cm_id **id)
{
    CmId *listener = cm_id(listen);
    struct rdma_cm_event *event;

    if (!listener->sync) {
        return cm_errno(EINVAL);
    }
    cm_drop_kept_event(listen);
    if (rdma_get_cm_event(listen->channel, &event) < 0) {
        return -1;
    }
    if (event->status || event->event != RDMA_CM_EVENT_CONNECT_REQUEST) {
        int error = event->status ? ABS(event->status) : EINVAL;

        listen->event = event;
        return cm_errno(error);
    }
    if (listener->ep_attr) {
        struct ibv_qp_init_attr attr = *listener->ep_attr;

        if (rdma_create_qp(event->id, listener->ep_pd, &attr) < 0) {
            int error = errno;

            rdma_reject(event->id, NULL, 0);
            rdma_destroy_id(event->id);
            rdma_ack_cm_event(event);
            return cm_errno(error);
        }
    }
    *id = event->id;
    (*id)->event = event;
    return 0;
}

/* ------------------------------------------------------------------ ending */

int rdma_reject(struct rdma_cm_id *rid, const void *private_data,
                uint8_t private_data_len)
{
    CmId *id = cm_id(rid);

    cm_lock();
    if (!cm_id_alive(rid, "rdma_reject") ||
        private_data_len > CM_REJ_PRIVATE ||
        (id->state != CM_REQ_RCVD && id->state != CM_REP_SENT &&
         id->state != CM_REP_RCVD && id->state != CM_REQ_SENT)) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    cm_send_reject(id, CM_REJ_CONSUMER, private_data, private_data_len);
    vs_timer_clear(&id->timer);
    cm_set_state(id, CM_OVER);
    cm_unlock();
    return 0;
}

/*
 * As the kernel: an established connection is asked to end, one that the peer
 * has ended is answered, and there is nothing to do for one that never was or
 * is no more.
 */
int rdma_disconnect(struct rdma_cm_id *rid)
{
    CmId *id = cm_id(rid);
    bool event_follows = false;
    int error = 0;

    cm_lock();
    if (!cm_id_alive(rid, "rdma_disconnect") || id->state < CM_REQ_SENT ||
        id->state == CM_REMOVED) {
        error = -EINVAL;
    }
    cm_unlock();
    if (error) {
        return cm_errno(-error);
    }
    cm_qp_error(rid);
    cm_lock();
    if (id->state == CM_ESTABLISHED) {
        new_request(id, CM_DREQ);
        cm_set_state(id, CM_DREQ_SENT);
        cm_send_request(id);
        cm_end_qp(id);
        event_follows = true;
    } else if (id->state == CM_DREQ_RCVD) {
        cm_send_kind(id, CM_DREP);
        cm_enter_timewait(id);
        event_follows = true;
    }
    cm_unlock();
    return event_follows ? cm_complete(id) : 0;
}
