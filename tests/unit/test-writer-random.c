/*
 * Property test of the writer room: whatever comes, everything goes over once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Drives the writer as the source does, through queues of any length, with
 * messages between, completions at any time, and spans that leave as soon as
 * nothing keeps them.  It may never wait when nothing is under way.
 */
#include "writer-fixture.h"

#include <string.h>

/* Of "ram", in pages; "other" is written now and then to leave it */
#define PAGES (BLOCK_BYTES / PAGE)

typedef struct Run {
    WriterFixture f;
    RMigWork message;
    RMigMr *buffer;
    uint8_t words[64];
    unsigned messages_under_way;
    uint8_t *handed; /* [page of both blocks]: times that it was added */
    uint8_t *landed; /* likewise: that it went over */
} Run;

static void message_done(RMigWork *work, uint32_t bytes)
{
    Run *r = work->owner;

    (void)bytes;
    r->messages_under_way--;
}

static uint64_t page_of(const Run *r, const uint8_t *addr)
{
    return (addr - r->f.ram->host) / PAGE; /* "other" lies behind it */
}

static void write_landed(void *opaque, const FakePost *write)
{
    Run *r = opaque;
    uint64_t page = page_of(r, write->addr);

    g_assert_cmphex(write->remote_addr, ==, REMOTE + page * PAGE);
    g_assert_cmpuint(write->bytes % PAGE, ==, 0);
    for (uint64_t i = 0; i < write->bytes / PAGE; i++) {
        r->landed[page + i]++;
    }
}

static void run_init(Run *r)
{
    static const unsigned slots[] = { 1, 2, 3, 5, 31, 32, 33, 34, 70, 512 };

    memset(r, 0, sizeof(*r));
    writer_fixture_init(&r->f);
    r->f.verbs->write_slots = slots[g_test_rand_int_range(0,
                                        G_N_ELEMENTS(slots))];
    r->f.verbs->landed = write_landed;
    r->f.verbs->opaque = r;
    r->buffer = rmig_mr_register(r->f.verbs, r->words, sizeof(r->words), false,
                                 NULL);
    r->message = (RMigWork) { .what = "SEND", .done = message_done,
                              .owner = r };
    r->handed = g_new0(uint8_t, 2 * PAGES);
    r->landed = g_new0(uint8_t, 2 * PAGES);
}

static void run_cleanup(Run *r)
{
    rmig_mr_unregister(r->buffer);
    writer_fixture_cleanup(&r->f);
    g_free(r->handed);
    g_free(r->landed);
}

/* ---- the device ---- */

/* Some of what can complete does, but at least one thing */
static void complete_some(Run *r)
{
    unsigned pending = fake_verbs_pending(r->f.verbs);
    unsigned n = fake_verbs_ripe(r->f.verbs,
                                 g_test_rand_int_range(0, pending + 1));

    if (n == 0) {
        /* up to the first that is signalled */
        while (!fake_verbs_post(r->f.verbs,
                                r->f.verbs->completed + n)->signalled) {
            n++;
        }
        n++;
    }
    fake_verbs_complete(r->f.verbs, n);
}

static void wait_for_room(Run *r)
{
    while (!rmig_writer_has_room(&r->f.writer)) {
        g_assert_cmpuint(fake_verbs_pending(r->f.verbs), >, 0); /* stuck */
        complete_some(r);
    }
}

static void maybe_send(Run *r)
{
    if (r->messages_under_way < RMIG_VERBS_SLOTS_RESERVED / 2) {
        r->messages_under_way++;
        g_assert_true(rmig_verbs_post_send(r->f.verbs, &r->message, r->buffer,
                                           r->words, 8, NULL));
    }
}

/* ---- spans ---- */

static bool is_named(const Run *r, const RMigSpan *span)
{
    const RMigVerbs *v = r->f.verbs;

    for (unsigned i = v->completed; i < v->posts->len; i++) {
        if (fake_verbs_post(v, i)->mr == span->mr) {
            return true;
        }
    }
    return false;
}

/* What the device may still read, or will be asked to, is kept; no more */
static void check_pins(const Run *r)
{
    const RMigWriter *w = &r->f.writer;

    for (GList *l = r->f.table.spans.head; l; l = l->next) {
        const RMigSpan *span = l->data;

        if (w->span == span || is_named(r, span)) {
            g_assert_cmpuint(span->pins, >, 0);
        } else if (!w->batch) {
            g_assert_cmpuint(span->pins, ==, 0);
        }
    }
}

