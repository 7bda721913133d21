/*
 * RDMA migration transport: the RAM block table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job, callers and thread: see blocks.h.  Owns the table, not the memory that
 * it describes.
 *
 * Every check of a range is written as `offset <= size && len <= size -
 * offset`: no sum of two numbers of a peer is ever formed before it is known
 * not to overflow.
 */
#include "blocks.h"

#include <inttypes.h>
#include <string.h>

#define REMEDY_SAME_MACHINE \
    "start both QEMUs with the same machine type, memory and devices"

GQuark rmig_blocks_error_quark(void)
{
    return g_quark_from_static_string("rmig-blocks-error");
}

static void block_free(gpointer data)
{
    RMigBlock *block = data;

    g_free(block->name);
    g_free(block->holes);
    g_free(block);
}

void rmig_blocks_init(RMigBlocks *blocks)
{
    blocks->list = g_ptr_array_new_with_free_func(block_free);
    blocks->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    blocks->by_offset = g_hash_table_new(g_int64_hash, g_int64_equal);
    blocks->total_bytes = 0;
    blocks->hole_bytes = 0;
}

void rmig_blocks_cleanup(RMigBlocks *blocks)
{
    g_clear_pointer(&blocks->by_name, g_hash_table_unref);
    g_clear_pointer(&blocks->by_offset, g_hash_table_unref);
    g_clear_pointer(&blocks->list, g_ptr_array_unref);
    blocks->total_bytes = 0;
    blocks->hole_bytes = 0;
}

/* Whether [start, start + length) has an end that 64 bits can name */
static bool range_fits(uint64_t start, uint64_t length)
{
    return length <= UINT64_MAX - start;
}

static bool check_new(const RMigBlocks *blocks, const char *name,
                      const void *host, uint64_t offset, uint64_t length,
                      GError **err)
{
    if (name == NULL || name[0] == '\0') {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "a RAM block of %" PRIu64 " bytes has no name", length);
        return false;
    }
    if (rmig_blocks_by_name(blocks, name)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "there are two RAM blocks '%s'", name);
        return false;
    }
    if (rmig_blocks_by_offset(blocks, offset)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM blocks '%s' and '%s' both lie at offset 0x%" PRIx64,
                    rmig_blocks_by_offset(blocks, offset)->name, name, offset);
        return false;
    }
    if (rmig_blocks_count(blocks) == RMIG_WIRE_BLOCKS_MAX) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "more than %u RAM blocks cannot migrate over RDMA",
                    RMIG_WIRE_BLOCKS_MAX);
        return false;
    }
    if (host == NULL && length != 0) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM block '%s' has no memory mapped", name);
        return false;
    }
    if (length > UINTPTR_MAX - (uintptr_t)host ||
        !range_fits(offset, length) ||
        length > UINT64_MAX - blocks->total_bytes) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM block '%s' at %p, offset 0x%" PRIx64 ", wraps with "
                    "its length of 0x%" PRIx64 " bytes",
                    name, host, offset, length);
        return false;
    }
    return true;
}

bool rmig_blocks_add(RMigBlocks *blocks, const char *name, void *host,
                     uint64_t offset, uint64_t length, GError **err)
{
    RMigBlock *block;

    if (!check_new(blocks, name, host, offset, length, err)) {
        return false;
    }

    block = g_new0(RMigBlock, 1);
    block->name = g_strdup(name);
    block->host = host;
    block->offset = offset;
    block->length = length;
    block->index = blocks->list->len;
    g_ptr_array_add(blocks->list, block);
    g_hash_table_insert(blocks->by_name, block->name, block);
    g_hash_table_insert(blocks->by_offset, &block->offset, block);
    blocks->total_bytes += length;
    return true;
}

bool rmig_blocks_add_hole(RMigBlocks *blocks, RMigBlock *block,
                          uint64_t offset, uint64_t length, GError **err)
{
    uint64_t end;

    if (!rmig_block_contains(block, offset, length) ||
        offset % RMIG_CHUNK_BYTES != 0 ||
        (length % RMIG_CHUNK_BYTES != 0 && offset + length != block->length)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM block '%s' has no memory plugged from 0x%" PRIx64
                    " on, for 0x%" PRIx64 " bytes, which are not whole MiB: "
                    "give its device a block-size of 1 MiB or more",
                    block->name, offset, length);
        return false;
    }
    if (!block->holes) {
        block->holes = g_new0(uint8_t, rmig_block_chunks(block) / 8 + 1);
    }
    end = offset + length;
    for (uint64_t c = rmig_block_chunk_of(offset);
         c << RMIG_CHUNK_SHIFT < end; c++) {
        if (!rmig_block_is_hole(block, c)) {
            block->holes[c / 8] |= 1u << (c % 8);
            blocks->hole_bytes += rmig_block_chunk_bytes(block, c);
        }
    }
    return true;
}

