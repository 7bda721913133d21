/*
 * Tests on a real RDMA device: a source that does what it may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It is made of the core's own link, control and verbs rooms, whose messages
 * and writes the test composes itself; the destination is the core's, in a
 * thread of its own.  Any failure that a function does not expect ends the
 * test.
 */
#ifndef TEST_HOSTILE_H
#define TEST_HOSTILE_H

#include "blocks.h"
#include "control.h"
#include "serve.h"

#define PAGE 4096u
#define MIB (1024u * 1024u)
/* The chunk that fixture_begin() registers */
#define REGISTERED_CHUNK 1
/* An end must not take longer than this */
#define END_SECONDS 60
#define EXTENSIONS (RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET)

enum { RAM, ROM, EMPTY, N_BLOCKS };
extern TestBlock blocks[N_BLOCKS];

typedef struct Fixture {
    Held held;
    Serve serve;
    RMigShutdown *shutdown;
    RMigLink *link;
    RMigControl *control;
    RMigMr *mr;
    uint8_t *marks; /* 2 MiB of MARK, @mr */
    uint32_t rkey;  /* of the registered chunk */
    uint64_t room;  /* that the destination has announced; bytes */
    RMigWork write;
    bool written; /* it has come to its end */
} Fixture;

/*
 * Connected with @flags, the blocks exchanged, one chunk registered, which
 * works; the destination serves commands.  @pin_limit: of the destination, 0:
 * none.  It has threads that register unless @flags are 0.  False without a
 * device.
 */
bool fixture_begin_with(Fixture *f, uint32_t flags, uint64_t pin_limit);
/* ... of version 1, without a limit */
bool fixture_begin(Fixture *f);
/* @part: of the error with which the destination ends; NULL: with none */
void fixture_end(Fixture *f, const char *part);
/* The peer says ERROR before it leaves */
void expect_told(Fixture *f);

/* What it says */
void command(Fixture *f, RMigWireType type, const void *data, uint32_t len,
             uint32_t repeat);
void say(Fixture *f, ServeOrder order, uint32_t number);
void command_records(Fixture *f, RMigWireType type,
                     const RMigWireRegister *regs, uint32_t n);
void command_registers(Fixture *f, RMigWireType type, uint64_t key,
                       uint32_t block, uint64_t chunks);
void command_zero(Fixture *f, uint32_t block, uint64_t offset,
                  uint64_t length);
void take_answer(Fixture *f, RMigWireMessage *msg);
void release(Fixture *f);
/* @address in the destination's ram_addr_t space; returns the rkey */
uint32_t register_chunks(Fixture *f, uint64_t address, uint32_t block,
                         uint64_t further);
/* Many records at once; @rkeys: room for @n */
void register_many(Fixture *f, const RMigWireRegister *regs, uint32_t n,
                   uint32_t *rkeys);
void unregister_chunks(Fixture *f, uint64_t chunk, uint32_t block,
                       uint64_t further);

/* Waits for the write to end; false with the reason why it failed */
bool write_marks(Fixture *f, const uint8_t *to, uint32_t bytes, uint32_t rkey,
                 unsigned seconds, GError **err);
/* It lands, and what was there before is put back */
void expect_write(Fixture *f, uint8_t *to, uint32_t bytes, uint32_t rkey);
/* The device of the destination refuses it */
void expect_no_write(Fixture *f, const uint8_t *to, uint32_t bytes,
                     uint32_t rkey);

#endif
