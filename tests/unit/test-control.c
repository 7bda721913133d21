/*
 * Unit tests of the control room: READY, answers, every illegal message
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs: the peer is a script.
 * docs/rdma.txt, "Exchange rules" and "States".
 */
#include "control-fixture.h"

#include <string.h>

static void command(Fixture *f, RMigWireType type)
{
    static const uint32_t len[RMIG_WIRE_TYPES] = {
        [RMIG_WIRE_QEMU_FILE] = 10,
        [RMIG_WIRE_COMPRESS] = RMIG_WIRE_ZERO_RUN_BYTES,
        [RMIG_WIRE_REGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_UNREGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
    };

    fake_link_script_type(f->link, RMIG_WIRE_READY);
    g_assert_true(rmig_control_command(f->control, type, len[type], 1, NULL));
}

/* ---- setting up ---- */

static void test_new(void)
{
    Fixture f;

    setup(&f, true);
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    g_assert_cmpuint(sends(&f), ==, 0);
    g_assert_cmpuint(f.link->verbs->mrs->len, ==, 1);
    /* a peer must not be able to write into message buffers */
    g_assert_false(((RMigMr *)f.link->verbs->mrs->pdata[0])->remote_write);
    g_assert_true(rmig_control_link(f.control) == f.link);
    teardown(&f);
}

static void test_new_fails(void)
{
    GError *err = NULL;

    for (int i = -1; i < RMIG_CONTROL_RECVS; i++) {
        RMigLink *link = fake_link_new();

        if (i < 0) {
            link->verbs->fail_register = 0;
        } else {
            link->verbs->fail_post = i;
        }
        g_assert_null(rmig_control_new(link, true, &err));
        assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                     "as the test wishes");
        g_assert_true(link->disconnected); /* before the buffer was freed */
        rmig_link_free(link);
    }
}

/* ---- commanding ---- */

static void test_command_waits_for_ready(void)
{
    Fixture f;
    GError *err = NULL;

    setup(&f, true);
    g_assert_false(rmig_control_may_command(f.control));
    g_assert_false(rmig_control_command(f.control, RMIG_WIRE_QEMU_FILE, 1, 1,
                                        &err));
    g_assert_nonnull(strstr(err->message, "QEMU_FILE"));
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                 "the peer to say READY");
    g_assert_cmpuint(sends(&f), ==, 0);
    teardown(&f);
}

static void test_command(void)
{
    Fixture f;
    uint8_t *buf;

    setup(&f, true);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    g_assert_true(rmig_control_may_command(f.control));
    buf = rmig_control_buffer(f.control, NULL);
    memcpy(buf, "stream", 6);
    g_assert_true(rmig_control_command(f.control, RMIG_WIRE_QEMU_FILE, 6, 1,
                                       NULL));
    assert_sent(&f, RMIG_WIRE_QEMU_FILE, "stream", 6, 1);
    g_assert_cmpuint(rmig_control_sent_messages(f.control), ==, 1);
    /* the stream's own bytes are counted by its user */
    g_assert_cmpuint(rmig_control_sent_bytes(f.control), ==, 16);
    command(&f, RMIG_WIRE_COMPRESS);
    g_assert_cmpuint(rmig_control_sent_messages(f.control), ==, 2);
    g_assert_cmpuint(rmig_control_sent_bytes(f.control), ==, 16 + 16 + 24);
    teardown(&f);
}

static void test_one_command_per_ready(void)
{
    Fixture f;
    GError *err = NULL;

    setup(&f, true);
    command(&f, RMIG_WIRE_REGISTER_FINISHED);
    g_assert_false(rmig_control_may_command(f.control));
    g_assert_false(rmig_control_command(f.control, RMIG_WIRE_REGISTER_FINISHED,
                                        0, 1, &err));
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT, "READY");
    g_assert_cmpuint(sends(&f), ==, 1);
    teardown(&f);
}

