/*
 * Unit tests of the blocks room: the table, geometry, hostile numbers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table never touches the memory that it describes, so host addresses here
 * are plain numbers and blocks may be as large as one likes.
 */
#include "blocks.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define HOST(n) ((void *)(uintptr_t)(n))

/*
 * The table most tests use:
 *   0 "ram"    offset 0x0        3 MiB + 1 page   4 chunks, the last one short
 *   1 "rom"    offset 0x1000000  one page         1 chunk
 *   2 "empty"  offset 0x2000000  nothing          0 chunks
 *   3 "huge"   offset 0x10000000 2^40 bytes       2^20 chunks
 */
#define RAM_BYTES (3 * MIB + PAGE)
#define HUGE_BYTES (UINT64_C(1) << 40)

static void fixture_init(RMigBlocks *blocks)
{
    rmig_blocks_init(blocks);
    g_assert_true(rmig_blocks_add(blocks, "ram", HOST(0x7f0000000000),
                                  0, RAM_BYTES, NULL));
    g_assert_true(rmig_blocks_add(blocks, "rom", HOST(0x7e0000000000),
                                  0x1000000, PAGE, NULL));
    g_assert_true(rmig_blocks_add(blocks, "empty", NULL,
                                  0x2000000, 0, NULL));
    g_assert_true(rmig_blocks_add(blocks, "huge", HOST(0x500000000000),
                                  0x10000000, HUGE_BYTES, NULL));
}

static void assert_says(GError *err, const char *needle)
{
    g_assert_nonnull(err);
    g_assert_true(err->domain == RMIG_BLOCKS_ERROR);
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
}

static void test_add(void)
{
    RMigBlocks blocks;

    fixture_init(&blocks);
    g_assert_cmpuint(rmig_blocks_count(&blocks), ==, 4);
    g_assert_cmpuint(blocks.total_bytes, ==, RAM_BYTES + PAGE + HUGE_BYTES);
    for (uint32_t i = 0; i < 4; i++) {
        RMigBlock *block = rmig_blocks_get(&blocks, i);

        g_assert_cmpuint(block->index, ==, i);
        g_assert_true(rmig_blocks_by_name(&blocks, block->name) == block);
        g_assert_true(rmig_blocks_by_offset(&blocks, block->offset) == block);
    }
    g_assert_null(rmig_blocks_by_name(&blocks, "ra"));
    g_assert_null(rmig_blocks_by_offset(&blocks, PAGE));
    rmig_blocks_cleanup(&blocks);
}

static void refuse_add(RMigBlocks *blocks, const char *name, void *host,
                       uint64_t offset, uint64_t length, const char *needle)
{
    g_autoptr(GError) err = NULL;
    uint32_t count = rmig_blocks_count(blocks);
    uint64_t total = blocks->total_bytes;

    g_assert_false(rmig_blocks_add(blocks, name, host, offset, length, &err));
    assert_says(err, needle);
    g_assert_cmpuint(rmig_blocks_count(blocks), ==, count);
    g_assert_cmpuint(blocks->total_bytes, ==, total);
}

static void test_add_refused(void)
{
    RMigBlocks blocks;

    fixture_init(&blocks);
    refuse_add(&blocks, NULL, HOST(PAGE), 0x3000000, PAGE, "no name");
    refuse_add(&blocks, "", HOST(PAGE), 0x3000000, PAGE, "no name");
    refuse_add(&blocks, "rom", HOST(PAGE), 0x3000000, PAGE, "two RAM blocks");
    refuse_add(&blocks, "new", HOST(PAGE), 0x1000000, PAGE, "'rom' and 'new'");
    refuse_add(&blocks, "new", NULL, 0x3000000, PAGE, "no memory");
    refuse_add(&blocks, "new", HOST(UINTPTR_MAX - PAGE + 1), 0x3000000,
               PAGE, "wraps");
    refuse_add(&blocks, "new", HOST(PAGE), UINT64_MAX - PAGE + 1, PAGE,
               "wraps");
    refuse_add(&blocks, "new", HOST(PAGE), 0x3000000, UINT64_MAX, "wraps");
    /* the total would wrap although the block alone does not */
    refuse_add(&blocks, "new", HOST(1), 0x3000000,
               UINT64_MAX - HUGE_BYTES, "wraps");
    rmig_blocks_cleanup(&blocks);
}

