/*
 * An honest destination that can be told to lie
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See peer.h.
 */
#include "peer.h"

#include <string.h>

#include "schedule.h"

/* More than fit into any message */
#define RECORDS_MAX 5000

static uint32_t new_key(FuzzPeer *p)
{
    return 0x5000 + p->next_key++;
}

static void queue_message(GQueue *queue, RMigWireType type, const void *data,
                          uint32_t len, uint32_t repeat)
{
    RMigWireHeader header = { .len = len, .type = type, .repeat = repeat };
    uint8_t *buf = g_malloc0(RMIG_WIRE_HEADER_BYTES + len);

    rmig_wire_header_pack(buf, &header);
    if (len) {
        memcpy(buf + RMIG_WIRE_HEADER_BYTES, data, len);
    }
    g_queue_push_tail(queue,
                      g_bytes_new_take(buf, RMIG_WIRE_HEADER_BYTES + len));
}

void fuzz_peer_say_ready(FuzzPeer *p)
{
    queue_message(&p->answers, RMIG_WIRE_READY, NULL, 0, 1);
}

/* Lies about the records; returns how many there are then */
static uint32_t lie_records(const FuzzPeer *p, uint8_t *data, uint32_t n,
                            unsigned each)
{
    unsigned key = each == RMIG_WIRE_BLOCK_BYTES ? 24 : 0;
    unsigned host = each == RMIG_WIRE_BLOCK_BYTES ? 0 : 8;
    uint32_t value = GUINT32_TO_BE(p->lie_value);
    uint32_t old;

    switch (p->lie) {
    case FUZZ_LIE_KEY:
        memcpy(&old, data + key, 4);
        old ^= value;
        memcpy(data + key, &old, 4);
        break;
    case FUZZ_LIE_OFFSET:
        host = 8;
        /* fall through */
    case FUZZ_LIE_ADDRESS:
        memcpy(&old, data + host, 4);
        old ^= value;
        memcpy(data + host, &old, 4);
        break;
    case FUZZ_LIE_ZERO:
        memset(data, 0, n * each);
        break;
    case FUZZ_LIE_COUNT:
        n = p->lie_value % RECORDS_MAX;
        break;
    case FUZZ_LIE_MORE:
        n = CLAMP((int64_t)n + (int8_t)p->lie_value, 0, RECORDS_MAX);
        break;
    case FUZZ_LIE_REFUSE:
        for (uint32_t i = 0; i < n; i++) {
            if (p->lie_value >> (i % 32) & 1) {
                memset(data + i * each + key, 0, 4);
            }
        }
        break;
    case FUZZ_LIE_ORDER:
        for (uint32_t i = 0; i < n / 2; i++) {
            uint8_t *a = data + i * each, *b = data + (n - 1 - i) * each;
            uint8_t t[RMIG_WIRE_BLOCK_BYTES];

            memcpy(t, a, each);
            memcpy(a, b, each);
            memcpy(b, t, each);
        }
        break;
    default:
        break;
    }
    return n;
}

/* @data has room for RECORDS_MAX records */
static void queue_answer(FuzzPeer *p, RMigWireType type, uint8_t *data,
                         uint32_t n, unsigned each)
{
    RMigWireHeader header = { .type = type, .repeat = MAX(n, 1) };
    g_autofree uint8_t *buf = NULL;
    unsigned times = p->lie == FUZZ_LIE_SILENT ? 0 :
                     p->lie == FUZZ_LIE_TWICE ? 2 : 1;
    unsigned readies = p->lie == FUZZ_LIE_READY ? p->lie_value % 8 : 0;
    uint32_t bytes;

    n = lie_records(p, data, n, each);
    bytes = RMIG_WIRE_HEADER_BYTES + n * each;
    header.len = n * each;
    header.type = p->lie == FUZZ_LIE_TYPE ? p->lie_value : header.type;
    header.len = p->lie == FUZZ_LIE_LENGTH ? p->lie_value : header.len;
    header.repeat = p->lie == FUZZ_LIE_REPEAT ? p->lie_value : header.repeat;
    if (p->lie == FUZZ_LIE_SHORT) {
        bytes = p->lie_value % (bytes + 1);
    }
    while (readies-- > 0) {
        fuzz_peer_say_ready(p);
    }
    buf = g_malloc0(RMIG_WIRE_HEADER_BYTES + n * each);
    rmig_wire_header_pack(buf, &header);
    memcpy(buf + RMIG_WIRE_HEADER_BYTES, data, n * each);
    while (times-- > 0) {
        g_queue_push_tail(&p->answers, g_bytes_new(buf, bytes));
    }
}

static void answer_blocks(FuzzPeer *p, uint8_t *data)
{
    for (unsigned i = 0; i < p->n_blocks; i++) {
        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES,
                             &(RMigWireBlock) {
            .host_addr = p->blocks[i].remote_host,
            .offset = p->blocks[i].remote_offset,
            .length = p->blocks[i].length,
            .rkey = p->pinned ? new_key(p) : 0,
        });
    }
    queue_answer(p, RMIG_WIRE_RAM_BLOCKS_RESULT, data, p->n_blocks,
                 RMIG_WIRE_BLOCK_BYTES);
}

