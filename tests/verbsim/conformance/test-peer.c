/*
 * Conformance tests: two processes, and what happens when one is gone
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

/* How the two connect; the child uses the same options. */
typedef struct Hello {
    RigOptions options;
    RigWhere where;
} Hello;

/* Connects @end with the child's, which is in role "echo". */
static RigWhere meet(RigChild *child, RigEnd *end)
{
    Hello hello = { end->options, rig_where(end) };
    RigWhere peer;
    char ready;

    rig_child_tell(child, &hello, sizeof(hello));
    rig_child_hear(child, &peer, sizeof(peer));
    rig_to_init(end);
    rig_to_rtr(end, &peer);
    rig_to_rts(end);
    rig_child_hear(child, &ready, 1);
    return peer;
}

static RigEnd *meet_as_child(void)
{
    RigWhere where;
    Hello hello;
    RigEnd *end;

    rig_hear(&hello, sizeof(hello));
    end = rig_end(&hello.options);
    where = rig_where(end);
    rig_tell(&where, sizeof(where));
    rig_to_init(end);
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(rig_recv(end, i, 0, 4096), ==, 0);
    }
    rig_to_rtr(end, &hello.where);
    rig_to_rts(end);
    rig_tell("r", 1);
    return end;
}

/*
 * Commands: 'e' sends back the next message; 'c' checks that the buffer has
 * the content of a seed and answers; 'f' fills it; 'q' ends.
 */
static void role_echo(void)
{
    RigEnd *end = meet_as_child();
    char command = 0;
    struct ibv_wc wc;
    uint8_t seed, ok;

    while (command != 'q') {
        rig_hear(&command, 1);
        switch (command) {
        case 'e':
            wc = rig_poll(end->recv_cq);
            g_assert_cmpint(wc.status, ==, IBV_WC_SUCCESS);
            g_assert_cmpint(rig_send(end, 9, 0, wc.byte_len,
                                     IBV_SEND_SIGNALED), ==, 0);
            rig_done(end->send_cq, 9, IBV_WC_SUCCESS);
            break;
        case 'c':
            rig_hear(&seed, 1);
            ok = rig_filled(end->buf, end->options.bytes, seed);
            rig_tell(&ok, 1);
            break;
        case 'f':
            rig_hear(&seed, 1);
            rig_fill(end->buf, end->options.bytes, seed);
            rig_tell("r", 1);
            break;
        }
    }
    rig_end_free(end);
}

