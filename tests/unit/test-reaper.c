/*
 * Unit tests of the reaper room: freed here, or beside us and waited for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs: a link that goes before the memory that was
 * registered through it fails the test.  Holding the lock of the fake of verbs
 * holds up whoever unregisters.
 */
#include "fake-link.h"
#include "reaper.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB RMIG_CHUNK_BYTES

/* Three regions of a table of its own verbs, which outlive the burial */
typedef struct Fixture {
    RMigVerbs *verbs;
    RMigBlocks blocks;
    RMigRemains remains;
    GThread *holder; /* of the verbs' lock */
    GMutex lock;
    GCond cond;
    bool held;
    bool let_go; /* likewise under @lock */
} Fixture;

static void fill_table(RMigMrTable *table, RMigVerbs *verbs,
                       const RMigBlocks *blocks)
{
    RMigJobs *jobs = rmig_jobs_new(0, NULL);
    const RMigBlock *block = rmig_blocks_get(blocks, 0);

    rmig_mr_table_init(table, verbs, jobs, blocks, true, UINT64_MAX);
    for (unsigned i = 0; i < 3; i++) {
        rmig_span_install(rmig_span_register(table, block, 2 * i, 2));
    }
    rmig_jobs_free(jobs);
    g_assert_cmpuint(verbs->mrs->len, ==, 3);
}

static void setup(Fixture *f)
{
    memset(f, 0, sizeof(*f));
    g_mutex_init(&f->lock);
    g_cond_init(&f->cond);
    f->verbs = fake_verbs_new();
    rmig_blocks_init(&f->blocks);
    g_assert_true(rmig_blocks_add(&f->blocks, "ram",
                                  (void *)(uintptr_t)0x7f0000000000, 0,
                                  6 * MIB, NULL));
    fill_table(&f->remains.table, f->verbs, &f->blocks);
}

static void teardown(Fixture *f)
{
    g_assert_cmpuint(f->verbs->mrs->len, ==, 0);
    rmig_blocks_cleanup(&f->blocks);
    fake_verbs_free(f->verbs);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->cond);
}

/* ---- holding up ---- */

static gpointer hold(gpointer opaque)
{
    Fixture *f = opaque;

    g_mutex_lock(&f->verbs->lock);
    g_mutex_lock(&f->lock);
    f->held = true;
    g_cond_broadcast(&f->cond);
    while (!f->let_go) {
        g_cond_wait(&f->cond, &f->lock);
    }
    g_mutex_unlock(&f->lock);
    /* Whoever does not wait is ahead of what comes now */
    g_usleep(20000);
    g_assert_cmpuint(f->verbs->mrs->len, ==, 3);
    g_mutex_unlock(&f->verbs->lock);
    return NULL;
}

static void hold_up(Fixture *f)
{
    f->holder = g_thread_new("holder", hold, f);
    g_mutex_lock(&f->lock);
    while (!f->held) {
        g_cond_wait(&f->cond, &f->lock);
    }
    g_mutex_unlock(&f->lock);
}

static void let_go(Fixture *f)
{
    g_mutex_lock(&f->lock);
    f->let_go = true;
    g_cond_broadcast(&f->cond);
    g_mutex_unlock(&f->lock);
}

/* ---- tests ---- */

static void test_here(void)
{
    Fixture f;

    setup(&f);
    rmig_reaper_take(&f.remains, true);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    rmig_reaper_wait(NULL); /* for nothing */
    teardown(&f);
}

static void test_beside(void)
{
    Fixture f;

    setup(&f);
    hold_up(&f);
    rmig_reaper_take(&f.remains, false); /* returns, though it is held up */
    memset(&f.remains, 0, sizeof(f.remains)); /* it has its own copy */
    let_go(&f);
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    g_thread_join(f.holder);
    rmig_reaper_wait(NULL);
    teardown(&f);
}

