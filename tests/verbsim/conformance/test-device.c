/*
 * Conformance tests: device, port and GID queries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "rig.h"

static void test_list(void)
{
    int number = -1, count = 0;
    struct ibv_device **list = ibv_get_device_list(&number);

    g_assert_nonnull(list);
    g_assert_cmpint(number, >=, 1);
    while (list[count]) {
        g_assert_cmpint(strlen(ibv_get_device_name(list[count])), >, 0);
        g_assert_cmpint(list[count]->node_type, ==, IBV_NODE_CA);
        g_assert_cmpint(list[count]->transport_type, ==, IBV_TRANSPORT_IB);
        count++;
    }
    g_assert_cmpint(count, ==, number);
    ibv_free_device_list(list);
}

static void test_open_after_free(void)
{
    struct ibv_device **list = ibv_get_device_list(NULL);
    struct ibv_context *one = ibv_open_device(list[0]);
    struct ibv_context *two = ibv_open_device(list[0]);
    struct ibv_device_attr attr;

    /* The list may be freed while devices of it are open. */
    ibv_free_device_list(list);
    g_assert_nonnull(one);
    g_assert_nonnull(two);
    g_assert_true(one != two);
    g_assert_cmpint(one->async_fd, !=, two->async_fd);
    g_assert_cmpint(ibv_close_device(one), ==, 0);
    g_assert_cmpint(ibv_query_device(two, &attr), ==, 0);
    g_assert_cmpstr(ibv_get_device_name(two->device), ==,
                    ibv_get_device_name(rig_device()->device));
    g_assert_cmpint(ibv_close_device(two), ==, 0);
}

static void test_attributes(void)
{
    struct ibv_device_attr attr;

    memset(&attr, 0xa5, sizeof(attr));
    g_assert_cmpint(ibv_query_device(rig_device(), &attr), ==, 0);
    g_assert_cmpint(attr.phys_port_cnt, ==, 1);
    g_assert_cmpuint(attr.max_mr_size, >=, 1 << 30);
    g_assert_cmpint(attr.max_mr, >, 0);
    g_assert_cmpint(attr.max_pd, >, 0);
    g_assert_cmpint(attr.max_qp, >=, 2);
    g_assert_cmpint(attr.max_qp_wr, >=, 64);
    g_assert_cmpint(attr.max_sge, >=, 4);
    g_assert_cmpint(attr.max_cq, >=, 4);
    g_assert_cmpint(attr.max_cqe, >=, 64);
    g_assert_cmpint(attr.max_qp_rd_atom, >=, 1);
    g_assert_cmpint(attr.max_qp_init_rd_atom, >=, 1);
    g_assert_cmpint(attr.max_pkeys, >=, 1);
    g_assert_cmpuint(attr.page_size_cap & 4096, !=, 0);
    g_assert_cmpuint(ibv_get_device_guid(rig_device()->device), ==,
                     attr.node_guid);
    g_assert_cmpint(rig_device()->num_comp_vectors, >=, 1);
}

static void test_port(void)
{
    struct ibv_port_attr attr;

    memset(&attr, 0xa5, sizeof(attr));
    g_assert_cmpint(ibv_query_port(rig_device(), 1, &attr), ==, 0);
    g_assert_cmpstr(ibv_port_state_str(attr.state), ==,
                    ibv_port_state_str(IBV_PORT_ACTIVE));
    g_assert_cmpint(attr.active_mtu, >=, IBV_MTU_256);
    g_assert_cmpint(attr.active_mtu, <=, attr.max_mtu);
    g_assert_cmpint(attr.max_mtu, <=, IBV_MTU_4096);
    g_assert_cmpint(attr.gid_tbl_len, >=, 1);
    g_assert_cmpint(attr.pkey_tbl_len, >=, 1);
    g_assert_cmpuint(attr.max_msg_sz, >=, 1 << 23);
    if (rig_infiniband()) {
        g_assert_cmpint(attr.lid, !=, 0);
        g_assert_cmpint(attr.sm_lid, !=, 0);
    } else {
        g_assert_cmpint(attr.link_layer, ==, IBV_LINK_LAYER_ETHERNET);
        g_assert_cmpint(attr.lid, ==, 0);
    }
}

