/*
 * Unit tests of the source: what is known and registered ahead of the pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of source-fixture.h.
 */
#include "pages.h"
#include "source-fixture.h"

#include <string.h>
#include <sys/mman.h>

#define RAM_CHUNKS 64

static uint64_t stalls(const Fixture *f)
{
    uint64_t n = 0;
    RMigCounters c;

    rmig_source_counters(f->source, &c);
    for (unsigned i = 0; i < RMIG_STALLS; i++) {
        n += c.stalls[i];
    }
    return n;
}

/*
 * The destination takes its time, but less than the writer takes for what was
 * asked for before: once that has begun, no page of the round waits
 */
static void test_no_stall(gconstpointer data)
{
    uint32_t flags = GPOINTER_TO_UINT(data);
    /* Without BATCH each chunk of the first window is a message */
    uint64_t warm_chunks = flags ? 4 : 20;
    uint64_t before = 0;
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = flags, .late = 2,
                             .ram_bytes = RAM_CHUNKS * MIB });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        dirty(&f, 0, n);
    }
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        if (n == warm_chunks * MIB / PAGE) {
            before = stalls(&f);
            g_assert_cmpuint(before, >, 0);
        }
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_DATA);
    }
    g_assert_cmpuint(stalls(&f), ==, before);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpmem(f.block[0].ours, f.block[0].length, f.block[0].theirs,
                    f.block[0].length);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_registered, ==, RAM_CHUNKS);
    g_assert_cmpuint(c.chunks_evicted, ==, 0);
    if (flags) {
        g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], <, 32);
        g_assert_cmpuint(f.records[RMIG_WIRE_REGISTER_REQUEST], >,
                         f.seen[RMIG_WIRE_REGISTER_REQUEST]);
    }
    teardown(&f);
}

/* With room for a quarter of the RAM it still goes without a stall */
static void test_no_stall_in_budget(void)
{
    uint64_t before = 0;
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) {
        .flags = RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET,
        .peer_budget = RAM_CHUNKS / 4 * MIB,
        .ram_bytes = RAM_CHUNKS * MIB,
    });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        dirty(&f, 0, n);
    }
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        if (n == 4 * MIB / PAGE) {
            before = stalls(&f);
        }
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_DATA);
    }
    g_assert_cmpuint(stalls(&f), ==, before);
    g_assert_true(rmig_source_finish(f.source, NULL));
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_evicted, >=, RAM_CHUNKS * 3 / 4);
    g_assert_cmpuint(c.chunks_again, ==, 0); /* each chunk once */
    g_assert_cmpuint(f.pinned_peak, <=, RAM_CHUNKS / 4 * MIB);
    g_assert_cmpuint(c.peer_pinned_peak, >=, f.pinned_peak);
    g_assert_cmpuint(c.peer_pinned_peak, <=, RAM_CHUNKS / 4 * MIB);
    teardown(&f);
}

/*
 * Pin-all, but the destination's table is full long before all is pinned: from
 * there on what comes next is registered ahead, as without pin-all
 */
static void test_pin_all_table_full(void)
{
    uint64_t before;
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) {
        .flags = RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_PIN_ALL,
        .pin_all = true,
        .peer_table = RAM_CHUNKS / 2 * MIB,
        .ram_bytes = RAM_CHUNKS * MIB,
    });
    g_assert_true(rmig_source_pins_all(f.source));
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        dirty(&f, 0, n);
    }
    send_everything(&f);
    assert_same_memory(&f);
    g_assert_cmpuint(f.chunks_refused, >, 0);

    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        dirty(&f, 0, n);
    }
    before = stalls(&f);
    g_assert_cmpuint(before, <, RAM_CHUNKS / 4);
    send_everything(&f);
    assert_same_memory(&f);
    g_assert_cmpuint(stalls(&f) - before, <, RAM_CHUNKS / 4);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_evicted, >, 0);
    g_assert_cmpuint(f.pinned_peak, <=, RAM_CHUNKS / 2 * MIB);
    teardown(&f);
}

