/*
 * RDMA migration transport: registration ahead of the writer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: decides what is registered, so that what the writer comes to next is;
 * waits for what is not.  source-spans.c does it.
 * Callers: source.c, source-pages.c.
 * Thread: the connection's.
 *
 * From where the writer is, the dirty bitmap is followed as far as plan.h says:
 * the window.  Chunks with data that are not registered become spans, while
 * earlier ones are written.  A page whose span is not ready waits for it, and
 * that is counted as a stall.
 */
#include <string.h>

#include "log.h"
#include "source-priv.h"

/* Chunks that are looked at in one go */
#define LOOK_MAX 256
/*
 * Pin-all: what is registered here while it waits to be asked for there, and
 * what waits to be registered here, enough for all workers
 */
#define REST_BYTES (UINT64_C(256) << 20)
#define REST_HERE_BYTES (UINT64_C(128) << 20)
/* Chunks of a span that is already waited for */
#define NEEDED_CHUNKS 4
/* Pages of a chunk that are looked at to guess whether it has data */
#define PROBES 16
/* Of a bitmap with a bit for each page, of 4 KiB at the least, of a chunk */
#define CHUNK_WORDS (RMIG_CHUNK_BYTES / 4096 / 64)

static void enter_window(RMigAhead *a, RMigSpan *span)
{
    span->in_window = true;
    span->was_next = true;
    span->pins++;
    a->window_bytes += rmig_span_bytes(span);
    g_queue_push_tail(&a->window, span);
}

static RMigSpan *leave_window(RMigAhead *a)
{
    RMigSpan *span = g_queue_pop_head(&a->window);

    span->in_window = false;
    span->pins--;
    a->window_bytes -= rmig_span_bytes(span);
    return span;
}

void rmig_ahead_forget(RMigAhead *a, RMigSpan *span)
{
    if (span->in_window) {
        g_queue_remove(&a->window, span);
        span->in_window = false;
        span->pins--;
        a->window_bytes -= rmig_span_bytes(span);
    }
}

static void empty_window(RMigAhead *a)
{
    while (!g_queue_is_empty(&a->window)) {
        leave_window(a);
    }
}

/* ---- what comes next ---- */

/* Bit i: page i of @chunk may have data, as far as is known without reading */
static void look_up_touched(const RMigSource *s, const RMigBlock *block,
                            uint64_t chunk, uint64_t *bits)
{
    uint64_t bytes = rmig_block_chunk_bytes(block, chunk);

    if (rmig_source_hints(s, block)->anonymous) {
        rmig_pages_touched(s->pages,
                           block->host + (chunk << RMIG_CHUNK_SHIFT),
                           (bytes + s->page_bytes - 1) / s->page_bytes, bits);
    } else {
        memset(bits, 0xff, CHUNK_WORDS * sizeof(*bits));
    }
}

/* Whether @chunk is worth a registration: it looks as if it had data to send */
static bool is_promising(const RMigSource *s, const RMigBlock *block,
                         uint64_t chunk)
{
    const RMigBlockHints *hints = rmig_source_hints(s, block);
    uint64_t start = chunk << RMIG_CHUNK_SHIFT;
    uint64_t bytes = rmig_block_chunk_bytes(block, chunk);
    uint64_t stride = MAX(bytes / PROBES / s->page_bytes, 1) * s->page_bytes;
    uint64_t touched[CHUNK_WORDS];
    uint64_t step;

    if (!s->config.is_zero) {
        return true;
    }
    look_up_touched(s, block, chunk, touched);
    for (uint64_t at = 0; at < bytes; at += step) {
        uint64_t i = at / s->page_bytes;

        step = s->page_bytes;
        if ((touched[i / 64] >> (i % 64) & 1) &&
            rmig_plan_page_is_dirty(hints, start + at)) {
            if (!s->config.is_zero(block->host + start + at,
                                   MIN(s->page_bytes, bytes - at))) {
                return true;
            }
            step = stride;
        }
    }
    return false;
}

