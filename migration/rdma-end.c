/*
 * RDMA migration: the end, where one of two QEMUs gets the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: what migration.c asks between the last byte of the stream and the state
 * that a migration ends in (rdma.h, "The end").  The messages are the core's;
 * here is what they mean for run states, cancelling and disks.
 * Callers: migration.c and savevm.c, by the edits in qemu/hooks.edits.
 * Threads: source: the migration thread, without the BQL while it waits, and
 * the main loop, which cancels.  Destination: the incoming coroutine, and
 * bottom halves of the main loop.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "block/block.h"
#include "migration/global_state.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "system/runstate.h"
#include "system/system.h"
#include "migration.h"
#include "options.h"
#include "qemu-file.h"
#include "rdma.h"
#include "rdma-channel.h"
#include "trace.h"

/* ---- source -------------------------------------------------------------- */

/*
 * Whose the guest is.  It moves on under the BQL, as cancelling looks at it and
 * at the migration's state in one go; and only the migration thread moves it,
 * which therefore may read it without.
 */
static enum {
    GUEST_HERE,
    GUEST_COMMITTED, /* told to start at the destination, not confirmed */
    GUEST_GONE,      /* confirmed: the destination has it */
} guest;

void rdma_end_over(void)
{
    guest = GUEST_HERE;
}

bool rdma_guest_is_gone(void)
{
    return guest == GUEST_GONE;
}

/* Whatever may bring a migration to "failed" when the destination has it */
bool rdma_guest_may_run_elsewhere(void)
{
    return guest != GUEST_HERE;
}

/*
 * Consumes @err; the file carries it to where the migration's state is set.
 * migrate_cancel shuts down first and sets its state then, all under the BQL:
 * whoever it has woken must not come before that.
 */
static int end_failed(QEMUFile *f, QIOChannelRDMA *rioc, GError *err)
{
    Error *error = NULL;

    bql_lock();
    bql_unlock();
    qio_channel_rdma_error(&error, err);
    qio_channel_rdma_note(rioc, error);
    qemu_file_set_error_obj(f, -EIO, error);
    return -1;
}

/* What a user must know stands before whatever the return path met meanwhile */
static int lost_sight(MigrationState *s, QEMUFile *f, GError *err)
{
    Error *error = NULL;

    error_setg(&error, "RDMA: the destination was told to start the guest and "
               "did not confirm it: %s. The guest is left stopped here. Look "
               "at the destination: if it runs there, quit this QEMU; if it "
               "does not and never will, 'cont' resumes it here",
               err->message);
    g_error_free(err);
    WITH_QEMU_LOCK_GUARD(&s->error_mutex) {
        error_free(s->error);
        s->error = error_copy(error);
    }
    qemu_file_set_error_obj(f, -EIO, error);
    return -1;
}

/* The last moment at which migrate_cancel, or an error, keeps the guest here */
static bool commit(MigrationState *s, QIOChannelRDMA *rioc, bool starts,
                   GError **err)
{
    bool ok;

    bql_lock();
    ok = s->state == MIGRATION_STATUS_DEVICE && !migrate_has_error(s) &&
         rmig_source_commit(rioc->source, err);
    if (ok && starts) {
        guest = GUEST_COMMITTED;
    }
    bql_unlock();
    return ok;
}

/* START has not left: the guest is as it was before commit() */
static void take_back(void)
{
    bql_lock();
    guest = GUEST_HERE;
    bql_unlock();
}

/* STARTED has come.  A guest that nobody starts there can still be kept. */
static bool let_go(MigrationState *s)
{
    bql_lock();
    if (guest == GUEST_COMMITTED || s->state == MIGRATION_STATUS_DEVICE) {
        guest = GUEST_GONE;
    }
    bql_unlock();
    return guest == GUEST_GONE;
}

int rdma_source_hand_over(MigrationState *s)
{
    QEMUFile *f = s->to_dst_file;
    QIOChannelRDMA *rioc = migrate_rdma() ? qio_channel_rdma_from_file(f) :
                           NULL;
    GError *err = NULL;
    bool starts, left;

    if (!rioc) {
        return 0;
    }
    if (qemu_file_get_error(f)) {
        return -1;
    }
    if (!rmig_source_end(rioc->source, &err)) {
        return end_failed(f, rioc, err);
    }
    if (!rmig_source_hands_over(rioc->source)) {
        return 0;
    }
    if (!rmig_source_wait_loaded(rioc->source, &starts, &err)) {
        return end_failed(f, rioc, err);
    }
    trace_rdma_source_loaded(starts);
    if (!commit(s, rioc, starts, &err)) {
        /* Without an error of ours there is one, or the user's wish */
        return err ? end_failed(f, rioc, err) : -1;
    }
    if (!rmig_source_start(rioc->source, &left, &err)) {
        trace_rdma_source_not_started(starts, err->message);
        if (starts && left) {
            return lost_sight(s, f, err);
        }
        take_back();
        return end_failed(f, rioc, err);
    }
    trace_rdma_source_started(starts);
    return let_go(s) ? 0 : -1;
}

bool rdma_source_forgive(MigrationState *s)
{
    if (guest != GUEST_GONE) {
        if (migrate_rdma()) {
            /* As in end_failed(): the return path was shut down first */
            bql_lock();
            bql_unlock();
        }
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&s->error_mutex) {
        if (s->error) {
            warn_report("the migration is complete, but the destination's "
                        "last report did not come: %s",
                        error_get_pretty(s->error));
        }
        error_free(s->error);
        s->error = NULL;
    }
    return true;
}

