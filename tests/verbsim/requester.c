/*
 * verbsim: the requesting half of a queue pair
 *
 * Send queue entries become request packets in order; replies complete them
 * in order.  vs_lock is held throughout, but for the copy that fetches the
 * data of an RDMA Read.  All of it runs on the NIC thread, except
 * vs_requester_init(), _reset() and _flush().
 *
 * Time-outs: the sockets between NICs lose nothing, so a timer is started
 * only when the fabric says that a request met a link that is down, a process
 * that is gone, or a queue pair that does not answer.  From then on the time
 * is that of a real adapter: 4.096 us << timeout, retry_cnt times more.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "hold.h"
#include "nic.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum {
    PSN_MASK = 0xffffff,
    RNR_FOREVER = 7,
    WINDOW = 1024,
    STAGE_RETRY_NS = 1000000,   /* room for what is to be sent */
};

static VsSendWqe *entry(VsQp *qp, uint32_t index)
{
    return &qp->sq[index % qp->sq_size];
}

static uint32_t psn_of(const VsQp *qp, uint32_t index)
{
    return (qp->attr.sq_psn + index) & PSN_MASK;
}

static bool is_send(const VsSendWqe *wqe)
{
    return wqe->opcode == IBV_WR_SEND || wqe->opcode == IBV_WR_SEND_WITH_IMM;
}

static bool is_read(const VsSendWqe *wqe)
{
    return wqe->opcode == IBV_WR_RDMA_READ;
}

static enum ibv_wc_opcode wc_opcode(const VsSendWqe *wqe)
{
    return is_send(wqe) ? IBV_WC_SEND
           : is_read(wqe) ? IBV_WC_RDMA_READ : IBV_WC_RDMA_WRITE;
}

/* ------------------------------------------------------------- completions */

static void push_completion(VsQp *qp, uint32_t index, enum ibv_wc_status status)
{
    VsSendWqe *wqe = entry(qp, index);
    VsCqe cqe = {
        .qp = qp,
        .frees = index + 1,
        .wc = {
            .wr_id = wqe->wr_id,
            .status = status,
            .opcode = wc_opcode(wqe),
            .byte_len = wqe->length,
            .qp_num = vs_qp_ibv(qp)->qp_num,
        },
    };

    VS_TRACE("completion", "qp=%u queue=send wr_id=0x%" PRIx64 " status=%s",
             cqe.wc.qp_num, wqe->wr_id, ibv_wc_status_str(status));
    vs_cq_push(vs_qp_send_cq(qp), &cqe, false);
}

/* Has memory that @wqe uses been deregistered since it was sent? */
static bool lost_its_memory(const VsQp *qp, const VsSendWqe *wqe)
{
    int access = is_read(wqe) ? IBV_ACCESS_LOCAL_WRITE : 0;

    if (wqe->flags & IBV_SEND_INLINE) {
        return false;
    }
    for (unsigned i = 0; i < wqe->num_sge; i++) {
        const struct ibv_sge *sge = &wqe->sge[i];
        VsMr *mr;

        if (!sge->length) {
            continue;
        }
        mr = vs_mr_get(sge->lkey, vs_qp_pd(qp), sge->addr, sge->length, access);
        if (!mr) {
            return true;
        }
        vs_mr_put(mr);
    }
    return false;
}

/* Completes from the head of the queue what is done and due. */
static void complete_ready(VsQp *qp)
{
    while (qp->sq_done != qp->sq_sent) {
        VsSendWqe *wqe = entry(qp, qp->sq_done);
        uint32_t index;

        if (!wqe->done) {
            return;
        }
        if (wqe->due_ns > vs_now_ns()) {
            vs_timer_set(&qp->req.pace, wqe->due_ns);
            return;
        }
        if (wqe->status == IBV_WC_SUCCESS && lost_its_memory(qp, wqe)) {
            wqe->status = IBV_WC_LOC_PROT_ERR;
        }
        vs_stage_drop(&wqe->stage, wqe->status == IBV_WC_SUCCESS);
        /* Counted first: a CQ that overruns flushes this queue at once. */
        index = qp->sq_done++;
        if (wqe->status != IBV_WC_SUCCESS) {
            push_completion(qp, index, wqe->status);
            vs_qp_error(qp);
            return;
        }
        if (wqe->flags & IBV_SEND_SIGNALED) {
            push_completion(qp, index, IBV_WC_SUCCESS);
        }
    }
    vs_qp_check_drained(qp);
}

