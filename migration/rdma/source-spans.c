/*
 * RDMA migration transport: spans on both sides
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: makes spans and lets them go, within both sides' budgets; asks the
 * destination for its halves, releases them, takes its answers.
 * Callers: source-ahead.c decides what is to be registered, source.c.
 * Thread: the connection's; registering itself is done by the jobs' workers,
 * here and at the destination.
 *
 * A span's local half is given to the workers when it is made; its remote half
 * waits in to_ask until the destination is ready for a command.  One command
 * is under way at a time; while it is answered the next ones gather.
 *
 * Without room in a budget the span that was used the longest ago is let go:
 * here at once, there by UNREGISTER_REQUEST.  Neither one that the NIC may
 * still name, nor one of the window, nor the one that is being written (pins).
 * What is being let go is charged until it is gone, so a new span waits for it.
 *
 * A refusal, the destination's (a key of 0) or the own device's, lowers that
 * budget to what there is.  The span is dropped on both sides and asked for
 * again when its pages come, chunk by chunk if need be; only a chunk that
 * cannot be had with nothing else registered, and not at the next tries either,
 * ends the migration.  Memory that cannot be pinned however much room there is
 * ends it as soon as something of it is to be written.
 */
#include <string.h>

#include "log.h"
#include "source-priv.h"

/* Pinning is slow on some systems: more to wait for each GiB */
#define PIN_MS_PER_GIB 10000
/* Spans that are used before an unused one is forgiven */
#define WELL_USED 64
#define DAMP_MAX 4
/* Zero runs that may wait for what is more urgent */
#define ZEROS_PATIENT 256

bool rmig_ahead_init(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    RMigVerbs *verbs = rmig_link_verbs(s->main.link);
    uint32_t n = rmig_blocks_count(&s->blocks);
    uint64_t limit = rmig_pin_room(s->config.pin_limit);

    rmig_mr_table_init(&a->local, verbs, s->jobs, &s->blocks, false, limit);
    rmig_budget_init(&a->peer, s->peer_pin_bytes);
    a->evicted = g_new0(uint8_t *, n);
    for (uint32_t i = 0; i < n; i++) {
        const RMigBlock *block = rmig_blocks_get(&s->blocks, i);
        uint64_t chunks = rmig_block_chunks(block);

        a->evicted[i] = g_new0(uint8_t, chunks / 8 + 1);
        a->pin_left += chunks;
        for (uint64_t c = rmig_block_next_hole(block, 0, chunks); c < chunks;
             c = rmig_block_next_hole(block, c + 1, chunks)) {
            a->pin_left--;
        }
    }
    g_queue_init(&a->window);
    g_queue_init(&a->to_ask);
    g_queue_init(&a->to_release);
    a->asked = g_ptr_array_new();
    a->limits.batch = rmig_source_batches(s);
    if (MIN(limit, a->peer.ceiling) < 2 * RMIG_CHUNK_BYTES) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s may pin only %" G_GUINT64_FORMAT " KiB of guest "
                    "memory, %" G_GUINT64_FORMAT " KiB are the least: "
                    "raise its memory-lock limit " RMIG_MEMLOCK_WAYS
                    " or its rdma-pin-limit",
                    limit < a->peer.ceiling ? "this host" : "the destination",
                    (guint64)MIN(limit, a->peer.ceiling) >> 10,
                    (guint64)2 * RMIG_CHUNK_BYTES >> 10);
        return false;
    }
    return true;
}

void rmig_ahead_cleanup(RMigSource *s, RMigMrTable *table)
{
    RMigAhead *a = &s->ahead;

    if (!a->asked) {
        return;
    }
    *table = a->local;
    for (uint32_t i = 0; i < rmig_blocks_count(&s->blocks); i++) {
        g_free(a->evicted[i]);
    }
    g_free(a->evicted);
    g_queue_clear(&a->window);
    g_queue_clear(&a->to_ask);
    g_queue_clear_full(&a->to_release, g_free);
    g_ptr_array_unref(a->asked);
    memset(a, 0, sizeof(*a));
}

