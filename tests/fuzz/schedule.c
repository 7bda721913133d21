/*
 * What happens to a role that is fuzzed, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See schedule.h.
 */
#include "schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

/* The longest time that the core allows itself is below this */
#define IDLE_MAX 60
/* Seconds after which a NIC gives up on one that does not acknowledge */
#define RETRY_SECONDS 12
/* More than any message may have */
#define RECORDS_MAX 5000

FuzzSchedule fuzz_schedule;

static const char *const calls[] = {
    "ibv_reg_mr", "ibv_post_send", "ibv_post_recv", "ibv_poll_cq",
    "ibv_req_notify_cq", "ibv_modify_qp", "ibv_create_qp", "ibv_create_cq",
    "ibv_create_comp_channel", "ibv_alloc_pd", "ibv_query_device",
    "rdma_create_event_channel", "rdma_create_id", "rdma_migrate_id",
    "rdma_resolve_addr", "rdma_resolve_route", "rdma_init_qp_attr",
    "rdma_connect", "rdma_establish", "rdma_accept", "rdma_bind_addr",
    "rdma_listen", "rdma_disconnect", "eventfd", "epoll_create1", "epoll_ctl",
    "timerfd_create", "timerfd_settime",
    "open",
};
static const int errnos[] = {
    ENOMEM, EPERM, EINVAL, EIO, ENODEV, EAGAIN, EFAULT, EACCES,
};

/* ---- the input ---- */

uint8_t fuzz_take8(void)
{
    return fuzz_more() ? *fuzz_schedule.at++ : 0;
}

uint16_t fuzz_take16(void)
{
    uint16_t high = fuzz_take8();

    return high << 8 | fuzz_take8();
}

uint32_t fuzz_take32(void)
{
    uint32_t high = fuzz_take16();

    return high << 16 | fuzz_take16();
}

static const uint8_t *take_bytes(size_t wanted, size_t *got)
{
    const uint8_t *data = fuzz_schedule.at;

    *got = MIN(wanted, (size_t)(fuzz_schedule.end - data));
    fuzz_schedule.at += *got;
    return data;
}

bool fuzz_more(void)
{
    return fuzz_schedule.at < fuzz_schedule.end;
}

bool fuzz_may_choose(void)
{
    return fuzz_schedule.choices < fuzz_schedule.choices_end;
}

uint8_t fuzz_choose(void)
{
    return fuzz_may_choose() ? *--fuzz_schedule.choices_end : 0;
}

static void split_input(FuzzSchedule *s, const uint8_t *data, size_t size)
{
    size_t chosen = size < 2 ? size : MIN(size, data[size - 2] + 2u);
    uint8_t first;

    s->at = data;
    s->end = s->choices = data + size - chosen;
    s->choices_end = data + size;
    first = fuzz_choose();
    fuzz_choose(); /* the number */
    s->choice = first;
}

/* ---- messages ---- */

void fuzz_arrive(FuzzQp *qp, const void *data, size_t bytes)
{
    if (fuzz_schedule.role->arriving) {
        fuzz_schedule.role->arriving(qp, data, bytes);
    }
    fuzz_qp_arrive(qp, data, bytes);
}

/* @lie: bits that make the header wrong */
static void arrive_typed(FuzzQp *qp, uint8_t type, uint8_t lie, uint32_t len,
                         uint32_t repeat, const void *data)
{
    g_autofree uint8_t *buf = g_malloc0(RMIG_WIRE_HEADER_BYTES + len);
    RMigWireHeader header = {
        .len = len + (lie & 1) - (lie >> 1 & 1),
        .type = type,
        .repeat = repeat + (lie >> 2 & 1) - (lie >> 3 & 1),
    };

    rmig_wire_header_pack(buf, &header);
    if (data && len) {
        memcpy(buf + RMIG_WIRE_HEADER_BYTES, data, len);
    }
    fuzz_arrive(qp, buf, RMIG_WIRE_HEADER_BYTES + len - (lie >> 4 & 1));
}

static void do_raw(FuzzQp *qp)
{
    uint16_t wanted = fuzz_take16();
    size_t len;
    const uint8_t *data = take_bytes(wanted, &len);

    if (qp) {
        fuzz_arrive(qp, data, len);
    }
}

