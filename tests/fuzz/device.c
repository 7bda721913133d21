/*
 * A device to fuzz on: the libibverbs half
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See device.h.  Functions of a program come before those of the shared
 * libraries that it is linked to, so these are the ones that the core calls.
 */
#include "device.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_reg_mr

/* Looks at an empty queue without a sleep or an event between: it spins */
#define LOOKS_MAX 100000

FuzzDevice fuzz_device;

typedef struct FuzzCq {
    struct ibv_cq cq;
    GQueue completions; /* of FuzzWc, owned */
    bool armed;
    unsigned events_taken, events_acked;
} FuzzCq;

typedef struct FuzzWc {
    struct ibv_wc wc;
    FuzzQp *qp;
    unsigned slots; /* of the send queue that it gives back */
} FuzzWc;

static struct ibv_device device = { .name = "fuzz0" };
static struct ibv_context context;
static unsigned n_pds, n_channels, n_cqs;
static GPtrArray *cqs; /* of FuzzCq, alive */
static uint32_t next_key;

void fuzz_die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fprintf(stderr, "fuzz: ");
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    abort();
}

bool fuzz_fails(const char *call)
{
    if (g_strcmp0(fuzz_device.fail_call, call) != 0 ||
        fuzz_device.fail_skip-- > 0) {
        return false;
    }
    fuzz_device.fail_call = NULL;
    fuzz_device.failed++;
    errno = fuzz_device.fail_errno;
    return true;
}

/* ---- queues ---- */

static FuzzQp *as_qp(struct ibv_qp *qp)
{
    return (FuzzQp *)qp;
}

static FuzzCq *cq_of(const FuzzQp *qp)
{
    return (FuzzCq *)qp->attr.send_cq;
}

static void complete(FuzzQp *qp, const FuzzWr *wr, enum ibv_wc_status status,
                     uint32_t bytes, unsigned slots)
{
    FuzzCq *cq = cq_of(qp);
    FuzzWc *made;

    if (!qp->alive) {
        return;
    }
    if ((int)g_queue_get_length(&cq->completions) >= cq->cq.cqe) {
        fuzz_die("a completion queue of %d entries overflows", cq->cq.cqe);
    }
    made = g_new0(FuzzWc, 1);
    made->qp = qp;
    made->slots = slots;
    made->wc.wr_id = wr->wr_id;
    made->wc.status = status;
    made->wc.byte_len = bytes;
    /* On an error nothing else is to be relied upon */
    made->wc.opcode = status == IBV_WC_SUCCESS ? IBV_WC_SEND : 0x7f;
    made->wc.vendor_err = status == IBV_WC_SUCCESS ? 0 : 0x81;
    g_queue_push_tail(&cq->completions, made);
    fuzz_device.looks = 0;
    if (cq->armed) {
        cq->armed = false;
        fuzz_ring(cq->cq.channel->fd);
    }
}

static unsigned take_silent(FuzzQp *qp)
{
    unsigned slots = qp->silent + 1;

    qp->silent = 0;
    return slots;
}

void fuzz_qp_break(FuzzQp *qp)
{
    FuzzWr *wr;

    if (!qp->alive) {
        return;
    }
    qp->qp.state = IBV_QPS_ERR;
    while ((wr = g_queue_pop_head(&qp->sends)) != NULL) {
        complete(qp, wr, IBV_WC_WR_FLUSH_ERR, 0, take_silent(qp));
        g_free(wr);
    }
    while ((wr = g_queue_pop_head(&qp->recvs)) != NULL) {
        complete(qp, wr, IBV_WC_WR_FLUSH_ERR, 0, 0);
        g_free(wr);
    }
    g_queue_clear_full(&qp->inbox, (GDestroyNotify)g_bytes_unref);
}

bool fuzz_qp_execute(FuzzQp *qp)
{
    g_autofree FuzzWr *wr = NULL;

    if (!qp->alive || qp->qp.state != IBV_QPS_RTS) {
        return false;
    }
    wr = g_queue_pop_head(&qp->sends);
    if (!wr) {
        return false;
    }
    if (wr->signalled) {
        complete(qp, wr, IBV_WC_SUCCESS, 0, take_silent(qp));
    } else {
        qp->silent++;
    }
    if (fuzz_device.hooks.executed) {
        fuzz_device.hooks.executed(qp, wr);
    }
    return true;
}