static void mark_done(VsSendWqe *wqe, enum ibv_wc_status status,
                      uint64_t due_ns)
{
    wqe->done = true;
    wqe->status = status;
    wqe->due_ns = due_ns;
}

/* The entry cannot be sent, or a reply says so: nothing behind it goes. */
static void fail(VsQp *qp, VsSendWqe *wqe, enum ibv_wc_status status)
{
    mark_done(wqe, status, 0);
    qp->req.failed = true;
    vs_timer_clear(&qp->req.retry);
    qp->req.lost = qp->req.waiting_rnr = false;
    complete_ready(qp);
}

/* The first entry that no reply has settled. */
static VsSendWqe *oldest_open(VsQp *qp)
{
    uint32_t i = qp->sq_done;

    while (i != qp->sq_sent && entry(qp, i)->done) {
        i++;
    }
    return i == qp->sq_sent ? NULL : entry(qp, i);
}

/* ----------------------------------------------------------- loss, retries */

static void start_time_out(VsQp *qp)
{
    qp->req.lost = true;
    vs_timer_set(&qp->req.retry, vs_now_ns() + (4096ull << qp->attr.timeout));
}

/* Something of @qp was lost: a real adapter's time-out starts now. */
static void lost(VsQp *qp)
{
    if (qp->req.lost || qp->req.waiting_rnr || qp->req.failed) {
        return;
    }
    vs_stats->link_lost++;
    if (qp->attr.timeout) {     /* 0 means: wait for ever */
        start_time_out(qp);
    }
}

/* A reply has come after a loss: the time-out begins anew, or is over. */
static void progress_after_loss(VsQp *qp)
{
    if (oldest_open(qp)) {
        start_time_out(qp);
    } else {
        qp->req.lost = false;
        vs_timer_clear(&qp->req.retry);
    }
}

static void send_again(VsQp *qp)
{
    qp->sq_sent = qp->sq_done;
    while (qp->sq_sent != qp->sq_posted && entry(qp, qp->sq_sent)->done) {
        qp->sq_sent++;
    }
    qp->req.reads = 0;
    vs_stats->retransmits++;
    vs_requester_run(qp);
}

/*
 * What the far side or the wire has ended.  With iWARP that is the end of the
 * TCP connection, and nothing says which of the requests it was.
 */
static enum ibv_wc_status remote_error(enum ibv_wc_status status)
{
    return vs_shape.iwarp ? IBV_WC_WR_FLUSH_ERR : status;
}

static void retry_fired(VsTimer *timer)
{
    VsQp *qp = timer->opaque;
    VsSendWqe *oldest = oldest_open(qp);

    if (qp->req.lost && oldest && qp->req.retries >= qp->attr.retry_cnt) {
        fail(qp, oldest, remote_error(IBV_WC_RETRY_EXC_ERR));
        return;
    }
    if (qp->req.lost) {
        qp->req.retries++;
        VS_TRACE("retry", "qp=%u psn=%u attempt=%u", vs_qp_ibv(qp)->qp_num,
                 psn_of(qp, qp->sq_done), qp->req.retries);
    }
    qp->req.lost = qp->req.waiting_rnr = false;
    send_again(qp);
}

static void pace_fired(VsTimer *timer)
{
    vs_requester_run(timer->opaque);
}

/* The specification's RNR timer codes, in units of 10 us. */
static uint64_t rnr_delay_ns(unsigned code)
{
    static const uint32_t units[32] = {
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256,
        384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384,
        24576, 32768, 49152,
    };

    return units[code & 31] * 10000ull;
}

static void receiver_not_ready(VsQp *qp, VsSendWqe *wqe, const VsPkt *pkt)
{
    vs_stats->rnr_naks++;
    if (qp->attr.rnr_retry != RNR_FOREVER &&
        qp->req.rnr_retries >= qp->attr.rnr_retry) {
        fail(qp, wqe, IBV_WC_RNR_RETRY_EXC_ERR);
        return;
    }
    qp->req.rnr_retries++;
    qp->req.waiting_rnr = true;
    vs_timer_set(&qp->req.retry, vs_now_ns() + rnr_delay_ns(pkt->arg));
}

/* ----------------------------------------------------------------- sending */

