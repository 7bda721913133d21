/*
 * Unit tests of the source: exchange, pages, rounds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs; see source-fixture.h.  Destinations that
 * misbehave are in test-source-hostile.c.
 */
#include "source-fixture.h"
#include "source-priv.h"

#include <string.h>

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
        finish_round(&f);
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
    RMigSourceConfig config = { .waiter = rmig_poll_waiter,
                                .version_1_only = true };
    RMigCounters c;
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpuint(f.verbs->registered, ==, 1); /* the messages' buffer */
    teardown(&f);

    setup(&f, true);
    g_assert_cmpuint(f.link->asked, ==, RMIG_WIRE_FLAGS_KNOWN);
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_cmpuint(f.verbs->registered, ==, 1 + N_BLOCKS);
    teardown(&f);

    /* Under BATCH nothing yet, with PIN_ALL either */
    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAGS_KNOWN, .pin_all = true,
                             .peer_budget = 77 * MIB,
                             .own_budget = 9 * MIB });
    g_assert_cmpuint(f.link->asked_pin_bytes, ==, 9 * MIB);
    g_assert_true(rmig_source_pins_all(f.source));
    g_assert_true(rmig_source_exchange(f.source, NULL));
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.verbs->registered, ==, 1);
    rmig_source_counters(f.source, &c);
    g_assert_cmphex(c.extensions, ==,
                    RMIG_EXTENSION_BATCH | RMIG_EXTENSION_BUDGET |
                    RMIG_EXTENSION_HANDOVER);
    g_assert_true(c.pins_all);
    g_assert_cmpuint(c.pin_limit, ==, pin_limit_for(9 * MIB));
    g_assert_cmpuint(c.peer_pin_limit, ==, 77 * MIB);
    teardown(&f);

    /* A source that offers nothing */
    memset(&f, 0, sizeof(f));
    f.mode.flags = RMIG_WIRE_FLAGS_KNOWN;
    init_blocks(&f);
    start(&f, &config);
    g_assert_cmphex(f.link->asked, ==, 0);
    g_assert_cmphex(f.link->asked_pin_bytes, ==, 0);
    rmig_source_counters(f.source, &c);
    g_assert_cmphex(c.extensions, ==, 0);
    g_assert_cmpuint(c.peer_pin_limit, ==, 0);
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

/*
 * A run is cut where it has a gap, and where the block ends.  A short one in
 * memory that is registered anyway is written with what stands around it.
 */
static void test_zero_runs(gconstpointer data)
{
    uint32_t flags = GPOINTER_TO_UINT(data);
    unsigned longest = flags ? 4 : 32; /* pages that are rather written */
    unsigned far = 20 + longest;
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = flags });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    dirty(&f, 0, 10);
    dirty(&f, 0, 14);
    dirty(&f, 0, far);
    for (unsigned n = 0; n <= 14; n++) {
        page(&f, 0, n); /* 10 pages, which nothing is registered for */
    }
    page(&f, 0, 16); /* alone */
    for (unsigned n = far - longest - 1; n <= far; n++) {
        page(&f, 0, n); /* one more than is written */
    }
    page(&f, 0, 200);
    page(&f, 1, 201); /* in no registered memory */
    g_assert_true(rmig_source_finish(f.source, NULL));
    settle(&f);
    g_assert_cmpuint(f.records[RMIG_WIRE_COMPRESS], ==, 3);
    g_assert_cmpuint(f.zeroed_bytes, ==, (10 + longest + 1 + 1) * PAGE);
    for (unsigned n = 10; n <= 16; n++) {
        g_assert_true(n == 15 || memcmp(f.block[0].ours + n * PAGE,
                                        f.block[0].theirs + n * PAGE,
                                        PAGE) == 0);
    }
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.writes, ==, 4); /* 10 to 14, 16, far, 200 */
    g_assert_cmpuint(c.write_bytes, ==, (5 + 3) * PAGE);
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

/* The same under BATCH: gathered while a message is under way */
static void test_zero_batch(void)
{
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_BATCH,
                             .ram_bytes = 40 * MIB });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t n = 0; n < f.block[0].length / PAGE; n += 2) {
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_ZERO);
    }
    g_assert_true(rmig_source_finish(f.source, NULL));
    settle(&f);
    g_assert_cmpuint(f.records[RMIG_WIRE_COMPRESS], ==, 5120);
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], <, 200);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.zero_runs, ==, 5120);
    g_assert_cmpuint(c.zero_pages, ==, 5120);
    g_assert_cmpuint(c.skipped_pages, ==, 0);
    teardown(&f);
}

