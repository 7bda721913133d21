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
 * it, so what is on the wire (F bytes) is bounded: what the way holds, which is
 * rate x round trip, and a queue before it, enough that the NIC never runs dry
 * while this thread is off the processor, and little enough that an answer
 * comes soon.  From asking to the answer the writer moves on by rate x latency;
 * so that much, twice because the next request can only go when the answer is
 * there, is to be registered ahead of it, and F on top.
 *
 * The round trip is that of a write to an idle wire.  The shortest counts, for
 * a second; then the wire is let run idle once, and a write is timed anew.  A
 * longer one counts when it was seen twice.
 *
 * The rate is measured under the bound that follows from it.  It is that of a
 * round trip or more: it rises with a sample at once and falls by and by.  The
 * queue is a quarter of the way at the least, so a bound that holds the rate
 * down grows by that with each round trip, as long as the rate does.  While it
 * rises steeply the way counts twice.  Where more on the wire does not bring a
 * higher rate, that is the link's, and the bound stays.
 */
#ifndef RMIG_PLAN_H
#define RMIG_PLAN_H

#include "blocks.h"
#include "migration/rdma-transport.h"

/* How fast things go; an all-zero struct knows nothing yet */
typedef struct RMigPace {
    uint64_t rate;      /* of writes while any are under way, bytes a second */
    bool rising;        /* the last sample was far above those before it */
    int64_t latency_us; /* from asking for a registration to the answer */
    int64_t way_us;     /* of a write there and its completion back; 0: ? */
    int64_t way_at_us;  /* when that was measured */
    int64_t doubt_us;   /* a longer one that was seen once; 0: none */
    uint64_t part_bytes; /* of a sample of @rate that is not complete */
    int64_t part_us;
} RMigPace;

/*
 * @bytes of writes completed @us after those before them; for what had nothing
 * before it that would be the way
 */
void rmig_pace_wrote(RMigPace *pace, uint64_t bytes, int64_t us);
/*
 * rmig_pace_flew: writes have completed @us after they were posted
 * @alone: nothing was on the wire before them
 * @now_us: of a clock that does not go back
 */
void rmig_pace_flew(RMigPace *pace, int64_t us, bool alone, int64_t now_us);
/* Whether writes are to be timed that have nothing before them */
bool rmig_pace_is_stale(const RMigPace *pace, int64_t now_us);
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
/*
 * What a way holds that is so long that the end of a round cannot wait until
 * nothing is on it; 0: it can
 */
uint64_t rmig_plan_way_bytes(const RMigPace *pace);
/* How many bytes ahead of the writer are to be registered or asked for */
uint64_t rmig_plan_window_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits);
/*
 * With how many ahead it is time to ask for the rest.  All of them, but on a
 * long way: a round cannot end before an answer that is owed, and the wire is
 * idle meanwhile, so it is better to ask seldom, and for more.
 */
uint64_t rmig_plan_refill_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits);
/*
 * Most bytes of one request: @before were in the largest one so far.  The first
 * is small, so that writing begins; then they grow to half of the window, as
 * the other half is written meanwhile.  On a long way it is not by small steps
 * that writing goes on, and a request may have all that is missing.
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