/*
 * The next message is composed while the last one leaves, but what is on its
 * way out of a buffer must not be overwritten
 */
static void test_buffers(void)
{
    RMigVerbs *verbs;
    uint8_t *first, *second;
    Fixture f;

    setup(&f, true);
    verbs = f.link->verbs;
    f.link->frozen = true;
    first = rmig_control_buffer(f.control, NULL);
    g_assert_true(rmig_control_buffer(f.control, NULL) == first);
    f.link->frozen = false;
    command(&f, RMIG_WIRE_QEMU_FILE);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_cmpuint(fake_verbs_pending(verbs), ==, 1);
    g_assert_true(rmig_control_may_command(f.control));
    f.link->frozen = true; /* so waiting would fail */
    second = rmig_control_buffer(f.control, NULL);
    g_assert_nonnull(second);
    g_assert_cmpuint(ABS(second - first), >=, RMIG_WIRE_MESSAGE_MAX_BYTES);
    g_assert_true(rmig_control_command(f.control, RMIG_WIRE_QEMU_FILE, 1, 1,
                                       NULL));
    g_assert_cmpuint(fake_verbs_pending(verbs), ==, 2);
    fake_link_script_type(f.link, RMIG_WIRE_READY);
    fake_verbs_arrive(verbs, g_bytes_get_data(f.link->script.head->data, NULL),
                      RMIG_WIRE_HEADER_BYTES);
    g_bytes_unref(g_queue_pop_head(&f.link->script));

    /* now both are leaving */
    g_assert_false(rmig_control_may_command(f.control));
    g_assert_null(rmig_control_buffer(f.control, NULL));
    teardown(&f);

    setup(&f, true);
    command(&f, RMIG_WIRE_QEMU_FILE);
    command(&f, RMIG_WIRE_QEMU_FILE);
    g_assert_nonnull(rmig_control_buffer(f.control, NULL));
    g_assert_cmpuint(fake_verbs_pending(f.link->verbs), <, 2);
    teardown(&f);
}

static void test_largest_command(void)
{
    Fixture f;
    uint8_t *buf;

    setup(&f, true);
    arrive(&f, RMIG_WIRE_READY);
    buf = rmig_control_buffer(f.control, NULL);
    memset(buf, 0x5a, RMIG_WIRE_DATA_MAX_BYTES);
    g_assert_true(rmig_control_command(f.control, RMIG_WIRE_QEMU_FILE,
                                       RMIG_WIRE_DATA_MAX_BYTES, 1, NULL));
    assert_sent(&f, RMIG_WIRE_QEMU_FILE, buf, RMIG_WIRE_DATA_MAX_BYTES, 1);
    g_assert_cmpuint(fake_verbs_last(f.link->verbs)->bytes, ==,
                     RMIG_WIRE_MESSAGE_MAX_BYTES);
    teardown(&f);
}

static const struct {
    RMigWireType command, answer;
} answered[] = {
    { RMIG_WIRE_RAM_BLOCKS_REQUEST, RMIG_WIRE_RAM_BLOCKS_RESULT },
    { RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_REGISTER_RESULT },
    { RMIG_WIRE_UNREGISTER_REQUEST, RMIG_WIRE_UNREGISTER_FINISHED },
    { RMIG_WIRE_LOAD_REQUEST, RMIG_WIRE_LOADED },
    { RMIG_WIRE_START, RMIG_WIRE_STARTED },
};

static void test_wait_answer(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, true);
    rmig_control_set_hands_over(f.control);
    for (size_t i = 0; i < G_N_ELEMENTS(answered); i++) {
        command(&f, answered[i].command);
        fake_link_script_type(f.link, answered[i].answer);
        g_assert_true(rmig_control_wait_answer(f.control, 1000, &msg, NULL));
        g_assert_cmpint(msg.type, ==, answered[i].answer);
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 1);
        g_assert_true(rmig_control_release(f.control, NULL));
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    }
    teardown(&f);
}

