/*
 * Fuzz target: the source, with a hostile destination
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The whole role on the device of device.h, with an honest destination that
 * the schedule makes lie (see peer.h), interrupts and talks over.
 *
 * Promises that are checked besides the device's: guest RAM is only read, and
 * only inside of its blocks; a write takes pages that were handed over to
 * where the destination said, with the key that it gave for that chunk and has
 * not been told to forget; zero runs name pages that were handed over and are
 * zero; nothing is registered for the peer, and never more here than the own
 * limit nor there than was announced; what is let go there was registered, and
 * no write into it is on its way; there is one record a message unless more
 * were granted; no message leaves without the READYs that it needs; a round
 * that succeeds has brought every page; nothing but ERROR leaves after a
 * failure; with an honest destination, which may refuse what it has no room
 * for, nothing fails.
 *
 * The last byte's bits (see schedule.h): 0 pin-all, 1 return path, 2 pin-all
 * is not granted, 3 the connection itself is part of the schedule, 4-5
 * FuzzEnding, 6 no zero detection, 7 extensions: then the first two of the
 * other choices are read by choose_extensions().  The rest: see Face.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "end.h"
#include "mirror.h"
#include "peer.h"
#include "ram.h"
#include "schedule.h"

#define N_BLOCKS FUZZ_MIRROR_BLOCKS
#define PAGES_MAX (16 * FUZZ_MIB / FUZZ_PAGE)
#define PRIVATE_BYTES RMIG_WIRE_PRIVATE_MAX_BYTES

/* What the face does: a byte's low three bits, and bytes behind it */
typedef enum Face {
    FACE_PAGE,    /* u8, u8: page; block in the next two bits */
    FACE_PAGES,   /* u8, u8: page; u8: how many after it; likewise */
    FACE_FINISH,
    FACE_STREAM,  /* u8: bytes, and whether to flush */
    FACE_EVENTS,  /* u8: items of the schedule happen now */
    FACE_BACK,    /* read the return path; bit 3: wait */
    FACE_DIRTY,   /* u8, u8: a page becomes data, or zero */
    FACE_LARGE,   /* u8: a stretch of so many pages, times 16 */
} Face;

typedef enum Page {
    PAGE_IDLE,
    PAGE_DATA,  /* handed over */
    PAGE_POSTED,
    PAGE_WRITTEN,
    PAGE_ZERO,  /* handed over */
    PAGE_NAMED,
} Page;

/* Where the destination says that its blocks are */
typedef struct Said {
    uint64_t host[N_BLOCKS];
    uint64_t offset[N_BLOCKS];
} Said;

static FuzzBlock blocks[N_BLOCKS] = {
    { "ram", 0, 3 * FUZZ_MIB + FUZZ_PAGE, NULL, 0x550000000000, 0x40000000 },
    { "vga", 0x20000000, 2 * FUZZ_MIB, NULL, 0x560000000000, 0 },
    { "rom", 0x10000000, FUZZ_PAGE, NULL, 0x570000000000, 0x10000000 },
    { "big", 0x1000000000, 12 * FUZZ_MIB, NULL, 0x7ffffff00000, 0x100000000 },
};
/* Where the harness can write what lies at blocks[0].host */
static uint8_t *writable;

static struct {
    RMigSource *source;
    FuzzQp *main, *back;
    bool failed;
    FuzzEnd end;
    bool pinned; /* before the first page, as in version 1 */
    bool batch;
    uint64_t pin_limit;  /* of the source; 0: none */
    uint8_t private_data[PRIVATE_BYTES]; /* of the destination's answer */
    uint8_t private_bytes;
    bool round_open; /* pages were handed over */
    uint8_t page[N_BLOCKS][PAGES_MAX]; /* of Page */
    FuzzMirror mirror;
    /* What the source is told about its dirty pages, if it is told anything */
    bool hinted;
    unsigned long dirty[N_BLOCKS][PAGES_MAX / 64];
    GHashTable *keys;  /* that the destination gave, whatever for */
    GArray *said;      /* of Said: every table of blocks that it sent */
    FuzzPeer peer;
    GArray *dirtied; /* of uint8_t *, to be turned back */
} f;

