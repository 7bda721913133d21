/*
 * Unit tests of the destination: the end, with and without being handed over
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs.  docs/rdma.txt, "The end".
 */
#include "dest-fixture.h"

#include <string.h>

/* Waited for without a deadline */
static unsigned patience;
static RMigWireType then;

static void be_patient(RMigLink *link)
{
    if (++patience == 100) {
        fake_link_script_type(link, then);
    }
}

static void setup_with(Fixture *f, uint32_t flags)
{
    patience = 0;
    then = RMIG_WIRE_START;
    setup_exchanged(f, flags);
    f->link->patience = be_patient;
}

static void setup_end(Fixture *f)
{
    setup_with(f, RMIG_WIRE_FLAG_HANDOVER);
    g_assert_true(rmig_dest_hands_over(f->dest));
}

static RMigLink *accept_back(Fixture *f)
{
    RMigLink *back = fake_link_new();

    fake_link_offer(back);
    g_assert_cmpint(rmig_dest_accept(f->dest, NULL), ==,
                    RMIG_ACCEPTED_RETURN);
    return back;
}

static void assert_waits_for(Fixture *f, RMigWait what)
{
    RMigCounters c;

    rmig_dest_counters(f->dest, &c);
    g_assert_cmpint(c.waiting, ==, what);
}

/* How often a message of @type was sent */
static unsigned sent(const Fixture *f, RMigWireType type)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->verbs->posts->len; i++) {
        RMigWireMessage msg;
        gsize len;
        const void *data =
            g_bytes_get_data(fake_verbs_post(f->verbs, i)->data, &len);

        g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
        n += msg.type == type;
    }
    return n;
}

static void assert_not_handed(Fixture *f, const char *needle)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GError) again = NULL;

    g_assert_false(rmig_dest_hand_over(f->dest, true, &err));
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    g_assert_cmpuint(sent(f, RMIG_WIRE_STARTED), ==, 0);
    assert_waits_for(f, RMIG_WAIT_NONE);
    /* and stays so: whatever comes is too late */
    fake_link_script_type(f->link, RMIG_WIRE_START);
    g_assert_false(rmig_dest_hand_over(f->dest, true, &again));
}

/* ---- handed over ---- */

static void test_hand_over(void)
{
    for (uint32_t starts = 0; starts < 2; starts++) {
        RMigWireMessage msg;
        Fixture f;

        setup_end(&f);
        fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
        fake_link_script_type(f.link, RMIG_WIRE_START);
        g_assert_true(rmig_dest_hand_over(f.dest, starts, NULL));
        last_answer(&f, &msg);
        g_assert_cmpint(msg.type, ==, RMIG_WIRE_STARTED);
        g_assert_cmpuint(sent(&f, RMIG_WIRE_LOADED), ==, 1);
        /* it has arrived before anything else happens to the queue pair */
        g_assert_cmpuint(fake_verbs_pending(f.verbs), ==, 0);
        g_assert_false(f.verbs->revoked);
        teardown(&f);
    }
}

static void test_flags(void)
{
    for (uint32_t starts = 0; starts < 2; starts++) {
        RMigWireMessage msg;
        Fixture f;

        setup_end(&f);
        fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
        fake_link_script_close(f.link);
        g_assert_false(rmig_dest_hand_over(f.dest, starts, NULL));
        last_answer(&f, &msg);
        g_assert_cmpint(msg.type, ==, RMIG_WIRE_LOADED);
        g_assert_cmphex(rmig_wire_loaded_unpack(&msg), ==, starts);
        teardown(&f);
    }
}

/* The source takes its time */
static void test_slowly(void)
{
    Fixture f;

    setup_end(&f);
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    g_assert_true(rmig_dest_hand_over(f.dest, true, NULL));
    g_assert_cmpuint(patience, ==, 100);
    teardown(&f);
}

/* Whatever ends the connection before START is in hand is the end */
static void test_before_start(void)
{
    Fixture f;

    setup_end(&f);
    fake_link_script_close(f.link);
    assert_not_handed(&f, "closed");
    g_assert_cmpuint(sent(&f, RMIG_WIRE_LOADED), ==, 0);
    teardown(&f);

    setup_end(&f);
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    fake_link_script_close(f.link);
    assert_not_handed(&f, "closed");
    teardown(&f);

    setup_end(&f);
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    fake_link_script_type(f.link, RMIG_WIRE_ERROR);
    assert_not_handed(&f, "gave up");
    teardown(&f);

    setup_end(&f);
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    then = RMIG_WIRE_ERROR;
    assert_not_handed(&f, "gave up");
    g_assert_cmpuint(patience, ==, 100);
    teardown(&f);

    setup_end(&f);
    rmig_dest_shutdown(f.dest);
    assert_not_handed(&f, "shut down");
    teardown(&f);
}

