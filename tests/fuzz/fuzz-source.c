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
 * where the destination said, with a key that it gave; zero runs name pages
 * that were handed over and are zero; nothing is registered for the peer, nor
 * more than a span; a round that succeeds has brought every page; nothing but
 * ERROR leaves after a failure; with an honest destination nothing fails.
 *
 * The last byte's bits (see schedule.h): 0 pin-all, 1 return path, 2 pin-all
 * is not granted, 3 the connection itself is part of the schedule, 4-5
 * FuzzEnding, 6 no zero detection.  The other choices: see Face.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "peer.h"
#include "ram.h"
#include "schedule.h"

#define N_BLOCKS 4
#define PAGES_MAX (16 * FUZZ_MIB / FUZZ_PAGE)
/* What the source registers together at the most; bytes */
#define SPAN_MAX (8 * FUZZ_MIB)

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
    bool pinned;
    bool round_open; /* pages were handed over */
    uint8_t page[N_BLOCKS][PAGES_MAX]; /* of Page */
    bool asked[N_BLOCKS][16]; /* by chunk: REGISTER was sent */
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
    fuzz_peer_take(&f.peer, &msg, qp != f.main);
}

/* Remembers what the destination has said, true or not */
static void arriving(FuzzQp *qp, const uint8_t *data, size_t bytes)
{
    RMigWireMessage msg;

    if (qp != f.main || !rmig_wire_message_unpack(data, bytes, &msg, NULL)) {
        return;
    }
    if (msg.type == RMIG_WIRE_REGISTER_RESULT) {
        RMigWireResult result;

        rmig_wire_result_unpack(&msg, 0, &result);
        g_hash_table_add(f.keys, GUINT_TO_POINTER(result.rkey));
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
    if (block && mr->mr.length > SPAN_MAX &&
        !(f.pinned && mr->mr.length == block->length)) {
        fuzz_die("%zu bytes of RAM are registered at once", mr->mr.length);
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
        if (f.page[index_of(block)][at / FUZZ_PAGE] != PAGE_DATA) {
            fuzz_die("page %" G_GUINT64_FORMAT " of %s is written, but was "
                     "not handed over", (guint64)(at / FUZZ_PAGE),
                     block->name);
        }
        if (!f.pinned && !f.asked[index_of(block)][at / FUZZ_MIB]) {
            fuzz_die("a write without a registration");
        }
    }
}

static void check_zero_run(const RMigWireMessage *msg)
{
    const FuzzBlock *block;
    RMigWireZeroRun run;

    rmig_wire_zero_run_unpack(msg, 0, &run);
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

static void check_register(const RMigWireMessage *msg)
{
    RMigWireRegister reg;
    uint64_t chunk;

    rmig_wire_register_unpack(msg, 0, &reg);
    if (reg.block >= N_BLOCKS || msg->n_records != 1) {
        fuzz_die("a stock destination cannot answer this REGISTER");
    }
    chunk = offset_in(reg.block, reg.key) / FUZZ_MIB;
    for (uint64_t c = chunk; c <= chunk + reg.chunks; c++) {
        if (c * FUZZ_MIB >= blocks[reg.block].length) {
            fuzz_die("a chunk is asked for that does not exist");
        }
        f.asked[reg.block][c] = true;
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
    switch (msg.type) {
    case RMIG_WIRE_COMPRESS:
        check_zero_run(&msg);
        break;
    case RMIG_WIRE_REGISTER_REQUEST:
        check_register(&msg);
        break;
    case RMIG_WIRE_REGISTER_FINISHED:
        check_finished(qp);
        break;
    default:
        break;
    }
}

static const void *reply(int *type, int *status, uint8_t *len)
{
    static uint8_t grants[8] = { 0, 0, 0, 1, 0, 0, 0, 0 };

    (void)type;
    (void)status;
    grants[7] = fuzz_schedule.choice & 4 ? 0 : 1;
    *len = sizeof(grants);
    return grants;
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
            if (f.page[i][n] == PAGE_DATA || f.page[i][n] == PAGE_ZERO) {
                fuzz_die("the round is over, but page %" G_GUINT64_FORMAT
                         " of %s was not sent", (guint64)n, blocks[i].name);
            }
        }
        memset(f.page[i], PAGE_IDLE, sizeof(f.page[i]));
    }
    f.round_open = false;
    return true;
}

/* After it the return path must bring something, or end */
static bool end(void)
{
    GError *err = NULL;

    fuzz_schedule_call();
    return check(rmig_source_end(f.source, &err), &err, "end", f.main);
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
    }
    fuzz_schedule_call();
    return check(rmig_source_exchange(f.source, &err), &err, "exchange",
                 f.main) && finish();
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
    f.pinned = rmig_source_pins_all(f.source);
    if (f.pinned && !(fuzz_schedule.choice & 1)) {
        fuzz_die("pin-all is on, but was not asked for");
    }
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
    } else if (finish() && end()) {
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
    f.dirtied = g_array_new(false, false, sizeof(uint8_t *));
    fuzz_schedule.ending = fuzz_schedule.choice >> 4 & 3;
    config.is_zero = fuzz_schedule.choice & 64 ? NULL : is_zero;
    config.pin_all = fuzz_schedule.choice & 1;
    config.return_path = fuzz_schedule.choice & 2;
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
