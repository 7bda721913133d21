/*
 * Unit tests of the verbs and link rooms: what a failure says of the device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of link-fixture.h: a link over a fake device whose port and
 * events are the test's.
 */
#include "link-fixture.h"

#include <errno.h>
#include <string.h>

#include "verbs-health-priv.h"

static void assert_contains(const char *text, const char *needle)
{
    if (strstr(text, needle) == NULL) {
        g_error("'%s' does not say '%s'", text, needle);
    }
}

/* Steps until the link has failed; the message */
static char *failure(Fixture *f)
{
    g_autoptr(GError) err = NULL;
    unsigned n = 0;

    while (rmig_link_step(f->link, 0, "a test", &err)) {
        g_assert_cmpuint(++n, <, 100);
    }
    return g_strdup(err->message);
}

/* A work request of a connected link ends with @status */
static char *broken_by(enum ibv_wc_status status)
{
    char *text;
    Fixture f;

    setup_connected(&f);
    fake_rdma_complete((uintptr_t)&f.work, status, 0);
    text = failure(&f);
    teardown(&f);
    return text;
}

/* ---- what a status says ---- */

/* Every status has words, none is said to be what it is not */
static void test_statuses(void)
{
    const enum ibv_wc_status last = IBV_WC_TM_RNDV_INCOMPLETE;
    const char *advice;

    /* libibverbs has no more */
    g_assert_cmpstr(ibv_wc_status_str(last + 1), ==, "unknown");
    for (int i = IBV_WC_SUCCESS; i <= (int)last; i++) {
        const char *words = rmig_health_meaning(i, &advice);
        g_autofree char *text = NULL;

        g_assert_cmpstr(ibv_wc_status_str(i), !=, "unknown");
        g_assert_cmpstr(words, !=, "an unknown error");
        if (i == IBV_WC_SUCCESS) {
            continue;
        }
        text = broken_by(i);
        assert_contains(text, ibv_wc_status_str(i));
        assert_contains(text, words);
        g_assert_true(!advice == !strstr(text, "fake0: its port is active"));
        g_assert_true(!advice || strstr(text, advice));
    }
    g_assert_cmpstr(rmig_health_meaning(last + 1, &advice), ==,
                    "an unknown error");
    g_assert_nonnull(advice);
    g_assert_cmpstr(rmig_health_meaning(-1, &advice), ==, "an unknown error");
}

