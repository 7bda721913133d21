/*
 * verbsim: the NIC, a thread that does what an adapter's hardware would
 *
 * Started with the first device or event channel of the process, it lives
 * until the process ends.  One epoll set has the sockets of the other NICs,
 * the listening socket and the doorbell; timers bound the sleep.  It holds
 * vs_lock except while it sleeps and copies.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "hold.h"
#include "nic.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 64, LEAK_EXIT = 99 };

pthread_mutex_t vs_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t vs_idle = PTHREAD_COND_INITIALIZER;
unsigned vs_slot;
bool vs_port_up = true;
bool vs_removed;
bool vs_frozen;
const VsCmOps *vs_cm_ops;

static int epoll_fd = -1, doorbell = -1, listener = -1;
static pid_t started_by;
static atomic_bool rung, asleep;
static GPtrArray *timers;       /* VsTimer * that are set */
static GQueue scheduled = G_QUEUE_INIT;
static GQueue ack_owers = G_QUEUE_INIT;

/* ------------------------------------------------------------ small things */

uint64_t vs_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void vs_sleep_ns(uint64_t ns)
{
    struct timespec left = { (time_t)(ns / 1000000000),
                             (long)(ns % 1000000000) };

    while (ns && clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
        continue;
    }
}

void vs_complain(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fprintf(stderr, "verbsim: %s\n", text);
    VS_TRACE("complaint", "text=\"%s\"", text);
}

int vs_unimplemented(const char *function)
{
    /* A bare name is a function's; "NAME: WHAT" is a part of what it does. */
    vs_complain("%s%s not implemented; docs/verbsim.md lists what is",
                function, strchr(function, ' ') ? " is" : "() is");
    errno = ENOSYS;
    return ENOSYS;
}

/* ------------------------------------------------------------------ timers */

void vs_timer_set(VsTimer *timer, uint64_t at_ns)
{
    if (!timer->listed) {
        if (!timers) {
            timers = g_ptr_array_new();
        }
        g_ptr_array_add(timers, timer);
        timer->listed = true;
    }
    timer->at_ns = MAX(at_ns, 1);
    vs_nic_kick();
}

void vs_timer_clear(VsTimer *timer)
{
    if (timer->listed) {
        g_ptr_array_remove_fast(timers, timer);
        timer->listed = false;
    }
    timer->at_ns = 0;
}

static VsTimer *first_timer(void)
{
    VsTimer *first = NULL;

    for (unsigned i = 0; timers && i < timers->len; i++) {
        VsTimer *timer = timers->pdata[i];

        if (!first || timer->at_ns < first->at_ns) {
            first = timer;
        }
    }
    return first;
}

/* Fires what is due; returns when the next one is, or 0. */
static uint64_t run_timers(void)
{
    VsTimer *timer;

    while ((timer = first_timer()) && timer->at_ns <= vs_now_ns()) {
        vs_timer_clear(timer);
        timer->fire(timer);
    }
    return timer ? timer->at_ns : 0;
}

/* -------------------------------------------------------------------- work */

void vs_nic_kick(void)
{
    uint64_t one = 1;

    atomic_store(&rung, true);
    if (atomic_load(&asleep) && doorbell >= 0 &&
        write(doorbell, &one, sizeof(one)) < 0 && errno != EAGAIN) {
        vs_complain("doorbell: %s", g_strerror(errno));
    }
}

void vs_nic_schedule(VsQp *qp)
{
    if (!qp->scheduled) {
        qp->scheduled = true;
        g_queue_push_tail(&scheduled, qp);
    }
    vs_nic_kick();
}

void vs_nic_owe_ack(VsQp *qp)
{
    if (!qp->resp.ack_wanted) {
        qp->resp.ack_wanted = true;
        g_queue_push_tail(&ack_owers, qp);
    }
}

void vs_nic_forget(VsQp *qp)
{
    g_queue_remove(&scheduled, qp);
    g_queue_remove(&ack_owers, qp);
    qp->scheduled = false;
    qp->resp.ack_wanted = false;
}

static void send_acks(void)
{
    VsQp *qp;

    while ((qp = g_queue_peek_head(&ack_owers))) {
        vs_responder_send_ack(qp);
        g_queue_remove(&ack_owers, qp);
        qp->resp.ack_wanted = false;
    }
}

static void run_scheduled(void)
{
    unsigned n = g_queue_get_length(&scheduled);
    VsQp *qp;

    while (n-- && (qp = g_queue_pop_head(&scheduled))) {
        qp->scheduled = false;
        vs_requester_run(qp);
    }
}

bool vs_nic_watch(int fd, void *opaque)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = opaque };

    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

void vs_nic_watch_writing(int fd, void *opaque, bool wanted)
{
    struct epoll_event event = { .events = EPOLLIN | (wanted ? EPOLLOUT : 0),
                                 .data.ptr = opaque };

    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void vs_nic_unwatch(int fd)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static void handle(const struct epoll_event *event)
{
    VsPeer *peer = event->data.ptr;
    uint64_t count;

    if (!peer) {
        vs_peer_accept(listener);
        if (read(doorbell, &count, sizeof(count)) < 0 && errno != EAGAIN) {
            vs_complain("doorbell: %s", g_strerror(errno));
        }
        return;
    }
    if (event->events & EPOLLOUT) {
        vs_peer_writable(peer);
    }
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        vs_peer_readable(peer);
    }
}

