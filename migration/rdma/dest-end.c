/*
 * RDMA migration transport: the end of a migration, at the destination
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_dest_*() of migration/rdma-transport.h from the last byte of the
 * stream on: being handed the guest, or asking whether it may start.
 * Callers: the face.
 * Thread: the connections'; in QEMU the main loop, in a coroutine.
 *
 * A source that hands over asks by LOAD_REQUEST to be told when everything is
 * loaded, and gives the guest away by START.  Until START is in hand every end
 * of the connection means failure; from then on none does.  docs/rdma.txt, "The
 * end of a migration".
 */
#include "dest-priv.h"
#include "log.h"

static void wait_for(RMigDest *d, RMigWait what)
{
    d->waiting = what;
    rmig_dest_publish(d);
}

bool rmig_dest_hands_over(const RMigDest *d)
{
    return d->granted & RMIG_WIRE_FLAG_HANDOVER;
}

/*
 * The next command, which must be a @type.  @behind_stream: what is left of the
 * stream may come before it and is dropped, as a source may describe itself at
 * more length than is read here; nor need it all have come yet.
 */
static bool take(RMigDest *d, RMigWireType type, bool behind_stream,
                 GError **err)
{
    RMigWireMessage msg;

    while (rmig_control_receive(d->main.control, true, &msg, err) > 0) {
        if (msg.type == type) {
            return true;
        }
        if (msg.type != RMIG_WIRE_QEMU_FILE || !behind_stream) {
            g_set_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                        "the source sent %s where %s has to come",
                        rmig_wire_type_name(msg.type),
                        rmig_wire_type_name(type));
            return false;
        }
        if (!rmig_control_release(d->main.control, err)) {
            return false;
        }
    }
    return false;
}

static bool answer_loaded(RMigDest *d, bool starts, GError **err)
{
    uint8_t *data = rmig_control_buffer(d->main.control, err);

    if (!data) {
        return false;
    }
    rmig_wire_loaded_pack(data, starts ? RMIG_WIRE_LOADED_STARTS : 0);
    return rmig_control_answer(d->main.control, RMIG_WIRE_LOADED_BYTES, 1,
                               err) &&
           rmig_control_release(d->main.control, err);
}

/*
 * The guest is here, and only the source does not know yet.  Revoking the queue
 * pair would take the message back, so it is waited for: what it takes the
 * device to deliver it or to give it up, and no longer.
 */
static void say_started(RMigDest *d)
{
    g_autoptr(GError) err = NULL;

    if (!rmig_control_answer(d->main.control, 0, 1, &err) ||
        !rmig_link_drain(d->main.link, RMIG_LINK_HEARTBEAT_MS,
                         "STARTED to arrive", &err)) {
        RMIG_LOG("the source may not know that the guest is here: %s",
                 err->message);
    }
}

static bool be_handed(RMigDest *d, bool starts, GError **err)
{
    if (d->main.stream.left > 0) {
        d->main.stream.left = 0;
        if (!rmig_control_release(d->main.control, err)) {
            return false;
        }
    }
    if (!take(d, RMIG_WIRE_LOAD_REQUEST, true, err) ||
        !answer_loaded(d, starts, err)) {
        return false;
    }
    wait_for(d, RMIG_WAIT_GO_AHEAD);
    return take(d, RMIG_WIRE_START, false, err);
}

bool rmig_dest_hand_over(RMigDest *d, bool starts, GError **err)
{
    GError *local = NULL;
    bool ok = be_handed(d, starts, &local);

    if (ok) {
        say_started(d);
    } else {
        rmig_link_fail(d->main.link, g_error_copy(local));
        g_propagate_error(err, local);
    }
    wait_for(d, RMIG_WAIT_NONE);
    return ok;
}

/* A source of version 1 without a return path just leaves when it is done */
static bool has_given_up(RMigDest *d, GError **err)
{
    GError *local = NULL;

    if (rmig_link_look(d->main.link, &local) ||
        !g_error_matches(local, RMIG_CONTROL_ERROR,
                         RMIG_CONTROL_ERROR_PEER)) {
        g_clear_error(&local);
        return false;
    }
    g_propagate_error(err, local);
    return true;
}

bool rmig_dest_may_start(RMigDest *d, GError **err)
{
    if (!d->back.link) {
        return !has_given_up(d, err);
    }
    if (!rmig_link_ask(d->main.link, err) ||
        !rmig_link_ask(d->back.link, err)) {
        g_prefix_error(err, "everything is loaded, but the source does not "
                       "wait for it any more: ");
        return false;
    }
    return true;
}
