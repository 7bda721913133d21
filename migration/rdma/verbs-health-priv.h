/*
 * RDMA migration transport: what a device says of itself when something fails
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: the port's state, the device's asynchronous events, and what the status
 * of a completion means, in a user's words.
 * Callers: verbs.c alone.
 * Threads: a queue pair's is its connection's.  Events are the device's, and
 * librdmacm opens a device once in a process: whoever looks takes all that
 * have come, and leaves those of others with them, under a lock.
 */
#ifndef RMIG_VERBS_HEALTH_PRIV_H
#define RMIG_VERBS_HEALTH_PRIV_H

#include <glib.h>
#include <infiniband/verbs.h>
#include <stdbool.h>

/* What is known of a queue pair's device; protected by verbs-health.c's lock */
typedef struct RMigHealth {
    struct ibv_context *device;
    uint8_t port;
    struct ibv_qp *qp;       /* NULL: none (any more) */
    /* What has been reported since rmig_health_init() */
    bool device_failed;
    bool port_failed;
    bool address_changed;
    bool cq_failed;
    bool qp_reported;        /* that it is broken, */
    enum ibv_event_type why; /* and so: the first report */
} RMigHealth;

/* @health must stay where it is until rmig_health_cleanup() */
void rmig_health_init(RMigHealth *health, struct ibv_context *device,
                      uint8_t port);
void rmig_health_cleanup(RMigHealth *health);
/* The queue pair to hear of; NULL before it is destroyed */
void rmig_health_set_qp(RMigHealth *health, struct ibv_qp *qp);

/*
 * rmig_health_text: ask the port's state and take the events that have come
 * @advice: what to do if all is well, which is said then; or NULL
 *
 * Returns for example "mlx5_0: its port is down", or NULL if all is well and
 * there is no @advice.  Caller frees.
 */
char *rmig_health_text(RMigHealth *health, const char *advice);

/*
 * rmig_health_meaning: what an error status says of the device, the path and
 * the peer
 * @advice: what to look at if device and port are well; NULL if they have
 *     nothing to do with it
 *
 * Every status has one; a number that is none is "an unknown error".
 */
const char *rmig_health_meaning(enum ibv_wc_status status,
                                const char **advice);

#endif
