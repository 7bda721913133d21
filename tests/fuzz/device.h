/*
 * A device to fuzz on: libibverbs and librdmacm in one process, with opinions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: stands in for both libraries below the rooms verbs and link, so that
 * all of the core runs, and dies as soon as the core does what no program may
 * do: uses memory that is not registered or does not belong to it, overflows
 * a queue, lets memory go that the device may still use, sleeps on what has
 * already happened, leaves objects behind.
 * Callers: the fuzz targets, through hooks for what only they can judge.
 * Thread: one.
 *
 * Nothing happens by itself: the target says when a request completes, a
 * message arrives, an event of the connection manager comes, time passes, or
 * which call fails next.
 */
#ifndef FUZZ_DEVICE_H
#define FUZZ_DEVICE_H

#include <glib.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>

typedef struct FuzzMr {
    struct ibv_mr mr;
    int access;
} FuzzMr;

/* A posted work request */
typedef struct FuzzWr {
    uint64_t wr_id;
    bool signalled;
    enum ibv_wr_opcode opcode;
    uint8_t *addr;
    uint32_t bytes;
    FuzzMr *mr; /* NULL: no bytes */
    uint64_t remote_addr;
    uint32_t rkey;
} FuzzWr;

typedef struct FuzzQp {
    struct ibv_qp qp;
    struct ibv_qp_init_attr attr;
    GQueue sends; /* of FuzzWr, owned: not executed yet */
    GQueue recvs; /* likewise */
    GQueue inbox; /* of GBytes: sent by the peer, no receive for it yet */
    unsigned slots_used; /* of the send queue */
    unsigned silent;     /* of those, executed without a completion */
    bool alive;
    bool failed; /* the core has reported an error of this connection */
} FuzzQp;

typedef struct FuzzCmId {
    struct rdma_cm_id id;
    FuzzQp *qp; /* NULL until connect or accept */
    bool seen; /* an event of it was taken */
    unsigned unacked;
    /* What the peer's or our own CM would do next, if it is not disturbed */
    int natural; /* of enum rdma_cm_event_type, or -1 */
    bool up;           /* for the CM: it must be disconnected at the end */
    bool answered;     /* accepted or rejected */
    bool disconnected; /* by us */
    uint8_t said[256]; /* the private data of connect, accept or reject */
    unsigned said_bytes;
} FuzzCmId;

/* What a target knows and the device does not; each may be NULL */
typedef struct FuzzHooks {
    void (*registered)(const FuzzMr *mr);
    /* A SEND or RDMA Write was posted */
    void (*posted)(FuzzQp *qp, const FuzzWr *wr);
    /* ... and has been executed, successfully */
    void (*executed)(FuzzQp *qp, const FuzzWr *wr);
    /* The completion queue was found empty, or has just been armed */
    void (*gap)(void);
    /* The core sleeps in poll(2); must make progress */
    void (*sleep)(int timeout_ms);
    /*
     * The answer to a request of ours: its private data; @type and @status are
     * those of an acceptance, and may be changed
     */
    const void *(*reply)(int *type, int *status, uint8_t *len);
    /* A request of the peer's was refused */
    void (*rejected)(const FuzzCmId *id);
} FuzzHooks;

typedef struct FuzzDevice {
    FuzzHooks hooks;
    GPtrArray *qps; /* of FuzzQp, all that ever were, owned */
    GPtrArray *ids; /* of FuzzCmId, alive */
    GPtrArray *mrs; /* of FuzzMr, alive */
    unsigned looks; /* at completion queues since something happened */
    gint64 now_us;
    /* The next call of this function fails, after @fail_skip that do not */
    const char *fail_call;
    int fail_errno;
    unsigned fail_skip;
    unsigned failed; /* calls so far */
    /* Every so manieth registration of memory fails; 0: none does */
    unsigned refuse_every;
    unsigned regs; /* since then */
} FuzzDevice;

extern FuzzDevice fuzz_device;

/* What libFuzzer calls with each input: a target's own */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The core has done what it must not do */
G_NORETURN void fuzz_die(const char *format, ...) G_GNUC_PRINTF(1, 2);

void fuzz_device_init(const FuzzHooks *hooks);
/* Dies if anything is left */
void fuzz_device_cleanup(void);

/* The last queue pair made; NULL without one */
FuzzQp *fuzz_device_last_qp(void);
FuzzMr *fuzz_device_find_mr(uint32_t rkey);
/* Bytes that are registered now */
uint64_t fuzz_device_pinned_bytes(void);
/* ... of them, that the peer may write to */
uint64_t fuzz_device_remote_bytes(void);

/* The oldest send request is executed; false if there is none */
bool fuzz_qp_execute(FuzzQp *qp);
/* ... or fails so; the queue pair breaks */
bool fuzz_qp_break_send(FuzzQp *qp, enum ibv_wc_status status);
bool fuzz_qp_break_recv(FuzzQp *qp, enum ibv_wc_status status);
/* The queue pair goes to ERR, as at the loss of its peer */
void fuzz_qp_break(FuzzQp *qp);
/* The peer sends; waits for a receive if none is posted */
void fuzz_qp_arrive(FuzzQp *qp, const void *data, size_t bytes);
/* The completion channel becomes readable for no reason */
void fuzz_qp_ring(FuzzQp *qp);

/* An event for @id; the private data is copied */
void fuzz_cm_event(FuzzCmId *id, enum rdma_cm_event_type type, int status,
                   const void *private_data, uint8_t len);
/* What the CM does by itself next: false if there is nothing */
bool fuzz_cm_natural(FuzzCmId *id);
/* Somebody asks for a connection; false if nobody listens */
bool fuzz_cm_request(const void *private_data, uint8_t len, uint8_t host);
/* The last identifier made that is not the listener; NULL without one */
FuzzCmId *fuzz_cm_last_id(void);

/* Time passes, and timers tick */
void fuzz_tick(unsigned seconds);
/* For the two halves of the device: */

/* Whether this call is the one that is to fail; sets errno */
bool fuzz_fails(const char *call);
/* Eventfds that the core does not own */
int fuzz_eventfd(int flags);
void fuzz_ring(int fd);
void fuzz_cm_init(void);
void fuzz_cm_cleanup(void);
void fuzz_clock_init(void);
/* Dies if a descriptor is open */
void fuzz_clock_cleanup(void);
FuzzQp *fuzz_device_qp(uint32_t qp_num);
struct ibv_context *fuzz_device_context(void);
/* Dies if a sleep on @epoll_fd could miss a completion */
void fuzz_check_armed(int epoll_fd);
/* Whether the core watches @fd through @epoll_fd */
bool fuzz_watches(int epoll_fd, int fd);
bool fuzz_is_readable(int fd);

#endif