static bool expects_replies(const VsQp *qp)
{
    return qp->ex.qp_base.state == IBV_QPS_RTS ||
           qp->ex.qp_base.state == IBV_QPS_SQD;
}

static bool keys_are_good(const VsQp *qp, const VsSendWqe *wqe)
{
    return !lost_its_memory(qp, wqe);
}

/* The migration message in a SEND: its control type, or -1. */
static int peek_control(const VsSendWqe *wqe)
{
    uint8_t head[16];
    struct iovec local = { head, sizeof(head) }, remote;

    if (wqe->length < sizeof(head)) {
        return -1;
    }
    if (wqe->flags & IBV_SEND_INLINE) {
        return vs_control_type(wqe->inline_data, wqe->length);
    }
    if (wqe->sge[0].length < sizeof(head)) {
        return -1;
    }
    remote.iov_base = (void *)(uintptr_t)wqe->sge[0].addr;
    remote.iov_len = sizeof(head);
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) ==
           (ssize_t)sizeof(head) ? vs_control_type(head, wqe->length) : -1;
}

static void count(VsQp *qp, const VsSendWqe *wqe, int control)
{
    if (is_read(wqe)) {
        vs_stats->tx_read++;
        vs_stats->tx_read_bytes += wqe->length;
        return;
    }
    if (!is_send(wqe)) {
        vs_stats->tx_write++;
        vs_stats->tx_write_bytes += wqe->length;
        return;
    }
    vs_stats->tx_send++;
    vs_stats->tx_send_bytes += wqe->length;
    if (control >= 0) {
        vs_stats->control[control]++;
    }
    if (qp->resp.heard) {
        qp->resp.heard = false;
        vs_stats->turns++;
    }
}

/* Asks the fault script. True: the entry goes out. */
static bool survives_faults(VsQp *qp, VsSendWqe *wqe, int control)
{
    VsSite site = is_send(wqe) ? VS_SITE_SEND
                  : is_read(wqe) ? VS_SITE_READ : VS_SITE_WRITE;
    uint32_t num = vs_qp_ibv(qp)->qp_num;
    VsVerdict verdict = vs_fault_at(site, is_send(wqe)
                                    ? vs_control_name(control) : NULL, num);

    switch (verdict.action) {
    case VS_ACT_COMPLETE:
        qp->sq_sent++;
        fail(qp, wqe, (enum ibv_wc_status)verdict.status);
        return false;
    case VS_ACT_LOSE:
        qp->sq_sent++;
        lost(qp);
        return false;
    case VS_ACT_DELAY:
        /* It stays where it is and goes out, untouched, when time is up. */
        qp->req.hold_until_ns = vs_now_ns() + verdict.delay_ns;
        return false;
    case VS_ACT_DISCONNECT:
        vs_fault_disconnect(num);
        return false;
    default:
        return true;
    }
}

/*
 * The pieces of @wqe's memory, each region with a busy reference.  Their keys
 * have been looked at since the lock was taken.
 */
static unsigned gather(const VsQp *qp, const VsSendWqe *wqe, VsMr **mrs,
                       VsPiece *pieces)
{
    unsigned n = 0;

    for (unsigned i = 0; i < wqe->num_sge; i++) {
        const struct ibv_sge *sge = &wqe->sge[i];

        if (sge->length) {
            mrs[n] = vs_mr_get(sge->lkey, vs_qp_pd(qp), sge->addr,
                               sge->length, 0);
            pieces[n] = (VsPiece) {
                mrs[n]->hold, vs_mr_pointer(mrs[n], sge->addr), sge->length,
            };
            n++;
        }
    }
    return n;
}

/* Reads @pieces without the lock.  False: @wqe is not to be sent any more. */
static bool fill_stage(VsQp *qp, VsSendWqe *wqe, const VsPiece *pieces,
                       unsigned n)
{
    uint32_t index = qp->sq_sent;
    VsStage stage = wqe->stage;
    bool good;

    /* It is not the queue's yet: a flush must not give it to somebody else. */
    wqe->stage = (VsStage) { 0 };
    qp->busy++;
    pthread_mutex_unlock(&vs_lock);
    good = vs_stage_fill(&stage, pieces, n);
    pthread_mutex_lock(&vs_lock);
    qp->busy--;
    if (qp->destroyed || !expects_replies(qp) || qp->sq_sent != index) {
        vs_stage_drop(&stage, true);
        return false;
    }
    wqe->stage = stage;
    if (!good) {
        qp->sq_sent++;
        fail(qp, wqe, IBV_WC_LOC_PROT_ERR);
    }
    return good;
}

