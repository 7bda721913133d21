/*
 * RDMA migration: guest RAM stays where it is while it is registered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: a memory region means the physical pages that were there when it was
 * registered.  Whatever puts others under an address of guest RAM makes the
 * adapter read or write the old ones, silently.  So nothing may: what can do
 * without is held off, and what cannot ends the migration.  docs/memory.md.
 * Callers: rdma.c, rdma-channel.c; the memory core (migration/rdma-discard.h).
 * Threads: any; the lock guards all that is here.
 *
 * Held off, from before the first registration until all is unregistered:
 * uncoordinated discards.  A balloon looks at the count for each page, and
 * discards it, in one go under the BQL.  The count is raised under the BQL,
 * too: so what was discarded before is gone before anything is registered, and
 * nothing is discarded after.
 *
 * virtio-mem discards only what it tells of (coordinated), and not while a
 * migration runs, so it may stay.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "qapi/error.h"
#include "migration/misc.h"
#include "migration/rdma-discard.h"
#include "migration.h"
#include "ram.h"
#include "rdma-memory.h"
#include "trace.h"

typedef struct RDMARange {
    const QIOChannelRDMA *rioc;
    RAMBlock *rb;
    uint8_t *host;
    size_t length;
    char *name; /* owned; the block's own goes when its device does */
} RDMARange;

static QemuMutex lock;
static GArray *ranges; /* of RDMARange */

static void clear_range(gpointer range)
{
    g_free(((RDMARange *)range)->name);
}

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&lock);
    ranges = g_array_new(false, false, sizeof(RDMARange));
    g_array_set_clear_func(ranges, clear_range);
}

/* ---- holding off -------------------------------------------------------- */

static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size);

static RAMBlockNotifier notifier = { .ram_block_removed = block_removed };

bool rdma_memory_hold(Error **errp)
{
    static bool listening;

    g_assert(bql_locked());
    if (ram_block_uncoordinated_discard_disable(true)) {
        error_setg(errp, "RDMA migration cannot be used together with devices "
                   "or private guest memory that may discard RAM at any "
                   "time: take them away, or migrate over TCP");
        return false;
    }
    if (!listening) {
        ram_block_notifier_add(&notifier);
        listening = true;
    }
    return true;
}

void rdma_memory_release(void)
{
    ram_block_uncoordinated_discard_disable(false);
}

/* ---- what is not plugged ------------------------------------------------ */

static RamDiscardManager *manager_of(RAMBlock *rb)
{
    return rb->mr && memory_region_has_ram_discard_manager(rb->mr) ?
           memory_region_get_ram_discard_manager(rb->mr) : NULL;
}

/*
 * The destination must know what is plugged before the first round.  virtio-mem
 * tells that behind RAM's setup since the machine types of QEMU 8.0.
 */
static bool is_known_early(RAMBlock *rb, Error **errp)
{
    RamDiscardManager *manager = manager_of(rb);

    if (!manager || object_property_get_bool(OBJECT(manager),
                                             "x-early-migration", NULL)) {
        return true;
    }
    error_setg(errp, "RDMA migration needs to know which memory of RAM block "
               "%s is plugged before it comes, but its device sends that "
               "afterwards with this machine type: use a newer one (for x86, "
               "pc-i440fx-8.0, pc-q35-8.0 or later), or migrate over TCP",
               qemu_ram_get_idstr(rb));
    return false;
}

/*
 * The adapter cannot write into it, nor could QEMU.  Where both sides have the
 * same file there is a way to say so.
 */
static bool is_writable(RAMBlock *rb, Error **errp)
{
    if (!(rb->flags & RAM_READONLY)) {
        return true;
    }
    error_setg(errp, "RAM block %s is read-only, so no destination can receive "
               "it: if both sides map the same file, say so with share=on for "
               "its memory backend and the capability x-ignore-shared on both "
               "sides; else make it writable (readonly=off, or rom=off), or "
               "take the device away", qemu_ram_get_idstr(rb));
    return false;
}

static int check_block(RAMBlock *rb, void *opaque)
{
    return is_writable(rb, opaque) && is_known_early(rb, opaque) ? 0 : -1;
}

bool rdma_memory_check_blocks(Error **errp)
{
    RCU_READ_LOCK_GUARD();
    return foreach_not_ignored_block(check_block, errp) == 0;
}

typedef struct RDMAHoles {
    RAMBlock *rb;
    RDMAHoleFn *fn;
    void *opaque;
    GError *err;
} RDMAHoles;

static void take_hole(MemoryRegionSection *section, void *opaque)
{
    RDMAHoles *holes = opaque;

    if (!holes->err) {
        holes->fn(holes->opaque, qemu_ram_get_offset(holes->rb),
                  section->offset_within_region,
                  int128_get64(section->size), &holes->err);
    }
}

bool rdma_memory_holes(RAMBlock *rb, RDMAHoleFn *fn, void *opaque,
                       GError **err)
{
    RDMAHoles holes = { .rb = rb, .fn = fn, .opaque = opaque };
    RamDiscardManager *manager = manager_of(rb);
    MemoryRegionSection section = {
        .mr = rb->mr,
        .size = int128_make64(qemu_ram_get_used_length(rb)),
    };
    Error *late = NULL;

    if (!manager) {
        return true;
    }
    if (!is_known_early(rb, &late)) {
        g_set_error_literal(err, g_quark_from_static_string("rdma-memory"), 0,
                            error_get_pretty(late));
        error_free(late);
        return false;
    }
    ram_discard_manager_replay_discarded(manager, &section, take_hole, &holes);
    if (holes.err) {
        g_propagate_error(err, holes.err);
        return false;
    }
    return true;
}

