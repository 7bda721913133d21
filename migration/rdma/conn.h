/*
 * RDMA migration transport: one connection, complete
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: bundles a link, its control channel and its stream, and takes them
 * down in the order that the verbs objects demand.
 * Callers: source, dest; each has a main connection and perhaps a return path.
 * Thread: the link's.
 */
#ifndef RMIG_CONN_H
#define RMIG_CONN_H

#include "stream.h"

typedef struct RMigConn {
    RMigLink *link;
    RMigControl *control;
    RMigStream stream;
    bool commands; /* this side does */
    bool open; /* has not been closed; the members above are there */
} RMigConn;

/*
 * rmig_conn_init: control channel and stream on a link that is not connected
 * @link: becomes the connection's, also on failure
 */
bool rmig_conn_init(RMigConn *conn, RMigLink *link, bool commands,
                    GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_conn_disconnect: leave the peer; nothing is in flight after it
 * @failed: say ERROR first
 *
 * Memory regions of the connection are to be unregistered between it and
 * rmig_conn_cleanup().
 */
void rmig_conn_disconnect(RMigConn *conn, bool failed);
void rmig_conn_cleanup(RMigConn *conn);

#endif
