/*
 * rdma-bench: the source's process
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Does to the core what ram.c and migration/rdma.c do: a section of a round is
 * announced by the hook's flag, which is flushed; its pages follow in ascending
 * order, each one's dirty bit cleared before it is handed over; it ends after
 * slice_ms, with rmig_source_finish(), and what the stream has to say of that
 * leaves with the next flush.  The last round is the one with the guest
 * stopped, and is not sliced.
 *
 * The guest of the bench writes between the rounds.  That time is not counted.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

#define BITS (8 * sizeof(unsigned long))
/* How often ram.c looks at the clock */
#define PAGES_A_LOOK 64

static struct {
    RMigSource *rmig;
    BenchSource result;
    unsigned long *dirty[BENCH_MAX_BLOCKS];
    uint64_t remaining; /* pages that are dirty */
    /* Where the round has got to */
    unsigned block;
    uint64_t page;
} src;

/* ---- the dirty bitmap ---- */

static uint64_t pages_of(unsigned block)
{
    return memory.blocks[block].length >> BENCH_PAGE_SHIFT;
}

static void set_dirty(unsigned block, uint64_t page)
{
    unsigned long bit = 1ul << (page % BITS);
    unsigned long *word = &src.dirty[block][page / BITS];

    src.remaining += !(*word & bit);
    *word |= bit;
}

static void clear_dirty(unsigned block, uint64_t page)
{
    /* The core reads along */
    __atomic_fetch_and(&src.dirty[block][page / BITS],
                       ~(1ul << (page % BITS)), __ATOMIC_RELAXED);
    src.remaining--;
}

/* The next dirty page of @block from @page on, or pages_of() */
static uint64_t next_dirty(unsigned block, uint64_t page)
{
    uint64_t end = pages_of(block);

    while (page < end) {
        unsigned long word = src.dirty[block][page / BITS] >> (page % BITS);

        if (word) {
            return MIN(end, page + __builtin_ctzl(word));
        }
        page += BITS - page % BITS;
    }
    return end;
}

static void make_all_dirty(void)
{
    for (unsigned i = 0; i < memory.n; i++) {
        uint64_t words = (pages_of(i) + BITS - 1) / BITS;

        src.dirty[i] = g_new(unsigned long, words);
        memset(src.dirty[i], 0xff, words * sizeof(unsigned long));
        if (pages_of(i) % BITS) {
            src.dirty[i][words - 1] = (1ul << (pages_of(i) % BITS)) - 1;
        }
        src.remaining += pages_of(i);
    }
}

/* To the next page that is hit, if each is with probability @percent */
static uint64_t gap(GRand *rand, double percent)
{
    double u = 1 - g_rand_double(rand);

    return percent >= 100 ? 1 : 1 + log(u) / log1p(-percent / 100);
}

/* What the guest does until round @round */
static void write_as_guest(unsigned round)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(round);
    uint64_t hot = bench.hot_bytes >> BENCH_PAGE_SHIFT;

    for (unsigned i = 0; i < memory.n && bench.dirty != DIRTY_NONE; i++) {
        bool random = bench.dirty == DIRTY_RANDOM;
        uint64_t end = random ? pages_of(i) : MIN(hot, pages_of(i));
        uint64_t page = random ? gap(rand, bench.dirty_percent) - 1 : 0;

        while (page < end) {
            memory_rewrite(&memory.blocks[i], page, round);
            set_dirty(i, page);
            page += random ? gap(rand, bench.dirty_percent) : 1;
        }
        hot -= random ? 0 : end;
    }
    memory_all_rewritten();
}

/* ---- the stream ---- */

static void put(const void *buf, size_t size)
{
    GError *err = NULL;

    if (!rmig_stream_write(rmig_source_stream(src.rmig), buf, size, &err)) {
        fail_on(err);
    }
}

static void put_order(BenchOrder order)
{
    uint8_t byte = order;

    put(&byte, 1);
}

static void flush(void)
{
    GError *err = NULL;

    if (!rmig_stream_flush(rmig_source_stream(src.rmig), &err)) {
        fail_on(err);
    }
}

static void hook(void)
{
    put_order(ORDER_HOOK);
    flush();
}

static void finish(void)
{
    GError *err = NULL;

    if (!rmig_source_finish(src.rmig, &err)) {
        fail_on(err);
    }
    put_order(ORDER_MARK);
}

/* ---- setup ---- */

static void connect_to(uint16_t port)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter,
        .is_zero = bench.no_zero_check ? NULL : memory_is_zero,
        .pin_all = bench.pin_all,
        .pin_limit = bench.pin_limit,
        .register_threads = bench.threads,
        .version_1_only = bench.version_1,
    };
    GError *err = NULL;

    src.rmig = rmig_source_new(&config, &err);
    fail_on(err);
    src.result.connect_ns = now_ns();
    if (!rmig_source_connect(src.rmig, bench_address(port), &err)) {
        fail_on(err);
    }
    src.result.connected_ns = now_ns();
    src.result.pins_all = rmig_source_pins_all(src.rmig);
}

static void hint(unsigned i)
{
    RMigBlockHints hints = {
        .dirty = src.dirty[i],
        .page_shift = BENCH_PAGE_SHIFT,
        /* Memory that is not there has its contents from a pattern */
        .anonymous = !bench.sparse || bench.fill == FILL_UNTOUCHED,
        /* As QEMU's clear bitmap has it by default */
        .clear_bytes = UINT64_C(1) << 30,
    };

    if (!bench.no_hints) {
        rmig_source_hint_block(src.rmig, memory.blocks[i].offset, &hints);
    }
}

