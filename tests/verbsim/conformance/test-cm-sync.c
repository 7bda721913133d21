/*
 * Conformance tests: librdmacm without event channels
 *
 * Ids that are made without a channel do one thing after the other, each call
 * returning when it is done; rdma_getaddrinfo() and rdma_create_ep() beside.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "rig-cm.h"

static const struct ibv_qp_init_attr queue_pair = {
    .qp_type = IBV_QPT_RC,
    .cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1,
             .max_recv_sge = 1 },
};

static struct rdma_addrinfo *look_up(int family, const char *port, int flags)
{
    struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP,
                                   .ai_flags = flags };
    struct sockaddr_storage own = rig_address(family, 0);
    char text[INET6_ADDRSTRLEN];
    struct rdma_addrinfo *info = NULL;

    inet_ntop(family, family == AF_INET ?
              (void *)&((struct sockaddr_in *)&own)->sin_addr :
              (void *)&((struct sockaddr_in6 *)&own)->sin6_addr, text,
              sizeof(text));
    g_assert_cmpint(rdma_getaddrinfo(text, port, &hints, &info), ==, 0);
    g_assert_nonnull(info);
    g_assert_cmpint(info->ai_family, ==, family);
    g_assert_cmpint(info->ai_port_space, ==, RDMA_PS_TCP);
    return info;
}

static struct rdma_cm_id *make_ep(int family, const char *port, int flags)
{
    struct rdma_addrinfo *info = look_up(family, port, flags);
    struct ibv_qp_init_attr attr = queue_pair;
    struct rdma_cm_id *id;

    g_assert_cmpint(rdma_create_ep(&id, info, NULL, &attr), ==, 0);
    rdma_freeaddrinfo(info);
    return id;
}

static gpointer serve(gpointer opaque)
{
    struct rdma_cm_id *listener = opaque, *id;

    g_assert_cmpint(rdma_get_request(listener, &id), ==, 0);
    g_assert_nonnull(id->qp);
    g_assert_cmpint(rdma_accept(id, NULL), ==, 0);
    return id;
}

static gpointer hang_up(gpointer opaque)
{
    g_assert_cmpint(rdma_disconnect(opaque), ==, 0);
    return NULL;
}

static void test_endpoints(void)
{
    struct rdma_cm_id *listener = make_ep(AF_INET, NULL, RAI_PASSIVE);
    RigCm active = { 0 }, passive = { 0 };
    g_autofree char *port = NULL;
    GThread *thread;

    g_assert_cmpint(rdma_listen(listener, 1), ==, 0);
    port = g_strdup_printf("%u", ntohs(rdma_get_src_port(listener)));
    thread = g_thread_new("serve", serve, listener);
    active.id = make_ep(AF_INET, port, 0);
    g_assert_nonnull(active.id->verbs);
    g_assert_nonnull(active.id->qp);
    g_assert_cmpint(rdma_connect(active.id, NULL), ==, 0);
    passive.id = g_thread_join(thread);
    rig_cm_send(&active, &passive);
    rig_cm_send(&passive, &active);
    /* Each waits for the other. */
    thread = g_thread_new("hang up", hang_up, passive.id);
    g_assert_cmpint(rdma_disconnect(active.id), ==, 0);
    g_thread_join(thread);
    rdma_destroy_ep(active.id);
    rdma_destroy_ep(passive.id);
    rdma_destroy_ep(listener);
}

static void test_steps(void)
{
    RigCm *listener = rig_cm_listen(AF_INET6);
    struct sockaddr_storage address = rig_address(AF_INET6,
                                                  rig_cm_port(listener));
    struct rdma_cm_id *id;

    g_assert_cmpint(rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP), ==, 0);
    g_assert_cmpint(rdma_resolve_addr(id, NULL, (struct sockaddr *)&address,
                                      RIG_RESOLVE_MS), ==, 0);
    g_assert_nonnull(id->verbs);
    g_assert_cmpint(rdma_resolve_route(id, RIG_RESOLVE_MS), ==, 0);
    g_assert_cmpint(id->route.num_paths, >=, 1);
    g_assert_cmpint(rdma_destroy_id(id), ==, 0);
    rig_cm_free(listener);
}

/* What would have been an event in error is the call's. */
static void test_refused(void)
{
    RigCm *bound = rig_cm();
    struct sockaddr_storage own = rig_address(AF_INET, 0);
    g_autofree char *port = NULL;
    struct rdma_cm_id *id;

    g_assert_cmpint(rdma_bind_addr(bound->id, (struct sockaddr *)&own), ==,
                    0);
    port = g_strdup_printf("%u", rig_cm_port(bound));
    id = make_ep(AF_INET, port, 0);
    errno = 0;
    g_assert_cmpint(rdma_connect(id, NULL), ==, -1);
    g_assert_cmpint(errno, ==, ECONNREFUSED);
    g_assert_nonnull(id->event);
    g_assert_cmpint(id->event->event, ==, RDMA_CM_EVENT_REJECTED);
    rdma_destroy_ep(id);
    rig_cm_free(bound);
}

static void test_addresses(void)
{
    struct rdma_addrinfo *four = look_up(AF_INET, "4321", 0);
    struct rdma_addrinfo *six = look_up(AF_INET6, "4321", RAI_PASSIVE);
    const struct sockaddr_in *in = (void *)four->ai_dst_addr;
    const struct sockaddr_in6 *in6 = (void *)six->ai_src_addr;
    struct rdma_addrinfo *none = NULL;

    g_assert_nonnull(in);
    g_assert_cmpint(ntohs(in->sin_port), ==, 4321);
    g_assert_nonnull(in6);
    g_assert_cmpint(ntohs(in6->sin6_port), ==, 4321);
    g_assert_null(six->ai_dst_addr);
    rdma_freeaddrinfo(four);
    rdma_freeaddrinfo(six);
    g_assert_cmpint(rdma_getaddrinfo("no-such-host.invalid", "1", NULL,
                                     &none), !=, 0);
}

static void test_devices(void)
{
    int n = 0;
    struct ibv_context **list = rdma_get_devices(&n);

    g_assert_nonnull(list);
    g_assert_cmpint(n, >=, 1);
    g_assert_nonnull(list[0]);
    g_assert_null(list[n]);
    rdma_free_devices(list);
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/cm-sync/endpoints", test_endpoints);
    g_test_add_func("/cm-sync/steps", test_steps);
    g_test_add_func("/cm-sync/refused", test_refused);
    g_test_add_func("/cm-sync/addresses", test_addresses);
    g_test_add_func("/cm-sync/devices", test_devices);
    return rig_run();
}
