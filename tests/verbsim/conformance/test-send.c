/*
 * Conformance tests: SEND and RECV, and the send queue itself
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "rig.h"

#define HALF (128 * 1024)       /* sources below, targets from here on */

/* ------------------------------------------------------------------ payload */

static void test_payload(void)
{
    static const uint32_t sizes[] = {
        1, 7, 1023, 1024, 1025, 4095, 4096, 4097, 65536, HALF,
    };
    RigPair pair = rig_pair(&rig_defaults);

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        uint8_t *to = pair.b->buf + HALF;
        struct ibv_wc wc;

        rig_fill(pair.a->buf, sizes[i], i);
        memset(to, 0xee, HALF);
        g_assert_cmpint(rig_recv(pair.b, 10 + i, HALF, HALF), ==, 0);
        g_assert_cmpint(rig_send(pair.a, i, 0, sizes[i], IBV_SEND_SIGNALED),
                        ==, 0);
        wc = rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        g_assert_cmpint(wc.opcode, ==, IBV_WC_SEND);
        g_assert_cmpuint(wc.qp_num, ==, pair.a->qp->qp_num);
        wc = rig_done(pair.b->recv_cq, 10 + i, IBV_WC_SUCCESS);
        g_assert_cmpint(wc.opcode, ==, IBV_WC_RECV);
        g_assert_cmpuint(wc.byte_len, ==, sizes[i]);
        g_assert_cmpuint(wc.qp_num, ==, pair.b->qp->qp_num);
        g_assert_cmpint(wc.wc_flags & IBV_WC_WITH_IMM, ==, 0);
        g_assert_true(rig_filled(to, sizes[i], i));
        /* And not a byte more. */
        g_assert_true(sizes[i] == HALF || to[sizes[i]] == 0xee);
    }
    rig_pair_free(pair);
}

static void test_empty(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge junk = { .lkey = 0xdead };
    struct ibv_send_wr *bad, wr = { .wr_id = 2, .opcode = IBV_WR_SEND,
                                    .send_flags = IBV_SEND_SIGNALED };
    struct ibv_recv_wr *bad_recv, recv = { .wr_id = 1 };

    /* Nothing to send, and nowhere to put it. */
    g_assert_cmpint(ibv_post_recv(pair.b->qp, &recv, &bad_recv), ==, 0);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpuint(rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS).byte_len,
                     ==, 0);
    /* An element of no length: its key is not looked at. */
    g_assert_cmpint(rig_recv(pair.b, 3, 0, 64), ==, 0);
    wr.sg_list = &junk;
    wr.num_sge = 1;
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpuint(rig_done(pair.b->recv_cq, 3, IBV_WC_SUCCESS).byte_len,
                     ==, 0);
    rig_pair_free(pair);
}

static void test_immediate(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge sge = rig_sge(pair.a, 0, 5);
    struct ibv_send_wr *bad, wr = {
        .wr_id = 2, .opcode = IBV_WR_SEND_WITH_IMM, .sg_list = &sge,
        .num_sge = 1, .send_flags = IBV_SEND_SIGNALED,
        .imm_data = htonl(0xcafe1234),
    };
    struct ibv_wc wc;

    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    wc = rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpint(wc.opcode, ==, IBV_WC_SEND);
    wc = rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    g_assert_cmpint(wc.opcode, ==, IBV_WC_RECV);
    g_assert_cmpuint(wc.byte_len, ==, 5);
    g_assert_cmpint(wc.wc_flags & IBV_WC_WITH_IMM, !=, 0);
    g_assert_cmphex(wc.imm_data, ==, htonl(0xcafe1234));
    rig_pair_free(pair);
}