static void arrive(Fixture *f, RMigWireType type)
{
    g_autoptr(GBytes) data = NULL;

    fake_link_script_type(f->link, type);
    data = g_queue_pop_tail(&f->link->script);
    fake_verbs_arrive(f->verbs, g_bytes_get_data(data, NULL),
                      g_bytes_get_size(data));
}

/* What patience brings: START, and what happens before anybody has looked */
static void start_and_error(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    arrive(f, RMIG_WIRE_START);
    arrive(f, RMIG_WIRE_ERROR);
}

static void start_and_break(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    arrive(f, RMIG_WIRE_START);
    rmig_link_fail(link, g_error_new(RMIG_VERBS_ERROR,
                                     RMIG_VERBS_ERROR_COMPLETION, "broken"));
}

static void start_and_time_out(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    arrive(f, RMIG_WIRE_START);
    rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                                     "timed out"));
}

static void start_and_close(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    arrive(f, RMIG_WIRE_START);
    rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED,
                                     "the peer closed the connection"));
}

/* START is the point of no return, but for a source that takes it back */
static void test_with_start(void)
{
    static void (*const ends[])(RMigLink *link) = {
        start_and_break, start_and_close, start_and_time_out,
    };
    Fixture f;

    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        setup_end(&f);
        f.link->peer_opaque = &f;
        f.link->patience = ends[i];
        fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
        g_assert_true(rmig_dest_hand_over(f.dest, true, NULL));
        teardown(&f);
    }

    setup_end(&f);
    f.link->peer_opaque = &f;
    f.link->patience = start_and_error;
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    assert_not_handed(&f, "gave up");
    teardown(&f);
}

static void start_only(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    arrive(f, RMIG_WIRE_START);
    if (f->ready == 0) {
        link->break_settling = true; /* STARTED does not arrive */
    } else {
        f->verbs->fail_post = 0; /* nor can it be sent */
    }
}

static void test_started_lost(void)
{
    for (unsigned i = 0; i < 2; i++) {
        Fixture f;

        setup_end(&f);
        f.ready = i;
        f.link->peer_opaque = &f;
        f.link->patience = start_only;
        fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
        g_assert_true(rmig_dest_hand_over(f.dest, true, NULL));
        g_assert_cmpuint(sent(&f, RMIG_WIRE_STARTED), ==, 1 - i);
        f.link->break_settling = false;
        teardown(&f);
    }
}

/* One after the other, and each once */
static void test_order(void)
{
    static const RMigWireType wrong[][2] = {
        { RMIG_WIRE_START, RMIG_WIRE_NONE },
        { RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_NONE },
        { RMIG_WIRE_REGISTER_FINISHED, RMIG_WIRE_NONE },
        { RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_LOAD_REQUEST },
        { RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_QEMU_FILE },
        { RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_REGISTER_FINISHED },
        { RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_COMPRESS },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        Fixture f;

        setup_end(&f);
        fake_link_script_type(f.link, wrong[i][0]);
        if (wrong[i][1] != RMIG_WIRE_NONE) {
            fake_link_script_type(f.link, wrong[i][1]);
        }
        assert_not_handed(&f, "has to come");
        teardown(&f);
    }
}

/* Where they do not belong */
static void test_elsewhere(void)
{
    static const RMigWireType types[] = {
        RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_START,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        g_autoptr(GError) err = NULL;
        uint8_t byte;
        Fixture f;

        /* in the middle of a round */
        setup_end(&f);
        fake_link_script_type(f.link, types[i]);
        assert_refused(&f, "in the middle of a round");
        teardown(&f);

        /* before the RAM blocks */
        setup(&f);
        accept_main(&f, RMIG_WIRE_FLAG_HANDOVER);
        fake_link_script_type(f.link, types[i]);
        assert_refused(&f, "before it asked for the RAM blocks");
        teardown(&f);

        /* in the stream */
        setup_end(&f);
        fake_link_script_type(f.link, types[i]);
        g_assert_cmpint(rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1,
                                         true, &err), ==, -1);
        g_assert_nonnull(strstr(err->message, "where the migration stream"));
        g_clear_error(&err);
        teardown(&f);

        /* where nobody has agreed on them */
        setup_with(&f, RMIG_WIRE_FLAG_BATCH);
        g_assert_false(rmig_dest_hands_over(f.dest));
        fake_link_script_type(f.link, types[i]);
        g_assert_cmpint(rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1,
                                         true, &err), ==, -1);
        g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL);
        teardown(&f);
    }
}

