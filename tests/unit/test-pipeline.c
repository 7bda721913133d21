/*
 * Unit tests of the control room: two messages of the stream under way
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs: the peer is a script.
 * docs/rdma.txt, "Exchange rules" and "States".
 */
#include "control-fixture.h"
#include "migration/rdma-transport.h"

#include <netinet/in.h>
#include <string.h>

/* READYs that may be unacknowledged before one has to wait */
#define READIES 4

static void setup_pipelined(Fixture *f, bool commands)
{
    setup(f, commands);
    rmig_control_set_pipelined(f->control);
    rmig_control_set_hands_over(f->control);
}

static unsigned readies(const RMigLink *link)
{
    unsigned n = 0;

    for (unsigned i = 0; i < link->verbs->posts->len; i++) {
        GBytes *data = fake_verbs_post(link->verbs, i)->data;

        n += ((const uint8_t *)g_bytes_get_data(data, NULL))[7] ==
             RMIG_WIRE_READY;
    }
    return n;
}

/* A @type arrives, and nothing else happens */
static void put(RMigLink *link, RMigWireType type)
{
    g_autoptr(GBytes) data = NULL;

    fake_link_script_type(link, type);
    data = g_queue_pop_tail(&link->script);
    fake_verbs_arrive(link->verbs, g_bytes_get_data(data, NULL),
                      g_bytes_get_size(data));
}

static bool command(Fixture *f, RMigWireType type, GError **err)
{
    static const uint32_t len[RMIG_WIRE_TYPES] = {
        [RMIG_WIRE_QEMU_FILE] = 10,
        [RMIG_WIRE_COMPRESS] = RMIG_WIRE_ZERO_RUN_BYTES,
        [RMIG_WIRE_REGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_UNREGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
    };

    return rmig_control_command(f->control, type, len[type], 1, err);
}

static void take(Fixture *f, RMigWireType type)
{
    RMigWireMessage msg;

    g_assert_cmpint(rmig_control_receive(f->control, false, &msg, NULL), ==,
                    1);
    g_assert_cmpint(msg.type, ==, type);
}

static void done(Fixture *f)
{
    g_assert_true(rmig_control_release(f->control, NULL));
}

#define BIT(type) (1u << (type))
#define COMMANDS (BIT(RMIG_WIRE_QEMU_FILE) | \
                  BIT(RMIG_WIRE_RAM_BLOCKS_REQUEST) | \
                  BIT(RMIG_WIRE_COMPRESS) | \
                  BIT(RMIG_WIRE_REGISTER_REQUEST) | \
                  BIT(RMIG_WIRE_REGISTER_FINISHED) | \
                  BIT(RMIG_WIRE_UNREGISTER_REQUEST) | HANDOVER)
#define HANDOVER (BIT(RMIG_WIRE_LOAD_REQUEST) | BIT(RMIG_WIRE_START))

/* ---- commanding ---- */

typedef struct Sent {
    const char *name;
    RMigWireType sent[3]; /* after the first READY, as far as not NONE */
    unsigned readies;     /* arrive then */
    uint32_t may_send;    /* which types need not wait now */
} Sent;

/* The rule of COMPRESS is one of these: nothing passes it before its READY */
static const Sent sent[] = {
    { "nothing", { 0 }, 0, COMMANDS },
    { "QEMU_FILE", { RMIG_WIRE_QEMU_FILE }, 0, BIT(RMIG_WIRE_QEMU_FILE) },
    { "FINISHED", { RMIG_WIRE_REGISTER_FINISHED }, 0,
      BIT(RMIG_WIRE_QEMU_FILE) },
    { "COMPRESS", { RMIG_WIRE_COMPRESS }, 0, 0 },
    { "COMPRESS READY", { RMIG_WIRE_COMPRESS }, 1, COMMANDS },
    { "two", { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE }, 0, 0 },
    { "FINISHED QEMU_FILE", { RMIG_WIRE_REGISTER_FINISHED,
                              RMIG_WIRE_QEMU_FILE }, 0, 0 },
    { "two READY", { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE }, 1,
      BIT(RMIG_WIRE_QEMU_FILE) },
    { "two READY READY", { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE }, 2,
      COMMANDS },
    { "request", { RMIG_WIRE_REGISTER_REQUEST }, 0, 0 },
    { "request READY", { RMIG_WIRE_REGISTER_REQUEST }, 1, COMMANDS },
};

