/*
 * RDMA migration transport: one connection of the connection manager
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See link.h for the job, the callers and how waiting works.  Setting up and
 * accepting are in link-setup.c; here is a connection's life from then on.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "log.h"
#include "link-priv.h"

#define TICK_US G_USEC_PER_SEC
#define IDLE_US G_USEC_PER_SEC
/* How far the connection manager's news may be behind the queue pair's */
#define CAUSE_MS 100

GQuark rmig_link_error_quark(void)
{
    return g_quark_from_static_string("rmig-link-error");
}

/*
 * A connection of this migration broke: the others must not go on waiting for
 * a peer that waits for it.  One that the peer closed in order tells nothing
 * about the others.
 */
static void shut_down_because(RMigLink *link, const GError *err)
{
    g_autofree char *reason = NULL;

    if (link->state != RMIG_LINK_UP ||
        g_error_matches(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED) ||
        g_error_matches(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN)) {
        return;
    }
    reason = g_strdup_printf("the %s failed: %s", link->name, err->message);
    rmig_shutdown_because(link->shutdown, reason);
}

static bool watch_fd(RMigLink *link, int fd, GError **err)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

    if (epoll_ctl(link->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "watching a file descriptor failed: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

bool rmig_link_watch_verbs(RMigLink *link, GError **err)
{
    return watch_fd(link, rmig_verbs_fd(link->verbs), err);
}

bool rmig_link_watch(RMigLink *link, int fd, void (*ready)(void *opaque),
                     void *opaque, GError **err)
{
    if (link->watched_fd >= 0 &&
        epoll_ctl(link->epoll_fd, EPOLL_CTL_DEL, link->watched_fd,
                  NULL) < 0) {
        RMIG_LOG("%s: a descriptor cannot be unwatched: %s", link->name,
                 g_strerror(errno));
    }
    link->watched_fd = -1;
    if (fd < 0) {
        return true;
    }
    if (!watch_fd(link, fd, err)) {
        return false;
    }
    link->watched_fd = fd;
    link->watched_ready = ready;
    link->watched_opaque = opaque;
    return true;
}

RMigLink *rmig_link_alloc(const char *name, const RMigWaiter *waiter,
                          RMigShutdown *shutdown, GError **err)
{
    struct itimerspec tick = {
        .it_interval.tv_sec = TICK_US / G_USEC_PER_SEC,
        .it_value.tv_sec = TICK_US / G_USEC_PER_SEC,
    };
    RMigLink *link = g_new0(RMigLink, 1);

    link->name = name;
    link->waiter = *waiter;
    link->shutdown = shutdown;
    rmig_shutdown_ref(shutdown);
    link->watched_fd = -1;
    link->last_activity_us = g_get_monotonic_time();
    link->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    link->timer_fd = timerfd_create(CLOCK_MONOTONIC,
                                    TFD_CLOEXEC | TFD_NONBLOCK);
    if (link->epoll_fd < 0 || link->timer_fd < 0 ||
        timerfd_settime(link->timer_fd, 0, &tick, NULL) < 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "creating an epoll or timer descriptor failed: %s",
                    g_strerror(errno));
        goto fail;
    }
    link->channel = rdma_create_event_channel();
    if (!link->channel) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "no access to the RDMA connection manager: %s (is there "
                    "an RDMA device, and is the module rdma_ucm loaded?)",
                    g_strerror(errno));
        goto fail;
    }
    if (fcntl(link->channel->fd, F_SETFL, O_NONBLOCK) < 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "setting up the CM event channel failed: %s",
                    g_strerror(errno));
        goto fail;
    }
    if (!watch_fd(link, link->timer_fd, err) ||
        !watch_fd(link, rmig_shutdown_fd(shutdown), err) ||
        !watch_fd(link, link->channel->fd, err)) {
        goto fail;
    }
    return link;

fail:
    rmig_link_free(link);
    return NULL;
}

RMigVerbs *rmig_link_verbs(RMigLink *link)
{
    return link->verbs;
}

int rmig_link_fd(const RMigLink *link)
{
    return link->epoll_fd;
}

const char *rmig_link_device_name(const RMigLink *link)
{
    return link->verbs ? rmig_verbs_device_name(link->verbs) : "";
}

