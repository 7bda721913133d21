/*
 * RDMA migration transport: the wire format of protocol version 1
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job, callers and thread: see wire.h.  Owns nothing.
 *
 * All bytes pass through the four functions below, one at a time, so neither
 * alignment nor host byte order matters, and no struct is ever laid over a
 * receive buffer.
 */
#include "wire.h"

G_STATIC_ASSERT(RMIG_WIRE_DATA_MAX_BYTES % RMIG_WIRE_HEADER_BYTES == 0);
G_STATIC_ASSERT(RMIG_WIRE_RECORDS_MAX * RMIG_WIRE_REGISTER_BYTES <=
                RMIG_WIRE_DATA_MAX_BYTES);
G_STATIC_ASSERT(RMIG_WIRE_RECORDS_MAX * RMIG_WIRE_RESULT_BYTES <=
                RMIG_WIRE_DATA_MAX_BYTES);
G_STATIC_ASSERT(RMIG_WIRE_RECORDS_MAX * RMIG_WIRE_ZERO_RUN_BYTES <=
                RMIG_WIRE_DATA_MAX_BYTES);

/* What a message of one type carries behind its header */
typedef enum Payload {
    PAYLOAD_EMPTY,
    PAYLOAD_BYTES,
    PAYLOAD_RECORDS,
} Payload;

typedef struct TypeRule {
    const char *name;
    bool legal; /* may appear on the wire */
    Payload payload;
    uint32_t record_bytes;
    uint32_t records_max;
    bool repeat_counts; /* the header's repeat must be the record count */
    bool may_be_empty;  /* no record at all is legal */
} TypeRule;

#define EMPTY(n) { .name = (n), .legal = true, .payload = PAYLOAD_EMPTY }
#define RECORDS(n, bytes, max, counts) \
    { .name = (n), .legal = true, .payload = PAYLOAD_RECORDS, \
      .record_bytes = (bytes), .records_max = (max), .repeat_counts = (counts) }

static const TypeRule type_rules[RMIG_WIRE_TYPES] = {
    [RMIG_WIRE_NONE] = { .name = "NONE" },
    [RMIG_WIRE_ERROR] = EMPTY("ERROR"),
    [RMIG_WIRE_READY] = EMPTY("READY"),
    [RMIG_WIRE_QEMU_FILE] = {
        .name = "QEMU_FILE", .legal = true, .payload = PAYLOAD_BYTES,
    },
    [RMIG_WIRE_RAM_BLOCKS_REQUEST] = EMPTY("RAM_BLOCKS_REQUEST"),
    /* Empty if there is no RAM to send: x-ignore-shared may leave none */
    [RMIG_WIRE_RAM_BLOCKS_RESULT] = {
        .name = "RAM_BLOCKS_RESULT", .legal = true,
        .payload = PAYLOAD_RECORDS, .record_bytes = RMIG_WIRE_BLOCK_BYTES,
        .records_max = RMIG_WIRE_BLOCKS_MAX, .may_be_empty = true,
    },
    [RMIG_WIRE_COMPRESS] =
        RECORDS("COMPRESS", RMIG_WIRE_ZERO_RUN_BYTES,
                RMIG_WIRE_RECORDS_MAX, true),
    [RMIG_WIRE_REGISTER_REQUEST] =
        RECORDS("REGISTER_REQUEST", RMIG_WIRE_REGISTER_BYTES,
                RMIG_WIRE_RECORDS_MAX, true),
    [RMIG_WIRE_REGISTER_RESULT] =
        RECORDS("REGISTER_RESULT", RMIG_WIRE_RESULT_BYTES,
                RMIG_WIRE_RECORDS_MAX, false),
    [RMIG_WIRE_REGISTER_FINISHED] = EMPTY("REGISTER_FINISHED"),
    [RMIG_WIRE_UNREGISTER_REQUEST] =
        RECORDS("UNREGISTER_REQUEST", RMIG_WIRE_REGISTER_BYTES,
                RMIG_WIRE_RECORDS_MAX, true),
    [RMIG_WIRE_UNREGISTER_FINISHED] = EMPTY("UNREGISTER_FINISHED"),
    [RMIG_WIRE_LOAD_REQUEST] = EMPTY("LOAD_REQUEST"),
    [RMIG_WIRE_LOADED] =
        RECORDS("LOADED", RMIG_WIRE_LOADED_BYTES, 1, false),
    [RMIG_WIRE_START] = EMPTY("START"),
    [RMIG_WIRE_STARTED] = EMPTY("STARTED"),
};