static void test_answer_never_comes(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, true);
    command(&f, RMIG_WIRE_REGISTER_REQUEST);
    g_assert_false(rmig_control_wait_answer(f.control, 1000, &msg, &err));
    g_assert_nonnull(strstr(err->message, "REGISTER_RESULT"));
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                 "the peer's answer");
    teardown(&f);
}

/* The next READY may arrive while the answer is still being read */
static void test_ready_behind_answer(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, true);
    command(&f, RMIG_WIRE_REGISTER_REQUEST);
    arrive(&f, RMIG_WIRE_REGISTER_RESULT);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_true(rmig_control_wait_answer(f.control, 1000, &msg, NULL));
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_RESULT);
    g_assert_true(rmig_control_release(f.control, NULL));
    fake_verbs_complete_all(f.link->verbs);
    g_assert_true(rmig_control_may_command(f.control));
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    teardown(&f);
}

/* ---- serving ---- */

static void test_ready_once(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, false);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL),
                        ==, 0);
    }
    g_assert_cmpuint(sends(&f), ==, 1);
    assert_sent(&f, RMIG_WIRE_READY, NULL, 0, 1);

    /* the next READY is for the next command, and not before it is wanted */
    serve(&f, RMIG_WIRE_COMPRESS, &msg);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpuint(sends(&f), ==, 1);
    serve(&f, RMIG_WIRE_COMPRESS, &msg);
    g_assert_cmpuint(sends(&f), ==, 2);
    teardown(&f);
}

static void test_serve(void)
{
    static const RMigWireType commands[] = {
        RMIG_WIRE_QEMU_FILE, RMIG_WIRE_COMPRESS, RMIG_WIRE_REGISTER_FINISHED,
    };
    RMigWireMessage msg;
    Fixture f;

    setup(&f, false);
    rmig_control_set_hands_over(f.control);
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        serve(&f, commands[i], &msg);
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 1);
        g_assert_true(rmig_control_release(f.control, NULL));
        g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(answered); i++) {
        serve(&f, answered[i].command, &msg);
        g_assert_nonnull(rmig_control_buffer(f.control, NULL));
        memcpy(rmig_control_buffer(f.control, NULL), "0123456789abcdef", 16);
        g_assert_true(rmig_control_answer(f.control, 16, 1, NULL));
        assert_sent(&f, answered[i].answer, "0123456789abcdef", 16, 1);
        g_assert_true(rmig_control_release(f.control, NULL));
    }
    teardown(&f);
}

/* The command comes before the completion of the READY that permitted it */
static void test_command_overtakes_completion(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup(&f, false);
    for (int i = 0; i < 5; i++) {
        serve(&f, RMIG_WIRE_COMPRESS, &msg); /* scripted before completions */
        g_assert_true(rmig_control_release(f.control, NULL));
    }
    g_assert_cmpuint(sends(&f), ==, 5);
    teardown(&f);
}

/* ---- what may arrive when ---- */

typedef enum State {
    CMD_IDLE, CMD_CREDIT, CMD_WAIT_BLOCKS, CMD_WAIT_REGISTER,
    CMD_WAIT_UNREGISTER, CMD_WAIT_LOADED, CMD_WAIT_STARTED,
    CMD_READING_ANSWER,
    SRV_IDLE, SRV_ASKED, SRV_HOLDING, SRV_OWING, SRV_AHEAD, SRV_QUEUED,
    N_STATES
} State;

#define BIT(type) (1u << (type))
#define COMMANDS (BIT(RMIG_WIRE_QEMU_FILE) | \
                  BIT(RMIG_WIRE_RAM_BLOCKS_REQUEST) | \
                  BIT(RMIG_WIRE_COMPRESS) | \
                  BIT(RMIG_WIRE_REGISTER_REQUEST) | \
                  BIT(RMIG_WIRE_REGISTER_FINISHED) | \
                  BIT(RMIG_WIRE_UNREGISTER_REQUEST) | HANDOVER)