static void test_add_limit(void)
{
    RMigBlocks blocks;
    char name[16];

    rmig_blocks_init(&blocks);
    for (uint32_t i = 0; i < RMIG_WIRE_BLOCKS_MAX; i++) {
        g_snprintf(name, sizeof(name), "b%u", i);
        g_assert_true(rmig_blocks_add(&blocks, name, HOST(PAGE), i * PAGE,
                                      PAGE, NULL));
    }
    refuse_add(&blocks, "one-more", HOST(PAGE), UINT64_C(1) << 50, PAGE,
               "more than 16383");
    rmig_blocks_cleanup(&blocks);
}

/* The last address that a block may end at is 2^64 - 1 */
static void test_add_at_the_top(void)
{
    RMigBlocks blocks;
    RMigBlock *block;

    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_add(&blocks, "top", HOST(UINTPTR_MAX - PAGE),
                                  UINT64_MAX - PAGE, PAGE, NULL));
    block = rmig_blocks_get(&blocks, 0);
    g_assert_true(rmig_block_contains(block, PAGE - 1, 1));
    g_assert_false(rmig_block_contains(block, PAGE - 1, UINT64_MAX));
    rmig_blocks_cleanup(&blocks);
}

static void test_geometry(void)
{
    static const struct {
        uint64_t length, chunks, last_bytes;
    } cases[] = {
        { 1, 1, 1 },
        { PAGE, 1, PAGE },
        { MIB - 1, 1, MIB - 1 },
        { MIB, 1, MIB },
        { MIB + 1, 2, 1 },
        { RAM_BYTES, 4, PAGE },
        { HUGE_BYTES, UINT64_C(1) << 20, MIB },
        { HUGE_BYTES + PAGE, (UINT64_C(1) << 20) + 1, PAGE },
        { UINT64_MAX, UINT64_C(1) << 44, MIB - 1 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        RMigBlock block = { .length = cases[i].length };
        uint64_t chunks = rmig_block_chunks(&block);

        g_assert_cmpuint(chunks, ==, cases[i].chunks);
        g_assert_cmpuint(rmig_block_chunk_of(0), ==, 0);
        g_assert_cmpuint(rmig_block_chunk_of(block.length - 1), ==,
                         chunks - 1);
        g_assert_cmpuint(rmig_block_chunk_bytes(&block, chunks - 1), ==,
                         cases[i].last_bytes);
        if (chunks > 1) {
            g_assert_cmpuint(rmig_block_chunk_bytes(&block, 0), ==, MIB);
            g_assert_cmpuint(rmig_block_chunk_bytes(&block, chunks - 2), ==,
                             MIB);
        }
    }
    g_assert_cmpuint(rmig_block_chunks(&(RMigBlock) { .length = 0 }), ==, 0);
    g_assert_cmpuint(rmig_block_chunk_of(MIB - 1), ==, 0);
    g_assert_cmpuint(rmig_block_chunk_of(MIB), ==, 1);
}

static void test_contains(void)
{
    RMigBlock block = { .length = RAM_BYTES };

    g_assert_true(rmig_block_contains(&block, 0, RAM_BYTES));
    g_assert_true(rmig_block_contains(&block, 0, 0));
    g_assert_true(rmig_block_contains(&block, RAM_BYTES, 0));
    g_assert_true(rmig_block_contains(&block, RAM_BYTES - 1, 1));
    g_assert_false(rmig_block_contains(&block, RAM_BYTES, 1));
    g_assert_false(rmig_block_contains(&block, RAM_BYTES + 1, 0));
    g_assert_false(rmig_block_contains(&block, 0, RAM_BYTES + 1));
    g_assert_false(rmig_block_contains(&block, 1, RAM_BYTES));
    g_assert_false(rmig_block_contains(&block, UINT64_MAX, 1));
    g_assert_false(rmig_block_contains(&block, 1, UINT64_MAX));
    g_assert_false(rmig_block_contains(&block, UINT64_MAX, UINT64_MAX));
    g_assert_false(rmig_block_contains(&block, PAGE, UINT64_MAX - PAGE + 1));

    block.length = 0;
    g_assert_true(rmig_block_contains(&block, 0, 0));
    g_assert_false(rmig_block_contains(&block, 0, 1));
}

static void test_reorder(void)
{
    char *const names[] = { "huge", "empty", "ram", "rom", NULL };
    RMigBlocks blocks;

    fixture_init(&blocks);
    g_assert_true(rmig_blocks_reorder(&blocks, names, NULL));
    for (uint32_t i = 0; i < 4; i++) {
        RMigBlock *block = rmig_blocks_get(&blocks, i);

        g_assert_cmpstr(block->name, ==, names[i]);
        g_assert_cmpuint(block->index, ==, i);
        g_assert_true(rmig_blocks_by_name(&blocks, names[i]) == block);
    }
    g_assert_cmpuint(rmig_blocks_get(&blocks, 0)->length, ==, HUGE_BYTES);
    rmig_blocks_cleanup(&blocks);

    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_reorder(&blocks, &names[4], NULL)); /* none */
    rmig_blocks_cleanup(&blocks);
}

