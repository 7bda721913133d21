/*
 * Unit tests of the writer room: merging, doorbells, the wire, pins, failure
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fake of verbs, which refuses a write outside of its region and into
 * a full queue.  test-writer-random.c has the random sequences.
 */
#include "writer-fixture.h"

#include <string.h>

#define RKEY 77
/* What an idle wire does not wait for */
#define IDLE_PAGES 16

typedef struct Fixture {
    WriterFixture base;
    RMigVerbs *verbs;
    RMigWriter *writer;
    const RMigBlock *ram;
    RMigSpan *span; /* the first 16 chunks of "ram"; entered */
} Fixture;

static void setup(Fixture *f)
{
    writer_fixture_init(&f->base);
    f->verbs = f->base.verbs;
    f->writer = &f->base.writer;
    f->ram = f->base.ram;
    f->span = writer_fixture_span(&f->base, f->ram, 0, 16, RKEY);
    rmig_writer_enter(f->writer, f->span);
}

static void teardown(Fixture *f)
{
    writer_fixture_cleanup(&f->base);
}

static void add(Fixture *f, uint64_t offset, uint64_t len)
{
    g_assert_true(rmig_writer_covers(f->writer, f->writer->span->block,
                                     offset, len));
    g_assert_true(rmig_writer_has_room(f->writer));
    g_assert_true(rmig_writer_add(f->writer, offset, len, NULL));
}

static void flush(Fixture *f)
{
    g_assert_true(rmig_writer_has_room(f->writer));
    g_assert_true(rmig_writer_flush(f->writer, NULL));
}

static void leave(Fixture *f)
{
    g_assert_true(rmig_writer_has_room(f->writer));
    g_assert_true(rmig_writer_leave(f->writer, NULL));
}

static unsigned posts(const Fixture *f)
{
    return f->verbs->posts->len;
}

/* Something is on the wire, so that batches may grow; posts and doorbells: 1 */
static void keep_busy(Fixture *f)
{
    add(f, 15 * MIB, IDLE_PAGES * PAGE);
    g_assert_cmpuint(posts(f), ==, 1);
}

static void assert_write(const Fixture *f, unsigned i, uint64_t offset,
                         uint32_t bytes, bool signalled)
{
    const FakePost *post = fake_verbs_post(f->verbs, i);

    g_assert_cmpint(post->kind, ==, FAKE_WRITE);
    g_assert_true(post->addr == f->ram->host + offset);
    g_assert_cmphex(post->remote_addr, ==, REMOTE + offset);
    g_assert_cmpuint(post->bytes, ==, bytes);
    g_assert_cmpuint(post->rkey, ==, RKEY);
    g_assert_true(post->mr == f->span->mr);
    g_assert_cmpint(post->signalled, ==, signalled);
}

static void test_one_page(void)
{
    Fixture f;

    setup(&f);
    g_assert_true(rmig_writer_is_idle(f.writer));
    add(&f, 5 * PAGE, PAGE);
    g_assert_false(rmig_writer_is_idle(f.writer)); /* held back */
    g_assert_cmpuint(posts(&f), ==, 0);
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 1);
    assert_write(&f, 0, 5 * PAGE, PAGE, true);
    g_assert_false(rmig_writer_is_idle(f.writer)); /* on the wire */
    g_assert_cmpuint(f.writer->wire_bytes, ==, PAGE);
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(f.writer));
    g_assert_cmpuint(f.writer->wire_bytes, ==, 0);
    g_assert_cmpuint(f.writer->bytes, ==, PAGE);
    g_assert_cmpuint(f.writer->writes, ==, 1);

    flush(&f); /* nothing to do */
    g_assert_cmpuint(posts(&f), ==, 1);
    teardown(&f);
}