static unsigned index_of(const FuzzBlock *block)
{
    return block - blocks;
}

/* ---- what the destination takes, and says ---- */

static void executed(FuzzQp *qp, const FuzzWr *wr)
{
    RMigWireMessage msg;

    if (wr->opcode == IBV_WR_RDMA_WRITE) {
        const FuzzBlock *block = fuzz_ram_find(blocks, N_BLOCKS, wr->addr,
                                               wr->bytes);

        for (uint64_t at = 0; block && at < wr->bytes; at += FUZZ_PAGE) {
            f.page[index_of(block)][(wr->addr - block->host + at) /
                                    FUZZ_PAGE] = PAGE_WRITTEN;
        }
        return;
    }
    if (!rmig_wire_message_unpack(wr->addr, wr->bytes, &msg, NULL)) {
        fuzz_die("a message changed while it was sent");
    }
    fuzz_end_sent(&f.end, f.source, msg.type);
    fuzz_peer_take(&f.peer, &msg, qp != f.main);
}

/* Remembers what the destination has said, true or not */
static void arriving(FuzzQp *qp, const uint8_t *data, size_t bytes)
{
    RMigWireMessage msg;

    /* READY comes perhaps before the connection has been made */
    if (qp != fuzz_device.qps->pdata[0] ||
        !rmig_wire_message_unpack(data, bytes, &msg, NULL)) {
        return;
    }
    f.mirror.readies += msg.type == RMIG_WIRE_READY;
    fuzz_end_arriving(&f.end, msg.type);
    if (msg.type == RMIG_WIRE_REGISTER_RESULT) {
        for (uint32_t i = 0; i < msg.n_records; i++) {
            RMigWireResult result;

            rmig_wire_result_unpack(&msg, i, &result);
            g_hash_table_add(f.keys, GUINT_TO_POINTER(result.rkey));
        }
        fuzz_mirror_take_results(&f.mirror, &msg);
    } else if (msg.type == RMIG_WIRE_UNREGISTER_FINISHED) {
        fuzz_mirror_take_released(&f.mirror);
    } else if (msg.type == RMIG_WIRE_RAM_BLOCKS_RESULT &&
               msg.n_records == N_BLOCKS) {
        Said said;

        for (uint32_t i = 0; i < N_BLOCKS; i++) {
            RMigWireBlock block;

            rmig_wire_block_unpack(&msg, i, &block);
            g_hash_table_add(f.keys, GUINT_TO_POINTER(block.rkey));
            said.host[i] = block.host_addr;
            said.offset[i] = block.offset;
        }
        g_array_append_val(f.said, said);
    }
}

/* Whether @host is where block @i is, by anything that was said */
static bool was_said(unsigned i, uint64_t host)
{
    for (guint n = 0; n < f.said->len; n++) {
        if (g_array_index(f.said, Said, n).host[i] == host) {
            return true;
        }
    }
    return false;
}

/* What @address of the destination's ram_addr_t space is in block @i */
static uint64_t offset_in(unsigned i, uint64_t address)
{
    for (guint n = 0; n < f.said->len; n++) {
        uint64_t start = g_array_index(f.said, Said, n).offset[i];

        if (address >= start && address - start < blocks[i].length &&
            (address - start) % FUZZ_PAGE == 0) {
            return address - start;
        }
    }
    fuzz_die("address 0x%" G_GINT64_MODIFIER "x is not in RAM block %s",
             (guint64)address, blocks[i].name);
}

/* ---- hooks of the device ---- */

static void registered(const FuzzMr *mr)
{
    const FuzzBlock *block = fuzz_ram_find(blocks, N_BLOCKS, mr->mr.addr,
                                           mr->mr.length);

    if (mr->access & IBV_ACCESS_REMOTE_WRITE) {
        fuzz_die("the source lets the peer write into its memory");
    }
    if (!block && fuzz_ram_overlaps(blocks, N_BLOCKS, mr->mr.addr,
                                    mr->mr.length)) {
        fuzz_die("memory around a RAM block is registered");
    }
    if (block &&
        (((uint8_t *)mr->mr.addr - block->host) % FUZZ_MIB != 0 ||
         (mr->mr.length % FUZZ_MIB != 0 &&
          (uint8_t *)mr->mr.addr + mr->mr.length !=
          block->host + block->length))) {
        fuzz_die("what is registered are no chunks");
    }
    if (f.pin_limit && !f.pinned &&
        fuzz_device_pinned_bytes() > f.pin_limit) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes are registered",
                 (guint64)fuzz_device_pinned_bytes());
    }
}

