/*
 * Unit tests of the conn room: opened and taken down as one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs, which notice a registered buffer that
 * outlives its verbs, and a wait after the queue pair is gone.
 */
#include "conn.h"
#include "fake-link.h"

#include <string.h>
#include <unistd.h>

typedef struct Fixture {
    RMigConn conn;
    GPtrArray *posts; /* kept alive, to be looked at after the end */
} Fixture;

static void setup(Fixture *f)
{
    RMigLink *link = fake_link_new();

    f->posts = g_ptr_array_ref(link->verbs->posts);
    g_assert_true(rmig_conn_init(&f->conn, link, true, NULL));
    g_assert_true(f->conn.open);
    fake_link_oblige(link);
}

static void teardown(Fixture *f)
{
    rmig_conn_cleanup(&f->conn);
    g_assert_null(f->conn.link);
    g_ptr_array_unref(f->posts);
}

static RMigWireType last_sent(const Fixture *f)
{
    const FakePost *last = g_ptr_array_index(f->posts, f->posts->len - 1);

    return ((const uint8_t *)g_bytes_get_data(last->data, NULL))[7];
}

static void test_init_fails(void)
{
    for (int i = 0; i < 2; i++) {
        g_autoptr(GError) err = NULL;
        RMigLink *link = fake_link_new();
        RMigConn conn;

        if (i == 0) {
            link->verbs->fail_register = 0;
        } else {
            link->verbs->fail_post = 1;
        }
        g_assert_false(rmig_conn_init(&conn, link, true, &err));
        g_assert_nonnull(err);
        g_assert_null(conn.link); /* the link is gone, too */
        rmig_conn_cleanup(&conn);
    }
}

/* What was written last is sent before leaving */
static void test_good_end(void)
{
    Fixture f;

    setup(&f);
    g_assert_true(rmig_stream_write(&f.conn.stream, "end", 3, NULL));
    rmig_conn_disconnect(&f.conn, false);
    g_assert_cmpuint(f.posts->len, ==, 1);
    g_assert_cmpint(last_sent(&f), ==, RMIG_WIRE_QEMU_FILE);
    g_assert_false(f.conn.open);
    g_assert_true(f.conn.link->disconnected);
    rmig_conn_disconnect(&f.conn, true); /* once is enough */
    g_assert_cmpuint(f.posts->len, ==, 1);
    teardown(&f);
}

/* The serving side has nothing to say that a peer which left could take */
static void test_serving_end(void)
{
    RMigLink *link = fake_link_new();
    RMigConn conn;
    char byte;

    g_assert_true(rmig_conn_init(&conn, link, false, NULL));
    link->frozen = true;
    g_assert_cmpint(rmig_stream_read(&conn.stream, &byte, 1, false, NULL), ==,
                    RMIG_STREAM_WOULD_BLOCK);
    g_assert_cmpuint(fake_verbs_pending(link->verbs), ==, 1); /* its READY */
    rmig_conn_disconnect(&conn, false);
    g_assert_cmpuint(fake_verbs_pending(link->verbs), ==, 1); /* not settled */
    g_assert_true(link->disconnected);
    rmig_conn_cleanup(&conn);
}

static void test_bad_end(void)
{
    Fixture f;

    setup(&f);
    g_assert_true(rmig_stream_write(&f.conn.stream, "end", 3, NULL));
    rmig_conn_disconnect(&f.conn, true);
    g_assert_cmpuint(f.posts->len, ==, 1);
    g_assert_cmpint(last_sent(&f), ==, RMIG_WIRE_ERROR);
    teardown(&f);

    /* a link that has failed is no good end, whatever the caller says */
    setup(&f);
    rmig_link_fail(f.conn.link, g_error_new(RMIG_LINK_ERROR,
                                            RMIG_LINK_ERROR_FAILED, "broken"));
    rmig_conn_disconnect(&f.conn, false);
    g_assert_cmpint(last_sent(&f), ==, RMIG_WIRE_ERROR);
    teardown(&f);

    /* nothing can be posted: leave all the same */
    setup(&f);
    f.conn.link->verbs->fail_post = 0;
    rmig_conn_disconnect(&f.conn, true);
    g_assert_cmpuint(f.posts->len, ==, 0);
    g_assert_true(f.conn.link->disconnected);
    teardown(&f);
}

/* Cleaning up without disconnecting does both; twice does no harm */
static void test_cleanup(void)
{
    RMigConn empty = { 0 };
    Fixture f;

    rmig_conn_cleanup(&empty);
    rmig_conn_disconnect(&empty, true);
    setup(&f);
    rmig_conn_cleanup(&f.conn);
    teardown(&f);
}

static void test_poll_waiter(void)
{
    int fds[2];
    char byte = 0;

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(write(fds[1], &byte, 1), ==, 1);
    rmig_poll_waiter.wait_readable(rmig_poll_waiter.opaque, fds[0]);
    g_assert_cmpint(read(fds[0], &byte, 1), ==, 1);
    close(fds[0]);
    close(fds[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/conn/init-fails", test_init_fails);
    g_test_add_func("/conn/good-end", test_good_end);
    g_test_add_func("/conn/serving-end", test_serving_end);
    g_test_add_func("/conn/bad-end", test_bad_end);
    g_test_add_func("/conn/cleanup", test_cleanup);
    g_test_add_func("/conn/poll-waiter", test_poll_waiter);
    return g_test_run();
}
