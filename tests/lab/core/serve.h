/*
 * Tests on a real RDMA device: a destination in a thread of its own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It does what it is told in the migration stream, as QEMU's does: each
 * order is a byte and perhaps an argument.  rmig_source_*() or a peer made by
 * hand gives the orders with serve_order() and the like.
 */
#ifndef TEST_SERVE_H
#define TEST_SERVE_H

#include "device.h"
#include "migration/rdma-transport.h"

typedef struct TestBlock {
    const char *name;
    uint64_t length;
    uint64_t offset; /* in the source's ram_addr_t space */
    uint8_t *src, *dst;
} TestBlock;

/* The destination has its blocks elsewhere in its ram_addr_t space */
#define SERVE_OFFSET UINT64_C(0x7000000000)

/* Memory for both sides, the destination's filled with 0xee */
void blocks_alloc(TestBlock *blocks, unsigned n);
/* Checks that nothing was written around the destination's blocks */
void blocks_free(TestBlock *blocks, unsigned n);
/* The destination's memory is as blocks_alloc() made it */
void blocks_check_untouched(const TestBlock *blocks, unsigned n);

typedef enum ServeOrder {
    ORDER_DATA = 'D',   /* u32 length, bytes: keep them */
    ORDER_NAME = 'N',   /* u32 length, bytes: the name of the next block */
    ORDER_HOOK = 'H',   /* serve commands */
    ORDER_RETURN = 'R', /* u32 length: send as many bytes back */
    ORDER_REVOKE = 'V', /* revoke, then park: say nothing until serve_end() */
    ORDER_PARK = 'P',
    ORDER_END = 'E',
} ServeOrder;

typedef struct Serve {
    RMigDest *dest;
    uint16_t port;
    /* Set before serve_start() */
    bool return_path; /* two connections are expected */
    bool polls;       /* reads without waiting in the core */
    bool may_warn;    /* else a warning ends the test */
    TestBlock *blocks;
    unsigned n_blocks;
    /* Any thread */
    gint parked;
    gint stop;
    /* After serve_end() */
    GByteArray *got;
    GError *error;
    RMigCounters counters;
    uint64_t zeroed_bytes;
    unsigned warnings;
    uint32_t returned_bytes;
    int64_t ended_us; /* when its last order or wait ended */
    bool closed;
    GThread *thread;
} Serve;

/* Listens at @address; threads register, and nothing is limited */
void serve_init(Serve *serve, const Address *address);
/* ... with the pin_limit, register_threads and version_1_only of @wishes */
void serve_init_with(Serve *serve, const Address *address,
                     const RMigDestConfig *wishes);
/* What rmig_dest_accept() says to the next request, within 10 s */
RMigAccepted serve_accept(Serve *serve, GError **err);
/* In this thread; ends with the stream, or serve->error */
void serve_run(Serve *serve);
void serve_start(Serve *serve);
void serve_wait_parked(Serve *serve);
/* Waits for the thread, and closes */
void serve_end(Serve *serve);
void serve_cleanup(Serve *serve);

/* Room for an order with a number; returns its bytes */
#define ORDER_BYTES 5
size_t order_pack(uint8_t *buf, ServeOrder order, uint32_t number);
/* The byte at @i of all that ORDER_RETURN has sent */
uint8_t return_byte(uint32_t i);

#endif
