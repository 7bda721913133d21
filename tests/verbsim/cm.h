/*
 * verbsim: the connection manager's rooms
 *
 * librdmacm.so.1 on top of the fabric: what in reality librdmacm, the kernel's
 * rdma_cm and its ib_cm do together.
 *
 *   cm.c         start, the device, what is left at exit
 *   cm-id.c      event channels and identifiers, from birth to death
 *   cm-event.c   events: faults, queues, taking and acknowledging
 *   cm-addr.c    ports and addresses: bind, resolve, listen
 *   cm-conn.c    what a program asks of a connection
 *   cm-wire.c    what the peer and the clock do to a connection
 *   cm-qp.c      queue pairs of identifiers and their attributes
 *   cm-info.c    options, rdma_getaddrinfo, names
 *
 * The functions of rdma_cma.h run on the program's threads and take vs_lock;
 * packets and timers come on the NIC thread, which holds it.  Functions
 * declared here want it held unless they say otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_CM_H
#define VERBSIM_CM_H

#include <errno.h>
#include <rdma/rdma_cma.h>

#include "vs.h"

/* Private data as IB's connection manager has it, less the IP header. */
enum {
    CM_REQ_PRIVATE = 56,
    CM_REP_PRIVATE = 196,
    CM_REJ_PRIVATE = 148,
};

/*
 * A request that nobody listens for is refused so much later, after a second
 * look: servers that listen anew between two connections of one client (those
 * of perftest) rely on the time that a kernel's connection manager takes.
 */
#define CM_LAST_LOOK_NS UINT64_C(50000000)

/* InfiniBand's reasons for a rejection that occur here. */
enum {
    CM_REJ_TIMEOUT = 4,
    CM_REJ_INVALID_SERVICE_ID = 8,
    CM_REJ_STALE_CONNECTION = 10,
    CM_REJ_CONSUMER = 28,
};

/* A connection comes to be as REQ, REP, RTU and ends with DREQ, DREP. */
typedef enum CmKind {
    CM_REQ,
    CM_REP,
    CM_RTU,
    CM_REJ,
    CM_DREQ,
    CM_DREP,
} CmKind;

/* The payload of a VS_PKT_CM.  All of one size; what a kind lacks is zero. */
typedef struct CmMsg {
    uint32_t kind;
    uint32_t src_id, dst_id;            /* the identifiers' numbers */
    uint32_t qp_num;
    uint32_t psn;                       /* the receiver shall start with it */
    uint32_t reason;                    /* of a REJ */
    uint8_t responder_resources, initiator_depth;
    uint8_t flow_control, srq;
    uint8_t retry_count, rnr_retry_count;
    uint8_t ack_timeout;
    uint8_t private_bytes;
    struct sockaddr_storage src, dst;   /* of a REQ */
    uint8_t private_data[CM_REP_PRIVATE];
} CmMsg;

typedef enum CmState {
    CM_IDLE,
    CM_BOUND,
    CM_ADDR_QUERY,
    CM_ADDR_RESOLVED,
    CM_ROUTE_RESOLVED,
    CM_LISTEN,
    CM_REQ_SENT,                /* active, waits for a REP */
    CM_REP_RCVD,                /* active, CONNECT_RESPONSE */
    CM_REQ_RCVD,                /* passive, CONNECT_REQUEST */
    CM_REP_SENT,                /* passive, waits for the RTU */
    CM_ESTABLISHED,
    CM_DREQ_SENT,
    CM_DREQ_RCVD,               /* DISCONNECTED; our DREP is owed */
    CM_TIMEWAIT,
    CM_OVER,                    /* refused, given up, or after TIMEWAIT */
    CM_REMOVED,                 /* the device went away */
} CmState;

/* A port; more than one identifier has it only with REUSEADDR. */
typedef struct CmBinding {
    struct sockaddr_storage addr;
    bool v6only, shared, listening;
    unsigned refs;
} CmBinding;

typedef struct CmChannel {
    struct rdma_event_channel ch;       /* .fd is a semaphore eventfd */
    GQueue events;                      /* CmEvent *, each with its token */
    GQueue held;                        /* while the program is frozen */
} CmChannel;

typedef struct CmId {
    struct rdma_cm_id id;
    uint32_t number;
    CmState state;
    bool known;                 /* the program has a pointer to it */
    bool sync;                  /* calls wait for their event */
    bool stopped;               /* its destruction has begun */
    bool connect_error;         /* the queue pair refused; no more events */

    CmBinding *binding;
    bool reuse, v6only;
    uint8_t tos;
    int ack_timeout;            /* exponent; -1: the profile's */

    /* A listener's */
    int backlog;
    int waiting;                /* requests that nobody has taken yet */
    struct ibv_qp_init_attr *ep_attr;   /* rdma_create_ep()'s, or NULL */
    struct ibv_pd *ep_pd;

    /* A connection's */
    VsPeer *peer;
    uint32_t peer_number;
    uint32_t qp_num, peer_qp_num;
    uint32_t psn, peer_psn;     /* what we receive from, and send from */
    uint8_t responder_resources, initiator_depth;
    uint8_t retry_count, rnr_retry_count, peer_ack_timeout;
    CmMsg sent;                 /* to be repeated until it is answered */
    unsigned tries;             /* how often it was repeated */
    bool passive;
    bool unserved;              /* nobody listens where the REQ goes */
    VsTimer timer;

    /* Events */
    struct CmId *listener;      /* of one not announced yet; else NULL */
    GQueue late;                /* CmEvent *: a fault holds them up */
    VsTimer late_timer;
    unsigned events_got;        /* taken by the program, not yet acked */
} CmId;