bool rmig_link_is_up(const RMigLink *link)
{
    return link->state == RMIG_LINK_UP && !link->error;
}

bool rmig_link_failed(const RMigLink *link)
{
    return link->error != NULL;
}

bool rmig_link_check(const RMigLink *link, GError **err)
{
    if (link->error && err) {
        *err = g_error_copy(link->error);
    }
    return !link->error;
}

/* Is the device the reason?  Only it knows. */
static void add_trouble(RMigLink *link, GError *err)
{
    if (link->verbs) {
        rmig_verbs_add_trouble(link->verbs, err);
    }
}

/* It has been asked then, by verbs or by rmig_link_find_cause() */
static bool is_completion(const GError *err)
{
    return g_error_matches(err, RMIG_VERBS_ERROR,
                           RMIG_VERBS_ERROR_COMPLETION) ||
           g_error_matches(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FLUSHED);
}

void rmig_link_fail(RMigLink *link, GError *err)
{
    if (link->error) {
        g_error_free(err);
        return;
    }
    if (!is_completion(err) &&
        !g_error_matches(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN)) {
        add_trouble(link, err);
    }
    RMIG_LOG("%s: %s", link->name, err->message);
    link->error = err;
    shut_down_because(link, err);
}

/* Whether a broken work request is a reason, and not only a consequence */
static bool tells_why(const GError *broken)
{
    return !g_error_matches(broken, RMIG_VERBS_ERROR,
                            RMIG_VERBS_ERROR_FLUSHED);
}

/*
 * What the peer said before it left, ERROR perhaps, tells more than that it
 * left, and so does the write that it refused; all of that may have come since
 * the last look.
 */
static void take_last_words(RMigLink *link)
{
    GError *broken = NULL;

    if (link->qp_made && rmig_verbs_poll(link->verbs, &broken) < 0) {
        if (tells_why(broken)) {
            rmig_link_fail(link, broken);
        } else {
            g_error_free(broken);
        }
    }
}

/* Error numbers are negative there; 0 or another number says nothing */
static const char *event_reason(const struct rdma_cm_event *event)
{
    return event->status < 0 ? g_strerror(-event->status) :
                               "no further reason";
}

static char *rejection_words(int status)
{
    /* InfiniBand's reason; iWARP has error numbers */
    if (status == 8 || status == -ECONNREFUSED) {
        return g_strdup("connection refused: nothing listens for RDMA on "
                        "that port");
    }
    /* 28: the listener refused */
    return g_strdup_printf("the peer refused the connection (reason %d)",
                           status);
}

/* What a CM event that ends a connection or an attempt means to a user */
static char *event_words(const struct rdma_cm_event *event)
{
    const char *reason = event_reason(event);

    switch (event->event) {
    case RDMA_CM_EVENT_DISCONNECTED:
        return g_strdup("the peer closed the connection");
    case RDMA_CM_EVENT_ADDR_ERROR:
        return g_strdup_printf("nobody answers at that address (%s)", reason);
    case RDMA_CM_EVENT_ROUTE_ERROR:
        return g_strdup_printf("no way leads to that address (%s)", reason);
    case RDMA_CM_EVENT_UNREACHABLE:
        return g_strdup_printf("the peer's host does not answer (%s)", reason);
    case RDMA_CM_EVENT_CONNECT_ERROR:
        return g_strdup_printf("the connection cannot be made (%s)", reason);
    case RDMA_CM_EVENT_REJECTED:
        return rejection_words(event->status);
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        return g_strdup("the RDMA device was removed");
    default:
        return g_strdup_printf("%s: %s", rdma_event_str(event->event), reason);
    }
}

static void set_event_error(RMigLink *link, const struct rdma_cm_event *event)
{
    g_autofree char *words = event_words(event);
    bool closed = event->event == RDMA_CM_EVENT_DISCONNECTED;

    if (closed) {
        take_last_words(link);
    }
    rmig_link_fail(link, g_error_new_literal(RMIG_LINK_ERROR, closed ?
                                             RMIG_LINK_ERROR_CLOSED :
                                             RMIG_LINK_ERROR_FAILED, words));
}

