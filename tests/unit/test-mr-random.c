/*
 * Property test of the mr room: random sequences against a model
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model says which span covers which chunk and which spans there are.
 * After every step the table agrees with it, and the budget is the sum of what
 * exists; at the end the fake of verbs finds nothing left.
 */
#include "mr-fixture.h"

#define CHUNKS 37
#define RAM2_HOST UINT64_C(0x6f0000000000)

/* One that has not been told to leave */
typedef struct ModelSpan {
    RMigSpan *span;
    const RMigBlock *block;
    uint64_t first, n;
    uint64_t users;
    bool installed;
    bool fails;
} ModelSpan;

typedef struct Model {
    MrFixture f;
    unsigned threads;
    const RMigBlock *blocks[2];
    ModelSpan *cover[2][CHUNKS]; /* not owned */
    GPtrArray *alive;            /* of ModelSpan, owned */
    uint64_t peak;
} Model;

static void model_init(Model *m, unsigned threads)
{
    MrFixture *f = &m->f;

    *m = (Model) { .threads = threads };
    mr_fixture_init(f, GUINT_TO_POINTER(threads), true);
    /* a larger one beside the fixture's; tables are made of complete blocks */
    rmig_mr_table_cleanup(&f->table);
    g_assert_true(rmig_blocks_add(&f->blocks, "large",
                                  (void *)(uintptr_t)RAM2_HOST, 0x40000000,
                                  (CHUNKS - 1) * MIB + 3 * PAGE, NULL));
    rmig_mr_table_init(&f->table, f->verbs, f->jobs, &f->blocks, true,
                       UINT64_MAX);
    m->blocks[0] = rmig_blocks_by_name(&f->blocks, "large");
    m->blocks[1] = f->ram;
    m->alive = g_ptr_array_new_with_free_func(g_free);
}

static unsigned slot_of(const Model *m, const RMigBlock *block)
{
    return block == m->blocks[0] ? 0 : 1;
}

static const RMigBlock *random_range(const Model *m, uint64_t *first,
                                     uint64_t *n)
{
    const RMigBlock *block = m->blocks[g_test_rand_int_range(0, 2)];
    uint64_t chunks = rmig_block_chunks(block);

    *first = g_test_rand_int_range(0, chunks);
    *n = g_test_rand_int_range(1, MIN(chunks - *first, 9) + 1);
    return block;
}

static ModelSpan *random_span(const Model *m)
{
    return m->alive->len == 0 ? NULL :
           m->alive->pdata[g_test_rand_int_range(0, m->alive->len)];
}

/* ---- steps ---- */

static void step_register(Model *m)
{
    ModelSpan *s = g_new0(ModelSpan, 1);

    s->block = random_range(m, &s->first, &s->n);
    /* With workers, which one fails is only known if it is alone */
    if (g_test_rand_int_range(0, 4) == 0 &&
        (m->threads == 0 || rmig_jobs_pending(m->f.jobs) == 0)) {
        s->fails = true;
        m->f.verbs->fail_register = 0;
    }
    s->span = rmig_span_register(&m->f.table, s->block, s->first, s->n);
    g_assert_cmpint(s->span->state, ==, RMIG_SPAN_REGISTERING);
    m->peak = MAX(m->peak, m->f.table.budget.used);
    if (s->fails && m->threads > 0) {
        mr_fixture_settle(&m->f);
    }
    g_ptr_array_add(m->alive, s);
}

/* The model's span is gone, whatever becomes of the real one */
static void forget(Model *m, ModelSpan *s)
{
    ModelSpan **cover = m->cover[slot_of(m, s->block)];

    for (uint64_t c = s->first; c < s->first + s->n; c++) {
        if (cover[c] == s) {
            cover[c] = NULL;
        }
    }
    g_assert_true(g_ptr_array_remove(m->alive, s));
}

static void uncover(Model *m, unsigned slot, uint64_t chunk, ModelSpan *by)
{
    ModelSpan *before = m->cover[slot][chunk];

    m->cover[slot][chunk] = by;
    if (before && --before->users == 0) {
        forget(m, before);
    }
}

static void step_install(Model *m)
{
    ModelSpan *s = random_span(m);

    if (!s || s->installed) {
        return;
    }
    rmig_span_install(s->span);
    s->installed = true;
    s->users = s->n;
    for (uint64_t c = s->first; c < s->first + s->n; c++) {
        uncover(m, slot_of(m, s->block), c, s);
    }
}

static void step_leave(Model *m)
{
    ModelSpan *s = random_span(m);

    if (s) {
        rmig_span_leave(s->span);
        forget(m, s);
    }
}

static void step_unregister(Model *m)
{
    uint64_t first, n;
    const RMigBlock *block = random_range(m, &first, &n);

    for (uint64_t c = first; c < first + n; c++) {
        rmig_mr_table_unregister(&m->f.table, block, c);
        uncover(m, slot_of(m, block), c, NULL);
    }
}