/* Four pieces on one side, three of other sizes on the other. */
static void test_gather_scatter(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge from[] = {
        rig_sge(pair.a, 4000, 1000), rig_sge(pair.a, 0, 1),
        rig_sge(pair.a, 30000, 0), rig_sge(pair.a, 10000, 3000),
    };
    struct ibv_sge to[] = {
        rig_sge(pair.b, 50000, 500), rig_sge(pair.b, 20001, 3000),
        rig_sge(pair.b, 100, 1000),
    };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 2, .opcode = IBV_WR_SEND, .sg_list = from, .num_sge = 4,
        .send_flags = IBV_SEND_SIGNALED,
    };
    struct ibv_recv_wr *bad_recv, recv = {
        .wr_id = 1, .sg_list = to, .num_sge = 3,
    };
    g_autofree uint8_t *sent = g_malloc(4001), *got = g_malloc(4001);

    rig_fill(sent, 4001, 9);
    memcpy(pair.a->buf + 4000, sent, 1000);
    memcpy(pair.a->buf, sent + 1000, 1);
    memcpy(pair.a->buf + 10000, sent + 1001, 3000);
    g_assert_cmpint(ibv_post_recv(pair.b->qp, &recv, &bad_recv), ==, 0);
    /* The request is taken when it is posted: its lists are ours again. */
    memset(to, 0, sizeof(to));
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    memset(from, 0, sizeof(from));
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    g_assert_cmpuint(rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS).byte_len,
                     ==, 4001);
    memcpy(got, pair.b->buf + 50000, 500);
    memcpy(got + 500, pair.b->buf + 20001, 3000);
    memcpy(got + 3500, pair.b->buf + 100, 501);
    g_assert_cmpmem(sent, 4001, got, 4001);
    g_assert_cmpint(pair.b->buf[601], ==, 0);
    rig_pair_free(pair);
}

static void test_inline(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    uint8_t message[64];
    struct ibv_sge sge[] = {
        /* Not registered: inline data has no key. */
        { .addr = (uintptr_t)message, .length = 40, .lkey = 0xdead },
        { .addr = (uintptr_t)message + 40, .length = 24, .lkey = 0xbeef },
    };
    struct ibv_send_wr *bad, wr = {
        .wr_id = 2, .opcode = IBV_WR_SEND, .sg_list = sge, .num_sge = 2,
        .send_flags = IBV_SEND_SIGNALED | IBV_SEND_INLINE,
    };
    uint8_t *large = g_malloc0(65536);

    rig_fill(message, sizeof(message), 3);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    /* Taken at once: it may be overwritten before it is sent. */
    memset(message, 0, sizeof(message));
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(pair.b->buf, 64, 3));
    /* More than the queue pair was made for. */
    sge[0].addr = (uintptr_t)large;
    sge[0].length = 65536;
    wr.num_sge = 1;
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), !=, 0);
    g_assert_true(bad == &wr);
    g_free(large);
    rig_pair_free(pair);
}

static void test_order(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_recv(pair.b, i, HALF + i * 1000, 1000), ==, 0);
    }
    for (int i = 0; i < 16; i++) {
        rig_fill(pair.a->buf + i * 1000, 1000, i);
        g_assert_cmpint(rig_send(pair.a, i, i * 1000, 1000 - i * 60,
                                 IBV_SEND_SIGNALED), ==, 0);
    }
    for (int i = 0; i < 16; i++) {
        struct ibv_wc wc = rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);

        g_assert_cmpuint(wc.byte_len, ==, 1000 - i * 60);
        g_assert_true(rig_filled(pair.b->buf + HALF + i * 1000, wc.byte_len,
                                 i));
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
}

static void test_both_ways(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    for (int i = 0; i < 50; i++) {
        RigEnd *from = i % 2 ? pair.a : pair.b;
        RigEnd *to = i % 2 ? pair.b : pair.a;

        rig_fill(from->buf, 100, i);
        g_assert_cmpint(rig_recv(to, i, HALF, 100), ==, 0);
        g_assert_cmpint(rig_send(from, i, 0, 100, IBV_SEND_SIGNALED), ==, 0);
        rig_done(from->send_cq, i, IBV_WC_SUCCESS);
        rig_done(to->recv_cq, i, IBV_WC_SUCCESS);
        g_assert_true(rig_filled(to->buf + HALF, 100, i));
    }
    rig_pair_free(pair);
}

