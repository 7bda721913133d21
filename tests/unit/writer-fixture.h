/*
 * A writer on the fake of verbs, with spans to write from
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef WRITER_FIXTURE_H
#define WRITER_FIXTURE_H

#include "fake-verbs.h"
#include "writer.h"

#define MIB RMIG_CHUNK_BYTES
#define PAGE 4096u
#define BLOCK_BYTES (64 * MIB)
#define REMOTE UINT64_C(0x550000000000)

/* "other" lies right behind "ram", on both sides */
typedef struct WriterFixture {
    RMigVerbs *verbs;
    RMigJobs *jobs;
    RMigBlocks blocks;
    const RMigBlock *ram, *other;
    RMigMrTable table;
    RMigWriter writer;
} WriterFixture;

void writer_fixture_init(WriterFixture *f);
void writer_fixture_cleanup(WriterFixture *f);
/* A span that is ready on both sides, and its chunks point at it */
RMigSpan *writer_fixture_span(WriterFixture *f, const RMigBlock *block,
                              uint64_t first, uint64_t n, uint32_t rkey);

#endif