/* What is known of the peer is not told as if it were of this host */
static void test_sides(void)
{
    static const struct {
        enum ibv_wc_status status;
        const char *needle;
    } cases[] = {
        { IBV_WC_RETRY_EXC_ERR, "look at the network and at the peer's host" },
        { IBV_WC_RESP_TIMEOUT_ERR, "look at the network" },
        { IBV_WC_LOC_QP_OP_ERR, "this host's device cannot send it; fake0: "
          "its port is active, so look at this host's kernel log" },
        { IBV_WC_LOC_PROT_ERR, "this host's device may not use that memory" },
        { IBV_WC_FATAL_ERR, "this host's device cannot go on" },
        { IBV_WC_GENERAL_ERR, "look at this host's kernel log" },
        { IBV_WC_REM_ACCESS_ERR, "the peer does not let its memory be used" },
        { IBV_WC_REM_OP_ERR, "the peer's device could not complete it" },
        { IBV_WC_REM_INV_REQ_ERR, "the peer's device takes it for invalid" },
        { IBV_WC_RNR_RETRY_EXC_ERR, "its program does not receive" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = broken_by(cases[i].status);

        assert_contains(text, cases[i].needle);
    }
}

/* ---- what the port says ---- */

static enum ibv_port_state next_state;

static void port_changes(void)
{
    fake_rdma.port_state = next_state;
}

/* The port is in @state when a request ends with @status */
static char *broken_at(enum ibv_port_state state, enum ibv_wc_status status)
{
    char *text;
    Fixture f;

    setup_connected(&f);
    next_state = state;
    port_changes();
    fake_rdma_complete((uintptr_t)&f.work, status, 0);
    text = failure(&f);
    /* However many requests are flushed with it, the device is asked once */
    g_assert_cmpuint(fake_rdma.port_queries, ==, 1);
    teardown(&f);
    return text;
}

static void test_port(void)
{
    static const char *const states[] = {
        [IBV_PORT_NOP] = "fake0: its port is in an unknown state",
        [IBV_PORT_DOWN] = "fake0: its port is down",
        [IBV_PORT_INIT] = "no subnet manager has configured it",
        [IBV_PORT_ARMED] = "fake0: its port is not active yet",
        [IBV_PORT_ACTIVE] = "fake0: its port is active",
        [IBV_PORT_ACTIVE_DEFER] = "fake0: its port has just lost its link",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
        g_autofree char *text = broken_at(i, IBV_WC_LOC_QP_OP_ERR);

        assert_contains(text, states[i]);
        g_assert_true((i == IBV_PORT_ACTIVE) == !!strstr(text, "so look at"));
    }
}

/* It is said with every error, if it is down, and once */
static void test_port_down(void)
{
    for (int i = IBV_WC_LOC_LEN_ERR; i <= IBV_WC_TM_RNDV_INCOMPLETE; i++) {
        g_autofree char *text = broken_at(IBV_PORT_DOWN, i);
        const char *said = strstr(text, "; fake0: its port is down");

        g_assert_nonnull(said);
        g_assert_true(said == g_strrstr(text, "; fake0: "));
        g_assert_null(strstr(text, "so look at"));
    }
}

static void test_which_port(void)
{
    g_autofree char *text = NULL;
    Fixture f;

    setup_connected(&f);
    fake_rdma.attr.phys_port_cnt = 2;
    fake_rdma.port_state = IBV_PORT_DOWN;
    write_breaks();
    text = failure(&f);
    assert_contains(text, "fake0: its port 1 is down");
    teardown(&f);
}

static void test_port_unknown(void)
{
    g_autofree char *text = NULL;
    Fixture f;

    setup_connected(&f);
    fake_rdma.fail_call = "ibv_query_port";
    fake_rdma.fail_errno = EIO;
    write_breaks();
    text = failure(&f);
    assert_contains(text, "transport retry counter exceeded");
    assert_contains(text, "fake0: the state of its port cannot be asked for: "
                    "Input/output error");
    teardown(&f);
}

/* ---- errors that are not completions ---- */

static void down_and_disconnected(void)
{
    fake_rdma.port_state = IBV_PORT_DOWN;
    disconnected();
}

static void down_and_nothing_more(void)
{
    fake_rdma.port_state = IBV_PORT_DOWN;
    fake_rdma_tick();
}

static void unreachable(void)
{
    fake_rdma_event(RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, NULL, 0);
}

static void test_other_errors(void)
{
    GError *err = NULL;
    RMigWirePrivate answer;
    int64_t deadline;
    Fixture f;

    /* iWARP takes a link that is lost for a peer that leaves */
    setup_connected(&f);
    set_script(down_and_disconnected, NULL, NULL);
    while (rmig_link_step(f.link, 0, "a test", &err)) {
        /* again */
    }
    assert_says(&err, RMIG_LINK_ERROR_CLOSED,
                "the peer closed the connection; fake0: its port is down");
    teardown(&f);

    setup_connected(&f);
    set_script(down_and_nothing_more, NULL, NULL);
    deadline = g_get_monotonic_time() + 2 * G_USEC_PER_SEC;
    while (rmig_link_step(f.link, deadline, "a test", &err)) {
        /* again */
    }
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT,
                "waiting for a test; fake0: its port is down");
    teardown(&f);

    /* Flushed, and nobody says why */
    setup_connected(&f);
    fake_rdma.port_state = IBV_PORT_DOWN;
    fake_rdma_complete((uintptr_t)&f.work, IBV_WC_WR_FLUSH_ERR, 0);
    while (rmig_link_step(f.link, 0, "a test", &err)) {
        /* again */
    }
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FLUSHED);
    assert_contains(err->message, "had broken before; fake0: its port is down");
    g_clear_error(&err);
    teardown(&f);

    /* Before there is a connection */
    setup(&f);
    set_script(addr_resolved, route_resolved, unreachable);
    f.link = resolve_link(&f);
    g_assert_nonnull(f.link);
    fake_rdma.port_state = IBV_PORT_DOWN;
    g_assert_false(rmig_link_connect(f.link, &ask_nothing, &answer, &err));
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "the peer's host does not "
                "answer (Connection timed out); fake0: its port is down");
    teardown(&f);
}

/* Nothing is asked, and nothing said, of a link that was shut down */
static void test_shutdown(void)
{
    g_autofree char *text = NULL;
    Fixture f;

    setup_connected(&f);
    fake_rdma.port_state = IBV_PORT_DOWN;
    shut_down();
    text = failure(&f);
    g_assert_cmpstr(text, ==, "the connection was shut down");
    g_assert_cmpuint(fake_rdma.port_queries, ==, 0);
    teardown(&f);
}