static void check_write(const FuzzWr *wr)
{
    const FuzzBlock *block = fuzz_ram_find(blocks, N_BLOCKS, wr->addr,
                                           wr->bytes);
    uint64_t offset;

    if (!block) {
        fuzz_die("%u bytes that are not RAM are written", wr->bytes);
    }
    offset = wr->addr - block->host;
    if (!g_hash_table_contains(f.keys, GUINT_TO_POINTER(wr->rkey)) ||
        wr->rkey == 0 ||
        !was_said(index_of(block), wr->remote_addr - offset)) {
        fuzz_die("a write to 0x%" G_GINT64_MODIFIER "x with key 0x%x, which "
                 "the destination never named", (guint64)wr->remote_addr,
                 wr->rkey);
    }
    for (uint64_t at = offset; at < offset + wr->bytes; at += FUZZ_PAGE) {
        uint8_t *page = &f.page[index_of(block)][at / FUZZ_PAGE];

        /* Zeros between data may be written, too */
        if (*page != PAGE_DATA && *page != PAGE_ZERO) {
            fuzz_die("page %" G_GUINT64_FORMAT " of %s is written, but was "
                     "not handed over", (guint64)(at / FUZZ_PAGE),
                     block->name);
        }
        *page = PAGE_POSTED;
        if (!f.pinned) {
            fuzz_mirror_check_write(&f.mirror, index_of(block), at / FUZZ_MIB,
                                    wr->rkey);
        }
    }
}

static void check_zero_run(const RMigWireMessage *msg, uint32_t i)
{
    const FuzzBlock *block;
    RMigWireZeroRun run;

    rmig_wire_zero_run_unpack(msg, i, &run);
    block = &blocks[run.block % N_BLOCKS];
    run.offset = offset_in(run.block % N_BLOCKS, run.offset);
    if (run.block >= N_BLOCKS || run.length > block->length - run.offset) {
        fuzz_die("zeros out of RAM");
    }
    for (uint64_t at = 0; at < run.length; at += FUZZ_PAGE) {
        uint8_t *page = &f.page[run.block][(run.offset + at) / FUZZ_PAGE];

        if (*page != PAGE_ZERO) {
            fuzz_die("a page is said to be zero that was not handed over so");
        }
        *page = PAGE_NAMED;
    }
}

/* No write into it is on its way */
static void check_unused(const FuzzQp *qp, const RMigWireRegister *reg)
{
    const uint8_t *first = blocks[reg->block].host + reg->key * FUZZ_MIB;

    for (GList *l = qp->sends.head; l; l = l->next) {
        const FuzzWr *wr = l->data;

        if (wr->opcode == IBV_WR_RDMA_WRITE && wr->bytes &&
            wr->addr < first + (reg->chunks + 1) * FUZZ_MIB &&
            wr->addr + wr->bytes > first) {
            fuzz_die("memory is let go while a write into it is on its way");
        }
    }
}

static void check_registers(const FuzzQp *qp, const RMigWireMessage *msg)
{
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;

        rmig_wire_register_unpack(msg, i, &reg);
        if (reg.block >= N_BLOCKS) {
            fuzz_die("there is no block %u", reg.block);
        }
        if (msg->type == RMIG_WIRE_REGISTER_REQUEST) {
            reg.key = offset_in(reg.block, reg.key) / FUZZ_MIB;
            fuzz_mirror_ask(&f.mirror, &reg);
        } else {
            fuzz_mirror_release(&f.mirror, &reg);
            check_unused(qp, &reg);
        }
    }
}

static void check_finished(FuzzQp *qp)
{
    for (GList *l = qp->sends.head; l; l = l->next) {
        const FuzzWr *wr = l->data;

        if (wr->opcode == IBV_WR_RDMA_WRITE && wr->bytes) {
            fuzz_die("the round is finished before its writes");
        }
    }
}

