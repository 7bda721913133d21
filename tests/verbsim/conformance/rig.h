/*
 * Conformance tests: what the programs share
 *
 * The programs are written against plain libibverbs and librdmacm and know
 * the specification, not who implements it: the same binaries run on verbsim
 * (LD_LIBRARY_PATH) and on a real device, where the lab's is Soft-RoCE.  Where
 * one of them is known to differ, differs() says so and the test holds it to
 * the behaviour that is known instead.
 *
 * All functions fail the test themselves, unless they return an error code.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef CONFORMANCE_RIG_H
#define CONFORMANCE_RIG_H

#include <glib.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <infiniband/verbs.h>

/* Long enough for anything that does come, on a slow machine, too. */
#define RIG_WAIT_MS 20000
/* How long nothing must happen for it to count as not happening. */
#define RIG_QUIET_MS 100

/* ------------------------------------------------------- program and device */

/* What a child process does; see rig_child(). */
typedef struct RigRole {
    const char *name;           /* NULL ends a table of them */
    void (*run)(void);
} RigRole;

/* First in main().  In a child process it runs the role and does not return. */
void rig_init(int *argc, char ***argv, const RigRole *roles);
/* Last in main(): the program's exit status. */
int rig_run(void);

/* $RMIG_DEVICE or the first; opened on first use, closed by rig_run(). */
struct ibv_context *rig_device(void);
const struct ibv_device_attr *rig_limits(void);

/*
 * Whether the implementation is known to differ in @what, a key of the table
 * in differs.c.  The test then expects what the table says.
 */
bool differs(const char *what);
bool rig_is_verbsim(void);
/*
 * Before the device is used: can it be opened, in verbsim's mode that holds
 * pages?  If not, a line says that the whole program is skipped, and why.
 */
bool rig_can_hold(void);

/* The device's own address: $RMIG_LAB_ADDR4/6, otherwise 127.0.0.1 and ::1. */
struct sockaddr_storage rig_address(int family, uint16_t port);
bool rig_infiniband(void);      /* the link layer; otherwise Ethernet */
bool rig_iwarp(void);           /* the transport; otherwise InfiniBand's */
/*
 * The index of the GID that stands for rig_address(@family); an InfiniBand
 * port's has nothing to do with IP addresses.
 */
uint8_t rig_gid(int family, union ibv_gid *gid);

/* Waits until @fd is readable; false if it is not within @ms. */
bool rig_readable(int fd, int ms);
double rig_seconds_since(int64_t start_us);

/* ----------------------------------------------------------------- children */

typedef struct RigChild {
    GPid pid;
    int to, from;
} RigChild;

/*
 * Starts this program once more, as role @role: a process that has not used
 * the device yet.  The two talk through pipes.
 */
RigChild *rig_child(const char *role);
/* A child with one more environment variable. */
RigChild *rig_child_with(const char *role, const char *name,
                         const char *value);
void rig_child_tell(RigChild *child, const void *data, size_t bytes);
void rig_child_hear(RigChild *child, void *data, size_t bytes);
void rig_child_kill(RigChild *child, int signal);
/* Closes the pipes, waits for its end and expects status 0 unless killed. */
void rig_child_free(RigChild *child);
/* The child's ends of the pipes; hear() ends the process at end of file. */
void rig_tell(const void *data, size_t bytes);
void rig_hear(void *data, size_t bytes);

/* -------------------------------------------------------------- queue pairs */

typedef struct RigOptions {
    uint32_t send_wr, recv_wr, sge, inline_bytes, cqe, bytes;
    int mr_access, qp_access;
    uint8_t timeout, retry_cnt, rnr_retry, min_rnr_timer, rd_atomic;
    bool sq_sig_all;
} RigOptions;

/* To be copied and changed. */
extern const RigOptions rig_defaults;

/* A queue pair with all it needs, and a buffer that is registered. */
typedef struct RigEnd {
    RigOptions options;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;   /* of both completion queues */
    struct ibv_cq *send_cq, *recv_cq;
    struct ibv_qp *qp;
    uint8_t *buf;               /* options.bytes of them, zero */
    struct ibv_mr *mr;
} RigEnd;

/* What the other side must know of one, in another process perhaps. */
typedef struct RigWhere {
    uint32_t qp_num, psn;
    union ibv_gid gid;          /* Ethernet */
    uint16_t lid;               /* InfiniBand */
    uint64_t addr;
    uint32_t rkey;
} RigWhere;

typedef struct RigPair {
    RigEnd *a, *b;
} RigPair;

RigEnd *rig_end(const RigOptions *options);     /* queue pair in RESET */
void rig_end_free(RigEnd *end);
RigWhere rig_where(const RigEnd *end);
/* The attributes and mask of each step, to be used as they are or spoilt. */
int rig_init_attr(const RigEnd *end, struct ibv_qp_attr *attr);
int rig_rtr_attr(const RigEnd *end, const RigWhere *peer,
                 struct ibv_qp_attr *attr);
int rig_rts_attr(const RigEnd *end, struct ibv_qp_attr *attr);
void rig_to_init(RigEnd *end);
void rig_to_rtr(RigEnd *end, const RigWhere *peer);
void rig_to_rts(RigEnd *end);
int rig_to(RigEnd *end, enum ibv_qp_state state);   /* ERR or RESET */
enum ibv_qp_state rig_state(const RigEnd *end);
/* Waits until the state is that. */
void rig_await_state(const RigEnd *end, enum ibv_qp_state state);

/* Two ends in this process, connected and in RTS. */
RigPair rig_pair(const RigOptions *options);
void rig_pair_free(RigPair pair);

/* ---------------------------------------------------- requests, completions */

struct ibv_sge rig_sge(const RigEnd *end, size_t offset, uint32_t bytes);
/* These return what ibv_post_*() does. */
int rig_recv(RigEnd *end, uint64_t wr_id, size_t offset, uint32_t bytes);
int rig_send(RigEnd *end, uint64_t wr_id, size_t offset, uint32_t bytes,
             unsigned flags);
/* RDMA, of the same offset in @remote's buffer. */
int rig_rdma(RigEnd *end, enum ibv_wr_opcode opcode, uint64_t wr_id,
             size_t offset, uint32_t bytes, const RigWhere *remote,
             unsigned flags);

/* The next completion; it must come within RIG_WAIT_MS. */
struct ibv_wc rig_poll(struct ibv_cq *cq);
/* The same, and it must be this one. */
struct ibv_wc rig_done(struct ibv_cq *cq, uint64_t wr_id,
                       enum ibv_wc_status status);
/*
 * What a request ends with whose own memory is not as its keys say; @bad_key:
 * the key itself is not good, and not only the range (or it is a receive).
 */
enum ibv_wc_status rig_protection_error(bool bad_key);
/* No completion comes for a while. */
void rig_quiet(struct ibv_cq *cq);

/* ------------------------------------------------------ asynchronous events */

/* The next one must be @type for @element (QP, CQ or NULL). */
void rig_async(enum ibv_event_type type, const void *element);
/* None comes for a while. */
void rig_no_async(void);

/* ------------------------------------------------------------------ content */

/* Something else for each @seed. */
void rig_fill(uint8_t *data, size_t bytes, unsigned seed);
bool rig_filled(const uint8_t *data, size_t bytes, unsigned seed);

#endif
