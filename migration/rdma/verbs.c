/*
 * RDMA migration transport: verbs objects of one queue pair
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See verbs.h for the job, the callers and the send-queue arithmetic.
 *
 * Owned here: the PD, the completion channel and queue, the queue pair.  What
 * the device says when something fails is in verbs-health.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>

#include "log.h"
#include "verbs-health-priv.h"
#include "verbs-priv.h"

struct RMigVerbs {
    struct ibv_context *device;
    RMigHealth health;
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    unsigned send_slots;  /* of the send queue as created */
    unsigned send_used;   /* posted, slots not yet given back */
    unsigned unsignalled; /* of those, not covered by a signalled one */
    unsigned unacked_events;
};

struct RMigMr {
    struct ibv_mr *mr;
};

/* Written by registering threads, read by statistics */
static _Atomic uint64_t pinned_bytes;
static _Atomic uint64_t pinned_peak;

GQuark rmig_verbs_error_quark(void)
{
    return g_quark_from_static_string("rmig-verbs-error");
}

/* Some providers return errors as the kernel does, below zero */
static const char *error_text(int errnum)
{
    return g_strerror(ABS(errnum));
}

G_GNUC_PRINTF(3, 4)
static void set_errno_error(GError **err, int errnum, const char *fmt, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED, "%s: %s", what,
                error_text(errnum));
}

/* Send-queue slots to ask for: what we want, or what the device can give */
static unsigned choose_send_slots(struct ibv_context *device)
{
    unsigned want = RMIG_VERBS_SLOTS_WRITE + RMIG_VERBS_SLOTS_RESERVED;
    struct ibv_device_attr attr;

    if (ibv_query_device(device, &attr) == 0) {
        want = MIN(want, (unsigned)attr.max_qp_wr);
        want = MIN(want, (unsigned)attr.max_cqe - RMIG_VERBS_RECVS);
    }
    return want;
}

RMigVerbs *rmig_verbs_new(struct ibv_context *device, uint8_t port,
                          GError **err)
{
    RMigVerbs *v = g_new0(RMigVerbs, 1);
    const char *name = ibv_get_device_name(device->device);
    int flags;

    v->device = device;
    rmig_health_init(&v->health, device, port);
    v->send_slots = choose_send_slots(device);
    v->pd = ibv_alloc_pd(device);
    if (!v->pd) {
        set_errno_error(err, errno,
                        "allocating a protection domain on %s failed", name);
        goto fail;
    }
    v->channel = ibv_create_comp_channel(device);
    if (!v->channel) {
        set_errno_error(err, errno,
                        "creating a completion channel on %s failed", name);
        goto fail;
    }
    flags = fcntl(v->channel->fd, F_GETFL);
    if (flags < 0 || fcntl(v->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        set_errno_error(err, errno,
                        "setting up the completion channel of %s failed", name);
        goto fail;
    }
    v->cq = ibv_create_cq(device, v->send_slots + RMIG_VERBS_RECVS, NULL,
                          v->channel, 0);
    if (!v->cq) {
        set_errno_error(err, errno,
                        "creating a completion queue of %u entries on %s "
                        "failed", v->send_slots + RMIG_VERBS_RECVS, name);
        goto fail;
    }
    return v;

fail:
    rmig_verbs_free(v);
    return NULL;
}

bool rmig_verbs_create_qp(RMigVerbs *v, GError **err)
{
    struct ibv_qp_init_attr attr = {
        .qp_type = IBV_QPT_RC,
        .send_cq = v->cq,
        .recv_cq = v->cq,
        .sq_sig_all = 0,
        .cap = {
            .max_send_wr = v->send_slots,
            .max_recv_wr = RMIG_VERBS_RECVS,
            .max_send_sge = 1,
            .max_recv_sge = 1,
        },
    };

    v->qp = ibv_create_qp(v->pd, &attr);
    if (!v->qp) {
        set_errno_error(err, errno, "creating a queue pair on %s failed",
                        ibv_get_device_name(v->device->device));
        return false;
    }
    rmig_health_set_qp(&v->health, v->qp);
    return true;
}

bool rmig_verbs_modify_qp(RMigVerbs *v, struct ibv_qp_attr *attr, int mask,
                          GError **err)
{
    int ret = ibv_modify_qp(v->qp, attr, mask);

    if (ret != 0) {
        set_errno_error(err, ret, "moving the queue pair to state %d failed",
                        attr->qp_state);
        return false;
    }
    RMIG_LOG("qp 0x%x: state %d", v->qp->qp_num, attr->qp_state);
    return true;
}

uint32_t rmig_verbs_qp_num(const RMigVerbs *v)
{
    return v->qp->qp_num;
}

void rmig_verbs_destroy_qp(RMigVerbs *v)
{
    int ret;

    rmig_health_set_qp(&v->health, NULL);
    ret = v->qp ? ibv_destroy_qp(v->qp) : 0;
    if (ret != 0) {
        g_warning("destroying a queue pair failed: %s", error_text(ret));
    }
    v->qp = NULL;
}

bool rmig_verbs_revoke(RMigVerbs *v)
{
    struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };
    int ret = v->qp ? ibv_modify_qp(v->qp, &attr, IBV_QP_STATE) : 0;

    if (ret != 0) {
        RMIG_LOG("the queue pair could not be moved to ERR: %s",
                 error_text(ret));
    }
    return ret == 0;
}

