/*
 * Unit tests of the stream room: gathering, flushing, partial reads, the end
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the real control room over the fakes of link and verbs.
 */
#include "fake-link.h"
#include "stream.h"

#include <string.h>

typedef struct Fixture {
    RMigLink *link;
    RMigControl *control;
    RMigStream stream;
} Fixture;

static void setup(Fixture *f, bool writes)
{
    f->link = fake_link_new();
    f->control = rmig_control_new(f->link, writes, NULL);
    g_assert_nonnull(f->control);
    if (writes) {
        fake_link_oblige(f->link);
    }
    rmig_stream_init(&f->stream, f->control);
}

static void teardown(Fixture *f)
{
    rmig_link_disconnect(f->link);
    rmig_control_free(f->control);
    rmig_link_free(f->link);
}

/* The peer forgets its manners: only what is scripted from now on happens */
static void take_over(Fixture *f)
{
    f->link->peer = NULL;
    g_queue_clear_full(&f->link->script, (GDestroyNotify)g_bytes_unref);
}

static unsigned sends(const Fixture *f)
{
    return f->link->verbs->posts->len;
}

static void script_data(Fixture *f, const void *data, uint32_t len)
{
    fake_link_script(f->link, fake_link_message(RMIG_WIRE_QEMU_FILE, data,
                                                len, 0));
}

/* Message @i holds exactly these bytes of the stream */
static void assert_message(const Fixture *f, unsigned i, const void *data,
                           uint32_t len)
{
    g_autoptr(GBytes) expect = fake_link_message(RMIG_WIRE_QEMU_FILE, data,
                                                 len, 1);

    g_assert_true(g_bytes_equal(fake_verbs_post(f->link->verbs, i)->data,
                                expect));
}

static uint8_t *pattern(size_t bytes)
{
    uint8_t *buf = g_malloc(bytes);

    for (size_t i = 0; i < bytes; i++) {
        buf[i] = (uint8_t)(i * 7 + (i >> 8));
    }
    return buf;
}

static void test_gather(void)
{
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_stream_is_empty(&f.stream));
    g_assert_true(rmig_stream_write(&f.stream, "migra", 5, NULL));
    g_assert_true(rmig_stream_write(&f.stream, "", 0, NULL));
    g_assert_true(rmig_stream_write(&f.stream, "tion", 4, NULL));
    g_assert_false(rmig_stream_is_empty(&f.stream));
    g_assert_cmpuint(sends(&f), ==, 0);

    g_assert_true(rmig_stream_flush(&f.stream, NULL));
    g_assert_true(rmig_stream_is_empty(&f.stream));
    g_assert_cmpuint(sends(&f), ==, 1);
    assert_message(&f, 0, "migration", 9);

    /* an empty flush is no message */
    g_assert_true(rmig_stream_flush(&f.stream, NULL));
    g_assert_cmpuint(sends(&f), ==, 1);
    teardown(&f);
}

static void test_full_message(void)
{
    size_t max = RMIG_WIRE_DATA_MAX_BYTES;
    g_autofree uint8_t *data = pattern(max + 1);
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_stream_write(&f.stream, data, max - 1, NULL));
    g_assert_cmpuint(sends(&f), ==, 0);
    g_assert_true(rmig_stream_write(&f.stream, data + max - 1, 2, NULL));
    g_assert_cmpuint(sends(&f), ==, 1);
    assert_message(&f, 0, data, max);
    g_assert_true(rmig_stream_flush(&f.stream, NULL));
    assert_message(&f, 1, data + max, 1);

    /* exactly one message: nothing is left to flush */
    g_assert_true(rmig_stream_write(&f.stream, data, max, NULL));
    g_assert_cmpuint(sends(&f), ==, 3);
    g_assert_true(rmig_stream_is_empty(&f.stream));
    teardown(&f);
}

static void test_large_write(void)
{
    size_t max = RMIG_WIRE_DATA_MAX_BYTES;
    size_t bytes = 3 * max + 12345;
    g_autofree uint8_t *data = pattern(bytes);
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_stream_write(&f.stream, data, bytes, NULL));
    g_assert_true(rmig_stream_flush(&f.stream, NULL));
    g_assert_cmpuint(sends(&f), ==, 4);
    for (unsigned i = 0; i < 3; i++) {
        assert_message(&f, i, data + i * max, max);
    }
    assert_message(&f, 3, data + 3 * max, 12345);
    teardown(&f);
}

