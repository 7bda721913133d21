/*
 * verbsim: the connection manager's addresses and ports
 *
 * rdma_bind_addr(), rdma_resolve_addr(), rdma_resolve_route(), rdma_listen().
 * A port belongs to the whole fabric; this file owns what this process has of
 * them.  Every address of this machine is on the fabric.  Any other address is
 * one that never answers: resolving it ends after the program's time-out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cm.h"

enum { MAX_BACKLOG = 1024, HOP_LIMIT = 64 };

static GPtrArray *bindings;

static const struct sockaddr_in *in4(const struct sockaddr *addr)
{
    return (const void *)addr;
}

static const struct sockaddr_in6 *in6(const struct sockaddr *addr)
{
    return (const void *)addr;
}

bool cm_addr_is_any(const struct sockaddr *addr)
{
    return addr->sa_family == AF_INET6 ?
           IN6_IS_ADDR_UNSPECIFIED(&in6(addr)->sin6_addr) :
           in4(addr)->sin_addr.s_addr == INADDR_ANY;
}

socklen_t cm_addr_length(const struct sockaddr *addr)
{
    return addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) :
                                         sizeof(struct sockaddr_in);
}

/* In network order; at the same place in both families. */
uint16_t cm_addr_port(const struct sockaddr *addr)
{
    return addr->sa_family == AF_INET || addr->sa_family == AF_INET6 ?
           in4(addr)->sin_port : 0;
}

static void set_port(struct sockaddr *addr, uint16_t port)
{
    ((struct sockaddr_in *)(void *)addr)->sin_port = port;
}

static bool is_ip(const struct sockaddr *addr)
{
    return addr->sa_family == AF_INET || addr->sa_family == AF_INET6;
}

/* ------------------------------------------------------------------- ports */

static CmBinding *find_shared(const struct sockaddr *addr, bool v6only)
{
    for (unsigned i = 0; bindings && i < bindings->len; i++) {
        CmBinding *binding = bindings->pdata[i];

        if (binding->shared && !binding->listening &&
            binding->v6only == v6only &&
            !memcmp(&binding->addr, addr, cm_addr_length(addr))) {
            return binding;
        }
    }
    return NULL;
}

/* 0 or -errno. */
static int bind_port(CmId *id, const struct sockaddr *addr)
{
    CmBinding *binding = id->reuse && cm_addr_port(addr) ?
                         find_shared(addr, id->v6only) : NULL;
    int error;

    if (binding) {
        binding->refs++;
        id->binding = binding;
        return 0;
    }
    binding = g_new0(CmBinding, 1);
    memcpy(&binding->addr, addr, cm_addr_length(addr));
    binding->v6only = id->v6only;
    binding->shared = id->reuse;
    binding->refs = 1;
    error = vs_fabric_bind((struct sockaddr *)&binding->addr, id->v6only);
    if (error) {
        g_free(binding);
        return -error;
    }
    if (!bindings) {
        bindings = g_ptr_array_new();
    }
    g_ptr_array_add(bindings, binding);
    id->binding = binding;
    return 0;
}

void cm_unbind(CmId *id)
{
    CmBinding *binding = id->binding;

    id->binding = NULL;
    if (binding && --binding->refs == 0) {
        vs_fabric_unbind((struct sockaddr *)&binding->addr, binding->v6only);
        g_ptr_array_remove_fast(bindings, binding);
        g_free(binding);
    }
}

/* 0 or -errno. */
static int bind_id(CmId *id, const struct sockaddr *addr, bool local)
{
    struct rdma_addr *route = &id->id.route.addr;
    int error;

    if (id->state != CM_IDLE) {
        return -EINVAL;
    }
    if (!local) {
        return -EADDRNOTAVAIL;
    }
    if (vs_removed && !cm_addr_is_any(addr)) {
        return -ENODEV;
    }
    error = bind_port(id, addr);
    if (error) {
        return error;
    }
    route->src_storage = id->binding->addr;
    if (!cm_addr_is_any(addr)) {
        cm_use_device(id);
        vs_gid_of(&route->src_addr, &route->addr.ibaddr.sgid);
    }
    cm_set_state(id, CM_BOUND);
    return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *addr)
{
    bool local;
    int error;

    if (!is_ip(addr)) {
        return cm_errno(EAFNOSUPPORT);
    }
    local = vs_fabric_is_local(addr);
    cm_lock();
    error = cm_id_alive(id, "rdma_bind_addr") ?
            bind_id(cm_id(id), addr, local) : -EINVAL;
    cm_unlock();
    return cm_result(error);
}

int rdma_listen(struct rdma_cm_id *rid, int backlog)
{
    const struct sockaddr_in any = { .sin_family = AF_INET };
    CmId *id = cm_id(rid);
    int error = 0;

    cm_lock();
    if (!cm_id_alive(rid, "rdma_listen")) {
        error = -EINVAL;
    } else if (id->state == CM_IDLE) {
        error = bind_id(id, (const struct sockaddr *)&any, true);
    }
    if (!error && id->state != CM_BOUND) {
        error = -EINVAL;
    }
    if (!error && id->binding->refs > 1) {
        error = -EADDRINUSE;
    }
    if (!error) {
        error = -vs_fabric_listen(&rid->route.addr.src_addr,
                                  id->binding->v6only);
    }
    if (!error) {
        id->binding->listening = true;
        id->backlog = backlog > 0 && backlog < MAX_BACKLOG ? backlog :
                                                             MAX_BACKLOG;
        cm_set_state(id, CM_LISTEN);
        VS_TRACE("cm-listen", "id=%u port=%u", id->number,
                 ntohs(cm_addr_port(&rid->route.addr.src_addr)));
    }
    cm_unlock();
    return cm_result(error);
}

