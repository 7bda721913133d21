/*
 * RDMA migration transport: registration of guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: which chunk of which RAM block is covered by which memory region; has
 * regions registered and let go by the workers; accounts for what is pinned.
 * Callers: source (for its own side), dest, reaper.
 * Thread: the connection's.
 *
 * A span is a run of neighbouring chunks of one block that share a memory
 * region.  It is registered by a job, then installed: its chunks point at it.
 * It leaves by another job when nothing points at it any more.  From asking to
 * the end of leaving its bytes are charged to the table's budget.
 */
#ifndef RMIG_MR_H
#define RMIG_MR_H

#include "blocks.h"
#include "jobs.h"
#include "migration/rdma-transport.h"
#include "verbs.h"

/*
 * Bytes that may be pinned.  The limit follows what is really to be had: a
 * refusal lowers it to what there is, success raises it towards the ceiling.
 */
typedef struct RMigBudget {
    uint64_t ceiling; /* what was configured or announced */
    uint64_t limit;
    uint64_t used;    /* asked for, registered or not yet let go */
    uint64_t leaving; /* of @used: being let go */
    uint64_t peak;    /* of @used */
} RMigBudget;

void rmig_budget_init(RMigBudget *budget, uint64_t ceiling);
/* Whether @bytes fit now / will fit when what is leaving has left */
bool rmig_budget_fits(const RMigBudget *budget, uint64_t bytes);
bool rmig_budget_will_fit(const RMigBudget *budget, uint64_t bytes);
void rmig_budget_charge(RMigBudget *budget, uint64_t bytes);
/* @bytes of @used, of them none leaving, were not to be had */
void rmig_budget_refused(RMigBudget *budget, uint64_t bytes);
void rmig_budget_granted(RMigBudget *budget, uint64_t bytes);
void rmig_budget_leave(RMigBudget *budget, uint64_t bytes);
void rmig_budget_left(RMigBudget *budget, uint64_t bytes);

typedef enum RMigSpanState {
    RMIG_SPAN_REGISTERING,
    RMIG_SPAN_READY,
    /* With @error, or dropped before it was tried; not charged any more */
    RMIG_SPAN_FAILED,
    RMIG_SPAN_LEAVING,
} RMigSpanState;

/* Source: how far the destination is with its half of a span */
typedef enum RMigPeerState {
    RMIG_PEER_NONE,
    RMIG_PEER_ASKED,
    RMIG_PEER_READY, /* with @rkey */
    RMIG_PEER_NEVER, /* cannot be pinned there; charged nevertheless */
} RMigPeerState;

typedef struct RMigMrTable RMigMrTable;

typedef struct RMigSpan {
    RMigJob job;
    RMigMrTable *table; /* not for the worker: it may move meanwhile */
    RMigVerbs *verbs;
    bool remote_write;
    const RMigBlock *block;
    uint64_t first;
    uint64_t n;
    RMigMr *mr;    /* READY */
    GError *error; /* FAILED */
    RMigSpanState state;
    bool leaves;    /* as soon as it is registered */
    bool alone;     /* nothing else was registered while it was tried */
    bool hurries;   /* somebody waits for it */
    uint64_t users; /* chunks that point here */
    GList link;     /* in @table->spans or @table->leaving */
    unsigned pins;  /* reasons not to let it go: writes, a place in a window;
                       dest: records of the message in hand */
    /* The source's: */
    bool in_window;
    bool was_next;  /* it has been in the window */
    bool written;   /* at least once */
    RMigPeerState peer;
    uint32_t rkey;  /* of the destination's half */
} RMigSpan;

struct RMigMrTable {
    RMigVerbs *verbs;   /* not owned */
    RMigJobs *jobs;     /* not owned */
    bool remote_write;  /* whether the peer may write into it */
    uint32_t n_blocks;
    RMigSpan ***chunks; /* [block][chunk]; NULL: not covered */
    GQueue spans;       /* of RMigSpan, owned, the longest unused first */
    GQueue leaving;     /* likewise */
    RMigBudget budget;
    uint64_t registering_bytes; /* of the spans that are REGISTERING */
    uint64_t chunks_registered; /* since the start, for statistics */
    uint64_t chunks_refused;
};

/*
 * @blocks must be complete and outlive the jobs
 * @jobs: freed before the cleanup
 * @limit: bytes that may be pinned for it, UINT64_MAX: any
 */
void rmig_mr_table_init(RMigMrTable *table, RMigVerbs *verbs, RMigJobs *jobs,
                        const RMigBlocks *blocks, bool remote_write,
                        uint64_t limit);
/*
 * rmig_mr_table_moved: the table was copied to @table, and is only used there
 *
 * Its jobs may be running; none may be reaped between the copying and this.  An
 * all-zero table is allowed.
 */
void rmig_mr_table_moved(RMigMrTable *table);
/*
 * rmig_mr_table_unpin: unregister everything, by several threads at a time
 * @stop: set by any thread: what has not begun stays registered
 *
 * After the jobs are freed and before rmig_mr_table_cleanup(), which frees
 * what remains of it; but if @stop is set, it is for the kernel to clean up.
 * An all-zero table is allowed.
 */
void rmig_mr_table_unpin(RMigMrTable *table, unsigned threads,
                         const gint *stop);
/*
 * Unregisters everything, which takes its time.  Any thread, after the jobs
 * are freed.  An all-zero table is allowed.
 */
void rmig_mr_table_cleanup(RMigMrTable *table);

/* What covers @chunk, registered or not yet, or NULL */
RMigSpan *rmig_mr_table_find(const RMigMrTable *table, const RMigBlock *block,
                             uint64_t chunk);
/*
 * rmig_span_register: begin to register @n chunks from @first, which must
 * exist, as one region
 *
 * The span's state changes when the jobs are reaped.  It is neither installed
 * nor used by anybody but the caller.
 */
RMigSpan *rmig_span_register(RMigMrTable *table, const RMigBlock *block,
                             uint64_t first, uint64_t n);
/* It is registered before all others whose turn has not come */
void rmig_span_hurry(RMigSpan *span);
/* Its chunks point at it; what covered them before and now nothing, leaves */
void rmig_span_install(RMigSpan *span);
/* Nothing points at it, and it leaves, as soon as it can; it is gone then */
void rmig_span_leave(RMigSpan *span);
/* Of all that are not leaving it was the last to be used */
void rmig_span_touch(RMigSpan *span);
uint64_t rmig_span_bytes(const RMigSpan *span);
/* It has failed, and would however much room there is */
bool rmig_span_is_unpinnable(const RMigSpan *span);
/* The chunk is covered no more; one that was not is left alone */
void rmig_mr_table_unregister(RMigMrTable *table, const RMigBlock *block,
                              uint64_t chunk);

/* How a user raises the memory-lock limit, for messages */
#define RMIG_MEMLOCK_WAYS \
    "(ulimit -l, systemd's LimitMEMLOCK=, libvirt's <hard_limit>)"

/*
 * rmig_pin_room: bytes of guest RAM that this process may pin
 * @pin_limit: the user's limit, 0: none
 *
 * What that and the memory-lock limit leave after what is pinned already and
 * the message buffers of a return path; UINT64_MAX: any number.
 */
uint64_t rmig_pin_room(uint64_t pin_limit);
/* What this process may pin in all, by @pin_limit and the kernel */
uint64_t rmig_pin_limit(uint64_t pin_limit);

#endif
