/*
 * RDMA migration transport: the source of a migration
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_source_*() of migration/rdma-transport.h: connecting, the RAM
 * block exchange, a round of pages, its end.
 * Callers: the face.
 * Thread: one at a time; connecting and migrating are different threads in
 * QEMU, one after the other.
 *
 * A page takes one of two ways.  A zero page joins a zero run, and finished
 * runs queue up to be sent as COMPRESS whenever the destination has said
 * READY, so that they never hold up the writes; a long queue or the end of
 * the round waits for them.  Any other page goes to the writer, after its
 * chunk has been registered on both sides at the same time, together with the
 * chunks behind it that look as if they came next.  One such span ahead of the
 * pages is registered while they are written.
 *
 * docs/rdma.txt, "Setup", "Rounds" and "Zero pages".
 */
#include <string.h>

#include "conn.h"
#include "log.h"
#include "mr.h"
#include "writer.h"

/* Zero runs that may wait for a READY before we wait for it */
#define ZERO_RUNS_MAX 1024
/*
 * Where a zero run ends at the latest.  The destination looks at every page of
 * it before it says READY again, in its main loop: that must not take seconds.
 */
#define ZERO_RUN_MAX_BYTES (UINT64_C(1) << 30)
/* Chunks that share a registration at the most */
#define SPAN_CHUNKS_MAX 8
/* How much of a chunk is looked at to guess whether it has data */
#define SPAN_PROBE_BYTES 4096
/* Pages between two looks at whether a READY has come for what waits */
#define PUMP_PAGES 32
/* Pinning is slow on some systems: seconds more to wait for each GiB */
#define PIN_MS_PER_GIB 10000

/*
 * A last message that is refused or flushed is found out in this time.  What
 * takes longer may just have lost its acknowledgement to a destination that
 * was quick to leave.
 */
#define LAST_MESSAGE_MS 1000

/* The last REGISTER that was sent */
typedef struct RMigAsked {
    const RMigBlock *block; /* NULL: there was none */
    uint64_t first;
    uint64_t n;
    bool open; /* its answer has not been taken */
} RMigAsked;

typedef struct RMigZeroRun {
    const RMigBlock *block;
    uint64_t offset;
    uint64_t bytes;
} RMigZeroRun;

struct RMigSource {
    RMigSourceConfig config;
    RMigShutdown *shutdown;
    RMigConn main;
    RMigConn back;
    bool pins_all; /* granted */
    RMigBlocks blocks;
    bool exchanged;
    RMigMrTable local;
    uint32_t **rkeys; /* [block][chunk], 0: not registered over there */
    RMigAsked asked;
    RMigWriter writer;
    RMigZeroRun zero_run;  /* being merged; bytes 0: none */
    GQueue zero_queue;     /* of RMigZeroRun, owned */
    unsigned pages_since_pump;
    const RMigBlock *last_block;
    uint64_t zero_runs_sent;
};

RMigSource *rmig_source_new(const RMigSourceConfig *config, GError **err)
{
    RMigSource *s = g_new0(RMigSource, 1);

    s->config = *config;
    rmig_blocks_init(&s->blocks);
    g_queue_init(&s->zero_queue);
    s->shutdown = rmig_shutdown_new(err);
    if (!s->shutdown) {
        rmig_source_free(s);
        return NULL;
    }
    return s;
}

static bool connect_one(RMigSource *s, RMigConn *conn, const char *name,
                        const struct sockaddr *addr, uint32_t flags,
                        uint32_t *granted, GError **err)
{
    RMigWirePrivate ask = { .flags = flags };
    RMigWirePrivate answer;
    RMigLink *link = rmig_link_resolve(name, &s->config.waiter, s->shutdown,
                                       addr, err);

    if (!link || !rmig_conn_init(conn, link, conn == &s->main, err)) {
        return false;
    }
    if (!rmig_link_connect(link, &ask, &answer, err)) {
        rmig_conn_cleanup(conn);
        return false;
    }
    *granted = answer.flags;
    return true;
}

