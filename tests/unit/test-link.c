/*
 * Unit tests of the link room: connecting, waiting, losing the peer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of link-fixture.h; the passive side is in test-listen.c.
 */
#include "link-fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Steps until it fails; returns how many succeeded */
static unsigned step_until_failure(Fixture *f, int64_t timeout_s, GError **err)
{
    int64_t deadline = timeout_s ? g_get_monotonic_time() +
                       timeout_s * G_USEC_PER_SEC : 0;
    unsigned n = 0;

    while (rmig_link_step(f->link, deadline, "a test", err)) {
        g_assert_cmpuint(++n, <, 100);
    }
    return n;
}

/* ---- the active side ---- */

static void test_connect(void)
{
    static const uint8_t asked[8] = { 0, 0, 0, 1, 0, 0, 0, 1 };
    RMigWirePrivate answer;
    Fixture f;

    setup(&f);
    f.link = resolve_link(&f);
    g_assert_nonnull(rmig_link_verbs(f.link));
    memset(&answer, 99, sizeof(answer));
    g_assert_true(rmig_link_connect(f.link, &ask_pin_all, &answer, NULL));
    g_assert_cmpuint(answer.version, ==, 1);
    g_assert_cmphex(answer.flags, ==, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_cmpuint(answer.pin_bytes, ==, 0);
    g_assert_cmpuint(fake_rdma.param.private_data_len, ==, 8);
    g_assert_cmpmem(fake_rdma.private_data, 8, asked, 8);
    g_assert_cmpuint(sleeps, ==, 3);
    teardown(&f);

    /* what was not asked for is not granted either */
    setup(&f);
    f.link = resolve_link(&f);
    g_assert_true(rmig_link_connect(f.link, &ask_nothing, &answer, NULL));
    g_assert_cmphex(answer.flags, ==, 0);
    teardown(&f);
}

static void answered(void)
{
    fake_rdma_event(RDMA_CM_EVENT_CONNECT_RESPONSE, 0, accepted,
                    sizeof(accepted));
}

/* InfiniBand and RoCE: the last step is ours, and no RNR ends the connection */
static void test_connect_answered(void)
{
    static const char *const calls[] = {
        NULL, "rdma_init_qp_attr", "ibv_modify_qp", "rdma_establish",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(calls); i++) {
        RMigWirePrivate answer;
        Fixture f;
        bool ok;

        setup(&f);
        set_script(addr_resolved, route_resolved, answered);
        f.link = resolve_link(&f);
        fake_rdma.fail_call = calls[i];
        fake_rdma.fail_errno = EIO;
        ok = rmig_link_connect(f.link, &ask_nothing, &answer, NULL);
        g_assert_true(ok == !calls[i]);
        g_assert_true(rmig_link_is_up(f.link) == ok);
        g_assert_cmpint(fake_rdma.established, ==, ok);
        /* The peer's heartbeat is a write */
        g_assert_true(fake_rdma.remote_write == (ok || i == 3));
        g_assert_cmpint(fake_rdma.rnr_retry, ==,
                        ok || i == 3 ? 7 : 0);
        teardown(&f);
    }
}

static void answered_and_left(void)
{
    answered();
    disconnected();
}

/* The call that fails says nothing of the peer, which has left meanwhile */
static void test_connect_abandoned(void)
{
    g_autoptr(GError) err = NULL;
    RMigWirePrivate answer;
    Fixture f;

    setup(&f);
    set_script(addr_resolved, route_resolved, answered_and_left);
    f.link = resolve_link(&f);
    fake_rdma.fail_call = "rdma_init_qp_attr";
    fake_rdma.fail_errno = EINVAL;
    g_assert_false(rmig_link_connect(f.link, &ask_nothing, &answer, &err));
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "the peer closed");
    teardown(&f);

    /* or of the device, which was removed just before */
    setup(&f);
    f.link = resolve_link(&f);
    fake_rdma_event(RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, 0);
    fake_rdma.fail_call = "rdma_connect";
    fake_rdma.fail_errno = EINVAL;
    g_assert_false(rmig_link_connect(f.link, &ask_nothing, &answer, &err));
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "device was removed");
    teardown(&f);
}

