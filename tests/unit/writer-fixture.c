/*
 * A writer on the fake of verbs, with spans to write from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See writer-fixture.h.
 */
#include "writer-fixture.h"

static const RMigBlock *add_block(WriterFixture *f, const char *name,
                                  unsigned n, uint64_t offset)
{
    uint64_t host = UINT64_C(0x7f0000000000) + n * BLOCK_BYTES;
    RMigBlock *block;

    g_assert_true(rmig_blocks_add(&f->blocks, name, (void *)(uintptr_t)host,
                                  offset, BLOCK_BYTES, NULL));
    block = rmig_blocks_by_name(&f->blocks, name);
    block->remote_host = REMOTE + n * BLOCK_BYTES;
    return block;
}

void writer_fixture_init(WriterFixture *f)
{
    f->verbs = fake_verbs_new();
    rmig_blocks_init(&f->blocks);
    f->ram = add_block(f, "ram", 0, 0);
    f->other = add_block(f, "other", 1, 1 << 30);
    f->jobs = rmig_jobs_new(0, NULL);
    rmig_mr_table_init(&f->table, f->verbs, f->jobs, &f->blocks, false,
                       UINT64_MAX);
    rmig_writer_init(&f->writer, f->verbs);
}

void writer_fixture_cleanup(WriterFixture *f)
{
    rmig_writer_cleanup(&f->writer);
    rmig_jobs_free(f->jobs);
    rmig_mr_table_cleanup(&f->table);
    rmig_blocks_cleanup(&f->blocks);
    fake_verbs_free(f->verbs);
}

RMigSpan *writer_fixture_span(WriterFixture *f, const RMigBlock *block,
                              uint64_t first, uint64_t n, uint32_t rkey)
{
    RMigSpan *span = rmig_span_register(&f->table, block, first, n);

    rmig_jobs_reap(f->jobs);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_READY);
    rmig_span_install(span);
    span->peer = RMIG_PEER_READY;
    span->rkey = rkey;
    return span;
}
