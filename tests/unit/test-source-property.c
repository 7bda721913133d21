/*
 * Unit tests of the source: whatever the guest, the destination and the
 * devices do, the memory arrives
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of source-fixture.h, whose destination checks every message
 * and every write: keys are valid, nothing is let go that is being written, and
 * neither side ever has more registered than it may.
 */
#include "source-fixture.h"
#include "source-priv.h"

#include <string.h>

#define WORD_BITS (8 * sizeof(unsigned long))
#define EXTENSIONS (RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET)
#define RAM_BYTES (14 * MIB + PAGE)
#define VGA_BYTES (3 * MIB)
/* Steps of the fake link that a migration takes at the most */
#define STEPS_MAX 1000000

typedef struct Run {
    Fixture f;
    unsigned long *dirty[N_BLOCKS]; /* what is to be sent */
    unsigned long *hint[N_BLOCKS];  /* what the source is told */
    bool lies; /* the hints are not what is to be sent */
} Run;

static bool test_bit(const unsigned long *bits, uint64_t n)
{
    return bits[n / WORD_BITS] >> (n % WORD_BITS) & 1;
}

static void set_bit(unsigned long *bits, uint64_t n, bool on)
{
    unsigned long bit = 1ul << (n % WORD_BITS);

    bits[n / WORD_BITS] = on ? bits[n / WORD_BITS] | bit :
                               bits[n / WORD_BITS] & ~bit;
}

static unsigned below(unsigned n)
{
    return g_test_rand_int_range(0, n);
}

static uint64_t pages_of(const Run *r, unsigned block)
{
    return r->f.block[block].length / PAGE;
}

/* ---- the guest ---- */

/* Changes a page, to zeros or to data, or not at all */
static void touch(Run *r, unsigned block, uint64_t n, unsigned zeros)
{
    if (below(100) < zeros) {
        memset(r->f.block[block].ours + n * PAGE, 0, PAGE);
    } else if (below(8)) {
        dirty(&r->f, block, n);
    }
}

static void mark(Run *r, unsigned block, uint64_t n)
{
    set_bit(r->dirty[block], n, true);
    set_bit(r->hint[block], n, !r->lies || below(2));
}

/* Chunks that are empty, full, or have some pages */
static void fill(Run *r)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        unsigned zeros = 0;

        for (uint64_t n = 0; n < pages_of(r, i); n++) {
            if (n % (MIB / PAGE) == 0) {
                static const unsigned kinds[] = { 100, 0, 3, 50, 97 };

                zeros = kinds[below(G_N_ELEMENTS(kinds))];
            }
            touch(r, i, n, zeros);
            mark(r, i, n);
        }
    }
}

/* Before a later round */
static void change(Run *r)
{
    unsigned stretches = below(20);

    while (stretches-- > 0) {
        unsigned block = below(N_BLOCKS);
        uint64_t n = below(pages_of(r, block));
        uint64_t end = n + below(300);
        unsigned zeros = below(4) * 33;

        for (; n < MIN(end, pages_of(r, block)); n++) {
            touch(r, block, n, zeros);
            mark(r, block, n);
        }
    }
}

/* ---- the migration ---- */

static void check(const Run *r)
{
    RMigCounters c;

    g_assert_cmpuint(r->f.link->steps, <, STEPS_MAX);
    rmig_source_counters(r->f.source, &c);
    g_assert_cmpuint(c.peer_pinned, <=, c.peer_pinned_peak);
    if (r->f.mode.peer_budget && (r->f.mode.flags & RMIG_WIRE_FLAG_BUDGET)) {
        g_assert_cmpuint(c.peer_pinned_peak, <=, r->f.mode.peer_budget);
    }
    g_assert_cmpuint(c.chunks_again, <=, c.chunks_registered +
                     c.chunks_refused);
    g_assert_cmpuint(c.skipped_pages, <=, c.zero_pages);
}

