/*
 * RDMA migration transport: one connection of the connection manager
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: the only caller of librdmacm: resolve, connect, listen, accept, reject,
 * private data, disconnect, heartbeat.  Owns the one pollable fd of a
 * connection and is the one place where it is waited on.
 * Callers: control, conn, dest.
 * Thread: one at a time per link; rmig_shutdown_trigger() from any.
 *
 * Waiting.  An epoll fd gathers the completion channel, the CM event channel,
 * the shutdown eventfd, a timerfd that ticks once a second and, if a caller
 * wants it, one descriptor of that caller's (rmig_link_watch).  Every wait is
 * rmig_link_step(): handle what is there, else sleep on that fd through the
 * function that the caller supplied.  Deadlines are seen at a tick, so they
 * are kept to the second.  The same tick posts the heartbeat: a zero-length
 * RDMA Write after a second without any completion, which any peer's NIC
 * acknowledges without its software.  One that is neither acknowledged nor
 * given up in time ends the link, too: then this side's device hangs.
 */
#ifndef RMIG_LINK_H
#define RMIG_LINK_H

#include <sys/socket.h>

#include "migration/rdma-transport.h"
#include "verbs.h"
#include "wire.h"

/* How long one step of connecting may take */
#define RMIG_LINK_RESOLVE_MS 5000
#define RMIG_LINK_CONNECT_MS 10000
/* How long the device may take to deliver a heartbeat or to give it up */
#define RMIG_LINK_HEARTBEAT_MS 22000
#define RMIG_LISTENER_TICK_MS 250

/* How long the thread's other work may have to wait for a busy link */
#define RMIG_LINK_BUSY_US 5000

typedef struct RMigLink RMigLink;
typedef struct RMigListener RMigListener;

/*
 * One for all links of a migration, kept alive by each: once triggered, every
 * wait of theirs, now and later, ends at once with RMIG_LINK_ERROR_SHUTDOWN.  A
 * link that breaks triggers it, too; the others then say which one and why.
 */
typedef struct RMigShutdown RMigShutdown;
RMigShutdown *rmig_shutdown_new(GError **err) G_GNUC_WARN_UNUSED_RESULT;
void rmig_shutdown_free(RMigShutdown *shutdown);
void rmig_shutdown_trigger(RMigShutdown *shutdown);
bool rmig_shutdown_triggered(const RMigShutdown *shutdown);
/* Readable from then on; owned by @shutdown */
int rmig_shutdown_fd(const RMigShutdown *shutdown);
/*
 * rmig_shutdown_because: a part of the migration broke, as a link may do by
 * itself: likewise, with @reason, unless rmig_shutdown_part() came first
 */
void rmig_shutdown_because(RMigShutdown *shutdown, const char *reason);
/*
 * rmig_shutdown_part: from now on a part that breaks leaves the others alone
 *
 * False with the reason if they have been shut down already.
 */
