/*
 * RDMA migration transport: page runs turned into RDMA Writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See writer.h.
 */
#include <string.h>

#include "writer.h"

/* A run is one work request, whose length has 32 bits; devices take 1 GiB */
#define RUN_MAX_BYTES (UINT64_C(1) << 30)
/* What is worth a doorbell of its own when the wire is idle */
#define IDLE_BYTES (UINT64_C(64) << 10)
/* Batches that together fill the wire, so that it never runs dry between */
#define BATCHES_ON_WIRE 8
/* On a long way: so that their completions still tell how fast it goes */
#define BATCH_MAX_BYTES (UINT64_C(8) << 20)
#define WIRE_DEFAULT_BYTES (UINT64_C(8) << 20)

/*
 * What a completion resolves to.  All writes of a batch carry it as their
 * context, so an error completion names the stretch of RAM in which the failed
 * write lies.
 */
struct RMigBatch {
    RMigWork work;
    RMigWrite writes[RMIG_WRITER_BATCH];
    RMigSpan *spans[RMIG_WRITER_BATCH]; /* pinned; neighbours differ */
    unsigned n_writes;
    unsigned n_spans;
    const RMigBlock *block; /* of its first write */
    uint64_t offset;
    uint64_t bytes;
    int64_t posted_us;
    bool alone; /* on an idle wire */
};

static char *describe_batch(const RMigWork *work)
{
    const RMigBatch *batch = (const RMigBatch *)work;

    return g_strdup_printf("(one of %u from RAM block %s, offset 0x%"
                           G_GINT64_MODIFIER "x, chunk %" G_GUINT64_FORMAT
                           ")", batch->n_writes, batch->block->name,
                           (guint64)batch->offset,
                           (guint64)rmig_block_chunk_of(batch->offset));
}

static void batch_done(RMigWork *work, uint32_t bytes)
{
    RMigBatch *batch = (RMigBatch *)work;
    RMigWriter *w = work->owner;
    int64_t now = g_get_monotonic_time();

    (void)bytes;
    for (unsigned i = 0; i < batch->n_spans; i++) {
        batch->spans[i]->pins--;
    }
    w->batches_in_flight--;
    w->wire_bytes -= batch->bytes;
    g_queue_remove(&w->busy, batch);
    g_queue_push_head(&w->idle, batch);
    w->has_alone = w->has_alone && !batch->alone;
    if (w->landed) {
        RMigLanded landed = {
            .bytes = batch->bytes,
            .us = now - w->busy_since_us,
            .flight_us = now - batch->posted_us,
            .alone = batch->alone,
            .now_us = now,
        };

        w->landed(w->opaque, &landed);
    }
    w->busy_since_us = now;
}

void rmig_writer_init(RMigWriter *w, RMigVerbs *verbs)
{
    memset(w, 0, sizeof(*w));
    w->verbs = verbs;
    w->wire_max = WIRE_DEFAULT_BYTES;
    g_queue_init(&w->idle);
    g_queue_init(&w->busy);
}

void rmig_writer_cleanup(RMigWriter *w)
{
    g_queue_clear_full(&w->idle, g_free);
    g_queue_clear_full(&w->busy, g_free);
    g_free(w->batch);
    memset(w, 0, sizeof(*w));
}

static unsigned batched(const RMigWriter *w)
{
    return w->batch ? w->batch->n_writes : 0;
}

/* For the batch, the run that is being merged, and at least one */
static bool has_slots(const RMigWriter *w)
{
    return rmig_verbs_write_room(w->verbs) >=
           MAX(batched(w) + (w->run_bytes > 0), 1);
}

bool rmig_writer_has_room(const RMigWriter *w)
{
    return has_slots(w) &&
           (w->wire_bytes == 0 ||
            (!w->drains && w->wire_bytes < w->wire_max));
}

bool rmig_writer_is_idle(const RMigWriter *w)
{
    return w->run_bytes == 0 && !w->batch && w->batches_in_flight == 0;
}

static RMigBatch *start_batch(RMigWriter *w)
{
    RMigBatch *batch = g_queue_pop_head(&w->idle);

    if (!batch) {
        batch = g_new0(RMigBatch, 1);
        batch->work.what = "RDMA Write";
        batch->work.done = batch_done;
        batch->work.describe = describe_batch;
        batch->work.owner = w;
    }
    batch->n_writes = 0;
    batch->n_spans = 0;
    batch->bytes = 0;
    batch->block = w->span->block;
    batch->offset = w->run_offset;
    return batch;
}

