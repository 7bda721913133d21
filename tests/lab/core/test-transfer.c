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
 *
 * Either side may be one of version 1, may have little to pin, or a device that
 * is slow to register, refuses now and then or has few regions.  Both sides are
 * one process, and so are their devices.
 */
#include <glib/gstdio.h>
#include <unistd.h>
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
#define PC_RAM 0
#define RAM_BYTES (20 * MIB + 5 * PAGE)
#define LARGE_RAM_BYTES (64 * MIB + 5 * PAGE)
#define N_BLOCKS G_N_ELEMENTS(blocks)
#define ALL_ZERO (N_BLOCKS - 1)

typedef struct Migration {
    int family;
    bool pin_all, return_path, polls, traced;
    bool large; /* more RAM than may be pinned */
    bool source_1, dest_1; /* of version 1 */
    bool here;  /* no threads that register */
    uint64_t source_limit, dest_limit; /* bytes that may be pinned; 0: any */
    const char *fault; /* for verbsim, from the first page on */
    bool refuses;      /* ... and registrations fail by it */
    RMigSource *source;
    Serve serve;
    GRand *rand;
    GByteArray *sent;
    uint32_t sent_back; /* bytes that the destination was told to send back */
    GThread *reader;
    /* What the counters must show */
    uint64_t data_bytes, data_pages, zero_bytes;
    GHashTable *chunks; /* addresses of chunks with data */
    unsigned long *dirty[N_BLOCKS]; /* a bit for each page to be sent */
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

#define WORD_BITS (8 * sizeof(unsigned long))

static void hint(Migration *m, unsigned i)
{
    m->dirty[i] = g_new0(unsigned long,
                         blocks[i].length / PAGE / WORD_BITS + 1);
    rmig_source_hint_block(m->source, blocks[i].offset, &(RMigBlockHints) {
        .dirty = m->dirty[i], .page_shift = 12,
    });
}

static unsigned long *dirty_word(Migration *m, unsigned i, uint64_t at)
{
    return &m->dirty[i][at / PAGE / WORD_BITS];
}

static unsigned long dirty_bit(uint64_t at)
{
    return 1ul << (at / PAGE % WORD_BITS);
}

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
        hint(m, i);
    }
    order(m, ORDER_HOOK, 0);
    flush(m);
    g_assert_true(rmig_source_exchange(m->source, &err));
    g_assert_no_error(err);
    g_assert_true(rmig_source_finish(m->source, &err));
    g_assert_no_error(err);
}

static void send_page(Migration *m, unsigned i, uint64_t at)
{
    TestBlock *b = &blocks[i];
    uint64_t len = MIN(PAGE, b->length - at);
    bool zero = is_zero(b->src + at, len);
    GError *err = NULL;
    RMigPage page;

    *dirty_word(m, i, at) &= ~dirty_bit(at);
    page = rmig_source_page(m->source, b->offset, at, len, &err);
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
        for (uint64_t at = 0; at < blocks[i].length; at += PAGE) {
            if (round == 0 || g_rand_int_range(m->rand, 0, 4) == 0) {
                rewrite_page(m, &blocks[i], at);
                *dirty_word(m, i, at) |= dirty_bit(at);
            }
        }
    }
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t at = 0; at < blocks[i].length; at += PAGE) {
            if (*dirty_word(m, i, at) & dirty_bit(at)) {
                send_page(m, i, at);
            }
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
        .pin_limit = m->source_limit, .version_1_only = m->source_1,
        .register_threads = m->here ? 0 : RMIG_REGISTER_THREADS,
    };
    RMigDestConfig wishes = {
        .pin_limit = m->dest_limit, .version_1_only = m->dest_1,
        .register_threads = config.register_threads,
    };
    Address address = device_address(m->family, 0);
    GError *err = NULL;

    m->rand = g_rand_new_with_seed(g_test_rand_int());
    m->sent = g_byte_array_new();
    m->chunks = g_hash_table_new(NULL, NULL);
    blocks[PC_RAM].length = m->large ? LARGE_RAM_BYTES : RAM_BYTES;
    blocks_alloc(blocks, N_BLOCKS);
    serve_init_with(&m->serve, &address, &wishes);
    m->serve.return_path = m->return_path;
    m->serve.polls = m->polls;
    m->serve.may_warn = m->refuses;
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

static uint64_t all_chunks(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        sum += (blocks[i].length + MIB - 1) / MIB;
    }
    return sum;
}

