/*
 * Prints what the code says about the wire format, for scripts/check-docs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nothing is repeated here from wire.c: a field's place is found by packing a
 * structure in which only that field is not zero, and a type's rules by
 * offering messages to the validator.
 */
#include "blocks.h"
#include "control.h"

#include <stdio.h>
#include <string.h>

static void show_constants(void)
{
    printf("const RMIG_WIRE_VERSION %u\n", RMIG_WIRE_VERSION);
    printf("const RMIG_WIRE_MESSAGE_MAX_BYTES %u\n",
           RMIG_WIRE_MESSAGE_MAX_BYTES);
    printf("const RMIG_WIRE_DATA_MAX_BYTES %u\n", RMIG_WIRE_DATA_MAX_BYTES);
    printf("const RMIG_WIRE_RECORDS_MAX %u\n", RMIG_WIRE_RECORDS_MAX);
    printf("const RMIG_WIRE_BLOCKS_MAX %u\n", RMIG_WIRE_BLOCKS_MAX);
    printf("const RMIG_CHUNK_BYTES %llu\n",
           (unsigned long long)RMIG_CHUNK_BYTES);
    printf("const RMIG_CONTROL_TIMEOUT_MS %u\n", RMIG_CONTROL_TIMEOUT_MS);
    printf("const RMIG_LINK_RESOLVE_MS %u\n", RMIG_LINK_RESOLVE_MS);
    printf("const RMIG_LINK_CONNECT_MS %u\n", RMIG_LINK_CONNECT_MS);
    printf("const RMIG_LINK_HEARTBEAT_MS %u\n", RMIG_LINK_HEARTBEAT_MS);
    printf("flag PIN_ALL %d\n", g_bit_nth_lsf(RMIG_WIRE_FLAG_PIN_ALL, -1));
    printf("flag BATCH %d\n", g_bit_nth_lsf(RMIG_WIRE_FLAG_BATCH, -1));
    printf("flag BUDGET %d\n", g_bit_nth_lsf(RMIG_WIRE_FLAG_BUDGET, -1));
    printf("flag HANDOVER %d\n", g_bit_nth_lsf(RMIG_WIRE_FLAG_HANDOVER, -1));
    printf("flags-known %u\n", RMIG_WIRE_FLAGS_KNOWN);
}

/* The run of 0xff in @buf is the field's place */
static void show_place(const char *structure, const char *field,
                       const uint8_t *buf, size_t bytes)
{
    size_t first = 0;
    size_t last = bytes;

    while (first < bytes && buf[first] != 0xff) {
        first++;
    }
    while (last > first && buf[last - 1] != 0xff) {
        last--;
    }
    printf("field %s %s %zu %zu\n", structure, field, first, last - first);
}

/* All flags are set in one of them: without the record that they announce */
static void private_pack(uint8_t *buf, const RMigWirePrivate *priv)
{
    uint8_t whole[RMIG_WIRE_PRIVATE_MAX_BYTES];

    rmig_wire_private_pack(whole, priv);
    memcpy(buf, whole, RMIG_WIRE_PRIVATE_BYTES);
}

