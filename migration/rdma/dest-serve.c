/*
 * RDMA migration transport: the source's commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_dest_handle() of migration/rdma-transport.h: what the destination
 * does for each command of the source.
 * Callers: the face.
 * Thread: the connection's; memory is registered, let go and cleared by the
 * jobs' workers, and meanwhile whoever waits here lets others run.
 *
 * The source is hostile until validated: the control channel lets only well
 * formed commands through, and every number in them passes a check of
 * blocks.h before it is used.  docs/rdma.txt, "Security".
 *
 * A command is answered when all of its records have been dealt with, in their
 * order, and the next one is only taken then: so zeros are there before newer
 * contents.  Only memory that is let go may still be on its way out; what is
 * asked for next waits for it if it needs the room.
 */
#include <string.h>

#include "dest-priv.h"
#include "log.h"

/* Memory that one job clears */
#define ZERO_JOB_BYTES (UINT64_C(32) << 20)
#define ZERO_JOB_RUNS 64
/* So little is not worth another thread */
#define ZERO_HERE_BYTES (UINT64_C(256) << 10)
/* From so many bytes on it pays to ask first what was ever touched */
#define ZERO_LOOK_BYTES (UINT64_C(1) << 20)

/* Other things go on while the workers work */
static bool wait_for_one(RMigDest *d, GError **err)
{
    rmig_link_rest(d->main.link);
    return rmig_jobs_reap(d->jobs) > 0 ||
           rmig_link_step(d->main.link, 0, "memory to be registered", err);
}

static bool wait_for_jobs(RMigDest *d, GError **err)
{
    while (rmig_jobs_pending(d->jobs) > 0) {
        if (!wait_for_one(d, err)) {
            return false;
        }
    }
    return true;
}

/* NULL stands for one that is refused.  What is let go may still be leaving. */
static bool wait_for_spans(RMigDest *d, const GPtrArray *spans, GError **err)
{
    for (unsigned i = 0; i < spans->len; i++) {
        const RMigSpan *span = g_ptr_array_index(spans, i);

        while (span && span->state == RMIG_SPAN_REGISTERING) {
            if (!wait_for_one(d, err)) {
                return false;
            }
        }
    }
    return true;
}

/* ---- RAM blocks ---- */

static void jobs_are_ripe(void *opaque)
{
    RMigDest *d = opaque;

    rmig_jobs_reap(d->jobs);
}

static uint64_t plugged_bytes(const RMigDest *d)
{
    return d->blocks.total_bytes - d->blocks.hole_bytes;
}

/* Regions may overlap, and each pins its own: together no more than RAM */
static uint64_t may_pin(const RMigDest *d)
{
    return MIN(d->pin_room, plugged_bytes(d));
}

static bool init_tables(RMigDest *d, GError **err)
{
    d->jobs = rmig_jobs_new(d->config.register_threads, err);
    if (!d->jobs) {
        return false;
    }
    d->pages = rmig_pages_new();
    rmig_mr_table_init(&d->table, rmig_link_verbs(d->main.link), d->jobs,
                       &d->blocks, true, may_pin(d));
    d->announced = true;
    return rmig_jobs_fd(d->jobs) < 0 ||
           rmig_link_watch(d->main.link, rmig_jobs_fd(d->jobs), jobs_are_ripe,
                           d, err);
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
    return ok && init_tables(d, err);
}

/*
 * What is plugged here is told by the source's stream, between the exchange of
 * the blocks and the first round.  So this comes before the first registration.
 */
static bool learn_holes(RMigDest *d, GError **err)
{
    if (d->knows_holes || !d->config.ops->list_holes) {
        return true;
    }
    d->knows_holes = true;
    if (!d->config.ops->list_holes(d->config.opaque, err)) {
        return false;
    }
    rmig_budget_init(&d->table.budget, may_pin(d));
    return true;
}

/* Pin-all as in version 1: before the first page */
static bool register_all(RMigDest *d, GError **err)
{
    if (!learn_holes(d, err)) {
        return false;
    }
    if (d->blocks.hole_bytes > 0) {
        g_set_error_literal(err, RMIG_BLOCKS_ERROR, 0,
                            RMIG_BLOCKS_NO_PIN_ALL_WITH_HOLES);
        return false;
    }
    for (uint32_t i = 0; i < rmig_blocks_count(&d->blocks); i++) {
        const RMigBlock *block = rmig_blocks_get(&d->blocks, i);
        uint64_t n = rmig_block_chunks(block);

        if (n > 0) {
            rmig_span_install(rmig_span_register(&d->table, block, 0, n));
        }
    }
    if (!wait_for_jobs(d, err)) {
        return false;
    }
    for (GList *l = d->table.spans.head; l; l = l->next) {
        const RMigSpan *span = l->data;

        if (span->state == RMIG_SPAN_FAILED) {
            g_propagate_prefixed_error(err, g_error_copy(span->error),
                                       "pinning all guest memory: ");
            return false;
        }
    }
    return true;
}

