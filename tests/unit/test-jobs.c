/*
 * Unit tests of the jobs room: run, brought back, waited for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With real threads and with none, which is how other tests use it.
 */
#include "jobs.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

typedef struct Task {
    RMigJob job;
    RMigJobs *jobs;
    GThread *home;      /* the connection's */
    GThread *ran_on;
    struct Gate *gate;  /* run() waits for it; NULL: no */
    _Atomic bool began;
    _Atomic unsigned runs;
    unsigned dones;
    unsigned drops;
    GPtrArray *order;   /* to which done() adds the task; NULL: no */
    unsigned again;     /* times that done() adds it once more */
    sigset_t mask;      /* of the thread that ran it */
} Task;

typedef struct Gate {
    GMutex lock;
    GCond cond;
    bool open;
} Gate;

static void gate_init(Gate *gate)
{
    g_mutex_init(&gate->lock);
    g_cond_init(&gate->cond);
    gate->open = false;
}

static void gate_clear(Gate *gate)
{
    g_mutex_clear(&gate->lock);
    g_cond_clear(&gate->cond);
}

static void gate_open(Gate *gate)
{
    g_mutex_lock(&gate->lock);
    gate->open = true;
    g_cond_broadcast(&gate->cond);
    g_mutex_unlock(&gate->lock);
}

static void gate_pass(Gate *gate)
{
    g_mutex_lock(&gate->lock);
    while (!gate->open) {
        g_cond_wait(&gate->cond, &gate->lock);
    }
    g_mutex_unlock(&gate->lock);
}

static void run(RMigJob *job)
{
    Task *task = (Task *)job;

    task->ran_on = g_thread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &task->mask);
    task->began = true;
    if (task->gate) {
        gate_pass(task->gate);
    }
    task->runs++;
}

static void done(RMigJob *job)
{
    Task *task = (Task *)job;

    g_assert_true(g_thread_self() == task->home);
    task->dones++;
    task->drops += job->dropped;
    g_assert_cmpuint(task->runs + task->drops, ==, task->dones);
    if (task->order) {
        g_ptr_array_add(task->order, task);
    }
    if (task->again > 0) {
        task->again--;
        rmig_jobs_add(task->jobs, job);
    }
}

static void task_init(Task *task, RMigJobs *jobs)
{
    memset(task, 0, sizeof(*task));
    task->job.run = run;
    task->job.done = done;
    task->jobs = jobs;
    task->home = g_thread_self();
}

static RMigJobs *jobs_new(unsigned threads)
{
    RMigJobs *jobs = rmig_jobs_new(threads, NULL);

    g_assert_nonnull(jobs);
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 0);
    return jobs;
}

static bool is_readable(const RMigJobs *jobs, int ms)
{
    struct pollfd pfd = { .fd = rmig_jobs_fd(jobs), .events = POLLIN };
    int n;

    do {
        n = poll(&pfd, 1, ms);
    } while (n < 0 && errno == EINTR);
    g_assert_cmpint(n, >=, 0);
    return n == 1;
}

/* Until everything is reaped; no longer than a test may take */
static void settle(RMigJobs *jobs)
{
    while (rmig_jobs_pending(jobs) > 0) {
        g_assert_true(is_readable(jobs, 30000));
        rmig_jobs_reap(jobs);
    }
}

static void await(_Atomic bool *flag)
{
    while (!*flag) {
        g_thread_yield();
    }
}

static void test_inline(void)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    RMigJobs *jobs = jobs_new(0);
    Task tasks[5];

    g_assert_cmpint(rmig_jobs_fd(jobs), ==, -1);
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_init(&tasks[i], jobs);
        tasks[i].order = order;
        rmig_jobs_add(jobs, &tasks[i].job);
        g_assert_cmpuint(tasks[i].runs, ==, 1);
        g_assert_true(tasks[i].ran_on == g_thread_self());
        g_assert_cmpuint(tasks[i].dones, ==, 0); /* that is for the reaping */
        g_assert_cmpuint(rmig_jobs_pending(jobs), ==, i + 1);
    }
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, G_N_ELEMENTS(tasks));
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_true(g_ptr_array_index(order, i) == &tasks[i]);
    }
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 0);
    rmig_jobs_free(jobs);
    rmig_jobs_free(NULL);
}

/* What done() adds is not reaped by the same call, but counts */
static void test_inline_again(void)
{
    RMigJobs *jobs = jobs_new(0);
    Task task;

    task_init(&task, jobs);
    task.again = 2;
    rmig_jobs_add(jobs, &task.job);
    for (unsigned i = 1; i <= 3; i++) {
        g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 1);
        g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 1);
        g_assert_cmpuint(task.dones, ==, i);
    }
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 0);
    rmig_jobs_free(jobs);
}

