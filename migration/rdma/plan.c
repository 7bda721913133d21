/*
 * RDMA migration transport: what to register, and how much of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See plan.h.
 */
#include "plan.h"

#define MIB RMIG_CHUNK_BYTES
/* A sample of the rate is at least so long */
#define SAMPLE_US 1000
/* What completes closer together has waited for this thread to look */
#define APART_US 10
/* For how long a measured way counts, and the longest that does */
#define WAY_VALID_US G_USEC_PER_SEC
#define WAY_MAX_US (G_USEC_PER_SEC / 4)
/* To wait so long at the end of a round is worth mentioning */
#define WAY_LONG_US 500
/* Then it is worth to begin with more, as the first answers come late */
#define WAY_FAR_US 2000
#define FIRST_TIMES_IF_FAR 8
/* What is registered ahead: latencies' worth */
#define AHEAD 2
#define AHEAD_ON_LONG_WAY 5
/* How long the wire is to go on without this thread, at least and of the way */
#define QUEUE_US 2000
#define QUEUE_OF_WAY 4
#define WIRE_OF_BUDGET 8
#define QUEUE_MIN_BYTES (2 * MIB)
#define QUEUE_MAX_BYTES (64 * MIB)
#define WAY_MAX_BYTES (1024 * MIB)
#define WIRE_FIRST_BYTES (8 * MIB)
#define WINDOW_MIN_BYTES (16 * MIB)
#define WINDOW_MAX_BYTES (4096 * MIB)
#define REQUEST_FIRST_BYTES (4 * MIB)
#define REQUEST_GROWTH 3
#define SPANS_IN_REQUEST 4
#define SPANS_IN_BUDGET 24
/*
 * By measurement (docs/benchmarks.md, "Spans"): what a call and a key cost is
 * below 2 % of registering 8 MiB.  A message of version 1 names one span, so
 * its round trip counts on top.
 */
#define SPAN_CHUNKS 8
#define SPAN_CHUNKS_VERSION_1 32
/* No pace and no amount is taken for more: some of them together fit 64 bits */
#define MOST (UINT64_C(1) << 60)
#define WORD_BITS (8 * sizeof(unsigned long))

static uint64_t saturate(double value)
{
    return value < (double)MOST ? (uint64_t)value : MOST;
}

static uint64_t weigh(uint64_t old, uint64_t sample)
{
    return old == 0 ? sample : (3 * old + sample) / 4;
}

static void take_sample(RMigPace *pace, uint64_t rate)
{
    pace->rising = rate / 6 > pace->rate / 5;
    pace->rate = MAX(weigh(pace->rate, rate), rate);
}

void rmig_pace_wrote(RMigPace *pace, uint64_t bytes, int64_t us)
{
    /* A sample ends before a gap, as what caused that may be on its far side */
    if (us >= APART_US && pace->part_us >= MAX(SAMPLE_US, pace->way_us)) {
        take_sample(pace, saturate((double)pace->part_bytes *
                                   G_USEC_PER_SEC / pace->part_us));
        pace->part_bytes = 0;
        pace->part_us = 0;
    }
    pace->part_bytes = MIN(pace->part_bytes + MIN(bytes, MOST), MOST);
    pace->part_us += MIN(us, (int64_t)MOST);
}

static void take_way(RMigPace *pace, int64_t us, int64_t now_us)
{
    pace->way_us = us;
    pace->way_at_us = now_us;
    pace->doubt_us = 0;
}

void rmig_pace_flew(RMigPace *pace, int64_t us, bool alone, int64_t now_us)
{
    us = CLAMP(us, 1, WAY_MAX_US);
    if (pace->way_us == 0 || us <= pace->way_us) {
        /* With others before them they were not faster than alone */
        take_way(pace, us, alone ? now_us : pace->way_at_us);
    } else if (alone && rmig_pace_is_stale(pace, now_us)) {
        if (pace->doubt_us || us - pace->way_us <= pace->way_us / 4) {
            take_way(pace, pace->doubt_us ? MIN(us, pace->doubt_us) : us,
                     now_us);
        } else {
            /* This thread may just have been late to look */
            pace->doubt_us = us;
        }
    }
}

bool rmig_pace_is_stale(const RMigPace *pace, int64_t now_us)
{
    return pace->way_us > 0 && now_us - pace->way_at_us >= WAY_VALID_US;
}

void rmig_pace_answered(RMigPace *pace, int64_t us)
{
    us = MIN(us, (int64_t)MOST);
    /* Too short a window stalls, too long a one only pins: rise at once */
    pace->latency_us = MAX((int64_t)weigh(pace->latency_us, us), us);
}

static bool is_long(const RMigPace *pace)
{
    return pace->way_us >= WAY_LONG_US;
}

/* What there is to begin with */
static uint64_t first(const RMigPace *pace, uint64_t bytes)
{
    return pace->way_us < WAY_FAR_US ? bytes : FIRST_TIMES_IF_FAR * bytes;
}

/* What the writer does in @us */
static uint64_t bytes_in(const RMigPace *pace, int64_t us)
{
    return saturate((double)pace->rate * us / G_USEC_PER_SEC);
}