/* Waiting is for all of them */
static void test_several(void)
{
    Fixture f, more[3];

    setup(&f);
    hold_up(&f);
    rmig_reaper_take(&f.remains, false);
    for (unsigned i = 0; i < G_N_ELEMENTS(more); i++) {
        setup(&more[i]);
        rmig_reaper_take(&more[i].remains, false);
    }
    let_go(&f);
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(more); i++) {
        teardown(&more[i]);
    }
    g_thread_join(f.holder);
    teardown(&f);
}

/* ---- waiting can be ended ---- */

static gpointer shut_down(gpointer shutdown)
{
    g_usleep(20000);
    rmig_shutdown_trigger(shutdown);
    return NULL;
}

/* Whoever waits is told to leave; what is under way goes on */
static void test_shutdown(void)
{
    RMigShutdown *shutdown = rmig_shutdown_new(NULL);
    GThread *thread;
    Fixture f;

    setup(&f);
    hold_up(&f);
    rmig_reaper_take(&f.remains, false);
    thread = g_thread_new("canceller", shut_down, shutdown);
    rmig_reaper_wait(shutdown);
    /* Who holds it up has not been told to let go */
    g_assert_false(f.let_go);
    g_thread_join(thread);
    rmig_reaper_wait(shutdown); /* later waits neither */
    let_go(&f);
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    g_thread_join(f.holder);
    rmig_shutdown_free(shutdown);
    teardown(&f);
}

