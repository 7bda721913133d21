/*
 * RDMA migration transport: the destination of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_dest_*() of migration/rdma-transport.h: listening, accepting, and
 * the handling of each of the source's commands.
 * Callers: the face.
 * Thread: one at a time; in QEMU the main loop's incoming coroutine.
 *
 * The source is hostile until validated: the control channel lets only well
 * formed commands through, and every number in them passes a check of
 * blocks.h before it is used.  docs/rdma.txt, "Security".
 */
#include <string.h>

#include "conn.h"
#include "mr.h"

struct RMigDest {
    RMigDestConfig config;
    RMigShutdown *shutdown;
    RMigListener *listener;
    RMigConn main;
    RMigConn back;
    bool pins_all;    /* granted */
    GPtrArray *names; /* of char *, owned: the blocks in the source's order */
    RMigBlocks blocks;
    bool announced; /* the blocks are known and the table is there */
    RMigMrTable table;
};

RMigDest *rmig_dest_new(const RMigDestConfig *config,
                        const struct sockaddr *addr, GError **err)
{
    RMigDest *d = g_new0(RMigDest, 1);

    d->config = *config;
    d->names = g_ptr_array_new_with_free_func(g_free);
    rmig_blocks_init(&d->blocks);
    d->shutdown = rmig_shutdown_new(err);
    if (d->shutdown) {
        d->listener = rmig_listener_new(addr, err);
    }
    if (!d->listener) {
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
    g_clear_pointer(&d->listener, rmig_listener_free);
}

/* Which of the asked flags we can stand by */
static uint32_t grant(RMigDest *d, uint32_t asked)
{
    g_autoptr(GError) err = NULL;
    uint32_t flags = asked & RMIG_WIRE_FLAG_PIN_ALL;

    if ((flags & RMIG_WIRE_FLAG_PIN_ALL) &&
        !rmig_memlock_allows(d->config.ops->ram_bytes(d->config.opaque),
                             &err)) {
        g_autofree char *text =
            g_strdup_printf("not pinning all guest memory as the source "
                            "asks, but chunks on demand: %s", err->message);

        d->config.ops->warn(d->config.opaque, text);
        flags &= ~RMIG_WIRE_FLAG_PIN_ALL;
    }
    return flags;
}

/* On the main connection the source commands, on the return path we do */
static bool accept_link(RMigDest *d, RMigConn *conn, RMigLink *link,
                        uint32_t flags, GError **err)
{
    RMigWirePrivate granted = { .flags = flags };

    if (!rmig_conn_init(conn, link, conn == &d->back, err)) {
        return false;
    }
    if (!rmig_link_accept(link, &granted, err)) {
        rmig_conn_cleanup(conn);
        return false;
    }
    return true;
}

RMigAccepted rmig_dest_accept(RMigDest *d, GError **err)
{
    bool is_main = !d->main.link;
    RMigWirePrivate asked = { 0 };
    uint32_t flags;
    RMigLink *link;

    link = rmig_listener_take(d->listener,
                              is_main ? "main connection" : "return path",
                              &d->config.waiter, d->shutdown, &asked, err);
    if (!link) {
        return RMIG_ACCEPTED_NOTHING;
    }
    if (!is_main &&
        (d->back.link || !rmig_link_same_peer(d->main.link, link))) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "refused another RDMA connection while a migration "
                    "comes in");
        rmig_link_refuse(link);
        rmig_link_free(link);
        return RMIG_ACCEPTED_NOTHING;
    }
    flags = is_main ? grant(d, asked.flags) :
            d->pins_all ? RMIG_WIRE_FLAG_PIN_ALL & asked.flags : 0;
    if (!accept_link(d, is_main ? &d->main : &d->back, link, flags, err)) {
        return RMIG_ACCEPTED_NOTHING;
    }
    if (!is_main) {
        return RMIG_ACCEPTED_RETURN;
    }
    d->pins_all = flags & RMIG_WIRE_FLAG_PIN_ALL;
    return RMIG_ACCEPTED_MAIN;
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

bool rmig_dest_return_pending(const RMigDest *d)
{
    return d->back.link && !rmig_link_is_up(d->back.link) &&
           !rmig_link_failed(d->back.link);
}

bool rmig_dest_note_block(RMigDest *d, const char *name, GError **err)
{
    if (d->announced) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the source named RAM block %s after the blocks had been "
                    "exchanged", name);
        return false;
    }
    g_ptr_array_add(d->names, g_strdup(name));
    return true;
}

