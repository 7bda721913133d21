/*
 * A stand-in for libibverbs and librdmacm, for the rooms verbs and link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See fake-rdma.h.  Functions of a program come before those of the shared
 * libraries that it is linked to, so these are the ones that are called.
 */
#include "fake-rdma.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#undef ibv_query_port
#undef ibv_reg_mr

FakeRdma fake_rdma;

static GQueue completions = G_QUEUE_INIT; /* of struct ibv_wc */
static GQueue events = G_QUEUE_INIT;      /* of FakeEvent */
static GQueue async = G_QUEUE_INIT;       /* of struct ibv_async_event */
static struct ibv_comp_channel comp_channel;
static struct ibv_cq fake_cq;
static bool armed;
static struct rdma_cm_id *last_id;
static int timer_fd = -1; /* of the last link */
static int listener_timer_fd = -1;

typedef struct FakeEvent {
    struct rdma_cm_event event;
    struct rdma_event_channel *channel;
    uint8_t private_data[196]; /* most that an acceptance can carry */
} FakeEvent;

/* Whether this call is the one that is to fail; sets errno */
static bool fails(const char *call)
{
    if (g_strcmp0(fake_rdma.fail_call, call) != 0 ||
        fake_rdma.fail_skip-- > 0) {
        return false;
    }
    fake_rdma.fail_call = NULL;
    errno = fake_rdma.fail_errno;
    return true;
}

static void ring(int fd)
{
    g_assert_cmpint(eventfd_write(fd, 1), ==, 0);
}

/* ---- the device's own functions ---- */

static int poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
    int got = 0;

    (void)cq;
    if (fails("ibv_poll_cq")) {
        return -1;
    }
    while (got < n && !g_queue_is_empty(&completions)) {
        g_autofree struct ibv_wc *next = g_queue_pop_head(&completions);

        wc[got++] = *next;
    }
    if (got == 0 && fake_rdma.after_poll) {
        void (*after_poll)(void) = fake_rdma.after_poll;

        fake_rdma.after_poll = NULL;
        after_poll();
    }
    return got;
}

static int req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
    (void)cq;
    g_assert_cmpint(solicited_only, ==, 0);
    if (fails("ibv_req_notify_cq")) {
        return errno;
    }
    fake_rdma.armed++;
    armed = true;
    return 0;
}

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr,
                     struct ibv_send_wr **bad)
{
    g_assert_true(qp == &fake_rdma.qp);
    fake_rdma.doorbells++;
    for (; wr; wr = wr->next) {
        struct ibv_sge sge = { 0 };

        if (fails("ibv_post_send")) {
            *bad = wr;
            return errno;
        }
        g_assert_cmpint(wr->num_sge, <=, 1);
        if (wr->num_sge == 1) {
            sge = *wr->sg_list;
        }
        g_array_append_val(fake_rdma.sends, *wr);
        g_array_append_val(fake_rdma.sges, sge);
    }
    return 0;
}

static int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr,
                     struct ibv_recv_wr **bad)
{
    g_assert_true(qp == &fake_rdma.qp);
    if (fails("ibv_post_recv")) {
        *bad = wr;
        return errno;
    }
    g_array_append_val(fake_rdma.recvs, *wr);
    return 0;
}

void fake_rdma_init(void)
{
    memset(&fake_rdma, 0, sizeof(fake_rdma));
    fake_rdma.context.device = &fake_rdma.device;
    fake_rdma.context.async_fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    fake_rdma.context.ops.poll_cq = poll_cq;
    fake_rdma.context.ops.req_notify_cq = req_notify_cq;
    fake_rdma.context.ops.post_send = post_send;
    fake_rdma.context.ops.post_recv = post_recv;
    fake_rdma.attr.max_qp_wr = 16384;
    fake_rdma.attr.max_cqe = 65536;
    fake_rdma.attr.phys_port_cnt = 1;
    fake_rdma.port_state = IBV_PORT_ACTIVE;
    fake_rdma.qp.context = &fake_rdma.context;
    fake_rdma.sends = g_array_new(false, true, sizeof(struct ibv_send_wr));
    fake_rdma.sges = g_array_new(false, true, sizeof(struct ibv_sge));
    fake_rdma.recvs = g_array_new(false, true, sizeof(struct ibv_recv_wr));
    fake_rdma.now_us = G_USEC_PER_SEC;
}