static void test_reorder_refused(void)
{
    static const struct {
        char *names[6];
        const char *needle;
    } cases[] = {
        { { "rom", "ram", "empty", NULL }, "no RAM block 'huge'" },
        { { NULL }, "no RAM block 'ram'" },
        { { "rom", "ram", "empty", "new", NULL }, "'new' that does not" },
        { { "rom", "ram", "empty", "huge", "new", NULL }, "'new' that" },
        { { "rom", "ram", "rom", "huge", NULL }, "'rom' twice" },
        { { "rom", "ram", "empty", "huge", "ram", NULL }, "'ram' twice" },
    };
    RMigBlocks blocks;

    fixture_init(&blocks);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;

        g_assert_false(rmig_blocks_reorder(&blocks, cases[i].names, &err));
        assert_says(err, cases[i].needle);
        /* the old order still stands */
        g_assert_cmpstr(rmig_blocks_get(&blocks, 0)->name, ==, "ram");
        g_assert_cmpuint(rmig_blocks_get(&blocks, 3)->index, ==, 3);
    }
    rmig_blocks_cleanup(&blocks);
}

/* A RAM_BLOCKS_RESULT that fits the fixture, to be spoilt by the tests */
static void remote_init(RMigWireBlock remote[4])
{
    static const uint64_t lengths[] = { RAM_BYTES, PAGE, 0, HUGE_BYTES };

    for (uint32_t i = 0; i < 4; i++) {
        remote[i] = (RMigWireBlock) {
            .host_addr = UINT64_C(0x100000000000) * (i + 1),
            .offset = UINT64_C(0x20000000000) * i,
            .length = lengths[i],
            .rkey = 0x1000 + i,
        };
    }
    remote[2].rkey = 0; /* nothing to register in an empty block */
}

static bool set_remote(RMigBlocks *blocks, const RMigWireBlock *remote,
                       uint32_t n, bool pinned, GError **err)
{
    uint8_t buf[RMIG_WIRE_HEADER_BYTES + 8 * RMIG_WIRE_BLOCK_BYTES];
    RMigWireHeader header = { .len = n * RMIG_WIRE_BLOCK_BYTES,
                              .type = RMIG_WIRE_RAM_BLOCKS_RESULT,
                              .repeat = 1 };
    RMigWireMessage msg;

    rmig_wire_header_pack(buf, &header);
    for (uint32_t i = 0; i < n; i++) {
        rmig_wire_block_pack(buf + RMIG_WIRE_HEADER_BYTES +
                             i * RMIG_WIRE_BLOCK_BYTES, &remote[i]);
    }
    g_assert_true(rmig_wire_message_unpack(buf, sizeof(buf), &msg, NULL));
    return rmig_blocks_set_remote(blocks, &msg, pinned, err);
}

static void test_set_remote(void)
{
    RMigBlocks blocks;
    RMigWireBlock remote[4];

    fixture_init(&blocks);
    remote_init(remote);
    g_assert_true(set_remote(&blocks, remote, 4, true, NULL));
    for (uint32_t i = 0; i < 4; i++) {
        RMigBlock *block = rmig_blocks_get(&blocks, i);

        g_assert_cmphex(block->remote_host, ==, remote[i].host_addr);
        g_assert_cmphex(block->remote_offset, ==, remote[i].offset);
        g_assert_cmphex(block->remote_rkey, ==, remote[i].rkey);
    }

    /* without pin-all a key means nothing, whatever the peer sends there */
    g_assert_true(set_remote(&blocks, remote, 4, false, NULL));
    g_assert_cmphex(rmig_blocks_get(&blocks, 0)->remote_rkey, ==, 0);
    rmig_blocks_cleanup(&blocks);
}