bool rmig_source_connect(RMigSource *s, const struct sockaddr *addr,
                         GError **err)
{
    uint32_t flags = s->config.pin_all ? RMIG_WIRE_FLAG_PIN_ALL : 0;
    uint32_t granted;

    if (!connect_one(s, &s->main, "main connection", addr, flags, &granted,
                     err)) {
        return false;
    }
    s->pins_all = granted & RMIG_WIRE_FLAG_PIN_ALL;
    if (s->config.return_path &&
        !connect_one(s, &s->back, "return path", addr, flags, &granted,
                     err)) {
        g_prefix_error(err, "opening the return path: ");
        rmig_conn_cleanup(&s->main);
        return false;
    }
    return true;
}

bool rmig_source_pins_all(const RMigSource *s)
{
    return s->pins_all;
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
    return rmig_blocks_add(&s->blocks, name, host, offset, length, err);
}

static void init_tables(RMigSource *s)
{
    uint32_t n = rmig_blocks_count(&s->blocks);

    rmig_mr_table_init(&s->local, rmig_link_verbs(s->main.link), &s->blocks,
                       false);
    rmig_writer_init(&s->writer, rmig_link_verbs(s->main.link));
    s->rkeys = g_new0(uint32_t *, n);
    for (uint32_t i = 0; i < n; i++) {
        s->rkeys[i] = g_new0(uint32_t,
                             rmig_block_chunks(rmig_blocks_get(&s->blocks,
                                                               i)));
    }
    s->exchanged = true;
}

/* The answer to the REGISTER that is underway, if one is; waits for it */
static bool take_answer(RMigSource *s, GError **err)
{
    const RMigAsked *asked = &s->asked;
    RMigWireResult result;
    RMigWireMessage msg;

    if (!asked->open) {
        return true;
    }
    if (!rmig_control_wait_answer(s->main.control, RMIG_CONTROL_TIMEOUT_MS,
                                  &msg, err)) {
        return false;
    }
    rmig_wire_result_unpack(&msg, 0, &result);
    if (!rmig_control_release(s->main.control, err)) {
        return false;
    }
    if (result.host_addr != asked->block->remote_host || result.rkey == 0) {
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the destination answered the registration of RAM block "
                    "%s, chunk %" G_GUINT64_FORMAT " with rkey 0x%x and a "
                    "block address that is%s the announced one",
                    asked->block->name, (guint64)asked->first, result.rkey,
                    result.host_addr == asked->block->remote_host ? "" :
                                                                    " not");
        return false;
    }
    for (uint64_t c = asked->first; c < asked->first + asked->n; c++) {
        s->rkeys[asked->block->index][c] = result.rkey;
    }
    s->asked.open = false;
    return true;
}

/* Room for a command's data; the stream gathers its bytes in the same place */
static uint8_t *compose(RMigSource *s, GError **err)
{
    return take_answer(s, err) && rmig_stream_flush(&s->main.stream, err) ?
           rmig_control_buffer(s->main.control, err) : NULL;
}

/* @len bytes of data, in the buffer of compose() */
static bool command(RMigSource *s, RMigWireType type, uint32_t len,
                    uint32_t repeat, GError **err)
{
    return take_answer(s, err) &&
           rmig_stream_flush(&s->main.stream, err) &&
           rmig_control_command(s->main.control, type, len, repeat, err);
}

/* The first error ends the migration: every later call fails with it */
static void give_up(RMigSource *s, GError *local, GError **err)
{
    rmig_link_fail(s->main.link, g_error_copy(local));
    g_propagate_error(err, local);
}

static bool exchange(RMigSource *s, GError **err)
{
    int64_t timeout_ms = RMIG_CONTROL_TIMEOUT_MS;
    RMigWireMessage msg;

    g_assert(!s->exchanged);
    init_tables(s);
    if (!command(s, RMIG_WIRE_RAM_BLOCKS_REQUEST, 0, 1, err)) {
        return false;
    }
    if (s->pins_all) {
        /* Both sides register now, each its own */
        if (!rmig_mr_table_register_all(&s->local, err)) {
            g_prefix_error(err, "pinning all guest memory: ");
            return false;
        }
        timeout_ms += (s->blocks.total_bytes >> 30) * PIN_MS_PER_GIB;
    }
    return rmig_control_wait_answer(s->main.control, timeout_ms, &msg, err) &&
           rmig_blocks_set_remote(&s->blocks, &msg, s->pins_all, err) &&
           rmig_control_release(s->main.control, err);
}

