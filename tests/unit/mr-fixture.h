/*
 * A table of memory regions on the fake of verbs, with workers or without
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef MR_FIXTURE_H
#define MR_FIXTURE_H

#include "fake-verbs.h"
#include "mr.h"

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define RAM_HOST UINT64_C(0x7f0000000000)
#define ROM_HOST UINT64_C(0x7e0000000000)

/* "ram": 5 chunks, the last of one page; "rom": one page; "empty": none */
typedef struct MrFixture {
    RMigVerbs *verbs;
    RMigBlocks blocks;
    RMigJobs *jobs; /* NULL: freed by the test */
    RMigMrTable table;
    const RMigBlock *ram, *rom;
} MrFixture;

/* @threads: GUINT_TO_POINTER(of workers) */
void mr_fixture_init(MrFixture *f, gconstpointer threads, bool remote_write);
/* Nothing may be left that the table's cleanup does not find */
void mr_fixture_cleanup(MrFixture *f);
/* Until no job is left, nor any that the jobs' done() adds */
void mr_fixture_settle(MrFixture *f);
/* A span that is ready or has failed */
RMigSpan *mr_fixture_register(MrFixture *f, const RMigBlock *block,
                              uint64_t first, uint64_t n);

#endif
