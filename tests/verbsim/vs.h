/*
 * verbsim: a software RDMA fabric in user space - what its rooms share
 *
 * Every process that loads verbsim is a host with one RDMA device of one port.
 * Its "NIC" is a thread, started with the first device or event channel, that
 * owns the Unix sockets to the NICs of other processes.  A request travels as
 * a small packet; the NIC at the far side checks key, domain, range and access
 * and then pulls the data out of the requester's memory with
 * process_vm_readv(): one copy, by the NIC, and no check that the requester
 * could skip.
 *
 * Rooms (one file or a few with the same first word):
 *   fabric     the directory that processes meet in: slots, ports, addresses
 *   shape      the link's profile: bandwidth, latency, costs, limits
 *   trace      a line for each event, and counters that outlive the process
 *   fault      the script of faults and the commands of the control socket
 *   nic        the thread: event loop, timers, doorbell
 *   peer       channels to other NICs and their packets
 *   mr         protection domains and memory regions
 *   hold       the pages that a region consisted of, if they are held
 *   cq         completion queues and channels
 *   qp         queue pairs: states, posting
 *   requester  send queue -> packets -> completions, retries
 *   responder  packets -> checks -> copies -> acknowledgements
 *   device     device list, context, queries, asynchronous events
 *   cm*        librdmacm.so.1, on top of all of this
 *
 * Locking: vs_lock guards all that is declared here.  The NIC thread holds it
 * except while it sleeps and while it copies data; API calls hold it for as
 * long as they run, but not while they sleep.  Functions declared here want it
 * held unless they say otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_VS_H
#define VERBSIM_VS_H

#include <glib.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
/* The libraries' own functions are exported, too. */
#pragma GCC visibility push(default)
#include <infiniband/verbs.h>
#pragma GCC visibility pop

/* Functions that librdmacm.so.1 takes from libibverbs.so.1. */
#define VS_EXPORT __attribute__((visibility("default")))

typedef struct VsPeer VsPeer;
typedef struct VsPkt VsPkt;
typedef struct VsTimer VsTimer;
typedef struct VsContext VsContext;
typedef struct VsPd VsPd;
typedef struct VsMr VsMr;
typedef struct VsHold VsHold;
typedef struct VsChannel VsChannel;
typedef struct VsCq VsCq;
typedef struct VsQp VsQp;

extern VS_EXPORT pthread_mutex_t vs_lock;
/* Broadcast when a busy count has fallen to zero or a freeze has ended. */
extern VS_EXPORT pthread_cond_t vs_idle;

/* ------------------------------------------------------------- small things */

/* CLOCK_MONOTONIC in ns: the same clock in all processes.  Needs no lock. */
VS_EXPORT uint64_t vs_now_ns(void);

/* Sleeps without vs_lock held (the caller does not hold it). */
VS_EXPORT void vs_sleep_ns(uint64_t ns);

/*
 * An API that verbsim does not have: says so on stderr and in the trace,
 * naming @function, sets errno to ENOSYS and returns ENOSYS.  Needs no lock.
 */
VS_EXPORT int vs_unimplemented(const char *function);

