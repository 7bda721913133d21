/*
 * Unit tests of the source: exchange, pages, rounds, hostile destinations
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs.  The peer is a destination in miniature:
 * its memory receives the writes and zero runs, and is compared at the end.
 */
#include "blocks.h"
#include "control.h"
#include "fake-link.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)
#define N_BLOCKS 3
#define REMOTE_BASE UINT64_C(0x550000000000)

typedef struct Block {
    const char *name;
    uint64_t offset;        /* at the source */
    uint64_t remote_offset; /* at the destination */
    uint64_t length;
    uint8_t *ours;
    uint8_t *theirs;
    uint64_t remote_host;
} Block;

/* What the destination does wrong, if anything */
typedef enum Vice {
    HONEST,
    RESULT_ZERO_KEY,
    RESULT_WRONG_ADDRESS,
    BLOCKS_ONE_MISSING,
    BLOCKS_WRONG_LENGTH,
    BLOCKS_NO_KEYS,
    GIVES_UP,
    SAYS_NOTHING,
} Vice;

typedef struct Fixture {
    RMigSource *source;
    RMigLink *link; /* the main connection, until the source is closed */
    RMigVerbs *verbs;
    Block block[N_BLOCKS];
    Vice vice;
    bool pinned;
    /* By chunk, by the destination: its span's first chunk + 1, or 0 */
    uint8_t *registered[N_BLOCKS];
    unsigned seen[RMIG_WIRE_TYPES]; /* messages, by type */
    uint64_t zeroed_bytes;
    uint64_t longest_run;
} Fixture;

/* ---- the destination in miniature ---- */

static Block *block_at(Fixture *f, uint64_t remote_addr, uint64_t *offset)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        Block *b = &f->block[i];

        if (remote_addr >= b->remote_host &&
            remote_addr - b->remote_host < b->length) {
            *offset = remote_addr - b->remote_host;
            return b;
        }
    }
    g_assert_not_reached(); /* a write to nowhere */
}

static uint32_t key_of(const Fixture *f, unsigned block, uint64_t chunk)
{
    return f->pinned ? 0x9000 + block : 0x10000 * (block + 1) + chunk;
}

/* A write lands: a device would refuse it without the right key */
static void landed(void *opaque, const FakePost *write)
{
    Fixture *f = opaque;
    uint64_t offset;
    Block *b = block_at(f, write->remote_addr, &offset);
    unsigned i = b - f->block;
    uint64_t chunk = rmig_block_chunk_of(offset);

    g_assert_cmpuint(write->bytes, <=, b->length - offset);
    g_assert_cmpuint(rmig_block_chunk_of(offset + write->bytes - 1), ==,
                     chunk);
    g_assert_true(f->pinned || f->registered[i][chunk]);
    g_assert_cmphex(write->rkey, ==,
                    key_of(f, i, f->pinned ? 0 :
                                 f->registered[i][chunk] - 1u));
    memcpy(b->theirs + offset, write->addr, write->bytes);
}

static void script_blocks(Fixture *f, RMigLink *link)
{
    uint8_t data[N_BLOCKS * RMIG_WIRE_BLOCK_BYTES];
    unsigned n = N_BLOCKS - (f->vice == BLOCKS_ONE_MISSING);

    for (unsigned i = 0; i < n; i++) {
        const Block *b = &f->block[i];
        RMigWireBlock record = {
            .host_addr = b->remote_host,
            .offset = b->remote_offset,
            .length = b->length + (f->vice == BLOCKS_WRONG_LENGTH),
            .rkey = f->pinned && f->vice != BLOCKS_NO_KEYS ?
                    key_of(f, i, 0) : 0,
        };

        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES, &record);
    }
    fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT, data,
                                             n * RMIG_WIRE_BLOCK_BYTES, 1));
}

