/*
 * Unit tests of the link room: connecting, waiting, losing the peer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a fake of libibverbs and librdmacm, with the real verbs room between.
 * Sleeping is a step of a script, after which the link's descriptor must be
 * readable: so a lost wake-up fails the test instead of hanging it.
 */
#include "fake-rdma.h"
#include "link.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

typedef void Step(void);

static Step *script[8]; /* what happens at each sleep; then seconds pass */
static unsigned at;
static unsigned sleeps;
static const char accepted[8] = { 0, 0, 0, 1, 0, 0, 0, 1 };

static void wait_readable(void *opaque, int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    g_assert_true(opaque == script);
    sleeps++;
    if (at < G_N_ELEMENTS(script) && script[at]) {
        script[at++]();
    } else {
        fake_rdma_tick();
    }
    g_assert_cmpint(poll(&pfd, 1, 0), ==, 1);
}

static const RMigWaiter waiter = { .wait_readable = wait_readable,
                                   .opaque = script };

static void set_script(Step *a, Step *b, Step *c)
{
    memset(script, 0, sizeof(script));
    script[0] = a;
    script[1] = b;
    script[2] = c;
    at = 0;
    sleeps = 0;
}

/* ---- steps ---- */

static void addr_resolved(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0);
}

static void route_resolved(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0);
}

static void established(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, accepted, sizeof(accepted));
}

static void disconnected(void)
{
    fake_rdma_event(RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
}

/* ---- fixture ---- */

typedef struct Fixture {
    RMigShutdown *shutdown;
    RMigLink *link;
    RMigWork work;
    unsigned done;
} Fixture;

static Fixture *current;

static void work_done(RMigWork *work, uint32_t bytes)
{
    (void)bytes;
    ((Fixture *)work->owner)->done++;
}

static void message_arrives(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_SUCCESS, 16);
}

static void message_and_goodbye(void)
{
    message_arrives();
    disconnected();
}

static void write_breaks(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_RETRY_EXC_ERR, 0);
}

static void message_and_break(void)
{
    message_arrives();
    write_breaks();
}

static void shut_down(void)
{
    rmig_shutdown_trigger(current->shutdown);
}

static struct sockaddr_in6 address;

static const struct sockaddr *some_address(void)
{
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(4444);
    address.sin6_addr = (struct in6_addr)IN6ADDR_LOOPBACK_INIT;
    return (struct sockaddr *)&address;
}

static void setup(Fixture *f)
{
    memset(f, 0, sizeof(*f));
    fake_rdma_init();
    f->shutdown = rmig_shutdown_new(NULL);
    g_assert_nonnull(f->shutdown);
    f->work = (RMigWork) { .what = "RECV", .done = work_done, .owner = f };
    current = f;
    set_script(addr_resolved, route_resolved, established);
}

static void setup_connected(Fixture *f)
{
    uint32_t answer;

    setup(f);
    f->link = rmig_link_resolve("test", &waiter, f->shutdown, some_address(),
                                NULL);
    g_assert_nonnull(f->link);
    g_assert_false(rmig_link_is_up(f->link));
    g_assert_true(rmig_link_connect(f->link, 1, &answer, NULL));
    g_assert_true(rmig_link_is_up(f->link));
    set_script(NULL, NULL, NULL);
}

static void teardown(Fixture *f)
{
    rmig_link_free(f->link);
    rmig_shutdown_free(f->shutdown);
    fake_rdma_cleanup();
}

