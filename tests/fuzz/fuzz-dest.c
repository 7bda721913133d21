/*
 * Fuzz target: the destination, with a hostile source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The whole role on the device of device.h.  The face is in miniature: it
 * reads the stream and does what the source's bytes say, as QEMU does, so a
 * hostile source decides about that, too.  See Stream below.
 *
 * Promises that are checked besides the device's: guest RAM is never touched
 * by the core (it cannot be), but by the NIC, where the source asked for it,
 * and by zeroing, where the source asked for that; no message makes work for
 * more than all of RAM; nothing is registered over the limit; a request has
 * an answer of as many records, each with a key that is alive and opens just
 * what the record named, or, if the source knows of refusals, with none; there
 * is one READY for each message and a first one; nothing but ERROR leaves
 * after a failure; once revoked, nobody can write.  However much the source
 * asks for: no more than all of RAM is registered at a time, no block is named
 * twice, others have their turn while messages come, few connections are made
 * at a time, and what is refused is told of seldom.
 *
 * The last byte's bits (see schedule.h): 0 pin-all, 1 return path, 2 reading
 * does not wait, 3 the connection itself is part of the schedule, 4-5
 * FuzzEnding, 6-7 the RAM's layout.  The first of the other choices: 0 the
 * source asks for extensions, 1 but not for BUDGET, 2 the destination has none,
 * 3 the RAM is anonymous, 4-5 the limit of what may be pinned, 6 HANDOVER,
 * 7 some memory is not plugged.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "control.h"
#include "ram.h"
#include "schedule.h"

#define N_BLOCKS 4
/* RMIG_LINK_BUSY_US, and what may wait in the receives meanwhile */
#define IN_A_ROW_MAX (5 + 2 * RMIG_CONTROL_RECVS)

/* What a byte of the stream makes the face do: its low four bits */
typedef enum Stream {
    STREAM_HOOK,    /* rmig_dest_handle() */
    STREAM_NOTE,    /* name block number (high four bits) */
    STREAM_SETUP,   /* name all blocks, then as HOOK */
    STREAM_BACK,    /* write to the return path */
    STREAM_REVOKE,  /* the guest starts */
    STREAM_COUNTERS,
    STREAM_NOT_WAIT, /* reading does not wait from here on */
    STREAM_CLOSE,   /* in order */
    STREAM_END,     /* the guest is handed over, or may start, or not */
} Stream;

typedef struct Range {
    const FuzzBlock *block;
    uint64_t offset, bytes;
} Range;

static struct {
    RMigDest *dest;
    FuzzQp *main, *back;
    const FuzzBlock *blocks;
    bool failed;
    bool start_came;
    bool revoked;
    bool wait;
    bool ready_due; /* on the return path */
    /* What the source's messages ask for, of Range */
    GArray *registers;
    GArray *zeroes;
    GQueue requests; /* of GBytes: REGISTER_REQUESTs without an answer */
    uint8_t how;     /* the first of the other choices */
    uint64_t pin_limit; /* 0: none */
    bool asked_for_blocks;
    uint64_t work_bytes; /* of one message */
    unsigned arrived, readies; /* on the main connection */
    GHashTable *named; /* of char * */
    unsigned in_a_row; /* messages handled since turn @turn of other work */
    unsigned turn;
} f;

