/*
 * verbsim: what the peer and the clock do to a connection
 *
 * Called by the NIC thread with the lock held: packets, timers, peers that
 * died, the device that went away, the end of a freeze, and faults that end a
 * connection.  Here are the passive side's first steps, and the answers.
 *
 * A state is set before the event that tells of it is posted: the fault script
 * may act on the identifier as it posts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "cm.h"

/* The same process, though perhaps by another of two channels. */
static bool same_peer(const VsPeer *a, const VsPeer *b)
{
    return a == b || (a && b && a->slot == b->slot && a->pid == b->pid);
}

/* As a connection's event has it: always as long as the message can carry. */
static void set_private(CmEvent *event, const CmMsg *msg, uint8_t bytes)
{
    memcpy(event->private_data, msg->private_data, bytes);
    event->ev.param.conn.private_data = event->private_data;
    event->ev.param.conn.private_data_len = bytes;
}

static void reply(VsPeer *peer, const CmMsg *to, CmKind kind, uint32_t reason)
{
    CmMsg msg = { .kind = kind, .src_id = to->dst_id, .dst_id = to->src_id,
                  .reason = reason };

    vs_peer_send_cm(peer, &msg, sizeof(msg));
}

/* -------------------------------------------------------------- the request */

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family) {
        return false;
    }
    if (a->sa_family == AF_INET6) {
        return IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)a)->sin6_addr,
                                  &((const struct sockaddr_in6 *)b)->sin6_addr);
    }
    return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
           ((const struct sockaddr_in *)b)->sin_addr.s_addr;
}

/* How well a listener's address fits: 0: not, 2: exactly. */
static int fit(const CmId *id, const struct sockaddr *dst)
{
    const struct sockaddr *own = &id->id.route.addr.src_addr;

    if (id->state != CM_LISTEN || cm_addr_port(own) != cm_addr_port(dst)) {
        return 0;
    }
    if (!cm_addr_is_any(own)) {
        return same_address(own, dst) ? 2 : 0;
    }
    return own->sa_family == dst->sa_family ||
           (own->sa_family == AF_INET6 && !id->v6only);
}

static CmId *find_listener(const struct sockaddr *dst)
{
    g_autoptr(GArray) numbers = cm_id_numbers();
    CmId *best = NULL;
    int best_fit = 0;

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));
        int found = fit(id, dst);

        if (found > best_fit) {
            best_fit = found;
            best = id;
        }
    }
    return best;
}

/* The identifier that we have made already for @peer's number. */
static CmId *find_passive(const VsPeer *peer, uint32_t peer_number)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));

        if (id->peer_number == peer_number && same_peer(id->peer, peer) &&
            id->passive && id->state != CM_OVER) {
            return id;
        }
    }
    return NULL;
}

static CmId *new_passive(CmId *listener, VsPeer *peer, const CmMsg *req)
{
    CmId *id = cm_id_new(listener->id.channel, listener->id.context,
                         listener->id.ps);
    struct rdma_addr *route = &id->id.route.addr;

    id->passive = true;
    id->listener = listener;
    id->peer = vs_peer_ref(peer);
    id->peer_number = req->src_id;
    id->peer_qp_num = req->qp_num;
    id->peer_psn = req->psn;
    id->responder_resources = req->initiator_depth;
    id->initiator_depth = req->responder_resources;
    id->retry_count = req->retry_count;
    id->rnr_retry_count = req->rnr_retry_count;
    id->peer_ack_timeout = req->ack_timeout;
    id->tos = listener->tos;
    route->src_storage = req->dst;
    route->dst_storage = req->src;
    cm_use_device(id);
    cm_fill_path(id);
    cm_set_state(id, CM_REQ_RCVD);
    return id;
}

CmId *cm_id_twin(const CmId *fresh)
{
    CmId *id = cm_id_new(fresh->id.channel, fresh->id.context, fresh->id.ps);
    uint32_t number = id->number, psn = id->psn;
    struct rdma_cm_id keep = id->id;

    *id = *fresh;
    id->number = number;
    id->psn = psn;
    id->known = false;
    keep.route.addr = fresh->id.route.addr;
    id->id = keep;
    vs_peer_ref(id->peer);
    g_queue_init(&id->late);
    memset(&id->timer, 0, sizeof(id->timer));
    memset(&id->late_timer, 0, sizeof(id->late_timer));
    id->timer.fire = cm_timer_fired;
    id->timer.opaque = id;
    cm_use_device(id);
    cm_fill_path(id);
    return id;
}

