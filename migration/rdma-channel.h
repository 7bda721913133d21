/*
 * RDMA migration: the QIOChannel of an RDMA connection
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A channel is the source's or the destination's end of one migration.  On
 * the source, writing goes to the main connection and reading comes from the
 * return path; on the destination it is the other way round.
 */
#ifndef QEMU_MIGRATION_RDMA_CHANNEL_H
#define QEMU_MIGRATION_RDMA_CHANNEL_H

#include "io/channel.h"
#include "migration/rdma-transport.h"
#include "qemu/coroutine.h"

#define TYPE_QIO_CHANNEL_RDMA "qio-channel-rdma"
OBJECT_DECLARE_SIMPLE_TYPE(QIOChannelRDMA, QIO_CHANNEL_RDMA)

struct QIOChannelRDMA {
    QIOChannel parent;
    /* One of the two; owned, freed when the last reference goes */
    RMigSource *source;
    RMigDest *dest;
    bool nonblocking; /* of reading; a write always takes everything */
    bool closed;
    bool hold_flush; /* source: the next flush sends nothing yet */
    bool ram_is_over; /* source: only the device state is left to send */
    uint64_t accounted_bytes; /* source: of the core's, in mig_stats */
    unsigned data_pages; /* source: not in mig_stats yet */
    unsigned zero_pages; /* likewise */
    unsigned batch_pages; /* so many of both go there at once */
    uint64_t pin_limit; /* dest: rdma-pin-limit when it began to listen */
    VMChangeStateEntry *vm_state; /* dest: revokes before the guest runs */
    bool memory_is_guarded; /* under the lock of rdma-memory.c */
    bool memory_is_lost; /* atomic; set once, under the lock of rdma-memory.c */
    char *memory_lost; /* why; likewise */
    CoQueue return_ready; /* dest: writers that wait for the return path */
};

/* How the core waits inside of QEMU: as a coroutine if in one, else poll(2) */
extern const RMigWaiter qio_channel_rdma_waiter;

QIOChannelRDMA *qio_channel_rdma_new(void);
/* The channel behind @f, or NULL if it is of another kind */
QIOChannelRDMA *qio_channel_rdma_from_file(QEMUFile *f);
/* Turn the core's error into QEMU's; frees @err */
void qio_channel_rdma_error(Error **errp, GError *err);
/*
 * Tell the migration why it fails, if it is under way: it shows the first
 * error, and QEMU's own callers often know only that there was one.  One that
 * is being cancelled has no error.
 */
void qio_channel_rdma_note(QIOChannelRDMA *rioc, Error *error);

#endif
