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
    f->verbs = rmig_verbs_new(&fake_rdma.context, NULL);
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

static bool write_one(Fixture *f, unsigned i, bool signalled, GError **err)
{
    return rmig_verbs_post_write(f->verbs, &f->work[i], signalled, f->mr,
                                 f->buf, 16, 0x1234567890, 77, err);
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
    g_assert_true(write_one(&f, 0, false, NULL));
    g_assert_cmpint(last_send()->opcode, ==, IBV_WR_RDMA_WRITE);
    g_assert_cmpint(last_send()->send_flags, ==, 0);
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

/* A completion gives back its own slot and those of the unsignalled before */
static void test_slots(void)
{
    unsigned room;
    Fixture f;

    fake_rdma_init();
    setup(&f);
    room = rmig_verbs_write_room(f.verbs);
    g_assert_cmpuint(room, ==, RMIG_VERBS_SLOTS_WRITE);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_true(write_one(&f, 0, i == 2, NULL));
    }
    for (unsigned i = 0; i < 5; i++) {
        g_assert_true(write_one(&f, 1, i == 4, NULL));
    }
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 8);
    complete(&f, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 5);
    g_assert_cmpuint(f.done[0], ==, 1);

    /* a SEND covers unsignalled writes that were posted before it */
    complete(&f, 1);
    g_assert_true(write_one(&f, 0, false, NULL));
    g_assert_true(rmig_verbs_post_send(f.verbs, &f.work[2], f.mr, f.buf, 8,
                                       NULL));
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 2);
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
        g_assert_true(write_one(&f, 0, true, NULL));
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
    g_assert_true(write_one(&f, 0, false, NULL));
    fake_rdma.fail_call = "ibv_post_send";
    fake_rdma.fail_errno = EINVAL;
    g_assert_false(write_one(&f, 1, true, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "posting a two failed: Invalid"));
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room - 1);
    g_assert_true(write_one(&f, 2, true, NULL));
    complete(&f, 2);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, NULL), ==, 1);
    g_assert_cmpuint(rmig_verbs_write_room(f.verbs), ==, room);
    g_clear_error(&err);

    fake_rdma.fail_call = "ibv_post_recv";
    fake_rdma.fail_errno = ENOMEM;
    g_assert_false(rmig_verbs_post_recv(f.verbs, &f.work[3], f.mr, f.buf, 64,
                                        &err));
    g_assert_nonnull(strstr(err->message, "posting a four failed"));
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
    g_assert_true(write_one(&f, 0, true, NULL));
    g_assert_true(write_one(&f, 1, true, NULL));
    complete(&f, 0);
    fake_rdma_complete((uintptr_t)&f.work[1], IBV_WC_RETRY_EXC_ERR, 0);
    g_assert_cmpint(rmig_verbs_poll(f.verbs, &err), ==, -1);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION);
    g_assert_cmpstr(err->message, ==, "two of something failed: transport "
                    "retry counter exceeded (vendor error 0x81)");
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
        g_assert_true(write_one(&f, i, true, NULL));
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
        g_assert_null(rmig_verbs_new(&fake_rdma.context, &err));
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

static void test_revoke(void)
{
    Fixture f;

    fake_rdma_init();
    setup(&f);
    rmig_verbs_revoke(f.verbs);
    g_assert_cmpint(fake_rdma.qp_state, ==, IBV_QPS_ERR);
    g_assert_cmpint(fake_rdma.mrs, ==, 1); /* that comes later */
    rmig_verbs_destroy_qp(f.verbs);
    rmig_verbs_revoke(f.verbs); /* nothing is left to revoke */
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/verbs/post", test_post);
    g_test_add_func("/verbs/post/fails", test_post_fails);
    g_test_add_func("/verbs/slots", test_slots);
    g_test_add_func("/verbs/slots/reserved", test_reserved_slots);
    g_test_add_func("/verbs/slots/small-device", test_small_device);
    g_test_add_func("/verbs/poll", test_poll);
    g_test_add_func("/verbs/poll/error", test_error_completion);
    g_test_add_func("/verbs/poll/behind-error", test_behind_error);
    g_test_add_func("/verbs/arm", test_arm);
    g_test_add_func("/verbs/new-fails", test_new_fails);
    g_test_add_func("/verbs/register", test_register);
    g_test_add_func("/verbs/register/memlock", test_memlock_hint);
    g_test_add_func("/verbs/revoke", test_revoke);
    return g_test_run();
}
