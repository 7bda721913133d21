/*
 * Unit tests of the plan room: bounds, monotonicity, the next dirty chunk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The constants are matters of measurement and not repeated here; what must
 * hold whatever they are is tried with random numbers.
 */
#include "plan.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define TRIALS 20000
/* As source-spans.c has it */
#define DAMP_MAX 4

static uint64_t random64(void)
{
    return (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

/* As likely small as large: random in the number of bits, too */
static uint64_t random_size(unsigned max_bits)
{
    return random64() >> (64 - g_test_rand_int_range(1, max_bits + 1));
}

static RMigPace random_pace(void)
{
    RMigPace pace = { 0 };

    if (g_test_rand_int_range(0, 8) > 0) {
        pace.rate = random_size(63);
    }
    if (g_test_rand_int_range(0, 8) > 0) {
        pace.latency_us = random_size(63);
    }
    if (g_test_rand_int_range(0, 4) > 0) {
        pace.way_us = random_size(20);
    }
    pace.rising = g_test_rand_bit();
    return pace;
}

static RMigPlanLimits random_limits(void)
{
    return (RMigPlanLimits) {
        .budget = g_test_rand_int_range(0, 4) == 0 ? UINT64_MAX :
                  MIB + random_size(45),
        .batch = g_test_rand_bit(),
        .damp = g_test_rand_int_range(0, DAMP_MAX + 1),
    };
}

/* Whatever is known: something, and no more than there is */
static void check_bounds(const RMigPace *pace, const RMigPlanLimits *limits,
                         uint64_t before)
{
    uint64_t wire = rmig_plan_wire_bytes(pace, limits);
    uint64_t window = rmig_plan_window_bytes(pace, limits);
    uint64_t refill = rmig_plan_refill_bytes(pace, limits);
    uint64_t request = rmig_plan_request_bytes(pace, limits, before);
    uint64_t chunks = rmig_plan_span_chunks(pace, limits, before);

    /* Never so late that the last of it is being written */
    g_assert_cmpuint(refill, <=, window);
    g_assert_cmpuint(refill, >=, window / 4);
    g_assert_cmpuint(wire, >=, MIB);
    g_assert_cmpuint(window, >=, MIB);
    g_assert_cmpuint(request, >=, MIB);
    g_assert_cmpuint(chunks, >=, 1);
    g_assert_cmpuint(wire, <=, limits->budget);
    g_assert_cmpuint(window, <=, limits->budget);
    g_assert_cmpuint(window, <=, UINT64_C(1) << 40); /* whatever the pace */
    g_assert_cmpuint(request, <=, window);
    g_assert_cmpuint(chunks * MIB, <=, request);
    /* several of them are under way, where there is room for several */
    g_assert_cmpuint(chunks, <=, MAX(limits->budget / MIB / 2, 1));
    if (limits->budget >= 4 * MIB && window > MIB) {
        /* room for what is being written beside what is foreseen */
        g_assert_cmpuint(window, <=, limits->budget / 2);
    }
}

static void test_bounds(void)
{
    static const uint64_t extremes[] = {
        0, 1, MIB - 1, MIB, 2 * MIB, UINT64_C(1) << 40, INT64_MAX,
    };

    for (unsigned i = 0; i < TRIALS; i++) {
        RMigPace pace = random_pace();
        RMigPlanLimits limits = random_limits();

        check_bounds(&pace, &limits, random_size(40));
    }
    for (size_t r = 0; r < G_N_ELEMENTS(extremes); r++) {
        for (size_t l = 0; l < G_N_ELEMENTS(extremes); l++) {
            for (size_t b = 3; b < G_N_ELEMENTS(extremes); b++) {
                RMigPace pace = { .rate = extremes[r],
                                  .latency_us = extremes[l] };
                RMigPlanLimits limits = { .budget = extremes[b],
                                          .batch = b % 2 };

                check_bounds(&pace, &limits, 0);
                check_bounds(&pace, &limits, UINT64_C(1) << 50);
            }
        }
    }
}

typedef struct Plan {
    uint64_t wire, window, request, chunks;
} Plan;

static Plan plan_of(const RMigPace *pace, const RMigPlanLimits *limits,
                    uint64_t before)
{
    return (Plan) {
        .wire = rmig_plan_wire_bytes(pace, limits),
        .window = rmig_plan_window_bytes(pace, limits),
        .request = rmig_plan_request_bytes(pace, limits, before),
        .chunks = rmig_plan_span_chunks(pace, limits, before),
    };
}

static void assert_no_less(Plan more, Plan less)
{
    g_assert_cmpuint(more.wire, >=, less.wire);
    g_assert_cmpuint(more.window, >=, less.window);
    g_assert_cmpuint(more.request, >=, less.request);
    g_assert_cmpuint(more.chunks, >=, less.chunks);
}

/* What is faster, later or has more room is never foreseen less */
static void test_monotonous(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        RMigPlanLimits limits = random_limits();
        RMigPlanLimits roomier = limits;
        RMigPlanLimits dampened = limits;
        RMigPace pace = random_pace();
        uint64_t before = random_size(40);
        RMigPace faster, later, farther;
        uint64_t more;
        Plan plan;

        pace.rate = MAX(pace.rate, 1); /* 0 is not slow but unknown */
        faster = later = farther = pace;
        farther.way_us += random_size(20);
        faster.rate += random_size(62) % (INT64_MAX - pace.rate + 1);
        later.latency_us += random_size(62) %
                            (INT64_MAX - (uint64_t)pace.latency_us + 1);
        more = random_size(62);
        roomier.budget += MIN(more, UINT64_MAX - limits.budget);
        dampened.damp++;
        plan = plan_of(&pace, &limits, before);
        assert_no_less(plan_of(&faster, &limits, before), plan);
        assert_no_less(plan_of(&later, &limits, before), plan);
        assert_no_less(plan_of(&farther, &limits, before), plan);
        assert_no_less(plan_of(&pace, &roomier, before), plan);
        assert_no_less(plan_of(&pace, &limits, 2 * before + 1), plan);
        assert_no_less(plan, plan_of(&pace, &dampened, before));
    }
}

/* Requests grow from a small one to half of the window and stay there */
static void test_requests_grow(void)
{
    for (int batch = 0; batch < 2; batch++) {
        RMigPace pace = { .rate = UINT64_C(10) << 30, .latency_us = 50000 };
        RMigPlanLimits limits = { .budget = UINT64_MAX, .batch = batch };
        uint64_t window = rmig_plan_window_bytes(&pace, &limits);
        uint64_t before = 0;
        unsigned n = 0;

        g_assert_cmpuint(rmig_plan_request_bytes(&pace, &limits, 0), <=,
                         window / 8);
        while (before < window / 2) {
            uint64_t next = rmig_plan_request_bytes(&pace, &limits, before);

            g_assert_cmpuint(next, >, before);
            g_assert_cmpuint(++n, <, 16);
            before = next;
        }
        g_assert_cmpuint(before, ==, window / 2);
        g_assert_cmpuint(rmig_plan_request_bytes(&pace, &limits, before), ==,
                         before);
    }
}

/* Nothing known yet: begin with a little, not with nothing */
static void test_zero_pace(void)
{
    const RMigPace pace = { 0 };
    RMigPlanLimits limits = { .budget = UINT64_MAX };

    for (int batch = 0; batch < 2; batch++) {
        limits.batch = batch;
        check_bounds(&pace, &limits, 0);
        g_assert_cmpuint(rmig_plan_request_bytes(&pace, &limits, 0), <,
                         rmig_plan_window_bytes(&pace, &limits));
    }
}

/* ---- the pace ---- */

static void test_rate(void)
{
    RMigPace pace = { 0 };

    /* too short to tell; more of the same completes the sample */
    rmig_pace_wrote(&pace, 100000, 100);
    g_assert_cmpuint(pace.rate, ==, 0);
    rmig_pace_wrote(&pace, 0, 0);
    for (unsigned i = 0; i < 9; i++) {
        rmig_pace_wrote(&pace, 100000, 100);
    }
    g_assert_cmpuint(pace.rate, ==, 0);
    rmig_pace_wrote(&pace, 2000000, 1000);
    g_assert_cmpuint(pace.rate, ==, 1000000000);
    g_assert_true(pace.rising);

    /* up at once */
    rmig_pace_wrote(&pace, 1000000, 1000);
    g_assert_cmpuint(pace.rate, ==, 2000000000);
    g_assert_true(pace.rising);

    /* down by and by */
    rmig_pace_wrote(&pace, 1000000, 1000);
    g_assert_cmpuint(pace.rate, >, 1000000000);
    g_assert_cmpuint(pace.rate, <, 2000000000);
    g_assert_false(pace.rising);
    for (unsigned i = 0; i < 100; i++) {
        rmig_pace_wrote(&pace, 1000000, 1000);
    }
    g_assert_cmpuint(pace.rate, <, 1010000000);

    /* nothing was written for long */
    rmig_pace_wrote(&pace, 0, G_USEC_PER_SEC);
    rmig_pace_wrote(&pace, 0, G_USEC_PER_SEC);
    g_assert_cmpuint(pace.rate, <=, 800000000);
}

/*
 * This thread was away for 5 ms, then found what had completed meanwhile: that
 * is part of the sample that has the 5 ms, not of the next one
 */
static void test_rate_seen_late(void)
{
    RMigPace pace = { 0 };

    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 20; i++) {
            rmig_pace_wrote(&pace, 100000, 100);
        }
        rmig_pace_wrote(&pace, 100000, 5000);
        for (unsigned i = 0; i < 49; i++) {
            rmig_pace_wrote(&pace, 100000, 1);
        }
        g_assert_cmpuint(pace.rate, <, 1050000000);
    }
    g_assert_cmpuint(pace.rate, >, 950000000);
}

