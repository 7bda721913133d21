/*
 * RDMA migration: what QEMU's migration core calls
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Implemented in rdma.c on top of migration/rdma-transport.h.  The names and
 * the return codes are those that migration.c and ram.c use.
 */
#ifndef QEMU_MIGRATION_RDMA_H
#define QEMU_MIGRATION_RDMA_H

#include "qemu/sockets.h"
#include "exec/cpu-common.h"
#include "qapi/qapi-types-migration.h"

/*
 * Start connecting to @addr; returns at once.  @opaque is the MigrationState,
 * whose migration_connect() is called with the outcome.
 */
void rdma_start_outgoing_migration(void *opaque, InetSocketAddress *addr,
                                   Error **errp);
/* Listen at @addr for one migration */
void rdma_start_incoming_migration(InetSocketAddress *addr, Error **errp);

/* Which part of the RAM section a hook is called for */
#define RAM_CONTROL_SETUP     0
#define RAM_CONTROL_ROUND     1
#define RAM_CONTROL_FINISH    3

/* rdma_control_save_page(): not an RDMA migration, send it the usual way */
#define RAM_SAVE_CONTROL_NOT_SUPP -1000
/* rdma_control_save_page(): the page is on its way */
#define RAM_SAVE_CONTROL_DELAYED  -2000

#ifdef CONFIG_RDMA
/*
 * Whether the capabilities and parameters that are set now go with RDMA; the
 * error names the first that does not.
 */
bool rdma_caps_compatible(Error **errp);
/*
 * Whether the capabilities @caps (an array of MIGRATION_CAPABILITY__MAX) may
 * be set now: false if an RDMA listener waits and they do not go with it.
 */
bool rdma_caps_check(const bool *caps, Error **errp);
/*
 * Whether the parameter rdma-pin-limit may be set to @limit now: false if RDMA
 * cannot work with so little, or if a listener waits that uses another.
 */
bool rdma_pin_limit_check(uint64_t limit, Error **errp);

/*
 * Fill in info->rdma, if the migration that @info is about is one over RDMA.
 * Main loop.
 */
void rdma_fill_migration_info(MigrationInfo *info);
/* Print info->rdma, if there is one, as lines of "info migrate" */
void rdma_hmp_info_migrate(Monitor *mon, const MigrationInfo *info);

/*
 * The RAM hooks.  They return 0 for a file that is not RDMA, and a negative
 * errno on failure, which is then also kept in the file and the migration.
 */
/* Source: before and after the pages of @flags (RAM_CONTROL_*) */
int rdma_registration_start(QEMUFile *f, uint64_t flags);
int rdma_registration_stop(QEMUFile *f, uint64_t flags);
/*
 * Source: a page of @size bytes at @offset of the block at @block_offset of
 * the ram_addr_t space.  RAM_SAVE_CONTROL_* or a negative errno.
 */
int rdma_control_save_page(QEMUFile *f, ram_addr_t block_offset,
                           ram_addr_t offset, size_t size);
/* Destination: the stream has named its next RAM block */
int rdma_block_notification_handle(QEMUFile *f, const char *name);
/* Destination: the stream has announced the RAM hook */
int rdma_registration_handle(QEMUFile *f);

/*
 * The end: who has the guest.  docs/rdma.txt, "The end of a migration".  All
 * of these do nothing in a migration that is not over RDMA.
 */
/* Source, main loop: a migration has ended, and nothing of it is left */
void rdma_end_over(void);
/*
 * Source, migration thread, without the BQL: everything is written to the file.
 * Sees it arrive and hands the guest over; may wait for as long as the
 * destination needs.  Negative if that failed, with the error in the file
 * unless the migration was cancelled.
 */
int rdma_source_hand_over(MigrationState *s);
/* Source: the destination has confirmed that it has the guest */
bool rdma_guest_is_gone(void);
/*
 * Source: the migration has failed, but the guest may run at the destination:
 * it must not start here unless the user says so
 */
bool rdma_guest_may_run_elsewhere(void);
/*
 * Source: whether an error of the return path does not matter any more, as the
 * destination has the guest; then the error is taken back
 */
bool rdma_source_forgive(MigrationState *s);
/*
 * Source, with the BQL: whether it is too late to cancel; then this has ended
 * what is still waited for, and the state stays as it is
 */
bool rdma_source_cancel(MigrationState *s);
/*
 * Destination: everything is loaded, and no disk is activated yet: whether the
 * guest belongs here
 */
bool coroutine_fn rdma_incoming_hand_over(MigrationIncomingState *mis,
                                          Error **errp);
/* Destination: autostart is set: whether it was when the source was told */
bool rdma_incoming_may_run(void);
/*
 * Destination, main loop: whether the source is asked again before the guest
 * starts.  The answer then starts it, or fails, and ends the migration.
 */
bool rdma_incoming_asks(MigrationIncomingState *mis);
/* Source: whether migrate-start-postcopy may be used now */
bool rdma_start_postcopy_check(Error **errp);
/* Destination: whether postcopy that the stream asks for is refused */
bool rdma_refuses_postcopy(void);
#else
static inline bool rdma_caps_compatible(Error **errp)
{
    return true;
}
static inline bool rdma_caps_check(const bool *caps, Error **errp)
{
    return true;
}
static inline bool rdma_pin_limit_check(uint64_t limit, Error **errp)
{
    return true;
}
static inline void rdma_fill_migration_info(MigrationInfo *info)
{
}
static inline void rdma_hmp_info_migrate(Monitor *mon,
                                         const MigrationInfo *info)
{
}
static inline int rdma_registration_start(QEMUFile *f, uint64_t flags)
{
    return 0;
}
static inline int rdma_registration_stop(QEMUFile *f, uint64_t flags)
{
    return 0;
}
static inline int rdma_control_save_page(QEMUFile *f, ram_addr_t block_offset,
                                         ram_addr_t offset, size_t size)
{
    return RAM_SAVE_CONTROL_NOT_SUPP;
}
static inline int rdma_block_notification_handle(QEMUFile *f,
                                                 const char *name)
{
    return 0;
}
static inline int rdma_registration_handle(QEMUFile *f)
{
    return 0;
}
static inline void rdma_end_over(void)
{
}
static inline int rdma_source_hand_over(MigrationState *s)
{
    return 0;
}
static inline bool rdma_guest_may_run_elsewhere(void)
{
    return false;
}
static inline bool rdma_source_forgive(MigrationState *s)
{
    return false;
}
static inline bool rdma_source_cancel(MigrationState *s)
{
    return false;
}
static inline bool rdma_incoming_hand_over(MigrationIncomingState *mis,
                                           Error **errp)
{
    return true;
}
static inline bool rdma_incoming_may_run(void)
{
    return true;
}
static inline bool rdma_incoming_asks(MigrationIncomingState *mis)
{
    return false;
}
static inline bool rdma_start_postcopy_check(Error **errp)
{
    return true;
}
static inline bool rdma_refuses_postcopy(void)
{
    return false;
}
#endif
#endif
