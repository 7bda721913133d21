/*
 * RDMA migration transport: inside of the destination
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by dest.c (a migration from listening to closing) and dest-serve.c
 * (the source's commands), and by nobody else.  All of it is used by one thread
 * at a time, but for @shown.
 */
#ifndef RMIG_DEST_PRIV_H
#define RMIG_DEST_PRIV_H

#include "conn.h"
#include "jobs.h"
#include "mr.h"
#include "pages.h"

struct RMigDest {
    RMigDestConfig config;
    RMigShutdown *shutdown;
    RMigListener *listener;
    RMigConn main;
    RMigConn back;
    uint32_t granted;  /* RMIG_WIRE_FLAG_* */
    uint64_t pin_limit; /* bytes that may be pinned in all, for statistics */
    uint64_t pin_room; /* bytes of RAM that may be pinned, as announced */
    GPtrArray *names;  /* of char *, owned: the blocks in the source's order */
    RMigBlocks blocks;
    GHashTable *hints; /* of uint64_t: offsets of anonymous blocks */
    bool announced;    /* the blocks are known and the table is there */
    bool knows_holes;  /* of the blocks */
    RMigJobs *jobs;
    unsigned clearing; /* jobs that clear memory */
    RMigMrTable table;
    RMigPages *pages;
    GError *refusal; /* the first of the device's; NULL: none */
    uint64_t chunks_refused; /* for want of room, without being tried */
    uint64_t chunks_released;
    uint64_t zero_runs;
    GMutex lock;
    RMigCounters shown; /* under @lock: for other threads */
};

/* What other threads see is what is so now */
void rmig_dest_publish(RMigDest *d);

#endif
