/*
 * Conformance tests: queue pairs, their attributes and states
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <stddef.h>

#include "rig.h"

#define EVERYTHING                                                          \
    (IBV_QP_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_AV | IBV_QP_PATH_MTU |      \
     IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_RQ_PSN |  \
     IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER | IBV_QP_SQ_PSN |        \
     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_CAP | IBV_QP_DEST_QPN)

/* A queue pair in @state, connected to itself. */
static RigEnd *end_in(enum ibv_qp_state state)
{
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere self = rig_where(end);

    if (state >= IBV_QPS_INIT) {
        rig_to_init(end);
    }
    if (state >= IBV_QPS_RTR && state <= IBV_QPS_RTS) {
        rig_to_rtr(end, &self);
    }
    if (state == IBV_QPS_RTS) {
        rig_to_rts(end);
    }
    if (state == IBV_QPS_ERR) {
        /* It was in INIT: there is no way from RESET to ERR. */
        g_assert_cmpint(rig_to(end, IBV_QPS_ERR), ==, 0);
    }
    g_assert_cmpint(rig_state(end), ==, state);
    return end;
}

/* ----------------------------------------------------------------- creation */

static struct ibv_qp_init_attr init_attr(const RigEnd *end)
{
    return (struct ibv_qp_init_attr) {
        .qp_type = IBV_QPT_RC,
        .send_cq = end->send_cq,
        .recv_cq = end->recv_cq,
        .cap = { .max_send_wr = 5, .max_recv_wr = 6, .max_send_sge = 2,
                 .max_recv_sge = 3, .max_inline_data = 17 },
    };
}

static void test_create(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    struct ibv_qp_init_attr attr = init_attr(end), queried;
    struct ibv_qp_attr now;
    struct ibv_qp *qp;

    attr.qp_context = &now;
    qp = ibv_create_qp(end->pd, &attr);
    g_assert_nonnull(qp);
    /* What was asked for or more, and it is told how much. */
    g_assert_cmpuint(attr.cap.max_send_wr, >=, 5);
    g_assert_cmpuint(attr.cap.max_recv_wr, >=, 6);
    g_assert_cmpuint(attr.cap.max_send_sge, >=, 2);
    g_assert_cmpuint(attr.cap.max_recv_sge, >=, 3);
    g_assert_cmpuint(attr.cap.max_inline_data, >=, 17);
    g_assert_true(qp->qp_context == &now);
    g_assert_true(qp->pd == end->pd);
    g_assert_true(qp->send_cq == end->send_cq);
    g_assert_true(qp->recv_cq == end->recv_cq);
    g_assert_cmpint(qp->qp_type, ==, IBV_QPT_RC);
    g_assert_cmpint(qp->state, ==, IBV_QPS_RESET);
    g_assert_cmpuint(qp->qp_num, >, 1);
    g_assert_cmpuint(qp->qp_num, <, 1 << 24);
    g_assert_cmpuint(qp->qp_num, !=, end->qp->qp_num);
    g_assert_cmpint(ibv_query_qp(qp, &now, IBV_QP_CAP, &queried), ==, 0);
    g_assert_cmpuint(queried.cap.max_send_wr, >=, 5);
    g_assert_cmpuint(queried.cap.max_recv_wr, >=, 6);
    g_assert_cmpuint(queried.cap.max_send_sge, >=, 2);
    g_assert_cmpuint(queried.cap.max_recv_sge, >=, 3);
    g_assert_cmpuint(queried.cap.max_inline_data, >=, 17);
    g_assert_true(queried.send_cq == end->send_cq);
    g_assert_true(queried.recv_cq == end->recv_cq);
    g_assert_cmpint(ibv_destroy_qp(qp), ==, 0);
    rig_end_free(end);
}

static void refuse_qp(RigEnd *end, struct ibv_qp_init_attr attr)
{
    struct ibv_qp *qp;

    errno = 0;
    qp = ibv_create_qp(end->pd, &attr);
    g_assert_null(qp);
    g_assert_true(errno == EINVAL || errno == ENOMEM);
}

static void test_create_bad(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    struct ibv_qp_init_attr attr = init_attr(end);

    attr.cap.max_send_wr = rig_limits()->max_qp_wr + 1;
    refuse_qp(end, attr);
    attr = init_attr(end);
    attr.cap.max_recv_wr = rig_limits()->max_qp_wr + 1;
    refuse_qp(end, attr);
    attr = init_attr(end);
    attr.cap.max_send_sge = rig_limits()->max_sge + 1;
    refuse_qp(end, attr);
    attr = init_attr(end);
    attr.cap.max_recv_sge = rig_limits()->max_sge + 1;
    refuse_qp(end, attr);
    attr = init_attr(end);
    attr.cap.max_inline_data = 1 << 20;
    refuse_qp(end, attr);
    rig_end_free(end);
}