bool rmig_source_exchange(RMigSource *s, GError **err)
{
    GError *local = NULL;

    if (!rmig_link_check(s->main.link, &local) || !exchange(s, &local)) {
        give_up(s, local, err);
        return false;
    }
    return true;
}

static bool starts_zero(const RMigSource *s, const RMigBlock *block,
                        uint64_t chunk)
{
    uint64_t bytes = MIN(SPAN_PROBE_BYTES,
                         rmig_block_chunk_bytes(block, chunk));

    return s->config.is_zero &&
           s->config.is_zero(block->host + (chunk << RMIG_CHUNK_SHIFT), bytes);
}

/*
 * How many chunks from @chunk on are to share a registration.  Where a chunk
 * begins with data its neighbours' turn comes next, and every registration
 * costs a round trip; a chunk that begins with zeros may be zero altogether,
 * and is not pinned for nothing.
 */
static uint64_t span_from(const RMigSource *s, const RMigBlock *block,
                          uint64_t chunk)
{
    uint64_t end = MIN(chunk + SPAN_CHUNKS_MAX, rmig_block_chunks(block));
    uint64_t next = chunk + 1;

    while (next < end && s->rkeys[block->index][next] == 0 &&
           !starts_zero(s, block, next)) {
        next++;
    }
    return next - chunk;
}

/*
 * Ask the destination for the span from @chunk of @block, and register our
 * side of it meanwhile.  @needed: for a page of @chunk
 */
static bool ask_for_span(RMigSource *s, const RMigBlock *block,
                         uint64_t chunk, bool needed, GError **err)
{
    uint64_t n = span_from(s, block, chunk);
    RMigWireRegister reg = {
        .key = block->remote_offset + (chunk << RMIG_CHUNK_SHIFT),
        .block = block->index,
        .chunks = n - 1,
    };
    uint8_t *data = compose(s, err);
    GError *local = NULL;

    if (!data) {
        return false;
    }
    rmig_wire_register_pack(data, &reg);
    if (!command(s, RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_REGISTER_BYTES, 1,
                 err)) {
        return false;
    }
    s->asked = (RMigAsked) {
        .block = block, .first = chunk, .n = n, .open = true,
    };
    if (rmig_mr_table_register(&s->local, block, chunk, n, &local)) {
        return true;
    }
    if (needed && n == 1) {
        g_propagate_error(err, local);
        return false;
    }
    /* What cannot be had in advance, or as a whole, may do chunk by chunk */
    RMIG_LOG("source: %s", local->message);
    g_error_free(local);
    return true;
}

/*
 * Messages and writes leave in order, so a REGISTER that is sent when its
 * pages are at hand stands behind all writes before them, and the wire then
 * idles until it is answered.  So while the pages of one span are written, the
 * next span is asked for, as soon as the destination is ready for it.
 */
static bool ask_ahead(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                      GError **err)
{
    uint64_t next = s->asked.first + s->asked.n;

    /* Not before the pages of the last span that was asked for have come */
    if (s->asked.open || s->asked.block != block ||
        chunk < s->asked.first || chunk >= next ||
        next >= rmig_block_chunks(block) ||
        s->rkeys[block->index][next] != 0 ||
        starts_zero(s, block, next) ||
        !rmig_control_may_command(s->main.control)) {
        return true;
    }
    return ask_for_span(s, block, next, false, err);
}

/* The keys for @chunk, from a registration if need be */
static RMigMr *chunk_keys(RMigSource *s, const RMigBlock *block,
                          uint64_t chunk, uint32_t *rkey, GError **err)
{
    uint32_t *rkeys = s->rkeys[block->index];
    RMigMr *mr;

    if (s->pins_all) {
        *rkey = block->remote_rkey;
        return rmig_mr_table_find(&s->local, block, chunk);
    }
    if (rkeys[chunk] == 0 && !take_answer(s, err)) {
        return NULL;
    }
    if (rkeys[chunk] == 0 && (!ask_for_span(s, block, chunk, true, err) ||
                              !take_answer(s, err))) {
        return NULL;
    }
    *rkey = rkeys[chunk];
    mr = rmig_mr_table_find(&s->local, block, chunk);
    return mr ? mr : rmig_mr_table_register(&s->local, block, chunk, 1, err);
}