void rmig_verbs_free(RMigVerbs *v)
{
    if (!v) {
        return;
    }
    g_assert(!v->qp);
    if (v->cq) {
        ibv_ack_cq_events(v->cq, v->unacked_events);
        ibv_destroy_cq(v->cq);
    }
    if (v->channel) {
        ibv_destroy_comp_channel(v->channel);
    }
    if (v->pd && ibv_dealloc_pd(v->pd) != 0) {
        g_warning("a protection domain was left behind: memory regions of it "
                  "are still registered");
    }
    rmig_health_cleanup(&v->health);
    g_free(v);
}

/* Errors that do not go away however much room there is */
static bool is_unpinnable(int errnum)
{
    return errnum == EFAULT || errnum == EACCES || errnum == EOPNOTSUPP ||
           errnum == EHWPOISON;
}

/* What a user can do about it, when pinning fails */
static char *pinning_hint(int errnum)
{
    struct rlimit limit;

    if (is_unpinnable(errnum)) {
        return g_strdup("; no limit is in the way: memory that is read-only, "
                        "damaged, or a file of a file system with DAX cannot "
                        "be pinned; replace it, or migrate over TCP");
    }
    if ((errnum != ENOMEM && errnum != EAGAIN && errnum != EPERM) ||
        getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY) {
        return g_strdup("");
    }
    return g_strdup_printf(" (the memory-lock limit of this process is %"
                           G_GUINT64_FORMAT " KiB; raise it with ulimit -l, "
                           "systemd's LimitMEMLOCK= or libvirt's "
                           "<hard_limit>)", (guint64)limit.rlim_cur / 1024);
}

static void add_pinned(uint64_t bytes)
{
    uint64_t now = atomic_fetch_add(&pinned_bytes, bytes) + bytes;
    uint64_t peak = pinned_peak;

    while (now > peak &&
           !atomic_compare_exchange_weak(&pinned_peak, &peak, now)) {
        /* @peak is what another thread has set */
    }
}

RMigMr *rmig_mr_register(RMigVerbs *v, void *addr, uint64_t bytes,
                         bool remote_write, GError **err)
{
    int access = IBV_ACCESS_LOCAL_WRITE;
    struct ibv_mr *mr;
    RMigMr *self;

    if (remote_write) {
        access |= IBV_ACCESS_REMOTE_WRITE;
    }
    mr = ibv_reg_mr(v->pd, addr, bytes, access);
    if (!mr && !remote_write && (errno == EFAULT || errno == EACCES)) {
        /* Read-only memory (a ROM) can still be sent from */
        mr = ibv_reg_mr(v->pd, addr, bytes, 0);
    }
    if (!mr) {
        int errnum = errno;
        g_autofree char *hint = pinning_hint(errnum);

        g_set_error(err, RMIG_VERBS_ERROR, is_unpinnable(errnum) ?
                    RMIG_VERBS_ERROR_UNPINNABLE : RMIG_VERBS_ERROR_FAILED,
                    "registering %" G_GUINT64_FORMAT " bytes of memory with "
                    "%s failed: %s%s", (guint64)bytes,
                    ibv_get_device_name(v->device->device),
                    error_text(errnum), hint);
        return NULL;
    }
    self = g_new0(RMigMr, 1);
    self->mr = mr;
    add_pinned(bytes);
    RMIG_LOG("mr %p: registered %" G_GUINT64_FORMAT " bytes at %p, rkey 0x%x%s",
             (void *)self, (guint64)bytes, addr, mr->rkey,
             remote_write ? ", remote write" : "");
    return self;
}

void rmig_mr_unregister(RMigMr *mr)
{
    if (!mr) {
        return;
    }
    RMIG_LOG("mr %p: unregister", (void *)mr);
    pinned_bytes -= mr->mr->length;
    if (ibv_dereg_mr(mr->mr) != 0) {
        g_warning("unregistering a memory region failed: %s",
                  error_text(errno));
    }
    g_free(mr);
}

uint32_t rmig_mr_rkey(const RMigMr *mr)
{
    return mr->mr->rkey;
}

uint64_t rmig_mr_bytes(const RMigMr *mr)
{
    return mr->mr->length;
}

uint64_t rmig_mr_pinned_bytes(void)
{
    return pinned_bytes;
}