static void do_typed(FuzzQp *qp)
{
    static const uint8_t record[RMIG_WIRE_TYPES] = {
        [RMIG_WIRE_RAM_BLOCKS_RESULT] = RMIG_WIRE_BLOCK_BYTES,
        [RMIG_WIRE_COMPRESS] = RMIG_WIRE_ZERO_RUN_BYTES,
        [RMIG_WIRE_REGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_REGISTER_RESULT] = RMIG_WIRE_RESULT_BYTES,
        [RMIG_WIRE_UNREGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_LOADED] = RMIG_WIRE_LOADED_BYTES,
    };
    uint8_t type = fuzz_take8();
    uint8_t lie = fuzz_take8();
    uint16_t wanted = fuzz_take16();
    size_t len;
    const uint8_t *data = take_bytes(wanted, &len);
    uint32_t repeat = type < RMIG_WIRE_TYPES && record[type] ?
                      len / record[type] : 1;

    if (qp) {
        arrive_typed(qp, type, lie, len, repeat, data);
    }
}

/* Records of one kind, each @stride further */
static void do_records(FuzzQp *qp)
{
    uint8_t type = fuzz_take8();
    unsigned count = 1 + fuzz_take16() % RECORDS_MAX;
    uint8_t block = fuzz_take8();
    uint32_t a = fuzz_take32();
    uint32_t b = fuzz_take32();
    uint8_t stride = fuzz_take8();
    g_autofree uint8_t *data = g_malloc0(count * RMIG_WIRE_BLOCK_BYTES);
    unsigned at = 0;

    for (unsigned i = 0; i < count; i++) {
        at += fuzz_schedule.role->record(data + at, type, block,
                                         a + i * stride, b);
    }
    if (qp) {
        arrive_typed(qp, type, 0, at, count, data);
    }
}

static void do_big(FuzzQp *qp)
{
    uint8_t type = fuzz_take8();
    uint32_t len = fuzz_take32() % (RMIG_WIRE_MESSAGE_MAX_BYTES + 32);

    if (qp) {
        arrive_typed(qp, type, 0, len, 1, NULL);
    }
}

uint32_t fuzz_type_of(const FuzzWr *wr)
{
    RMigWireMessage msg;
    GError *err = NULL;

    if (!rmig_wire_message_unpack(wr->addr, wr->bytes, &msg, &err)) {
        fuzz_die("the core sends a message that is none: %s", err->message);
    }
    return msg.type;
}

/* ---- items ---- */

static FuzzCmId *id_of(const FuzzQp *qp)
{
    for (guint i = 0; i < fuzz_device.ids->len; i++) {
        FuzzCmId *id = g_ptr_array_index(fuzz_device.ids, i);

        if (qp && id->qp == qp) {
            return id;
        }
    }
    return fuzz_cm_last_id();
}

static void do_cm(FuzzQp *qp)
{
    FuzzCmId *id = id_of(qp);
    int type = fuzz_take8() % (RDMA_CM_EVENT_TIMEWAIT_EXIT + 1);
    int status = (int8_t)fuzz_take8();
    uint8_t wanted = fuzz_take8();
    size_t len;
    const uint8_t *data = take_bytes(wanted, &len);

    /* The listener alone gets requests, from do_request() */
    if (id && type != RDMA_CM_EVENT_CONNECT_REQUEST) {
        id->natural = -1;
        fuzz_cm_event(id, type, status, data, len);
    }
}

static void do_request(FuzzQp *qp)
{
    uint8_t host = fuzz_take8();
    uint8_t wanted = fuzz_take8();
    size_t len;
    const uint8_t *data = take_bytes(wanted, &len);

    (void)qp;
    fuzz_cm_request(data, len, host);
}

static void do_fail(FuzzQp *qp)
{
    (void)qp;
    fuzz_device.fail_call = calls[fuzz_take8() % G_N_ELEMENTS(calls)];
    fuzz_device.fail_errno = errnos[fuzz_take8() % G_N_ELEMENTS(errnos)];
    fuzz_device.fail_skip = fuzz_take8();
}

static void do_complete(FuzzQp *qp)
{
    for (unsigned n = fuzz_take8(); qp && n > 0; n--) {
        if (fuzz_schedule.frozen || !fuzz_qp_execute(qp)) {
            return;
        }
    }
}

static enum ibv_wc_status take_status(void)
{
    return 1 + fuzz_take8() % IBV_WC_GENERAL_ERR;
}

static void do_break_send(FuzzQp *qp)
{
    enum ibv_wc_status status = take_status();

    if (qp) {
        fuzz_qp_break_send(qp, status);
    }
}