/* A line on stderr, "verbsim: ...", for misuse that an API cannot report. */
VS_EXPORT void vs_complain(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* ------------------------------------------------------------------- shape */

/* A profile; see profiles/ for the file format.  Constant after start-up. */
typedef struct VsShape {
    char name[32];
    char device[32];            /* device name, "verbsim0" */
    bool infiniband;            /* link layer; else Ethernet (RoCE v2) */
    bool iwarp;                 /* transport: RDMA over TCP (on Ethernet) */
    double bytes_per_ns;        /* 0: no limit */
    uint64_t latency_ns;        /* one way */
    uint64_t reg_call_ns;       /* cost of registering: per call, ... */
    uint64_t reg_mib_4k_ns;     /* ... per MiB of 4 KiB pages, ... */
    uint64_t reg_mib_2m_ns;     /* ... per MiB of 2 MiB pages */
    uint64_t dereg_call_ns;
    uint64_t max_mr_bytes;
    uint32_t max_mr;
    uint32_t max_qp;
    uint32_t max_qp_wr;
    uint32_t max_sge;           /* at most VS_MAX_SGE */
    uint32_t max_inline;        /* at most VS_MAX_INLINE */
    uint32_t max_cq;
    uint32_t max_cqe;
    uint32_t max_rd_atomic;
    uint8_t ack_timeout;        /* what the CM gives queue pairs: 4.096 us << */
    uint32_t cm_timeout_ms;     /* one CM message unanswered, ... */
    uint32_t cm_retries;        /* ... this many times more, then give up */
    bool no_copy;               /* account for Writes and Reads, do not copy */
} VsShape;

enum { VS_MAX_SGE = 32, VS_MAX_INLINE = 1024 };

extern VS_EXPORT VsShape vs_shape;

/* Reads $VERBSIM_PROFILE (name or path); exits with a message if it is bad. */
void vs_shape_load(void);

/*
 * Books @bytes on this process's port.  Returns when the last of them is at
 * the far side (ns); 0 if the profile has neither bandwidth nor latency.
 */
VS_EXPORT uint64_t vs_shape_transmit(uint64_t bytes);

/* What registering [@addr, @addr + @length) costs, in ns.  Needs no lock. */
uint64_t vs_shape_reg_cost(const void *addr, uint64_t length);

/* ------------------------------------------------------------------- trace */

/*
 * Counters, in a file that is mapped shared: they can be read while the
 * process runs and after it was killed.  All uint64_t, in this order, named in
 * trace.c for the reader.
 */
typedef struct VsStats {
    uint64_t tx_send, tx_send_bytes;
    uint64_t tx_write, tx_write_bytes;
    uint64_t tx_read, tx_read_bytes;
    uint64_t rx_send, rx_send_bytes;
    uint64_t rx_write, rx_write_bytes;
    uint64_t rx_read, rx_read_bytes;
    uint64_t copied_bytes, copy_ns;     /* what this NIC's thread copied */
    uint64_t registrations, deregistrations, reg_failed, reg_ns;
    uint64_t mrs, mrs_peak;
    uint64_t pinned_bytes, pinned_peak;
    uint64_t completions, cq_events;
    uint64_t rnr_naks, retransmits, naks, link_lost;
    uint64_t turns;             /* a message sent after one received, per QP */
    uint64_t cm_events, faults;
    uint64_t held_bytes, replaced_pages;
    uint64_t control[32];       /* SENDs by control type of migration's v1 */
} VsStats;

extern VS_EXPORT VsStats *vs_stats;     /* never NULL after vs_trace_start() */
extern VS_EXPORT bool vs_trace_on;

/* Opens $VERBSIM_TRACE (a directory) for this process; name it by @slot. */
void vs_trace_start(unsigned slot);
void vs_trace_flush(void);

/* $VERBSIM_NAME, or the program's name; at most 31 of [A-Za-z0-9._+-]. */
VS_EXPORT const char *vs_name(void);
/* All counters, a line "name value" for each (g_free()). */
char *vs_stats_text(void);

/* One line "<ns> <process> <event> <key=value>...".  Needs no lock. */
VS_EXPORT void vs_trace_line(const char *event, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
#define VS_TRACE(event, ...)                        \
    do {                                            \
        if (vs_trace_on) {                          \
            vs_trace_line(event, __VA_ARGS__);      \
        }                                           \
    } while (0)

/*
 * The control type of a migration message, a SEND of @length bytes that begins
 * with @head (16 bytes of it are looked at): its number (< 32), or -1 if the
 * payload is not one.  Needs no lock.
 */
int vs_control_type(const void *head, size_t length);
/* "READY", ...; "-" for -1. */
const char *vs_control_name(int type);

/* ------------------------------------------------------------------- fault */

typedef enum VsSite {
    VS_SITE_SEND,               /* requester, before it goes; name: control */
    VS_SITE_WRITE,              /* requester */
    VS_SITE_READ,               /* requester */
    VS_SITE_RECV,               /* responder, a SEND that found its receive */
    VS_SITE_REGISTER,
    VS_SITE_DEREGISTER,
    VS_SITE_CM,                 /* an event; name: without RDMA_CM_EVENT_ */
} VsSite;

typedef enum VsAction {
    VS_ACT_NONE,                /* also: done already (link down, freeze...) */
    VS_ACT_COMPLETE,            /* status: enum ibv_wc_status */
    VS_ACT_FAIL,                /* error: positive errno */
    VS_ACT_DELAY,               /* delay_ns */
    VS_ACT_LOSE,                /* the packet or event vanishes */
    VS_ACT_DUPLICATE,           /* the event comes twice */
    VS_ACT_DISCONNECT,          /* the queue pair's or id's connection ends */
    VS_ACT_REJECT,              /* reason: CM reject reason */
} VsAction;

typedef struct VsVerdict {
    VsAction action;
    int status, error, reason;
    uint64_t delay_ns;
} VsVerdict;

/* Reads $VERBSIM_FAULTS (a file); exits with a message if it is bad. */
void vs_fault_load(void);

/*
 * What the script says of this event; VS_ACT_NONE almost always.  Actions that
 * concern the whole process (link, freeze, device) have been carried out.
 * @name: control type or CM event, or NULL.
 */
VS_EXPORT VsVerdict vs_fault_at(VsSite site, const char *name, uint32_t qp_num);

/* VS_ACT_DISCONNECT: the CM's way, if it knows @qp_num, else to ERR. */
VS_EXPORT void vs_fault_disconnect(uint32_t qp_num);

/*
 * A line that came over the control socket: a rule of the script, or
 * "now: ACTION", or "clear", "stats" or "objects".  Returns the answer
 * (g_free()).
 */
char *vs_fault_command(const char *line);

/* ----------------------------------------------------------------- fabric */

/*
 * The fabric is a directory, $VERBSIM_DIR.  A process holds a slot of it
 * (0..1023) for as long as it lives; queue pair numbers are
 * slot << 14 | counter, so a number tells which NIC it belongs to.
 */
enum { VS_SLOT_SHIFT = 14, VS_SLOTS = 1024 };

/* Takes a slot and listens on its socket.  Exits with a message on failure. */
int vs_fabric_join(unsigned *slot);
void vs_fabric_leave(void);
/* A socket connected to @slot's NIC, or -errno. */
int vs_fabric_connect(unsigned slot);

/* Is @addr an address of this machine (loopback included)?  Needs no lock. */
VS_EXPORT bool vs_fabric_is_local(const struct sockaddr *addr);

/*
 * Binds @addr's port for this process (port 0: one is chosen and stored into
 * @addr).  Returns 0, or EADDRINUSE if the port is taken for an overlapping
 * address.  @v6only: [::] leaves IPv4 to others.
 */
VS_EXPORT int vs_fabric_bind(struct sockaddr *addr, bool v6only);
VS_EXPORT void vs_fabric_unbind(const struct sockaddr *addr, bool v6only);
/* Marks a bound port as listening. */
VS_EXPORT int vs_fabric_listen(const struct sockaddr *addr, bool v6only);
/* The slot that listens on @addr and port, or -1. */
VS_EXPORT int vs_fabric_find(const struct sockaddr *addr);

/* -------------------------------------------------------------------- nic */

struct VsTimer {
    uint64_t at_ns;             /* 0: not set */
    void (*fire)(VsTimer *timer);
    void *opaque;
    bool listed;
};

/* Sets (or moves) or clears a timer.  It fires on the NIC thread, locked. */
VS_EXPORT void vs_timer_set(VsTimer *timer, uint64_t at_ns);
VS_EXPORT void vs_timer_clear(VsTimer *timer);

/* Starts the NIC if need be (takes vs_lock itself); later calls are free. */
VS_EXPORT void vs_nic_start(void);
/* Tells the NIC thread that there is work.  Needs no lock. */
VS_EXPORT void vs_nic_kick(void);
/* Puts @qp on the list of queue pairs whose send queue wants attention. */
void vs_nic_schedule(VsQp *qp);

extern VS_EXPORT unsigned vs_slot;
extern VS_EXPORT bool vs_port_up;       /* this process's link */
extern VS_EXPORT bool vs_removed;       /* the device is gone for good */
extern VS_EXPORT bool vs_frozen;        /* the program is told nothing */
extern bool vs_receives_refused;        /* ibv_post_recv() fails */

void vs_nic_set_port(bool up);          /* with PORT_ERR / PORT_ACTIVE events */
void vs_nic_set_frozen(bool frozen);
void vs_nic_remove_device(void);        /* everything flushes, DEVICE_FATAL */

/* librdmacm's part of the last two and of incoming packets; may stay NULL. */
typedef struct VsCmOps {
    void (*packet)(VsPeer *peer, const void *payload, size_t length);
    void (*peer_gone)(VsPeer *peer);
    void (*device_removed)(void);
    void (*unfrozen)(void);
    void (*disconnect_qp)(uint32_t qp_num);     /* VS_ACT_DISCONNECT */
    void (*count)(unsigned *ids, unsigned *channels);   /* the program's */
    unsigned (*report_leaks)(void);     /* as vs_device_report_leaks() */
} VsCmOps;
extern VS_EXPORT const VsCmOps *vs_cm_ops;

/* ------------------------------------------------------------------- peer */

/*
 * The NIC of a process, this one's own included.  Lives as long as somebody
 * holds a reference, which may be longer than the process.
 */
struct VsPeer {
    unsigned refs;
    unsigned slot;
    pid_t pid;
    int fd;                     /* -1: gone */
    GByteArray *in, *out;
    size_t out_start;           /* written already */
    bool writable;              /* else epoll says when */
    bool greeted;               /* its slot is known */
    unsigned flights;           /* CM packets of its that have not landed */
};

/* A reference to the peer of @slot, connected on demand; NULL with errno. */
VS_EXPORT VsPeer *vs_peer_get(unsigned slot);
VS_EXPORT VsPeer *vs_peer_ref(VsPeer *peer);
VS_EXPORT void vs_peer_unref(VsPeer *peer);
/* A CM packet; the profile's latency and the link's state apply. */
VS_EXPORT void vs_peer_send_cm(VsPeer *peer, const void *payload,
                               size_t length);

/* --------------------------------------------------------------------- mr */

struct VsPd {
    struct ibv_pd ibv;
    bool by_cm;                 /* librdmacm's own: not the program's leak */
    unsigned children;          /* MRs and QPs */
};

struct VsMr {
    struct ibv_mr ibv;          /* lkey == rkey */
    uint64_t iova;
    int access;
    uint64_t pinned_bytes;      /* whole pages */
    VsHold *hold;               /* those pages; NULL: go by the addresses */
    unsigned busy;              /* copies under way; dereg waits for them */
};

/*
 * The memory region that @key names, if it is of @pd, covers
 * [@addr, @addr + @length) and has all of @access (IBV_ACCESS_*; 0 to read
 * locally); with a busy reference.  NULL otherwise.
 */
VsMr *vs_mr_get(uint32_t key, const VsPd *pd, uint64_t addr, uint64_t length,
                int access);
void vs_mr_put(VsMr *mr);
/* Where in this process @addr of @mr is. */
void *vs_mr_pointer(const VsMr *mr, uint64_t addr);

/* --------------------------------------------------------------------- cq */

struct VsChannel {
    struct ibv_comp_channel ibv;        /* .fd is a semaphore eventfd */
    GQueue events;                      /* VsCq *, one for each event */
};

typedef struct VsCqe {
    struct ibv_wc wc;
    VsQp *qp;                   /* NULL once it is destroyed */
    bool is_recv;
    uint32_t frees;             /* polling this frees slots up to here */
} VsCqe;

struct VsCq {
    struct ibv_cq ibv;
    VsCqe *ring;
    uint32_t size, head;
    uint32_t count;             /* read without the lock by an empty poll */
    enum { VS_CQ_UNARMED, VS_CQ_ARMED, VS_CQ_ARMED_SOLICITED } armed;
    bool overrun;               /* in error: nothing is added any more */
    unsigned users;             /* QPs */
    unsigned events_got;        /* taken by the program, not yet acked */
    unsigned async_got;         /* likewise, asynchronous ones */
};

/*
 * Adds a completion.  A full queue overruns: IBV_EVENT_CQ_ERR, and the queue
 * pairs that use it go to ERR.  @solicited: a receive whose sender asked.
 */
void vs_cq_push(VsCq *cq, const VsCqe *cqe, bool solicited);
/* @qp is being destroyed or reset: its completions are removed. */
void vs_cq_forget(VsCq *cq, const VsQp *qp);
/* A freeze has ended: the events that were held back. */
void vs_cq_unfrozen(void);

/* --------------------------------------------------------------------- qp */

/*
 * A copy of what an adapter has read from a region, until the peer has fetched
 * it; see hold.h.
 */
typedef struct VsStage {
    char *addr;                 /* NULL: none */
    size_t bytes;
} VsStage;

typedef struct VsSendWqe {
    uint64_t wr_id;
    enum ibv_wr_opcode opcode;
    unsigned flags;             /* IBV_SEND_*; SIGNALED also for sq_sig_all */
    uint32_t imm;               /* network order, as given */
    uint64_t remote_addr;
    uint32_t rkey;
    uint32_t length;
    unsigned num_sge;
    struct ibv_sge *sge;        /* room for the queue's max_send_sge */
    uint8_t *inline_data;       /* room for max_inline_data; with SEND_INLINE */
    enum ibv_wc_status status;  /* requester's: decided before the reply */
    bool done;                  /* answered; completes when those before have */
    bool tried;                 /* sent before: faults are asked only once */
    int control;                /* of a SEND that was tried: its control type */
    VsStage stage;              /* its data, if pages are held */
    uint64_t due_ns;            /* complete not before */
} VsSendWqe;

typedef struct VsRecvWqe {
    uint64_t wr_id;
    unsigned num_sge;
    struct ibv_sge *sge;
} VsRecvWqe;

/*
 * Both queues are rings; their indices only grow, an entry is at index % size.
 * A slot is free again when a completion for it or a later one was polled.
 */
struct VsQp {
    struct ibv_qp_ex ex;        /* ex.qp_base is the ibv_qp */
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;    /* as set by modify_qp; state in ex.qp_base */
    VsPeer *peer;               /* the far side's NIC, from RTR on */
    unsigned busy;              /* the NIC is at work on it without the lock */
    unsigned async_got;         /* events the program took and has not acked */
    bool scheduled;
    bool destroyed;

    VsSendWqe *sq;
    uint32_t sq_size;
    uint32_t sq_posted, sq_sent, sq_done, sq_free;
    VsRecvWqe *rq;
    uint32_t rq_size;
    uint32_t rq_posted, rq_taken, rq_free;

    struct {                    /* requester.c */
        uint32_t reads;         /* sent and unanswered */
        unsigned retries, rnr_retries;
        bool waiting_rnr;
        bool lost;              /* the fabric lost something: timer runs */
        bool failed;            /* one has failed: nothing behind it goes */
        uint64_t hold_until_ns; /* a delay fault */
        VsTimer retry;          /* retransmission, RNR */
        VsTimer pace;           /* completions that are due later, delays */
    } req;
    struct {                    /* responder.c */
        uint32_t expected_psn;
        bool nak_sent;          /* drop until the expected one comes again */
        bool established;       /* a request came before RTS: COMM_EST */
        GQueue effects;         /* results not due yet */
        GQueue stages;          /* VsStage *, of answers to Reads */
        VsTimer timer;
        uint32_t ack_psn;       /* to be sent if ack_wanted */
        uint64_t ack_due_ns;
        uint64_t unacked_bytes;
        bool ack_wanted;
        bool heard;             /* a SEND came since we last sent one */
    } resp;

    struct {                    /* qp.c: the ibv_wr_* builder */
        uint64_t ops;           /* IBV_QP_EX_WITH_*; 0: made without it */
        unsigned first;         /* sq_posted at wr_start */
        unsigned count;
        unsigned room;          /* free slots at wr_start */
        int error;
    } wr;
};

static inline struct ibv_qp *vs_qp_ibv(VsQp *qp)
{
    return &qp->ex.qp_base;
}

static inline VsPd *vs_qp_pd(const VsQp *qp)
{
    return (VsPd *)qp->ex.qp_base.pd;
}

static inline VsCq *vs_qp_send_cq(const VsQp *qp)
{
    return (VsCq *)qp->ex.qp_base.send_cq;
}

static inline VsCq *vs_qp_recv_cq(const VsQp *qp)
{
    return (VsCq *)qp->ex.qp_base.recv_cq;
}

/* The queue pair of this process with that number, or NULL. */
VS_EXPORT VsQp *vs_qp_find(uint32_t qp_num);
/* For all queue pairs of this process. */
void vs_qp_foreach(void (*fn)(VsQp *qp, void *opaque), void *opaque);

/* qp.c sets the state (and traces); these are requester's and responder's. */
void vs_qp_set_state(VsQp *qp, enum ibv_qp_state state);
/*
 * Was the entry at @index of the send queue sent before?  In SQD no other
 * is.
 */
bool vs_qp_has_begun(const VsQp *qp, uint32_t index);
/* In SQD: raises SQ_DRAINED once all that was sent has completed. */
void vs_qp_check_drained(VsQp *qp);
/* To ERR: everything outstanding completes with WR_FLUSH_ERR.  Idempotent. */
VS_EXPORT void vs_qp_error(VsQp *qp);
/* From INIT to RTS, as iWARP's connection manager does it.  0 or -errno. */
VS_EXPORT int vs_qp_connect(VsQp *qp, const struct ibv_qp_attr *attr,
                            int mask);

void vs_requester_init(VsQp *qp);
/* Entering RESET, or destruction: nothing is outstanding afterwards. */
void vs_requester_reset(VsQp *qp);
void vs_requester_flush(VsQp *qp);
void vs_responder_init(VsQp *qp);
void vs_responder_reset(VsQp *qp);
void vs_responder_flush(VsQp *qp);

/* NIC thread: send what @qp's send queue has and may send. */
void vs_requester_run(VsQp *qp);
void vs_requester_packet(VsPeer *peer, const VsPkt *pkt);
void vs_responder_packet(VsPeer *peer, const VsPkt *pkt);
/* @peer's process has gone: what was sent to it is lost. */
void vs_requester_peer_gone(VsPeer *peer);

/* ----------------------------------------------------------------- device */

struct VsContext {
    struct verbs_context verbs; /* .context.async_fd is a semaphore eventfd */
    GQueue async;               /* struct ibv_async_event * */
    GQueue held;                /* likewise, while the program is frozen */
    bool by_cm;                 /* librdmacm's own: not the program's leak */
    unsigned children;          /* PDs, CQs, channels, QPs, MRs */
};

/*
 * Queues an asynchronous event for the owner of @element (QP or CQ), or, for
 * port and device events, for every open context.
 */
void vs_async_event(enum ibv_event_type type, void *element);

/* The port's attributes and the GID table: one entry for each local address. */
VS_EXPORT int vs_gid_index(const struct sockaddr *addr);    /* or -1 */
VS_EXPORT void vs_gid_of(const struct sockaddr *addr, union ibv_gid *gid);

/*
 * At exit: one line on stderr and in the trace for each kind of object that is
 * left.  Returns how many objects that were.
 */
unsigned vs_device_report_leaks(void);

/*
 * What the program holds now: a line "KIND COUNT" for each kind of object,
 * without librdmacm's own, and "pinned_bytes N" (g_free()).
 */
char *vs_objects_text(void);

#endif