static FuzzBlock layouts[4][N_BLOCKS] = {
    { { "ram", 0x40000000, 3 * FUZZ_MIB + FUZZ_PAGE, NULL, 0, 0 },
      { "rom", 0x1000, FUZZ_PAGE, NULL, 0, 0 },
      { "empty", 0x2000, 0, NULL, 0, 0 },
      { "odd", 0x10000, 5000, NULL, 0, 0 } },
    /* at the ends of the ram_addr_t space */
    { { "low", 0, FUZZ_MIB, NULL, 0, 0 },
      { "high", UINT64_MAX - 2 * FUZZ_MIB, 2 * FUZZ_MIB, NULL, 0, 0 },
      { "one", FUZZ_MIB, 1, NULL, 0, 0 },
      { "next", 2 * FUZZ_MIB, FUZZ_MIB + 1, NULL, 0, 0 } },
    { { "big", 0x100000000, UINT64_C(5) << 30, NULL, 0, 0 },
      { "rom", 0, FUZZ_PAGE, NULL, 0, 0 },
      { "vga", 0x80000000, 16 * FUZZ_MIB, NULL, 0, 0 },
      { "small", 0x90000000, 64 * FUZZ_PAGE, NULL, 0, 0 } },
    { { "a", 0, 8 * FUZZ_MIB, NULL, 0, 0 },
      { "b", 8 * FUZZ_MIB, 8 * FUZZ_MIB, NULL, 0, 0 },
      { "c", 16 * FUZZ_MIB, 8 * FUZZ_MIB, NULL, 0, 0 },
      { "d", 24 * FUZZ_MIB, 8 * FUZZ_MIB, NULL, 0, 0 } },
};

/* ---- what the source asked for ---- */

static void add_range(GArray *ranges, const FuzzBlock *block, uint64_t offset,
                      uint64_t bytes)
{
    Range range = { block, offset, bytes };

    g_array_append_val(ranges, range);
}

/*
 * What a REGISTER covers, by the rules of docs/rdma.txt; our own arithmetic.
 * False if there is no such memory.
 */
static bool range_of(const RMigWireRegister *reg, Range *range)
{
    const FuzzBlock *block = &f.blocks[reg->block % N_BLOCKS];
    unsigned __int128 first, bytes;

    if (reg->block >= N_BLOCKS || reg->key < block->offset ||
        reg->key - block->offset >= block->length) {
        return false;
    }
    first = (reg->key - block->offset) / FUZZ_MIB * FUZZ_MIB;
    bytes = ((unsigned __int128)reg->chunks + 1) * FUZZ_MIB;
    /* The last chunk may be short, but it must exist */
    if (first + bytes >= block->length + FUZZ_MIB) {
        return false;
    }
    *range = (Range) { block, first, MIN(bytes, block->length - first) };
    return fuzz_ram_is_plugged(block, first, range->bytes);
}

static void expect_zeroes(const RMigWireZeroRun *run)
{
    const FuzzBlock *block = &f.blocks[run->block % N_BLOCKS];

    if (run->block >= N_BLOCKS || run->value != 0 ||
        run->offset < block->offset || run->length == 0 ||
        (unsigned __int128)run->offset + run->length >
        (unsigned __int128)block->offset + block->length ||
        !fuzz_ram_is_plugged(block, run->offset - block->offset, run->length)) {
        return;
    }
    add_range(f.zeroes, block, run->offset - block->offset, run->length);
}

static void arriving(FuzzQp *qp, const uint8_t *data, size_t bytes)
{
    RMigWireMessage msg;
    RMigWireRegister reg;
    RMigWireZeroRun run;
    Range range;

    f.arrived += qp != f.back; /* perhaps before it has been accepted */
    if (qp != f.main || !rmig_wire_message_unpack(data, bytes, &msg, NULL)) {
        return;
    }
    f.asked_for_blocks |= msg.type == RMIG_WIRE_RAM_BLOCKS_REQUEST;
    f.start_came |= msg.type == RMIG_WIRE_START;
    if (msg.type == RMIG_WIRE_REGISTER_REQUEST) {
        g_queue_push_tail(&f.requests, g_bytes_new(data, bytes));
    }
    for (uint32_t i = 0; i < msg.n_records; i++) {
        if (msg.type == RMIG_WIRE_REGISTER_REQUEST) {
            rmig_wire_register_unpack(&msg, i, &reg);
            if (range_of(&reg, &range)) {
                g_array_append_val(f.registers, range);
            }
        } else if (msg.type == RMIG_WIRE_COMPRESS) {
            rmig_wire_zero_run_unpack(&msg, i, &run);
            expect_zeroes(&run);
        }
    }
}