#undef EMPTY
#undef RECORDS

GQuark rmig_wire_error_quark(void)
{
    return g_quark_from_static_string("rmig-wire-error");
}

/* Each moves the cursor behind what it has written or read */
static void put32(uint8_t **cursor, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8) {
        *(*cursor)++ = (uint8_t)(value >> shift);
    }
}

static void put64(uint8_t **cursor, uint64_t value)
{
    put32(cursor, (uint32_t)(value >> 32));
    put32(cursor, (uint32_t)value);
}

static uint32_t get32(const uint8_t **cursor)
{
    uint32_t value = 0;

    for (int i = 0; i < 4; i++) {
        value = value << 8 | *(*cursor)++;
    }
    return value;
}

static uint64_t get64(const uint8_t **cursor)
{
    uint64_t high = get32(cursor);

    return high << 32 | get32(cursor);
}

const char *rmig_wire_type_name(uint32_t type)
{
    return type < RMIG_WIRE_TYPES ? type_rules[type].name : "unknown";
}

void rmig_wire_header_pack(uint8_t *buf, const RMigWireHeader *header)
{
    uint8_t *p = buf;

    put32(&p, header->len);
    put32(&p, header->type);
    put32(&p, header->repeat);
    put32(&p, 0);
    g_assert(p == buf + RMIG_WIRE_HEADER_BYTES);
}

size_t rmig_wire_private_pack(uint8_t *buf, const RMigWirePrivate *priv)
{
    uint8_t *p = buf;

    put32(&p, priv->version);
    put32(&p, priv->flags);
    g_assert(p == buf + RMIG_WIRE_PRIVATE_BYTES);
    if (priv->flags & RMIG_WIRE_FLAG_BUDGET) {
        put32(&p, RMIG_WIRE_EXTENSION_BYTES);
        put32(&p, 0);
        put64(&p, priv->pin_bytes);
        g_assert(p == buf + RMIG_WIRE_PRIVATE_MAX_BYTES);
    }
    return p - buf;
}

void rmig_wire_block_pack(uint8_t *buf, const RMigWireBlock *block)
{
    uint8_t *p = buf;

    put64(&p, block->host_addr);
    put64(&p, block->offset);
    put64(&p, block->length);
    put32(&p, block->rkey);
    put32(&p, 0);
    g_assert(p == buf + RMIG_WIRE_BLOCK_BYTES);
}

void rmig_wire_register_pack(uint8_t *buf, const RMigWireRegister *reg)
{
    uint8_t *p = buf;

    put64(&p, reg->key);
    put32(&p, reg->block);
    put32(&p, 0);
    put64(&p, reg->chunks);
    g_assert(p == buf + RMIG_WIRE_REGISTER_BYTES);
}

void rmig_wire_result_pack(uint8_t *buf, const RMigWireResult *result)
{
    uint8_t *p = buf;

    put32(&p, result->rkey);
    put32(&p, result->reason);
    put64(&p, result->host_addr);
    g_assert(p == buf + RMIG_WIRE_RESULT_BYTES);
}

void rmig_wire_zero_run_pack(uint8_t *buf, const RMigWireZeroRun *run)
{
    uint8_t *p = buf;

    put32(&p, run->value);
    put32(&p, run->block);
    put64(&p, run->offset);
    put64(&p, run->length);
    g_assert(p == buf + RMIG_WIRE_ZERO_RUN_BYTES);
}

