/*
 * Unit tests of the source: what goes wrong
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Destinations that misbehave or are late, and failures of our own; on the
 * fixture of source-fixture.h.
 */
#include "source-fixture.h"
#include "source-priv.h"

#include <string.h>

/* Every call fails, and nothing is posted any more */
static void assert_over(Fixture *f)
{
    g_autoptr(GError) err = NULL;
    unsigned posts = f->verbs->posts->len;

    dirty(f, 2, 0);
    g_assert_cmpint(page(f, 0, 0), ==, RMIG_PAGE_FAILED); /* zero or not */
    g_assert_cmpint(page(f, 2, 0), ==, RMIG_PAGE_FAILED);
    g_assert_false(rmig_source_finish(f->source, &err));
    g_assert_nonnull(err);
    g_assert_false(rmig_source_end(f->source, NULL));
    g_assert_cmpuint(f->verbs->posts->len, ==, posts);
}

/* ---- destinations ---- */

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
    assert_over(&f);
    teardown(&f);
}

static void test_page_fails(void)
{
    assert_page_fails(RESULT_ZERO_KEY, "RAM block vga, chunk 1");
    assert_page_fails(RESULT_WRONG_ADDRESS, "not the announced one");
    assert_page_fails(RESULT_ONE_MISSING, "REGISTER_RESULT");
    assert_page_fails(GIVES_UP, "gave up");
    assert_page_fails(SAYS_NOTHING, "memory to be registered on "
                      "both sides");
}

/* As many results as records, and the right block address, under BATCH too */
static void test_batch_fails(void)
{
    static const struct {
        Vice vice;
        const char *needle;
    } cases[] = {
        { RESULT_ONE_MISSING, "records with" },
        { RESULT_WRONG_ADDRESS, "not the announced one" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *err = NULL;
        Fixture f;

        setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_BATCH });
        g_assert_true(rmig_source_exchange(f.source, NULL));
        for (unsigned chunk = 0; chunk <= 3; chunk++) {
            dirty(&f, 0, chunk * MIB / PAGE);
        }
        f.vice = cases[i].vice;
        g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, &err), ==,
                        RMIG_PAGE_FAILED);
        assert_says(&err, cases[i].needle);
        assert_untouched_memory(&f);
        assert_over(&f);
        teardown(&f);
    }
}

/*
 * The destination breaks a rule while a run waits to be posted: it does not get
 * it any more
 */
static void test_run_is_not_posted(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_exchanged(&f, false);
    dirty(&f, 1, 0);
    g_assert_cmpint(page(&f, 1, 0), ==, RMIG_PAGE_DATA);
    fake_link_script_type(f.link, RMIG_WIRE_REGISTER_RESULT);
    while (rmig_link_poll(f.link, &err) > 0) {
        /* until it is found */
    }
    g_assert_nonnull(strstr(err->message, "the peer sent REGISTER_RESULT"));
    assert_over(&f);
    teardown(&f);
}

/* ---- late answers ---- */

/*
 * Chunk 0 of the first block is registered, and chunk 1 has been asked for
 * ahead, by the pages of chunk 0; the answer has not come
 */
static void setup_asked_ahead(Fixture *f)
{
    setup_exchanged(f, false);
    for (unsigned chunk = 0; chunk <= 3; chunk++) {
        dirty(f, 0, chunk * MIB / PAGE);
    }
    g_assert_cmpint(page(f, 0, 0), ==, RMIG_PAGE_DATA);
    g_assert_cmpuint(f->seen[RMIG_WIRE_REGISTER_REQUEST], ==, 1);
    f->vice = ANSWERS_LATE;
    for (unsigned n = 1; n <= 100; n++) {
        dirty(f, 0, n);
        g_assert_cmpint(page(f, 0, n), ==, RMIG_PAGE_DATA);
    }
    settle(f);
    g_assert_cmpuint(f->seen[RMIG_WIRE_REGISTER_REQUEST], ==, 2);
    g_assert_nonnull(f->late);
    g_assert_cmphex(f->keys[0][1], ==, 0);
}