/* @part: or only part of what was */
static bool was_asked_for(const GArray *ranges, const void *host,
                          uint64_t bytes, bool part)
{
    for (guint i = ranges->len; i-- > 0; ) {
        const Range *range = &g_array_index(ranges, Range, i);
        uintptr_t start = (uintptr_t)range->block->host + range->offset;
        uintptr_t at = (uintptr_t)host;

        if (part ? at >= start && at - start <= range->bytes &&
            bytes <= range->bytes - (at - start) :
            range->bytes == bytes && at == start) {
            return true;
        }
    }
    return false;
}

static uint64_t all_bytes(void)
{
    uint64_t all = 0;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        all += f.blocks[i].length - fuzz_ram_hole(&f.blocks[i]);
    }
    return all;
}

/* A message may make us touch every byte of RAM once */
static void count_work(uint64_t bytes)
{
    f.work_bytes += bytes;
    if (f.work_bytes > all_bytes()) {
        fuzz_die("one message makes work for more than all of RAM");
    }
}

/* ---- hooks of the device ---- */

/* Flags that were granted on the main connection */
static uint8_t granted(void)
{
    FuzzCmId *id = NULL;

    for (guint i = 0; i < fuzz_device.ids->len; i++) {
        id = g_ptr_array_index(fuzz_device.ids, i);
        if (id->qp == f.main && id->qp) {
            return id->said_bytes >= RMIG_WIRE_PRIVATE_BYTES ? id->said[7] : 0;
        }
    }
    return 0;
}

/* Before the first page, as in version 1 */
static bool pins_all(void)
{
    return (granted() & (RMIG_WIRE_FLAG_PIN_ALL | RMIG_WIRE_FLAG_BATCH)) ==
           RMIG_WIRE_FLAG_PIN_ALL;
}

static void registered(const FuzzMr *mr)
{
    const FuzzBlock *block = fuzz_ram_find(f.blocks, N_BLOCKS, mr->mr.addr,
                                           mr->mr.length);

    if (!block) {
        if (fuzz_ram_overlaps(f.blocks, N_BLOCKS, mr->mr.addr,
                              mr->mr.length)) {
            fuzz_die("memory around a RAM block is registered");
        }
        if (mr->access & IBV_ACCESS_REMOTE_WRITE) {
            fuzz_die("memory that is not RAM is registered for the peer");
        }
        return;
    }
    count_work(mr->mr.length);
    if (f.revoked) {
        fuzz_die("RAM block %s is registered after its revocation",
                 block->name);
    }
    if (pins_all() && f.asked_for_blocks && mr->mr.addr == block->host &&
        mr->mr.length == block->length && fuzz_ram_hole(block) == 0) {
        return;
    }
    if (fuzz_device_remote_bytes() > all_bytes()) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes are registered for the peer, "
                 "which is more than there is",
                 (guint64)fuzz_device_remote_bytes());
    }
    if (f.pin_limit && fuzz_device_pinned_bytes() > f.pin_limit) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes are registered",
                 (guint64)fuzz_device_pinned_bytes());
    }
    if (!was_asked_for(f.registers, mr->mr.addr, mr->mr.length, false)) {
        fuzz_die("%zu bytes at %td of RAM block %s are registered unasked",
                 mr->mr.length, (uint8_t *)mr->mr.addr - block->host,
                 block->name);
    }
}

/* @alone: no other record of the same message can have replaced the region */
static void check_result(const RMigWireResult *result, const Range *range,
                         bool alone)
{
    FuzzMr *mr = fuzz_device_find_mr(result->rkey);

    if (result->host_addr != (uintptr_t)range->block->host) {
        fuzz_die("the answer names another block");
    }
    if (result->rkey == 0) {
        if (!(granted() & RMIG_WIRE_FLAG_BATCH)) {
            fuzz_die("a source that knows of no refusal is refused");
        }
        return;
    }
    if (!mr && !alone) {
        return;
    }
    if (!mr || !(mr->access & IBV_ACCESS_REMOTE_WRITE) ||
        mr->mr.addr != range->block->host + range->offset ||
        mr->mr.length != range->bytes) {
        fuzz_die("key 0x%x is given away, which leads elsewhere",
                 result->rkey);
    }
}