/* A sample on a long way has the gap that waiting for the way makes, too */
static void test_rate_on_long_way(void)
{
    RMigPace pace = { .way_us = 10000 };

    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 10; i++) {
            rmig_pace_wrote(&pace, 100000, i == 0 ? 9100 : 100);
        }
        g_assert_cmpuint(pace.rate, <, 150000000);
    }
    g_assert_cmpuint(pace.rate, >, 95000000);
}

static void test_way(void)
{
    const int64_t second = G_USEC_PER_SEC;
    RMigPace pace = { 0 };

    g_assert_false(rmig_pace_is_stale(&pace, 5 * second));
    rmig_pace_flew(&pace, 900, true, second);
    g_assert_cmpint(pace.way_us, ==, 900);
    g_assert_false(rmig_pace_is_stale(&pace, second + 1000));
    /* shorter: it was so, whoever stood before it */
    rmig_pace_flew(&pace, 500, false, second + 1000);
    g_assert_cmpint(pace.way_us, ==, 500);
    /* longer: others stood before it, or it is too soon */
    rmig_pace_flew(&pace, 5000, false, second + 2000);
    rmig_pace_flew(&pace, 5000, true, second + 2000);
    g_assert_cmpint(pace.way_us, ==, 500);
    g_assert_true(rmig_pace_is_stale(&pace, 2 * second));
    rmig_pace_flew(&pace, 5000, false, 2 * second);
    g_assert_cmpint(pace.way_us, ==, 500);
    /* much longer, twice */
    rmig_pace_flew(&pace, 5000, true, 2 * second);
    g_assert_cmpint(pace.way_us, ==, 500);
    g_assert_true(rmig_pace_is_stale(&pace, 2 * second));
    rmig_pace_flew(&pace, 6000, true, 2 * second);
    g_assert_cmpint(pace.way_us, ==, 5000);
    g_assert_false(rmig_pace_is_stale(&pace, 2 * second));
    /* a little longer */
    rmig_pace_flew(&pace, 5500, true, 3 * second);
    g_assert_cmpint(pace.way_us, ==, 5500);
    /* once only */
    rmig_pace_flew(&pace, 50000, true, 4 * second);
    rmig_pace_flew(&pace, 5400, true, 4 * second);
    g_assert_cmpint(pace.way_us, ==, 5400);
    /* for ever is not for ever */
    rmig_pace_flew(&pace, INT64_MAX, true, 6 * second);
    rmig_pace_flew(&pace, INT64_MAX, true, 6 * second);
    g_assert_cmpint(pace.way_us, <=, second);
}