int64_t rmig_ahead_timeout_ms(uint64_t bytes)
{
    return RMIG_CONTROL_TIMEOUT_MS + (int64_t)(bytes >> 30) * PIN_MS_PER_GIB;
}

int64_t rmig_ahead_deadline(uint64_t bytes)
{
    return g_get_monotonic_time() + rmig_ahead_timeout_ms(bytes) * 1000;
}

void rmig_ahead_landed(RMigSource *s)
{
    RMigAhead *a = &s->ahead;

    if (a->waiting != RMIG_WIRE_NONE) {
        a->deadline_us = rmig_ahead_deadline(a->waiting_bytes);
    }
}

static void see_limits(RMigAhead *a)
{
    a->limits.budget = MIN(a->local.budget.limit, a->peer.limit);
}

static void remember_evicted(RMigAhead *a, const RMigSpan *span)
{
    for (uint64_t c = span->first; c < span->first + span->n; c++) {
        a->evicted[span->block->index][c / 8] |= 1u << (c % 8);
    }
}

static void count_again(RMigSource *s, const RMigSpan *span)
{
    for (uint64_t c = span->first; c < span->first + span->n; c++) {
        if (s->ahead.evicted[span->block->index][c / 8] >> (c % 8) & 1) {
            s->count.chunks_again++;
        }
    }
}

/* Both halves are asked for, or about to be; there must be room for them */
RMigSpan *rmig_span_make(RMigSource *s, const RMigBlock *block,
                         uint64_t first, uint64_t n)
{
    RMigAhead *a = &s->ahead;
    RMigSpan *span = rmig_span_register(&a->local, block, first, n);

    rmig_budget_charge(&a->peer, rmig_span_bytes(span));
    rmig_span_install(span);
    g_queue_push_tail(&a->to_ask, span);
    a->to_ask_bytes += rmig_span_bytes(span);
    a->pin_left -= n;
    return span;
}

/* Nothing pins it, and its request is not under way */
void rmig_span_drop(RMigSource *s, RMigSpan *span)
{
    RMigAhead *a = &s->ahead;
    uint64_t bytes = rmig_span_bytes(span);

    g_assert(span->pins == 0 && span->peer != RMIG_PEER_ASKED);
    a->pin_left += span->n;
    if (span->peer == RMIG_PEER_READY) {
        RMigRange range = { span->block, span->first, span->n };

        rmig_budget_leave(&a->peer, bytes);
        g_queue_push_tail(&a->to_release, g_memdup2(&range, sizeof(range)));
    } else {
        if (g_queue_remove(&a->to_ask, span)) {
            a->to_ask_bytes -= bytes;
        }
        a->peer.used -= bytes;
    }
    rmig_span_leave(span);
}

/*
 * Thrash: what is let go before it was used was registered too early.  Not so
 * what pin-all has registered because there was room.
 */
static void damp(RMigAhead *a, const RMigSpan *evicted)
{
    if (evicted->was_next && !evicted->written && a->limits.damp < DAMP_MAX) {
        a->limits.damp++;
        a->used_well = 0;
    }
}

void rmig_ahead_used_well(RMigAhead *a)
{
    if (++a->used_well >= WELL_USED && a->limits.damp > 0) {
        a->limits.damp--;
        a->used_well = 0;
    }
}

/* Where the writer is, or waits to be: nothing else may take its place */
static bool is_at(const RMigAhead *a, const RMigSpan *span)
{
    return span->block->index == a->at_block && span->first <= a->at_chunk &&
           a->at_chunk < span->first + span->n;
}

/* The one that was used the longest ago, of those that nothing keeps */
static RMigSpan *find_coldest(const RMigAhead *a)
{
    for (GList *l = a->local.spans.head; l; l = l->next) {
        RMigSpan *span = l->data;

        if (span->pins == 0 && !is_at(a, span) &&
            span->state != RMIG_SPAN_REGISTERING &&
            span->peer != RMIG_PEER_ASKED) {
            return span;
        }
    }
    return NULL;
}