static bool is_next(const RMigSource *s, const RMigBlock *block, uint64_t chunk)
{
    return !rmig_mr_table_find(&s->ahead.local, block, chunk) &&
           rmig_plan_next_dirty(block, rmig_source_hints(s, block), chunk) ==
           chunk && is_promising(s, block, chunk);
}

/* How many chunks from @chunk on, which is taken for granted, share a span */
static uint64_t span_from(const RMigSource *s, const RMigBlock *block,
                          uint64_t chunk, uint64_t most)
{
    uint64_t end = MIN(chunk + most, rmig_block_chunks(block));
    uint64_t next = chunk + 1;

    while (next < end && is_next(s, block, next)) {
        next++;
    }
    return next - chunk;
}

static uint64_t most_chunks(const RMigSource *s)
{
    const RMigAhead *a = &s->ahead;

    return rmig_plan_span_chunks(&a->pace, &a->limits, a->asked_bytes);
}

/* Moves @next_* to the next chunk of the round with dirty pages */
static const RMigBlock *find_next(RMigSource *s)
{
    RMigAhead *a = &s->ahead;

    while (a->next_block < rmig_blocks_count(&s->blocks)) {
        const RMigBlock *block = rmig_blocks_get(&s->blocks, a->next_block);

        a->next_chunk = rmig_plan_next_dirty(block,
                                             rmig_source_hints(s, block),
                                             a->next_chunk);
        if (a->next_chunk < rmig_block_chunks(block)) {
            return block;
        }
        a->next_block++;
        a->next_chunk = 0;
    }
    return NULL;
}

/*
 * Under a budget everything that was written is in the way of what comes next:
 * letting it go early keeps the writer from waiting for it.
 */
static void make_headroom(RMigSource *s)
{
    RMigAhead *a = &s->ahead;
    uint64_t window = rmig_plan_window_bytes(&a->pace, &a->limits);
    const RMigBlock *next;

    if (a->limits.budget == UINT64_MAX) {
        return;
    }
    next = find_next(s);
    if (next && !rmig_mr_table_find(&a->local, next, a->next_chunk)) {
        rmig_ahead_make_room(s, MIN(a->limits.budget / 4, window));
    }
}

static void fill_window(RMigSource *s)
{
    RMigAhead *a = &s->ahead;
    uint64_t goal = rmig_plan_window_bytes(&a->pace, &a->limits);

    if (a->window_bytes >= goal) {
        a->filling = false;
    } else if (a->window_bytes < rmig_plan_refill_bytes(&a->pace,
                                                        &a->limits)) {
        a->filling = true;
    }
    if (!a->filling) {
        return;
    }
    for (unsigned i = 0; i < LOOK_MAX && a->window_bytes < goal; i++) {
        const RMigBlock *block = find_next(s);
        uint64_t chunk = a->next_chunk;
        RMigSpan *span;
        uint64_t n;

        if (!block) {
            return;
        }
        span = rmig_mr_table_find(&a->local, block, chunk);
        if (!span && !is_promising(s, block, chunk)) {
            a->next_chunk = chunk + 1;
            continue;
        }
        if (!span && !a->limits.batch && !g_queue_is_empty(&a->to_ask)) {
            /* One in a request: how large it may be is known when it goes */
            return;
        }
        if (!span) {
            n = span_from(s, block, chunk, most_chunks(s));
            if (!rmig_ahead_make_room(s, rmig_block_span_bytes(block, chunk,
                                                               n))) {
                return;
            }
            span = rmig_span_make(s, block, chunk, n);
        }
        if (!span->in_window) {
            enter_window(a, span);
        }
        a->next_chunk = span->first + span->n;
    }
}