static void test_write_fails(void)
{
    g_autoptr(GError) err = NULL;
    g_autofree uint8_t *data = pattern(RMIG_WIRE_DATA_MAX_BYTES);
    Fixture f;

    setup(&f, true);
    take_over(&f);
    fake_link_script_close(f.link);
    g_assert_false(rmig_stream_write(&f.stream, data,
                                     RMIG_WIRE_DATA_MAX_BYTES, &err));
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED);
    g_clear_error(&err);
    teardown(&f);

    setup(&f, true);
    take_over(&f);
    fake_link_script_type(f.link, RMIG_WIRE_ERROR);
    g_assert_true(rmig_stream_write(&f.stream, "x", 1, NULL));
    g_assert_false(rmig_stream_flush(&f.stream, &err));
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    teardown(&f);
}

static void assert_reads(Fixture *f, size_t size, const char *expect)
{
    char buf[64];

    g_assert_cmpint(rmig_stream_read(&f->stream, buf, size, true, NULL), ==,
                    strlen(expect));
    g_assert_cmpmem(buf, strlen(expect), expect, strlen(expect));
}

static void test_read(void)
{
    Fixture f;

    setup(&f, false);
    script_data(&f, "0123456789", 10);
    script_data(&f, "ab", 2);
    g_assert_false(rmig_stream_has_data(&f.stream));
    assert_reads(&f, 4, "0123");
    g_assert_true(rmig_stream_has_data(&f.stream));
    g_assert_false(rmig_stream_is_empty(&f.stream));
    assert_reads(&f, 5, "45678");
    /* a read ends with its message, the next one takes the next */
    assert_reads(&f, 64, "9");
    g_assert_false(rmig_stream_has_data(&f.stream));
    g_assert_true(rmig_stream_is_empty(&f.stream));
    assert_reads(&f, 2, "ab");
    g_assert_cmpuint(sends(&f), ==, 3); /* a READY for each and for the next */
    g_assert_cmpuint(g_queue_get_length(&f.link->verbs->recvs), ==,
                     RMIG_CONTROL_RECVS);
    g_assert_cmpint(rmig_stream_fd(&f.stream), ==, rmig_link_fd(f.link));
    teardown(&f);
}

/* The message stays in its buffer until it has been read to its end */
static void test_read_holds_buffer(void)
{
    Fixture f;

    setup(&f, false);
    script_data(&f, "0123", 4);
    assert_reads(&f, 3, "012");
    g_assert_cmpuint(g_queue_get_length(&f.link->verbs->recvs), ==,
                     RMIG_CONTROL_RECVS - 1);
    g_assert_cmpuint(sends(&f), ==, 2);
    assert_reads(&f, 3, "3");
    g_assert_cmpuint(g_queue_get_length(&f.link->verbs->recvs), ==,
                     RMIG_CONTROL_RECVS);
    teardown(&f);
}

/* A message that comes while one is read is not missed, nor read too early */
static void test_read_queued(void)
{
    Fixture f;

    setup(&f, false);
    script_data(&f, "first", 5);
    assert_reads(&f, 3, "fir");
    script_data(&f, "second", 6);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    assert_reads(&f, 64, "st");
    f.link->frozen = true;
    g_assert_true(rmig_stream_has_data(&f.stream));
    g_assert_false(rmig_stream_is_empty(&f.stream));
    assert_reads(&f, 64, "second");
    g_assert_false(rmig_stream_has_data(&f.stream));
    g_assert_true(rmig_stream_is_empty(&f.stream));
    teardown(&f);

    /* a command is there, but has no bytes */
    setup(&f, false);
    script_data(&f, "hook", 4);
    assert_reads(&f, 3, "hoo");
    fake_link_script_type(f.link, RMIG_WIRE_COMPRESS);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    assert_reads(&f, 3, "k");
    g_assert_false(rmig_stream_has_data(&f.stream));
    teardown(&f);
}