static void check_results(const FuzzWr *wr)
{
    g_autoptr(GBytes) request = NULL;
    RMigWireMessage msg, asked;
    gsize bytes;
    const uint8_t *data;

    if (!rmig_wire_message_unpack(wr->addr, wr->bytes, &msg, NULL) ||
        msg.type != RMIG_WIRE_REGISTER_RESULT) {
        return;
    }
    request = g_queue_pop_head(&f.requests);
    if (!request) {
        fuzz_die("an answer to nothing");
    }
    data = g_bytes_get_data(request, &bytes);
    if (!rmig_wire_message_unpack(data, bytes, &asked, NULL) ||
        asked.n_records != msg.n_records) {
        fuzz_die("a request is answered with %u records", msg.n_records);
    }
    for (uint32_t i = 0; i < msg.n_records; i++) {
        RMigWireRegister reg;
        RMigWireResult result;
        Range range;

        rmig_wire_register_unpack(&asked, i, &reg);
        rmig_wire_result_unpack(&msg, i, &result);
        if (!range_of(&reg, &range)) {
            fuzz_die("memory that does not exist is registered");
        }
        check_result(&result, &range, msg.n_records == 1);
    }
}

/* Handling a message takes a ms, and others must have their turn in between */
static void count_in_a_row(void)
{
    fuzz_device.now_us += 1000;
    if (f.turn != fuzz_schedule.turns) {
        f.turn = fuzz_schedule.turns;
        f.in_a_row = 0;
    }
    if (++f.in_a_row > IN_A_ROW_MAX) {
        fuzz_die("%u messages were handled, and nobody else had a turn",
                 f.in_a_row);
    }
}

static void posted(FuzzQp *qp, const FuzzWr *wr)
{
    fuzz_check_posted(qp, wr);
    if (wr->opcode == IBV_WR_SEND) {
        if (qp == f.main && fuzz_type_of(wr) == RMIG_WIRE_READY) {
            /* The message before has been handled, or makes no work */
            f.work_bytes = 0;
            count_in_a_row();
            if (++f.readies > f.arrived + 1) {
                fuzz_die("READY is said twice for one message");
            }
        }
        check_results(wr);
    } else if (wr->bytes != 0) {
        fuzz_die("the destination writes to the source");
    }
}

/* The return path's reader is ready again */
static void executed(FuzzQp *qp, const FuzzWr *wr)
{
    f.ready_due |= qp == f.back && wr->opcode == IBV_WR_SEND;
}

/* ---- what the face supplies ---- */

static bool list_blocks(void *opaque, GError **err)
{
    (void)opaque;
    if (fuzz_fails("list_blocks")) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0, "no list today");
        return false;
    }
    for (unsigned i = N_BLOCKS; i-- > 0; ) {
        const FuzzBlock *b = &f.blocks[i];

        if (!rmig_dest_add_block(f.dest, b->name, b->host, b->offset,
                                 b->length, err)) {
            return false;
        }
        rmig_dest_hint_block(f.dest, b->offset, &(RMigBlockHints) {
            .anonymous = f.how & 8,
        });
    }
    return true;
}

static bool list_holes(void *opaque, GError **err)
{
    (void)opaque;
    return fuzz_ram_list_holes(f.dest, f.blocks, N_BLOCKS, err);
}

static void zero(void *opaque, void *host, uint64_t len)
{
    (void)opaque;
    count_work(len);
    if (!was_asked_for(f.zeroes, host, len, true)) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes at %p are zeroed unasked",
                 (guint64)len, host);
    }
    if (f.revoked) {
        fuzz_die("RAM is zeroed while the guest runs");
    }
}

static uint64_t ram_bytes(void *opaque)
{
    (void)opaque;
    return 4 * FUZZ_MIB;
}

