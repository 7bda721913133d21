/*
 * Unit tests of the mr room: spans in every state, budgets, the pin room
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fake of verbs, which fails the test if a region is left behind.  The
 * tests of spans run with no worker thread and with several; test-mr-random.c
 * has the random sequences.
 */
#include "mr-fixture.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void assert_covers(const RMigSpan *span, uint64_t addr, uint64_t bytes)
{
    g_assert_cmpint(span->state, ==, RMIG_SPAN_READY);
    g_assert_cmphex((uintptr_t)span->mr->addr, ==, addr);
    g_assert_cmphex(rmig_mr_bytes(span->mr), ==, bytes);
    g_assert_cmphex(rmig_span_bytes(span), ==, bytes);
}

/* Registered and installed */
static RMigSpan *reg(MrFixture *f, const RMigBlock *block, uint64_t first,
                     uint64_t n)
{
    RMigSpan *span = rmig_span_register(&f->table, block, first, n);

    mr_fixture_settle(f);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_READY);
    rmig_span_install(span);
    for (uint64_t c = first; c < first + n; c++) {
        g_assert_true(rmig_mr_table_find(&f->table, block, c) == span);
    }
    g_assert_cmpuint(span->users, ==, n);
    mr_fixture_settle(f); /* what it replaced has left */
    return span;
}

static void unregister(MrFixture *f, const RMigBlock *block, uint64_t chunk)
{
    rmig_mr_table_unregister(&f->table, block, chunk);
    mr_fixture_settle(f);
}

static void assert_budget(const MrFixture *f, uint64_t used, uint64_t leaving)
{
    g_assert_cmpuint(f->table.budget.used, ==, used);
    g_assert_cmpuint(f->table.budget.leaving, ==, leaving);
}

static void test_register(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *span;

    mr_fixture_init(&f, threads, true);
    for (uint64_t c = 0; c < 5; c++) {
        g_assert_null(rmig_mr_table_find(&f.table, f.ram, c));
    }
    /* it is ready when the jobs say so, and not before */
    span = rmig_span_register(&f.table, f.ram, 3, 2);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_REGISTERING);
    assert_budget(&f, MIB + PAGE, 0);
    g_assert_cmpuint(f.table.chunks_registered, ==, 0);
    mr_fixture_settle(&f);
    assert_covers(span, RAM_HOST + 3 * MIB, MIB + PAGE);
    g_assert_cmpuint(f.table.chunks_registered, ==, 2);
    /* nothing points at it before it is installed */
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 3));
    g_assert_cmpuint(span->users, ==, 0);
    rmig_span_install(span);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 3) == span);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 4) == span);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 2));

    assert_covers(reg(&f, f.rom, 0, 1), ROM_HOST, PAGE);
    assert_budget(&f, MIB + 2 * PAGE, 0);
    g_assert_cmpuint(f.table.chunks_registered, ==, 3);
    mr_fixture_cleanup(&f);
}

/* A span that is not ready yet covers its chunks all the same */
static void test_install_early(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *span;

    mr_fixture_init(&f, threads, true);
    span = rmig_span_register(&f.table, f.ram, 0, 5);
    rmig_span_install(span);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 4) == span);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_REGISTERING);
    mr_fixture_settle(&f);
    assert_covers(span, RAM_HOST, 4 * MIB + PAGE);
    mr_fixture_cleanup(&f);
}

static void test_remote_write(gconstpointer threads)
{
    MrFixture f;

    mr_fixture_init(&f, threads, true);
    g_assert_true(reg(&f, f.ram, 0, 1)->mr->remote_write);
    mr_fixture_cleanup(&f);

    /* the source's memory is only read, and by its own device */
    mr_fixture_init(&f, threads, false);
    g_assert_false(reg(&f, f.ram, 0, 1)->mr->remote_write);
    mr_fixture_cleanup(&f);
}

/* A span lives until its last chunk is let go, in any order */
static void test_unregister(gconstpointer threads)
{
    MrFixture f;

    mr_fixture_init(&f, threads, true);
    reg(&f, f.ram, 1, 3);
    unregister(&f, f.ram, 0); /* is not covered */
    unregister(&f, f.ram, 2);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 2));
    g_assert_nonnull(rmig_mr_table_find(&f.table, f.ram, 1));
    g_assert_nonnull(rmig_mr_table_find(&f.table, f.ram, 3));
    unregister(&f, f.ram, 2); /* once is enough */
    unregister(&f, f.ram, 1);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    assert_budget(&f, 3 * MIB, 0); /* it is all still pinned */
    rmig_mr_table_unregister(&f.table, f.ram, 3);
    assert_budget(&f, 3 * MIB, 3 * MIB);
    mr_fixture_settle(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    assert_budget(&f, 0, 0);

    /* and may come back */
    assert_covers(reg(&f, f.ram, 1, 2), RAM_HOST + MIB, 2 * MIB);
    mr_fixture_cleanup(&f);
}

