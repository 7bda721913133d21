/*
 * RDMA migration transport: page runs turned into RDMA Writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: merges neighbouring pages into runs, posts a run as one RDMA Write,
 * asks for one completion a batch, and knows when everything has landed.
 * Callers: source.
 * Thread: the connection's.
 *
 * The run that is being merged is always held back, so the last write of a
 * round can be the signalled one: rmig_writer_flush() posts it so, and all
 * writes before it are complete when it is.
 */
#ifndef RMIG_WRITER_H
#define RMIG_WRITER_H

#include "blocks.h"
#include "verbs.h"

/* Writes that share one completion */
#define RMIG_WRITER_BATCH 32

typedef struct RMigBatch RMigBatch;

typedef struct RMigWriter {
    RMigVerbs *verbs; /* not owned */
    /* The run that is being merged; @run_bytes 0: none */
    const RMigBlock *block;
    RMigMr *mr;
    uint32_t rkey;
    uint64_t run_offset; /* in the block */
    uint32_t run_bytes;
    /* The batch that writes are posted to, and those that are not complete */
    RMigBatch *batch;
    unsigned batches_in_flight;
    GQueue idle; /* of RMigBatch, owned */
    GQueue busy; /* of RMigBatch, owned: all that the NIC may still name */
    uint64_t bytes;  /* posted */
    uint64_t writes; /* posted */
} RMigWriter;

void rmig_writer_init(RMigWriter *writer, RMigVerbs *verbs);
/* After the queue pair is gone */
void rmig_writer_cleanup(RMigWriter *writer);

/* Whether the next add or flush can post; if not, wait for completions */
bool rmig_writer_has_room(const RMigWriter *writer);
/*
 * rmig_writer_add: @len bytes at @offset of @block, inside of @mr on this side
 * and of the memory region of @rkey on the other
 *
 * There must be room.
 */
bool rmig_writer_add(RMigWriter *writer, const RMigBlock *block,
                     uint64_t offset, uint32_t len, RMigMr *mr, uint32_t rkey,
                     GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Post what is held back.  There must be room. */
bool rmig_writer_flush(RMigWriter *writer, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Whether everything posted has landed */
bool rmig_writer_is_idle(const RMigWriter *writer);

#endif
