/*
 * verbsim: the connection manager's events
 *
 * An event is posted by a call of the program, a packet or a timer.  It meets
 * the fault script, then waits in its identifier's late queue if a fault holds
 * it up, then in its channel until the program takes it.  What follows on a
 * held-up event of an identifier waits behind it, as it would in a kernel.
 *
 * Tokens of a channel's eventfd are taken under vs_lock only, so that there is
 * always one for each event and no read of it ever sleeps.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cm.h"

static const char *const event_names[] = {
    [RDMA_CM_EVENT_ADDR_RESOLVED] = "RDMA_CM_EVENT_ADDR_RESOLVED",
    [RDMA_CM_EVENT_ADDR_ERROR] = "RDMA_CM_EVENT_ADDR_ERROR",
    [RDMA_CM_EVENT_ROUTE_RESOLVED] = "RDMA_CM_EVENT_ROUTE_RESOLVED",
    [RDMA_CM_EVENT_ROUTE_ERROR] = "RDMA_CM_EVENT_ROUTE_ERROR",
    [RDMA_CM_EVENT_CONNECT_REQUEST] = "RDMA_CM_EVENT_CONNECT_REQUEST",
    [RDMA_CM_EVENT_CONNECT_RESPONSE] = "RDMA_CM_EVENT_CONNECT_RESPONSE",
    [RDMA_CM_EVENT_CONNECT_ERROR] = "RDMA_CM_EVENT_CONNECT_ERROR",
    [RDMA_CM_EVENT_UNREACHABLE] = "RDMA_CM_EVENT_UNREACHABLE",
    [RDMA_CM_EVENT_REJECTED] = "RDMA_CM_EVENT_REJECTED",
    [RDMA_CM_EVENT_ESTABLISHED] = "RDMA_CM_EVENT_ESTABLISHED",
    [RDMA_CM_EVENT_DISCONNECTED] = "RDMA_CM_EVENT_DISCONNECTED",
    [RDMA_CM_EVENT_DEVICE_REMOVAL] = "RDMA_CM_EVENT_DEVICE_REMOVAL",
    [RDMA_CM_EVENT_MULTICAST_JOIN] = "RDMA_CM_EVENT_MULTICAST_JOIN",
    [RDMA_CM_EVENT_MULTICAST_ERROR] = "RDMA_CM_EVENT_MULTICAST_ERROR",
    [RDMA_CM_EVENT_ADDR_CHANGE] = "RDMA_CM_EVENT_ADDR_CHANGE",
    [RDMA_CM_EVENT_TIMEWAIT_EXIT] = "RDMA_CM_EVENT_TIMEWAIT_EXIT",
};

const char *rdma_event_str(enum rdma_cm_event_type type)
{
    return (unsigned)type < G_N_ELEMENTS(event_names) ? event_names[type] :
                                                        "UNKNOWN EVENT";
}

/* Of whose connection the event tells. */
static CmId *subject(const CmEvent *event)
{
    return event->fresh ? event->fresh : event->owner;
}

/*
 * As the program will see it: with librdmacm's own queue pair an answer shows
 * as the established connection.
 */
static const char *short_name(const CmEvent *event)
{
    enum rdma_cm_event_type type = event->ev.event;

    if (type == RDMA_CM_EVENT_CONNECT_RESPONSE && event->owner->id.qp) {
        type = RDMA_CM_EVENT_ESTABLISHED;
    }
    return event_names[type] + strlen("RDMA_CM_EVENT_");
}

int cm_event_fd(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
}

static void add_token(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) < 0) {
        vs_complain("event channel: %s", g_strerror(errno));
    }
}

static void take_token(int fd)
{
    uint64_t one;

    if (read(fd, &one, sizeof(one)) < 0) {
        vs_complain("event channel: %s", g_strerror(errno));
    }
}

static CmChannel *channel_of(const CmId *id)
{
    return (CmChannel *)id->id.channel;
}

/* ----------------------------------------------------------- to the program */

CmEvent *cm_event_new(CmId *owner, enum rdma_cm_event_type type, int status)
{
    CmEvent *event = g_new0(CmEvent, 1);

    event->owner = owner;
    event->ev.id = &owner->id;
    event->ev.event = type;
    event->ev.status = status;
    return event;
}

static void drop(CmEvent *event)
{
    if (event->fresh) {
        CmId *fresh = event->fresh;

        event->owner->waiting--;
        cm_id_stop(fresh);
        cm_id_free(fresh);
    }
    g_free(event);
}

/* The first event of @id in @queue, removed from it; NULL: there is none. */
static CmEvent *pull(GQueue *queue, const CmId *id)
{
    for (GList *l = queue->head; l; l = l->next) {
        CmEvent *event = l->data;

        if (event->owner == id) {
            g_queue_delete_link(queue, l);
            return event;
        }
    }
    return NULL;
}

static void show_late(VsTimer *timer);

static void hold_up(CmId *via, CmEvent *event)
{
    g_queue_push_tail(&via->late, event);
    via->late_timer.fire = show_late;
    via->late_timer.opaque = via;
    if (g_queue_get_length(&via->late) == 1) {
        vs_timer_set(&via->late_timer, MAX(event->at_ns, 1));
    }
}