uint64_t rmig_mr_pinned_peak_bytes(void)
{
    return pinned_peak;
}

void rmig_mr_reset_peak(void)
{
    pinned_peak = pinned_bytes;
}

/* It may have been destroyed to revoke the peer's access */
static bool has_qp(const RMigVerbs *v, const RMigWork *work, GError **err)
{
    if (!v->qp) {
        g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                    "posting a %s failed: the queue pair is gone", work->what);
    }
    return v->qp;
}

/* Account first, post, and take the account back if the post is refused */
static bool post_to_send_queue(RMigVerbs *v, struct ibv_send_wr *wr,
                               RMigWork *work, GError **err)
{
    bool signalled = wr->send_flags & IBV_SEND_SIGNALED;
    unsigned before = v->unsignalled;
    struct ibv_send_wr *bad;
    int ret;

    if (!has_qp(v, work, err)) {
        return false;
    }
    g_assert(v->send_used < v->send_slots);
    v->send_used++;
    v->unsignalled++;
    if (signalled) {
        work->slots = v->unsignalled;
        v->unsignalled = 0;
    }
    wr->wr_id = (uintptr_t)work;
    ret = ibv_post_send(v->qp, wr, &bad);
    if (ret != 0) {
        v->send_used--;
        v->unsignalled = before;
        set_errno_error(err, ret, "posting a %s failed", work->what);
        return false;
    }
    RMIG_LOG("qp 0x%x: posted %s %p, %u bytes%s, %u slots used", v->qp->qp_num,
             work->what, (void *)work, wr->num_sge ? wr->sg_list->length : 0,
             signalled ? ", signalled" : "", v->send_used);
    return true;
}

bool rmig_verbs_post_send(RMigVerbs *v, RMigWork *work, RMigMr *mr,
                          const void *addr, uint32_t bytes, GError **err)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)addr, .length = bytes, .lkey = mr->mr->lkey,
    };
    struct ibv_send_wr wr = {
        .sg_list = &sge, .num_sge = 1,
        .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED,
    };

    return post_to_send_queue(v, &wr, work, err);
}

bool rmig_verbs_post_writes(RMigVerbs *v, RMigWork *work,
                            const RMigWrite *writes, unsigned n, GError **err)
{
    struct ibv_send_wr wr[RMIG_VERBS_CHAIN] = { 0 };
    struct ibv_sge sge[RMIG_VERBS_CHAIN];
    struct ibv_send_wr *bad;
    int ret;

    g_assert(n > 0 && n <= RMIG_VERBS_CHAIN);
    if (!has_qp(v, work, err)) {
        return false;
    }
    g_assert(v->send_used + n <= v->send_slots);
    for (unsigned i = 0; i < n; i++) {
        sge[i] = (struct ibv_sge) {
            .addr = (uintptr_t)writes[i].addr, .length = writes[i].bytes,
            .lkey = writes[i].mr->mr->lkey,
        };
        wr[i].wr_id = (uintptr_t)work;
        wr[i].next = i + 1 < n ? &wr[i + 1] : NULL;
        wr[i].sg_list = &sge[i];
        wr[i].num_sge = 1;
        wr[i].opcode = IBV_WR_RDMA_WRITE;
        wr[i].wr.rdma.remote_addr = writes[i].remote_addr;
        wr[i].wr.rdma.rkey = writes[i].rkey;
    }
    wr[n - 1].send_flags = IBV_SEND_SIGNALED;
    v->send_used += n;
    work->slots = v->unsignalled + n;
    ret = ibv_post_send(v->qp, wr, &bad);
    if (ret != 0) {
        /* What stands before the refused one is on the queue, unsignalled */
        v->send_used -= n - (bad - wr);
        v->unsignalled += bad - wr;
        set_errno_error(err, ret, "posting a %s failed", work->what);
        return false;
    }
    v->unsignalled = 0;
    RMIG_LOG("qp 0x%x: posted %u %s %p, the first of %u bytes, %u slots used",
             v->qp->qp_num, n, work->what, (void *)work, writes[0].bytes,
             v->send_used);
    return true;
}

bool rmig_verbs_post_probe(RMigVerbs *v, RMigWork *work, GError **err)
{
    struct ibv_send_wr wr = {
        .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED,
    };

    return post_to_send_queue(v, &wr, work, err);
}

bool rmig_verbs_post_recv(RMigVerbs *v, RMigWork *work, RMigMr *mr,
                          void *addr, uint32_t bytes, GError **err)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)addr, .length = bytes, .lkey = mr->mr->lkey,
    };
    struct ibv_recv_wr wr = {
        .wr_id = (uintptr_t)work, .sg_list = &sge, .num_sge = 1,
    };
    struct ibv_recv_wr *bad;
    int ret;

    work->slots = 0;
    if (!has_qp(v, work, err)) {
        return false;
    }
    ret = ibv_post_recv(v->qp, &wr, &bad);
    if (ret != 0) {
        set_errno_error(err, ret, "posting a %s failed", work->what);
        return false;
    }
    return true;
}

