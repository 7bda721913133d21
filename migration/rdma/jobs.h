/*
 * RDMA migration transport: work for other threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: worker threads that register memory, let it go and clear it, and bring
 * what is done back to the connection's thread.
 * Callers: mr, source, dest, reaper.
 * Thread: the connection's, which alone adds and reaps; run() is on a worker.
 * When the connection is closed, all of that becomes the reaper's thread's.
 *
 * A job is part of the object that it works on.  Between rmig_jobs_add() and
 * its done(), the object belongs to the worker.
 */
#ifndef RMIG_JOBS_H
#define RMIG_JOBS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct RMigJob RMigJob;
typedef struct RMigJobs RMigJobs;

struct RMigJob {
    void (*run)(RMigJob *job);  /* on a worker thread */
    void (*done)(RMigJob *job); /* then, from rmig_jobs_reap(); may free it */
    RMigJob *next;              /* jobs' own */
    bool dropped; /* for done(): run() was not called, nor will it be */
};

/*
 * rmig_jobs_new: start the workers
 * @threads: how many; 0: rmig_jobs_add() itself runs the job
 */
RMigJobs *rmig_jobs_new(unsigned threads, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_jobs_drain(), and the end of the workers.  Without rmig_jobs_drop() that
 * runs all of it first.  NULL is allowed.
 */
void rmig_jobs_free(RMigJobs *jobs);

void rmig_jobs_add(RMigJobs *jobs, RMigJob *job);
/* It is the next to run, if it has not begun; @job was added, not yet reaped */
void rmig_jobs_hurry(RMigJobs *jobs, RMigJob *job);
/*
 * The end is near: what has not begun, and what is added from now on, is not
 * run any more, only reaped
 */
void rmig_jobs_drop(RMigJobs *jobs);
/*
 * Calls done() for what has run since the last time, in the order in which it
 * finished.  Without a system call unless there is something.  Returns how
 * many.
 */
unsigned rmig_jobs_reap(RMigJobs *jobs);
/* Waits until something was reaped; something must be pending */
void rmig_jobs_wait(RMigJobs *jobs);
/* Waits until everything that was added is reaped, what done() adds too */
void rmig_jobs_drain(RMigJobs *jobs);
/* Added and not yet reaped */
unsigned rmig_jobs_pending(const RMigJobs *jobs);
/* Readable when there is something to reap; -1 without threads */
int rmig_jobs_fd(const RMigJobs *jobs);

#endif
