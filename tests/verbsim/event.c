/*
 * verbsim: events that a program waits for with poll(2)
 *
 * A queue of events and a semaphore eventfd.  Tokens are put and taken only
 * with vs_lock held, so there are always as many as events in the queue and
 * taking one never blocks.  Completion channels and asynchronous events use
 * this; the latter live here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int vs_event_fd(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
}

void vs_event_put(int fd, unsigned tokens)
{
    uint64_t count = tokens;

    if (tokens && write(fd, &count, sizeof(count)) != sizeof(count)) {
        vs_complain("event fd %d: %s; did the program close it?", fd,
                    g_strerror(errno));
    }
}

static void take_token(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) != sizeof(count)) {
        vs_complain("event fd %d: %s; does the program read it?", fd,
                    g_strerror(errno));
    }
}

void *vs_event_get(int fd, GQueue *queue)
{
    for (;;) {
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        void *event = g_queue_pop_head(queue);
        int flags, n, error;

        if (event) {
            take_token(fd);
            return event;
        }
        flags = fcntl(fd, F_GETFL);
        if (flags < 0) {
            return NULL;
        }
        if (flags & O_NONBLOCK) {
            errno = EAGAIN;
            return NULL;
        }
        pthread_mutex_unlock(&vs_lock);
        n = poll(&wait, 1, -1);
        error = errno;
        pthread_mutex_lock(&vs_lock);
        if (n < 0) {
            errno = error;
            return NULL;
        }
    }
}

void vs_event_purge(int fd, GQueue *queue, const void *object,
                    GCompareFunc differs, GDestroyNotify destroy)
{
    GList *link;

    while ((link = g_queue_find_custom(queue, object, differs))) {
        if (fd >= 0) {
            take_token(fd);
        }
        if (destroy) {
            destroy(link->data);
        }
        g_queue_delete_link(queue, link);
    }
}

/* ----------------------------------------------------- asynchronous events */

/* Is an event of @type about a queue pair? */
static bool about_qp(enum ibv_event_type type)
{
    switch (type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_PATH_MIG:
    case IBV_EVENT_PATH_MIG_ERR:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
        return true;
    default:
        return false;
    }
}

/* The count of events of @event's queue pair or CQ that are not acked. */
static unsigned *unacked(const struct ibv_async_event *event)
{
    if (about_qp(event->event_type)) {
        return &vs_qp(event->element.qp)->async_got;
    }
    return event->event_type == IBV_EVENT_CQ_ERR
           ? &((VsCq *)event->element.cq)->async_got : NULL;
}

static void queue_event(VsContext *context,
                        const struct ibv_async_event *event)
{
    struct ibv_async_event *copy = g_memdup2(event, sizeof(*event));

    if (vs_frozen) {
        g_queue_push_tail(&context->held, copy);
    } else {
        g_queue_push_tail(&context->async, copy);
        vs_event_put(context->verbs.context.async_fd, 1);
    }
}

static void queue_for_each(void *object, void *opaque)
{
    queue_event(object, opaque);
}

void vs_async_event(enum ibv_event_type type, void *element)
{
    struct ibv_async_event event = { .event_type = type };

    VS_TRACE("async", "event=%d element=%p", (int)type, element);
    if (about_qp(type)) {
        event.element.qp = element;
        queue_event(vs_context(event.element.qp->context), &event);
    } else if (type == IBV_EVENT_CQ_ERR) {
        event.element.cq = element;
        queue_event(vs_context(event.element.cq->context), &event);
    } else {
        event.element.port_num = 1;
        vs_object_foreach(VS_KIND_CONTEXT, queue_for_each, &event);
    }
}

static void release_held(void *object, void *opaque)
{
    VsContext *context = object;
    unsigned tokens = g_queue_get_length(&context->held);
    struct ibv_async_event *event;

    (void)opaque;
    while ((event = g_queue_pop_head(&context->held))) {
        g_queue_push_tail(&context->async, event);
    }
    vs_event_put(context->verbs.context.async_fd, tokens);
}

void vs_async_unfrozen(void)
{
    vs_object_foreach(VS_KIND_CONTEXT, release_held, NULL);
}

static int not_about(const void *event, const void *object)
{
    return ((const struct ibv_async_event *)event)->element.qp != object;
}

void vs_async_forget(VsContext *context, void *object, const unsigned *got)
{
    vs_event_purge(context->verbs.context.async_fd, &context->async, object,
                   not_about, g_free);
    vs_event_purge(-1, &context->held, object, not_about, g_free);
    vs_wait_idle(got, "asynchronous events to be acknowledged with "
                      "ibv_ack_async_event()");
}

int ibv_get_async_event(struct ibv_context *context,
                        struct ibv_async_event *event)
{
    VsContext *ctx = vs_context(context);
    g_autofree struct ibv_async_event *got = NULL;

    pthread_mutex_lock(&vs_lock);
    got = vs_event_get(context->async_fd, &ctx->async);
    if (got) {
        unsigned *count = unacked(got);

        *event = *got;
        if (count) {
            ++*count;
        }
    }
    pthread_mutex_unlock(&vs_lock);
    return got ? 0 : -1;
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
    unsigned *count;

    pthread_mutex_lock(&vs_lock);
    count = unacked(event);
    if (count && *count == 0) {
        vs_complain("ibv_ack_async_event(): more events acknowledged than got");
    } else if (count && --*count == 0) {
        pthread_cond_broadcast(&vs_idle);
    }
    pthread_mutex_unlock(&vs_lock);
}