/* A refusal may carry the peer's version: if it is not ours, say so */
static void note_rejection(RMigLink *link, const void *priv, size_t bytes)
{
    g_autoptr(GError) err = NULL;
    RMigWirePrivate peer;

    /* The connection manager pads with zeros: version 0 is no statement */
    if (!priv || bytes < RMIG_WIRE_PRIVATE_BYTES ||
        ((const uint8_t *)priv)[3] == 0 ||
        rmig_wire_private_unpack(priv, bytes, &peer, &err)) {
        return;
    }
    rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                                     "the peer refused the connection: %s",
                                     err->message));
}

/*
 * A step of connecting is done.  Events may come twice, and late: a connection
 * never goes back.
 */
static bool advance(RMigLink *link, RMigLinkState state)
{
    if (link->state >= state) {
        return false;
    }
    link->state = state;
    return true;
}

/* The peer has accepted, or has completed what we have accepted */
static void take_answer(RMigLink *link, RMigLinkState state,
                        const struct rdma_conn_param *conn)
{
    /* Without a queue pair we have neither asked nor been asked */
    if (!link->qp_made || !advance(link, state)) {
        return;
    }
    link->peer_private_bytes = MIN(conn->private_data_len,
                                   sizeof(link->peer_private));
    if (link->peer_private_bytes) {
        memcpy(link->peer_private, conn->private_data,
               link->peer_private_bytes);
    }
}

static void handle_cm_event(RMigLink *link, const struct rdma_cm_event *event)
{
    const struct rdma_conn_param *conn = &event->param.conn;

    RMIG_LOG("%s: CM event %s, status %d", link->name,
             rdma_event_str(event->event), event->status);
    switch (event->event) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        advance(link, RMIG_LINK_ADDR_RESOLVED);
        break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        advance(link, RMIG_LINK_ROUTE_RESOLVED);
        break;
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
        take_answer(link, RMIG_LINK_ANSWERED, conn);
        break;
    case RDMA_CM_EVENT_ESTABLISHED:
        take_answer(link, RMIG_LINK_UP, conn);
        break;
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
    case RDMA_CM_EVENT_ADDR_CHANGE:
    case RDMA_CM_EVENT_MULTICAST_JOIN:
    case RDMA_CM_EVENT_MULTICAST_ERROR:
        break;
    case RDMA_CM_EVENT_REJECTED:
        note_rejection(link, conn->private_data, conn->private_data_len);
        set_event_error(link, event);
        break;
    default:
        set_event_error(link, event);
        break;
    }
}

/* Returns how many events there were */
static int take_cm_events(RMigLink *link)
{
    struct rdma_cm_event *event;
    int n = 0;

    while (rdma_get_cm_event(link->channel, &event) == 0) {
        handle_cm_event(link, event);
        rdma_ack_cm_event(event);
        n++;
    }
    return n;
}

void rmig_link_find_cause(RMigLink *link, GError **err)
{
    struct pollfd pfd = { .fd = link->channel->fd, .events = POLLIN };

    if (!link->error) {
        poll(&pfd, 1, CAUSE_MS);
        take_cm_events(link);
    }
    if (link->error) {
        g_clear_error(err);
        *err = g_error_copy(link->error);
    } else {
        add_trouble(link, *err);
    }
}

static void probe_done(RMigWork *work, uint32_t bytes)
{
    RMigLink *link = work->owner;

    (void)bytes;
    link->probing = false;
    link->probe_late = false;
}

/*
 * A process that was stopped finds a late heartbeat, too, and next to it the
 * completion that has long been there: so it is late only if it still is at
 * the next tick, with a look at the completion queue in between.
 */
static void check_probe(RMigLink *link, int64_t now)
{
    if (now - link->probe_posted_us < RMIG_LINK_HEARTBEAT_MS * INT64_C(1000)) {
        return;
    }
    if (link->probe_late) {
        rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR,
                                         RMIG_LINK_ERROR_TIMEOUT,
                                         "timed out: the RDMA device of this "
                                         "host has neither delivered a "
                                         "heartbeat nor given it up for %d s",
                                         RMIG_LINK_HEARTBEAT_MS / 1000));
    }
    link->probe_late = true;
}

