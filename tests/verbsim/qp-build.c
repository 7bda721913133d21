/*
 * verbsim: ibv_wr_start() ... ibv_wr_complete(), the other way of posting
 *
 * On the program's threads.  What is built stands in the ring behind
 * sq_posted, where nobody looks, until ibv_wr_complete() posts all of it or
 * none.  The queue pair's own mutex is held meanwhile, as real providers do;
 * vs_lock is not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "api.h"

static VsQp *of(struct ibv_qp_ex *ex)
{
    return vs_qp(&ex->qp_base);
}

static void spoil(VsQp *qp, int error)
{
    qp->wr.error = qp->wr.error ? qp->wr.error : error;
}

/* The entry that ibv_wr_set_*() is about, or NULL. */
static VsSendWqe *current(VsQp *qp)
{
    if (qp->wr.error || !qp->wr.count) {
        spoil(qp, EINVAL);
        return NULL;
    }
    return &qp->sq[(qp->wr.first + qp->wr.count - 1) % qp->sq_size];
}

static VsSendWqe *begin(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode,
                        uint64_t op)
{
    VsQp *qp = of(ex);
    VsSendWqe *wqe;

    if (!(qp->wr.ops & op)) {
        vs_complain("ibv_wr_*: queue pair %u was not created with this "
                    "operation (0x%x)", ex->qp_base.qp_num, (unsigned)op);
        spoil(qp, EINVAL);
    } else if (qp->wr.count == qp->wr.room) {
        spoil(qp, ENOMEM);
    }
    if (qp->wr.error) {
        return NULL;
    }
    qp->wr.count++;
    wqe = current(qp);
    *wqe = (VsSendWqe){
        .wr_id = ex->wr_id,
        .opcode = opcode,
        .flags = ex->wr_flags |
                 (qp->init.sq_sig_all ? IBV_SEND_SIGNALED : 0u),
        .sge = wqe->sge,
        .inline_data = wqe->inline_data,
    };
    wqe->flags &= ~(unsigned)IBV_SEND_INLINE;
    return wqe;
}

static void begin_rdma(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode,
                       uint64_t op, uint32_t rkey, uint64_t remote_addr,
                       __be32 imm)
{
    VsSendWqe *wqe = begin(ex, opcode, op);

    if (wqe) {
        wqe->rkey = rkey;
        wqe->remote_addr = remote_addr;
        wqe->imm = imm;
    }
}

static void wr_rdma_read(struct ibv_qp_ex *ex, uint32_t rkey,
                         uint64_t remote_addr)
{
    begin_rdma(ex, IBV_WR_RDMA_READ, IBV_QP_EX_WITH_RDMA_READ, rkey,
               remote_addr, 0);
}

static void wr_rdma_write(struct ibv_qp_ex *ex, uint32_t rkey,
                          uint64_t remote_addr)
{
    begin_rdma(ex, IBV_WR_RDMA_WRITE, IBV_QP_EX_WITH_RDMA_WRITE, rkey,
               remote_addr, 0);
}

static void wr_rdma_write_imm(struct ibv_qp_ex *ex, uint32_t rkey,
                              uint64_t remote_addr, __be32 imm_data)
{
    begin_rdma(ex, IBV_WR_RDMA_WRITE_WITH_IMM,
               IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM, rkey, remote_addr,
               imm_data);
}

static void wr_send(struct ibv_qp_ex *ex)
{
    begin(ex, IBV_WR_SEND, IBV_QP_EX_WITH_SEND);
}

static void wr_send_imm(struct ibv_qp_ex *ex, __be32 imm_data)
{
    VsSendWqe *wqe = begin(ex, IBV_WR_SEND_WITH_IMM,
                           IBV_QP_EX_WITH_SEND_WITH_IMM);

    if (wqe) {
        wqe->imm = imm_data;
    }
}

/* --------------------------------------------------------------------- data */

