/*
 * RDMA migration transport: what a migration leaves behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: unregisters a migration's memory and frees its connections beside the
 * thread that has ended it.  Unpinning takes up to a second for some GiB, and
 * the guest has begun to run by then.
 * Callers: source, dest.
 * Thread: any.
 */
#ifndef RMIG_REAPER_H
#define RMIG_REAPER_H

#include "conn.h"
#include "mr.h"

/* Everything is owned; each member may be all zero or NULL */
typedef struct RMigRemains {
    RMigMrTable table; /* its jobs are freed */
    RMigConn main; /* disconnected: nothing uses the memory any more */
    RMigConn back;
    RMigReleased released; /* to be called when all of that is gone */
} RMigRemains;

/*
 * rmig_reaper_take: free all of it, in a thread of its own
 * @here: at once instead, in this thread
 */
void rmig_reaper_take(const RMigRemains *remains, bool here);
/*
 * Waits until all that was taken is freed.  Called before a migration starts,
 * as what is still pinned counts against its limit, and when the program ends.
 */
void rmig_reaper_wait(void);

#endif