/* Pages of the span ahead wait for its answer, those before it do not */
static void test_late_answer(void)
{
    Fixture f;

    setup_asked_ahead(&f);
    dirty(&f, 0, 200);
    g_assert_cmpint(page(&f, 0, 200), ==, RMIG_PAGE_DATA);
    release_answer(&f);
    g_assert_cmpint(page(&f, 0, MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], ==, 2);
    f.vice = HONEST;
    g_assert_cmpint(page(&f, 0, 3 * MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, 2 * MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    send_everything(&f);
    assert_same_memory(&f);
    teardown(&f);
}

/* The end of the round waits for it, too: another command must not overtake */
static void test_late_answer_at_end(void)
{
    Fixture f;

    setup_asked_ahead(&f);
    g_assert_cmpint(page(&f, 1, 0), ==, RMIG_PAGE_ZERO);
    release_answer(&f);
    f.vice = HONEST;
    g_assert_true(rmig_source_finish(f.source, NULL));
    g_assert_cmpuint(f.seen[RMIG_WIRE_COMPRESS], ==, 1);
    /* and what was asked for is there in the next round */
    g_assert_cmphex(f.keys[0][1], !=, 0);
    g_assert_cmpint(page(&f, 0, MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    teardown(&f);
}

/* All is written before the answer comes, which takes more than a moment */
static bool answer_when_written(RMigLink *link)
{
    Fixture *f = link->peer_opaque;
    unsigned ripe = fake_verbs_ripe(link->verbs, 0);

    if (ripe > 0) {
        fake_verbs_complete(link->verbs, ripe);
        return true;
    }
    if (!f->late) {
        return false;
    }
    g_usleep(2000);
    release_answer(f);
    return true;
}

/* Waiting for it is a stall, unless there is something to write meanwhile */
static void test_late_answer_at_end_counts(void)
{
    for (int written = 0; written <= 1; written++) {
        RMigCounters before, after;
        Fixture f;

        setup_asked_ahead(&f);
        rmig_source_counters(f.source, &before);
        if (written) {
            f.link->owes = answer_when_written;
        } else {
            release_answer(&f);
        }
        f.vice = HONEST;
        g_assert_true(rmig_source_finish(f.source, NULL));
        rmig_source_counters(f.source, &after);
        for (unsigned i = 0; i < RMIG_STALLS; i++) {
            bool counts = written && i == RMIG_STALL_LATE;
            uint64_t ns = after.stall_ns[i] - before.stall_ns[i];

            g_assert_cmpuint(after.stalls[i], ==, before.stalls[i] + counts);
            g_assert_cmpuint(ns, >=, counts ? 2000 * 1000 : 0);
            g_assert_true(counts || ns == 0);
        }
        teardown(&f);
    }
}

static void test_answer_never_comes(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_asked_ahead(&f);
    g_assert_cmpint(rmig_source_page(f.source, 0, MIB, PAGE, &err), ==,
                    RMIG_PAGE_FAILED);
    g_assert_cmpstr(err->message, ==, "RAM block ram, chunk 1: timed out "
                    "while waiting for memory to be registered on both sides");
    assert_over(&f);
    teardown(&f);
}

/*
 * The destination's NIC lives, as the link's heartbeat shows, and its program
 * is stuck: the answer is given the time that its request takes, whatever else
 * is registered.  (That a heartbeat puts nothing off, the fake link checks.)
 */
static void test_program_is_stuck(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_asked_ahead(&f);
    f.source->ahead.peer.used += UINT64_C(64) << 30;
    g_assert_cmpint(rmig_source_page(f.source, 0, MIB, PAGE, &err), ==,
                    RMIG_PAGE_FAILED);
    g_assert_cmpstr(err->message, ==, "RAM block ram, chunk 1: timed out "
                    "while waiting for memory to be registered on both sides");
    g_assert_cmpint(f.link->idle_deadline_us, <=, g_get_monotonic_time() +
                    RMIG_CONTROL_TIMEOUT_MS * INT64_C(1000));
    f.source->ahead.peer.used -= UINT64_C(64) << 30;
    assert_over(&f);
    teardown(&f);
}

/* Likewise between the answer and the next READY */
static void test_program_is_stuck_unready(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_BATCH,
                             .ram_bytes = 60 * MIB, .threads = 2 });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    settle(&f);
    /* The next command's READY does not come; nobody has much to say */
    f.link->watched_wait_ms = 1000;
    f.vice = SAYS_NOTHING;
    g_assert_true(rmig_source_finish(f.source, NULL));
    for (uint64_t chunk = 0; chunk < 60; chunk += 2) {
        dirty(&f, 0, chunk * MIB / PAGE);
    }
    g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, &err), ==,
                    RMIG_PAGE_FAILED);
    assert_says(&err, "timed out while waiting for memory to be registered");
    g_assert_cmpuint(f.seen[RMIG_WIRE_REGISTER_REQUEST], ==, 0);
    assert_over(&f);
    teardown(&f);
}