static void wr_set_sge_list(struct ibv_qp_ex *ex, size_t num_sge,
                            const struct ibv_sge *sg_list)
{
    VsQp *qp = of(ex);
    VsSendWqe *wqe = current(qp);

    if (!wqe) {
        return;
    }
    if (num_sge > qp->init.cap.max_send_sge) {
        spoil(qp, EINVAL);
        return;
    }
    wqe->num_sge = (unsigned)num_sge;
    wqe->length = 0;
    for (size_t i = 0; i < num_sge; i++) {
        wqe->sge[i] = sg_list[i];
        wqe->length += sg_list[i].length;
    }
}

static void wr_set_sge(struct ibv_qp_ex *ex, uint32_t lkey, uint64_t addr,
                       uint32_t length)
{
    struct ibv_sge sge = { .addr = addr, .length = length, .lkey = lkey };

    wr_set_sge_list(ex, 1, &sge);
}

static void wr_set_inline_data_list(struct ibv_qp_ex *ex, size_t num_buf,
                                    const struct ibv_data_buf *buf_list)
{
    VsQp *qp = of(ex);
    VsSendWqe *wqe = current(qp);

    if (!wqe) {
        return;
    }
    wqe->flags |= IBV_SEND_INLINE;
    wqe->length = 0;
    for (size_t i = 0; i < num_buf; i++) {
        if (wqe->opcode == IBV_WR_RDMA_READ ||
            buf_list[i].length > qp->init.cap.max_inline_data - wqe->length) {
            spoil(qp, EINVAL);
            return;
        }
        memcpy(wqe->inline_data + wqe->length, buf_list[i].addr,
               buf_list[i].length);
        wqe->length += (uint32_t)buf_list[i].length;
    }
}

static void wr_set_inline_data(struct ibv_qp_ex *ex, void *addr, size_t length)
{
    struct ibv_data_buf buf = { .addr = addr, .length = length };

    wr_set_inline_data_list(ex, 1, &buf);
}

/* ------------------------------------------------------------ start and end */

static void wr_start(struct ibv_qp_ex *ex)
{
    VsQp *qp = of(ex);

    pthread_mutex_lock(&ex->qp_base.mutex);
    pthread_mutex_lock(&vs_lock);
    qp->wr.first = qp->sq_posted;
    qp->wr.count = 0;
    qp->wr.room = vs_qp_send_room(qp);
    qp->wr.error = vs_qp_may_send(qp);
    pthread_mutex_unlock(&vs_lock);
}

static int wr_complete(struct ibv_qp_ex *ex)
{
    VsQp *qp = of(ex);
    int error = qp->wr.error;

    pthread_mutex_lock(&vs_lock);
    if (!error) {
        error = vs_qp_may_send(qp);     /* it may have been reset meanwhile */
    }
    if (!error && qp->wr.first != qp->sq_posted) {
        error = EINVAL;
    }
    if (!error) {
        VS_TRACE("post-send", "qp=%u count=%u", ex->qp_base.qp_num,
                 qp->wr.count);
        vs_qp_posted(qp, qp->wr.count);
    }
    pthread_mutex_unlock(&vs_lock);
    pthread_mutex_unlock(&ex->qp_base.mutex);
    return error;
}

static void wr_abort(struct ibv_qp_ex *ex)
{
    pthread_mutex_unlock(&ex->qp_base.mutex);
}

void vs_qp_builder_init(VsQp *qp)
{
    struct ibv_qp_ex *ex = &qp->ex;

    vs_loud_qp(ex);
    ex->wr_rdma_read = wr_rdma_read;
    ex->wr_rdma_write = wr_rdma_write;
    ex->wr_rdma_write_imm = wr_rdma_write_imm;
    ex->wr_send = wr_send;
    ex->wr_send_imm = wr_send_imm;
    ex->wr_set_sge = wr_set_sge;
    ex->wr_set_sge_list = wr_set_sge_list;
    ex->wr_set_inline_data = wr_set_inline_data;
    ex->wr_set_inline_data_list = wr_set_inline_data_list;
    ex->wr_start = wr_start;
    ex->wr_complete = wr_complete;
    ex->wr_abort = wr_abort;
}
