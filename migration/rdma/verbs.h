/*
 * RDMA migration transport: verbs objects of one queue pair
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: the only caller of ibv_*: protection domain, completion queue, memory
 * regions, posting work requests, reaping completions.
 * Callers: link (which creates the queue pair through librdmacm), control, mr,
 * writer.
 * Thread: one at a time; the user of the connection sees to that.  Only memory
 * is registered and unregistered by any thread.
 *
 * Send-queue arithmetic: a completion is asked for (signalled) only at the end
 * of a batch of RDMA Writes, and for every SEND.  Each posted work request
 * holds one slot of the send queue until a *signalled* request posted at or
 * after it completes.  So an unsignalled post adds one to `unsignalled`, a
 * signalled post moves that sum plus itself into its RMigWork's `slots`, and
 * its completion gives them back.  RMIG_VERBS_SLOTS_RESERVED slots are never
 * given to writes, so that control messages and the heartbeat always fit.
 */
#ifndef RMIG_VERBS_H
#define RMIG_VERBS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Slots of the send queue that RDMA Writes may not use */
#define RMIG_VERBS_SLOTS_RESERVED 16
/* Slots wanted for RDMA Writes; the device may offer fewer */
#define RMIG_VERBS_SLOTS_WRITE 512
/* Receives that may be posted at a time */
#define RMIG_VERBS_RECVS 8

typedef struct RMigVerbs RMigVerbs;
typedef struct RMigMr RMigMr;
typedef struct RMigWork RMigWork;

/*
 * The context of a posted work request; it must stay where it is until done()
 * ran or the queue pair is gone.
 */
struct RMigWork {
    const char *what; /* "SEND", "RDMA Write", ... for messages and traces */
    /* Called from rmig_verbs_poll() on success.  @bytes: of a receive. */
    void (*done)(RMigWork *work, uint32_t bytes);
    /* Optional: which memory it is about, for messages; caller frees */
    char *(*describe)(const RMigWork *work);
    void *owner;
    unsigned slots; /* verbs' own: send-queue slots that completion frees */
};

#define RMIG_VERBS_ERROR rmig_verbs_error_quark()
GQuark rmig_verbs_error_quark(void);
typedef enum RMigVerbsErrorCode {
    RMIG_VERBS_ERROR_FAILED,     /* a call failed */
    RMIG_VERBS_ERROR_COMPLETION, /* a work request completed with an error */
    RMIG_VERBS_ERROR_FLUSHED,    /* ... as the queue pair had failed before */
    RMIG_VERBS_ERROR_UNPINNABLE, /* no room would help: not this memory */
} RMigVerbsErrorCode;

/*
 * A stretch of local memory that the device may use.
 * @remote_write: whether the peer may write into it.
 * Fails with the remedy in the message when the memory-lock limit is the cause,
 * and with ..._UNPINNABLE when it cannot be.
 * The registration pins the memory; unregistering unpins it.  Any thread.
 */
RMigMr *rmig_mr_register(RMigVerbs *verbs, void *addr, uint64_t bytes,
                         bool remote_write, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
void rmig_mr_unregister(RMigMr *mr);
uint32_t rmig_mr_rkey(const RMigMr *mr);
uint64_t rmig_mr_bytes(const RMigMr *mr);

/* Bytes that are registered in this process now, over all connections */
uint64_t rmig_mr_pinned_bytes(void);
/* The most that were registered together since rmig_mr_reset_peak() */
uint64_t rmig_mr_pinned_peak_bytes(void);
void rmig_mr_reset_peak(void);

/*
 * Posting.  @work is the context, which an error completion names.  False only
 * on a real failure; whether there is room is asked beforehand.
 */
bool rmig_verbs_post_send(RMigVerbs *verbs, RMigWork *work, RMigMr *mr,
                          const void *addr, uint32_t bytes, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
bool rmig_verbs_post_recv(RMigVerbs *verbs, RMigWork *work, RMigMr *mr,
                          void *addr, uint32_t bytes, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Most RDMA Writes of one post */
#define RMIG_VERBS_CHAIN 32

/* Memory that goes over, @bytes at @addr inside of @mr */
typedef struct RMigWrite {
    RMigMr *mr;
    const void *addr;
    uint32_t bytes;
    uint32_t rkey;
    uint64_t remote_addr;
} RMigWrite;

/*
 * rmig_verbs_post_writes: 1 to RMIG_VERBS_CHAIN writes with one doorbell
 *
 * All carry @work; the last is signalled, and with its completion all of them
 * are complete.  There must be room for @n.
 */
bool rmig_verbs_post_writes(RMigVerbs *verbs, RMigWork *work,
                            const RMigWrite *writes, unsigned n, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* A zero-length RDMA Write, signalled: asks whether the peer's NIC lives */
bool rmig_verbs_post_probe(RMigVerbs *verbs, RMigWork *work, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* As libibverbs calls the device; valid as long as @verbs */
const char *rmig_verbs_device_name(const RMigVerbs *verbs);

/*
 * rmig_verbs_add_trouble: make @err say what is wrong with the device
 *
 * Asks the device, for its port's state among others, so only for errors that
 * end a connection.  If nothing is wrong, @err stays as it is.
 */
void rmig_verbs_add_trouble(RMigVerbs *verbs, GError *err);

/* Slots that an RDMA Write may take now */
unsigned rmig_verbs_write_room(const RMigVerbs *verbs);
/* Work requests on the send queue whose slots are not yet given back */
unsigned rmig_verbs_sends_in_flight(const RMigVerbs *verbs);

/*
 * rmig_verbs_poll: reap what has completed and run done() for each
 *
 * Returns the number of completions, or -1 with @err if one of them is an
 * error: "WHAT failed: STATUS (vendor error N): MEANING; DEVICE: its port...".
 * All others have been handled.  Of several errors it is the first that is not
 * a flush, if there is one; a flush is without the device's part, which
 * rmig_verbs_add_trouble() adds when nothing else explains it.
 */
int rmig_verbs_poll(RMigVerbs *verbs, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_verbs_arm: ask for an event at the next completion
 *
 * After it the caller must poll once more before it waits, as a completion may
 * have slipped in between.
 */
bool rmig_verbs_arm(RMigVerbs *verbs, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Take the events that made rmig_verbs_fd() readable */
void rmig_verbs_take_events(RMigVerbs *verbs);
/* Readable when an armed completion queue has something; owned by @verbs */
int rmig_verbs_fd(const RMigVerbs *verbs);

#endif