static bool break_with(FuzzQp *qp, GQueue *queue, enum ibv_wc_status status)
{
    g_autofree FuzzWr *wr = qp->alive ? g_queue_pop_head(queue) : NULL;

    if (!wr) {
        return false;
    }
    complete(qp, wr, status, 0, queue == &qp->sends ? take_silent(qp) : 0);
    fuzz_qp_break(qp);
    return true;
}

bool fuzz_qp_break_send(FuzzQp *qp, enum ibv_wc_status status)
{
    return break_with(qp, &qp->sends, status);
}

bool fuzz_qp_break_recv(FuzzQp *qp, enum ibv_wc_status status)
{
    return break_with(qp, &qp->recvs, status);
}

static void check_local(const FuzzQp *qp, const FuzzMr *mr, const void *addr,
                        uint32_t bytes)
{
    uintptr_t at = (uintptr_t)addr, start = (uintptr_t)mr->mr.addr;

    if (mr->mr.pd != qp->qp.pd) {
        fuzz_die("a memory region of another protection domain is used");
    }
    if (at < start || at - start > mr->mr.length ||
        bytes > mr->mr.length - (at - start)) {
        fuzz_die("%u bytes at %p are used, registered are %zu at %p", bytes,
                 addr, mr->mr.length, mr->mr.addr);
    }
}

static FuzzMr *mr_of_lkey(uint32_t lkey)
{
    /* Both keys of a region are the same here */
    FuzzMr *mr = fuzz_device_find_mr(lkey);

    if (!mr) {
        fuzz_die("a request names the local key 0x%x, which does not exist",
                 lkey);
    }
    return mr;
}

/* The oldest receive takes the oldest message that waits for one */
static void deliver(FuzzQp *qp)
{
    while (!g_queue_is_empty(&qp->inbox) && !g_queue_is_empty(&qp->recvs)) {
        g_autoptr(GBytes) message = g_queue_pop_head(&qp->inbox);
        g_autofree FuzzWr *wr = g_queue_pop_head(&qp->recvs);
        gsize bytes;
        const void *data = g_bytes_get_data(message, &bytes);

        if (bytes > wr->bytes || !(wr->mr->access & IBV_ACCESS_LOCAL_WRITE)) {
            complete(qp, wr, bytes > wr->bytes ? IBV_WC_LOC_LEN_ERR :
                     IBV_WC_LOC_PROT_ERR, 0, 0);
            fuzz_qp_break(qp);
            return;
        }
        if (bytes) {
            memcpy(wr->addr, data, bytes);
        }
        complete(qp, wr, IBV_WC_SUCCESS, bytes, 0);
    }
}

void fuzz_qp_arrive(FuzzQp *qp, const void *data, size_t bytes)
{
    if (qp->alive && qp->qp.state == IBV_QPS_RTS) {
        g_queue_push_tail(&qp->inbox, g_bytes_new(data, bytes));
        deliver(qp);
    }
}

void fuzz_qp_ring(FuzzQp *qp)
{
    if (qp->alive) {
        cq_of(qp)->armed = false;
        fuzz_ring(cq_of(qp)->cq.channel->fd);
    }
}

/* ---- the device's own functions ---- */

static void look(void)
{
    if (++fuzz_device.looks > LOOKS_MAX) {
        fuzz_die("the core spins");
    }
    fuzz_device.now_us++; /* so that looking for a while comes to an end */
    if (fuzz_device.hooks.gap) {
        fuzz_device.hooks.gap();
    }
}

static int poll_cq(struct ibv_cq *ibcq, int n, struct ibv_wc *wc)
{
    FuzzCq *cq = (FuzzCq *)ibcq;
    int got = 0;

    if (fuzz_fails("ibv_poll_cq")) {
        return -1;
    }
    while (got < n && !g_queue_is_empty(&cq->completions)) {
        g_autofree FuzzWc *next = g_queue_pop_head(&cq->completions);

        next->qp->slots_used -= next->slots;
        wc[got++] = next->wc;
    }
    if (got == 0) {
        look();
    }
    return got;
}

