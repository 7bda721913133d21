/*
 * verbsim: queue pairs that belong to identifiers
 *
 * rdma_init_qp_attr() says what a queue pair needs for each state, as the
 * kernel does; librdmacm's own queue pairs are moved with it.  Runs on the
 * program's threads; the ibv_ functions take vs_lock themselves, so nothing
 * here holds it while it calls them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdlib.h>
#include <string.h>

#include "cm.h"

enum { HOP_LIMIT = 64, RESOLVE_MS = 2000 };

/* -------------------------------------------------------------- attributes */

static bool is_connected(const CmId *id)
{
    return id->state == CM_REQ_RCVD || id->state == CM_REP_RCVD ||
           id->state == CM_REP_SENT || id->state == CM_ESTABLISHED;
}

/* Before there is a connection nothing is granted to a peer. */
static int init_attr(const CmId *id, struct ibv_qp_attr *attr, int *mask)
{
    if (id->state > CM_ESTABLISHED) {
        return -EINVAL;
    }
    attr->pkey_index = 0;
    attr->port_num = id->id.port_num;
    attr->qp_access_flags = 0;
    if (id->state >= CM_REQ_SENT) {
        attr->qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
        if (id->responder_resources) {
            attr->qp_access_flags |= IBV_ACCESS_REMOTE_READ |
                                     IBV_ACCESS_REMOTE_ATOMIC;
        }
    }
    *mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
            IBV_QP_ACCESS_FLAGS;
    return 0;
}

static void path_attr(const CmId *id, struct ibv_ah_attr *ah)
{
    const struct rdma_addr *route = &id->id.route.addr;
    int index = vs_gid_index(&route->src_addr);

    memset(ah, 0, sizeof(*ah));
    ah->is_global = 1;
    ah->port_num = id->id.port_num;
    ah->grh.dgid = route->addr.ibaddr.dgid;
    ah->grh.sgid_index = (uint8_t)MAX(index, 0);
    ah->grh.hop_limit = HOP_LIMIT;
    ah->grh.traffic_class = id->tos;
    ah->sl = id->tos >> 5;
    if (vs_shape.infiniband && id->peer) {
        ah->dlid = (uint16_t)(id->peer->slot + 1);
    }
}

static int rtr_attr(const CmId *id, struct ibv_qp_attr *attr, int *mask)
{
    if (!is_connected(id)) {
        return -EINVAL;
    }
    path_attr(id, &attr->ah_attr);
    attr->path_mtu = cm_active_mtu();
    attr->dest_qp_num = id->peer_qp_num;
    attr->rq_psn = id->psn;
    attr->max_dest_rd_atomic = id->responder_resources;
    attr->min_rnr_timer = 0;
    *mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
    return 0;
}

static int rts_attr(const CmId *id, struct ibv_qp_attr *attr, int *mask)
{
    if (!is_connected(id)) {
        return -EINVAL;
    }
    attr->sq_psn = id->peer_psn;
    attr->timeout = id->ack_timeout >= 0 ? (uint8_t)id->ack_timeout :
                    id->passive ? id->peer_ack_timeout : vs_shape.ack_timeout;
    attr->retry_cnt = id->retry_count;
    attr->rnr_retry = id->rnr_retry_count;
    attr->max_rd_atomic = id->initiator_depth;
    *mask = IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
            IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC;
    return 0;
}

/*
 * What iWARP's kernel says: it wants to be told no more than that, and moves
 * the queue pair to RTS itself.
 */
static int iwarp_attr(const CmId *id, struct ibv_qp_attr *attr, int *mask)
{
    *mask = IBV_QP_PORT;
    attr->port_num = id->id.port_num;
    if (attr->qp_state == IBV_QPS_RTS) {
        return 0;
    }
    *mask |= IBV_QP_STATE | IBV_QP_ACCESS_FLAGS;
    attr->qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
    return id->state > CM_ESTABLISHED ? -EINVAL : 0;
}