static void test_latency(void)
{
    RMigPace pace = { 0 };

    rmig_pace_answered(&pace, 100);
    g_assert_cmpint(pace.latency_us, ==, 100);
    rmig_pace_answered(&pace, 900); /* up at once */
    g_assert_cmpint(pace.latency_us, ==, 900);
    rmig_pace_answered(&pace, 100); /* down by and by */
    g_assert_cmpint(pace.latency_us, <, 900);
    g_assert_cmpint(pace.latency_us, >, 500);
    for (unsigned i = 0; i < 100; i++) {
        rmig_pace_answered(&pace, 100);
    }
    g_assert_cmpint(pace.latency_us, >=, 100);
    g_assert_cmpint(pace.latency_us, <, 110);
}

/* A clock that jumped or a guest of 2^60 bytes makes it fast, never 0 */
static void test_huge_pace(void)
{
    static const uint64_t bytes[] = { INT64_MAX, UINT64_C(1) << 60,
                                      UINT64_C(1) << 40 };
    RMigPlanLimits limits = { .budget = UINT64_MAX, .batch = true };

    for (size_t i = 0; i < G_N_ELEMENTS(bytes); i++) {
        RMigPace pace = { 0 };
        RMigPace slow = { .rate = 1000000, .latency_us = 1 };
        uint64_t least = UINT64_MAX;

        rmig_pace_wrote(&pace, bytes[i], 1000);
        for (unsigned n = 0; n < 10; n++) {
            rmig_pace_wrote(&pace, bytes[i], 1000);
            least = MIN(least, pace.rate);
        }
        g_assert_cmpuint(least, >, 1000000000000);
        rmig_pace_answered(&pace, INT64_MAX);
        rmig_pace_answered(&pace, INT64_MAX);
        g_assert_cmpint(pace.latency_us, >, INT64_MAX / 16);
        check_bounds(&pace, &limits, 0);
        assert_no_less(plan_of(&pace, &limits, 0), plan_of(&slow, &limits, 0));
    }
}