static void post_probe(RMigLink *link)
{
    GError *err = NULL;

    link->probe.what = "heartbeat";
    link->probe.done = probe_done;
    link->probe.owner = link;
    link->probing = true;
    link->probe_posted_us = g_get_monotonic_time();
    if (!rmig_verbs_post_probe(link->verbs, &link->probe, &err)) {
        link->probing = false;
        rmig_link_fail(link, err);
    }
}

static void take_tick(RMigLink *link)
{
    int64_t now = g_get_monotonic_time();
    uint64_t ticks;

    if (read(link->timer_fd, &ticks, sizeof(ticks)) < 0) {
        return;
    }
    if (link->probing) {
        check_probe(link, now);
    }
    if (link->state != RMIG_LINK_UP || link->probing ||
        now - link->last_activity_us < IDLE_US ||
        rmig_verbs_write_room(link->verbs) == 0) {
        return;
    }
    post_probe(link);
}

/* Handle whatever made the epoll fd readable; returns events that matter */
static int take_fds(RMigLink *link)
{
    struct epoll_event ev[5];
    int n = epoll_wait(link->epoll_fd, ev, G_N_ELEMENTS(ev), 0);
    int seen = 0;

    for (int i = 0; i < n; i++) {
        if (ev[i].data.fd == link->timer_fd) {
            take_tick(link);
        } else if (ev[i].data.fd == link->channel->fd) {
            seen += take_cm_events(link);
        } else if (link->verbs &&
                   ev[i].data.fd == rmig_verbs_fd(link->verbs)) {
            rmig_verbs_take_events(link->verbs);
            link->armed = false;
            /* Its completion may be younger than our look at the queue */
            seen++;
        } else if (ev[i].data.fd == link->watched_fd) {
            link->watched_ready(link->watched_opaque);
            seen++;
        }
    }
    return seen;
}

/*
 * The look at the completion queue found nothing new, or @broken.
 *
 * The peer's last message may have come between that look and the bad news,
 * so the call that finds an error only says "look again".
 */
static int nothing_completed(RMigLink *link, GError *broken, GError **err)
{
    bool had_failed = link->error != NULL;

    if (broken) {
        if (!tells_why(broken)) {
            rmig_link_find_cause(link, &broken);
        }
        rmig_link_fail(link, broken);
    }
    if (!link->error && rmig_shutdown_triggered(link->shutdown)) {
        rmig_link_fail(link, rmig_shutdown_error(link->shutdown));
    }
    if (!had_failed) {
        return link->error ? 1 : 0;
    }
    return rmig_link_check(link, err) ? 0 : -1;
}

int rmig_link_poll(RMigLink *link, GError **err)
{
    GError *broken = NULL;
    int n = 0;

    if (link->qp_made) {
        n = rmig_verbs_poll(link->verbs, &broken);
    }
    if (n > 0) {
        link->last_activity_us = g_get_monotonic_time();
        return 1;
    }
    return nothing_completed(link, broken, err);
}

/* The queue asks for one event at a time; @armed saves the call for another */
static int arm_and_poll(RMigLink *link, GError **err)
{
    GError *local = NULL;

    if (link->qp_made && !link->armed) {
        if (!rmig_verbs_arm(link->verbs, &local)) {
            rmig_link_fail(link, local);
            return rmig_link_check(link, err) ? 0 : -1;
        }
        link->armed = true;
    }
    return rmig_link_poll(link, err);
}

int rmig_link_arm(RMigLink *link, GError **err)
{
    return take_fds(link) > 0 ? 1 : arm_and_poll(link, err);
}

bool rmig_link_step(RMigLink *link, int64_t deadline_us, const char *what,
                    GError **err)
{
    int ret = rmig_link_poll(link, err);

    if (ret == 0) {
        ret = arm_and_poll(link, err);
    }
    if (ret != 0) {
        return ret > 0;
    }
    if (deadline_us && g_get_monotonic_time() >= deadline_us) {
        rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR,
                                         RMIG_LINK_ERROR_TIMEOUT,
                                         "timed out while waiting for %s",
                                         what));
        return rmig_link_check(link, err);
    }
    link->waiter.wait_readable(link->waiter.opaque, link->epoll_fd);
    link->rested_us = g_get_monotonic_time();
    take_fds(link);
    return true;
}