static void posted(FuzzQp *qp, const FuzzWr *wr)
{
    RMigWireMessage msg;

    fuzz_check_posted(qp, wr);
    if (wr->opcode == IBV_WR_RDMA_WRITE) {
        if (wr->bytes) {
            check_write(wr);
        }
        return;
    }
    if (!rmig_wire_message_unpack(wr->addr, wr->bytes, &msg, NULL)) {
        return; /* fuzz_check_posted() has died of it */
    }
    if (qp == f.main) {
        fuzz_mirror_command(&f.mirror, msg.type, f.batch);
    }
    if (msg.n_records > 1 && !f.batch) {
        fuzz_die("a stock destination cannot answer many records");
    }
    if (msg.type == RMIG_WIRE_REGISTER_FINISHED) {
        check_finished(qp);
    }
    if (msg.type == RMIG_WIRE_REGISTER_REQUEST ||
        msg.type == RMIG_WIRE_UNREGISTER_REQUEST) {
        check_registers(qp, &msg);
    }
    for (uint32_t i = 0; msg.type == RMIG_WIRE_COMPRESS && i < msg.n_records;
         i++) {
        check_zero_run(&msg, i);
    }
}

static const void *reply(int *type, int *status, uint8_t *len)
{
    (void)type;
    (void)status;
    *len = f.private_bytes;
    return f.private_data;
}

/* ---- the schedule's view ---- */

static FuzzQp *qp(bool back)
{
    unsigned i = back ? 1 : 0;

    return i < fuzz_device.qps->len ? fuzz_device.qps->pdata[i] : NULL;
}

static bool answer(void)
{
    return fuzz_peer_deliver(&f.peer, f.main, f.back);
}

static void lie(uint8_t kind, uint32_t value)
{
    f.peer.lie = kind % FUZZ_LIES;
    f.peer.lie_value = value;
}

static void shut_down(void)
{
    rmig_source_shutdown(f.source);
}

/* Answers that nobody asked for */
static unsigned record(uint8_t *buf, uint8_t type, uint8_t index, uint32_t a,
                       uint32_t b)
{
    if (type == RMIG_WIRE_RAM_BLOCKS_RESULT) {
        const FuzzBlock *block = &blocks[index % N_BLOCKS];

        rmig_wire_block_pack(buf, &(RMigWireBlock) {
            .host_addr = block->remote_host + b, .offset = a,
            .length = block->length, .rkey = b,
        });
        return RMIG_WIRE_BLOCK_BYTES;
    }
    rmig_wire_result_pack(buf, &(RMigWireResult) {
        .rkey = a, .host_addr = blocks[index % N_BLOCKS].remote_host + b,
    });
    return RMIG_WIRE_RESULT_BYTES;
}

static const FuzzRole role = {
    .qp = qp, .answer = answer, .lie = lie, .shutdown = shut_down,
    .arriving = arriving, .record = record,
};

/* ---- the face ---- */

static bool check(bool ok, GError **err, const char *what, FuzzQp *connection)
{
    if (!ok && *err && !fuzz_schedule.hostile &&
        (!fuzz_schedule.ended || fuzz_schedule.ending == FUZZ_END_HONEST)) {
        fuzz_die("%s fails with an honest destination: %s", what,
                 (*err)->message);
    }
    if (!fuzz_check(ok, err, what)) {
        fuzz_has_failed(connection);
        f.failed = true;
        return false;
    }
    return true;
}

/* A page is zero if its first byte is */
static bool is_zero(const void *host, uint64_t len)
{
    const uint8_t *p = host;

    if (!fuzz_ram_find(blocks, N_BLOCKS, host, len)) {
        fuzz_die("the source looks at memory that is not RAM");
    }
    for (uint64_t at = 0; at < len; at += FUZZ_PAGE) {
        if (p[at]) {
            return false;
        }
    }
    return true;
}