/* What was zero when it was looked at ahead need not be when it is sent */
static void test_written_after_the_look(void)
{
    uint64_t n = 2 * MIB / PAGE + 7;
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 0, 0);
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    dirty(&f, 0, n);
    g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpmem(f.block[0].ours + n * PAGE, PAGE,
                    f.block[0].theirs + n * PAGE, PAGE);
    teardown(&f);
}

/* ---- memory that was never touched ---- */

static const Block *watched;
static const uint8_t *read_from, *read_to; /* of it, what the detector saw */

static bool is_zero_noted(const void *host, uint64_t len)
{
    const uint8_t *p = host;

    if (p >= watched->ours && p < watched->ours + watched->length) {
        read_from = read_from ? MIN(read_from, p) : p;
        read_to = read_to ? MAX(read_to, p + len) : p + len;
    }
    return is_zero(host, len);
}

/* Block "ram" becomes anonymous memory; false if nothing can be known of it */
static bool setup_anonymous(Fixture *f, uint64_t clear_bytes)
{
    RMigBlockHints hints = { .anonymous = true, .clear_bytes = clear_bytes };
    RMigPages *pages = rmig_pages_new();
    RMigSourceConfig config = { .waiter = rmig_poll_waiter,
                                .is_zero = is_zero_noted };
    Block *b = &f->block[0];

    if (!pages) {
        g_test_skip("the page tables of this process cannot be read");
        return false;
    }
    rmig_pages_free(pages);
    watched = b;
    read_from = NULL;
    read_to = NULL;
    memset(f, 0, sizeof(*f));
    init_blocks(f);
    g_free(b->ours);
    b->ours = mmap(NULL, b->length, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(b->ours != MAP_FAILED);
    madvise(b->ours, b->length, MADV_NOHUGEPAGE);
    start(f, &config);
    rmig_source_hint_block(f->source, b->offset, &hints);
    g_assert_true(rmig_source_exchange(f->source, NULL));
    g_assert_true(rmig_source_finish(f->source, NULL));
    return true;
}

static void teardown_anonymous(Fixture *f)
{
    uint8_t *ours = g_steal_pointer(&f->block[0].ours);
    uint64_t length = f->block[0].length;

    teardown(f);
    munmap(ours, length);
}

/* They are zero without being read */
static void test_untouched(void)
{
    RMigCounters c;
    Fixture f;

    if (!setup_anonymous(&f, 64 * PAGE)) {
        return;
    }
    dirty(&f, 0, 100);
    for (uint64_t n = 0; n < f.block[0].length / PAGE; n++) {
        g_assert_cmpint(page(&f, 0, n), ==, n == 100 ? RMIG_PAGE_DATA :
                                                       RMIG_PAGE_ZERO);
    }
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_true(read_from == f.block[0].ours + 100 * PAGE);
    g_assert_true(read_to == read_from + PAGE);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.skipped_pages, ==, f.block[0].length / PAGE - 1);
    g_assert_cmpuint(c.zero_pages, ==, c.skipped_pages);
    g_assert_cmpuint(c.data_pages, ==, 1);
    g_assert_cmpmem(f.block[0].ours, f.block[0].length, f.block[0].theirs,
                    f.block[0].length);
    teardown_anonymous(&f);
}

/*
 * Looked at when a page is handed over, not before; for as much as was cleared
 * in the dirty log with it, not more; and until the end of the round
 */
static void test_touched_meanwhile(gconstpointer data)
{
    uint64_t clear_bytes = GPOINTER_TO_UINT(data) * PAGE;
    Fixture f;

    if (!setup_anonymous(&f, clear_bytes)) {
        return;
    }
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_ZERO);
    /* Behind the stretch of page 0, which is 16 pages at the most */
    dirty(&f, 0, 16);
    g_assert_cmpint(page(&f, 0, 16), ==, RMIG_PAGE_DATA);
    dirty(&f, 0, MIB / PAGE);
    g_assert_cmpint(page(&f, 0, MIB / PAGE), ==, RMIG_PAGE_DATA);
    if (clear_bytes != 16 * PAGE) {
        dirty(&f, 0, 1);
        g_assert_cmpint(page(&f, 0, 1), ==, RMIG_PAGE_DATA);
    }
    g_assert_true(rmig_source_finish(f.source, NULL));

    /* In the stretch of page 0, but in the next round */
    dirty(&f, 0, 0);
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpmem(f.block[0].ours, PAGE, f.block[0].theirs, PAGE);
    teardown_anonymous(&f);
}

