/*
 * verbsim: completion queues and completion channels
 *
 * The NIC thread adds completions; the program polls them.  As on real
 * hardware an armed queue raises one event, for a completion that is added
 * after the arming: what was there before raises none.
 *
 * While the program is frozen, polls find nothing and no event is raised.
 * When that ends, a queue that is armed and not empty raises its event: its
 * completions have only now become visible.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* A program that polls in a loop must not keep the NIC off the processor. */
enum { POLLS_TO_YIELD = 16 };

/* ----------------------------------------------------------------- channels */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    VsChannel *channel;
    int fd = vs_event_fd();

    if (fd < 0) {
        return NULL;
    }
    channel = g_new0(VsChannel, 1);
    channel->ibv.context = context;
    channel->ibv.fd = fd;
    pthread_mutex_lock(&vs_lock);
    vs_context(context)->children++;
    vs_object_add(VS_KIND_CHANNEL, channel);
    pthread_mutex_unlock(&vs_lock);
    return &channel->ibv;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *ibv)
{
    VsChannel *channel = (VsChannel *)ibv;
    int error = 0;

    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_CHANNEL, channel, __func__)) {
        error = EINVAL;
    } else if (ibv->refcnt) {
        error = EBUSY;
    } else {
        vs_object_remove(VS_KIND_CHANNEL, channel);
        vs_context(ibv->context)->children--;
        close(ibv->fd);
        g_free(channel);
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}

int ibv_get_cq_event(struct ibv_comp_channel *ibv, struct ibv_cq **cq,
                     void **cq_context)
{
    VsChannel *channel = (VsChannel *)ibv;
    VsCq *got;

    pthread_mutex_lock(&vs_lock);
    got = vs_event_get(ibv->fd, &channel->events);
    if (got) {
        got->events_got++;
        *cq = &got->ibv;
        *cq_context = got->ibv.cq_context;
    }
    pthread_mutex_unlock(&vs_lock);
    return got ? 0 : -1;
}

void ibv_ack_cq_events(struct ibv_cq *ibv, unsigned int nevents)
{
    VsCq *cq = (VsCq *)ibv;

    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_CQ, cq, __func__)) {
        /* It has been said. */
    } else if (nevents > cq->events_got) {
        vs_complain("ibv_ack_cq_events(): %u events acknowledged, %u got",
                    nevents, cq->events_got);
    } else {
        cq->events_got -= nevents;
        ibv->comp_events_completed += nevents;
        if (!cq->events_got) {
            pthread_cond_broadcast(&vs_idle);
        }
    }
    pthread_mutex_unlock(&vs_lock);
}

/* -------------------------------------------------------- creating a queue */

static int check_create(int cqe, int comp_vector)
{
    if (vs_device_error()) {
        return vs_device_error();
    }
    if (cqe < 1 || (uint32_t)cqe > vs_shape.max_cqe || comp_vector != 0) {
        return EINVAL;
    }
    return vs_object_count(VS_KIND_CQ) >= vs_shape.max_cq ? ENOMEM : 0;
}

static VsCq *cq_new(struct ibv_context *context, int cqe, void *cq_context,
                    struct ibv_comp_channel *channel)
{
    VsCq *cq = g_new0(VsCq, 1);

    cq->ibv.context = context;
    cq->ibv.channel = channel;
    cq->ibv.cq_context = cq_context;
    cq->ibv.handle = vs_object_handle();
    cq->ibv.cqe = cqe;
    pthread_mutex_init(&cq->ibv.mutex, NULL);
    pthread_cond_init(&cq->ibv.cond, NULL);
    cq->size = (uint32_t)cqe;
    cq->ring = g_new0(VsCqe, cq->size);
    if (channel) {
        channel->refcnt++;
    }
    vs_context(context)->children++;
    vs_object_add(VS_KIND_CQ, cq);
    return cq;
}

/* As many entries as asked for, so that programs cannot rely on more. */
struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe,
                             void *cq_context,
                             struct ibv_comp_channel *channel, int comp_vector)
{
    VsCq *cq = NULL;
    int error;

    pthread_mutex_lock(&vs_lock);
    error = check_create(cqe, comp_vector);
    if (!error && channel &&
        !vs_object_check(VS_KIND_CHANNEL, channel, __func__)) {
        error = EINVAL;
    }
    if (!error) {
        cq = cq_new(context, cqe, cq_context, channel);
    }
    pthread_mutex_unlock(&vs_lock);
    if (!cq) {
        errno = error;
        return NULL;
    }
    return &cq->ibv;
}

static int not_of(const void *event, const void *cq)
{
    return event != cq;
}

static void cq_free(VsCq *cq)
{
    VsContext *context = vs_context(cq->ibv.context);
    struct ibv_comp_channel *channel = cq->ibv.channel;

    cq->armed = VS_CQ_UNARMED;
    if (channel) {
        vs_event_purge(channel->fd, &((VsChannel *)channel)->events, cq,
                       not_of, NULL);
        vs_wait_idle(&cq->events_got, "completion events to be acknowledged "
                                      "with ibv_ack_cq_events()");
        channel->refcnt--;
    }
    vs_async_forget(context, cq, &cq->async_got);
    context->children--;
    vs_object_remove(VS_KIND_CQ, cq);
    pthread_mutex_destroy(&cq->ibv.mutex);
    pthread_cond_destroy(&cq->ibv.cond);
    g_free(cq->ring);
    g_free(cq);
}