void rmig_wire_loaded_pack(uint8_t *buf, uint32_t flags)
{
    uint8_t *p = buf;

    put32(&p, flags);
    g_assert(p == buf + RMIG_WIRE_LOADED_BYTES);
}

/* Asking for a record that the message does not have is a bug of ours */
static const uint8_t *record_at(const RMigWireMessage *msg, uint32_t i)
{
    g_assert(i < msg->n_records);
    return msg->data + (size_t)i * type_rules[msg->type].record_bytes;
}

void rmig_wire_block_unpack(const RMigWireMessage *msg, uint32_t i,
                            RMigWireBlock *block)
{
    const uint8_t *p = record_at(msg, i);

    g_assert(msg->type == RMIG_WIRE_RAM_BLOCKS_RESULT);
    block->host_addr = get64(&p);
    block->offset = get64(&p);
    block->length = get64(&p);
    block->rkey = get32(&p);
}

void rmig_wire_register_unpack(const RMigWireMessage *msg, uint32_t i,
                               RMigWireRegister *reg)
{
    const uint8_t *p = record_at(msg, i);

    g_assert(msg->type == RMIG_WIRE_REGISTER_REQUEST ||
             msg->type == RMIG_WIRE_UNREGISTER_REQUEST);
    reg->key = get64(&p);
    reg->block = get32(&p);
    get32(&p); /* padding */
    reg->chunks = get64(&p);
}

void rmig_wire_result_unpack(const RMigWireMessage *msg, uint32_t i,
                             RMigWireResult *result)
{
    const uint8_t *p = record_at(msg, i);

    g_assert(msg->type == RMIG_WIRE_REGISTER_RESULT);
    result->rkey = get32(&p);
    result->reason = get32(&p);
    result->host_addr = get64(&p);
}

void rmig_wire_zero_run_unpack(const RMigWireMessage *msg, uint32_t i,
                               RMigWireZeroRun *run)
{
    const uint8_t *p = record_at(msg, i);

    g_assert(msg->type == RMIG_WIRE_COMPRESS);
    run->value = get32(&p);
    run->block = get32(&p);
    run->offset = get64(&p);
    run->length = get64(&p);
}

uint32_t rmig_wire_loaded_unpack(const RMigWireMessage *msg)
{
    const uint8_t *p = record_at(msg, 0);

    g_assert(msg->type == RMIG_WIRE_LOADED);
    return get32(&p);
}

/* @p: behind the first RMIG_WIRE_PRIVATE_BYTES of @bytes */
static bool unpack_extension(const uint8_t *p, size_t bytes,
                             RMigWirePrivate *priv, GError **err)
{
    uint32_t length;

    if (bytes < RMIG_WIRE_PRIVATE_MAX_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "the peer's private data announces an extension record "
                    "and has %zu bytes, %u are needed", bytes,
                    RMIG_WIRE_PRIVATE_MAX_BYTES);
        return false;
    }
    length = get32(&p);
    if (length < RMIG_WIRE_EXTENSION_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "the extension record in the peer's private data has %u "
                    "bytes, it must have at least %u", length,
                    RMIG_WIRE_EXTENSION_BYTES);
        return false;
    }
    get32(&p); /* padding */
    priv->pin_bytes = get64(&p);
    return true;
}

