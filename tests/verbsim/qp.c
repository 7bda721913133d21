/*
 * verbsim: queue pairs: making, finding, querying and destroying them
 *
 * Called by the program's threads; the NIC thread looks queue pairs up by
 * number.  Destroying one waits until the NIC is not at work on it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

enum {
    FIRST_NUMBER = 16,          /* 0 and 1 have a meaning */
    NUMBERS = 1 << VS_SLOT_SHIFT,
    SUPPORTED_OPS = IBV_QP_EX_WITH_RDMA_WRITE |
                    IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_SEND |
                    IBV_QP_EX_WITH_SEND_WITH_IMM | IBV_QP_EX_WITH_RDMA_READ,
};

static GHashTable *by_number;   /* uint32_t -> VsQp * */

/* ----------------------------------------------------------------- numbers */

VsQp *vs_qp_find(uint32_t qp_num)
{
    return by_number
           ? g_hash_table_lookup(by_number, GUINT_TO_POINTER(qp_num)) : NULL;
}

/* A number is not used again before all others were. */
static uint32_t free_number(void)
{
    static uint32_t next = FIRST_NUMBER;
    uint32_t number;

    do {
        number = vs_slot << VS_SLOT_SHIFT | next;
        next = next + 1 < NUMBERS ? next + 1 : FIRST_NUMBER;
    } while (vs_qp_find(number));
    return number;
}

void vs_qp_foreach(void (*fn)(VsQp *qp, void *opaque), void *opaque)
{
    vs_object_foreach(VS_KIND_QP, (void (*)(void *, void *))fn, opaque);
}

/* ---------------------------------------------------------------- creating */

static int check_queues(const struct ibv_qp_init_attr *init)
{
    const struct ibv_qp_cap *cap = &init->cap;

    if (!init->send_cq || !init->recv_cq ||
        !vs_object_check(VS_KIND_CQ, init->send_cq, "ibv_create_qp") ||
        !vs_object_check(VS_KIND_CQ, init->recv_cq, "ibv_create_qp")) {
        return EINVAL;
    }
    if (cap->max_send_wr > vs_shape.max_qp_wr ||
        cap->max_recv_wr > vs_shape.max_qp_wr ||
        cap->max_send_sge > vs_shape.max_sge ||
        cap->max_recv_sge > vs_shape.max_sge ||
        cap->max_inline_data > vs_shape.max_inline) {
        return EINVAL;
    }
    return 0;
}

static int check_create(struct ibv_pd *pd, const struct ibv_qp_init_attr *init)
{
    unsigned qps = vs_object_count(VS_KIND_QP);

    if (vs_device_error()) {
        return vs_device_error();
    }
    if (!pd || !vs_object_check(VS_KIND_PD, pd, "ibv_create_qp")) {
        return EINVAL;
    }
    if (init->qp_type != IBV_QPT_RC) {
        return vs_unimplemented("ibv_create_qp: another type than IBV_QPT_RC");
    }
    if (init->srq) {
        return vs_unimplemented("ibv_create_qp: shared receive queue");
    }
    if (qps >= vs_shape.max_qp || qps >= NUMBERS - FIRST_NUMBER) {
        return ENOMEM;
    }
    return check_queues(init);
}

/*
 * Rings have a power of two, so that indices may wrap; how much of them may
 * be used is exactly what was asked for.
 */
static uint32_t ring_size(uint32_t entries)
{
    uint32_t size = 1;

    while (size < entries) {
        size *= 2;
    }
    return size;
}

static void make_rings(VsQp *qp)
{
    const struct ibv_qp_cap *cap = &qp->init.cap;

    qp->sq_size = ring_size(cap->max_send_wr);
    qp->sq = g_new0(VsSendWqe, qp->sq_size);
    for (uint32_t i = 0; i < qp->sq_size; i++) {
        qp->sq[i].sge = g_new0(struct ibv_sge, cap->max_send_sge);
        qp->sq[i].inline_data = g_malloc0(cap->max_inline_data);
    }
    qp->rq_size = ring_size(cap->max_recv_wr);
    qp->rq = g_new0(VsRecvWqe, qp->rq_size);
    for (uint32_t i = 0; i < qp->rq_size; i++) {
        qp->rq[i].sge = g_new0(struct ibv_sge, cap->max_recv_sge);
    }
}

static void free_rings(VsQp *qp)
{
    for (uint32_t i = 0; i < qp->sq_size; i++) {
        g_free(qp->sq[i].sge);
        g_free(qp->sq[i].inline_data);
    }
    for (uint32_t i = 0; i < qp->rq_size; i++) {
        g_free(qp->rq[i].sge);
    }
    g_free(qp->sq);
    g_free(qp->rq);
}

static VsQp *qp_new(struct ibv_pd *pd, const struct ibv_qp_init_attr *init)
{
    VsQp *qp = g_new0(VsQp, 1);
    struct ibv_qp *ibv = vs_qp_ibv(qp);

    qp->init = *init;
    ibv->context = pd->context;
    ibv->qp_context = init->qp_context;
    ibv->pd = pd;
    ibv->send_cq = init->send_cq;
    ibv->recv_cq = init->recv_cq;
    ibv->handle = vs_object_handle();
    ibv->qp_num = free_number();
    ibv->state = IBV_QPS_RESET;
    ibv->qp_type = init->qp_type;
    pthread_mutex_init(&ibv->mutex, NULL);
    pthread_cond_init(&ibv->cond, NULL);
    make_rings(qp);
    vs_requester_init(qp);
    vs_responder_init(qp);
    return qp;
}