static int req_notify_cq(struct ibv_cq *ibcq, int solicited_only)
{
    if (solicited_only) {
        fuzz_die("the core arms for solicited messages only");
    }
    if (fuzz_fails("ibv_req_notify_cq")) {
        return errno;
    }
    ((FuzzCq *)ibcq)->armed = true;
    look();
    return 0;
}

/* Returns 0 or an errno, and then nothing was posted */
static int post_one(FuzzQp *qp, const struct ibv_send_wr *wr)
{
    FuzzWr *made;

    g_assert(wr->num_sge <= 1);
    if (qp->slots_used >= qp->attr.cap.max_send_wr) {
        fuzz_die("a send queue of %u entries overflows",
                 qp->attr.cap.max_send_wr);
    }
    if (fuzz_fails("ibv_post_send")) {
        return errno;
    }
    made = g_new0(FuzzWr, 1);
    *made = (FuzzWr) {
        .wr_id = wr->wr_id,
        .signalled = wr->send_flags & IBV_SEND_SIGNALED,
        .opcode = wr->opcode,
        .remote_addr = wr->wr.rdma.remote_addr,
        .rkey = wr->wr.rdma.rkey,
    };
    if (wr->num_sge) {
        made->mr = mr_of_lkey(wr->sg_list->lkey);
        made->addr = (uint8_t *)(uintptr_t)wr->sg_list->addr;
        made->bytes = wr->sg_list->length;
        check_local(qp, made->mr, made->addr, made->bytes);
    }
    qp->slots_used++;
    g_queue_push_tail(&qp->sends, made);
    if (fuzz_device.hooks.posted) {
        fuzz_device.hooks.posted(qp, made);
    }
    return 0;
}

/* A chain: what stands before the one that is refused is posted */
static int post_send(struct ibv_qp *ibqp, struct ibv_send_wr *wr,
                     struct ibv_send_wr **bad)
{
    FuzzQp *qp = as_qp(ibqp);
    int ret = 0;

    g_assert(qp->alive);
    *bad = wr;
    if (qp->qp.state != IBV_QPS_RTS && qp->qp.state != IBV_QPS_ERR) {
        errno = EINVAL;
        return errno;
    }
    for (; wr && ret == 0; wr = wr->next) {
        *bad = wr;
        ret = post_one(qp, wr);
    }
    if (qp->qp.state == IBV_QPS_ERR) {
        fuzz_qp_break(qp);
    }
    return ret;
}

static int post_recv(struct ibv_qp *ibqp, struct ibv_recv_wr *wr,
                     struct ibv_recv_wr **bad)
{
    FuzzQp *qp = as_qp(ibqp);
    FuzzWr *made;

    g_assert(wr->next == NULL && wr->num_sge == 1 && qp->alive);
    *bad = wr;
    if (qp->qp.state == IBV_QPS_RESET) {
        errno = EINVAL;
        return errno;
    }
    if (fuzz_fails("ibv_post_recv")) {
        return errno;
    }
    made = g_new0(FuzzWr, 1);
    made->wr_id = wr->wr_id;
    made->mr = mr_of_lkey(wr->sg_list->lkey);
    made->addr = (uint8_t *)(uintptr_t)wr->sg_list->addr;
    made->bytes = wr->sg_list->length;
    check_local(qp, made->mr, made->addr, made->bytes);
    if (g_queue_get_length(&qp->recvs) >= qp->attr.cap.max_recv_wr) {
        fuzz_die("a receive queue of %u entries overflows",
                 qp->attr.cap.max_recv_wr);
    }
    g_queue_push_tail(&qp->recvs, made);
    if (qp->qp.state == IBV_QPS_ERR) {
        fuzz_qp_break(qp);
    } else {
        deliver(qp);
    }
    return 0;
}

/* ---- libibverbs ---- */

const char *ibv_get_device_name(struct ibv_device *ibdevice)
{
    return ibdevice->name;
}