/* -------------------------------------------------------------- transitions */

static void test_walk(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere peer = rig_where(end);
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr, asked;

    rig_to_init(end);
    g_assert_cmpint(ibv_query_qp(end->qp, &attr, IBV_QP_STATE |
                                 IBV_QP_ACCESS_FLAGS | IBV_QP_PORT, &init),
                    ==, 0);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_INIT);
    g_assert_cmpint(attr.port_num, ==, 1);
    g_assert_cmpint(attr.qp_access_flags, ==, end->options.qp_access);
    /* The library keeps the state in the queue pair, too. */
    g_assert_cmpint(end->qp->state, ==, IBV_QPS_INIT);

    rig_to_rtr(end, &peer);
    g_assert_cmpint(ibv_query_qp(end->qp, &attr, EVERYTHING, &init), ==, 0);
    rig_rtr_attr(end, &peer, &asked);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_RTR);
    g_assert_cmpint(attr.path_mtu, ==, asked.path_mtu);
    g_assert_cmpuint(attr.dest_qp_num, ==, peer.qp_num);
    g_assert_cmpuint(attr.rq_psn, ==, peer.psn);
    g_assert_cmpint(attr.max_dest_rd_atomic, >=, asked.max_dest_rd_atomic);
    g_assert_cmpint(attr.min_rnr_timer, ==, asked.min_rnr_timer);
    g_assert_cmpint(attr.ah_attr.is_global, ==, !rig_infiniband());
    if (attr.ah_attr.is_global) {
        g_assert_cmpmem(&attr.ah_attr.grh.dgid, 16, &peer.gid, 16);
        g_assert_cmpint(attr.ah_attr.grh.sgid_index, ==,
                        asked.ah_attr.grh.sgid_index);
    } else {
        g_assert_cmpint(attr.ah_attr.dlid, ==, peer.lid);
    }

    rig_to_rts(end);
    g_assert_cmpint(ibv_query_qp(end->qp, &attr, EVERYTHING, &init), ==, 0);
    rig_rts_attr(end, &asked);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_RTS);
    g_assert_cmpuint(attr.sq_psn, ==, asked.sq_psn);
    g_assert_cmpint(attr.timeout, ==, asked.timeout);
    g_assert_cmpint(attr.retry_cnt, ==, asked.retry_cnt);
    g_assert_cmpint(attr.rnr_retry, ==, asked.rnr_retry);
    g_assert_cmpint(attr.max_rd_atomic, >=, asked.max_rd_atomic);

    g_assert_cmpint(rig_to(end, IBV_QPS_ERR), ==, 0);
    g_assert_cmpint(rig_state(end), ==, IBV_QPS_ERR);
    g_assert_cmpint(rig_to(end, IBV_QPS_RESET), ==, 0);
    g_assert_cmpint(rig_state(end), ==, IBV_QPS_RESET);
    rig_end_free(end);
}

/* Each bit of @mask but the state's, one after the other, left out. */
static void refuse_without(RigEnd *end, struct ibv_qp_attr attr, int mask)
{
    enum ibv_qp_state before = rig_state(end);

    for (int bit = 1; bit <= mask; bit <<= 1) {
        if ((mask & bit) && bit != IBV_QP_STATE) {
            g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask & ~bit), ==,
                            EINVAL);
            g_assert_cmpint(rig_state(end), ==, before);
        }
    }
    /* An attribute that does not belong there. */
    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask | IBV_QP_QKEY), ==,
                    EINVAL);
    g_assert_cmpint(rig_state(end), ==, before);
}

static void test_required(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere self = rig_where(end);
    struct ibv_qp_attr attr;
    int mask;

    mask = rig_init_attr(end, &attr);
    refuse_without(end, attr, mask);
    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
    mask = rig_rtr_attr(end, &self, &attr);
    refuse_without(end, attr, mask);
    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
    mask = rig_rts_attr(end, &attr);
    refuse_without(end, attr, mask);
    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
    rig_end_free(end);
}

static void refuse(RigEnd *end, struct ibv_qp_attr attr, int mask)
{
    enum ibv_qp_state before = rig_state(end);

    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, EINVAL);
    g_assert_cmpint(rig_state(end), ==, before);
}

