/*
 * RDMA migration transport: what a migration leaves behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See reaper.h.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "log.h"
#include "reaper.h"

static GMutex lock;
static GCond idle;
static unsigned underway; /* threads, under @lock */

static void bury(RMigRemains *r)
{
    rmig_mr_table_cleanup(&r->table);
    rmig_conn_cleanup(&r->back);
    rmig_conn_cleanup(&r->main);
    if (r->released) {
        r->released();
    }
    g_free(r);
}

static gpointer run(gpointer opaque)
{
    int64_t start = g_get_monotonic_time();

    bury(opaque);
    RMIG_LOG("reaper: done in %" G_GINT64_FORMAT " us",
             g_get_monotonic_time() - start);
    g_mutex_lock(&lock);
    if (--underway == 0) {
        g_cond_broadcast(&idle);
    }
    g_mutex_unlock(&lock);
    return NULL;
}

/* Verbs objects that are left when a program ends are the kernel's to free */
static void wait_at_exit(void)
{
    rmig_reaper_wait();
}

static GThread *start(RMigRemains *remains)
{
    static gsize registered;
    sigset_t all, before;
    GThread *thread;

    if (g_once_init_enter(&registered)) {
        atexit(wait_at_exit);
        g_once_init_leave(&registered, 1);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = g_thread_try_new("rdma-reaper", run, remains, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

void rmig_reaper_take(const RMigRemains *remains, bool here)
{
    RMigRemains *copy = g_memdup2(remains, sizeof(*remains));
    GThread *thread;

    if (here) {
        bury(copy);
        return;
    }
    g_mutex_lock(&lock);
    underway++;
    g_mutex_unlock(&lock);
    thread = start(copy);
    if (thread) {
        g_thread_unref(thread);
    } else {
        run(copy);
    }
}

void rmig_reaper_wait(void)
{
    g_mutex_lock(&lock);
    while (underway > 0) {
        g_cond_wait(&idle, &lock);
    }
    g_mutex_unlock(&lock);
}
