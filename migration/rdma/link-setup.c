/*
 * RDMA migration transport: how a connection comes to be
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Resolving, connecting, listening, accepting and refusing; the functions are
 * documented in link.h.  docs/rdma.txt, "Connection".
 *
 * Order matters: a receive must be posted before the peer can send, and stock
 * peers do not retry on "receiver not ready".  So the queue pair is made first
 * (resolve, take), the caller posts its receives, and only then the connection
 * is asked for or granted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "log.h"
#include "link-priv.h"

/* Requests that nobody has looked at; the CM refuses what is more */
#define LISTEN_BACKLOG 64
/*
 * How often the NIC repeats an unanswered packet before it gives up, with 2 s
 * between on RoCE.  Not 7: Soft-RoCE takes that for "for ever", and a peer
 * that died silently would never be noticed.
 */
#define RETRY_COUNT 6
#define RNR_RETRY_COUNT 7

struct RMigListener {
    struct rdma_event_channel *channel;
    struct rdma_cm_id *id;
    int epoll_fd;
    int timer_fd;
    bool ticks;
};

static void set_link_error(GError **err, const char *what, int errnum)
{
    g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED, "%s failed: %s",
                what, g_strerror(errnum));
}

static char *address_text(const struct sockaddr *addr)
{
    socklen_t len = addr->sa_family == AF_INET6 ?
        sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup("an unknown address");
    }
    return g_strdup_printf(addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
                           host, port);
}

/*
 * Librdmacm could do this itself, but takes the RNR retry count from the peer,
 * and a stock peer's is 0: a message of ours that meets no posted receive, as
 * when the peer is still busy with accepting, would end the connection.
 */
static bool move_queue_pair(RMigLink *link, enum ibv_qp_state state,
                            GError **err)
{
    struct ibv_qp_attr attr = { .qp_state = state };
    int mask;

    if (rdma_init_qp_attr(link->id, &attr, &mask) != 0) {
        set_link_error(err, "asking for the queue pair's attributes", errno);
        return false;
    }
    /* Old kernels return bits of their own in between */
    mask &= ~(7 << 21);
    if (state == IBV_QPS_RTS) {
        attr.rnr_retry = RNR_RETRY_COUNT;
    }
    return rmig_verbs_modify_qp(link->verbs, &attr, mask, err);
}

/*
 * The peer's part of the connection is known now.  INIT a second time: before,
 * the CM knew of no connection and gave the peer no right to write, which it
 * needs for its heartbeat.
 */
static bool ready_queue_pair(RMigLink *link, GError **err)
{
    return move_queue_pair(link, IBV_QPS_INIT, err) &&
           move_queue_pair(link, IBV_QPS_RTR, err) &&
           move_queue_pair(link, IBV_QPS_RTS, err);
}

/* On an id that has a device: completion queue, queue pair, epoll */
static bool make_queue_pair(RMigLink *link, GError **err)
{
    if (!link->id->verbs) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "the address does not belong to an RDMA device");
        return false;
    }
    link->verbs = rmig_verbs_new(link->id->verbs, link->id->port_num, err);
    if (!link->verbs || !rmig_verbs_create_qp(link->verbs, err)) {
        return false;
    }
    link->qp_made = true;
    return move_queue_pair(link, IBV_QPS_INIT, err) &&
           rmig_link_watch_verbs(link, err);
}

static bool wait_for_state(RMigLink *link, RMigLinkState state, int timeout_ms,
                           const char *what, GError **err)
{
    int64_t deadline = g_get_monotonic_time() + timeout_ms * INT64_C(1000);

    /* The states are in the order in which a connection comes to be */
    while (link->state < state) {
        if (!rmig_link_step(link, deadline, what, err)) {
            return false;
        }
    }
    return true;
}

static void set_resolve_error(GError **err, int errnum)
{
    g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED, "%s",
                errnum == ENODEV ? "no RDMA device leads to that address" :
                                   g_strerror(errnum));
}

