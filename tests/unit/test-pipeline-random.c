/*
 * Unit tests of the control room: both sides against each other, pipelined
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two control channels over the fakes of link and verbs.  What one sends, the
 * test delivers to the other, when chance has it: so are the completions.  The
 * test knows the rules of docs/rdma.txt, "Exchange rules", by counting messages
 * and not by states.
 */
#include "control-fixture.h"

#include <string.h>

#define SCHEDULES 200
#define STEPS 300

typedef struct Side {
    RMigLink *link;
    RMigControl *control;
    unsigned delivered; /* of its messages */
} Side;

typedef struct Model {
    Side a, b; /* commanding, serving */
    bool pipelined;
    GRand *rand;
    GArray *commands; /* of RMigWireType: all that were sent */
    unsigned readies; /* that have reached the commanding side */
    unsigned taken;   /* commands that the serving side has got ... */
    unsigned released;
    bool holds;       /* ... one of which it has in hand */
    bool answered;    /* and, if it has an answer, has sent that */
    bool waits;       /* commanding: for an answer */
} Model;

static RMigWireType nth(const Model *m, unsigned n)
{
    return g_array_index(m->commands, RMigWireType, n);
}

static RMigWireType answer_to(RMigWireType type)
{
    return type == RMIG_WIRE_REGISTER_REQUEST ? RMIG_WIRE_REGISTER_RESULT :
           type == RMIG_WIRE_UNREGISTER_REQUEST ?
           RMIG_WIRE_UNREGISTER_FINISHED :
           type == RMIG_WIRE_RAM_BLOCKS_REQUEST ?
           RMIG_WIRE_RAM_BLOCKS_RESULT : RMIG_WIRE_NONE;
}

static bool is_early(RMigWireType type)
{
    return type == RMIG_WIRE_QEMU_FILE || type == RMIG_WIRE_REGISTER_FINISHED;
}

static RMigWireType type_of(const FakePost *post)
{
    return ((const uint8_t *)g_bytes_get_data(post->data, NULL))[7];
}

/* ---- the wire ---- */

static bool deliver(Side *from, Side *to, RMigWireType *type)
{
    const FakePost *post;
    gsize len;
    const void *data;

    if (from->delivered == from->link->verbs->posts->len) {
        return false;
    }
    post = fake_verbs_post(from->link->verbs, from->delivered++);
    *type = type_of(post);
    data = g_bytes_get_data(post->data, &len);
    fake_verbs_arrive(to->link->verbs, data, len); /* there is a receive */
    if (to->link->error) {
        g_error("%s", to->link->error->message);
    }
    return true;
}

/* @n SENDs that have arrived are acknowledged, or all of them */
static void acknowledge(Side *side, unsigned n)
{
    RMigVerbs *v = side->link->verbs;

    fake_verbs_complete(v, MIN(n, side->delivered - v->completed));
}

static void deliver_reply(Model *m)
{
    RMigWireType type;

    if (deliver(&m->b, &m->a, &type)) {
        m->readies += type == RMIG_WIRE_READY;
        /* All commands have one READY, and there is the first one */
        g_assert_cmpuint(m->readies, <=, m->commands->len + 1);
    }
}

static void deliver_command(Model *m)
{
    RMigWireType type;

    deliver(&m->a, &m->b, &type);
}

/* ---- commanding ---- */

static unsigned credits(const Model *m)
{
    unsigned all = m->pipelined ? 2 : 1;

    return m->readies == 0 ? 0 : all + m->readies - 1 - m->commands->len;
}

static bool may_send(const Model *m, RMigWireType type)
{
    unsigned all = m->pipelined ? 2 : 1;

    return !m->waits &&
           (credits(m) == all ||
            (credits(m) > 0 && type == RMIG_WIRE_QEMU_FILE &&
             is_early(nth(m, m->commands->len - 1))));
}

/* What its being permitted means */
static void check_promises(const Model *m, RMigWireType type)
{
    unsigned sent = m->commands->len;
    bool streams = type == RMIG_WIRE_QEMU_FILE && sent > 0 &&
                   is_early(nth(m, sent - 1));

    /* With one credit, all but one are at least in hand; else all */
    g_assert_cmpuint(sent - m->released, <=, streams && m->pipelined ? 2 : 1);
    for (unsigned i = m->released; i < sent; i++) {
        g_assert_true(is_early(nth(m, i)));
    }
}