/* The run becomes a write of the batch; the next one begins behind it */
static void end_run(RMigWriter *w)
{
    const RMigSpan *span = w->span;
    const RMigBlock *block;
    RMigBatch *batch;

    if (w->run_bytes == 0) {
        return;
    }
    if (!w->batch) {
        w->batch = start_batch(w);
    }
    batch = w->batch;
    block = span->block;
    batch->writes[batch->n_writes++] = (RMigWrite) {
        .mr = span->mr,
        .addr = block->host + w->run_offset,
        .bytes = w->run_bytes,
        .rkey = span->rkey,
        .remote_addr = block->remote_host + w->run_offset,
    };
    if (batch->n_spans == 0 || batch->spans[batch->n_spans - 1] != span) {
        batch->spans[batch->n_spans++] = w->span;
        w->span->pins++;
    }
    batch->bytes += w->run_bytes;
    w->batch_bytes = batch->bytes;
    w->run_bytes = 0;
}

static bool post_batch(RMigWriter *w, GError **err)
{
    RMigBatch *batch = w->batch;

    /* Either way the batch is busy: the NIC may have some of its writes */
    w->batch = NULL;
    w->batch_bytes = 0;
    g_queue_push_tail(&w->busy, batch);
    if (!rmig_verbs_post_writes(w->verbs, &batch->work, batch->writes,
                                batch->n_writes, err)) {
        g_prefix_error(err, "RAM block %s, offset 0x%" G_GINT64_MODIFIER
                       "x: ", batch->block->name, (guint64)batch->offset);
        return false;
    }
    batch->posted_us = g_get_monotonic_time();
    batch->alone = w->batches_in_flight++ == 0;
    if (batch->alone) {
        w->busy_since_us = batch->posted_us;
        w->has_alone = true;
        w->drains = false;
    }
    for (unsigned i = 0; i < batch->n_spans; i++) {
        batch->spans[i]->written = true;
        rmig_span_touch(batch->spans[i]);
    }
    w->wire_bytes += batch->bytes;
    w->bytes += batch->bytes;
    w->writes += batch->n_writes;
    return true;
}

void rmig_writer_enter(RMigWriter *w, RMigSpan *span)
{
    if (w->span == span) {
        return;
    }
    end_run(w);
    if (w->span) {
        w->span->pins--;
    }
    span->pins++;
    w->span = span;
    w->span_start = span->first << RMIG_CHUNK_SHIFT;
    w->span_end = w->span_start + rmig_span_bytes(span);
}

/* Whether what is held back should leave rather than grow */
static bool is_ripe(const RMigWriter *w)
{
    uint64_t held = w->batch_bytes + w->run_bytes;

    return w->batches_in_flight == 0 ? held >= IDLE_BYTES :
           held >= MIN(w->wire_max / BATCHES_ON_WIRE, BATCH_MAX_BYTES);
}

/* A batch that could not grow: it may be the queue that is shorter */
static bool is_full(const RMigWriter *w)
{
    return batched(w) == RMIG_WRITER_BATCH ||
           (batched(w) > 0 && batched(w) >= rmig_verbs_write_room(w->verbs));
}

bool rmig_writer_add(RMigWriter *w, uint64_t offset, uint64_t len,
                     GError **err)
{
    if (w->run_bytes > 0 && offset == w->run_offset + w->run_bytes &&
        w->run_bytes + len <= RUN_MAX_BYTES) {
        w->run_bytes += len;
    } else {
        end_run(w);
        if (is_full(w) && !post_batch(w, err)) {
            return false;
        }
        w->run_offset = offset;
        w->run_bytes = len;
    }
    /* It may just have filled the queue: then it leaves when there is room */
    return !is_ripe(w) || !has_slots(w) || rmig_writer_flush(w, err);
}

bool rmig_writer_flush(RMigWriter *w, GError **err)
{
    if (batched(w) == RMIG_WRITER_BATCH && !post_batch(w, err)) {
        return false;
    }
    end_run(w);
    return !w->batch || post_batch(w, err);
}

bool rmig_writer_leave(RMigWriter *w, GError **err)
{
    if (!rmig_writer_flush(w, err)) {
        return false;
    }
    if (w->span) {
        w->span->pins--;
        w->span = NULL;
    }
    return true;
}
