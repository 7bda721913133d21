/*
 * Conformance tests: RDMA that must be refused, and memory taken away
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "rig.h"

#define BYTES (256 * 1024)
#define LARGE (4 << 20)

/* The far side's memory and queue pair, and what of it is asked for. */
typedef struct Attempt {
    const char *name;
    int mr_access;              /* of the key */
    int qp_access;
    int64_t offset;             /* from the region's begin */
    uint32_t length;
    enum { OWN, JUNK, STALE, FOREIGN, WRAP } key;
    bool reads;
} Attempt;

#define ALL                                                             \
    (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ)
#define RD IBV_ACCESS_REMOTE_READ
#define WR (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)

static const Attempt attempts[] = {
    { "write/junk-key", ALL, ALL, 0, 8, JUNK, false },
    { "write/stale-key", ALL, ALL, 0, 8, STALE, false },
    { "write/foreign-key", ALL, ALL, 0, 8, FOREIGN, false },
    { "write/below", ALL, ALL, -1, 8, OWN, false },
    { "write/beyond", ALL, ALL, BYTES - 7, 8, OWN, false },
    { "write/behind", ALL, ALL, BYTES, 1, OWN, false },
    { "write/one-too-long", ALL, ALL, 0, BYTES + 1, OWN, false },
    { "write/wraps", ALL, ALL, 0, 4096, WRAP, false },
    { "write/region-without", RD, ALL, 0, 8, OWN, false },
    { "write/region-local", IBV_ACCESS_LOCAL_WRITE, ALL, 0, 8, OWN, false },
    { "read/junk-key", ALL, ALL, 0, 8, JUNK, true },
    { "read/stale-key", ALL, ALL, 0, 8, STALE, true },
    { "read/foreign-key", ALL, ALL, 0, 8, FOREIGN, true },
    { "read/below", ALL, ALL, -1, 8, OWN, true },
    { "read/beyond", ALL, ALL, BYTES - 7, 8, OWN, true },
    { "read/one-too-long", ALL, ALL, 0, BYTES + 1, OWN, true },
    { "read/wraps", ALL, ALL, 0, 4096, WRAP, true },
    { "read/region-without", WR, ALL, 0, 8, OWN, true },
    { "read/region-local", IBV_ACCESS_LOCAL_WRITE, ALL, 0, 8, OWN, true },
};

static RigPair pair_for(const Attempt *attempt)
{
    RigOptions options = rig_defaults;

    options.bytes = BYTES + 4096;
    options.qp_access = attempt->qp_access & ~IBV_ACCESS_LOCAL_WRITE;
    return rig_pair(&options);
}

static RigWhere where_of(const Attempt *attempt, struct ibv_mr *mr)
{
    RigWhere where = { .addr = (uintptr_t)mr->addr + attempt->offset,
                       .rkey = mr->rkey };

    if (attempt->key == JUNK) {
        where.rkey ^= 0x5a5a00;
    } else if (attempt->key == WRAP) {
        where.addr = UINT64_MAX - 100;
    }
    return where;
}

static void expect_flushed(RigEnd *end, uint64_t recv_id)
{
    rig_done(end->recv_cq, recv_id, IBV_WC_WR_FLUSH_ERR);
    rig_await_state(end, IBV_QPS_ERR);
    /* And what comes now is flushed, too. */
    g_assert_cmpint(rig_send(end, 77, 0, 8, 0), ==, 0);
    rig_done(end->send_cq, 77, IBV_WC_WR_FLUSH_ERR);
}

static void test_refused(gconstpointer opaque)
{
    const Attempt *attempt = opaque;
    RigPair pair = pair_for(attempt);
    struct ibv_pd *other = ibv_alloc_pd(rig_device());
    struct ibv_mr *mr = ibv_reg_mr(attempt->key == FOREIGN ? other :
                                   pair.b->pd, pair.b->buf, BYTES,
                                   attempt->mr_access);
    enum ibv_wr_opcode opcode = attempt->reads ? IBV_WR_RDMA_READ :
                                                 IBV_WR_RDMA_WRITE;
    RigWhere where;

    g_assert_nonnull(mr);
    where = where_of(attempt, mr);
    if (attempt->key == STALE) {
        g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
        mr = NULL;
    }
    memset(attempt->reads ? pair.b->buf : pair.a->buf, 0x99, BYTES + 4096);
    g_assert_cmpint(rig_recv(pair.a, 11, 0, 64), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 12, 0, 64), ==, 0);
    g_assert_cmpint(rig_rdma(pair.a, opcode, 1, 0, attempt->length, &where,
                             0), ==, 0);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 2, 0, 8, &where, 0),
                    ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_REM_ACCESS_ERR);
    rig_done(pair.a->send_cq, 2, IBV_WC_WR_FLUSH_ERR);
    expect_flushed(pair.a, 11);
    expect_flushed(pair.b, 12);
    if (!differs("access-event")) {
        rig_async(IBV_EVENT_QP_ACCESS_ERR, pair.b->qp);
    }
    rig_no_async();
    for (int i = 0; i < BYTES + 4096; i++) {
        g_assert_cmphex((attempt->reads ? pair.a : pair.b)->buf[i], ==, 0);
    }
    if (mr) {
        g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    }
    rig_pair_free(pair);
    g_assert_cmpint(ibv_dealloc_pd(other), ==, 0);
}