static bool handle_ram_blocks(RMigDest *d, const RMigWireMessage *msg,
                              GError **err)
{
    bool pinned = (d->granted & RMIG_WIRE_FLAG_PIN_ALL) &&
                  !(d->granted & RMIG_WIRE_FLAG_BATCH);
    uint8_t *data;
    uint32_t n;

    (void)msg;
    if (!learn_blocks(d, err) || (pinned && !register_all(d, err))) {
        return false;
    }
    data = rmig_control_buffer(d->main.control, err);
    if (!data) {
        return false;
    }
    n = rmig_blocks_count(&d->blocks);
    for (uint32_t i = 0; i < n; i++) {
        const RMigBlock *block = rmig_blocks_get(&d->blocks, i);
        const RMigSpan *span = pinned && block->length ?
                               rmig_mr_table_find(&d->table, block, 0) : NULL;
        RMigWireBlock record = {
            .host_addr = (uintptr_t)block->host,
            .offset = block->offset,
            .length = block->length,
            .rkey = span ? rmig_mr_rkey(span->mr) : 0,
        };

        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES, &record);
    }
    return rmig_control_answer(d->main.control, n * RMIG_WIRE_BLOCK_BYTES, 1,
                               err);
}

/*
 * A message has room for thousands of records, each of which may name all of a
 * block.  The next command waits until they have been dealt with, so one
 * message names no more than all of RAM once.  @left: bytes that it may still
 * name
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

/* ---- registration ---- */

/* One that covers exactly these chunks, all of them still */
static RMigSpan *find_same(RMigDest *d, const RMigBlock *block,
                           uint64_t first, uint64_t n)
{
    RMigSpan *span = rmig_mr_table_find(&d->table, block, first);

    return span && span->first == first && span->n == n && span->users == n &&
           span->state == RMIG_SPAN_READY ? span : NULL;
}

/*
 * What lies in these chunks altogether would go when they have their new
 * region.  It goes before, where both at once would be too much; but not what
 * this same message has asked for, too (@pins).
 */
static void leave_covered(RMigDest *d, const RMigBlock *block, uint64_t first,
                          uint64_t n)
{
    for (uint64_t c = first; c < first + n; c++) {
        RMigSpan *span = rmig_mr_table_find(&d->table, block, c);

        if (span && span->pins == 0 && span->first >= first &&
            span->first + span->n <= first + n) {
            rmig_span_leave(span);
        }
    }
}

/* Whether there is room for @n chunks from @first, perhaps after a while */
static bool find_room(RMigDest *d, const RMigBlock *block, uint64_t first,
                      uint64_t n, bool *found, GError **err)
{
    uint64_t bytes = rmig_block_span_bytes(block, first, n);
    RMigBudget *budget = &d->table.budget;

    if (!rmig_budget_will_fit(budget, bytes)) {
        leave_covered(d, block, first, n);
    }
    if (!rmig_budget_fits(budget, bytes) &&
        rmig_budget_will_fit(budget, bytes) && !wait_for_jobs(d, err)) {
        return false;
    }
    *found = rmig_budget_fits(budget, bytes);
    return true;
}

/*
 * Begin with a record.  *@span: NULL if there is no room for it, which a source
 * that knows of refusals is told; another one cannot go on.
 */
static bool begin_register(RMigDest *d, const RMigBlock *block, uint64_t first,
                           uint64_t n, RMigSpan **span, GError **err)
{
    bool found;

    *span = find_same(d, block, first, n);
    if (*span) {
        (*span)->pins++;
        return true;
    }
    if (!find_room(d, block, first, n, &found, err)) {
        return false;
    }
    if (found) {
        *span = rmig_span_register(&d->table, block, first, n);
        (*span)->pins++;
        return true;
    }
    d->chunks_refused += n;
    if (!(d->granted & RMIG_WIRE_FLAG_BATCH)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM block %s, chunk %" G_GUINT64_FORMAT ": the source "
                    "asks for more memory to be pinned than may be here, %"
                    G_GUINT64_FORMAT " MiB, and knows of no limit: raise the "
                    "memory-lock limit " RMIG_MEMLOCK_WAYS " or "
                    "rdma-pin-limit", block->name,
                    (guint64)first, (guint64)d->table.budget.ceiling >> 20);
        return false;
    }
    return true;
}

