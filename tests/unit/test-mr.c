/*
 * Unit tests of the mr room: registered once, spans, given back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fake of verbs, which fails the test if a region is left behind.
 */
#include "fake-verbs.h"
#include "mr.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define RAM_HOST UINT64_C(0x7f0000000000)
#define ROM_HOST UINT64_C(0x7e0000000000)

/* "ram": 5 chunks, the last of one page; "rom": one page; "empty": none */
typedef struct Fixture {
    RMigVerbs *verbs;
    RMigBlocks blocks;
    RMigMrTable table;
    const RMigBlock *ram, *rom;
} Fixture;

static void setup(Fixture *f, bool remote_write)
{
    f->verbs = fake_verbs_new();
    rmig_blocks_init(&f->blocks);
    g_assert_true(rmig_blocks_add(&f->blocks, "ram",
                                  (void *)(uintptr_t)RAM_HOST, 0,
                                  4 * MIB + PAGE, NULL));
    g_assert_true(rmig_blocks_add(&f->blocks, "empty", NULL, 0x20000000, 0,
                                  NULL));
    g_assert_true(rmig_blocks_add(&f->blocks, "rom",
                                  (void *)(uintptr_t)ROM_HOST, 0x10000000,
                                  PAGE, NULL));
    f->ram = rmig_blocks_get(&f->blocks, 0);
    f->rom = rmig_blocks_get(&f->blocks, 2);
    rmig_mr_table_init(&f->table, f->verbs, &f->blocks, remote_write);
}

static void teardown(Fixture *f)
{
    rmig_mr_table_cleanup(&f->table);
    g_assert_cmpuint(f->verbs->mrs->len, ==, 0);
    rmig_blocks_cleanup(&f->blocks);
    fake_verbs_free(f->verbs);
}

static RMigMr *reg(Fixture *f, const RMigBlock *block, uint64_t first,
                   uint64_t n)
{
    RMigMr *mr = rmig_mr_table_register(&f->table, block, first, n, NULL);

    g_assert_nonnull(mr);
    for (uint64_t c = first; c < first + n; c++) {
        g_assert_true(rmig_mr_table_find(&f->table, block, c) == mr);
    }
    return mr;
}

static void assert_covers(const RMigMr *mr, uint64_t addr, uint64_t bytes)
{
    g_assert_cmphex((uintptr_t)mr->addr, ==, addr);
    g_assert_cmphex(rmig_mr_bytes(mr), ==, bytes);
}

static void test_chunk(void)
{
    Fixture f;

    setup(&f, true);
    for (uint64_t c = 0; c < 5; c++) {
        g_assert_null(rmig_mr_table_find(&f.table, f.ram, c));
    }
    assert_covers(reg(&f, f.ram, 1, 1), RAM_HOST + MIB, MIB);
    assert_covers(reg(&f, f.ram, 4, 1), RAM_HOST + 4 * MIB, PAGE);
    assert_covers(reg(&f, f.rom, 0, 1), ROM_HOST, PAGE);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 0));
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 2));
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    g_assert_cmpuint(f.table.chunks_registered, ==, 3);
    teardown(&f);
}

static void test_once(void)
{
    Fixture f;
    RMigMr *mr;

    setup(&f, true);
    mr = reg(&f, f.ram, 0, 1);
    g_assert_true(reg(&f, f.ram, 0, 1) == mr);
    mr = reg(&f, f.ram, 1, 3);
    g_assert_true(reg(&f, f.ram, 1, 3) == mr);
    g_assert_cmpuint(f.verbs->registered, ==, 2);
    g_assert_cmpuint(f.table.chunks_registered, ==, 4);
    teardown(&f);
}

static void test_remote_write(void)
{
    Fixture f;

    setup(&f, true);
    g_assert_true(reg(&f, f.ram, 0, 1)->remote_write);
    teardown(&f);

    /* the source's memory is only read, and by its own device */
    setup(&f, false);
    g_assert_false(reg(&f, f.ram, 0, 1)->remote_write);
    teardown(&f);
}

