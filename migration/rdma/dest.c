/*
 * RDMA migration transport: the destination of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_dest_*() of migration/rdma-transport.h: listening, the streams,
 * leaving.  Who is let in is in dest-accept.c, the source's commands are in
 * dest-serve.c, but for those of the end, which is in dest-end.c.
 * Callers: the face.
 * Thread: one at a time; in QEMU the main loop's incoming coroutine.
 */
#include <string.h>

#include "dest-priv.h"
#include "log.h"
#include "reaper.h"

RMigDest *rmig_dest_new(const RMigDestConfig *config,
                        const struct sockaddr *addr, GError **err)
{
    RMigDest *d = g_new0(RMigDest, 1);

    /*
     * What is still pinned of an earlier migration counts against the limit;
     * the main loop does not wait for it
     */
    rmig_mr_reset_peak();
    d->config = *config;
    d->pin_limit = rmig_pin_limit(config->pin_limit);
    g_mutex_init(&d->lock);
    d->hints = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                     NULL);
    d->names = g_ptr_array_new_with_free_func(g_free);
    d->named = g_hash_table_new(g_str_hash, g_str_equal);
    rmig_blocks_init(&d->blocks);
    g_queue_init(&d->candidates);
    d->shutdown = rmig_shutdown_new(err);
    if (d->shutdown) {
        d->listener = rmig_listener_new(addr, err);
    }
    if (!d->listener) {
        d->config.released = NULL;
        rmig_dest_free(d);
        return NULL;
    }
    return d;
}

int rmig_dest_listen_fd(const RMigDest *d)
{
    return d->listener ? rmig_listener_fd(d->listener) : -1;
}

uint16_t rmig_dest_port(const RMigDest *d)
{
    return rmig_listener_port(d->listener);
}

void rmig_dest_stop_listening(RMigDest *d)
{
    if (d->listener) {
        rmig_dest_drop_candidates(d);
        g_clear_pointer(&d->listener, rmig_listener_free);
    }
}

RMigWirePrivate rmig_dest_grant(RMigDest *d, const RMigWirePrivate *asked,
                                char **warning)
{
    uint32_t flags = asked->flags & (d->config.version_1_only ?
                                     RMIG_WIRE_FLAG_PIN_ALL :
                                     RMIG_WIRE_FLAGS_KNOWN);
    uint64_t bytes = d->config.ops->ram_bytes(d->config.opaque);
    g_autoptr(GError) err = NULL;

    d->pin_room = rmig_pin_room(d->config.pin_limit);
    if (flags & RMIG_WIRE_FLAG_PIN_ALL) {
        g_autofree char *text = NULL;

        if (!rmig_memlock_allows(bytes, &err)) {
            text = g_strdup(err->message);
        } else if (bytes > d->pin_room) {
            text = g_strdup_printf("rdma-pin-limit leaves %" G_GUINT64_FORMAT
                                   " MiB for it", (guint64)d->pin_room >> 20);
        }
        if (text) {
            *warning =
                g_strdup_printf("not pinning all guest memory as the source "
                                "asks, but chunks on demand: %s", text);
            flags &= ~RMIG_WIRE_FLAG_PIN_ALL;
        }
    }
    return (RMigWirePrivate) {
        .flags = flags,
        .pin_bytes = flags & RMIG_WIRE_FLAG_BUDGET ? d->pin_room : 0,
    };
}

RMigStream *rmig_dest_stream(RMigDest *d)
{
    return d->main.link ? &d->main.stream : NULL;
}

RMigStream *rmig_dest_return_stream(RMigDest *d)
{
    return d->back.link && rmig_link_is_up(d->back.link) ?
           &d->back.stream : NULL;
}

bool rmig_dest_note_block(RMigDest *d, const char *name, GError **err)
{
    char *copy;

    if (d->announced) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the source named RAM block %s after the blocks had been "
                    "exchanged", name);
        return false;
    }
    if (g_hash_table_contains(d->named, name)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the source named RAM block %s twice", name);
        return false;
    }
    if (d->names->len == RMIG_WIRE_BLOCKS_MAX) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the source named more than %u RAM blocks, which cannot "
                    "migrate over RDMA", RMIG_WIRE_BLOCKS_MAX);
        return false;
    }
    copy = g_strdup(name);
    g_ptr_array_add(d->names, copy);
    g_hash_table_add(d->named, copy);
    return true;
}

bool rmig_dest_add_block(RMigDest *d, const char *name, void *host,
                         uint64_t offset, uint64_t length, GError **err)
{
    g_assert(!d->announced);
    return rmig_blocks_add(&d->blocks, name, host, offset, length, err);
}

bool rmig_dest_add_hole(RMigDest *d, uint64_t block_offset, uint64_t offset,
                        uint64_t length, GError **err)
{
    RMigBlock *block = rmig_blocks_by_offset(&d->blocks, block_offset);

    g_assert(block);
    return rmig_blocks_add_hole(&d->blocks, block, offset, length, err);
}