static void test_late_answer_is_wrong(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_asked_ahead(&f);
    f.vice = RESULT_ZERO_KEY;
    release_answer(&f);
    g_assert_false(rmig_source_finish(f.source, &err));
    g_assert_nonnull(strstr(err->message, "RAM block ram, chunk 1 with rkey "
                            "0x0"));
    assert_over(&f);
    teardown(&f);
}

/* ---- our own failures ---- */

static bool refuse_all(RMigVerbs *verbs, uint64_t bytes)
{
    (void)verbs;
    (void)bytes;
    return true;
}

/* Memory of ours that cannot be registered or posted */
static void test_local_failures(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    /* The only chunk, again and again */
    setup_exchanged(&f, false);
    dirty(&f, 0, 0);
    f.verbs->refuse = refuse_all;
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

/*
 * What cannot be registered here is let go there, and asked for anew when its
 * pages come; once nothing else is in the way that is the end
 */
static void test_span_falls_back(void)
{
    RMigCounters c;
    Fixture f;

    setup_exchanged(&f, false);
    for (unsigned chunk = 0; chunk <= 3; chunk++) {
        dirty(&f, 0, chunk * MIB / PAGE);
    }
    f.verbs->fail_register = 1; /* that of chunks 1 to 3, ahead */
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, 2 * MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_cmpint(page(&f, 0, 3 * MIB / PAGE), ==, RMIG_PAGE_DATA);
    g_assert_true(rmig_source_finish(f.source, NULL));
    for (unsigned chunk = 0; chunk <= 3; chunk++) {
        uint64_t n = chunk * MIB / PAGE;

        g_assert_cmpmem(f.block[0].ours + n * PAGE, PAGE,
                        f.block[0].theirs + n * PAGE, PAGE);
    }
    g_assert_cmpuint(f.seen[RMIG_WIRE_UNREGISTER_REQUEST], >=, 1);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_refused, ==, 3);
    teardown(&f);
}

/* ---- limits ---- */

/* Nothing is registered, and nothing is asked for */
static void assert_too_little(const Mode *mode, const char *who)
{
    g_autofree char *start = g_strdup_printf("%s may pin only", who);
    GError *err = NULL;
    Fixture f;

    setup_mode(&f, mode);
    g_assert_false(rmig_source_exchange(f.source, &err));
    g_assert_true(g_str_has_prefix(err->message, start));
    g_assert_nonnull(strstr(err->message, "memory-lock limit"));
    assert_says(&err, "rdma-pin-limit");
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    g_assert_cmpuint(f.verbs->posts->len, ==, 0);
    teardown(&f);
}

static void test_too_little(void)
{
    Mode there = { .flags = RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET,
                   .peer_budget = 2 * MIB - 1 };
    Mode here = { .own_budget = 2 * MIB - 1 };

    assert_too_little(&there, "the destination");
    assert_too_little(&here, "this host");
    /* Without BUDGET its number says nothing */
    there.flags = RMIG_WIRE_FLAG_BATCH;
    {
        Fixture f;

        setup_mode(&f, &there);
        g_assert_true(rmig_source_exchange(f.source, NULL));
        teardown(&f);
    }
}

