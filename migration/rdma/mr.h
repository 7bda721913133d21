/*
 * RDMA migration transport: registration of guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: which chunk of which RAM block is covered by which memory region.
 * Callers: source (for its own side), dest.
 * Thread: the connection's.
 *
 * A span is a run of neighbouring chunks of one block that share a memory
 * region.  It lives until its last chunk is unregistered.
 */
#ifndef RMIG_MR_H
#define RMIG_MR_H

#include "blocks.h"
#include "migration/rdma-transport.h"
#include "verbs.h"

typedef struct RMigSpan RMigSpan;

typedef struct RMigMrTable {
    RMigVerbs *verbs;         /* not owned */
    const RMigBlocks *blocks; /* not owned */
    bool remote_write;        /* whether the peer may write into it */
    RMigSpan ***chunks;       /* [block][chunk]; NULL: not registered */
    uint64_t chunks_registered; /* since the start, for statistics */
} RMigMrTable;

/* @blocks must be complete and outlive the table */
void rmig_mr_table_init(RMigMrTable *table, RMigVerbs *verbs,
                        const RMigBlocks *blocks, bool remote_write);
/* Unregisters everything.  An all-zero table is allowed. */
void rmig_mr_table_cleanup(RMigMrTable *table);

/* What covers @chunk, or NULL */
RMigMr *rmig_mr_table_find(const RMigMrTable *table, const RMigBlock *block,
                           uint64_t chunk);
/*
 * rmig_mr_table_register: one memory region over @n chunks from @first
 *
 * If exactly these chunks share one already, that is returned; otherwise the
 * new one takes the place of what covered them.  The chunks must exist.
 * Returns NULL with the block and chunk in the message.
 */
RMigMr *rmig_mr_table_register(RMigMrTable *table, const RMigBlock *block,
                               uint64_t first, uint64_t n, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* The whole of every block that is not empty, for pin-all */
bool rmig_mr_table_register_all(RMigMrTable *table, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* A chunk that is not registered is left alone */
void rmig_mr_table_unregister(RMigMrTable *table, const RMigBlock *block,
                              uint64_t chunk);

#endif