static void do_break_recv(FuzzQp *qp)
{
    enum ibv_wc_status status = take_status();

    if (qp) {
        fuzz_qp_break_recv(qp, status);
    }
}

static void do_break(FuzzQp *qp)
{
    if (qp) {
        fuzz_qp_break(qp);
    }
}

static void do_ring(FuzzQp *qp)
{
    if (qp) {
        fuzz_qp_ring(qp);
    }
}

static void do_honest(FuzzQp *qp)
{
    (void)qp;
    fuzz_honest();
}

static void do_tick(FuzzQp *qp)
{
    (void)qp;
    fuzz_tick(fuzz_take8());
}

static void do_shutdown(FuzzQp *qp)
{
    (void)qp;
    fuzz_schedule.role->shutdown();
}

static void do_lie(FuzzQp *qp)
{
    uint8_t kind = fuzz_take8();

    (void)qp;
    fuzz_schedule.role->lie(kind, fuzz_take32());
}

static void do_freeze(FuzzQp *qp)
{
    (void)qp;
    fuzz_schedule.frozen = true;
}

static void do_refuse(FuzzQp *qp)
{
    (void)qp;
    fuzz_device.refuse_every = fuzz_take8();
    fuzz_device.regs = 0;
}

static const struct {
    void (*happen)(FuzzQp *qp);
    bool honest;
} items[FUZZ_OPS] = {
    [FUZZ_HONEST] = { do_honest, true },
    [FUZZ_RAW] = { do_raw, false },
    [FUZZ_TYPED] = { do_typed, false },
    [FUZZ_RECORDS] = { do_records, false },
    [FUZZ_BIG] = { do_big, false },
    [FUZZ_COMPLETE] = { do_complete, true },
    [FUZZ_BREAK_SEND] = { do_break_send, false },
    [FUZZ_BREAK_RECV] = { do_break_recv, false },
    [FUZZ_CM] = { do_cm, false },
    [FUZZ_FAIL] = { do_fail, false },
    [FUZZ_TICK] = { do_tick, false },
    [FUZZ_SHUTDOWN] = { do_shutdown, false },
    [FUZZ_RING] = { do_ring, true },
    [FUZZ_BREAK] = { do_break, false },
    [FUZZ_REQUEST] = { do_request, false },
    [FUZZ_LIE] = { do_lie, false },
    [FUZZ_FREEZE] = { do_freeze, false },
    [FUZZ_REFUSE] = { do_refuse, false },
};

static void next_item(void)
{
    uint8_t first;
    FuzzOp op;

    do {
        first = fuzz_take8();
        op = (first & 0x1f) % FUZZ_OPS;
        fuzz_schedule.hostile |= !items[op].honest;
        items[op].happen(fuzz_schedule.role->qp(first & FUZZ_BACK));
    } while ((first & FUZZ_CHAIN) && fuzz_more());
}

/* ---- time ---- */

bool fuzz_honest(void)
{
    bool any = false;

    for (guint i = 0; i < fuzz_device.ids->len; i++) {
        any |= fuzz_cm_natural(g_ptr_array_index(fuzz_device.ids, i));
    }
    for (guint i = 0; !fuzz_schedule.frozen && i < fuzz_device.qps->len; i++) {
        while (fuzz_qp_execute(g_ptr_array_index(fuzz_device.qps, i))) {
            any = true;
        }
    }
    if (fuzz_schedule.role->answer) {
        any |= fuzz_schedule.role->answer();
    }
    return any;
}

