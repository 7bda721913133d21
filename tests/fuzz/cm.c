/*
 * A device to fuzz on: the librdmacm half, the clock and the descriptors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See device.h.  The functions of the C library that this replaces are
 * wrapped by the linker (--wrap), so that the fuzzer itself keeps its own.
 */
#include "link.h"
#include "wrap.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define N_FDS 128

/* The core's descriptors, and those of our channels that it watches */
static struct {
    int fd;
    int epoll_fd; /* that watches it, or -1 */
    bool is_timer;
} fds[N_FDS];
static unsigned n_fds;

typedef struct FuzzEvent {
    struct rdma_cm_event event;
    struct rdma_event_channel *channel;
    void *private_data; /* exactly as long as it says, so that ASan sees */
} FuzzEvent;

static GQueue events = G_QUEUE_INIT; /* of FuzzEvent, owned */
static unsigned n_event_channels;
static FuzzCmId *listener;
static FuzzCmId *last_id;

/* ---- descriptors ---- */

static int keep_fd(int fd, bool is_timer)
{
    if (fd < 0 || n_fds == N_FDS) {
        fuzz_die("out of descriptors: %d", fd);
    }
    fds[n_fds].fd = fd;
    fds[n_fds].epoll_fd = -1;
    fds[n_fds++].is_timer = is_timer;
    return fd;
}

int __wrap_eventfd(unsigned int count, int flags)
{
    return fuzz_fails("eventfd") ? -1 :
           keep_fd(__real_eventfd(count, flags), false);
}

int __wrap_epoll_create1(int flags)
{
    return fuzz_fails("epoll_create1") ? -1 :
           keep_fd(__real_epoll_create1(flags), false);
}

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    if (fuzz_fails("epoll_ctl")) {
        return -1;
    }
    for (unsigned i = 0; i < n_fds; i++) {
        if (fds[i].fd == fd) {
            fds[i].epoll_fd = epfd;
        }
    }
    return __real_epoll_ctl(epfd, op, fd, event);
}

int __wrap_timerfd_create(int clock, int flags)
{
    (void)clock;
    (void)flags;
    return fuzz_fails("timerfd_create") ? -1 :
           keep_fd(__real_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), true);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *value,
                           struct itimerspec *old)
{
    (void)fd;
    (void)flags;
    (void)old;
    /* A link's, or the listener's */
    g_assert(value->it_interval.tv_sec == 1 ||
             value->it_interval.tv_nsec == 0 ||
             value->it_interval.tv_nsec == RMIG_LISTENER_TICK_MS * 1000000L);
    return fuzz_fails("timerfd_settime") ? -1 : 0;
}

int __wrap_close(int fd)
{
    for (unsigned i = 0; i < n_fds; i++) {
        if (fds[i].fd == fd) {
            fds[i] = fds[--n_fds];
            return __real_close(fd);
        }
    }
    fuzz_die("descriptor %d is closed, which is not open", fd);
}

/* The core opens nothing but /proc/self/pagemap, and creates no file */
int __wrap_open(const char *path, int flags, ...)
{
    return fuzz_fails("open") ? -1 : keep_fd(__real_open(path, flags), false);
}

int __wrap_open64(const char *path, int flags, ...)
{
    return fuzz_fails("open") ? -1 :
           keep_fd(__real_open64(path, flags), false);
}

int __wrap_poll(struct pollfd *pfds, nfds_t n, int timeout)
{
    (void)pfds;
    (void)n;
    fuzz_device.looks = 0;
    if (timeout < 0 || timeout > RMIG_LINK_HEARTBEAT_MS + 1) {
        fuzz_die("the core sleeps for %d ms", timeout);
    }
    fuzz_device.hooks.sleep(timeout);
    return 0;
}

int fuzz_eventfd(int flags)
{
    return keep_fd(__real_eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC |
                                  EFD_NONBLOCK | flags), false);
}

void fuzz_ring(int fd)
{
    uint64_t one = 1;

    fuzz_device.looks = 0;
    if (write(fd, &one, sizeof(one)) < 0) {
        fuzz_die("a write to descriptor %d failed", fd);
    }
}