#define HANDOVER (BIT(RMIG_WIRE_LOAD_REQUEST) | BIT(RMIG_WIRE_START))

/* Besides ERROR, which is understood in every state */
static const uint32_t legal[N_STATES] = {
    [CMD_IDLE] = BIT(RMIG_WIRE_READY),
    [CMD_CREDIT] = 0,
    [CMD_WAIT_BLOCKS] = BIT(RMIG_WIRE_RAM_BLOCKS_RESULT),
    [CMD_WAIT_REGISTER] = BIT(RMIG_WIRE_REGISTER_RESULT),
    [CMD_WAIT_UNREGISTER] = BIT(RMIG_WIRE_UNREGISTER_FINISHED),
    [CMD_WAIT_LOADED] = BIT(RMIG_WIRE_LOADED),
    [CMD_WAIT_STARTED] = BIT(RMIG_WIRE_STARTED),
    [CMD_READING_ANSWER] = BIT(RMIG_WIRE_READY),
    [SRV_IDLE] = 0,
    [SRV_ASKED] = COMMANDS,
    [SRV_HOLDING] = 0,
    [SRV_OWING] = 0,
    [SRV_AHEAD] = COMMANDS,
    [SRV_QUEUED] = 0,
};

static void setup_in_state(Fixture *f, State state, bool hands_over)
{
    RMigWireMessage msg;

    setup(f, state < SRV_IDLE);
    if (hands_over) {
        rmig_control_set_hands_over(f->control);
    }
    switch (state) {
    case CMD_CREDIT:
        arrive(f, RMIG_WIRE_READY);
        break;
    case CMD_WAIT_BLOCKS:
        command(f, RMIG_WIRE_RAM_BLOCKS_REQUEST);
        break;
    case CMD_WAIT_REGISTER:
        command(f, RMIG_WIRE_REGISTER_REQUEST);
        break;
    case CMD_WAIT_UNREGISTER:
        command(f, RMIG_WIRE_UNREGISTER_REQUEST);
        break;
    case CMD_WAIT_LOADED:
        command(f, RMIG_WIRE_LOAD_REQUEST);
        break;
    case CMD_WAIT_STARTED:
        command(f, RMIG_WIRE_START);
        break;
    case CMD_READING_ANSWER:
        command(f, RMIG_WIRE_REGISTER_REQUEST);
        arrive(f, RMIG_WIRE_REGISTER_RESULT);
        break;
    case SRV_ASKED:
        g_assert_cmpint(rmig_control_receive(f->control, false, &msg, NULL),
                        ==, 0);
        break;
    case SRV_HOLDING:
        serve(f, RMIG_WIRE_COMPRESS, &msg);
        break;
    case SRV_OWING:
        serve(f, RMIG_WIRE_REGISTER_REQUEST, &msg);
        break;
    case SRV_AHEAD:
        serve(f, RMIG_WIRE_QEMU_FILE, &msg);
        break;
    case SRV_QUEUED:
        serve(f, RMIG_WIRE_QEMU_FILE, &msg);
        arrive(f, RMIG_WIRE_QEMU_FILE);
        break;
    default:
        break;
    }
}

static void check_every_message(State state, bool hands_over)
{
    uint32_t may_come = legal[state] & (hands_over ? UINT32_MAX : ~HANDOVER);

    for (unsigned type = 1; type < RMIG_WIRE_TYPES; type++) {
        Fixture f;

        setup_in_state(&f, state, hands_over);
        arrive(&f, type);
        if (type == RMIG_WIRE_ERROR) {
            assert_link_failed(&f, RMIG_CONTROL_ERROR,
                               RMIG_CONTROL_ERROR_PEER, "gave up");
        } else if (may_come & BIT(type)) {
            g_assert_false(rmig_link_failed(f.link));
        } else {
            g_autofree char *says = g_strdup_printf(
                "the peer sent %s while", rmig_wire_type_name(type));

            assert_link_failed(&f, RMIG_CONTROL_ERROR,
                               RMIG_CONTROL_ERROR_PROTOCOL, says);
        }
        teardown(&f);
    }
}

