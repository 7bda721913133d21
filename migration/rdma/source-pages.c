/*
 * RDMA migration transport: pages handed over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_source_page() of migration/rdma-transport.h: tells zeros from data,
 * gives data to the writer, gathers zeros into runs and sends those.
 * Callers: the face; source.c at the end of a round.
 * Thread: the connection's.
 *
 * A page of data costs, as a rule, a look at its first bytes and what
 * rmig_writer_add() takes: neither a system call nor an allocation, a lock or a
 * completion.  Every PUMP_PAGES pages there is a look around: at what has
 * completed, and at what is to be registered next.
 *
 * A zero page joins a run, and runs queue up for COMPRESS, which goes whenever
 * the destination has said READY and nothing more urgent waits, so that zeros
 * never hold up the writes; a long queue or the end of the round waits.
 *
 * A page that was never touched is zero, and is not even read: a look at the
 * page tables answers for a whole stretch of memory.  That look must come after
 * the dirty log was cleared for it (RMigBlockHints.clear_bytes), so it is made
 * when the first page of the stretch is handed over, and is forgotten at the
 * end of the round.  docs/rdma.txt, "Zero pages".
 */
#include <string.h>

#include "log.h"
#include "source-priv.h"

/* Zero runs that may wait for a READY before we wait for it */
#define ZERO_RUNS_MAX RMIG_WIRE_RECORDS_MAX
/*
 * Where a zero run ends at the latest, and what one message names at the most.
 * The destination looks at every page of it before it says READY again, which
 * must not take longer than we wait for that.
 */
#define ZERO_RUN_MAX_BYTES (UINT64_C(1) << 30)
#define ZERO_MESSAGE_MAX_BYTES (UINT64_C(4) << 30)
/* Zeros that are rather written than told of */
#define HOLE_BYTES (UINT64_C(16) << 10)
#define HOLE_BYTES_VERSION_1 (UINT64_C(128) << 10)
/* How far ahead the caches are told of what comes */
#define PREFETCH_PAGES 8
#define PREFETCH_PAGE_MAX_BYTES 65536
/* Pages between two looks around */
#define PUMP_PAGES 64

/* ---- waiting ---- */

/*
 * Writes may take long on a slow network; but as long as we wait for them one
 * must land now and then.  Messages and the heartbeat do not count.
 */
static bool wait_once(RMigSource *s, const char *what, GError **err)
{
    uint64_t now = rmig_writer_landed_bytes(&s->writer);

    if (now != s->waited_for || !s->wait_until_us) {
        s->waited_for = now;
        s->wait_until_us = g_get_monotonic_time() +
                           RMIG_CONTROL_TIMEOUT_MS * INT64_C(1000);
    }
    return rmig_link_step(s->main.link, s->wait_until_us, what, err);
}

/* While the wire is full there is time to see to what comes next */
static bool wait_for_room(RMigSource *s, const RMigBlock *block,
                          uint64_t chunk, GError **err)
{
    s->wait_until_us = 0;
    while (!rmig_writer_has_room(&s->writer)) {
        if (!rmig_ahead_pump(s, block, chunk, err)) {
            return false;
        }
        if (!rmig_writer_has_room(&s->writer) &&
            !wait_once(s, "room in the send queue", err)) {
            return false;
        }
    }
    return true;
}

bool rmig_source_wait_for_writes(RMigSource *s, GError **err)
{
    s->wait_until_us = 0;
    while (!rmig_writer_is_idle(&s->writer) &&
           s->writer.wire_bytes > rmig_plan_way_bytes(&s->ahead.pace)) {
        if (!wait_once(s, "RDMA Writes to complete", err)) {
            return false;
        }
    }
    return true;
}

bool rmig_source_flush_pages(RMigSource *s, GError **err)
{
    s->wait_until_us = 0;
    while (!rmig_writer_has_room(&s->writer)) {
        if (!wait_once(s, "room in the send queue", err)) {
            return false;
        }
    }
    return rmig_writer_leave(&s->writer, err);
}

/* ---- data ---- */

static bool add_data(RMigSource *s, const RMigBlock *block, uint64_t offset,
                     uint64_t len, GError **err)
{
    while (len > 0) {
        uint64_t chunk = rmig_block_chunk_of(offset);
        uint64_t part = len;

        if (!rmig_writer_covers(&s->writer, block, offset, len)) {
            RMigSpan *span = rmig_ahead_need(s, block, chunk, err);

            if (!span) {
                return false;
            }
            rmig_writer_enter(&s->writer, span);
            part = MIN(len, s->writer.span_end - offset);
        }
        if ((!rmig_writer_has_room(&s->writer) &&
             !wait_for_room(s, block, chunk, err)) ||
            !rmig_writer_add(&s->writer, offset, part, err)) {
            return false;
        }
        offset += part;
        len -= part;
    }
    return true;
}

/* ---- zeros ---- */

unsigned rmig_source_zeros_waiting(const RMigSource *s)
{
    return s->zero_queue->len - s->zeros_sent;
}