/* Pin-all with a peer of our own: all the rest, as fast as it goes */
static void fill_rest(RMigSource *s)
{
    RMigAhead *a = &s->ahead;
    uint64_t most = most_chunks(s);

    for (unsigned i = 0; i < LOOK_MAX && a->pin_left > 0 &&
         a->to_ask_bytes < REST_BYTES &&
         a->local.registering_bytes < REST_HERE_BYTES; i++) {
        const RMigBlock *block;
        uint64_t n = 1, chunks;
        RMigSpan *span;

        if (a->next_block >= rmig_blocks_count(&s->blocks)) {
            a->next_block = 0;
            a->next_chunk = 0;
        }
        block = rmig_blocks_get(&s->blocks, a->next_block);
        chunks = rmig_block_chunks(block);
        a->next_chunk = rmig_block_next_present(block, a->next_chunk, chunks);
        if (a->next_chunk >= chunks) {
            a->next_block++;
            a->next_chunk = 0;
            continue;
        }
        span = rmig_mr_table_find(&a->local, block, a->next_chunk);
        if (!span) {
            uint64_t end = MIN(a->next_chunk + most, chunks);

            end = rmig_block_next_hole(block, a->next_chunk, end);
            while (n < end - a->next_chunk &&
                   !rmig_mr_table_find(&a->local, block, a->next_chunk + n)) {
                n++;
            }
            if (!rmig_ahead_fits(a, rmig_block_span_bytes(block,
                                                          a->next_chunk,
                                                          n))) {
                /* Not all can be had: from here on what is needed next */
                a->no_rest = true;
                return;
            }
            span = rmig_span_make(s, block, a->next_chunk, n);
        }
        a->next_chunk = span->first + span->n;
    }
}

/* The writer is at @chunk: what stands before it in the window is passed by */
static void pass_by(RMigSource *s, const RMigBlock *block, uint64_t chunk)
{
    RMigAhead *a = &s->ahead;
    RMigSpan *span;

    while ((span = g_queue_peek_head(&a->window)) &&
           (span->block->index < block->index ||
            (span->block == block && span->first + span->n <= chunk))) {
        leave_window(a);
    }
}

/*
 * Look from @chunk on, if the writer has overtaken the look-ahead or gone back,
 * as it does once a round at the end of the last block
 */
static void follow(RMigSource *s, const RMigBlock *block, uint64_t chunk)
{
    RMigAhead *a = &s->ahead;

    if (!a->found || a->next_block < block->index ||
        (a->next_block == block->index && a->next_chunk < chunk) ||
        block->index < a->at_block ||
        (block->index == a->at_block && chunk < a->at_chunk)) {
        empty_window(a);
        a->next_block = block->index;
        a->next_chunk = chunk;
        a->found = true;
    }
    a->at_block = block->index;
    a->at_chunk = chunk;
}

/* Pin-all, in the background of the migration */
static bool is_rest(const RMigSource *s)
{
    return (s->granted & RMIG_WIRE_FLAG_PIN_ALL) && rmig_source_batches(s) &&
           !s->ahead.no_rest;
}

/*
 * How much may be on the wire; now and then nothing, to measure the way.  What
 * is held back leaves before that, as what is timed is to be small.
 */
static bool see_pace(RMigSource *s, GError **err)
{
    const RMigAhead *a = &s->ahead;
    RMigWriter *w = &s->writer;

    w->wire_max = rmig_plan_wire_bytes(&a->pace, &a->limits);
    if (w->drains || w->has_alone || !rmig_writer_has_room(w) ||
        !rmig_pace_is_stale(&a->pace, g_get_monotonic_time())) {
        return true;
    }
    if (!rmig_writer_flush(w, err)) {
        return false;
    }
    w->drains = !w->has_alone;
    return true;
}

/*
 * What follows from what was heard.  @fill: whether memory may be registered
 * ahead now
 */
static bool look_around(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                        bool fill, GError **err)
{
    /* Before speaking: what an answer made room for goes into one request */
    if (!rmig_source_pinned_before(s)) {
        follow(s, block, chunk);
        pass_by(s, block, chunk);
        if (fill && is_rest(s)) {
            fill_rest(s);
        } else if (fill) {
            make_headroom(s);
            fill_window(s);
        }
    }
    return see_pace(s, err) && rmig_ahead_speak(s, err);
}

