/*
 * Unit tests of the wire room: golden bytes and hostile messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The byte arrays are the protocol: docs/rdma.txt describes them, and a change
 * that makes one of them fail breaks migration with every other QEMU.
 */
#include "wire.h"

#include <string.h>

/* One message as it lies in a receive buffer, and what must come of it */
typedef struct Golden {
    const char *name;
    RMigWireHeader header;
    uint8_t header_bytes[RMIG_WIRE_HEADER_BYTES];
    uint32_t n_records;
    uint8_t data[RMIG_WIRE_BLOCK_BYTES]; /* header.len of them */
} Golden;

static const Golden golden[] = {
    {
        .name = "error",
        .header = { .len = 0, .type = RMIG_WIRE_ERROR, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "ready",
        .header = { .len = 0, .type = RMIG_WIRE_READY, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "qemu-file",
        .header = { .len = 5, .type = RMIG_WIRE_QEMU_FILE, .repeat = 0 },
        .header_bytes = { 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0 },
        .data = { 'Q', 'E', 'V', 'M', 0 },
    }, {
        .name = "ram-blocks-request",
        .header = { .len = 0, .type = RMIG_WIRE_RAM_BLOCKS_REQUEST,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "ram-blocks-result",
        .header = { .len = 32, .type = RMIG_WIRE_RAM_BLOCKS_RESULT,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 32, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x00, 0x00, 0x7f, 0x12, 0x34, 0x56, 0x70, 0x00,
                  0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05,
                  0x00, 0x00, 0x00, 0x00, 0x20, 0x00, 0x10, 0x00,
                  0xfe, 0xdc, 0xba, 0x98,
                  0x00, 0x00, 0x00, 0x00 },
    }, {
        .name = "compress",
        .header = { .len = 24, .type = RMIG_WIRE_COMPRESS, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 24, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x00, 0x00, 0x00, 0x00,
                  0x00, 0x00, 0x00, 0x07,
                  0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                  0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x10, 0x00 },
    }, {
        .name = "register-request",
        .header = { .len = 24, .type = RMIG_WIRE_REGISTER_REQUEST,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 24, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80,
                  0x00, 0x00, 0x00, 0x03,
                  0x00, 0x00, 0x00, 0x00,
                  0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02 },
    }, {
        .name = "register-result",
        .header = { .len = 16, .type = RMIG_WIRE_REGISTER_RESULT,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x89, 0xab, 0xcd, 0xef,
                  0x00, 0x00, 0x00, 0x01,
                  0x00, 0x00, 0x7f, 0xaa, 0xbb, 0xcc, 0xd0, 0x00 },
    }, {
        .name = "register-finished",
        .header = { .len = 0, .type = RMIG_WIRE_REGISTER_FINISHED,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "unregister-request",
        .header = { .len = 24, .type = RMIG_WIRE_UNREGISTER_REQUEST,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 24, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2a,
                  0x00, 0x00, 0x00, 0x05,
                  0x00, 0x00, 0x00, 0x00,
                  0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00 },
    }, {
        .name = "unregister-finished",
        .header = { .len = 0, .type = RMIG_WIRE_UNREGISTER_FINISHED,
                    .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "load-request",
        .header = { .len = 0, .type = RMIG_WIRE_LOAD_REQUEST, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "loaded",
        .header = { .len = 4, .type = RMIG_WIRE_LOADED, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 4, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0 },
        .n_records = 1,
        .data = { 0x80, 0x00, 0x00, 0x01 },
    }, {
        .name = "start",
        .header = { .len = 0, .type = RMIG_WIRE_START, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0 },
    }, {
        .name = "started",
        .header = { .len = 0, .type = RMIG_WIRE_STARTED, .repeat = 1 },
        .header_bytes = { 0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 0, 1, 0, 0, 0, 0 },
    },
};

static const Golden *golden_of(RMigWireType type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(golden); i++) {
        if (golden[i].header.type == type) {
            return &golden[i];
        }
    }
    g_assert_not_reached();
}

/* Data of the golden message, packed by the room from host values */
static void pack_golden_data(RMigWireType type, uint8_t *data)
{
    switch (type) {
    case RMIG_WIRE_RAM_BLOCKS_RESULT:
        rmig_wire_block_pack(data, &(RMigWireBlock) {
            .host_addr = UINT64_C(0x7f1234567000),
            .offset = UINT64_C(0x102030405),
            .length = UINT64_C(0x20001000),
            .rkey = 0xfedcba98,
        });
        break;
    case RMIG_WIRE_COMPRESS:
        rmig_wire_zero_run_pack(data, &(RMigWireZeroRun) {
            .block = 7,
            .offset = UINT64_C(0x0123456789abcdef),
            .length = UINT64_C(0x1000001000),
        });
        break;
    case RMIG_WIRE_REGISTER_REQUEST:
        rmig_wire_register_pack(data, &(RMigWireRegister) {
            .key = UINT64_C(0x1020304050607080),
            .block = 3,
            .chunks = 0x102,
        });
        break;
    case RMIG_WIRE_REGISTER_RESULT:
        rmig_wire_result_pack(data, &(RMigWireResult) {
            .reason = RMIG_WIRE_REFUSED_UNPINNABLE,
            .rkey = 0x89abcdef,
            .host_addr = UINT64_C(0x7faabbccd000),
        });
        break;
    case RMIG_WIRE_UNREGISTER_REQUEST:
        rmig_wire_register_pack(data, &(RMigWireRegister) {
            .key = 42,
            .block = 5,
        });
        break;
    case RMIG_WIRE_LOADED:
        rmig_wire_loaded_pack(data, 0x80000001);
        break;
    case RMIG_WIRE_QEMU_FILE:
        memcpy(data, "QEVM", 5);
        break;
    default:
        break;
    }
}

/* The whole message in @buf (header and data); returns its length */
static size_t put_golden(uint8_t *buf, const Golden *g)
{
    memcpy(buf, g->header_bytes, RMIG_WIRE_HEADER_BYTES);
    memcpy(buf + RMIG_WIRE_HEADER_BYTES, g->data, g->header.len);
    return RMIG_WIRE_HEADER_BYTES + g->header.len;
}

static void test_pack(gconstpointer data)
{
    const Golden *g = data;
    uint8_t header[RMIG_WIRE_HEADER_BYTES + 1];
    uint8_t payload[RMIG_WIRE_BLOCK_BYTES + 1];

    memset(header, 0xa5, sizeof(header));
    rmig_wire_header_pack(header, &g->header);
    g_assert_cmpmem(header, RMIG_WIRE_HEADER_BYTES,
                    g->header_bytes, RMIG_WIRE_HEADER_BYTES);
    g_assert_cmphex(header[RMIG_WIRE_HEADER_BYTES], ==, 0xa5);

    /* padding must come out as 0 whatever was in the buffer before */
    memset(payload, 0xa5, sizeof(payload));
    pack_golden_data(g->header.type, payload);
    g_assert_cmpmem(payload, g->header.len, g->data, g->header.len);
    g_assert_cmphex(payload[g->header.len], ==, 0xa5);
}

static void test_unpack(gconstpointer data)
{
    const Golden *g = data;
    g_autoptr(GError) err = NULL;
    uint8_t buf[64];
    size_t bytes = put_golden(buf, g);
    RMigWireMessage msg;

    g_assert_true(rmig_wire_message_unpack(buf, bytes, &msg, &err));
    g_assert_no_error(err);
    g_assert_cmpuint(msg.type, ==, g->header.type);
    g_assert_cmpuint(msg.len, ==, g->header.len);
    g_assert_cmpuint(msg.n_records, ==, g->n_records);
    g_assert_true(msg.data == buf + RMIG_WIRE_HEADER_BYTES);

    /* what lies behind the announced length is ignored */
    memset(buf + bytes, 0xff, sizeof(buf) - bytes);
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, &err));
    g_assert_cmpuint(msg.len, ==, g->header.len);
}

static void test_unpack_records(void)
{
    uint8_t buf[64];
    RMigWireMessage msg;
    RMigWireBlock block;
    RMigWireRegister reg;
    RMigWireResult result;
    RMigWireZeroRun run;

#define TAKE(type) \
    g_assert_true(rmig_wire_message_unpack( \
        buf, put_golden(buf, golden_of(type)), &msg, NULL))

    TAKE(RMIG_WIRE_RAM_BLOCKS_RESULT);
    rmig_wire_block_unpack(&msg, 0, &block);
    g_assert_cmphex(block.host_addr, ==, UINT64_C(0x7f1234567000));
    g_assert_cmphex(block.offset, ==, UINT64_C(0x102030405));
    g_assert_cmphex(block.length, ==, UINT64_C(0x20001000));
    g_assert_cmphex(block.rkey, ==, 0xfedcba98);

    TAKE(RMIG_WIRE_COMPRESS);
    rmig_wire_zero_run_unpack(&msg, 0, &run);
    g_assert_cmphex(run.value, ==, 0);
    g_assert_cmpuint(run.block, ==, 7);
    g_assert_cmphex(run.offset, ==, UINT64_C(0x0123456789abcdef));
    g_assert_cmphex(run.length, ==, UINT64_C(0x1000001000));

    TAKE(RMIG_WIRE_REGISTER_REQUEST);
    rmig_wire_register_unpack(&msg, 0, &reg);
    g_assert_cmphex(reg.key, ==, UINT64_C(0x1020304050607080));
    g_assert_cmpuint(reg.block, ==, 3);
    g_assert_cmphex(reg.chunks, ==, 0x102);

    TAKE(RMIG_WIRE_REGISTER_RESULT);
    rmig_wire_result_unpack(&msg, 0, &result);
    g_assert_cmphex(result.rkey, ==, 0x89abcdef);
    g_assert_cmpuint(result.reason, ==, RMIG_WIRE_REFUSED_UNPINNABLE);
    g_assert_cmphex(result.host_addr, ==, UINT64_C(0x7faabbccd000));

    TAKE(RMIG_WIRE_UNREGISTER_REQUEST);
    rmig_wire_register_unpack(&msg, 0, &reg);
    g_assert_cmpuint(reg.key, ==, 42);
    g_assert_cmpuint(reg.block, ==, 5);
    g_assert_cmpuint(reg.chunks, ==, 0);
#undef TAKE
}

/* Reserved words may hold anything: they are ignored */
static void test_padding_ignored(void)
{
    uint8_t buf[64];
    RMigWireMessage msg;
    RMigWireRegister reg;
    RMigWireBlock block;
    size_t bytes;

    bytes = put_golden(buf, golden_of(RMIG_WIRE_REGISTER_REQUEST));
    memset(buf + 12, 0xff, 4);
    memset(buf + RMIG_WIRE_HEADER_BYTES + 12, 0xff, 4);
    g_assert_true(rmig_wire_message_unpack(buf, bytes, &msg, NULL));
    rmig_wire_register_unpack(&msg, 0, &reg);
    g_assert_cmpuint(reg.block, ==, 3);
    g_assert_cmpuint(reg.chunks, ==, 0x102);

    bytes = put_golden(buf, golden_of(RMIG_WIRE_RAM_BLOCKS_RESULT));
    memset(buf + RMIG_WIRE_HEADER_BYTES + 28, 0xff, 4);
    g_assert_true(rmig_wire_message_unpack(buf, bytes, &msg, NULL));
    rmig_wire_block_unpack(&msg, 0, &block);
    g_assert_cmphex(block.rkey, ==, 0xfedcba98);
}

/* Fails with a message that holds @needle */
static void assert_refused(const uint8_t *buf, size_t bytes,
                           const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigWireMessage msg;

    g_assert_false(rmig_wire_message_unpack(buf, bytes, &msg, &err));
    g_assert_nonnull(err);
    g_assert_true(err->domain == RMIG_WIRE_ERROR_QUARK);
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
}

/* Every shorter prefix of every message is refused, read exactly in bounds */
static void test_truncated(gconstpointer data)
{
    const Golden *g = data;
    uint8_t whole[64];
    size_t bytes = put_golden(whole, g);

    for (size_t cut = 0; cut < bytes; cut++) {
        /* exact allocation, so that a sanitizer sees a read behind it */
        g_autofree uint8_t *part = g_malloc(MAX(cut, 1));

        memcpy(part, whole, cut);
        assert_refused(part, cut, cut < RMIG_WIRE_HEADER_BYTES
                                      ? "shorter than a header" : "announces");
    }
}

static void put_header(uint8_t *buf, uint32_t len, uint32_t type,
                       uint32_t repeat)
{
    RMigWireHeader header = { .len = len, .type = type, .repeat = repeat };

    rmig_wire_header_pack(buf, &header);
}

static void test_oversized(gconstpointer data)
{
    const Golden *g = data;
    size_t room = RMIG_WIRE_MESSAGE_MAX_BYTES + 1024;
    g_autofree uint8_t *buf = g_malloc0(room);

    put_header(buf, RMIG_WIRE_DATA_MAX_BYTES + 1, g->header.type, 1);
    assert_refused(buf, room, "limit");
    put_header(buf, UINT32_MAX, g->header.type, 1);
    assert_refused(buf, room, "limit");
    /* header + len wraps 32 bits */
    put_header(buf, UINT32_MAX - RMIG_WIRE_HEADER_BYTES + 1, g->header.type, 1);
    assert_refused(buf, room, "limit");
}

/* A length that does not fit the type */
static void test_wrong_length(gconstpointer data)
{
    const Golden *g = data;
    uint8_t buf[256] = { 0 };
    RMigWireMessage msg;

    if (g->n_records) {
        uint32_t record = g->header.len;

        put_header(buf, 0, g->header.type, 0);
        if (g->header.type == RMIG_WIRE_RAM_BLOCKS_RESULT) {
            g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg,
                                                   NULL));
            g_assert_cmpuint(msg.n_records, ==, 0);
        } else {
            assert_refused(buf, sizeof(buf), "whole number");
        }
        put_header(buf, record - 1, g->header.type, 1);
        assert_refused(buf, sizeof(buf), "whole number");
        put_header(buf, record + 1, g->header.type, 1);
        assert_refused(buf, sizeof(buf), "whole number");
        put_header(buf, 2 * record + record / 2, g->header.type, 2);
        assert_refused(buf, sizeof(buf), "whole number");
    } else if (g->header.type == RMIG_WIRE_QEMU_FILE) {
        put_header(buf, 0, g->header.type, 0);
        assert_refused(buf, sizeof(buf), "empty");
    } else {
        put_header(buf, 1, g->header.type, 1);
        assert_refused(buf, sizeof(buf), "must have none");
        put_header(buf, 24, g->header.type, 1);
        assert_refused(buf, sizeof(buf), "must have none");
    }
}

static void test_wrong_type(void)
{
    static const uint32_t types[] = {
        RMIG_WIRE_NONE, RMIG_WIRE_TYPES, RMIG_WIRE_TYPES + 1, 255,
        0x01000000 /* ERROR with its bytes swapped */, UINT32_MAX,
    };
    uint8_t buf[64] = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        put_header(buf, 0, types[i], 1);
        assert_refused(buf, sizeof(buf), "impossible type");
    }
}