static void warn(void *opaque, const char *message)
{
    (void)opaque;
    g_assert(message[0] != '\0');
}

static const RMigDestOps ops = {
    .list_blocks = list_blocks, .list_holes = list_holes, .zero = zero,
    .ram_bytes = ram_bytes, .warn = warn,
};

/* ---- the schedule's view ---- */

static FuzzQp *qp(bool back)
{
    return back ? f.back : f.main ? f.main : fuzz_device_last_qp();
}

/* The honest source speaks by the schedule alone, but reads the return path */
static bool answer(void)
{
    static const uint8_t ready[RMIG_WIRE_HEADER_BYTES] = {
        [7] = RMIG_WIRE_READY, [11] = 1,
    };

    if (!f.ready_due || !f.back) {
        return false;
    }
    f.ready_due = false;
    fuzz_arrive(f.back, ready, sizeof(ready));
    return true;
}

static void lie(uint8_t kind, uint32_t value)
{
    (void)value;
    if (kind & 1) {
        fuzz_device.fail_call = "list_blocks";
    }
}

static void shut_down(void)
{
    rmig_dest_shutdown(f.dest);
}

/*
 * @a and @b mostly name pages of @block; a set top bit makes them numbers near
 * the end of what 64 bits can say, the next two add or take away one
 */
static uint64_t stretch(uint32_t value, uint64_t unit)
{
    uint64_t much = value & 0x80000000 ? (uint64_t)(int32_t)value :
                                         value & 0x1fffffff;

    return much * unit + (value >> 30 & 1) - (value >> 29 & 1);
}

static unsigned record(uint8_t *buf, uint8_t type, uint8_t index, uint32_t a,
                       uint32_t b)
{
    const FuzzBlock *block = &f.blocks[index % N_BLOCKS];

    switch (type) {
    case RMIG_WIRE_COMPRESS:
        rmig_wire_zero_run_pack(buf, &(RMigWireZeroRun) {
            .block = index,
            .offset = block->offset + stretch(a, FUZZ_PAGE),
            .length = stretch(b, FUZZ_PAGE),
        });
        return RMIG_WIRE_ZERO_RUN_BYTES;
    case RMIG_WIRE_UNREGISTER_REQUEST:
        rmig_wire_register_pack(buf, &(RMigWireRegister) {
            .block = index, .key = stretch(a, 1), .chunks = stretch(b, 1),
        });
        return RMIG_WIRE_REGISTER_BYTES;
    default:
        rmig_wire_register_pack(buf, &(RMigWireRegister) {
            .block = index,
            .key = block->offset + stretch(a, FUZZ_PAGE),
            .chunks = stretch(b, 1),
        });
        return RMIG_WIRE_REGISTER_BYTES;
    }
}

static const FuzzRole role = {
    .qp = qp, .answer = answer, .lie = lie, .shutdown = shut_down,
    .arriving = arriving, .record = record,
};

/* ---- the face ---- */

/* Whether it may go on */
static bool check(bool ok, GError **err, const char *what, FuzzQp *connection)
{
    if (!fuzz_check(ok, err, what)) {
        fuzz_has_failed(connection);
        f.failed = true;
        return false;
    }
    return true;
}

static bool handle(void)
{
    GError *err = NULL;

    fuzz_schedule_call();
    return check(rmig_dest_handle(f.dest, &err), &err, "handle", f.main);
}

static bool note(const char *name)
{
    GError *err = NULL;
    bool ok = rmig_dest_note_block(f.dest, name, &err);

    if (ok && g_hash_table_contains(f.named, name)) {
        fuzz_die("block %s is named twice", name);
    }
    g_hash_table_add(f.named, (char *)name);
    return check(ok, &err, "note", NULL);
}

static bool note_all(void)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        if (!note(f.blocks[i].name)) {
            return false;
        }
    }
    return true;
}