/*
 * Makes a copy of what the region's pages have, as an adapter reads them now;
 * one that is sent again has it already.  False: it is not to be sent, or not
 * yet.
 */
static bool stage(VsQp *qp, VsSendWqe *wqe)
{
    VsPiece pieces[VS_MAX_SGE];
    VsMr *mrs[VS_MAX_SGE];
    bool held = false, good;
    unsigned n;

    if (!vs_holding || is_read(wqe) || wqe->flags & IBV_SEND_INLINE ||
        wqe->stage.addr) {
        return true;
    }
    n = gather(qp, wqe, mrs, pieces);
    for (unsigned i = 0; i < n; i++) {
        held |= pieces[i].hold != NULL;
    }
    good = !held;
    if (held && vs_stage_take(&wqe->stage, wqe->length)) {
        good = fill_stage(qp, wqe, pieces, n);
    } else if (held) {
        qp->req.hold_until_ns = vs_now_ns() + STAGE_RETRY_NS;
    }
    while (n) {
        vs_mr_put(mrs[--n]);
    }
    pthread_cond_broadcast(&vs_idle);
    return good;
}

static void transmit(VsQp *qp, VsSendWqe *wqe, uint32_t psn)
{
    VsExtent extents[VS_MAX_SGE];
    VsPiece pieces[VS_MAX_SGE];
    VsMr *mrs[VS_MAX_SGE];
    bool is_inline = wqe->flags & IBV_SEND_INLINE;
    VsPkt pkt = {
        .kind = VS_PKT_REQUEST,
        .dst_qpn = qp->attr.dest_qp_num,
        .src_qpn = vs_qp_ibv(qp)->qp_num,
        .psn = psn,
        .due_ns = vs_shape_transmit(is_read(wqe) ? 0 : wqe->length),
    };
    VsRequest request = {
        .opcode = wqe->opcode,
        .imm = wqe->imm,
        .remote_addr = wqe->remote_addr,
        .rkey = wqe->rkey,
        .length = wqe->length,
        .solicited = !!(wqe->flags & IBV_SEND_SOLICITED),
        .control = wqe->control,
    };

    if (is_inline) {
        vs_peer_send(qp->peer, &pkt, &request, sizeof(request),
                     wqe->inline_data, wqe->length);
        return;
    }
    if (wqe->stage.addr) {
        extents[request.num_extents++] = (VsExtent) {
            (uintptr_t)wqe->stage.addr, wqe->stage.bytes,
        };
    } else if (!is_read(wqe)) {
        request.num_extents = gather(qp, wqe, mrs, pieces);
        for (unsigned i = 0; i < request.num_extents; i++) {
            extents[i] = (VsExtent) { (uintptr_t)pieces[i].addr,
                                      pieces[i].bytes };
            vs_mr_put(mrs[i]);
        }
    }
    vs_peer_send(qp->peer, &pkt, &request, sizeof(request), extents,
                 request.num_extents * sizeof(extents[0]));
}

/* Sends the entry at sq_sent. False: it stays where it is, for now. */
static bool send_next(VsQp *qp)
{
    VsSendWqe *wqe = entry(qp, qp->sq_sent);
    uint32_t psn = psn_of(qp, qp->sq_sent);
    int control;

    if (wqe->done) {
        qp->sq_sent++;
        return true;
    }
    if (((wqe->flags & IBV_SEND_FENCE) && qp->req.reads) ||
        (is_read(wqe) && qp->req.reads >= qp->attr.max_rd_atomic)) {
        return false;
    }
    if (!keys_are_good(qp, wqe)) {
        qp->sq_sent++;
        fail(qp, wqe, IBV_WC_LOC_PROT_ERR);
        return false;
    }
    if (!wqe->tried) {
        wqe->tried = true;
        control = is_send(wqe) ? peek_control(wqe) : -1;
        wqe->control = control;
        count(qp, wqe, control);
        VS_TRACE("request", "qp=%u to=%u psn=%u opcode=%d bytes=%u control=%s",
                 vs_qp_ibv(qp)->qp_num, qp->attr.dest_qp_num, psn, wqe->opcode,
                 wqe->length, vs_control_name(control));
        if (!survives_faults(qp, wqe, control)) {
            return false;
        }
    }
    if (!stage(qp, wqe)) {
        return false;
    }
    qp->sq_sent++;
    qp->req.reads += is_read(wqe);
    if (!vs_port_up || !qp->peer || qp->peer->fd < 0) {
        lost(qp);
    } else {
        transmit(qp, wqe, psn);
    }
    return true;
}

