/*
 * Tests of the connection manager: faults, as the control socket orders them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "test-cm.h"

#include <stdio.h>
#include <stdlib.h>

#define DELAY_SECONDS 0.2

/* ------------------------------------------------------------ single events */

/* What follows on a held-up event does not overtake it. */
static void test_delay(void)
{
    int64_t start = g_get_monotonic_time();
    struct rdma_cm_id *id;
    Rig rig = rig_new();

    g_assert_ok(rdma_create_id(rig.client, &id, NULL, RDMA_PS_TCP));
    tell("*: on cm ADDR_RESOLVED: delay 200ms");
    g_assert_ok(rdma_resolve_addr(id, NULL, address("127.0.0.1", 4), 100));
    g_assert_ok(rdma_resolve_route(id, 100));
    expect_only(rig.client, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
    g_assert_cmpfloat(seconds_since(start), >=, DELAY_SECONDS);
    expect_only(rig.client, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
    g_assert_ok(rdma_destroy_id(id));
    rig_free(&rig);
}

static void test_delayed_request(void)
{
    struct rdma_cm_event *event;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm CONNECT_REQUEST: delay 2s");
    rig_ask(&rig);
    expect_nothing(rig.server, 50);
    /* Taken back before the program has seen it: it comes, and then its end */
    g_assert_ok(rdma_destroy_id(rig.active));
    rig.active = NULL;
    event = expect(rig.server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    rig.passive = event->id;
    g_assert_ok(rdma_ack_cm_event(event));
    expect_only(rig.server, RDMA_CM_EVENT_REJECTED, 4);
    rig_free(&rig);
}

/* The listener goes away while its request is held up. */
static void test_delayed_request_dropped(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm CONNECT_REQUEST: delay 5s");
    rig_ask(&rig);
    expect_nothing(rig.server, 30);
    g_assert_ok(rdma_destroy_id(rig.listener));
    rig.listener = NULL;
    expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    rig_free(&rig);
}

static void test_lose(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    tell("*: on cm DISCONNECTED: lose");
    g_assert_ok(rdma_disconnect(rig.active));
    expect_nothing(rig.server, 50);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

/* A lost request is asked again. */
static void test_lose_request(void)
{
    int64_t start = g_get_monotonic_time();
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm CONNECT_REQUEST: lose");
    rig_connect(&rig);
    g_assert_cmpfloat(seconds_since(start), >=, CM_TIMEOUT_MS / 1000.0);
    rig_free(&rig);
}

static void test_lose_all_requests(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm CONNECT_REQUEST every 1: lose");
    rig_ask(&rig);
    expect_only(rig.client, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
    tell("clear");
    rig_free(&rig);
}

static void test_duplicate(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    tell("*: on cm DISCONNECTED: duplicate");
    g_assert_ok(rdma_disconnect(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    g_assert_ok(rdma_destroy_id(rig.passive));
    rig.passive = NULL;
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

/* Two identifiers for one peer: only one of them gets the connection. */
static void test_duplicate_request(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    struct rdma_cm_event *event;
    struct rdma_cm_id *second;
    Rig rig = rig_new();

    rig_listen(&rig, 2);
    tell("*: on cm CONNECT_REQUEST: duplicate");
    rig_request(&rig);
    event = expect(rig.server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    second = event->id;
    g_assert_true(second != rig.passive);
    g_assert_ok(rdma_ack_cm_event(event));
    g_assert_ok(rdma_accept(rig.passive, &param));
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_accept(second, &param));
    expect_only(rig.server, RDMA_CM_EVENT_REJECTED, 10);
    g_assert_ok(rdma_establish(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_ESTABLISHED, 0);
    g_assert_ok(rdma_destroy_id(second));
    rig_free(&rig);
}

static void test_reject(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm CONNECT_REQUEST: reject 3");
    rig_ask(&rig);
    expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 3);
    expect_nothing(rig.server, 20);
    rig_free(&rig);
}

/* The peer's answer comes to nothing, for both. */
static void test_reject_answer(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_request(&rig);
    tell("*: on cm CONNECT_RESPONSE: reject");
    g_assert_ok(rdma_accept(rig.passive, &param));
    expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    expect_only(rig.server, RDMA_CM_EVENT_REJECTED, 28);
    rig_free(&rig);
}

static void test_disconnect(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("*: on cm ESTABLISHED: disconnect");
    rig_request(&rig);
    g_assert_ok(rdma_accept(rig.passive, &param));
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_establish(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_ESTABLISHED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    rig_free(&rig);
}

/* ------------------------------------------------------- the link, the NIC */

static void test_link_down(void)
{
    int64_t start;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("now: link down");
    start = g_get_monotonic_time();
    rig_ask(&rig);
    expect_only(rig.client, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
    g_assert_cmpfloat(seconds_since(start), >=, GIVE_UP_SECONDS);
    expect_nothing(rig.server, 0);
    tell("now: link up");
    rig_free(&rig);
}

/* What was lost is sent again, at both ends. */
static void test_link_flaps(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    tell("now: link down for 100ms");
    rig_connect(&rig);
    tell("now: link down for 100ms");
    g_assert_ok(rdma_disconnect(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

static void test_link_down_connected(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    tell("now: link down");
    expect_nothing(rig.client, 50);
    g_assert_ok(rdma_disconnect(rig.active));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, -ETIMEDOUT);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    tell("now: link up");
    rig_free(&rig);
}

/* The program is told nothing; all of it in order afterwards. */
static void test_freeze(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    tell("now: freeze");
    g_assert_ok(rdma_disconnect(rig.active));
    expect_nothing(rig.server, 50);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_nothing(rig.client, 50);
    tell("now: unfreeze");
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

/* For good, so that it is the last of the tests. */
static void test_remove_device(void)
{
    struct rdma_cm_id *id, *idle;
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    g_assert_ok(rdma_create_id(rig.server, &idle, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_bind_addr(idle, address("0.0.0.0", 0)));
    tell("now: remove-device");
    /* The listener and the connection; an identifier without a device not. */
    expect_only(rig.server, RDMA_CM_EVENT_DEVICE_REMOVAL, 0);
    expect_only(rig.server, RDMA_CM_EVENT_DEVICE_REMOVAL, 0);
    expect_only(rig.client, RDMA_CM_EVENT_DEVICE_REMOVAL, 0);
    expect_nothing(rig.server, 20);
    g_assert_errno(rdma_disconnect(rig.active), EINVAL);
    g_assert_ok(rdma_create_id(rig.client, &id, NULL, RDMA_PS_TCP));
    g_assert_errno(rdma_resolve_addr(id, NULL, address("127.0.0.1", 4), 100),
                   ENODEV);
    g_assert_ok(rdma_destroy_id(id));
    g_assert_ok(rdma_destroy_id(idle));
    rig_free(&rig);
}

int main(int argc, char **argv)
{
    cm_test_init(&argc, &argv);
    g_test_add_func("/cm-faults/delay", test_delay);
    g_test_add_func("/cm-faults/delay-request", test_delayed_request);
    g_test_add_func("/cm-faults/delay-dropped", test_delayed_request_dropped);
    g_test_add_func("/cm-faults/lose", test_lose);
    g_test_add_func("/cm-faults/lose-request", test_lose_request);
    g_test_add_func("/cm-faults/lose-all-requests", test_lose_all_requests);
    g_test_add_func("/cm-faults/duplicate", test_duplicate);
    g_test_add_func("/cm-faults/duplicate-request", test_duplicate_request);
    g_test_add_func("/cm-faults/reject", test_reject);
    g_test_add_func("/cm-faults/reject-answer", test_reject_answer);
    g_test_add_func("/cm-faults/disconnect", test_disconnect);
    g_test_add_func("/cm-faults/link-down", test_link_down);
    g_test_add_func("/cm-faults/link-flaps", test_link_flaps);
    g_test_add_func("/cm-faults/link-down-connected",
                    test_link_down_connected);
    g_test_add_func("/cm-faults/freeze", test_freeze);
    g_test_add_func("/cm-faults/remove-device", test_remove_device);
    return g_test_run();
}