/* Types whose header must count the records */
static void test_wrong_count(void)
{
    static const RMigWireType types[] = {
        RMIG_WIRE_COMPRESS, RMIG_WIRE_REGISTER_REQUEST,
        RMIG_WIRE_UNREGISTER_REQUEST,
    };
    static const uint32_t repeats[] = { 0, 1, 3, UINT32_MAX };
    uint8_t buf[64] = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(repeats); j++) {
            put_header(buf, 2 * 24, types[i], repeats[j]);
            assert_refused(buf, sizeof(buf), "carries 2");
        }
        /* a product of repeat and record size that wraps to len */
        put_header(buf, 24, types[i], 1 + (UINT32_C(1) << 29));
        assert_refused(buf, sizeof(buf), "carries 1");
    }
}

/* A message of @n records of @record bytes; checks @n_records if legal */
static void check_count(RMigWireType type, uint32_t record, uint32_t n,
                        uint32_t repeat, bool legal)
{
    size_t bytes = RMIG_WIRE_HEADER_BYTES + (size_t)n * record;
    g_autofree uint8_t *buf = g_malloc0(bytes);
    RMigWireMessage msg;

    put_header(buf, n * record, type, repeat);
    if (legal) {
        g_assert_true(rmig_wire_message_unpack(buf, bytes, &msg, NULL));
        g_assert_cmpuint(msg.n_records, ==, n);
    } else {
        assert_refused(buf, bytes, "the limit is");
    }
}

