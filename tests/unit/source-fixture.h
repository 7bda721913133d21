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
    uint64_t hole_first; /* chunks from here are not plugged... */
    uint64_t hole_end;   /* ...up to here */
} Block;

/* What the destination does wrong, if anything */
typedef enum Vice {
    HONEST,
    RESULT_ZERO_KEY,
    RESULT_WRONG_ADDRESS,
    RESULT_UNPINNABLE,
    RESULT_ONE_MISSING,
    BLOCKS_ONE_MISSING,
    BLOCKS_WRONG_LENGTH,
    BLOCKS_NO_KEYS,
    GIVES_UP,
    SAYS_NOTHING,
    ANSWERS_LATE, /* a REGISTER, when release_answer() is called */
} Vice;

/* What the two sides are willing to do; all zero: version 1 on demand */
typedef struct Mode {
    uint32_t flags;       /* RMIG_WIRE_FLAG_*: what the destination grants */
    bool pin_all;         /* asked for */
    uint64_t peer_budget; /* bytes of RAM, 0: any number */
    uint64_t own_budget;  /* likewise */
    unsigned threads;
    uint64_t peer_table;    /* bytes that it has room for, untold; 0: any */
    unsigned refuse_one_in; /* REGISTER records, while others are registered */
    unsigned fail_one_in;   /* registrations here, likewise */
    unsigned late;          /* times that it is looked before it answers */
    bool random;            /* things happen in any order that is legal */
    uint64_t ram_bytes;     /* of block "ram"; 0: 3 MiB and a page */
    uint64_t vga_bytes;     /* of block "vga"; 0: 2 MiB */
    bool no_detection;      /* of zeros */
    bool far;   /* the end of a round does not wait for the writes */
    bool holes; /* some memory is not plugged */
} Mode;

typedef struct Fixture {
    Mode mode;
    RMigSource *source;
    RMigLink *link; /* the main connection, until the source is closed */
    RMigVerbs *verbs;
    Block block[N_BLOCKS];
    Vice vice;
    bool pinned; /* all of it, before the first write */
    bool batch;
    unsigned looks; /* until it answers */
    unsigned placed; /* of what was posted: its writes have landed */
    const FakePost *late; /* the REGISTER that is not yet answered */
    /* By chunk, by the destination: its span's first chunk + 1, or 0 */
    uint8_t *registered[N_BLOCKS];
    uint32_t *keys[N_BLOCKS]; /* likewise: the key of its span */
    uint32_t last_key;
    uint64_t pinned_bytes;    /* by the destination, of RAM */
    uint64_t pinned_peak;
    uint32_t luck; /* of registrations here, under the fake's lock */
    unsigned seen[RMIG_WIRE_TYPES]; /* messages, by type */
    unsigned records[RMIG_WIRE_TYPES];
    unsigned chunks_asked;
    unsigned chunks_refused;
    uint64_t largest_zeros;   /* bytes that a message named */
    uint64_t zeroed_bytes;
    uint64_t longest_run;
} Fixture;

bool is_zero(const void *host, uint64_t len);
/* After @f->mode is set, or is all zero */
void init_blocks(Fixture *f);
/* Connected, and all blocks announced */
void start(Fixture *f, const RMigSourceConfig *config);
/* init_blocks() and start() */
void setup_mode(Fixture *f, const Mode *mode);
/* Version 1 */
void setup(Fixture *f, bool pin_all);
void setup_exchanged(Fixture *f, bool pin_all);
/* The pin_limit that leaves @bytes for RAM, beside the message buffers */
uint64_t pin_limit_for(uint64_t bytes);
/* Frees the source, whose fakes check that nothing is left registered */
void teardown(Fixture *f);

/* The page gets contents */
void dirty(Fixture *f, unsigned block, uint64_t page);
bool is_in_hole(const Block *b, uint64_t offset);
/* It is handed over */
RMigPage page(Fixture *f, unsigned block, uint64_t number);
/* Fails if @err does not say @needle; clears it */
void assert_says(GError **err, const char *needle);
/* The end of the round, and of all writes */
void finish_round(Fixture *f);
/* All pages, and the end of the round */
void send_everything(Fixture *f);
/* Everything that is under way comes */
void settle(Fixture *f);
/* What ANSWERS_LATE has kept back is to arrive now */
void release_answer(Fixture *f);
void assert_same_memory(const Fixture *f);
/* As it was at the start: nothing was written there */
void assert_untouched_memory(const Fixture *f);

#endif
