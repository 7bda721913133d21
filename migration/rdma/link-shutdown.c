/*
 * RDMA migration transport: what ends all waits of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: RMigShutdown of link.h, which a migration's links share.
 * Callers: link, source, dest, the reaper.
 * Thread: any.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "link-priv.h"

struct RMigShutdown {
    gatomicrefcount refs; /* its owner's, and one of each link */
    int fd; /* an eventfd that is never drained: it wakes every link */
    gint triggered;
    GMutex lock;
    bool parted;  /* under lock: what breaks is alone in that */
    char *reason; /* under lock; NULL: somebody asked for it */
};

RMigShutdown *rmig_shutdown_new(GError **err)
{
    RMigShutdown *shutdown = g_new0(RMigShutdown, 1);

    g_atomic_ref_count_init(&shutdown->refs);
    g_mutex_init(&shutdown->lock);
    shutdown->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (shutdown->fd < 0) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "creating an eventfd failed: %s", g_strerror(errno));
        g_mutex_clear(&shutdown->lock);
        g_free(shutdown);
        return NULL;
    }
    return shutdown;
}

void rmig_shutdown_ref(RMigShutdown *shutdown)
{
    g_atomic_ref_count_inc(&shutdown->refs);
}

void rmig_shutdown_free(RMigShutdown *shutdown)
{
    if (shutdown && g_atomic_ref_count_dec(&shutdown->refs)) {
        close(shutdown->fd);
        g_mutex_clear(&shutdown->lock);
        g_free(shutdown->reason);
        g_free(shutdown);
    }
}

void rmig_shutdown_trigger(RMigShutdown *shutdown)
{
    uint64_t one = 1;

    g_atomic_int_set(&shutdown->triggered, 1);
    if (write(shutdown->fd, &one, sizeof(one)) < 0) {
        RMIG_LOG("waking the waiters failed: %s", g_strerror(errno));
    }
}

bool rmig_shutdown_triggered(const RMigShutdown *shutdown)
{
    return g_atomic_int_get(&shutdown->triggered);
}

int rmig_shutdown_fd(const RMigShutdown *shutdown)
{
    return shutdown->fd;
}

void rmig_shutdown_because(RMigShutdown *shutdown, const char *reason)
{
    bool goes;

    g_mutex_lock(&shutdown->lock);
    goes = !shutdown->parted;
    if (goes && !shutdown->reason && !rmig_shutdown_triggered(shutdown)) {
        shutdown->reason = g_strdup(reason);
    }
    if (goes) {
        rmig_shutdown_trigger(shutdown);
    }
    g_mutex_unlock(&shutdown->lock);
}

GError *rmig_shutdown_error(RMigShutdown *shutdown)
{
    GError *err;

    g_mutex_lock(&shutdown->lock);
    err = g_error_new_literal(RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN,
                              shutdown->reason ? shutdown->reason :
                              "the connection was shut down");
    g_mutex_unlock(&shutdown->lock);
    return err;
}

bool rmig_shutdown_part(RMigShutdown *shutdown, GError **err)
{
    bool free;

    g_mutex_lock(&shutdown->lock);
    free = !rmig_shutdown_triggered(shutdown);
    shutdown->parted = shutdown->parted || free;
    g_mutex_unlock(&shutdown->lock);
    if (!free) {
        g_propagate_error(err, rmig_shutdown_error(shutdown));
    }
    return free;
}