uint16_t rdma_get_src_port(struct rdma_cm_id *id)
{
    return cm_addr_port(&id->route.addr.src_addr);
}

uint16_t rdma_get_dst_port(struct rdma_cm_id *id)
{
    return cm_addr_port(&id->route.addr.dst_addr);
}

/* --------------------------------------------------------------- resolving */

void cm_fill_path(CmId *id)
{
    struct rdma_route *route = &id->id.route;
    struct rdma_ib_addr *ib = &route->addr.addr.ibaddr;
    struct ibv_sa_path_rec *path;

    vs_gid_of(&route->addr.src_addr, &ib->sgid);
    vs_gid_of(&route->addr.dst_addr, &ib->dgid);
    ib->pkey = htons(0xffff);
    if (!route->path_rec) {
        route->path_rec = g_new0(struct ibv_sa_path_rec, 1);
    }
    route->num_paths = 1;
    path = route->path_rec;
    path->sgid = ib->sgid;
    path->dgid = ib->dgid;
    path->hop_limit = HOP_LIMIT;
    path->traffic_class = id->tos;
    path->reversible = 1;
    path->numb_path = 1;
    path->pkey = ib->pkey;
    path->sl = id->tos >> 5;
    path->mtu_selector = 2;             /* exactly */
    path->mtu = (uint8_t)cm_active_mtu();
    path->rate_selector = 2;
    path->packet_life_time_selector = 2;
    path->packet_life_time = vs_shape.ack_timeout - 1;
}

/*
 * The address from which this machine's routes lead to @dst: what the routing
 * table says to a datagram socket, or @dst itself, which is local.
 */
static struct sockaddr_storage source_for(const struct sockaddr *dst)
{
    struct sockaddr_storage to = { 0 }, from = { 0 };
    socklen_t length = cm_addr_length(dst);
    int fd = socket(dst->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(&to, dst, length);
    set_port((struct sockaddr *)&to, htons(1));
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, length) < 0 ||
        getsockname(fd, (struct sockaddr *)&from, &length) < 0) {
        from = to;
    }
    if (fd >= 0) {
        close(fd);
    }
    return from;
}

/* "Any" as a destination means this host. */
static struct sockaddr_storage destination(const struct sockaddr *dst)
{
    struct sockaddr_storage to = { 0 };

    memcpy(&to, dst, cm_addr_length(dst));
    if (cm_addr_is_any(dst)) {
        if (dst->sa_family == AF_INET6) {
            ((struct sockaddr_in6 *)&to)->sin6_addr = in6addr_loopback;
        } else {
            ((struct sockaddr_in *)&to)->sin_addr.s_addr =
                htonl(INADDR_LOOPBACK);
        }
    }
    return to;
}

static void set_resolved(CmId *id, const struct sockaddr_storage *source)
{
    struct rdma_addr *route = &id->id.route.addr;

    if (cm_addr_is_any(&route->src_addr)) {
        uint16_t port = cm_addr_port(&route->src_addr);

        route->src_storage = *source;
        set_port(&route->src_addr, port);
    }
    cm_use_device(id);
    vs_gid_of(&route->src_addr, &route->addr.ibaddr.sgid);
    vs_gid_of(&route->dst_addr, &route->addr.ibaddr.dgid);
    route->addr.ibaddr.pkey = htons(0xffff);
    cm_set_state(id, CM_ADDR_RESOLVED);
}

/* 0 or -errno; binds first if the program has not. */
static int bind_source(CmId *id, const struct sockaddr *src, sa_family_t family,
                       bool src_local)
{
    struct sockaddr_storage any = { .ss_family = family };

    if (id->state == CM_IDLE) {
        int error = bind_id(id, src ? src : (struct sockaddr *)&any,
                            src_local);

        if (error) {
            return error;
        }
    }
    return id->state == CM_BOUND &&
           id->id.route.addr.src_addr.sa_family == family ? 0 : -EINVAL;
}

int rdma_resolve_addr(struct rdma_cm_id *rid, struct sockaddr *src,
                      struct sockaddr *dst, int timeout_ms)
{
    struct sockaddr_storage to, from;
    bool src_local, local;
    CmId *id = cm_id(rid);
    int error;

    if (!dst || !is_ip(dst) || (src && !is_ip(src))) {
        return cm_errno(dst ? EAFNOSUPPORT : EINVAL);
    }
    src_local = !src || vs_fabric_is_local(src);
    to = destination(dst);
    local = vs_fabric_is_local((struct sockaddr *)&to);
    from = source_for((struct sockaddr *)&to);
    cm_lock();
    error = !cm_id_alive(rid, "rdma_resolve_addr") ? -EINVAL :
            vs_removed ? -ENODEV :
            bind_source(id, src, to.ss_family, src_local);
    if (!error) {
        rid->route.addr.dst_storage = to;
        if (local) {
            set_resolved(id, &from);
            cm_event_post_new(id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
        } else {
            cm_set_state(id, CM_ADDR_QUERY);
            vs_timer_set(&id->timer, vs_now_ns() +
                         (uint64_t)MAX(timeout_ms, 1) * 1000000);
        }
    }
    cm_unlock();
    return error ? cm_errno(-error) : cm_complete(id);
}

int rdma_resolve_route(struct rdma_cm_id *rid, int timeout_ms)
{
    CmId *id = cm_id(rid);

    /* There is no subnet manager to wait for. */
    (void)timeout_ms;
    cm_lock();
    if (!cm_id_alive(rid, "rdma_resolve_route") ||
        id->state != CM_ADDR_RESOLVED) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    cm_fill_path(id);
    cm_set_state(id, CM_ROUTE_RESOLVED);
    cm_event_post_new(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
    cm_unlock();
    return cm_complete(id);
}