static VsQp *create(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
    int error = check_create(pd, init);
    VsQp *qp;

    if (error) {
        errno = error;
        return NULL;
    }
    qp = qp_new(pd, init);
    ((VsPd *)pd)->children++;
    vs_context(pd->context)->children++;
    vs_qp_send_cq(qp)->users++;
    vs_qp_recv_cq(qp)->users++;
    vs_object_add(VS_KIND_QP, qp);
    if (!by_number) {
        by_number = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(by_number, GUINT_TO_POINTER(vs_qp_ibv(qp)->qp_num),
                        qp);
    VS_TRACE("create-qp", "qp=%u send-wr=%u recv-wr=%u",
             vs_qp_ibv(qp)->qp_num, init->cap.max_send_wr,
             init->cap.max_recv_wr);
    return qp;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd,
                             struct ibv_qp_init_attr *qp_init_attr)
{
    VsQp *qp;

    pthread_mutex_lock(&vs_lock);
    qp = create(pd, qp_init_attr);
    pthread_mutex_unlock(&vs_lock);
    return qp ? vs_qp_ibv(qp) : NULL;
}

struct ibv_qp *vs_create_qp_ex(struct ibv_context *context,
                               struct ibv_qp_init_attr_ex *attr)
{
    /* The extended structure begins with the plain one. */
    struct ibv_qp_init_attr *init = (struct ibv_qp_init_attr *)attr;
    uint64_t ops = attr->comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS
                   ? attr->send_ops_flags : 0;
    VsQp *qp;

    if (!(attr->comp_mask & IBV_QP_INIT_ATTR_PD) || !attr->pd ||
        attr->pd->context != context) {
        errno = EINVAL;
        return NULL;
    }
    if ((attr->comp_mask & ~(uint32_t)(IBV_QP_INIT_ATTR_PD |
                                       IBV_QP_INIT_ATTR_SEND_OPS_FLAGS |
                                       IBV_QP_INIT_ATTR_CREATE_FLAGS)) ||
        ((attr->comp_mask & IBV_QP_INIT_ATTR_CREATE_FLAGS) &&
         attr->create_flags) ||
        (ops & ~(uint64_t)SUPPORTED_OPS)) {
        vs_unimplemented("ibv_create_qp_ex: these attributes or operations");
        return NULL;
    }
    pthread_mutex_lock(&vs_lock);
    qp = create(attr->pd, init);
    if (qp && ops) {
        qp->wr.ops = ops;
        vs_qp_builder_init(qp);
    }
    pthread_mutex_unlock(&vs_lock);
    return qp ? vs_qp_ibv(qp) : NULL;
}

struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *qp)
{
    return vs_qp(qp)->wr.ops ? &vs_qp(qp)->ex : NULL;
}

/* -------------------------------------------------------------- destroying */

static void destroy(VsQp *qp)
{
    struct ibv_qp *ibv = vs_qp_ibv(qp);

    /* Nothing that arrives finds it any more; then the NIC lets go of it. */
    qp->destroyed = true;
    g_hash_table_remove(by_number, GUINT_TO_POINTER(ibv->qp_num));
    vs_qp_reset(qp);
    vs_object_remove(VS_KIND_QP, qp);
    vs_async_forget(vs_context(ibv->context), qp, &qp->async_got);
    vs_qp_send_cq(qp)->users--;
    vs_qp_recv_cq(qp)->users--;
    vs_qp_pd(qp)->children--;
    vs_context(ibv->context)->children--;
    VS_TRACE("destroy-qp", "qp=%u", ibv->qp_num);
    free_rings(qp);
    pthread_mutex_destroy(&ibv->mutex);
    pthread_cond_destroy(&ibv->cond);
    g_free(qp);
}

int ibv_destroy_qp(struct ibv_qp *ibv)
{
    int error = 0;

    pthread_mutex_lock(&vs_lock);
    if (vs_object_check(VS_KIND_QP, ibv, __func__)) {
        destroy(vs_qp(ibv));
    } else {
        error = EINVAL;
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}

/* ---------------------------------------------------------------- querying */

int ibv_query_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr, int attr_mask,
                 struct ibv_qp_init_attr *init_attr)
{
    VsQp *qp = vs_qp(ibv);

    (void)attr_mask;            /* it only allows us to give less */
    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_QP, qp, __func__)) {
        pthread_mutex_unlock(&vs_lock);
        return EINVAL;
    }
    *attr = qp->attr;
    attr->qp_state = ibv->state;
    attr->cur_qp_state = ibv->state;
    attr->cap = qp->init.cap;
    attr->sq_draining = ibv->state == IBV_QPS_SQD && qp->attr.sq_draining;
    if (init_attr) {
        *init_attr = qp->init;
    }
    pthread_mutex_unlock(&vs_lock);
    return 0;
}

int ibv_query_qp_data_in_order(struct ibv_qp *qp, enum ibv_wr_opcode op,
                               uint32_t flags)
{
    (void)qp;
    (void)op;
    (void)flags;
    return 0;
}

int ibv_query_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
    (void)qp;
    *ece = (struct ibv_ece){ 0 };
    return 0;
}

int ibv_set_ece(struct ibv_qp *qp, struct ibv_ece *ece)
{
    (void)qp;
    if (!ece->vendor_id) {
        return 0;
    }
    vs_unimplemented(__func__);
    return EOPNOTSUPP;
}