bool fuzz_watches(int epoll_fd, int fd)
{
    for (unsigned i = 0; i < n_fds; i++) {
        if (fds[i].fd == fd) {
            return fds[i].epoll_fd == epoll_fd;
        }
    }
    return false;
}

bool fuzz_is_readable(int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return __real_poll(&pfd, 1, 0) == 1;
}

/* ---- the clock ---- */

gint64 g_get_monotonic_time(void)
{
    return fuzz_device.now_us;
}

void fuzz_tick(unsigned seconds)
{
    fuzz_device.now_us += (gint64)seconds * G_USEC_PER_SEC;
    for (unsigned i = 0; i < n_fds; i++) {
        if (fds[i].is_timer) {
            fuzz_ring(fds[i].fd);
        }
    }
}

void fuzz_clock_init(void)
{
    n_fds = 0;
}

void fuzz_clock_cleanup(void)
{
    if (n_fds) {
        fuzz_die("%u descriptors are left open", n_fds);
    }
}

/* ---- librdmacm ---- */

struct rdma_event_channel *rdma_create_event_channel(void)
{
    struct rdma_event_channel *channel;

    if (fuzz_fails("rdma_create_event_channel")) {
        return NULL;
    }
    n_event_channels++;
    channel = g_new0(struct rdma_event_channel, 1);
    channel->fd = fuzz_eventfd(0);
    return channel;
}

void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
    for (guint i = 0; i < fuzz_device.ids->len; i++) {
        FuzzCmId *id = g_ptr_array_index(fuzz_device.ids, i);

        if (id->id.channel == channel) {
            fuzz_die("an event channel goes before an identifier of its");
        }
    }
    n_event_channels--;
    close(channel->fd);
    g_free(channel);
}

static FuzzCmId *make_id(struct rdma_event_channel *channel)
{
    FuzzCmId *id = g_new0(FuzzCmId, 1);

    id->id.channel = channel;
    id->natural = -1;
    g_ptr_array_add(fuzz_device.ids, id);
    return id;
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id,
                   void *opaque, enum rdma_port_space ps)
{
    g_assert(ps == RDMA_PS_TCP);
    if (fuzz_fails("rdma_create_id")) {
        return -1;
    }
    last_id = make_id(channel);
    last_id->id.context = opaque;
    *id = &last_id->id;
    return 0;
}

/* One event less to be had */
static void unring(int fd)
{
    uint64_t value;

    if (read(fd, &value, sizeof(value)) < 0) {
        fuzz_die("an event channel is not readable");
    }
}

static void free_event(FuzzEvent *event)
{
    g_free(event->private_data);
    g_free(event);
}

static FuzzEvent *event_about(const struct rdma_cm_id *id)
{
    for (GList *l = events.head; l; l = l->next) {
        FuzzEvent *event = l->data;

        if (event->event.id == id || event->event.listen_id == id) {
            return event;
        }
    }
    return NULL;
}

/* Nobody will ask for them any more */
static void drop_events(struct rdma_cm_id *id)
{
    FuzzEvent *event;

    while ((event = event_about(id)) != NULL) {
        struct rdma_cm_id *request = event->event.listen_id == id ?
                                     event->event.id : NULL;

        g_queue_remove(&events, event);
        unring(event->channel->fd);
        free_event(event);
        if (request) {
            /* The CM refuses those that nobody has looked at */
            drop_events(request);
            last_id = last_id == (FuzzCmId *)request ? NULL : last_id;
            g_ptr_array_remove_fast(fuzz_device.ids, request);
            g_free(request);
        }
    }
}