static void test_no_port(void)
{
    struct ibv_port_attr attr;

    g_assert_cmpint(ibv_query_port(rig_device(), 0, &attr), ==, EINVAL);
    g_assert_cmpint(ibv_query_port(rig_device(), 2, &attr), ==, EINVAL);
}

static void test_gids(void)
{
    struct ibv_port_attr port;
    union ibv_gid four, six, gid;

    rig_gid(AF_INET, &four);
    rig_gid(AF_INET6, &six);
    g_assert_cmphex(four.raw[15], !=, 0);
    g_assert_cmpint(memcmp(&four, &six, sizeof(four)) == 0, ==,
                    rig_infiniband());
    g_assert_cmpint(ibv_query_port(rig_device(), 1, &port), ==, 0);
    /* Those of the table that are not used are zero, or an error. */
    for (int i = 0; i < port.gid_tbl_len; i++) {
        memset(&gid, 0xa5, sizeof(gid));
        if (ibv_query_gid(rig_device(), 1, i, &gid) == 0) {
            g_assert_cmphex(gid.raw[15], !=, 0xa5);
        }
    }
    g_assert_cmpint(ibv_query_gid(rig_device(), 1, port.gid_tbl_len, &gid),
                    !=, 0);
    g_assert_cmpint(ibv_query_gid(rig_device(), 1, -1, &gid), !=, 0);
    g_assert_cmpint(ibv_query_gid(rig_device(), 2, 0, &gid), !=, 0);
}

static void test_pkey(void)
{
    __be16 pkey = 0;

    /* The default partition, full member. */
    g_assert_cmpint(ibv_query_pkey(rig_device(), 1, 0, &pkey), ==, 0);
    g_assert_cmphex(pkey, ==, 0xffff);
    g_assert_cmpint(ibv_query_pkey(rig_device(), 1, 4096, &pkey), !=, 0);
}

static void test_async_fd(void)
{
    struct ibv_async_event event;
    int fd = rig_device()->async_fd;
    int flags = fcntl(fd, F_GETFL);

    rig_no_async();
    g_assert_cmpint(fcntl(fd, F_SETFL, flags | O_NONBLOCK), ==, 0);
    errno = 0;
    g_assert_cmpint(ibv_get_async_event(rig_device(), &event), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    g_assert_cmpint(fcntl(fd, F_SETFL, flags), ==, 0);
}

static void test_names(void)
{
    g_assert_cmpstr(ibv_node_type_str(IBV_NODE_CA), ==,
                    "InfiniBand channel adapter");
    g_assert_cmpstr(ibv_wc_status_str(IBV_WC_SUCCESS), ==, "success");
    g_assert_cmpstr(ibv_wc_status_str(IBV_WC_RNR_RETRY_EXC_ERR), ==,
                    "RNR retry counter exceeded");
    g_assert_cmpstr(ibv_wc_status_str(IBV_WC_REM_ACCESS_ERR), ==,
                    "remote access error");
    g_assert_cmpstr(ibv_wc_status_str(1000), ==, "unknown");
    g_assert_nonnull(ibv_event_type_str(IBV_EVENT_CQ_ERR));
}

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    g_test_add_func("/device/list", test_list);
    g_test_add_func("/device/open-after-free", test_open_after_free);
    g_test_add_func("/device/attributes", test_attributes);
    g_test_add_func("/device/port", test_port);
    g_test_add_func("/device/no-such-port", test_no_port);
    g_test_add_func("/device/gids", test_gids);
    g_test_add_func("/device/pkey", test_pkey);
    g_test_add_func("/device/async-fd", test_async_fd);
    g_test_add_func("/device/names", test_names);
    return rig_run();
}