/* A source's stream may say more at its end than is read here */
static void test_rest_of_stream(void)
{
    RMigStream *stream;
    uint8_t byte;
    Fixture f;

    setup_end(&f);
    stream = rmig_dest_stream(f.dest);
    fake_link_script(f.link, fake_link_message(RMIG_WIRE_QEMU_FILE, "abc", 3,
                                               1));
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, true, NULL), ==, 1);
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    g_assert_true(rmig_dest_hand_over(f.dest, true, NULL));
    g_assert_cmpuint(patience, ==, 100); /* and then START */
    teardown(&f);

    /* nor need all of that be here already */
    setup_end(&f);
    stream = rmig_dest_stream(f.dest);
    fake_link_script(f.link, fake_link_message(RMIG_WIRE_QEMU_FILE, "abc", 3,
                                               1));
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, true, NULL), ==, 1);
    for (unsigned i = 0; i < 5; i++) {
        fake_link_script_type(f.link, RMIG_WIRE_QEMU_FILE);
    }
    fake_link_script_type(f.link, RMIG_WIRE_LOAD_REQUEST);
    g_assert_true(rmig_dest_hand_over(f.dest, true, NULL));
    teardown(&f);
}

/*
 * Receives cannot be posted any more, as on a queue pair that the source's
 * leaving has put into error: the round that has come to its end has
 */
static void test_unpostable(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_with(&f, 0);
    g_assert_true(rmig_dest_may_start(f.dest, NULL));
    fake_link_script_type(f.link, RMIG_WIRE_REGISTER_FINISHED);
    f.verbs->fail_post = 1; /* behind the next READY, the receive */
    g_assert_true(rmig_dest_handle(f.dest, NULL));
    g_assert_true(rmig_link_failed(f.link));
    g_assert_false(rmig_dest_handle(f.dest, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    teardown(&f);
}

/* ---- a source of version 1 ---- */

/* It just leaves when it is done, but says so if it gives up */
static void test_may_start(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_with(&f, 0);
    g_assert_true(rmig_dest_may_start(f.dest, NULL));
    fake_link_script_close(f.link);
    g_assert_true(rmig_dest_may_start(f.dest, NULL));
    g_assert_cmpuint(f.link->asks, ==, 0);
    teardown(&f);

    setup_with(&f, 0);
    arrive(&f, RMIG_WIRE_ERROR);
    fake_link_script_close(f.link);
    g_assert_false(rmig_dest_may_start(f.dest, &err));
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    teardown(&f);
}

/* With a return path it waits for the report, on both connections */
static void test_may_start_with_return_path(void)
{
    for (unsigned i = 0; i < 7; i++) {
        g_autoptr(GError) err = NULL;
        RMigLink *back;
        Fixture f;

        setup_with(&f, 0);
        back = accept_back(&f);
        if (i == 1) {
            f.link->no_answer = true;
        } else if (i == 2) {
            back->no_answer = true;
        } else if (i == 3) {
            fake_link_script_close(f.link);
        } else if (i == 4) {
            fake_link_script_close(back);
        } else if (i == 5) {
            arrive(&f, RMIG_WIRE_ERROR);
        } else if (i == 6) {
            rmig_dest_shutdown(f.dest);
        }
        if (i == 0) {
            g_assert_true(rmig_dest_may_start(f.dest, NULL));
            g_assert_cmpuint(f.link->asks, ==, 1);
            g_assert_cmpuint(back->asks, ==, 1);
        } else {
            g_assert_false(rmig_dest_may_start(f.dest, &err));
            g_assert_nonnull(strstr(err->message, "does not wait for it"));
        }
        teardown(&f);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dest-end/hand-over", test_hand_over);
    g_test_add_func("/dest-end/flags", test_flags);
    g_test_add_func("/dest-end/slowly", test_slowly);
    g_test_add_func("/dest-end/before-start", test_before_start);
    g_test_add_func("/dest-end/with-start", test_with_start);
    g_test_add_func("/dest-end/started-lost", test_started_lost);
    g_test_add_func("/dest-end/order", test_order);
    g_test_add_func("/dest-end/elsewhere", test_elsewhere);
    g_test_add_func("/dest-end/rest-of-stream", test_rest_of_stream);
    g_test_add_func("/dest-end/unpostable", test_unpostable);
    g_test_add_func("/dest-end/may-start", test_may_start);
    g_test_add_func("/dest-end/may-start/return-path",
                    test_may_start_with_return_path);
    return g_test_run();
}
