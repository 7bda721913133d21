/*
 * Unit tests of the verbs room: slots of the send queue, completions, regions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a fake of libibverbs, which counts every object.
 */
#include "fake-rdma.h"
#include "verbs-priv.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

typedef struct Fixture {
    RMigVerbs *verbs;
    RMigMr *mr;
    uint8_t buf[64];
    RMigWork work[4];
    unsigned done[4]; /* times that it completed */
    uint32_t bytes;
} Fixture;

static void note_done(RMigWork *work, uint32_t bytes)
{
    Fixture *f = work->owner;

    f->done[work - f->work]++;
    f->bytes = bytes;
}

static char *describe(const RMigWork *work)
{
    (void)work;
    return g_strdup("of something");
}

static void setup(Fixture *f)
{
    static const char *const names[] = { "one", "two", "three", "four" };

    memset(f, 0, sizeof(*f));
    f->verbs = rmig_verbs_new(&fake_rdma.context, 1, NULL);
    g_assert_nonnull(f->verbs);
    g_assert_true(rmig_verbs_create_qp(f->verbs, NULL));
    f->mr = rmig_mr_register(f->verbs, f->buf, sizeof(f->buf), true, NULL);
    g_assert_nonnull(f->mr);
    for (unsigned i = 0; i < G_N_ELEMENTS(f->work); i++) {
        f->work[i] = (RMigWork) { .what = names[i], .done = note_done,
                                  .owner = f };
    }
}

static void teardown(Fixture *f)
{
    rmig_mr_unregister(f->mr);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 0);
    rmig_verbs_destroy_qp(f->verbs);
    rmig_verbs_free(f->verbs);
    fake_rdma_cleanup();
}

/* @n writes, each of other bytes of the buffer, to another place */
static bool post_chain(Fixture *f, unsigned i, unsigned n, GError **err)
{
    RMigWrite writes[RMIG_VERBS_CHAIN];

    g_assert_cmpuint(n, <=, RMIG_VERBS_CHAIN);
    for (unsigned k = 0; k < n; k++) {
        writes[k] = (RMigWrite) {
            .mr = f->mr, .addr = f->buf + k, .bytes = 16 + k, .rkey = 77 + k,
            .remote_addr = 0x1234567890 + k,
        };
    }
    return rmig_verbs_post_writes(f->verbs, &f->work[i], writes, n, err);
}

static void complete(Fixture *f, unsigned i)
{
    fake_rdma_complete((uintptr_t)&f->work[i], IBV_WC_SUCCESS, 21);
}

static const struct ibv_send_wr *last_send(void)
{
    return &g_array_index(fake_rdma.sends, struct ibv_send_wr,
                          fake_rdma.sends->len - 1);
}

static void test_post(void)
{
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_true(post_chain(&f, 0, 1, NULL));
    g_assert_cmpint(last_send()->opcode, ==, IBV_WR_RDMA_WRITE);
    g_assert_cmpint(last_send()->send_flags, ==, IBV_SEND_SIGNALED);
    g_assert_cmphex(last_send()->wr_id, ==, (uintptr_t)&f.work[0]);
    g_assert_cmphex(last_send()->wr.rdma.remote_addr, ==, 0x1234567890);
    g_assert_cmphex(last_send()->wr.rdma.rkey, ==, 77);

    g_assert_true(rmig_verbs_post_send(f.verbs, &f.work[1], f.mr, f.buf, 8,
                                       NULL));
    g_assert_cmpint(last_send()->opcode, ==, IBV_WR_SEND);
    g_assert_cmpint(last_send()->send_flags, ==, IBV_SEND_SIGNALED);

    g_assert_true(rmig_verbs_post_probe(f.verbs, &f.work[2], NULL));
    g_assert_cmpint(last_send()->opcode, ==, IBV_WR_RDMA_WRITE);
    g_assert_cmpint(last_send()->num_sge, ==, 0);
    g_assert_cmpint(last_send()->send_flags, ==, IBV_SEND_SIGNALED);

    g_assert_true(rmig_verbs_post_recv(f.verbs, &f.work[3], f.mr, f.buf, 64,
                                       NULL));
    g_assert_cmpuint(fake_rdma.recvs->len, ==, 1);
    g_assert_cmpuint(rmig_verbs_sends_in_flight(f.verbs), ==, 3);
    teardown(&f);
}