/* Whatever it measures, the way is long */
static void go_far(Run *r)
{
    RMigPace *pace = &r->f.source->ahead.pace;

    if (r->f.mode.far) {
        pace->rate = UINT64_C(12) << 30;
        pace->way_us = 10000;
        pace->way_at_us = g_get_monotonic_time();
    }
}

static void hand_over(Run *r, unsigned block, uint64_t n)
{
    const Block *b = &r->f.block[block];
    GError *err = NULL;
    RMigPage sent;

    if (!test_bit(r->dirty[block], n)) {
        return;
    }
    /* The guest runs: what was looked at ahead may not be so any more */
    if (below(50) == 0) {
        touch(r, block, n, 50);
    }
    set_bit(r->dirty[block], n, false);
    set_bit(r->hint[block], n, r->lies && below(2));
    go_far(r);
    sent = rmig_source_page(r->f.source, b->offset, n * PAGE, PAGE, &err);
    g_assert_no_error(err);
    g_assert_cmpint(sent, ==, is_in_hole(b, n * PAGE) ||
                    (!r->f.mode.no_detection &&
                     is_zero(b->ours + n * PAGE, PAGE)) ? RMIG_PAGE_ZERO :
                                                          RMIG_PAGE_DATA);
    if (below(16) == 0) {
        check(r);
    }
}

/* Ascending as in QEMU, or in pieces of any length in any order */
static void send_round(Run *r, bool jumps)
{
    for (unsigned jump = jumps ? 30 : 0; jump > 0; jump--) {
        unsigned block = below(N_BLOCKS);
        uint64_t n = below(pages_of(r, block));
        uint64_t end = n + below(400);

        for (; n < MIN(end, pages_of(r, block)); n++) {
            hand_over(r, block, n);
        }
    }
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t n = 0; n < pages_of(r, i); n++) {
            hand_over(r, i, n);
        }
    }
    go_far(r);
    finish_round(&r->f);
    if (!r->f.mode.far) {
        assert_same_memory(&r->f);
    }
}

static void hint(Run *r)
{
    bool none = below(4) == 0;

    r->lies = below(4) == 0;
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        size_t words = pages_of(r, i) / WORD_BITS + 1;
        RMigBlockHints hints = { .page_shift = 12 };

        r->dirty[i] = g_new0(unsigned long, words);
        r->hint[i] = g_new0(unsigned long, words);
        hints.dirty = none ? NULL : r->hint[i];
        rmig_source_hint_block(r->f.source, r->f.block[i].offset, &hints);
    }
}

static uint64_t chunks_of_ram(const Run *r)
{
    uint64_t chunks = 0;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        const Block *b = &r->f.block[i];

        chunks += (b->length + MIB - 1) / MIB - (b->hole_end - b->hole_first);
    }
    return chunks;
}

/* On this side, of RAM; the message buffers come first */
static void count_registered(const Run *r, uint64_t *chunks, uint64_t *bytes)
{
    *chunks = 0;
    *bytes = 0;
    for (unsigned i = 1; i < r->f.verbs->mrs->len; i++) {
        const RMigMr *mr = g_ptr_array_index(r->f.verbs->mrs, i);

        *chunks += (mr->bytes + MIB - 1) / MIB;
        *bytes += mr->bytes;
    }
}