static void assert_says(GError **err, int code, const char *needle)
{
    g_assert_error(*err, RMIG_LINK_ERROR, code);
    if (strstr((*err)->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}

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
    uint32_t answer = 99;
    Fixture f;

    setup(&f);
    f.link = rmig_link_resolve("test", &waiter, f.shutdown, some_address(),
                               NULL);
    g_assert_nonnull(rmig_link_verbs(f.link));
    g_assert_true(rmig_link_connect(f.link, RMIG_WIRE_FLAG_PIN_ALL, &answer,
                                    NULL));
    g_assert_cmpuint(answer, ==, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_cmpuint(fake_rdma.param.private_data_len, ==, 8);
    g_assert_cmpmem(fake_rdma.private_data, 8, asked, 8);
    g_assert_cmpuint(sleeps, ==, 3);
    teardown(&f);

    /* what was not asked for is not granted either */
    setup(&f);
    f.link = rmig_link_resolve("test", &waiter, f.shutdown, some_address(),
                               NULL);
    g_assert_true(rmig_link_connect(f.link, 0, &answer, NULL));
    g_assert_cmpuint(answer, ==, 0);
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
    resolve_fails(addr_error, NULL, NULL, 0, failed, "No route to host");
    resolve_fails(addr_resolved, route_error, NULL, 0, failed, "timed out");
    resolve_fails(addr_resolved, NULL, "rdma_resolve_route", EINVAL, failed,
                  "resolving the route");
    resolve_fails(addr_resolved, route_resolved, "rdma_create_qp", ENOMEM,
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

static void accepted_without_words(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
}

static void connect_fails(Step *last, const char *needle)
{
    g_autoptr(GError) err = NULL;
    uint32_t answer;
    Fixture f;

    setup(&f);
    set_script(addr_resolved, route_resolved, last);
    f.link = rmig_link_resolve("test", &waiter, f.shutdown, some_address(),
                               NULL);
    g_assert_nonnull(f.link);
    g_assert_false(rmig_link_connect(f.link, 0, &answer, &err));
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    teardown(&f);
}

static void test_connect_fails(void)
{
    connect_fails(nobody_listens, "nothing listens for RDMA on that port");
    connect_fails(refused, "the peer refused the connection (reason 28)");
    connect_fails(refused_by_version_2, "speaks version 2 of");
    connect_fails(refused_by_version_2, "this QEMU speaks version 1");
    connect_fails(accepted_by_version_2, "speaks version 2 of");
    connect_fails(accepted_without_words, "private data has 0 bytes");
    connect_fails(NULL, "timed out while waiting for the peer to accept");
    connect_fails(shut_down, "shut down");
}

/* ---- the passive side ---- */

static void test_listen(void)
{
    static const uint8_t request[56] = { 0, 0, 0, 1, 0x80, 0, 0, 1 };
    RMigListener *listener;
    uint32_t flags = 0;
    Fixture f;

    setup(&f);
    set_script(established, NULL, NULL);
    listener = rmig_listener_new(some_address(), NULL);
    g_assert_nonnull(listener);
    g_assert_cmpint(rmig_listener_port(listener), ==, 4444);
    g_assert_null(rmig_listener_take(listener, "test", &waiter, f.shutdown,
                                     &flags, NULL));
    fake_rdma_request(request, sizeof(request));
    f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown, &flags,
                                NULL);
    g_assert_nonnull(f.link);
    g_assert_cmphex(flags, ==, 0x80000001); /* as they came */
    g_assert_false(rmig_link_is_up(f.link));
    g_assert_true(rmig_link_accept(f.link, 1, NULL));
    g_assert_true(rmig_link_is_up(f.link));
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
        { good, 8, "rdma_create_qp", "queue pair" },
        { good, 8, "ibv_alloc_pd", "protection domain" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) err = NULL;
        RMigListener *listener;
        uint32_t flags;
        Fixture f;

        setup(&f);
        listener = rmig_listener_new(some_address(), NULL);
        fake_rdma_request(cases[i].data, cases[i].len);
        fake_rdma.fail_call = cases[i].call;
        fake_rdma.fail_errno = ENOMEM;
        g_assert_null(rmig_listener_take(listener, "test", &waiter,
                                         f.shutdown, &flags, &err));
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
    uint32_t flags;
    Fixture f;

    setup(&f);
    set_script(NULL, NULL, NULL);
    listener = rmig_listener_new(some_address(), NULL);
    fake_rdma_request(good, sizeof(good));
    f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown, &flags,
                                NULL);
    g_assert_false(rmig_link_accept(f.link, 0, &err));
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "complete the connection");
    rmig_listener_free(listener);
    teardown(&f);
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
    Fixture f;

    setup_connected(&f);
    rmig_shutdown_trigger(f.shutdown);
    mr = rmig_mr_register(rmig_link_verbs(f.link), buf, sizeof(buf), false,
                          NULL);
    f.work.what = "SEND";
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    fake_rdma.after_poll = message_arrives; /* its completion, here */
    rmig_link_settle(f.link, 1000);
    g_assert_cmpuint(f.done, ==, 1);
    rmig_link_settle(f.link, 1000); /* nothing is in flight: no wait */

    /* nor is there one for a queue pair that is broken */
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &f.work, mr,
                                       buf, sizeof(buf), NULL));
    write_breaks();
    rmig_link_settle(f.link, 1000);
    rmig_link_disconnect(f.link);
    rmig_link_settle(f.link, 1000);
    rmig_mr_unregister(mr);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/link/connect", test_connect);
    g_test_add_func("/link/connect/fails", test_connect_fails);
    g_test_add_func("/link/resolve/fails", test_resolve_fails);
    g_test_add_func("/link/listen", test_listen);
    g_test_add_func("/link/listen/fails", test_listen_fails);
    g_test_add_func("/link/listen/take-fails", test_take_fails);
    g_test_add_func("/link/listen/accept-fails", test_accept_fails);
    g_test_add_func("/link/step", test_step);
    g_test_add_func("/link/step/deadline", test_deadline);
    g_test_add_func("/link/step/no-lost-wakeup", test_no_lost_wakeup);
    g_test_add_func("/link/step/goodbye", test_message_before_goodbye);
    g_test_add_func("/link/step/broken-write", test_broken_write);
    g_test_add_func("/link/step/first-error", test_first_error);
    g_test_add_func("/link/step/shutdown", test_shutdown);
    g_test_add_func("/link/step/other-events", test_other_events);
    g_test_add_func("/link/heartbeat", test_heartbeat);
    g_test_add_func("/link/heartbeat/traffic", test_no_heartbeat_in_traffic);
    g_test_add_func("/link/disconnect", test_disconnect);
    g_test_add_func("/link/settle", test_settle);
    return g_test_run();
}