/* One call; in order; all say whose they are, and the last that it is done */
static void test_chain(void)
{
    unsigned n = RMIG_VERBS_CHAIN;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_true(post_chain(&f, 0, n, NULL));
    g_assert_cmpuint(fake_rdma.doorbells, ==, 1);
    g_assert_cmpuint(fake_rdma.sends->len, ==, n);
    for (unsigned i = 0; i < n; i++) {
        const struct ibv_send_wr *wr =
            &g_array_index(fake_rdma.sends, struct ibv_send_wr, i);
        const struct ibv_sge *sge =
            &g_array_index(fake_rdma.sges, struct ibv_sge, i);

        g_assert_cmpint(wr->opcode, ==, IBV_WR_RDMA_WRITE);
        g_assert_cmpint(wr->send_flags, ==, i == n - 1 ? IBV_SEND_SIGNALED :
                        0);
        g_assert_cmphex(wr->wr_id, ==, (uintptr_t)&f.work[0]);
        g_assert_cmphex(wr->wr.rdma.remote_addr, ==, 0x1234567890 + i);
        g_assert_cmphex(wr->wr.rdma.rkey, ==, 77 + i);
        g_assert_cmphex(sge->addr, ==, (uintptr_t)f.buf + i);
        g_assert_cmpuint(sge->length, ==, 16 + i);
        g_assert_cmpuint(sge->lkey, ==, 7);
    }
    g_assert_cmpuint(rmig_verbs_sends_in_flight(f.verbs), ==, n);
    complete(&f, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(f.done[0], ==, 1);
    g_assert_cmpuint(rmig_verbs_sends_in_flight(f.verbs), ==, 0);
    teardown(&f);
}

/* A completion gives back its own slot and those of its chain */
static void test_slots(void)
{
    unsigned room;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    room = rmig_verbs_write_room(f.verbs);
    g_assert_cmpuint(room, ==, RMIG_VERBS_SLOTS_WRITE);
    g_assert_true(post_chain(&f, 0, 3, NULL));
    g_assert_true(post_chain(&f, 1, 5, NULL));
    g_assert_true(rmig_verbs_post_send(f.verbs, &f.work[2], f.mr, f.buf, 8,
                                       NULL));
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 9);
    complete(&f, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 6);
    g_assert_cmpuint(f.done[0], ==, 1);

    /* the same context again, when it has come back */
    g_assert_true(post_chain(&f, 0, 2, NULL));
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 8);
    complete(&f, 1);
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 2);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 2);
    complete(&f, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_sends_in_flight(f.verbs), ==, 0);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room);
    teardown(&f);
}

/* Writes never take what is kept for messages and the heartbeat */
static void test_reserved_slots(void)
{
    Fixture f;

    fake_rdma_init();
    setup(&f);
    while (rmig_verbs_write_room(f.verbs) > 0) {
        g_assert_true(post_chain(&f, 0, MIN(rmig_verbs_write_room(f.verbs),
                                            31), NULL));
    }
    for (unsigned i = 0; i < RMIG_VERBS_SLOTS_RESERVED; i++) {
        g_assert_true(rmig_verbs_post_send(f.verbs, &f.work[1], f.mr, f.buf,
                                           8, NULL));
        g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, 0);
    }
    g_assert_cmpuint(fake_rdma.sends->len, ==, RMIG_VERBS_SLOTS_WRITE +
                     RMIG_VERBS_SLOTS_RESERVED);
    teardown(&f);
}

static void test_small_device(void)
{
    const struct ibv_qp_init_attr *attr = &fake_rdma.qp_attr;
    Fixture f;

    fake_rdma_init();
    fake_rdma.attr.max_qp_wr = 64;
    setup(&f);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==,
                     64 - RMIG_VERBS_SLOTS_RESERVED);
    g_assert_cmpuint(attr->cap.max_send_wr, ==, 64);
    g_assert_cmpuint(attr->cap.max_recv_wr, ==, RMIG_VERBS_RECVS);
    g_assert_true(attr->send_cq == attr->recv_cq);
    teardown(&f);

    fake_rdma_init();
    fake_rdma.attr.max_cqe = 100;
    setup(&f);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==,
                     100 - RMIG_VERBS_RECVS - RMIG_VERBS_SLOTS_RESERVED);
    teardown(&f);
}

