/*
 * Unit tests of the destination: a source that asks for too much
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On dest-fixture.h.  Numbers that lead out of the blocks are in test-dest.c;
 * here each is right, and only all of them together are not.
 */
#include "dest-fixture.h"

#include <string.h>

#define EXTENSIONS (RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET)
#define RAM_CHUNKS 4
#define ALL_BYTES (RAM_BYTES + PAGE) /* with the ROM */

/* The blocks are exchanged; more than RAM pinned at a time is an error */
static void setup_strict(Fixture *f, unsigned threads, uint32_t flags,
                         uint64_t pin_limit)
{
    setup_config(f, (RMigDestConfig) {
        .register_threads = threads, .pin_limit = pin_limit,
    });
    accept_main(f, flags);
    obey(f);
    f->verbs->mr_bytes_max = f->verbs->mr_bytes + ALL_BYTES;
    note_blocks(f);
    fake_link_script_type(f->link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    finish(f);
}

static void pack_register(uint8_t *to, uint64_t first, uint64_t n)
{
    rmig_wire_register_pack(to, &(RMigWireRegister) {
        .block = RAM, .key = RAM_OFFSET + first * MIB, .chunks = n - 1,
    });
}

/* The last answer has a key that is alive, or none, for each of @n records */
static void check_keys(const Fixture *f, unsigned n)
{
    RMigWireMessage msg;
    unsigned had = 0;

    last_answer(f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_RESULT);
    g_assert_cmpuint(msg.n_records, ==, n);
    for (unsigned i = 0; i < n; i++) {
        RMigWireResult result;

        rmig_wire_result_unpack(&msg, i, &result);
        g_assert_cmphex(result.host_addr, ==, (uintptr_t)f->ram);
        had += result.rkey != 0;
    }
    /* The first fits at the latest when what it covers has gone for it */
    g_assert_cmpuint(had, <=, n);
}

/* ---- overlapping registrations ---- */

/* Each is smaller than the one before, and lies in it */
static void test_shrinking(gconstpointer data)
{
    unsigned threads = GPOINTER_TO_UINT(data);
    Fixture f;

    setup_strict(&f, threads, EXTENSIONS, 0);
    for (uint64_t n = RAM_CHUNKS; n > 0; n--) {
        uint8_t record[RMIG_WIRE_REGISTER_BYTES];

        pack_register(record, 0, n);
        fake_link_script(f.link,
                         fake_link_message(RMIG_WIRE_REGISTER_REQUEST, record,
                                           sizeof(record), 1));
        finish(&f);
        check_keys(&f, 1);
    }
    teardown(&f);
}

/* Each covers the one before, which goes for it: all of them are had */
static void test_growing(gconstpointer data)
{
    unsigned threads = GPOINTER_TO_UINT(data);
    RMigWireMessage msg;
    RMigWireResult result;
    Fixture f;

    setup_strict(&f, threads, EXTENSIONS, 0);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (uint64_t n = 1; n <= RAM_CHUNKS; n++) {
            script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET,
                            n - 1);
            finish(&f);
            last_answer(&f, &msg);
            rmig_wire_result_unpack(&msg, 0, &result);
            g_assert_cmphex(result.rkey, !=, 0);
        }
        script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 0,
                        RAM_CHUNKS - 1);
        finish(&f);
    }
    teardown(&f);
}

/* One that knows of no refusal is told why it cannot go on */
static void test_version_1(void)
{
    Fixture f;

    setup_strict(&f, 0, 0, 0);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET,
                    RAM_CHUNKS - 1);
    finish(&f);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET,
                    RAM_CHUNKS - 2);
    f.obeys = false;
    f.link->peer = NULL;
    assert_refused(&f, "asks for more memory to be pinned than may be here");
    teardown(&f);
}

/* The spans of one message overlap each other, and those of the last ones */
static void random_message(Fixture *f, RMigWireType type)
{
    uint8_t data[8 * RMIG_WIRE_REGISTER_BYTES];
    uint64_t left = ALL_BYTES;
    unsigned n = 0;

    while (n < 8) {
        uint64_t first = g_test_rand_int_range(0, RAM_CHUNKS);
        uint64_t chunks = g_test_rand_int_range(1, RAM_CHUNKS + 1 - first);
        uint64_t bytes = MIN(chunks * MIB, RAM_BYTES - first * MIB);

        if (bytes > left) {
            break;
        }
        left -= bytes;
        pack_register(data + n * RMIG_WIRE_REGISTER_BYTES, first, chunks);
        if (type == RMIG_WIRE_UNREGISTER_REQUEST) {
            rmig_wire_register_pack(data + n * RMIG_WIRE_REGISTER_BYTES,
                                    &(RMigWireRegister) {
                .block = RAM, .key = first, .chunks = chunks - 1,
            });
        }
        n++;
    }
    fake_link_script(f->link, fake_link_message(type, data, n *
                                                RMIG_WIRE_REGISTER_BYTES, n));
    finish(f);
    if (type == RMIG_WIRE_REGISTER_REQUEST) {
        check_keys(f, n);
    }
}

