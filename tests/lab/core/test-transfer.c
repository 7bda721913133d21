/*
 * Tests on a real RDMA device: whole migrations of the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The source runs in the test's thread, the destination in one of its own, and
 * the return path is read by a third, as in QEMU.  RAM is a few odd blocks of
 * random and of zero pages that change from round to round; the stream carries
 * data before, between and after the rounds.  In the end both must be equal
 * byte for byte, the counters must fit what was sent, and nothing may be left.
 */
#include <string.h>

#include "blocks.h"
#include "serve.h"
#include "verbs.h"

#define PAGE 4096u
#define MIB (1024u * 1024u)
#define ROUNDS 3
/* One page in so many is zero: each lone one costs a round trip */
#define ZERO_SHARE 16
#define MAX_DATA_BYTES (3 * MIB)

/* In the order in which the source announces them; none sorted by anything */
static TestBlock blocks[] = {
    { .name = "pc.ram", .length = 20 * MIB + 5 * PAGE, .offset = 0x10000000 },
    { .name = "tiny", .length = 5000, .offset = 0x1000 },
    { .name = "empty", .length = 0, .offset = 0x9000 },
    { .name = "vga.vram", .length = 2 * MIB - PAGE, .offset = 0x4000000 },
    { .name = "chunk", .length = MIB, .offset = 0x80000000 },
    { .name = "rom", .length = 16 * PAGE, .offset = 0x40000 },
    { .name = "all-zero", .length = 2 * MIB + PAGE, .offset = 0x60000000 },
};
#define N_BLOCKS G_N_ELEMENTS(blocks)
#define ALL_ZERO (N_BLOCKS - 1)

typedef struct Migration {
    int family;
    bool pin_all, return_path, polls, traced;
    RMigSource *source;
    Serve serve;
    GRand *rand;
    GByteArray *sent;
    uint32_t sent_back; /* bytes that the destination was told to send back */
    GThread *reader;
    /* What the counters must show */
    uint64_t data_bytes, data_pages, zero_bytes;
    GHashTable *chunks; /* addresses of chunks with data */
} Migration;

static gint trace_lines;

static void count_line(const char *line)
{
    g_assert_cmpuint(strlen(line), >, 0);
    g_assert_null(strchr(line, '\n'));
    g_atomic_int_inc(&trace_lines);
}

static bool is_zero(const void *host, uint64_t len)
{
    const uint8_t *p = host;

    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* ---- the return path ---- */

/* Reads to the end, in odd portions; the bytes are known beforehand */
static void *read_back(void *opaque)
{
    Migration *m = opaque;
    RMigStream *back = rmig_source_return_stream(m->source);
    uint32_t at = 0;
    uint8_t buf[777];
    GError *err = NULL;
    ssize_t n;

    while ((n = rmig_stream_read(back, buf, sizeof(buf), true, &err)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(buf[i], ==, return_byte(at++));
        }
    }
    g_assert_no_error(err);
    return GUINT_TO_POINTER(at);
}

/* ---- the stream ---- */

static void put(Migration *m, const void *buf, size_t bytes)
{
    GError *err = NULL;

    g_assert_true(rmig_stream_write(rmig_source_stream(m->source), buf, bytes,
                                    &err));
    g_assert_no_error(err);
}

static void order(Migration *m, ServeOrder what, uint32_t number)
{
    uint8_t buf[ORDER_BYTES];

    put(m, buf, order_pack(buf, what, number));
}

static void flush(Migration *m)
{
    GError *err = NULL;

    g_assert_true(rmig_stream_flush(rmig_source_stream(m->source), &err));
    g_assert_no_error(err);
}

static void fill_random(GRand *rand, uint8_t *buf, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += sizeof(uint32_t)) {
        uint32_t number = g_rand_int(rand);

        memcpy(buf + i, &number, MIN(sizeof(number), bytes - i));
    }
}

/* One to MAX_DATA_BYTES of stream bytes, handed over in pieces */
static void put_data(Migration *m, uint32_t bytes)
{
    guint at = m->sent->len;

    order(m, ORDER_DATA, bytes);
    g_byte_array_set_size(m->sent, at + bytes);
    fill_random(m->rand, m->sent->data + at, bytes);
    for (uint32_t done = 0; done < bytes;) {
        uint32_t part = g_rand_int_range(m->rand, 1, MIB);

        part = MIN(part, bytes - done);
        put(m, m->sent->data + at + done, part);
        if (g_rand_int_range(m->rand, 0, 4) == 0) {
            flush(m);
        }
        done += part;
    }
}

static void put_back(Migration *m, uint32_t bytes)
{
    if (m->return_path) {
        order(m, ORDER_RETURN, bytes);
        m->sent_back += bytes;
    }
}

/* ---- memory ---- */

