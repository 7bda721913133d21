/*
 * A table of memory regions on the fake of verbs, with workers or without
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See mr-fixture.h.
 */
#include "mr-fixture.h"

#include <poll.h>

void mr_fixture_init(MrFixture *f, gconstpointer threads, bool remote_write)
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
    f->jobs = rmig_jobs_new(GPOINTER_TO_UINT(threads), NULL);
    g_assert_nonnull(f->jobs);
    rmig_mr_table_init(&f->table, f->verbs, f->jobs, &f->blocks, remote_write,
                       UINT64_MAX);
}

void mr_fixture_cleanup(MrFixture *f)
{
    rmig_jobs_free(f->jobs);
    rmig_mr_table_cleanup(&f->table);
    g_assert_cmpuint(f->verbs->mrs->len, ==, 0);
    rmig_blocks_cleanup(&f->blocks);
    fake_verbs_free(f->verbs);
}

void mr_fixture_settle(MrFixture *f)
{
    while (rmig_jobs_pending(f->jobs) > 0) {
        struct pollfd pfd = { .fd = rmig_jobs_fd(f->jobs), .events = POLLIN };

        if (pfd.fd >= 0) {
            g_assert_cmpint(poll(&pfd, 1, 30000), ==, 1);
        }
        rmig_jobs_reap(f->jobs);
    }
}

RMigSpan *mr_fixture_register(MrFixture *f, const RMigBlock *block,
                              uint64_t first, uint64_t n)
{
    RMigSpan *span = rmig_span_register(&f->table, block, first, n);

    mr_fixture_settle(f);
    return span;
}
