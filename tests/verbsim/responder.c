/*
 * verbsim: the responding half of a queue pair
 *
 * A request packet is checked here, where the memory is: queue pair, order,
 * receive, key, domain, range, access.  Then its data is pulled out of the
 * requester's memory.  What the program and the requester may learn of it (a
 * receive's completion, the acknowledgement) is an effect, which waits until
 * the profile's link would have delivered the last byte.
 * On the NIC thread with vs_lock, which is let go for the copy; only
 * vs_responder_init(), _reset() and _flush() are called from elsewhere too.
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
    PSN_HALF = 0x800000,
    ACK_BYTES = 256 * 1024,     /* so much copied: acknowledge at once */
};

typedef struct Effect {
    uint64_t due_ns;
    uint32_t psn;
    int nak;                    /* VsNak, or -1: acknowledge */
    bool has_cqe;
    bool solicited;
    bool fatal;                 /* the queue pair goes to ERR with it */
    VsCqe cqe;
} Effect;

/* What one request asks for, while it is being carried out. */
typedef struct Job {
    VsQp *qp;
    const VsPkt *pkt;
    const VsRequest *request;
    uint64_t due_ns;            /* the packet's, unless a fault delays it */
    VsMr *mrs[VS_MAX_SGE];
    VsPiece local[VS_MAX_SGE];
    unsigned num_mrs, num_local;
    bool takes_receive;
    uint32_t receive;           /* its index */
} Job;

/* ----------------------------------------------------------------- replies */

static void reply(VsQp *qp, VsPktKind kind, uint32_t psn, VsNak code,
                  uint64_t due_ns)
{
    VsPkt pkt = {
        .kind = vs_port_up ? kind : VS_PKT_LOST,
        .code = code,
        .arg = qp->attr.min_rnr_timer,
        .dst_qpn = qp->attr.dest_qp_num,
        .src_qpn = vs_qp_ibv(qp)->qp_num,
        .psn = psn,
        .due_ns = due_ns,
    };

    vs_peer_send(qp->peer, &pkt, NULL, 0, NULL, 0);
}

/* The fabric's word to a requester that nobody is there to answer. */
static void tell_lost(VsPeer *peer, const VsPkt *request)
{
    VsPkt pkt = {
        .kind = VS_PKT_LOST,
        .dst_qpn = request->src_qpn,
        .src_qpn = request->dst_qpn,
        .psn = request->psn,
    };

    vs_peer_send(peer, &pkt, NULL, 0, NULL, 0);
}

void vs_responder_send_ack(VsQp *qp)
{
    qp->resp.unacked_bytes = 0;
    reply(qp, VS_PKT_ACK, qp->resp.ack_psn, 0, qp->resp.ack_due_ns);
}

/* ----------------------------------------------------------------- effects */

static uint64_t after_flight(uint64_t due_ns)
{
    return due_ns ? due_ns + vs_shape.latency_ns : 0;
}

static void apply(VsQp *qp, const Effect *effect)
{
    if (effect->has_cqe) {
        VS_TRACE("completion", "qp=%u queue=receive wr_id=0x%" PRIx64
                 " bytes=%u status=%s", vs_qp_ibv(qp)->qp_num,
                 effect->cqe.wc.wr_id, effect->cqe.wc.byte_len,
                 ibv_wc_status_str(effect->cqe.wc.status));
        vs_cq_push(vs_qp_recv_cq(qp), &effect->cqe, effect->solicited);
    }
    if (effect->nak >= 0) {
        if (qp->resp.ack_wanted) {
            vs_responder_send_ack(qp);
        }
        reply(qp, VS_PKT_NAK, effect->psn, (VsNak)effect->nak,
              after_flight(effect->due_ns));
    } else {
        qp->resp.ack_psn = effect->psn;
        qp->resp.ack_due_ns = after_flight(effect->due_ns);
        vs_nic_owe_ack(qp);
    }
    if (effect->fatal) {
        vs_qp_error(qp);
    }
}

