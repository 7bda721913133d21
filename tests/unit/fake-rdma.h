/*
 * A stand-in for libibverbs and librdmacm, for the rooms verbs and link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One device.  Nothing happens by itself: a test pushes completions and CM
 * events, and can make the next call of any function fail.  Every object is
 * counted.  The clock is the test's, and the timer ticks when the test says.
 */
#ifndef FAKE_RDMA_H
#define FAKE_RDMA_H

#include <glib.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

typedef struct FakeRdma {
    struct ibv_device device;
    struct ibv_context context;
    struct ibv_device_attr attr;
    enum ibv_port_state port_state;
    struct ibv_qp qp;
    /* Objects alive */
    int pds, channels, cqs, mrs, qps, ids, event_channels;
    int unacked_events; /* asynchronous ones that were taken */
    /* What was called */
    GArray *sends; /* of struct ibv_send_wr; sg_list and next are gone */
    GArray *sges;  /* of struct ibv_sge, one for each send; zeros: none */
    unsigned doorbells; /* calls of ibv_post_send() */
    GArray *recvs; /* of struct ibv_recv_wr; likewise */
    int armed;     /* times that an event was asked for */
    int disconnects;
    int rejects;
    int last_access; /* of the last registration that worked */
    struct rdma_conn_param param; /* of connect or accept */
    uint8_t private_data[56];     /* of connect, accept or reject */
    enum ibv_qp_state qp_state;
    struct ibv_qp_init_attr qp_attr; /* with which it was made */
    int rnr_retry;                   /* with which it was moved to RTS */
    bool remote_write;               /* that the peer was given last */
    bool asked;                      /* rdma_connect() was called */
    unsigned established;            /* calls of rdma_establish() */
    unsigned port_queries;           /* calls of ibv_query_port() */
    /* What is to happen */
    const char *fail_call; /* the next call of this function fails, */
    int fail_errno;        /* so */
    int fail_skip;         /* after this many that do not; of ibv_post_send(),
                              work requests */
    void (*after_poll)(void); /* once, when the queue was found empty */
    gint64 now_us;
    int listener_tick_ms; /* 0: it does not tick */
} FakeRdma;

extern FakeRdma fake_rdma;

void fake_rdma_init(void);
/* All objects must be gone */
void fake_rdma_cleanup(void);

/* A work request completes; the armed queue makes its channel readable */
void fake_rdma_complete(uint64_t wr_id, enum ibv_wc_status status,
                        uint32_t bytes);
/* The device reports @type, of its queue pair and queue or of @port */
void fake_rdma_async_event(enum ibv_event_type type, int port);
/* A CM event on the channel of the last identifier made */
void fake_rdma_event(enum rdma_cm_event_type type, int status,
                     const void *private_data, uint8_t len);
/* A connect request at the listener */
void fake_rdma_request(const void *private_data, uint8_t len);
/* A second passes, on the links' timers too */
void fake_rdma_tick(void);
void fake_rdma_listener_tick(void);

#endif
