/*
 * Unit tests of the plan room: how much is on the wire, on a simulated link
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The link has a rate, a way there and back, jitter, and somebody else's queue,
 * all of which may change; the sender always has more to write, and does to
 * the plan what writer and source do.  Time is simulated.  From whatever is
 * taken to be known at the start, and after each change, the link must be full
 * in the end, and no more than that on the wire.
 */
#include "plan.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define TRIALS 60
#define SETTLED_US (4 * G_USEC_PER_SEC)
#define MEASURED_US G_USEC_PER_SEC
#define MOST_BATCHES 4096

typedef struct Link {
    double rate;    /* bytes a us */
    int64_t way_us; /* there and back, on an idle link */
    int64_t jitter_us;
    int64_t late_us; /* how late this thread may be to look, at the most */
} Link;

typedef struct Batch {
    uint64_t bytes;
    int64_t posted_us;
    int64_t done_us;
    bool alone;
} Batch;

typedef struct Sim {
    Link link;
    RMigPace pace;
    RMigPlanLimits limits;
    int64_t now_us;
    double free_us; /* when the link has nothing left to send */
    int64_t last_us; /* completion; and when the last one was seen */
    int64_t seen_us;
    Batch batches[MOST_BATCHES]; /* a ring */
    unsigned first, n;
    uint64_t wire;
    bool has_alone, drains;
    int64_t busy_us; /* since when, as the writer has it */
    uint64_t landed;
    uint64_t most_wire; /* since it was last cleared */
} Sim;

static void post(Sim *s, uint64_t bytes)
{
    Batch *b = &s->batches[(s->first + s->n) % MOST_BATCHES];
    int64_t jitter = s->link.jitter_us ?
                     g_test_rand_int_range(0, s->link.jitter_us) : 0;

    g_assert_cmpuint(s->n, <, MOST_BATCHES);
    b->bytes = bytes;
    b->posted_us = s->now_us;
    b->alone = s->n == 0;
    if (b->alone) {
        s->has_alone = true;
        s->drains = false;
        s->busy_us = s->now_us;
    }
    s->free_us = MAX(s->free_us, s->now_us) + bytes / s->link.rate;
    b->done_us = MAX(s->last_us, (int64_t)s->free_us + s->link.way_us +
                     jitter);
    s->last_us = b->done_us;
    s->n++;
    s->wire += bytes;
    s->most_wire = MAX(s->most_wire, s->wire);
}

/* As the writer does: little when the wire is idle, else an eighth */
static void fill(Sim *s)
{
    uint64_t wire_max = rmig_plan_wire_bytes(&s->pace, &s->limits);

    s->drains = !s->has_alone && rmig_pace_is_stale(&s->pace, s->now_us);
    while (s->n == 0 || (!s->drains && s->wire < wire_max)) {
        post(s, s->n == 0 ? 65536 : MIN(wire_max / 8, 8 * MIB));
    }
}

static void land(Sim *s)
{
    Batch *b = &s->batches[s->first];

    s->first = (s->first + 1) % MOST_BATCHES;
    s->n--;
    s->wire -= b->bytes;
    s->landed += b->bytes;
    s->has_alone = s->has_alone && !b->alone;
    rmig_pace_flew(&s->pace, s->now_us - b->posted_us, b->alone, s->now_us);
    if (!b->alone) {
        rmig_pace_wrote(&s->pace, b->bytes, s->now_us - s->busy_us);
    }
    s->busy_us = s->now_us;
}

static void run(Sim *s, int64_t us)
{
    int64_t end = s->now_us + us;

    while (s->now_us < end) {
        fill(s);
        s->now_us = MAX(s->now_us, s->batches[s->first].done_us);
        if (s->link.late_us && g_test_rand_int_range(0, 20) == 0) {
            s->now_us += g_test_rand_int_range(0, s->link.late_us);
        }
        while (s->n > 0 && s->batches[s->first].done_us <= s->now_us) {
            land(s);
        }
    }
}

/* The link is full, and the queue before it is not long */
static void check_settled(Sim *s)
{
    const Link *l = &s->link;
    /*
     * What completes late, by jitter or a late look, is on the wire so long;
     * and for a moment a rate that is as uneven may look as if it rose
     */
    int64_t noise = l->jitter_us + l->late_us;
    int64_t way = l->way_us + noise;
    int64_t slack = MAX(way / 2, 3000) + (noise ? 2 * way : 0);
    int64_t start;
    double most, rate;

    run(s, SETTLED_US);
    s->landed = 0;
    s->most_wire = 0;
    start = s->now_us;
    run(s, MEASURED_US);
    rate = s->landed / (double)(s->now_us - start);
    most = l->rate * (way + slack) + 12 * MIB;
    if (rate < 0.9 * l->rate || s->most_wire > most) {
        g_error("%.3f of the link's %.0f MB/s, way %d us, jitter %d us, late "
                "%d us: %.1f MiB on the wire, %.1f at the most; way seen "
                "%d us, rate seen %.0f MB/s", rate / l->rate, l->rate,
                (int)l->way_us, (int)l->jitter_us, (int)l->late_us,
                s->most_wire / 1048576.0, most / 1048576.0,
                (int)s->pace.way_us, s->pace.rate / 1e6);
    }
}