static void replay(Fixture *f, const Sent *s)
{
    RMigWireMessage msg;

    setup_pipelined(f, true);
    arrive(f, RMIG_WIRE_READY);
    for (unsigned i = 0; s->sent[i] != RMIG_WIRE_NONE; i++) {
        g_assert_true(command(f, s->sent[i], NULL));
        if (s->sent[i] == RMIG_WIRE_REGISTER_REQUEST) {
            arrive(f, RMIG_WIRE_REGISTER_RESULT);
            g_assert_true(rmig_control_wait_answer(f->control, 1, &msg,
                                                   NULL));
            done(f);
        }
    }
    for (unsigned i = 0; i < s->readies; i++) {
        arrive(f, RMIG_WIRE_READY);
    }
    fake_verbs_complete_all(f->link->verbs);
}

static void test_may_send(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sent); i++) {
        for (unsigned type = 1; type < RMIG_WIRE_TYPES; type++) {
            GError *err = NULL;
            unsigned before;
            Fixture f;

            if (!(COMMANDS & BIT(type))) {
                continue;
            }
            g_test_message("after %s: %s", sent[i].name,
                           rmig_wire_type_name(type));
            replay(&f, &sent[i]);
            g_assert_cmpint(rmig_control_may_command(f.control), ==,
                            sent[i].may_send == COMMANDS);
            g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
            before = sends(&f);
            if (sent[i].may_send & BIT(type)) {
                g_assert_true(command(&f, type, NULL));
                g_assert_cmpuint(sends(&f), ==, before + 1);
            } else {
                g_assert_false(command(&f, type, &err));
                assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                             "the peer to say READY");
                g_assert_cmpuint(sends(&f), ==, before);
            }
            teardown(&f);
        }
    }
}

/* READY is legal until both credits are at home, and one more is not */
static void test_ready_too_many(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(sent); i++) {
        unsigned out = 0;
        Fixture f;

        while (sent[i].sent[out] != RMIG_WIRE_NONE) {
            out++;
        }
        replay(&f, &sent[i]);
        for (out -= sent[i].readies; out > 0; out--) {
            arrive(&f, RMIG_WIRE_READY);
            g_assert_false(rmig_link_failed(f.link));
        }
        g_assert_true(rmig_control_may_command(f.control));
        arrive(&f, RMIG_WIRE_READY);
        assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                           "the peer sent READY while this side was ready");
        teardown(&f);
    }
}

/* Neither before the answer, nor is the credit that is left good for then */
static void test_ready_for_answer(void)
{
    GError *err = NULL;
    Fixture f;

    setup_pipelined(&f, true);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_true(command(&f, RMIG_WIRE_REGISTER_REQUEST, NULL));
    g_assert_false(command(&f, RMIG_WIRE_QEMU_FILE, &err));
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT, "READY");
    teardown(&f);

    setup_pipelined(&f, true);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_true(command(&f, RMIG_WIRE_REGISTER_REQUEST, NULL));
    arrive(&f, RMIG_WIRE_READY);
    assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                       "READY while this side was waiting for an answer");
    teardown(&f);
}