/*
 * Writes may take long on a slow network; but as long as @enough does not hold,
 * one must complete now and then.
 */
static bool wait_for_writes(RMigSource *s,
                            bool (*enough)(const RMigWriter *writer),
                            const char *what, GError **err)
{
    const RMigVerbs *verbs = rmig_link_verbs(s->main.link);
    unsigned in_flight = 0;
    int64_t deadline = 0;

    while (!enough(&s->writer)) {
        unsigned now = rmig_verbs_sends_in_flight(verbs);

        if (!deadline || now != in_flight) {
            in_flight = now;
            deadline = g_get_monotonic_time() +
                       RMIG_CONTROL_TIMEOUT_MS * INT64_C(1000);
        }
        if (!rmig_link_step(s->main.link, deadline, what, err)) {
            return false;
        }
    }
    return true;
}

static bool wait_for_room(RMigSource *s, GError **err)
{
    return wait_for_writes(s, rmig_writer_has_room, "room in the send queue",
                           err);
}

static bool send_zero_run(RMigSource *s, GError **err)
{
    g_autofree RMigZeroRun *run = g_queue_pop_head(&s->zero_queue);
    RMigWireZeroRun record = {
        .block = run->block->index,
        .offset = run->block->remote_offset + run->offset,
        .length = run->bytes,
    };
    uint8_t *data = compose(s, err);

    if (!data) {
        return false;
    }
    rmig_wire_zero_run_pack(data, &record);
    s->zero_runs_sent++;
    return command(s, RMIG_WIRE_COMPRESS, RMIG_WIRE_ZERO_RUN_BYTES, 1, err);
}

/*
 * While pages of @chunk come: send what need not wait, as long as the
 * destination is ready for it
 */
static bool pump(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                 GError **err)
{
    if (rmig_link_poll(s->main.link, err) < 0 ||
        !ask_ahead(s, block, chunk, err)) {
        return false;
    }
    while (!g_queue_is_empty(&s->zero_queue) &&
           rmig_control_may_command(s->main.control)) {
        if (!send_zero_run(s, err) ||
            rmig_link_poll(s->main.link, err) < 0) {
            return false;
        }
    }
    return true;
}

/* The run that is being merged is complete */
static void queue_zero_run(RMigSource *s)
{
    if (s->zero_run.bytes > 0) {
        g_queue_push_tail(&s->zero_queue,
                          g_memdup2(&s->zero_run, sizeof(s->zero_run)));
        s->zero_run.bytes = 0;
    }
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
    queue_zero_run(s);
    *run = (RMigZeroRun) { .block = block, .offset = offset, .bytes = len };
    while (g_queue_get_length(&s->zero_queue) >= ZERO_RUNS_MAX) {
        if (!send_zero_run(s, err)) {
            return false;
        }
    }
    return true;
}

static bool add_data(RMigSource *s, const RMigBlock *block, uint64_t offset,
                     uint64_t len, GError **err)
{
    while (len > 0) {
        uint64_t chunk = rmig_block_chunk_of(offset);
        uint64_t part = MIN(len, ((chunk + 1) << RMIG_CHUNK_SHIFT) - offset);
        uint32_t rkey;
        RMigMr *mr = chunk_keys(s, block, chunk, &rkey, err);

        if (!mr || !wait_for_room(s, err) ||
            !rmig_writer_add(&s->writer, block, offset, part, mr, rkey,
                             err)) {
            return false;
        }
        offset += part;
        len -= part;
    }
    return true;
}

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

static RMigPage take_page(RMigSource *s, uint64_t block_offset,
                          uint64_t offset, uint64_t len, GError **err)
{
    const RMigBlock *block = find_block(s, block_offset, offset, len, err);

    if (!block) {
        return RMIG_PAGE_FAILED;
    }
    if (++s->pages_since_pump >= PUMP_PAGES) {
        s->pages_since_pump = 0;
        if (!pump(s, block, rmig_block_chunk_of(offset), err)) {
            return RMIG_PAGE_FAILED;
        }
    }
    if (s->config.is_zero && s->config.is_zero(block->host + offset, len)) {
        return add_zero(s, block, offset, len, err) ? RMIG_PAGE_ZERO :
                                                      RMIG_PAGE_FAILED;
    }
    return add_data(s, block, offset, len, err) ? RMIG_PAGE_DATA :
                                                  RMIG_PAGE_FAILED;
}