static void request_came(VsPeer *peer, const CmMsg *req)
{
    CmId *listener, *id = find_passive(peer, req->src_id);
    struct rdma_conn_param *param;
    CmEvent *event;

    if (id) {
        /* Our answer was lost, or the program has not given one yet. */
        if (id->state == CM_REP_SENT) {
            cm_send(id, &id->sent);
        }
        return;
    }
    listener = find_listener((const struct sockaddr *)&req->dst);
    if (!listener) {
        reply(peer, req, CM_REJ, CM_REJ_INVALID_SERVICE_ID);
        return;
    }
    if (listener->waiting >= listener->backlog) {
        /* As the kernel: dropped, so that the peer tries again. */
        VS_TRACE("cm-backlog", "id=%u waiting=%d", listener->number,
                 listener->waiting);
        return;
    }
    id = new_passive(listener, peer, req);
    listener->waiting++;
    event = cm_event_new(listener, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    event->fresh = id;
    event->ev.id = &id->id;
    event->ev.listen_id = &listener->id;
    set_private(event, req, CM_REQ_PRIVATE);
    param = &event->ev.param.conn;
    param->responder_resources = req->initiator_depth;
    param->initiator_depth = req->responder_resources;
    param->flow_control = req->flow_control;
    param->retry_count = req->retry_count;
    param->rnr_retry_count = req->rnr_retry_count;
    param->srq = req->srq;
    param->qp_num = req->qp_num;
    cm_event_post(event);
}

/* -------------------------------------------------------------- the answers */

static void answer_came(VsPeer *peer, const CmMsg *rep)
{
    CmId *id = cm_id_find(rep->dst_id);
    struct rdma_conn_param *param;
    CmEvent *event;

    if (!id || !same_peer(id->peer, peer)) {
        return;
    }
    if (id->state == CM_ESTABLISHED && id->peer_number == rep->src_id) {
        cm_send_kind(id, CM_RTU);       /* the first one was lost */
        return;
    }
    if (id->state != CM_REQ_SENT) {
        if (id->peer_number != rep->src_id) {
            reply(peer, rep, CM_REJ, CM_REJ_STALE_CONNECTION);
        }
        return;
    }
    vs_timer_clear(&id->timer);
    id->peer_number = rep->src_id;
    id->peer_qp_num = rep->qp_num;
    id->peer_psn = rep->psn;
    id->responder_resources = rep->initiator_depth;
    id->initiator_depth = rep->responder_resources;
    id->rnr_retry_count = rep->rnr_retry_count;
    cm_set_state(id, CM_REP_RCVD);
    if (vs_shape.iwarp && cm_qp_connect(id) < 0) {
        cm_send_reject(id, CM_REJ_CONSUMER, NULL, 0);
        cm_set_state(id, CM_OVER);
        cm_event_post_new(id, RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL);
        return;
    }
    event = cm_event_new(id, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    if (vs_shape.iwarp) {
        event->ev.event = RDMA_CM_EVENT_ESTABLISHED;
        cm_send_ready(id);
    }
    set_private(event, rep, CM_REP_PRIVATE);
    param = &event->ev.param.conn;
    param->responder_resources = rep->initiator_depth;
    param->initiator_depth = rep->responder_resources;
    param->flow_control = rep->flow_control;
    param->rnr_retry_count = rep->rnr_retry_count;
    param->srq = rep->srq;
    param->qp_num = rep->qp_num;
    cm_event_post(event);
}

/* The connection attempt is over, for us. */
static void refused(CmId *id, const CmMsg *rej)
{
    CmEvent *event = cm_event_new(id, RDMA_CM_EVENT_REJECTED,
                                  (int)rej->reason);

    vs_timer_clear(&id->timer);
    cm_set_state(id, CM_OVER);
    set_private(event, rej, CM_REJ_PRIVATE);
    cm_event_post(event);
}

static bool is_connecting(const CmId *id)
{
    return id->state == CM_REQ_SENT || id->state == CM_REP_RCVD ||
           id->state == CM_REQ_RCVD || id->state == CM_REP_SENT;
}

/* The other side's identifier of a connection that both know. */
static bool from_partner(const CmId *id, const VsPeer *peer, const CmMsg *msg)
{
    return id && same_peer(id->peer, peer) && id->peer_number == msg->src_id;
}

/*
 * Of a request that was never taken, or of a listener that never was, the peer
 * may have no number for us; a passive side's number may be new to us.
 */
static CmId *find_rejected(VsPeer *peer, const CmMsg *rej)
{
    CmId *id = rej->dst_id ? cm_id_find(rej->dst_id) :
                             find_passive(peer, rej->src_id);

    if (!id || !same_peer(id->peer, peer) ||
        (id->state != CM_REQ_SENT && id->peer_number != rej->src_id)) {
        return NULL;
    }
    return id;
}

static void peer_ends(CmId *id)
{
    vs_timer_clear(&id->timer);
    switch (id->state) {
    case CM_ESTABLISHED:
    case CM_REP_SENT:
        cm_set_state(id, CM_DREQ_RCVD);
        cm_end_qp(id);
        cm_event_post_new(id, RDMA_CM_EVENT_DISCONNECTED, 0);
        break;
    case CM_DREQ_SENT:
        /* Both at the same time: each answers the other. */
        cm_send_kind(id, CM_DREP);
        cm_enter_timewait(id);
        cm_event_post_new(id, RDMA_CM_EVENT_DISCONNECTED, 0);
        break;
    default:
        break;
    }
}

static void end_came(VsPeer *peer, const CmMsg *dreq)
{
    CmId *id = cm_id_find(dreq->dst_id);

    if (!from_partner(id, peer, dreq)) {
        reply(peer, dreq, CM_DREP, 0);
        return;
    }
    switch (id->state) {
    case CM_ESTABLISHED:
    case CM_REP_SENT:
    case CM_DREQ_SENT:
        peer_ends(id);
        break;
    case CM_TIMEWAIT:
    case CM_OVER:
        cm_send_kind(id, CM_DREP);      /* the first one was lost */
        break;
    default:
        break;
    }
}

static void packet(VsPeer *peer, const void *payload, size_t length)
{
    const CmMsg *msg = payload;
    CmId *id;

    if (length != sizeof(*msg) || vs_removed) {
        return;
    }
    id = cm_id_find(msg->dst_id);
    switch (msg->kind) {
    case CM_REQ:
        request_came(peer, msg);
        break;
    case CM_REP:
        answer_came(peer, msg);
        break;
    case CM_RTU:
        if (from_partner(id, peer, msg) && id->state == CM_REP_SENT) {
            vs_timer_clear(&id->timer);
            cm_set_state(id, CM_ESTABLISHED);
            cm_event_post_new(id, RDMA_CM_EVENT_ESTABLISHED, 0);
        }
        break;
    case CM_REJ:
        id = find_rejected(peer, msg);
        if (id && (is_connecting(id) || id->state == CM_ESTABLISHED)) {
            refused(id, msg);
        }
        break;
    case CM_DREQ:
        end_came(peer, msg);
        break;
    case CM_DREP:
        if (from_partner(id, peer, msg) && id->state == CM_DREQ_SENT) {
            cm_enter_timewait(id);
            cm_event_post_new(id, RDMA_CM_EVENT_DISCONNECTED, 0);
        }
        break;
    default:
        vs_complain("connection message of unknown kind %u", msg->kind);
        break;
    }
}

/* --------------------------------------------------------------- the clock */

static void gave_up(CmId *id)
{
    if (id->state == CM_DREQ_SENT) {
        cm_enter_timewait(id);
        cm_event_post_new(id, RDMA_CM_EVENT_DISCONNECTED, -ETIMEDOUT);
    } else {
        cm_set_state(id, CM_OVER);
        cm_event_post_new(id, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
    }
}

void cm_timer_fired(VsTimer *timer)
{
    CmId *id = timer->opaque;

    switch (id->state) {
    case CM_ADDR_QUERY:
        cm_set_state(id, CM_BOUND);
        cm_event_post_new(id, RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT);
        break;
    case CM_REQ_SENT:
        if (id->unserved && !cm_find_server(id)) {
            refused(id, &(CmMsg){ .reason = CM_REJ_INVALID_SERVICE_ID });
            break;
        }
        if (id->unserved) {
            id->unserved = false;
            cm_send_request(id);
            break;
        }
        /* fall through */
    case CM_REP_SENT:
    case CM_DREQ_SENT:
        if (id->tries < vs_shape.cm_retries) {
            id->tries++;
            cm_send_request(id);
        } else {
            gave_up(id);
        }
        break;
    case CM_TIMEWAIT:
        cm_set_state(id, CM_OVER);
        cm_event_post_new(id, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
        break;
    default:
        break;
    }
}

/* --------------------------------------------------------------- the fabric */

/*
 * The kernel of a process that died ends its connections for it.  Not if our
 * link is down: that, too, is then lost.
 */
static void peer_died(CmId *id)
{
    CmMsg rej = { .reason = CM_REJ_CONSUMER };

    switch (id->state) {
    case CM_REQ_RCVD:
        rej.reason = CM_REJ_TIMEOUT;
        /* fall through */
    case CM_REQ_SENT:
    case CM_REP_RCVD:
    case CM_REP_SENT:
        refused(id, &rej);
        break;
    case CM_ESTABLISHED:
    case CM_DREQ_SENT:
        peer_ends(id);
        break;
    default:
        break;
    }
}

static void peer_gone(VsPeer *peer)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; vs_port_up && i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));

        if (id && same_peer(id->peer, peer)) {
            peer_died(id);
        }
    }
}

static void device_removed(void)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));

        /* A listener on all addresses is not bound to a device. */
        if (id && id->id.verbs && !id->stopped && id->state != CM_REMOVED) {
            vs_timer_clear(&id->timer);
            cm_set_state(id, CM_REMOVED);
            cm_event_post_new(id, RDMA_CM_EVENT_DEVICE_REMOVAL, 0);
        }
    }
}

static void disconnect_qp(uint32_t qp_num)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));

        if (id && id->qp_num == qp_num) {
            cm_break(id);
        }
    }
}

const VsCmOps cm_ops = {
    .packet = packet,
    .peer_gone = peer_gone,
    .device_removed = device_removed,
    .unfrozen = cm_event_unfrozen,
    .disconnect_qp = disconnect_qp,
    .count = cm_count,
    .report_leaks = cm_report_leaks,
};