int rdma_init_qp_attr(struct rdma_cm_id *rid, struct ibv_qp_attr *attr,
                      int *mask)
{
    const CmId *id = cm_id(rid);
    int error = -EINVAL;

    cm_lock();
    if (cm_id_alive(rid, "rdma_init_qp_attr") && rid->verbs && vs_shape.iwarp) {
        error = iwarp_attr(id, attr, mask);
    } else if (cm_id_alive(rid, "rdma_init_qp_attr") && rid->verbs) {
        switch (attr->qp_state) {
        case IBV_QPS_INIT:
            error = init_attr(id, attr, mask);
            break;
        case IBV_QPS_RTR:
            error = rtr_attr(id, attr, mask);
            break;
        case IBV_QPS_RTS:
            error = rts_attr(id, attr, mask);
            break;
        default:
            break;
        }
    }
    cm_unlock();
    return cm_result(error);
}

int cm_qp_connect(CmId *id)
{
    VsQp *qp = vs_qp_find(id->qp_num);
    struct ibv_qp_attr attr = { 0 };
    int rtr_mask, rts_mask;

    if (!qp || rtr_attr(id, &attr, &rtr_mask) < 0 ||
        rts_attr(id, &attr, &rts_mask) < 0) {
        return -EINVAL;
    }
    return vs_qp_connect(qp, &attr, rtr_mask | rts_mask);
}

/* 0 or -errno.  @depth: RTR's and RTS's number of Reads. */
static int move(struct rdma_cm_id *id, enum ibv_qp_state state, uint8_t depth)
{
    struct ibv_qp_attr attr = { .qp_state = state };
    int mask;

    if (rdma_init_qp_attr(id, &attr, &mask) < 0) {
        return -errno;
    }
    if (state == IBV_QPS_RTR) {
        attr.max_dest_rd_atomic = depth;
    } else if (state == IBV_QPS_RTS) {
        attr.max_rd_atomic = depth;
    }
    return -ibv_modify_qp(id->qp, &attr, mask);
}

int cm_qp_ready(struct rdma_cm_id *id, uint8_t responder_resources,
                uint8_t initiator_depth)
{
    /* INIT again: only now the peer may be granted access. */
    int error = move(id, IBV_QPS_INIT, 0);

    if (!error) {
        error = move(id, IBV_QPS_RTR, responder_resources);
    }
    return error ? error : move(id, IBV_QPS_RTS, initiator_depth);
}

void cm_qp_error(struct rdma_cm_id *id)
{
    struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

    if (id->qp) {
        ibv_modify_qp(id->qp, &attr, IBV_QP_STATE);
    }
}

/* ------------------------------------------------------ making, destroying */

static void destroy_queues(struct rdma_cm_id *id)
{
    if (id->recv_cq) {
        ibv_destroy_cq(id->recv_cq);
        ibv_destroy_comp_channel(id->recv_cq_channel);
    }
    if (id->send_cq) {
        ibv_destroy_cq(id->send_cq);
        ibv_destroy_comp_channel(id->send_cq_channel);
    }
    id->recv_cq = id->send_cq = NULL;
    id->recv_cq_channel = id->send_cq_channel = NULL;
}

static bool make_queue(struct rdma_cm_id *id, uint32_t size,
                       struct ibv_comp_channel **channel, struct ibv_cq **cq)
{
    *channel = ibv_create_comp_channel(id->verbs);
    if (!*channel) {
        return false;
    }
    *cq = ibv_create_cq(id->verbs, (int)MAX(size, 1), id, *channel, 0);
    if (!*cq) {
        int error = errno;

        ibv_destroy_comp_channel(*channel);
        *channel = NULL;
        errno = error;
    }
    return *cq != NULL;
}

/* The completion queues that the program leaves to librdmacm. */
static bool fill_queues(struct rdma_cm_id *id, struct ibv_qp_init_attr_ex *attr)
{
    if (!attr->send_cq) {
        if (!make_queue(id, attr->cap.max_send_wr, &id->send_cq_channel,
                        &id->send_cq)) {
            return false;
        }
        attr->send_cq = id->send_cq;
    }
    if (!attr->recv_cq) {
        if (!make_queue(id, attr->cap.max_recv_wr, &id->recv_cq_channel,
                        &id->recv_cq)) {
            return false;
        }
        attr->recv_cq = id->recv_cq;
    }
    return true;
}