/* Chunks that exist are registered, or no longer */
static void set_chunks(FuzzPeer *p, unsigned block, uint64_t first,
                       uint64_t further, bool registered)
{
    for (uint64_t i = 0; i <= further && i < FUZZ_PEER_CHUNKS; i++) {
        uint64_t c = first + i;

        if (c < FUZZ_PEER_CHUNKS &&
            c * FUZZ_MIB < p->blocks[block].length &&
            p->registered[block][c] != registered) {
            uint64_t bytes = MIN(FUZZ_MIB,
                                 p->blocks[block].length - c * FUZZ_MIB);

            p->registered[block][c] = registered;
            p->used_bytes += registered ? bytes : -bytes;
        }
    }
}

/* The key of what a record asks for, 0: there is no room for it */
static uint32_t register_record(FuzzPeer *p, const RMigWireRegister *reg)
{
    unsigned i = reg->block % p->n_blocks;
    const FuzzBlock *block = &p->blocks[i];
    /* Anywhere, if we have lied about the block's offset */
    uint64_t first = (reg->key - block->remote_offset) / FUZZ_MIB;
    uint64_t bytes = MIN((reg->chunks + 1) * FUZZ_MIB,
                         block->length - first * FUZZ_MIB);

    if (first >= FUZZ_PEER_CHUNKS) {
        return new_key(p);
    }
    if (p->capacity && p->used_bytes + bytes > p->capacity) {
        return 0;
    }
    set_chunks(p, i, first, reg->chunks, true);
    return new_key(p);
}

static void answer_register(FuzzPeer *p, uint8_t *data,
                            const RMigWireMessage *msg)
{
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;

        rmig_wire_register_unpack(msg, i, &reg);
        rmig_wire_result_pack(data + i * RMIG_WIRE_RESULT_BYTES,
                              &(RMigWireResult) {
            .rkey = register_record(p, &reg),
            .host_addr = p->blocks[reg.block % p->n_blocks].remote_host,
        });
    }
    queue_answer(p, RMIG_WIRE_REGISTER_RESULT, data, msg->n_records,
                 RMIG_WIRE_RESULT_BYTES);
}

static void answer_unregister(FuzzPeer *p, uint8_t *data,
                              const RMigWireMessage *msg)
{
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;

        rmig_wire_register_unpack(msg, i, &reg);
        set_chunks(p, reg.block % p->n_blocks, reg.key, reg.chunks, false);
    }
    queue_answer(p, RMIG_WIRE_UNREGISTER_FINISHED, data, 0, 0);
}

static void answer_message(FuzzPeer *p, const RMigWireMessage *msg)
{
    static uint8_t data[RECORDS_MAX * RMIG_WIRE_BLOCK_BYTES];
    int told = p->lie;

    memset(data, 0, p->lie < 0 ? 2 * p->n_blocks * RMIG_WIRE_BLOCK_BYTES :
                                 sizeof(data));
    if (msg->type == RMIG_WIRE_RAM_BLOCKS_REQUEST) {
        answer_blocks(p, data);
        p->lie = -1;
    } else if (msg->type == RMIG_WIRE_REGISTER_REQUEST) {
        answer_register(p, data, msg);
        p->lie = -1;
    } else if (msg->type == RMIG_WIRE_UNREGISTER_REQUEST) {
        answer_unregister(p, data, msg);
        p->lie = -1;
    } else if (msg->type == RMIG_WIRE_LOAD_REQUEST) {
        rmig_wire_loaded_pack(data, RMIG_WIRE_LOADED_STARTS);
        queue_answer(p, RMIG_WIRE_LOADED, data, 1, RMIG_WIRE_LOADED_BYTES);
        p->lie = -1;
    } else if (msg->type == RMIG_WIRE_START) {
        queue_answer(p, RMIG_WIRE_STARTED, data, 0, 0);
        p->lie = -1;
    }
    if (told == FUZZ_LIE_NOT_READY) {
        p->lie = -1;
    } else {
        fuzz_peer_say_ready(p);
    }
}

static bool deliver(GQueue *queue, FuzzQp *qp)
{
    bool any = false;
    GBytes *next;

    while (qp && (next = g_queue_pop_head(queue)) != NULL) {
        gsize len;
        const void *data = g_bytes_get_data(next, &len);

        fuzz_arrive(qp, data, len);
        g_bytes_unref(next);
        any = true;
    }
    return any;
}

void fuzz_peer_take(FuzzPeer *p, const RMigWireMessage *msg, bool back)
{
    if (!back) {
        answer_message(p, msg);
    } else if (msg->type == RMIG_WIRE_READY) {
        queue_message(&p->stream, RMIG_WIRE_QEMU_FILE, "back", 4, 1);
    }
}

bool fuzz_peer_deliver(FuzzPeer *p, FuzzQp *main, FuzzQp *back)
{
    bool any = deliver(&p->answers, main);

    return deliver(&p->stream, back) || any;
}

void fuzz_peer_init(FuzzPeer *p, const FuzzBlock *blocks, unsigned n)
{
    *p = (FuzzPeer) { .blocks = blocks, .n_blocks = n, .lie = -1 };
    g_queue_init(&p->answers);
    g_queue_init(&p->stream);
}

void fuzz_peer_cleanup(FuzzPeer *p)
{
    g_queue_clear_full(&p->answers, (GDestroyNotify)g_bytes_unref);
    g_queue_clear_full(&p->stream, (GDestroyNotify)g_bytes_unref);
}