static void resolve_fails(Step *a, Step *b, const char *call, int errnum,
                          int code, const char *needle)
{
    GError *err = NULL;
    Fixture f;

    setup(&f);
    set_script(a, b, NULL);
    fake_rdma.fail_call = call;
    fake_rdma.fail_errno = errnum;
    g_assert_null(rmig_link_resolve("test", &waiter, f.shutdown,
                                    some_address(), &err));
    if (call == NULL || strcmp(call, "rdma_create_event_channel") != 0) {
        g_assert_true(err->domain != RMIG_LINK_ERROR ||
                      strstr(err->message, "[::1]:4444"));
    }
    if (err->domain == RMIG_LINK_ERROR) {
        assert_says(&err, code, needle);
    } else {
        g_assert_nonnull(strstr(err->message, needle));
        g_clear_error(&err);
    }
    teardown(&f); /* checks that nothing is left */
}

static void addr_error(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ADDR_ERROR, -EHOSTUNREACH, NULL, 0);
}

static void route_error(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ROUTE_ERROR, -ETIMEDOUT, NULL, 0);
}

static void test_resolve_fails(void)
{
    int failed = RMIG_LINK_ERROR_FAILED;

    resolve_fails(NULL, NULL, "rdma_create_event_channel", ENOENT, failed,
                  "rdma_ucm");
    resolve_fails(NULL, NULL, "rdma_create_id", ENOMEM, failed, "identifier");
    resolve_fails(NULL, NULL, "rdma_resolve_addr", ENODEV, failed,
                  "no RDMA device leads to that address");
    resolve_fails(addr_error, NULL, NULL, 0, failed,
                  "nobody answers at that address (No route to host)");
    resolve_fails(addr_resolved, route_error, NULL, 0, failed,
                  "no way leads to that address (Connection timed out)");
    resolve_fails(addr_resolved, NULL, "rdma_resolve_route", EINVAL, failed,
                  "resolving the route");
    resolve_fails(addr_resolved, route_resolved, "ibv_create_qp", ENOMEM,
                  failed, "creating a queue pair");
    resolve_fails(addr_resolved, route_resolved, "ibv_create_cq", ENOMEM,
                  failed, "completion queue");
    resolve_fails(NULL, NULL, NULL, 0, RMIG_LINK_ERROR_TIMEOUT,
                  "timed out while waiting for the address to resolve");
    resolve_fails(addr_resolved, NULL, NULL, 0, RMIG_LINK_ERROR_TIMEOUT,
                  "the route to resolve");
    resolve_fails(shut_down, NULL, NULL, 0, RMIG_LINK_ERROR_SHUTDOWN,
                  "shut down");
}

static void nobody_listens(void)
{
    fake_rdma_event(RDMA_CM_EVENT_REJECTED, 8, NULL, 0);
}

static void refused_over_iwarp(void)
{
    fake_rdma_event(RDMA_CM_EVENT_REJECTED, -ECONNREFUSED, NULL, 0);
}

static void connect_error(void)
{
    fake_rdma_event(RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL, NULL, 0);
}

static void refused(void)
{
    static const uint8_t priv[8] = { 0, 0, 0, 1 };

    fake_rdma_event(RDMA_CM_EVENT_REJECTED, 28, priv, sizeof(priv));
}

static void refused_by_version_2(void)
{
    static const uint8_t priv[56] = { 0, 0, 0, 2 };

    fake_rdma_event(RDMA_CM_EVENT_REJECTED, 28, priv, sizeof(priv));
}

static void accepted_by_version_2(void)
{
    static const uint8_t priv[56] = { 0, 0, 0, 2 };

    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, priv, sizeof(priv));
}

static void refused_by_version_2_unpadded(void)
{
    static const uint8_t priv[8] = { 0, 0, 0, 2 };

    fake_rdma_event(RDMA_CM_EVENT_REJECTED, 28, priv, sizeof(priv));
}

static void accepted_without_words(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
}

static void connect_fails(Step *last, const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigWirePrivate answer;
    Fixture f;

    setup(&f);
    set_script(addr_resolved, route_resolved, last);
    f.link = resolve_link(&f);
    g_assert_nonnull(f.link);
    g_assert_false(rmig_link_connect(f.link, &ask_nothing, &answer, &err));
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    teardown(&f);
}

static void test_connect_fails(void)
{
    connect_fails(nobody_listens, "nothing listens for RDMA on that port");
    connect_fails(refused, "the peer refused the connection (reason 28)");
    connect_fails(refused_over_iwarp, "nothing listens for RDMA");
    connect_fails(connect_error, "the connection cannot be made (Invalid");
    connect_fails(refused_by_version_2, "speaks version 2 of");
    connect_fails(refused_by_version_2, "this QEMU speaks version 1");
    connect_fails(accepted_by_version_2, "speaks version 2 of");
    connect_fails(accepted_without_words, "private data has 0 bytes");
    connect_fails(refused_by_version_2_unpadded, "speaks version 2 of");
    connect_fails(NULL, "timed out while waiting for the peer to accept");
    connect_fails(shut_down, "shut down");
}