/* On another thread, that takes no signal of the program's */
static void test_thread(void)
{
    RMigJobs *jobs;
    sigset_t before, after;
    Task task;

    pthread_sigmask(SIG_SETMASK, NULL, &before);
    jobs = jobs_new(1);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    task_init(&task, jobs);
    rmig_jobs_add(jobs, &task.job);
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 1);
    settle(jobs);
    g_assert_cmpuint(task.dones, ==, 1);
    g_assert_true(task.ran_on != g_thread_self());
    for (int sig = 1; sig < 32; sig++) {
        g_assert_cmpint(sigismember(&after, sig), ==,
                        sigismember(&before, sig));
        if (sig != SIGKILL && sig != SIGSTOP) {
            g_assert_cmpint(sigismember(&task.mask, sig), ==, 1);
        }
    }
    rmig_jobs_free(jobs);
}

static void test_readable(void)
{
    RMigJobs *jobs = jobs_new(2);
    Task held, quick;
    Gate gate;

    gate_init(&gate);
    task_init(&held, jobs);
    held.gate = &gate;
    task_init(&quick, jobs);
    g_assert_false(is_readable(jobs, 0));

    rmig_jobs_add(jobs, &held.job);
    await(&held.began);
    g_assert_false(is_readable(jobs, 10));
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 0);

    rmig_jobs_add(jobs, &quick.job);
    g_assert_true(is_readable(jobs, 30000));
    g_assert_true(is_readable(jobs, 0)); /* looking takes nothing */
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 2);
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 1);
    g_assert_cmpuint(rmig_jobs_pending(jobs), ==, 1);
    g_assert_false(is_readable(jobs, 10));

    gate_open(&gate);
    g_assert_true(is_readable(jobs, 30000));
    g_assert_cmpuint(rmig_jobs_reap(jobs), ==, 1);
    g_assert_false(is_readable(jobs, 0));
    rmig_jobs_free(jobs);
    gate_clear(&gate);
}

/*
 * A reap may come at any moment of a worker's finishing.  Would the descriptor
 * stay readable, the connection's thread would spin until the next job is done.
 */
static void test_readable_race(void)
{
    unsigned n = g_test_quick() ? 3000 : 30000;
    RMigJobs *jobs = jobs_new(1);
    Task task;

    for (unsigned i = 0; i < n; i++) {
        task_init(&task, jobs);
        rmig_jobs_add(jobs, &task.job);
        while (rmig_jobs_reap(jobs) == 0) {
            /* again */
        }
        g_usleep(20);
        g_assert_false(is_readable(jobs, 0));
    }
    rmig_jobs_free(jobs);
}

/* One thread: as they were added.  Several: as they finished. */
static void test_order(void)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    RMigJobs *jobs = jobs_new(1);
    Task tasks[200];
    Gate gate;

    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_init(&tasks[i], jobs);
        tasks[i].order = order;
        rmig_jobs_add(jobs, &tasks[i].job);
    }
    settle(jobs);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_true(g_ptr_array_index(order, i) == &tasks[i]);
    }
    rmig_jobs_free(jobs);

    jobs = jobs_new(2);
    gate_init(&gate);
    g_ptr_array_set_size(order, 0);
    for (unsigned i = 0; i < 3; i++) {
        task_init(&tasks[i], jobs);
        tasks[i].order = order;
    }
    tasks[0].gate = &gate;
    rmig_jobs_add(jobs, &tasks[0].job);
    await(&tasks[0].began);
    rmig_jobs_add(jobs, &tasks[1].job);
    rmig_jobs_add(jobs, &tasks[2].job);
    await(&tasks[2].began); /* so the one before it has finished */
    gate_open(&gate);
    settle(jobs);
    g_assert_cmpuint(order->len, ==, 3);
    g_assert_true(g_ptr_array_index(order, 0) == &tasks[1]);
    rmig_jobs_free(jobs);
    gate_clear(&gate);
}

/* One that is in a hurry is the next; not so one that has begun */
static void test_hurry(void)
{
    static const unsigned expected[] = { 0, 5, 3, 1, 2, 4 };
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    RMigJobs *jobs = jobs_new(1);
    Task tasks[6];
    Gate gate;

    gate_init(&gate);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_init(&tasks[i], jobs);
        tasks[i].order = order;
    }
    tasks[0].gate = &gate;
    rmig_jobs_add(jobs, &tasks[0].job);
    await(&tasks[0].began);
    for (unsigned i = 1; i < G_N_ELEMENTS(tasks); i++) {
        rmig_jobs_add(jobs, &tasks[i].job);
    }
    rmig_jobs_hurry(jobs, &tasks[3].job);
    rmig_jobs_hurry(jobs, &tasks[5].job);
    rmig_jobs_hurry(jobs, &tasks[0].job);
    gate_open(&gate);
    settle(jobs);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_true(g_ptr_array_index(order, i) == &tasks[expected[i]]);
    }
    rmig_jobs_free(jobs);
    gate_clear(&gate);
}