/* The next message gathers while the last one leaves */
static void test_gathers_meanwhile(void)
{
    size_t max = RMIG_WIRE_DATA_MAX_BYTES;
    g_autofree uint8_t *data = pattern(2 * max);
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_stream_write(&f.stream, data, max, NULL));
    g_assert_cmpuint(fake_verbs_pending(f.link->verbs), ==, 1);
    f.link->frozen = true; /* so nothing can be waited for */
    g_assert_true(rmig_stream_write(&f.stream, data + max, max - 1, NULL));
    f.link->frozen = false;
    g_assert_true(rmig_stream_write(&f.stream, data + 2 * max - 1, 1, NULL));
    assert_message(&f, 0, data, max);
    assert_message(&f, 1, data + max, max);
    /* the device still reads the first from where it was composed */
    g_assert_cmpmem(fake_verbs_post(f.link->verbs, 0)->addr +
                    RMIG_WIRE_HEADER_BYTES, max, data, max);
    teardown(&f);
}

static void test_would_block(void)
{
    Fixture f;
    char buf[8];

    setup(&f, false);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, false, NULL), ==,
                        RMIG_STREAM_WOULD_BLOCK);
    }
    g_assert_cmpuint(sends(&f), ==, 1); /* the peer has been told to go on */
    script_data(&f, "late", 4);
    g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, false, NULL), ==, 4);
    g_assert_cmpmem(buf, 4, "late", 4);
    teardown(&f);
}

static void test_read_end(void)
{
    Fixture f;
    char buf[8];

    setup(&f, false);
    script_data(&f, "last", 4);
    fake_link_script_close(f.link);
    assert_reads(&f, 8, "last");
    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, NULL), ==,
                        0);
        g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, false, NULL), ==,
                        0);
    }
    teardown(&f);
}

/*
 * A queue pair that the peer's leaving has put into error may refuse receives:
 * what has come is read all the same, and the error comes after it
 */
static void test_read_unpostable(void)
{
    g_autoptr(GError) err = NULL;
    char buf[8];
    Fixture f;

    setup(&f, false);
    script_data(&f, "last", 4);
    f.link->verbs->fail_post = 2; /* behind two READYs, the receive */
    assert_reads(&f, 8, "last");
    g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, &err), ==, -1);
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    teardown(&f);
}

/* Not so when it gave up: then what is still unread is void, too */
static void test_read_void(void)
{
    g_autoptr(GError) err = NULL;
    uint8_t buf[8];
    Fixture f;

    setup(&f, false);
    script_data(&f, "abcdef", 6);
    g_assert_cmpint(rmig_stream_read(&f.stream, buf, 2, true, NULL), ==, 2);
    fake_link_script_type(f.link, RMIG_WIRE_ERROR);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, &err), ==, -1);
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    teardown(&f);
}

static void test_read_fails(void)
{
    static const RMigWireType commands[] = {
        RMIG_WIRE_RAM_BLOCKS_REQUEST, RMIG_WIRE_COMPRESS,
        RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_REGISTER_FINISHED,
        RMIG_WIRE_UNREGISTER_REQUEST,
    };
    g_autoptr(GError) err = NULL;
    char buf[8];
    Fixture f;

    setup(&f, false);
    fake_link_script_type(f.link, RMIG_WIRE_ERROR);
    g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, &err), ==, -1);
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    g_clear_error(&err);
    teardown(&f);

    /* commands of the RAM section have no place in the stream */
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        setup(&f, false);
        fake_link_script_type(f.link, commands[i]);
        g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, &err), ==,
                        -1);
        g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL);
        g_clear_error(&err);
        g_assert_true(rmig_link_failed(f.link));
        /* and it does not become readable by asking again */
        g_assert_cmpint(rmig_stream_read(&f.stream, buf, 8, true, &err), ==,
                        -1);
        g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL);
        g_clear_error(&err);
        teardown(&f);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stream/write/gather", test_gather);
    g_test_add_func("/stream/write/full", test_full_message);
    g_test_add_func("/stream/write/large", test_large_write);
    g_test_add_func("/stream/write/fails", test_write_fails);
    g_test_add_func("/stream/read", test_read);
    g_test_add_func("/stream/read/holds-buffer", test_read_holds_buffer);
    g_test_add_func("/stream/write/meanwhile", test_gathers_meanwhile);
    g_test_add_func("/stream/read/queued", test_read_queued);
    g_test_add_func("/stream/read/would-block", test_would_block);
    g_test_add_func("/stream/read/end", test_read_end);
    g_test_add_func("/stream/read/unpostable", test_read_unpostable);
    g_test_add_func("/stream/read/void", test_read_void);
    g_test_add_func("/stream/read/fails", test_read_fails);
    return g_test_run();
}