RMigBlock *rmig_blocks_by_name(const RMigBlocks *blocks, const char *name)
{
    return g_hash_table_lookup(blocks->by_name, name);
}

RMigBlock *rmig_blocks_by_offset(const RMigBlocks *blocks, uint64_t offset)
{
    return g_hash_table_lookup(blocks->by_offset, &offset);
}

RMigBlock *rmig_blocks_get(const RMigBlocks *blocks, uint32_t index)
{
    g_assert(index < blocks->list->len);
    return g_ptr_array_index(blocks->list, index);
}

uint32_t rmig_blocks_count(const RMigBlocks *blocks)
{
    return blocks->list->len;
}

bool rmig_blocks_reorder(RMigBlocks *blocks, char *const *names, GError **err)
{
    uint32_t count = rmig_blocks_count(blocks);
    g_autofree RMigBlock **order = g_new0(RMigBlock *, count);
    g_autofree bool *seen = g_new0(bool, count);
    uint32_t n = 0;

    for (; names[n] != NULL; n++) {
        RMigBlock *block = rmig_blocks_by_name(blocks, names[n]);

        if (block == NULL) {
            g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                        "the source has a RAM block '%s' that does not exist "
                        "here: " REMEDY_SAME_MACHINE, names[n]);
            return false;
        }
        if (seen[block->index]) {
            g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                        "the source announced RAM block '%s' twice", names[n]);
            return false;
        }
        seen[block->index] = true;
        order[n] = block; /* n < count: every name so far was another block */
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!seen[i]) {
            g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                        "the source has no RAM block '%s', which exists here: "
                        REMEDY_SAME_MACHINE, rmig_blocks_get(blocks, i)->name);
            return false;
        }
    }

    for (uint32_t i = 0; i < count; i++) {
        order[i]->index = i;
        g_ptr_array_index(blocks->list, i) = order[i];
    }
    return true;
}

uint64_t rmig_block_chunks(const RMigBlock *block)
{
    return block->length / RMIG_CHUNK_BYTES +
           (block->length % RMIG_CHUNK_BYTES != 0);
}

uint64_t rmig_block_chunk_of(uint64_t offset)
{
    return offset >> RMIG_CHUNK_SHIFT;
}

uint64_t rmig_block_chunk_bytes(const RMigBlock *block, uint64_t chunk)
{
    g_assert(chunk < rmig_block_chunks(block));
    return MIN(block->length - (chunk << RMIG_CHUNK_SHIFT), RMIG_CHUNK_BYTES);
}

uint64_t rmig_block_span_bytes(const RMigBlock *block, uint64_t first,
                               uint64_t n)
{
    g_assert(n > 0 && n <= rmig_block_chunks(block) - first);
    return ((n - 1) << RMIG_CHUNK_SHIFT) +
           rmig_block_chunk_bytes(block, first + n - 1);
}

bool rmig_block_contains(const RMigBlock *block, uint64_t offset, uint64_t len)
{
    return offset <= block->length && len <= block->length - offset;
}

/* Block sizes are up to TiB: whole bytes of the bitmap at a time */
static uint64_t next_chunk(const RMigBlock *block, uint64_t from, uint64_t end,
                           bool hole)
{
    uint8_t other = hole ? 0 : 0xff;

    while (from < end && rmig_block_is_hole(block, from) != hole) {
        from += from % 8 == 0 && block->holes[from / 8] == other ? 8 : 1;
    }
    return MIN(from, end);
}

uint64_t rmig_block_next_present(const RMigBlock *block, uint64_t from,
                                 uint64_t end)
{
    return block->holes ? next_chunk(block, from, end, false) :
           MIN(from, end);
}

uint64_t rmig_block_next_hole(const RMigBlock *block, uint64_t from,
                              uint64_t end)
{
    return block->holes ? next_chunk(block, from, end, true) : end;
}

static bool check_remote(const RMigBlock *block, const RMigWireBlock *remote,
                         bool pinned, GError **err)
{
    if (remote->length != block->length) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "RAM block '%s' has %" PRIu64 " bytes here and %" PRIu64
                    " on the destination: " REMEDY_SAME_MACHINE,
                    block->name, block->length, remote->length);
        return false;
    }
    if (!range_fits(remote->host_addr, remote->length) ||
        !range_fits(remote->offset, remote->length)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the destination's RAM block '%s' at 0x%" PRIx64
                    ", offset 0x%" PRIx64 ", wraps with its length of 0x%"
                    PRIx64 " bytes", block->name, remote->host_addr,
                    remote->offset, remote->length);
        return false;
    }
    if (pinned && remote->rkey == 0 && block->length != 0) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "the destination agreed to pin all memory but sent no "
                    "key for RAM block '%s'", block->name);
        return false;
    }
    return true;
}