/* ---- waiting ---- */

static void test_step(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(message_arrives, message_arrives, disconnected);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "the peer closed the connection");
    g_assert_cmpuint(f.done, ==, 2);
    g_assert_cmpuint(sleeps, ==, 3);

    /* the error stays, and nothing sleeps any more */
    g_assert_cmpint(rmig_link_poll(f.link, &err), ==, -1);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    g_assert_false(rmig_link_step(f.link, 0, "a test", &err));
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    g_assert_cmpuint(sleeps, ==, 3);
    g_assert_false(rmig_link_is_up(f.link));
    teardown(&f);
}

static void test_deadline(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    step_until_failure(&f, 5, &err);
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT,
                "timed out while waiting for a test");
    g_assert_cmpuint(sleeps, ==, 5);
    teardown(&f);
}

/*
 * A completion between the look at the queue and going to sleep: either it is
 * seen at once, or the descriptor is readable (the waiter checks that)
 */
static void test_no_lost_wakeup(void)
{
    Fixture f;

    setup_connected(&f);
    for (unsigned i = 0; i < 4; i++) {
        f.done = 0;
        fake_rdma.after_poll = message_arrives;
        set_script(NULL, NULL, NULL);
        while (f.done == 0) {
            g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
            g_assert_cmpuint(sleeps, <=, 1);
        }
    }
    /* those who wait on the descriptor themselves */
    for (unsigned i = 0; i < 4; i++) {
        struct pollfd pfd = { .fd = rmig_link_fd(f.link), .events = POLLIN };

        f.done = 0;
        fake_rdma.after_poll = message_arrives;
        while (rmig_link_arm(f.link, NULL) != 0) {
            /* look again */
        }
        g_assert_true(f.done == 1 || poll(&pfd, 1, 0) == 1);
        while (f.done == 0) {
            g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 1);
        }
    }
    teardown(&f);
}

/* The last message counts, even if the peer was gone before it was seen */
static void test_message_before_goodbye(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(message_and_goodbye, NULL, NULL);
    while (f.done == 0) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    setup_connected(&f);
    fake_rdma.after_poll = message_and_goodbye;
    while (f.done == 0) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    /* nor does an error completion behind it hide it */
    setup_connected(&f);
    set_script(message_and_break, NULL, NULL);
    while (f.done == 0) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    step_until_failure(&f, 0, &err);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION);
    g_clear_error(&err);
    teardown(&f);
}

/* ---- of two things at the same look, the one that tells more ---- */

static void refused_and_goodbye(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_REM_ACCESS_ERR, 0);
    disconnected();
}

static void flushed_and_goodbye(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_WR_FLUSH_ERR, 0);
    disconnected();
}

static void peer_gives_up(RMigWork *work, uint32_t bytes)
{
    (void)work;
    (void)bytes;
    rmig_link_fail(current->link,
                   g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                               "the peer gave up"));
}

static void test_last_words(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    f.work.done = peer_gives_up;
    set_script(message_and_goodbye, NULL, NULL);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "gave up");
    teardown(&f);

    setup_connected(&f);
    set_script(refused_and_goodbye, NULL, NULL);
    step_until_failure(&f, 0, &err);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION);
    g_clear_error(&err);
    teardown(&f);

    setup_connected(&f);
    set_script(flushed_and_goodbye, NULL, NULL);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);
}

static void test_broken_write(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(write_breaks, NULL, NULL);
    step_until_failure(&f, 0, &err);
    g_assert_nonnull(strstr(err->message, "RECV failed: transport retry"));
    g_assert_nonnull(strstr(err->message, "vendor error 0x81"));
    g_assert_true(rmig_link_failed(f.link));
    teardown(&f);
}

/* What waits for another connection of the migration learns of it */
static void test_broken_neighbour(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_CLOSED, "gone"));
    g_assert_false(rmig_shutdown_triggered(f.shutdown));
    teardown(&f);

    setup_connected(&f);
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_FAILED, "broken"));
    g_assert_null(rmig_link_resolve("other", &waiter, f.shutdown,
                                    some_address(), &err));
    g_assert_nonnull(strstr(err->message, "the test failed: broken"));
    teardown(&f);
}

/* The first error is the one that is told */
static void test_first_error(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_FAILED, "the first"));
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_FAILED, "another"));
    disconnected();
    write_breaks();
    step_until_failure(&f, 0, &err);
    g_assert_cmpstr(err->message, ==, "the first");
    teardown(&f);
}

