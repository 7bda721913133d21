/*
 * Conformance tests: queue pairs, requests, completions
 *
 * Queue pairs are connected by hand, without librdmacm.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See rig.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"

#define PSN 0x12345

const RigOptions rig_defaults = {
    .send_wr = 16, .recv_wr = 16, .sge = 4, .inline_bytes = 64, .cqe = 64,
    .bytes = 256 * 1024,
    .mr_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                 IBV_ACCESS_REMOTE_READ,
    .qp_access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
    /* A second: a slow machine is no dead peer. */
    .timeout = 18, .retry_cnt = 7, .rnr_retry = 7,
    .min_rnr_timer = 12, .rd_atomic = 4,
};

RigEnd *rig_end(const RigOptions *options)
{
    RigEnd *end = g_new0(RigEnd, 1);
    struct ibv_context *context = rig_device();
    struct ibv_qp_init_attr attr = {
        .qp_type = IBV_QPT_RC,
        .sq_sig_all = options->sq_sig_all,
        .cap = {
            .max_send_wr = options->send_wr,
            .max_recv_wr = options->recv_wr,
            .max_send_sge = options->sge,
            .max_recv_sge = options->sge,
            .max_inline_data = options->inline_bytes,
        },
    };

    end->options = *options;
    end->pd = ibv_alloc_pd(context);
    g_assert_nonnull(end->pd);
    end->channel = ibv_create_comp_channel(context);
    g_assert_nonnull(end->channel);
    end->send_cq = ibv_create_cq(context, options->cqe, end, end->channel, 0);
    g_assert_nonnull(end->send_cq);
    end->recv_cq = ibv_create_cq(context, options->cqe, end, end->channel, 0);
    g_assert_nonnull(end->recv_cq);
    attr.send_cq = end->send_cq;
    attr.recv_cq = end->recv_cq;
    end->qp = ibv_create_qp(end->pd, &attr);
    g_assert_nonnull(end->qp);
    end->buf = mmap(NULL, options->bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(end->buf != MAP_FAILED);
    end->mr = ibv_reg_mr(end->pd, end->buf, options->bytes,
                         options->mr_access);
    g_assert_nonnull(end->mr);
    return end;
}

void rig_end_free(RigEnd *end)
{
    if (end->qp) {
        g_assert_cmpint(ibv_destroy_qp(end->qp), ==, 0);
    }
    if (end->mr) {
        g_assert_cmpint(ibv_dereg_mr(end->mr), ==, 0);
    }
    munmap(end->buf, end->options.bytes);
    g_assert_cmpint(ibv_destroy_cq(end->send_cq), ==, 0);
    g_assert_cmpint(ibv_destroy_cq(end->recv_cq), ==, 0);
    g_assert_cmpint(ibv_destroy_comp_channel(end->channel), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(end->pd), ==, 0);
    g_free(end);
}

RigWhere rig_where(const RigEnd *end)
{
    struct ibv_port_attr port;
    RigWhere where = {
        .qp_num = end->qp->qp_num,
        .psn = PSN + (end->qp->qp_num & 0xff),
        .addr = (uintptr_t)end->buf,
        .rkey = end->mr->rkey,
    };

    rig_gid(AF_INET, &where.gid);
    g_assert_cmpint(ibv_query_port(rig_device(), 1, &port), ==, 0);
    where.lid = port.lid;
    return where;
}

int rig_init_attr(const RigEnd *end, struct ibv_qp_attr *attr)
{
    *attr = (struct ibv_qp_attr) {
        .qp_state = IBV_QPS_INIT,
        .port_num = 1,
        .qp_access_flags = end->options.qp_access,
    };
    return IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
           IBV_QP_ACCESS_FLAGS;
}

int rig_rtr_attr(const RigEnd *end, const RigWhere *peer,
                 struct ibv_qp_attr *attr)
{
    union ibv_gid own;

    *attr = (struct ibv_qp_attr) {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = peer->qp_num,
        .rq_psn = peer->psn,
        .max_dest_rd_atomic = end->options.rd_atomic,
        .min_rnr_timer = end->options.min_rnr_timer,
        .ah_attr = {
            .is_global = !rig_infiniband(),
            .dlid = peer->lid,
            .port_num = 1,
            .grh = { .dgid = peer->gid, .hop_limit = 64,
                     .sgid_index = rig_gid(AF_INET, &own) },
        },
    };
    return IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
           IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
}

int rig_rts_attr(const RigEnd *end, struct ibv_qp_attr *attr)
{
    *attr = (struct ibv_qp_attr) {
        .qp_state = IBV_QPS_RTS,
        .sq_psn = rig_where(end).psn,
        .timeout = end->options.timeout,
        .retry_cnt = end->options.retry_cnt,
        .rnr_retry = end->options.rnr_retry,
        .max_rd_atomic = end->options.rd_atomic,
    };
    return IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
           IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC;
}

void rig_to_init(RigEnd *end)
{
    struct ibv_qp_attr attr;
    int mask = rig_init_attr(end, &attr);

    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
}

void rig_to_rtr(RigEnd *end, const RigWhere *peer)
{
    struct ibv_qp_attr attr;
    int mask = rig_rtr_attr(end, peer, &attr);

    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
}

void rig_to_rts(RigEnd *end)
{
    struct ibv_qp_attr attr;
    int mask = rig_rts_attr(end, &attr);

    g_assert_cmpint(ibv_modify_qp(end->qp, &attr, mask), ==, 0);
}

int rig_to(RigEnd *end, enum ibv_qp_state state)
{
    struct ibv_qp_attr attr = { .qp_state = state };

    return ibv_modify_qp(end->qp, &attr, IBV_QP_STATE);
}

enum ibv_qp_state rig_state(const RigEnd *end)
{
    struct ibv_qp_init_attr init;
    struct ibv_qp_attr attr;

    g_assert_cmpint(ibv_query_qp(end->qp, &attr, IBV_QP_STATE, &init), ==, 0);
    return attr.qp_state;
}

void rig_await_state(const RigEnd *end, enum ibv_qp_state state)
{
    int64_t start = g_get_monotonic_time();

    while (rig_state(end) != state) {
        if (rig_seconds_since(start) * 1000 > RIG_WAIT_MS) {
            g_error("the queue pair is in state %d, not %d", rig_state(end),
                    state);
        }
        g_usleep(1000);
    }
}

RigPair rig_pair(const RigOptions *options)
{
    RigPair pair = { rig_end(options), rig_end(options) };
    RigWhere a = rig_where(pair.a), b = rig_where(pair.b);

    rig_to_init(pair.a);
    rig_to_init(pair.b);
    rig_to_rtr(pair.a, &b);
    rig_to_rtr(pair.b, &a);
    rig_to_rts(pair.a);
    rig_to_rts(pair.b);
    return pair;
}

void rig_pair_free(RigPair pair)
{
    rig_end_free(pair.a);
    rig_end_free(pair.b);
}

/* ---------------------------------------------------- requests, completions */

struct ibv_sge rig_sge(const RigEnd *end, size_t offset, uint32_t bytes)
{
    return (struct ibv_sge) {
        .addr = (uintptr_t)end->buf + offset,
        .length = bytes,
        .lkey = end->mr->lkey,
    };
}

int rig_recv(RigEnd *end, uint64_t wr_id, size_t offset, uint32_t bytes)
{
    struct ibv_sge sge = rig_sge(end, offset, bytes);
    struct ibv_recv_wr *bad, wr = {
        .wr_id = wr_id, .sg_list = &sge, .num_sge = 1,
    };

    return ibv_post_recv(end->qp, &wr, &bad);
}

int rig_send(RigEnd *end, uint64_t wr_id, size_t offset, uint32_t bytes,
             unsigned flags)
{
    struct ibv_sge sge = rig_sge(end, offset, bytes);
    struct ibv_send_wr *bad, wr = {
        .wr_id = wr_id, .sg_list = &sge, .num_sge = 1,
        .opcode = IBV_WR_SEND, .send_flags = flags,
    };

    return ibv_post_send(end->qp, &wr, &bad);
}

int rig_rdma(RigEnd *end, enum ibv_wr_opcode opcode, uint64_t wr_id,
             size_t offset, uint32_t bytes, const RigWhere *remote,
             unsigned flags)
{
    struct ibv_sge sge = rig_sge(end, offset, bytes);
    struct ibv_send_wr *bad, wr = {
        .wr_id = wr_id, .sg_list = &sge, .num_sge = 1,
        .opcode = opcode, .send_flags = flags, .imm_data = 0x01020304,
        .wr.rdma = { .remote_addr = remote->addr + offset,
                     .rkey = remote->rkey },
    };

    return ibv_post_send(end->qp, &wr, &bad);
}

static bool poll_for(struct ibv_cq *cq, struct ibv_wc *wc, int ms)
{
    int64_t start = g_get_monotonic_time();
    int got;

    do {
        got = ibv_poll_cq(cq, 1, wc);
        g_assert_cmpint(got, >=, 0);
        if (got) {
            return true;
        }
        g_usleep(200);
    } while (rig_seconds_since(start) * 1000 < ms);
    return false;
}

struct ibv_wc rig_poll(struct ibv_cq *cq)
{
    struct ibv_wc wc = { 0 };

    if (!poll_for(cq, &wc, RIG_WAIT_MS)) {
        g_error("no completion came");
    }
    return wc;
}

struct ibv_wc rig_done(struct ibv_cq *cq, uint64_t wr_id,
                       enum ibv_wc_status status)
{
    struct ibv_wc wc = rig_poll(cq);

    g_assert_cmpstr(ibv_wc_status_str(wc.status), ==,
                    ibv_wc_status_str(status));
    g_assert_cmphex(wc.wr_id, ==, wr_id);
    return wc;
}

enum ibv_wc_status rig_protection_error(bool bad_key)
{
    return bad_key && differs("local-protection") ? IBV_WC_LOC_QP_OP_ERR :
                                         IBV_WC_LOC_PROT_ERR;
}

void rig_quiet(struct ibv_cq *cq)
{
    struct ibv_wc wc;

    if (poll_for(cq, &wc, RIG_QUIET_MS)) {
        g_error("an unexpected completion: wr_id 0x%lx, %s",
                (unsigned long)wc.wr_id, ibv_wc_status_str(wc.status));
    }
}

/* ------------------------------------------------------ asynchronous events */

void rig_async(enum ibv_event_type type, const void *element)
{
    struct ibv_async_event event;

    if (!rig_readable(rig_device()->async_fd, RIG_WAIT_MS)) {
        g_error("no asynchronous event came; expected: %s",
                ibv_event_type_str(type));
    }
    g_assert_cmpint(ibv_get_async_event(rig_device(), &event), ==, 0);
    g_assert_cmpstr(ibv_event_type_str(event.event_type), ==,
                    ibv_event_type_str(type));
    if (element) {
        g_assert_true(event.element.qp == element);
    }
    ibv_ack_async_event(&event);
}

void rig_no_async(void)
{
    struct ibv_async_event event;

    if (rig_readable(rig_device()->async_fd, RIG_QUIET_MS)) {
        g_assert_cmpint(ibv_get_async_event(rig_device(), &event), ==, 0);
        g_error("an unexpected asynchronous event: %s",
                ibv_event_type_str(event.event_type));
    }
}

/* ------------------------------------------------------------------ content */

static uint8_t byte_at(size_t i, unsigned seed)
{
    return (i * 7 + (i >> 8) * 13 + seed * 31 + 1) & 0xff;
}

void rig_fill(uint8_t *data, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++) {
        data[i] = byte_at(i, seed);
    }
}

bool rig_filled(const uint8_t *data, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++) {
        if (data[i] != byte_at(i, seed)) {
            return false;
        }
    }
    return true;
}