void fake_rdma_cleanup(void)
{
    g_assert_cmpint(fake_rdma.pds, ==, 0);
    g_assert_cmpint(fake_rdma.channels, ==, 0);
    g_assert_cmpint(fake_rdma.cqs, ==, 0);
    g_assert_cmpint(fake_rdma.mrs, ==, 0);
    g_assert_cmpint(fake_rdma.qps, ==, 0);
    g_assert_cmpint(fake_rdma.ids, ==, 0);
    g_assert_cmpint(fake_rdma.event_channels, ==, 0);
    g_queue_clear_full(&completions, g_free);
    g_queue_clear_full(&events, g_free);
    g_queue_clear_full(&async, g_free);
    g_assert_cmpint(fake_rdma.unacked_events, ==, 0);
    close(fake_rdma.context.async_fd);
    g_array_unref(fake_rdma.sends);
    g_array_unref(fake_rdma.sges);
    g_array_unref(fake_rdma.recvs);
    armed = false;
}

void fake_rdma_complete(uint64_t wr_id, enum ibv_wc_status status,
                        uint32_t bytes)
{
    struct ibv_wc wc = { .wr_id = wr_id, .status = status, .byte_len = bytes,
                         .vendor_err = status ? 0x81 : 0 };

    g_queue_push_tail(&completions, g_memdup2(&wc, sizeof(wc)));
    if (armed) {
        armed = false;
        ring(comp_channel.fd);
    }
}

/* ---- libibverbs ---- */

const char *ibv_get_device_name(struct ibv_device *device)
{
    (void)device;
    return "fake0";
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    (void)context;
    if (fails("ibv_query_device")) {
        return errno;
    }
    *attr = fake_rdma.attr;
    return 0;
}

int ibv_query_port(struct ibv_context *context, uint8_t port,
                   struct _compat_ibv_port_attr *compat)
{
    struct ibv_port_attr *attr = (struct ibv_port_attr *)compat;

    (void)context;
    fake_rdma.port_queries++;
    g_assert_cmpint(port, <=, fake_rdma.attr.phys_port_cnt);
    if (fails("ibv_query_port")) {
        return errno;
    }
    attr->state = fake_rdma.port_state;
    return 0;
}

/* Would block, as the library does, on a descriptor that may */
int ibv_get_async_event(struct ibv_context *context,
                        struct ibv_async_event *event)
{
    g_autofree struct ibv_async_event *next = NULL;
    eventfd_t value;

    if (eventfd_read(context->async_fd, &value) != 0) {
        return -1;
    }
    next = g_queue_pop_head(&async);
    *event = *next;
    fake_rdma.unacked_events++;
    return 0;
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
    (void)event;
    fake_rdma.unacked_events--;
}

