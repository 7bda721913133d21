/*
 * verbsim: the states of a queue pair
 *
 * ibv_modify_qp() runs on the program's threads; the NIC thread moves a queue
 * pair to ERR.  The table is the InfiniBand specification's for reliable
 * connections: what each transition must and may be given.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

enum {
    NUMBER_MASK = 0xffffff,     /* queue pair and sequence numbers */
    MAX_RETRIES = 7,
    MAX_TIMER = 31,
    MAX_SL_ETHERNET = 7,
    MAX_SL = 15,
};

typedef struct Transition {
    enum ibv_qp_state from, to;
    int required, optional;
} Transition;

/*
 * To RESET one may always go, and to ERR except from RESET, with nothing but
 * the state.
 */
static const Transition transitions[] = {
    {
        IBV_QPS_RESET, IBV_QPS_INIT,
        IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
        0,
    }, {
        IBV_QPS_INIT, IBV_QPS_INIT,
        0,
        IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
    }, {
        IBV_QPS_INIT, IBV_QPS_RTR,
        IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
        IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX,
    }, {
        IBV_QPS_RTR, IBV_QPS_RTS,
        IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
        IBV_QP_MAX_QP_RD_ATOMIC,
        IBV_QP_CUR_STATE | IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS |
        IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE,
    }, {
        IBV_QPS_RTS, IBV_QPS_RTS,
        0,
        IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_ALT_PATH |
        IBV_QP_PATH_MIG_STATE | IBV_QP_MIN_RNR_TIMER,
    }, {
        IBV_QPS_RTS, IBV_QPS_SQD,
        0,
        IBV_QP_EN_SQD_ASYNC_NOTIFY,
    }, {
        IBV_QPS_SQD, IBV_QPS_RTS,
        0,
        IBV_QP_CUR_STATE | IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS |
        IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE,
    }, {
        IBV_QPS_SQD, IBV_QPS_SQD,
        0,
        IBV_QP_PORT | IBV_QP_AV | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
        IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC |
        IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_ALT_PATH | IBV_QP_ACCESS_FLAGS |
        IBV_QP_PKEY_INDEX | IBV_QP_MIN_RNR_TIMER | IBV_QP_PATH_MIG_STATE,
    },
};

const char *vs_qp_state_name(enum ibv_qp_state state)
{
    static const char *const names[] = {
        [IBV_QPS_RESET] = "RESET", [IBV_QPS_INIT] = "INIT",
        [IBV_QPS_RTR] = "RTR", [IBV_QPS_RTS] = "RTS", [IBV_QPS_SQD] = "SQD",
        [IBV_QPS_SQE] = "SQE", [IBV_QPS_ERR] = "ERR",
    };

    return (unsigned)state < G_N_ELEMENTS(names) ? names[state] : "?";
}

void vs_qp_set_state(VsQp *qp, enum ibv_qp_state state)
{
    struct ibv_qp *ibv = vs_qp_ibv(qp);

    VS_TRACE("state", "qp=%u from=%s to=%s", ibv->qp_num,
             vs_qp_state_name(ibv->state), vs_qp_state_name(state));
    ibv->state = state;
}

/* With iWARP a queue pair and its TCP connection end together. */
static void end_connection(const VsQp *qp)
{
    if (vs_shape.iwarp && vs_cm_ops && vs_cm_ops->disconnect_qp) {
        vs_cm_ops->disconnect_qp(qp->ex.qp_base.qp_num);
    }
}

void vs_qp_error(VsQp *qp)
{
    if (vs_qp_ibv(qp)->state == IBV_QPS_ERR || qp->destroyed) {
        return;
    }
    vs_qp_set_state(qp, IBV_QPS_ERR);
    vs_requester_flush(qp);
    vs_responder_flush(qp);
    end_connection(qp);
}

void vs_qp_reset(VsQp *qp)
{
    end_connection(qp);
    vs_qp_set_state(qp, IBV_QPS_RESET);
    vs_wait_idle(&qp->busy, "the NIC to finish with a queue pair");
    vs_requester_reset(qp);
    vs_responder_reset(qp);
    vs_cq_forget(vs_qp_send_cq(qp), qp);
    vs_cq_forget(vs_qp_recv_cq(qp), qp);
    if (qp->peer) {
        vs_peer_unref(qp->peer);
        qp->peer = NULL;
    }
    qp->attr = (struct ibv_qp_attr){ 0 };
}

/* ------------------------------------------------------------------ checks */