static bool write_back(uint8_t byte)
{
    static uint8_t block[40000];
    RMigStream *stream = rmig_dest_return_stream(f.dest);
    GError *err = NULL;

    fuzz_schedule_call();
    return !stream ||
           check(rmig_stream_write(stream, block,
                                   byte & 0x80 ? sizeof(block) : 3, &err) &&
                 rmig_stream_flush(stream, &err), &err, "write", f.back);
}

static bool revoke(void)
{
    /* If the device refuses even that, nothing can be done */
    bool refused = g_strcmp0(fuzz_device.fail_call, "ibv_modify_qp") == 0;

    rmig_dest_revoke(f.dest);
    f.revoked = true;
    if (!refused && f.main->alive && f.main->qp.state != IBV_QPS_ERR) {
        fuzz_die("revoked, but the queue pair still works");
    }
    return true;
}

/* Where there is a START it alone makes the guest ours */
static bool end(bool starts)
{
    GError *err = NULL;

    fuzz_schedule_call();
    if (!rmig_dest_hands_over(f.dest)) {
        return check(rmig_dest_may_start(f.dest, &err), &err, "may start",
                     NULL) && revoke();
    }
    if (!check(rmig_dest_hand_over(f.dest, starts, &err), &err, "hand over",
               f.main)) {
        return false;
    }
    if (!f.start_came) {
        fuzz_die("the guest is here, but was not given away");
    }
    revoke();
    return false;
}

static bool do_byte(uint8_t byte)
{
    RMigCounters counters;

    switch ((Stream)(byte & 0xf)) {
    case STREAM_HOOK:
        return handle();
    case STREAM_NOTE:
        return note(byte >> 4 < N_BLOCKS ? f.blocks[byte >> 4].name :
                                           "nowhere");
    case STREAM_SETUP:
        return note_all() && handle();
    case STREAM_BACK:
        return write_back(byte);
    case STREAM_REVOKE:
        return revoke();
    case STREAM_COUNTERS:
        rmig_dest_counters(f.dest, &counters);
        return true;
    case STREAM_NOT_WAIT:
        f.wait = false;
        return true;
    case STREAM_CLOSE:
        return false;
    case STREAM_END:
        return end(byte & 0x80);
    }
    return true;
}

/* What there is to do at the listener, as QEMU's handler of its descriptor */
static RMigAccepted take_request(void)
{
    bool had_back = f.back != NULL;
    RMigAccepted accepted = fuzz_accept(f.dest, &f.main, &f.back);

    f.ready_due |= !had_back && f.back;
    return accepted;
}

static void take_requests(void)
{
    unsigned looks = 0;

    while (fuzz_is_readable(rmig_dest_listen_fd(f.dest))) {
        if (looks++ > 1000) {
            fuzz_die("the listener's descriptor stays readable");
        }
        take_request();
    }
}

/* Reads bytes and does what they say until the stream ends or fails */
static void read_stream(void)
{
    static uint8_t buf[65536];
    RMigStream *stream = rmig_dest_stream(f.dest);
    GError *err = NULL;
    bool going = true;
    unsigned reads = 0;
    ssize_t n;

    fuzz_schedule_call();
    while (going) {
        /* A long stream is read in pieces, of which the last byte counts */
        n = rmig_stream_read(stream, buf, reads++ < 200 ? 1 : sizeof(buf),
                             f.wait, &err);
        if (n == RMIG_STREAM_WOULD_BLOCK) {
            fuzz_check(true, &err, "read");
            fuzz_waiter.wait_readable(NULL, rmig_stream_fd(stream));
        } else if (n == 0) {
            fuzz_check(true, &err, "read");
            return;
        } else {
            going = check(n > 0, &err, "read", f.main) && do_byte(buf[n - 1]);
            fuzz_schedule_call();
        }
        take_requests();
    }
}

/* What has failed once goes on failing */
static void try_again(void)
{
    GError *err = NULL;
    uint8_t byte;

    if (f.main->failed) {
        fuzz_schedule_call();
        if (fuzz_check(rmig_dest_handle(f.dest, &err), &err, "again")) {
            fuzz_die("the commands go on after a failure");
        }
        /* The rest of a message that came before may still be read */
        while (rmig_stream_has_data(rmig_dest_stream(f.dest)) &&
               rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1, true,
                                &err) == 1) {
            g_assert(!err);
        }
        g_clear_error(&err);
        if (rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1, true,
                             &err) > 0) {
            fuzz_die("the stream goes on after a failure");
        }
        g_clear_error(&err);
    }
}