static bool hand_over(unsigned block, uint64_t page, uint64_t n)
{
    const FuzzBlock *b = &blocks[block];
    uint64_t pages = b->length / FUZZ_PAGE;
    RMigPage kind, expected;
    GError *err = NULL;

    page %= pages;
    n = MIN(n, pages - page);
    for (uint64_t i = 0; i < n; i++) {
        if (f.page[block][page + i] != PAGE_IDLE) {
            return true; /* never twice in a round */
        }
    }
    expected = !(fuzz_schedule.choice & 64) &&
               is_zero(b->host + page * FUZZ_PAGE, n * FUZZ_PAGE) ?
               RMIG_PAGE_ZERO : RMIG_PAGE_DATA;
    memset(&f.page[block][page],
           expected == RMIG_PAGE_ZERO ? PAGE_ZERO : PAGE_DATA, n);
    f.round_open = true;
    for (uint64_t i = page; i < page + n; i++) {
        f.dirty[block][i / 64] &= ~(1ul << (i % 64));
    }
    fuzz_schedule_call();
    kind = rmig_source_page(f.source, b->offset, page * FUZZ_PAGE,
                            n * FUZZ_PAGE, &err);
    if (kind != RMIG_PAGE_FAILED && kind != expected) {
        fuzz_die("a page is taken for another kind");
    }
    return check(kind != RMIG_PAGE_FAILED, &err, "page", f.main);
}

static bool finish(void)
{
    GError *err = NULL;

    fuzz_schedule_call();
    if (!check(rmig_source_finish(f.source, &err), &err, "finish", f.main)) {
        return false;
    }
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t n = 0; n < blocks[i].length / FUZZ_PAGE; n++) {
            if (f.page[i][n] != PAGE_IDLE && f.page[i][n] != PAGE_WRITTEN &&
                f.page[i][n] != PAGE_NAMED) {
                fuzz_die("the round is over, but page %" G_GUINT64_FORMAT
                         " of %s was not sent", (guint64)n, blocks[i].name);
            }
        }
        memset(f.page[i], PAGE_IDLE, sizeof(f.page[i]));
    }
    f.round_open = false;
    return true;
}

static bool write_stream(uint8_t bytes)
{
    static uint8_t junk[600000];
    RMigStream *stream = rmig_source_stream(f.source);
    GError *err = NULL;

    if (f.round_open) {
        return true;
    }
    fuzz_schedule_call();
    return check(rmig_stream_write(stream, junk,
                                   bytes == 0xff ? sizeof(junk) : bytes + 1,
                                   &err) &&
                 (!(bytes & 1) || rmig_stream_flush(stream, &err)), &err,
                 "write", f.main);
}

static bool read_back(bool wait)
{
    RMigStream *stream = rmig_source_return_stream(f.source);
    GError *err = NULL;
    uint8_t buf[3];
    ssize_t n;

    if (!stream) {
        return true;
    }
    fuzz_schedule_call();
    n = rmig_stream_read(stream, buf, sizeof(buf), wait, &err);
    if (n == 0 || n == RMIG_STREAM_WOULD_BLOCK) {
        fuzz_check(true, &err, "read");
        return n != 0;
    }
    if (n > (ssize_t)sizeof(buf)) {
        fuzz_die("more is read than there is room for");
    }
    return check(n > 0, &err, "read", f.back);
}

static void dirty(unsigned block, uint64_t page)
{
    uint8_t *at;

    page %= blocks[block].length / FUZZ_PAGE;
    if (f.page[block][page] == PAGE_IDLE) {
        at = writable + (blocks[block].host - blocks[0].host) +
             page * FUZZ_PAGE;
        *at ^= 1;
        g_array_append_val(f.dirtied, at);
    }
}

static bool do_face(uint8_t byte)
{
    unsigned block = byte >> 3 & 3;
    uint64_t page;
    unsigned n;

    switch ((Face)(byte & 7)) {
    case FACE_PAGE:
        page = fuzz_choose() << 8;
        return hand_over(block, page + fuzz_choose(), 1);
    case FACE_PAGES:
        page = fuzz_choose() << 8;
        page += fuzz_choose();
        n = fuzz_choose();
        for (unsigned i = 0; i <= n; i++) {
            if (!hand_over(block, page + i, 1)) {
                return false;
            }
        }
        return true;
    case FACE_FINISH:
        return finish();
    case FACE_STREAM:
        return write_stream(fuzz_choose());
    case FACE_EVENTS:
        for (n = fuzz_choose() & 0xf; n > 0 && fuzz_more(); n--) {
            fuzz_schedule_step();
        }
        return true;
    case FACE_BACK:
        return read_back(byte & 8);
    case FACE_DIRTY:
        page = fuzz_choose() << 8;
        dirty(block, page + fuzz_choose());
        return true;
    case FACE_LARGE:
        n = fuzz_choose();
        return hand_over(block, n * 7, 16 * (n + 1));
    }
    return true;
}