/* ---- memory that is not plugged ---- */

#define HOLE_FIRST 8
#define HOLE_END 40

/* Nothing of [HOLE_FIRST, HOLE_END) is registered, asked for, sent or named */
static void test_holes(gconstpointer data)
{
    uint32_t flags = GPOINTER_TO_UINT(data);
    const uint64_t plugged = RAM_CHUNKS - (HOLE_END - HOLE_FIRST);
    const uint64_t rest = 3; /* chunks of the other blocks */
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = flags,
                             .pin_all = flags & RMIG_WIRE_FLAG_PIN_ALL,
                             .ram_bytes = RAM_CHUNKS * MIB });
    g_assert_true(rmig_source_add_hole(f.source, f.block[0].offset,
                                       HOLE_FIRST * MIB,
                                       (HOLE_END - HOLE_FIRST) * MIB, NULL));
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n += 16) {
        dirty(&f, 0, n); /* the guest may write there, too */
    }
    for (uint64_t n = 0; n < RAM_CHUNKS * MIB / PAGE; n++) {
        bool hole = n >= HOLE_FIRST * MIB / PAGE && n < HOLE_END * MIB / PAGE;

        g_assert_cmpint(page(&f, 0, n), ==, n % 16 == 0 && !hole ?
                        RMIG_PAGE_DATA : RMIG_PAGE_ZERO);
    }
    for (unsigned i = 0; i < 2; i++) { /* pin-all goes on in the next round */
        for (uint64_t n = 0; n < 256; n++) {
            dirty(&f, 1, n);
            g_assert_cmpint(page(&f, 1, n), ==, RMIG_PAGE_DATA);
        }
        g_assert_true(rmig_source_finish(f.source, NULL));
    }
    for (uint64_t chunk = 0; chunk < RAM_CHUNKS; chunk++) {
        bool hole = chunk >= HOLE_FIRST && chunk < HOLE_END;

        if (hole) {
            g_assert_cmpuint(f.registered[0][chunk], ==, 0);
            g_assert_cmphex(f.block[0].theirs[chunk * MIB], ==, 0xee);
            g_assert_cmphex(f.block[0].theirs[chunk * MIB + PAGE], ==, 0xee);
        } else {
            g_assert_cmpmem(f.block[0].ours + chunk * MIB, MIB,
                            f.block[0].theirs + chunk * MIB, MIB);
        }
    }
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_registered, <=, plugged + rest);
    g_assert_cmpuint(c.chunks_registered, >=, plugged);
    g_assert_cmpuint(f.pinned_peak, <=, (plugged + rest) * MIB);
    teardown(&f);
}

/* Version 1 has one region for each block */
static void test_holes_version_1(void)
{
    GError *err = NULL;
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_source_add_hole(f.source, f.block[0].offset, MIB, MIB,
                                       NULL));
    g_assert_false(rmig_source_exchange(f.source, &err));
    assert_says(&err, "rdma-pin-all");
    teardown(&f);
}

/* ---- memory that cannot be pinned ---- */

/* At once, and nothing is let go for it: no room would help */
static void check_unpinnable(Fixture *f, const char *needle)
{
    GError *err = NULL;
    RMigCounters c;

    g_assert_cmpint(rmig_source_page(f->source, f->block[1].offset, 0, PAGE,
                                     &err), ==, RMIG_PAGE_FAILED);
    assert_says(&err, needle);
    g_assert_cmpuint(f->seen[RMIG_WIRE_UNREGISTER_REQUEST], ==, 0);
    rmig_source_counters(f->source, &c);
    g_assert_cmpuint(c.chunks_evicted, ==, 0);
    g_assert_cmpuint(c.chunks_registered, >=, 3);
}