static void evict(RMigSource *s, RMigSpan *span)
{
    s->count.chunks_evicted += span->n;
    remember_evicted(&s->ahead, span);
    damp(&s->ahead, span);
    rmig_span_drop(s, span);
}

/*
 * A refusal may pass, as what others have pinned comes and goes.  The budget
 * is not lowered below a chunk, and a short one may fit into that for ever: so
 * what else is registered makes way, a span for each refusal, be it of the
 * window.
 */
bool rmig_ahead_is_hopeless(RMigSource *s, bool alone)
{
    RMigAhead *a = &s->ahead;
    RMigSpan *coldest, *later;

    a->refused++;
    if (alone) {
        return a->refused >= RMIG_REFUSALS_MAX;
    }
    while (!(coldest = find_coldest(a)) &&
           (later = g_queue_peek_tail(&a->window))) {
        rmig_ahead_forget(a, later);
    }
    if (coldest) {
        evict(s, coldest);
    }
    return false;
}

bool rmig_ahead_fits(const RMigAhead *a, uint64_t bytes)
{
    return rmig_budget_fits(&a->local.budget, bytes) &&
           rmig_budget_fits(&a->peer, bytes);
}

bool rmig_ahead_make_room(RMigSource *s, uint64_t bytes)
{
    RMigAhead *a = &s->ahead;

    while (!rmig_budget_will_fit(&a->local.budget, bytes) ||
           !rmig_budget_will_fit(&a->peer, bytes)) {
        RMigSpan *span = find_coldest(a);

        if (!span) {
            return false;
        }
        evict(s, span);
    }
    return rmig_ahead_fits(a, bytes);
}

/* ---- exchanges ---- */

/* The destination's half of @span */
static bool take_result(RMigSource *s, RMigSpan *span,
                        const RMigWireResult *result, GError **err)
{
    RMigAhead *a = &s->ahead;
    uint64_t bytes = rmig_span_bytes(span);
    uint64_t n = span->n;

    if (result->host_addr != span->block->remote_host ||
        (result->rkey == 0 && !rmig_source_batches(s))) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the destination answered the registration of RAM block "
                    "%s, chunk %" G_GUINT64_FORMAT " with rkey 0x%x and a "
                    "block address that is%s the announced one",
                    span->block->name, (guint64)span->first, result->rkey,
                    result->host_addr == span->block->remote_host ? "" :
                                                                    " not");
        return false;
    }
    span->rkey = result->rkey;
    if (!result->rkey && result->reason == RMIG_WIRE_REFUSED_UNPINNABLE) {
        /* That matters if there is anything to write: zeros do without */
        span->peer = RMIG_PEER_NEVER;
        s->count.chunks_refused += n;
        return true;
    }
    span->peer = result->rkey ? RMIG_PEER_READY : RMIG_PEER_NONE;
    if (result->rkey) {
        rmig_budget_granted(&a->peer, bytes);
        count_again(s, span);
        return true;
    }
    s->count.chunks_refused += n;
    rmig_ahead_forget(a, span);
    rmig_budget_refused(&a->peer, bytes);
    a->peer.used += bytes; /* which dropping takes back */
    rmig_span_drop(s, span);
    if (n == 1 && rmig_ahead_is_hopeless(s, a->peer.used == 0)) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the destination cannot pin a single chunk of guest "
                    "memory: raise its memory-lock limit " RMIG_MEMLOCK_WAYS
                    " or its rdma-pin-limit");
        return false;
    }
    return true;
}

static bool take_results(RMigSource *s, const RMigWireMessage *msg,
                         GError **err)
{
    RMigAhead *a = &s->ahead;
    unsigned n = a->asked->len;

    if (msg->n_records != n) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the destination answered a REGISTER_REQUEST of %u "
                    "records with %u", n, msg->n_records);
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        RMigWireResult result;

        rmig_wire_result_unpack(msg, i, &result);
        if (!take_result(s, g_ptr_array_index(a->asked, i), &result, err)) {
            return false;
        }
    }
    return true;
}