static void exchange(Migration *m)
{
    GError *err = NULL;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        TestBlock *b = &blocks[i];

        order(m, ORDER_NAME, strlen(b->name));
        put(m, b->name, strlen(b->name));
        g_assert_true(rmig_source_add_block(m->source, b->name,
                                            b->length ? b->src : NULL,
                                            b->offset, b->length, &err));
    }
    order(m, ORDER_HOOK, 0);
    flush(m);
    g_assert_true(rmig_source_exchange(m->source, &err));
    g_assert_no_error(err);
    g_assert_true(rmig_source_finish(m->source, &err));
    g_assert_no_error(err);
}

static void send_page(Migration *m, TestBlock *b, uint64_t at)
{
    uint64_t len = MIN(PAGE, b->length - at);
    bool zero = is_zero(b->src + at, len);
    GError *err = NULL;
    RMigPage page = rmig_source_page(m->source, b->offset, at, len, &err);

    g_assert_no_error(err);
    g_assert_cmpint(page, ==, zero ? RMIG_PAGE_ZERO : RMIG_PAGE_DATA);
    if (zero) {
        m->zero_bytes += len;
        return;
    }
    m->data_bytes += len;
    m->data_pages++;
    g_hash_table_add(m->chunks,
                     b->src + rmig_block_chunk_of(at) * RMIG_CHUNK_BYTES);
}

static void rewrite_page(Migration *m, TestBlock *b, uint64_t at)
{
    uint64_t len = MIN(PAGE, b->length - at);

    memset(b->src + at, 0, len);
    if (b != &blocks[ALL_ZERO] &&
        g_rand_int_range(m->rand, 0, ZERO_SHARE) != 0) {
        fill_random(m->rand, b->src + at, len);
    }
}

/*
 * Rewrites some pages and sends them; all of them in the first round.  As a
 * guest's, they have their contents before the first one is sent: the source
 * looks ahead.
 */
static void round_of_pages(Migration *m, unsigned round)
{
    GError *err = NULL;

    order(m, ORDER_HOOK, 0);
    flush(m);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        TestBlock *b = &blocks[i];
        g_autoptr(GArray) dirty = g_array_new(false, false, sizeof(uint64_t));

        for (uint64_t at = 0; at < b->length; at += PAGE) {
            if (round == 0 || g_rand_int_range(m->rand, 0, 4) == 0) {
                rewrite_page(m, b, at);
                g_array_append_val(dirty, at);
            }
        }
        for (unsigned n = 0; n < dirty->len; n++) {
            send_page(m, b, g_array_index(dirty, uint64_t, n));
        }
    }
    g_assert_true(rmig_source_finish(m->source, &err));
    g_assert_no_error(err);
}

/* ---- the whole ---- */

static void migration_begin(Migration *m)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .is_zero = is_zero,
        .pin_all = m->pin_all, .return_path = m->return_path,
    };
    Address address = device_address(m->family, 0);
    GError *err = NULL;

    m->rand = g_rand_new_with_seed(g_test_rand_int());
    m->sent = g_byte_array_new();
    m->chunks = g_hash_table_new(NULL, NULL);
    blocks_alloc(blocks, N_BLOCKS);
    serve_init(&m->serve, &address);
    m->serve.return_path = m->return_path;
    m->serve.polls = m->polls;
    m->serve.blocks = blocks;
    m->serve.n_blocks = N_BLOCKS;
    serve_start(&m->serve);
    m->source = rmig_source_new(&config, &err);
    g_assert_no_error(err);
    address = device_address(m->family, m->serve.port);
    g_assert_true(rmig_source_connect(m->source, address_of(&address), &err));
    g_assert_no_error(err);
    g_assert_cmpint(rmig_source_pins_all(m->source), ==, m->pin_all);
    if (m->return_path) {
        m->reader = g_thread_new("return path", read_back, m);
    }
}

static void check_equal(Migration *m)
{
    g_assert_no_error(m->serve.error);
    g_assert_cmpmem(m->serve.got->data, m->serve.got->len, m->sent->data,
                    m->sent->len);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        /* g_assert_cmpmem() would be no clearer: it prints no offset */
        for (uint64_t at = 0; at < blocks[i].length; at += PAGE) {
            uint64_t len = MIN(PAGE, blocks[i].length - at);

            if (memcmp(blocks[i].src + at, blocks[i].dst + at, len) != 0) {
                g_error("block %s differs in the page at 0x%"
                        G_GINT64_MODIFIER "x", blocks[i].name, (guint64)at);
            }
        }
    }
}