typedef struct BadValue {
    enum ibv_qp_state from;
    const char *differs;        /* key of who takes it, or NULL */
    size_t field;
    uint8_t value;
} BadValue;

#define BAD(from, differs, field, value) \
    { from, differs, offsetof(struct ibv_qp_attr, field), value }

static const BadValue bad_values[] = {
    BAD(IBV_QPS_RESET, NULL, port_num, 2),
    BAD(IBV_QPS_RESET, NULL, port_num, 0),
    BAD(IBV_QPS_RESET, "qp-pkey-index", pkey_index, 255),
    BAD(IBV_QPS_INIT, "qp-path-mtu", path_mtu, 0),
    BAD(IBV_QPS_INIT, NULL, path_mtu, IBV_MTU_4096 + 1),
    BAD(IBV_QPS_INIT, "qp-max-dest-rd-atomic", max_dest_rd_atomic, 255),
    BAD(IBV_QPS_INIT, NULL, ah_attr.grh.sgid_index, 255),
    /* RoCE is routed by GIDs. */
    BAD(IBV_QPS_INIT, NULL, ah_attr.is_global, 0),
    BAD(IBV_QPS_INIT, "qp-wide-values", min_rnr_timer, 32),
    BAD(IBV_QPS_RTR, NULL, timeout, 32),
    BAD(IBV_QPS_RTR, NULL, max_rd_atomic, 255),
    BAD(IBV_QPS_RTR, "qp-wide-values", retry_cnt, 8),
    BAD(IBV_QPS_RTR, "qp-wide-values", rnr_retry, 8),
};

/* On InfiniBand a LID will do: there is no route to be wrong. */
static bool applies(const BadValue *bad)
{
    return !rig_infiniband() ||
           bad->field < offsetof(struct ibv_qp_attr, ah_attr) ||
           bad->field >= offsetof(struct ibv_qp_attr, alt_ah_attr);
}

static int try_value(const BadValue *bad)
{
    RigEnd *end = end_in(bad->from);
    RigWhere self = rig_where(end);
    struct ibv_qp_attr attr;
    int mask = bad->from == IBV_QPS_RESET ? rig_init_attr(end, &attr) :
               bad->from == IBV_QPS_INIT ? rig_rtr_attr(end, &self, &attr) :
               rig_rts_attr(end, &attr);
    int error;

    *((uint8_t *)&attr + bad->field) = bad->value;
    error = ibv_modify_qp(end->qp, &attr, mask);
    rig_end_free(end);
    return error;
}

static void test_values(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_values); i++) {
        const BadValue *bad = &bad_values[i];
        bool taken = bad->differs && differs(bad->differs);

        if (applies(bad) && taken != (try_value(bad) == 0)) {
            g_test_message("value %u of the table is %s", i,
                           taken ? "refused" : "taken");
            g_test_fail();
        }
    }
}

static const enum ibv_qp_state states[] = {
    IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_ERR,
};

static bool allowed(enum ibv_qp_state from, enum ibv_qp_state to)
{
    switch (to) {
    case IBV_QPS_INIT:
        return from == IBV_QPS_RESET || from == IBV_QPS_INIT;
    case IBV_QPS_RTR:
        return from == IBV_QPS_INIT;
    case IBV_QPS_RTS:
        return from == IBV_QPS_RTR;
    case IBV_QPS_ERR:
        return from != IBV_QPS_RESET;
    default:
        return true;
    }
}

/* With all that the target state wants. */
static int move_to(RigEnd *end, enum ibv_qp_state to)
{
    RigWhere self = rig_where(end);
    struct ibv_qp_attr attr = { .qp_state = to };
    int mask = IBV_QP_STATE;

    if (to == IBV_QPS_INIT) {
        mask = rig_init_attr(end, &attr);
    } else if (to == IBV_QPS_RTR) {
        mask = rig_rtr_attr(end, &self, &attr);
    } else if (to == IBV_QPS_RTS) {
        mask = rig_rts_attr(end, &attr);
    }
    return ibv_modify_qp(end->qp, &attr, mask);
}

static void test_moves(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(states); i++) {
        for (unsigned j = 0; j < G_N_ELEMENTS(states); j++) {
            enum ibv_qp_state from = states[i], to = states[j];
            RigEnd *end = end_in(from);
            int expected = allowed(from, to) ? 0 : EINVAL;

            if (move_to(end, to) != expected) {
                g_error("from state %d to %d: expected %s", from, to,
                        g_strerror(expected));
            }
            g_assert_cmpint(rig_state(end), ==, expected ? from : to);
            rig_end_free(end);
        }
    }
}