static int check_transition(enum ibv_qp_state from, enum ibv_qp_state to,
                            int mask)
{
    const int given = mask & ~IBV_QP_STATE;

    if (vs_shape.iwarp && to == IBV_QPS_INIT &&
        (from == IBV_QPS_RESET || from == IBV_QPS_INIT)) {
        return 0;               /* what it needs comes with the connection */
    }
    if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) {
        return given || !(mask & IBV_QP_STATE) ||
               (from == IBV_QPS_RESET && to == IBV_QPS_ERR) ? EINVAL : 0;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(transitions); i++) {
        const Transition *t = &transitions[i];

        if (t->from == from && t->to == to) {
            return (given & t->required) != t->required ||
                   (given & ~(t->required | t->optional)) ? EINVAL : 0;
        }
    }
    return EINVAL;
}

static int check_address(const struct ibv_ah_attr *ah)
{
    struct ibv_gid_entry entry;

    if (ah->port_num != 1) {
        return EINVAL;
    }
    if (ah->sl > (vs_shape.infiniband ? MAX_SL : MAX_SL_ETHERNET)) {
        return EINVAL;
    }
    if (!ah->is_global) {
        return vs_shape.infiniband ? 0 : EINVAL;
    }
    if (!vs_gid_at(ah->grh.sgid_index, &entry)) {
        return EINVAL;
    }
    return vs_gid_is_local(&ah->grh.dgid) ? 0 : EHOSTUNREACH;
}

static int check_limits(const struct ibv_qp_attr *attr, int mask)
{
    if (((mask & IBV_QP_PKEY_INDEX) && attr->pkey_index != 0) ||
        ((mask & IBV_QP_PORT) && attr->port_num != 1) ||
        ((mask & IBV_QP_PATH_MTU) && (attr->path_mtu < IBV_MTU_256 ||
                                      attr->path_mtu > IBV_MTU_4096)) ||
        ((mask & IBV_QP_DEST_QPN) && attr->dest_qp_num > NUMBER_MASK) ||
        ((mask & IBV_QP_TIMEOUT) && attr->timeout > MAX_TIMER) ||
        ((mask & IBV_QP_MIN_RNR_TIMER) && attr->min_rnr_timer > MAX_TIMER) ||
        ((mask & IBV_QP_RETRY_CNT) && attr->retry_cnt > MAX_RETRIES) ||
        ((mask & IBV_QP_RNR_RETRY) && attr->rnr_retry > MAX_RETRIES) ||
        ((mask & IBV_QP_MAX_QP_RD_ATOMIC) &&
         attr->max_rd_atomic > vs_shape.max_rd_atomic) ||
        ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) &&
         attr->max_dest_rd_atomic > vs_shape.max_rd_atomic)) {
        return EINVAL;
    }
    if ((mask & IBV_QP_ALT_PATH) ||
        ((mask & IBV_QP_PATH_MIG_STATE) &&
         attr->path_mig_state != IBV_MIG_MIGRATED)) {
        return vs_unimplemented("ibv_modify_qp: path migration");
    }
    return mask & IBV_QP_AV ? check_address(&attr->ah_attr) : 0;
}

/*
 * iWARP has no RTR, and the connection manager moves a queue pair to RTS: what
 * a program asks for on the way there has no effect.
 */
static bool has_no_effect(const VsQp *qp, int mask, enum ibv_qp_state to)
{
    enum ibv_qp_state from = qp->ex.qp_base.state;

    return vs_shape.iwarp && from != IBV_QPS_RESET &&
           (!(mask & IBV_QP_STATE) || to == IBV_QPS_RTR);
}

static int check_modify(const VsQp *qp, const struct ibv_qp_attr *attr,
                        int mask, enum ibv_qp_state to)
{
    enum ibv_qp_state from = qp->ex.qp_base.state;
    int error = check_transition(from, to, mask);

    if (!error && (mask & IBV_QP_CUR_STATE) && attr->cur_qp_state != from) {
        error = EINVAL;
    }
    if (!error && to != IBV_QPS_RESET && to != IBV_QPS_ERR) {
        error = vs_device_error();
    }
    return error ? error : check_limits(attr, mask);
}

/* ------------------------------------------------------------- carrying out */

static void store_path(struct ibv_qp_attr *own, const struct ibv_qp_attr *attr,
                       int mask)
{
    if (mask & IBV_QP_PKEY_INDEX) {
        own->pkey_index = attr->pkey_index;
    }
    if (mask & IBV_QP_PORT) {
        own->port_num = attr->port_num;
    }
    if (mask & IBV_QP_ACCESS_FLAGS) {
        own->qp_access_flags = attr->qp_access_flags;
    }
    if (mask & IBV_QP_AV) {
        own->ah_attr = attr->ah_attr;
    }
    if (mask & IBV_QP_PATH_MTU) {
        own->path_mtu = attr->path_mtu;
    }
    if (mask & IBV_QP_DEST_QPN) {
        own->dest_qp_num = attr->dest_qp_num;
    }
    if (mask & IBV_QP_EN_SQD_ASYNC_NOTIFY) {
        own->en_sqd_async_notify = attr->en_sqd_async_notify;
    }
}