/* ---- the bitmap ---- */

#define WORD_BITS (8 * sizeof(unsigned long))

typedef struct Bitmap {
    RMigBlock block;
    RMigBlockHints hints;
    unsigned long *words;
    uint64_t pages;
} Bitmap;

static void bitmap_init(Bitmap *b, unsigned shift, uint64_t length)
{
    memset(b, 0, sizeof(*b));
    b->block.length = length;
    b->pages = (length >> shift) + (length % (UINT64_C(1) << shift) != 0);
    /* No word more than there must be, for the address sanitizer to see */
    b->words = g_new0(unsigned long, (b->pages + WORD_BITS - 1) / WORD_BITS);
    b->hints.dirty = b->words;
    b->hints.page_shift = shift;
}

static void set_page(Bitmap *b, uint64_t page)
{
    b->words[page / WORD_BITS] |= 1UL << (page % WORD_BITS);
}

static bool naive_is_dirty(const Bitmap *b, uint64_t offset)
{
    uint64_t page = offset >> b->hints.page_shift;

    return b->words[page / WORD_BITS] >> (page % WORD_BITS) & 1;
}

/* By looking at every 4 KiB of every chunk */
static uint64_t naive_next(const Bitmap *b, uint64_t from)
{
    uint64_t chunks = rmig_block_chunks(&b->block);

    for (uint64_t c = from; c < chunks; c++) {
        uint64_t bytes = rmig_block_chunk_bytes(&b->block, c);

        for (uint64_t at = 0; at < bytes; at += 4096) {
            if (naive_is_dirty(b, (c << RMIG_CHUNK_SHIFT) + at)) {
                return c;
            }
        }
    }
    return chunks;
}

static void check_bitmap(const Bitmap *b)
{
    uint64_t chunks = rmig_block_chunks(&b->block);

    for (uint64_t from = 0; from <= chunks + 2; from++) {
        g_assert_cmpuint(rmig_plan_next_dirty(&b->block, &b->hints, from), ==,
                         naive_next(b, from));
    }
    for (unsigned i = 0; i < 32 && b->block.length > 0; i++) {
        uint64_t offset = random64() % b->block.length;

        g_assert_cmpint(rmig_plan_page_is_dirty(&b->hints, offset), ==,
                        naive_is_dirty(b, offset));
    }
}