static void test_record_limits(void)
{
    uint32_t max = RMIG_WIRE_RECORDS_MAX;
    uint32_t max_blocks = RMIG_WIRE_BLOCKS_MAX;

    g_assert_cmpuint(max, ==, 4096);
    g_assert_cmpuint(max_blocks, ==, 16383);
    check_count(RMIG_WIRE_COMPRESS, 24, max, max, true);
    check_count(RMIG_WIRE_COMPRESS, 24, max + 1, max + 1, false);
    check_count(RMIG_WIRE_REGISTER_REQUEST, 24, max, max, true);
    check_count(RMIG_WIRE_REGISTER_REQUEST, 24, max + 1, max + 1, false);
    check_count(RMIG_WIRE_UNREGISTER_REQUEST, 24, max, max, true);
    check_count(RMIG_WIRE_UNREGISTER_REQUEST, 24, max + 1, max + 1, false);
    check_count(RMIG_WIRE_REGISTER_RESULT, 16, max, max, true);
    check_count(RMIG_WIRE_REGISTER_RESULT, 16, max + 1, max + 1, false);
    check_count(RMIG_WIRE_RAM_BLOCKS_RESULT, 32, max_blocks, 1, true);
}

/* Results and block lists are counted by their length, as stock needs it */
static void test_free_repeat(void)
{
    uint8_t buf[128] = { 0 };
    RMigWireMessage msg;

    put_header(buf, 16, RMIG_WIRE_REGISTER_RESULT, 5);
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    g_assert_cmpuint(msg.n_records, ==, 1);
    put_header(buf, 96, RMIG_WIRE_RAM_BLOCKS_RESULT, 1);
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    g_assert_cmpuint(msg.n_records, ==, 3);
    put_header(buf, 7, RMIG_WIRE_QEMU_FILE, 99);
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    g_assert_cmpuint(msg.n_records, ==, 0);
    put_header(buf, 0, RMIG_WIRE_READY, 99);
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    g_assert_cmpuint(msg.n_records, ==, 0);
}

