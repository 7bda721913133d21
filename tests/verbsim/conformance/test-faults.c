/*
 * Faults of verbsim's that a program's own calls meet, with a fault script
 *
 * Not a conformance test, but made of its parts: a child process has the
 * script, and the parent is its peer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "rig.h"

/* A child in @role with a fault script, which goes away with the fabric. */
static RigChild *child_with(const char *role, const char *script)
{
    g_autofree char *path = g_build_filename(g_getenv("VERBSIM_DIR"), role,
                                             NULL);

    g_assert_true(g_file_set_contents(path, script, -1, NULL));
    return rig_child_with(role, "VERBSIM_FAULTS", path);
}

/* ------------------------------------------------------------ no receives */

/* What has come is there; nothing can take its place, on any queue pair. */
static void role_refuse(void)
{
    RigPair pair = rig_pair(&rig_defaults), other = rig_pair(&rig_defaults);
    bool timed;

    rig_hear(&timed, sizeof(timed));
    g_assert_cmpint(rig_recv(pair.b, 1, 0, 64), ==, 0);
    g_assert_cmpint(rig_recv(pair.b, 2, 0, 64), ==, 0);
    g_assert_cmpint(rig_send(pair.a, 3, 128, 64, IBV_SEND_SIGNALED), ==, 0);
    rig_done(pair.b->recv_cq, 1, IBV_WC_SUCCESS);
    rig_done(pair.a->send_cq, 3, IBV_WC_SUCCESS);
    if (timed) {
        while (rig_recv(pair.b, 4, 0, 64) == EINVAL) {
            g_usleep(1000);
        }
        g_assert_cmpint(rig_recv(other.a, 4, 0, 64), ==, 0);
    } else {
        g_assert_cmpint(rig_recv(pair.b, 4, 0, 64), ==, EINVAL);
        g_assert_cmpint(rig_recv(other.a, 4, 0, 64), ==, EINVAL);
        g_assert_cmpint(rig_state(pair.b), ==, IBV_QPS_RTS);
        /* Those that were posted before are good. */
        g_assert_cmpint(rig_send(pair.a, 5, 128, 64, IBV_SEND_SIGNALED), ==,
                        0);
        rig_done(pair.b->recv_cq, 2, IBV_WC_SUCCESS);
        rig_done(pair.a->send_cq, 5, IBV_WC_SUCCESS);
    }
    rig_pair_free(pair);
    rig_pair_free(other);
    rig_tell("r", 1);
}

static void refuse(const char *script, bool timed)
{
    RigChild *child = child_with("refuse", script);
    char ready;

    rig_child_tell(child, &timed, sizeof(timed));
    rig_child_hear(child, &ready, 1);
    rig_child_free(child);
}

static void test_refused(void)
{
    refuse("on recv: refuse-receives\n", false);
}

static void test_refused_for(void)
{
    refuse("on recv: refuse-receives for 50ms\n", true);
}

/* ------------------------------------------------------------------- stuck */

static void role_stuck(void)
{
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere own = rig_where(end), peer;

    rig_tell(&own, sizeof(own));
    rig_hear(&peer, sizeof(peer));
    rig_to_init(end);
    rig_to_rtr(end, &peer);
    rig_to_rts(end);
    rig_tell("r", 1);
    ibv_reg_mr(end->pd, end->buf, 4096, 0);
    g_error("the registration has come to its end");
}

/*
 * A registration that does not end: the program does nothing any more, but
 * its adapter answers, so a peer's heartbeat tells it nothing.
 */
static void test_stuck(void)
{
    RigChild *child = child_with("stuck", "on register 2: delay 1000s\n");
    RigEnd *end = rig_end(&rig_defaults);
    RigWhere own = rig_where(end), peer;
    char ready;

    rig_child_hear(child, &peer, sizeof(peer));
    rig_child_tell(child, &own, sizeof(own));
    rig_to_init(end);
    rig_to_rtr(end, &peer);
    rig_to_rts(end);
    rig_child_hear(child, &ready, 1);
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpint(rig_rdma(end, IBV_WR_RDMA_WRITE, i, 0, i ? 0 : 4096,
                                 &peer, IBV_SEND_SIGNALED), ==, 0);
        rig_done(end->send_cq, i, IBV_WC_SUCCESS);
        g_usleep(20000);
    }
    rig_child_kill(child, SIGKILL);
    rig_child_free(child);
    rig_end_free(end);
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = {
        { "refuse", role_refuse }, { "stuck", role_stuck }, { 0 },
    };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/faults/receives-refused", test_refused);
    g_test_add_func("/faults/receives-refused-for", test_refused_for);
    g_test_add_func("/faults/stuck", test_stuck);
    return rig_run();
}