/* Part of a span was let go: what comes instead replaces the rest */
static void test_replace(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *before, *span;

    mr_fixture_init(&f, threads, true);
    before = reg(&f, f.ram, 0, 4);
    unregister(&f, f.ram, 1);
    span = rmig_span_register(&f.table, f.ram, 0, 4);
    mr_fixture_settle(&f);
    /* the old one is there while the new one is made */
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 0) == before);
    assert_budget(&f, 8 * MIB, 0);
    rmig_span_install(span);
    assert_budget(&f, 8 * MIB, 4 * MIB);
    mr_fixture_settle(&f);
    assert_covers(rmig_mr_table_find(&f.table, f.ram, 1), RAM_HOST, 4 * MIB);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    assert_budget(&f, 4 * MIB, 0);
    mr_fixture_cleanup(&f);
}

static void test_overlap(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *left, *middle;

    mr_fixture_init(&f, threads, true);
    left = reg(&f, f.ram, 0, 2);
    reg(&f, f.ram, 2, 2);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    middle = reg(&f, f.ram, 1, 2);
    /* each of the old ones still covers a chunk */
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 0) == left);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == middle);
    g_assert_cmpuint(left->users, ==, 1);
    unregister(&f, f.ram, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    /* swallow everything */
    reg(&f, f.ram, 0, 5);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    assert_budget(&f, 4 * MIB + PAGE, 0);
    mr_fixture_cleanup(&f);
}

/* Leaving while it is being registered: it must come first, then go */
static void test_leave_registering(gconstpointer threads)
{
    for (int installed = 0; installed < 2; installed++) {
        MrFixture f;
        RMigSpan *span;

        mr_fixture_init(&f, threads, true);
        span = rmig_span_register(&f.table, f.ram, 1, 2);
        if (installed) {
            rmig_span_install(span);
        }
        rmig_span_leave(span);
        g_assert_null(rmig_mr_table_find(&f.table, f.ram, 1));
        g_assert_null(rmig_mr_table_find(&f.table, f.ram, 2));
        assert_budget(&f, 2 * MIB, 2 * MIB);
        g_assert_cmpuint(g_queue_get_length(&f.table.spans), ==, 0);
        g_assert_cmpuint(g_queue_get_length(&f.table.leaving), ==, 1);
        mr_fixture_settle(&f);
        g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
        g_assert_cmpuint(f.verbs->registered, ==, 1);
        assert_budget(&f, 0, 0);
        mr_fixture_cleanup(&f);
    }
}

static void test_leave_ready(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *span, *above;

    mr_fixture_init(&f, threads, true);
    span = reg(&f, f.ram, 0, 4);
    above = reg(&f, f.ram, 1, 2);
    rmig_span_leave(span);
    /* what others cover is not touched */
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 0));
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == above);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 2) == above);
    g_assert_null(rmig_mr_table_find(&f.table, f.ram, 3));
    assert_budget(&f, 6 * MIB, 4 * MIB);
    mr_fixture_settle(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    assert_budget(&f, 2 * MIB, 0);

    /* never installed */
    span = rmig_span_register(&f.table, f.rom, 0, 1);
    mr_fixture_settle(&f);
    rmig_span_leave(span);
    mr_fixture_settle(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    mr_fixture_cleanup(&f);
}

static void test_fails(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *there, *span;

    mr_fixture_init(&f, threads, true);
    there = reg(&f, f.ram, 1, 1);
    f.verbs->fail_register = 0;
    span = rmig_span_register(&f.table, f.ram, 1, 3);
    mr_fixture_settle(&f);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_FAILED);
    g_assert_null(span->mr);
    g_assert_error(span->error, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(span->error->message,
                            "RAM block ram, chunks 1 to 3: "));
    g_assert_nonnull(strstr(span->error->message, "as the test wishes"));
    g_assert_cmpuint(f.table.chunks_refused, ==, 3);
    g_assert_cmpuint(f.table.chunks_registered, ==, 1);
    assert_budget(&f, MIB, 0); /* not charged */
    /* what was there is there still */
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == there);
    rmig_span_leave(span); /* is gone at once */
    assert_budget(&f, MIB, 0);
    g_assert_cmpuint(g_queue_get_length(&f.table.spans), ==, 1);
    g_assert_cmpuint(g_queue_get_length(&f.table.leaving), ==, 0);
    reg(&f, f.ram, 1, 3);
    mr_fixture_cleanup(&f);
}