bool rmig_shutdown_part(RMigShutdown *shutdown, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

#define RMIG_LINK_ERROR rmig_link_error_quark()
GQuark rmig_link_error_quark(void);
typedef enum RMigLinkErrorCode {
    RMIG_LINK_ERROR_FAILED,   /* a call or the connection failed */
    RMIG_LINK_ERROR_CLOSED,   /* the peer closed the connection */
    RMIG_LINK_ERROR_SHUTDOWN, /* rmig_shutdown_trigger() was called */
    RMIG_LINK_ERROR_TIMEOUT,
} RMigLinkErrorCode;

/*
 * rmig_link_resolve: active side: find the device and make the queue pair
 * @name: of the connection, for messages; a literal
 * @waiter: copied
 *
 * Returns a link on which receives can be posted, ready for
 * rmig_link_connect().
 */
RMigLink *rmig_link_resolve(const char *name, const RMigWaiter *waiter,
                            RMigShutdown *shutdown,
                            const struct sockaddr *addr, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_connect: active side
 * @ask: the flags to ask for and, if BUDGET is one of them, pin_bytes; the
 *     version need not be set
 * @answer: what the peer granted: never a flag that was not asked for, and
 *     the peer's pin_bytes if BUDGET is one of them, else 0
 *
 * The two must be different objects.
 */
bool rmig_link_connect(RMigLink *link, const RMigWirePrivate *ask,
                       RMigWirePrivate *answer, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

RMigListener *rmig_listener_new(const struct sockaddr *addr, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
void rmig_listener_free(RMigListener *listener);
/*
 * Readable when a connection is asked for, when something happens on a link
 * that is watched, and at each tick; owned by @listener
 */
int rmig_listener_fd(const RMigListener *listener);
/* What wakes those who wait on @link wakes those of the listener, too */
bool rmig_listener_watch(RMigListener *listener, const RMigLink *link,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Before the link is freed or used by itself; it need not be watched */
void rmig_listener_unwatch(RMigListener *listener, const RMigLink *link);
/* Whether there is to be a tick every RMIG_LISTENER_TICK_MS; at first not */
void rmig_listener_tick(RMigListener *listener, bool on);
/* The port in host byte order that is listened on */
uint16_t rmig_listener_port(const RMigListener *listener);
/*
 * rmig_listener_take: passive side: the next request, if there is one
 * @asked: what the peer asks for, without the flags that are not known here;
 *     only valid if there is a link
 *
 * Returns NULL without an error when there is none, or with one when it could
 * not be used (it has been refused then).  The link has no queue pair yet and is
 * ready for rmig_link_prepare() or rmig_link_refuse().
 */
RMigLink *rmig_listener_take(RMigListener *listener, const char *name,
                             const RMigWaiter *waiter, RMigShutdown *shutdown,
                             RMigWirePrivate *asked, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_prepare: passive side: make the queue pair
 * @name: takes the place of that which rmig_listener_take() was given
 *
 * The link is like that of rmig_link_resolve() then, ready for
 * rmig_link_accept(); after a failure it can still be refused.
 */
bool rmig_link_prepare(RMigLink *link, const char *name, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_accept: passive side; does not wait for the peer's last step
 * @granted: flags of @asked that hold from now on and, if BUDGET is one of
 *     them, our own pin_bytes; the version need not be set
 */
bool rmig_link_accept(RMigLink *link, const RMigWirePrivate *granted,
                      GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_accepted: whether the peer has completed the connection
 *
 * Returns 1 if so, whatever came of it since, 0 if not yet, -1 when it will
 * not; then, and only then, with @err.  Does not wait: if it is 0,
 * rmig_link_fd() becomes readable when it is worth another look.
 */
int rmig_link_accepted(RMigLink *link, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Instead of rmig_link_accept() */
void rmig_link_refuse(RMigLink *link);
/* Whether both links come from the same host (the ports may differ) */
bool rmig_link_same_peer(const RMigLink *a, const RMigLink *b);
/* Whether both are the same request of the same peer: the ports are equal, too */
bool rmig_link_same_request(const RMigLink *a, const RMigLink *b);

RMigVerbs *rmig_link_verbs(RMigLink *link);
int rmig_link_fd(const RMigLink *link);
/* The RDMA device's name; "" before there is one; valid as long as @link */
const char *rmig_link_device_name(const RMigLink *link);

/*
 * rmig_link_watch: let a descriptor wake those who wait on this link
 * @fd: takes the place of the one that was watched before; -1: of none
 * @ready: called with @opaque, in the thread that uses the link, from
 *     rmig_link_step() and rmig_link_arm() when @fd is readable, which counts
 *     as something that happened.  It must take what makes @fd readable (of an
 *     eventfd, its count), or nobody sleeps any more.  It may call
 *     rmig_link_watch().
 *
 * Any thread may make @fd readable.  It stays the caller's, and open until it
 * is not watched any more or the link is freed.  rmig_link_poll() makes no
 * system call and so does not look at it, and rmig_link_step() only looks
 * when nothing else has happened: a caller that is kept busy by completions
 * must see for itself.
 *
 * On failure nothing is watched.
 */
bool rmig_link_watch(RMigLink *link, int fd, void (*ready)(void *opaque),
                     void *opaque, GError **err) G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_link_poll: handle what has completed, without a system call
 * Returns 1 if anything happened, 0 if nothing, -1 on a fatal error, which is
 * kept: every later call fails with it.
 */
int rmig_link_poll(RMigLink *link, GError **err) G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_link_step: handle what is there, else sleep until there is something
 * @deadline_us: of g_get_monotonic_time(), or 0 for none
 * @what: what is waited for, for the message
 *
 * Returns true when the caller should look again whether its condition holds.
 */
bool rmig_link_step(RMigLink *link, int64_t deadline_us, const char *what,
                    GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_arm: make sure that rmig_link_fd() becomes readable at the next
 * event; for callers that wait on it themselves.  Returns like
 * rmig_link_poll(): if not 0, look again instead of waiting.
 */
int rmig_link_arm(RMigLink *link, GError **err) G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_link_rest: to be called once for each thing that the peer asks for
 *
 * A peer that asks without a pause leaves nothing to wait for.  So that the
 * thread's other work goes on nevertheless, it has its turn here when the last
 * was RMIG_LINK_BUSY_US ago or longer.
 */
void rmig_link_rest(RMigLink *link);

/* Whether nothing fatal happened so far and the connection is established */
bool rmig_link_is_up(const RMigLink *link);
/* Keep @err as the link's fatal error if there is none yet; consumes @err */
void rmig_link_fail(RMigLink *link, GError *err);
/* Whether a fatal error has been kept */
bool rmig_link_failed(const RMigLink *link);
/* False with the fatal error, if one has been kept */
bool rmig_link_check(const RMigLink *link, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_link_settle: wait until everything posted has been acknowledged, but for
 * a heartbeat, at most @timeout_ms
 *
 * False with @err if a request has failed; what is merely late is no failure.
 * For the end of a connection or of its stream, whatever ended it: it does not
 * look at the kept error nor at a shutdown, and does not wait by
 * rmig_link_step().
 */
bool rmig_link_settle(RMigLink *link, int64_t timeout_ms, GError **err);
/*
 * rmig_link_drain: wait until everything posted has been acknowledged
 * @timeout_ms: until the link fails; RMIG_LINK_HEARTBEAT_MS is more than the
 *     device takes to deliver a request or to give it up
 * @what: as of rmig_link_step(), which it waits by
 */
bool rmig_link_drain(RMigLink *link, int64_t timeout_ms, const char *what,
                     GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_link_ask: whether the peer is there now: a heartbeat, and its
 * acknowledgement
 *
 * Waits by rmig_link_step(), about RMIG_LINK_HEARTBEAT_MS at most.  A peer that
 * gave up or left before it was asked is found out as well.
 */
bool rmig_link_ask(RMigLink *link, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Take what has happened, without waiting; false if that ended the link */
bool rmig_link_look(RMigLink *link, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * The queue pair leaves RTS, or goes if it cannot: the peer cannot write here
 * any more, and nothing can be sent
 */
void rmig_link_revoke(RMigLink *link);
/*
 * rmig_link_disconnect: leave, and destroy the queue pair
 *
 * Nothing can be posted after it and no buffer is in use; memory regions are
 * unregistered between it and rmig_link_free().
 */
void rmig_link_disconnect(RMigLink *link);
void rmig_link_free(RMigLink *link);

#endif
