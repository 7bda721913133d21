/*
 * RDMA migration transport: the source of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_source_*() of migration/rdma-transport.h but for pages and for the
 * end of the stream: connecting, the RAM block exchange, the end of a round,
 * counters, leaving.
 * Callers: the face.
 * Thread: one at a time; connecting and migrating are different threads in
 * QEMU, one after the other.
 *
 * Pages are in source-pages.c, registration in source-ahead.c and
 * source-spans.c, the end in source-end.c.  docs/rdma.txt, "Setup" and
 * "Rounds".
 */
#include <string.h>

#include "log.h"
#include "reaper.h"
#include "source-priv.h"

RMigSource *rmig_source_new(const RMigSourceConfig *config, GError **err)
{
    RMigSource *s = g_new0(RMigSource, 1);

    s->config = *config;
    s->count.pin_limit = rmig_pin_limit(config->pin_limit);
    s->page_bytes = rmig_page_bytes();
    rmig_blocks_init(&s->blocks);
    g_mutex_init(&s->lock);
    s->hints = g_array_new(false, true, sizeof(RMigBlockHints));
    s->zero_queue = g_array_new(false, false, sizeof(RMigZeroRun));
    s->shutdown = rmig_shutdown_new(err);
    if (!s->shutdown) {
        s->config.released = NULL;
        rmig_source_free(s);
        return NULL;
    }
    return s;
}

/* What this side is willing to have pinned, its two sides' buffers aside */
static RMigWirePrivate offer(const RMigSource *s)
{
    RMigWirePrivate ask = { .flags = s->config.pin_all ?
                                     RMIG_WIRE_FLAG_PIN_ALL : 0 };

    if (!s->config.version_1_only) {
        ask.flags |= RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET |
                     RMIG_WIRE_FLAG_HANDOVER;
        ask.pin_bytes = rmig_pin_room(s->config.pin_limit);
    }
    return ask;
}

static bool connect_one(RMigSource *s, RMigConn *conn, const char *name,
                        const struct sockaddr *addr, RMigWirePrivate *answer,
                        GError **err)
{
    RMigLink *link = rmig_link_resolve(name, &s->config.waiter, s->shutdown,
                                       addr, err);
    RMigWirePrivate ask;

    if (!link || !rmig_conn_init(conn, link, conn == &s->main, err)) {
        return false;
    }
    ask = offer(s);
    if (!rmig_link_connect(link, &ask, answer, err)) {
        rmig_conn_cleanup(conn);
        return false;
    }
    if (conn == &s->main && (answer->flags & RMIG_WIRE_FLAG_BATCH)) {
        rmig_control_set_pipelined(conn->control);
    }
    if (conn == &s->main && (answer->flags & RMIG_WIRE_FLAG_HANDOVER)) {
        rmig_control_set_hands_over(conn->control);
    }
    return true;
}

bool rmig_source_connect(RMigSource *s, const struct sockaddr *addr,
                         GError **err)
{
    RMigWirePrivate answer, ignored;

    /* What is still pinned of an earlier migration counts against the limit */
    rmig_reaper_wait(s->shutdown);
    if (rmig_shutdown_triggered(s->shutdown)) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN,
                    "the connection was shut down while memory of an earlier "
                    "migration was still pinned");
        return false;
    }
    rmig_mr_reset_peak();
    if (!connect_one(s, &s->main, "main connection", addr, &answer, err)) {
        return false;
    }
    s->granted = answer.flags;
    s->peer_pin_bytes = answer.flags & RMIG_WIRE_FLAG_BUDGET ?
                        answer.pin_bytes : UINT64_MAX;
    g_strlcpy(s->count.device, rmig_link_device_name(s->main.link),
              sizeof(s->count.device));
    rmig_source_publish(s);
    if (s->config.return_path &&
        !connect_one(s, &s->back, "return path", addr, &ignored, err)) {
        g_prefix_error(err, "opening the return path: ");
        rmig_conn_cleanup(&s->main);
        return false;
    }
    return true;
}

bool rmig_source_pins_all(const RMigSource *s)
{
    return s->granted & RMIG_WIRE_FLAG_PIN_ALL;
}

RMigStream *rmig_source_stream(RMigSource *s)
{
    return s->main.link ? &s->main.stream : NULL;
}

RMigStream *rmig_source_return_stream(RMigSource *s)
{
    return s->back.link ? &s->back.stream : NULL;
}

bool rmig_source_add_block(RMigSource *s, const char *name, void *host,
                           uint64_t offset, uint64_t length, GError **err)
{
    g_assert(!s->exchanged);
    if (!rmig_blocks_add(&s->blocks, name, host, offset, length, err)) {
        return false;
    }
    g_array_set_size(s->hints, rmig_blocks_count(&s->blocks));
    return true;
}

bool rmig_source_add_hole(RMigSource *s, uint64_t block_offset,
                          uint64_t offset, uint64_t length, GError **err)
{
    RMigBlock *block = rmig_blocks_by_offset(&s->blocks, block_offset);

    g_assert(block && !s->exchanged);
    return rmig_blocks_add_hole(&s->blocks, block, offset, length, err);
}