/* Installed before it failed: its chunks are covered by what is no use */
static void test_fails_installed(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *span;

    mr_fixture_init(&f, threads, true);
    f.verbs->fail_register = 0;
    span = rmig_span_register(&f.table, f.ram, 0, 2);
    rmig_span_install(span);
    mr_fixture_settle(&f);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 0) == span);
    g_assert_cmpint(span->state, ==, RMIG_SPAN_FAILED);
    rmig_mr_table_unregister(&f.table, f.ram, 0);
    g_assert_true(rmig_mr_table_find(&f.table, f.ram, 1) == span);
    rmig_mr_table_unregister(&f.table, f.ram, 1);
    g_assert_cmpuint(g_queue_get_length(&f.table.spans), ==, 0);

    /* left before it failed; that is no refusal to learn from */
    f.table.budget.limit = f.table.budget.ceiling;
    f.verbs->fail_register = 0;
    span = rmig_span_register(&f.table, f.ram, 0, 2);
    rmig_span_install(span);
    rmig_span_leave(span);
    assert_budget(&f, 2 * MIB, 2 * MIB);
    mr_fixture_settle(&f);
    assert_budget(&f, 0, 0);
    g_assert_cmpuint(g_queue_get_length(&f.table.leaving), ==, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    mr_fixture_cleanup(&f);
}

/* The longest unused first */
static void test_touch(gconstpointer threads)
{
    MrFixture f;
    RMigSpan *a, *b, *c;

    mr_fixture_init(&f, threads, true);
    a = reg(&f, f.ram, 0, 1);
    b = reg(&f, f.ram, 1, 1);
    c = reg(&f, f.ram, 2, 1);
    g_assert_true(g_queue_peek_head(&f.table.spans) == a);
    rmig_span_touch(a);
    g_assert_true(g_queue_peek_head(&f.table.spans) == b);
    g_assert_true(g_queue_peek_tail(&f.table.spans) == a);
    rmig_span_touch(a);
    rmig_span_leave(b);
    g_assert_true(g_queue_peek_head(&f.table.spans) == c);
    g_assert_cmpuint(g_queue_get_length(&f.table.spans), ==, 2);
    mr_fixture_cleanup(&f);
}

/* Everything in every state, at once */
static void test_cleanup(gconstpointer threads)
{
    RMigMrTable empty = { 0 };
    MrFixture f;

    rmig_mr_table_cleanup(&empty);

    mr_fixture_init(&f, threads, true);
    f.verbs->fail_register = 0;
    rmig_span_install(rmig_span_register(&f.table, f.ram, 0, 5)); /* failed */
    mr_fixture_settle(&f);
    reg(&f, f.ram, 0, 2);
    reg(&f, f.ram, 1, 3);
    reg(&f, f.rom, 0, 1);
    rmig_mr_table_unregister(&f.table, f.ram, 1);
    rmig_mr_table_unregister(&f.table, f.rom, 0); /* leaving */
    rmig_span_register(&f.table, f.ram, 2, 2);    /* never installed */
    rmig_span_leave(rmig_span_register(&f.table, f.ram, 0, 1));
    rmig_span_install(rmig_span_register(&f.table, f.ram, 4, 1));
    rmig_jobs_free(f.jobs);
    f.jobs = NULL;
    g_assert_cmpuint(g_queue_get_length(&f.table.leaving), ==, 0);
    rmig_mr_table_cleanup(&f.table);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 0);
    rmig_mr_table_cleanup(&f.table); /* twice does no harm */
    mr_fixture_cleanup(&f);
}

/* ---- budget ---- */