/* Applies the effects that are due; sets the timer for the next. */
static void apply_due(VsQp *qp)
{
    Effect *effect;

    while ((effect = g_queue_peek_head(&qp->resp.effects))) {
        if (effect->due_ns > vs_now_ns()) {
            vs_timer_set(&qp->resp.timer, effect->due_ns);
            return;
        }
        g_queue_pop_head(&qp->resp.effects);
        apply(qp, effect);
        g_free(effect);
    }
}

static void timer_fired(VsTimer *timer)
{
    apply_due(timer->opaque);
}

static void add_effect(VsQp *qp, const Effect *effect)
{
    if (!effect->due_ns && g_queue_is_empty(&qp->resp.effects)) {
        apply(qp, effect);
        return;
    }
    g_queue_push_tail(&qp->resp.effects, g_memdup2(effect, sizeof(*effect)));
    apply_due(qp);
}

/* ------------------------------------------------------------ carrying out */

static VsRecvWqe *receive_of(const Job *job)
{
    return &job->qp->rq[job->receive % job->qp->rq_size];
}

static bool is_write(const VsRequest *request)
{
    return request->opcode == IBV_WR_RDMA_WRITE ||
           request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

static bool is_send(const VsRequest *request)
{
    return request->opcode == IBV_WR_SEND ||
           request->opcode == IBV_WR_SEND_WITH_IMM;
}

static void fill_cqe(const Job *job, Effect *effect, enum ibv_wc_status status)
{
    const VsRequest *request = job->request;
    bool imm = request->opcode == IBV_WR_SEND_WITH_IMM ||
               request->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;

    job->qp->rq_taken = job->receive + 1;
    effect->has_cqe = true;
    effect->solicited = request->solicited || status != IBV_WC_SUCCESS;
    effect->cqe = (VsCqe) {
        .qp = job->qp,
        .is_recv = true,
        .frees = job->receive + 1,
        .wc = {
            .wr_id = receive_of(job)->wr_id,
            .status = status,
            .opcode = is_write(request) ? IBV_WC_RECV_RDMA_WITH_IMM
                                        : IBV_WC_RECV,
            .byte_len = request->length,
            .imm_data = request->imm,
            .qp_num = vs_qp_ibv(job->qp)->qp_num,
            .src_qp = job->pkt->src_qpn,
            .wc_flags = imm ? IBV_WC_WITH_IMM : 0,
        },
    };
}

/*
 * Refuses the request. @local: what the receive, if one was taken, ends with.
 * Memory that the requester has not (any more) is its own affair: real hardware
 * would not have sent it, so this side's queue pair lives on.
 */
static void refuse(Job *job, VsNak nak, enum ibv_wc_status local)
{
    VsQp *qp = job->qp;
    Effect effect = { .due_ns = job->due_ns, .psn = job->pkt->psn,
                      .nak = (int)nak,
                      .fatal = nak != VS_NAK_LOCAL_MEMORY };

    VS_TRACE("refuse", "qp=%u psn=%u code=%d addr=0x%" PRIx64
             " length=%u rkey=0x%x", vs_qp_ibv(qp)->qp_num, job->pkt->psn,
             (int)nak, job->request->remote_addr, job->request->length,
             job->request->rkey);
    if (job->takes_receive && local != IBV_WC_SUCCESS) {
        fill_cqe(job, &effect, local);
    }
    qp->resp.nak_sent = true;
    if (nak == VS_NAK_REMOTE_ACCESS) {
        vs_async_event(IBV_EVENT_QP_ACCESS_ERR, vs_qp_ibv(qp));
    } else if (nak == VS_NAK_INVALID_REQUEST) {
        vs_async_event(IBV_EVENT_QP_REQ_ERR, vs_qp_ibv(qp));
    }
    add_effect(qp, &effect);
}

static void release(Job *job)
{
    while (job->num_mrs) {
        vs_mr_put(job->mrs[--job->num_mrs]);
    }
}

/* Where a SEND goes: the receive's pieces, up to its length. */
static bool aim_at_receive(Job *job)
{
    const VsRecvWqe *wqe = receive_of(job);
    uint64_t left = job->request->length, room = 0;

    for (unsigned i = 0; i < wqe->num_sge; i++) {
        room += wqe->sge[i].length;
    }
    if (room < left) {
        refuse(job, VS_NAK_INVALID_REQUEST, IBV_WC_LOC_LEN_ERR);
        return false;
    }
    for (unsigned i = 0; left; i++) {
        const struct ibv_sge *sge = &wqe->sge[i];
        uint64_t length = MIN(left, sge->length);
        VsMr *mr;

        if (!length) {
            continue;
        }
        mr = vs_mr_get(sge->lkey, vs_qp_pd(job->qp), sge->addr, sge->length,
                       IBV_ACCESS_LOCAL_WRITE);
        if (!mr) {
            refuse(job, VS_NAK_REMOTE_OPERATION, IBV_WC_LOC_PROT_ERR);
            return false;
        }
        job->mrs[job->num_mrs++] = mr;
        job->local[job->num_local++] = (VsPiece) {
            mr->hold, vs_mr_pointer(mr, sge->addr), length,
        };
        left -= length;
    }
    return true;
}

/* Where a Write goes or a Read comes from: the key's memory. */
static bool aim_at_key(Job *job, unsigned access)
{
    const VsRequest *request = job->request;
    VsMr *mr;

    if (!(job->qp->attr.qp_access_flags & access)) {
        /* As the specification has it: the queue pair lacks the operation. */
        refuse(job, VS_NAK_INVALID_REQUEST, IBV_WC_SUCCESS);
        return false;
    }
    if (!request->length) {
        return true;            /* the key is not looked at */
    }
    mr = vs_mr_get(request->rkey, vs_qp_pd(job->qp), request->remote_addr,
                   request->length, (int)access);
    if (!mr) {
        refuse(job, VS_NAK_REMOTE_ACCESS, IBV_WC_SUCCESS);
        return false;
    }
    job->mrs[job->num_mrs++] = mr;
    job->local[0] = (VsPiece) {
        mr->hold, vs_mr_pointer(mr, request->remote_addr), request->length,
    };
    job->num_local = 1;
    return true;
}

static int copy_inline(const Job *job)
{
    const uint8_t *from = (const uint8_t *)(job->request + 1);
    struct iovec remote = { (void *)(uintptr_t)from, job->request->length };

    /* Through the kernel, too: the receive's memory may be gone. */
    return vs_hold_copy(getpid(), job->local, job->num_local, &remote, 1,
                        job->request->length);
}

/* Moves the data, without the lock. */
static int move(Job *job)
{
    const VsRequest *request = job->request;
    const VsExtent *from = (const VsExtent *)(request + 1);
    struct iovec remote[VS_MAX_SGE];
    pid_t pid = job->qp->peer->pid;
    int result;

    if (vs_shape.no_copy && is_write(request)) {
        return VS_COPY_OK;
    }
    for (unsigned i = 0; i < request->num_extents; i++) {
        remote[i].iov_base = (void *)(uintptr_t)from[i].addr;
        remote[i].iov_len = from[i].length;
    }
    job->qp->busy++;
    pthread_mutex_unlock(&vs_lock);
    result = request->num_extents
             ? vs_hold_copy(pid, job->local, job->num_local, remote,
                            request->num_extents, request->length)
             : copy_inline(job);
    pthread_mutex_lock(&vs_lock);
    job->qp->busy--;
    pthread_cond_broadcast(&vs_idle);
    return result;
}

static bool can_respond(const VsQp *qp)
{
    enum ibv_qp_state state = qp->ex.qp_base.state;

    return !qp->destroyed && (state == IBV_QPS_RTR || state == IBV_QPS_RTS ||
                              state == IBV_QPS_SQD);
}

static void succeed(Job *job)
{
    VsQp *qp = job->qp;
    Effect effect = { .due_ns = job->due_ns, .psn = job->pkt->psn,
                      .nak = -1 };

    if (job->takes_receive) {
        fill_cqe(job, &effect, IBV_WC_SUCCESS);
    }
    if (is_send(job->request)) {
        vs_stats->rx_send++;
        vs_stats->rx_send_bytes += job->request->length;
        qp->resp.heard = true;
    } else {
        vs_stats->rx_write++;
        vs_stats->rx_write_bytes += job->request->length;
    }
    qp->resp.expected_psn = (qp->resp.expected_psn + 1) & PSN_MASK;
    add_effect(qp, &effect);
    qp->resp.unacked_bytes += job->request->length;
    if (qp->resp.ack_wanted && qp->resp.unacked_bytes >= ACK_BYTES) {
        vs_responder_send_ack(qp);
        vs_peer_flush(qp->peer);
    }
}

/* A SEND or Write whose target is known. */
static void carry_out(Job *job)
{
    VsQp *qp = job->qp;
    int result = move(job);

    release(job);
    if (!can_respond(qp)) {
        return;                 /* it went to ERR during the copy */
    }
    switch (result) {
    case VS_COPY_OK:
        succeed(job);
        break;
    case VS_COPY_BAD_REMOTE:
        refuse(job, VS_NAK_LOCAL_MEMORY, IBV_WC_SUCCESS);
        break;
    case VS_COPY_BAD_LOCAL:
        refuse(job, VS_NAK_REMOTE_OPERATION,
               job->takes_receive ? IBV_WC_LOC_PROT_ERR : IBV_WC_SUCCESS);
        break;
    default:
        break;                  /* the requester's process is gone */
    }
}

static void not_ready(Job *job)
{
    Effect effect = { .due_ns = job->pkt->due_ns, .psn = job->pkt->psn,
                      .nak = VS_NAK_RNR };

    VS_TRACE("receiver-not-ready", "qp=%u psn=%u",
             vs_qp_ibv(job->qp)->qp_num, job->pkt->psn);
    job->qp->resp.nak_sent = true;
    add_effect(job->qp, &effect);
}

/*
 * Finds the receive for the request.  It is taken only when its completion is
 * made, so that a queue pair that fails meanwhile flushes it with the others.
 */
static bool find_receive(Job *job)
{
    VsQp *qp = job->qp;

    if (qp->rq_taken == qp->rq_posted && vs_shape.iwarp) {
        /* A message without a buffer: iWARP terminates the connection. */
        refuse(job, VS_NAK_INVALID_REQUEST, IBV_WC_SUCCESS);
        return false;
    }
    if (qp->rq_taken == qp->rq_posted) {
        not_ready(job);
        return false;
    }
    job->receive = qp->rq_taken;
    job->takes_receive = true;
    return true;
}

/* No more Reads than these can be under way; twice, for those repeated. */
static void drop_old_stages(VsQp *qp)
{
    while (g_queue_get_length(&qp->resp.stages) > 2 * vs_shape.max_rd_atomic) {
        VsStage *stage = g_queue_pop_head(&qp->resp.stages);

        vs_stage_drop(stage, true);
        g_free(stage);
    }
}

/*
 * What is to be fetched from: the region's memory, or, if its pages are held,
 * what these have.  False: it cannot be had, now.
 */
static bool offer(Job *job, VsExtent *extent)
{
    VsQp *qp = job->qp;
    VsPiece *piece = &job->local[0];
    VsStage *stage;
    bool good;

    *extent = (VsExtent) { (uintptr_t)piece->addr, job->request->length };
    if (!job->num_local || !piece->hold) {
        return true;
    }
    stage = g_new0(VsStage, 1);
    if (!vs_stage_take(stage, piece->bytes)) {
        g_free(stage);
        return false;
    }
    qp->busy++;
    pthread_mutex_unlock(&vs_lock);
    good = vs_stage_fill(stage, piece, 1);
    pthread_mutex_lock(&vs_lock);
    qp->busy--;
    pthread_cond_broadcast(&vs_idle);
    extent->addr = (uintptr_t)stage->addr;
    g_queue_push_tail(&qp->resp.stages, stage);
    drop_old_stages(qp);
    return good && can_respond(qp);
}

static void respond_read(Job *job)
{
    VsQp *qp = job->qp;
    const Effect *last;
    VsExtent extent;
    VsPkt pkt = {
        .kind = VS_PKT_READ_REPLY,
        .dst_qpn = qp->attr.dest_qp_num,
        .src_qpn = vs_qp_ibv(qp)->qp_num,
        .psn = job->pkt->psn,
    };

    if (!aim_at_key(job, IBV_ACCESS_REMOTE_READ)) {
        return;
    }
    if (!offer(job, &extent)) {
        release(job);
        tell_lost(job->qp->peer, job->pkt);
        return;
    }
    release(job);
    vs_stats->rx_read++;
    vs_stats->rx_read_bytes += extent.length;
    if (qp->resp.ack_wanted) {
        vs_responder_send_ack(qp);
    }
    pkt.due_ns = after_flight(job->pkt->due_ns);
    if (pkt.due_ns || vs_shape.bytes_per_ns > 0) {
        pkt.due_ns = MAX(pkt.due_ns, vs_shape_transmit(extent.length));
    }
    /* It answers what came before it as well, which may be due later. */
    last = g_queue_peek_tail(&qp->resp.effects);
    if (last) {
        pkt.due_ns = MAX(pkt.due_ns, after_flight(last->due_ns));
    }
    vs_peer_send(qp->peer, &pkt, &extent, sizeof(extent), NULL, 0);
}

/* Asks the fault script about a SEND that has found its receive. */
static bool survives_faults(Job *job)
{
    uint32_t num = vs_qp_ibv(job->qp)->qp_num;
    VsVerdict verdict = vs_fault_at(VS_SITE_RECV,
                                    vs_control_name(job->request->control),
                                    num);

    switch (verdict.action) {
    case VS_ACT_COMPLETE:
        refuse(job, VS_NAK_REMOTE_OPERATION,
               (enum ibv_wc_status)verdict.status);
        return false;
    case VS_ACT_LOSE:
        tell_lost(job->qp->peer, job->pkt);
        return false;
    case VS_ACT_DELAY:
        job->due_ns = MAX(job->due_ns, vs_now_ns()) + verdict.delay_ns;
        return true;
    case VS_ACT_DISCONNECT:
        vs_fault_disconnect(num);
        return false;
    default:
        return true;
    }
}

static void start(Job *job)
{
    VsQp *qp = job->qp;

    qp->resp.nak_sent = false;
    if (qp->ex.qp_base.state == IBV_QPS_RTR && !qp->resp.established) {
        qp->resp.established = true;
        vs_async_event(IBV_EVENT_COMM_EST, vs_qp_ibv(qp));
    }
    VS_TRACE("arrive", "qp=%u psn=%u opcode=%u bytes=%u",
             vs_qp_ibv(qp)->qp_num, job->pkt->psn, job->request->opcode,
             job->request->length);
    if (job->request->opcode == IBV_WR_RDMA_READ) {
        qp->resp.expected_psn = (qp->resp.expected_psn + 1) & PSN_MASK;
        respond_read(job);
        return;
    }
    if (job->request->opcode != IBV_WR_RDMA_WRITE && !find_receive(job)) {
        return;
    }
    if (is_send(job->request)
        ? survives_faults(job) && aim_at_receive(job)
        : aim_at_key(job, IBV_ACCESS_REMOTE_WRITE)) {
        carry_out(job);
    }
    release(job);
}

static bool is_sound(const VsPkt *pkt)
{
    const VsRequest *request = vs_pkt_payload(pkt);
    size_t left = pkt->bytes - sizeof(*pkt);

    if (left < sizeof(*request)) {
        return false;
    }
    left -= sizeof(*request);
    return request->num_extents
           ? request->num_extents <= VS_MAX_SGE &&
             left == request->num_extents * sizeof(VsExtent)
           : request->opcode == IBV_WR_RDMA_READ || left == request->length;
}

void vs_responder_packet(VsPeer *peer, const VsPkt *pkt)
{
    VsQp *qp = vs_qp_find(pkt->dst_qpn);
    Job job = { .qp = qp, .pkt = pkt, .request = vs_pkt_payload(pkt),
                .due_ns = pkt->due_ns };
    uint32_t ahead;

    if (!is_sound(pkt)) {
        vs_complain("malformed request from process %d", (int)peer->pid);
        return;
    }
    if (!vs_port_up || !qp || !qp->peer || qp->peer->slot != peer->slot ||
        qp->attr.dest_qp_num != pkt->src_qpn || !can_respond(qp)) {
        tell_lost(peer, pkt);
        return;
    }
    ahead = (pkt->psn - qp->resp.expected_psn) & PSN_MASK;
    if (!ahead) {
        start(&job);
    } else if (ahead < PSN_HALF) {
        /* Behind one that was refused or lost: it will come again. */
        if (!qp->resp.nak_sent) {
            tell_lost(peer, pkt);
        }
    } else if (job.request->opcode == IBV_WR_RDMA_READ) {
        respond_read(&job);
    } else {
        Effect effect = { .due_ns = pkt->due_ns, .nak = -1,
                          .psn = (qp->resp.expected_psn - 1) & PSN_MASK };

        add_effect(qp, &effect);
    }
}

/* --------------------------------------------------------------- lifecycle */

void vs_responder_init(VsQp *qp)
{
    g_queue_init(&qp->resp.effects);
    g_queue_init(&qp->resp.stages);
    qp->resp.timer.fire = timer_fired;
    qp->resp.timer.opaque = qp;
}

void vs_responder_flush(VsQp *qp)
{
    Effect *effect;

    vs_timer_clear(&qp->resp.timer);
    /* What has arrived has arrived, though its time had not come. */
    while ((effect = g_queue_pop_head(&qp->resp.effects))) {
        if (effect->has_cqe) {
            vs_cq_push(vs_qp_recv_cq(qp), &effect->cqe, effect->solicited);
        }
        g_free(effect);
    }
    while (qp->rq_taken != qp->rq_posted) {
        uint32_t index = qp->rq_taken++;
        VsCqe cqe = {
            .qp = qp,
            .is_recv = true,
            .frees = index + 1,
            .wc = {
                .wr_id = qp->rq[index % qp->rq_size].wr_id,
                .status = IBV_WC_WR_FLUSH_ERR,
                .opcode = IBV_WC_RECV,
                .qp_num = vs_qp_ibv(qp)->qp_num,
            },
        };

        vs_cq_push(vs_qp_recv_cq(qp), &cqe, true);
    }
}

void vs_responder_reset(VsQp *qp)
{
    VsStage *stage;

    vs_timer_clear(&qp->resp.timer);
    vs_nic_forget(qp);
    g_queue_clear_full(&qp->resp.effects, g_free);
    while ((stage = g_queue_pop_head(&qp->resp.stages))) {
        vs_stage_drop(stage, false);
        g_free(stage);
    }
    qp->rq_posted = qp->rq_taken = qp->rq_free = 0;
    memset(&qp->resp, 0, sizeof(qp->resp));
    vs_responder_init(qp);
}
