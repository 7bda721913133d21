/*
 * Unit tests of the source: a destination that freezes, and the last message
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs.  The destination has one RAM block, pinned,
 * and answers as it should until it freezes.
 */
#include "blocks.h"
#include "control.h"
#include "fake-link.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)

/* How often a source has said that nothing of it is registered any more */
static unsigned times_released;

static void released(void)
{
    times_released++;
}

typedef struct Fixture {
    RMigSource *source;
    RMigLink *main, *back;
    uint8_t *ram;
} Fixture;

static void answer(RMigLink *link, RMigWireType type, const FakePost *sent)
{
    RMigWireBlock block = {
        .host_addr = 0x550000000000, .length = MIB, .rkey = 7,
    };
    uint8_t data[RMIG_WIRE_BLOCK_BYTES];

    (void)sent;
    if (type == RMIG_WIRE_RAM_BLOCKS_REQUEST) {
        rmig_wire_block_pack(data, &block);
        fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT,
                                                 data, sizeof(data), 1));
    }
    fake_link_script_type(link, RMIG_WIRE_READY);
}

/* A source that has exchanged its one block */
static void setup(Fixture *f, bool return_path)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .pin_all = true,
        .return_path = return_path, .released = released,
    };

    f->ram = g_malloc0(MIB);
    f->source = rmig_source_new(&config, NULL);
    f->main = fake_link_new();
    f->main->granted = RMIG_WIRE_FLAG_PIN_ALL;
    f->main->peer = answer;
    fake_link_script_type(f->main, RMIG_WIRE_READY);
    fake_link_offer(f->main);
    f->back = NULL;
    if (return_path) {
        f->back = fake_link_new();
        fake_link_offer(f->back);
    }
    g_assert_true(rmig_source_connect(f->source, NULL, NULL));
    g_assert_true(rmig_source_add_block(f->source, "ram", f->ram, 0, MIB,
                                        NULL));
    g_assert_true(rmig_source_exchange(f->source, NULL));
}

/* It is said once, however the source ends */
static void teardown(Fixture *f)
{
    times_released = 0;
    rmig_source_free(f->source);
    g_assert_cmpuint(times_released, ==, 1);
    g_free(f->ram);
}

static void assert_says(GError **err, int code, const char *needle)
{
    g_assert_error(*err, RMIG_LINK_ERROR, code);
    if (!strstr((*err)->message, needle)) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}

static void test_released(void)
{
    const RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .released = released,
    };
    RMigSource *never_connected = rmig_source_new(&config, NULL);
    Fixture f;

    setup(&f, true);
    times_released = 0;
    rmig_source_close(f.source, true);
    g_assert_cmpuint(times_released, ==, 1);
    rmig_source_free(f.source);
    g_assert_cmpuint(times_released, ==, 1);
    g_free(f.ram);
    rmig_source_free(never_connected);
    g_assert_cmpuint(times_released, ==, 2);
}

/* The link wakes its waiters every second: that must not put the end off */
static void test_writes_hang(void)
{
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, NULL), ==,
                    RMIG_PAGE_DATA);
    f.main->frozen = true;
    g_assert_false(rmig_source_finish(f.source, &err));
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "RDMA Writes to complete");
    teardown(&f);
}

static void test_send_queue_hangs(void)
{
    RMigPage page = RMIG_PAGE_DATA;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    f.main->frozen = true;
    /* Every other page, so that each is a write of its own */
    for (uint64_t i = 0; page == RMIG_PAGE_DATA; i += 2) {
        page = rmig_source_page(f.source, 0, i * PAGE % MIB, PAGE, &err);
        g_assert_cmpuint(i, <, 4096);
    }
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "room in the send queue");
    teardown(&f);
}

/* Without the end in sight the return path is silent for as long as it likes */
static void test_no_report(void)
{
    RMigStream *stream;
    GError *err = NULL;
    uint8_t byte;
    Fixture f;

    setup(&f, true);
    stream = rmig_source_return_stream(f.source);
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, false, &err), ==,
                    RMIG_STREAM_WOULD_BLOCK);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    g_assert_true(rmig_source_end(f.source, NULL));
    f.back->frozen = true;
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, true, &err), ==, -1);
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "the peer's report");
    teardown(&f);
}

static void test_report(void)
{
    RMigStream *stream;
    uint8_t byte;
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_source_end(f.source, NULL));
    fake_link_script_type(f.back, RMIG_WIRE_QEMU_FILE);
    stream = rmig_source_return_stream(f.source);
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, true, NULL), ==, 1);
    teardown(&f);
}

/* Nothing waits behind the last message that would notice */
static void test_last_message_fails(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    f.main->break_settling = true;
    g_assert_false(rmig_source_end(f.source, &err));
    g_assert_nonnull(strstr(err->message, "SEND failed"));
    g_clear_error(&err);
    g_assert_false(rmig_source_end(f.source, &err)); /* and stays so */
    g_assert_nonnull(err);
    f.main->break_settling = false;
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/end/released", test_released);
    g_test_add_func("/end/writes-hang", test_writes_hang);
    g_test_add_func("/end/send-queue-hangs", test_send_queue_hangs);
    g_test_add_func("/end/no-report", test_no_report);
    g_test_add_func("/end/report", test_report);
    g_test_add_func("/end/last-message-fails", test_last_message_fails);
    return g_test_run();
}