RMigPage rmig_source_page(RMigSource *s, uint64_t block_offset,
                          uint64_t offset, uint64_t len, GError **err)
{
    GError *local = NULL;
    RMigPage page = RMIG_PAGE_FAILED;

    if (rmig_link_check(s->main.link, &local)) {
        page = take_page(s, block_offset, offset, len, &local);
    }
    if (page == RMIG_PAGE_FAILED) {
        give_up(s, local, err);
    }
    return page;
}

static bool finish(RMigSource *s, GError **err)
{
    if (!wait_for_room(s, err) || !rmig_writer_flush(&s->writer, err)) {
        return false;
    }
    queue_zero_run(s);
    while (!g_queue_is_empty(&s->zero_queue)) {
        if (!send_zero_run(s, err)) {
            return false;
        }
    }
    return wait_for_writes(s, rmig_writer_is_idle, "RDMA Writes to complete",
                           err) &&
           command(s, RMIG_WIRE_REGISTER_FINISHED, 0, 1, err);
}

bool rmig_source_finish(RMigSource *s, GError **err)
{
    GError *local = NULL;

    if (!rmig_link_check(s->main.link, &local) || !finish(s, &local)) {
        give_up(s, local, err);
        return false;
    }
    return true;
}

bool rmig_source_end(RMigSource *s, GError **err)
{
    GError *local = NULL;

    if (s->back.control) {
        rmig_control_expect(s->back.control);
    }
    if (!rmig_link_check(s->main.link, &local) ||
        !rmig_stream_flush(&s->main.stream, &local) ||
        !rmig_link_settle(s->main.link, LAST_MESSAGE_MS, &local)) {
        give_up(s, local, err);
        return false;
    }
    return true;
}

void rmig_source_counters(RMigSource *s, RMigCounters *counters)
{
    memset(counters, 0, sizeof(*counters));
    /* A run that still grows counts too: rate limits go by single pages */
    counters->write_bytes = s->writer.bytes + s->writer.run_bytes;
    counters->writes = s->writer.writes;
    counters->zero_runs = s->zero_runs_sent;
    counters->chunks_registered = s->local.chunks_registered;
    if (s->main.control) {
        counters->control_bytes = rmig_control_sent_bytes(s->main.control);
        counters->control_messages =
            rmig_control_sent_messages(s->main.control);
    }
}

uint64_t rmig_source_sent_bytes(const RMigSource *s)
{
    return s->writer.bytes + s->writer.run_bytes +
           (s->main.control ? rmig_control_sent_bytes(s->main.control) : 0);
}

void rmig_source_hint_block(RMigSource *s, uint64_t block_offset,
                            const RMigBlockHints *hints)
{
    g_assert(rmig_blocks_by_offset(&s->blocks, block_offset) && hints);
}

void rmig_source_shutdown(RMigSource *s)
{
    rmig_shutdown_trigger(s->shutdown);
}

void rmig_source_close(RMigSource *s, bool failed)
{
    rmig_conn_disconnect(&s->back, failed);
    rmig_conn_disconnect(&s->main, failed);
    /* The queue pairs are gone: nothing uses the memory any more */
    if (s->exchanged) {
        rmig_writer_cleanup(&s->writer);
        rmig_mr_table_cleanup(&s->local);
        for (uint32_t i = 0; i < rmig_blocks_count(&s->blocks); i++) {
            g_free(s->rkeys[i]);
        }
        g_clear_pointer(&s->rkeys, g_free);
        s->exchanged = false;
    }
    rmig_conn_cleanup(&s->back);
    rmig_conn_cleanup(&s->main);
}

void rmig_source_free(RMigSource *s)
{
    if (!s) {
        return;
    }
    rmig_source_close(s, false);
    rmig_blocks_cleanup(&s->blocks);
    g_queue_clear_full(&s->zero_queue, g_free);
    rmig_shutdown_free(s->shutdown);
    g_free(s);
}