/* A post that is refused takes no slot, and no other request's either */
static void test_post_fails(void)
{
    g_autoptr(GError) err = NULL;
    unsigned room;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    room = rmig_verbs_write_room(f.verbs);
    g_assert_true(post_chain(&f, 0, 1, NULL));
    fake_rdma.fail_call = "ibv_post_send";
    fake_rdma.fail_errno = EINVAL;
    g_assert_false(rmig_verbs_post_send(f.verbs, &f.work[1], f.mr, f.buf, 8,
                                        &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "posting a two failed: Invalid"));
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 1);
    g_assert_true(post_chain(&f, 2, 1, NULL));
    complete(&f, 0);
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 2);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room);
    g_clear_error(&err);

    fake_rdma.fail_call = "ibv_post_recv";
    fake_rdma.fail_errno = ENOMEM;
    g_assert_false(rmig_verbs_post_recv(f.verbs, &f.work[3], f.mr, f.buf, 64,
                                        &err));
    g_assert_nonnull(strstr(err->message, "posting a four failed"));
    g_clear_error(&err);

    /* Some providers return it as the kernel does */
    fake_rdma.fail_call = "ibv_post_recv";
    fake_rdma.fail_errno = -ENOMEM;
    g_assert_false(rmig_verbs_post_recv(f.verbs, &f.work[3], f.mr, f.buf, 64,
                                        &err));
    g_assert_nonnull(strstr(err->message, g_strerror(ENOMEM)));
    teardown(&f);
}

/*
 * The device refuses request @bad of seven: those before it are on the queue
 * until something that is signalled and stands behind them completes
 */
static void check_chain_fails(unsigned bad, bool next_is_send)
{
    g_autoptr(GError) err = NULL;
    unsigned room;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    room = rmig_verbs_write_room(f.verbs);
    g_assert_true(post_chain(&f, 0, 4, NULL));
    fake_rdma.fail_call = "ibv_post_send";
    fake_rdma.fail_errno = ENOMEM;
    fake_rdma.fail_skip = bad;
    g_assert_false(post_chain(&f, 1, 7, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "posting a two failed: Cannot"));
    g_assert_cmpuint(fake_rdma.sends->len, ==, 4 + bad);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 4 - bad);

    complete(&f, 0); /* gives back its own only */
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - bad);

    if (next_is_send) {
        g_assert_true(rmig_verbs_post_send(f.verbs, &f.work[2], f.mr, f.buf,
                                           8, NULL));
    } else {
        g_assert_true(post_chain(&f, 2, 3, NULL));
    }
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room);
    g_assert_cmpuint(f.done[1], ==, 0);

    /* and given back once */
    g_assert_true(post_chain(&f, 3, 2, NULL));
    complete(&f, 3);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_sends_in_flight(f.verbs), ==, 0);
    teardown(&f);
}

static void test_chain_fails(void)
{
    static const unsigned bads[] = { 0, 1, 3, 6 };

    for (size_t i = 0; i < G_N_ELEMENTS(bads); i++) {
        check_chain_fails(bads[i], false);
        check_chain_fails(bads[i], true);
    }
}

/* Refused twice: what is left of both is given back together */
static void test_chain_fails_again(void)
{
    unsigned room;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    room = rmig_verbs_write_room(f.verbs);
    for (unsigned i = 0; i < 2; i++) {
        fake_rdma.fail_call = "ibv_post_send";
        fake_rdma.fail_errno = ENOMEM;
        fake_rdma.fail_skip = 2 + i;
        g_assert_false(post_chain(&f, i, 7, NULL));
    }
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 5);
    g_assert_true(rmig_verbs_post_probe(f.verbs, &f.work[2], NULL));
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room);
    teardown(&f);
}

static void test_poll(void)
{
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 0);
    for (unsigned i = 0; i < 50; i++) {
        complete(&f, 3); /* more than are reaped at a time */
    }
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 50);
    g_assert_cmpuint(f.done[3], ==, 50);

    fake_rdma_complete((uintptr_t)&f.work[3], IBV_WC_SUCCESS, 12345);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(f.bytes, ==, 12345);
    teardown(&f);
}