const char *rmig_verbs_device_name(const RMigVerbs *v)
{
    return ibv_get_device_name(v->device->device);
}

/* @advice: as rmig_health_text()'s */
static void add_health(RMigVerbs *v, const char *advice, GError *err)
{
    g_autofree char *text = rmig_health_text(&v->health, advice);
    g_autofree char *old = NULL;

    if (text) {
        old = err->message;
        err->message = g_strdup_printf("%s; %s", old, text);
    }
}

void rmig_verbs_add_trouble(RMigVerbs *v, GError *err)
{
    add_health(v, NULL, err);
}

unsigned rmig_verbs_write_room(const RMigVerbs *v)
{
    unsigned limit = v->send_slots - RMIG_VERBS_SLOTS_RESERVED;

    return v->send_used < limit ? limit - v->send_used : 0;
}

unsigned rmig_verbs_sends_in_flight(const RMigVerbs *v)
{
    return v->send_used;
}

static bool is_flush(const GError *err)
{
    return g_error_matches(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FLUSHED);
}

/* Of several errors the first, unless that is only a consequence */
typedef struct Broken {
    GError *err; /* NULL: none */
    const char *advice;
} Broken;

static void keep_reason(Broken *kept, const RMigWork *work,
                        const struct ibv_wc *wc)
{
    bool flushed = wc->status == IBV_WC_WR_FLUSH_ERR;
    g_autofree char *about = NULL;
    const char *meaning;

    if (kept->err && (flushed || !is_flush(kept->err))) {
        return;
    }
    about = work->describe ? work->describe(work) : NULL;
    meaning = rmig_health_meaning(wc->status, &kept->advice);
    g_clear_error(&kept->err);
    g_set_error(&kept->err, RMIG_VERBS_ERROR,
                flushed ? RMIG_VERBS_ERROR_FLUSHED :
                          RMIG_VERBS_ERROR_COMPLETION,
                "%s%s%s failed: %s (vendor error 0x%x): %s", work->what,
                about ? " " : "", about ? about : "",
                ibv_wc_status_str(wc->status), wc->vendor_err, meaning);
}

/* On an error only wr_id, status and vendor error of @wc are meaningful */
static void handle_completion(RMigVerbs *v, const struct ibv_wc *wc,
                              Broken *broken)
{
    RMigWork *work = (RMigWork *)(uintptr_t)wc->wr_id;

    RMIG_LOG("qp 0x%x: completed %s %p: %s", v->qp->qp_num, work->what,
             (void *)work, ibv_wc_status_str(wc->status));
    if (wc->status != IBV_WC_SUCCESS) {
        keep_reason(broken, work, wc);
        return;
    }
    v->send_used -= work->slots;
    work->slots = 0;
    work->done(work, wc->byte_len);
}

int rmig_verbs_poll(RMigVerbs *v, GError **err)
{
    Broken broken = { 0 };
    struct ibv_wc wc[16];
    int total = 0;
    int n;

    do {
        n = ibv_poll_cq(v->cq, G_N_ELEMENTS(wc), wc);
        if (n < 0) {
            g_clear_error(&broken.err);
            set_errno_error(err, errno, "polling the completion queue failed");
            return -1;
        }
        for (int i = 0; i < n; i++) {
            /* What is off the queue is lost if it is not handled now */
            handle_completion(v, &wc[i], &broken);
        }
        total += n;
    } while (n == G_N_ELEMENTS(wc));
    if (broken.err) {
        /* Why requests were flushed, others may know: the caller asks them */
        if (!is_flush(broken.err)) {
            add_health(v, broken.advice, broken.err);
        }
        g_propagate_error(err, broken.err);
        return -1;
    }
    return total;
}

bool rmig_verbs_arm(RMigVerbs *v, GError **err)
{
    int ret = ibv_req_notify_cq(v->cq, 0);

    if (ret != 0) {
        set_errno_error(err, ret, "arming the completion queue failed");
        return false;
    }
    return true;
}

void rmig_verbs_take_events(RMigVerbs *v)
{
    struct ibv_cq *cq;
    void *context;

    /* One, as one was asked for; another would keep the fd readable */
    if (ibv_get_cq_event(v->channel, &cq, &context) == 0) {
        v->unacked_events++;
    }
    /* Acknowledging takes a lock; do it in bulk */
    if (v->unacked_events >= 256) {
        ibv_ack_cq_events(v->cq, v->unacked_events);
        v->unacked_events = 0;
    }
}

int rmig_verbs_fd(const RMigVerbs *v)
{
    return v->channel->fd;
}
