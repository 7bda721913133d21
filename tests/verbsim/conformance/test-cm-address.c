/*
 * Conformance tests: librdmacm's addresses and ports
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "rig-cm.h"

static struct sockaddr_storage address_of(const char *text, uint16_t port)
{
    struct sockaddr_storage address = { 0 };
    struct sockaddr_in *in = (void *)&address;
    struct sockaddr_in6 *in6 = (void *)&address;

    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
    } else {
        in6->sin6_family = AF_INET6;
        g_assert_cmpint(inet_pton(AF_INET6, text, &in6->sin6_addr), ==, 1);
    }
    in->sin_port = htons(port);         /* at the same place in both */
    return address;
}

static int try_bind(RigCm *cm, struct sockaddr_storage address)
{
    errno = 0;
    return rdma_bind_addr(cm->id, (struct sockaddr *)&address) == 0 ? 0 :
           errno;
}

static int try_resolve(RigCm *cm, struct sockaddr_storage address, int ms)
{
    errno = 0;
    return rdma_resolve_addr(cm->id, NULL, (struct sockaddr *)&address, ms)
           == 0 ? 0 : errno;
}

/* ---------------------------------------------------------------- resolving */

static void resolve_own(int family)
{
    struct sockaddr_storage own = rig_address(family, 4321);
    RigCm *cm = rig_cm();
    RigCmEvent event;

    g_assert_null(cm->id->verbs);
    g_assert_true(cm->id->context == cm);
    g_assert_cmpint(cm->id->ps, ==, RDMA_PS_TCP);
    g_assert_cmpint(try_resolve(cm, own, RIG_RESOLVE_MS), ==, 0);
    event = rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_RESOLVED);
    g_assert_true(event.id == cm->id);
    g_assert_cmpint(event.status, ==, 0);
    g_assert_nonnull(cm->id->verbs);
    g_assert_cmpint(cm->id->port_num, ==, 1);
    g_assert_cmpstr(ibv_get_device_name(cm->id->verbs->device), ==,
                    ibv_get_device_name(rig_device()->device));
    g_assert_cmpint(rdma_get_local_addr(cm->id)->sa_family, ==, family);
    g_assert_cmpint(rdma_get_peer_addr(cm->id)->sa_family, ==, family);
    g_assert_cmpint(ntohs(rdma_get_dst_port(cm->id)), ==, 4321);
    g_assert_cmpint(rdma_get_src_port(cm->id), !=, 0);
    g_assert_cmpint(rdma_resolve_route(cm->id, RIG_RESOLVE_MS), ==, 0);
    event = rig_cm_expect(cm, RDMA_CM_EVENT_ROUTE_RESOLVED);
    g_assert_cmpint(event.status, ==, 0);
    g_assert_cmpint(cm->id->route.num_paths, >=, 1);
    rig_cm_quiet(cm);
    rig_cm_free(cm);
}

static void test_own(void)
{
    resolve_own(AF_INET);
    resolve_own(AF_INET6);
}

/* The loopback address leads to a local device. */
static void test_loopback(void)
{
    for (int i = 0; i < 2; i++) {
        RigCm *cm = rig_cm();

        g_assert_cmpint(try_resolve(cm, address_of(i ? "::1" : "127.0.0.1",
                                                   1234), RIG_RESOLVE_MS),
                        ==, 0);
        rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_RESOLVED);
        rig_cm_free(cm);
    }
}

/* And so does no address at all. */
static void test_any(void)
{
    for (int i = 0; i < 2; i++) {
        RigCm *cm = rig_cm();

        g_assert_cmpint(try_resolve(cm, address_of(i ? "::" : "0.0.0.0",
                                                   1234), RIG_RESOLVE_MS),
                        ==, 0);
        rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_RESOLVED);
        g_assert_nonnull(cm->id->verbs);
        rig_cm_free(cm);
    }
}

/* Nobody has it: an event within the time that was given, and no waiting. */
static void test_unreachable(void)
{
    RigCm *cm = rig_cm();
    int64_t start = g_get_monotonic_time();
    RigCmEvent event;

    g_assert_cmpint(try_resolve(cm, address_of("192.0.2.77", 1), 4000), ==,
                    0);
    g_assert_cmpfloat(rig_seconds_since(start), <, 4);
    event = rig_cm_expect(cm, RDMA_CM_EVENT_ADDR_ERROR);
    g_test_message("after %.1f s: %s", rig_seconds_since(start),
                   g_strerror(-event.status));
    g_assert_cmpint(event.status, <, 0);
    rig_cm_quiet(cm);
    rig_cm_free(cm);
}