/* What has not begun is reaped without being run, and so is what comes later */
static void test_drop(gconstpointer threads)
{
    unsigned n = GPOINTER_TO_UINT(threads);
    RMigJobs *jobs = jobs_new(n);
    Task tasks[20];
    Gate gate;

    gate_init(&gate);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_init(&tasks[i], jobs);
        tasks[i].gate = n ? &gate : NULL;
        if (i < 10) {
            rmig_jobs_add(jobs, &tasks[i].job);
        }
        if (i < n) {
            await(&tasks[i].began);
        }
    }
    rmig_jobs_drop(jobs);
    for (unsigned i = 10; i < G_N_ELEMENTS(tasks); i++) {
        rmig_jobs_add(jobs, &tasks[i].job);
    }
    gate_open(&gate);
    rmig_jobs_free(jobs);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpuint(tasks[i].dones, ==, 1);
        g_assert_cmpuint(tasks[i].runs, ==, i < (n ? n : 10));
    }
    gate_clear(&gate);
}

/* As many run at a time as there are threads */
static void test_side_by_side(void)
{
    RMigJobs *jobs = jobs_new(4);
    Task tasks[4];
    Gate gate;

    gate_init(&gate);
    for (unsigned i = 0; i < 4; i++) {
        task_init(&tasks[i], jobs);
        tasks[i].gate = &gate;
        rmig_jobs_add(jobs, &tasks[i].job);
    }
    for (unsigned i = 0; i < 4; i++) {
        await(&tasks[i].began);
    }
    gate_open(&gate);
    settle(jobs);
    rmig_jobs_free(jobs);
    gate_clear(&gate);
}

static void test_free(gconstpointer threads)
{
    RMigJobs *jobs = jobs_new(GPOINTER_TO_UINT(threads));
    Task tasks[100];

    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        task_init(&tasks[i], jobs);
        tasks[i].again = i % 4;
        rmig_jobs_add(jobs, &tasks[i].job);
    }
    rmig_jobs_free(jobs);
    for (unsigned i = 0; i < G_N_ELEMENTS(tasks); i++) {
        g_assert_cmpuint(tasks[i].dones, ==, 1 + i % 4);
        g_assert_cmpuint(tasks[i].runs, ==, 1 + i % 4);
    }

    rmig_jobs_free(jobs_new(GPOINTER_TO_UINT(threads))); /* nothing to do */
}

static void free_task(RMigJob *job)
{
    unsigned *freed = ((Task *)job)->order->pdata[0];

    ++*freed;
    g_ptr_array_unref(((Task *)job)->order);
    g_free(job);
}

/* Many, reaped all the while, each freed by its done() */
static void test_stress(gconstpointer threads)
{
    unsigned n = 20000;
    g_autoptr(GPtrArray) box = g_ptr_array_new();
    RMigJobs *jobs = jobs_new(GPOINTER_TO_UINT(threads));
    unsigned reaped = 0;
    unsigned freed = 0;

    g_ptr_array_add(box, &freed);
    for (unsigned i = 0; i < n; i++) {
        Task *task = g_new(Task, 1);

        task_init(task, jobs);
        task->job.done = free_task;
        task->order = g_ptr_array_ref(box);
        rmig_jobs_add(jobs, &task->job);
        if (i % 7 == 0) {
            reaped += rmig_jobs_reap(jobs);
        }
        g_assert_cmpuint(rmig_jobs_pending(jobs), ==, i + 1 - reaped);
        g_assert_cmpuint(freed, ==, reaped);
    }
    rmig_jobs_free(jobs);
    g_assert_cmpuint(freed, ==, n);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/jobs/inline", test_inline);
    g_test_add_func("/jobs/inline/again", test_inline_again);
    g_test_add_func("/jobs/thread", test_thread);
    g_test_add_func("/jobs/readable", test_readable);
    g_test_add_func("/jobs/readable/race", test_readable_race);
    g_test_add_func("/jobs/order", test_order);
    g_test_add_func("/jobs/hurry", test_hurry);
    g_test_add_data_func("/jobs/drop/inline", GUINT_TO_POINTER(0), test_drop);
    g_test_add_data_func("/jobs/drop/threads", GUINT_TO_POINTER(3), test_drop);
    g_test_add_func("/jobs/side-by-side", test_side_by_side);
    g_test_add_data_func("/jobs/free/inline", GUINT_TO_POINTER(0), test_free);
    g_test_add_data_func("/jobs/free/threads", GUINT_TO_POINTER(3), test_free);
    g_test_add_data_func("/jobs/stress/inline", GUINT_TO_POINTER(0),
                         test_stress);
    g_test_add_data_func("/jobs/stress/threads", GUINT_TO_POINTER(4),
                         test_stress);
    return g_test_run();
}