static void test_messages(void)
{
    RigChild *child = rig_child("echo");
    RigEnd *end = rig_end(&rig_defaults);

    meet(child, end);
    for (int i = 0; i < 3; i++) {
        uint8_t *back = end->buf + 8192;

        rig_fill(end->buf, 1000, i);
        memset(back, 0, 1000);
        g_assert_cmpint(rig_recv(end, i, 8192, 4096), ==, 0);
        rig_child_tell(child, "e", 1);
        g_assert_cmpint(rig_send(end, i, 0, 1000, IBV_SEND_SIGNALED), ==, 0);
        rig_done(end->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpuint(rig_done(end->recv_cq, i, IBV_WC_SUCCESS).byte_len,
                         ==, 1000);
        g_assert_true(rig_filled(back, 1000, i));
    }
    rig_child_tell(child, "q", 1);
    rig_child_free(child);
    rig_end_free(end);
}

static void test_memory(void)
{
    RigChild *child = rig_child("echo");
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere peer = meet(child, end);
    uint8_t ok, seed = 7;

    rig_fill(end->buf, end->options.bytes, seed);
    g_assert_cmpint(rig_rdma(end, IBV_WR_RDMA_WRITE, 1, 0, end->options.bytes,
                             &peer, IBV_SEND_SIGNALED), ==, 0);
    rig_done(end->send_cq, 1, IBV_WC_SUCCESS);
    rig_child_tell(child, "c", 1);
    rig_child_tell(child, &seed, 1);
    rig_child_hear(child, &ok, 1);
    g_assert_true(ok);

    seed = 8;
    rig_child_tell(child, "f", 1);
    rig_child_tell(child, &seed, 1);
    rig_child_hear(child, &ok, 1);
    g_assert_cmpint(rig_rdma(end, IBV_WR_RDMA_READ, 2, 0, end->options.bytes,
                             &peer, IBV_SEND_SIGNALED), ==, 0);
    rig_done(end->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(end->buf, end->options.bytes, seed));
    rig_child_tell(child, "q", 1);
    rig_child_free(child);
    rig_end_free(end);
}

/* Killed: the time-out of the request, so many times, and then an error. */
static void test_killed(void)
{
    RigOptions options = rig_defaults;
    RigChild *child = rig_child("echo");
    double s, unit;
    int64_t start;
    RigEnd *end;

    options.timeout = 16;           /* 268 ms */
    options.retry_cnt = 3;
    unit = 4.096 / 1000000 * (1 << options.timeout);
    end = rig_end(&options);
    meet(child, end);
    g_assert_cmpint(rig_recv(end, 3, 0, 64), ==, 0);
    rig_child_kill(child, SIGKILL);
    start = g_get_monotonic_time();
    g_assert_cmpint(rig_send(end, 1, 0, 8, 0), ==, 0);
    g_assert_cmpint(rig_send(end, 2, 0, 8, 0), ==, 0);
    rig_done(end->send_cq, 1, IBV_WC_RETRY_EXC_ERR);
    s = rig_seconds_since(start);
    rig_done(end->send_cq, 2, IBV_WC_WR_FLUSH_ERR);
    rig_done(end->recv_cq, 3, IBV_WC_WR_FLUSH_ERR);
    g_assert_cmpint(rig_state(end), ==, IBV_QPS_ERR);
    g_test_message("%d retries of %.0f ms took %.0f ms", options.retry_cnt,
                   unit * 1000, s * 1000);
    /* The specification lets a time-out be up to four times as long. */
    g_assert_cmpfloat(s, >, unit * (options.retry_cnt + 1) * 0.9);
    g_assert_cmpfloat(s, <, unit * (options.retry_cnt + 1) * 4 +
                      RIG_WAIT_MS / 1000);
    rig_no_async();
    rig_child_free(child);
    rig_end_free(end);
}

/* Nothing under way: nobody tells that the peer has gone. */
static void test_killed_idle(void)
{
    RigOptions options = rig_defaults;
    RigChild *child = rig_child("echo");
    RigEnd *end;

    options.timeout = 14;
    options.retry_cnt = 1;
    end = rig_end(&options);
    meet(child, end);
    rig_child_kill(child, SIGKILL);
    rig_quiet(end->send_cq);
    rig_no_async();
    g_assert_cmpint(rig_state(end), ==, IBV_QPS_RTS);
    rig_child_free(child);
    rig_end_free(end);
}

/* A killed peer's Read does not come either. */
static void test_killed_read(void)
{
    RigOptions options = rig_defaults;
    RigChild *child = rig_child("echo");
    RigWhere peer;
    RigEnd *end;

    options.timeout = 14;
    options.retry_cnt = 1;
    end = rig_end(&options);
    peer = meet(child, end);
    rig_child_kill(child, SIGKILL);
    g_assert_cmpint(rig_rdma(end, IBV_WR_RDMA_READ, 1, 0, 4096, &peer, 0), ==,
                    0);
    rig_done(end->send_cq, 1, IBV_WC_RETRY_EXC_ERR);
    rig_child_free(child);
    rig_end_free(end);
}

/*
 * The program is stopped, the adapter is not: Writes go on, messages as long
 * as there are receives.
 */
static void test_stopped(void)
{
    RigChild *child = rig_child("echo");
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere peer = meet(child, end);
    uint8_t ok, seed = 3;

    rig_child_kill(child, SIGSTOP);
    if (differs("stopped-process")) {
        g_assert_cmpint(rig_send(end, 0, 0, 8, IBV_SEND_SIGNALED), ==, 0);
        rig_quiet(end->send_cq);
        rig_child_kill(child, SIGCONT);
        rig_done(end->send_cq, 0, IBV_WC_SUCCESS);
    } else {
        for (int i = 0; i < 4; i++) {
            g_assert_cmpint(rig_send(end, i, 0, 8, IBV_SEND_SIGNALED), ==, 0);
            rig_done(end->send_cq, i, IBV_WC_SUCCESS);
        }
    }
    rig_fill(end->buf, end->options.bytes, seed);
    g_assert_cmpint(rig_rdma(end, IBV_WR_RDMA_WRITE, 5, 0, end->options.bytes,
                             &peer, IBV_SEND_SIGNALED), ==, 0);
    rig_done(end->send_cq, 5, IBV_WC_SUCCESS);
    rig_child_kill(child, SIGCONT);
    rig_child_tell(child, "c", 1);
    rig_child_tell(child, &seed, 1);
    rig_child_hear(child, &ok, 1);
    g_assert_true(ok);
    rig_child_tell(child, "q", 1);
    rig_child_free(child);
    rig_end_free(end);
}

/* Destroyed at the far side, as if it were killed. */
static void test_destroyed(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;

    options.timeout = 14;
    options.retry_cnt = 1;
    pair = rig_pair(&options);
    g_assert_cmpint(ibv_destroy_qp(pair.b->qp), ==, 0);
    pair.b->qp = NULL;
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_RETRY_EXC_ERR);
    rig_await_state(pair.a, IBV_QPS_ERR);
    rig_pair_free(pair);
}

