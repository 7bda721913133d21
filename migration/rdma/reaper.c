/*
 * RDMA migration transport: what a migration leaves behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See reaper.h.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "reaper.h"

/* How long the end of the program is put off, and then for a region at most */
#define EXIT_MS 5000

/* Somebody who waits, until it is woken or has enough of it */
typedef struct Waiter {
    int fd; /* an eventfd */
    struct Waiter *next;
} Waiter;

static GMutex lock;
static unsigned underway; /* threads, under @lock */
static Waiter *waiters;   /* likewise */
static gint stop;         /* the program ends: nothing more is begun */

/*
 * Whoever may still write into the memory has gone before; what the workers are
 * in the middle of is known when they have ended, so they come first
 */
static void bury(RMigRemains *r, unsigned threads)
{
    /* But for a last report: that somebody waits for */
    rmig_conn_disconnect(&r->back, false);
    rmig_mr_table_moved(&r->table);
    rmig_jobs_free(r->jobs);
    rmig_mr_table_unpin(&r->table, threads, &stop);
    if (g_atomic_int_get(&stop)) {
        return; /* it may still be registered */
    }
    rmig_mr_table_cleanup(&r->table);
    rmig_blocks_cleanup(&r->blocks);
    rmig_conn_cleanup(&r->back);
    rmig_conn_cleanup(&r->main);
    if (r->released) {
        r->released();
    }
    g_free(r);
}

/* Under the lock */
static void wake_waiters(void)
{
    uint64_t one = 1;

    for (Waiter *w = waiters; w && underway == 0; w = w->next) {
        if (write(w->fd, &one, sizeof(one)) < 0) {
            RMIG_LOG("reaper: waking a waiter failed: %s", g_strerror(errno));
        }
    }
}

static gpointer run(gpointer opaque)
{
    int64_t start = g_get_monotonic_time();

    bury(opaque, RMIG_REGISTER_THREADS);
    RMIG_LOG("reaper: done in %" G_GINT64_FORMAT " us",
             g_get_monotonic_time() - start);
    g_mutex_lock(&lock);
    underway--;
    wake_waiters();
    g_mutex_unlock(&lock);
    return NULL;
}

/* Under the lock */
static void forget(const Waiter *waiter)
{
    for (Waiter **at = &waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            return;
        }
    }
}

/* Returns whether all is freed; @ms -1: any time */
static bool await_idle(const RMigShutdown *shutdown, int ms)
{
    Waiter self = { .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    struct pollfd pfd[] = {
        { .fd = self.fd, .events = POLLIN },
        { .fd = shutdown ? rmig_shutdown_fd(shutdown) : -1, .events = POLLIN },
    };
    uint64_t woken;
    bool idle;

    g_mutex_lock(&lock);
    self.next = waiters;
    waiters = &self;
    /* Without a descriptor to wait on nobody waits */
    while (underway > 0 && self.fd >= 0 &&
           !(shutdown && rmig_shutdown_triggered(shutdown))) {
        bool late;

        g_mutex_unlock(&lock);
        late = poll(pfd, G_N_ELEMENTS(pfd), ms) == 0;
        g_mutex_lock(&lock);
        /* Another may have begun meanwhile; then there is more to wait for */
        if (read(self.fd, &woken, sizeof(woken)) < 0 && late) {
            break;
        }
    }
    forget(&self);
    idle = underway == 0;
    g_mutex_unlock(&lock);
    if (self.fd >= 0) {
        close(self.fd);
    }
    return idle;
}

/* Verbs objects that are left when a program ends are the kernel's to free */
static void wait_at_exit(void)
{
    if (!await_idle(NULL, EXIT_MS)) {
        g_atomic_int_set(&stop, 1);
        (void)await_idle(NULL, EXIT_MS);
    }
}

static GThread *start(RMigRemains *remains)
{
    sigset_t all, before;
    GThread *thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = g_thread_try_new("rdma-reaper", run, remains, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

/* One more is under way */
static void begin(void)
{
    static bool began; /* under @lock */

    g_mutex_lock(&lock);
    if (!began) {
        began = true;
        atexit(wait_at_exit);
    }
    underway++;
    g_mutex_unlock(&lock);
}

void rmig_reaper_take(const RMigRemains *remains, bool here)
{
    RMigRemains *copy = g_memdup2(remains, sizeof(*remains));
    GThread *thread;

    if (here) {
        bury(copy, 0);
        return;
    }
    begin();
    thread = start(copy);
    if (thread) {
        g_thread_unref(thread);
    } else {
        run(copy);
    }
}

void rmig_reaper_wait(const RMigShutdown *shutdown)
{
    (void)await_idle(shutdown, -1);
}