int ibv_query_device(struct ibv_context *ibcontext,
                     struct ibv_device_attr *attr)
{
    g_assert(ibcontext == &context);
    if (fuzz_fails("ibv_query_device")) {
        return errno;
    }
    memset(attr, 0, sizeof(*attr));
    attr->max_qp_wr = 128; /* so that a short input can fill it */
    attr->max_cqe = 1024;
    return 0;
}

int ibv_query_port(struct ibv_context *ibcontext, uint8_t port,
                   struct _compat_ibv_port_attr *compat)
{
    struct ibv_port_attr *attr = (struct ibv_port_attr *)compat;

    (void)port;
    g_assert(ibcontext == &context);
    attr->state = IBV_PORT_ACTIVE;
    return 0;
}

/* It has no events, and no descriptor for them */
int ibv_get_async_event(struct ibv_context *ibcontext,
                        struct ibv_async_event *event)
{
    (void)ibcontext;
    (void)event;
    fuzz_die("ibv_get_async_event() would block for ever");
    return -1;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *ibcontext)
{
    struct ibv_pd *pd;

    if (fuzz_fails("ibv_alloc_pd")) {
        return NULL;
    }
    n_pds++;
    pd = g_new0(struct ibv_pd, 1);
    pd->context = ibcontext;
    return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
    for (guint i = 0; i < fuzz_device.mrs->len; i++) {
        FuzzMr *mr = g_ptr_array_index(fuzz_device.mrs, i);

        if (mr->mr.pd == pd) {
            fuzz_die("%zu bytes at %p are still registered", mr->mr.length,
                     mr->mr.addr);
        }
    }
    n_pds--;
    g_free(pd);
    return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *ibcontext)
{
    struct ibv_comp_channel *channel;

    if (fuzz_fails("ibv_create_comp_channel")) {
        return NULL;
    }
    n_channels++;
    channel = g_new0(struct ibv_comp_channel, 1);
    channel->context = ibcontext;
    channel->fd = fuzz_eventfd(0);
    return channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    for (guint i = 0; i < cqs->len; i++) {
        if (((FuzzCq *)g_ptr_array_index(cqs, i))->cq.channel == channel) {
            fuzz_die("a completion channel goes before its queue");
        }
    }
    n_channels--;
    close(channel->fd);
    g_free(channel);
    return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *ibcontext, int cqe,
                             void *cq_context,
                             struct ibv_comp_channel *channel, int comp_vector)
{
    FuzzCq *cq;

    (void)cq_context;
    (void)comp_vector;
    if (fuzz_fails("ibv_create_cq")) {
        return NULL;
    }
    n_cqs++;
    cq = g_new0(FuzzCq, 1);
    cq->cq.context = ibcontext;
    cq->cq.channel = channel;
    cq->cq.cqe = cqe;
    g_ptr_array_add(cqs, cq);
    return &cq->cq;
}

int ibv_destroy_cq(struct ibv_cq *ibcq)
{
    FuzzCq *cq = (FuzzCq *)ibcq;

    for (guint i = 0; i < fuzz_device.qps->len; i++) {
        FuzzQp *qp = g_ptr_array_index(fuzz_device.qps, i);

        if (qp->alive && cq_of(qp) == cq) {
            fuzz_die("a completion queue goes before its queue pair");
        }
    }
    if (cq->events_taken != cq->events_acked) {
        fuzz_die("destroying a completion queue waits for ever: %u events "
                 "taken, %u acknowledged", cq->events_taken, cq->events_acked);
    }
    n_cqs--;
    g_queue_clear_full(&cq->completions, g_free);
    g_ptr_array_remove(cqs, cq);
    g_free(cq);
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **ibcq,
                     void **cq_context)
{
    uint64_t value;

    if (read(channel->fd, &value, sizeof(value)) < 0) {
        return -1;
    }
    for (guint i = 0; i < cqs->len; i++) {
        FuzzCq *cq = g_ptr_array_index(cqs, i);

        if (cq->cq.channel == channel) {
            cq->events_taken++;
            *ibcq = &cq->cq;
            *cq_context = NULL;
            return 0;
        }
    }
    fuzz_die("an event of a completion queue that is gone");
}

void ibv_ack_cq_events(struct ibv_cq *ibcq, unsigned int n)
{
    ((FuzzCq *)ibcq)->events_acked += n;
}