int rdma_create_qp_ex(struct rdma_cm_id *id, struct ibv_qp_init_attr_ex *attr)
{
    int error;

    cm_lock();
    error = cm_id_alive(id, "rdma_create_qp") && id->verbs && !id->qp &&
            cm_id(id)->state != CM_REMOVED ? 0 : -EINVAL;
    cm_unlock();
    if (error) {
        return cm_errno(-error);
    }
    if (!(attr->comp_mask & IBV_QP_INIT_ATTR_PD) || !attr->pd) {
        attr->comp_mask |= IBV_QP_INIT_ATTR_PD;
        attr->pd = id->pd;
    }
    if (attr->pd->context != id->verbs) {
        return cm_errno(EINVAL);
    }
    if (fill_queues(id, attr)) {
        id->qp = ibv_create_qp_ex(id->verbs, attr);
    }
    if (!id->qp) {
        error = errno;
        destroy_queues(id);
        return cm_errno(error);
    }
    error = move(id, IBV_QPS_INIT, 0);
    if (error) {
        rdma_destroy_qp(id);
        return cm_errno(-error);
    }
    id->pd = attr->pd;
    cm_lock();
    cm_id(id)->qp_num = id->qp->qp_num;
    cm_unlock();
    return 0;
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd,
                   struct ibv_qp_init_attr *attr)
{
    struct ibv_qp_init_attr_ex ex = { .pd = pd };

    /* It starts with all of the plain one, whose padding is its comp_mask. */
    memcpy(&ex, attr, sizeof(*attr));
    ex.comp_mask = IBV_QP_INIT_ATTR_PD;
    if (rdma_create_qp_ex(id, &ex) < 0) {
        return -1;
    }
    memcpy(attr, &ex, sizeof(*attr));
    return 0;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
    if (id->qp) {
        ibv_destroy_qp(id->qp);
        id->qp = NULL;
    }
    destroy_queues(id);
}

/* --------------------------------------------------------------- endpoints */

static int passive_endpoint(CmId *id, const struct rdma_addrinfo *info,
                            struct ibv_pd *pd,
                            const struct ibv_qp_init_attr *attr)
{
    if (rdma_bind_addr(&id->id, info->ai_src_addr) < 0) {
        return -1;
    }
    if (attr) {
        id->ep_attr = g_memdup2(attr, sizeof(*attr));
        id->ep_attr->qp_type = (enum ibv_qp_type)info->ai_qp_type;
    }
    id->ep_pd = pd;
    return 0;
}

static int active_endpoint(struct rdma_cm_id *id,
                           const struct rdma_addrinfo *info,
                           struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    if (rdma_resolve_addr(id, info->ai_src_addr, info->ai_dst_addr,
                          RESOLVE_MS) < 0 ||
        rdma_resolve_route(id, RESOLVE_MS) < 0) {
        return -1;
    }
    if (!attr) {
        return 0;
    }
    attr->qp_type = (enum ibv_qp_type)info->ai_qp_type;
    return rdma_create_qp(id, pd, attr);
}

int rdma_create_ep(struct rdma_cm_id **id, struct rdma_addrinfo *info,
                   struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    struct rdma_cm_id *made;
    int ret;

    if (rdma_create_id(NULL, &made, NULL,
                       (enum rdma_port_space)info->ai_port_space) < 0) {
        return -1;
    }
    ret = info->ai_flags & RAI_PASSIVE ?
          passive_endpoint(cm_id(made), info, pd, attr) :
          active_endpoint(made, info, pd, attr);
    if (ret < 0) {
        int error = errno;

        rdma_destroy_ep(made);
        return cm_errno(error);
    }
    *id = made;
    return 0;
}

void rdma_destroy_ep(struct rdma_cm_id *id)
{
    rdma_destroy_qp(id);
    rdma_destroy_id(id);
}
