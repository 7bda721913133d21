/*
 * RDMA migration transport: what a migration leaves behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: waits for a migration's workers, unregisters its memory, sees its last
 * message arrive and frees its connections beside the thread that has ended it,
 * with some more threads.  Unpinning takes up to a second for some GiB, a
 * message that needs to be repeated several, and a worker that is inside of the
 * device's driver as long as that likes; the guest has begun to run by then.
 * Callers: source, dest.
 * Thread: any.
 */
#ifndef RMIG_REAPER_H
#define RMIG_REAPER_H

#include "conn.h"
#include "mr.h"

/* Everything is owned; each member may be all zero or NULL */
typedef struct RMigRemains {
    RMigJobs *jobs; /* none but @table's; one may never end */
    RMigMrTable table;
    RMigBlocks blocks; /* of @table */
    RMigConn main; /* disconnected: nothing uses the memory any more */
    RMigConn back; /* perhaps still with a message that is to arrive */
    RMigReleased released; /* to be called when all of that is gone */
} RMigRemains;

/*
 * rmig_reaper_take: free all of it, in a thread of its own
 * @here: at once instead, in this thread alone
 */
void rmig_reaper_take(const RMigRemains *remains, bool here);
/*
 * rmig_reaper_wait: until all that was taken is freed
 * @shutdown: ends the wait when it is triggered; NULL: nothing does
 *
 * For a source before it connects, as what is still pinned counts against its
 * limit.  When the program ends there is such a wait as well, for some seconds:
 * what is left then is left to the kernel.
 */
void rmig_reaper_wait(const RMigShutdown *shutdown);

#endif
