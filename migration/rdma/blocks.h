/*
 * RDMA migration transport: the RAM block table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: the RAM blocks of one migration, chunk geometry, and every range check
 * (index, offset, length, chunk count) of numbers that came from a peer.
 * Callers: source, dest, mr, writer.
 * Thread: filled by one thread before use, read-only afterwards except for the
 * remote fields, which setup writes once.
 *
 * A chunk is 1 MiB counted from the start of its block; a block's last chunk
 * may be short.  docs/rdma.txt, "RAM blocks and chunks".
 */
#ifndef RMIG_BLOCKS_H
#define RMIG_BLOCKS_H

#include "wire.h"

#define RMIG_CHUNK_SHIFT 20
#define RMIG_CHUNK_BYTES (UINT64_C(1) << RMIG_CHUNK_SHIFT)

typedef struct RMigBlock {
    char *name;
    uint8_t *host;     /* local virtual address of the first byte */
    uint64_t offset;   /* of the block in the local ram_addr_t space */
    uint64_t length;   /* bytes */
    uint32_t index;    /* in the order in which the source announced them */
    uint8_t *holes;    /* a bit a chunk that has no memory; NULL: none */
    /* Source only, from RAM_BLOCKS_RESULT */
    uint64_t remote_host;
    uint64_t remote_offset;
    uint32_t remote_rkey; /* of the whole block under pin-all, else 0 */
} RMigBlock;

typedef struct RMigBlocks {
    GPtrArray *list;       /* of RMigBlock, owned; [i]->index == i */
    GHashTable *by_name;   /* not owned */
    GHashTable *by_offset; /* not owned; for the page hook */
    uint64_t total_bytes;
    uint64_t hole_bytes; /* of these, that have no memory */
} RMigBlocks;

#define RMIG_BLOCKS_ERROR rmig_blocks_error_quark()
GQuark rmig_blocks_error_quark(void);

/* Version 1 has one key for each block, so one region, holes and all */
#define RMIG_BLOCKS_NO_PIN_ALL_WITH_HOLES \
    "a peer of version 1 cannot pin all of a guest that has memory which is " \
    "not plugged: switch the capability rdma-pin-all off on both sides"

void rmig_blocks_init(RMigBlocks *blocks);
void rmig_blocks_cleanup(RMigBlocks *blocks);

/*
 * rmig_blocks_add: append a block; its index is the number of those before it
 *
 * Refused: an empty or repeated name, a repeated offset, more blocks than one
 * message can announce, NULL @host with a length, or an address range or
 * ram_addr_t range that wraps.  A length of 0 is allowed.
 */
bool rmig_blocks_add(RMigBlocks *blocks, const char *name, void *host,
                     uint64_t offset, uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_blocks_add_hole: [offset, offset + length) of @block has no memory that
 * counts: it is not plugged
 *
 * Nothing of it is registered, written, asked for or zeroed.  Refused: what is
 * not whole chunks, or not in the block.
 */
bool rmig_blocks_add_hole(RMigBlocks *blocks, RMigBlock *block,
                          uint64_t offset, uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* The block of that name / at exactly that local ram_addr_t offset, or NULL */
RMigBlock *rmig_blocks_by_name(const RMigBlocks *blocks, const char *name);
RMigBlock *rmig_blocks_by_offset(const RMigBlocks *blocks, uint64_t offset);

/* Block @index, which must exist */
RMigBlock *rmig_blocks_get(const RMigBlocks *blocks, uint32_t index);
uint32_t rmig_blocks_count(const RMigBlocks *blocks);

/*
 * rmig_blocks_reorder: take the peer's order
 * @names: NULL-terminated array; every block exactly once
 *
 * Destination: indices follow the order in which the source's stream listed
 * the blocks.
 */
bool rmig_blocks_reorder(RMigBlocks *blocks, char *const *names, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* Chunk geometry.  @offset is in the block, below its length. */
uint64_t rmig_block_chunks(const RMigBlock *block);
uint64_t rmig_block_chunk_of(uint64_t offset);
/* Bytes of chunk @chunk (< rmig_block_chunks()) */
uint64_t rmig_block_chunk_bytes(const RMigBlock *block, uint64_t chunk);
/* Bytes of the @n (> 0) chunks from @first on, which must exist */
uint64_t rmig_block_span_bytes(const RMigBlock *block, uint64_t first,
                               uint64_t n);

/* Whether [offset, offset + len) lies in the block; never overflows */
bool rmig_block_contains(const RMigBlock *block, uint64_t offset,
                         uint64_t len);

/* Whether @chunk, which exists, has no memory */
static inline bool rmig_block_is_hole(const RMigBlock *block, uint64_t chunk)
{
    return block->holes && (block->holes[chunk / 8] >> (chunk % 8) & 1);
}
/*
 * The first chunk of [@from, @end), all of which exist, that has memory; @end:
 * none.  Looks at no others, so what a peer asks for costs what it names.
 */
uint64_t rmig_block_next_present(const RMigBlock *block, uint64_t from,
                                 uint64_t end);
/* The first one that has none, likewise */
uint64_t rmig_block_next_hole(const RMigBlock *block, uint64_t from,
                              uint64_t end);

/*
 * rmig_blocks_set_remote: source: take a validated RAM_BLOCKS_RESULT
 *
 * Refused: another number of blocks than ours, a length that differs (named
 * with both lengths), a remote range that wraps, an rkey of 0 under pin-all
 * (@pinned) for a block that is not empty.
 */
bool rmig_blocks_set_remote(RMigBlocks *blocks, const RMigWireMessage *msg,
                            bool pinned, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * Destination: records of a peer turned into places in our table.  Each fails
 * on an index, offset, length or count outside of it, and on a hole, naming the
 * numbers.
 */
bool rmig_blocks_check_register(const RMigBlocks *blocks,
                                const RMigWireRegister *reg,
                                RMigBlock **block, uint64_t *first_chunk,
                                uint64_t *n_chunks, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* UNREGISTER: key is a chunk number; @n_chunks as for REGISTER */
bool rmig_blocks_check_unregister(const RMigBlocks *blocks,
                                  const RMigWireRegister *reg,
                                  RMigBlock **block, uint64_t *first_chunk,
                                  uint64_t *n_chunks, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Also refuses a value other than 0.  A run of length 0 is refused. */
bool rmig_blocks_check_zero_run(const RMigBlocks *blocks,
                                const RMigWireZeroRun *run, RMigBlock **block,
                                uint64_t *offset, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

#endif