static void exchange(void)
{
    GError *err = NULL;

    for (uint32_t i = 0; i < memory.n; i++) {
        g_autofree char *name = g_strdup_printf("bench.%u", i);
        BenchBlock *b = &memory.blocks[i];

        put_order(ORDER_BLOCK);
        put(&i, sizeof(i));
        if (!rmig_source_add_block(src.rmig, name, b->host, b->offset,
                                   b->length, &err)) {
            fail_on(err);
        }
        hint(i);
    }
    hook();
    if (!rmig_source_exchange(src.rmig, &err)) {
        fail_on(err);
    }
    finish();
}

/* ---- rounds ---- */

/* At the first page, and now and then: what is measured once */
static void note_first(void)
{
    BenchSource *r = &src.result;
    RMigCounters counters;

    if (!r->first_page_ns) {
        r->first_page_ns = now_ns();
    }
    if (!r->first_write_ns) {
        rmig_source_counters(src.rmig, &counters);
        r->first_write_ns = counters.writes ? now_ns() : 0;
    }
}

static void send_page(void)
{
    BenchBlock *b = &memory.blocks[src.block];
    GError *err = NULL;

    clear_dirty(src.block, src.page);
    if (rmig_source_page(src.rmig, b->offset, src.page << BENCH_PAGE_SHIFT,
                         BENCH_PAGE, &err) == RMIG_PAGE_FAILED) {
        fail_on(err);
    }
}

/* False at the end of the round */
static bool send_section(bool sliced)
{
    uint64_t end_ns = now_ns() + bench.slice_ms * UINT64_C(1000000);
    uint64_t pages = 0;
    bool look;

    while (src.block < memory.n) {
        src.page = next_dirty(src.block, src.page);
        if (src.page == pages_of(src.block)) {
            src.block++;
            src.page = 0;
            continue;
        }
        look = pages++ % PAGES_A_LOOK == 0;
        if (look && sliced && now_ns() >= end_ns) {
            return true;
        }
        send_page();
        src.page++;
        if (look) {
            note_first();
            timeline_remaining(src.remaining);
        }
    }
    return false;
}

static void send_round(unsigned round)
{
    bool last = bench.rounds > 0 && round == (unsigned)bench.rounds;
    uint64_t start = now_ns(), cpu = thread_cpu_ns();
    uint64_t bytes = rmig_source_sent_bytes(src.rmig);
    BenchRound *r = &src.result.round[round];
    bool more;

    r->pages = src.remaining;
    src.block = src.page = 0;
    do {
        hook();
        more = send_section(bench.slice_ms > 0 && !last);
        finish();
    } while (more);
    timeline_remaining(src.remaining);
    r->ns = now_ns() - start;
    r->cpu_ns = thread_cpu_ns() - cpu;
    r->bytes = rmig_source_sent_bytes(src.rmig) - bytes;
    src.result.rounds++;
    /* It may have left with the end of the round */
    note_first();
}

static void send_rounds(void)
{
    for (unsigned round = 0; round <= (unsigned)bench.rounds; round++) {
        if (round > 0) {
            uint64_t start = now_ns();

            write_as_guest(round);
            src.result.paused_ns += now_ns() - start;
        }
        send_round(round);
    }
    src.result.landed_ns = now_ns();
    src.result.bytes = rmig_source_sent_bytes(src.rmig);
}

/* ---- the end ---- */

static void send_device(void)
{
    uint64_t left = bench.stream_bytes;
    g_autofree uint8_t *piece = g_malloc(BENCH_STREAM_PIECE);

    memset(piece, 0x5a, BENCH_STREAM_PIECE);
    src.result.stream_ns = now_ns();
    put_order(ORDER_STREAM);
    put(&left, sizeof(left));
    while (left > 0) {
        size_t part = MIN(left, BENCH_STREAM_PIECE);

        put(piece, part);
        left -= part;
    }
}

static void end(void)
{
    GError *err = NULL;

    if (bench.stream_bytes > 0) {
        send_device();
    }
    put_order(ORDER_END);
    if (!rmig_source_end(src.rmig, &err)) {
        fail_on(err);
    }
    src.result.end_ns = now_ns();
    rmig_source_counters(src.rmig, &src.result.counters);
    timeline_stop();
    src.result.close_ns = now_ns();
    rmig_source_close(src.rmig, false);
    src.result.closed_ns = now_ns();
}

void source_main(unsigned run, uint16_t port, int fd)
{
    BenchMeter meter;
    uint64_t cpu;

    role = "source";
    src.result.load = load_average();
    memory_map();
    memory_fill();
    make_all_dirty();
    meter_start(&meter);
    cpu = thread_cpu_ns();
    connect_to(port);
    timeline_remaining(src.remaining);
    timeline_start(src.rmig, run, src.result.connect_ns);
    exchange();
    send_rounds();
    end();
    src.result.thread_cpu_ns = thread_cpu_ns() - cpu;
    src.result.usage = meter_stop(&meter);
    rmig_source_free(src.rmig);
    if (bench.verify) {
        memory_checksum(src.result.sums);
    }
    for (unsigned i = 0; i < memory.n; i++) {
        g_free(src.dirty[i]);
    }
    write_all(fd, &src.result, sizeof(src.result));
    exit(0);
}