/* -------------------------------------------------------- receive not ready */

static void test_rnr_none(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;

    options.rnr_retry = 0;
    pair = rig_pair(&options);
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_RNR_RETRY_EXC_ERR);
    rig_done(pair.a->send_cq, 2, IBV_WC_WR_FLUSH_ERR);
    rig_await_state(pair.a, IBV_QPS_ERR);
    /* It is the sender's error alone. */
    g_assert_cmpint(rig_state(pair.b), ==, IBV_QPS_RTS);
    rig_quiet(pair.b->recv_cq);
    rig_pair_free(pair);
}

static void test_rnr_some(void)
{
    RigOptions options = rig_defaults;
    int64_t start;
    RigPair pair;
    double s;

    options.rnr_retry = 3;
    options.min_rnr_timer = 26;     /* 81.92 ms */
    pair = rig_pair(&options);
    start = g_get_monotonic_time();
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_RNR_RETRY_EXC_ERR);
    s = rig_seconds_since(start);
    g_test_message("3 retries of 82 ms took %.0f ms", s * 1000);
    g_assert_cmpfloat(s, >, 3 * 0.08192 * 0.95);
    rig_pair_free(pair);
}

static void test_rnr_for_ever(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    /* 0.64 ms, for ever: far more than seven times. */
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_quiet(pair.a->send_cq);
    g_usleep(500000);
    g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 2, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

/* A retry that succeeds gives the next message all its retries again. */
static void test_rnr_again(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;

    options.rnr_retry = 2;
    options.min_rnr_timer = 0;      /* 655 ms: the receive is there by then */
    pair = rig_pair(&options);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(rig_send(pair.a, i, 0, 8, IBV_SEND_SIGNALED), ==, 0);
        g_usleep(60000);
        g_assert_cmpint(rig_recv(pair.b, i, 0, 64), ==, 0);
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
}

/* ---------------------------------------------------------- memory and keys */

static void test_receive_too_small(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    pair.b->buf[100] = 0x77;
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 100), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 2, 0, 100), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 3, 0, 101, 0), ==, 0);
    if (differs("receive-too-small")) {
        rig_done(pair.a->send_cq, 3, IBV_WC_REM_OP_ERR);
        rig_done(pair.b->recv_cq, 1, IBV_WC_LOC_QP_OP_ERR);
    } else {
        rig_done(pair.a->send_cq, 3, IBV_WC_REM_INV_REQ_ERR);
        rig_done(pair.b->recv_cq, 1, IBV_WC_LOC_LEN_ERR);
    }
    rig_done(pair.b->recv_cq, 2, IBV_WC_WR_FLUSH_ERR);
    rig_await_state(pair.a, IBV_QPS_ERR);
    rig_await_state(pair.b, IBV_QPS_ERR);
    g_assert_cmphex(pair.b->buf[100], ==, 0x77);
    rig_pair_free(pair);
}

typedef struct BadSge {
    int64_t addr;               /* from the buffer's begin */
    uint32_t length;
    enum { GOOD_KEY, JUNK_KEY, STALE_KEY, FOREIGN_KEY } key;
} BadSge;

static const BadSge bad_sges[] = {
    { 0, 8, JUNK_KEY }, { 0, 8, STALE_KEY }, { 0, 8, FOREIGN_KEY },
    { -1, 8, GOOD_KEY }, { 256 * 1024 - 7, 8, GOOD_KEY },
    { 256 * 1024, 8, GOOD_KEY },
};