static void script_result(Fixture *f, RMigLink *link,
                          const RMigWireMessage *msg)
{
    uint8_t data[RMIG_WIRE_RESULT_BYTES];
    RMigWireRegister reg;
    const Block *b;
    uint64_t chunk;

    /* what stock peers can do: one record, one answer */
    g_assert_cmpuint(msg->n_records, ==, 1);
    rmig_wire_register_unpack(msg, 0, &reg);
    g_assert_cmpuint(reg.block, <, N_BLOCKS);
    b = &f->block[reg.block];
    g_assert_cmphex(reg.key, >=, b->remote_offset);
    g_assert_cmphex(reg.key - b->remote_offset, <, b->length);
    chunk = rmig_block_chunk_of(reg.key - b->remote_offset);
    for (uint64_t c = chunk; c <= chunk + reg.chunks; c++) {
        g_assert_cmpuint(c << RMIG_CHUNK_SHIFT, <, b->length);
        g_assert_false(f->registered[reg.block][c]); /* once is enough */
        f->registered[reg.block][c] = chunk + 1;
    }
    rmig_wire_result_pack(data, &(RMigWireResult) {
        .rkey = f->vice == RESULT_ZERO_KEY ? 0 : key_of(f, reg.block, chunk),
        .host_addr = b->remote_host + (f->vice == RESULT_WRONG_ADDRESS),
    });
    fake_link_script(link, fake_link_message(RMIG_WIRE_REGISTER_RESULT, data,
                                             sizeof(data), 1));
}

static void take_zero_run(Fixture *f, const RMigWireMessage *msg)
{
    RMigWireZeroRun run;
    const Block *b;

    g_assert_cmpuint(msg->n_records, ==, 1);
    rmig_wire_zero_run_unpack(msg, 0, &run);
    g_assert_cmpuint(run.value, ==, 0);
    g_assert_cmpuint(run.block, <, N_BLOCKS);
    b = &f->block[run.block];
    g_assert_cmphex(run.offset, >=, b->remote_offset);
    g_assert_cmpuint(run.length, <=,
                     b->length - (run.offset - b->remote_offset));
    if (b->theirs) {
        memset(b->theirs + (run.offset - b->remote_offset), 0, run.length);
    }
    f->longest_run = MAX(f->longest_run, run.length);
    f->zeroed_bytes += run.length;
}

/* REGISTER_FINISHED promises that every write has completed */
static void check_finished(Fixture *f, const FakePost *sent)
{
    for (unsigned i = 0; i < f->verbs->posts->len; i++) {
        const FakePost *post = fake_verbs_post(f->verbs, i);

        if (post == sent) {
            return;
        }
        g_assert_true(post->kind != FAKE_WRITE ||
                      i < sent->completed_before);
    }
    g_assert_not_reached();
}

static void destination(RMigLink *link, RMigWireType type,
                        const FakePost *sent)
{
    Fixture *f = link->peer_opaque;
    gsize len;
    const void *data = g_bytes_get_data(sent->data, &len);
    RMigWireMessage msg;

    g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
    f->seen[type]++;
    if (f->vice == SAYS_NOTHING) {
        return;
    }
    if (f->vice == GIVES_UP) {
        fake_link_script_type(link, RMIG_WIRE_ERROR);
        return;
    }
    switch (type) {
    case RMIG_WIRE_RAM_BLOCKS_REQUEST:
        script_blocks(f, link);
        break;
    case RMIG_WIRE_REGISTER_REQUEST:
        g_assert_false(f->pinned);
        script_result(f, link, &msg);
        break;
    case RMIG_WIRE_COMPRESS:
        take_zero_run(f, &msg);
        break;
    case RMIG_WIRE_REGISTER_FINISHED:
        check_finished(f, sent);
        break;
    default:
        g_assert_cmpint(type, ==, RMIG_WIRE_QEMU_FILE);
        g_assert_cmpmem(msg.data, msg.len, "hook", 4);
        break;
    }
    fake_link_script_type(link, RMIG_WIRE_READY);
}