static void test_shutdown(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    g_assert_false(rmig_shutdown_triggered(f.shutdown));
    set_script(shut_down, NULL, NULL);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "shut down");
    g_assert_cmpuint(sleeps, ==, 1);
    g_assert_true(rmig_shutdown_triggered(f.shutdown));
    teardown(&f);
}

static void device_removed(void)
{
    fake_rdma_event(RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, 0);
}

static void harmless_events(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ADDR_CHANGE, 0, NULL, 0);
    fake_rdma_event(RDMA_CM_EVENT_TIMEWAIT_EXIT, 0, NULL, 0);
}

static void test_other_events(void)
{
    GError *err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(harmless_events, device_removed, NULL);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "the RDMA device was removed");
    g_assert_cmpuint(sleeps, ==, 2);
    teardown(&f);
}

static void late_events(void)
{
    static const char nonsense[8] = { 0, 0, 0, 9 };

    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, nonsense, 8);
    fake_rdma_event(RDMA_CM_EVENT_CONNECT_RESPONSE, 0, nonsense, 8);
    fake_rdma_event(RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0);
    fake_rdma_event(RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0);
}

/* An event that comes twice, or late, does not take a connection back */
static void test_late_events(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(late_events, disconnected, NULL);
    step_until_failure(&f, 0, &err);
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED);
    rmig_link_disconnect(f.link);
    g_assert_cmpint(fake_rdma.disconnects, ==, 1);
    teardown(&f);

    setup_connected(&f);
    set_script(late_events, NULL, NULL);
    g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    g_assert_true(rmig_link_is_up(f.link));
    teardown(&f);
}

/* Nor does one that comes too early take it there */
static void test_early_event(void)
{
    RMigWirePrivate answer;
    Fixture f;

    setup(&f);
    set_script(established, addr_resolved, route_resolved);
    f.link = resolve_link(&f);
    g_assert_nonnull(f.link);
    g_assert_false(rmig_link_is_up(f.link));
    set_script(established, NULL, NULL);
    g_assert_true(rmig_link_connect(f.link, &ask_nothing, &answer, NULL));
    g_assert_true(rmig_link_is_up(f.link));
    teardown(&f);
}

/* ---- the heartbeat ---- */

static const struct ibv_send_wr *last_send(void)
{
    return &g_array_index(fake_rdma.sends, struct ibv_send_wr,
                          fake_rdma.sends->len - 1);
}

static void heart_beats(void)
{
    fake_rdma_complete(last_send()->wr_id, IBV_WC_SUCCESS, 0);
}

static void heart_stops(void)
{
    fake_rdma_complete(last_send()->wr_id, IBV_WC_RETRY_EXC_ERR, 0);
}

static void test_heartbeat(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    set_script(fake_rdma_tick, fake_rdma_tick, NULL);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    /* one after a second of silence, and no second one before its answer */
    g_assert_cmpuint(fake_rdma.sends->len, ==, 1);
    g_assert_cmpint(last_send()->opcode, ==, IBV_WR_RDMA_WRITE);
    g_assert_cmpint(last_send()->num_sge, ==, 0);

    set_script(heart_beats, fake_rdma_tick, heart_stops);
    step_until_failure(&f, 0, &err);
    g_assert_cmpuint(fake_rdma.sends->len, ==, 2);
    g_assert_nonnull(strstr(err->message, "heartbeat failed: transport"));
    teardown(&f);
}

static void long_silence(void)
{
    fake_rdma.now_us += RMIG_LINK_HEARTBEAT_MS * INT64_C(1000);
    fake_rdma_tick();
}

static void stopped_for_long(void)
{
    heart_beats();
    long_silence();
}

/* A device that hangs says nothing, not even that the peer is gone */
static void test_heartbeat_never_ends(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    /* A process that was stopped for a while has only missed the answer */
    setup_connected(&f);
    set_script(fake_rdma_tick, stopped_for_long, fake_rdma_tick);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    g_assert_true(rmig_link_is_up(f.link));

    set_script(heart_beats, fake_rdma_tick, long_silence);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    set_script(fake_rdma_tick, NULL, NULL);
    step_until_failure(&f, 0, &err);
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "device of this host");
    teardown(&f);
}

/* Where there is traffic there is no need to ask */
static void busy_second(void)
{
    fake_rdma.now_us += G_USEC_PER_SEC / 2;
    message_arrives();
}

static void rest_of_second(void)
{
    fake_rdma.now_us -= G_USEC_PER_SEC / 2;
    fake_rdma_tick();
}