static void test_largest_stream_message(void)
{
    g_autofree uint8_t *buf = g_malloc0(RMIG_WIRE_MESSAGE_MAX_BYTES);
    RMigWireMessage msg;

    put_header(buf, RMIG_WIRE_DATA_MAX_BYTES, RMIG_WIRE_QEMU_FILE, 0);
    g_assert_true(rmig_wire_message_unpack(buf, RMIG_WIRE_MESSAGE_MAX_BYTES,
                                           &msg, NULL));
    g_assert_cmpuint(msg.len, ==, 512 * 1024 - 16);
    assert_refused(buf, RMIG_WIRE_MESSAGE_MAX_BYTES - 1, "announces");
}

static void test_many_records(void)
{
    uint8_t buf[RMIG_WIRE_HEADER_BYTES + 3 * RMIG_WIRE_REGISTER_BYTES];
    RMigWireMessage msg;
    RMigWireRegister reg;

    put_header(buf, 3 * RMIG_WIRE_REGISTER_BYTES, RMIG_WIRE_REGISTER_REQUEST,
               3);
    for (uint32_t i = 0; i < 3; i++) {
        reg = (RMigWireRegister) { .key = i + 1, .block = 10 * i,
                                   .chunks = UINT64_MAX - i };
        rmig_wire_register_pack(buf + RMIG_WIRE_HEADER_BYTES +
                                i * RMIG_WIRE_REGISTER_BYTES, &reg);
    }

    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    for (uint32_t i = 0; i < 3; i++) {
        rmig_wire_register_unpack(&msg, i, &reg);
        g_assert_cmpuint(reg.key, ==, i + 1);
        g_assert_cmpuint(reg.block, ==, 10 * i);
        g_assert_true(reg.chunks == UINT64_MAX - i);
    }
}

