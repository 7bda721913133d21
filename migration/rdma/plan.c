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
/* How long the wire is to go on without this thread */
#define WIRE_US 2000
#define WIRE_OF_BUDGET 8
#define WIRE_MIN_BYTES (2 * MIB)
#define WIRE_FIRST_BYTES (8 * MIB)
#define WIRE_MAX_BYTES (64 * MIB)
#define WINDOW_MIN_BYTES (16 * MIB)
#define WINDOW_MAX_BYTES (1024 * MIB)
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

void rmig_pace_wrote(RMigPace *pace, uint64_t bytes, int64_t us)
{
    pace->part_bytes += bytes;
    pace->part_us += us;
    if (pace->part_us < SAMPLE_US) {
        return;
    }
    pace->rate = weigh(pace->rate, saturate((double)pace->part_bytes *
                                            G_USEC_PER_SEC / pace->part_us));
    pace->part_bytes = 0;
    pace->part_us = 0;
}

void rmig_pace_answered(RMigPace *pace, int64_t us)
{
    us = MIN(us, (int64_t)MOST);
    /* Too short a window stalls, too long a one only pins: rise at once */
    pace->latency_us = MAX((int64_t)weigh(pace->latency_us, us), us);
}

/* What the writer does in @us */
static uint64_t bytes_in(const RMigPace *pace, int64_t us)
{
    return saturate((double)pace->rate * us / G_USEC_PER_SEC);
}

uint64_t rmig_plan_wire_bytes(const RMigPace *pace,
                              const RMigPlanLimits *limits)
{
    uint64_t bytes = pace->rate == 0 ? WIRE_FIRST_BYTES :
                     CLAMP(bytes_in(pace, WIRE_US), WIRE_MIN_BYTES,
                           WIRE_MAX_BYTES);

    return MAX(MIN(bytes, limits->budget / WIRE_OF_BUDGET), MIB);
}

uint64_t rmig_plan_window_bytes(const RMigPace *pace,
                                const RMigPlanLimits *limits)
{
    uint64_t bytes = 2 * bytes_in(pace, pace->latency_us) +
                     rmig_plan_wire_bytes(pace, limits);

    bytes = CLAMP(bytes, WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
    bytes = MIN(bytes, limits->budget / 2) >> limits->damp;
    return MAX(bytes, MIB);
}

uint64_t rmig_plan_request_bytes(const RMigPace *pace,
                                 const RMigPlanLimits *limits,
                                 uint64_t before)
{
    uint64_t first = limits->batch ? REQUEST_FIRST_BYTES : MIB;
    uint64_t most = rmig_plan_window_bytes(pace, limits) / 2;

    return MAX(MIN(MAX(REQUEST_GROWTH * before, first), most), MIB);
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
        chunk = next_dirty(block, hints, rmig_block_next_present(block, chunk));
    }
    return chunk;
}