bool rmig_source_send_zeros(RMigSource *s, GError **err)
{
    uint32_t most = rmig_source_batches(s) ? RMIG_WIRE_RECORDS_MAX : 1;
    uint64_t bytes = 0;
    uint32_t n = 0;
    uint8_t *data = rmig_ahead_settle(s, err) ? rmig_source_compose(s, err) :
                    NULL;

    if (!data) {
        return false;
    }
    while (n < most && s->zeros_sent < s->zero_queue->len) {
        const RMigZeroRun *run = &g_array_index(s->zero_queue, RMigZeroRun,
                                                s->zeros_sent);
        RMigWireZeroRun record = {
            .block = run->block->index,
            .offset = run->block->remote_offset + run->offset,
            .length = run->bytes,
        };

        if (n > 0 && bytes + run->bytes > ZERO_MESSAGE_MAX_BYTES) {
            break;
        }
        rmig_wire_zero_run_pack(data + n * RMIG_WIRE_ZERO_RUN_BYTES, &record);
        bytes += run->bytes;
        s->zeros_sent++;
        n++;
    }
    if (s->zeros_sent == s->zero_queue->len) {
        g_array_set_size(s->zero_queue, 0);
        s->zeros_sent = 0;
    }
    s->count.zero_runs += n;
    return rmig_source_command(s, RMIG_WIRE_COMPRESS,
                               n * RMIG_WIRE_ZERO_RUN_BYTES, n, err);
}

/*
 * A small hole in memory that is registered anyway is sooner written than told
 * of, as what stands around it then becomes one write.  With a peer of version
 * 1 every run would be a message of its own, too, and wait for a READY.
 */
static uint64_t hole_max(const RMigSource *s)
{
    return rmig_source_batches(s) ? HOLE_BYTES : HOLE_BYTES_VERSION_1;
}

static bool is_hole(RMigSource *s)
{
    const RMigZeroRun *run = &s->zero_run;
    RMigSpan *span;

    if (run->bytes > hole_max(s)) {
        return false;
    }
    span = rmig_mr_table_find(&s->ahead.local, run->block,
                              rmig_block_chunk_of(run->offset));
    return span && rmig_span_is_usable(span) &&
           run->offset + run->bytes <= (span->first << RMIG_CHUNK_SHIFT) +
                                       rmig_span_bytes(span);
}

bool rmig_source_queue_zeros(RMigSource *s, GError **err)
{
    RMigZeroRun run = s->zero_run;

    if (run.bytes == 0) {
        return true;
    }
    if (is_hole(s)) {
        s->zero_run.bytes = 0;
        return add_data(s, run.block, run.offset, run.bytes, err);
    }
    g_array_append_val(s->zero_queue, run);
    s->zero_run.bytes = 0;
    return true;
}

static bool add_zero(RMigSource *s, const RMigBlock *block, uint64_t offset,
                     uint64_t len, GError **err)
{
    RMigZeroRun *run = &s->zero_run;

    if (run->bytes > 0 && run->block == block &&
        run->offset + run->bytes == offset &&
        run->bytes + len <= ZERO_RUN_MAX_BYTES) {
        run->bytes += len;
        return true;
    }
    if (!rmig_source_queue_zeros(s, err)) {
        return false;
    }
    *run = (RMigZeroRun) { .block = block, .offset = offset, .bytes = len };
    while (rmig_source_zeros_waiting(s) >= ZERO_RUNS_MAX) {
        if (!rmig_source_send_zeros(s, err)) {
            return false;
        }
    }
    return true;
}

/* ---- what was never touched ---- */

/* Learn about the stretch around @offset, all of which is clean in the log */
static void look_up_stretch(RMigSource *s, const RMigBlock *block,
                            uint64_t offset, uint64_t clear_bytes)
{
    RMigTouched *t = &s->touched;
    uint64_t most = (uint64_t)RMIG_TOUCHED_PAGES * s->page_bytes;
    uint64_t bytes = MIN(clear_bytes, most);

    t->block = block;
    t->start = offset - offset % bytes;
    t->end = t->start + MIN(bytes, block->length - t->start);
    rmig_pages_touched(s->pages, block->host + t->start,
                       (t->end - t->start + s->page_bytes - 1) / s->page_bytes,
                       t->bits);
}

/* Whether [offset, offset + len) was never touched; @len > 0 */
static bool is_untouched(RMigSource *s, const RMigBlock *block,
                         uint64_t offset, uint64_t len)
{
    const RMigBlockHints *hints = rmig_source_hints(s, block);
    /* A power of two, so that such stretches tile those that are cleared */
    uint64_t stretch = hints->clear_bytes & -hints->clear_bytes;
    RMigTouched *t = &s->touched;
    uint64_t first, last;

    if (!hints->anonymous || !s->pages) {
        return false;
    }
    if (t->block != block || offset < t->start || offset >= t->end) {
        look_up_stretch(s, block, offset, MAX(stretch, s->page_bytes));
    }
    if (stretch < s->page_bytes) {
        t->block = NULL; /* it holds for this page alone */
    }
    if (offset + len > t->end) {
        return false;
    }
    first = (offset - t->start) / s->page_bytes;
    last = (offset + len - 1 - t->start) / s->page_bytes;
    for (uint64_t i = first; i <= last; i++) {
        if (t->bits[i / 64] >> (i % 64) & 1) {
            return false;
        }
    }
    return true;
}

