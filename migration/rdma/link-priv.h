/*
 * RDMA migration transport: inside of the link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by link.c (a connection's life), link-setup.c (how it comes to be) and
 * link-shutdown.c (what ends its waits), and by nobody else.
 */
#ifndef RMIG_LINK_PRIV_H
#define RMIG_LINK_PRIV_H

#include <rdma/rdma_cma.h>

#include "link.h"
#include "verbs-priv.h"

/* In the order of a connection's life */
typedef enum RMigLinkState {
    RMIG_LINK_NEW,
    RMIG_LINK_ADDR_RESOLVED,
    RMIG_LINK_ROUTE_RESOLVED,
    RMIG_LINK_ANSWERED,  /* active side: the peer waits for our last step */
    RMIG_LINK_REQUESTED, /* passive side: the peer waits for our answer */
    RMIG_LINK_UP,
    RMIG_LINK_DOWN,
} RMigLinkState;

struct RMigLink {
    const char *name; /* for messages; a literal */
    RMigWaiter waiter;
    RMigShutdown *shutdown; /* shared with the migration's other links */
    RMigLinkState state;
    GError *error; /* the first fatal one */
    struct rdma_event_channel *channel;
    struct rdma_cm_id *id;
    RMigVerbs *verbs;
    bool qp_made;
    bool armed; /* the completion queue owes us an event, or has sent it */
    int epoll_fd;
    int timer_fd;
    /* rmig_link_watch() */
    int watched_fd; /* not owned; -1: none */
    void (*watched_ready)(void *opaque);
    void *watched_opaque;
    uint8_t peer_private[RMIG_WIRE_PRIVATE_MAX_BYTES];
    size_t peer_private_bytes;
    int64_t rested_us; /* when the thread's other work had its last turn */
    /* Heartbeat */
    RMigWork probe;
    bool probing;
    bool probe_late; /* seen once; the next tick is the end */
    int64_t probe_posted_us;
    int64_t last_activity_us;
};

/* Each link keeps its own; rmig_shutdown_free() takes one back */
void rmig_shutdown_ref(RMigShutdown *shutdown);
/* Why the waits end; there is a reason */
GError *rmig_shutdown_error(RMigShutdown *shutdown);

RMigLink *rmig_link_alloc(const char *name, const RMigWaiter *waiter,
                          RMigShutdown *shutdown, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * What ends a connection makes requests and calls fail that say nothing of
 * it.  If the connection manager tells why, now or in a moment, that replaces
 * *@err.
 */
void rmig_link_find_cause(RMigLink *link, GError **err);
bool rmig_link_watch_verbs(RMigLink *link, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

#endif