static void test_covers(void)
{
    RMigWriter *w;
    Fixture f;

    setup(&f);
    w = f.writer;
    rmig_writer_enter(w, writer_fixture_span(&f.base, f.ram, 20, 3, RKEY));
    g_assert_true(rmig_writer_covers(w, f.ram, 20 * MIB, 3 * MIB));
    g_assert_true(rmig_writer_covers(w, f.ram, 23 * MIB - PAGE, PAGE));
    g_assert_false(rmig_writer_covers(w, f.ram, 20 * MIB - PAGE, 2 * PAGE));
    g_assert_false(rmig_writer_covers(w, f.ram, 23 * MIB - PAGE, 2 * PAGE));
    g_assert_false(rmig_writer_covers(w, f.base.other, 20 * MIB, PAGE));
    leave(&f);
    g_assert_false(rmig_writer_covers(w, f.ram, 20 * MIB, PAGE));
    teardown(&f);
}

static void test_merge(void)
{
    Fixture f;

    setup(&f);
    for (unsigned i = 0; i < 10; i++) {
        add(&f, (20 + i) * PAGE, PAGE);
    }
    add(&f, 40 * PAGE, PAGE);     /* a gap */
    add(&f, 39 * PAGE, PAGE);     /* backwards */
    add(&f, 39 * PAGE, PAGE);     /* the same again */
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 4);
    g_assert_cmpuint(f.verbs->doorbells, ==, 1);
    assert_write(&f, 0, 20 * PAGE, 10 * PAGE, false);
    assert_write(&f, 1, 40 * PAGE, PAGE, false);
    assert_write(&f, 2, 39 * PAGE, PAGE, false);
    assert_write(&f, 3, 39 * PAGE, PAGE, true);
    teardown(&f);
}

/* Chunks are no borders within a span */
static void test_merge_across_chunks(void)
{
    Fixture f;

    setup(&f);
    keep_busy(&f);
    for (unsigned i = 0; i < 8; i++) {
        add(&f, MIB - 4 * PAGE + i * PAGE, PAGE);
    }
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 2);
    assert_write(&f, 1, MIB - 4 * PAGE, 8 * PAGE, true);
    teardown(&f);
}

/* A run ends with its span, however close the next one is */
static void test_spans(void)
{
    const FakePost *post;
    RMigSpan *next, *far;
    Fixture f;

    setup(&f);
    next = writer_fixture_span(&f.base, f.ram, 16, 48, RKEY);
    far = writer_fixture_span(&f.base, f.base.other, 0, 1, RKEY + 1);
    add(&f, 16 * MIB - PAGE, PAGE);
    rmig_writer_enter(f.writer, next);
    rmig_writer_enter(f.writer, next); /* it is there already */
    add(&f, 16 * MIB, PAGE);
    add(&f, 64 * MIB - PAGE, PAGE);
    rmig_writer_enter(f.writer, far);
    add(&f, 0, PAGE);
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 4);
    g_assert_cmpuint(f.verbs->doorbells, ==, 1);
    assert_write(&f, 0, 16 * MIB - PAGE, PAGE, false);
    post = fake_verbs_post(f.verbs, 1);
    g_assert_true(post->mr == next->mr);
    g_assert_cmphex(post->remote_addr, ==, REMOTE + 16 * MIB);
    g_assert_cmpuint(post->bytes, ==, PAGE);
    post = fake_verbs_post(f.verbs, 3);
    g_assert_true(post->mr == far->mr);
    g_assert_cmpuint(post->rkey, ==, RKEY + 1);
    g_assert_cmphex(post->remote_addr, ==, REMOTE + 64 * MIB);
    g_assert_true(post->signalled);
    teardown(&f);
}

