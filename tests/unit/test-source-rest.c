/*
 * Unit tests of the source: pin-all beside the first pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of source-fixture.h, with workers that are slower than the
 * destination: a gate holds up each registration here.
 */
#include "reaper.h"
#include "source-fixture.h"
#include "source-priv.h"

#include <string.h>

#define RAM_CHUNKS 320
/* One, so that regions come in the order in which they were begun */
#define THREADS 1
/* As source-ahead.c has it, and the span that was begun below it */
#define REST_CHUNKS_MOST (128 + 8)

typedef struct Gate {
    GMutex lock;
    GCond cond;
    bool open;
    bool reached;
    unsigned passed;
    unsigned released;
} Gate;

static Gate gate;

/* On the worker */
static bool hold_up(RMigVerbs *verbs, uint64_t bytes)
{
    (void)verbs;
    (void)bytes;
    g_mutex_lock(&gate.lock);
    gate.reached = true;
    g_cond_broadcast(&gate.cond);
    while (!gate.open) {
        g_cond_wait(&gate.cond, &gate.lock);
    }
    gate.passed++;
    g_mutex_unlock(&gate.lock);
    return false;
}

static void await_worker(void)
{
    g_mutex_lock(&gate.lock);
    while (!gate.reached) {
        g_cond_wait(&gate.cond, &gate.lock);
    }
    g_mutex_unlock(&gate.lock);
}

static void open_gate(void)
{
    g_mutex_lock(&gate.lock);
    gate.open = true;
    g_cond_broadcast(&gate.cond);
    g_mutex_unlock(&gate.lock);
}

static void init_gate(void)
{
    memset(&gate, 0, sizeof(gate));
    g_mutex_init(&gate.lock);
    g_cond_init(&gate.cond);
}

static void setup_rest(Fixture *f)
{
    setup_mode(f, &(Mode) {
        .flags = RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_PIN_ALL,
        .pin_all = true,
        .threads = THREADS,
        .ram_bytes = RAM_CHUNKS * MIB,
    });
    init_gate();
    f->verbs->refuse = hold_up;
    g_assert_true(rmig_source_pins_all(f->source));
    g_assert_true(rmig_source_exchange(f->source, NULL));
    g_assert_true(rmig_source_finish(f->source, NULL));
    /* Zero pages wait for nothing, and the destination pins what it is told */
    for (uint64_t n = 0; n < 4 * MIB / PAGE; n++) {
        g_assert_cmpint(page(f, 0, n), ==, RMIG_PAGE_ZERO);
    }
}

static void teardown_rest(Fixture *f)
{
    teardown(f);
    rmig_reaper_wait(NULL); /* a worker may still be at the gate */
    g_mutex_clear(&gate.lock);
    g_cond_clear(&gate.cond);
}

/* What waits for the workers does not grow with the time that they take */
static void test_bounded(void)
{
    RMigMrTable *table;
    Fixture f;

    setup_rest(&f);
    table = &f.source->ahead.local;
    g_assert_cmpuint(table->registering_bytes, >=, 64 * MIB);
    g_assert_cmpuint(table->registering_bytes, <=, REST_CHUNKS_MOST * MIB);
    g_assert_cmpuint(f.pinned_bytes, <=, REST_CHUNKS_MOST * MIB);
    g_assert_cmpuint(f.source->ahead.pin_left, >, 0);
    open_gate();
    teardown_rest(&f);
}

/* When the source has nothing left to do but to sleep */
static bool let_go(RMigLink *link)
{
    if (link->in_step) {
        open_gate();
    }
    return false;
}

/* A page that is needed now does not wait for all that is only rest */
static void test_needed_first(void)
{
    const RMigMr *mr;
    unsigned i = 0;
    uint64_t chunk;
    Fixture f;

    setup_rest(&f);
    chunk = REST_CHUNKS_MOST - 16;
    g_assert_nonnull(rmig_mr_table_find(&f.source->ahead.local,
                                        rmig_blocks_get(&f.source->blocks, 0),
                                        chunk));
    f.link->owes = let_go;
    dirty(&f, 0, chunk * MIB / PAGE);
    g_assert_cmpint(page(&f, 0, chunk * MIB / PAGE), ==, RMIG_PAGE_DATA);
    /* Regions in the order of registering; two sides' message buffers apart */
    do {
        mr = g_ptr_array_index(f.verbs->mrs, i++);
    } while (f.block[0].ours + chunk * MIB < mr->addr ||
             f.block[0].ours + chunk * MIB >= mr->addr + mr->bytes);
    g_assert_cmpuint(i, <=, 1 + THREADS + 1);
    teardown_rest(&f);
}

static gpointer open_when_left(gpointer opaque)
{
    RMigLink *link = opaque;

    while (!g_atomic_int_get(&link->disconnected)) {
        g_usleep(1000);
    }
    open_gate();
    return NULL;
}

/* What has not begun when the connection is closed is not registered at all */
static void test_close(void)
{
    GThread *thread;
    Fixture f;

    setup_rest(&f);
    g_assert_cmpuint(rmig_jobs_pending(f.source->jobs), >, 2 * THREADS);
    thread = g_thread_new("opener", open_when_left, f.link);
    rmig_source_close(f.source, true);
    g_thread_join(thread);
    rmig_reaper_wait(NULL); /* the fakes check that nothing stays registered */
    g_assert_cmpuint(gate.passed, <=, THREADS);
    teardown_rest(&f);
}

static void released(void)
{
    g_assert_true(gate.open);
    gate.released++;
}

/*
 * Nor does closing wait for what has begun: that is told of when it has ended.
 * A worker stands at the gate all the while.
 */
static void test_close_stuck(void)
{
    Fixture f;

    setup_rest(&f);
    await_worker();
    f.source->config.released = released;
    rmig_source_close(f.source, true);
    teardown(&f); /* it is not needed any more, nor is the guest's memory */
    open_gate();
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(gate.released, ==, 1);
    g_assert_cmpuint(gate.passed, <=, THREADS);
    g_mutex_clear(&gate.lock);
    g_cond_clear(&gate.cond);
}

/* A wait without a deadline goes on */
static void rest(RMigLink *link)
{
    (void)link;
}

static gpointer cancel_when_held(gpointer opaque)
{
    await_worker();
    rmig_source_shutdown(opaque);
    return NULL;
}

/* Pinning all for a peer of version 1, cancelled in the middle of it */
static void test_pin_all_stuck(void)
{
    g_autoptr(GError) err = NULL;
    GThread *thread;
    Fixture f;

    init_gate();
    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_PIN_ALL, .pin_all = true,
                             .threads = THREADS });
    f.link->watched_wait_ms = 1;
    f.link->patience = rest;
    f.verbs->refuse = hold_up;
    f.source->config.released = released;
    thread = g_thread_new("canceller", cancel_when_held, f.source);
    g_assert_false(rmig_source_exchange(f.source, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN);
    g_thread_join(thread);
    rmig_source_close(f.source, true);
    teardown(&f);
    open_gate();
    rmig_reaper_wait(NULL);
    g_assert_cmpuint(gate.released, ==, 1);
    g_mutex_clear(&gate.lock);
    g_cond_clear(&gate.cond);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/source/rest/bounded", test_bounded);
    g_test_add_func("/source/rest/needed-first", test_needed_first);
    g_test_add_func("/source/rest/close", test_close);
    g_test_add_func("/source/rest/close/stuck", test_close_stuck);
    g_test_add_func("/source/pin-all/stuck", test_pin_all_stuck);
    return g_test_run();
}