void rmig_source_hint_block(RMigSource *s, uint64_t block_offset,
                            const RMigBlockHints *hints)
{
    const RMigBlock *block = rmig_blocks_by_offset(&s->blocks, block_offset);

    g_assert(block);
    g_array_index(s->hints, RMigBlockHints, block->index) = *hints;
}

uint8_t *rmig_source_compose(RMigSource *s, GError **err)
{
    return rmig_stream_flush(&s->main.stream, err) ?
           rmig_control_buffer(s->main.control, err) : NULL;
}

bool rmig_source_command(RMigSource *s, RMigWireType type, uint32_t len,
                         uint32_t repeat, GError **err)
{
    return rmig_stream_flush(&s->main.stream, err) &&
           rmig_control_command(s->main.control, type, len, repeat, err);
}

void rmig_source_give_up(RMigSource *s, GError *local, GError **err)
{
    rmig_link_fail(s->main.link, g_error_copy(local));
    g_propagate_error(err, local);
}

static void jobs_are_ripe(void *opaque)
{
    RMigSource *s = opaque;

    s->ahead.reaped += rmig_jobs_reap(s->jobs);
}

static void landed(void *opaque, const RMigLanded *landed)
{
    RMigSource *s = opaque;
    RMigPace *pace = &s->ahead.pace;

    rmig_pace_flew(pace, landed->flight_us, landed->alone, landed->now_us);
    if (!landed->alone) {
        rmig_pace_wrote(pace, landed->bytes, landed->us);
    }
    rmig_ahead_landed(s);
}

static bool init_tables(RMigSource *s, GError **err)
{
    s->jobs = rmig_jobs_new(s->config.register_threads, err);
    if (!s->jobs) {
        return false;
    }
    s->exchanged = true;
    rmig_writer_init(&s->writer, rmig_link_verbs(s->main.link));
    s->writer.landed = landed;
    s->writer.opaque = s;
    s->pages = rmig_pages_new();
    s->touched.bits = g_new0(uint64_t, RMIG_TOUCHED_WORDS);
    return rmig_ahead_init(s, err) &&
           (rmig_jobs_fd(s->jobs) < 0 ||
            rmig_link_watch(s->main.link, rmig_jobs_fd(s->jobs),
                            jobs_are_ripe, s, err));
}

static bool exchange(RMigSource *s, GError **err)
{
    bool pinned = rmig_source_pinned_before(s);
    uint64_t bytes = pinned ? s->blocks.total_bytes : 0;
    RMigWireMessage msg;
    int64_t start;

    g_assert(!s->exchanged);
    if (pinned && s->blocks.hole_bytes > 0) {
        g_set_error_literal(err, RMIG_BLOCKS_ERROR, 0,
                            RMIG_BLOCKS_NO_PIN_ALL_WITH_HOLES);
        return false;
    }
    if (!init_tables(s, err) ||
        !rmig_source_command(s, RMIG_WIRE_RAM_BLOCKS_REQUEST, 0, 1, err)) {
        return false;
    }
    start = g_get_monotonic_time();
    /* Both sides register now, each its own */
    if (pinned && !rmig_ahead_pin_all(s, err)) {
        return false;
    }
    if (!rmig_control_wait_answer(s->main.control,
                                  rmig_ahead_timeout_ms(bytes), &msg, err) ||
        !rmig_blocks_set_remote(&s->blocks, &msg, pinned, err) ||
        !rmig_control_release(s->main.control, err)) {
        return false;
    }
    if (pinned) {
        rmig_ahead_pinned_all(s);
    } else {
        /* It was no shorter than a write's way, which is not known yet */
        rmig_pace_flew(&s->ahead.pace, g_get_monotonic_time() - start, false,
                       0);
    }
    return true;
}

bool rmig_source_exchange(RMigSource *s, GError **err)
{
    GError *local = NULL;

    if (!rmig_link_check(s->main.link, &local) || !exchange(s, &local)) {
        rmig_source_give_up(s, local, err);
        return false;
    }
    return true;
}

/* What is asked for at the end of a round is waited for when all is written */
static bool settle(RMigSource *s, GError **err)
{
    int64_t start = g_get_monotonic_time();
    bool waits = s->ahead.waiting != RMIG_WIRE_NONE;

    if (!rmig_ahead_settle(s, err)) {
        return false;
    }
    if (waits && s->writer.wire_bytes == 0) {
        int64_t idle_since = MAX(start, s->writer.busy_since_us);

        s->count.stalls[RMIG_STALL_LATE]++;
        s->count.stall_ns[RMIG_STALL_LATE] +=
            (g_get_monotonic_time() - idle_since) * 1000;
    }
    return true;
}

