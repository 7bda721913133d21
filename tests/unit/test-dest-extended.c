/*
 * Unit tests of the destination: extensions, limits, worker threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On dest-fixture.h.
 */
#include "dest-fixture.h"
#include "pages.h"
#include "reaper.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXTENSIONS (RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET | \
                    RMIG_WIRE_FLAG_HANDOVER)
/* What a pin limit leaves is that much less */
#define BUFFERS (4 * MIB)

typedef struct Span {
    uint32_t block;
    uint64_t first;
    uint64_t n;
} Span;

static void setup_served(Fixture *f, RMigDestConfig config, uint32_t flags)
{
    setup_config(f, config);
    accept_main(f, flags);
    obey(f);
    note_blocks(f);
    fake_link_script_type(f->link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    finish(f);
}

/* One message with @n records */
static void script_spans(Fixture *f, RMigWireType type, const Span *spans,
                         uint32_t n)
{
    g_autofree uint8_t *data = g_malloc(n * RMIG_WIRE_REGISTER_BYTES);

    for (uint32_t i = 0; i < n; i++) {
        RMigWireRegister reg = {
            .key = spans[i].first, .block = spans[i].block,
            .chunks = spans[i].n - 1,
        };

        if (type == RMIG_WIRE_REGISTER_REQUEST) {
            reg.key = (spans[i].block == RAM ? RAM_OFFSET : 0x1000) +
                      spans[i].first * MIB;
        }
        rmig_wire_register_pack(data + i * RMIG_WIRE_REGISTER_BYTES, &reg);
    }
    fake_link_script(f->link, fake_link_message(type, data, n *
                                                RMIG_WIRE_REGISTER_BYTES, n));
}

static uint32_t rkey_of(const Fixture *f, unsigned i)
{
    RMigWireMessage msg;
    RMigWireResult result;

    last_answer(f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_RESULT);
    g_assert_cmpuint(i, <, msg.n_records);
    rmig_wire_result_unpack(&msg, i, &result);
    return result.rkey;
}

static const RMigMr *mr_with(const Fixture *f, uint32_t rkey)
{
    for (unsigned i = 0; i < f->verbs->mrs->len; i++) {
        const RMigMr *mr = g_ptr_array_index(f->verbs->mrs, i);

        if (mr->rkey == rkey && mr->remote_write) {
            return mr;
        }
    }
    return NULL;
}

/* ---- what is granted ---- */

static void test_granted(void)
{
    for (uint32_t asked = 0; asked <= RMIG_WIRE_FLAGS_KNOWN; asked++) {
        if (asked & ~RMIG_WIRE_FLAGS_KNOWN) {
            continue;
        }
        for (int old = 0; old <= 1; old++) {
            uint32_t known = old ? RMIG_WIRE_FLAG_PIN_ALL :
                                   RMIG_WIRE_FLAGS_KNOWN;
            RMigCounters c;
            Fixture f;

            setup_served(&f, (RMigDestConfig) {
                .pin_limit = 50 * MIB + BUFFERS, .version_1_only = old,
            }, asked);
            g_assert_cmphex(f.link->granted, ==, asked & known);
            g_assert_cmpuint(f.link->granted_pin_bytes, ==,
                             asked & known & RMIG_WIRE_FLAG_BUDGET ?
                             50 * MIB : 0);
            rmig_dest_counters(f.dest, &c);
            g_assert_cmphex(c.extensions, ==, asked & known & EXTENSIONS);
            g_assert_cmpint(c.pins_all, ==,
                            (asked & RMIG_WIRE_FLAG_PIN_ALL) != 0);
            g_assert_cmpuint(c.pin_limit, ==, 50 * MIB + BUFFERS);
            /* Two blocks, before the first write: only for version 1 */
            g_assert_cmpuint(f.verbs->mrs->len, ==,
                             (asked & known & ~(RMIG_WIRE_FLAG_BUDGET |
                                                RMIG_WIRE_FLAG_HANDOVER)) ==
                             RMIG_WIRE_FLAG_PIN_ALL ? 3 : 1);
            teardown(&f);
        }
    }
}

/* Without a limit there is none to be told; pin-all needs room for all */
static void test_pin_limit(void)
{
    Fixture f;

    setup(&f);
    accept_main(&f, RMIG_WIRE_FLAG_BUDGET);
    g_assert_cmphex(f.link->granted_pin_bytes, ==, UINT64_MAX);
    teardown(&f);

    setup_config(&f, (RMigDestConfig) { .pin_limit = BUFFERS + MIB });
    accept_main(&f, RMIG_WIRE_FLAGS_KNOWN);
    g_assert_cmphex(f.link->granted, ==, EXTENSIONS);
    g_assert_nonnull(strstr(f.warning, "rdma-pin-limit leaves"));
    g_assert_cmpuint(f.link->granted_pin_bytes, ==, MIB);
    teardown(&f);
}

/* Keys come with REGISTER_RESULT */
static void test_pin_all_ahead(void)
{
    RMigWireMessage msg;
    RMigWireBlock block;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 0 },
                 RMIG_WIRE_FLAGS_KNOWN);
    last_answer(&f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_RAM_BLOCKS_RESULT);
    for (unsigned i = 0; i < 3; i++) {
        rmig_wire_block_unpack(&msg, i, &block);
        g_assert_cmphex(block.rkey, ==, 0);
    }
    teardown(&f);
}