void rmig_dest_hint_block(RMigDest *d, uint64_t offset,
                          const RMigBlockHints *hints)
{
    const RMigBlock *block = rmig_blocks_by_offset(&d->blocks, offset);

    g_assert(block);
    if (hints->anonymous) {
        g_hash_table_add(d->hints, g_memdup2(&offset, sizeof(offset)));
    }
}

void rmig_dest_revoke(RMigDest *d)
{
    if (d->main.link) {
        rmig_link_revoke(d->main.link);
    }
}

void rmig_dest_publish(RMigDest *d)
{
    RMigCounters now = { .pin_limit = d->pin_limit, .waiting = d->waiting };

    if (d->main.link) {
        g_strlcpy(now.device, rmig_link_device_name(d->main.link),
                  sizeof(now.device));
        now.control_bytes = rmig_control_sent_bytes(d->main.control);
        now.control_messages = rmig_control_sent_messages(d->main.control);
    }
    now.extensions = d->granted & (RMIG_WIRE_FLAG_BATCH |
                                   RMIG_WIRE_FLAG_BUDGET |
                                   RMIG_WIRE_FLAG_HANDOVER);
    now.pins_all = d->granted & RMIG_WIRE_FLAG_PIN_ALL;
    now.pinned_peak = rmig_mr_pinned_peak_bytes();
    now.chunks_registered = d->table.chunks_registered;
    now.chunks_refused = d->table.chunks_refused + d->chunks_refused;
    now.chunks_evicted = d->chunks_released;
    now.zero_runs = d->zero_runs;
    g_mutex_lock(&d->lock);
    d->shown = now;
    g_mutex_unlock(&d->lock);
}

void rmig_dest_counters(RMigDest *d, RMigCounters *counters)
{
    g_mutex_lock(&d->lock);
    *counters = d->shown;
    g_mutex_unlock(&d->lock);
    counters->pinned = rmig_mr_pinned_bytes();
}

void rmig_dest_shutdown(RMigDest *d)
{
    rmig_shutdown_trigger(d->shutdown);
}

/*
 * Nobody looks at the jobs for the connection any more.  Memory may still be
 * registered or let go by a worker, for as long as the driver likes, and that
 * is for the reaper to wait for; but it is not cleared any more, as it is the
 * guest's, or nobody's, from here on.  A job that clears is short.
 */
static void leave_jobs(RMigDest *d)
{
    while (d->clearing > 0) {
        rmig_jobs_wait(d->jobs);
    }
    if (!rmig_link_watch(d->main.link, -1, NULL, NULL, NULL)) {
        RMIG_LOG("the jobs are still watched");
    }
}

static void leave_table(RMigDest *d, RMigRemains *remains)
{
    remains->jobs = g_steal_pointer(&d->jobs);
    remains->table = d->table;
    memset(&d->table, 0, sizeof(d->table));
    remains->blocks = d->blocks;
    rmig_blocks_init(&d->blocks);
    d->announced = false;
}

void rmig_dest_close(RMigDest *d, bool failed)
{
    RMigRemains remains = { 0 };

    rmig_dest_stop_listening(d);
    if (!d->main.link) {
        return;
    }
    rmig_dest_publish(d);
    if (d->jobs && (failed || rmig_link_failed(d->main.link) ||
                    d->clearing == 0)) {
        /*
         * Who has begun goes on; the rest is let go by the reaper.  But what
         * has been received is cleared to the end.
         */
        rmig_jobs_drop(d->jobs);
    }
    /*
     * The report on the return path may need its time to arrive, and the guest
     * runs by now: that is for the reaper to wait for
     */
    if (failed) {
        rmig_conn_disconnect(&d->back, failed);
    }
    rmig_conn_disconnect(&d->main, failed);
    /* The queue pairs are gone: nobody writes into the memory any more */
    if (d->jobs) {
        leave_jobs(d);
        leave_table(d, &remains);
    }
    g_clear_pointer(&d->pages, rmig_pages_free);
    remains.main = d->main;
    remains.back = d->back;
    memset(&d->main, 0, sizeof(d->main));
    memset(&d->back, 0, sizeof(d->back));
    remains.released = g_steal_pointer(&d->config.released);
    rmig_reaper_take(&remains, d->config.register_threads == 0);
}

void rmig_dest_free(RMigDest *d)
{
    if (!d) {
        return;
    }
    rmig_dest_close(d, false);
    if (d->config.released) {
        d->config.released();
    }
    rmig_blocks_cleanup(&d->blocks);
    g_hash_table_unref(d->hints);
    g_clear_error(&d->refusal);
    g_hash_table_unref(d->named);
    g_ptr_array_free(d->names, true);
    g_mutex_clear(&d->lock);
    rmig_shutdown_free(d->shutdown);
    g_free(d);
}