void fake_rdma_async_event(enum ibv_event_type type, int port)
{
    struct ibv_async_event event = { .event_type = type };

    if (port) {
        event.element.port_num = port;
    } else if (type == IBV_EVENT_CQ_ERR) {
        event.element.cq = &fake_cq;
    } else {
        event.element.qp = &fake_rdma.qp;
    }
    g_queue_push_tail(&async, g_memdup2(&event, sizeof(event)));
    ring(fake_rdma.context.async_fd);
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    static struct ibv_pd pd;

    if (fails("ibv_alloc_pd")) {
        return NULL;
    }
    fake_rdma.pds++;
    pd.context = context;
    return &pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
    (void)pd;
    g_assert_cmpint(fake_rdma.mrs, ==, 0);
    fake_rdma.pds--;
    return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    if (fails("ibv_create_comp_channel")) {
        return NULL;
    }
    fake_rdma.channels++;
    comp_channel.context = context;
    comp_channel.fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    return &comp_channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    g_assert_cmpint(fake_rdma.cqs, ==, 0);
    fake_rdma.channels--;
    return close(channel->fd);
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe,
                             void *cq_context,
                             struct ibv_comp_channel *channel, int comp_vector)
{
    (void)cq_context;
    (void)comp_vector;
    g_assert_cmpint(cqe, <=, fake_rdma.attr.max_cqe);
    if (fails("ibv_create_cq")) {
        return NULL;
    }
    fake_rdma.cqs++;
    fake_cq = (struct ibv_cq) { .context = context, .channel = channel,
                                .cqe = cqe };
    return &fake_cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
    (void)cq;
    g_assert_cmpint(fake_rdma.qps, ==, 0);
    fake_rdma.cqs--;
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq,
                     void **cq_context)
{
    eventfd_t value;

    *cq = NULL;
    *cq_context = NULL;
    return eventfd_read(channel->fd, &value) == 0 ? 0 : -1;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int n)
{
    (void)cq;
    (void)n;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length,
                          int access)
{
    struct ibv_mr *mr;

    if (fails("ibv_reg_mr")) {
        return NULL;
    }
    fake_rdma.mrs++;
    fake_rdma.last_access = access;
    mr = g_new0(struct ibv_mr, 1);
    *mr = (struct ibv_mr) { .pd = pd, .addr = addr, .length = length,
                            .lkey = 7, .rkey = 9 };
    return mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                uint64_t iova, unsigned int access)
{
    g_assert_cmphex(iova, ==, (uintptr_t)addr);
    return ibv_reg_mr(pd, addr, length, access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
    fake_rdma.mrs--;
    g_free(mr);
    return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    (void)pd;
    g_assert_cmpint(attr->qp_type, ==, IBV_QPT_RC);
    g_assert_cmpint(attr->sq_sig_all, ==, 0);
    if (fails("ibv_create_qp")) {
        return NULL;
    }
    fake_rdma.qps++;
    fake_rdma.qp_attr = *attr;
    fake_rdma.qp.send_cq = attr->send_cq;
    fake_rdma.qp_state = IBV_QPS_RESET;
    return &fake_rdma.qp;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
    g_assert_true(qp == &fake_rdma.qp);
    fake_rdma.qps--;
    return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    g_assert_true(qp == &fake_rdma.qp);
    g_assert_true(mask & IBV_QP_STATE);
    if (fails("ibv_modify_qp")) {
        return errno;
    }
    fake_rdma.qp_state = attr->qp_state;
    if (mask & IBV_QP_RNR_RETRY) {
        fake_rdma.rnr_retry = attr->rnr_retry;
    }
    if (mask & IBV_QP_ACCESS_FLAGS) {
        fake_rdma.remote_write =
            attr->qp_access_flags & IBV_ACCESS_REMOTE_WRITE;
    }
    return 0;
}

/* ---- librdmacm ---- */

struct rdma_event_channel *rdma_create_event_channel(void)
{
    struct rdma_event_channel *channel;

    if (fails("rdma_create_event_channel")) {
        return NULL;
    }
    fake_rdma.event_channels++;
    channel = g_new0(struct rdma_event_channel, 1);
    channel->fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    return channel;
}

void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
    fake_rdma.event_channels--;
    close(channel->fd);
    g_free(channel);
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id,
                   void *context, enum rdma_port_space ps)
{
    g_assert_cmpint(ps, ==, RDMA_PS_TCP);
    if (fails("rdma_create_id")) {
        return -1;
    }
    fake_rdma.ids++;
    *id = g_new0(struct rdma_cm_id, 1);
    (*id)->channel = channel;
    (*id)->context = context;
    last_id = *id;
    return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
    fake_rdma.ids--;
    g_free(id);
    return 0;
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
    if (fails("rdma_migrate_id")) {
        return -1;
    }
    id->channel = channel;
    return 0;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *src,
                      struct sockaddr *dst, int timeout_ms)
{
    (void)src;
    (void)dst;
    g_assert_cmpint(timeout_ms, >, 0);
    id->verbs = &fake_rdma.context;
    id->port_num = 1;
    return fails("rdma_resolve_addr") ? -1 : 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
    (void)id;
    g_assert_cmpint(timeout_ms, >, 0);
    return fails("rdma_resolve_route") ? -1 : 0;
}

/* Marks what it returns, so that the link's own changes can be told apart */
int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr,
                      int *mask)
{
    (void)id;
    if (fails("rdma_init_qp_attr")) {
        return -1;
    }
    attr->rnr_retry = 0;
    *mask = IBV_QP_STATE;
    if (attr->qp_state == IBV_QPS_RTS) {
        *mask |= IBV_QP_RNR_RETRY;
    }
    /* As the kernel does: nothing is allowed before there is a connection */
    if (attr->qp_state == IBV_QPS_INIT) {
        *mask |= IBV_QP_ACCESS_FLAGS;
        attr->qp_access_flags = fake_rdma.asked ? IBV_ACCESS_REMOTE_WRITE : 0;
    }
    return 0;
}