/* A queue that drains sends only again what it has sent before. */
static bool state_allows(const VsQp *qp)
{
    enum ibv_qp_state state = qp->ex.qp_base.state;

    return state == IBV_QPS_RTS ||
           (state == IBV_QPS_SQD && vs_qp_has_begun(qp, qp->sq_sent));
}

void vs_requester_run(VsQp *qp)
{
    uint64_t now = vs_now_ns();

    complete_ready(qp);
    if (qp->req.hold_until_ns > now) {
        vs_timer_set(&qp->req.pace, qp->req.hold_until_ns);
        return;
    }
    while (qp->sq_sent != qp->sq_posted && state_allows(qp) &&
           !qp->req.failed && !qp->req.waiting_rnr && !qp->req.lost &&
           qp->sq_sent - qp->sq_done < WINDOW) {
        if (!send_next(qp)) {
            break;
        }
    }
    if (qp->req.hold_until_ns > now) {
        vs_timer_set(&qp->req.pace, qp->req.hold_until_ns);
    }
}

/* ----------------------------------------------------------------- replies */

static void acknowledge(VsQp *qp, uint32_t end, uint64_t due_ns)
{
    for (uint32_t i = qp->sq_done; i != end; i++) {
        VsSendWqe *wqe = entry(qp, i);

        if (!wqe->done && !is_read(wqe)) {
            mark_done(wqe, IBV_WC_SUCCESS, due_ns);
        }
    }
}

/* Fetches the data of a Read: the copy, without the lock. */
static int fetch(VsQp *qp, const VsSendWqe *wqe, const VsPkt *pkt)
{
    const VsExtent *from = vs_pkt_payload(pkt);
    VsPiece local[VS_MAX_SGE];
    struct iovec remote = { (void *)(uintptr_t)from->addr, from->length };
    VsMr *mrs[VS_MAX_SGE];
    unsigned n = 0;
    int result = VS_COPY_OK;

    for (unsigned i = 0; i < wqe->num_sge; i++) {
        const struct ibv_sge *sge = &wqe->sge[i];

        if (!sge->length) {
            continue;
        }
        mrs[n] = vs_mr_get(sge->lkey, vs_qp_pd(qp), sge->addr, sge->length,
                           IBV_ACCESS_LOCAL_WRITE);
        if (!mrs[n]) {
            result = VS_COPY_BAD_LOCAL;
            break;
        }
        local[n] = (VsPiece) {
            mrs[n]->hold, vs_mr_pointer(mrs[n], sge->addr), sge->length,
        };
        n++;
    }
    if (result == VS_COPY_OK && !vs_shape.no_copy) {
        pid_t pid = qp->peer->pid;

        qp->busy++;
        pthread_mutex_unlock(&vs_lock);
        result = vs_hold_copy(pid, local, n, &remote, 1, from->length);
        pthread_mutex_lock(&vs_lock);
        qp->busy--;
    }
    while (n) {
        vs_mr_put(mrs[--n]);
    }
    pthread_cond_broadcast(&vs_idle);
    return result;
}

static void read_reply(VsQp *qp, uint32_t index, const VsPkt *pkt)
{
    VsSendWqe *wqe = entry(qp, index);
    int result;

    acknowledge(qp, index, pkt->due_ns);
    if (wqe->done || !is_read(wqe)) {
        return;
    }
    result = fetch(qp, wqe, pkt);
    if (!expects_replies(qp) || qp->destroyed) {
        return;                 /* it was flushed while the lock was off */
    }
    qp->req.reads--;
    if (result == VS_COPY_GONE) {
        lost(qp);
    } else {
        mark_done(wqe, result == VS_COPY_OK ? IBV_WC_SUCCESS
                  : result == VS_COPY_BAD_LOCAL ? IBV_WC_LOC_PROT_ERR
                  : IBV_WC_REM_OP_ERR, pkt->due_ns);
    }
}