/* An idle wire is given something soon; a busy one more at a time */
static void test_ripe(void)
{
    unsigned busy_pages;
    Fixture f;

    setup(&f);
    for (unsigned i = 0; i < IDLE_PAGES - 1; i++) {
        add(&f, i * PAGE, PAGE);
    }
    g_assert_cmpuint(posts(&f), ==, 0);
    add(&f, (IDLE_PAGES - 1) * PAGE, PAGE);
    g_assert_cmpuint(posts(&f), ==, 1);
    assert_write(&f, 0, 0, IDLE_PAGES * PAGE, true);

    busy_pages = f.writer->wire_max / 8 / PAGE;
    for (unsigned i = 0; i < busy_pages - 1; i++) {
        add(&f, MIB + i * PAGE, PAGE);
    }
    g_assert_cmpuint(posts(&f), ==, 1);
    add(&f, MIB + (busy_pages - 1) * PAGE, PAGE);
    g_assert_cmpuint(posts(&f), ==, 2);
    assert_write(&f, 1, MIB, busy_pages * PAGE, true);

    /* idle again; and what is spread counts like what is not */
    fake_verbs_complete_all(f.verbs);
    for (unsigned i = 0; i < IDLE_PAGES; i++) {
        g_assert_cmpuint(posts(&f), ==, 2);
        add(&f, 4 * MIB + 2 * i * PAGE, PAGE);
    }
    g_assert_cmpuint(posts(&f), ==, 2 + IDLE_PAGES);
    g_assert_cmpuint(f.verbs->doorbells, ==, 3);
    teardown(&f);
}

/* One doorbell and one completion for as many writes as a chain has */
static void test_doorbells(void)
{
    unsigned n = 2 * RMIG_WRITER_BATCH + 5;
    Fixture f;

    setup(&f);
    keep_busy(&f);
    for (unsigned i = 0; i < n; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 1 + n);
    for (unsigned i = 0; i < n; i++) {
        assert_write(&f, 1 + i, 2 * i * PAGE, PAGE,
                     (i + 1) % RMIG_WRITER_BATCH == 0 || i == n - 1);
    }
    g_assert_cmpuint(f.verbs->doorbells, ==, 1 + 3);
    g_assert_cmpuint(f.writer->batches_in_flight, ==, 1 + 3);
    fake_verbs_complete(f.verbs, 1 + RMIG_WRITER_BATCH);
    g_assert_cmpuint(f.writer->batches_in_flight, ==, 2);
    g_assert_false(rmig_writer_is_idle(f.writer));
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(f.writer));
    teardown(&f);
}

/* Rounds that end with a full batch leave nothing half done */
static void test_round_of_one_batch(void)
{
    Fixture f;

    setup(&f);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < RMIG_WRITER_BATCH; i++) {
            add(&f, 2 * i * 512, 512); /* never ripe before it is full */
        }
        flush(&f);
        g_assert_cmpuint(posts(&f), ==, (round + 1) * RMIG_WRITER_BATCH);
        g_assert_cmpuint(f.verbs->doorbells, ==, round + 1);
        g_assert_true(fake_verbs_last(f.verbs)->signalled);
        fake_verbs_complete_all(f.verbs);
        g_assert_true(rmig_writer_is_idle(f.writer));
    }
    g_assert_cmpuint(g_queue_get_length(&f.writer->idle), ==, 1); /* reused */
    teardown(&f);
}

/* So much may be on the wire, and one run that is larger */
static void test_wire_max(void)
{
    Fixture f;

    setup(&f);
    f.writer->wire_max = 2 * MIB;
    add(&f, 0, MIB);
    g_assert_cmpuint(f.writer->wire_bytes, ==, MIB);
    g_assert_true(rmig_writer_has_room(f.writer));
    add(&f, 4 * MIB, MIB);
    g_assert_cmpuint(f.writer->wire_bytes, ==, 2 * MIB);
    g_assert_false(rmig_writer_has_room(f.writer));
    fake_verbs_complete(f.verbs, 1);
    g_assert_true(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);

    add(&f, 0, 8 * MIB);
    g_assert_cmpuint(f.writer->wire_bytes, ==, 8 * MIB);
    g_assert_false(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);

    /* nothing is on it: there is room whatever was chosen */
    f.writer->wire_max = 1;
    add(&f, 0, PAGE);
    add(&f, MIB, PAGE);
    fake_verbs_complete_all(f.verbs);
    f.writer->wire_max = 0;
    flush(&f);
    teardown(&f);
}