/* Each prints a structure's size and one of its fields */
#define SHOW(structure, type, size, pack, field) \
    do { \
        uint8_t buf[size] = { 0 }; \
        type value = { 0 }; \
        memset(&value.field, 0xff, sizeof(value.field)); \
        pack(buf, &value); \
        printf("struct %s %u\n", structure, size); \
        show_place(structure, #field, buf, size); \
    } while (0)

#define HEADER(field) \
    SHOW("header", RMigWireHeader, RMIG_WIRE_HEADER_BYTES, \
         rmig_wire_header_pack, field)
#define PRIVATE(field) \
    SHOW("private", RMigWirePrivate, RMIG_WIRE_PRIVATE_BYTES, \
         private_pack, field)
#define BLOCK(field) \
    SHOW("block", RMigWireBlock, RMIG_WIRE_BLOCK_BYTES, \
         rmig_wire_block_pack, field)
#define REGISTER(field) \
    SHOW("register", RMigWireRegister, RMIG_WIRE_REGISTER_BYTES, \
         rmig_wire_register_pack, field)
#define RESULT(field) \
    SHOW("result", RMigWireResult, RMIG_WIRE_RESULT_BYTES, \
         rmig_wire_result_pack, field)
#define ZERO_RUN(field) \
    SHOW("zero-run", RMigWireZeroRun, RMIG_WIRE_ZERO_RUN_BYTES, \
         rmig_wire_zero_run_pack, field)

static void extension_pack(uint8_t *buf, RMigWirePrivate *priv)
{
    uint8_t whole[RMIG_WIRE_PRIVATE_MAX_BYTES];

    priv->flags = RMIG_WIRE_FLAG_BUDGET;
    rmig_wire_private_pack(whole, priv);
    memcpy(buf, whole + RMIG_WIRE_PRIVATE_BYTES, RMIG_WIRE_EXTENSION_BYTES);
}

/*
 * The record's length is nothing that can be packed: its place is where a byte
 * that is not 0 makes the validator take it
 */
static void show_extension_length(void)
{
    uint8_t places[RMIG_WIRE_EXTENSION_BYTES] = { 0 };

    for (unsigned i = 0; i < RMIG_WIRE_EXTENSION_BYTES; i++) {
        RMigWirePrivate priv = { .version = RMIG_WIRE_VERSION,
                                 .flags = RMIG_WIRE_FLAG_BUDGET };
        uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
        size_t bytes = rmig_wire_private_pack(buf, &priv);

        memset(buf + RMIG_WIRE_PRIVATE_BYTES, 0, RMIG_WIRE_EXTENSION_BYTES);
        buf[RMIG_WIRE_PRIVATE_BYTES + i] = 0xff;
        if (rmig_wire_private_unpack(buf, bytes, &priv, NULL)) {
            places[i] = 0xff;
        }
    }
    show_place("extension", "length", places, sizeof(places));
}

static void show_loaded(void)
{
    uint8_t buf[RMIG_WIRE_LOADED_BYTES];

    rmig_wire_loaded_pack(buf, UINT32_MAX);
    printf("struct loaded %u\n", RMIG_WIRE_LOADED_BYTES);
    show_place("loaded", "flags", buf, sizeof(buf));
}

static void show_structures(void)
{
    HEADER(len);
    HEADER(type);
    HEADER(repeat);
    PRIVATE(version);
    PRIVATE(flags);
    SHOW("extension", RMigWirePrivate, RMIG_WIRE_EXTENSION_BYTES,
         extension_pack, pin_bytes);
    show_extension_length();
    BLOCK(host_addr);
    BLOCK(offset);
    BLOCK(length);
    BLOCK(rkey);
    REGISTER(key);
    REGISTER(block);
    REGISTER(chunks);
    RESULT(rkey);
    RESULT(reason);
    RESULT(host_addr);
    ZERO_RUN(value);
    ZERO_RUN(block);
    ZERO_RUN(offset);
    ZERO_RUN(length);
    show_loaded();
}

static bool is_taken(uint32_t type, uint32_t len, uint32_t repeat)
{
    uint8_t buf[RMIG_WIRE_HEADER_BYTES + 256] = { 0 };
    RMigWireHeader header = { .len = len, .type = type, .repeat = repeat };
    RMigWireMessage msg;

    rmig_wire_header_pack(buf, &header);
    return rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL);
}

/* type NUMBER NAME none|bytes|RECORD-BYTES|- any|count|- */
static void show_type(uint32_t type)
{
    uint32_t len = 0;

    /* RAM_BLOCKS_RESULT may be empty, too: then it is told by what is more */
    if (is_taken(type, 0, 1)) {
        while (++len < 256 && !is_taken(type, len, 1)) {
            /* the next */
        }
        len %= 256;
    }
    printf("type %u %s ", type, rmig_wire_type_name(type));
    while (len < 256 && !is_taken(type, len, 1)) {
        len++;
    }
    if (len == 256) {
        printf("- -\n");
    } else if (len == 0) {
        printf("none %s\n", is_taken(type, 0, 9) ? "any" : "count");
    } else if (len == 1) {
        printf("bytes %s\n", is_taken(type, 1, 9) ? "any" : "count");
    } else {
        printf("%u %s\n", len, is_taken(type, len, 9) ? "any" : "count");
    }
}

int main(void)
{
    show_constants();
    show_structures();
    for (uint32_t type = 0; type < RMIG_WIRE_TYPES; type++) {
        show_type(type);
    }
    return 0;
}