int rdma_destroy_id(struct rdma_cm_id *cm_id)
{
    FuzzCmId *id = (FuzzCmId *)cm_id;

    if (id->unacked) {
        fuzz_die("destroying an identifier waits for ever: %u events are not "
                 "acknowledged", id->unacked);
    }
    if (id->up && !id->disconnected) {
        fuzz_die("a connection is dropped without being disconnected");
    }
    drop_events(cm_id);
    listener = listener == id ? NULL : listener;
    last_id = last_id == id ? NULL : last_id;
    if (!g_ptr_array_remove_fast(fuzz_device.ids, id)) {
        fuzz_die("an identifier is destroyed twice");
    }
    g_free(id);
    return 0;
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
    if (fuzz_fails("rdma_migrate_id")) {
        return -1;
    }
    id->channel = channel;
    for (GList *l = events.head; l; l = l->next) {
        FuzzEvent *event = l->data;

        if (event->event.id == id && event->channel != channel) {
            unring(event->channel->fd);
            event->channel = channel;
            fuzz_ring(channel->fd);
        }
    }
    return 0;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *src,
                      struct sockaddr *dst, int timeout_ms)
{
    (void)src;
    (void)dst;
    g_assert(timeout_ms > 0);
    if (fuzz_fails("rdma_resolve_addr")) {
        return -1;
    }
    id->verbs = fuzz_device_context();
    ((FuzzCmId *)id)->natural = RDMA_CM_EVENT_ADDR_RESOLVED;
    return 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
    g_assert(timeout_ms > 0);
    if (fuzz_fails("rdma_resolve_route")) {
        return -1;
    }
    ((FuzzCmId *)id)->natural = RDMA_CM_EVENT_ROUTE_RESOLVED;
    return 0;
}

int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr,
                      int *mask)
{
    (void)id;
    if (fuzz_fails("rdma_init_qp_attr")) {
        return -1;
    }
    *mask = IBV_QP_STATE;
    return attr->qp_state > IBV_QPS_RTS ? -1 : 0;
}

static void keep_said(FuzzCmId *id, const void *data, uint8_t len)
{
    if (len) {
        memcpy(id->said, data, len);
    }
    id->said_bytes = len;
}

int rdma_connect(struct rdma_cm_id *cm_id, struct rdma_conn_param *param)
{
    FuzzCmId *id = (FuzzCmId *)cm_id;

    if (fuzz_fails("rdma_connect")) {
        return -1;
    }
    id->qp = fuzz_device_qp(param->qp_num);
    id->natural = RDMA_CM_EVENT_CONNECT_RESPONSE;
    keep_said(id, param->private_data, param->private_data_len);
    return 0;
}

int rdma_establish(struct rdma_cm_id *cm_id)
{
    if (fuzz_fails("rdma_establish")) {
        return -1;
    }
    ((FuzzCmId *)cm_id)->up = true;
    return 0;
}

int rdma_accept(struct rdma_cm_id *cm_id, struct rdma_conn_param *param)
{
    FuzzCmId *id = (FuzzCmId *)cm_id;

    if (id->answered) {
        fuzz_die("a request is answered twice");
    }
    if (fuzz_fails("rdma_accept")) {
        return -1;
    }
    id->answered = true;
    id->qp = fuzz_device_qp(param->qp_num);
    id->natural = RDMA_CM_EVENT_ESTABLISHED;
    keep_said(id, param->private_data, param->private_data_len);
    return 0;
}

int rdma_reject(struct rdma_cm_id *cm_id, const void *private_data,
                uint8_t private_data_len)
{
    FuzzCmId *id = (FuzzCmId *)cm_id;

    if (id->answered) {
        fuzz_die("a request is answered twice");
    }
    id->answered = true;
    keep_said(id, private_data, private_data_len);
    if (fuzz_device.hooks.rejected) {
        fuzz_device.hooks.rejected(id);
    }
    return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *addr)
{
    (void)addr;
    if (fuzz_fails("rdma_bind_addr")) {
        return -1;
    }
    id->verbs = fuzz_device_context();
    return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
    g_assert(backlog > 0);
    if (fuzz_fails("rdma_listen")) {
        return -1;
    }
    listener = (FuzzCmId *)id;
    last_id = NULL;
    return 0;
}

__be16 rdma_get_src_port(struct rdma_cm_id *id)
{
    (void)id;
    return GUINT16_TO_BE(4444);
}

