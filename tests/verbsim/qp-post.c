/*
 * verbsim: posting work requests
 *
 * On the program's threads.  A request is checked as a driver would and put
 * into the ring; the NIC thread is told.  Keys are looked at when the request
 * is carried out, so a bad one becomes a completion error, as on hardware.
 *
 * iWARP: as libcxgb4 has it, nothing can be posted to a queue pair in error,
 * and the number that is returned is negative.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "api.h"

enum {
    KNOWN_FLAGS = IBV_SEND_FENCE | IBV_SEND_SIGNALED | IBV_SEND_SOLICITED |
                  IBV_SEND_INLINE,
};

static const uint64_t max_message = 1u << 31;

unsigned vs_qp_send_room(const VsQp *qp)
{
    return qp->init.cap.max_send_wr - (qp->sq_posted - qp->sq_free);
}

int vs_qp_may_send(const VsQp *qp)
{
    switch (qp->ex.qp_base.state) {
    case IBV_QPS_RTS:
    case IBV_QPS_SQD:
        return 0;
    case IBV_QPS_ERR:           /* it is flushed at once */
        return vs_shape.iwarp ? -EINVAL : 0;
    default:
        return EINVAL;
    }
}

void vs_qp_posted(VsQp *qp, unsigned count)
{
    qp->sq_posted += count;
    if (vs_qp_ibv(qp)->state == IBV_QPS_ERR) {
        vs_requester_flush(qp);
    } else {
        vs_nic_schedule(qp);
    }
}

/* -------------------------------------------------------------------- sends */

static bool is_rdma(enum ibv_wr_opcode opcode)
{
    return opcode == IBV_WR_RDMA_WRITE ||
           opcode == IBV_WR_RDMA_WRITE_WITH_IMM || opcode == IBV_WR_RDMA_READ;
}

static int check_opcode(const struct ibv_send_wr *wr)
{
    g_autofree char *name = NULL;

    switch (wr->opcode) {
    case IBV_WR_SEND_WITH_IMM:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return vs_shape.iwarp ? -EINVAL : 0;
    case IBV_WR_SEND:
    case IBV_WR_RDMA_WRITE:
        return 0;
    case IBV_WR_RDMA_READ:
        return wr->send_flags & IBV_SEND_INLINE ? EINVAL : 0;
    default:
        name = g_strdup_printf("ibv_post_send: opcode %d", (int)wr->opcode);
        vs_unimplemented(name);
        return EINVAL;
    }
}

static int check_send(const VsQp *qp, const struct ibv_send_wr *wr)
{
    const struct ibv_qp_cap *cap = &qp->init.cap;
    uint64_t length = 0;
    int error = vs_qp_may_send(qp);

    error = error ? error : check_opcode(wr);
    if (error) {
        return error;
    }
    if ((wr->send_flags & ~(unsigned)KNOWN_FLAGS) || wr->num_sge < 0 ||
        (uint32_t)wr->num_sge > cap->max_send_sge) {
        return EINVAL;
    }
    if (!vs_qp_send_room(qp)) {
        return ENOMEM;
    }
    for (int i = 0; i < wr->num_sge; i++) {
        length += wr->sg_list[i].length;
    }
    if ((wr->send_flags & IBV_SEND_INLINE) && length > cap->max_inline_data) {
        return EINVAL;
    }
    return length > max_message ? EINVAL : 0;
}

static void gather(VsSendWqe *wqe, const struct ibv_send_wr *wr)
{
    for (int i = 0; i < wr->num_sge; i++) {
        const struct ibv_sge *sge = &wr->sg_list[i];

        if (wr->send_flags & IBV_SEND_INLINE) {
            memcpy(wqe->inline_data + wqe->length,
                   (const void *)(uintptr_t)sge->addr, sge->length);
        } else {
            wqe->sge[wqe->num_sge++] = *sge;
        }
        wqe->length += sge->length;
    }
}

static void put_send(VsQp *qp, const struct ibv_send_wr *wr)
{
    VsSendWqe *wqe = &qp->sq[qp->sq_posted % qp->sq_size];

    *wqe = (VsSendWqe){
        .wr_id = wr->wr_id,
        .opcode = wr->opcode,
        .flags = wr->send_flags |
                 (qp->init.sq_sig_all ? IBV_SEND_SIGNALED : 0u),
        .imm = wr->imm_data,
        .sge = wqe->sge,
        .inline_data = wqe->inline_data,
    };
    if (is_rdma(wr->opcode)) {
        wqe->remote_addr = wr->wr.rdma.remote_addr;
        wqe->rkey = wr->wr.rdma.rkey;
    }
    gather(wqe, wr);
    VS_TRACE("post-send", "qp=%u wr_id=%" G_GINT64_MODIFIER
             "u opcode=%d flags=0x%x bytes=%u", vs_qp_ibv(qp)->qp_num,
             wqe->wr_id, (int)wqe->opcode, wqe->flags, wqe->length);
    vs_qp_posted(qp, 1);
}

int vs_post_send(struct ibv_qp *ibv, struct ibv_send_wr *wr,
                 struct ibv_send_wr **bad_wr)
{
    VsQp *qp = vs_qp(ibv);
    int error = 0;

    if (qp->wr.ops) {
        pthread_mutex_lock(&ibv->mutex);    /* ibv_wr_start() holds it */
    }
    pthread_mutex_lock(&vs_lock);
    for (; wr; wr = wr->next) {
        error = check_send(qp, wr);
        if (error) {
            *bad_wr = wr;
            break;
        }
        put_send(qp, wr);
    }
    pthread_mutex_unlock(&vs_lock);
    if (qp->wr.ops) {
        pthread_mutex_unlock(&ibv->mutex);
    }
    return error;
}

/* ----------------------------------------------------------------- receives */

static int check_recv(const VsQp *qp, const struct ibv_recv_wr *wr)
{
    const struct ibv_qp_cap *cap = &qp->init.cap;

    if (vs_receives_refused ||
        (vs_shape.iwarp && qp->ex.qp_base.state == IBV_QPS_ERR)) {
        return vs_shape.iwarp ? -EINVAL : EINVAL;
    }
    if (qp->ex.qp_base.state == IBV_QPS_RESET || wr->num_sge < 0 ||
        (uint32_t)wr->num_sge > cap->max_recv_sge) {
        return EINVAL;
    }
    return qp->rq_posted - qp->rq_free >= cap->max_recv_wr ? ENOMEM : 0;
}

static void put_recv(VsQp *qp, const struct ibv_recv_wr *wr)
{
    VsRecvWqe *wqe = &qp->rq[qp->rq_posted++ % qp->rq_size];

    wqe->wr_id = wr->wr_id;
    wqe->num_sge = (unsigned)wr->num_sge;
    for (unsigned i = 0; i < wqe->num_sge; i++) {
        wqe->sge[i] = wr->sg_list[i];
    }
    if (vs_qp_ibv(qp)->state == IBV_QPS_ERR) {
        vs_responder_flush(qp);
    }
}

int vs_post_recv(struct ibv_qp *ibv, struct ibv_recv_wr *wr,
                 struct ibv_recv_wr **bad_wr)
{
    VsQp *qp = vs_qp(ibv);
    int error = 0;

    pthread_mutex_lock(&vs_lock);
    for (; wr; wr = wr->next) {
        error = check_recv(qp, wr);
        if (error) {
            *bad_wr = wr;
            break;
        }
        put_recv(qp, wr);
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}