/* The queue pair itself does not allow it: an invalid request, it is called. */
static void refused_by_queue_pair(bool reads)
{
    const Attempt attempt = { .mr_access = ALL, .qp_access = reads ? WR : RD };
    RigPair pair = pair_for(&attempt);
    RigWhere where = rig_where(pair.b);

    g_assert_cmpint(rig_recv(pair.b, 12, 0, 64), ==, 0);
    g_assert_cmpint(rig_rdma(pair.a, reads ? IBV_WR_RDMA_READ :
                             IBV_WR_RDMA_WRITE, 1, 0, 8, &where, 0), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_REM_INV_REQ_ERR);
    rig_await_state(pair.a, IBV_QPS_ERR);
    rig_await_state(pair.b, IBV_QPS_ERR);
    rig_done(pair.b->recv_cq, 12, IBV_WC_WR_FLUSH_ERR);
    if (!differs("access-event")) {
        rig_async(IBV_EVENT_QP_REQ_ERR, pair.b->qp);
    }
    rig_no_async();
    rig_pair_free(pair);
}

static void test_queue_pair_without(void)
{
    refused_by_queue_pair(false);
    refused_by_queue_pair(true);
}

/* The right may be given later, and taken back. */
static void test_queue_pair_changes(void)
{
    const Attempt attempt = { .mr_access = ALL, .qp_access = 0 };
    RigPair pair = pair_for(&attempt);
    RigWhere where = rig_where(pair.b);
    struct ibv_qp_attr attr = { .qp_access_flags = IBV_ACCESS_REMOTE_WRITE };

    g_assert_cmpint(ibv_modify_qp(pair.b->qp, &attr, IBV_QP_ACCESS_FLAGS), ==,
                    0);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 1, 0, 8, &where,
                             IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_SUCCESS);
    attr.qp_access_flags = 0;
    g_assert_cmpint(ibv_modify_qp(pair.b->qp, &attr, IBV_QP_ACCESS_FLAGS), ==,
                    0);
    g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, 2, 0, 8, &where, 0),
                    ==, 0);
    rig_done(pair.a->send_cq, 2, IBV_WC_REM_INV_REQ_ERR);
    rig_pair_free(pair);
}

/* ------------------------------------------------------ memory taken away */

static uint64_t sum(const uint8_t *data, size_t bytes)
{
    uint64_t result = 0;

    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word;

        memcpy(&word, data + i, 8);
        result = result * 31 + word;
    }
    return result;
}

static RigPair large_pair(void)
{
    RigOptions options = rig_defaults;

    options.bytes = LARGE;
    return rig_pair(&options);
}

/*
 * The completions of 16 requests: some succeed, then one has @status, the
 * others are flushed.  Returns whether one failed.
 */
static bool breaks(RigEnd *end, enum ibv_wc_status status)
{
    int good = 0;

    for (int i = 0; i < 16; i++) {
        struct ibv_wc wc = rig_poll(end->send_cq);

        g_assert_cmpuint(wc.wr_id, ==, i);
        if (wc.status == IBV_WC_SUCCESS) {
            g_assert_cmpint(good, ==, i);
            good++;
        } else {
            g_assert_cmpstr(ibv_wc_status_str(wc.status), ==,
                            ibv_wc_status_str(i == good ? status :
                                              IBV_WC_WR_FLUSH_ERR));
        }
    }
    g_test_message("%d of 16 were carried out", good);
    return good < 16;
}

/*
 * A program that had to wait for a processor may come when all requests have
 * been carried out; then it tries again.
 */
static void until_it_breaks(bool (*attempt)(void))
{
    for (unsigned n = 0; !attempt(); n++) {
        g_assert_cmpuint(n, <, 1000);
    }
}