int rdma_disconnect(struct rdma_cm_id *cm_id)
{
    FuzzCmId *id = (FuzzCmId *)cm_id;

    id->disconnected = true;
    return fuzz_fails("rdma_disconnect") ? -1 : 0;
}

/* Events of one channel only, in order */
int rdma_get_cm_event(struct rdma_event_channel *channel,
                      struct rdma_cm_event **event)
{
    for (GList *l = events.head; l; l = l->next) {
        FuzzEvent *next = l->data;
        FuzzCmId *id;

        if (next->channel == channel) {
            unring(channel->fd);
            id = (FuzzCmId *)next->event.id;
            id->unacked++;
            id->seen = true;
            /* One that nobody has asked for establishes nothing */
            id->up |= id->qp && next->event.event == RDMA_CM_EVENT_ESTABLISHED;
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
    ((FuzzCmId *)event->id)->unacked--;
    free_event((FuzzEvent *)event); /* it is the first member */
    return 0;
}

static void push_event(FuzzCmId *id, enum rdma_cm_event_type type, int status,
                       const void *private_data, uint8_t len)
{
    FuzzEvent *made = g_new0(FuzzEvent, 1);

    made->event.id = &id->id;
    made->event.event = type;
    made->event.status = status;
    if (len) {
        made->private_data = g_memdup2(private_data, len);
        made->event.param.conn.private_data = made->private_data;
        made->event.param.conn.private_data_len = len;
    }
    made->channel = id->id.channel;
    if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
        made->event.listen_id = &listener->id;
    }
    g_queue_push_tail(&events, made);
    fuzz_ring(made->channel->fd);
}

void fuzz_cm_event(FuzzCmId *id, enum rdma_cm_event_type type, int status,
                   const void *private_data, uint8_t len)
{
    /* iWARP: the kernel readies the queue pair; and on the passive side */
    if (type == RDMA_CM_EVENT_ESTABLISHED && id->qp && id->qp->alive &&
        id->qp->qp.state != IBV_QPS_ERR) {
        id->qp->qp.state = IBV_QPS_RTS;
    }
    push_event(id, type, status, private_data, len);
}

bool fuzz_cm_natural(FuzzCmId *id)
{
    int type = id->natural;
    int status = 0;
    uint8_t len = 0;
    const void *data = NULL;

    if (type < 0) {
        return false;
    }
    id->natural = -1;
    if (type == RDMA_CM_EVENT_CONNECT_RESPONSE && fuzz_device.hooks.reply) {
        data = fuzz_device.hooks.reply(&type, &status, &len);
    }
    fuzz_cm_event(id, type, status, data, len);
    return true;
}

bool fuzz_cm_request(const void *private_data, uint8_t len, uint8_t host)
{
    static uint16_t port;
    struct sockaddr_storage *peer;

    if (!listener) {
        return false;
    }
    last_id = make_id(listener->id.channel);
    last_id->id.verbs = fuzz_device_context();
    peer = &last_id->id.route.addr.dst_storage;
    if (host & 0x80) {
        peer->ss_family = AF_INET6;
        ((struct sockaddr_in6 *)peer)->sin6_addr.s6_addr[15] = host;
    } else {
        peer->ss_family = AF_INET;
        ((struct sockaddr_in *)peer)->sin_addr.s_addr = host;
    }
    /* In its place for either family; each request has another */
    ((struct sockaddr_in *)peer)->sin_port = port++;
    push_event(last_id, RDMA_CM_EVENT_CONNECT_REQUEST, 0, private_data, len);
    return true;
}

FuzzCmId *fuzz_cm_last_id(void)
{
    return last_id;
}

void fuzz_cm_init(void)
{
    listener = last_id = NULL;
    n_event_channels = 0;
}

void fuzz_cm_cleanup(void)
{
    if (fuzz_device.ids->len || n_event_channels ||
        !g_queue_is_empty(&events)) {
        fuzz_die("left behind: %u CM identifiers, %u event channels, %u "
                 "events", fuzz_device.ids->len, n_event_channels,
                 g_queue_get_length(&events));
    }
}