static void evict(Run *r)
{
    GList *next;

    for (GList *l = r->f.table.spans.head; l; l = next) {
        RMigSpan *span = l->data;

        next = l->next;
        if (span->pins == 0 && g_test_rand_bit()) {
            g_assert_false(is_named(r, span));
            rmig_span_leave(span);
        }
    }
    rmig_jobs_reap(r->f.jobs);
}

static RMigSpan *need_span(Run *r, const RMigBlock *block, uint64_t chunk)
{
    RMigSpan *span = rmig_mr_table_find(&r->f.table, block, chunk);
    uint64_t n = 1;

    if (span) {
        return span;
    }
    while (n < 8 && chunk + n < rmig_block_chunks(block) &&
           !rmig_mr_table_find(&r->f.table, block, chunk + n) &&
           g_test_rand_int_range(0, 4) > 0) {
        n++;
    }
    return writer_fixture_span(&r->f, block, chunk, n,
                               g_test_rand_int_range(1, 100));
}

/* ---- pages ---- */

/* As source-pages.c does it */
static void hand_over(Run *r, const RMigBlock *block, uint64_t offset,
                      uint64_t len)
{
    RMigWriter *w = &r->f.writer;

    while (len > 0) {
        uint64_t part = len;

        if (!rmig_writer_covers(w, block, offset, len)) {
            rmig_writer_enter(w, need_span(r, block,
                                           rmig_block_chunk_of(offset)));
            part = MIN(len, w->span_end - offset);
        }
        if (!rmig_writer_has_room(w)) {
            wait_for_room(r);
        }
        g_assert_true(rmig_writer_add(w, offset, part, NULL));
        offset += part;
        len -= part;
    }
}

static void leave(Run *r)
{
    wait_for_room(r);
    g_assert_true(rmig_writer_leave(&r->f.writer, NULL));
}

/* A stretch of pages that were not handed over, one by one or as one */
static void hand_over_some(Run *r)
{
    const RMigBlock *block = g_test_rand_int_range(0, 8) ? r->f.ram :
                                                           r->f.other;
    uint64_t first = g_test_rand_int_range(0, PAGES);
    uint64_t pages = 1u << g_test_rand_int_range(0, 11);
    bool at_once = g_test_rand_int_range(0, 4) == 0;
    unsigned stride = g_test_rand_int_range(1, 3);
    uint8_t *handed = r->handed + page_of(r, block->host);
    uint64_t n = 0;

    pages = MIN(pages, PAGES - first);
    while (n < pages && !handed[first + n]) {
        handed[first + n] = at_once || n % stride == 0;
        n++;
    }
    if (at_once && n > 0) {
        hand_over(r, block, first * PAGE, n * PAGE);
        return;
    }
    for (uint64_t i = 0; i < n; i += stride) {
        hand_over(r, block, (first + i) * PAGE, PAGE);
    }
}

static void step(Run *r)
{
    switch (g_test_rand_int_range(0, 12)) {
    case 0:
        maybe_send(r);
        break;
    case 1:
        evict(r);
        break;
    case 2:
        /* the source does this when it must wait for a span */
        if (rmig_writer_has_room(&r->f.writer)) {
            leave(r);
        }
        break;
    case 3:
        r->f.writer.wire_max = PAGE << g_test_rand_int_range(0, 14);
        break;
    case 4:
    case 5:
        if (fake_verbs_pending(r->f.verbs) > 0) {
            complete_some(r);
        }
        break;
    default:
        hand_over_some(r);
        break;
    }
    check_pins(r);
}

static void run_once(void)
{
    uint64_t bytes = 0;
    Run r;

    run_init(&r);
    for (unsigned i = 0; i < 120; i++) {
        step(&r);
    }
    leave(&r);
    while (!rmig_writer_is_idle(&r.f.writer)) {
        g_assert_cmpuint(fake_verbs_pending(r.f.verbs), >, 0);
        complete_some(&r);
    }
    check_pins(&r);
    g_assert_cmpint(memcmp(r.handed, r.landed, 2 * PAGES), ==, 0);
    for (uint64_t i = 0; i < 2 * PAGES; i++) {
        bytes += (uint64_t)r.landed[i] * PAGE;
    }
    g_assert_cmpuint(r.f.writer.bytes, ==, bytes);
    g_assert_cmpuint(r.f.writer.wire_bytes, ==, 0);
    run_cleanup(&r);
}

static void test_random(void)
{
    unsigned n = g_test_quick() ? 150 : 3000;

    for (unsigned i = 0; i < n; i++) {
        run_once();
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/writer/random", test_random);
    return g_test_run();
}
