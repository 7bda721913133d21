/*
 * Conformance tests: completion queues and their channels
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>

#include "rig.h"

/* A message from a to b, and the sender's completion out of the way. */
static void send_one(RigPair pair, uint64_t wr_id, unsigned flags)
{
    g_assert_cmpint(rig_recv(pair.b, wr_id, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, wr_id, 0, 8, flags | IBV_SEND_SIGNALED),
                    ==, 0);
    rig_done(pair.a->send_cq, wr_id, IBV_WC_SUCCESS);
}

/* The event must come, for that queue; it is acknowledged. */
static void take_event(struct ibv_comp_channel *channel, struct ibv_cq *cq)
{
    struct ibv_cq *got;
    void *context;

    if (!rig_readable(channel->fd, RIG_WAIT_MS)) {
        g_error("no completion event came");
    }
    g_assert_cmpint(ibv_get_cq_event(channel, &got, &context), ==, 0);
    g_assert_true(got == cq);
    g_assert_true(context == cq->cq_context);
    ibv_ack_cq_events(got, 1);
}

static void no_event(struct ibv_comp_channel *channel)
{
    g_assert_false(rig_readable(channel->fd, RIG_QUIET_MS));
}

/* Waits until the receive is in the queue, without taking it. */
static void let_arrive(void)
{
    g_usleep(RIG_QUIET_MS * 1000);
}

static void test_create(void)
{
    struct ibv_context *context = rig_device();
    int most = rig_limits()->max_cqe;

    for (int cqe = 1; cqe <= most; cqe *= 8) {
        struct ibv_cq *cq = ibv_create_cq(context, cqe, &cqe, NULL, 0);

        g_assert_nonnull(cq);
        g_assert_cmpint(cq->cqe, >=, cqe);
        g_assert_true(cq->cq_context == &cqe);
        g_assert_true(cq->context == context);
        g_assert_null(cq->channel);
        rig_quiet(cq);
        g_assert_cmpint(ibv_destroy_cq(cq), ==, 0);
    }
}

static void refuse_cq(int cqe, int vector)
{
    errno = 0;
    g_assert_null(ibv_create_cq(rig_device(), cqe, NULL, NULL, vector));
    g_assert_cmpint(errno, ==, EINVAL);
}

static void test_create_bad(void)
{
    refuse_cq(0, 0);
    refuse_cq(-1, 0);
    refuse_cq(rig_limits()->max_cqe + 1, 0);
    refuse_cq(16, rig_device()->num_comp_vectors);
}

static void test_busy(void)
{
    RigEnd *end = rig_end(&rig_defaults);

    g_assert_cmpint(ibv_destroy_cq(end->send_cq), ==, EBUSY);
    g_assert_cmpint(ibv_destroy_cq(end->recv_cq), ==, EBUSY);
    g_assert_cmpint(ibv_destroy_comp_channel(end->channel), ==, EBUSY);
    rig_end_free(end);
}

static void test_batch(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_wc wc[8];

    for (int i = 0; i < 5; i++) {
        send_one(pair, i, 0);
    }
    let_arrive();
    /* No more than asked for, in order, and then what is left. */
    g_assert_cmpint(ibv_poll_cq(pair.b->recv_cq, 3, wc), ==, 3);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpuint(wc[i].wr_id, ==, i);
    }
    g_assert_cmpint(ibv_poll_cq(pair.b->recv_cq, 8, wc), ==, 2);
    g_assert_cmpuint(wc[1].wr_id, ==, 4);
    g_assert_cmpint(ibv_poll_cq(pair.b->recv_cq, 8, wc), ==, 0);
    rig_pair_free(pair);
}