/* The answer that is owed; waits for it */
static bool take_answer(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    int64_t left_ms = (a->deadline_us - g_get_monotonic_time()) / 1000;
    bool registers = a->waiting == RMIG_WIRE_REGISTER_REQUEST;
    RMigWireMessage msg;
    int64_t us;

    if (!rmig_control_wait_answer(s->main.control, MAX(left_ms, 1), &msg,
                                  err)) {
        return false;
    }
    us = g_get_monotonic_time() - a->asked_us;
    a->waiting = RMIG_WIRE_NONE;
    a->exchanges++;
    if (registers) {
        rmig_pace_answered(&a->pace, us);
        a->busy_ns += us * 1000;
        if (!take_results(s, &msg, err)) {
            return false;
        }
        g_ptr_array_set_size(a->asked, 0);
    } else {
        rmig_budget_left(&a->peer, a->released_bytes);
    }
    return rmig_control_release(s->main.control, err);
}

bool rmig_ahead_settle(RMigSource *s, GError **err)
{
    return s->ahead.waiting == RMIG_WIRE_NONE || take_answer(s, err);
}

static bool sent(RMigSource *s, RMigWireType type, uint64_t bytes,
                 uint32_t len, uint32_t n, GError **err)
{
    RMigAhead *a = &s->ahead;

    if (!rmig_source_command(s, type, len, n, err)) {
        return false;
    }
    a->waiting = type;
    a->asked_us = g_get_monotonic_time();
    a->waiting_bytes = bytes;
    a->deadline_us = rmig_ahead_deadline(bytes);
    a->exchanges++;
    return true;
}

/*
 * Chunks of @span were let go, and the destination has not been told: that must
 * come before they are asked for again, or it would let go what was asked for.
 */
static bool comes_back(const RMigAhead *a, const RMigSpan *span)
{
    for (GList *l = a->to_release.head; l; l = l->next) {
        const RMigRange *range = l->data;

        if (range->block == span->block &&
            range->first < span->first + span->n &&
            span->first < range->first + range->n) {
            return true;
        }
    }
    return false;
}

/* REGISTER_REQUEST for what waits; there is a READY */
static bool ask(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    uint32_t most = rmig_source_batches(s) ? RMIG_WIRE_RECORDS_MAX : 1;
    uint64_t most_bytes = rmig_plan_request_bytes(&a->pace, &a->limits,
                                                  a->asked_bytes);
    uint8_t *data = rmig_source_compose(s, err);
    uint64_t bytes = 0;
    RMigSpan *span;
    uint32_t n = 0;

    if (!data) {
        return false;
    }
    while (n < most && (span = g_queue_peek_head(&a->to_ask)) &&
           (n == 0 || (bytes + rmig_span_bytes(span) <= most_bytes &&
                       !comes_back(a, span)))) {
        RMigWireRegister reg = {
            .key = span->block->remote_offset +
                   (span->first << RMIG_CHUNK_SHIFT),
            .block = span->block->index,
            .chunks = span->n - 1,
        };

        g_queue_pop_head(&a->to_ask);
        a->to_ask_bytes -= rmig_span_bytes(span);
        rmig_wire_register_pack(data + n * RMIG_WIRE_REGISTER_BYTES, &reg);
        span->peer = RMIG_PEER_ASKED;
        g_ptr_array_add(a->asked, span);
        bytes += rmig_span_bytes(span);
        n++;
    }
    a->asked_bytes = MAX(a->asked_bytes, bytes);
    return sent(s, RMIG_WIRE_REGISTER_REQUEST, bytes,
                n * RMIG_WIRE_REGISTER_BYTES, n, err);
}