/* The first READY may be there before anybody knows what was granted */
static void test_ready_with_connection(void)
{
    Fixture f;

    setup(&f, true);
    arrive(&f, RMIG_WIRE_READY);
    rmig_control_set_pipelined(f.control);
    g_assert_true(rmig_control_may_command(f.control));
    g_assert_true(command(&f, RMIG_WIRE_QEMU_FILE, NULL));
    g_assert_true(command(&f, RMIG_WIRE_QEMU_FILE, NULL));
    arrive(&f, RMIG_WIRE_READY);
    arrive(&f, RMIG_WIRE_READY);
    g_assert_true(rmig_control_may_command(f.control));
    arrive(&f, RMIG_WIRE_READY);
    assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                       "READY");
    teardown(&f);
}

/* ---- serving: what may arrive when ---- */

typedef enum State {
    IDLE, ASKED, HOLDING, OWING, AHEAD, AHEAD_OF_FINISHED, QUEUED,
    QUEUED_FINISHED, QUEUED_COMPRESS, QUEUED_REQUEST, FULL, HANDLED_ONE,
    AHEAD_1, AHEAD_0, ASKED_1, ASKED_0, QUEUED_0, COMPRESS_HANDLED,
    STATES
} State;

/* ERROR may arrive in every one */
static const uint32_t legal[STATES] = {
    [ASKED] = COMMANDS,
    [AHEAD] = COMMANDS,
    [AHEAD_OF_FINISHED] = COMMANDS,
    [QUEUED] = BIT(RMIG_WIRE_QEMU_FILE),
    [QUEUED_FINISHED] = BIT(RMIG_WIRE_QEMU_FILE),
    [HANDLED_ONE] = BIT(RMIG_WIRE_QEMU_FILE),
    [AHEAD_1] = BIT(RMIG_WIRE_QEMU_FILE),
    [ASKED_1] = BIT(RMIG_WIRE_QEMU_FILE),
};

/* No READY is acknowledged; @n commands could not be answered with one */
static void use_up_readies(Fixture *f, unsigned n)
{
    RMigWireMessage msg;

    f->link->frozen = true;
    g_assert_cmpint(rmig_control_receive(f->control, false, &msg, NULL), ==,
                    0);
    for (unsigned i = 1; i < READIES + n; i++) {
        if (i > 1) {
            done(f);
        }
        put(f->link, RMIG_WIRE_QEMU_FILE);
        take(f, RMIG_WIRE_QEMU_FILE);
    }
    g_assert_cmpuint(readies(f->link), ==, READIES);
    g_assert_false(rmig_link_failed(f->link));
}

static void setup_in_state(Fixture *f, State state)
{
    static const RMigWireType types[STATES][3] = {
        [HOLDING] = { RMIG_WIRE_COMPRESS },
        [OWING] = { RMIG_WIRE_REGISTER_REQUEST },
        [AHEAD] = { RMIG_WIRE_QEMU_FILE },
        [AHEAD_OF_FINISHED] = { RMIG_WIRE_REGISTER_FINISHED },
        [QUEUED] = { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE },
        [QUEUED_FINISHED] = { RMIG_WIRE_QEMU_FILE,
                              RMIG_WIRE_REGISTER_FINISHED },
        [QUEUED_COMPRESS] = { RMIG_WIRE_REGISTER_FINISHED,
                              RMIG_WIRE_COMPRESS },
        [QUEUED_REQUEST] = { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_REGISTER_REQUEST },
        [FULL] = { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_REGISTER_FINISHED,
                   RMIG_WIRE_QEMU_FILE },
        [HANDLED_ONE] = { RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE,
                          RMIG_WIRE_QEMU_FILE },
        [COMPRESS_HANDLED] = { RMIG_WIRE_COMPRESS },
    };
    RMigWireMessage msg;

    setup_pipelined(f, false);
    if (state == AHEAD_1 || state == ASKED_1 || state == QUEUED_0) {
        use_up_readies(f, 1);
    } else if (state == AHEAD_0 || state == ASKED_0) {
        use_up_readies(f, 2);
    } else if (state != IDLE) {
        g_assert_cmpint(rmig_control_receive(f->control, false, &msg, NULL),
                        ==, 0);
    }
    for (unsigned i = 0; i < 3 && types[state][i]; i++) {
        put(f->link, types[state][i]);
        if (i == 0) {
            take(f, types[state][0]);
        }
    }
    if (state == QUEUED_0) {
        put(f->link, RMIG_WIRE_QEMU_FILE);
    }
    if (state == HANDLED_ONE || state == ASKED_0 || state == ASKED_1 ||
        state == COMPRESS_HANDLED) {
        done(f);
    }
    g_assert_false(rmig_link_failed(f->link));
}