static void test_private_golden(void)
{
    static const uint8_t plain[] = { 0, 0, 0, 1, 0, 0, 0, 0 };
    static const uint8_t pinned[] = { 0, 0, 0, 1, 0, 0, 0, 1 };
    uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
    RMigWirePrivate priv = { .version = RMIG_WIRE_VERSION };
    size_t bytes = rmig_wire_private_pack(buf, &priv);

    g_assert_cmpmem(buf, bytes, plain, sizeof(plain));
    priv.flags = RMIG_WIRE_FLAG_PIN_ALL;
    priv.pin_bytes = 77; /* goes with another flag only */
    bytes = rmig_wire_private_pack(buf, &priv);
    g_assert_cmpmem(buf, bytes, pinned, sizeof(pinned));

    memset(&priv, 0xff, sizeof(priv));
    g_assert_true(rmig_wire_private_unpack(pinned, 8, &priv, NULL));
    g_assert_cmpuint(priv.version, ==, 1);
    g_assert_cmphex(priv.flags, ==, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_cmpuint(priv.pin_bytes, ==, 0);
}

/* All flags that are known, and the record that belongs to the third */
static const uint8_t extended[24] = {
    0, 0, 0, 1, 0, 0, 0, 0x27,
    0, 0, 0, 16, 0, 0, 0, 0, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
};

static void test_private_extended(void)
{
    uint8_t buf[RMIG_WIRE_PRIVATE_MAX_BYTES];
    RMigWirePrivate priv = {
        .version = RMIG_WIRE_VERSION,
        .flags = RMIG_WIRE_FLAG_PIN_ALL | RMIG_WIRE_FLAG_BATCH |
                 RMIG_WIRE_FLAG_BUDGET | RMIG_WIRE_FLAG_HANDOVER,
        .pin_bytes = UINT64_C(0x0102030405060708),
    };
    size_t bytes = rmig_wire_private_pack(buf, &priv);

    g_assert_cmphex(priv.flags, ==, RMIG_WIRE_FLAGS_KNOWN);
    g_assert_cmpmem(buf, bytes, extended, sizeof(extended));
    memset(&priv, 0xff, sizeof(priv));
    g_assert_true(rmig_wire_private_unpack(extended, 24, &priv, NULL));
    g_assert_cmpuint(priv.version, ==, 1);
    g_assert_cmphex(priv.flags, ==, 0x27);
    g_assert_true(priv.pin_bytes == UINT64_C(0x0102030405060708));

    /* the whole range of the number means something */
    for (unsigned i = 0; i < 2; i++) {
        memset(buf + 16, i ? 0xff : 0, 8);
        g_assert_true(rmig_wire_private_unpack(buf, 24, &priv, NULL));
        g_assert_true(priv.pin_bytes == (i ? UINT64_MAX : 0));
    }
}

/* The connection manager pads, a later QEMU appends, and padding is nothing */
static void test_private_tail(void)
{
    uint8_t buf[196] = { 0 };
    RMigWirePrivate priv;

    memcpy(buf, extended, sizeof(extended));
    memset(buf + 24, 0xff, sizeof(buf) - 24);
    memset(buf + 12, 0xff, 4);
    buf[4] = 0x80;
    g_assert_true(rmig_wire_private_unpack(buf, sizeof(buf), &priv, NULL));
    /* unknown flags reach the caller as they came, it has to clear them */
    g_assert_cmphex(priv.flags, ==, 0x80000027);
    g_assert_true(priv.pin_bytes == UINT64_C(0x0102030405060708));

    /* without the flag there is no record, whatever the bytes look like */
    buf[7] = 3;
    g_assert_true(rmig_wire_private_unpack(buf, sizeof(buf), &priv, NULL));
    g_assert_cmphex(priv.flags, ==, 0x80000003);
    g_assert_cmpuint(priv.pin_bytes, ==, 0);
}

/* A longer record is a later version's, a shorter one is none */
static void test_private_extension_length(void)
{
    static const uint32_t lengths[] = { 0, 1, 15, 16, 17, 4096, UINT32_MAX };
    RMigWirePrivate priv;
    uint8_t buf[24];

    memcpy(buf, extended, sizeof(buf));
    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        uint32_t length = GUINT32_TO_BE(lengths[i]);
        g_autofree char *theirs = g_strdup_printf("data has %u bytes",
                                                  lengths[i]);
        g_autoptr(GError) err = NULL;
        bool ok;

        memcpy(buf + 8, &length, sizeof(length));
        ok = rmig_wire_private_unpack(buf, sizeof(buf), &priv, &err);
        g_assert_true(ok == (lengths[i] >= 16));
        if (ok) {
            g_assert_true(priv.pin_bytes == UINT64_C(0x0102030405060708));
        } else {
            g_assert_nonnull(strstr(err->message, theirs));
            g_assert_nonnull(strstr(err->message, "at least 16"));
        }
    }
    for (size_t bytes = 8; bytes < RMIG_WIRE_PRIVATE_MAX_BYTES; bytes++) {
        g_autofree uint8_t *cut = g_memdup2(extended, bytes);
        g_autofree char *came = g_strdup_printf("has %zu bytes, 24 are needed",
                                                bytes);
        g_autoptr(GError) err = NULL;

        g_assert_false(rmig_wire_private_unpack(cut, bytes, &priv, &err));
        g_assert_nonnull(strstr(err->message, came));
    }
}