static void test_span(void)
{
    Fixture f;

    setup(&f, true);
    assert_covers(reg(&f, f.ram, 1, 2), RAM_HOST + MIB, 2 * MIB);
    assert_covers(reg(&f, f.ram, 3, 2), RAM_HOST + 3 * MIB, MIB + PAGE);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);

    /* a span lives until its last chunk is let go, in any order */
    rmig_mr_table_unregister(&f.table, f.ram, 2);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 2));
    g_assert_nonnull(rmig_mr_table_find(&f.table, f.ram, 1));
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    rmig_mr_table_unregister(&f.table, f.ram, 1);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);

    /* and may come back */
    assert_covers(reg(&f, f.ram, 1, 2), RAM_HOST + MIB, 2 * MIB);
    teardown(&f);
}

/* Part of a span was let go: the rest is no substitute for the whole */
static void test_span_with_hole(void)
{
    Fixture f;
    RMigMr *mr, *again;

    setup(&f, true);
    mr = reg(&f, f.ram, 0, 4);
    rmig_mr_table_unregister(&f.table, f.ram, 1);
    again = reg(&f, f.ram, 0, 4);
    g_assert_true(again != mr);
    assert_covers(again, RAM_HOST, 4 * MIB);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1); /* the old one is gone */
    teardown(&f);
}

static void test_overlap(void)
{
    Fixture f;
    RMigMr *left, *middle;

    setup(&f, true);
    left = reg(&f, f.ram, 0, 2);
    reg(&f, f.ram, 2, 2);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    middle = reg(&f, f.ram, 1, 2);
    /* each of the old ones still covers a chunk */
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 0) == left);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == middle);
    rmig_mr_table_unregister(&f.table, f.ram, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    /* swallow everything */
    reg(&f, f.ram, 0, 5);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    teardown(&f);
}

static void test_unregister_nothing(void)
{
    Fixture f;

    setup(&f, true);
    rmig_mr_table_unregister(&f.table, f.ram, 0);
    reg(&f, f.ram, 0, 1);
    rmig_mr_table_unregister(&f.table, f.ram, 0);
    rmig_mr_table_unregister(&f.table, f.ram, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    teardown(&f);
}

static void test_all(void)
{
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_mr_table_register_all(&f.table, NULL));
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2); /* none for the empty one */
    assert_covers(rmig_mr_table_find(&f.table, f.ram, 4), RAM_HOST,
                  4 * MIB + PAGE);
    assert_covers(rmig_mr_table_find(&f.table, f.rom, 0), ROM_HOST, PAGE);
    g_assert_cmpuint(f.table.chunks_registered, ==, 6);
    teardown(&f);
}

static void test_fails(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;
    RMigMr *mr;

    setup(&f, true);
    mr = reg(&f, f.ram, 1, 1);
    f.verbs->fail_register = 0;
    g_assert_null(rmig_mr_table_register(&f.table, f.ram, 0, 3, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "RAM block ram, chunks 0 to 2: "));
    g_assert_nonnull(strstr(err->message, "as the test wishes"));
    /* what was there is there still */
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == mr);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 0));
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    reg(&f, f.ram, 0, 3);
    teardown(&f);
    g_clear_error(&err);

    /* the first block is pinned, the second fails, all of it is released */
    setup(&f, true);
    f.verbs->fail_register = 1;
    g_assert_false(rmig_mr_table_register_all(&f.table, &err));
    g_assert_nonnull(strstr(err->message, "RAM block rom"));
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    teardown(&f);
}

static void test_cleanup(void)
{
    RMigMrTable empty = { 0 };
    Fixture f;

    rmig_mr_table_cleanup(&empty);

    setup(&f, true);
    reg(&f, f.ram, 0, 2);
    reg(&f, f.ram, 1, 3);
    reg(&f, f.rom, 0, 1);
    rmig_mr_table_cleanup(&f.table);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    rmig_mr_table_cleanup(&f.table); /* twice does no harm */
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/mr/chunk", test_chunk);
    g_test_add_func("/mr/once", test_once);
    g_test_add_func("/mr/remote-write", test_remote_write);
    g_test_add_func("/mr/span", test_span);
    g_test_add_func("/mr/span/hole", test_span_with_hole);
    g_test_add_func("/mr/span/overlap", test_overlap);
    g_test_add_func("/mr/unregister-nothing", test_unregister_nothing);
    g_test_add_func("/mr/all", test_all);
    g_test_add_func("/mr/fails", test_fails);
    g_test_add_func("/mr/cleanup", test_cleanup);
    return g_test_run();
}
