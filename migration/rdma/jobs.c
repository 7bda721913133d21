/*
 * RDMA migration transport: work for other threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See jobs.h.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "jobs.h"
#include "log.h"
#include "verbs.h"

struct RMigJobs {
    GPtrArray *threads; /* of GThread */
    GAsyncQueue *todo;  /* of RMigJob */
    int fd;             /* eventfd: written when @finished gets its first */
    GMutex lock;
    RMigJob *finished;  /* under @lock, in the order they finished */
    RMigJob **last;     /* under @lock: where the next is linked */
    _Atomic bool ripe;  /* whether there are any; a hint without @lock */
    unsigned pending;   /* of the thread that adds and reaps */
    bool drops;         /* likewise */
};

/* Tells a worker to end; the queue takes no NULL */
static RMigJob the_end;

static void finish(RMigJobs *jobs, RMigJob *job)
{
    uint64_t one = 1;
    bool first;

    job->next = NULL;
    g_mutex_lock(&jobs->lock);
    first = !jobs->finished;
    *jobs->last = job;
    jobs->last = &job->next;
    jobs->ripe = true;
    /*
     * Under the lock: were the job reaped before this, the descriptor would
     * stay readable, and whoever waits on it spin
     */
    if (first && jobs->fd >= 0 && write(jobs->fd, &one, sizeof(one)) < 0) {
        RMIG_LOG("waking the connection failed: %s", g_strerror(errno));
    }
    g_mutex_unlock(&jobs->lock);
}

static gpointer work(gpointer opaque)
{
    RMigJobs *jobs = opaque;
    RMigJob *job;

    while ((job = g_async_queue_pop(jobs->todo)) != &the_end) {
        job->run(job);
        finish(jobs, job);
    }
    return NULL;
}

/* With all signals blocked: they are the program's own threads' business */
static void start_threads(RMigJobs *jobs, unsigned n, GError **err)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < n; i++) {
        GError *local = NULL;
        GThread *thread = g_thread_try_new("rdma-register", work, jobs,
                                           &local);

        if (!thread) {
            g_propagate_error(err, local);
            break;
        }
        g_ptr_array_add(jobs->threads, thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

RMigJobs *rmig_jobs_new(unsigned threads, GError **err)
{
    RMigJobs *jobs = g_new0(RMigJobs, 1);
    GError *local = NULL;

    jobs->threads = g_ptr_array_new();
    jobs->todo = g_async_queue_new();
    g_mutex_init(&jobs->lock);
    jobs->last = &jobs->finished;
    jobs->fd = -1;
    if (threads == 0) {
        return jobs;
    }
    jobs->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (jobs->fd < 0) {
        g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                    "creating an eventfd failed: %s", g_strerror(errno));
        rmig_jobs_free(jobs);
        return NULL;
    }
    start_threads(jobs, threads, &local);
    if (jobs->threads->len == 0) {
        g_propagate_prefixed_error(err, local, "starting the threads that "
                                   "register memory: ");
        rmig_jobs_free(jobs);
        return NULL;
    }
    if (local) {
        /* Fewer are slower, no more */
        RMIG_LOG("jobs: %u threads: %s", jobs->threads->len, local->message);
        g_error_free(local);
    }
    return jobs;
}

void rmig_jobs_wait(RMigJobs *jobs)
{
    struct pollfd pfd = { .fd = jobs->fd, .events = POLLIN };

    while (rmig_jobs_reap(jobs) == 0) {
        poll(&pfd, 1, -1);
    }
}

void rmig_jobs_drain(RMigJobs *jobs)
{
    while (jobs->pending > 0) {
        rmig_jobs_wait(jobs);
    }
}

void rmig_jobs_free(RMigJobs *jobs)
{
    if (!jobs) {
        return;
    }
    rmig_jobs_drain(jobs);
    for (unsigned i = 0; i < jobs->threads->len; i++) {
        g_async_queue_push(jobs->todo, &the_end);
    }
    for (unsigned i = 0; i < jobs->threads->len; i++) {
        g_thread_join(g_ptr_array_index(jobs->threads, i));
    }
    g_ptr_array_unref(jobs->threads);
    g_async_queue_unref(jobs->todo);
    g_mutex_clear(&jobs->lock);
    if (jobs->fd >= 0) {
        close(jobs->fd);
    }
    g_free(jobs);
}

void rmig_jobs_add(RMigJobs *jobs, RMigJob *job)
{
    jobs->pending++;
    job->dropped = jobs->drops;
    if (!job->dropped && jobs->threads->len > 0) {
        g_async_queue_push(jobs->todo, job);
        return;
    }
    if (!job->dropped) {
        job->run(job);
    }
    finish(jobs, job);
}

void rmig_jobs_hurry(RMigJobs *jobs, RMigJob *job)
{
    if (g_async_queue_remove(jobs->todo, job)) {
        g_async_queue_push_front(jobs->todo, job);
    }
}

void rmig_jobs_drop(RMigJobs *jobs)
{
    RMigJob *job;

    jobs->drops = true;
    while ((job = g_async_queue_try_pop(jobs->todo))) {
        job->dropped = true;
        finish(jobs, job);
    }
}

unsigned rmig_jobs_reap(RMigJobs *jobs)
{
    unsigned n = 0;
    uint64_t drained;
    RMigJob *job;

    if (!jobs->ripe) {
        return 0;
    }
    g_mutex_lock(&jobs->lock);
    job = jobs->finished;
    jobs->finished = NULL;
    jobs->last = &jobs->finished;
    jobs->ripe = false;
    /* Under the lock: what is added next writes it anew */
    if (jobs->fd >= 0 && read(jobs->fd, &drained, sizeof(drained)) < 0) {
        RMIG_LOG("jobs: woken for nothing");
    }
    g_mutex_unlock(&jobs->lock);
    while (job) {
        RMigJob *next = job->next;

        jobs->pending--;
        job->done(job);
        job = next;
        n++;
    }
    return n;
}

unsigned rmig_jobs_pending(const RMigJobs *jobs)
{
    return jobs->pending;
}

int rmig_jobs_fd(const RMigJobs *jobs)
{
    return jobs->fd;
}