static void test_private_refused(void)
{
    static const uint32_t versions[] = { 0, 2, 0x01000000, UINT32_MAX };
    uint8_t packed[RMIG_WIRE_PRIVATE_MAX_BYTES];
    RMigWirePrivate priv;

    for (size_t i = 0; i < G_N_ELEMENTS(versions); i++) {
        g_autoptr(GError) err = NULL;
        g_autofree char *theirs = g_strdup_printf("speaks version %u of",
                                                  versions[i]);

        priv = (RMigWirePrivate) { .version = versions[i] };
        rmig_wire_private_pack(packed, &priv);
        g_assert_false(rmig_wire_private_unpack(packed, 8, &priv, &err));
        g_assert_nonnull(strstr(err->message, theirs));
        g_assert_nonnull(strstr(err->message, "this QEMU speaks version 1"));
    }
    for (size_t bytes = 0; bytes < RMIG_WIRE_PRIVATE_BYTES; bytes++) {
        g_autofree uint8_t *buf = g_malloc0(MAX(bytes, 1));
        g_autoptr(GError) err = NULL;

        g_assert_false(rmig_wire_private_unpack(buf, bytes, &priv, &err));
        g_assert_nonnull(err);
    }
    /* a connection manager that delivers none at all gives NULL */
    g_assert_false(rmig_wire_private_unpack(NULL, 0, &priv, NULL));
}