static void send_command(Model *m, RMigWireType type)
{
    static const uint32_t len[RMIG_WIRE_TYPES] = {
        [RMIG_WIRE_QEMU_FILE] = 4,
        [RMIG_WIRE_COMPRESS] = RMIG_WIRE_ZERO_RUN_BYTES,
        [RMIG_WIRE_REGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_UNREGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
    };
    uint32_t number = m->commands->len;
    uint8_t *data;

    g_assert_cmpint(rmig_control_may_command(m->a.control), ==,
                    credits(m) == (m->pipelined ? 2 : 1) &&
                    fake_verbs_pending(m->a.link->verbs) < 2);
    if (m->readies == 0 || !may_send(m, type)) {
        return;
    }
    check_promises(m, type);
    if (fake_verbs_pending(m->a.link->verbs) == 2) {
        return; /* both buffers are leaving */
    }
    data = rmig_control_buffer(m->a.control, NULL);
    memset(data, 0, len[type]);
    memcpy(data, &number, MIN(len[type], sizeof(number)));
    /* The link is frozen: this would fail if it had to wait */
    g_assert_true(rmig_control_command(m->a.control, type, len[type], 1,
                                       NULL));
    g_array_append_val(m->commands, type);
    m->waits = answer_to(type) != RMIG_WIRE_NONE;
}

static void take_answer(Model *m)
{
    RMigWireMessage msg;

    if (m->waits && rmig_control_has_answer(m->a.control)) {
        g_assert_true(rmig_control_wait_answer(m->a.control, 1, &msg, NULL));
        g_assert_cmpint(msg.type, ==,
                        answer_to(nth(m, m->commands->len - 1)));
        g_assert_true(rmig_control_release(m->a.control, NULL));
        m->waits = false;
    }
}

/* ---- serving ---- */

static void receive(Model *m)
{
    RMigWireMessage msg;
    uint32_t number;

    if (m->holds) {
        return;
    }
    /* A READY that is not early may wait for a buffer, but not in here */
    if (m->taken == 0 || !is_early(nth(m, m->taken - 1))) {
        acknowledge(&m->b, G_MAXUINT);
        if (fake_verbs_pending(m->b.link->verbs) > 1) {
            return;
        }
    }
    if (rmig_control_receive(m->b.control, false, &msg, NULL) == 1) {
        g_assert_cmpint(msg.type, ==, nth(m, m->taken));
        if (msg.type == RMIG_WIRE_QEMU_FILE) {
            memcpy(&number, msg.data, sizeof(number));
            g_assert_cmpuint(number, ==, m->taken);
        }
        m->taken++;
        m->holds = true;
        m->answered = answer_to(msg.type) == RMIG_WIRE_NONE;
    }
}

static void handle(Model *m)
{
    RMigWireType type;

    if (!m->holds) {
        return;
    }
    type = nth(m, m->taken - 1);
    if (!m->answered) {
        uint32_t bytes = type == RMIG_WIRE_REGISTER_REQUEST ?
                         RMIG_WIRE_RESULT_BYTES :
                         type == RMIG_WIRE_RAM_BLOCKS_REQUEST ?
                         RMIG_WIRE_BLOCK_BYTES : 0;

        acknowledge(&m->b, G_MAXUINT);
        g_assert_true(rmig_control_answer(m->b.control, bytes, 1, NULL));
        m->answered = true;
    } else {
        g_assert_true(rmig_control_release(m->b.control, NULL));
        m->holds = false;
        m->released++;
    }
}

/* ---- schedules ---- */

static RMigWireType any_command(Model *m)
{
    static const RMigWireType types[] = {
        RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE, RMIG_WIRE_QEMU_FILE,
        RMIG_WIRE_QEMU_FILE, RMIG_WIRE_REGISTER_FINISHED, RMIG_WIRE_COMPRESS,
        RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_UNREGISTER_REQUEST,
        RMIG_WIRE_RAM_BLOCKS_REQUEST,
    };

    return types[g_rand_int_range(m->rand, 0, G_N_ELEMENTS(types))];
}

static void step(Model *m, unsigned lazy)
{
    switch (g_rand_int_range(m->rand, 0, 10)) {
    case 0:
    case 1:
        send_command(m, any_command(m));
        break;
    case 2:
        deliver_command(m);
        break;
    case 3:
        deliver_reply(m);
        break;
    case 4:
        acknowledge(&m->a, 1);
        break;
    case 5:
        if (lazy > 1) { /* READYs that are acknowledged late */
            acknowledge(&m->b, g_rand_int_range(m->rand, 0, 2));
        }
        break;
    case 6:
        take_answer(m);
        break;
    case 7:
    case 8:
        /* Seldom in vain, as it looks for a while first */
        if (m->b.delivered == 0 || m->commands->len > m->taken ||
            g_rand_int_range(m->rand, 0, 8) == 0) {
            receive(m);
        }
        break;
    default:
        if (g_rand_int_range(m->rand, 0, 3) >= (int)lazy) {
            handle(m);
        }
        break;
    }
}

/* All that was begun ends, and all credits come home */
static void settle(Model *m)
{
    unsigned n = m->commands->len;

    for (unsigned i = 0; i < 40; i++) {
        deliver_command(m);
        receive(m);
        handle(m);
        handle(m);
        acknowledge(&m->b, G_MAXUINT);
        deliver_reply(m);
        take_answer(m);
        acknowledge(&m->a, G_MAXUINT);
    }
    g_assert_cmpuint(m->released, ==, n);
    g_assert_cmpuint(m->readies, ==, n + 1);
    g_assert_false(m->waits);
    g_assert_true(rmig_control_may_command(m->a.control));
    g_assert_cmpuint(g_queue_get_length(&m->a.link->verbs->recvs), ==,
                     RMIG_CONTROL_RECVS);
    g_assert_cmpuint(g_queue_get_length(&m->b.link->verbs->recvs), ==,
                     RMIG_CONTROL_RECVS);
}

/* Whatever is on its way, there is a receive for ERROR */
static void give_up(Model *m, Side *from, Side *to)
{
    RMigWireType type;

    rmig_control_send_error(from->control);
    while (to->link->error == NULL) {
        const FakePost *post = fake_verbs_post(from->link->verbs,
                                               from->delivered);

        if (type_of(post) != RMIG_WIRE_ERROR) {
            g_assert_true(deliver(from, to, &type));
            continue;
        }
        fake_verbs_arrive(to->link->verbs, g_bytes_get_data(post->data, NULL),
                          RMIG_WIRE_HEADER_BYTES);
        from->delivered++;
    }
    g_assert_error(to->link->error, RMIG_CONTROL_ERROR,
                   RMIG_CONTROL_ERROR_PEER);
    (void)m;
}

static void init_side(Side *side, bool commands, bool pipelined)
{
    side->link = fake_link_new();
    side->link->frozen = true;
    side->control = rmig_control_new(side->link, commands, NULL);
    side->delivered = 0;
    if (pipelined) {
        rmig_control_set_pipelined(side->control);
    }
}

static void free_side(Side *side)
{
    rmig_link_disconnect(side->link);
    rmig_control_free(side->control);
    rmig_link_free(side->link);
}

static void run_schedule(uint32_t seed, bool pipelined)
{
    Model m = { .pipelined = pipelined, .rand = g_rand_new_with_seed(seed) };
    unsigned lazy = g_rand_int_range(m.rand, 0, 3);

    g_test_message("seed %u", seed);
    m.commands = g_array_new(false, false, sizeof(RMigWireType));
    init_side(&m.a, true, pipelined);
    init_side(&m.b, false, pipelined);
    for (unsigned i = 0; i < STEPS; i++) {
        step(&m, lazy);
    }
    switch (g_rand_int_range(m.rand, 0, 4)) {
    case 0:
        give_up(&m, &m.a, &m.b);
        break;
    case 1:
        give_up(&m, &m.b, &m.a);
        break;
    default:
        settle(&m);
        break;
    }
    free_side(&m.a);
    free_side(&m.b);
    g_array_unref(m.commands);
    g_rand_free(m.rand);
}

static void test_random(const void *pipelined)
{
    for (unsigned i = 0; i < SCHEDULES; i++) {
        run_schedule(g_test_rand_int(), pipelined != NULL);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/pipeline-random/two", "", test_random);
    g_test_add_data_func("/pipeline-random/one", NULL, test_random);
    return g_test_run();
}