/* Sleeps without vs_lock until something comes or @until_ns (0: for ever). */
static int sleep_until(struct epoll_event *events, uint64_t until_ns)
{
    struct timespec left = { 0 };
    uint64_t now = vs_now_ns();
    int n;

    if (until_ns > now) {
        left.tv_sec = (time_t)((until_ns - now) / 1000000000);
        left.tv_nsec = (long)((until_ns - now) % 1000000000);
    }
    pthread_mutex_unlock(&vs_lock);
    atomic_store(&asleep, true);
    if (atomic_load(&rung)) {
        left = (struct timespec){ 0 };
        until_ns = 1;
    } else {
        vs_trace_flush();
    }
    n = epoll_pwait2(epoll_fd, events, EVENTS, until_ns ? &left : NULL, NULL);
    atomic_store(&asleep, false);
    pthread_mutex_lock(&vs_lock);
    return n;
}

static void *nic_main(void *opaque)
{
    struct epoll_event events[EVENTS];

    prctl(PR_SET_NAME, "verbsim-nic");
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_mutex_lock(&vs_lock);
    for (;;) {
        uint64_t next;
        int n;

        atomic_store(&rung, false);
        run_scheduled();
        next = run_timers();
        send_acks();
        vs_peer_flush_all();
        n = sleep_until(events, next);
        for (int i = 0; i < n; i++) {
            handle(&events[i]);
        }
    }
    return opaque;
}

/* ---------------------------------------------------------- start and stop */

static void start_thread(void)
{
    pthread_t thread;
    sigset_t all, old;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    error = pthread_create(&thread, NULL, nic_main, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        vs_complain("cannot start the NIC's thread: %s", g_strerror(error));
        exit(EXIT_FAILURE);
    }
    pthread_detach(thread);
}

void vs_nic_start(void)
{
    pthread_mutex_lock(&vs_lock);
    if (started_by) {
        if (started_by != getpid()) {
            vs_complain("process %d uses what its parent %d has opened; "
                        "open the device after fork()", (int)getpid(),
                        (int)started_by);
            exit(EXIT_FAILURE);
        }
        pthread_mutex_unlock(&vs_lock);
        return;
    }
    started_by = getpid();
    listener = vs_fabric_join(&vs_slot);
    vs_shape_load();
    vs_trace_start(vs_slot);
    vs_copy_check();
    vs_hold_start();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (epoll_fd < 0 || doorbell < 0 || !vs_nic_watch(listener, NULL) ||
        !vs_nic_watch(doorbell, NULL) || !vs_peer_start()) {
        vs_complain("cannot start the NIC: %s", g_strerror(errno));
        exit(EXIT_FAILURE);
    }
    vs_fault_load();
    start_thread();
    pthread_mutex_unlock(&vs_lock);
}

/* At exit of the process that started the NIC (not of a forked child). */
static void __attribute__((destructor)) nic_stop(void)
{
    const char *leaks = g_getenv("VERBSIM_LEAKS");
    struct timespec until;
    unsigned left;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    /* A thread that calls exit() with the lock held is one giving up. */
    if (started_by != getpid() ||
        pthread_mutex_timedlock(&vs_lock, &until) != 0) {
        return;
    }
    vs_peer_flush_all();        /* what was said last, a rejection perhaps */
    left = vs_device_report_leaks();
    vs_trace_flush();
    vs_fabric_leave();
    if (left && leaks && !strcmp(leaks, "fail")) {
        fflush(NULL);
        _exit(LEAK_EXIT);
    }
    /* Still locked: the NIC does nothing more. */
}

/* ------------------------------------------------------------------ states */

static void port_came_up(VsQp *qp, void *opaque)
{
    (void)opaque;
    vs_nic_schedule(qp);
}

void vs_nic_set_port(bool up)
{
    if (vs_port_up == up) {
        return;
    }
    VS_TRACE("link", "%s", up ? "up" : "down");
    vs_port_up = up;
    vs_async_event(up ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR, NULL);
    if (up) {
        vs_qp_foreach(port_came_up, NULL);
    }
}

void vs_nic_set_frozen(bool frozen)
{
    if (vs_frozen == frozen) {
        return;
    }
    VS_TRACE("program", "%s", frozen ? "frozen" : "unfrozen");
    vs_frozen = frozen;
    if (!frozen) {
        vs_cq_unfrozen();
        if (vs_cm_ops) {
            vs_cm_ops->unfrozen();
        }
        pthread_cond_broadcast(&vs_idle);
    }
}

static void fail_qp(VsQp *qp, void *opaque)
{
    (void)opaque;
    vs_qp_error(qp);
}

void vs_nic_remove_device(void)
{
    if (vs_removed) {
        return;
    }
    VS_TRACE("device", "removed");
    vs_removed = true;
    vs_port_up = false;
    vs_qp_foreach(fail_qp, NULL);
    vs_async_event(IBV_EVENT_DEVICE_FATAL, NULL);
    if (vs_cm_ops) {
        vs_cm_ops->device_removed();
    }
}