static void test_every_message_in_every_state(void)
{
    for (State state = 0; state < N_STATES; state++) {
        check_every_message(state, true);
        /* These cannot be entered without */
        if (state != CMD_WAIT_LOADED && state != CMD_WAIT_STARTED) {
            check_every_message(state, false);
        }
    }
}

/* Bytes that are no message end the link in every state */
static void test_malformed(void)
{
    static const uint8_t cut[7];
    static const uint8_t type_0[16];
    static const uint8_t type_16[16] = { [7] = 16 };
    static const uint8_t too_long[16] = { 0xff, 0xff, 0xff, 0xff, [7] = 3 };
    static const uint8_t promises[16] = { [3] = 1, [7] = 3 };
    static const struct {
        const void *data;
        uint32_t len;
        const char *needle;
    } cases[] = {
        { cut, sizeof(cut), "shorter than a header" },
        { type_0, sizeof(type_0), "impossible type 0" },
        { type_16, sizeof(type_16), "impossible type 16" },
        { too_long, sizeof(too_long), "limit" },
        { promises, sizeof(promises), "announces 1 bytes of data, 0 came" },
    };

    for (State state = 0; state < N_STATES; state++) {
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
            Fixture f;

            setup_in_state(&f, state, true);
            fake_link_script_raw(f.link, cases[i].data, cases[i].len);
            g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
            assert_link_failed(&f, RMIG_WIRE_ERROR_QUARK, 0,
                               cases[i].needle);
            teardown(&f);
        }
    }
}

/* ---- failing ---- */

static void test_send_error(void)
{
    for (State state = 0; state < N_STATES; state++) {
        Fixture f;
        unsigned before;

        setup_in_state(&f, state, true);
        before = sends(&f);
        rmig_control_send_error(f.control);
        g_assert_cmpuint(sends(&f), ==, before + 1);
        assert_sent(&f, RMIG_WIRE_ERROR, NULL, 0, 1);
        rmig_control_send_error(f.control); /* once is enough */
        g_assert_cmpuint(sends(&f), ==, before + 1);
        teardown(&f);
    }
}

/* A queue pair that takes nothing any more is no reason to crash */
static void test_send_error_cannot(void)
{
    Fixture f;

    setup(&f, true);
    f.link->verbs->fail_post = 0;
    rmig_control_send_error(f.control);
    g_assert_cmpuint(sends(&f), ==, 0);
    teardown(&f);
}

/* A receive cannot be posted: what waits is handed out, and then the error */
static void test_unpostable(void)
{
    GError *err = NULL;
    RMigWireMessage msg;
    Fixture f;

    setup_in_state(&f, SRV_QUEUED, true);
    f.link->verbs->fail_post = 0;
    g_assert_false(rmig_control_release(f.control, &err));
    g_clear_error(&err);
    g_assert_true(rmig_control_has(f.control, RMIG_WIRE_QEMU_FILE));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_QEMU_FILE);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED, "posting");
    teardown(&f);
}

