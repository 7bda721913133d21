/*
 * RDMA migration transport: page runs turned into RDMA Writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See writer.h.
 */
#include <string.h>

#include "writer.h"

/*
 * What a completion of a batch resolves to.  Every write of the batch carries
 * it as its context, so an error completion names the stretch of RAM in which
 * the failed write lies.
 */
struct RMigBatch {
    RMigWork work;
    const RMigBlock *block; /* of its first write */
    uint64_t offset;
    unsigned writes;
};

static char *describe_batch(const RMigWork *work)
{
    const RMigBatch *batch = (const RMigBatch *)work;

    return g_strdup_printf("(one of %u from RAM block %s, offset 0x%"
                           G_GINT64_MODIFIER "x, chunk %" G_GUINT64_FORMAT
                           ")", batch->writes, batch->block->name,
                           (guint64)batch->offset,
                           (guint64)rmig_block_chunk_of(batch->offset));
}

static void batch_done(RMigWork *work, uint32_t bytes)
{
    RMigBatch *batch = (RMigBatch *)work;
    RMigWriter *w = work->owner;

    (void)bytes;
    w->batches_in_flight--;
    g_queue_remove(&w->busy, batch);
    g_queue_push_head(&w->idle, batch);
}

void rmig_writer_init(RMigWriter *w, RMigVerbs *verbs)
{
    memset(w, 0, sizeof(*w));
    w->verbs = verbs;
    g_queue_init(&w->idle);
    g_queue_init(&w->busy);
}

void rmig_writer_cleanup(RMigWriter *w)
{
    g_queue_clear_full(&w->idle, g_free);
    g_queue_clear_full(&w->busy, g_free);
    memset(w, 0, sizeof(*w));
}

bool rmig_writer_has_room(const RMigWriter *w)
{
    return rmig_verbs_write_room(w->verbs) > 0;
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
    batch->block = w->block;
    batch->offset = w->run_offset;
    batch->writes = 0;
    g_queue_push_tail(&w->busy, batch);
    return batch;
}

/* The batch is complete when its last write, which is signalled, is */
static void end_batch(RMigWriter *w)
{
    w->batch = NULL;
    w->batches_in_flight++;
}

static bool post_run(RMigWriter *w, bool last, GError **err)
{
    const RMigBlock *block = w->block;
    bool signalled;

    if (!w->batch) {
        w->batch = start_batch(w);
    }
    signalled = last || w->batch->writes + 1 >= RMIG_WRITER_BATCH ||
                rmig_verbs_write_room(w->verbs) == 1;
    w->batch->writes++;
    if (!rmig_verbs_post_write(w->verbs, &w->batch->work, signalled, w->mr,
                               block->host + w->run_offset, w->run_bytes,
                               block->remote_host + w->run_offset, w->rkey,
                               err)) {
        g_prefix_error(err, "RAM block %s, offset 0x%" G_GINT64_MODIFIER
                       "x: ", block->name, (guint64)w->run_offset);
        return false;
    }
    w->bytes += w->run_bytes;
    w->writes++;
    w->run_bytes = 0;
    if (signalled) {
        end_batch(w);
    }
    return true;
}

bool rmig_writer_add(RMigWriter *w, const RMigBlock *block, uint64_t offset,
                     uint32_t len, RMigMr *mr, uint32_t rkey, GError **err)
{
    if (w->run_bytes > 0) {
        /*
         * A memory region is one chunk or more, its bytes fit 32 bits only in
         * the first case: a chunk is where a run ends at the latest.
         */
        if (w->block == block && w->mr == mr && w->rkey == rkey &&
            offset == w->run_offset + w->run_bytes &&
            rmig_block_chunk_of(offset) ==
            rmig_block_chunk_of(w->run_offset)) {
            w->run_bytes += len;
            return true;
        }
        if (!post_run(w, false, err)) {
            return false;
        }
    }
    w->block = block;
    w->mr = mr;
    w->rkey = rkey;
    w->run_offset = offset;
    w->run_bytes = len;
    return true;
}

bool rmig_writer_flush(RMigWriter *w, GError **err)
{
    return w->run_bytes == 0 || post_run(w, true, err);
}