static void test_every_message_in_every_state(void)
{
    for (State state = 0; state < STATES; state++) {
        for (unsigned type = 1; type < RMIG_WIRE_TYPES; type++) {
            Fixture f;

            g_test_message("state %d: %s", state, rmig_wire_type_name(type));
            setup_in_state(&f, state);
            put(f.link, type);
            if (type == RMIG_WIRE_ERROR) {
                assert_link_failed(&f, RMIG_CONTROL_ERROR,
                                   RMIG_CONTROL_ERROR_PEER, "gave up");
            } else if (legal[state] & BIT(type)) {
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
}

/* In each state there is a receive for all that may still come, and an ERROR */
static void test_receives(void)
{
    for (State state = 0; state < STATES; state++) {
        Fixture f;

        setup_in_state(&f, state);
        while (legal[state] && !rmig_link_failed(f.link)) {
            g_assert_cmpuint(recvs(&f), >, 0);
            put(f.link, RMIG_WIRE_QEMU_FILE);
        }
        if (!legal[state]) {
            put(f.link, RMIG_WIRE_ERROR);
        }
        g_assert_true(rmig_link_failed(f.link));
        teardown(&f);
    }
}

/* ---- serving: order, READYs ---- */

static void script_bytes(Fixture *f, const char *text)
{
    g_autoptr(GBytes) data = fake_link_message(RMIG_WIRE_QEMU_FILE, text,
                                               strlen(text), 1);

    fake_verbs_arrive(f->link->verbs, g_bytes_get_data(data, NULL),
                      g_bytes_get_size(data));
}

static void take_bytes(Fixture *f, const char *text)
{
    RMigWireMessage msg;

    g_assert_cmpint(rmig_control_receive(f->control, false, &msg, NULL), ==,
                    1);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_QEMU_FILE);
    g_assert_cmpmem(msg.data, msg.len, text, strlen(text));
}

static void test_queue(void)
{
    RMigWireMessage msg;
    Fixture f;

    setup_pipelined(&f, false);
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), ==, 0);
    g_assert_cmpuint(readies(f.link), ==, 1); /* which grants two */
    script_bytes(&f, "first");
    script_bytes(&f, "second");
    g_assert_cmpuint(readies(f.link), ==, 2); /* for the one in hand */
    script_bytes(&f, "third");
    g_assert_cmpuint(readies(f.link), ==, 2);
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS - 3);
    f.link->frozen = true;
    take_bytes(&f, "first");
    g_assert_false(rmig_control_has(f.control, RMIG_WIRE_QEMU_FILE));
    done(&f);
    g_assert_true(rmig_control_has(f.control, RMIG_WIRE_QEMU_FILE));
    g_assert_cmpuint(readies(f.link), ==, 3);
    script_bytes(&f, "fourth");
    take_bytes(&f, "second");
    done(&f);
    take_bytes(&f, "third");
    done(&f);
    take_bytes(&f, "fourth");
    done(&f);
    g_assert_cmpuint(recvs(&f), ==, RMIG_CONTROL_RECVS);
    f.link->frozen = false;
    g_assert_cmpint(rmig_control_receive(f.control, false, &msg, NULL), >=, 0);
    g_assert_cmpuint(readies(f.link), ==, 5);
    teardown(&f);
}