bool rmig_ahead_pump(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                     GError **err)
{
    return rmig_ahead_listen(s, err) &&
           look_around(s, block, chunk, true, err);
}

void rmig_ahead_end_round(RMigSource *s)
{
    empty_window(&s->ahead);
    if (!is_rest(s)) {
        s->ahead.found = false;
    }
}

/* ---- what is needed now ---- */

/* The own device has refused: that is the error, if nothing was in the way */
static bool take_refusal(RMigSource *s, RMigSpan *span, GError **err)
{
    g_autoptr(GError) why = g_error_copy(span->error);
    bool single = span->n == 1;
    bool alone = span->alone;

    RMIG_LOG("source: %s", why->message);
    rmig_ahead_forget(&s->ahead, span);
    rmig_span_drop(s, span);
    if (g_error_matches(why, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_UNPINNABLE) ||
        (single && rmig_ahead_is_hopeless(s, alone))) {
        g_propagate_error(err, g_steal_pointer(&why));
        return false;
    }
    return true;
}

/* A span for @chunk, before what only comes later; if there is room */
static void make_needed(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                        RMigStall *why)
{
    RMigAhead *a = &s->ahead;
    uint64_t n = span_from(s, block, chunk, MIN(most_chunks(s),
                                                NEEDED_CHUNKS));

    while (n > 1 &&
           !rmig_ahead_fits(a, rmig_block_span_bytes(block, chunk, n))) {
        n--;
    }
    if (!rmig_ahead_make_room(s, rmig_block_span_bytes(block, chunk, n))) {
        *why = RMIG_STALL_BUDGET;
        if (a->local.budget.leaving == 0 && a->peer.leaving == 0 &&
            !g_queue_is_empty(&a->window)) {
            /* What comes later is all that is in the way */
            empty_window(a);
            a->exchanges++;
        }
        return;
    }
    if (*why == RMIG_STALL_LATE) {
        *why = RMIG_STALL_UNKNOWN;
    }
    rmig_span_make(s, block, chunk, n);
}

/* Both halves of what is waited for come before all that only comes later */
static void hurry(RMigAhead *a, RMigSpan *span)
{
    rmig_span_hurry(span);
    if (span->peer == RMIG_PEER_NONE && g_queue_remove(&a->to_ask, span)) {
        g_queue_push_head(&a->to_ask, span);
    }
}

/*
 * One step towards @chunk being registered; NULL: not yet, or an error.
 * *@why: what it waits for
 */
static RMigSpan *come_nearer(RMigSource *s, const RMigBlock *block,
                             uint64_t chunk, RMigStall *why, GError **err)
{
    RMigSpan *span;

    if (!rmig_ahead_listen(s, err)) {
        return NULL;
    }
    /* At once: looking further might let it go for what comes later */
    span = rmig_mr_table_find(&s->ahead.local, block, chunk);
    if (span && rmig_span_is_usable(span)) {
        return span;
    }
    if (span && span->peer == RMIG_PEER_NEVER) {
        g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_UNPINNABLE,
                    "the destination cannot pin this memory, and no limit is "
                    "in the way: it is read-only there, damaged, or a file of "
                    "a file system with DAX; the destination's log has the "
                    "error");
        return NULL;
    }
    if (span && span->state == RMIG_SPAN_FAILED &&
        span->peer != RMIG_PEER_ASKED) {
        if (!take_refusal(s, span, err)) {
            return NULL;
        }
        span = NULL;
    }
    if (!span) {
        make_needed(s, block, chunk, why);
    }
    /* What is held back need not wait, nor what it keeps */
    if (rmig_writer_has_room(&s->writer) &&
        !rmig_writer_leave(&s->writer, err)) {
        return NULL;
    }
    span = rmig_mr_table_find(&s->ahead.local, block, chunk);
    if (span) {
        hurry(&s->ahead, span);
    }
    if (!look_around(s, block, chunk, span != NULL, err)) {
        return NULL;
    }
    span = rmig_mr_table_find(&s->ahead.local, block, chunk);
    return span && rmig_span_is_usable(span) ? span : NULL;
}