static bool resolve(RMigLink *link, const struct sockaddr *addr, GError **err)
{
    if (rdma_create_id(link->channel, &link->id, NULL, RDMA_PS_TCP) != 0) {
        set_link_error(err, "creating a connection identifier", errno);
        return false;
    }
    if (rdma_resolve_addr(link->id, NULL, (struct sockaddr *)addr,
                          RMIG_LINK_RESOLVE_MS) != 0) {
        set_resolve_error(err, errno);
        return false;
    }
    if (!wait_for_state(link, RMIG_LINK_ADDR_RESOLVED,
                        RMIG_LINK_RESOLVE_MS + 1000,
                        "the address to resolve", err)) {
        return false;
    }
    if (rdma_resolve_route(link->id, RMIG_LINK_RESOLVE_MS) != 0) {
        set_resolve_error(err, errno);
        g_prefix_error(err, "resolving the route: ");
        return false;
    }
    return wait_for_state(link, RMIG_LINK_ROUTE_RESOLVED,
                          RMIG_LINK_RESOLVE_MS + 1000,
                          "the route to resolve", err) &&
           make_queue_pair(link, err);
}

RMigLink *rmig_link_resolve(const char *name, const RMigWaiter *waiter,
                            RMigShutdown *shutdown,
                            const struct sockaddr *addr, GError **err)
{
    RMigLink *link = rmig_link_alloc(name, waiter, shutdown, err);
    g_autofree char *text = address_text(addr);
    GError *local = NULL;

    if (!link) {
        return NULL;
    }
    if (!resolve(link, addr, &local)) {
        rmig_link_find_cause(link, &local);
        g_propagate_error(err, local);
        g_prefix_error(err, "resolving %s over RDMA: ", text);
        rmig_link_free(link);
        return NULL;
    }
    return link;
}

/* @buf: RMIG_WIRE_PRIVATE_MAX_BYTES, needed as long as @param */
static void fill_conn_param(RMigLink *link, struct rdma_conn_param *param,
                            uint8_t *buf, const RMigWirePrivate *priv)
{
    RMigWirePrivate ours = *priv;

    ours.version = RMIG_WIRE_VERSION;
    memset(param, 0, sizeof(*param));
    param->private_data = buf;
    param->private_data_len = rmig_wire_private_pack(buf, &ours);
    param->responder_resources = 2;
    param->initiator_depth = 2;
    param->retry_count = RETRY_COUNT;
    param->rnr_retry_count = RNR_RETRY_COUNT;
    param->qp_num = rmig_verbs_qp_num(link->verbs);
}

/*
 * The peer has accepted.  With InfiniBand and RoCE it waits for our last step,
 * with iWARP the connection is there already.
 */
static bool complete_connection(RMigLink *link, GError **err)
{
    if (link->state == RMIG_LINK_UP) {
        return true;
    }
    if (!ready_queue_pair(link, err)) {
        return false;
    }
    if (rdma_establish(link->id) != 0) {
        set_link_error(err, "completing the connection", errno);
        return false;
    }
    link->state = RMIG_LINK_UP;
    return true;
}

/* What does not hold must not be acted upon */
static void keep_flags(RMigWirePrivate *priv, uint32_t flags)
{
    priv->flags &= flags;
    if (!(priv->flags & RMIG_WIRE_FLAG_BUDGET)) {
        priv->pin_bytes = 0;
    }
}

static bool connect_link(RMigLink *link, const RMigWirePrivate *ask,
                         RMigWirePrivate *answer, GError **err)
{
    uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
    struct rdma_conn_param param;

    fill_conn_param(link, &param, buf, ask);
    if (rdma_connect(link->id, &param) != 0) {
        set_link_error(err, "connecting", errno);
        return false;
    }
    if (!wait_for_state(link, RMIG_LINK_ANSWERED, RMIG_LINK_CONNECT_MS,
                        "the peer to accept the connection", err) ||
        !complete_connection(link, err) ||
        !rmig_wire_private_unpack(link->peer_private,
                                  link->peer_private_bytes, answer, err)) {
        return false;
    }
    keep_flags(answer, ask->flags);
    RMIG_LOG("%s: asked for flags 0x%x, granted 0x%x", link->name, ask->flags,
             answer->flags);
    return true;
}

bool rmig_link_connect(RMigLink *link, const RMigWirePrivate *ask,
                       RMigWirePrivate *answer, GError **err)
{
    GError *local = NULL;

    if (!connect_link(link, ask, answer, &local)) {
        rmig_link_find_cause(link, &local);
        g_propagate_error(err, local);
        return false;
    }
    return true;
}

static bool is_wildcard(const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET6) {
        return IN6_IS_ADDR_UNSPECIFIED(
            &((const struct sockaddr_in6 *)addr)->sin6_addr);
    }
    return ((const struct sockaddr_in *)addr)->sin_addr.s_addr == INADDR_ANY;
}

