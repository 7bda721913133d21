/*
 * What the tests of the destination share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A destination on the fakes of link and verbs: the source is a script.
 */
#ifndef DEST_FIXTURE_H
#define DEST_FIXTURE_H

#include "blocks.h"
#include "control.h"
#include "fake-link.h"

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define RAM_BYTES (3 * MIB + PAGE)
#define RAM_OFFSET UINT64_C(0x40000000)

typedef struct Fixture {
    RMigDest *dest;
    RMigLink *link;
    RMigVerbs *verbs;
    uint8_t *ram, *rom;
    bool list_fails;
    bool no_blocks; /* everything is ignored */
    unsigned zero_calls;
    uint64_t zeroed_bytes;
    uint64_t longest_zero;
    uint64_t ram_bytes;
    bool anonymous; /* is block "ram" */
    bool hole;      /* its second chunk is not plugged */
    char *warning;
    /* Of a source that waits for READY: */
    bool obeys;
    unsigned ready;  /* that it has seen and not used */
    GQueue commands; /* of GBytes, owned */
    void (*zeroing)(void); /* before memory is cleared, on any thread */
    GMutex lock;    /* for what zero() counts, on any thread */
} Fixture;

/* The RAM blocks, in the source's order */
enum { RAM, ROM, EMPTY };

/* @config without what the fixture supplies */
void setup_config(Fixture *f, RMigDestConfig config);
void setup(Fixture *f);
/* A source connects that asks for @flags */
void accept_main(Fixture *f, uint32_t flags);
/*
 * The source waits for READY from here on, as it must if worker threads are
 * waited for; what is scripted goes with the next finish()
 */
void obey(Fixture *f);
/* The fakes check that nothing is left registered */
void teardown(Fixture *f);
void note_blocks(Fixture *f);
/* What was scripted is served, to the end of the round */
void finish(Fixture *f);
/* Connected, the blocks exchanged, out of the hook again */
void setup_exchanged(Fixture *f, uint32_t flags);
void script_register(Fixture *f, RMigWireType type, uint32_t block,
                     uint64_t key, uint64_t chunks);
void script_zero_run(Fixture *f, uint32_t value, uint32_t block,
                     uint64_t offset, uint64_t length);
/* The last message that we sent, but for READY */
void last_answer(const Fixture *f, RMigWireMessage *msg);
/* What the next hook brings is refused, and the memory is as it was */
void assert_refused(Fixture *f, const char *needle);

#endif