static void test_failing_posts(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup_in_state(&f, CMD_CREDIT, true);
    f.link->verbs->fail_post = 0;
    g_assert_false(rmig_control_command(f.control, RMIG_WIRE_REGISTER_FINISHED,
                                        0, 1, &err));
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                 "sending REGISTER_FINISHED: posting failed");
    teardown(&f);

    setup(&f, false);
    f.link->verbs->fail_post = 0;
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                 "sending READY");
    /* nothing goes on after that, even if posting works again */
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                 "sending READY");
    g_assert_cmpuint(sends(&f), ==, 0);
    teardown(&f);

    setup_in_state(&f, SRV_OWING, true);
    f.link->verbs->fail_post = 0;
    g_assert_false(rmig_control_answer(f.control, 16, 1, &err));
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                 "sending REGISTER_RESULT");
    teardown(&f);

    setup_in_state(&f, SRV_HOLDING, true);
    f.link->verbs->fail_post = 0;
    g_assert_false(rmig_control_release(f.control, &err));
    assert_fails(&err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED, "posting");
    assert_link_failed(&f, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                       "posting");
    teardown(&f);

    /* an early READY; what it was to follow is still good */
    setup_in_state(&f, SRV_ASKED, true);
    f.link->verbs->fail_post = 0;
    arrive(&f, RMIG_WIRE_QEMU_FILE);
    assert_link_failed(&f, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                       "sending READY");
    teardown(&f);

    /* a READY whose receive cannot be posted again */
    setup(&f, true);
    f.link->verbs->fail_post = 0;
    arrive(&f, RMIG_WIRE_READY);
    assert_link_failed(&f, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                       "posting failed");
    teardown(&f);
}

/* What fails a connection is its end: no READY, and no command any more */
static void test_after_failure(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_FAILED, "broken"));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED, "broken");
    g_assert_cmpuint(sends(&f), ==, 0);
    teardown(&f);

    /* not even one that comes all the same, as READY was said before */
    setup(&f, false);
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    rmig_link_fail(f.link, g_error_new(RMIG_LINK_ERROR,
                                       RMIG_LINK_ERROR_FAILED, "broken"));
    g_assert_cmpuint(sends(&f), ==, 1);
    fake_link_script_type(f.link, RMIG_WIRE_REGISTER_REQUEST);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED, "broken");
    teardown(&f);
}

static void test_peer_leaves(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    fake_link_script_close(f.link);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    setup_in_state(&f, CMD_WAIT_REGISTER, true);
    fake_link_script_close(f.link);
    g_assert_false(rmig_control_wait_answer(f.control, 1000, &msg, &err));
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    /* nor does it count, if it gave up behind it */
    setup(&f, false);
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    arrive(&f, RMIG_WIRE_COMPRESS);
    arrive(&f, RMIG_WIRE_ERROR);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER, "gave up");
    teardown(&f);

    /* its last message is still handed out, though it left right after it */
    setup(&f, false);
    fake_link_script_type(f.link, RMIG_WIRE_QEMU_FILE);
    fake_link_script_close(f.link);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, NULL), ==, 1);
    g_assert_true(rmig_control_release(f.control, NULL));
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/control/new", test_new);
    g_test_add_func("/control/new/fails", test_new_fails);
    g_test_add_func("/control/command", test_command);
    g_test_add_func("/control/command/ready", test_command_waits_for_ready);
    g_test_add_func("/control/command/one", test_one_command_per_ready);
    g_test_add_func("/control/command/buffers", test_buffers);
    g_test_add_func("/control/command/largest", test_largest_command);
    g_test_add_func("/control/answer", test_wait_answer);
    g_test_add_func("/control/answer/never", test_answer_never_comes);
    g_test_add_func("/control/answer/ready-behind", test_ready_behind_answer);
    g_test_add_func("/control/serve", test_serve);
    g_test_add_func("/control/serve/ready-once", test_ready_once);
    g_test_add_func("/control/serve/overtakes",
                    test_command_overtakes_completion);
    g_test_add_func("/control/states", test_every_message_in_every_state);
    g_test_add_func("/control/malformed", test_malformed);
    g_test_add_func("/control/send-error", test_send_error);
    g_test_add_func("/control/send-error/cannot", test_send_error_cannot);
    g_test_add_func("/control/failing-posts", test_failing_posts);
    g_test_add_func("/control/unpostable", test_unpostable);
    g_test_add_func("/control/after-failure", test_after_failure);
    g_test_add_func("/control/peer-leaves", test_peer_leaves);
    return g_test_run();
}