/* UNREGISTER_REQUEST for what is to be let go; there is a READY */
static bool release(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    uint32_t most = rmig_source_batches(s) ? RMIG_WIRE_RECORDS_MAX : 1;
    uint8_t *data = rmig_source_compose(s, err);
    uint32_t n = 0;

    if (!data) {
        return false;
    }
    a->released_bytes = 0;
    while (n < most && !g_queue_is_empty(&a->to_release)) {
        g_autofree RMigRange *range = g_queue_pop_head(&a->to_release);
        RMigWireRegister reg = {
            .key = range->first,
            .block = range->block->index,
            .chunks = range->n - 1,
        };

        rmig_wire_register_pack(data + n * RMIG_WIRE_REGISTER_BYTES, &reg);
        a->released_bytes += rmig_block_span_bytes(range->block, range->first,
                                                   range->n);
        n++;
    }
    return sent(s, RMIG_WIRE_UNREGISTER_REQUEST, 0,
                n * RMIG_WIRE_REGISTER_BYTES, n, err);
}

/* Something to say: false if there was nothing, or on an error */
static bool say_next(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    unsigned zeros = rmig_source_zeros_waiting(s);
    bool releases = !g_queue_is_empty(&a->to_release);
    bool asks = !g_queue_is_empty(&a->to_ask);

    /* Many zeros are not put off for ever by what is more urgent */
    if (zeros > 0 && ((!asks && !releases) ||
                      (zeros >= ZEROS_PATIENT &&
                       a->said != RMIG_WIRE_COMPRESS))) {
        a->said = RMIG_WIRE_COMPRESS;
        return rmig_source_send_zeros(s, err);
    }
    /* In turn: what is let go makes room for what is asked for next */
    if (releases && (a->said != RMIG_WIRE_UNREGISTER_REQUEST || !asks ||
                     comes_back(a, g_queue_peek_head(&a->to_ask)))) {
        a->said = RMIG_WIRE_UNREGISTER_REQUEST;
        return release(s, err);
    }
    a->said = RMIG_WIRE_REGISTER_REQUEST;
    return asks && ask(s, err);
}

bool rmig_ahead_listen(RMigSource *s, GError **err)
{
    s->ahead.reaped += rmig_jobs_reap(s->jobs);
    if (s->ahead.waiting != RMIG_WIRE_NONE &&
        rmig_control_has_answer(s->main.control) && !take_answer(s, err)) {
        return false;
    }
    see_limits(&s->ahead);
    return true;
}

bool rmig_ahead_speak(RMigSource *s, GError **err)
{
    GError *local = NULL;

    while (s->ahead.waiting == RMIG_WIRE_NONE &&
           rmig_control_may_command(s->main.control) && say_next(s, &local)) {
        /* the next */
    }
    if (local) {
        g_propagate_error(err, local);
        return false;
    }
    return true;
}

/* ---- pin-all with a peer of version 1 ---- */

bool rmig_ahead_pin_all(RMigSource *s, GError **err)
{
    RMigAhead *a = &s->ahead;
    g_autoptr(GPtrArray) spans = g_ptr_array_new();

    for (uint32_t i = 0; i < rmig_blocks_count(&s->blocks); i++) {
        const RMigBlock *block = rmig_blocks_get(&s->blocks, i);
        uint64_t n = rmig_block_chunks(block);

        if (n > 0) {
            RMigSpan *span = rmig_span_register(&a->local, block, 0, n);

            rmig_span_install(span);
            g_ptr_array_add(spans, span);
        }
    }
    for (unsigned i = 0; i < spans->len; i++) {
        RMigSpan *span = g_ptr_array_index(spans, i);

        while (rmig_jobs_reap(s->jobs) > 0 ||
               span->state == RMIG_SPAN_REGISTERING) {
            if (span->state == RMIG_SPAN_REGISTERING &&
                !rmig_link_step(s->main.link, 0, "memory to be pinned", err)) {
                return false;
            }
        }
        if (span->state == RMIG_SPAN_FAILED) {
            g_propagate_prefixed_error(err, g_error_copy(span->error),
                                       "pinning all guest memory: ");
            return false;
        }
    }
    return true;
}

void rmig_ahead_pinned_all(RMigSource *s)
{
    for (GList *l = s->ahead.local.spans.head; l; l = l->next) {
        RMigSpan *span = l->data;

        span->peer = RMIG_PEER_READY;
        span->rkey = span->block->remote_rkey;
    }
}