/* ---- fixture ---- */

static bool is_zero(const void *host, uint64_t len)
{
    const uint8_t *p = host;

    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void init_blocks(Fixture *f)
{
    static const Block blocks[N_BLOCKS] = {
        { .name = "ram", .length = 3 * MIB + PAGE, .offset = 0,
          .remote_offset = 0x40000000 },
        { .name = "vga", .length = 2 * MIB, .offset = 0x20000000,
          .remote_offset = 0 },
        { .name = "rom", .length = PAGE, .offset = 0x10000000,
          .remote_offset = 0x10000000 },
    };

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        Block *b = &f->block[i];

        *b = blocks[i];
        b->ours = g_malloc0(b->length);
        b->theirs = g_malloc0(b->length);
        b->remote_host = REMOTE_BASE + i * (UINT64_C(1) << 32);
        f->registered[i] = g_malloc0(b->length / MIB + 1);
        memset(b->theirs, 0xee, b->length);
    }
}

static RMigLink *offer_destination(Fixture *f)
{
    RMigLink *link = fake_link_new();

    link->peer = destination;
    link->peer_opaque = f;
    link->verbs->landed = landed;
    link->verbs->opaque = f;
    link->granted = RMIG_WIRE_FLAG_PIN_ALL;
    fake_link_script_type(link, RMIG_WIRE_READY);
    fake_link_offer(link);
    return link;
}

/* Connected, and all blocks announced */
static void start(Fixture *f, const RMigSourceConfig *config)
{
    struct sockaddr addr = { .sa_family = AF_INET };

    f->link = offer_destination(f);
    f->verbs = f->link->verbs;
    f->source = rmig_source_new(config, NULL);
    g_assert_nonnull(f->source);
    g_assert_true(rmig_source_connect(f->source, &addr, NULL));
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        const Block *b = &f->block[i];

        g_assert_true(rmig_source_add_block(f->source, b->name, b->ours,
                                            b->offset, b->length, NULL));
    }
}

static void setup(Fixture *f, bool pin_all)
{
    RMigSourceConfig config = { .waiter = rmig_poll_waiter,
                                .is_zero = is_zero, .pin_all = pin_all };

    memset(f, 0, sizeof(*f));
    f->pinned = pin_all;
    init_blocks(f);
    start(f, &config);
    g_assert_cmpint(rmig_source_pins_all(f->source), ==, pin_all);
}

static void setup_exchanged(Fixture *f, bool pin_all)
{
    setup(f, pin_all);
    g_assert_true(rmig_source_exchange(f->source, NULL));
    g_assert_true(rmig_source_finish(f->source, NULL));
}

/* Frees the source, whose fakes check that nothing is left registered */
static void teardown(Fixture *f)
{
    rmig_source_free(f->source);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_free(f->block[i].ours);
        g_free(f->block[i].theirs);
        g_free(f->registered[i]);
    }
}

static void dirty(Fixture *f, unsigned block, uint64_t page)
{
    for (unsigned i = 0; i < PAGE; i++) {
        f->block[block].ours[page * PAGE + i] = g_test_rand_int();
    }
}

static RMigPage page(Fixture *f, unsigned block, uint64_t number)
{
    return rmig_source_page(f->source, f->block[block].offset, number * PAGE,
                            PAGE, NULL);
}

static void send_everything(Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t n = 0; n < f->block[i].length / PAGE; n++) {
            const uint8_t *at = f->block[i].ours + n * PAGE;

            g_assert_cmpint(page(f, i, n), ==, is_zero(at, PAGE) ?
                            RMIG_PAGE_ZERO : RMIG_PAGE_DATA);
        }
    }
    g_assert_true(rmig_source_finish(f->source, NULL));
}

static void assert_same_memory(const Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_assert_cmpmem(f->block[i].ours, f->block[i].length,
                        f->block[i].theirs, f->block[i].length);
    }
}