static bool begin_all(RMigDest *d, const RMigWireMessage *msg,
                      GPtrArray *spans, GError **err)
{
    uint64_t left = plugged_bytes(d);

    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;
        RMigBlock *block;
        uint64_t first, n;
        RMigSpan *span;

        rmig_wire_register_unpack(msg, i, &reg);
        if (!rmig_blocks_check_register(&d->blocks, &reg, &block, &first, &n,
                                        err) ||
            !take_share(&left, rmig_block_span_bytes(block, first, n), msg,
                        err) ||
            !begin_register(d, block, first, n, &span, err)) {
            return false;
        }
        g_ptr_array_add(spans, span);
    }
    return true;
}

/* The source only learns that it was refused; the reason stays here */
static void note_refusal(RMigDest *d, const GError *why)
{
    g_autofree char *text = NULL;

    bool never = g_error_matches(why, RMIG_VERBS_ERROR,
                                 RMIG_VERBS_ERROR_UNPINNABLE);

    /* What no room would help matters more than what it would */
    if (d->refusal &&
        (!never || g_error_matches(d->refusal, RMIG_VERBS_ERROR,
                                   RMIG_VERBS_ERROR_UNPINNABLE))) {
        return;
    }
    g_clear_error(&d->refusal);
    d->refusal = g_error_copy(why);
    text = g_strdup_printf("%s: %s", never ?
                           "the source asks for memory that cannot be pinned" :
                           "not all the memory that the source asks for can "
                           "be pinned, going on with less", why->message);
    d->config.ops->warn(d->config.opaque, text);
}

/* A span whose job is done: its key, or 0 for a refusal, which takes *@span */
static bool end_register(RMigDest *d, RMigSpan **span, RMigWireResult *result,
                         GError **err)
{
    result->rkey = 0;
    result->reason = RMIG_WIRE_REFUSED_NO_ROOM;
    if (!*span) {
        return true;
    }
    (*span)->pins--;
    if ((*span)->state == RMIG_SPAN_FAILED) {
        if (!(d->granted & RMIG_WIRE_FLAG_BATCH)) {
            g_propagate_error(err, g_error_copy((*span)->error));
            return false;
        }
        note_refusal(d, (*span)->error);
        if (rmig_span_is_unpinnable(*span)) {
            result->reason = RMIG_WIRE_REFUSED_UNPINNABLE;
        }
        rmig_span_leave(g_steal_pointer(span));
        return true;
    }
    result->rkey = rmig_mr_rkey((*span)->mr);
    return true;
}

static bool answer_register(RMigDest *d, const RMigWireMessage *msg,
                            const GPtrArray *spans, GError **err)
{
    uint8_t *data = rmig_control_buffer(d->main.control, err);

    if (!data) {
        return false;
    }
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;
        RMigWireResult result;

        rmig_wire_register_unpack(msg, i, &reg);
        result.host_addr =
            (uintptr_t)rmig_blocks_get(&d->blocks, reg.block)->host;
        if (!end_register(d, (RMigSpan **)&g_ptr_array_index(spans, i),
                          &result, err)) {
            return false;
        }
        rmig_wire_result_pack(data + i * RMIG_WIRE_RESULT_BYTES, &result);
    }
    /*
     * When all keys are known: one may take another's place, and its region; of
     * one that was registered before and has left by that there is nothing more
     * to install.
     */
    for (uint32_t i = 0; i < spans->len; i++) {
        RMigSpan *span = g_ptr_array_index(spans, i);

        if (span && span->users == 0 && span->state == RMIG_SPAN_READY) {
            rmig_span_install(span);
        }
    }
    return rmig_control_answer(d->main.control,
                               msg->n_records * RMIG_WIRE_RESULT_BYTES,
                               msg->n_records, err);
}

static bool handle_register(RMigDest *d, const RMigWireMessage *msg,
                            GError **err)
{
    g_autoptr(GPtrArray) spans = g_ptr_array_new();

    return begin_all(d, msg, spans, err) && wait_for_spans(d, spans, err) &&
           answer_register(d, msg, spans, err);
}

static bool handle_unregister(RMigDest *d, const RMigWireMessage *msg,
                              GError **err)
{
    uint64_t left = plugged_bytes(d);

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
            d->chunks_released += rmig_mr_table_find(&d->table, block,
                                                     c) != NULL;
            rmig_mr_table_unregister(&d->table, block, c);
        }
    }
    /* The workers go on; whoever needs the room waits for it */
    return rmig_control_answer(d->main.control, 0, 1, err);
}