/* One that has not a single chunk to give is the end, but says who and why */
static void test_refuses_everything(void)
{
    static const uint32_t flags[] = {
        RMIG_WIRE_FLAG_BATCH, RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        GError *err = NULL;
        Fixture f;

        setup_mode(&f, &(Mode) { .flags = flags[i], .ram_bytes = 30 * MIB });
        g_assert_true(rmig_source_exchange(f.source, NULL));
        for (uint64_t n = 0; n < f.block[0].length / PAGE; n += 100) {
            dirty(&f, 0, n);
        }
        f.vice = RESULT_ZERO_KEY;
        g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, &err), ==,
                        RMIG_PAGE_FAILED);
        g_assert_nonnull(strstr(err->message, "the destination cannot pin"));
        assert_says(&err, "raise its memory-lock limit");
        assert_untouched_memory(&f);
        g_assert_cmpuint(f.verbs->mrs->len, <=, 1 + 30);
        assert_over(&f);
        teardown(&f);
    }
}

/*
 * What is written next was refused ahead, with more of the window than is tried
 * again at once; then nothing comes any more: that, too, is waited for only so
 * long
 */
static void test_refused_then_silent(void)
{
    g_autoptr(GError) err = NULL;
    RMigCounters c;
    Fixture f;

    setup_mode(&f, &(Mode) { .flags = RMIG_WIRE_FLAG_BATCH,
                             .ram_bytes = 60 * MIB });
    g_assert_true(rmig_source_exchange(f.source, NULL));
    for (uint64_t chunk = 0; chunk < 60; chunk += 2) {
        dirty(&f, 0, chunk * MIB / PAGE); /* no two of them share a span */
    }
    g_assert_cmpint(page(&f, 0, 0), ==, RMIG_PAGE_DATA);
    f.vice = RESULT_ZERO_KEY;
    for (unsigned n = 1; n < MIB / PAGE; n++) {
        dirty(&f, 0, n);
        g_assert_cmpint(page(&f, 0, n), ==, RMIG_PAGE_DATA);
        settle(&f);
    }
    g_assert_cmpuint(f.chunks_refused, >=, 8);
    f.vice = SAYS_NOTHING;
    g_assert_cmphex(f.keys[0][20], ==, 0);
    g_assert_cmpint(rmig_source_page(f.source, 0, 20 * MIB, PAGE, &err), ==,
                    RMIG_PAGE_FAILED);
    g_assert_cmpstr(err->message, ==, "RAM block ram, chunk 20: timed out "
                    "while waiting for memory to be registered on both sides");
    g_assert_cmpint(f.link->idle_deadline_us, <=, g_get_monotonic_time() +
                    RMIG_CONTROL_TIMEOUT_MS * INT64_C(1000));
    assert_over(&f);
    rmig_source_close(f.source, true);
    rmig_source_counters(f.source, &c);
    g_assert_cmpuint(c.chunks_refused, ==, f.chunks_refused);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/source/hostile/exchange", test_exchange_fails);
    g_test_add_func("/source/hostile/page", test_page_fails);
    g_test_add_func("/source/hostile/batch", test_batch_fails);
    g_test_add_func("/source/hostile/run", test_run_is_not_posted);
    g_test_add_func("/source/late", test_late_answer);
    g_test_add_func("/source/late/at-end", test_late_answer_at_end);
    g_test_add_func("/source/late/at-end/counts",
                    test_late_answer_at_end_counts);
    g_test_add_func("/source/late/never", test_answer_never_comes);
    g_test_add_func("/source/late/stuck", test_program_is_stuck);
    g_test_add_func("/source/late/stuck/unready",
                    test_program_is_stuck_unready);
    g_test_add_func("/source/late/wrong", test_late_answer_is_wrong);
    g_test_add_func("/source/local/failures", test_local_failures);
    g_test_add_func("/source/local/span", test_span_falls_back);
    g_test_add_func("/source/limits/too-little", test_too_little);
    g_test_add_func("/source/limits/nothing", test_refuses_everything);
    g_test_add_func("/source/limits/then-silent", test_refused_then_silent);
    return g_test_run();
}