/* ---- registration ---- */

/* What there is no room for is refused, the rest is there, in order */
static void test_refused(gconstpointer data)
{
    static const Span spans[] = { { RAM, 0, 1 }, { RAM, 1, 2 }, { ROM, 0, 1 } };
    RMigDestConfig config = { .pin_limit = 2 * MIB + BUFFERS,
                              .register_threads = GPOINTER_TO_UINT(data) };
    RMigCounters c;
    Fixture f;

    setup_served(&f, config, EXTENSIONS);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 3);
    finish(&f);
    g_assert_true(mr_with(&f, rkey_of(&f, 0))->addr == f.ram);
    g_assert_cmphex(rkey_of(&f, 1), ==, 0);
    g_assert_true(mr_with(&f, rkey_of(&f, 2))->addr == f.rom);
    rmig_dest_counters(f.dest, &c);
    g_assert_cmpuint(c.chunks_registered, ==, 2);
    g_assert_cmpuint(c.chunks_refused, ==, 2);
    g_assert_cmpuint(c.chunks_evicted, ==, 0);

    /* What is let go makes room, even if it is still going */
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &(Span) { RAM, 2, 1 }, 1);
    finish(&f);
    g_assert_true(mr_with(&f, rkey_of(&f, 0))->addr == f.ram + 2 * MIB);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    rmig_dest_counters(f.dest, &c);
    g_assert_cmpuint(c.chunks_registered, ==, 3);
    g_assert_cmpuint(c.chunks_evicted, ==, 1);
    teardown(&f);
}

/* What no room would help is refused with that reason; the rest is there */
static void test_unpinnable(void)
{
    static const Span spans[] = { { ROM, 0, 1 }, { RAM, 0, 1 } };
    RMigWireMessage msg;
    RMigWireResult result;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 0 }, EXTENSIONS);
    f.verbs->unpinnable = f.rom;
    f.verbs->unpinnable_bytes = 1;
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 2);
    finish(&f);
    last_answer(&f, &msg);
    rmig_wire_result_unpack(&msg, 0, &result);
    g_assert_cmphex(result.rkey, ==, 0);
    g_assert_cmpuint(result.reason, ==, RMIG_WIRE_REFUSED_UNPINNABLE);
    rmig_wire_result_unpack(&msg, 1, &result);
    g_assert_nonnull(mr_with(&f, result.rkey));
    g_assert_cmpuint(result.reason, ==, 0);
    g_assert_nonnull(strstr(f.warning, "cannot be pinned"));
    g_assert_nonnull(strstr(f.warning, "RAM block rom"));
    /* And the room is what it was */
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &(Span) { RAM, 1, 2 }, 1);
    finish(&f);
    g_assert_nonnull(mr_with(&f, rkey_of(&f, 0)));
    teardown(&f);
}

/* So is what the device refuses; the migration goes on */
static void test_device_refuses(void)
{
    static const Span spans[] = { { RAM, 0, 1 }, { RAM, 1, 2 } };
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 0 }, EXTENSIONS);
    f.verbs->fail_register = 1;
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 2);
    finish(&f);
    g_assert_nonnull(mr_with(&f, rkey_of(&f, 0)));
    g_assert_cmphex(rkey_of(&f, 1), ==, 0);
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &(Span) { RAM, 1, 1 }, 1);
    finish(&f);
    g_assert_nonnull(mr_with(&f, rkey_of(&f, 0)));
    teardown(&f);
}

/* Version 1 has no word for it */
static void test_version_1_limit(void)
{
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 2 * MIB + BUFFERS }, 0);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &(Span) { RAM, 0, 3 }, 1);
    assert_refused(&f, "knows of no limit: raise the memory-lock limit");
    teardown(&f);
}

