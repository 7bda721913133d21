/*
 * RDMA migration transport: the end of a migration, at the source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_source_*() of migration/rdma-transport.h from the last byte of the
 * stream on: seeing it arrive, and handing the guest over.
 * Callers: the face.
 * Thread: the main connection's; rmig_source_return_failed() any.
 *
 * With a peer that hands over:
 *
 *   rmig_source_end()          the stream's last bytes
 *   rmig_source_wait_loaded()  LOAD_REQUEST -->, <-- LOADED
 *   rmig_source_commit()       at one moment: called off, or given away
 *   rmig_source_start()        START -->, <-- STARTED
 *
 * No deadline ends these waits, but the heartbeat finds a dead host, and ERROR,
 * the connection's end or a shutdown end them at once.  Before START is posted
 * a failure leaves the guest here; from then on nobody can know whether the
 * destination has it until STARTED comes.  docs/rdma.txt, "The end".
 */
#include "source-priv.h"

static void wait_for(RMigSource *s, RMigWait what)
{
    s->count.waiting = what;
    rmig_source_publish(s);
}

/*
 * A destination of version 1 that has taken everything may have left before its
 * NIC's last acknowledgement came.  One that gave up has said so before.
 */
static bool left_in_order(const RMigSource *s, const GError *why)
{
    return !rmig_source_hands_over(s) &&
           g_error_matches(why, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED);
}

static bool end_stream(RMigSource *s, GError **err)
{
    GError *local = NULL;

    /* It loads what it has before it takes the rest, for as long as it needs */
    if (!rmig_link_check(s->main.link, err) ||
        (!rmig_stream_is_empty(&s->main.stream) &&
         !rmig_control_wait_credit(s->main.control, RMIG_WIRE_QEMU_FILE,
                                   err)) ||
        !rmig_stream_flush(&s->main.stream, err)) {
        return false;
    }
    if (rmig_link_drain(s->main.link, RMIG_LINK_HEARTBEAT_MS,
                        "the end of the stream to arrive", &local)) {
        return true;
    }
    if (left_in_order(s, local)) {
        g_error_free(local);
        return true;
    }
    g_propagate_error(err, local);
    return false;
}

bool rmig_source_end(RMigSource *s, GError **err)
{
    GError *local = NULL;

    wait_for(s, RMIG_WAIT_ARRIVAL);
    if (!end_stream(s, &local)) {
        wait_for(s, RMIG_WAIT_NONE);
        rmig_source_give_up(s, local, err);
        return false;
    }
    wait_for(s, !rmig_source_hands_over(s) && s->back.link ?
                RMIG_WAIT_REPORT : RMIG_WAIT_NONE);
    return true;
}

bool rmig_source_hands_over(const RMigSource *s)
{
    return s->granted & RMIG_WIRE_FLAG_HANDOVER;
}

static bool ask_loaded(RMigSource *s, bool *starts, GError **err)
{
    RMigControl *control = s->main.control;
    RMigWireMessage msg;

    /* READY comes when all but the last message has been loaded */
    if (!rmig_control_wait_idle(control, err) ||
        !rmig_control_command(control, RMIG_WIRE_LOAD_REQUEST, 0, 1, err) ||
        !rmig_control_wait_answer(control, RMIG_CONTROL_NO_DEADLINE, &msg,
                                  err)) {
        return false;
    }
    *starts = rmig_wire_loaded_unpack(&msg) & RMIG_WIRE_LOADED_STARTS;
    /* START is not to wait for anything */
    return rmig_control_release(control, err) &&
           rmig_control_wait_idle(control, err);
}

bool rmig_source_wait_loaded(RMigSource *s, bool *starts, GError **err)
{
    GError *local = NULL;
    bool ok;

    wait_for(s, RMIG_WAIT_LOAD);
    ok = rmig_link_check(s->main.link, &local) &&
         ask_loaded(s, starts, &local);
    wait_for(s, RMIG_WAIT_NONE);
    if (!ok) {
        g_prefix_error(&local, "waiting for the destination to load the "
                       "guest: ");
        rmig_source_give_up(s, local, err);
    }
    return ok;
}

bool rmig_source_commit(RMigSource *s, GError **err)
{
    /* Whoever decides may have had to wait for that, and nobody looked */
    return rmig_link_look(s->main.link, err) &&
           rmig_shutdown_part(s->shutdown, err);
}

static bool give_away(RMigSource *s, bool *left, GError **err)
{
    RMigControl *control = s->main.control;
    RMigWireMessage msg;

    *left = rmig_control_command(control, RMIG_WIRE_START, 0, 1, err);
    return *left && rmig_control_wait_answer(control, RMIG_CONTROL_NO_DEADLINE,
                                             &msg, err);
}

bool rmig_source_start(RMigSource *s, bool *left, GError **err)
{
    GError *local = NULL;
    bool ok;

    wait_for(s, RMIG_WAIT_STARTED);
    ok = give_away(s, left, &local);
    if (!ok) {
        wait_for(s, RMIG_WAIT_NONE);
        rmig_source_give_up(s, local, err);
        return false;
    }
    /* Whatever becomes of the connection now, the destination has it */
    if (s->back.control) {
        rmig_control_expect(s->back.control, RMIG_REPORT_MS);
    }
    wait_for(s, s->back.control ? RMIG_WAIT_REPORT : RMIG_WAIT_NONE);
    return true;
}

void rmig_source_return_failed(RMigSource *s)
{
    rmig_shutdown_because(s->shutdown, "the return path cannot be used any "
                          "more");
}
