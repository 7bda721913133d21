/*
 * Unit tests of the destination: leaving while its workers are busy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On dest-fixture.h.  A worker stands at a gate inside of the driver; were it
 * waited for, closing would never return, and the test not end.
 */
#include "dest-fixture.h"
#include "reaper.h"

#define EXTENSIONS (RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET)

/* ---- gates ---- */

typedef struct Gate {
    GMutex lock;
    GCond moved;
    bool open;
    bool reached;
} Gate;

static Gate driver, clearing;

static void stop_at(Gate *gate)
{
    g_mutex_lock(&gate->lock);
    gate->reached = true;
    g_cond_broadcast(&gate->moved);
    while (!gate->open) {
        g_cond_wait(&gate->moved, &gate->lock);
    }
    g_mutex_unlock(&gate->lock);
}

static void await_somebody(Gate *gate)
{
    g_mutex_lock(&gate->lock);
    while (!gate->reached) {
        g_cond_wait(&gate->moved, &gate->lock);
    }
    g_mutex_unlock(&gate->lock);
}

static void set_gate(Gate *gate, bool open)
{
    g_mutex_lock(&gate->lock);
    gate->open = open;
    gate->reached = false;
    g_cond_broadcast(&gate->moved);
    g_mutex_unlock(&gate->lock);
}

static void stop_in_driver(RMigVerbs *verbs)
{
    (void)verbs;
    stop_at(&driver);
}

static void stop_clearing(void)
{
    stop_at(&clearing);
}

/* ---- fixture ---- */

static gint times_released;

static void released(void)
{
    g_atomic_int_inc(&times_released);
}

static void setup_close(Fixture *f)
{
    times_released = 0;
    set_gate(&driver, false);
    set_gate(&clearing, false);
    setup_config(f, (RMigDestConfig) { .register_threads = 3,
                                       .released = released });
    accept_main(f, EXTENSIONS);
    obey(f);
    note_blocks(f);
    fake_link_script_type(f->link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    finish(f);
}

static void register_two(Fixture *f)
{
    script_register(f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 0);
    script_register(f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET + MIB, 0);
    finish(f);
}

/* Where a worker is when the source leaves */
static Gate *leaves_at;

static bool source_leaves(RMigLink *link)
{
    await_somebody(leaves_at);
    fake_link_script_close(link);
    return true;
}

/* What was scripted comes before */
static void serve_until_it_leaves(Fixture *f, Gate *gate)
{
    g_autoptr(GError) err = NULL;

    while (!g_queue_is_empty(&f->link->script)) {
        g_queue_push_tail(&f->commands, g_queue_pop_head(&f->link->script));
    }
    leaves_at = gate;
    f->link->owes = source_leaves;
    while (f->ready > 0 && !g_queue_is_empty(&f->commands)) {
        fake_link_script(f->link, g_queue_pop_head(&f->commands));
        f->ready--;
    }
    g_assert_false(rmig_dest_handle(f->dest, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED);
}

/* Nothing of it is there any more, and a worker is still in the driver */
static void assert_left(Fixture *f)
{
    teardown(f);
    g_assert_cmpint(g_atomic_int_get(&times_released), ==, 0);
}

/* The fakes check that nothing stays registered */
static void assert_released(void)
{
    set_gate(&driver, true);
    rmig_reaper_wait(NULL);
    g_assert_cmpint(g_atomic_int_get(&times_released), ==, 1);
}

/* ---- tests ---- */

/* @succeeds: in the end; a registration that nobody waits for any more fails */
static void test_registering(gconstpointer succeeds)
{
    Fixture f;

    setup_close(&f);
    f.verbs->registering = stop_in_driver;
    f.verbs->fail_register = succeeds ? -1 : 0;
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 1);
    serve_until_it_leaves(&f, &driver);
    rmig_dest_close(f.dest, true);
    g_assert_true(f.link->disconnected);
    assert_left(&f);
    assert_released();
}

/* A dest that is freed is closed */
static void test_freed(void)
{
    Fixture f;

    setup_close(&f);
    f.verbs->registering = stop_in_driver;
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 1);
    serve_until_it_leaves(&f, &driver);
    assert_left(&f);
    assert_released();
}

/* The report on the return path goes out meanwhile */
static void test_letting_go(void)
{
    RMigLink *back = fake_link_new();
    Fixture f;

    setup_close(&f);
    fake_link_offer(back);
    g_assert_cmpint(rmig_dest_accept(f.dest, NULL), ==, RMIG_ACCEPTED_RETURN);
    register_two(&f);
    f.verbs->unregistering = stop_in_driver;
    script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 0, 0);
    finish(&f);
    await_somebody(&driver);
    rmig_dest_close(f.dest, false);
    while (!g_atomic_int_get(&back->disconnected)) {
        g_usleep(1000);
    }
    assert_left(&f);
    assert_released();
}

static gpointer clear_when_left(gpointer opaque)
{
    RMigLink *link = opaque;

    while (!g_atomic_int_get(&link->disconnected)) {
        g_usleep(1000);
    }
    g_usleep(20000); /* whoever does not wait is ahead of it */
    set_gate(&clearing, true);
    return NULL;
}

/* Clearing has ended when closing has: the memory is not the migration's */
static void test_clearing(void)
{
    GThread *thread;
    Fixture f;

    setup_close(&f);
    register_two(&f);
    f.verbs->unregistering = stop_in_driver;
    script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 0, 0);
    finish(&f);
    await_somebody(&driver);
    f.zeroing = stop_clearing;
    script_zero_run(&f, 0, RAM, RAM_OFFSET + 2 * MIB, MIB);
    thread = g_thread_new("clearer", clear_when_left, f.link);
    serve_until_it_leaves(&f, &clearing);
    rmig_dest_close(f.dest, true);
    g_assert_cmpuint(f.zeroed_bytes, ==, MIB);
    g_thread_join(thread);
    assert_left(&f);
    assert_released();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/dest/close/registering", GUINT_TO_POINTER(1),
                         test_registering);
    g_test_add_data_func("/dest/close/registering/fails", GUINT_TO_POINTER(0),
                         test_registering);
    g_test_add_func("/dest/close/freed", test_freed);
    g_test_add_func("/dest/close/letting-go", test_letting_go);
    g_test_add_func("/dest/close/clearing", test_clearing);
    return g_test_run();
}