/* ---- one input ---- */

static bool exchange(void)
{
    GError *err = NULL;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        if (!fuzz_check(rmig_source_add_block(f.source, blocks[i].name,
                                              blocks[i].host, blocks[i].offset,
                                              blocks[i].length, &err), &err,
                        "add")) {
            fuzz_die("a RAM block is refused");
        }
        if (f.hinted) {
            rmig_source_hint_block(f.source, blocks[i].offset,
                                   &(RMigBlockHints) {
                .dirty = f.dirty[i], .page_shift = 12,
            });
        }
    }
    fuzz_schedule_call();
    return check(rmig_source_exchange(f.source, &err), &err, "exchange",
                 f.main) && finish();
}

static void learn_granted(void)
{
    bool pins_all = rmig_source_pins_all(f.source);
    RMigCounters counters;

    if (pins_all && !(fuzz_schedule.choice & 1)) {
        fuzz_die("pin-all is on, but was not asked for");
    }
    rmig_source_counters(f.source, &counters);
    f.batch = counters.extensions & RMIG_EXTENSION_BATCH;
    if (f.batch && !(f.private_data[7] & RMIG_WIRE_FLAG_BATCH)) {
        fuzz_die("many records are sent, but that was not granted");
    }
    if (counters.extensions & RMIG_EXTENSION_BUDGET) {
        f.mirror.limit_bytes = counters.peer_pin_limit;
    }
    f.pinned = pins_all && !f.batch;
}

static bool connect_both(void)
{
    static const struct sockaddr_in addr = { .sin_family = AF_INET };
    GError *err = NULL;
    bool ok;

    fuzz_schedule.gentle = !(fuzz_schedule.choice & 8);
    fuzz_schedule_call();
    ok = check(rmig_source_connect(f.source, (const struct sockaddr *)&addr,
                                   &err), &err, "connect", NULL);
    fuzz_schedule.gentle = false;
    if (!ok) {
        return false;
    }
    learn_granted();
    f.main = fuzz_device.qps->pdata[0];
    f.back = rmig_source_return_stream(f.source) ? fuzz_device_last_qp() :
                                                   NULL;
    f.peer.pinned = f.pinned;
    fuzz_peer_say_ready(&f.peer);
    return true;
}

static void migrate(void)
{
    GError *err = NULL;
    bool going = true;

    if (!exchange()) {
        return;
    }
    while (going && fuzz_may_choose()) {
        going = do_face(fuzz_choose());
    }
    if (f.failed) {
        if (f.main->failed &&
            (fuzz_check(rmig_source_finish(f.source, &err), &err, "again") ||
             fuzz_check(rmig_source_end(f.source, &err), &err, "again"))) {
            fuzz_die("a round succeeds after a failure");
        }
    } else if (finish() && fuzz_end(&f.end, f.source, f.main, check)) {
        read_back(true);
    }
}

static void clean_up(void)
{
    for (guint i = 0; i < f.dirtied->len; i++) {
        *g_array_index(f.dirtied, uint8_t *, i) ^= 1;
    }
    g_array_unref(f.dirtied);
    g_hash_table_unref(f.keys);
    g_array_unref(f.said);
    fuzz_mirror_cleanup(&f.mirror);
    fuzz_peer_cleanup(&f.peer);
}

/* Every kind of neighbours: all data, all zero, and mixed */
static void fill_ram(void)
{
    writable = fuzz_ram_fill(blocks, N_BLOCKS);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        uint8_t *at = writable + (blocks[i].host - blocks[0].host);

        for (uint64_t n = 0; n < blocks[i].length / FUZZ_PAGE; n++) {
            uint64_t chunk = n * FUZZ_PAGE / FUZZ_MIB;

            at[n * FUZZ_PAGE] = chunk % 4 == 1 ? 0 :
                                chunk % 4 == 3 ? n % 5 != 0 :
                                chunk % 4 == 2 ? n % 3 != 1 : 1;
        }
    }
}

