/*
 * Unit tests of the control room: READY ahead of its time, and what it brings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs: the peer is a script.
 * docs/rdma.txt, "Exchange rules".
 */
#include "control-fixture.h"

#include <string.h>

static unsigned readies(const Fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < sends(f); i++) {
        GBytes *data = fake_verbs_post(f->link->verbs, i)->data;

        n += ((const uint8_t *)g_bytes_get_data(data, NULL))[7] ==
             RMIG_WIRE_READY;
    }
    return n;
}

/* Some promise nothing by having been handled: READY is said when they come */
static void test_early_ready(void)
{
    static const RMigWireType commands[] = {
        RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE, RMIG_WIRE_COMPRESS,
        RMIG_WIRE_REGISTER_FINISHED, RMIG_WIRE_REGISTER_REQUEST,
        RMIG_WIRE_RAM_BLOCKS_REQUEST, RMIG_WIRE_UNREGISTER_REQUEST,
        RMIG_WIRE_QEMU_FILE, RMIG_WIRE_REGISTER_FINISHED,
    };
    RMigWireMessage msg;
    unsigned said = 0;
    bool early = false;
    Fixture f;

    setup(&f, false);
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        bool before = early;

        said += before ? 0 : 1;
        early = commands[i] == RMIG_WIRE_QEMU_FILE ||
                commands[i] == RMIG_WIRE_REGISTER_FINISHED;
        said += early ? 1 : 0;
        serve(&f, commands[i], &msg);
        g_assert_cmpuint(readies(&f), ==, said);
        if (i >= 4 && i <= 6) {
            g_assert_true(rmig_control_answer(f.control, 16, 1, NULL));
        }
        g_assert_true(rmig_control_release(f.control, NULL));
        g_assert_cmpuint(readies(&f), ==, said);
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    }
    /* nor is it said again by waiting */
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    g_assert_cmpuint(readies(&f), ==, said);
    teardown(&f);
}

static void script_bytes(Fixture *f, const char *text)
{
    fake_link_script(f->link, fake_link_message(RMIG_WIRE_QEMU_FILE, text,
                                                strlen(text), 1));
}

static void assert_in_hand(const RMigWireMessage *msg, const char *text)
{
    g_assert_cmpint(msg->type, ==, RMIG_WIRE_QEMU_FILE);
    g_assert_cmpmem(msg->data, msg->len, text, strlen(text));
}

/* What comes meanwhile is the next to be received, and then permits another */
static void test_queue(void)
{
    RMigWireMessage msg, next;
    Fixture f;

    setup(&f, false);
    script_bytes(&f, "first");
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    script_bytes(&f, "second");
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_cmpuint(readies(&f), ==, 2);
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 2);
    g_assert_false(rmig_control_has(f.control, RMIG_WIRE_QEMU_FILE));
    assert_in_hand(&msg, "first");

    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_true(rmig_control_has(f.control, RMIG_WIRE_QEMU_FILE));
    g_assert_false(rmig_control_has(f.control, RMIG_WIRE_COMPRESS));
    g_assert_cmpuint(readies(&f), ==, 3);
    /* and the third may come before the second is received */
    fake_link_script_type(f.link, RMIG_WIRE_COMPRESS);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    f.link->frozen = true;
    g_assert_cmpint(rmig_control_receive(f.control, false, &next, NULL), ==,
                    1);
    assert_in_hand(&next, "second");
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_COMPRESS);
    g_assert_cmpuint(readies(&f), ==, 3); /* not for that one */
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    teardown(&f);
}

/* A command that has an answer is answered before the next READY */
static void test_queue_answer(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, false);
    serve(&f, RMIG_WIRE_REGISTER_FINISHED, &msg);
    arrive(&f, RMIG_WIRE_REGISTER_REQUEST);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_REQUEST);
    g_assert_cmpuint(readies(&f), ==, 2);
    g_assert_true(rmig_control_answer(f.control, 16, 1, NULL));
    assert_sent(&f, RMIG_WIRE_REGISTER_RESULT, NULL, 16, 1);
    teardown(&f);
}

/* The worst that a peer may do: two messages and ERROR; the fake would die */
static void test_credits(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    serve(&f, RMIG_WIRE_QEMU_FILE, &msg);
    for (int i = 0; i < 5; i++) {
        arrive(&f, RMIG_WIRE_QEMU_FILE);
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 2);
        g_assert_true(rmig_control_release(f.control, NULL));
        g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL),
                        ==, 1);
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 1);
    }
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    arrive(&f, RMIG_WIRE_ERROR);
    /* what waits is void then, and READY is said no more */
    g_assert_cmpuint(readies(&f), ==, 7);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpuint(readies(&f), ==, 7);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER, "gave up");
    teardown(&f);
}

/* Not so when the peer has left in order: it had sent it before */
static void test_queue_then_leaves(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    script_bytes(&f, "first");
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    script_bytes(&f, "last");
    fake_link_script_close(f.link);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    assert_in_hand(&msg, "last");
    g_assert_cmpuint(readies(&f), ==, 2); /* there is nobody for another */
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);
}

/* Nor does the one in hand come again, if it could not be handled */
static void test_leaves_in_hand(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    serve(&f, RMIG_WIRE_REGISTER_REQUEST, &msg);
    fake_link_script_close(f.link);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);
}

/* Two messages for one READY */
static void test_without_ready(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    serve(&f, RMIG_WIRE_QEMU_FILE, &msg);
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                       "QEMU_FILE while this side was handling two commands");
    /* the one that was in order is void, too */
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                 "handling two commands");
    teardown(&f);
}

/* READYs that nobody acknowledges: the next one waits, but not early */
static void test_early_ready_falls_back(void)
{
    RMigWireMessage msg;
    g_autoptr(GBytes) data = fake_link_message(RMIG_WIRE_QEMU_FILE, "x", 1, 1);
    Fixture f;

    setup(&f, false);
    f.link->frozen = true;
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    g_assert_cmpuint(fake_verbs_pending(f.link->verbs), ==, 1);
    for (unsigned i = 0; i < 2; i++) {
        fake_verbs_arrive(f.link->verbs, g_bytes_get_data(data, NULL),
                          g_bytes_get_size(data));
        g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==,
                        1);
        g_assert_cmpuint(readies(&f), ==, 2); /* there is no room for more */
        g_assert_true(rmig_control_release(f.control, NULL));
    }
    g_assert_cmpuint(fake_verbs_pending(f.link->verbs), ==, 2);
    f.link->frozen = false;
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    g_assert_cmpuint(readies(&f), ==, 3);
    script_bytes(&f, "next");
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    assert_in_hand(&msg, "next");
    g_assert_cmpuint(readies(&f), ==, 4);
    teardown(&f);
}

/* Who has given up asks for nothing */
static void test_no_early_ready_after_error(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, false);
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    rmig_control_send_error(f.control);
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    assert_sent(&f, RMIG_WIRE_ERROR, NULL, 0, 1);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ready/early", test_early_ready);
    g_test_add_func("/ready/early/falls-back",
                    test_early_ready_falls_back);
    g_test_add_func("/ready/early/after-error",
                    test_no_early_ready_after_error);
    g_test_add_func("/ready/queue", test_queue);
    g_test_add_func("/ready/queue/answer", test_queue_answer);
    g_test_add_func("/ready/queue/credits", test_credits);
    g_test_add_func("/ready/queue/leaves", test_queue_then_leaves);
    g_test_add_func("/ready/queue/leaves-in-hand", test_leaves_in_hand);
    g_test_add_func("/ready/queue/without-ready", test_without_ready);
    return g_test_run();
}