/* Changes with whatever happens, none of which is announced twice */
static uint64_t events_now(const RMigSource *s)
{
    bool answered = s->ahead.waiting != RMIG_WIRE_NONE &&
                    rmig_control_has_answer(s->main.control);

    return ((s->ahead.exchanges + s->ahead.reaped) << 16) +
           2 * rmig_verbs_sends_in_flight(s->writer.verbs) + answered;
}

/*
 * Changes with what brings @span nearer.  Not with the heartbeat, which goes
 * on as long as the destination's NIC does, whatever its program is at; nor,
 * while it is the destination's half that is missing, with the work here.
 */
static uint64_t progress_now(const RMigSource *s, const RMigSpan *span)
{
    const RMigAhead *a = &s->ahead;
    uint64_t theirs = a->exchanges + rmig_writer_landed_bytes(&s->writer);

    return span && span->peer != RMIG_PEER_READY ? theirs :
           theirs + a->reaped;
}

/* How long the wait for @chunk may go on; begins with an all-zero struct */
typedef struct Patience {
    uint64_t progress;
    int64_t deadline_us;
} Patience;

/* Until when something must happen */
static int64_t patience_ends(const RMigSource *s, Patience *patience,
                             const RMigBlock *block, uint64_t chunk)
{
    const RMigAhead *a = &s->ahead;
    const RMigSpan *span = rmig_mr_table_find(&a->local, block, chunk);
    uint64_t now = progress_now(s, span);

    if (!patience->deadline_us || now != patience->progress) {
        patience->progress = now;
        patience->deadline_us = rmig_ahead_deadline(
            span ? rmig_span_bytes(span) : RMIG_CHUNK_BYTES);
    }
    /* What is asked for has a deadline of its own, and comes first */
    return a->waiting != RMIG_WIRE_NONE ? a->deadline_us :
                                          patience->deadline_us;
}

static RMigSpan *wait_for_span(RMigSource *s, const RMigBlock *block,
                               uint64_t chunk, GError **err)
{
    RMigAhead *a = &s->ahead;
    int64_t start = g_get_monotonic_time();
    RMigStall why = RMIG_STALL_LATE;
    uint64_t events = UINT64_MAX;
    Patience patience = { 0 };
    GError *local = NULL;
    RMigSpan *span;

    while (!(span = come_nearer(s, block, chunk, &why, &local))) {
        uint64_t now = events_now(s);
        int64_t deadline = patience_ends(s, &patience, block, chunk);
        bool moved = now != events;

        events = now;
        if (!local && moved && a->refused < RMIG_REFUSALS_MAX) {
            continue; /* it may be what was waited for */
        }
        if (local || !rmig_link_step(s->main.link, deadline,
                                     "memory to be registered on both sides",
                                     &local)) {
            g_propagate_prefixed_error(err, local, "RAM block %s, chunk %"
                                       G_GUINT64_FORMAT ": ", block->name,
                                       (guint64)chunk);
            return NULL;
        }
    }
    s->count.stalls[why]++;
    s->count.stall_ns[why] += (g_get_monotonic_time() - start) * 1000;
    rmig_source_publish(s);
    return span;
}

RMigSpan *rmig_ahead_need(RMigSource *s, const RMigBlock *block,
                          uint64_t chunk, GError **err)
{
    RMigAhead *a = &s->ahead;
    RMigSpan *span = rmig_mr_table_find(&a->local, block, chunk);

    if (!span || !rmig_span_is_usable(span)) {
        rmig_jobs_reap(s->jobs);
        span = wait_for_span(s, block, chunk, err);
        if (!span) {
            return NULL;
        }
    }
    a->refused = 0;
    if (!span->written) {
        rmig_ahead_used_well(a);
    }
    pass_by(s, block, chunk);
    return span;
}