static void refuse_remote(const RMigWireBlock *remote, uint32_t n, bool pinned,
                          const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigBlocks blocks;

    fixture_init(&blocks);
    g_assert_false(set_remote(&blocks, remote, n, pinned, &err));
    assert_says(err, needle);
    rmig_blocks_cleanup(&blocks);
}

static void test_set_remote_refused(void)
{
    RMigWireBlock remote[5];

    remote_init(remote);
    remote[4] = remote[0];
    refuse_remote(remote, 3, false, "4 RAM blocks here and 3");
    refuse_remote(remote, 5, false, "4 RAM blocks here and 5");

    remote[1].length = 2 * PAGE;
    refuse_remote(remote, 4, false, "'rom' has 4096 bytes here and 8192");
    remote_init(remote);
    remote[2].length = PAGE;
    refuse_remote(remote, 4, false, "'empty' has 0 bytes here and 4096");

    remote_init(remote);
    remote[1].host_addr = UINT64_MAX - PAGE + 1;
    refuse_remote(remote, 4, false, "'rom'");
    remote_init(remote);
    remote[3].offset = UINT64_MAX - HUGE_BYTES + 1;
    refuse_remote(remote, 4, false, "wraps");

    remote_init(remote);
    remote[3].rkey = 0;
    refuse_remote(remote, 4, true, "no key for RAM block 'huge'");
}

typedef bool CheckFunc(const RMigBlocks *, const RMigWireRegister *,
                       RMigBlock **, uint64_t *, uint64_t *, GError **);

static void take(CheckFunc *check, uint32_t index, uint64_t key,
                 uint64_t chunks, uint64_t first, uint64_t n)
{
    RMigBlocks blocks;
    RMigWireRegister reg = { .key = key, .block = index, .chunks = chunks };
    RMigBlock *block = NULL;
    uint64_t got_first, got_n;

    fixture_init(&blocks);
    g_assert_true(check(&blocks, &reg, &block, &got_first, &got_n, NULL));
    g_assert_true(block == rmig_blocks_get(&blocks, index));
    g_assert_cmpuint(got_first, ==, first);
    g_assert_cmpuint(got_n, ==, n);
    rmig_blocks_cleanup(&blocks);
}

static void refuse(CheckFunc *check, uint32_t index, uint64_t key,
                   uint64_t chunks, const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigBlocks blocks;
    RMigWireRegister reg = { .key = key, .block = index, .chunks = chunks };
    RMigBlock *block;
    uint64_t first, n;

    fixture_init(&blocks);
    g_assert_false(check(&blocks, &reg, &block, &first, &n, &err));
    assert_says(err, needle);
    rmig_blocks_cleanup(&blocks);
}

static void test_check_register(void)
{
    CheckFunc *check = rmig_blocks_check_register;

    take(check, 0, 0, 0, 0, 1);
    take(check, 0, 0, 3, 0, 4);
    take(check, 0, MIB - 1, 3, 0, 4);
    take(check, 0, MIB, 2, 1, 3);
    take(check, 0, RAM_BYTES - 1, 0, 3, 1);
    take(check, 1, 0x1000000, 0, 0, 1);
    take(check, 1, 0x1000000 + PAGE - 1, 0, 0, 1);
    take(check, 3, 0x10000000 + HUGE_BYTES - 1, 0, (1 << 20) - 1, 1);
    take(check, 3, 0x10000000, (1 << 20) - 1, 0, 1 << 20);

    refuse(check, 4, 0, 0, "RAM block 4 of 4");
    refuse(check, UINT32_MAX, 0, 0, "of 4");
    refuse(check, 1, 0x1000000 - 1, 0, "address 0xffffff");
    refuse(check, 1, 0, 0, "address 0x0");
    refuse(check, 1, 0x1000000 + PAGE, 0, "address 0x1001000");
    refuse(check, 1, UINT64_MAX, 0, "address 0xffffffffffffffff");
    refuse(check, 2, 0x2000000, 0, "'empty' has 0x0 bytes");
    refuse(check, 0, 0, 4, "further");
    refuse(check, 0, MIB, 3, "further");
    refuse(check, 0, RAM_BYTES - 1, 1, "further");
    refuse(check, 0, 0, UINT64_MAX, "further");
    refuse(check, 0, 0, UINT64_MAX - 3, "further");
    refuse(check, 0, RAM_BYTES - 1, UINT64_MAX - 2, "further");
    /* far enough that first + chunks + 1 wraps to a small number */
    refuse(check, 3, 0x10000000 + MIB, UINT64_MAX, "further");
}