/*
 * One message names a span that is registered, and more that covers it: its
 * region leaves, and nothing points at it any more
 */
static void test_overlap(void)
{
    static const Span spans[] = { { RAM, 0, 2 }, { RAM, 0, 1 } };
    uint32_t rkey;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 0 }, EXTENSIONS);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &spans[1], 1);
    finish(&f);
    rkey = rkey_of(&f, 0);
    /* the same again: the same key */
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &spans[1], 1);
    finish(&f);
    g_assert_cmphex(rkey_of(&f, 0), ==, rkey);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);

    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 2);
    finish(&f);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &spans[1], 1);
    finish(&f);
    g_assert_nonnull(mr_with(&f, rkey_of(&f, 0)));
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    finish(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    teardown(&f);
}

/* ---- what is let go while other things go on ---- */

static GMutex gate_lock;
static GCond gate_moved;
static bool gate_open;

static void stop_at_gate(RMigVerbs *verbs)
{
    (void)verbs;
    g_mutex_lock(&gate_lock);
    while (!gate_open) {
        g_cond_wait(&gate_moved, &gate_lock);
    }
    g_mutex_unlock(&gate_lock);
}

static void open_gate(void)
{
    g_mutex_lock(&gate_lock);
    gate_open = true;
    g_cond_broadcast(&gate_moved);
    g_mutex_unlock(&gate_lock);
}

/* What needs neither its room nor its memory does not wait for it */
static void test_leaves_meanwhile(void)
{
    static const Span spans[] = { { RAM, 0, 1 }, { RAM, 1, 1 } };
    RMigCounters c;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = 2 * MIB + BUFFERS,
                                        .register_threads = 3 }, EXTENSIONS);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 1);
    finish(&f);
    gate_open = false;
    f.verbs->unregistering = stop_at_gate;
    /* named twice, let go once */
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    script_zero_run(&f, 0, RAM, RAM_OFFSET + 2 * MIB, MIB);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &spans[1], 1);
    finish(&f);
    g_assert_true(mr_with(&f, rkey_of(&f, 0))->addr == f.ram + MIB);
    g_assert_cmpuint(f.zeroed_bytes, ==, MIB);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3); /* and it is still there */
    rmig_dest_counters(f.dest, &c);
    g_assert_cmpuint(c.chunks_evicted, ==, 1);
    open_gate();
    teardown(&f);
}

static RMigLink *closing;
static GThread *worker; /* the first that unregisters */
static gint by_worker;

static void stay_until_closing(RMigVerbs *verbs)
{
    (void)verbs;
    if (g_atomic_pointer_compare_and_exchange(&worker, NULL,
                                              g_thread_self())) {
        g_thread_ref(g_thread_self()); /* no other is to look the same */
        while (!g_atomic_int_get(&closing->disconnected)) {
            g_usleep(1000);
        }
    }
    if (g_atomic_pointer_get(&worker) == g_thread_self()) {
        g_atomic_int_inc(&by_worker);
    }
}

/*
 * Of what was let go just before the end the workers only go on with what has
 * begun; the rest is the reaper's
 */
static void test_leaves_at_end(void)
{
    static const Span spans[] = { { RAM, 0, 1 }, { RAM, 1, 1 }, { RAM, 2, 1 } };
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .register_threads = 1 }, EXTENSIONS);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 3);
    finish(&f);
    closing = f.link;
    worker = NULL;
    by_worker = 0;
    f.verbs->unregistering = stay_until_closing;
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 3);
    finish(&f);
    while (!g_atomic_pointer_get(&worker)) {
        g_usleep(1000);
    }
    rmig_dest_close(f.dest, false);
    rmig_reaper_wait(NULL);
    g_assert_cmpint(g_atomic_int_get(&by_worker), ==, 1);
    g_thread_unref(worker);
    teardown(&f);
}

static void take_time(RMigVerbs *verbs)
{
    (void)verbs;
    g_usleep(50 * 1000);
}

