/*
 * What the tests of the source share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A source on the fakes of link and verbs.  The peer is a destination in
 * miniature: its memory receives the writes and zero runs, and is compared at
 * the end.
 */
#ifndef SOURCE_FIXTURE_H
#define SOURCE_FIXTURE_H

#include "blocks.h"
#include "control.h"
#include "fake-link.h"

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define N_BLOCKS 3
#define REMOTE_BASE UINT64_C(0x550000000000)

typedef struct Block {
    const char *name;
    uint64_t offset;        /* at the source */
    uint64_t remote_offset; /* at the destination */
    uint64_t length;
    uint8_t *ours;
    uint8_t *theirs;
    uint64_t remote_host;
} Block;

/* What the destination does wrong, if anything */
typedef enum Vice {
    HONEST,
    RESULT_ZERO_KEY,
    RESULT_WRONG_ADDRESS,
    BLOCKS_ONE_MISSING,
    BLOCKS_WRONG_LENGTH,
    BLOCKS_NO_KEYS,
    GIVES_UP,
    SAYS_NOTHING,
    ANSWERS_LATE, /* a REGISTER, when release_answer() is called */
} Vice;

typedef struct Fixture {
    RMigSource *source;
    RMigLink *link; /* the main connection, until the source is closed */
    RMigVerbs *verbs;
    Block block[N_BLOCKS];
    Vice vice;
    bool pinned;
    const FakePost *late; /* the REGISTER that is not yet answered */
    /* By chunk, by the destination: its span's first chunk + 1, or 0 */
    uint8_t *registered[N_BLOCKS];
    unsigned seen[RMIG_WIRE_TYPES]; /* messages, by type */
    uint64_t zeroed_bytes;
    uint64_t longest_run;
} Fixture;

bool is_zero(const void *host, uint64_t len);
void init_blocks(Fixture *f);
/* Connected, and all blocks announced */
void start(Fixture *f, const RMigSourceConfig *config);
void setup(Fixture *f, bool pin_all);
void setup_exchanged(Fixture *f, bool pin_all);
/* Frees the source, whose fakes check that nothing is left registered */
void teardown(Fixture *f);

/* The page gets contents */
void dirty(Fixture *f, unsigned block, uint64_t page);
/* It is handed over */
RMigPage page(Fixture *f, unsigned block, uint64_t number);
/* All pages, and the end of the round */
void send_everything(Fixture *f);
/* What ANSWERS_LATE has kept back is to arrive now */
void release_answer(Fixture *f);
void assert_same_memory(const Fixture *f);

#endif