static void test_check_unregister(void)
{
    CheckFunc *check = rmig_blocks_check_unregister;

    take(check, 0, 0, 0, 0, 1);
    take(check, 0, 0, 3, 0, 4);
    take(check, 0, 3, 0, 3, 1);
    take(check, 1, 0, 0, 0, 1);
    take(check, 3, (1 << 20) - 1, 0, (1 << 20) - 1, 1);

    refuse(check, 4, 0, 0, "RAM block 4 of 4");
    refuse(check, UINT32_MAX, 0, 0, "of 4");
    refuse(check, 0, 4, 0, "chunk 4");
    refuse(check, 0, 3, 1, "which has 4");
    refuse(check, 0, UINT64_MAX, 0, "further");
    refuse(check, 0, UINT64_MAX, 1, "further");
    refuse(check, 0, UINT64_MAX, UINT64_MAX, "further");
    refuse(check, 0, 0, UINT64_MAX, "further");
    refuse(check, 0, 1, UINT64_MAX, "further");
    refuse(check, 2, 0, 0, "'empty', which has 0");
    refuse(check, 1, 0x1000000, 0, "further"); /* an address is no chunk */
}

static void take_zero(uint32_t index, uint64_t offset, uint64_t length,
                      uint64_t expect)
{
    RMigBlocks blocks;
    RMigWireZeroRun run = { .block = index, .offset = offset,
                            .length = length };
    RMigBlock *block = NULL;
    uint64_t got;

    fixture_init(&blocks);
    g_assert_true(rmig_blocks_check_zero_run(&blocks, &run, &block, &got,
                                             NULL));
    g_assert_true(block == rmig_blocks_get(&blocks, index));
    g_assert_cmphex(got, ==, expect);
    rmig_blocks_cleanup(&blocks);
}

static void refuse_zero(uint32_t value, uint32_t index, uint64_t offset,
                        uint64_t length, const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigBlocks blocks;
    RMigWireZeroRun run = { .value = value, .block = index, .offset = offset,
                            .length = length };
    RMigBlock *block;
    uint64_t got;

    fixture_init(&blocks);
    g_assert_false(rmig_blocks_check_zero_run(&blocks, &run, &block, &got,
                                              &err));
    assert_says(err, needle);
    rmig_blocks_cleanup(&blocks);
}

static void test_check_zero_run(void)
{
    take_zero(0, 0, PAGE, 0);
    take_zero(0, 0, RAM_BYTES, 0);
    take_zero(0, RAM_BYTES - PAGE, PAGE, RAM_BYTES - PAGE);
    take_zero(1, 0x1000000, PAGE, 0);
    take_zero(1, 0x1000000 + PAGE - 1, 1, PAGE - 1);
    take_zero(3, 0x10000000, HUGE_BYTES, 0);

    refuse_zero(1, 0, 0, PAGE, "only 0 is defined");
    refuse_zero(UINT32_MAX, 0, 0, PAGE, "with 4294967295");
    refuse_zero(0, 4, 0, PAGE, "RAM block 4 of 4");
    refuse_zero(0, UINT32_MAX, 0, PAGE, "of 4");
    refuse_zero(0, 0, 0, 0, "0x0 bytes");
    refuse_zero(0, 1, 0x1000000 - 1, 1, "at 0xffffff");
    refuse_zero(0, 1, 0x1000000 - 1, 2, "at 0xffffff");
    refuse_zero(0, 1, 0x1000000, PAGE + 1, "0x1001 bytes");
    refuse_zero(0, 1, 0x1000000 + PAGE, 1, "at 0x1001000");
    refuse_zero(0, 1, 0x1000000 + 1, UINT64_MAX, "0xffffffffffffffff bytes");
    refuse_zero(0, 1, UINT64_MAX, 2, "at 0xffffffffffffffff");
    refuse_zero(0, 2, 0x2000000, 1, "'empty'");
    /* offset + length wraps into the block */
    refuse_zero(0, 0, RAM_BYTES - PAGE, UINT64_MAX - RAM_BYTES + 2 * PAGE,
                "'ram'");
}