static void setup_unpinnable(Fixture *f, bool pin_all)
{
    setup_mode(f, &(Mode) {
        .flags = RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_PIN_ALL,
        .pin_all = pin_all,
    });
    g_assert_true(rmig_source_exchange(f->source, NULL));
    for (uint64_t n = 0; n < 3 * MIB / PAGE; n++) {
        dirty(f, 0, n);
    }
}

static void send_ram(Fixture *f)
{
    for (uint64_t n = 0; n < 3 * MIB / PAGE; n++) {
        g_assert_cmpint(page(f, 0, n), ==, RMIG_PAGE_DATA);
    }
    g_assert_true(rmig_source_finish(f->source, NULL));
    settle(f);
}

static void test_unpinnable_here(void)
{
    Fixture f;

    setup_unpinnable(&f, false);
    f.verbs->unpinnable = f.block[1].ours;
    f.verbs->unpinnable_bytes = f.block[1].length;
    send_ram(&f);
    dirty(&f, 1, 0);
    check_unpinnable(&f, "as for a ROM");
    teardown(&f);
}

static void test_unpinnable_there(void)
{
    Fixture f;

    setup_unpinnable(&f, false);
    send_ram(&f);
    f.vice = RESULT_UNPINNABLE;
    dirty(&f, 1, 0);
    check_unpinnable(&f, "no limit is in the way");
    g_assert_cmpuint(f.chunks_asked, <=, 3 + 1 + 2);
    teardown(&f);
}

/* Pin-all asks for it as well, but zeros need no memory to be pinned */
static void test_unpinnable_zeros(void)
{
    Fixture f;

    setup_unpinnable(&f, true);
    f.verbs->unpinnable = f.block[1].ours;
    f.verbs->unpinnable_bytes = f.block[1].length;
    send_ram(&f);
    f.vice = RESULT_UNPINNABLE;
    for (unsigned i = 0; i < 3; i++) {
        for (uint64_t n = 0; n < 2 * MIB / PAGE; n++) {
            g_assert_cmpint(page(&f, 1, n), ==, RMIG_PAGE_ZERO);
        }
        g_assert_true(rmig_source_finish(f.source, NULL));
    }
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/source/ahead/version-1", GUINT_TO_POINTER(0),
                         test_no_stall);
    g_test_add_data_func("/source/ahead/batch",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_BATCH),
                         test_no_stall);
    g_test_add_func("/source/ahead/budget", test_no_stall_in_budget);
    g_test_add_func("/source/ahead/pin-all", test_pin_all_table_full);
    g_test_add_func("/source/ahead/written", test_written_after_the_look);
    g_test_add_func("/source/untouched", test_untouched);
    g_test_add_data_func("/source/untouched/page", GUINT_TO_POINTER(0),
                         test_touched_meanwhile);
    g_test_add_data_func("/source/untouched/three", GUINT_TO_POINTER(3),
                         test_touched_meanwhile);
    g_test_add_data_func("/source/untouched/sixteen", GUINT_TO_POINTER(16),
                         test_touched_meanwhile);
    g_test_add_data_func("/source/holes/version-1", GUINT_TO_POINTER(0),
                         test_holes);
    g_test_add_data_func("/source/holes/batch",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_BATCH), test_holes);
    g_test_add_data_func("/source/holes/pin-all",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_BATCH |
                                          RMIG_WIRE_FLAG_PIN_ALL),
                         test_holes);
    g_test_add_func("/source/holes/pin-all-version-1", test_holes_version_1);
    g_test_add_func("/source/unpinnable/here", test_unpinnable_here);
    g_test_add_func("/source/unpinnable/there", test_unpinnable_there);
    g_test_add_func("/source/unpinnable/zeros", test_unpinnable_zeros);
    return g_test_run();
}
