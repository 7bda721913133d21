/*
 * RDMA migration: what the core is told of guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: lists the RAM blocks that migrate, what is known of them, and what of
 * them is not plugged, to the core (migration/rdma-transport.h).
 * Callers: rdma.c.
 * Threads: under the BQL: the migration thread in its SETUP stage, the incoming
 * coroutine.
 */
#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "migration.h"
#include "rdma-blocks.h"
#include "rdma-memory.h"
#include "system/xen.h"

/*
 * Whether a page of @rb that has no mapping has never been touched and reads as
 * zeros; see RMigBlockHints.  That is so for memory that is private to this
 * process and has nothing behind it.  A balloon's madvise() takes contents and
 * mapping away together, and KSM leaves a mapping.  It is not so for
 *
 *   - files (-mem-path, hugetlbfs, pmem, memfd), shared or private: what is not
 *     mapped here is in the file
 *   - shared memory without a file: another process may have filled it in
 *   - memory that somebody else gave us (RAM_PREALLOC): nobody knows its kind
 *   - guest_memfd: the guest's private pages are mapped nowhere
 *   - Xen: the guest's memory is not this process's at all
 *
 * Memory whose pages userfaultfd fills in would not be either, but postcopy and
 * background snapshots, which use it, are refused with RDMA.
 */
static bool is_anonymous(RAMBlock *rb)
{
    return !xen_enabled() && rb->fd < 0 && rb->guest_memfd < 0 &&
           !(rb->flags & (RAM_PREALLOC | RAM_SHARED | RAM_PMEM |
                          RAM_NAMED_FILE | RAM_GUEST_MEMFD));
}

/* ---- destination --------------------------------------------------------- */

static int add_dest_block(RAMBlock *rb, void *opaque)
{
    QIOChannelRDMA *rioc = ((void **)opaque)[0];
    GError **err = ((void **)opaque)[1];
    RMigDest *dest = rioc->dest;
    const RMigBlockHints hints = { .anonymous = is_anonymous(rb) };

    if (!rmig_dest_add_block(dest, qemu_ram_get_idstr(rb),
                             qemu_ram_get_host_addr(rb),
                             qemu_ram_get_offset(rb),
                             qemu_ram_get_used_length(rb), err)) {
        return -1;
    }
    rmig_dest_hint_block(dest, qemu_ram_get_offset(rb), &hints);
    rdma_memory_add(rioc, rb);
    return 0;
}

bool rdma_blocks_list_dest(void *opaque, GError **err)
{
    QIOChannelRDMA *rioc = opaque;
    void *args[] = { rioc, err };

    return foreach_not_ignored_block(add_dest_block, args) == 0;
}

static bool add_dest_hole(void *opaque, ram_addr_t block_offset,
                          uint64_t offset, uint64_t length, GError **err)
{
    return rmig_dest_add_hole(opaque, block_offset, offset, length, err);
}

static int add_dest_holes(RAMBlock *rb, void *opaque)
{
    RMigDest *dest = ((void **)opaque)[0];

    return rdma_memory_holes(rb, add_dest_hole, dest,
                             ((void **)opaque)[1]) ? 0 : -1;
}

bool rdma_blocks_list_holes(void *opaque, GError **err)
{
    QIOChannelRDMA *rioc = opaque;
    void *args[] = { rioc->dest, err };

    rdma_memory_guard(rioc);
    return foreach_not_ignored_block(add_dest_holes, args) == 0;
}

/* ---- source -------------------------------------------------------------- */

/*
 * What ram.c knows of a block.  Two things about it are borrowed:
 *
 * rb->bmap is there before the SETUP hook, and freed by ram.c's cleanup, which
 * runs when the migration thread has left its last hook, but before the channel
 * is closed.  So the core must read it in calls of the hooks only; it does.
 *
 * rb->clear_bmap has a bit for each stretch that the log of dirty pages is to
 * be cleared for.  A sync sets them all.  For every page that it is about to
 * send, ram.c first clears the whole aligned stretch around it, counted from
 * the block's start, in KVM and whoever else keeps a log, unless that has been
 * done since the sync (migration_bitmap_clear_dirty()); only then is the page's
 * own bit taken and the page handed over.  So at the first page of a stretch,
 * and up to the next sync, which cannot come before rmig_source_finish(), all
 * that changes there is logged again, and sent in a later round.  Blocks for
 * which no bit is set (not aligned to 64 pages, or without such a map) were
 * cleared by the sync itself.
 */
static RMigBlockHints source_hints(RAMBlock *rb)
{
    return (RMigBlockHints) {
        .dirty = rb->bmap,
        .page_shift = qemu_target_page_bits(),
        .anonymous = is_anonymous(rb),
        .clear_bytes = rb->clear_bmap ?
                       (uint64_t)qemu_target_page_size() <<
                       rb->clear_bmap_shift : UINT64_C(1) << 63,
    };
}

static bool add_source_hole(void *opaque, ram_addr_t block_offset,
                            uint64_t offset, uint64_t length, GError **err)
{
    return rmig_source_add_hole(opaque, block_offset, offset, length, err);
}

static int add_source_block(RAMBlock *rb, void *opaque)
{
    QIOChannelRDMA *rioc = ((void **)opaque)[0];
    GError **err = ((void **)opaque)[1];
    RMigSource *source = rioc->source;
    const RMigBlockHints hints = source_hints(rb);

    if (!rmig_source_add_block(source, qemu_ram_get_idstr(rb),
                               qemu_ram_get_host_addr(rb),
                               qemu_ram_get_offset(rb),
                               qemu_ram_get_used_length(rb), err)) {
        return -1;
    }
    rmig_source_hint_block(source, qemu_ram_get_offset(rb), &hints);
    rdma_memory_add(rioc, rb);
    return rdma_memory_holes(rb, add_source_hole, source, err) ? 0 : -1;
}

bool rdma_blocks_list_source(QIOChannelRDMA *rioc, GError **err)
{
    void *args[] = { rioc, err };

    RCU_READ_LOCK_GUARD();
    rdma_memory_guard(rioc);
    return foreach_not_ignored_block(add_source_block, args) == 0;
}