bool rmig_wire_private_unpack(const void *buf, size_t bytes,
                              RMigWirePrivate *priv, GError **err)
{
    const uint8_t *p = buf;

    if (bytes < RMIG_WIRE_PRIVATE_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "the peer's private data has %zu bytes, a QEMU's has at "
                    "least %u: is something else listening on this port?",
                    bytes, RMIG_WIRE_PRIVATE_BYTES);
        return false;
    }

    priv->version = get32(&p);
    priv->flags = get32(&p);
    priv->pin_bytes = 0;
    if (priv->version == 0 || priv->version > RMIG_WIRE_VERSION) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "the peer speaks version %u of the RDMA migration "
                    "protocol, this QEMU speaks version %u",
                    priv->version, RMIG_WIRE_VERSION);
        return false;
    }
    return !(priv->flags & RMIG_WIRE_FLAG_BUDGET) ||
           unpack_extension(p, bytes, priv, err);
}

/* Sets @msg->n_records */
static bool check_records(const TypeRule *rule, const RMigWireHeader *header,
                          RMigWireMessage *msg, GError **err)
{
    msg->n_records = header->len / rule->record_bytes;

    if ((header->len == 0 && !rule->may_be_empty) ||
        header->len % rule->record_bytes != 0) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "%s from the peer has %u bytes of data, which is not a "
                    "whole number of %u-byte records",
                    rule->name, header->len, rule->record_bytes);
        return false;
    }
    if (msg->n_records > rule->records_max) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "%s from the peer has %u records, the limit is %u",
                    rule->name, msg->n_records, rule->records_max);
        return false;
    }
    if (rule->repeat_counts && header->repeat != msg->n_records) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "%s from the peer announces %u records and carries %u",
                    rule->name, header->repeat, msg->n_records);
        return false;
    }
    return true;
}

static bool check_payload(const TypeRule *rule, const RMigWireHeader *header,
                          RMigWireMessage *msg, GError **err)
{
    switch (rule->payload) {
    case PAYLOAD_EMPTY:
        if (header->len != 0) {
            g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                        "%s from the peer has %u bytes of data, it must have "
                        "none", rule->name, header->len);
            return false;
        }
        return true;
    case PAYLOAD_BYTES:
        if (header->len == 0) {
            g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                        "%s from the peer is empty", rule->name);
            return false;
        }
        return true;
    case PAYLOAD_RECORDS:
        return check_records(rule, header, msg, err);
    }
    g_assert_not_reached();
}

/* The header itself, without what its type asks for */
static bool unpack_header(const uint8_t *buf, size_t bytes,
                          RMigWireHeader *header, GError **err)
{
    const uint8_t *p = buf;

    if (bytes < RMIG_WIRE_HEADER_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "a message of %zu bytes from the peer is shorter than a "
                    "header (%u)", bytes, RMIG_WIRE_HEADER_BYTES);
        return false;
    }

    header->len = get32(&p);
    header->type = get32(&p);
    header->repeat = get32(&p);
    if (header->type >= RMIG_WIRE_TYPES || !type_rules[header->type].legal) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "a message from the peer has the impossible type %u (%s)",
                    header->type, rmig_wire_type_name(header->type));
        return false;
    }
    if (header->len > RMIG_WIRE_DATA_MAX_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "%s from the peer announces %u bytes of data, the limit "
                    "is %u", rmig_wire_type_name(header->type), header->len,
                    RMIG_WIRE_DATA_MAX_BYTES);
        return false;
    }
    if (header->len > bytes - RMIG_WIRE_HEADER_BYTES) {
        g_set_error(err, RMIG_WIRE_ERROR_QUARK, 0,
                    "%s from the peer announces %u bytes of data, %zu came",
                    rmig_wire_type_name(header->type), header->len,
                    bytes - RMIG_WIRE_HEADER_BYTES);
        return false;
    }
    return true;
}

bool rmig_wire_message_unpack(const uint8_t *buf, size_t bytes,
                              RMigWireMessage *msg, GError **err)
{
    RMigWireHeader header;

    if (!unpack_header(buf, bytes, &header, err)) {
        return false;
    }

    msg->type = header.type;
    msg->data = buf + RMIG_WIRE_HEADER_BYTES;
    msg->len = header.len;
    msg->n_records = 0;
    return check_payload(&type_rules[header.type], &header, msg, err);
}