/* Main loop, with the BQL */
bool rdma_source_cancel(MigrationState *s)
{
    if (guest == GUEST_HERE || !migration_is_running()) {
        return false;
    }
    /*
     * The guest may be running at the destination, or does.  All that there is
     * to end is a wait; the file is left alone, as an error of it would fail
     * what is complete.
     */
    WITH_QEMU_LOCK_GUARD(&s->qemu_file_lock) {
        if (s->to_dst_file) {
            qio_channel_shutdown(qemu_file_get_ioc(s->to_dst_file),
                                 QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
        }
    }
    return true;
}

/* ---- destination --------------------------------------------------------- */

/* What LOADED has told the source, which acts upon it; main loop only */
static bool told;
static bool told_starts;

/* The channel that the guest comes over, if that is RDMA */
static QIOChannelRDMA *incoming_channel(MigrationIncomingState *mis)
{
    return mis->from_src_file ?
           qio_channel_rdma_from_file(mis->from_src_file) : NULL;
}

/* As process_incoming_migration_bh() decides */
static bool will_start(void)
{
    return autostart && (!global_state_received() ||
                         runstate_is_live(global_state_get_runstate()));
}

/*
 * Consumes @err.  The file's error goes to the source with the final report,
 * which must not say that all is well.
 */
static void incoming_failed(MigrationIncomingState *mis, Error **errp,
                            GError *err)
{
    Error *error = NULL;

    qio_channel_rdma_error(&error, err);
    qemu_file_set_error_obj(mis->from_src_file, -EIO, error_copy(error));
    error_propagate(errp, error);
}

bool coroutine_fn rdma_incoming_hand_over(MigrationIncomingState *mis,
                                          Error **errp)
{
    QIOChannelRDMA *rioc = incoming_channel(mis);
    GError *err = NULL;
    bool ok;

    told = false;
    if (!rioc) {
        return true;
    }
    if (rmig_dest_hands_over(rioc->dest)) {
        told = true;
        told_starts = will_start();
        ok = rmig_dest_hand_over(rioc->dest, told_starts, &err);
    } else {
        ok = rmig_dest_may_start(rioc->dest, &err);
    }
    trace_rdma_incoming_handed(ok, told && told_starts);
    if (!ok) {
        incoming_failed(mis, errp, err);
    }
    return ok;
}

bool rdma_incoming_may_run(void)
{
    if (told && !told_starts) {
        /* "cont" came between: the source may have the guest */
        warn_report("RDMA: 'cont' came while the guest was being handed over; "
                    "it stays paused, 'cont' again starts it");
        return false;
    }
    return true;
}

typedef struct AskFirst {
    MigrationIncomingState *mis;
    QIOChannelRDMA *rioc;
    GError *err;
} AskFirst;

static void fail_incoming(MigrationIncomingState *mis, GError *err)
{
    MigrationState *s = migrate_get_current();
    Error *error = NULL;

    incoming_failed(mis, &error, err);
    /* Whoever has the guest needs them */
    migration_block_inactivate();
    migrate_set_state(&mis->state, MIGRATION_STATUS_ACTIVE,
                      MIGRATION_STATUS_FAILED);
    migrate_set_error(s, error);
    migration_incoming_state_destroy();
    if (mis->exit_on_error) {
        error_report_err(error);
        exit(EXIT_FAILURE);
    }
    error_free(error);
}

/* The end of process_incoming_migration_bh(), when the source has answered */
static void asked_bh(void *opaque)
{
    AskFirst *ask = opaque;

    if (ask->err) {
        fail_incoming(ask->mis, ask->err);
    } else {
        /* "stop" may have come meanwhile */
        if (autostart) {
            vm_start();
        } else {
            runstate_set(RUN_STATE_PAUSED);
        }
        migrate_set_state(&ask->mis->state, MIGRATION_STATUS_ACTIVE,
                          MIGRATION_STATUS_COMPLETED);
        migration_incoming_state_destroy();
    }
    object_unref(OBJECT(ask->rioc));
    g_free(ask);
}

static void coroutine_fn ask_co(void *opaque)
{
    AskFirst *ask = opaque;

    if (!rmig_dest_may_start(ask->rioc->dest, &ask->err)) {
        trace_rdma_incoming_handed(false, true);
    }
    /* Starting a guest is nothing for a coroutine */
    migration_bh_schedule(asked_bh, ask);
}

bool rdma_incoming_asks(MigrationIncomingState *mis)
{
    QIOChannelRDMA *rioc = incoming_channel(mis);
    AskFirst *ask;

    if (!rioc || rmig_dest_hands_over(rioc->dest)) {
        return false;
    }
    ask = g_new0(AskFirst, 1);
    ask->mis = mis;
    ask->rioc = rioc;
    object_ref(OBJECT(rioc));
    qemu_coroutine_enter(qemu_coroutine_create(ask_co, ask));
    return true;
}

/* ---- postcopy ------------------------------------------------------------ */

/*
 * dirty-bitmaps alone makes QEMU's core believe that postcopy is possible.  But
 * the queue pair that the bitmaps need then is revoked when the guest starts.
 */
bool rdma_start_postcopy_check(Error **errp)
{
    if (migrate_rdma() && migration_is_running()) {
        error_setg(errp, "RDMA migration does not do postcopy yet: dirty "
                   "bitmaps go with the rest before the guest is handed over");
        return false;
    }
    return true;
}

bool rdma_refuses_postcopy(void)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    Error *error = NULL;

    if (!incoming_channel(mis)) {
        return false;
    }
    error_setg(&error, "RDMA migration does not do postcopy yet: refusing the "
               "source's request for it");
    migrate_set_error(migrate_get_current(), error);
    error_report_err(error);
    return true;
}