FuzzMr *fuzz_device_find_mr(uint32_t rkey)
{
    for (guint i = 0; i < fuzz_device.mrs->len; i++) {
        FuzzMr *mr = g_ptr_array_index(fuzz_device.mrs, i);

        if (mr->mr.rkey == rkey) {
            return mr;
        }
    }
    return NULL;
}

uint64_t fuzz_device_pinned_bytes(void)
{
    uint64_t sum = 0;

    for (guint i = 0; i < fuzz_device.mrs->len; i++) {
        sum += ((FuzzMr *)g_ptr_array_index(fuzz_device.mrs, i))->mr.length;
    }
    return sum;
}

uint64_t fuzz_device_remote_bytes(void)
{
    uint64_t sum = 0;

    for (guint i = 0; i < fuzz_device.mrs->len; i++) {
        const FuzzMr *mr = g_ptr_array_index(fuzz_device.mrs, i);

        sum += mr->access & IBV_ACCESS_REMOTE_WRITE ? mr->mr.length : 0;
    }
    return sum;
}

static bool is_refused(void)
{
    if (!fuzz_device.refuse_every ||
        ++fuzz_device.regs % fuzz_device.refuse_every != 0) {
        return false;
    }
    errno = ENOMEM;
    return true;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length,
                          int access)
{
    FuzzMr *mr;

    if (length == 0) {
        fuzz_die("registering nothing");
    }
    if (access & ~(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)) {
        fuzz_die("registering memory with access 0x%x", access);
    }
    if (fuzz_fails("ibv_reg_mr") || is_refused()) {
        return NULL;
    }
    mr = g_new0(FuzzMr, 1);
    next_key += 0x10001;
    mr->mr = (struct ibv_mr) { .context = &context, .pd = pd, .addr = addr,
                               .length = length, .lkey = next_key,
                               .rkey = next_key };
    mr->access = access;
    g_ptr_array_add(fuzz_device.mrs, mr);
    if (fuzz_device.hooks.registered) {
        fuzz_device.hooks.registered(mr);
    }
    return &mr->mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                uint64_t iova, unsigned int access)
{
    g_assert(iova == (uintptr_t)addr);
    return ibv_reg_mr(pd, addr, length, access);
}

static void check_unused(gpointer data, gpointer opaque)
{
    const FuzzWr *wr = data;

    if (wr->mr == opaque) {
        fuzz_die("memory at %p is unregistered while the device uses it",
                 wr->addr);
    }
}

int ibv_dereg_mr(struct ibv_mr *ibmr)
{
    for (guint i = 0; i < fuzz_device.qps->len; i++) {
        FuzzQp *qp = g_ptr_array_index(fuzz_device.qps, i);

        g_queue_foreach(&qp->sends, check_unused, ibmr);
        g_queue_foreach(&qp->recvs, check_unused, ibmr);
    }
    if (!g_ptr_array_remove_fast(fuzz_device.mrs, ibmr)) {
        fuzz_die("a memory region is unregistered twice");
    }
    g_free(ibmr);
    return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    FuzzQp *qp;

    if (fuzz_fails("ibv_create_qp")) {
        return NULL;
    }
    qp = g_new0(FuzzQp, 1);
    qp->qp.context = &context;
    qp->qp.pd = pd;
    qp->qp.state = IBV_QPS_RESET;
    qp->qp.qp_num = fuzz_device.qps->len + 1;
    qp->attr = *attr;
    qp->alive = true;
    g_ptr_array_add(fuzz_device.qps, qp);
    return &qp->qp;
}

static gint is_of_qp(gconstpointer wc, gconstpointer qp)
{
    return ((const FuzzWc *)wc)->qp != qp;
}

int ibv_destroy_qp(struct ibv_qp *ibqp)
{
    FuzzQp *qp = as_qp(ibqp);
    GQueue *queue = &cq_of(qp)->completions;
    GList *link;

    g_assert(qp->alive);
    qp->alive = false;
    g_queue_clear_full(&qp->sends, g_free);
    g_queue_clear_full(&qp->recvs, g_free);
    g_queue_clear_full(&qp->inbox, (GDestroyNotify)g_bytes_unref);
    while ((link = g_queue_find_custom(queue, qp, is_of_qp)) != NULL) {
        g_free(link->data);
        g_queue_delete_link(queue, link);
    }
    return 0;
}

