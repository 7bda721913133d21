/*
 * Conformance tests: what those of librdmacm share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef CONFORMANCE_RIG_CM_H
#define CONFORMANCE_RIG_CM_H

#include <rdma/rdma_cma.h>

#include "rig.h"

/* An id with an event channel of its own. */
typedef struct RigCm {
    struct rdma_event_channel *channel;
    struct rdma_cm_id *id;
} RigCm;

typedef struct RigCmPair {
    RigCm *listener, *active, *passive;
} RigCmPair;

/* A copy of an event that has been acknowledged. */
typedef struct RigCmEvent {
    enum rdma_cm_event_type type;
    int status;
    struct rdma_cm_id *id, *listen_id;
    struct rdma_conn_param conn;        /* private_data is below */
    uint8_t priv[256];
    size_t priv_bytes;
} RigCmEvent;

/* Long enough to resolve anything, on a slow machine, too. */
#define RIG_RESOLVE_MS 5000

RigCm *rig_cm(void);
/* With its queue pair; it need not be disconnected. */
void rig_cm_free(RigCm *cm);
RigCmEvent rig_cm_event(RigCm *cm);
/* The next event, which must be that. */
RigCmEvent rig_cm_expect(RigCm *cm, enum rdma_cm_event_type type);
void rig_cm_quiet(RigCm *cm);

/* On the device's own address and a port of the implementation's choice. */
RigCm *rig_cm_listen(int family);
uint16_t rig_cm_port(const RigCm *cm);
/* Address and route, of the device's own address. */
void rig_cm_resolve(RigCm *cm, int family, uint16_t port);
/* librdmacm's own kind: made by rdma_create_qp(), connected by it. */
void rig_cm_create_qp(RigCm *cm);
struct rdma_conn_param rig_cm_param(const void *priv, size_t bytes);
/* Resolves, makes a queue pair and asks for a connection. */
RigCm *rig_cm_ask(int family, uint16_t port, const void *priv, size_t bytes);
/* The next request at @listener, as an id with its own channel. */
RigCm *rig_cm_take(RigCm *listener, RigCmEvent *event);
/* The same with a queue pair, and accepts it. */
RigCm *rig_cm_accept(RigCm *listener);

/* Connected, both sides in this process. */
RigCmPair rig_cm_pair(int family);
void rig_cm_pair_free(RigCmPair pair);

/* A message from one id's queue pair to the other's. */
void rig_cm_send(RigCm *from, RigCm *to);

#endif
