/*
 * An honest destination that can be told to lie
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: answers the source's messages as docs/rdma.txt says, except where the
 * schedule asks for one lie about the next answer.
 * Callers: fuzz-source.
 * Thread: one.
 */
#ifndef FUZZ_PEER_H
#define FUZZ_PEER_H

#include "device.h"
#include "ram.h"
#include "wire.h"

/* What is wrong with the next answer; @value is the schedule's */
typedef enum FuzzLie {
    FUZZ_LIE_SILENT,    /* it does not come */
    FUZZ_LIE_NOT_READY, /* the READY behind it does not come */
    FUZZ_LIE_TWICE,
    FUZZ_LIE_TYPE,    /* it has this type */
    FUZZ_LIE_KEY,     /* of its first record, by exclusive or */
    FUZZ_LIE_ADDRESS, /* likewise, in the top half */
    FUZZ_LIE_COUNT,   /* it has so many records */
    FUZZ_LIE_SHORT,   /* so many bytes arrive */
    FUZZ_LIE_LENGTH,  /* the header's */
    FUZZ_LIE_REPEAT,  /* likewise */
    FUZZ_LIE_READY,   /* so many READYs come before it */
    FUZZ_LIE_ZERO,    /* its records are all zero */
    FUZZ_LIE_OFFSET,  /* of its first block, in the top half */
    FUZZ_LIE_MORE,    /* so many records more, or fewer */
    FUZZ_LIE_REFUSE,  /* keys of 0 where the value's bits are set */
    FUZZ_LIE_ORDER,   /* its records are the other way round */
    FUZZ_LIES
} FuzzLie;

#define FUZZ_PEER_BLOCKS 4
#define FUZZ_PEER_CHUNKS 16

typedef struct FuzzPeer {
    const FuzzBlock *blocks;
    unsigned n_blocks;
    bool pinned; /* pin-all was granted, as in version 1 */
    /*
     * Bytes that it can register; what is more it refuses with a key of 0,
     * which only a source that knows of refusals may be told.  0: any number
     */
    uint64_t capacity;
    uint64_t used_bytes;
    bool registered[FUZZ_PEER_BLOCKS][FUZZ_PEER_CHUNKS];
    GQueue answers; /* of GBytes, for the main connection */
    GQueue stream;  /* likewise for the return path */
    int lie;        /* of FuzzLie, or -1 */
    uint32_t lie_value;
    uint32_t next_key;
} FuzzPeer;

void fuzz_peer_init(FuzzPeer *peer, const FuzzBlock *blocks, unsigned n);
void fuzz_peer_cleanup(FuzzPeer *peer);
/* A message of the main connection or the return path has been sent to it */
void fuzz_peer_take(FuzzPeer *peer, const RMigWireMessage *msg, bool back);
void fuzz_peer_say_ready(FuzzPeer *peer);
/* What it has to say is sent; false if that is nothing */
bool fuzz_peer_deliver(FuzzPeer *peer, FuzzQp *main, FuzzQp *back);

#endif