static bool subtract_hole(void *opaque, ram_addr_t block_offset,
                          uint64_t offset, uint64_t length, GError **err)
{
    *(uint64_t *)opaque -= length;
    return true;
}

static int add_plugged(RAMBlock *rb, void *opaque)
{
    uint64_t bytes = qemu_ram_get_used_length(rb);
    GError *late = NULL;

    if (!rdma_memory_holes(rb, subtract_hole, &bytes, &late)) {
        g_error_free(late); /* who migrates it will hear of that */
    }
    *(uint64_t *)opaque += bytes;
    return 0;
}

uint64_t rdma_memory_plugged_bytes(void)
{
    uint64_t bytes = 0;

    RCU_READ_LOCK_GUARD();
    foreach_not_ignored_block(add_plugged, &bytes);
    return bytes;
}

/* ---- what happens nevertheless ------------------------------------------ */

void rdma_memory_add(QIOChannelRDMA *rioc, RAMBlock *rb)
{
    RDMARange range = {
        .rioc = rioc,
        .rb = rb,
        .host = qemu_ram_get_host_addr(rb),
        .length = qemu_ram_get_used_length(rb),
        .name = g_strdup(qemu_ram_get_idstr(rb)),
    };

    QEMU_LOCK_GUARD(&lock);
    g_array_append_val(ranges, range);
}

/*
 * Before that a discard harms nothing: virtio-mem makes one at the destination,
 * when it has allocated what is plugged and QEMU believes in postcopy.
 */
void rdma_memory_guard(QIOChannelRDMA *rioc)
{
    QEMU_LOCK_GUARD(&lock);
    rioc->memory_is_guarded = true;
}

void rdma_memory_forget(QIOChannelRDMA *rioc)
{
    QEMU_LOCK_GUARD(&lock);
    for (guint i = ranges->len; i-- > 0;) {
        if (g_array_index(ranges, RDMARange, i).rioc == rioc) {
            g_array_remove_index_fast(ranges, i);
        }
    }
}

bool rdma_memory_is_sound(QIOChannelRDMA *rioc, GError **err)
{
    if (likely(!qatomic_read(&rioc->memory_is_lost))) {
        return true;
    }
    QEMU_LOCK_GUARD(&lock);
    g_set_error_literal(err, g_quark_from_static_string("rdma-memory"), 0,
                        rioc->memory_lost);
    return false;
}

/* Under @lock */
static void lose(const RDMARange *range, const char *what)
{
    QIOChannelRDMA *rioc = (QIOChannelRDMA *)range->rioc;
    Error *error = NULL;

    if (rioc->memory_is_lost) {
        return;
    }
    rioc->memory_lost = g_strdup_printf(
        "memory of RAM block %s %s while it was registered with the adapter, "
        "which would go on with the old contents; migrate again",
        range->name, what);
    qatomic_set(&rioc->memory_is_lost, true);
    trace_rdma_memory_lost(rioc, rioc->memory_lost);
    error_setg(&error, "RDMA: %s", rioc->memory_lost);
    qio_channel_rdma_note(rioc, error);
    error_free(error);
    /* Whoever waits finds that it is over */
    if (rioc->source) {
        rmig_source_shutdown(rioc->source);
    } else {
        rmig_dest_shutdown(rioc->dest);
    }
}

static int found_populated(MemoryRegionSection *section, void *opaque)
{
    return 1;
}

/* Whether anything of it is there: what is not plugged is never registered */
static bool is_populated(const RDMARange *range, uint64_t offset,
                         uint64_t length)
{
    RamDiscardManager *manager = manager_of(range->rb);
    MemoryRegionSection section = {
        .mr = range->rb->mr,
        .offset_within_region = offset,
        .size = int128_make64(length),
    };

    return !manager ||
           ram_discard_manager_replay_populated(manager, &section,
                                                found_populated, NULL) != 0;
}

void rdma_memory_discard(void *host, size_t length)
{
    uint8_t *start = host;

    QEMU_LOCK_GUARD(&lock);
    for (guint i = 0; i < ranges->len; i++) {
        const RDMARange *range = &g_array_index(ranges, RDMARange, i);
        uint8_t *from = MAX(start, range->host);
        uint8_t *to = MIN(start + length, range->host + range->length);

        if (range->rioc->memory_is_guarded && from < to &&
            is_populated(range, from - range->host, to - from)) {
            lose(range, "was discarded");
        }
    }
}

/*
 * It is unmapped when all RCU readers are done, and whoever looks at it asks
 * rdma_memory_is_sound() first.
 */
static void block_removed(RAMBlockNotifier *n, void *host, size_t size,
                          size_t max_size)
{
    QEMU_LOCK_GUARD(&lock);
    for (guint i = ranges->len; i-- > 0;) {
        const RDMARange *range = &g_array_index(ranges, RDMARange, i);

        if (range->host == host && range->length > 0) {
            lose(range, "went away");
            g_array_remove_index_fast(ranges, i);
        }
    }
}