/*
 * Extensions, by two bytes.  The first: 0 not BATCH, 1 not BUDGET nor HANDOVER
 * (nor BATCH: the source does not offer them), 2-3 what the destination can
 * register, 4-5 what it announces, 6 the source's own limit, 7 the private data
 * are the next 24 choices.  The second: what the source is told about its dirty
 * pages.
 */
static void choose_extensions(RMigSourceConfig *config)
{
    static const uint64_t capacities[] = { 0, 2, 3, 6 };
    uint8_t how = fuzz_choose(), hints = fuzz_choose();
    uint64_t capacity = capacities[how >> 2 & 3] * FUZZ_MIB;
    uint64_t announced[] = { capacity ? capacity : UINT64_MAX, 4 * FUZZ_MIB,
                             UINT64_MAX, 2 * FUZZ_MIB - 1 };
    RMigWirePrivate granted = {
        .version = RMIG_WIRE_VERSION,
        .flags = f.private_data[7] | (how & 1 ? 0 : RMIG_WIRE_FLAG_BATCH) |
                 (how & 2 ? 0 : RMIG_WIRE_FLAG_BUDGET |
                                RMIG_WIRE_FLAG_HANDOVER),
        .pin_bytes = announced[how >> 4 & 3],
    };

    f.private_bytes = rmig_wire_private_pack(f.private_data, &granted);
    config->version_1_only = (how & 3) == 3;
    config->pin_limit = f.pin_limit = how & 64 ? 13 * FUZZ_MIB : 0;
    /* A source that knows of no refusal is told the truth, or has all */
    f.peer.capacity = how & 1 ? 0 : capacity;
    if (how & 128) {
        fuzz_schedule.hostile = true;
        for (unsigned i = 0; i < PRIVATE_BYTES; i++) {
            f.private_data[i] = fuzz_choose();
        }
    }
    /* Too little to begin with */
    fuzz_schedule.hostile |= granted.pin_bytes < 2 * FUZZ_MIB && !(how & 2);
    f.hinted = hints;
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (unsigned n = 0; n < PAGES_MAX / 64; n++) {
            /* By chunks of 256 pages, or in all of them */
            f.dirty[i][n] = hints & 1 || (hints >> (n / 4 % 8) & 1) ? ~0ul : 0;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const FuzzHooks hooks = {
        .registered = registered, .posted = posted, .executed = executed,
        .reply = reply,
    };
    RMigSourceConfig config = { .waiter = fuzz_waiter };
    GError *err = NULL;

    if (!writable) {
        fill_ram();
    }
    fuzz_schedule_init(&role, hooks, data, size);
    memset(&f, 0, sizeof(f));
    fuzz_peer_init(&f.peer, blocks, N_BLOCKS);
    f.keys = g_hash_table_new(NULL, NULL);
    f.said = g_array_new(false, false, sizeof(Said));
    fuzz_mirror_init(&f.mirror, blocks);
    f.dirtied = g_array_new(false, false, sizeof(uint8_t *));
    fuzz_schedule.ending = fuzz_schedule.choice >> 4 & 3;
    config.is_zero = fuzz_schedule.choice & 64 ? NULL : is_zero;
    config.pin_all = fuzz_schedule.choice & 1;
    config.return_path = fuzz_schedule.choice & 2;
    f.private_data[3] = RMIG_WIRE_VERSION;
    f.private_data[7] = fuzz_schedule.choice & 4 ? 0 : 1;
    f.private_bytes = RMIG_WIRE_PRIVATE_BYTES;
    if (fuzz_schedule.choice & 128) {
        choose_extensions(&config);
    }
    f.source = rmig_source_new(&config, &err);
    if (fuzz_check(f.source != NULL, &err, "new")) {
        if (connect_both()) {
            migrate();
        }
        fuzz_schedule_call();
        fuzz_expect_error(f.main, f.failed);
        rmig_source_close(f.source, f.failed);
        fuzz_check_told();
    }
    rmig_source_free(f.source);
    clean_up();
    fuzz_device_cleanup();
    return 0;
}