/* Three processes with a queue pair each, at the same time. */
static void test_several(void)
{
    RigChild *child[3];
    RigEnd *end[3];
    uint8_t ok;

    for (int i = 0; i < 3; i++) {
        child[i] = rig_child("echo");
        end[i] = rig_end(&rig_defaults);
    }
    for (int i = 0; i < 3; i++) {
        RigWhere peer = meet(child[i], end[i]);

        rig_fill(end[i]->buf, end[i]->options.bytes, i);
        g_assert_cmpint(rig_rdma(end[i], IBV_WR_RDMA_WRITE, i, 0,
                                 end[i]->options.bytes, &peer,
                                 IBV_SEND_SIGNALED), ==, 0);
    }
    for (int i = 0; i < 3; i++) {
        uint8_t seed = i;

        rig_done(end[i]->send_cq, i, IBV_WC_SUCCESS);
        rig_child_tell(child[i], "c", 1);
        rig_child_tell(child[i], &seed, 1);
        rig_child_hear(child[i], &ok, 1);
        g_assert_true(ok);
        rig_child_tell(child[i], "q", 1);
        rig_child_free(child[i]);
        rig_end_free(end[i]);
    }
}

/* A CQ overflows: the way to get an event from any implementation. */
static RigPair overflow(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;

    options.cqe = 3;
    options.recv_wr = 64;
    pair = rig_pair(&options);
    for (int i = 0; i <= pair.b->recv_cq->cqe; i++) {
        g_assert_cmpint(rig_recv(pair.b, i, 0, 64), ==, 0);
    }
    for (int i = 0; i <= pair.b->recv_cq->cqe; i++) {
        bool last = i == pair.b->recv_cq->cqe;

        g_assert_cmpint(rig_send(pair.a, i, 0, 8,
                                 last ? 0 : IBV_SEND_SIGNALED), ==, 0);
        if (!last) {
            rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        }
    }
    return pair;
}

typedef struct Destroyer {
    struct ibv_cq *cq;
    int over;                   /* atomic */
} Destroyer;

static gpointer destroyer_run(gpointer opaque)
{
    Destroyer *destroyer = opaque;
    int error = ibv_destroy_cq(destroyer->cq);

    g_atomic_int_set(&destroyer->over, 1);
    return GINT_TO_POINTER(error);
}

/* Destroying a queue waits until its events have been acknowledged. */
static void test_async_ack(void)
{
    RigPair pair = overflow();
    struct ibv_async_event event;
    Destroyer destroyer = { .cq = pair.b->recv_cq };
    GThread *thread;

    g_assert_cmpint(ibv_get_async_event(rig_device(), &event), ==, 0);
    g_assert_cmpint(event.event_type, ==, IBV_EVENT_CQ_ERR);
    g_assert_true(event.element.cq == pair.b->recv_cq);
    g_assert_cmpint(ibv_destroy_qp(pair.b->qp), ==, 0);
    pair.b->qp = NULL;
    thread = g_thread_new("destroy", destroyer_run, &destroyer);
    g_usleep(RIG_QUIET_MS * 1000);
    g_assert_cmpint(g_atomic_int_get(&destroyer.over), ==, 0);
    ibv_ack_async_event(&event);
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(thread)), ==, 0);
    pair.b->recv_cq = ibv_create_cq(rig_device(), 1, NULL, NULL, 0);
    rig_pair_free(pair);
}

/* One nobody has read goes with the queue. */
static void test_async_unread(void)
{
    RigPair pair = overflow();

    g_assert_true(rig_readable(rig_device()->async_fd, RIG_WAIT_MS));
    rig_pair_free(pair);
    rig_no_async();
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = {
        { "echo", role_echo },
        { NULL, NULL },
    };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/peer/messages", test_messages);
    g_test_add_func("/peer/memory", test_memory);
    g_test_add_func("/peer/killed", test_killed);
    g_test_add_func("/peer/killed-idle", test_killed_idle);
    g_test_add_func("/peer/killed-read", test_killed_read);
    g_test_add_func("/peer/stopped", test_stopped);
    g_test_add_func("/peer/destroyed", test_destroyed);
    g_test_add_func("/peer/several", test_several);
    g_test_add_func("/peer/async-ack", test_async_ack);
    g_test_add_func("/peer/async-unread", test_async_unread);
    return rig_run();
}