/* ---- tests ---- */

static void test_migrate(gconstpointer data)
{
    bool pin_all = GPOINTER_TO_INT(data);
    RMigCounters counters;
    Fixture f;

    setup_exchanged(&f, pin_all);
    for (unsigned i = 0; i < 4; i++) {
        dirty(&f, 0, i * MIB / PAGE); /* every chunk of two blocks */
        dirty(&f, 1, i * MIB / PAGE / 2);
    }
    for (unsigned i = 0; i < 400; i++) {
        dirty(&f, 0, g_test_rand_int_range(0, f.block[0].length / PAGE));
        dirty(&f, 1, g_test_rand_int_range(0, f.block[1].length / PAGE));
    }
    send_everything(&f);
    assert_same_memory(&f);

    /* later rounds: pages change, some to zero and some back */
    for (unsigned round = 0; round < 5; round++) {
        g_autoptr(GHashTable) sent = g_hash_table_new(NULL, NULL);

        for (unsigned i = 0; i < 100; i++) {
            uint64_t n = g_test_rand_int_range(0, f.block[0].length / PAGE);

            if (g_hash_table_add(sent, GSIZE_TO_POINTER(n))) {
                if (i % 3) {
                    dirty(&f, 0, n);
                } else {
                    memset(f.block[0].ours + n * PAGE, 0, PAGE);
                }
                g_assert_cmpint(page(&f, 0, n), ==,
                                i % 3 ? RMIG_PAGE_DATA : RMIG_PAGE_ZERO);
            }
        }
        g_assert_true(rmig_source_finish(f.source, NULL));
        assert_same_memory(&f);
    }
    while (rmig_link_poll(f.link, NULL) > 0) {
        /* until the destination has seen the last message */
    }
    g_assert_cmpuint(f.seen[RMIG_WIRE_RAM_BLOCKS_REQUEST], ==, 1);
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_FINISHED], ==, 7);
    /* 6 chunks have data; those that begin with it share a registration */
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], <=, pin_all ? 0 : 6);
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], >=, pin_all ? 0 : 2);
    rmig_source_counters(f.source, &counters);
    g_assert_cmpuint(counters.zero_runs, ==, f.seen[RMIG_WIRE_COMPRESS]);
    g_assert_cmpuint(counters.write_bytes, >, 200 * PAGE);
    teardown(&f);
}

static void test_exchange(void)
{
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpuint(f.verbs->registered, ==, 1); /* the messages' buffer */
    teardown(&f);

    setup(&f, true);
    g_assert_cmpuint(f.link->asked, ==, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpuint(f.verbs->registered, ==, 1 + N_BLOCKS);
    teardown(&f);
}

/* All zero: nothing is registered, nothing written, a message a block */
static void test_zero(void)
{
    RMigCounters counters;
    Fixture f;

    setup_exchanged(&f, false);
    send_everything(&f);
    assert_same_memory(&f);
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, N_BLOCKS);
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], ==, 0);
    g_assert_cmpuint(f.verbs->registered, ==, 1);
    g_assert_cmpuint(f.zeroed_bytes, ==, 5 * MIB + 2 * PAGE);
    rmig_source_counters(f.source, &counters);
    g_assert_cmpuint(counters.write_bytes, ==, 0);
    g_assert_cmpuint(counters.chunks_registered, ==, 0);
    teardown(&f);
}

/* A run is cut where it has a hole, and where the block ends */
static void test_zero_runs(void)
{
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 0, 10);
    for (unsigned n = 0; n < 20; n++) {
        page(&f, 0, n);
    }
    page(&f, 0, 25);
    page(&f, 1, 26);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 4);
    g_assert_cmpuint(f.zeroed_bytes, ==, 21 * PAGE);
    teardown(&f);
}

/* Every page a run of its own: more than may wait at a time */
static void test_many_zero_runs(void)
{
    Fixture f;

    setup_exchanged(&f, false);
    for (uint64_t n = 0; n < f.block[0].length / PAGE; n += 2) {
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_ZERO);
    }
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 385);
    teardown(&f);
}