/* The source knows exactly what is registered, on either side */
static void check_end(Run *r)
{
    const Fixture *f = &r->f;
    const RMigAhead *a = &f->source->ahead;
    uint64_t chunks, bytes;
    RMigCounters c;

    settle(&r->f);
    assert_same_memory(&r->f);
    /* It never sleeps when what it waits for has come already */
    g_assert_cmpuint(f->link->idle_steps, ==, 0);
    while (rmig_jobs_pending(f->source->jobs) > 0) {
        rmig_jobs_reap(f->source->jobs);
    }
    rmig_source_publish(f->source);
    rmig_source_counters(f->source, &c);
    g_assert_cmpuint(c.zero_runs, ==, f->records[RMIG_WIRE_COMPRESS]);
    g_assert_cmpuint(c.chunks_refused, >=, f->chunks_refused);
    if (f->pinned) {
        return;
    }
    count_registered(r, &chunks, &bytes);
    g_assert_cmpuint(a->local.budget.used, ==, bytes);
    g_assert_cmpuint(a->local.budget.leaving, ==, 0);
    g_assert_cmpuint(a->peer.used - a->to_ask_bytes, ==, f->pinned_bytes);
    if (f->mode.refuse_one_in == 0 && f->mode.fail_one_in == 0) {
        g_assert_cmpuint(c.chunks_refused, ==, 0);
        g_assert_cmpuint(a->pin_left + chunks, ==, chunks_of_ram(r));
        g_assert_cmpuint(c.chunks_registered - c.chunks_evicted, ==, chunks);
    } else {
        g_assert_cmpuint(c.chunks_registered, >=, chunks);
    }
}

static void migrate(const Mode *mode)
{
    unsigned rounds = 1 + below(4);
    Run r = { 0 };

    setup_mode(&r.f, mode);
    hint(&r);
    g_assert_true(rmig_source_exchange(r.f.source, NULL));
    g_assert_true(rmig_source_finish(r.f.source, NULL));
    fill(&r);
    while (rounds-- > 0) {
        send_round(&r, below(4) == 0);
        check(&r);
        change(&r);
    }
    send_round(&r, false);
    check_end(&r);
    teardown(&r.f);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_free(r.dirty[i]);
        g_free(r.hint[i]);
    }
}

/* From the least to any number */
static uint64_t any_budget(void)
{
    switch (below(4)) {
    case 0:
        return 2 * MIB;
    case 1:
        return 0;
    default:
        return (2 + below(16)) * MIB + below(2) * 5 * PAGE;
    }
}

static void test_migrate(gconstpointer data)
{
    const Mode *base = data;
    unsigned n = base->threads ? 6 : 14;

    while (n-- > 0) {
        Mode mode = *base;
        bool all = base->pin_all;

        mode.ram_bytes = RAM_BYTES;
        mode.vga_bytes = VGA_BYTES;
        mode.random = below(4) > 0;
        mode.no_detection = below(8) == 0;
        mode.far = below(2);
        mode.holes = below(2) &&
                     (!all || (base->flags & RMIG_WIRE_FLAG_BATCH));
        if (!all) {
            mode.own_budget = any_budget();
            mode.peer_budget = any_budget();
        }
        if (!all || (base->flags & RMIG_WIRE_FLAG_BATCH)) {
            mode.fail_one_in = below(2) * (2 + below(20));
            mode.refuse_one_in = below(2) * (2 + below(20));
        }
        migrate(&mode);
    }
}

int main(int argc, char **argv)
{
    static const Mode version_1, extended = { .flags = EXTENSIONS },
        pinned = { .flags = RMIG_WIRE_FLAG_PIN_ALL, .pin_all = true },
        ahead = { .flags = RMIG_WIRE_FLAG_PIN_ALL | EXTENSIONS,
                  .pin_all = true },
        threads = { .flags = EXTENSIONS, .threads = 3 },
        ahead_threads = { .flags = RMIG_WIRE_FLAG_PIN_ALL | EXTENSIONS,
                          .pin_all = true, .threads = 3 };

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/source/property/version-1", &version_1,
                         test_migrate);
    g_test_add_data_func("/source/property/extended", &extended, test_migrate);
    g_test_add_data_func("/source/property/pin-all", &pinned, test_migrate);
    g_test_add_data_func("/source/property/pin-all/extended", &ahead,
                         test_migrate);
    g_test_add_data_func("/source/property/threads", &threads, test_migrate);
    g_test_add_data_func("/source/property/pin-all/threads", &ahead_threads,
                         test_migrate);
    return g_test_run();
}