/* @c: of one side; @limit: of that side */
static void check_registered(Migration *m, const RMigCounters *c,
                             uint64_t limit)
{
    bool extended = !m->source_1 && !m->dest_1;

    g_assert_cmpuint(c->extensions, ==, extended ? RMIG_EXTENSION_BATCH |
                                                   RMIG_EXTENSION_BUDGET |
                                                   RMIG_EXTENSION_HANDOVER :
                    0);
    g_assert_cmpint(c->pins_all, ==, m->pin_all);
    if (m->pin_all && !extended) {
        g_assert_cmpuint(c->chunks_registered, ==, all_chunks());
    } else {
        g_assert_cmpuint(c->chunks_registered, >=,
                         g_hash_table_size(m->chunks));
    }
    if (limit) {
        g_assert_cmpuint(c->pin_limit, ==, limit);
    } else if (!m->source_limit && !m->dest_limit && !m->fault) {
        g_assert_cmpuint(c->chunks_registered, <=, all_chunks());
        g_assert_cmpuint(c->chunks_evicted, ==, 0);
    }
}

/* @c: of the source, taken before it was closed */
static void check_counters(Migration *m, const RMigCounters *c)
{
    check_registered(m, c, m->source_limit);
    check_registered(m, &m->serve.counters, m->dest_limit);
    if (m->source_limit && m->dest_limit) {
        g_assert_cmpuint(c->pinned_peak, <=, m->source_limit + m->dest_limit);
    }
    if (m->dest_limit) {
        g_assert_cmpuint(c->peer_pinned_peak, <=, c->peer_pin_limit);
    }
    if (m->large && (m->source_limit || m->dest_limit)) {
        g_assert_cmpuint(c->chunks_evicted, >, 0);
        g_assert_cmpuint(c->chunks_again, >, 0);
    }
    g_assert_cmpint(c->chunks_refused + m->serve.counters.chunks_refused > 0,
                    ==, m->refuses);
    /* The user is told, but only once */
    g_assert_cmpuint(m->serve.warnings, ==,
                     m->serve.counters.chunks_refused > 0);
    /* Small holes of zeros are written with what is around them */
    g_assert_cmpuint(c->write_bytes, >=, m->data_bytes);
    g_assert_cmpuint(c->write_bytes + m->serve.zeroed_bytes, ==,
                     m->data_bytes + m->zero_bytes);
    /* Neighbours are merged; with random pages, to less than three quarters */
    g_assert_cmpuint(c->writes, >, 0);
    g_assert_cmpuint(c->writes, <, m->data_pages * 3 / 4);
    g_assert_cmpuint(c->zero_runs, >, 0);
    g_assert_cmpuint(c->zero_runs, <, m->zero_bytes / PAGE);
    g_assert_cmpuint(c->control_messages, >, 0);
    g_assert_cmpuint(c->control_bytes, <,
                     64 * (c->control_messages + c->zero_runs +
                           c->chunks_registered + c->chunks_evicted +
                           c->chunks_refused));
    g_test_message("%" G_GUINT64_FORMAT " KiB in %" G_GUINT64_FORMAT
                   " writes, %" G_GUINT64_FORMAT " zero runs, %"
                   G_GUINT64_FORMAT " chunks, %" G_GUINT64_FORMAT " evicted, %"
                   G_GUINT64_FORMAT " refused, %u KiB of stream",
                   (guint64)c->write_bytes / 1024, (guint64)c->writes,
                   (guint64)c->zero_runs, (guint64)c->chunks_registered,
                   (guint64)c->chunks_evicted, (guint64)c->chunks_refused,
                   m->sent->len / 1024);
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
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_free(m->dirty[i]);
    }
    g_hash_table_destroy(m->chunks);
    g_byte_array_free(m->sent, true);
    g_rand_free(m->rand);
}

/* Whether verbsim is there, whose devices fail when they are told to */
static bool can_fail(void)
{
    if (device_is_verbsim()) {
        return true;
    }
    g_test_skip("it needs a device that fails on demand: "
                "scripts/verbsim tests/lab/core-tests");
    return false;
}