static bool always_zero(const void *host, uint64_t len)
{
    (void)host;
    (void)len;
    return true;
}

/* A guest of 5 GiB without a byte in it: no message asks for too much */
static void test_longest_zero_run(void)
{
    uint64_t step = UINT64_C(256) << 20;
    Fixture f = { 0 };

    init_blocks(&f);
    g_clear_pointer(&f.block[0].ours, g_free);
    g_clear_pointer(&f.block[0].theirs, g_free);
    f.block[0].length = UINT64_C(5) << 30;
    f.block[0].ours = (uint8_t *)(uintptr_t)PAGE; /* never looked at */
    f.block[0].remote_host = UINT64_C(0x660000000000);
    f.block[1].offset = UINT64_C(0x2000000000);
    f.block[2].offset = UINT64_C(0x3000000000);
    start(&f, &(RMigSourceConfig) { .waiter = rmig_poll_waiter,
                                    .is_zero = always_zero });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t at = 0; at < f.block[0].length; at += step) {
        g_assert_cmpint(rmig_source_page(f.source, 0, at, step, NULL), ==,
                        RMIG_PAGE_ZERO);
    }
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 5);
    g_assert_cmpuint(f.longest_run, ==, 1 << 30);
    g_assert_cmpuint(f.zeroed_bytes, ==, UINT64_C(5) << 30);
    f.block[0].ours = NULL;
    teardown(&f);
}

/* Without a detector nothing is taken for zero */
static void test_no_zero_detection(void)
{
    Fixture f = { 0 };

    init_blocks(&f);
    start(&f, &(RMigSourceConfig) { .waiter = rmig_poll_waiter });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpint(page(&f, 2, 0), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 0);
    g_assert_cmpmem(f.block[2].ours, PAGE, f.block[2].theirs, PAGE);
    teardown(&f);
}

/* Huge pages come whole, and cross chunks */
static void test_large_pages(void)
{
    Fixture f;

    setup_exchanged(&f, false);
    for (unsigned n = 0; n < f.block[0].length / PAGE; n++) {
        dirty(&f, 0, n);
    }
    g_assert_cmpint(rmig_source_page(f.source, 0, PAGE, 2 * MIB, NULL), ==,
                    RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpmem(f.block[0].ours + PAGE, 2 * MIB, f.block[0].theirs + PAGE,
                    2 * MIB);
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], ==, 1);
    teardown(&f);
}

/* A span goes on where there is data, and ends where the next chunk is zero */
static void test_spans(void)
{
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 0, 0);
    dirty(&f, 0, MIB / PAGE);
    dirty(&f, 0, 3 * MIB / PAGE);
    g_assert_cmpint(page(&f, 0, MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, 3 * MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.registered[0][0], ==, 1);
    g_assert_cmpuint(f.registered[0][1], ==, 2);
    g_assert_cmpuint(f.registered[0][2], ==, 0); /* zero: never pinned */
    g_assert_cmpuint(f.registered[0][3], ==, 4);
    teardown(&f);
}

/* Bytes of the stream that were not flushed go before the command */
static void test_stream_before_command(void)
{
    Fixture f;
    RMigStream *stream;

    setup(&f, false);
    stream = rmig_source_stream(f.source);
    g_assert_true(rmig_stream_write(stream, "hook", 4, NULL));
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_QEMU_FILE], ==, 1);

    dirty(&f, 0, 0);
    g_assert_true(rmig_stream_write(stream, "hook", 4, NULL));
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_QEMU_FILE], ==, 2);
    teardown(&f);
}