/* ---- what the device has reported ---- */

/* @type comes, then a request breaks; what is said, or that nothing is */
static void check_event(enum ibv_event_type type, int port,
                        const char *needle)
{
    g_autofree char *text = NULL;
    Fixture f;

    setup_connected(&f);
    fake_rdma_async_event(type, port);
    fake_rdma_async_event(IBV_EVENT_COMM_EST, 0);
    write_breaks();
    text = failure(&f);
    if (needle) {
        assert_contains(text, needle);
        g_assert_null(strstr(text, "so look at"));
    } else {
        assert_contains(text, "its port is active, so look at");
    }
    teardown(&f);
}

static void test_events(void)
{
    check_event(IBV_EVENT_PORT_ERR, 1, "fake0: its port is active, but was "
                "down meanwhile");
    check_event(IBV_EVENT_PORT_ERR, 2, NULL);
    check_event(IBV_EVENT_PORT_ACTIVE, 1, NULL);
    check_event(IBV_EVENT_GID_CHANGE, 1, "an address of it has changed");
    check_event(IBV_EVENT_LID_CHANGE, 1, NULL);
    check_event(IBV_EVENT_DEVICE_FATAL, 1, "fake0: the device has failed");
    check_event(IBV_EVENT_QP_FATAL, 0, "fake0: it has given up the "
                "connection");
    check_event(IBV_EVENT_QP_REQ_ERR, 0, "the peer sent what is not valid");
    check_event(IBV_EVENT_QP_ACCESS_ERR, 0, "the peer wanted to use memory");
    check_event(IBV_EVENT_CQ_ERR, 0, "fake0: it has lost completions");
    check_event(IBV_EVENT_SQ_DRAINED, 0, NULL);
}

/* A device that has failed is not asked any more: it may not answer */
static void test_failed_device(void)
{
    g_autofree char *text = NULL;
    Fixture f;

    setup_connected(&f);
    fake_rdma_async_event(IBV_EVENT_DEVICE_FATAL, 1);
    fake_rdma_async_event(IBV_EVENT_PORT_ERR, 1);
    write_breaks();
    text = failure(&f);
    assert_contains(text, "acknowledge it; fake0: the device has failed");
    g_assert_cmpuint(fake_rdma.port_queries, ==, 0);
    teardown(&f);
}

/* What came before the connection is not about it */
static void test_old_events(void)
{
    g_autofree char *text = NULL;
    RMigWirePrivate answer;
    Fixture f;

    setup(&f);
    fake_rdma_async_event(IBV_EVENT_PORT_ERR, 1);
    fake_rdma_async_event(IBV_EVENT_DEVICE_FATAL, 1);
    f.link = resolve_link(&f);
    g_assert_true(rmig_link_connect(f.link, &ask_nothing, &answer, NULL));
    write_breaks();
    text = failure(&f);
    assert_contains(text, "its port is active, so look at");
    teardown(&f);
}

/* One connection takes the events, the other must not miss its own */
static void test_shared_device(void)
{
    RMigHealth other;
    g_autofree char *text = NULL;
    g_autofree char *others = NULL;
    Fixture f;

    setup_connected(&f);
    rmig_health_init(&other, &fake_rdma.context, 1);
    fake_rdma_async_event(IBV_EVENT_PORT_ERR, 1);
    fake_rdma_async_event(IBV_EVENT_QP_FATAL, 0);
    others = rmig_health_text(&other, NULL);
    g_assert_cmpstr(others, ==, "fake0: its port is active, but was down "
                    "meanwhile");
    rmig_health_cleanup(&other);
    write_breaks();
    text = failure(&f);
    assert_contains(text, "but was down meanwhile; it has given up the "
                    "connection");
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/health/statuses", test_statuses);
    g_test_add_func("/health/sides", test_sides);
    g_test_add_func("/health/port", test_port);
    g_test_add_func("/health/port/down", test_port_down);
    g_test_add_func("/health/port/which", test_which_port);
    g_test_add_func("/health/port/unknown", test_port_unknown);
    g_test_add_func("/health/other-errors", test_other_errors);
    g_test_add_func("/health/shutdown", test_shutdown);
    g_test_add_func("/health/events", test_events);
    g_test_add_func("/health/events/failed-device", test_failed_device);
    g_test_add_func("/health/events/old", test_old_events);
    g_test_add_func("/health/events/shared-device", test_shared_device);
    return g_test_run();
}
