/*
 * What the destination has registered, and permits, as its source must see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See mirror.h.
 */
#include "mirror.h"

#include <string.h>

void fuzz_mirror_init(FuzzMirror *m, const FuzzBlock *blocks)
{
    memset(m, 0, sizeof(*m));
    m->blocks = blocks;
    m->limit_bytes = UINT64_MAX;
    m->asked = g_array_new(false, false, sizeof(RMigWireRegister));
}

void fuzz_mirror_cleanup(FuzzMirror *m)
{
    g_array_unref(m->asked);
}

static uint64_t registered_bytes(const FuzzMirror *m)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < FUZZ_MIRROR_BLOCKS; i++) {
        for (uint64_t c = 0; c < FUZZ_MIRROR_CHUNKS; c++) {
            if (m->chunk[i][c] != FUZZ_CHUNK_NONE) {
                sum += MIN(FUZZ_MIB, m->blocks[i].length - c * FUZZ_MIB);
            }
        }
    }
    return sum;
}

/* All chunks of @reg exist and are @from; they become @to */
static void move_chunks(FuzzMirror *m, const RMigWireRegister *reg,
                        FuzzChunk from, FuzzChunk to, uint32_t key)
{
    const FuzzBlock *block = &m->blocks[reg->block];

    for (uint64_t i = 0; i <= reg->chunks; i++) {
        uint64_t c = reg->key + i;

        if (c >= FUZZ_MIRROR_CHUNKS || c * FUZZ_MIB >= block->length) {
            fuzz_die("chunk %" G_GUINT64_FORMAT " of %s is named, which does "
                     "not exist", (guint64)c, block->name);
        }
        if (m->chunk[reg->block][c] != from && !m->confused) {
            fuzz_die("chunk %" G_GUINT64_FORMAT " of %s, in state %u instead "
                     "of %u, becomes %u", (guint64)c, block->name,
                     m->chunk[reg->block][c], from, to);
        }
        m->chunk[reg->block][c] = to;
        m->key[reg->block][c] = key;
    }
}

void fuzz_mirror_ask(FuzzMirror *m, const RMigWireRegister *reg)
{
    move_chunks(m, reg, FUZZ_CHUNK_NONE, FUZZ_CHUNK_ASKED, 0);
    g_array_append_val(m->asked, *reg);
    if (!m->confused && registered_bytes(m) > m->limit_bytes) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes are registered there, the limit "
                 "is %" G_GUINT64_FORMAT, (guint64)registered_bytes(m),
                 (guint64)m->limit_bytes);
    }
}

void fuzz_mirror_release(FuzzMirror *m, const RMigWireRegister *reg)
{
    move_chunks(m, reg, FUZZ_CHUNK_READY, FUZZ_CHUNK_LEAVING, 0);
}

/* By the order of the records; a number that does not fit ends the migration */
void fuzz_mirror_take_results(FuzzMirror *m, const RMigWireMessage *msg)
{
    m->confused |= msg->n_records != m->asked->len;
    for (uint32_t i = 0; !m->confused && i < msg->n_records; i++) {
        RMigWireResult result;

        rmig_wire_result_unpack(msg, i, &result);
        move_chunks(m, &g_array_index(m->asked, RMigWireRegister, i),
                    FUZZ_CHUNK_ASKED,
                    result.rkey ? FUZZ_CHUNK_READY : FUZZ_CHUNK_NONE,
                    result.rkey);
    }
    g_array_set_size(m->asked, 0);
}

void fuzz_mirror_take_released(FuzzMirror *m)
{
    bool any = false;

    for (unsigned i = 0; i < FUZZ_MIRROR_BLOCKS; i++) {
        for (unsigned c = 0; c < FUZZ_MIRROR_CHUNKS; c++) {
            if (m->chunk[i][c] == FUZZ_CHUNK_LEAVING) {
                m->chunk[i][c] = FUZZ_CHUNK_NONE;
                any = true;
            }
        }
    }
    m->confused |= !any;
}

void fuzz_mirror_check_write(const FuzzMirror *m, unsigned block,
                             uint64_t chunk, uint32_t rkey)
{
    if (!m->confused && (m->chunk[block][chunk] != FUZZ_CHUNK_READY ||
                         m->key[block][chunk] != rkey)) {
        fuzz_die("a write with key 0x%x to chunk %" G_GUINT64_FORMAT " of %s, "
                 "which has key 0x%x and is in state %u", rkey,
                 (guint64)chunk, m->blocks[block].name, m->key[block][chunk],
                 m->chunk[block][chunk]);
    }
}

/*
 * One command for each READY; if two may be under way one more, but only the
 * stream may go on while another is.
 */
void fuzz_mirror_command(FuzzMirror *m, RMigWireType type, bool two)
{
    unsigned all = two ? 2 : 1;
    bool streams = type == RMIG_WIRE_QEMU_FILE &&
                   (m->last == RMIG_WIRE_QEMU_FILE ||
                    m->last == RMIG_WIRE_REGISTER_FINISHED);

    if (type == RMIG_WIRE_ERROR) {
        return;
    }
    if (m->readies == 0 ||
        m->commands + (streams ? 1 : all) > m->readies - 1 + all) {
        fuzz_die("%s leaves after %u commands and %u READYs",
                 rmig_wire_type_name(type), m->commands, m->readies);
    }
    m->commands++;
    m->last = type;
}