bool rmig_dest_add_block(RMigDest *d, const char *name, void *host,
                         uint64_t offset, uint64_t length, GError **err)
{
    g_assert(!d->announced);
    return rmig_blocks_add(&d->blocks, name, host, offset, length, err);
}

void rmig_dest_hint_block(RMigDest *d, uint64_t offset,
                          const RMigBlockHints *hints)
{
    g_assert(rmig_blocks_by_offset(&d->blocks, offset) && hints);
}

/* What the source has named in its stream, in its order */
static bool learn_blocks(RMigDest *d, GError **err)
{
    bool ok;

    if (d->announced) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the source asked twice for the RAM blocks");
        return false;
    }
    if (!d->config.ops->list_blocks(d->config.opaque, err)) {
        return false;
    }
    g_ptr_array_add(d->names, NULL);
    ok = rmig_blocks_reorder(&d->blocks, (char **)d->names->pdata, err);
    g_ptr_array_set_size(d->names, d->names->len - 1);
    if (!ok) {
        return false;
    }
    rmig_mr_table_init(&d->table, rmig_link_verbs(d->main.link), &d->blocks,
                       true);
    d->announced = true;
    return true;
}

static bool handle_ram_blocks(RMigDest *d, const RMigWireMessage *msg,
                              GError **err)
{
    uint8_t *data;
    uint32_t n;

    (void)msg;
    if (!learn_blocks(d, err)) {
        return false;
    }
    if (d->pins_all && !rmig_mr_table_register_all(&d->table, err)) {
        g_prefix_error(err, "pinning all guest memory: ");
        return false;
    }
    data = rmig_control_buffer(d->main.control, err);
    if (!data) {
        return false;
    }
    n = rmig_blocks_count(&d->blocks);
    for (uint32_t i = 0; i < n; i++) {
        const RMigBlock *block = rmig_blocks_get(&d->blocks, i);
        RMigMr *mr = d->pins_all && block->length ?
                     rmig_mr_table_find(&d->table, block, 0) : NULL;
        RMigWireBlock record = {
            .host_addr = (uintptr_t)block->host,
            .offset = block->offset,
            .length = block->length,
            .rkey = mr ? rmig_mr_rkey(mr) : 0,
        };

        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES, &record);
    }
    return rmig_control_answer(d->main.control, n * RMIG_WIRE_BLOCK_BYTES, 1,
                               err);
}

/*
 * A message has room for thousands of records, each of which may name all of a
 * block.  Nothing else runs in this thread until they have been dealt with, so
 * one message names no more than all of RAM once.  @left: bytes that it may
 * still name
 */
static bool take_share(uint64_t *left, uint64_t bytes,
                       const RMigWireMessage *msg, GError **err)
{
    if (bytes > *left) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the source sent a %s that names more memory than there "
                    "is", rmig_wire_type_name(msg->type));
        return false;
    }
    *left -= bytes;
    return true;
}

static bool handle_register(RMigDest *d, const RMigWireMessage *msg,
                            GError **err)
{
    uint8_t *data = rmig_control_buffer(d->main.control, err);
    uint64_t left = d->blocks.total_bytes;

    if (!data) {
        return false;
    }
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;
        RMigBlock *block;
        uint64_t first, n;
        RMigMr *mr;

        rmig_wire_register_unpack(msg, i, &reg);
        if (!rmig_blocks_check_register(&d->blocks, &reg, &block, &first, &n,
                                        err) ||
            !take_share(&left, rmig_block_span_bytes(block, first, n), msg,
                        err)) {
            return false;
        }
        mr = rmig_mr_table_register(&d->table, block, first, n, err);
        if (!mr) {
            return false;
        }
        rmig_wire_result_pack(data + i * RMIG_WIRE_RESULT_BYTES,
                              &(RMigWireResult) {
                                  .rkey = rmig_mr_rkey(mr),
                                  .host_addr = (uintptr_t)block->host,
                              });
    }
    return rmig_control_answer(d->main.control,
                               msg->n_records * RMIG_WIRE_RESULT_BYTES,
                               msg->n_records, err);
}