/* False with errno.  Loopback addresses can be bound to but lead nowhere. */
static bool bind_to_device(struct rdma_cm_id *id, const struct sockaddr *addr)
{
    if (rdma_bind_addr(id, (struct sockaddr *)addr) != 0) {
        return false;
    }
    if (!id->verbs && !is_wildcard(addr)) {
        errno = EADDRNOTAVAIL;
        return false;
    }
    return true;
}

static bool watch_fd(RMigListener *listener, int fd, GError **err)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

    if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        set_link_error(err, "watching a file descriptor", errno);
        return false;
    }
    return true;
}

bool rmig_listener_watch(RMigListener *listener, const RMigLink *link,
                         GError **err)
{
    return watch_fd(listener, link->epoll_fd, err);
}

void rmig_listener_unwatch(RMigListener *listener, const RMigLink *link)
{
    if (epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, link->epoll_fd,
                  NULL) < 0 && errno != ENOENT) {
        RMIG_LOG("%s: cannot be unwatched: %s", link->name,
                 g_strerror(errno));
    }
}

void rmig_listener_tick(RMigListener *listener, bool on)
{
    struct timespec period = {
        .tv_nsec = on ? RMIG_LISTENER_TICK_MS * 1000000L : 0,
    };
    struct itimerspec tick = { .it_interval = period, .it_value = period };

    if (listener->ticks == on) {
        return;
    }
    listener->ticks = on;
    if (timerfd_settime(listener->timer_fd, 0, &tick, NULL) < 0) {
        RMIG_LOG("the listener does not tick: %s", g_strerror(errno));
    }
}

/* What makes the listener's descriptor readable */
static bool make_descriptors(RMigListener *listener, GError **err)
{
    listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listener->timer_fd = timerfd_create(CLOCK_MONOTONIC,
                                        TFD_CLOEXEC | TFD_NONBLOCK);
    if (listener->epoll_fd < 0 || listener->timer_fd < 0) {
        set_link_error(err, "creating an epoll or timer descriptor", errno);
        return false;
    }
    return watch_fd(listener, listener->timer_fd, err) &&
           watch_fd(listener, listener->channel->fd, err);
}

RMigListener *rmig_listener_new(const struct sockaddr *addr, GError **err)
{
    RMigListener *listener = g_new0(RMigListener, 1);
    g_autofree char *text = address_text(addr);

    listener->epoll_fd = listener->timer_fd = -1;
    listener->channel = rdma_create_event_channel();
    if (!listener->channel ||
        fcntl(listener->channel->fd, F_SETFL, O_NONBLOCK) < 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "no access to the RDMA connection manager: %s (is there "
                    "an RDMA device, and is the module rdma_ucm loaded?)",
                    g_strerror(errno));
        goto fail;
    }
    if (!make_descriptors(listener, err)) {
        goto fail;
    }
    if (rdma_create_id(listener->channel, &listener->id, NULL,
                       RDMA_PS_TCP) != 0) {
        set_link_error(err, "creating a connection identifier", errno);
        goto fail;
    }
    if (!bind_to_device(listener->id, addr) ||
        rdma_listen(listener->id, LISTEN_BACKLOG) != 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "listening on %s over RDMA failed: %s%s", text,
                    g_strerror(errno),
                    errno == ENODEV || errno == EADDRNOTAVAIL ?
                    " (no RDMA device of this host has that address)" : "");
        goto fail;
    }
    return listener;

fail:
    rmig_listener_free(listener);
    return NULL;
}

void rmig_listener_free(RMigListener *listener)
{
    if (!listener) {
        return;
    }
    if (listener->id) {
        rdma_destroy_id(listener->id);
    }
    if (listener->channel) {
        rdma_destroy_event_channel(listener->channel);
    }
    if (listener->timer_fd >= 0) {
        close(listener->timer_fd);
    }
    if (listener->epoll_fd >= 0) {
        close(listener->epoll_fd);
    }
    g_free(listener);
}

int rmig_listener_fd(const RMigListener *listener)
{
    return listener->epoll_fd;
}

uint16_t rmig_listener_port(const RMigListener *listener)
{
    return ntohs(rdma_get_src_port(listener->id));
}