int ibv_modify_qp(struct ibv_qp *ibqp, struct ibv_qp_attr *attr, int mask)
{
    FuzzQp *qp = as_qp(ibqp);

    if (!(mask & IBV_QP_STATE) || !qp->alive) {
        fuzz_die("moving a queue pair to no state, or one that is gone");
    }
    if (fuzz_fails("ibv_modify_qp")) {
        return errno;
    }
    if (attr->qp_state == IBV_QPS_ERR) {
        fuzz_qp_break(qp);
        return 0;
    }
    /* INIT may be repeated; else one step at a time, and none from ERR */
    if (qp->qp.state == IBV_QPS_ERR ||
        (attr->qp_state != qp->qp.state + 1 &&
         !(attr->qp_state == IBV_QPS_INIT && qp->qp.state == IBV_QPS_INIT))) {
        errno = EINVAL;
        return errno;
    }
    qp->qp.state = attr->qp_state;
    return 0;
}

void fuzz_check_armed(int epoll_fd)
{
    for (guint i = 0; i < fuzz_device.qps->len; i++) {
        FuzzQp *qp = g_ptr_array_index(fuzz_device.qps, i);
        FuzzCq *cq = qp->alive ? cq_of(qp) : NULL;

        if (cq && fuzz_watches(epoll_fd, cq->cq.channel->fd) &&
            !fuzz_is_readable(cq->cq.channel->fd) &&
            (!cq->armed || !g_queue_is_empty(&cq->completions))) {
            fuzz_die("the core sleeps with %u completions unseen and the "
                     "queue %sarmed", g_queue_get_length(&cq->completions),
                     cq->armed ? "" : "not ");
        }
    }
}

/* ---- an input's beginning and end ---- */

FuzzQp *fuzz_device_last_qp(void)
{
    return fuzz_device.qps->len == 0 ? NULL :
           g_ptr_array_index(fuzz_device.qps, fuzz_device.qps->len - 1);
}

FuzzQp *fuzz_device_qp(uint32_t qp_num)
{
    if (qp_num == 0 || qp_num > fuzz_device.qps->len) {
        fuzz_die("there is no queue pair %u", qp_num);
    }
    return g_ptr_array_index(fuzz_device.qps, qp_num - 1);
}

void fuzz_device_init(const FuzzHooks *hooks)
{
    memset(&fuzz_device, 0, sizeof(fuzz_device));
    fuzz_device.hooks = *hooks;
    fuzz_device.qps = g_ptr_array_new_with_free_func(g_free);
    fuzz_device.ids = g_ptr_array_new();
    fuzz_device.mrs = g_ptr_array_new();
    fuzz_device.now_us = G_USEC_PER_SEC;
    cqs = g_ptr_array_new();
    next_key = 0;
    context.device = &device;
    context.async_fd = -1;
    context.ops.poll_cq = poll_cq;
    context.ops.req_notify_cq = req_notify_cq;
    context.ops.post_send = post_send;
    context.ops.post_recv = post_recv;
    fuzz_clock_init();
    fuzz_cm_init();
}

struct ibv_context *fuzz_device_context(void)
{
    return &context;
}

void fuzz_device_cleanup(void)
{
    for (guint i = 0; i < fuzz_device.qps->len; i++) {
        if (((FuzzQp *)g_ptr_array_index(fuzz_device.qps, i))->alive) {
            fuzz_die("a queue pair is left behind");
        }
    }
    if (n_pds || n_channels || n_cqs || fuzz_device.mrs->len) {
        fuzz_die("left behind: %u protection domains, %u completion channels, "
                 "%u completion queues, %u memory regions", n_pds, n_channels,
                 n_cqs, fuzz_device.mrs->len);
    }
    fuzz_cm_cleanup();
    fuzz_clock_cleanup();
    g_ptr_array_unref(fuzz_device.qps);
    g_ptr_array_unref(fuzz_device.ids);
    g_ptr_array_unref(fuzz_device.mrs);
    g_ptr_array_unref(cqs);
}