int ibv_destroy_cq(struct ibv_cq *ibv)
{
    VsCq *cq = (VsCq *)ibv;
    int error = 0;

    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_CQ, cq, __func__)) {
        error = EINVAL;
    } else if (cq->users) {
        error = EBUSY;
    } else {
        cq_free(cq);
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}

/* ------------------------------------------------------------------- events */

static void raise_event(VsCq *cq)
{
    VsChannel *channel = (VsChannel *)cq->ibv.channel;

    cq->armed = VS_CQ_UNARMED;
    if (!channel) {
        return;
    }
    g_queue_push_tail(&channel->events, cq);
    vs_event_put(channel->ibv.fd, 1);
    vs_stats->cq_events++;
    VS_TRACE("cq-event", "cq=%u", cq->ibv.handle);
}

int vs_req_notify_cq(struct ibv_cq *ibv, int solicited_only)
{
    VsCq *cq = (VsCq *)ibv;

    pthread_mutex_lock(&vs_lock);
    /* Arming for all completions is not undone by arming for solicited ones. */
    if (!solicited_only) {
        cq->armed = VS_CQ_ARMED;
    } else if (cq->armed == VS_CQ_UNARMED) {
        cq->armed = VS_CQ_ARMED_SOLICITED;
    }
    pthread_mutex_unlock(&vs_lock);
    return 0;
}

static void unfreeze(void *object, void *opaque)
{
    VsCq *cq = object;

    (void)opaque;
    if (cq->count && cq->armed != VS_CQ_UNARMED) {
        raise_event(cq);
    }
}

void vs_cq_unfrozen(void)
{
    vs_object_foreach(VS_KIND_CQ, unfreeze, NULL);
    vs_async_unfrozen();
}

/* -------------------------------------------------------------- completions */

static void set_count(VsCq *cq, uint32_t count)
{
    __atomic_store_n(&cq->count, count, __ATOMIC_RELEASE);
}

static void fail_user(VsQp *qp, void *opaque)
{
    struct ibv_qp *ibv = vs_qp_ibv(qp);

    if (ibv->send_cq == opaque || ibv->recv_cq == opaque) {
        vs_qp_error(qp);
    }
}

static void overrun(VsCq *cq)
{
    cq->overrun = true;
    VS_TRACE("cq-overrun", "cq=%u size=%u", cq->ibv.handle, cq->size);
    vs_async_event(IBV_EVENT_CQ_ERR, cq);
    vs_qp_foreach(fail_user, &cq->ibv);
}

void vs_cq_push(VsCq *cq, const VsCqe *cqe, bool solicited)
{
    if (cq->overrun) {
        return;
    }
    if (cq->count == cq->size) {
        overrun(cq);
        return;
    }
    cq->ring[(cq->head + cq->count) % cq->size] = *cqe;
    set_count(cq, cq->count + 1);
    vs_stats->completions++;
    if (!vs_frozen &&
        (cq->armed == VS_CQ_ARMED ||
         (cq->armed == VS_CQ_ARMED_SOLICITED &&
          (solicited || cqe->wc.status != IBV_WC_SUCCESS)))) {
        raise_event(cq);
    }
}

void vs_cq_forget(VsCq *cq, const VsQp *qp)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < cq->count; i++) {
        VsCqe *cqe = &cq->ring[(cq->head + i) % cq->size];

        if (cqe->qp != qp) {
            cq->ring[(cq->head + kept++) % cq->size] = *cqe;
        }
    }
    set_count(cq, kept);
}

/* ------------------------------------------------------------------ polling */

static void free_slots(const VsCqe *cqe)
{
    uint32_t *free_upto;

    if (!cqe->qp) {
        return;
    }
    free_upto = cqe->is_recv ? &cqe->qp->rq_free : &cqe->qp->sq_free;
    if ((int32_t)(cqe->frees - *free_upto) > 0) {
        *free_upto = cqe->frees;
    }
}

int vs_poll_cq(struct ibv_cq *ibv, int max, struct ibv_wc *wc)
{
    static __thread unsigned empty_polls;
    VsCq *cq = (VsCq *)ibv;
    int n = 0;

    if (!__atomic_load_n(&cq->count, __ATOMIC_ACQUIRE)) {
        if (++empty_polls % POLLS_TO_YIELD == 0) {
            sched_yield();
        }
        return 0;
    }
    pthread_mutex_lock(&vs_lock);
    while (!vs_frozen && n < max && cq->count) {
        VsCqe *cqe = &cq->ring[cq->head];

        wc[n++] = cqe->wc;
        free_slots(cqe);
        cq->head = (cq->head + 1) % cq->size;
        set_count(cq, cq->count - 1);
    }
    pthread_mutex_unlock(&vs_lock);
    empty_polls = n ? 0 : empty_polls + 1;
    return n;
}