static uint64_t random_size(unsigned min_bits, unsigned max_bits)
{
    unsigned bits = g_test_rand_int_range(min_bits, max_bits + 1);

    return (UINT64_C(1) << bits) |
           (((uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int()) >>
            (63 - bits) >> 1);
}

/* 1 to 400 Gbit/s, up to 10 ms */
static Link random_link(void)
{
    uint64_t way_us = random_size(1, 13);

    return (Link) {
        .rate = g_test_rand_double_range(125, 50000),
        .way_us = MIN(way_us, 10000),
    };
}

static Sim *new_sim(Link link)
{
    Sim *s = g_new0(Sim, 1);

    s->link = link;
    s->limits.budget = UINT64_MAX;
    s->now_us = G_USEC_PER_SEC;
    return s;
}

/* Nothing known */
static void test_from_nothing(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());

        check_settled(s);
        g_free(s);
    }
}

/* Whatever was taken to be known */
static void test_from_anything(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());

        s->pace.rate = random_size(0, 40);
        s->pace.rising = g_test_rand_bit();
        s->pace.way_us = random_size(0, 17);
        s->pace.way_at_us = s->now_us - g_test_rand_int_range(0, 1000000);
        check_settled(s);
        g_free(s);
    }
}

/* The link's rate falls to a part, and comes back */
static void test_shrinks_and_grows(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());
        double rate = s->link.rate;

        check_settled(s);
        s->link.rate = MAX(rate / g_test_rand_double_range(1, 20), 100);
        check_settled(s);
        s->link.rate = rate;
        check_settled(s);
        g_free(s);
    }
}

/* The way becomes another, as with a queue of others, or a new route */
static void test_way_changes(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());

        check_settled(s);
        s->link.way_us = random_link().way_us;
        check_settled(s);
        s->link.way_us = random_link().way_us;
        check_settled(s);
        g_free(s);
    }
}

/* Completions come unevenly, or are seen late */
static void test_noise(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());

        s->link.jitter_us = 1 + s->link.way_us / 4;
        check_settled(s);
        s->link.jitter_us = 0;
        s->link.late_us = g_test_rand_int_range(1, 1500);
        check_settled(s);
        g_free(s);
    }
}

/* What the issue was about: 97 Gbit/s and 2 ms, where the rate fell for ever */
static void test_two_milliseconds(void)
{
    static const int64_t ways[] = { 2, 1000, 2000, 10000, 20000 };

    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        Sim *s = new_sim((Link) { .rate = 12125, .way_us = ways[i] });

        check_settled(s);
        g_free(s);
    }
}

/* A quarter of the budget is not exceeded on any way, but for a batch */
static void test_budget(void)
{
    for (unsigned i = 0; i < TRIALS; i++) {
        Sim *s = new_sim(random_link());
        uint64_t most;

        s->limits.budget = random_size(21, 34);
        most = MAX(s->limits.budget / 4, MIB);
        run(s, SETTLED_US);
        g_assert_cmpuint(s->most_wire, <=, most + most / 8);
        g_free(s);
    }
}

/* The wire runs idle for the measurement no more than the way, once a second */
static void test_measured_seldom(void)
{
    Sim *s = new_sim((Link) { .rate = 12125, .way_us = 10000 });
    uint64_t full;

    check_settled(s);
    s->landed = 0;
    full = 10 * s->link.rate * G_USEC_PER_SEC;
    run(s, 10 * G_USEC_PER_SEC);
    g_assert_cmpfloat(s->landed, >, 0.97 * full);
    g_free(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/plan/way/from-nothing", test_from_nothing);
    g_test_add_func("/plan/way/from-anything", test_from_anything);
    g_test_add_func("/plan/way/rate", test_shrinks_and_grows);
    g_test_add_func("/plan/way/changes", test_way_changes);
    g_test_add_func("/plan/way/noise", test_noise);
    g_test_add_func("/plan/way/two-milliseconds", test_two_milliseconds);
    g_test_add_func("/plan/way/budget", test_budget);
    g_test_add_func("/plan/way/seldom", test_measured_seldom);
    return g_test_run();
}
