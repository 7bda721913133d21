/*
 * Tests on a real RDMA device: a peer that is not the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See raw.h.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>

#include "raw.h"

#define EVENT_MS 60000
#define RESOLVE_MS 5000

static Raw *raw_new(void)
{
    Raw *raw = g_new0(Raw, 1);

    raw->channel = rdma_create_event_channel();
    g_assert_nonnull(raw->channel);
    return raw;
}

static void make_queue_pair(struct rdma_cm_id *id)
{
    struct ibv_qp_init_attr attr = {
        .qp_type = IBV_QPT_RC,
        .cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1,
                 .max_recv_sge = 1 },
    };

    g_assert_cmpint(rdma_create_qp(id, NULL, &attr), ==, 0);
}

static struct rdma_conn_param conn_param(const void *priv, size_t bytes)
{
    return (struct rdma_conn_param) {
        .private_data = priv,
        .private_data_len = bytes,
        .retry_count = 7,
        .rnr_retry_count = 7,
    };
}

static struct rdma_cm_event *get_event(Raw *raw)
{
    struct pollfd pfd = { .fd = raw->channel->fd, .events = POLLIN };
    struct rdma_cm_event *event;

    g_assert_cmpint(poll(&pfd, 1, EVENT_MS), ==, 1);
    g_assert_cmpint(rdma_get_cm_event(raw->channel, &event), ==, 0);
    raw->status = event->status;
    raw->priv_bytes = MIN(event->param.conn.private_data_len,
                          sizeof(raw->priv));
    if (raw->priv_bytes) {
        memcpy(raw->priv, event->param.conn.private_data, raw->priv_bytes);
    }
    return event;
}

enum rdma_cm_event_type raw_event(Raw *raw)
{
    struct rdma_cm_event *event = get_event(raw);
    enum rdma_cm_event_type type = event->event;

    rdma_ack_cm_event(event);
    return type;
}

Raw *raw_ask(const Address *address, const void *priv, size_t bytes)
{
    return raw_ask_from(NULL, address, priv, bytes);
}

Raw *raw_ask_from(const Address *own, const Address *address, const void *priv,
                  size_t bytes)
{
    struct rdma_conn_param param = conn_param(priv, bytes);
    Raw *raw = raw_new();

    g_assert_cmpint(rdma_create_id(raw->channel, &raw->id, NULL, RDMA_PS_TCP),
                    ==, 0);
    g_assert_cmpint(rdma_resolve_addr(raw->id, own ?
                                      (struct sockaddr *)address_of(own) :
                                      NULL, (struct sockaddr *)address_of(address),
                                      RESOLVE_MS), ==, 0);
    g_assert_cmpint(raw_event(raw), ==, RDMA_CM_EVENT_ADDR_RESOLVED);
    g_assert_cmpint(rdma_resolve_route(raw->id, RESOLVE_MS), ==, 0);
    g_assert_cmpint(raw_event(raw), ==, RDMA_CM_EVENT_ROUTE_RESOLVED);
    make_queue_pair(raw->id);
    g_assert_cmpint(rdma_connect(raw->id, &param), ==, 0);
    return raw;
}

Raw *raw_listen(const Address *address)
{
    Raw *raw = raw_new();

    g_assert_cmpint(rdma_create_id(raw->channel, &raw->id, NULL, RDMA_PS_TCP),
                    ==, 0);
    g_assert_cmpint(rdma_bind_addr(raw->id,
                                   (struct sockaddr *)address_of(address)),
                    ==, 0);
    g_assert_cmpint(rdma_listen(raw->id, 4), ==, 0);
    return raw;
}

uint16_t raw_port(const Raw *raw)
{
    return ntohs(rdma_get_src_port(raw->id));
}

Raw *raw_take(Raw *server)
{
    struct rdma_cm_event *event = get_event(server);
    Raw *request = raw_new();

    g_assert_cmpint(event->event, ==, RDMA_CM_EVENT_CONNECT_REQUEST);
    request->id = event->id;
    rdma_ack_cm_event(event);
    g_assert_cmpint(rdma_migrate_id(request->id, request->channel), ==, 0);
    make_queue_pair(request->id);
    return request;
}

void raw_accept(Raw *request, const void *priv, size_t bytes)
{
    struct rdma_conn_param param = conn_param(priv, bytes);

    g_assert_cmpint(rdma_accept(request->id, &param), ==, 0);
}

void raw_reject(Raw *request, const void *priv, size_t bytes)
{
    g_assert_cmpint(rdma_reject(request->id, priv, bytes), ==, 0);
}

void raw_free(Raw *raw)
{
    if (raw->id->qp) {
        rdma_destroy_qp(raw->id);
    }
    rdma_destroy_id(raw->id);
    rdma_destroy_event_channel(raw->channel);
    g_free(raw);
}

void raw_private(uint8_t *priv, uint32_t version, uint32_t flags)
{
    version = htonl(version);
    flags = htonl(flags);
    memcpy(priv, &version, 4);
    memcpy(priv + 4, &flags, 4);
}