void rmig_link_rest(RMigLink *link)
{
    if (link->waiter.rest &&
        g_get_monotonic_time() - link->rested_us >= RMIG_LINK_BUSY_US) {
        link->waiter.rest(link->waiter.opaque);
        link->rested_us = g_get_monotonic_time();
    }
}

/* Not the heartbeat, which tells the peer nothing: it may well have left */
static unsigned words_in_flight(const RMigLink *link)
{
    return rmig_verbs_sends_in_flight(link->verbs) -
           (link->probing ? link->probe.slots : 0);
}

bool rmig_link_settle(RMigLink *link, int64_t timeout_ms, GError **err)
{
    int64_t deadline = g_get_monotonic_time() + timeout_ms * 1000;
    GError *local = NULL;
    int64_t left_us;

    if (!link->qp_made) {
        return true;
    }
    while (words_in_flight(link) > 0) {
        struct pollfd pfd = {
            .fd = rmig_verbs_fd(link->verbs), .events = POLLIN,
        };

        rmig_verbs_take_events(link->verbs);
        if (!rmig_verbs_arm(link->verbs, &local) ||
            rmig_verbs_poll(link->verbs, &local) < 0) {
            if (!tells_why(local)) {
                rmig_link_find_cause(link, &local);
            }
            g_propagate_error(err, local);
            return false;
        }
        left_us = deadline - g_get_monotonic_time();
        if (left_us <= 0) {
            RMIG_LOG("%s: not settled in time", link->name);
            return true;
        }
        if (words_in_flight(link) > 0) {
            poll(&pfd, 1, left_us / 1000 + 1);
        }
    }
    return true;
}

bool rmig_link_drain(RMigLink *link, int64_t timeout_ms, const char *what,
                     GError **err)
{
    int64_t deadline = g_get_monotonic_time() + timeout_ms * 1000;

    while (link->qp_made && rmig_verbs_sends_in_flight(link->verbs) > 0) {
        if (!rmig_link_step(link, deadline, what, err)) {
            return false;
        }
    }
    return rmig_link_check(link, err);
}

bool rmig_link_look(RMigLink *link, GError **err)
{
    int ret;

    do {
        ret = rmig_link_arm(link, err);
    } while (ret > 0);
    return ret == 0;
}

bool rmig_link_ask(RMigLink *link, GError **err)
{
    const char *what = "the peer's NIC to answer";
    int64_t deadline = g_get_monotonic_time() +
                       RMIG_LINK_HEARTBEAT_MS * INT64_C(1000);

    /* One that is under way says nothing about now */
    while (link->probing) {
        if (!rmig_link_step(link, deadline, what, err)) {
            return false;
        }
    }
    if (!rmig_link_check(link, err)) {
        return false;
    }
    post_probe(link);
    while (link->probing) {
        if (!rmig_link_step(link, deadline, what, err)) {
            return false;
        }
    }
    /* Its last words may be here, and nobody have read them */
    return rmig_link_look(link, err);
}

void rmig_link_revoke(RMigLink *link)
{
    if (link->verbs && !rmig_verbs_revoke(link->verbs)) {
        rmig_verbs_destroy_qp(link->verbs);
        link->qp_made = false;
    }
}

void rmig_link_disconnect(RMigLink *link)
{
    if (link->state == RMIG_LINK_UP && rdma_disconnect(link->id) != 0) {
        RMIG_LOG("%s: disconnecting failed: %s", link->name,
                 g_strerror(errno));
    }
    link->state = RMIG_LINK_DOWN;
    if (link->qp_made) {
        rmig_verbs_destroy_qp(link->verbs);
        link->qp_made = false;
    }
}

void rmig_link_free(RMigLink *link)
{
    if (!link) {
        return;
    }
    rmig_link_disconnect(link);
    rmig_verbs_free(link->verbs);
    if (link->id) {
        rdma_destroy_id(link->id);
    }
    if (link->channel) {
        rdma_destroy_event_channel(link->channel);
    }
    if (link->timer_fd >= 0) {
        close(link->timer_fd);
    }
    if (link->epoll_fd >= 0) {
        close(link->epoll_fd);
    }
    g_clear_error(&link->error);
    rmig_shutdown_free(link->shutdown);
    g_free(link);
}
