/*
 * RDMA migration transport: what to register, and how much of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: decisions of the registration look-ahead, from numbers and bitmaps
 * alone: which chunk has dirty pages, how many bytes may be on the wire, how
 * far ahead memory is to be registered, how many chunks share a region.
 * Callers: source.
 * Thread: any; nothing here is kept elsewhere.
 *
 * The arithmetic.  A message stands behind the writes that were posted before
 * it, so what is on the wire (F bytes) is bounded: enough that the NIC never
 * runs dry while this thread is off the processor, and little enough that an
 * answer comes soon.  From asking to the answer the writer moves on by
 * rate x latency; so that much, twice because the next request can only go
 * when the answer is there, is to be registered ahead of it, and F on top.
 */
#ifndef RMIG_PLAN_H
#define RMIG_PLAN_H

#include "blocks.h"
#include "migration/rdma-transport.h"

/* How fast things go; an all-zero struct knows nothing yet */
typedef struct RMigPace {
    uint64_t rate;      /* of writes while any are under way, bytes a second */
    int64_t latency_us; /* from asking for a registration to the answer */
    uint64_t part_bytes; /* of a sample of @rate that is not complete */
    int64_t part_us;
} RMigPace;

/* @bytes of writes took @us to complete */
void rmig_pace_wrote(RMigPace *pace, uint64_t bytes, int64_t us);
/* An answer took @us */
void rmig_pace_answered(RMigPace *pace, int64_t us);

/* What the decisions depend on besides the pace */
typedef struct RMigPlanLimits {
    uint64_t budget; /* bytes that may be registered; UINT64_MAX: any number */
    bool batch;      /* many spans a message */
    unsigned damp;   /* halves the window so many times */
} RMigPlanLimits;

/* Most bytes of writes that are not complete */
uint64_t rmig_plan_wire_bytes(const RMigPace *pace,
                              const RMigPlanLimits *limits);
/* How many bytes ahead of the writer are to be registered or asked for */
uint64_t rmig_plan_window_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits);
/*
 * Most bytes of one request: @before were in the largest one so far.  The first
 * is small, so that writing begins; then they grow to half of the window, as
 * the other half is written meanwhile.
 */
uint64_t rmig_plan_request_bytes(const RMigPace *pace,
                                 const RMigPlanLimits *limits,
                                 uint64_t before);
/* Most chunks that share a region in the next request, at least 1 */
uint64_t rmig_plan_span_chunks(const RMigPace *pace,
                               const RMigPlanLimits *limits, uint64_t before);

/* Whether the page at @offset of the block is still to be sent */
bool rmig_plan_page_is_dirty(const RMigBlockHints *hints, uint64_t offset);
/*
 * The first chunk from @from on with a dirty page, no hole; rmig_block_chunks():
 * none
 */
uint64_t rmig_plan_next_dirty(const RMigBlock *block,
                              const RMigBlockHints *hints, uint64_t from);

#endif