/* A destination that says READY late gets a full message, and no more */
static void test_zero_full_message(void)
{
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_BATCH,
                             .ram_bytes = 40 * MIB });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    settle(&f);
    f.link->frozen = true;
    /* One READY is there, and the first run is complete at the 64th page */
    for (uint64_t n = 0; n <= 2 * 4096 + 64; n += 2) {
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_ZERO);
    }
    f.link->frozen = false;
    g_assert_true(rmig_source_finish(f.source, NULL));
    settle(&f);
    g_assert_cmpuint(f.records[RMIG_WIRE_COMPRESS], ==, 4096 + 33);
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 2);
    teardown(&f);
}

static bool always_zero(const void *host, uint64_t len)
{
    (void)host;
    (void)len;
    return true;
}

/* A guest of 5 GiB without a byte in it: no message asks for too much */
static void test_longest_zero_run(gconstpointer data)
{
    uint32_t flags = GPOINTER_TO_UINT(data);
    uint64_t step = UINT64_C(256) << 20;
    Fixture f = { .mode.flags = flags };

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
    settle(&f);
    g_assert_cmpuint(f.records[RMIG_WIRE_COMPRESS], ==, 5);
    g_assert_cmpuint(f.largest_zeros, <=, UINT64_C(4) << 30);
    g_assert_cmpuint(f.longest_run, ==, 1 << 30);
    g_assert_cmpuint(f.zeroed_bytes, ==, UINT64_C(5) << 30);
    f.block[0].ours = NULL;
    teardown(&f);
}

/*
 * On a short way the end of a round waits until all has landed.  On a long one
 * the wire would run dry: what the way holds may stay on it, before
 * REGISTER_FINISHED as all of it is.
 */
static void test_end_of_round(gconstpointer data)
{
    bool far = GPOINTER_TO_INT(data);
    unsigned writes = 0;
    const FakePost *last;
    RMigPace *pace;
    Fixture f;

    setup_exchanged(&f, false);
    pace = &f.source->ahead.pace;
    pace->rate = UINT64_C(12) << 30;
    pace->way_us = pace->doubt_us = far ? 10000 : 100;
    pace->way_at_us = g_get_monotonic_time();
    for (unsigned n = 0; n < 200; n++) {
        dirty(&f, 0, n);
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_DATA);
        pace->way_us = far ? 10000 : 100;
    }
    g_assert_true(rmig_source_finish(f.source, NULL));
    last = fake_verbs_last(f.verbs);
    g_assert_cmpint(last->kind, ==, FAKE_SEND);
    for (unsigned i = last->completed_before; i < f.verbs->posts->len; i++) {
        writes += fake_verbs_post(f.verbs, i)->kind == FAKE_WRITE;
    }
    g_assert_cmpint(writes > 0, ==, far);
    settle(&f);
    g_assert_cmpmem(f.block[0].ours, 200 * PAGE, f.block[0].theirs,
                    200 * PAGE);
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
    /* The first request is small, the next ones come ahead of the pages */
    g_assert_cmpuint(f.chunks_asked, >=, 3);
    teardown(&f);
}

/* What is all zero is never registered */
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
    g_assert_cmphex(f.keys[0][0], !=, 0);
    g_assert_cmphex(f.keys[0][1], !=, 0);
    g_assert_cmphex(f.keys[0][2], ==, 0); /* zero: never pinned */
    g_assert_cmphex(f.keys[0][3], !=, 0);
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
    RMigCounters c;

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
    rmig_source_counters(source, &c);
    g_assert_cmpstr(c.device, ==, "");
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
    rmig_source_counters(source, &c); /* but it was there */
    g_assert_cmpstr(c.device, !=, "");

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
    g_test_add_data_func("/source/end-of-round/near", GINT_TO_POINTER(false),
                         test_end_of_round);
    g_test_add_data_func("/source/end-of-round/far", GINT_TO_POINTER(true),
                         test_end_of_round);
    g_test_add_func("/source/zero", test_zero);
    g_test_add_data_func("/source/zero/runs", GUINT_TO_POINTER(0),
                         test_zero_runs);
    g_test_add_data_func("/source/zero/runs/batch",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_BATCH),
                         test_zero_runs);
    g_test_add_func("/source/zero/many", test_many_zero_runs);
    g_test_add_func("/source/zero/batch", test_zero_batch);
    g_test_add_func("/source/zero/full-message", test_zero_full_message);
    g_test_add_data_func("/source/zero/longest", GUINT_TO_POINTER(0),
                         test_longest_zero_run);
    g_test_add_data_func("/source/zero/longest/batch",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_BATCH),
                         test_longest_zero_run);
    g_test_add_func("/source/zero/no-detection", test_no_zero_detection);
    g_test_add_func("/source/large-pages", test_large_pages);
    g_test_add_func("/source/pages/spans", test_spans);
    g_test_add_func("/source/stream-before-command",
                    test_stream_before_command);
    g_test_add_func("/source/page/unknown", test_unknown_page);
    g_test_add_func("/source/shutdown", test_shutdown);
    g_test_add_func("/source/close", test_close);
    return g_test_run();
}
