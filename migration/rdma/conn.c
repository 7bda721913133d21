/*
 * RDMA migration transport: one connection, complete
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See conn.h.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "conn.h"
#include "log.h"

/*
 * How long the peer's NIC may take to acknowledge our last words.  After a
 * success: all that the device needs to deliver them or to give them up.  After
 * a failure they are a courtesy, and a guest may be waiting to go on.
 */
#define SETTLE_MS RMIG_LINK_HEARTBEAT_MS
#define FAILED_SETTLE_MS 300

static void poll_wait(void *opaque, int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    (void)opaque;
    while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {
        /* again */
    }
}

const RMigWaiter rmig_poll_waiter = { .wait_readable = poll_wait };

bool rmig_conn_init(RMigConn *conn, RMigLink *link, bool commands,
                    GError **err)
{
    memset(conn, 0, sizeof(*conn));
    conn->control = rmig_control_new(link, commands, err);
    if (!conn->control) {
        rmig_link_free(link);
        return false;
    }
    conn->link = link;
    conn->commands = commands;
    rmig_stream_init(&conn->stream, conn->control);
    conn->open = true;
    return true;
}

void rmig_conn_disconnect(RMigConn *conn, bool failed)
{
    g_autoptr(GError) err = NULL;
    bool ok = true;

    if (!conn->open) {
        return;
    }
    conn->open = false;
    if (failed || rmig_link_failed(conn->link)) {
        /*
         * Whatever failed, the queue pair may well carry this still; where it
         * does not, posting fails at once.
         */
        rmig_control_send_error(conn->control);
        ok = rmig_link_settle(conn->link, FAILED_SETTLE_MS, &err);
    } else if (conn->commands) {
        /*
         * The other side's last word is a READY.  Nobody waits for that, and a
         * peer that has left does not even acknowledge it.
         */
        ok = rmig_stream_flush(&conn->stream, &err) &&
             rmig_link_settle(conn->link, SETTLE_MS, &err);
    }
    if (!ok) {
        RMIG_LOG("the last words may not have arrived: %s", err->message);
    }
    rmig_link_disconnect(conn->link);
}

void rmig_conn_cleanup(RMigConn *conn)
{
    if (!conn->link) {
        return;
    }
    rmig_conn_disconnect(conn, false);
    rmig_control_free(conn->control);
    rmig_link_free(conn->link);
    memset(conn, 0, sizeof(*conn));
}