/* With our version, so that the peer can say what is wrong */
static void reject(struct rdma_cm_id *id)
{
    RMigWirePrivate ours = { .version = RMIG_WIRE_VERSION };
    uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
    size_t bytes = rmig_wire_private_pack(buf, &ours);

    if (rdma_reject(id, buf, bytes) != 0) {
        RMIG_LOG("refusing a connection failed: %s", g_strerror(errno));
    }
}

/*
 * Turn a request into a link with an event channel of its own.  @id becomes
 * the link's.
 */
static RMigLink *adopt_request(struct rdma_cm_id *id, const char *name,
                               const RMigWaiter *waiter,
                               RMigShutdown *shutdown, GError **err)
{
    RMigLink *link = rmig_link_alloc(name, waiter, shutdown, err);

    if (!link) {
        reject(id);
        rdma_destroy_id(id);
        return NULL;
    }
    link->id = id;
    link->state = RMIG_LINK_REQUESTED;
    if (rdma_migrate_id(id, link->channel) != 0) {
        set_link_error(err, "giving the connection its event channel", errno);
    } else {
        return link;
    }
    rmig_link_refuse(link);
    rmig_link_free(link);
    return NULL;
}

RMigLink *rmig_listener_take(RMigListener *listener, const char *name,
                             const RMigWaiter *waiter, RMigShutdown *shutdown,
                             RMigWirePrivate *asked, GError **err)
{
    struct rdma_cm_event *event;
    struct rdma_cm_id *id = NULL;
    GError *refusal = NULL;
    uint64_t ticks;

    if (read(listener->timer_fd, &ticks, sizeof(ticks)) > 0) {
        /* Whoever has been woken looks at everything now */
    }
    if (rdma_get_cm_event(listener->channel, &event) != 0) {
        return NULL;
    }
    if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        id = event->id;
        if (rmig_wire_private_unpack(event->param.conn.private_data,
                                     event->param.conn.private_data_len,
                                     asked, &refusal)) {
            keep_flags(asked, RMIG_WIRE_FLAGS_KNOWN);
        }
    } else if (event->event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "the RDMA device that was listened on was removed");
    }
    rdma_ack_cm_event(event);
    if (!id) {
        return NULL;
    }
    if (refusal) {
        reject(id);
        rdma_destroy_id(id);
        g_propagate_prefixed_error(err, refusal,
                                   "refusing an RDMA connection: ");
        return NULL;
    }
    return adopt_request(id, name, waiter, shutdown, err);
}

bool rmig_link_prepare(RMigLink *link, const char *name, GError **err)
{
    link->name = name;
    return make_queue_pair(link, err);
}

bool rmig_link_accept(RMigLink *link, const RMigWirePrivate *granted,
                      GError **err)
{
    uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
    struct rdma_conn_param param;

    RMIG_LOG("%s: granting flags 0x%x", link->name, granted->flags);
    fill_conn_param(link, &param, buf, granted);
    if (!ready_queue_pair(link, err)) {
        return false;
    }
    if (rdma_accept(link->id, &param) != 0) {
        set_link_error(err, "accepting an RDMA connection", errno);
        return false;
    }
    return true;
}

int rmig_link_accepted(RMigLink *link, GError **err)
{
    int ret = 1;

    while (ret > 0 && link->state != RMIG_LINK_UP) {
        ret = rmig_link_arm(link, err);
    }
    return ret;
}

void rmig_link_refuse(RMigLink *link)
{
    reject(link->id);
    link->state = RMIG_LINK_DOWN;
}

bool rmig_link_same_peer(const RMigLink *a, const RMigLink *b)
{
    const struct sockaddr *x = rdma_get_peer_addr(a->id);
    const struct sockaddr *y = rdma_get_peer_addr(b->id);

    if (x->sa_family != y->sa_family) {
        return false;
    }
    if (x->sa_family == AF_INET6) {
        return memcmp(&((const struct sockaddr_in6 *)x)->sin6_addr,
                      &((const struct sockaddr_in6 *)y)->sin6_addr,
                      sizeof(struct in6_addr)) == 0;
    }
    return ((const struct sockaddr_in *)x)->sin_addr.s_addr ==
           ((const struct sockaddr_in *)y)->sin_addr.s_addr;
}

bool rmig_link_same_request(const RMigLink *a, const RMigLink *b)
{
    return rdma_get_dst_port(a->id) == rdma_get_dst_port(b->id) &&
           rmig_link_same_peer(a, b);
}
