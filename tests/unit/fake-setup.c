/*
 * A stand-in for the link room's setting up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Links come from fake_link_offer(), in that order, whichever side asks.
 */
#include "fake-link.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

uint64_t fake_memlock_bytes = RLIM_INFINITY;

/* In place of the C library's: the tests run under any limit */
int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
    if (resource == RLIMIT_MEMLOCK) {
        limit->rlim_cur = fake_memlock_bytes;
        limit->rlim_max = RLIM_INFINITY;
        return 0;
    }
    return syscall(SYS_prlimit64, 0, resource, NULL, limit);
}

static GQueue offered = G_QUEUE_INIT;

struct RMigShutdown {
    gint triggered;
    int fd; /* an eventfd, as the real one's */
    bool parted;
};

struct RMigListener {
    int unused;
};

void fake_link_offer(RMigLink *link)
{
    g_queue_push_tail(&offered, link);
}

RMigShutdown *rmig_shutdown_new(GError **err)
{
    (void)err;
    RMigShutdown *shutdown = g_new0(RMigShutdown, 1);

    shutdown->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g_assert_cmpint(shutdown->fd, >=, 0);
    return shutdown;
}

void rmig_shutdown_free(RMigShutdown *shutdown)
{
    if (shutdown) {
        close(shutdown->fd);
    }
    g_free(shutdown);
}

void rmig_shutdown_trigger(RMigShutdown *shutdown)
{
    uint64_t one = 1;

    g_atomic_int_set(&shutdown->triggered, true);
    g_assert_cmpint(write(shutdown->fd, &one, sizeof(one)), ==, sizeof(one));
}

int rmig_shutdown_fd(const RMigShutdown *shutdown)
{
    return shutdown->fd;
}

void rmig_shutdown_because(RMigShutdown *shutdown, const char *reason)
{
    (void)reason;
    if (!shutdown->parted) {
        rmig_shutdown_trigger(shutdown);
    }
}

bool rmig_shutdown_part(RMigShutdown *shutdown, GError **err)
{
    shutdown->parted |= !shutdown->triggered;
    if (shutdown->triggered) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN,
                    "the connection was shut down");
    }
    return !shutdown->triggered;
}

bool rmig_shutdown_triggered(const RMigShutdown *shutdown)
{
    return g_atomic_int_get(&shutdown->triggered);
}

RMigLink *rmig_link_resolve(const char *name, const RMigWaiter *waiter,
                            RMigShutdown *shutdown,
                            const struct sockaddr *addr, GError **err)
{
    RMigLink *link = g_queue_pop_head(&offered);

    (void)name;
    (void)waiter;
    (void)addr;
    if (!link) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "no RDMA device leads to that address");
        return NULL;
    }
    link->shutdown = shutdown;
    return link;
}

bool rmig_link_connect(RMigLink *link, const RMigWirePrivate *ask,
                       RMigWirePrivate *answer, GError **err)
{
    /* the peer may send as soon as it is connected */
    g_assert_cmpuint(g_queue_get_length(&link->verbs->recvs), >, 0);
    if (link->cannot_connect) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "connection refused");
        return false;
    }
    link->asked = ask->flags;
    link->asked_pin_bytes = ask->pin_bytes;
    *answer = (RMigWirePrivate) {
        .version = RMIG_WIRE_VERSION,
        .flags = ask->flags & link->granted,
    };
    if (answer->flags & RMIG_WIRE_FLAG_BUDGET) {
        answer->pin_bytes = link->granted_pin_bytes;
    }
    link->up = true;
    return true;
}

RMigListener *rmig_listener_new(const struct sockaddr *addr, GError **err)
{
    (void)addr;
    (void)err;
    return g_new0(RMigListener, 1);
}

void rmig_listener_free(RMigListener *listener)
{
    g_free(listener);
}

int rmig_listener_fd(const RMigListener *listener)
{
    g_assert_nonnull(listener);
    return 43;
}

unsigned fake_listener_watches;
bool fake_listener_ticks;

bool rmig_listener_watch(RMigListener *listener, const RMigLink *link,
                         GError **err)
{
    (void)listener;
    (void)err;
    g_assert_nonnull(link);
    fake_listener_watches++;
    return true;
}

void rmig_listener_unwatch(RMigListener *listener, const RMigLink *link)
{
    (void)listener;
    g_assert_nonnull(link);
}

void rmig_listener_tick(RMigListener *listener, bool on)
{
    (void)listener;
    fake_listener_ticks = on;
}

uint16_t rmig_listener_port(const RMigListener *listener)
{
    g_assert_nonnull(listener);
    return 4444;
}

RMigLink *rmig_listener_take(RMigListener *listener, const char *name,
                             const RMigWaiter *waiter, RMigShutdown *shutdown,
                             RMigWirePrivate *asked, GError **err)
{
    RMigLink *link = g_queue_pop_head(&offered);

    (void)listener;
    (void)name;
    (void)waiter;
    (void)err;
    if (link) {
        *asked = (RMigWirePrivate) {
            .version = RMIG_WIRE_VERSION,
            .flags = link->asked & RMIG_WIRE_FLAGS_KNOWN,
        };
        if (asked->flags & RMIG_WIRE_FLAG_BUDGET) {
            asked->pin_bytes = link->asked_pin_bytes;
        }
        link->shutdown = shutdown;
    }
    return link;
}

unsigned fake_links_prepared;

bool rmig_link_prepare(RMigLink *link, const char *name, GError **err)
{
    (void)name;
    (void)link;
    (void)err;
    fake_links_prepared++;
    return true;
}

bool rmig_link_accept(RMigLink *link, const RMigWirePrivate *granted,
                      GError **err)
{
    (void)err;
    g_assert_cmpuint(g_queue_get_length(&link->verbs->recvs), >, 0);
    link->granted = granted->flags;
    link->granted_pin_bytes = granted->pin_bytes;
    link->up = !link->half_open;
    return true;
}

int rmig_link_accepted(RMigLink *link, GError **err)
{
    if (!rmig_link_check(link, err)) {
        return -1;
    }
    if (link->cannot_connect) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED,
                    "the peer closed the connection");
        return -1;
    }
    return link->up;
}

unsigned fake_links_refused;

void rmig_link_refuse(RMigLink *link)
{
    (void)link;
    fake_links_refused++;
}

bool rmig_link_same_request(const RMigLink *a, const RMigLink *b)
{
    return a->port != 0 && a->port == b->port && a->host == b->host;
}

bool rmig_link_same_peer(const RMigLink *a, const RMigLink *b)
{
    return a->host == b->host;
}

bool rmig_link_is_up(const RMigLink *link)
{
    return link->up && !link->error;
}

void rmig_link_revoke(RMigLink *link)
{
    link->verbs->revoked = true;
}