static void test_arm_once(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *b = pair.b;

    /* Not armed: nothing. */
    send_one(pair, 1, 0);
    no_event(b->channel);
    rig_done(b->recv_cq, 1, IBV_WC_SUCCESS);
    /* Armed: one event for two completions. */
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    send_one(pair, 2, 0);
    take_event(b->channel, b->recv_cq);
    send_one(pair, 3, 0);
    no_event(b->channel);
    rig_done(b->recv_cq, 2, IBV_WC_SUCCESS);
    rig_done(b->recv_cq, 3, IBV_WC_SUCCESS);
    /* Twice armed is armed. */
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    send_one(pair, 4, 0);
    take_event(b->channel, b->recv_cq);
    no_event(b->channel);
    rig_done(b->recv_cq, 4, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

static void test_old_completions(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *b = pair.b;

    send_one(pair, 1, 0);
    let_arrive();
    /* What was there before it was armed is no reason for an event. */
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    no_event(b->channel);
    /* It stays armed, whatever is polled. */
    rig_done(b->recv_cq, 1, IBV_WC_SUCCESS);
    no_event(b->channel);
    send_one(pair, 2, 0);
    take_event(b->channel, b->recv_cq);
    rig_done(b->recv_cq, 2, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

static void test_solicited(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *b = pair.b;

    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 1), ==, 0);
    send_one(pair, 1, 0);
    no_event(b->channel);
    send_one(pair, 2, IBV_SEND_SOLICITED);
    take_event(b->channel, b->recv_cq);
    /* One-shot, as well. */
    send_one(pair, 3, IBV_SEND_SOLICITED);
    no_event(b->channel);
    for (int i = 1; i <= 3; i++) {
        rig_done(b->recv_cq, i, IBV_WC_SUCCESS);
    }
    /* Armed for solicited ones and then for all: for all. */
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 1), ==, 0);
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    send_one(pair, 4, 0);
    take_event(b->channel, b->recv_cq);
    /* For all, and then for solicited ones: still for all. */
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 0), ==, 0);
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 1), ==, 0);
    send_one(pair, 5, 0);
    take_event(b->channel, b->recv_cq);
    rig_done(b->recv_cq, 4, IBV_WC_SUCCESS);
    rig_done(b->recv_cq, 5, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

static void test_solicited_error(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *b = pair.b;

    /* A completion in error counts as solicited. */
    g_assert_cmpint(rig_recv(b, 1, 0, 64), ==, 0);
    g_assert_cmpint(ibv_req_notify_cq(b->recv_cq, 1), ==, 0);
    g_assert_cmpint(rig_to(b, IBV_QPS_ERR), ==, 0);
    take_event(b->channel, b->recv_cq);
    rig_done(b->recv_cq, 1, IBV_WC_WR_FLUSH_ERR);
    rig_pair_free(pair);
}

/* The send side raises events, too, and on the same channel. */
static void test_shared_channel(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *a = pair.a;
    struct ibv_cq *got[2];
    void *context;

    g_assert_cmpint(ibv_req_notify_cq(a->send_cq, 0), ==, 0);
    send_one(pair, 1, 0);
    take_event(a->channel, a->send_cq);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    /* Events of both queues wait in the channel, in their order. */
    g_assert_cmpint(ibv_req_notify_cq(a->send_cq, 0), ==, 0);
    g_assert_cmpint(ibv_req_notify_cq(a->recv_cq, 0), ==, 0);
    send_one(pair, 2, 0);
    let_arrive();
    g_assert_cmpint(rig_recv(a, 3, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.b, 3, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(a->recv_cq, 3, IBV_WC_SUCCESS);
    rig_done(pair.b->send_cq, 3, IBV_WC_SUCCESS);
    for (int i = 0; i < 2; i++) {
        g_assert_true(rig_readable(a->channel->fd, RIG_WAIT_MS));
        g_assert_cmpint(ibv_get_cq_event(a->channel, &got[i], &context), ==,
                        0);
    }
    g_assert_true(got[0] == a->send_cq);
    g_assert_true(got[1] == a->recv_cq);
    no_event(a->channel);
    ibv_ack_cq_events(got[0], 1);
    ibv_ack_cq_events(got[1], 1);
    rig_pair_free(pair);
}

static void test_nonblocking(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    struct ibv_cq *cq;
    void *context;

    g_assert_cmpint(fcntl(end->channel->fd, F_SETFL,
                          fcntl(end->channel->fd, F_GETFL) | O_NONBLOCK), ==,
                    0);
    errno = 0;
    g_assert_cmpint(ibv_get_cq_event(end->channel, &cq, &context), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    rig_end_free(end);
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

/* Destroying a queue waits for the acknowledgement of its events. */
static void test_ack(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    Destroyer destroyer = { .cq = pair.b->recv_cq };
    struct ibv_cq *cq;
    GThread *thread;
    void *context;

    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(ibv_req_notify_cq(pair.b->recv_cq, 0), ==, 0);
        send_one(pair, i, 0);
        g_assert_cmpint(ibv_get_cq_event(pair.b->channel, &cq, &context), ==,
                        0);
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
    }
    ibv_ack_cq_events(cq, 1);
    g_assert_cmpint(ibv_destroy_qp(pair.b->qp), ==, 0);
    pair.b->qp = NULL;
    thread = g_thread_new("destroy", destroyer_run, &destroyer);
    g_usleep(RIG_QUIET_MS * 1000);
    g_assert_cmpint(g_atomic_int_get(&destroyer.over), ==, 0);
    ibv_ack_cq_events(cq, 1);
    g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(thread)), ==, 0);
    /* Give the end a queue to destroy. */
    pair.b->recv_cq = ibv_create_cq(rig_device(), 1, NULL, NULL, 0);
    rig_pair_free(pair);
}

/* An event nobody has fetched does not outlive its queue. */
static void test_unfetched(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    g_assert_cmpint(ibv_req_notify_cq(pair.b->recv_cq, 0), ==, 0);
    send_one(pair, 1, 0);
    let_arrive();
    g_assert_cmpint(ibv_destroy_qp(pair.b->qp), ==, 0);
    pair.b->qp = NULL;
    g_assert_cmpint(ibv_destroy_cq(pair.b->recv_cq), ==, 0);
    no_event(pair.b->channel);
    pair.b->recv_cq = ibv_create_cq(rig_device(), 1, NULL, NULL, 0);
    rig_pair_free(pair);
}

/* More completions than the queue holds: it is in error, and says so. */
static void test_overflow(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;
    int room;

    options.cqe = 3;
    options.recv_wr = options.send_wr = 64;
    pair = rig_pair(&options);
    room = pair.b->recv_cq->cqe;
    g_assert_cmpint(room, <, 60);
    for (int i = 0; i < room; i++) {
        send_one(pair, i, 0);
    }
    rig_no_async();
    g_assert_cmpint(rig_recv(pair.b, room, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, room, 0, 8, 0), ==, 0);
    rig_async(IBV_EVENT_CQ_ERR, pair.b->recv_cq);
    rig_await_state(pair.b, IBV_QPS_ERR);
    rig_no_async();
    /* What it held before is still there. */
    for (int i = 0; i < room; i++) {
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
    }
    rig_quiet(pair.b->recv_cq);
    rig_pair_free(pair);
}

/*
 * The usual loop: poll until there is nothing, arm, poll once more, wait.  It
 * never sleeps while there is something to do.
 */
typedef struct Pump {
    RigPair pair;
    int messages;
} Pump;

static gpointer pump_run(gpointer opaque)
{
    Pump *pump = opaque;

    for (int i = 0; i < pump->messages; i++) {
        g_assert_cmpint(rig_send(pump->pair.a, i, 0, 8, IBV_SEND_SIGNALED),
                        ==, 0);
        rig_done(pump->pair.a->send_cq, i, IBV_WC_SUCCESS);
        if (i % 7 == 0) {
            g_usleep(i % 5 * 100);
        }
    }
    return NULL;
}

static int take_all(RigEnd *end, int *next)
{
    struct ibv_wc wc;
    int got = 0;

    while (ibv_poll_cq(end->recv_cq, 1, &wc) == 1) {
        g_assert_cmpint(wc.status, ==, IBV_WC_SUCCESS);
        g_assert_cmpuint(wc.wr_id, ==, *next);
        (*next)++;
        got++;
        g_assert_cmpint(rig_recv(end, *next + 15, 0, 64), ==, 0);
    }
    return got;
}

static void test_wait_loop(void)
{
    Pump pump = { rig_pair(&rig_defaults), 500 };
    RigEnd *end = pump.pair.b;
    struct ibv_cq *cq;
    int next = 0, events = 0;
    void *context;
    GThread *thread;

    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_recv(end, i, 0, 64), ==, 0);
    }
    thread = g_thread_new("pump", pump_run, &pump);
    while (next < pump.messages) {
        g_assert_cmpint(ibv_req_notify_cq(end->recv_cq, 0), ==, 0);
        if (take_all(end, &next)) {
            continue;
        }
        if (!rig_readable(end->channel->fd, RIG_WAIT_MS)) {
            g_error("asleep after message %d of %d", next, pump.messages);
        }
        g_assert_cmpint(ibv_get_cq_event(end->channel, &cq, &context), ==, 0);
        events++;
    }
    g_thread_join(thread);
    ibv_ack_cq_events(end->recv_cq, events);
    rig_pair_free(pump.pair);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/cq/create", test_create);
    g_test_add_func("/cq/create-bad", test_create_bad);
    g_test_add_func("/cq/busy", test_busy);
    g_test_add_func("/cq/batch", test_batch);
    g_test_add_func("/cq/arm-once", test_arm_once);
    g_test_add_func("/cq/old-completions", test_old_completions);
    g_test_add_func("/cq/solicited", test_solicited);
    g_test_add_func("/cq/solicited-error", test_solicited_error);
    g_test_add_func("/cq/shared-channel", test_shared_channel);
    g_test_add_func("/cq/nonblocking", test_nonblocking);
    g_test_add_func("/cq/ack", test_ack);
    g_test_add_func("/cq/unfetched", test_unfetched);
    g_test_add_func("/cq/overflow", test_overflow);
    g_test_add_func("/cq/wait-loop", test_wait_loop);
    return rig_run();
}