/* The id may be destroyed meanwhile. */
static void test_give_up(void)
{
    RigCm *cm = rig_cm();
    int64_t start = g_get_monotonic_time();

    g_assert_cmpint(try_resolve(cm, address_of("192.0.2.77", 1), 10000), ==,
                    0);
    rig_cm_free(cm);
    /* It has not waited for the end of the attempt */
    g_assert_cmpfloat(rig_seconds_since(start), <, 10);
}

static void test_wrong_order(void)
{
    struct rdma_conn_param param = rig_cm_param(NULL, 0);
    RigCm *cm = rig_cm();

    /* Without an address even the library of rdma-core 44 would crash. */
    rig_cm_resolve(cm, AF_INET, 1234);
    rig_cm_create_qp(cm);
    g_assert_cmpint(rdma_accept(cm->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(rdma_reject(cm->id, NULL, 0), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(try_resolve(cm, rig_address(AF_INET, 1), 1000), ==,
                    EINVAL);
    g_assert_cmpint(rdma_resolve_route(cm->id, 1000), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    rig_cm_free(cm);
}

/* ------------------------------------------------------------------ binding */

static void test_bind(void)
{
    RigCm *one = rig_cm(), *two = rig_cm();
    uint16_t port;

    g_assert_cmpint(rig_cm_port(one), ==, 0);
    g_assert_cmpint(try_bind(one, rig_address(AF_INET, 0)), ==, 0);
    port = rig_cm_port(one);
    g_assert_cmpint(port, !=, 0);
    g_assert_nonnull(one->id->verbs);
    /* It is bound. */
    g_assert_cmpint(try_bind(one, rig_address(AF_INET, 0)), ==, EINVAL);
    /* Taken; afterwards it is free again. */
    g_assert_cmpint(try_bind(two, rig_address(AF_INET, port)), ==,
                    EADDRINUSE);
    g_assert_cmpint(rig_cm_port(two), ==, 0);
    rig_cm_free(one);
    g_assert_cmpint(try_bind(two, rig_address(AF_INET, port)), ==, 0);
    g_assert_cmpint(rig_cm_port(two), ==, port);
    rig_cm_free(two);
}

static void test_bind_ports_differ(void)
{
    RigCm *cm[4];

    for (int i = 0; i < 4; i++) {
        cm[i] = rig_cm();
        g_assert_cmpint(try_bind(cm[i], rig_address(AF_INET, 0)), ==, 0);
        for (int j = 0; j < i; j++) {
            g_assert_cmpint(rig_cm_port(cm[i]), !=, rig_cm_port(cm[j]));
        }
    }
    for (int i = 0; i < 4; i++) {
        rig_cm_free(cm[i]);
    }
}

/* An address that is nobody's here. */
static void test_bind_foreign(void)
{
    RigCm *cm = rig_cm();
    int error = try_bind(cm, address_of("192.0.2.77", 0));

    g_assert_true(error == EADDRNOTAVAIL || error == ENODEV);
    /* No harm done. */
    g_assert_cmpint(try_bind(cm, rig_address(AF_INET, 0)), ==, 0);
    rig_cm_free(cm);
}

/* All addresses and one of them overlap; the two families do, too. */
static void test_bind_wildcard(void)
{
    RigCm *one = rig_cm(), *two = rig_cm();
    uint16_t port;
    int conflict;

    g_assert_cmpint(try_bind(one, address_of("0.0.0.0", 0)), ==, 0);
    /* Of no device in particular. */
    g_assert_null(one->id->verbs);
    port = rig_cm_port(one);
    conflict = differs("wildcard-conflict") ? EADDRINUSE : EADDRNOTAVAIL;
    g_assert_cmpint(try_bind(two, rig_address(AF_INET, port)), ==, conflict);
    g_assert_cmpint(try_bind(two, address_of("0.0.0.0", port)), ==,
                    conflict);
    g_assert_cmpint(try_bind(two, address_of("::", port)), ==, conflict);
    rig_cm_free(one);
    rig_cm_free(two);
}

static void test_v6_only(void)
{
    RigCm *one = rig_cm(), *two = rig_cm();
    int on = 1;

    g_assert_cmpint(rdma_set_option(one->id, RDMA_OPTION_ID,
                                    RDMA_OPTION_ID_AFONLY, &on, sizeof(on)),
                    ==, 0);
    g_assert_cmpint(try_bind(one, address_of("::", 0)), ==, 0);
    g_assert_cmpint(try_bind(two, address_of("0.0.0.0", rig_cm_port(one))),
                    ==, 0);
    g_assert_cmpint(rdma_listen(one->id, 1), ==, 0);
    g_assert_cmpint(rdma_listen(two->id, 1), ==, 0);
    rig_cm_free(one);
    rig_cm_free(two);
}

/* Bound by another process; free again when that has been killed. */
static void role_bind(void)
{
    RigCm *cm = rig_cm_listen(AF_INET);
    uint16_t port = rig_cm_port(cm);
    char end;

    rig_tell(&port, sizeof(port));
    rig_hear(&end, 1);
    rig_cm_free(cm);
}

static void test_bind_elsewhere(void)
{
    RigChild *child = rig_child("bind");
    int64_t start;
    uint16_t port;
    RigCm *cm = rig_cm();

    rig_child_hear(child, &port, sizeof(port));
    g_assert_cmpint(try_bind(cm, rig_address(AF_INET, port)), ==, EADDRINUSE);
    rig_child_kill(child, SIGKILL);
    start = g_get_monotonic_time();
    while (try_bind(cm, rig_address(AF_INET, port)) != 0) {
        g_assert_cmpint(errno, ==, EADDRINUSE);
        g_assert_cmpfloat(rig_seconds_since(start) * 1000, <, RIG_WAIT_MS);
        g_usleep(10000);
    }
    rig_child_free(child);
    rig_cm_free(cm);
}

/* ---------------------------------------------------------------- listening */

static void listen_and_connect(const char *listen_on, int family)
{
    RigCm *listener = rig_cm(), *active, *passive;

    g_assert_cmpint(try_bind(listener, address_of(listen_on, 0)), ==, 0);
    g_assert_cmpint(rdma_listen(listener->id, 3), ==, 0);
    active = rig_cm_ask(family, rig_cm_port(listener), NULL, 0);
    passive = rig_cm_accept(listener);
    rig_cm_expect(active, RDMA_CM_EVENT_ESTABLISHED);
    rig_cm_expect(passive, RDMA_CM_EVENT_ESTABLISHED);
    /* It has the device and the address that it was called by. */
    g_assert_nonnull(passive->id->verbs);
    g_assert_cmpint(rdma_get_local_addr(passive->id)->sa_family, ==, family);
    g_assert_cmpint(rdma_get_src_port(passive->id), ==,
                    rdma_get_src_port(listener->id));
    rig_cm_send(active, passive);
    rig_cm_free(active);
    rig_cm_free(passive);
    rig_cm_free(listener);
}

static void test_listen_wildcard(void)
{
    listen_and_connect("0.0.0.0", AF_INET);
    listen_and_connect("::", AF_INET6);
    /* IPv4 callers arrive at the IPv6 wildcard, too. */
    listen_and_connect("::", AF_INET);
}

/* Listening without an address: on all of them, at some port. */
static void test_listen_unbound(void)
{
    RigCm *cm = rig_cm();

    g_assert_cmpint(rdma_listen(cm->id, 1), ==, 0);
    g_assert_cmpint(rig_cm_port(cm), !=, 0);
    rig_cm_free(cm);
}

static void test_listen_twice(void)
{
    RigCm *cm = rig_cm_listen(AF_INET);
    struct rdma_conn_param param = rig_cm_param(NULL, 0);

    /* A listener is no connection. */
    g_assert_cmpint(rdma_connect(cm->id, &param), ==, -1);
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(try_resolve(cm, rig_address(AF_INET, 1), 1000), ==,
                    EINVAL);
    rig_cm_free(cm);
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = {
        { "bind", role_bind },
        { NULL, NULL },
    };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/cm-address/own", test_own);
    g_test_add_func("/cm-address/loopback", test_loopback);
    g_test_add_func("/cm-address/any", test_any);
    g_test_add_func("/cm-address/unreachable", test_unreachable);
    g_test_add_func("/cm-address/give-up", test_give_up);
    g_test_add_func("/cm-address/wrong-order", test_wrong_order);
    g_test_add_func("/cm-address/bind", test_bind);
    g_test_add_func("/cm-address/bind-ports-differ", test_bind_ports_differ);
    g_test_add_func("/cm-address/bind-foreign", test_bind_foreign);
    g_test_add_func("/cm-address/bind-wildcard", test_bind_wildcard);
    g_test_add_func("/cm-address/v6-only", test_v6_only);
    g_test_add_func("/cm-address/bind-elsewhere", test_bind_elsewhere);
    g_test_add_func("/cm-address/listen-wildcard", test_listen_wildcard);
    g_test_add_func("/cm-address/listen-unbound", test_listen_unbound);
    g_test_add_func("/cm-address/listen-twice", test_listen_twice);
    return rig_run();
}