/* Every type has a name of its own, a golden message, and nothing else has */
static void test_names(void)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (uint32_t type = 0; type < RMIG_WIRE_TYPES; type++) {
        const char *name = rmig_wire_type_name(type);

        g_assert_nonnull(name);
        g_assert_cmpstr(name, !=, "unknown");
        g_assert_cmpstr(name, !=, "");
        g_assert_true(g_hash_table_add(seen, (char *)name));
        if (type != RMIG_WIRE_NONE) {
            g_assert_nonnull(golden_of(type));
        }
    }
    g_assert_cmpuint(G_N_ELEMENTS(golden), ==, RMIG_WIRE_TYPES - 1);
    g_assert_cmpstr(rmig_wire_type_name(RMIG_WIRE_TYPES), ==, "unknown");
    g_assert_cmpstr(rmig_wire_type_name(UINT32_MAX), ==, "unknown");
}

static void add_for_each(const char *what, GTestDataFunc func)
{
    for (size_t i = 0; i < G_N_ELEMENTS(golden); i++) {
        g_autofree char *path = g_strdup_printf("/wire/%s/%s", what,
                                                golden[i].name);

        g_test_add_data_func(path, &golden[i], func);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_for_each("pack", test_pack);
    add_for_each("unpack", test_unpack);
    add_for_each("truncated", test_truncated);
    add_for_each("oversized", test_oversized);
    add_for_each("wrong-length", test_wrong_length);
    g_test_add_func("/wire/unpack-records", test_unpack_records);
    g_test_add_func("/wire/padding-ignored", test_padding_ignored);
    g_test_add_func("/wire/wrong-type", test_wrong_type);
    g_test_add_func("/wire/wrong-count", test_wrong_count);
    g_test_add_func("/wire/record-limits", test_record_limits);
    g_test_add_func("/wire/free-repeat", test_free_repeat);
    g_test_add_func("/wire/largest-stream-message",
                    test_largest_stream_message);
    g_test_add_func("/wire/many-records", test_many_records);
    g_test_add_func("/wire/private/golden", test_private_golden);
    g_test_add_func("/wire/private/extended", test_private_extended);
    g_test_add_func("/wire/private/tail", test_private_tail);
    g_test_add_func("/wire/private/extension-length",
                    test_private_extension_length);
    g_test_add_func("/wire/private/refused", test_private_refused);
    g_test_add_func("/wire/names", test_names);
    return g_test_run();
}
