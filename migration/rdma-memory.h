/*
 * RDMA migration: guest RAM stays where it is while it is registered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_MIGRATION_RDMA_MEMORY_H
#define QEMU_MIGRATION_RDMA_MEMORY_H

#include "exec/cpu-common.h"
#include "rdma-channel.h"

/*
 * rdma_memory_hold: from here on no balloon discards guest RAM
 *
 * Before the core object is made; its config's released is to be
 * rdma_memory_release().  Fails if something in this machine needs to discard
 * at any time.  Main loop, under the BQL.
 */
bool rdma_memory_hold(Error **errp);
/* The end of one rdma_memory_hold(); any thread */
void rdma_memory_release(void);

/*
 * Whether every RAM block can migrate over RDMA: it is writable, and if it is
 * plugged piece by piece (virtio-mem), that is told early enough.  @errp: which
 * cannot, and what to do.  Main loop.
 */
bool rdma_memory_check_blocks(Error **errp);
/*
 * Calls @fn for each stretch of @rb that is not plugged, at most to its used
 * length, until one call fails.  Under the BQL.
 */
typedef bool RDMAHoleFn(void *opaque, ram_addr_t block_offset,
                        uint64_t offset, uint64_t length, GError **err);
bool rdma_memory_holes(RAMBlock *rb, RDMAHoleFn *fn, void *opaque,
                       GError **err);
/* Bytes of guest RAM to migrate, without what is not plugged.  Main loop. */
uint64_t rdma_memory_plugged_bytes(void);

/*
 * rdma_memory_add: @rb takes part in the migration of @rioc
 *
 * Until rdma_memory_forget(), if it goes away nevertheless, or is discarded
 * behind rdma_memory_guard(), the migration fails.  Any thread.
 */
void rdma_memory_add(QIOChannelRDMA *rioc, RAMBlock *rb);
/* From here on what was added may be registered.  Under the BQL. */
void rdma_memory_guard(QIOChannelRDMA *rioc);
void rdma_memory_forget(QIOChannelRDMA *rioc);
/*
 * Whether all that was added is as it was; @err: which is not.  Under the RCU
 * read lock, for as long as the memory is used on the strength of the answer.
 */
bool rdma_memory_is_sound(QIOChannelRDMA *rioc, GError **err);

#endif