static void assert_exchange_fails(bool pin_all, Vice vice, const char *needle)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GError) again = NULL;
    Fixture f;

    setup(&f, pin_all);
    f.vice = vice;
    g_assert_false(rmig_source_exchange(f.source, &err));
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    /* the first error stays, but for what was being done at the time */
    g_assert_false(rmig_source_finish(f.source, &again));
    g_assert_true(g_str_has_suffix(err->message, again->message));
    teardown(&f);
}

static void test_exchange_fails(void)
{
    assert_exchange_fails(false, BLOCKS_ONE_MISSING, "3 RAM blocks here and 2");
    assert_exchange_fails(false, BLOCKS_WRONG_LENGTH, "'ram' has");
    assert_exchange_fails(true, BLOCKS_NO_KEYS, "sent no key");
    assert_exchange_fails(false, GIVES_UP, "gave up");
    assert_exchange_fails(false, SAYS_NOTHING, "timed out while waiting for "
                          "the peer's answer");
    assert_exchange_fails(true, SAYS_NOTHING, "RAM_BLOCKS_RESULT");
}

static void assert_page_fails(Vice vice, const char *needle)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 1, 300);
    f.vice = vice;
    g_assert_cmpint(rmig_source_page(f.source, f.block[1].offset, 300 * PAGE,
                                     PAGE, &err), ==, RMIG_PAGE_FAILED);
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    g_assert_false(rmig_source_finish(f.source, NULL));
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_ZERO); /* only queued */
    teardown(&f);
}

static void test_page_fails(void)
{
    assert_page_fails(RESULT_ZERO_KEY, "RAM block vga, chunk 1");
    assert_page_fails(RESULT_WRONG_ADDRESS, "not the announced one");
    assert_page_fails(GIVES_UP, "gave up");
    assert_page_fails(SAYS_NOTHING, "the peer to say READY");
}

static void test_unknown_page(void)
{
    static const struct {
        uint64_t block, offset;
    } pages[] = {
        { 0x30000000, 0 },
        { PAGE, 0 },
        { 0, 3 * MIB + PAGE },
        { 0, UINT64_MAX - PAGE + 1 },
        { 0x10000000, PAGE },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        g_autoptr(GError) err = NULL;
        Fixture f;

        setup_exchanged(&f, false);
        g_assert_cmpint(rmig_source_page(f.source, pages[i].block,
                                         pages[i].offset, PAGE, &err), ==,
                        RMIG_PAGE_FAILED);
        g_assert_nonnull(strstr(err->message, "was not announced"));
        teardown(&f);
    }
}

/* Memory of ours that cannot be registered or posted */
static void test_local_failures(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 0, 0);
    f.verbs->fail_register = 0;
    g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, &err), ==,
                    RMIG_PAGE_FAILED);
    g_assert_nonnull(strstr(err->message, "RAM block ram, chunks 0 to 0"));
    g_clear_error(&err);
    teardown(&f);

    setup(&f, true);
    f.verbs->fail_register = 1;
    g_assert_false(rmig_source_exchange(f.source, &err));
    g_assert_nonnull(strstr(err->message, "pinning all guest memory"));
    g_clear_error(&err);
    teardown(&f);

    setup_exchanged(&f, true);
    dirty(&f, 0, 0);
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    f.verbs->fail_post = 0;
    g_assert_false(rmig_source_finish(f.source, &err));
    g_assert_nonnull(strstr(err->message, "RAM block ram, offset 0x0"));
    teardown(&f);
}