/*
 * A queue shorter than a batch: the write that fills it must be signalled, or
 * no completion would ever make room again
 */
static void test_short_queue(void)
{
    Fixture f;

    setup(&f);
    f.verbs->write_slots = 5;
    for (unsigned i = 0; i < 6; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    g_assert_cmpuint(posts(&f), ==, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_write(&f, i, 2 * i * PAGE, PAGE, i == 4);
    }
    g_assert_false(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);
    flush(&f);
    assert_write(&f, 5, 10 * PAGE, PAGE, true);
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(f.writer));
    teardown(&f);
}

/* A span that is entered with just as many slots free as there are runs */
static void test_short_queue_spans(void)
{
    static const unsigned slots[] = { 1, 2, 5, RMIG_WRITER_BATCH };

    for (size_t i = 0; i < G_N_ELEMENTS(slots); i++) {
        RMigSpan *next;
        Fixture f;

        setup(&f);
        next = writer_fixture_span(&f.base, f.ram, 16, 1, RKEY);
        f.verbs->write_slots = slots[i];
        for (unsigned k = 0; k < slots[i]; k++) {
            add(&f, 2 * k * 512, 512);
        }
        rmig_writer_enter(f.writer, next);
        /* nothing is under way that could make room */
        add(&f, 16 * MIB, 512);
        g_assert_cmpuint(posts(&f), ==, slots[i]);
        g_assert_cmpuint(f.verbs->doorbells, ==, 1);
        fake_verbs_complete_all(f.verbs);
        leave(&f);
        fake_verbs_complete_all(f.verbs);
        g_assert_cmpuint(posts(&f), ==, slots[i] + 1);
        g_assert_cmpuint(f.span->pins + next->pins, ==, 0);
        teardown(&f);
    }
}

/* A large page that comes when the queue has just been filled must wait */
static void test_short_queue_large(void)
{
    Fixture f;

    setup(&f);
    f.verbs->write_slots = 1;
    add(&f, 0, PAGE);
    add(&f, MIB, 4 * MIB);
    g_assert_cmpuint(posts(&f), ==, 1);
    g_assert_false(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);
    flush(&f);
    assert_write(&f, 1, MIB, 4 * MIB, true);
    teardown(&f);
}

/* ---- what keeps a span ---- */

static void test_pins(void)
{
    RMigSpan *next;
    Fixture f;

    setup(&f);
    next = writer_fixture_span(&f.base, f.ram, 16, 1, RKEY);
    g_assert_cmpuint(f.span->pins, ==, 1); /* it is being written */
    add(&f, 0, PAGE);
    add(&f, 2 * PAGE, PAGE);
    g_assert_cmpuint(next->pins, ==, 0);
    rmig_writer_enter(f.writer, next);
    g_assert_cmpuint(next->pins, ==, 1);
    g_assert_cmpuint(f.span->pins, >, 0); /* has runs that are held back */
    add(&f, 16 * MIB, PAGE);
    g_assert_false(f.span->written);
    leave(&f);
    g_assert_null(f.writer->span);
    g_assert_true(f.span->written);
    g_assert_true(next->written);
    g_assert_cmpuint(f.span->pins, >, 0); /* on the wire */
    g_assert_cmpuint(next->pins, >, 0);
    fake_verbs_complete_all(f.verbs);
    g_assert_cmpuint(f.span->pins, ==, 0);
    g_assert_cmpuint(next->pins, ==, 0);

    /* to and fro within one batch */
    for (unsigned i = 0; i < 4; i++) {
        rmig_writer_enter(f.writer, i % 2 ? next : f.span);
        add(&f, (i % 2 ? 16 * MIB : 0) + 2 * i * PAGE, PAGE);
    }
    leave(&f);
    g_assert_cmpuint(f.verbs->doorbells, ==, 2);
    g_assert_cmpuint(f.span->pins, >, 0);
    fake_verbs_complete_all(f.verbs);
    g_assert_cmpuint(f.span->pins, ==, 0);
    g_assert_cmpuint(next->pins, ==, 0);

    /* nothing was written */
    rmig_writer_enter(f.writer, next);
    leave(&f);
    g_assert_cmpuint(next->pins, ==, 0);
    leave(&f); /* has been left */
    teardown(&f);
}