static void test_error_completion(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    f.work[1].describe = describe;
    g_assert_true(post_chain(&f, 0, 1, NULL));
    g_assert_true(post_chain(&f, 1, 1, NULL));
    complete(&f, 0);
    fake_rdma_complete((uintptr_t)&f.work[1], IBV_WC_RETRY_EXC_ERR, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, &err), ==, -1);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION);
    g_assert_cmpstr(err->message, ==, "two of something failed: transport "
                    "retry counter exceeded (vendor error 0x81): the peer's "
                    "device does not acknowledge it; fake0: its port is "
                    "active, so look at the network and at the peer's host");
    g_assert_cmpuint(f.done[0], ==, 1); /* it came before the error */
    g_assert_cmpuint(f.done[1], ==, 0);
    g_clear_error(&err);
    fake_rdma_complete((uintptr_t)&f.work[1], IBV_WC_WR_FLUSH_ERR, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, &err), ==, -1);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FLUSHED);
    g_clear_error(&err);

    fake_rdma.fail_call = "ibv_poll_cq";
    fake_rdma.fail_errno = EIO;
    g_assert_cmpint(rmig_verbs_poll(f.verbs, &err), ==, -1);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    teardown(&f);
}

/* What comes behind an error in the same look at the queue is not lost */
static void test_behind_error(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_true(post_chain(&f, i, 1, NULL));
    }
    fake_rdma_complete((uintptr_t)&f.work[0], IBV_WC_WR_FLUSH_ERR, 0);
    fake_rdma_complete((uintptr_t)&f.work[1], IBV_WC_REM_ACCESS_ERR, 0);
    fake_rdma_complete((uintptr_t)&f.work[0], IBV_WC_WR_FLUSH_ERR, 0);
    complete(&f, 2);
    for (unsigned i = 0; i < 20; i++) {
        fake_rdma_complete((uintptr_t)&f.work[3], IBV_WC_SUCCESS, 7);
    }
    g_assert_cmpint(rmig_verbs_poll(f.verbs, &err), ==, -1);
    /* and the reason is told, not its consequences */
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION);
    g_assert_cmpuint(f.done[2], ==, 1);
    g_assert_cmpuint(f.done[3], ==, 20);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 0);
    teardown(&f);
}

static void test_arm(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_true(rmig_verbs_arm(f.verbs, NULL));
    g_assert_cmpint(fake_rdma.armed, ==, 1);
    fake_rdma.fail_call = "ibv_req_notify_cq";
    fake_rdma.fail_errno = EIO;
    g_assert_false(rmig_verbs_arm(f.verbs, &err));
    g_assert_nonnull(strstr(err->message, "arming"));
    teardown(&f);
}

static void test_new_fails(void)
{
    static const char *const calls[] = {
        "ibv_alloc_pd", "ibv_create_comp_channel", "ibv_create_cq",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
        g_autoptr(GError) err = NULL;

        fake_rdma_init();
        fake_rdma.fail_call = calls[i];
        fake_rdma.fail_errno = ENOMEM;
        g_assert_null(rmig_verbs_new(&fake_rdma.context, 1, &err));
        g_assert_nonnull(strstr(err->message, "fake0"));
        fake_rdma_cleanup();
    }
}

static void test_register(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;
    RMigMr *mr;

    fake_rdma_init();
    setup(&f);
    g_assert_cmpint(fake_rdma.last_access, ==,
                    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    g_assert_cmpuint(rmig_mr_rkey(f.mr), ==, 9);
    g_assert_cmpuint(rmig_mr_bytes(f.mr), ==, 64);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 64);

    /* a ROM of ours is read-only, and may be sent from all the same */
    fake_rdma.fail_call = "ibv_reg_mr";
    fake_rdma.fail_errno = EFAULT;
    mr = rmig_mr_register(f.verbs, f.buf, 16, false, NULL);
    g_assert_nonnull(mr);
    g_assert_cmpint(fake_rdma.last_access, ==, 0);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 80);
    rmig_mr_unregister(mr);
    rmig_mr_unregister(NULL);

    /* but never written to */
    fake_rdma.fail_call = "ibv_reg_mr";
    g_assert_null(rmig_mr_register(f.verbs, f.buf, 16, true, &err));
    g_assert_nonnull(strstr(err->message, "registering 16 bytes"));
    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 64);
    teardown(&f);
}