static void leave(void)
{
    for (guint i = 0; i < fuzz_device.ids->len; i++) {
        FuzzCmId *id = g_ptr_array_index(fuzz_device.ids, i);

        if (id->up) {
            fuzz_cm_event(id, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
        }
    }
}

static void give_up_on_sends(void)
{
    for (guint i = 0; i < fuzz_device.qps->len; i++) {
        fuzz_qp_break_send(g_ptr_array_index(fuzz_device.qps, i),
                           IBV_WC_RETRY_EXC_ERR);
    }
}

/* The schedule is over, and the core still waits */
static void end_step(void)
{
    FuzzSchedule *s = &fuzz_schedule;

    if (s->ending == FUZZ_END_HONEST && fuzz_honest()) {
        return;
    }
    if (!s->ended) {
        s->ended = true;
        if (s->ending == FUZZ_END_LEAVE) {
            leave();
        } else if (s->ending == FUZZ_END_SHUTDOWN) {
            s->role->shutdown();
        }
    }
    if (++s->idle > IDLE_MAX) {
        fuzz_die("the core waits for more than %d seconds", IDLE_MAX);
    }
    if (s->idle % RETRY_SECONDS == 0 && s->ending != FUZZ_END_HONEST &&
        !s->frozen) {
        give_up_on_sends();
    }
    /* A peer that has nothing to say any more leaves */
    if (s->ending == FUZZ_END_HONEST && s->idle == IDLE_MAX / 2) {
        leave();
    }
    fuzz_tick(1);
}

void fuzz_schedule_step(void)
{
    if (fuzz_schedule.gentle && fuzz_honest()) {
        return;
    }
    if (!fuzz_schedule.gentle && fuzz_more()) {
        next_item();
    } else {
        end_step();
    }
}

static void wait_readable(void *opaque, int fd)
{
    (void)opaque;
    fuzz_device.looks = 0;
    fuzz_check_armed(fd);
    fuzz_schedule_step();
}

const RMigWaiter fuzz_waiter = { .wait_readable = wait_readable };

static void gap(void)
{
    if (!fuzz_schedule.gentle && fuzz_more() &&
        (*fuzz_schedule.at & FUZZ_GAP)) {
        next_item();
    }
}

/* In poll(2): the end of a connection, which has a time limit of its own */
static void do_sleep(int timeout_ms)
{
    if (!fuzz_schedule.gentle && fuzz_more()) {
        next_item();
    } else if (fuzz_schedule.ending != FUZZ_END_HONEST || !fuzz_honest()) {
        fuzz_device.now_us += timeout_ms * INT64_C(1000);
    }
}

void fuzz_schedule_call(void)
{
    fuzz_schedule.idle = 0;
}

/* RMIG_FUZZ_TRACE=1: for looking at one input */
static void show_line(const char *line)
{
    fprintf(stderr, "%s\n", line);
}

void fuzz_schedule_init(const FuzzRole *role, FuzzHooks hooks,
                        const uint8_t *data, size_t size)
{
    fuzz_schedule = (FuzzSchedule) { .role = role };
    split_input(&fuzz_schedule, data, size);
    hooks.gap = gap;
    hooks.sleep = do_sleep;
    fuzz_device_init(&hooks);
    rmig_trace = getenv("RMIG_FUZZ_TRACE") ? show_line : NULL;
}

/* ---- what every role promises ---- */

bool fuzz_check(bool ok, GError **err, const char *what)
{
    if (ok && *err) {
        fuzz_die("%s: success with an error: %s", what, (*err)->message);
    }
    if (!ok && (!*err || (*err)->message[0] == '\0')) {
        fuzz_die("%s: failure without a word", what);
    }
    g_clear_error(err);
    return ok;
}

void fuzz_has_failed(FuzzQp *qp)
{
    if (qp) {
        qp->failed = true;
    }
}

void fuzz_expect_error(FuzzQp *qp, bool failed)
{
    if (failed && qp && qp->alive && qp->qp.state == IBV_QPS_RTS) {
        fuzz_schedule.to_tell = qp;
        fuzz_schedule.unless = fuzz_device.failed;
    }
}

void fuzz_check_told(void)
{
    if (fuzz_schedule.to_tell &&
        fuzz_device.failed == fuzz_schedule.unless) {
        fuzz_die("a migration fails, and the peer is not told");
    }
}

void fuzz_check_posted(const FuzzQp *qp, const FuzzWr *wr)
{
    if (qp == fuzz_schedule.to_tell && wr->opcode == IBV_WR_SEND &&
        fuzz_type_of(wr) == RMIG_WIRE_ERROR) {
        fuzz_schedule.to_tell = NULL;
    }
    if (wr->opcode == IBV_WR_RDMA_WRITE ? qp->failed && wr->bytes > 0 :
        fuzz_type_of(wr) != RMIG_WIRE_ERROR && qp->failed) {
        fuzz_die("after a failure was reported, %s is sent",
                 wr->opcode == IBV_WR_RDMA_WRITE ? "RAM" :
                 rmig_wire_type_name(fuzz_type_of(wr)));
    }
    if (wr->opcode != IBV_WR_RDMA_WRITE && wr->opcode != IBV_WR_SEND) {
        fuzz_die("a request of opcode %d is posted", wr->opcode);
    }
}