/* What is written was used last */
static void test_touch(void)
{
    RMigSpan *next;
    Fixture f;

    setup(&f);
    next = writer_fixture_span(&f.base, f.ram, 16, 1, RKEY);
    g_assert_true(g_queue_peek_tail(&f.base.table.spans) == next);
    add(&f, 0, PAGE);
    flush(&f);
    g_assert_true(g_queue_peek_tail(&f.base.table.spans) == f.span);
    g_assert_true(g_queue_peek_head(&f.base.table.spans) == next);
    teardown(&f);
}

/* Told to drain it posts nothing until the wire is idle, and then goes on */
static void test_drains(void)
{
    Fixture f;

    setup(&f);
    add(&f, 0, MIB);
    g_assert_true(f.writer->has_alone);
    add(&f, 2 * MIB, MIB);
    g_assert_true(rmig_writer_flush(f.writer, NULL));
    g_assert_true(rmig_writer_has_room(f.writer));
    fake_verbs_complete(f.verbs, 1);
    g_assert_false(f.writer->has_alone);
    f.writer->drains = true;
    g_assert_false(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_has_room(f.writer));
    add(&f, 4 * MIB, MIB);
    g_assert_true(f.writer->has_alone);
    g_assert_false(f.writer->drains);
    g_assert_true(rmig_writer_has_room(f.writer));
    fake_verbs_complete_all(f.verbs);
    teardown(&f);
}

/* ---- completions ---- */

typedef struct Landed {
    unsigned calls;
    unsigned alone;
    uint64_t bytes;
    int64_t us;
    uint64_t wire_bytes; /* of the writer, at the last call */
    RMigWriter *writer;
} Landed;

static void note_landed(void *opaque, const RMigLanded *what)
{
    Landed *landed = opaque;

    g_assert_cmpint(what->flight_us, >=, what->us);
    landed->calls++;
    landed->alone += what->alone;
    landed->bytes += what->bytes;
    landed->us += what->us;
    landed->wire_bytes = landed->writer->wire_bytes;
}

static void test_landed(void)
{
    int64_t start, posted, ended;
    Landed landed = { 0 };
    Fixture f;

    setup(&f);
    landed.writer = f.writer;
    f.writer->landed = note_landed;
    f.writer->opaque = &landed;
    start = g_get_monotonic_time();
    add(&f, 0, MIB);
    posted = g_get_monotonic_time();
    add(&f, 4 * MIB, 2 * MIB);
    g_assert_cmpuint(landed.calls, ==, 0);
    g_usleep(2000);
    fake_verbs_complete(f.verbs, 1);
    g_assert_cmpuint(landed.calls, ==, 1);
    g_assert_cmpuint(landed.bytes, ==, MIB);
    g_assert_cmpuint(landed.wire_bytes, ==, 2 * MIB); /* it counts no more */
    g_usleep(2000);
    fake_verbs_complete(f.verbs, 1);
    ended = g_get_monotonic_time();
    g_assert_cmpuint(landed.calls, ==, 2);
    g_assert_cmpuint(landed.bytes, ==, 3 * MIB);
    g_assert_cmpuint(landed.alone, ==, 1); /* the first */
    /* together as long as there was something on the wire */
    g_assert_cmpint(landed.us, >=, 4000);
    g_assert_cmpint(landed.us, <=, ended - start);
    g_assert_cmpint(posted, >=, start);

    /* what the wire was idle does not count */
    landed.us = 0;
    g_usleep(20000);
    start = g_get_monotonic_time();
    add(&f, 0, MIB);
    fake_verbs_complete_all(f.verbs);
    g_assert_cmpint(landed.us, <=, g_get_monotonic_time() - start);
    teardown(&f);
}