static void test_budget(void)
{
    RMigBudget b;

    rmig_budget_init(&b, 10 * MIB);
    g_assert_true(rmig_budget_fits(&b, 10 * MIB));
    g_assert_false(rmig_budget_fits(&b, 10 * MIB + 1));
    g_assert_false(rmig_budget_fits(&b, UINT64_MAX));
    rmig_budget_charge(&b, 6 * MIB);
    g_assert_true(rmig_budget_fits(&b, 4 * MIB));
    g_assert_false(rmig_budget_fits(&b, 5 * MIB));
    g_assert_false(rmig_budget_will_fit(&b, 5 * MIB));
    rmig_budget_leave(&b, 2 * MIB);
    g_assert_false(rmig_budget_fits(&b, 5 * MIB));
    g_assert_true(rmig_budget_will_fit(&b, 6 * MIB));
    g_assert_false(rmig_budget_will_fit(&b, 7 * MIB));
    rmig_budget_left(&b, 2 * MIB);
    g_assert_true(rmig_budget_fits(&b, 6 * MIB));
    g_assert_cmpuint(b.used, ==, 4 * MIB);
    g_assert_cmpuint(b.leaving, ==, 0);
    g_assert_cmpuint(b.peak, ==, 6 * MIB);

    /* without a limit, and with more in use than there may be */
    rmig_budget_init(&b, UINT64_MAX);
    g_assert_true(rmig_budget_fits(&b, UINT64_MAX));
    rmig_budget_charge(&b, MIB);
    g_assert_false(rmig_budget_fits(&b, UINT64_MAX));
    rmig_budget_granted(&b, MIB);
    g_assert_cmpuint(b.limit, ==, UINT64_MAX);
    b.limit = 0;
    g_assert_false(rmig_budget_fits(&b, 0));
    g_assert_false(rmig_budget_will_fit(&b, 1));
}

/* Down to what there is, and slowly up again, never above the ceiling */
static void test_budget_refused(void)
{
    uint64_t before, steps;
    RMigBudget b;

    rmig_budget_init(&b, 100 * MIB);
    rmig_budget_charge(&b, 40 * MIB);
    rmig_budget_charge(&b, 10 * MIB);
    rmig_budget_refused(&b, 10 * MIB);
    g_assert_cmpuint(b.used, ==, 40 * MIB);
    g_assert_cmpuint(b.limit, ==, 40 * MIB);
    g_assert_false(rmig_budget_fits(&b, MIB));
    rmig_budget_leave(&b, 8 * MIB);
    rmig_budget_left(&b, 8 * MIB);
    g_assert_true(rmig_budget_fits(&b, 8 * MIB));

    for (steps = 0; b.limit < b.ceiling; steps++) {
        before = b.limit;
        rmig_budget_granted(&b, 8 * MIB);
        g_assert_cmpuint(b.limit, >, before);
        g_assert_cmpuint(b.limit, <=, b.ceiling);
        g_assert_cmpuint(b.limit - before, <, 8 * MIB);
        g_assert_cmpuint(steps, <, 1000);
    }
    g_assert_cmpuint(steps, >, 10);
    rmig_budget_granted(&b, 8 * MIB);
    g_assert_cmpuint(b.limit, ==, b.ceiling);

    /* not even the first: a chunk may always be tried */
    rmig_budget_init(&b, 100 * MIB);
    rmig_budget_charge(&b, 4 * MIB);
    rmig_budget_refused(&b, 4 * MIB);
    g_assert_cmpuint(b.limit, ==, MIB);
    /* but not more than was configured, and a refusal never raises it */
    rmig_budget_init(&b, PAGE);
    rmig_budget_charge(&b, PAGE);
    rmig_budget_refused(&b, PAGE);
    g_assert_cmpuint(b.limit, ==, PAGE);
}

/* The table tells its budget what the device said */
static void test_budget_of_table(gconstpointer threads)
{
    MrFixture f;
    RMigBudget *b = &f.table.budget;

    mr_fixture_init(&f, threads, true);
    b->ceiling = b->limit = 6 * MIB;
    reg(&f, f.ram, 0, 2);
    f.verbs->fail_register = 0;
    rmig_span_leave(mr_fixture_register(&f, f.ram, 2, 2));
    g_assert_cmpuint(b->limit, ==, 2 * MIB);
    g_assert_cmpuint(b->peak, ==, 4 * MIB);
    unregister(&f, f.ram, 0);
    unregister(&f, f.ram, 1);
    for (unsigned i = 0; i < 40; i++) {
        RMigSpan *span = mr_fixture_register(&f, f.ram, 0, 2);

        g_assert_cmpuint(b->limit, <=, b->ceiling);
        rmig_span_leave(span);
        mr_fixture_settle(&f);
    }
    g_assert_cmpuint(b->limit, ==, b->ceiling);
    g_assert_cmpuint(b->peak, ==, 4 * MIB);
    mr_fixture_cleanup(&f);
}