static bool finish(RMigSource *s, GError **err)
{
    if (!rmig_source_queue_zeros(s, err) || !rmig_source_flush_pages(s, err) ||
        !settle(s, err)) {
        return false;
    }
    while (rmig_source_zeros_waiting(s) > 0) {
        if (!rmig_source_send_zeros(s, err)) {
            return false;
        }
    }
    if (!rmig_source_wait_for_writes(s, err) ||
        !rmig_source_command(s, RMIG_WIRE_REGISTER_FINISHED, 0, 1, err)) {
        return false;
    }
    rmig_ahead_end_round(s);
    s->touched.block = NULL;
    s->pages_left = 0;
    return true;
}

bool rmig_source_finish(RMigSource *s, GError **err)
{
    GError *local = NULL;

    if (!rmig_link_check(s->main.link, &local) || !finish(s, &local)) {
        rmig_source_give_up(s, local, err);
        return false;
    }
    rmig_source_publish(s);
    return true;
}

void rmig_source_publish(RMigSource *s)
{
    const RMigAhead *a = &s->ahead;
    RMigCounters now = s->count;
    uint64_t waited = 0;

    now.extensions = s->granted & (RMIG_WIRE_FLAG_BATCH |
                                   RMIG_WIRE_FLAG_BUDGET |
                                   RMIG_WIRE_FLAG_HANDOVER);
    now.pins_all = rmig_source_pins_all(s);
    now.peer_pin_limit = s->granted & RMIG_WIRE_FLAG_BUDGET ?
                         s->peer_pin_bytes : 0;
    now.pinned = rmig_mr_pinned_bytes();
    now.pinned_peak = rmig_mr_pinned_peak_bytes();
    if (s->exchanged) {
        now.peer_pinned = a->peer.used;
        now.peer_pinned_peak = a->peer.peak;
        now.chunks_registered = a->local.chunks_registered;
        now.chunks_refused += a->local.chunks_refused;
        for (unsigned i = 0; i < RMIG_STALLS; i++) {
            waited += now.stall_ns[i];
        }
        now.register_exposed_ns = waited;
        now.register_hidden_ns = a->busy_ns - MIN(a->busy_ns, waited);
        now.window_bytes = a->window_bytes;
        now.write_bytes = s->writer.bytes + s->writer.batch_bytes +
                          s->writer.run_bytes;
        now.writes = s->writer.writes;
    }
    if (s->main.control) {
        now.control_bytes = rmig_control_sent_bytes(s->main.control);
        now.control_messages = rmig_control_sent_messages(s->main.control);
    }
    g_mutex_lock(&s->lock);
    s->shown = now;
    g_mutex_unlock(&s->lock);
}

void rmig_source_counters(RMigSource *s, RMigCounters *counters)
{
    g_mutex_lock(&s->lock);
    *counters = s->shown;
    g_mutex_unlock(&s->lock);
    counters->pinned = rmig_mr_pinned_bytes();
}

uint64_t rmig_source_sent_bytes(const RMigSource *s)
{
    return s->writer.bytes + s->writer.batch_bytes + s->writer.run_bytes +
           (s->main.control ? rmig_control_sent_bytes(s->main.control) : 0);
}

void rmig_source_shutdown(RMigSource *s)
{
    rmig_shutdown_trigger(s->shutdown);
}

void rmig_source_close(RMigSource *s, bool failed)
{
    RMigRemains remains = { 0 };

    if (!s->main.link) {
        return;
    }
    s->count.waiting = RMIG_WAIT_NONE;
    rmig_source_publish(s);
    if (s->jobs) {
        rmig_jobs_drop(s->jobs);
    }
    rmig_conn_disconnect(&s->back, failed);
    rmig_conn_disconnect(&s->main, failed);
    /* The queue pairs are gone; for the workers the reaper waits */
    if (s->exchanged) {
        if (!rmig_link_watch(s->main.link, -1, NULL, NULL, NULL)) {
            RMIG_LOG("the jobs are still watched");
        }
        rmig_writer_cleanup(&s->writer);
        remains.jobs = g_steal_pointer(&s->jobs);
        rmig_ahead_cleanup(s, &remains.table);
        remains.blocks = s->blocks;
        rmig_blocks_init(&s->blocks);
        g_clear_pointer(&s->pages, rmig_pages_free);
        g_clear_pointer(&s->touched.bits, g_free);
        s->exchanged = false;
    }
    remains.main = s->main;
    remains.back = s->back;
    memset(&s->main, 0, sizeof(s->main));
    memset(&s->back, 0, sizeof(s->back));
    remains.released = g_steal_pointer(&s->config.released);
    rmig_reaper_take(&remains, s->config.register_threads == 0);
}

void rmig_source_free(RMigSource *s)
{
    if (!s) {
        return;
    }
    rmig_source_close(s, false);
    if (s->config.released) {
        s->config.released();
    }
    rmig_blocks_cleanup(&s->blocks);
    g_array_unref(s->hints);
    g_array_unref(s->zero_queue);
    g_mutex_clear(&s->lock);
    rmig_shutdown_free(s->shutdown);
    g_free(s);
}