/* The most that was pinned together, over all regions */
static void test_peak(void)
{
    RMigMr *mr[3];
    Fixture f;

    fake_rdma_init();
    setup(&f);
    rmig_mr_reset_peak();
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64);
    for (unsigned i = 0; i < 3; i++) {
        mr[i] = rmig_mr_register(f.verbs, f.buf, 10 + i, true, NULL);
        g_assert_nonnull(mr[i]);
    }
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64 + 33);
    rmig_mr_unregister(mr[0]);
    rmig_mr_unregister(mr[1]);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 64 + 12);
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64 + 33);
    mr[0] = rmig_mr_register(f.verbs, f.buf, 5, true, NULL);
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64 + 33);
    rmig_mr_reset_peak(); /* to what is pinned now */
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64 + 17);
    fake_rdma.fail_call = "ibv_reg_mr";
    fake_rdma.fail_errno = ENOMEM;
    g_assert_null(rmig_mr_register(f.verbs, f.buf, 50, true, NULL));
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), ==, 64 + 17);
    rmig_mr_unregister(mr[0]);
    rmig_mr_unregister(mr[2]);
    teardown(&f);
}

/* The one failure that every user meets names its remedy */
static void test_memlock_hint(void)
{
    struct rlimit before, limit;
    g_autoptr(GError) err = NULL;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    limit = before;
    limit.rlim_cur = MIN(limit.rlim_max, 65536);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    fake_rdma.fail_call = "ibv_reg_mr";
    fake_rdma.fail_errno = ENOMEM;
    g_assert_null(rmig_mr_register(f.verbs, f.buf, 16, true, &err));
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    g_assert_nonnull(strstr(err->message, "memory-lock limit"));
    g_assert_nonnull(strstr(err->message, "ulimit -l"));
    g_assert_nonnull(strstr(err->message, "hard_limit"));
    teardown(&f);
}

/* What raising a limit does not help says so, and is told apart */
static void test_unpinnable(void)
{
    static const int errnos[] = { EFAULT, EACCES, EOPNOTSUPP, EHWPOISON };
    Fixture f;

    fake_rdma_init();
    setup(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(errnos); i++) {
        g_autoptr(GError) err = NULL;

        fake_rdma.fail_call = "ibv_reg_mr";
        fake_rdma.fail_errno = errnos[i];
        g_assert_null(rmig_mr_register(f.verbs, f.buf, 16, true, &err));
        g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_UNPINNABLE);
        g_assert_nonnull(strstr(err->message, "no limit is in the way"));
        g_assert_null(strstr(err->message, "memory-lock"));
    }
    teardown(&f);
}

static void test_revoke(void)
{
    Fixture f;

    fake_rdma_init();
    setup(&f);
    g_assert_true(rmig_verbs_revoke(f.verbs));
    g_assert_cmpint(fake_rdma.qp_state, ==, IBV_QPS_ERR);
    g_assert_cmpint(fake_rdma.mrs, ==, 1); /* that comes later */
    rmig_verbs_destroy_qp(f.verbs);
    g_assert_true(rmig_verbs_revoke(f.verbs)); /* nothing is left to revoke */
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/verbs/post", test_post);
    g_test_add_func("/verbs/post/fails", test_post_fails);
    g_test_add_func("/verbs/chain", test_chain);
    g_test_add_func("/verbs/chain/fails", test_chain_fails);
    g_test_add_func("/verbs/chain/fails-again", test_chain_fails_again);
    g_test_add_func("/verbs/slots", test_slots);
    g_test_add_func("/verbs/slots/reserved", test_reserved_slots);
    g_test_add_func("/verbs/slots/small-device", test_small_device);
    g_test_add_func("/verbs/poll", test_poll);
    g_test_add_func("/verbs/poll/error", test_error_completion);
    g_test_add_func("/verbs/poll/behind-error", test_behind_error);
    g_test_add_func("/verbs/arm", test_arm);
    g_test_add_func("/verbs/new-fails", test_new_fails);
    g_test_add_func("/verbs/register", test_register);
    g_test_add_func("/verbs/register/peak", test_peak);
    g_test_add_func("/verbs/register/memlock", test_memlock_hint);
    g_test_add_func("/verbs/register/unpinnable", test_unpinnable);
    g_test_add_func("/verbs/revoke", test_revoke);
    return g_test_run();
}