static void test_current(void)
{
    RigEnd *end = end_in(IBV_QPS_RTR);
    struct ibv_qp_attr attr;
    int mask = rig_rts_attr(end, &attr) | IBV_QP_CUR_STATE;

    attr.cur_qp_state = IBV_QPS_RTS;
    if (differs("qp-current-state")) {
        g_assert_cmpint(ibv_modify_qp(end->qp, &attr, IBV_QP_STATE |
                                      IBV_QP_CUR_STATE), ==, 0);
    } else {
        refuse(end, attr, IBV_QP_STATE | IBV_QP_CUR_STATE);
        g_assert_cmpint(rig_state(end), ==, IBV_QPS_RTR);
        attr.cur_qp_state = IBV_QPS_RTR;
        g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
    }
    g_assert_cmpint(rig_state(end), ==, IBV_QPS_RTS);
    rig_end_free(end);
}

/* Attributes that may change in RTS, and one that may not. */
static void test_change(void)
{
    RigEnd *end = end_in(IBV_QPS_RTS);
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr = { .qp_access_flags = 0, .min_rnr_timer = 20 };

    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, IBV_QP_ACCESS_FLAGS |
                                  IBV_QP_MIN_RNR_TIMER), ==, 0);
    g_assert_cmpint(ibv_query_qp(end->qp, &attr, EVERYTHING, &init), ==, 0);
    g_assert_cmpint(attr.qp_access_flags, ==, 0);
    g_assert_cmpint(attr.min_rnr_timer, ==, 20);
    g_assert_cmpint(attr.qp_state, ==, IBV_QPS_RTS);
    attr.path_mtu = IBV_MTU_256;
    refuse(end, attr, IBV_QP_PATH_MTU);
    attr.timeout = 5;
    refuse(end, attr, IBV_QP_TIMEOUT);
    rig_end_free(end);
}

/* ------------------------------------------------------------------ posting */

static void test_post_recv(void)
{
    RigEnd *end = end_in(IBV_QPS_RESET);

    g_assert_cmpint(rig_recv(end, 1, 0, 8), ==, EINVAL);
    rig_end_free(end);
    for (int state = IBV_QPS_INIT; state <= IBV_QPS_RTS; state++) {
        end = end_in(state);
        g_assert_cmpint(rig_recv(end, 1, 0, 8), ==, 0);
        rig_quiet(end->recv_cq);
        rig_end_free(end);
    }
    end = end_in(IBV_QPS_ERR);
    g_assert_cmpint(rig_recv(end, 1, 0, 8), ==, 0);
    if (differs("qp-post-recv-error")) {
        rig_quiet(end->recv_cq);
    } else {
        rig_done(end->recv_cq, 1, IBV_WC_WR_FLUSH_ERR);
    }
    rig_end_free(end);
}

