/*
 * What the destination has registered, and permits, as its source must see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: follows the messages of both sides and dies when the source asks for
 * what it has, lets go what it has not, goes over the limit, writes with a key
 * that is not (or no longer) the chunk's, or sends a message without the READYs
 * that it needs.
 * Callers: fuzz-source.
 * Thread: one.
 *
 * An answer that nobody waits for may be taken for another one later on; from
 * then on the mirror is confused and says nothing any more.
 */
#ifndef FUZZ_MIRROR_H
#define FUZZ_MIRROR_H

#include "device.h"
#include "ram.h"
#include "wire.h"

#define FUZZ_MIRROR_BLOCKS 4
#define FUZZ_MIRROR_CHUNKS 16

typedef enum FuzzChunk {
    FUZZ_CHUNK_NONE,
    FUZZ_CHUNK_ASKED,
    FUZZ_CHUNK_READY,   /* with its key */
    FUZZ_CHUNK_LEAVING, /* UNREGISTER_REQUEST was sent */
} FuzzChunk;

typedef struct FuzzMirror {
    const FuzzBlock *blocks;
    uint64_t limit_bytes; /* that may be registered together */
    uint8_t chunk[FUZZ_MIRROR_BLOCKS][FUZZ_MIRROR_CHUNKS]; /* of FuzzChunk */
    uint32_t key[FUZZ_MIRROR_BLOCKS][FUZZ_MIRROR_CHUNKS];
    GArray *asked; /* of RMigWireRegister: of the request without an answer */
    bool confused;
    unsigned readies, commands; /* that have come, and were sent */
    RMigWireType last;          /* command */
} FuzzMirror;

void fuzz_mirror_init(FuzzMirror *mirror, const FuzzBlock *blocks);
void fuzz_mirror_cleanup(FuzzMirror *mirror);
/* A record is sent; the key of @reg is a chunk's number in both cases */
void fuzz_mirror_ask(FuzzMirror *mirror, const RMigWireRegister *reg);
void fuzz_mirror_release(FuzzMirror *mirror, const RMigWireRegister *reg);
/* An answer arrives */
void fuzz_mirror_take_results(FuzzMirror *mirror, const RMigWireMessage *msg);
void fuzz_mirror_take_released(FuzzMirror *mirror);
/* A message is sent; @two: those of the stream may follow each other */
void fuzz_mirror_command(FuzzMirror *mirror, RMigWireType type, bool two);
void fuzz_mirror_check_write(const FuzzMirror *mirror, unsigned block,
                             uint64_t chunk, uint32_t rkey);

#endif