/* What waits is in order if the peer has left, and void if it gave up */
static void test_queue_ends(void)
{
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;

    setup_in_state(&f, FULL);
    fake_link_script_close(f.link);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    done(&f);
    take(&f, RMIG_WIRE_REGISTER_FINISHED);
    done(&f);
    take(&f, RMIG_WIRE_QEMU_FILE);
    done(&f);
    g_assert_cmpuint(readies(f.link), ==, 2); /* there is nobody for another */
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED, "closed");
    teardown(&f);

    setup_in_state(&f, FULL);
    put(f.link, RMIG_WIRE_ERROR);
    done(&f);
    g_assert_cmpuint(readies(f.link), ==, 2);
    g_assert_cmpint(rmig_control_receive(f.control, true, &msg, &err), ==, -1);
    assert_fails(&err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER, "gave up");
    teardown(&f);
}

static void test_full(void)
{
    Fixture f;

    setup_in_state(&f, FULL);
    put(f.link, RMIG_WIRE_QEMU_FILE);
    assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                       "QEMU_FILE while this side was handling three commands");
    teardown(&f);

    /* the second is in hand then, and the third is one that waits */
    setup_in_state(&f, HANDLED_ONE);
    put(f.link, RMIG_WIRE_COMPRESS);
    assert_link_failed(&f, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                       "COMPRESS while this side was handling two commands");
    teardown(&f);
}

/* ---- READYs that nobody acknowledges ---- */

/* Said when there is a buffer, each once, without anybody waiting */
static void test_owed(void)
{
    Fixture f;

    setup_in_state(&f, AHEAD_0);
    g_assert_cmpuint(readies(f.link), ==, READIES);
    fake_verbs_complete(f.link->verbs, 1);
    g_assert_cmpuint(readies(f.link), ==, READIES + 1);
    put(f.link, RMIG_WIRE_QEMU_FILE); /* its credit is good now */
    g_assert_false(rmig_link_failed(f.link));
    fake_verbs_complete(f.link->verbs, 1);
    g_assert_cmpuint(readies(f.link), ==, READIES + 2);
    fake_verbs_complete_all(f.link->verbs);
    g_assert_cmpuint(readies(f.link), ==, READIES + 2);
    done(&f);
    g_assert_cmpuint(readies(f.link), ==, READIES + 3);
    take(&f, RMIG_WIRE_QEMU_FILE);
    done(&f);
    fake_verbs_complete_all(f.link->verbs);
    put(f.link, RMIG_WIRE_COMPRESS); /* both are out again */
    g_assert_false(rmig_link_failed(f.link));
    teardown(&f);
}

/* Who has given up, or lost the connection, asks for nothing */
static void test_owed_to_nobody(void)
{
    Fixture f;

    setup_in_state(&f, AHEAD_0);
    rmig_control_send_error(f.control);
    fake_verbs_complete_all(f.link->verbs);
    g_assert_cmpuint(readies(f.link), ==, READIES);
    assert_sent(&f, RMIG_WIRE_ERROR, NULL, 0, 1);
    teardown(&f);

    setup_in_state(&f, AHEAD_0);
    put(f.link, RMIG_WIRE_ERROR);
    fake_verbs_complete_all(f.link->verbs);
    g_assert_cmpuint(readies(f.link), ==, READIES);
    teardown(&f);

    setup_in_state(&f, AHEAD_0);
    f.link->verbs->fail_post = 0;
    fake_verbs_complete_all(f.link->verbs);
    g_assert_cmpuint(readies(f.link), ==, READIES);
    assert_link_failed(&f, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                       "sending READY");
    teardown(&f);
}

/* ---- which connections are ---- */

static bool flush_one(RMigStream *stream)
{
    return rmig_stream_write(stream, "x", 1, NULL) &&
           rmig_stream_flush(stream, NULL);
}