/* ---- pages ---- */

static const RMigBlock *find_block(RMigSource *s, uint64_t block_offset,
                                   uint64_t offset, uint64_t len,
                                   GError **err)
{
    if (!s->last_block || s->last_block->offset != block_offset) {
        s->last_block = rmig_blocks_by_offset(&s->blocks, block_offset);
    }
    if (!s->last_block || !rmig_block_contains(s->last_block, offset, len)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "a page at 0x%" G_GINT64_MODIFIER "x of the RAM block at "
                    "0x%" G_GINT64_MODIFIER "x was not announced to the "
                    "destination (was memory plugged or resized during the "
                    "migration?)", (guint64)offset, (guint64)block_offset);
        s->last_block = NULL;
        return NULL;
    }
    return s->last_block;
}

static bool look_around(RMigSource *s, const RMigBlock *block, uint64_t offset,
                        GError **err)
{
    s->pages_left = PUMP_PAGES;
    rmig_source_publish(s);
    return rmig_link_poll(s->main.link, err) >= 0 &&
           rmig_ahead_pump(s, block, rmig_block_chunk_of(offset), err);
}

/*
 * Whether a page is zero shows as a rule in the few places that a check looks
 * at first, and fetching those from memory is what costs.  The next pages are
 * as a rule the next to be handed over.  (GCC drops calls of functions that
 * only prefetch, unless they are inlined early.)
 */
static inline __attribute__((always_inline)) void
prefetch(const RMigBlock *block, uint64_t offset, uint64_t len)
{
    uint64_t ahead = offset + PREFETCH_PAGES * len;

    if (len <= PREFETCH_PAGE_MAX_BYTES && ahead + len <= block->length) {
        const uint8_t *page = block->host + ahead;

        __builtin_prefetch(page);
        __builtin_prefetch(page + len / 2);
        __builtin_prefetch(page + len - 1);
    }
}

/* Whether data at @offset follows a hole that may become part of it */
static bool ends_hole(const RMigSource *s, const RMigBlock *block,
                      uint64_t offset)
{
    const RMigZeroRun *run = &s->zero_run;

    return run->bytes > 0 && run->block == block &&
           run->offset + run->bytes == offset && run->bytes <= hole_max(s);
}

/* @len > 0.  A page larger than a chunk is either plugged or not, too. */
static bool is_all_hole(const RMigBlock *block, uint64_t offset, uint64_t len)
{
    uint64_t end = rmig_block_chunk_of(offset + len - 1) + 1;

    return rmig_block_next_present(block, rmig_block_chunk_of(offset), end) ==
           end;
}

static RMigPage take_page(RMigSource *s, uint64_t block_offset,
                          uint64_t offset, uint64_t len, GError **err)
{
    const RMigBlock *block = find_block(s, block_offset, offset, len, err);

    if (!block) {
        return RMIG_PAGE_FAILED;
    }
    if (s->pages_left-- == 0 && !look_around(s, block, offset, err)) {
        return RMIG_PAGE_FAILED;
    }
    if (block->holes && is_all_hole(block, offset, len)) {
        /* Written to though it is not plugged: that need not be kept */
        s->count.zero_pages++;
        s->count.skipped_pages++;
        return RMIG_PAGE_ZERO;
    }
    if (s->config.is_zero) {
        bool untouched = is_untouched(s, block, offset, len);

        prefetch(block, offset, len);
        if (untouched || s->config.is_zero(block->host + offset, len)) {
            s->count.zero_pages++;
            s->count.skipped_pages += untouched;
            return add_zero(s, block, offset, len, err) ? RMIG_PAGE_ZERO :
                                                          RMIG_PAGE_FAILED;
        }
    }
    s->count.data_pages++;
    if (ends_hole(s, block, offset) && !rmig_source_queue_zeros(s, err)) {
        return RMIG_PAGE_FAILED;
    }
    return add_data(s, block, offset, len, err) ? RMIG_PAGE_DATA :
                                                  RMIG_PAGE_FAILED;
}

RMigPage rmig_source_page(RMigSource *s, uint64_t block_offset,
                          uint64_t offset, uint64_t len, GError **err)
{
    RMigPage page = RMIG_PAGE_FAILED;
    GError *local = NULL;

    if (rmig_link_check(s->main.link, &local)) {
        page = take_page(s, block_offset, offset, len, &local);
    }
    if (page == RMIG_PAGE_FAILED) {
        rmig_link_fail(s->main.link, g_error_copy(local));
        g_propagate_error(err, local);
    }
    return page;
}