/* ---- one input ---- */

static bool listen_and_accept(uint8_t choice)
{
    static const struct sockaddr_in addr = { .sin_family = AF_INET };
    RMigDestConfig config = {
        .waiter = fuzz_waiter, .ops = &ops,
        .pin_limit = f.pin_limit, .version_1_only = f.how & 4,
    };
    RMigWirePrivate ask = {
        .version = RMIG_WIRE_VERSION,
        .flags = (choice & 1 ? RMIG_WIRE_FLAG_PIN_ALL : 0) |
                 (f.how & 1 ? RMIG_WIRE_FLAG_BATCH : 0) |
                 ((f.how & 3) == 1 ? RMIG_WIRE_FLAG_BUDGET : 0) |
                 (f.how & 0x40 ? RMIG_WIRE_FLAG_HANDOVER : 0),
        .pin_bytes = UINT64_MAX,
    };
    uint8_t asks[RMIG_WIRE_PRIVATE_MAX_BYTES];
    uint8_t bytes = rmig_wire_private_pack(asks, &ask);
    GError *err = NULL;

    f.dest = rmig_dest_new(&config, (const struct sockaddr *)&addr, &err);
    if (!fuzz_check(f.dest != NULL, &err, "listen")) {
        return false;
    }
    fuzz_schedule.gentle = !(choice & 8);
    fuzz_cm_request(asks, bytes, 1);
    /* A hostile connection may take it, another may follow */
    for (unsigned i = 0; !f.main && (i < 8 || (i < 100 && fuzz_more())); i++) {
        take_requests();
        if (!f.main) {
            fuzz_schedule_step();
        }
    }
    if (f.main && (choice & 2)) {
        fuzz_cm_request(asks, bytes, 1);
        take_requests();
        fuzz_schedule_step();
        take_requests();
    }
    fuzz_schedule.gentle = false;
    return f.main;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const FuzzHooks hooks = {
        .registered = registered, .posted = posted, .executed = executed,
    };
    static const uint64_t limits[] = { 0, 16, 8, 11 };
    static bool ready;

    if (!ready) {
        ready = true;
        for (unsigned i = 0; i < G_N_ELEMENTS(layouts); i++) {
            fuzz_ram_reserve(layouts[i], N_BLOCKS);
        }
    }
    fuzz_schedule_init(&role, hooks, data, size);
    memset(&f, 0, sizeof(f));
    f.registers = g_array_new(false, false, sizeof(Range));
    f.zeroes = g_array_new(false, false, sizeof(Range));
    g_queue_init(&f.requests);
    f.named = g_hash_table_new(g_str_hash, g_str_equal);
    fuzz_schedule.ending = fuzz_schedule.choice >> 4 & 3;
    f.blocks = layouts[fuzz_schedule.choice >> 6];
    f.wait = !(fuzz_schedule.choice & 4);
    f.how = fuzz_choose();
    fuzz_ram_has_holes = f.how & 0x80;
    f.pin_limit = limits[f.how >> 4 & 3] * FUZZ_MIB;
    if (listen_and_accept(fuzz_schedule.choice)) {
        read_stream();
        if (f.failed) {
            try_again();
        }
        fuzz_schedule_call();
        fuzz_expect_error(f.main, f.failed);
        rmig_dest_close(f.dest, f.failed);
        fuzz_check_told();
    }
    rmig_dest_free(f.dest);
    g_array_unref(f.registers);
    g_array_unref(f.zeroes);
    g_hash_table_unref(f.named);
    g_queue_clear_full(&f.requests, (GDestroyNotify)g_bytes_unref);
    fuzz_device_cleanup();
    return 0;
}