static void test_no_heartbeat_in_traffic(void)
{
    Fixture f;

    setup_connected(&f);
    for (unsigned i = 0; i < 5; i++) {
        set_script(busy_second, rest_of_second, NULL);
        while (at < 2) {
            g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
        }
    }
    g_assert_cmpuint(f.done, ==, 5);
    g_assert_cmpuint(fake_rdma.sends->len, ==, 0);
    teardown(&f);
}

/* ---- the end ---- */

static void test_disconnect(void)
{
    Fixture f;

    setup_connected(&f);
    rmig_link_revoke(f.link);
    g_assert_cmpint(fake_rdma.qp_state, ==, IBV_QPS_ERR);
    rmig_link_disconnect(f.link);
    g_assert_cmpint(fake_rdma.disconnects, ==, 1);
    g_assert_cmpint(fake_rdma.qps, ==, 0);
    g_assert_cmpint(fake_rdma.pds, ==, 1); /* regions go before it */
    rmig_link_disconnect(f.link);
    g_assert_cmpint(fake_rdma.disconnects, ==, 1);
    teardown(&f);
}

/* Last words of a connection that was shut down are still sent */
static void test_settle(void)
{
    RMigMr *mr;
    uint8_t buf[16] = { 0 };
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_connected(&f);
    rmig_shutdown_trigger(f.shutdown);
    mr = rmig_mr_register(rmig_link_verbs(f.link), buf, sizeof(buf), false,
                          NULL);
    f.work.what = "SEND";
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    fake_rdma.after_poll = message_arrives; /* its completion, here */
    g_assert_true(rmig_link_settle(f.link, 1000, NULL));
    g_assert_cmpuint(f.done, ==, 1);
    /* nothing is in flight: no wait */
    g_assert_true(rmig_link_settle(f.link, 1000, NULL));

    /* nor is there one for a queue pair that is broken */
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    write_breaks();
    g_assert_false(rmig_link_settle(f.link, 1000, &err));
    g_assert_nonnull(strstr(err->message, "SEND failed"));
    g_clear_error(&err);

    /* what flushed it is the better reason */
    fake_rdma_complete((uintptr_t)&f.work, IBV_WC_WR_FLUSH_ERR, 0);
    fake_rdma_event(RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, 0);
    g_assert_false(rmig_link_settle(f.link, 1000, &err));
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "device was removed");
    rmig_link_disconnect(f.link);
    g_assert_true(rmig_link_settle(f.link, 1000, NULL));
    rmig_mr_unregister(mr);
    teardown(&f);
}

static void must_not_look(void)
{
    g_error("a heartbeat is waited for");
}

/* A peer that is done leaves, and does not answer the heartbeat any more */
static void test_settle_heartbeat(void)
{
    Fixture f;

    setup_connected(&f);
    set_script(fake_rdma_tick, NULL, NULL);
    g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    g_assert_cmpuint(fake_rdma.sends->len, ==, 1);
    fake_rdma.after_poll = must_not_look;
    g_assert_true(rmig_link_settle(f.link, 1000, NULL));
    fake_rdma.after_poll = NULL;
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/link/connect", test_connect);
    g_test_add_func("/link/connect/answered", test_connect_answered);
    g_test_add_func("/link/connect/abandoned", test_connect_abandoned);
    g_test_add_func("/link/connect/fails", test_connect_fails);
    g_test_add_func("/link/resolve/fails", test_resolve_fails);
    g_test_add_func("/link/step", test_step);
    g_test_add_func("/link/step/deadline", test_deadline);
    g_test_add_func("/link/step/no-lost-wakeup", test_no_lost_wakeup);
    g_test_add_func("/link/step/goodbye", test_message_before_goodbye);
    g_test_add_func("/link/step/last-words", test_last_words);
    g_test_add_func("/link/step/broken-write", test_broken_write);
    g_test_add_func("/link/step/broken-neighbour", test_broken_neighbour);
    g_test_add_func("/link/step/first-error", test_first_error);
    g_test_add_func("/link/step/shutdown", test_shutdown);
    g_test_add_func("/link/step/other-events", test_other_events);
    g_test_add_func("/link/step/late-events", test_late_events);
    g_test_add_func("/link/step/early-event", test_early_event);
    g_test_add_func("/link/heartbeat", test_heartbeat);
    g_test_add_func("/link/heartbeat/never-ends", test_heartbeat_never_ends);
    g_test_add_func("/link/heartbeat/traffic", test_no_heartbeat_in_traffic);
    g_test_add_func("/link/disconnect", test_disconnect);
    g_test_add_func("/link/settle", test_settle);
    g_test_add_func("/link/settle/heartbeat", test_settle_heartbeat);
    return g_test_run();
}