/* A source that waits for an earlier migration can be cancelled */
static void test_connect(void)
{
    RMigSourceConfig config = { .waiter = rmig_poll_waiter };
    struct sockaddr addr = { .sa_family = AF_INET };
    RMigSource *source = rmig_source_new(&config, NULL);
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    hold_up(&f);
    rmig_reaper_take(&f.remains, false);
    rmig_source_shutdown(source);
    g_assert_false(rmig_source_connect(source, &addr, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN);
    let_go(&f);
    rmig_source_free(source);
    rmig_reaper_wait(NULL);
    g_thread_join(f.holder);
    teardown(&f);
}

static uint64_t ram_bytes(void *opaque)
{
    (void)opaque;
    return 0;
}

/* A destination does not even begin to wait: it would in the main loop */
static void test_listen(void)
{
    static const RMigDestOps ops = { .ram_bytes = ram_bytes };
    RMigDestConfig config = { .waiter = rmig_poll_waiter, .ops = &ops };
    struct sockaddr addr = { .sa_family = AF_INET };
    RMigDest *dest;
    Fixture f;

    setup(&f);
    hold_up(&f);
    rmig_reaper_take(&f.remains, false);
    dest = rmig_dest_new(&config, &addr, NULL);
    g_assert_nonnull(dest);
    g_assert_false(f.let_go);
    let_go(&f);
    rmig_dest_free(dest);
    rmig_reaper_wait(NULL);
    g_thread_join(f.holder);
    teardown(&f);
}

/* ---- several at a time ---- */

static GMutex together;
static GCond came;
static unsigned inside;

/* Nobody leaves before two have come */
static void meet(RMigVerbs *verbs)
{
    (void)verbs;
    g_mutex_lock(&together);
    inside++;
    g_cond_broadcast(&came);
    while (inside < 2) {
        g_cond_wait(&came, &together);
    }
    g_mutex_unlock(&together);
}

static void test_side_by_side(void)
{
    Fixture f;

    inside = 0;
    setup(&f);
    f.verbs->unregistering = meet;
    rmig_reaper_take(&f.remains, false);
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(inside, ==, 3);
    teardown(&f);
}

/* Told to stop, what has not begun stays as it is */
static void test_stop(void)
{
    gint stop = 1;
    Fixture f;

    setup(&f);
    rmig_mr_table_unpin(&f.remains.table, 4, &stop);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    stop = 0;
    rmig_mr_table_unpin(&f.remains.table, 0, &stop);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    rmig_mr_table_cleanup(&f.remains.table);
    teardown(&f);
}

/* Memory of a connection goes before the connection; nothing is left of it */
static void check_connections(bool here)
{
    RMigRemains remains = { 0 };
    RMigLink *main_link = fake_link_new();
    RMigLink *back_link = fake_link_new();
    RMigBlocks blocks;

    rmig_blocks_init(&blocks);
    g_assert_true(rmig_blocks_add(&blocks, "ram",
                                  (void *)(uintptr_t)0x7f0000000000, 0,
                                  6 * MIB, NULL));
    fill_table(&remains.table, main_link->verbs, &blocks);
    g_assert_true(rmig_conn_init(&remains.main, main_link, true, NULL));
    g_assert_true(rmig_conn_init(&remains.back, back_link, false, NULL));
    rmig_conn_disconnect(&remains.main, true);
    rmig_conn_disconnect(&remains.back, true);
    rmig_blocks_cleanup(&blocks); /* the cleanup does not need them */
    rmig_reaper_take(&remains, here);
    rmig_reaper_wait(NULL);
}

static void test_connections(void)
{
    check_connections(true);
    check_connections(false);
}

/* Who asked is told when all of it is gone, and not before */
static RMigVerbs *telling;
static unsigned times_told;

static void released(void)
{
    g_assert_cmpuint(telling->mrs->len, ==, 0);
    times_told++;
}

static void test_released(void)
{
    Fixture f;

    for (unsigned here = 0; here < 2; here++) {
        setup(&f);
        telling = f.verbs;
        f.remains.released = released;
        if (!here) {
            hold_up(&f);
        }
        rmig_reaper_take(&f.remains, here);
        if (!here) {
            let_go(&f);
        }
        rmig_reaper_wait(NULL);
        g_assert_cmpuint(times_told, ==, here + 1);
        if (!here) {
            g_thread_join(f.holder);
        }
        teardown(&f);
    }
}

static void test_nothing(void)
{
    RMigRemains nothing = { 0 };

    rmig_reaper_take(&nothing, true);
    rmig_reaper_take(&nothing, false);
    rmig_reaper_wait(NULL);
}

/* ---- the end of the program ---- */

static Fixture at_exit;

/* Registered first, so it is called last */
static void look_at_exit(void)
{
    if (at_exit.verbs->mrs->len > 0) {
        _exit(99);
    }
    g_thread_join(at_exit.holder);
    teardown(&at_exit);
}

static void test_exit(void)
{
    if (g_test_subprocess()) {
        setup(&at_exit);
        atexit(look_at_exit);
        hold_up(&at_exit);
        rmig_reaper_take(&at_exit.remains, false);
        let_go(&at_exit);
        exit(0);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
}

static gint in_driver;

static void never_end(RMigVerbs *verbs)
{
    (void)verbs;
    g_atomic_int_set(&in_driver, 1);
    for (;;) {
        pause();
    }
}

/* A worker that never ends is left to the kernel */
static void test_exit_stuck(void)
{
    if (g_test_subprocess()) {
        setup(&at_exit);
        at_exit.verbs->registering = never_end;
        at_exit.remains.jobs = rmig_jobs_new(2, NULL);
        at_exit.remains.table.jobs = at_exit.remains.jobs;
        rmig_span_register(&at_exit.remains.table,
                           rmig_blocks_get(&at_exit.blocks, 0), 0, 1);
        while (!g_atomic_int_get(&in_driver)) {
            g_usleep(1000);
        }
        rmig_reaper_take(&at_exit.remains, false);
        exit(0);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/reaper/here", test_here);
    g_test_add_func("/reaper/beside", test_beside);
    g_test_add_func("/reaper/several", test_several);
    g_test_add_func("/reaper/shutdown", test_shutdown);
    g_test_add_func("/reaper/shutdown/connect", test_connect);
    g_test_add_func("/reaper/listen", test_listen);
    g_test_add_func("/reaper/side-by-side", test_side_by_side);
    g_test_add_func("/reaper/stop", test_stop);
    g_test_add_func("/reaper/connections", test_connections);
    g_test_add_func("/reaper/released", test_released);
    g_test_add_func("/reaper/nothing", test_nothing);
    g_test_add_func("/reaper/exit", test_exit);
    g_test_add_func("/reaper/exit/stuck", test_exit_stuck);
    return g_test_run();
}