static void test_post_fails(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    add(&f, 7 * PAGE, PAGE);
    f.verbs->fail_post = 0;
    g_assert_false(rmig_writer_flush(f.writer, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "RAM block ram, offset 0x7000: "));
    g_clear_error(&err);
    g_assert_cmpuint(posts(&f), ==, 0);
    g_assert_cmpuint(f.writer->bytes, ==, 0); /* only what was posted counts */
    g_assert_cmpuint(f.writer->writes, ==, 0);
    teardown(&f);

    /*
     * In the middle of a chain, with writes of it on the wire: the context
     * stays and the span is kept until the queue pair is gone
     */
    setup(&f);
    for (unsigned i = 0; i < 10; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    f.verbs->fail_post = 6;
    g_assert_false(rmig_writer_leave(f.writer, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_cmpuint(posts(&f), ==, 6);
    g_assert_cmpuint(g_queue_get_length(&f.writer->busy), ==, 1);
    g_assert_true(g_queue_peek_head(&f.writer->busy) ==
                  (gpointer)fake_verbs_post(f.verbs, 0)->work);
    g_assert_cmpuint(f.span->pins, >, 0);
    g_assert_cmpuint(f.writer->writes, ==, 0);
    g_clear_error(&err);
    teardown(&f);

    /* from add(), when it is time to post, and when the batch is full */
    setup(&f);
    f.verbs->fail_post = 0;
    g_assert_false(rmig_writer_add(f.writer, 0, MIB, &err));
    g_assert_nonnull(err);
    teardown(&f);
    setup(&f);
    for (unsigned i = 0; i < RMIG_WRITER_BATCH; i++) {
        add(&f, 2 * i * 512, 512);
    }
    f.verbs->fail_post = 0;
    g_assert_false(rmig_writer_add(f.writer, MIB, 512, NULL));
    teardown(&f);
}

/* What an error completion will say about a failed write */
static void test_describe(void)
{
    g_autofree char *text = NULL;
    const FakePost *post;
    Fixture f;

    setup(&f);
    add(&f, 3 * MIB + 2 * PAGE, PAGE);
    add(&f, 5 * MIB, PAGE);
    flush(&f);
    post = fake_verbs_post(f.verbs, 0);
    text = post->work->describe(post->work);
    g_assert_nonnull(strstr(text, "RAM block ram, offset 0x302000, chunk 3"));
    g_assert_nonnull(strstr(text, "one of 2"));
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/writer/one-page", test_one_page);
    g_test_add_func("/writer/covers", test_covers);
    g_test_add_func("/writer/merge", test_merge);
    g_test_add_func("/writer/merge/chunks", test_merge_across_chunks);
    g_test_add_func("/writer/spans", test_spans);
    g_test_add_func("/writer/ripe", test_ripe);
    g_test_add_func("/writer/doorbells", test_doorbells);
    g_test_add_func("/writer/doorbells/round", test_round_of_one_batch);
    g_test_add_func("/writer/wire-max", test_wire_max);
    g_test_add_func("/writer/queue/short", test_short_queue);
    g_test_add_func("/writer/queue/spans", test_short_queue_spans);
    g_test_add_func("/writer/queue/large", test_short_queue_large);
    g_test_add_func("/writer/pins", test_pins);
    g_test_add_func("/writer/touch", test_touch);
    g_test_add_func("/writer/drains", test_drains);
    g_test_add_func("/writer/landed", test_landed);
    g_test_add_func("/writer/post-fails", test_post_fails);
    g_test_add_func("/writer/describe", test_describe);
    return g_test_run();
}