/* @foreign: a region that is to be deregistered, or NULL */
static struct ibv_sge bad_sge(const BadSge *bad, RigEnd *end, RigEnd *other,
                              struct ibv_mr **foreign)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)end->buf + bad->addr, .length = bad->length,
        .lkey = end->mr->lkey,
    };
    struct ibv_mr *mr;

    *foreign = NULL;
    switch (bad->key) {
    case JUNK_KEY:
        sge.lkey ^= 0x5a5a00;
        break;
    case FOREIGN_KEY:
        /* Of another protection domain: a region over our memory. */
        *foreign = ibv_reg_mr(other->pd, end->buf, 4096,
                              IBV_ACCESS_LOCAL_WRITE);
        g_assert_nonnull(*foreign);
        sge.lkey = (*foreign)->lkey;
        break;
    case STALE_KEY:
        mr = ibv_reg_mr(end->pd, end->buf, 4096, IBV_ACCESS_LOCAL_WRITE);
        g_assert_nonnull(mr);
        sge.lkey = mr->lkey;
        g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
        break;
    default:
        break;
    }
    return sge;
}

static void free_foreign(struct ibv_mr *foreign)
{
    if (foreign) {
        g_assert_cmpint(ibv_dereg_mr(foreign), ==, 0);
    }
}

static void test_local_protection(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_sges); i++) {
        RigPair pair = rig_pair(&rig_defaults);
        struct ibv_mr *foreign;
        struct ibv_sge sge = bad_sge(&bad_sges[i], pair.a, pair.b, &foreign);
        struct ibv_send_wr *bad, wr = {
            .wr_id = 1, .opcode = IBV_WR_SEND, .sg_list = &sge, .num_sge = 1,
        };

        g_test_message("source %u", i);
        g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
        g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
        rig_done(pair.a->send_cq, 1,
                 rig_protection_error(bad_sges[i].key != GOOD_KEY));
        rig_await_state(pair.a, IBV_QPS_ERR);
        rig_quiet(pair.b->recv_cq);
        free_foreign(foreign);
        rig_pair_free(pair);
    }
}

/* What a receive that cannot be written to means to both sides. */
static void expect_bad_receive(RigPair pair, struct ibv_sge sge)
{
    struct ibv_recv_wr *bad, wr = { .wr_id = 1, .sg_list = &sge,
                                    .num_sge = 1 };

    g_assert_cmpint(ibv_post_recv(pair.b->qp, &wr, &bad), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_REM_OP_ERR);
    rig_done(pair.b->recv_cq, 1, rig_protection_error(true));
    rig_await_state(pair.a, IBV_QPS_ERR);
    rig_await_state(pair.b, IBV_QPS_ERR);
}

static void test_receive_protection(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_sges); i++) {
        RigPair pair = rig_pair(&rig_defaults);
        struct ibv_mr *foreign;
        struct ibv_sge sge;

        g_test_message("target %u", i);
        sge = bad_sge(&bad_sges[i], pair.b, pair.a, &foreign);
        expect_bad_receive(pair, sge);
        free_foreign(foreign);
        rig_pair_free(pair);
    }
}

static void test_receive_read_only(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge sge = rig_sge(pair.b, 0, 64);
    struct ibv_mr *mr = ibv_reg_mr(pair.b->pd, pair.b->buf, 4096,
                                   IBV_ACCESS_REMOTE_READ);

    g_assert_nonnull(mr);
    sge.lkey = mr->lkey;
    expect_bad_receive(pair, sge);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    rig_pair_free(pair);
}

/* ------------------------------------------------------------------- queues */

/* A list of @n SENDs of nothing, and what became of it. */
static int post_list(RigEnd *end, int n, unsigned flags, int *posted)
{
    g_autofree struct ibv_send_wr *wr = g_new0(struct ibv_send_wr, n);
    struct ibv_send_wr *bad = NULL;
    int error;

    for (int i = 0; i < n; i++) {
        wr[i].wr_id = i;
        wr[i].opcode = IBV_WR_SEND;
        wr[i].send_flags = flags;
        wr[i].next = i < n - 1 ? &wr[i + 1] : NULL;
    }
    error = ibv_post_send(end->qp, wr, &bad);
    *posted = error ? bad - wr : n;
    return error;
}