int rdma_establish(struct rdma_cm_id *id)
{
    (void)id;
    g_assert_cmpint(fake_rdma.qp_state, ==, IBV_QPS_RTS);
    if (fails("rdma_establish")) {
        return -1;
    }
    fake_rdma.established++;
    return 0;
}

static void keep_private_data(const void *data, uint8_t len)
{
    g_assert_cmpuint(len, <=, sizeof(fake_rdma.private_data));
    memcpy(fake_rdma.private_data, data, len);
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
    (void)id;
    if (fails("rdma_connect")) {
        return -1;
    }
    fake_rdma.param = *param;
    fake_rdma.asked = true;
    keep_private_data(param->private_data, param->private_data_len);
    return 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
    return fails("rdma_accept") ? -1 : rdma_connect(id, param);
}

int rdma_reject(struct rdma_cm_id *id, const void *private_data,
                uint8_t private_data_len)
{
    (void)id;
    fake_rdma.rejects++;
    keep_private_data(private_data, private_data_len);
    return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *addr)
{
    (void)addr;
    if (fails("rdma_bind_addr")) {
        return -1;
    }
    id->verbs = &fake_rdma.context;
    id->port_num = 1;
    return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
    (void)id;
    g_assert_cmpint(backlog, >, 0);
    return fails("rdma_listen") ? -1 : 0;
}

__be16 rdma_get_src_port(struct rdma_cm_id *id)
{
    (void)id;
    return GUINT16_TO_BE(4444);
}

int rdma_disconnect(struct rdma_cm_id *id)
{
    (void)id;
    fake_rdma.disconnects++;
    return 0;
}

/* Events of one channel only, in order */
int rdma_get_cm_event(struct rdma_event_channel *channel,
                      struct rdma_cm_event **event)
{
    for (GList *l = events.head; l; l = l->next) {
        FakeEvent *next = l->data;
        eventfd_t value;

        if (next->channel == channel) {
            g_assert_cmpint(eventfd_read(channel->fd, &value), ==, 0);
            g_queue_delete_link(&events, l);
            *event = &next->event;
            return 0;
        }
    }
    errno = EAGAIN;
    return -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *event)
{
    g_free(event); /* the first member of a FakeEvent */
    return 0;
}

static void push_event(struct rdma_cm_id *id, enum rdma_cm_event_type type,
                       int status, const void *private_data, uint8_t len)
{
    FakeEvent *made = g_new0(FakeEvent, 1);

    made->event.id = id;
    made->event.event = type;
    made->event.status = status;
    g_assert_cmpuint(len, <=, sizeof(made->private_data));
    if (len) {
        memcpy(made->private_data, private_data, len);
        made->event.param.conn.private_data = made->private_data;
        made->event.param.conn.private_data_len = len;
    }
    made->channel = id->channel;
    g_queue_push_tail(&events, made);
    ring(made->channel->fd);
}

void fake_rdma_event(enum rdma_cm_event_type type, int status,
                     const void *private_data, uint8_t len)
{
    push_event(last_id, type, status, private_data, len);
}

void fake_rdma_request(const void *private_data, uint8_t len)
{
    struct rdma_cm_id *listener = last_id;
    struct rdma_cm_id *id = NULL;

    g_assert_cmpint(rdma_create_id(listener->channel, &id, NULL, RDMA_PS_TCP),
                    ==, 0);
    id->verbs = &fake_rdma.context;
    id->port_num = 1;
    push_event(id, RDMA_CM_EVENT_CONNECT_REQUEST, 0, private_data, len);
}

/* ---- time ---- */

gint64 g_get_monotonic_time(void)
{
    return fake_rdma.now_us;
}

int timerfd_create(int clock, int flags)
{
    (void)clock;
    (void)flags;
    timer_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return timer_fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *value,
                    struct itimerspec *old)
{
    (void)flags;
    (void)old;
    if (value->it_interval.tv_sec == 0) {
        listener_timer_fd = fd;
        fake_rdma.listener_tick_ms = value->it_interval.tv_nsec / 1000000;
        return 0;
    }
    g_assert_cmpint(fd, ==, timer_fd);
    g_assert_cmpint(value->it_interval.tv_sec, ==, 1);
    return 0;
}

void fake_rdma_tick(void)
{
    fake_rdma.now_us += G_USEC_PER_SEC;
    ring(timer_fd);
}

void fake_rdma_listener_tick(void)
{
    ring(listener_timer_fd);
}