static void store_flow(struct ibv_qp_attr *own, const struct ibv_qp_attr *attr,
                       int mask)
{
    if (mask & IBV_QP_RQ_PSN) {
        own->rq_psn = attr->rq_psn & NUMBER_MASK;
    }
    if (mask & IBV_QP_SQ_PSN) {
        own->sq_psn = attr->sq_psn & NUMBER_MASK;
    }
    if (mask & IBV_QP_TIMEOUT) {
        own->timeout = attr->timeout;
    }
    if (mask & IBV_QP_RETRY_CNT) {
        own->retry_cnt = attr->retry_cnt;
    }
    if (mask & IBV_QP_RNR_RETRY) {
        own->rnr_retry = attr->rnr_retry;
    }
    if (mask & IBV_QP_MIN_RNR_TIMER) {
        own->min_rnr_timer = attr->min_rnr_timer;
    }
    if (mask & IBV_QP_MAX_QP_RD_ATOMIC) {
        own->max_rd_atomic = attr->max_rd_atomic;
    }
    if (mask & IBV_QP_MAX_DEST_RD_ATOMIC) {
        own->max_dest_rd_atomic = attr->max_dest_rd_atomic;
    }
}

/*
 * RTR: the far side is found by the slot in its number.  A process that is
 * not there is no error yet: as on a wire, what is sent to it gets lost.
 */
static void find_peer(VsQp *qp)
{
    qp->peer = vs_peer_get(qp->attr.dest_qp_num >> VS_SLOT_SHIFT);
    if (!qp->peer) {
        VS_TRACE("no-peer", "qp=%u to=%u: %s", vs_qp_ibv(qp)->qp_num,
                 qp->attr.dest_qp_num, g_strerror(errno));
    }
    qp->resp.expected_psn = qp->attr.rq_psn;
}

static void enter(VsQp *qp, enum ibv_qp_state to)
{
    enum ibv_qp_state from = vs_qp_ibv(qp)->state;

    if (to == from && to != IBV_QPS_RESET && to != IBV_QPS_ERR) {
        return;
    }
    switch (to) {
    case IBV_QPS_RESET:
        vs_qp_reset(qp);
        break;
    case IBV_QPS_ERR:
        vs_qp_set_state(qp, to);
        /* Who revokes its memory so must not see it written to any more. */
        vs_wait_idle(&qp->busy, "the NIC to finish with a queue pair");
        vs_requester_flush(qp);
        vs_responder_flush(qp);
        end_connection(qp);
        break;
    case IBV_QPS_RTR:
        find_peer(qp);
        vs_qp_set_state(qp, to);
        break;
    case IBV_QPS_SQD:
        vs_qp_set_state(qp, to);
        qp->attr.sq_draining = 1;
        vs_qp_check_drained(qp);
        break;
    default:
        qp->attr.sq_draining = 0;
        vs_qp_set_state(qp, to);
        vs_nic_schedule(qp);
        break;
    }
}

bool vs_qp_has_begun(const VsQp *qp, uint32_t index)
{
    return index != qp->sq_posted && qp->sq[index % qp->sq_size].tried;
}

void vs_qp_check_drained(VsQp *qp)
{
    if (!qp->attr.sq_draining || vs_qp_ibv(qp)->state != IBV_QPS_SQD ||
        vs_qp_has_begun(qp, qp->sq_done)) {
        return;
    }
    qp->attr.sq_draining = 0;
    if (qp->attr.en_sqd_async_notify) {
        vs_async_event(IBV_EVENT_SQ_DRAINED, vs_qp_ibv(qp));
    }
}

int ibv_modify_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr, int attr_mask)
{
    VsQp *qp = vs_qp(ibv);
    enum ibv_qp_state to;
    int error = EINVAL;

    pthread_mutex_lock(&vs_lock);
    if (vs_object_check(VS_KIND_QP, qp, __func__)) {
        to = attr_mask & IBV_QP_STATE ? attr->qp_state : ibv->state;
        if (has_no_effect(qp, attr_mask, to)) {
            pthread_mutex_unlock(&vs_lock);
            return 0;
        }
        error = check_modify(qp, attr, attr_mask, to);
    }
    if (error) {
        VS_TRACE("modify-refused", "qp=%p mask=0x%x errno=%d", (void *)ibv,
                 (unsigned)attr_mask, error);
    } else {
        store_path(&qp->attr, attr, attr_mask);
        store_flow(&qp->attr, attr, attr_mask);
        enter(qp, to);
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}

int vs_qp_connect(VsQp *qp, const struct ibv_qp_attr *attr, int mask)
{
    if (vs_qp_ibv(qp)->state != IBV_QPS_INIT) {
        return -EINVAL;
    }
    store_path(&qp->attr, attr, mask);
    store_flow(&qp->attr, attr, mask);
    enter(qp, IBV_QPS_RTR);
    enter(qp, IBV_QPS_RTS);
    return 0;
}