static struct ibv_qp_cap caps_of(RigEnd *end)
{
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;

    g_assert_cmpint(ibv_query_qp(end->qp, &attr, IBV_QP_CAP, &init), ==, 0);
    return init.cap;
}

static void test_send_overflow(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;
    int most, posted;

    options.send_wr = 7;
    options.cqe = 200;
    pair = rig_pair(&options);
    most = caps_of(pair.a).max_send_wr;
    g_assert_cmpint(post_list(pair.a, 150, IBV_SEND_SIGNALED, &posted), ==,
                    ENOMEM);
    g_assert_cmpint(posted, >=, 7);
    g_assert_cmpint(posted, <=, most);
    /* Those before the bad one are on their way. */
    for (int i = 0; i < posted; i++) {
        g_assert_cmpint(rig_recv(pair.b, i, 0, 64), ==, 0);
        rig_done(pair.a->send_cq, i, IBV_WC_SUCCESS);
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
    }
    rig_quiet(pair.a->send_cq);
    rig_pair_free(pair);
}

/* Only a completion that was polled gives slots back: its own and older. */
static void test_unsignalled(void)
{
    RigOptions options = rig_defaults;
    int room, posted;
    RigPair pair;

    options.send_wr = options.recv_wr = 15;
    pair = rig_pair(&options);
    for (int i = 0; i < 15; i++) {
        g_assert_cmpint(rig_recv(pair.b, i, 0, 64), ==, 0);
    }
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, 0), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 3, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 4, 0, 8, 0), ==, 0);
    for (int i = 0; i < 4; i++) {
        rig_done(pair.b->recv_cq, i, IBV_WC_SUCCESS);
    }
    g_usleep(RIG_QUIET_MS * 1000);
    room = caps_of(pair.a).max_send_wr - 4;
    /* All four have been executed, but nobody has polled. */
    g_assert_cmpint(post_list(pair.a, 150, 0, &posted), ==, ENOMEM);
    if (differs("slots-without-poll")) {
        g_assert_cmpint(posted, >, room);
        rig_pair_free(pair);
        return;
    }
    g_assert_cmpint(posted, ==, room);
    rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
    /* Three are free again. */
    g_assert_cmpint(post_list(pair.a, 150, 0, &posted), ==, ENOMEM);
    g_assert_cmpint(posted, ==, 3);
    rig_pair_free(pair);
}

static void test_all_signalled(void)
{
    RigOptions options = rig_defaults;
    RigPair pair;

    options.sq_sig_all = true;
    pair = rig_pair(&options);
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_SUCCESS);
    rig_pair_free(pair);
    /* And without it, unsignalled ones are silent. */
    pair = rig_pair(&rig_defaults);
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 2, 0, 8, 0), ==, 0);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    rig_quiet(pair.a->send_cq);
    rig_pair_free(pair);
}

static void test_recv_overflow(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    struct ibv_recv_wr wr[200] = { 0 }, *bad = NULL;
    int posted;

    rig_to_init(end);
    for (int i = 0; i < 199; i++) {
        wr[i].next = &wr[i + 1];
    }
    g_assert_cmpint(ibv_post_recv(end->qp, wr, &bad), ==, ENOMEM);
    posted = bad - wr;
    g_assert_cmpint(posted, >=, end->options.recv_wr);
    g_assert_cmpint(posted, <=, caps_of(end).max_recv_wr);
    g_assert_cmpint(ibv_post_recv(end->qp, &wr[199], &bad), ==, ENOMEM);
    rig_end_free(end);
}