static bool handle_unregister(RMigDest *d, const RMigWireMessage *msg,
                              GError **err)
{
    uint64_t left = d->blocks.total_bytes;

    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;
        RMigBlock *block;
        uint64_t first, n;

        rmig_wire_register_unpack(msg, i, &reg);
        if (!rmig_blocks_check_unregister(&d->blocks, &reg, &block, &first,
                                          &n, err) ||
            !take_share(&left, rmig_block_span_bytes(block, first, n), msg,
                        err)) {
            return false;
        }
        for (uint64_t c = first; c < first + n; c++) {
            rmig_mr_table_unregister(&d->table, block, c);
        }
    }
    return rmig_control_answer(d->main.control, 0, 1, err);
}

static bool handle_zero_runs(RMigDest *d, const RMigWireMessage *msg,
                             GError **err)
{
    uint64_t left = d->blocks.total_bytes;

    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireZeroRun run;
        RMigBlock *block;
        uint64_t offset;

        rmig_wire_zero_run_unpack(msg, i, &run);
        if (!rmig_blocks_check_zero_run(&d->blocks, &run, &block, &offset,
                                        err) ||
            !take_share(&left, run.length, msg, err)) {
            return false;
        }
        d->config.ops->zero(d->config.opaque, block->host + offset,
                            run.length);
    }
    return true;
}

static bool handle_command(RMigDest *d, const RMigWireMessage *msg,
                           GError **err)
{
    if (msg->type == RMIG_WIRE_RAM_BLOCKS_REQUEST) {
        return handle_ram_blocks(d, msg, err);
    }
    if (msg->type == RMIG_WIRE_REGISTER_FINISHED) {
        return true;
    }
    if (msg->type == RMIG_WIRE_QEMU_FILE || !d->announced) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the source sent %s %s", rmig_wire_type_name(msg->type),
                    d->announced ? "in the middle of a round" :
                    "before it asked for the RAM blocks");
        return false;
    }
    switch (msg->type) {
    case RMIG_WIRE_REGISTER_REQUEST:
        return handle_register(d, msg, err);
    case RMIG_WIRE_UNREGISTER_REQUEST:
        return handle_unregister(d, msg, err);
    case RMIG_WIRE_COMPRESS:
        return handle_zero_runs(d, msg, err);
    default:
        g_assert_not_reached(); /* the control channel's table is wrong */
    }
}

bool rmig_dest_handle(RMigDest *d, GError **err)
{
    RMigWireMessage msg;
    GError *local = NULL;
    bool finished = false;

    if (rmig_stream_has_data(&d->main.stream)) {
        local = g_error_new(RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                            "the source's stream goes on behind the RAM hook");
    }
    while (!finished && !local) {
        if (rmig_control_receive(d->main.control, true, &msg, &local) > 0 &&
            handle_command(d, &msg, &local)) {
            finished = msg.type == RMIG_WIRE_REGISTER_FINISHED;
            if (!rmig_control_release(d->main.control, &local)) {
                finished = false;
            }
        }
    }
    if (local) {
        /* The peer must not go on writing for a migration that is over */
        rmig_link_fail(d->main.link, g_error_copy(local));
        g_propagate_error(err, local);
        return false;
    }
    return true;
}

void rmig_dest_revoke(RMigDest *d)
{
    if (d->main.link) {
        rmig_link_revoke(d->main.link);
    }
}

void rmig_dest_counters(RMigDest *d, RMigCounters *counters)
{
    memset(counters, 0, sizeof(*counters));
    counters->chunks_registered = d->table.chunks_registered;
    if (d->main.control) {
        counters->control_bytes = rmig_control_sent_bytes(d->main.control);
        counters->control_messages =
            rmig_control_sent_messages(d->main.control);
    }
}

void rmig_dest_shutdown(RMigDest *d)
{
    rmig_shutdown_trigger(d->shutdown);
}

void rmig_dest_close(RMigDest *d, bool failed)
{
    rmig_dest_stop_listening(d);
    rmig_conn_disconnect(&d->back, failed);
    rmig_conn_disconnect(&d->main, failed);
    if (d->announced) {
        rmig_mr_table_cleanup(&d->table);
        d->announced = false;
    }
    rmig_conn_cleanup(&d->back);
    rmig_conn_cleanup(&d->main);
}

void rmig_dest_free(RMigDest *d)
{
    if (!d) {
        return;
    }
    rmig_dest_close(d, false);
    rmig_blocks_cleanup(&d->blocks);
    g_ptr_array_free(d->names, true);
    rmig_shutdown_free(d->shutdown);
    g_free(d);
}