/* ---- zeros ---- */

typedef struct ZeroJob {
    RMigJob job;
    RMigDest *dest;
    uint64_t bytes;
    unsigned n;
    struct {
        uint8_t *host;
        uint64_t bytes;
        bool anonymous;
    } runs[ZERO_JOB_RUNS];
} ZeroJob;

/* What was never touched is zero, and stays so */
static void clear_touched(RMigDest *d, uint8_t *host, uint64_t bytes)
{
    while (bytes > 0) {
        uint64_t run;
        uint64_t skip = rmig_pages_next_touched(d->pages, host, bytes, &run);

        if (run > 0) {
            d->config.ops->zero(d->config.opaque, host + skip, run);
        }
        host += skip + run;
        bytes -= skip + run;
    }
}

/* On a worker */
static void run_zero(RMigJob *job)
{
    ZeroJob *z = (ZeroJob *)job;
    RMigDest *d = z->dest;

    for (unsigned i = 0; i < z->n; i++) {
        if (z->runs[i].anonymous && z->runs[i].bytes >= ZERO_LOOK_BYTES) {
            clear_touched(d, z->runs[i].host, z->runs[i].bytes);
        } else {
            d->config.ops->zero(d->config.opaque, z->runs[i].host,
                                z->runs[i].bytes);
        }
    }
}

static void zero_done(RMigJob *job)
{
    ((ZeroJob *)job)->dest->clearing--;
    g_free(job);
}

static void start_zero_job(RMigDest *d, ZeroJob *z)
{
    d->clearing++;
    rmig_jobs_add(d->jobs, &z->job);
}

static ZeroJob *new_zero_job(RMigDest *d)
{
    ZeroJob *z = g_new(ZeroJob, 1);

    z->job.run = run_zero;
    z->job.done = zero_done;
    z->dest = d;
    z->bytes = 0;
    z->n = 0;
    return z;
}

/* Returns the job that the next run is added to */
static ZeroJob *add_run(RMigDest *d, ZeroJob *z, uint8_t *host, uint64_t bytes,
                        bool anonymous)
{
    while (bytes > 0) {
        uint64_t part = MIN(bytes, ZERO_JOB_BYTES - z->bytes);

        z->runs[z->n].host = host;
        z->runs[z->n].bytes = part;
        z->runs[z->n].anonymous = anonymous;
        z->n++;
        z->bytes += part;
        host += part;
        bytes -= part;
        if (z->n == ZERO_JOB_RUNS || z->bytes == ZERO_JOB_BYTES) {
            start_zero_job(d, z);
            z = new_zero_job(d);
        }
    }
    return z;
}

static void end_runs(RMigDest *d, ZeroJob *z)
{
    if (z->bytes > ZERO_HERE_BYTES) {
        start_zero_job(d, z);
        return;
    }
    run_zero(&z->job);
    g_free(z);
}

static bool handle_zero_runs(RMigDest *d, const RMigWireMessage *msg,
                             GError **err)
{
    uint64_t left = plugged_bytes(d);
    ZeroJob *z = new_zero_job(d);
    bool ok = true;

    for (uint32_t i = 0; ok && i < msg->n_records; i++) {
        RMigWireZeroRun run;
        RMigBlock *block;
        uint64_t offset;

        rmig_wire_zero_run_unpack(msg, i, &run);
        ok = rmig_blocks_check_zero_run(&d->blocks, &run, &block, &offset,
                                        err) &&
             take_share(&left, run.length, msg, err);
        if (ok) {
            z = add_run(d, z, block->host + offset, run.length,
                        g_hash_table_contains(d->hints, &block->offset));
            d->zero_runs++;
        }
    }
    end_runs(d, z);
    while (ok && d->clearing > 0) {
        ok = wait_for_one(d, err);
    }
    return ok;
}

/* ---- commands ---- */

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
    if (!learn_holes(d, err)) {
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
        g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                    "the source sent %s in the middle of a round",
                    rmig_wire_type_name(msg->type));
        return false;
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
            rmig_dest_publish(d);
            if (!rmig_control_release(d->main.control, NULL)) {
                RMIG_LOG("the last command of a connection that has broken");
            }
        }
    }
    if (local && d->refusal &&
        g_error_matches(local, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER)) {
        g_prefix_error(&local, "memory could not be pinned here (%s), and ",
                       d->refusal->message);
    }
    if (local) {
        /* The peer must not go on writing for a migration that is over */
        rmig_link_fail(d->main.link, g_error_copy(local));
        g_propagate_error(err, local);
        return false;
    }
    return true;
}