/* A bad one in the middle: those before it go, those after it do not. */
static void test_bad_in_list(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge sge[64];
    struct ibv_send_wr wr[3] = {
        { .wr_id = 1, .next = &wr[1], .opcode = IBV_WR_SEND,
          .send_flags = IBV_SEND_SIGNALED },
        { .wr_id = 2, .next = &wr[2], .opcode = IBV_WR_SEND, .sg_list = sge,
          .num_sge = 64 },
        { .wr_id = 3, .opcode = IBV_WR_SEND,
          .send_flags = IBV_SEND_SIGNALED },
    }, *bad = NULL;

    for (int i = 0; i < 64; i++) {
        sge[i] = rig_sge(pair.a, i, 1);
    }
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
    g_assert_cmpint(ibv_post_send(pair.a->qp, wr, &bad), !=, 0);
    g_assert_true(bad == &wr[1]);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    rig_quiet(pair.a->send_cq);
    rig_quiet(pair.b->recv_cq);
    /* It was refused, and that is all: the queue pair is well. */
    g_assert_cmpint(rig_send(pair.a, 4, 0, 8, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 4, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

static void test_bad_recv(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    struct ibv_sge sge[64];
    struct ibv_recv_wr *bad = NULL, wr = { .sg_list = sge, .num_sge = 64 };

    rig_to_init(end);
    for (int i = 0; i < 64; i++) {
        sge[i] = rig_sge(end, i, 1);
    }
    g_assert_cmpint(ibv_post_recv(end->qp, &wr, &bad), !=, 0);
    g_assert_true(bad == &wr);
    rig_end_free(end);
}

/* The request that fails says why; those behind it are flushed, in order. */
static void test_error_flushes(void)
{
    RigPair pair = rig_pair(&rig_defaults);
    struct ibv_sge sge = rig_sge(pair.a, 0, 8);
    struct ibv_send_wr *bad, wr = { .wr_id = 2, .opcode = IBV_WR_SEND,
                                    .sg_list = &sge, .num_sge = 1 };

    sge.lkey ^= 0x5a5a00;
    g_assert_cmpint(rig_recv(pair.a, 50, 0, 64), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 60, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    g_assert_cmpint(ibv_post_send(pair.a->qp, &wr, &bad), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 3, 0, 8, 0), ==, 0);
    /* The first went well and is not signalled. */
    rig_done(pair.a->send_cq, 2, rig_protection_error(true));
    rig_done(pair.a->send_cq, 3, IBV_WC_WR_FLUSH_ERR);
    rig_done(pair.a->recv_cq, 50, IBV_WC_WR_FLUSH_ERR);
    rig_done(pair.b->recv_cq, 60, IBV_WC_SUCCESS);
    rig_pair_free(pair);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/send/payload", test_payload);
    g_test_add_func("/send/empty", test_empty);
    g_test_add_func("/send/immediate", test_immediate);
    g_test_add_func("/send/gather-scatter", test_gather_scatter);
    g_test_add_func("/send/inline", test_inline);
    g_test_add_func("/send/order", test_order);
    g_test_add_func("/send/both-ways", test_both_ways);
    g_test_add_func("/send/rnr-none", test_rnr_none);
    g_test_add_func("/send/rnr-some", test_rnr_some);
    g_test_add_func("/send/rnr-for-ever", test_rnr_for_ever);
    g_test_add_func("/send/rnr-again", test_rnr_again);
    g_test_add_func("/send/receive-too-small", test_receive_too_small);
    g_test_add_func("/send/local-protection", test_local_protection);
    g_test_add_func("/send/receive-protection", test_receive_protection);
    g_test_add_func("/send/receive-read-only", test_receive_read_only);
    g_test_add_func("/send/overflow", test_send_overflow);
    g_test_add_func("/send/unsignalled", test_unsignalled);
    g_test_add_func("/send/all-signalled", test_all_signalled);
    g_test_add_func("/send/recv-overflow", test_recv_overflow);
    g_test_add_func("/send/bad-in-list", test_bad_in_list);
    g_test_add_func("/send/bad-recv", test_bad_recv);
    g_test_add_func("/send/error-flushes", test_error_flushes);
    return rig_run();
}