/* Spins until the first of the Writes can be seen. */
static void await_write(const uint8_t *data)
{
    int64_t start = g_get_monotonic_time();

    /* Somebody else writes there: volatile, to look each time. */
    while (*(const volatile uint8_t *)data == 0) {
        g_assert_cmpfloat(rig_seconds_since(start) * 1000, <, RIG_WAIT_MS);
    }
}

/* When dereg has returned, nobody writes there any more. */
static bool target_goes(void)
{
    RigPair pair = large_pair();
    RigWhere where = rig_where(pair.b);
    uint64_t before;
    bool broken;

    memset(pair.a->buf, 0x55, LARGE);
    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, i, 0, LARGE,
                                 &where, IBV_SEND_SIGNALED), ==, 0);
    }
    await_write(pair.b->buf);
    g_assert_cmpint(ibv_dereg_mr(pair.b->mr), ==, 0);
    pair.b->mr = NULL;
    memset(pair.b->buf, 0x66, LARGE);
    before = sum(pair.b->buf, LARGE);
    broken = breaks(pair.a, IBV_WC_REM_ACCESS_ERR);
    g_assert_cmphex(sum(pair.b->buf, LARGE), ==, before);
    rig_pair_free(pair);
    return broken;
}

static void test_target_goes(void)
{
    until_it_breaks(target_goes);
}

/* The requester's own memory: an error of its own, and no harm to the rest. */
static bool source_goes(void)
{
    RigPair pair = large_pair();
    RigWhere where = rig_where(pair.b);
    bool broken;

    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, i, 0, LARGE,
                                 &where, IBV_SEND_SIGNALED), ==, 0);
    }
    g_assert_cmpint(ibv_dereg_mr(pair.a->mr), ==, 0);
    pair.a->mr = NULL;
    munmap(pair.a->buf, LARGE);
    broken = breaks(pair.a, rig_protection_error(true));
    if (broken) {
        rig_await_state(pair.a, IBV_QPS_ERR);
    }
    pair.a->buf = mmap(NULL, LARGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
    rig_pair_free(pair);
    return broken;
}

static void test_source_goes(void)
{
    until_it_breaks(source_goes);
}

/* A receive whose memory has been taken away. */
static void test_receive_goes(void)
{
    RigPair pair = rig_pair(&rig_defaults);

    g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(pair.b->mr), ==, 0);
    pair.b->mr = NULL;
    g_assert_cmpint(rig_send(pair.a, 1, 0, 8, 0), ==, 0);
    rig_done(pair.a->send_cq, 1, IBV_WC_REM_OP_ERR);
    rig_done(pair.b->recv_cq, 2, rig_protection_error(true));
    rig_pair_free(pair);
}

/* The queue pair leaves RTS: from then on nobody writes through it. */
static bool target_revokes(void)
{
    RigOptions options = rig_defaults;
    RigWhere where;
    RigPair pair;
    uint64_t before;
    bool broken;

    options.bytes = LARGE;
    options.timeout = 14;
    options.retry_cnt = 1;
    pair = rig_pair(&options);
    where = rig_where(pair.b);
    memset(pair.a->buf, 0x55, LARGE);
    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(rig_rdma(pair.a, IBV_WR_RDMA_WRITE, i, 0, LARGE,
                                 &where, IBV_SEND_SIGNALED), ==, 0);
    }
    await_write(pair.b->buf);
    g_assert_cmpint(rig_to(pair.b, IBV_QPS_ERR), ==, 0);
    memset(pair.b->buf, 0x66, LARGE);
    before = sum(pair.b->buf, LARGE);
    broken = breaks(pair.a, IBV_WC_RETRY_EXC_ERR);
    if (broken) {
        rig_await_state(pair.a, IBV_QPS_ERR);
    }
    g_assert_cmphex(sum(pair.b->buf, LARGE), ==, before);
    rig_pair_free(pair);
    return broken;
}

static void test_target_revokes(void)
{
    until_it_breaks(target_revokes);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(attempts); i++) {
        g_autofree char *path = g_strconcat("/access/", attempts[i].name,
                                            NULL);

        g_test_add_data_func(path, &attempts[i], test_refused);
    }
    g_test_add_func("/access/queue-pair-without", test_queue_pair_without);
    g_test_add_func("/access/queue-pair-changes", test_queue_pair_changes);
    g_test_add_func("/access/target-goes", test_target_goes);
    g_test_add_func("/access/source-goes", test_source_goes);
    g_test_add_func("/access/receive-goes", test_receive_goes);
    g_test_add_func("/access/target-revokes", test_target_revokes);
    return rig_run();
}
