/*
 * Unit tests of the link room: what the end of a migration asks of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a fake of libibverbs and librdmacm.
 */
#include "link-fixture.h"

#include <errno.h>
#include <string.h>

/* A device that will not revoke the peer's access loses its queue pair */
static void test_revoke_fails(void)
{
    RMigMr *mr;
    uint8_t buf[16] = { 0 };
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    mr = rmig_mr_register(rmig_link_verbs(f.link), buf, sizeof(buf), false,
                          NULL);
    fake_rdma.fail_call = "ibv_modify_qp";
    fake_rdma.fail_errno = EINVAL;
    rmig_link_revoke(f.link);
    g_assert_cmpint(fake_rdma.qps, ==, 0);
    /* what is called as usual then does no harm */
    f.work.what = "SEND";
    g_assert_false(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                        buf, sizeof(buf), &err));
    g_assert_nonnull(strstr(err->message, "the queue pair is gone"));
    g_assert_true(rmig_link_settle(f.link, 1000, NULL));
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 0);
    rmig_link_revoke(f.link);
    rmig_link_disconnect(f.link);
    g_assert_cmpint(fake_rdma.disconnects, ==, 1);
    rmig_mr_unregister(mr);
    teardown(&f);
}

/* Until everything has arrived, or is known not to */
static void test_drain(void)
{
    RMigMr *mr;
    uint8_t buf[16] = { 0 };
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    g_assert_true(rmig_link_drain(f.link, 1000, "it", NULL));
    mr = rmig_mr_register(rmig_link_verbs(f.link), buf, sizeof(buf), false,
                          NULL);
    f.work.what = "SEND";
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    set_script(message_arrives, NULL, NULL);
    g_assert_true(rmig_link_drain(f.link, 5000, "it", NULL));
    g_assert_cmpuint(f.done, ==, 1);

    /* what is late is not there */
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    set_script(NULL, NULL, NULL);
    g_assert_false(rmig_link_drain(f.link, 5000, "it to arrive", &err));
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "it to arrive");
    rmig_link_disconnect(f.link);
    rmig_mr_unregister(mr);
    teardown(&f);
}

static void last_sent_completes(void)
{
    const struct ibv_send_wr *wr =
        &g_array_index(fake_rdma.sends, struct ibv_send_wr,
                       fake_rdma.sends->len - 1);

    g_assert_cmpint(wr->opcode, ==, IBV_WR_RDMA_WRITE);
    fake_rdma_complete(wr->wr_id, IBV_WC_SUCCESS, 0);
}

static void last_sent_breaks(void)
{
    fake_rdma_complete(g_array_index(fake_rdma.sends, struct ibv_send_wr,
                                     fake_rdma.sends->len - 1).wr_id,
                       IBV_WC_RETRY_EXC_ERR, 0);
}

static void probe_completes_and_goodbye(void)
{
    last_sent_completes();
    disconnected();
}

/* Asking takes a heartbeat that was posted after the question */
static void test_ask(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(last_sent_completes, NULL, NULL);
    g_assert_true(rmig_link_ask(f.link, NULL));
    g_assert_cmpuint(fake_rdma.sends->len, ==, 1);

    /* one that is under way is no answer */
    set_script(fake_rdma_tick, fake_rdma_tick, NULL);
    while (fake_rdma.sends->len == 1) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    set_script(last_sent_completes, last_sent_completes, NULL);
    g_assert_true(rmig_link_ask(f.link, NULL));
    g_assert_cmpuint(fake_rdma.sends->len, ==, 3);

    set_script(last_sent_breaks, NULL, NULL);
    g_assert_false(rmig_link_ask(f.link, &err));
    g_assert_nonnull(strstr(err->message, "heartbeat failed"));
    teardown(&f);

    /* one that has left meanwhile is not there, though its NIC was */
    setup_connected(&f);
    set_script(probe_completes_and_goodbye, NULL, NULL);
    g_clear_error(&err);
    g_assert_false(rmig_link_ask(f.link, &err));
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    setup_connected(&f);
    set_script(NULL, NULL, NULL);
    g_assert_false(rmig_link_ask(f.link, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT);
    teardown(&f);
}

/* What breaks shuts down the others, until they part */
static void test_part(void)
{
    RMigShutdown *shutdown = rmig_shutdown_new(NULL);
    g_autoptr(GError) err = NULL;

    g_assert_true(rmig_shutdown_part(shutdown, NULL));
    rmig_shutdown_because(shutdown, "it broke");
    g_assert_false(rmig_shutdown_triggered(shutdown));
    g_assert_true(rmig_shutdown_part(shutdown, NULL));
    rmig_shutdown_trigger(shutdown); /* a wish is one */
    g_assert_true(rmig_shutdown_triggered(shutdown));
    rmig_shutdown_free(shutdown);

    shutdown = rmig_shutdown_new(NULL);
    rmig_shutdown_because(shutdown, "it broke");
    g_assert_true(rmig_shutdown_triggered(shutdown));
    g_assert_false(rmig_shutdown_part(shutdown, &err));
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "it broke");
    rmig_shutdown_free(shutdown);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/link-end/revoke-fails", test_revoke_fails);
    g_test_add_func("/link-end/drain", test_drain);
    g_test_add_func("/link-end/ask", test_ask);
    g_test_add_func("/link-end/part", test_part);
    return g_test_run();
}