/* What needs its room does: it is neither refused nor more than there may be */
static void test_leaves_first(void)
{
    static const Span spans[] = { { RAM, 0, 1 }, { RAM, 1, 1 } };
    RMigCounters c;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .pin_limit = MIB + BUFFERS,
                                        .register_threads = 3 }, EXTENSIONS);
    f.verbs->mr_bytes_max = f.verbs->mr_bytes + MIB;
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, spans, 1);
    finish(&f);
    f.verbs->unregistering = take_time;
    script_spans(&f, RMIG_WIRE_UNREGISTER_REQUEST, spans, 1);
    script_spans(&f, RMIG_WIRE_REGISTER_REQUEST, &spans[1], 1);
    finish(&f);
    g_assert_true(mr_with(&f, rkey_of(&f, 0))->addr == f.ram + MIB);
    rmig_dest_counters(f.dest, &c);
    g_assert_cmpuint(c.chunks_refused, ==, 0);
    teardown(&f);
}

/* ---- zeros ---- */

static void test_zero_runs(gconstpointer data)
{
    unsigned threads = GPOINTER_TO_UINT(data);
    RMigCounters c;
    Fixture f;

    setup_served(&f, (RMigDestConfig) { .register_threads = threads },
                 EXTENSIONS);
    for (unsigned i = 0; i < 3; i++) {
        script_zero_run(&f, 0, RAM, RAM_OFFSET + i * MIB, MIB - PAGE);
    }
    script_zero_run(&f, 0, ROM, 0x1000, PAGE);
    finish(&f);
    g_assert_cmpuint(f.zeroed_bytes, ==, 3 * (MIB - PAGE) + PAGE);
    for (uint64_t at = 0; at < RAM_BYTES; at++) {
        g_assert_cmphex(f.ram[at], ==, at % MIB < MIB - PAGE &&
                        at < 3 * MIB ? 0 : 0xee);
    }
    rmig_dest_counters(f.dest, &c);
    g_assert_cmpuint(c.zero_runs, ==, 4);
    teardown(&f);
}

static bool is_present(const uint8_t *at)
{
    unsigned char there;

    g_assert_cmpint(mincore((void *)at, PAGE, &there), ==, 0);
    return there & 1;
}

/* What was never touched is not even looked at */
static void test_zero_anonymous(gconstpointer data)
{
    unsigned threads = GPOINTER_TO_UINT(data);
    RMigPages *pages = rmig_pages_new();
    RMigDestConfig config = { .register_threads = threads };
    uint8_t *ram;
    Fixture f;

    if (!pages) {
        g_test_skip("the page tables of this process cannot be read");
        return;
    }
    rmig_pages_free(pages);
    setup_config(&f, config);
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(ram != MAP_FAILED);
    madvise(ram, RAM_BYTES, MADV_NOHUGEPAGE);
    g_free(f.ram);
    f.ram = ram;
    f.anonymous = true;
    ram[5 * PAGE] = 1;
    accept_main(&f, EXTENSIONS);
    obey(&f);
    note_blocks(&f);
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    script_zero_run(&f, 0, RAM, RAM_OFFSET, RAM_BYTES);
    finish(&f);
    g_assert_cmpuint(f.zeroed_bytes, ==, PAGE);
    g_assert_cmphex(ram[5 * PAGE], ==, 0);
    g_assert_false(is_present(ram));
    g_assert_false(is_present(ram + 2 * MIB));
    f.ram = NULL;
    teardown(&f);
    munmap(ram, RAM_BYTES);
}

int main(int argc, char **argv)
{
    static const unsigned threads[] = { 0, 3 };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dest/granted", test_granted);
    g_test_add_func("/dest/pin-limit", test_pin_limit);
    g_test_add_func("/dest/pin-all/ahead", test_pin_all_ahead);
    g_test_add_func("/dest/register/device-refuses", test_device_refuses);
    g_test_add_func("/dest/register/unpinnable", test_unpinnable);
    g_test_add_func("/dest/register/version-1", test_version_1_limit);
    g_test_add_func("/dest/register/overlap", test_overlap);
    g_test_add_func("/dest/unregister/meanwhile", test_leaves_meanwhile);
    g_test_add_func("/dest/unregister/first", test_leaves_first);
    g_test_add_func("/dest/unregister/at-end", test_leaves_at_end);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++) {
        gconstpointer n = GUINT_TO_POINTER(threads[i]);
        g_autofree char *refused =
            g_strdup_printf("/dest/register/refused/%u", threads[i]);
        g_autofree char *zero = g_strdup_printf("/dest/zero/%u", threads[i]);
        g_autofree char *anonymous =
            g_strdup_printf("/dest/zero/anonymous/%u", threads[i]);

        g_test_add_data_func(refused, n, test_refused);
        g_test_add_data_func(zero, n, test_zero_runs);
        g_test_add_data_func(anonymous, n, test_zero_anonymous);
    }
    return g_test_run();
}