typedef struct CmEvent {
    struct rdma_cm_event ev;
    CmId *owner;                /* of a request, the listener */
    CmId *fresh;                /* a request's new identifier */
    uint64_t at_ns;             /* in a late queue: due then */
    bool again;                 /* a fault's second copy */
    uint8_t private_data[CM_REP_PRIVATE];
} CmEvent;

static inline CmId *cm_id(struct rdma_cm_id *id)
{
    return (CmId *)id;
}

static inline int cm_errno(int error)
{
    errno = error;
    return -1;
}

/* What librdmacm returns for 0 or -errno. */
static inline int cm_result(int ret)
{
    return ret < 0 ? cm_errno(-ret) : 0;
}

/*
 * vs_lock for the program's threads.  They cannot be cancelled meanwhile: a
 * program that cancels its event thread must not leave the lock behind.
 */
void cm_lock(void);
void cm_unlock(void);

/* ------------------------------------------------------------------- cm.c */

/* Needs no lock.  0 or -errno; the device is open for good afterwards. */
int cm_start(void);
/* The device at a port: sets what a program sees of it in @id. */
void cm_use_device(CmId *id);
enum ibv_mtu cm_active_mtu(void);

/* ---------------------------------------------------------------- cm-id.c */

/* Says no to NULL and to what was destroyed; @function is for the message. */
bool cm_id_alive(struct rdma_cm_id *id, const char *function);
CmId *cm_id_new(struct rdma_event_channel *channel, void *context,
                enum rdma_port_space ps);
/* By number, or NULL. */
CmId *cm_id_find(uint32_t number);
/* All identifiers' numbers, oldest first: a caller's work may end some. */
GArray *cm_id_numbers(void);
void cm_set_state(CmId *id, CmState state);
const char *cm_state_name(CmState state);
/* Ends what is under way, takes back its events, tells the peer. */
void cm_id_stop(CmId *id);
void cm_id_free(CmId *id);
/* What the program has and must destroy; not a synchronous one's channel. */
void cm_count(unsigned *num_ids, unsigned *num_channels);
unsigned cm_report_leaks(void);

/* ------------------------------------------------------------- cm-event.c */

int cm_event_fd(void);
CmEvent *cm_event_new(CmId *owner, enum rdma_cm_event_type type, int status);
/* Into @id's channel, or to where the fault script wants it. */
void cm_event_post(CmEvent *event);
void cm_event_post_new(CmId *id, enum rdma_cm_event_type type, int status);
/* Takes back all events of @id; requests among them are refused. */
void cm_event_purge(CmId *id);
/* Moves what waits for the program. */
void cm_event_migrate(CmId *id, struct rdma_event_channel *to);
void cm_event_unfrozen(void);
/*
 * The end of a call on a synchronous identifier: waits for its event and turns
 * a bad one into -1 with errno.  Needs no lock, as the program's own wait.
 */
int cm_complete(CmId *id);
/* Acknowledges the event that a synchronous identifier keeps.  No lock. */
void cm_drop_kept_event(struct rdma_cm_id *id);

/* -------------------------------------------------------------- cm-addr.c */

bool cm_addr_is_any(const struct sockaddr *addr);
socklen_t cm_addr_length(const struct sockaddr *addr);
uint16_t cm_addr_port(const struct sockaddr *addr);
/* What a program sees of the path once both addresses are known. */
void cm_fill_path(CmId *id);
void cm_unbind(CmId *id);

/* -------------------------------------------------------------- cm-conn.c */

/* Sends @msg to @id's peer, with both numbers filled in. */
void cm_send(CmId *id, CmMsg *msg);
void cm_send_kind(CmId *id, CmKind kind);
void cm_send_reject(CmId *id, uint32_t reason, const void *data,
                    uint8_t bytes);
/* Is there somebody who listens to @id's REQ?  Finds the peer. */
bool cm_find_server(CmId *id);
/* Sends @id->sent for the first time or again, with a timer. */
void cm_send_request(CmId *id);
/* The last step of the active side.  0 or -errno. */
int cm_send_ready(CmId *id);
void cm_enter_timewait(CmId *id);
/* The connection ends for both sides, as by a fault. */
void cm_break(CmId *id);
/* The connection has ended: with iWARP the queue pair ends with it. */
void cm_end_qp(const CmId *id);

/* -------------------------------------------------------------- cm-wire.c */

extern const VsCmOps cm_ops;
/* Another new identifier for the request that @fresh is for. */
CmId *cm_id_twin(const CmId *fresh);
void cm_timer_fired(VsTimer *timer);

/* ---------------------------------------------------------------- cm-qp.c */

/*
 * The queue pair that belongs to @id, if there is one, becomes ready to send,
 * or broken.  Need no lock.  0 or -errno.
 */
int cm_qp_ready(struct rdma_cm_id *id, uint8_t responder_resources,
                uint8_t initiator_depth);
void cm_qp_error(struct rdma_cm_id *id);
/* iWARP: the queue pair that @id was given becomes ready to send. */
int cm_qp_connect(CmId *id);

#endif
