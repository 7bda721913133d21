/*
 * RDMA migration transport: inside of the destination
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by dest.c (a migration from listening to closing), dest-accept.c (who
 * is let in), dest-serve.c (the source's commands) and dest-end.c (the last of
 * them), and by nobody else.  All of it is used by one thread at a time, but
 * for @shown.
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
    GQueue candidates; /* dest-accept.c's: to be the main connection, or back */
    GError *unlet;     /* why the last one was not let in, to be told */
    unsigned n_unlet;  /* likewise, since that was told */
    int64_t told_us;   /* when; 0: never */
    RMigConn main;
    RMigConn back;
    uint32_t granted;  /* RMIG_WIRE_FLAG_* */
    uint64_t pin_limit; /* bytes that may be pinned in all, for statistics */
    uint64_t pin_room; /* bytes of RAM that may be pinned, as announced */
    GPtrArray *names;  /* of char *, owned: the blocks in the source's order */
    GHashTable *named; /* of char *, those of @names */
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
    RMigWait waiting;
    GMutex lock;
    RMigCounters shown; /* under @lock: for other threads */
};

/*
 * What we can stand by of what the main connection asks for; *@warning: what
 * the user should know of it if it is let in, to be freed, or left alone
 */
RMigWirePrivate rmig_dest_grant(RMigDest *d, const RMigWirePrivate *asked,
                                char **warning);
/* Before the listener goes */
void rmig_dest_drop_candidates(RMigDest *d);
/* What other threads see is what is so now */
void rmig_dest_publish(RMigDest *d);

#endif