bool rmig_blocks_set_remote(RMigBlocks *blocks, const RMigWireMessage *msg,
                            bool pinned, GError **err)
{
    uint32_t count = rmig_blocks_count(blocks);

    if (msg->n_records != count) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "there are %u RAM blocks here and %u on the destination: "
                    REMEDY_SAME_MACHINE, count, msg->n_records);
        return false;
    }

    for (uint32_t i = 0; i < count; i++) {
        RMigBlock *block = rmig_blocks_get(blocks, i);
        RMigWireBlock remote;

        rmig_wire_block_unpack(msg, i, &remote);
        if (!check_remote(block, &remote, pinned, err)) {
            return false;
        }
        block->remote_host = remote.host_addr;
        block->remote_offset = remote.offset;
        block->remote_rkey = pinned ? remote.rkey : 0;
    }
    return true;
}

/* @what: the message's name, for the error */
static RMigBlock *find_block(const RMigBlocks *blocks, uint32_t index,
                             const char *what, GError **err)
{
    if (index >= rmig_blocks_count(blocks)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer names RAM block %u of %u",
                    what, index, rmig_blocks_count(blocks));
        return NULL;
    }
    return rmig_blocks_get(blocks, index);
}

/* @n (> 0) chunks from @first on, which exist */
static bool check_present(const RMigBlock *block, uint64_t first, uint64_t n,
                          const char *what, GError **err)
{
    uint64_t hole = rmig_block_next_hole(block, first, first + n);

    if (hole < first + n) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer names chunk %" PRIu64 " of RAM block "
                    "'%s', which is not plugged here", what, hole,
                    block->name);
        return false;
    }
    return true;
}

/* @first and @further: a peer's numbers; *@n_chunks = @further + 1 */
static bool check_chunks(const RMigBlock *block, uint64_t first,
                         uint64_t further, const char *what,
                         uint64_t *n_chunks, GError **err)
{
    uint64_t chunks = rmig_block_chunks(block);

    if (first >= chunks || further >= chunks - first) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer names chunk %" PRIu64 " and %" PRIu64
                    " further ones of RAM block '%s', which has %" PRIu64,
                    what, first, further, block->name, chunks);
        return false;
    }
    *n_chunks = further + 1;
    return check_present(block, first, *n_chunks, what, err);
}

bool rmig_blocks_check_register(const RMigBlocks *blocks,
                                const RMigWireRegister *reg,
                                RMigBlock **block, uint64_t *first_chunk,
                                uint64_t *n_chunks, GError **err)
{
    const char *what = rmig_wire_type_name(RMIG_WIRE_REGISTER_REQUEST);
    RMigBlock *b = find_block(blocks, reg->block, what, err);

    if (b == NULL) {
        return false;
    }
    if (reg->key < b->offset || reg->key - b->offset >= b->length) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer names address 0x%" PRIx64 ", RAM block "
                    "'%s' has 0x%" PRIx64 " bytes from 0x%" PRIx64,
                    what, reg->key, b->name, b->length, b->offset);
        return false;
    }

    *block = b;
    *first_chunk = rmig_block_chunk_of(reg->key - b->offset);
    return check_chunks(b, *first_chunk, reg->chunks, what, n_chunks, err);
}

bool rmig_blocks_check_unregister(const RMigBlocks *blocks,
                                  const RMigWireRegister *reg,
                                  RMigBlock **block, uint64_t *first_chunk,
                                  uint64_t *n_chunks, GError **err)
{
    const char *what = rmig_wire_type_name(RMIG_WIRE_UNREGISTER_REQUEST);
    RMigBlock *b = find_block(blocks, reg->block, what, err);

    if (b == NULL) {
        return false;
    }
    *block = b;
    *first_chunk = reg->key;
    return check_chunks(b, reg->key, reg->chunks, what, n_chunks, err);
}

bool rmig_blocks_check_zero_run(const RMigBlocks *blocks,
                                const RMigWireZeroRun *run, RMigBlock **block,
                                uint64_t *offset, GError **err)
{
    const char *what = rmig_wire_type_name(RMIG_WIRE_COMPRESS);
    RMigBlock *b = find_block(blocks, run->block, what, err);
    uint64_t first;

    if (b == NULL) {
        return false;
    }
    if (run->value != 0) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer asks to fill RAM block '%s' with %u, "
                    "only 0 is defined", what, b->name, run->value);
        return false;
    }
    if (run->length == 0 || run->offset < b->offset ||
        !rmig_block_contains(b, run->offset - b->offset, run->length)) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0,
                    "%s from the peer names 0x%" PRIx64 " bytes at 0x%" PRIx64
                    ", RAM block '%s' has 0x%" PRIx64 " bytes from 0x%" PRIx64,
                    what, run->length, run->offset, b->name, b->length,
                    b->offset);
        return false;
    }

    *block = b;
    *offset = run->offset - b->offset;
    first = rmig_block_chunk_of(*offset);
    return check_present(b, first,
                         rmig_block_chunk_of(*offset + run->length - 1) -
                         first + 1, what, err);
}