static void test_random(gconstpointer data)
{
    unsigned threads = GPOINTER_TO_UINT(data);

    for (unsigned run = 0; run < 40; run++) {
        Fixture f;

        setup_strict(&f, threads, EXTENSIONS, 0);
        for (unsigned i = 0; i < 12; i++) {
            random_message(&f, g_test_rand_int_range(0, 4) == 0 ?
                           RMIG_WIRE_UNREGISTER_REQUEST :
                           RMIG_WIRE_REGISTER_REQUEST);
        }
        teardown(&f);
    }
}

/* ---- names ---- */

static void test_named_twice(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    accept_main(&f, 0);
    note_blocks(&f);
    g_assert_false(rmig_dest_note_block(f.dest, "rom", &err));
    g_assert_nonnull(strstr(err->message, "named RAM block rom twice"));
    teardown(&f);
}

/* As many as can be announced in one message */
static void test_named_without_end(void)
{
    g_autoptr(GError) err = NULL;
    unsigned n = 0;
    Fixture f;

    setup(&f);
    accept_main(&f, 0);
    while (n <= RMIG_WIRE_BLOCKS_MAX) {
        g_autofree char *name = g_strdup_printf("block %u", n);

        if (!rmig_dest_note_block(f.dest, name, &err)) {
            break;
        }
        n++;
    }
    g_assert_cmpuint(n, ==, RMIG_WIRE_BLOCKS_MAX);
    g_assert_nonnull(strstr(err->message, "more than 16383 RAM blocks"));
    teardown(&f);
}

/* ---- without a pause ---- */

/* Others get their turn between any two commands that never wait */
static void test_flood(void)
{
    unsigned before;
    Fixture f;

    setup(&f);
    accept_main(&f, EXTENSIONS);
    note_blocks(&f);
    obey(&f);
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    before = f.link->rests;
    for (unsigned i = 0; i < 100; i++) {
        script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 0, 0);
    }
    finish(&f);
    g_assert_cmpuint(f.link->rests - before, >=, 102);
    teardown(&f);
}

/* Nor is there a pause in the stream */
static void test_flood_of_bytes(void)
{
    unsigned before;
    Fixture f;

    setup(&f);
    accept_main(&f, EXTENSIONS);
    obey(&f);
    before = f.link->rests;
    for (unsigned i = 0; i < 100; i++) {
        uint8_t byte;

        fake_link_script_type(f.link, RMIG_WIRE_QEMU_FILE);
        g_assert_cmpint(rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1,
                                         i % 2 == 0, NULL), ==, 1);
    }
    g_assert_cmpuint(f.link->rests - before, >=, 100);
    teardown(&f);
}

/* ---- nothing at all ---- */

/* x-ignore-shared may leave no RAM to send: that is legal */
static void test_no_blocks(gconstpointer data)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f);
    f.no_blocks = true;
    accept_main(&f, GPOINTER_TO_UINT(data));
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    finish(&f);
    last_answer(&f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_RAM_BLOCKS_RESULT);
    g_assert_cmpuint(msg.len, ==, 0);
    finish(&f);
    /* And nothing can be asked for */
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, 0, 0, 0);
    assert_refused(&f, "names RAM block 0 of 0");
    teardown(&f);
}

int main(int argc, char **argv)
{
    static const unsigned threads[] = { 0, 3 };
    static const uint32_t flags[] = {
        0, RMIG_WIRE_FLAG_PIN_ALL, EXTENSIONS, RMIG_WIRE_FLAGS_KNOWN,
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++) {
        gconstpointer n = GUINT_TO_POINTER(threads[i]);
        g_autofree char *shrinking =
            g_strdup_printf("/hostile/overlap/shrinking/%u", threads[i]);
        g_autofree char *growing =
            g_strdup_printf("/hostile/overlap/growing/%u", threads[i]);
        g_autofree char *random =
            g_strdup_printf("/hostile/overlap/random/%u", threads[i]);

        g_test_add_data_func(shrinking, n, test_shrinking);
        g_test_add_data_func(growing, n, test_growing);
        g_test_add_data_func(random, n, test_random);
    }
    g_test_add_func("/hostile/overlap/version-1", test_version_1);
    g_test_add_func("/hostile/flood/commands", test_flood);
    g_test_add_func("/hostile/flood/bytes", test_flood_of_bytes);
    g_test_add_func("/hostile/names/twice", test_named_twice);
    g_test_add_func("/hostile/names/without-end", test_named_without_end);
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        g_autofree char *path = g_strdup_printf("/hostile/no-blocks/0x%x",
                                                flags[i]);

        g_test_add_data_func(path, GUINT_TO_POINTER(flags[i]),
                             test_no_blocks);
    }
    return g_test_run();
}
