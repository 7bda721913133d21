/*
 * Fuzz target: the parsers of single messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The input's first byte says what it is: 0 to 3 a received message, anything
 * else private data.  It lies in memory of exactly its length.
 *
 * Besides memory errors, an input fails if a message that is accepted breaks a
 * promise of wire.h, if packing what was unpacked gives other bytes than those
 * that came (but for reserved ones), or if a refusal says nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "wire.h"

/* Reserved bytes, which pack as zeros whatever came */
typedef struct Reserved {
    unsigned at, bytes;
} Reserved;

static void assert_same(const uint8_t *came, const uint8_t *packed,
                        unsigned bytes, Reserved reserved, const char *what)
{
    for (unsigned i = 0; i < bytes; i++) {
        bool skip = i >= reserved.at && i - reserved.at < reserved.bytes;

        if (packed[i] != (skip ? 0 : came[i])) {
            fuzz_die("%s: byte %u came as %02x and is packed as %02x", what, i,
                     came[i], packed[i]);
        }
    }
}

static void check_refusal(GError *err)
{
    if (!err || err->message[0] == '\0') {
        fuzz_die("refused without a word");
    }
    g_error_free(err);
}

static unsigned record_bytes(RMigWireType type)
{
    switch (type) {
    case RMIG_WIRE_RAM_BLOCKS_RESULT:
        return RMIG_WIRE_BLOCK_BYTES;
    case RMIG_WIRE_COMPRESS:
        return RMIG_WIRE_ZERO_RUN_BYTES;
    case RMIG_WIRE_REGISTER_REQUEST:
    case RMIG_WIRE_UNREGISTER_REQUEST:
        return RMIG_WIRE_REGISTER_BYTES;
    case RMIG_WIRE_REGISTER_RESULT:
        return RMIG_WIRE_RESULT_BYTES;
    case RMIG_WIRE_LOADED:
        return RMIG_WIRE_LOADED_BYTES;
    default:
        return 0;
    }
}

static void round_trip(const RMigWireMessage *msg, uint32_t i)
{
    uint8_t packed[RMIG_WIRE_BLOCK_BYTES];
    Reserved reserved = { 12, 4 };
    unsigned bytes = record_bytes(msg->type);
    RMigWireBlock block;
    RMigWireRegister reg;
    RMigWireResult result;
    RMigWireZeroRun run;

    switch (msg->type) {
    case RMIG_WIRE_RAM_BLOCKS_RESULT:
        rmig_wire_block_unpack(msg, i, &block);
        rmig_wire_block_pack(packed, &block);
        reserved.at = 28;
        break;
    case RMIG_WIRE_COMPRESS:
        rmig_wire_zero_run_unpack(msg, i, &run);
        rmig_wire_zero_run_pack(packed, &run);
        reserved.bytes = 0;
        break;
    case RMIG_WIRE_REGISTER_RESULT:
        rmig_wire_result_unpack(msg, i, &result);
        rmig_wire_result_pack(packed, &result);
        reserved.at = 4;
        break;
    case RMIG_WIRE_LOADED:
        rmig_wire_loaded_pack(packed, rmig_wire_loaded_unpack(msg));
        reserved.bytes = 0;
        break;
    default:
        rmig_wire_register_unpack(msg, i, &reg);
        rmig_wire_register_pack(packed, &reg);
        break;
    }
    assert_same(msg->data + (size_t)i * bytes, packed, bytes, reserved,
                rmig_wire_type_name(msg->type));
}

static void check_message(const uint8_t *buf, size_t size)
{
    uint8_t packed[RMIG_WIRE_HEADER_BYTES];
    RMigWireHeader header = { 0 };
    RMigWireMessage msg = { 0 };
    GError *err = NULL;
    unsigned each;

    if (!rmig_wire_message_unpack(buf, size, &msg, &err)) {
        check_refusal(err);
        return;
    }
    if (err || size < RMIG_WIRE_HEADER_BYTES ||
        msg.data != buf + RMIG_WIRE_HEADER_BYTES ||
        msg.len > size - RMIG_WIRE_HEADER_BYTES ||
        msg.type == RMIG_WIRE_NONE || msg.type >= RMIG_WIRE_TYPES) {
        fuzz_die("accepted: type %d, %u bytes of data in %zu", msg.type,
                 msg.len, size);
    }
    each = record_bytes(msg.type);
    if (each ? msg.n_records == 0 || msg.len != msg.n_records * each :
        msg.n_records != 0 ||
        (msg.len > 0) != (msg.type == RMIG_WIRE_QEMU_FILE)) {
        fuzz_die("accepted: %s with %u bytes, %u records",
                 rmig_wire_type_name(msg.type), msg.len, msg.n_records);
    }
    header.len = msg.len;
    header.type = msg.type;
    memcpy(&header.repeat, buf + 8, sizeof(header.repeat));
    header.repeat = GUINT32_FROM_BE(header.repeat);
    rmig_wire_header_pack(packed, &header);
    assert_same(buf, packed, sizeof(packed), (Reserved) { 12, 4 }, "header");
    for (uint32_t i = 0; i < msg.n_records; i++) {
        round_trip(&msg, i);
    }
}

/* A record of a later version may have come; we send ours */
static void check_length(const uint8_t *came, const uint8_t *packed)
{
    static const uint8_t ours[4] = { 0, 0, 0, RMIG_WIRE_EXTENSION_BYTES };

    if (memcmp(came, ours, sizeof(ours)) < 0 ||
        memcmp(packed, ours, sizeof(ours)) != 0) {
        fuzz_die("an extension record of %u bytes is accepted", came[3]);
    }
}

static void check_private(const uint8_t *buf, size_t size)
{
    uint8_t packed[RMIG_WIRE_PRIVATE_MAX_BYTES];
    RMigWirePrivate priv = { 0 };
    GError *err = NULL;
    size_t bytes;
    bool budget;

    if (!rmig_wire_private_unpack(buf, size, &priv, &err)) {
        check_refusal(err);
        return;
    }
    budget = priv.flags & RMIG_WIRE_FLAG_BUDGET;
    bytes = budget ? RMIG_WIRE_PRIVATE_MAX_BYTES : RMIG_WIRE_PRIVATE_BYTES;
    if (err || size < bytes || priv.version != RMIG_WIRE_VERSION ||
        (!budget && priv.pin_bytes != 0)) {
        fuzz_die("accepted: version %u in %zu bytes", priv.version, size);
    }
    if (rmig_wire_private_pack(packed, &priv) != bytes) {
        fuzz_die("the private data has another length than it came with");
    }
    assert_same(buf, packed, RMIG_WIRE_PRIVATE_BYTES, (Reserved) { 0, 0 },
                "private");
    if (budget) {
        check_length(buf + RMIG_WIRE_PRIVATE_BYTES,
                     packed + RMIG_WIRE_PRIVATE_BYTES);
        assert_same(buf + 12, packed + 12, 12, (Reserved) { 0, 4 },
                    "extension record");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = NULL;

    if (size == 0) {
        return 0;
    }
    copy = g_memdup2(data + 1, size - 1);
    if (data[0] < 4) {
        check_message(copy, size - 1);
    } else {
        check_private(copy, size - 1);
    }
    return 0;
}