static void test_post_send(void)
{
    RigEnd *end;

    for (int state = IBV_QPS_RESET; state <= IBV_QPS_RTR; state++) {
        end = end_in(state);
        g_assert_cmpint(rig_send(end, 1, 0, 8, IBV_SEND_SIGNALED), ==,
                        EINVAL);
        rig_quiet(end->send_cq);
        rig_end_free(end);
    }
    end = end_in(IBV_QPS_ERR);
    /* Even one that is not signalled completes: with an error. */
    g_assert_cmpint(rig_send(end, 1, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    g_assert_cmpint(rig_send(end, 2, 0, 8, 0), ==, 0);
    rig_done(end->send_cq, 1, IBV_WC_WR_FLUSH_ERR);
    rig_done(end->send_cq, 2, IBV_WC_WR_FLUSH_ERR);
    rig_end_free(end);
}

static void test_flush(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    RigEnd *a = pair.a;

    /* b has no receive: a's requests wait. */
    for (int i = 0; i < 6; i++) {
        g_assert_cmpint(rig_recv(a, 100 + i, 0, 8), ==, 0);
        g_assert_cmpint(rig_send(a, i, 0, 8, i % 2 ? IBV_SEND_SIGNALED : 0),
                        ==, 0);
    }
    rig_quiet(a->send_cq);
    g_assert_cmpint(rig_to(a, IBV_QPS_ERR), ==, 0);
    for (int i = 0; i < 6; i++) {
        struct ibv_wc wc = rig_done(a->send_cq, i, IBV_WC_WR_FLUSH_ERR);

        g_assert_cmpuint(wc.qp_num, ==, a->qp->qp_num);
        wc = rig_done(a->recv_cq, 100 + i, IBV_WC_WR_FLUSH_ERR);
        g_assert_cmpuint(wc.qp_num, ==, a->qp->qp_num);
    }
    rig_quiet(a->send_cq);
    rig_quiet(a->recv_cq);
    /* The program did it: nobody has to be told. */
    rig_no_async();
    g_assert_cmpint(rig_state(pair.b), ==, IBV_QPS_RTS);
    rig_pair_free(pair);
}

static void reconnect(RigPair pair)
{
    RigWhere a = rig_where(pair.a), b = rig_where(pair.b);

    g_assert_cmpint(rig_to(pair.a, IBV_QPS_RESET), ==, 0);
    g_assert_cmpint(rig_to(pair.b, IBV_QPS_RESET), ==, 0);
    rig_to_init(pair.a);
    rig_to_init(pair.b);
    rig_to_rtr(pair.a, &b);
    rig_to_rtr(pair.b, &a);
    rig_to_rts(pair.a);
    rig_to_rts(pair.b);
}

static void test_reset(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_wc wc;

    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 3, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    g_usleep(RIG_QUIET_MS * 1000);
    reconnect(pair);
    if (differs("qp-reset-completions")) {
        rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
        rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    }
    /* Neither completions nor requests of before are left. */
    g_assert_cmpint(ibv_poll_cq(pair.a->send_cq, 1, &wc), ==, 0);
    g_assert_cmpint(ibv_poll_cq(pair.b->recv_cq, 1, &wc), ==, 0);
    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_recv(pair.b, 10 + i, 0, 64), ==, 0);
    }
    g_assert_cmpint(rig_send(pair.a, 20, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 20, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 10, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

/* Receives that were posted before RTR are there for the first message. */
static void test_early_recv(void)
{
    RigPair pair = { rig_end(&rig_defaults), rig_end(&rig_defaults) };
    RigWhere a = rig_where(pair.a), b = rig_where(pair.b);

    rig_to_init(pair.b);
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    rig_to_rtr(pair.b, &a);
    rig_to_init(pair.a);
    rig_to_rtr(pair.a, &b);
    rig_to_rts(pair.a);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    /* The first message in RTR says that the connection stands. */
    if (differs("qp-comm-est")) {
        rig_no_async();
    } else {
        rig_async(IBV_EVENT_COMM_EST, pair.b->qp);
    }
    rig_to_rts(pair.b);
    rig_pair_free(pair);
}

/* Completions of a queue pair that is no more are gone, too. */
static void test_destroy(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_usleep(RIG_QUIET_MS * 1000);
    g_assert_cmpint(ibv_destroy_qp(pair.b->qp), ==, 0);
    pair.b->qp = NULL;
    if (differs("qp-destroy-completions")) {
        rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    }
    rig_quiet(pair.b->recv_cq);
    rig_pair_free(pair);
}

static void test_nobody(void)
{
    RigOptions options = rig_defaults;
    RigWhere peer = { .psn = 1 };
    RigEnd *end;

    /* A queue pair number that nobody has: silence, then an error. */
    options.timeout = 12;
    options.retry_cnt = 1;
    end = rig_end(&options);
    peer.gid = rig_where(end).gid;
    peer.qp_num = end->qp->qp_num ^ 0x2000;
    rig_to_init(end);
    rig_to_rtr(end, &peer);
    rig_to_rts(end);
    g_assert_cmpint(rig_send(end, 1, 0, 8, 0), ==, 0);
    rig_done(end->send_cq, 1, IBV_WC_RETRY_EXC_ERR);
    rig_await_state(end, IBV_QPS_ERR);
    rig_end_free(end);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/qp/create", test_create);
    g_test_add_func("/qp/create-bad", test_create_bad);
    g_test_add_func("/qp/walk", test_walk);
    g_test_add_func("/qp/required", test_required);
    g_test_add_func("/qp/values", test_values);
    g_test_add_func("/qp/moves", test_moves);
    g_test_add_func("/qp/current-state", test_current);
    g_test_add_func("/qp/change", test_change);
    g_test_add_func("/qp/post-recv", test_post_recv);
    g_test_add_func("/qp/post-send", test_post_send);
    g_test_add_func("/qp/flush", test_flush);
    g_test_add_func("/qp/reset", test_reset);
    g_test_add_func("/qp/early-recv", test_early_recv);
    g_test_add_func("/qp/destroy", test_destroy);
    g_test_add_func("/qp/nobody", test_nobody);
    return rig_run();
}
