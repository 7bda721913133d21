/*
 * Unit tests of the link room: listening and accepting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of link-fixture.h.
 */
#include "link-fixture.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

static bool is_readable(const RMigListener *listener)
{
    struct pollfd pfd = {
        .fd = rmig_listener_fd(listener), .events = POLLIN,
    };

    return poll(&pfd, 1, 0) == 1;
}

static void test_listen(void)
{
    static const uint8_t request[56] = { 0, 0, 0, 1, 0x80, 0, 0, 1 };
    RMigListener *listener;
    RMigWirePrivate asked;
    Fixture f;

    setup(&f);
    set_script(established, NULL, NULL);
    listener = rmig_listener_new(some_address(), NULL);
    g_assert_nonnull(listener);
    g_assert_cmpint(rmig_listener_port(listener), ==, 4444);
    g_assert_null(rmig_listener_take(listener, "test", &waiter, f.shutdown,
                                     &asked, NULL));
    fake_rdma_request(request, sizeof(request));
    f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown, &asked,
                                NULL);
    g_assert_nonnull(f.link);
    g_assert_cmphex(asked.flags, ==, 1);
    g_assert_false(rmig_link_is_up(f.link));
    g_assert_cmpint(fake_rdma.qps + fake_rdma.pds + fake_rdma.cqs, ==, 0);
    g_assert_true(rmig_link_prepare(f.link, "test", NULL));
    g_assert_true(rmig_listener_watch(listener, f.link, NULL));
    g_assert_true(rmig_link_accept(f.link, &ask_pin_all, NULL));
    g_assert_cmpint(rmig_link_accepted(f.link, NULL), ==, 0);
    g_assert_false(rmig_link_is_up(f.link));
    g_assert_false(is_readable(listener));
    established();
    g_assert_true(is_readable(listener));
    g_assert_cmpint(rmig_link_accepted(f.link, NULL), ==, 1);
    g_assert_true(rmig_link_is_up(f.link));
    disconnected();
    rmig_listener_unwatch(listener, f.link);
    rmig_listener_unwatch(listener, f.link);
    g_assert_false(is_readable(listener));
    g_assert_cmpmem(fake_rdma.private_data, 8, accepted, 8);
    g_assert_true(rmig_link_same_peer(f.link, f.link));
    rmig_listener_free(listener);
    teardown(&f);
}

static void test_listen_fails(void)
{
    static const struct {
        const char *call;
        int errnum;
        const char *needle;
    } cases[] = {
        { "rdma_create_event_channel", ENODEV, "rdma_ucm" },
        { "rdma_create_id", ENOMEM, "identifier" },
        { "rdma_bind_addr", ENODEV, "no RDMA device of this host" },
        { "rdma_listen", EADDRINUSE, "listening on [::1]:4444 over RDMA" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *err = NULL;

        fake_rdma_init();
        fake_rdma.fail_call = cases[i].call;
        fake_rdma.fail_errno = cases[i].errnum;
        g_assert_null(rmig_listener_new(some_address(), &err));
        assert_says(&err, RMIG_LINK_ERROR_FAILED, cases[i].needle);
        fake_rdma_cleanup();
    }
}

/* While there is something to wait for, and no longer */
static void test_tick(void)
{
    RMigListener *listener;
    RMigWirePrivate asked;
    Fixture f;

    setup(&f);
    listener = rmig_listener_new(some_address(), NULL);
    rmig_listener_tick(listener, true);
    g_assert_cmpint(fake_rdma.listener_tick_ms, ==, RMIG_LISTENER_TICK_MS);
    fake_rdma_listener_tick();
    g_assert_true(is_readable(listener));
    g_assert_null(rmig_listener_take(listener, "test", &waiter, f.shutdown,
                                     &asked, NULL));
    g_assert_false(is_readable(listener));
    rmig_listener_tick(listener, false);
    g_assert_cmpint(fake_rdma.listener_tick_ms, ==, 0);
    rmig_listener_free(listener);
    teardown(&f);
}

/* A request that cannot be used is refused, and the listener lives on */
static void test_take_fails(void)
{
    static const uint8_t good[8] = { 0, 0, 0, 1 };
    static const uint8_t version_2[8] = { 0, 0, 0, 2 };
    static const struct {
        const uint8_t *data;
        uint8_t len;
        const char *call;
        const char *needle;
    } cases[] = {
        { version_2, 8, NULL, "speaks version 2 of" },
        { good, 5, NULL, "private data has 5 bytes" },
        { good, 0, NULL, "private data has 0 bytes" },
        { good, 8, "rdma_migrate_id", "event channel" },
        { good, 8, "ibv_create_qp", "queue pair" },
        { good, 8, "ibv_alloc_pd", "protection domain" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;
        RMigListener *listener;
        RMigWirePrivate asked;
        Fixture f;

        setup(&f);
        listener = rmig_listener_new(some_address(), NULL);
        fake_rdma_request(cases[i].data, cases[i].len);
        fake_rdma.fail_call = cases[i].call;
        fake_rdma.fail_errno = ENOMEM;
        f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown,
                                    &asked, &err);
        if (f.link) {
            g_assert_false(rmig_link_prepare(f.link, "test", &err));
            rmig_link_refuse(f.link);
        }
        if (strstr(err->message, cases[i].needle) == NULL) {
            g_error("'%s' does not say '%s'", err->message, cases[i].needle);
        }
        g_assert_cmpint(fake_rdma.rejects, ==, 1);
        /* our version, for the peer's message */
        g_assert_cmpmem(fake_rdma.private_data, 8, good, 8);
        rmig_listener_free(listener);
        teardown(&f);
    }
}

static void test_accept_fails(void)
{
    static const uint8_t good[8] = { 0, 0, 0, 1 };
    RMigListener *listener;
    GError *err = NULL;
    RMigWirePrivate asked;
    Fixture f;

    setup(&f);
    listener = rmig_listener_new(some_address(), NULL);
    fake_rdma_request(good, sizeof(good));
    f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown, &asked,
                                NULL);
    g_assert_true(rmig_link_prepare(f.link, "test", NULL));
    g_assert_true(rmig_link_accept(f.link, &ask_nothing, NULL));
    disconnected();
    g_assert_cmpint(rmig_link_accepted(f.link, &err), ==, -1);
    assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
    rmig_listener_free(listener);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/link/listen", test_listen);
    g_test_add_func("/link/listen/tick", test_tick);
    g_test_add_func("/link/listen/fails", test_listen_fails);
    g_test_add_func("/link/listen/take-fails", test_take_fails);
    g_test_add_func("/link/listen/accept-fails", test_accept_fails);
    return g_test_run();
}