static void check_random_bitmap(unsigned shift)
{
    uint64_t length = 1 + random64() % (20 * MIB);
    Bitmap b;

    bitmap_init(&b, shift, length);
    check_bitmap(&b); /* all clean */
    for (unsigned n = g_test_rand_int_range(0, 8); n > 0; n--) {
        set_page(&b, random64() % b.pages);
    }
    check_bitmap(&b);
    /* beyond the end of the block there may be anything */
    for (uint64_t page = b.pages; page % WORD_BITS != 0; page++) {
        set_page(&b, page);
    }
    check_bitmap(&b);
    set_page(&b, b.pages - 1);
    check_bitmap(&b);
    memset(b.words, 0xff, (b.pages + WORD_BITS - 1) / WORD_BITS *
           sizeof(*b.words));
    check_bitmap(&b);
    g_free(b.words);
}

static void test_next_dirty(void)
{
    static const unsigned shifts[] = { 12, 16, 21 };

    for (size_t i = 0; i < G_N_ELEMENTS(shifts); i++) {
        for (unsigned trial = 0; trial < 60; trial++) {
            check_random_bitmap(shifts[i]);
        }
    }
}

/* A page of two chunks makes both dirty, and what was passed stays passed */
static void test_large_pages(void)
{
    Bitmap b;

    bitmap_init(&b, 21, 7 * MIB);
    set_page(&b, 1);
    g_assert_cmpuint(rmig_plan_next_dirty(&b.block, &b.hints, 0), ==, 2);
    g_assert_cmpuint(rmig_plan_next_dirty(&b.block, &b.hints, 2), ==, 2);
    g_assert_cmpuint(rmig_plan_next_dirty(&b.block, &b.hints, 3), ==, 3);
    g_assert_cmpuint(rmig_plan_next_dirty(&b.block, &b.hints, 4), ==, 7);
    set_page(&b, 3); /* half of it is behind the end */
    g_assert_cmpuint(rmig_plan_next_dirty(&b.block, &b.hints, 4), ==, 6);
    g_free(b.words);
}

/* Nothing known: everything is dirty, as far as there is something */
static void test_no_bitmap(void)
{
    RMigBlockHints hints = { 0 };
    RMigBlock block = { .length = 3 * MIB + 1 };

    for (unsigned shift = 0; shift <= 21; shift += 21) {
        hints.page_shift = shift;
        for (uint64_t c = 0; c < 4; c++) {
            g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, c), ==, c);
        }
        g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, 4), ==, 4);
        g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, 9), ==, 4);
        g_assert_true(rmig_plan_page_is_dirty(&hints, 3 * MIB));
    }
    block.length = 0;
    g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, 0), ==, 0);
}

/* What is not plugged is not looked for, whatever the bitmap says */
static void test_plan_holes(void)
{
    unsigned long all = ~0UL;
    RMigBlockHints hints = { .dirty = &all, .page_shift = 20 };
    uint8_t holes[2] = { 0xf0, 0x01 }; /* [4, 9) */
    RMigBlock block = { .length = 10 * MIB, .holes = holes };

    for (unsigned known = 0; known < 2; known++) {
        for (uint64_t c = 0; c <= 10; c++) {
            g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, c), ==,
                             c >= 4 && c < 9 ? 9 : c);
        }
        hints.dirty = NULL;
    }
    holes[1] = 0x03;
    g_assert_cmpuint(rmig_plan_next_dirty(&block, &hints, 4), ==, 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/plan/bounds", test_bounds);
    g_test_add_func("/plan/monotonous", test_monotonous);
    g_test_add_func("/plan/requests-grow", test_requests_grow);
    g_test_add_func("/plan/zero-pace", test_zero_pace);
    g_test_add_func("/plan/pace/rate", test_rate);
    g_test_add_func("/plan/pace/rate/late", test_rate_seen_late);
    g_test_add_func("/plan/pace/rate/long-way", test_rate_on_long_way);
    g_test_add_func("/plan/pace/way", test_way);
    g_test_add_func("/plan/pace/latency", test_latency);
    g_test_add_func("/plan/pace/huge", test_huge_pace);
    g_test_add_func("/plan/next-dirty", test_next_dirty);
    g_test_add_func("/plan/next-dirty/large-pages", test_large_pages);
    g_test_add_func("/plan/next-dirty/no-bitmap", test_no_bitmap);
    g_test_add_func("/plan/next-dirty/holes", test_plan_holes);
    return g_test_run();
}