/* A block at the end of the 64-bit space leaves nothing to wrap into */
static void test_check_at_the_top(void)
{
    uint64_t base = UINT64_MAX - 2 * MIB;
    RMigBlocks blocks;
    RMigBlock *block;
    RMigWireRegister reg = { .key = UINT64_MAX - 1 };
    RMigWireZeroRun run = { .offset = base, .length = 2 * MIB };
    uint64_t first, n;

    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_add(&blocks, "top", HOST(PAGE), base, 2 * MIB,
                                  NULL));
    g_assert_true(rmig_blocks_check_register(&blocks, &reg, &block, &first,
                                             &n, NULL));
    g_assert_cmpuint(first, ==, 1);
    g_assert_cmpuint(n, ==, 1);
    reg.key = UINT64_MAX;
    g_assert_false(rmig_blocks_check_register(&blocks, &reg, &block, &first,
                                              &n, NULL));
    reg.key = 0;
    g_assert_false(rmig_blocks_check_register(&blocks, &reg, &block, &first,
                                              &n, NULL));

    g_assert_true(rmig_blocks_check_zero_run(&blocks, &run, &block, &first,
                                             NULL));
    run.length++;
    g_assert_false(rmig_blocks_check_zero_run(&blocks, &run, &block, &first,
                                              NULL));
    rmig_blocks_cleanup(&blocks);
}

/* ---- holes ---- */

/* [2, 30) and the short one at the end */
static RMigBlock *setup_holes(RMigBlocks *blocks)
{
    RMigBlock *block;

    rmig_blocks_init(blocks);
    g_assert_true(rmig_blocks_add(blocks, "mem", HOST(PAGE), 0,
                                  40 * MIB + PAGE, NULL));
    block = rmig_blocks_get(blocks, 0);
    g_assert_cmpuint(rmig_block_next_present(block, 3, 41), ==, 3);
    g_assert_cmpuint(rmig_block_next_hole(block, 3, 41), ==, 41);
    g_assert_true(rmig_blocks_add_hole(blocks, block, 2 * MIB, 28 * MIB,
                                       NULL));
    g_assert_true(rmig_blocks_add_hole(blocks, block, 2 * MIB, MIB, NULL));
    g_assert_true(rmig_blocks_add_hole(blocks, block, 40 * MIB, PAGE, NULL));
    return block;
}

static void test_holes(void)
{
    RMigBlocks blocks;
    RMigBlock *block = setup_holes(&blocks);

    g_assert_cmpuint(blocks.hole_bytes, ==, 28 * MIB + PAGE);
    for (uint64_t c = 0; c <= 41; c++) {
        uint64_t present = c < 2 || (c >= 30 && c < 40) ? c :
                           c < 30 ? 30 : 41;
        uint64_t hole = c < 2 ? 2 : c < 30 ? c : c < 40 ? 40 : c;

        for (uint64_t end = c; end <= 41; end++) {
            g_assert_cmpuint(rmig_block_next_present(block, c, end), ==,
                             MIN(present, end));
            g_assert_cmpuint(rmig_block_next_hole(block, c, end), ==,
                             MIN(hole, end));
        }
        if (c < 41) {
            g_assert_cmpint(rmig_block_is_hole(block, c), ==, present != c);
        }
    }

    rmig_blocks_cleanup(&blocks);
}