/* The program hears of it now: its events do not follow the listener's. */
static void announce(CmId *fresh)
{
    CmEvent *event;

    if (fresh->listener) {
        while ((event = pull(&fresh->listener->late, fresh))) {
            hold_up(fresh, event);
        }
        fresh->listener = NULL;
    }
}

static void show(CmEvent *event)
{
    CmChannel *channel = channel_of(event->owner);

    if (event->fresh) {
        announce(event->fresh);
    }
    if (!channel) {
        drop(event);
    } else if (vs_frozen || !g_queue_is_empty(&channel->held)) {
        g_queue_push_tail(&channel->held, event);
    } else {
        vs_stats->cm_events++;
        VS_TRACE("cm-event", "id=%u qp=%u event=%s status=%d",
                 subject(event)->number, subject(event)->qp_num,
                 short_name(event), event->ev.status);
        g_queue_push_tail(&channel->events, event);
        add_token(channel->ch.fd);
    }
}

static void show_late(VsTimer *timer)
{
    CmId *id = timer->opaque;
    uint64_t now = vs_now_ns();
    CmEvent *event;

    while ((event = g_queue_peek_head(&id->late)) && event->at_ns <= now) {
        g_queue_pop_head(&id->late);
        show(event);
    }
    if (event) {
        vs_timer_set(timer, event->at_ns);
    } else {
        vs_timer_clear(timer);
    }
}

/* Not before @at_ns (0: at once), and in its turn. */
static void deliver(CmEvent *event, uint64_t at_ns)
{
    CmId *via = event->owner->listener ? event->owner->listener :
                                         event->owner;

    if (!at_ns && g_queue_is_empty(&via->late)) {
        show(event);
        return;
    }
    event->at_ns = at_ns;
    hold_up(via, event);
}

void cm_event_unfrozen(void)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));
        CmChannel *channel = id ? channel_of(id) : NULL;
        GQueue held = G_QUEUE_INIT;
        CmEvent *event;

        if (channel) {
            held = channel->held;
            g_queue_init(&channel->held);
        }
        while ((event = g_queue_pop_head(&held))) {
            show(event);
        }
    }
}

/* ------------------------------------------------------------------ faults */

/* A second request from the same peer, with an identifier of its own. */
static CmEvent *copy_of(const CmEvent *event)
{
    CmEvent *copy = g_memdup2(event, sizeof(*event));

    copy->again = true;
    if (copy->ev.param.conn.private_data) {
        copy->ev.param.conn.private_data = copy->private_data;
    }
    if (event->fresh) {
        copy->fresh = cm_id_twin(event->fresh);
        copy->ev.id = &copy->fresh->id;
        copy->owner->waiting++;
    }
    return copy;
}

/* The fault script refuses a connection that comes to be, for both sides. */
static void refuse(CmEvent *event, uint32_t reason)
{
    CmId *id = subject(event);

    if (event->ev.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        cm_send_reject(id, reason, NULL, 0);
        cm_set_state(id, CM_OVER);
        drop(event);
        return;
    }
    if (event->ev.event == RDMA_CM_EVENT_CONNECT_RESPONSE) {
        cm_send_reject(id, reason, NULL, 0);
        cm_set_state(id, CM_OVER);
        memset(&event->ev.param, 0, sizeof(event->ev.param));
        memset(event->private_data, 0, sizeof(event->private_data));
        event->ev.event = RDMA_CM_EVENT_REJECTED;
        event->ev.status = (int)reason;
        event->ev.param.conn.private_data = event->private_data;
        event->ev.param.conn.private_data_len = CM_REJ_PRIVATE;
    }
    deliver(event, 0);
}

void cm_event_post(CmEvent *event)
{
    CmId *id = subject(event);
    VsVerdict verdict = vs_fault_at(VS_SITE_CM, short_name(event),
                                    id->qp_num);

    switch (verdict.action) {
    case VS_ACT_DELAY:
        deliver(event, vs_now_ns() + verdict.delay_ns);
        break;
    case VS_ACT_LOSE:
        if (event->fresh) {
            cm_set_state(event->fresh, CM_OVER);    /* without a word */
        }
        drop(event);
        break;
    case VS_ACT_DUPLICATE: {
        CmEvent *copy = copy_of(event);

        deliver(event, 0);
        deliver(copy, 0);
        break;
    }
    case VS_ACT_REJECT:
        refuse(event, (uint32_t)verdict.reason);
        break;
    case VS_ACT_DISCONNECT:
        deliver(event, 0);
        cm_break(id);
        break;
    default:
        deliver(event, 0);
        break;
    }
}

void cm_event_post_new(CmId *id, enum rdma_cm_event_type type, int status)
{
    cm_event_post(cm_event_new(id, type, status));
}

/* ------------------------------------------------------- taking events back */

void cm_event_purge(CmId *id)
{
    CmChannel *channel = channel_of(id);
    CmEvent *event;

    while ((event = pull(&id->late, id)) ||
           (id->listener && (event = pull(&id->listener->late, id))) ||
           (channel && (event = pull(&channel->held, id)))) {
        drop(event);
    }
    while (channel && (event = pull(&channel->events, id))) {
        take_token(channel->ch.fd);
        drop(event);
    }
    vs_timer_clear(&id->late_timer);
}