static void refused(VsQp *qp, VsSendWqe *wqe, const VsPkt *pkt)
{
    static const enum ibv_wc_status status[] = {
        [VS_NAK_INVALID_REQUEST] = IBV_WC_REM_INV_REQ_ERR,
        [VS_NAK_REMOTE_ACCESS] = IBV_WC_REM_ACCESS_ERR,
        [VS_NAK_REMOTE_OPERATION] = IBV_WC_REM_OP_ERR,
        [VS_NAK_LOCAL_MEMORY] = IBV_WC_LOC_PROT_ERR,
    };

    vs_stats->naks++;
    VS_TRACE("nak", "qp=%u psn=%u code=%u", vs_qp_ibv(qp)->qp_num, pkt->psn,
             pkt->code);
    if (wqe->done) {
        return;
    }
    if (pkt->code == VS_NAK_RNR) {
        receiver_not_ready(qp, wqe, pkt);
    } else if (pkt->code < G_N_ELEMENTS(status)) {
        fail(qp, wqe, pkt->code == VS_NAK_LOCAL_MEMORY
                      ? status[pkt->code] : remote_error(status[pkt->code]));
    }
}

void vs_requester_packet(VsPeer *peer, const VsPkt *pkt)
{
    VsQp *qp = vs_qp_find(pkt->dst_qpn);
    uint32_t index;

    if (!qp || !qp->peer || qp->peer->slot != peer->slot ||
        qp->attr.dest_qp_num != pkt->src_qpn ||
        !expects_replies(qp)) {
        return;
    }
    index = qp->sq_done + ((pkt->psn - psn_of(qp, qp->sq_done)) & PSN_MASK);
    if (index - qp->sq_done >= qp->sq_sent - qp->sq_done) {
        return;                 /* answers something that is over */
    }
    if (!vs_port_up || pkt->kind == VS_PKT_LOST) {
        lost(qp);
        return;
    }
    qp->req.retries = 0;
    switch (pkt->kind) {
    case VS_PKT_ACK:
        acknowledge(qp, index + 1, pkt->due_ns);
        qp->req.rnr_retries = 0;
        break;
    case VS_PKT_READ_REPLY:
        read_reply(qp, index, pkt);
        qp->req.rnr_retries = 0;
        break;
    case VS_PKT_NAK:
        acknowledge(qp, index, 0);
        refused(qp, entry(qp, index), pkt);
        return;
    default:
        return;
    }
    if (qp->req.lost) {
        progress_after_loss(qp);
    }
    complete_ready(qp);
    vs_nic_schedule(qp);
}

static void peer_gone(VsQp *qp, void *opaque)
{
    if (qp->peer == opaque && qp->sq_done != qp->sq_sent) {
        lost(qp);
    }
}

void vs_requester_peer_gone(VsPeer *peer)
{
    vs_qp_foreach(peer_gone, peer);
}

/* --------------------------------------------------------------- lifecycle */

void vs_requester_init(VsQp *qp)
{
    qp->req.retry.fire = retry_fired;
    qp->req.pace.fire = pace_fired;
    qp->req.retry.opaque = qp->req.pace.opaque = qp;
}

static void stop_timers(VsQp *qp)
{
    vs_timer_clear(&qp->req.retry);
    vs_timer_clear(&qp->req.pace);
}

void vs_requester_flush(VsQp *qp)
{
    stop_timers(qp);
    while (qp->sq_done != qp->sq_posted) {
        vs_stage_drop(&entry(qp, qp->sq_done)->stage, false);
        push_completion(qp, qp->sq_done++, IBV_WC_WR_FLUSH_ERR);
    }
    qp->sq_sent = qp->sq_posted;
    qp->req.failed = qp->req.lost = qp->req.waiting_rnr = false;
}

void vs_requester_reset(VsQp *qp)
{
    stop_timers(qp);
    vs_nic_forget(qp);
    for (; qp->sq_done != qp->sq_posted; qp->sq_done++) {
        vs_stage_drop(&entry(qp, qp->sq_done)->stage, false);
    }
    qp->sq_posted = qp->sq_sent = qp->sq_done = qp->sq_free = 0;
    memset(&qp->req, 0, sizeof(qp->req));
    vs_requester_init(qp);
}