static void test_migration(gconstpointer data)
{
    static const uint32_t sizes[] = { 1, 2, 15, 4095, 32768, 65537 };
    Migration m = *(const Migration *)data;
    Held held = held_now();

    if (!device_has(m.family) || (m.fault && !can_fail())) {
        return;
    }
    rmig_trace = m.traced ? count_line : NULL;
    migration_begin(&m);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        put_data(&m, sizes[i]);
    }
    put_back(&m, 1);
    exchange(&m);
    if (m.fault) {
        device_tell_verbsim(getpid(), m.fault);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        put_data(&m, g_rand_int_range(m.rand, 1, 100000));
        round_of_pages(&m, round);
        put_back(&m, 10000);
    }
    put_data(&m, MAX_DATA_BYTES);
    put_back(&m, 600000);
    migration_end(&m);
    if (m.fault) {
        device_tell_verbsim(getpid(), "clear");
    }
    held_check(held);
    rmig_trace = NULL;
    g_assert_cmpint(g_atomic_int_get(&trace_lines) > 0, ==, m.traced);
    g_atomic_int_set(&trace_lines, 0);
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
    { "/transfer/without-threads", { .family = AF_INET, .here = true } },
    { "/transfer/version-1/source", { .family = AF_INET, .source_1 = true } },
    { "/transfer/version-1/destination",
      { .family = AF_INET, .dest_1 = true } },
    { "/transfer/version-1/both",
      { .family = AF_INET, .source_1 = true, .dest_1 = true } },
    { "/transfer/version-1/source-pin-all",
      { .family = AF_INET, .source_1 = true, .pin_all = true } },
    { "/transfer/version-1/destination-pin-all",
      { .family = AF_INET, .dest_1 = true, .pin_all = true } },
    { "/transfer/version-1/both-pin-all",
      { .family = AF_INET, .source_1 = true, .dest_1 = true,
        .pin_all = true } },
    { "/transfer/limit/source",
      { .family = AF_INET, .large = true, .source_limit = 24 * MIB } },
    { "/transfer/limit/destination",
      { .family = AF_INET, .large = true, .dest_limit = 24 * MIB } },
    { "/transfer/limit/both",
      { .family = AF_INET, .large = true, .source_limit = 40 * MIB,
        .dest_limit = 20 * MIB } },
    { "/transfer/limit/least",
      { .family = AF_INET, .large = true, .return_path = true,
        .source_limit = 20 * MIB, .dest_limit = 16 * MIB } },
    { "/transfer/limit/without-threads",
      { .family = AF_INET, .large = true, .here = true,
        .source_limit = 24 * MIB, .dest_limit = 24 * MIB } },
    { "/transfer/limit/version-1",
      { .family = AF_INET, .large = true, .dest_1 = true,
        .source_limit = 24 * MIB } },
    { "/transfer/slow", { .family = AF_INET, .fault =
      "on register every 1: delay 5ms" } },
    { "/transfer/slow-limit",
      { .family = AF_INET, .large = true, .source_limit = 24 * MIB,
        .fault = "on register every 1: delay 2ms" } },
    { "/transfer/refused",
      { .family = AF_INET, .large = true, .refuses = true,
        .fault = "on register random 0.1: fail ENOMEM" } },
    { "/transfer/refused-limit",
      { .family = AF_INET, .large = true, .source_limit = 32 * MIB,
        .dest_limit = 32 * MIB, .refuses = true,
        .fault = "on register random 0.1: fail ENOMEM" } },
};

/*
 * A device with few regions, which verbsim has from the beginning of a process.
 * Here it is one for both sides.
 */
#define FEW_PROFILE "max-mr = 12\n"

static void test_few_regions(void)
{
    static const Migration few = {
        .family = AF_INET, .large = true, .refuses = true, .fault = "clear",
    };

    test_migration(&few);
}

static void test_few_regions_in_child(void)
{
    g_autofree char *profile = NULL;
    GError *err = NULL;
    int fd;

    if (!can_fail()) {
        return;
    }
    fd = g_file_open_tmp("rmig-few-XXXXXX", &profile, &err);
    g_assert_no_error(err);
    g_assert_cmpint(write(fd, FEW_PROFILE, strlen(FEW_PROFILE)), ==,
                    strlen(FEW_PROFILE));
    close(fd);
    g_setenv("VERBSIM_PROFILE", profile, true);
    g_test_trap_subprocess("/transfer/few-regions/subprocess", 0,
                           G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_unsetenv("VERBSIM_PROFILE");
    g_unlink(profile);
    g_test_trap_assert_passed();
}


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
    g_test_add_func("/transfer/few-regions", test_few_regions_in_child);
    g_test_add_func("/transfer/few-regions/subprocess", test_few_regions);
    return g_test_run();
}