/* Two leave for one READY, if BATCH was granted */
static void check_source(uint32_t granted, bool expect)
{
    static const struct sockaddr_in addr = { .sin_family = AF_INET };
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .return_path = true,
    };
    RMigSource *source = rmig_source_new(&config, NULL);
    RMigLink *link = fake_link_new(), *back = fake_link_new();

    link->granted = back->granted = granted;
    link->granted_pin_bytes = UINT64_MAX;
    fake_link_offer(link);
    fake_link_offer(back);
    g_assert_true(rmig_source_connect(source, (const struct sockaddr *)&addr,
                                      NULL));
    fake_link_script_type(link, RMIG_WIRE_READY);
    g_assert_true(flush_one(rmig_source_stream(source)));
    g_assert_cmpint(flush_one(rmig_source_stream(source)), ==, expect);
    rmig_source_free(source);
}

static void test_source(void)
{
    check_source(RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET, true);
    check_source(RMIG_WIRE_FLAG_BATCH, true);
    check_source(RMIG_WIRE_FLAG_BUDGET | RMIG_WIRE_FLAG_PIN_ALL, false);
    check_source(0, false);
}

static uint64_t ram_bytes(void *opaque)
{
    (void)opaque;
    return 1 << 20;
}

/* Two may come for one READY; on the return path never */
static void check_dest(uint32_t asked, bool version_1_only, bool expect)
{
    static const struct sockaddr_in addr = { .sin_family = AF_INET };
    static const RMigDestOps ops = { .ram_bytes = ram_bytes };
    RMigDestConfig config = {
        .waiter = rmig_poll_waiter, .ops = &ops,
        .version_1_only = version_1_only,
    };
    RMigDest *dest = rmig_dest_new(&config, (const struct sockaddr *)&addr,
                                   NULL);
    RMigLink *link = fake_link_new(), *back = fake_link_new();
    uint8_t byte;

    link->asked = back->asked = asked;
    fake_link_offer(link);
    g_assert_cmpint(rmig_dest_accept(dest, NULL), ==, RMIG_ACCEPTED_MAIN);
    fake_link_offer(back);
    g_assert_cmpint(rmig_dest_accept(dest, NULL), ==, RMIG_ACCEPTED_RETURN);
    g_assert_cmpint(rmig_stream_read(rmig_dest_stream(dest), &byte, 1, false,
                                     NULL), ==, RMIG_STREAM_WOULD_BLOCK);
    put(link, RMIG_WIRE_QEMU_FILE);
    put(link, RMIG_WIRE_QEMU_FILE);
    g_assert_false(rmig_link_failed(link));
    put(link, RMIG_WIRE_QEMU_FILE);
    g_assert_cmpint(rmig_link_failed(link), ==, !expect);
    fake_link_script_type(back, RMIG_WIRE_READY);
    g_assert_true(flush_one(rmig_dest_return_stream(dest)));
    g_assert_false(flush_one(rmig_dest_return_stream(dest)));
    rmig_dest_free(dest);
}

static void test_dest(void)
{
    check_dest(RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET, false, true);
    check_dest(RMIG_WIRE_FLAG_BATCH, false, true);
    check_dest(RMIG_WIRE_FLAG_BUDGET, false, false);
    check_dest(RMIG_WIRE_FLAG_BATCH, true, false);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pipeline/command", test_may_send);
    g_test_add_func("/pipeline/ready/too-many", test_ready_too_many);
    g_test_add_func("/pipeline/ready/answer", test_ready_for_answer);
    g_test_add_func("/pipeline/ready/connection", test_ready_with_connection);
    g_test_add_func("/pipeline/states", test_every_message_in_every_state);
    g_test_add_func("/pipeline/receives", test_receives);
    g_test_add_func("/pipeline/queue", test_queue);
    g_test_add_func("/pipeline/queue/ends", test_queue_ends);
    g_test_add_func("/pipeline/queue/full", test_full);
    g_test_add_func("/pipeline/owed", test_owed);
    g_test_add_func("/pipeline/owed/nobody", test_owed_to_nobody);
    g_test_add_func("/pipeline/source", test_source);
    g_test_add_func("/pipeline/dest", test_dest);
    return g_test_run();
}