/* @counters: of the source, taken before it was closed */
static void check_counters(Migration *m, const RMigCounters *counters)
{
    uint64_t chunks = g_hash_table_size(m->chunks);

    if (m->pin_all) {
        chunks = 0;
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            chunks += (blocks[i].length + MIB - 1) / MIB;
        }
    }
    g_assert_cmpuint(counters->write_bytes, ==, m->data_bytes);
    g_assert_cmpuint(counters->chunks_registered, ==, chunks);
    g_assert_cmpuint(m->serve.counters.chunks_registered, ==, chunks);
    g_assert_cmpuint(m->serve.zeroed_bytes, ==, m->zero_bytes);
    /* Neighbours are merged; with random pages, to less than three quarters */
    g_assert_cmpuint(counters->writes, >, 0);
    g_assert_cmpuint(counters->writes, <, m->data_pages * 3 / 4);
    g_assert_cmpuint(counters->zero_runs, >, 0);
    g_assert_cmpuint(counters->zero_runs, <, m->zero_bytes / PAGE);
    /* A message for each zero run, and less than 64 bytes for each message */
    g_assert_cmpuint(counters->control_messages, >, counters->zero_runs);
    g_assert_cmpuint(counters->control_bytes, <,
                     64 * counters->control_messages);
    g_test_message("%" G_GUINT64_FORMAT " KiB in %" G_GUINT64_FORMAT
                   " writes, %" G_GUINT64_FORMAT " zero runs, %"
                   G_GUINT64_FORMAT " chunks, %u KiB of stream",
                   (guint64)counters->write_bytes / 1024,
                   (guint64)counters->writes, (guint64)counters->zero_runs,
                   (guint64)chunks, m->sent->len / 1024);
}

static void migration_end(Migration *m)
{
    RMigCounters counters;

    order(m, ORDER_END, 0);
    flush(m);
    rmig_source_counters(m->source, &counters);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), >, 0);
    serve_end(&m->serve);
    if (m->reader) {
        g_assert_cmpuint(GPOINTER_TO_UINT(g_thread_join(m->reader)), ==,
                         m->sent_back);
    }
    rmig_source_close(m->source, false);
    check_equal(m);
    check_counters(m, &counters);
    rmig_source_free(m->source);
    serve_cleanup(&m->serve);
    blocks_free(blocks, N_BLOCKS);
    g_hash_table_destroy(m->chunks);
    g_byte_array_free(m->sent, true);
    g_rand_free(m->rand);
}

static void test_migration(gconstpointer data)
{
    static const uint32_t sizes[] = { 1, 2, 15, 4095, 32768, 65537 };
    Migration m = *(const Migration *)data;
    Held held = held_now();

    if (!device_has(m.family)) {
        return;
    }
    rmig_trace = m.traced ? count_line : NULL;
    migration_begin(&m);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        put_data(&m, sizes[i]);
    }
    put_back(&m, 1);
    exchange(&m);
    for (unsigned round = 0; round < ROUNDS; round++) {
        put_data(&m, g_rand_int_range(m.rand, 1, 100000));
        round_of_pages(&m, round);
        put_back(&m, 10000);
    }
    put_data(&m, MAX_DATA_BYTES);
    put_back(&m, 600000);
    migration_end(&m);
    rmig_trace = NULL;
    g_assert_cmpint(g_atomic_int_get(&trace_lines) > 0, ==, m.traced);
    g_atomic_int_set(&trace_lines, 0);
    held_check(held);
}

/* Nothing but a stream, as without any RAM */
static void test_stream_only(gconstpointer data)
{
    Migration m = *(const Migration *)data;
    Held held = held_now();

    if (!device_has(m.family)) {
        return;
    }
    migration_begin(&m);
    put_data(&m, MAX_DATA_BYTES);
    put_back(&m, MAX_DATA_BYTES);
    order(&m, ORDER_END, 0);
    flush(&m);
    serve_end(&m.serve);
    g_assert_cmpuint(GPOINTER_TO_UINT(g_thread_join(m.reader)), ==,
                     m.sent_back);
    rmig_source_close(m.source, false);
    g_assert_no_error(m.serve.error);
    g_assert_cmpmem(m.serve.got->data, m.serve.got->len, m.sent->data,
                    m.sent->len);
    rmig_source_free(m.source);
    serve_cleanup(&m.serve);
    blocks_free(blocks, N_BLOCKS);
    g_hash_table_destroy(m.chunks);
    g_byte_array_free(m.sent, true);
    g_rand_free(m.rand);
    held_check(held);
}

static const struct {
    const char *path;
    Migration migration;
} migrations[] = {
    { "/transfer/dynamic", { .family = AF_INET } },
    { "/transfer/pin-all", { .family = AF_INET, .pin_all = true } },
    { "/transfer/return-path",
      { .family = AF_INET6, .return_path = true, .polls = true } },
    { "/transfer/pin-all-return-path-traced",
      { .family = AF_INET6, .pin_all = true, .return_path = true,
        .traced = true } },
};

int main(int argc, char **argv)
{
    static const Migration stream_only = {
        .family = AF_INET, .return_path = true,
    };

    device_test_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(migrations); i++) {
        g_test_add_data_func(migrations[i].path, &migrations[i].migration,
                             test_migration);
    }
    g_test_add_data_func("/transfer/stream-only", &stream_only,
                         test_stream_only);
    return g_test_run();
}