/* ---- the memory-lock limit ---- */

/* Gives up or takes back the right to ignore it; true: had or has it */
static bool set_ipc_lock(bool on)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    struct __user_cap_data_struct *d = &data[CAP_TO_INDEX(CAP_IPC_LOCK)];
    unsigned mask = CAP_TO_MASK(CAP_IPC_LOCK);

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    if (!(d->permitted & mask)) {
        return false;
    }
    d->effective = on ? d->effective | mask : d->effective & ~mask;
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
    return true;
}

static void set_memlock(uint64_t *bytes)
{
    struct rlimit limit;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    *bytes = MIN(*bytes, limit.rlim_max);
    limit.rlim_cur = *bytes;
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
}

static void check_user_limit(void)
{
    uint64_t some = rmig_pin_room(100 * MIB);

    /* what is left for guest RAM beside the message buffers of a link */
    g_assert_cmpuint(some, <, 100 * MIB);
    g_assert_cmpuint(some, >, 90 * MIB);
    fake_verbs_pinned_bytes = 30 * MIB;
    g_assert_cmpuint(rmig_pin_room(100 * MIB), ==, some - 30 * MIB);
    fake_verbs_pinned_bytes = 130 * MIB;
    g_assert_cmpuint(rmig_pin_room(100 * MIB), ==, 0);
    g_assert_cmpuint(rmig_pin_room(1), ==, 0);
    fake_verbs_pinned_bytes = 0;
    g_assert_cmpuint(rmig_pin_room(0), ==, UINT64_MAX);
    g_assert_cmpuint(rmig_pin_room(UINT64_MAX - 1), >, UINT64_MAX / 2);
}

static void check_memlock(uint64_t memlock)
{
    g_autoptr(GError) err = NULL;
    uint64_t room = rmig_pin_room(0);

    g_assert_cmpuint(room, <, MAX(memlock, 1));
    g_assert_cmpuint(rmig_pin_room(UINT64_MAX - 1), ==, room);
    g_assert_cmpuint(rmig_pin_room(MIB), <=, room); /* the smaller one */
    g_assert_true(rmig_memlock_allows(room, &err) || room == 0);
    g_clear_error(&err);
    g_assert_false(rmig_memlock_allows(memlock + 1, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "ulimit -l"));
    fake_verbs_pinned_bytes = memlock; /* by another migration, say */
    g_assert_cmpuint(rmig_pin_room(0), ==, 0);
    g_assert_false(rmig_memlock_allows(1, NULL));
    fake_verbs_pinned_bytes = 0;
}

static void test_pin_room(void)
{
    uint64_t memlock = 200 * MIB;
    struct rlimit before;
    bool privileged;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    set_memlock(&memlock);
    privileged = set_ipc_lock(true);
    if (privileged) {
        /* the limit does not count */
        check_user_limit();
        g_assert_true(rmig_memlock_allows(UINT64_C(1) << 50, NULL));
        set_ipc_lock(false);
    }
    check_memlock(memlock);
    memlock = 0;
    set_memlock(&memlock);
    check_memlock(memlock);
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &before), ==, 0);
    if (before.rlim_cur == RLIM_INFINITY) {
        check_user_limit();
    }
    if (privileged) {
        set_ipc_lock(true);
    }
}

static void add_both(const char *name, GTestDataFunc test)
{
    static const struct {
        const char *name;
        unsigned threads;
    } ways[] = { { "inline", 0 }, { "threads", 4 } };

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        g_autofree char *path = g_strdup_printf("/mr/%s/%s", ways[i].name,
                                                name);

        g_test_add_data_func(path, GUINT_TO_POINTER(ways[i].threads), test);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_both("register", test_register);
    add_both("install-early", test_install_early);
    add_both("remote-write", test_remote_write);
    add_both("unregister", test_unregister);
    add_both("replace", test_replace);
    add_both("overlap", test_overlap);
    add_both("leave/registering", test_leave_registering);
    add_both("leave/ready", test_leave_ready);
    add_both("fails", test_fails);
    add_both("fails/installed", test_fails_installed);
    add_both("touch", test_touch);
    add_both("cleanup", test_cleanup);
    add_both("budget", test_budget_of_table);
    g_test_add_func("/mr/budget", test_budget);
    g_test_add_func("/mr/budget/refused", test_budget_refused);
    g_test_add_func("/mr/pin-room", test_pin_room);
    return g_test_run();
}