/* Another thread stops it: the next pages and the round's end fail */
static void test_shutdown(void)
{
    g_autoptr(GError) err = NULL;
    RMigPage last = RMIG_PAGE_ZERO;
    Fixture f;

    setup_exchanged(&f, false);
    rmig_source_shutdown(f.source);
    for (unsigned n = 0; n < 64 && last != RMIG_PAGE_FAILED; n++) {
        last = page(&f, 0, n);
    }
    g_assert_cmpint(last, ==, RMIG_PAGE_FAILED);
    g_assert_false(rmig_source_finish(f.source, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_SHUTDOWN);
    teardown(&f);
}

/* A failed migration tells the destination, a good one does not */
static void test_close(void)
{
    Fixture f;
    RMigLink *link;

    for (int failed = 0; failed <= 1; failed++) {
        g_autoptr(GPtrArray) posts = NULL;

        setup_exchanged(&f, false);
        link = f.link;
        posts = g_ptr_array_ref(link->verbs->posts);
        rmig_source_close(f.source, failed);
        {
            const FakePost *last = g_ptr_array_index(posts, posts->len - 1);
            const uint8_t *data = g_bytes_get_data(last->data, NULL);

            g_assert_cmpuint(data[7], ==, failed ? RMIG_WIRE_ERROR :
                             RMIG_WIRE_REGISTER_FINISHED);
        }
        g_assert_null(rmig_source_stream(f.source));
        teardown(&f);
    }
}

static void test_connect(void)
{
    struct sockaddr addr = { .sa_family = AF_INET };
    RMigSourceConfig config = { .waiter = rmig_poll_waiter, .pin_all = true,
                                .return_path = true };
    RMigSource *source = rmig_source_new(&config, NULL);
    g_autoptr(GError) err = NULL;
    RMigLink *main, *back;

    g_assert_null(rmig_source_stream(source));
    g_assert_null(rmig_source_return_stream(source));
    g_assert_false(rmig_source_connect(source, &addr, &err));
    g_assert_nonnull(strstr(err->message, "no RDMA device"));
    g_clear_error(&err);

    main = fake_link_new();
    main->cannot_connect = true;
    fake_link_offer(main);
    g_assert_false(rmig_source_connect(source, &addr, &err));
    g_assert_nonnull(strstr(err->message, "refused"));
    g_assert_null(rmig_source_stream(source));
    g_clear_error(&err);

    /* the return path fails: the main connection is not kept either */
    fake_link_offer(fake_link_new());
    back = fake_link_new();
    back->cannot_connect = true;
    fake_link_offer(back);
    g_assert_false(rmig_source_connect(source, &addr, &err));
    g_assert_nonnull(strstr(err->message, "opening the return path: "));
    g_assert_null(rmig_source_stream(source));
    g_assert_null(rmig_source_return_stream(source));

    /* and then it works, with a destination that does not grant pin-all */
    fake_link_offer(fake_link_new());
    fake_link_offer(fake_link_new());
    g_assert_true(rmig_source_connect(source, &addr, NULL));
    g_assert_false(rmig_source_pins_all(source));
    g_assert_nonnull(rmig_source_stream(source));
    g_assert_nonnull(rmig_source_return_stream(source));
    rmig_source_free(source);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/source/migrate/chunks", GINT_TO_POINTER(false),
                         test_migrate);
    g_test_add_data_func("/source/migrate/pin-all", GINT_TO_POINTER(true),
                         test_migrate);
    g_test_add_func("/source/connect", test_connect);
    g_test_add_func("/source/exchange", test_exchange);
    g_test_add_func("/source/exchange/fails", test_exchange_fails);
    g_test_add_func("/source/zero", test_zero);
    g_test_add_func("/source/zero/runs", test_zero_runs);
    g_test_add_func("/source/zero/many", test_many_zero_runs);
    g_test_add_func("/source/zero/longest", test_longest_zero_run);
    g_test_add_func("/source/zero/no-detection", test_no_zero_detection);
    g_test_add_func("/source/large-pages", test_large_pages);
    g_test_add_func("/source/pages/spans", test_spans);
    g_test_add_func("/source/stream-before-command",
                    test_stream_before_command);
    g_test_add_func("/source/page/fails", test_page_fails);
    g_test_add_func("/source/page/unknown", test_unknown_page);
    g_test_add_func("/source/local-failures", test_local_failures);
    g_test_add_func("/source/shutdown", test_shutdown);
    g_test_add_func("/source/close", test_close);
    return g_test_run();
}