static void step_touch(Model *m)
{
    ModelSpan *s = random_span(m);

    if (s) {
        rmig_span_touch(s->span);
        g_assert_true(g_queue_peek_tail(&m->f.table.spans) == s->span);
    }
}

/* ---- what must hold ---- */

static void check_cover(const Model *m)
{
    for (unsigned slot = 0; slot < 2; slot++) {
        uint64_t chunks = rmig_block_chunks(m->blocks[slot]);

        for (uint64_t c = 0; c < chunks; c++) {
            const ModelSpan *s = m->cover[slot][c];

            g_assert_true(rmig_mr_table_find(&m->f.table, m->blocks[slot],
                                             c) == (s ? s->span : NULL));
        }
    }
}

static void check_span(const ModelSpan *s)
{
    const RMigSpan *span = s->span;

    g_assert_cmpuint(span->first, ==, s->first);
    g_assert_cmpuint(span->n, ==, s->n);
    g_assert_cmpuint(span->users, ==, s->users);
    switch (span->state) {
    case RMIG_SPAN_REGISTERING:
        break; /* its members are the worker's */
    case RMIG_SPAN_READY:
        g_assert_false(s->fails);
        g_assert_true(span->mr->addr ==
                      s->block->host + (s->first << RMIG_CHUNK_SHIFT));
        g_assert_cmpuint(span->mr->bytes, ==, rmig_span_bytes(span));
        break;
    case RMIG_SPAN_FAILED:
        g_assert_true(s->fails);
        g_assert_nonnull(span->error);
        break;
    default:
        g_assert_not_reached();
    }
}

static void check_budget(Model *m)
{
    const RMigBudget *b = &m->f.table.budget;
    uint64_t used = 0;
    uint64_t leaving = 0;

    for (unsigned i = 0; i < m->alive->len; i++) {
        const ModelSpan *s = m->alive->pdata[i];

        if (s->span->state != RMIG_SPAN_FAILED) {
            used += rmig_block_span_bytes(s->block, s->first, s->n);
        }
    }
    for (GList *l = m->f.table.leaving.head; l; l = l->next) {
        leaving += rmig_span_bytes(l->data);
    }
    g_assert_cmpuint(b->used, ==, used + leaving);
    g_assert_cmpuint(b->leaving, ==, leaving);
    m->peak = MAX(m->peak, b->used);
    g_assert_cmpuint(b->peak, ==, m->peak);
    g_assert_cmpuint(b->limit, <=, b->ceiling);
    g_assert_cmpuint(b->limit, >=, MIN(b->ceiling, MIB));
}

static void check(Model *m)
{
    g_assert_cmpuint(g_queue_get_length(&m->f.table.spans), ==,
                     m->alive->len);
    for (unsigned i = 0; i < m->alive->len; i++) {
        check_span(m->alive->pdata[i]);
    }
    check_cover(m);
    check_budget(m);
}

/* With no job under way everything has an end, and the device the same */
static void settle(Model *m)
{
    unsigned ready = 0;

    mr_fixture_settle(&m->f);
    check(m);
    for (unsigned i = 0; i < m->alive->len; i++) {
        const ModelSpan *s = m->alive->pdata[i];

        g_assert_cmpint(s->span->state, ==, s->fails ? RMIG_SPAN_FAILED :
                        RMIG_SPAN_READY);
        ready += !s->fails;
    }
    g_assert_cmpuint(g_queue_get_length(&m->f.table.leaving), ==, 0);
    g_assert_cmpuint(m->f.verbs->mrs->len, ==, ready);
}

static void step(Model *m)
{
    static void (*const steps[])(Model *m) = {
        step_register, step_register, step_install, step_install, step_leave,
        step_unregister, step_touch,
    };
    int i = g_test_rand_int_range(0, G_N_ELEMENTS(steps) + 2);

    if (i < (int)G_N_ELEMENTS(steps)) {
        steps[i](m);
    } else {
        rmig_jobs_reap(m->f.jobs);
    }
    check(m);
}

static void run_once(unsigned threads, unsigned n_steps)
{
    Model m;

    model_init(&m, threads);
    for (unsigned i = 0; i < n_steps; i++) {
        step(&m);
        if (g_test_rand_int_range(0, 40) == 0) {
            settle(&m);
        }
    }
    /* Everything in whatever state it is in */
    g_ptr_array_unref(m.alive);
    mr_fixture_cleanup(&m.f);
}

static void test_random(gconstpointer threads)
{
    unsigned n = g_test_quick() ? 150 : 3000;

    for (unsigned i = 0; i < n; i++) {
        run_once(GPOINTER_TO_UINT(threads), 300);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/mr/random/inline", GUINT_TO_POINTER(0),
                         test_random);
    g_test_add_data_func("/mr/random/threads", GUINT_TO_POINTER(4),
                         test_random);
    return g_test_run();
}