static void move_queue(GQueue *from, GQueue *to, int from_fd, int to_fd,
                       const CmChannel *now)
{
    GList *l = from->head;

    while (l) {
        GList *next = l->next;
        CmEvent *event = l->data;

        if (channel_of(event->owner) == now) {
            g_queue_delete_link(from, l);
            g_queue_push_tail(to, event);
            if (from_fd >= 0) {
                take_token(from_fd);
                add_token(to_fd);
            }
        }
        l = next;
    }
}

/* Identifiers that the program does not know yet go with their listener. */
static void take_along(GQueue *queue, const CmId *id)
{
    for (GList *l = queue->head; l; l = l->next) {
        CmEvent *event = l->data;

        if (event->owner == id && event->fresh) {
            event->fresh->id.channel = id->id.channel;
        }
    }
}

void cm_event_migrate(CmId *id, struct rdma_event_channel *to)
{
    CmChannel *from = channel_of(id), *target = (CmChannel *)to;

    id->id.channel = to;
    take_along(&id->late, id);
    if (from && from != target) {
        take_along(&from->events, id);
        take_along(&from->held, id);
        move_queue(&from->events, &target->events, from->ch.fd, to->fd,
                   target);
        move_queue(&from->held, &target->held, -1, -1, target);
    }
}

/* ------------------------------------------------------------- the program */

static CmEvent *take(CmChannel *channel)
{
    CmEvent *event;

    cm_lock();
    event = g_queue_pop_head(&channel->events);
    if (event) {
        take_token(channel->ch.fd);
        event->owner->events_got++;
        if (event->fresh) {
            event->owner->waiting--;
            event->fresh->known = true;
        }
    }
    cm_unlock();
    return event;
}

static void finish_connecting(CmEvent *event)
{
    CmId *id = event->owner;
    int error = 0;

    if (!id->id.qp) {
        return;
    }
    if (!event->again) {
        error = cm_qp_ready(&id->id, id->responder_resources,
                            id->initiator_depth);
        if (!error) {
            cm_lock();
            error = cm_send_ready(id);
            cm_unlock();
        }
    }
    event->ev.event = error ? RDMA_CM_EVENT_CONNECT_ERROR :
                              RDMA_CM_EVENT_ESTABLISHED;
    if (error) {
        event->ev.status = error;
        id->connect_error = true;
        cm_qp_error(&id->id);
    }
}

/* librdmacm's own part of an event.  False: the program does not see it. */
static bool process(CmEvent *event)
{
    CmId *id = event->owner;

    switch (event->ev.event) {
    case RDMA_CM_EVENT_CONNECT_REQUEST:
        if (id->sync && rdma_migrate_id(event->ev.id, NULL) < 0) {
            rdma_destroy_id(event->ev.id);
            return false;
        }
        return true;
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
        finish_connecting(event);
        return true;
    case RDMA_CM_EVENT_REJECTED:
        if (!id->connect_error) {
            cm_qp_error(&id->id);
        }
        return !id->connect_error;
    case RDMA_CM_EVENT_DISCONNECTED:
        return !id->connect_error;
    default:
        return true;
    }
}

int rdma_get_cm_event(struct rdma_event_channel *channel,
                      struct rdma_cm_event **event)
{
    if (!channel || !event) {
        return cm_errno(EINVAL);
    }
    for (;;) {
        struct pollfd pfd = { .fd = channel->fd, .events = POLLIN };
        CmEvent *taken = take((CmChannel *)channel);

        if (taken && process(taken)) {
            *event = &taken->ev;
            return 0;
        }
        if (taken) {
            rdma_ack_cm_event(&taken->ev);
            continue;
        }
        if (fcntl(channel->fd, F_GETFL) & O_NONBLOCK) {
            return cm_errno(EAGAIN);
        }
        if (poll(&pfd, 1, -1) < 0) {
            return -1;
        }
    }
}

int rdma_ack_cm_event(struct rdma_cm_event *ev)
{
    CmEvent *event = (CmEvent *)ev;

    if (!ev) {
        return cm_errno(EINVAL);
    }
    cm_lock();
    if (--event->owner->events_got == 0) {
        pthread_cond_broadcast(&vs_idle);
    }
    cm_unlock();
    g_free(event);
    return 0;
}

void cm_drop_kept_event(struct rdma_cm_id *id)
{
    if (id->event) {
        rdma_ack_cm_event(id->event);
        id->event = NULL;
    }
}

int cm_complete(CmId *id)
{
    const struct rdma_cm_event *event;

    if (!id->sync) {
        return 0;
    }
    cm_drop_kept_event(&id->id);
    if (rdma_get_cm_event(id->id.channel, &id->id.event) < 0) {
        return -1;
    }
    event = id->id.event;
    if (event->event == RDMA_CM_EVENT_REJECTED) {
        return cm_errno(ECONNREFUSED);
    }
    return event->status ? cm_errno(abs(event->status)) : 0;
}