/* What a peer names must not touch one */
static void test_check_holes(void)
{
    RMigBlocks blocks;
    RMigBlock *found;
    RMigWireRegister reg = { .key = 0 };
    RMigWireZeroRun run = { .length = 1 };
    uint64_t first, n;
    g_autoptr(GError) err = NULL;

    setup_holes(&blocks);
    for (uint64_t c = 0; c < 41; c++) {
        for (uint64_t more = 0; more < 41 - c; more++) {
            bool ok = (c < 2 && c + more < 2) ||
                      (c >= 30 && c + more < 40);

            reg.key = c * MIB;
            reg.chunks = more;
            g_assert_cmpint(rmig_blocks_check_register(&blocks, &reg, &found,
                                                       &first, &n, NULL),
                            ==, ok);
            reg.key = c;
            g_assert_cmpint(rmig_blocks_check_unregister(&blocks, &reg, &found,
                                                         &first, &n, NULL),
                            ==, ok);
            run.offset = c * MIB;
            run.length = more * MIB + (c + more < 40 ? MIB : PAGE);
            g_assert_cmpint(rmig_blocks_check_zero_run(&blocks, &run, &found,
                                                       &first, NULL), ==, ok);
        }
    }
    run.offset = 2 * MIB - 1;
    run.length = 2;
    g_assert_false(rmig_blocks_check_zero_run(&blocks, &run, &found, &first,
                                              &err));
    g_assert_nonnull(strstr(err->message, "not plugged"));
    run.length = 1;
    g_assert_true(rmig_blocks_check_zero_run(&blocks, &run, &found, &first,
                                             NULL));
    rmig_blocks_cleanup(&blocks);
}

/*
 * What a peer names costs what it names, however much of the block lies behind
 * that: a message has thousands of records, a block up to millions of chunks
 */
static void test_check_holes_near(void)
{
    size_t page = sysconf(_SC_PAGESIZE);
    /* What says of the chunks behind cannot be looked at */
    uint8_t *map = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    RMigWireRegister reg = { .chunks = 8 * page - 1 };
    RMigWireZeroRun run = { .length = 8 * page * MIB };
    RMigBlocks blocks;
    RMigBlock *block;
    uint64_t first, n;

    g_assert_true(map != MAP_FAILED);
    g_assert_cmpint(mprotect(map + page, page, PROT_NONE), ==, 0);
    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_add(&blocks, "mem", HOST(PAGE), 0,
                                  16 * page * MIB, NULL));
    block = rmig_blocks_get(&blocks, 0);
    block->holes = map;
    g_assert_true(rmig_blocks_check_register(&blocks, &reg, &block, &first, &n,
                                             NULL));
    g_assert_true(rmig_blocks_check_unregister(&blocks, &reg, &block, &first,
                                               &n, NULL));
    g_assert_true(rmig_blocks_check_zero_run(&blocks, &run, &block, &first,
                                             NULL));
    block->holes = NULL;
    rmig_blocks_cleanup(&blocks);
    munmap(map, 2 * page);
}

static void test_holes_refused(void)
{
    static const struct {
        uint64_t offset, length;
    } bad[] = {
        { MIB / 2, MIB }, { MIB, MIB / 2 }, { 0, 5 * MIB }, { 5 * MIB, MIB },
        { UINT64_MAX - MIB + 1, 2 * MIB }, { 3 * MIB, MIB },
    };
    RMigBlocks blocks;

    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_add(&blocks, "mem", HOST(PAGE), 0,
                                  3 * MIB + PAGE, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;

        g_assert_false(rmig_blocks_add_hole(&blocks,
                                            rmig_blocks_get(&blocks, 0),
                                            bad[i].offset, bad[i].length,
                                            &err));
        g_assert_nonnull(strstr(err->message, "'mem'"));
    }
    g_assert_cmpuint(blocks.hole_bytes, ==, 0);
    rmig_blocks_cleanup(&blocks);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/blocks/add", test_add);
    g_test_add_func("/blocks/add/refused", test_add_refused);
    g_test_add_func("/blocks/add/limit", test_add_limit);
    g_test_add_func("/blocks/add/top", test_add_at_the_top);
    g_test_add_func("/blocks/geometry", test_geometry);
    g_test_add_func("/blocks/contains", test_contains);
    g_test_add_func("/blocks/reorder", test_reorder);
    g_test_add_func("/blocks/reorder/refused", test_reorder_refused);
    g_test_add_func("/blocks/set-remote", test_set_remote);
    g_test_add_func("/blocks/set-remote/refused", test_set_remote_refused);
    g_test_add_func("/blocks/check/register", test_check_register);
    g_test_add_func("/blocks/check/unregister", test_check_unregister);
    g_test_add_func("/blocks/check/zero-run", test_check_zero_run);
    g_test_add_func("/blocks/check/top", test_check_at_the_top);
    g_test_add_func("/blocks/holes", test_holes);
    g_test_add_func("/blocks/holes/check", test_check_holes);
    g_test_add_func("/blocks/holes/near", test_check_holes_near);
    g_test_add_func("/blocks/holes/refused", test_holes_refused);
    return g_test_run();
}