uint64_t rmig_plan_wire_bytes(const RMigPace *pace,
                              const RMigPlanLimits *limits)
{
    uint64_t most = limits->budget / WIRE_OF_BUDGET;
    uint64_t way, queue;

    if (pace->rate == 0) {
        return MAX(MIN(first(pace, WIRE_FIRST_BYTES), most), MIB);
    }
    way = bytes_in(pace, pace->way_us);
    queue = CLAMP(bytes_in(pace, QUEUE_US), QUEUE_MIN_BYTES, QUEUE_MAX_BYTES);
    queue = MIN(MAX(queue, way / QUEUE_OF_WAY), WAY_MAX_BYTES / QUEUE_OF_WAY);
    way = MIN(way << pace->rising, WAY_MAX_BYTES);
    /* A long way takes what it needs beside the queue, if it may */
    return MAX(is_long(pace) ? MIN(way, most) + MIN(queue, most) :
                               MIN(way + queue, most), MIB);
}

uint64_t rmig_plan_way_bytes(const RMigPace *pace)
{
    return is_long(pace) ? bytes_in(pace, pace->way_us) : 0;
}

static uint64_t window(const RMigPace *pace, const RMigPlanLimits *limits,
                       unsigned latencies)
{
    uint64_t bytes = latencies * MIN(bytes_in(pace, pace->latency_us),
                                     WINDOW_MAX_BYTES) +
                     rmig_plan_wire_bytes(pace, limits);

    bytes = CLAMP(bytes, first(pace, WINDOW_MIN_BYTES), WINDOW_MAX_BYTES);
    bytes = MIN(bytes, limits->budget / 2) >> limits->damp;
    return MAX(bytes, MIB);
}

uint64_t rmig_plan_window_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits)
{
    return window(pace, limits, is_long(pace) ? AHEAD_ON_LONG_WAY : AHEAD);
}

uint64_t rmig_plan_refill_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits)
{
    uint64_t most = rmig_plan_window_bytes(pace, limits);

    return is_long(pace) ? MIN(window(pace, limits, AHEAD),
                               most - most / 4) : most;
}

uint64_t rmig_plan_request_bytes(const RMigPace *pace,
                                 const RMigPlanLimits *limits,
                                 uint64_t before)
{
    uint64_t least = first(pace, limits->batch ? REQUEST_FIRST_BYTES : MIB);
    uint64_t most = rmig_plan_window_bytes(pace, limits) /
                    (is_long(pace) ? 1 : 2);

    return MAX(MIN(MAX(REQUEST_GROWTH * before, least), most), MIB);
}

uint64_t rmig_plan_span_chunks(const RMigPace *pace,
                               const RMigPlanLimits *limits, uint64_t before)
{
    uint64_t request = rmig_plan_request_bytes(pace, limits, before);
    /* Version 1 has one in a request; else there are some for the workers */
    uint64_t chunks = limits->batch ?
                      MIN(request / MIB / SPANS_IN_REQUEST, SPAN_CHUNKS) :
                      MIN(request / MIB, SPAN_CHUNKS_VERSION_1);

    return MAX(MIN(chunks, limits->budget / MIB / SPANS_IN_BUDGET), 1);
}

bool rmig_plan_page_is_dirty(const RMigBlockHints *hints, uint64_t offset)
{
    uint64_t page = offset >> hints->page_shift;

    return !hints->dirty ||
           (__atomic_load_n(&hints->dirty[page / WORD_BITS],
                            __ATOMIC_RELAXED) >> (page % WORD_BITS) & 1);
}

static uint64_t next_dirty(const RMigBlock *block,
                           const RMigBlockHints *hints, uint64_t from)
{
    uint64_t chunks = rmig_block_chunks(block);
    uint64_t page, pages;

    if (!hints->dirty || from >= chunks) {
        return MIN(from, chunks);
    }
    page = (from << RMIG_CHUNK_SHIFT) >> hints->page_shift;
    pages = (block->length + (UINT64_C(1) << hints->page_shift) - 1) >>
            hints->page_shift;
    while (page < pages) {
        unsigned long word = __atomic_load_n(&hints->dirty[page / WORD_BITS],
                                             __ATOMIC_RELAXED);

        word >>= page % WORD_BITS;
        if (word != 0) {
            page += __builtin_ctzl(word);
            break;
        }
        page += WORD_BITS - page % WORD_BITS;
    }
    if (page >= pages) {
        return chunks;
    }
    /* A page may be larger than a chunk: its first chunk may lie before */
    return MAX((page << hints->page_shift) >> RMIG_CHUNK_SHIFT, from);
}

uint64_t rmig_plan_next_dirty(const RMigBlock *block,
                              const RMigBlockHints *hints, uint64_t from)
{
    uint64_t chunks = rmig_block_chunks(block);
    uint64_t chunk = next_dirty(block, hints, from);

    /* A guest may write to what it has not plugged; nobody is to read it */
    while (chunk < chunks && rmig_block_is_hole(block, chunk)) {
        chunk = next_dirty(block, hints,
                           rmig_block_next_present(block, chunk, chunks));
    }
    return chunk;
}
