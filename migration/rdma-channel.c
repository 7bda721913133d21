/*
 * RDMA migration: the QIOChannel of an RDMA connection
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: reading, writing, waiting, shutting down and closing, translated to
 * the streams of migration/rdma-transport.h.
 * Callers: QEMUFile, the return-path thread, yank; rdma.c makes the channels.
 * Threads: source: the connecting thread, then the migration thread, and the
 * return-path thread for reading.  Destination: the main loop, mostly in
 * coroutines.  io_shutdown: any, as long as the object lives, closed or not.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "migration/misc.h"
#include "migration.h"
#include "qemu-file.h"
#include "rdma.h"
#include "rdma-channel.h"
#include "rdma-info.h"
#include "trace.h"

/*
 * In the SETUP stage the migration thread holds the BQL while the guest runs.
 * A silent peer must not stop the guest and the monitor, so it is dropped for
 * the wait there, as multifd does.  Later the BQL is only held when the guest
 * is stopped, and dropping it would let others touch the final state.
 */
static void wait_readable(void *opaque, int fd)
{
    bool drop_bql = bql_locked() && !qemu_in_coroutine() &&
        migrate_get_current()->state == MIGRATION_STATUS_SETUP;

    if (qemu_in_coroutine()) {
        yield_until_fd_readable(fd);
        return;
    }
    if (drop_bql) {
        bql_unlock();
    }
    rmig_poll_waiter.wait_readable(NULL, fd);
    if (drop_bql) {
        bql_lock();
    }
}

const RMigWaiter qio_channel_rdma_waiter = { .wait_readable = wait_readable };

void qio_channel_rdma_error(Error **errp, GError *err)
{
    error_setg(errp, "RDMA: %s", err->message);
    g_error_free(err);
}

void qio_channel_rdma_note(QIOChannelRDMA *rioc, Error *error)
{
    MigrationState *s = migrate_get_current();
    MigrationStatus state = rioc->source ? s->state :
        migration_incoming_get_current()->state;

    if (state == MIGRATION_STATUS_SETUP ||
        state == MIGRATION_STATUS_ACTIVE ||
        state == MIGRATION_STATUS_PRE_SWITCHOVER ||
        state == MIGRATION_STATUS_DEVICE) {
        migrate_set_error(s, error);
    }
}

/* Consumes @err; NULL: the peer left without a word */
static void stream_failed(QIOChannelRDMA *rioc, Error **errp, GError *err)
{
    Error *error = NULL;

    if (err) {
        qio_channel_rdma_error(&error, err);
    } else {
        error_setg(&error, "RDMA: the %s closed the connection before the "
                   "migration was complete",
                   rioc->source ? "destination" : "source");
    }
    qio_channel_rdma_note(rioc, error);
    error_propagate(errp, error);
}

QIOChannelRDMA *qio_channel_rdma_new(void)
{
    return QIO_CHANNEL_RDMA(object_new(TYPE_QIO_CHANNEL_RDMA));
}

QIOChannelRDMA *qio_channel_rdma_from_file(QEMUFile *f)
{
    return (QIOChannelRDMA *)object_dynamic_cast(OBJECT(qemu_file_get_ioc(f)),
                                                 TYPE_QIO_CHANNEL_RDMA);
}

static RMigStream *in_stream(QIOChannelRDMA *rioc)
{
    if (rioc->closed) {
        return NULL;
    }
    return rioc->source ? rmig_source_return_stream(rioc->source) :
           rioc->dest ? rmig_dest_stream(rioc->dest) : NULL;
}

static RMigStream *out_stream(QIOChannelRDMA *rioc)
{
    if (rioc->closed) {
        return NULL;
    }
    return rioc->source ? rmig_source_stream(rioc->source) :
           rioc->dest ? rmig_dest_return_stream(rioc->dest) : NULL;
}

static ssize_t qio_channel_rdma_readv(QIOChannel *ioc, const struct iovec *iov,
                                      size_t niov, int **fds, size_t *nfds,
                                      int flags, Error **errp)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);
    RMigStream *stream = in_stream(rioc);
    bool wait = !rioc->nonblocking;
    GError *err = NULL;
    ssize_t total = 0;

    if (!stream) {
        error_setg(errp, "RDMA: there is no connection to read from");
        return -1;
    }
    for (size_t i = 0; i < niov; i++) {
        ssize_t got;

        if (iov[i].iov_len == 0) {
            continue;
        }
        if (total > 0 && !rmig_stream_has_data(stream)) {
            break;
        }
        got = rmig_stream_read(stream, iov[i].iov_base, iov[i].iov_len, wait,
                               &err);
        if (got == RMIG_STREAM_WOULD_BLOCK) {
            return QIO_CHANNEL_ERR_BLOCK;
        }
        /* 0 as well: who has read that the stream is over reads no further */
        if (got <= 0) {
            stream_failed(rioc, errp, err);
            if (rioc->source) {
                /*
                 * Without a return path it cannot end well; QEMU would look
                 * only when the destination has everything.
                 */
                rmig_source_return_failed(rioc->source);
            }
            return -1;
        }
        total += got;
        if (got < iov[i].iov_len) {
            break;
        }
    }
    return total;
}

/* The stream for writing, once the source has opened it if it is about to */
static RMigStream *coroutine_mixed_fn wait_for_out_stream(QIOChannelRDMA *rioc)
{
    while (!rioc->closed && rioc->dest && qemu_in_coroutine() &&
           rmig_dest_return_pending(rioc->dest)) {
        qemu_co_queue_wait(&rioc->return_ready, NULL);
    }
    return out_stream(rioc);
}

static ssize_t qio_channel_rdma_writev(QIOChannel *ioc,
                                       const struct iovec *iov, size_t niov,
                                       int *fds, size_t nfds, int flags,
                                       Error **errp)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);
    RMigStream *stream = wait_for_out_stream(rioc);
    GError *err = NULL;
    ssize_t total = 0;

    if (!stream) {
        error_setg(errp, rioc->dest && !rioc->closed ?
                   "RDMA: the source has not opened a return path (set the "
                   "capability return-path there)" :
                   "RDMA: there is no connection to write to");
        return -1;
    }
    for (size_t i = 0; i < niov; i++) {
        if (!rmig_stream_write(stream, iov[i].iov_base, iov[i].iov_len,
                               &err)) {
            stream_failed(rioc, errp, err);
            return -1;
        }
        total += iov[i].iov_len;
    }
    return total;
}

/*
 * qemu_fflush() ends here: what has gathered must leave now.  But behind RAM
 * only what fills a message does: the rest waits for rdma_source_hand_over(),
 * which can wait for the destination without the BQL.
 */
static int qio_channel_rdma_flush(QIOChannel *ioc, Error **errp)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);
    RMigStream *stream = out_stream(rioc);
    GError *err = NULL;
    bool ok = true;

    if (rioc->hold_flush || rioc->ram_is_over) {
        rioc->hold_flush = false;
        return 0;
    }
    if (stream) {
        ok = rmig_stream_flush(stream, &err);
    }
    if (!ok) {
        stream_failed(rioc, errp, err);
        return -1;
    }
    return 0;
}

static int qio_channel_rdma_set_blocking(QIOChannel *ioc, bool enabled,
                                         Error **errp)
{
    QIO_CHANNEL_RDMA(ioc)->nonblocking = !enabled;
    return 0;
}

/*
 * Whether the migration did not end well, so that the peer should be told.  The
 * source closes after a bad return path while its state is still a good one;
 * but one whose guest is gone has nothing to take back.
 */
static bool has_failed(QIOChannelRDMA *rioc)
{
    MigrationState *s = migrate_get_current();
    MigrationStatus state = rioc->source ? s->state :
        migration_incoming_get_current()->state;

    if (rioc->source && rdma_guest_is_gone()) {
        return false;
    }
    return (rioc->source && migrate_has_error(s)) ||
           state == MIGRATION_STATUS_CANCELLING ||
           state == MIGRATION_STATUS_CANCELLED ||
           state == MIGRATION_STATUS_FAILED;
}

static void close_dest(QIOChannelRDMA *rioc, bool failed)
{
    int listen_fd = rmig_dest_listen_fd(rioc->dest);

    if (listen_fd >= 0) {
        qemu_set_fd_handler(listen_fd, NULL, NULL, NULL);
    }
    if (rioc->accepting) {
        /* Its coroutine wakes up, finds this, and comes back here */
        rmig_dest_shutdown(rioc->dest);
        return;
    }
    rmig_dest_close(rioc->dest, failed);
}

static int qio_channel_rdma_close(QIOChannel *ioc, Error **errp)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);
    bool failed = has_failed(rioc);

    if (rioc->closed) {
        return 0;
    }
    rioc->closed = true;
    rdma_info_detach(rioc);
    trace_rdma_channel_close(rioc, failed);
    if (rioc->source) {
        rmig_source_close(rioc->source, failed);
    }
    if (rioc->dest) {
        close_dest(rioc, failed);
    }
    return 0;
}

void coroutine_fn qio_channel_rdma_accepted(QIOChannelRDMA *rioc)
{
    rioc->accepting = false;
    qemu_co_queue_restart_all(&rioc->return_ready);
    if (rioc->closed) {
        close_dest(rioc, true);
    }
}

static int qio_channel_rdma_shutdown(QIOChannel *ioc, QIOChannelShutdown how,
                                     Error **errp)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);

    trace_rdma_channel_shutdown(rioc);
    if (rioc->source) {
        rmig_source_shutdown(rioc->source);
    }
    if (rioc->dest) {
        rmig_dest_shutdown(rioc->dest);
    }
    return 0;
}

typedef struct RDMAWatch {
    GSource parent;
    QIOChannelRDMA *rioc;
    GIOCondition condition;
    GPollFD fd;
} RDMAWatch;

/* Writing never blocks; reading depends on the stream and its descriptor */
static GIOCondition watch_ready(RDMAWatch *watch)
{
    RMigStream *stream = in_stream(watch->rioc);
    GIOCondition ready = G_IO_OUT;

    if (!stream || rmig_stream_has_data(stream) ||
        (watch->fd.revents & G_IO_IN)) {
        ready |= G_IO_IN;
    }
    return ready & watch->condition;
}

static gboolean watch_prepare(GSource *source, gint *timeout)
{
    RDMAWatch *watch = (RDMAWatch *)source;

    *timeout = -1;
    watch->fd.revents = 0;
    return watch_ready(watch) != 0;
}

static gboolean watch_check(GSource *source)
{
    return watch_ready((RDMAWatch *)source) != 0;
}

static gboolean watch_dispatch(GSource *source, GSourceFunc callback,
                               gpointer user_data)
{
    RDMAWatch *watch = (RDMAWatch *)source;
    QIOChannelFunc func = (QIOChannelFunc)callback;

    return func(QIO_CHANNEL(watch->rioc), watch_ready(watch), user_data);
}

static void watch_finalize(GSource *source)
{
    object_unref(OBJECT(((RDMAWatch *)source)->rioc));
}

static GSourceFuncs watch_funcs = {
    .prepare = watch_prepare,
    .check = watch_check,
    .dispatch = watch_dispatch,
    .finalize = watch_finalize,
};

static GSource *qio_channel_rdma_create_watch(QIOChannel *ioc,
                                              GIOCondition condition)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(ioc);
    GSource *source = g_source_new(&watch_funcs, sizeof(RDMAWatch));
    RDMAWatch *watch = (RDMAWatch *)source;
    RMigStream *stream = in_stream(rioc);

    watch->rioc = rioc;
    object_ref(OBJECT(rioc));
    watch->condition = condition;
    if (stream && (condition & G_IO_IN)) {
        watch->fd.fd = rmig_stream_fd(stream);
        watch->fd.events = G_IO_IN;
        g_source_add_poll(source, &watch->fd);
    }
    return source;
}

static void qio_channel_rdma_set_aio_fd_handler(QIOChannel *ioc,
                                                AioContext *read_ctx,
                                                IOHandler *io_read,
                                                AioContext *write_ctx,
                                                IOHandler *io_write,
                                                void *opaque)
{
    RMigStream *stream = in_stream(QIO_CHANNEL_RDMA(ioc));

    if (read_ctx && stream) {
        aio_set_fd_handler(read_ctx, rmig_stream_fd(stream), io_read, NULL,
                           NULL, NULL, opaque);
    }
    if (io_read && (!stream || rmig_stream_has_data(stream))) {
        aio_bh_schedule_oneshot(read_ctx, io_read, opaque);
    }
    if (io_write) {
        /* There is always room to write */
        aio_bh_schedule_oneshot(write_ctx, io_write, opaque);
    }
}

static void qio_channel_rdma_init(Object *obj)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(obj);

    qemu_co_queue_init(&rioc->return_ready);
    qio_channel_set_feature(QIO_CHANNEL(rioc), QIO_CHANNEL_FEATURE_SHUTDOWN);
    /* qio_channel_flush() passes by a channel without this one */
    qio_channel_set_feature(QIO_CHANNEL(rioc),
                            QIO_CHANNEL_FEATURE_WRITE_ZERO_COPY);
}

static void qio_channel_rdma_finalize(Object *obj)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(obj);

    rdma_info_detach(rioc);
    rmig_source_free(rioc->source);
    rmig_dest_free(rioc->dest);
}

static void qio_channel_rdma_class_init(ObjectClass *klass, void *data)
{
    QIOChannelClass *ioc_klass = QIO_CHANNEL_CLASS(klass);

    ioc_klass->io_readv = qio_channel_rdma_readv;
    ioc_klass->io_writev = qio_channel_rdma_writev;
    ioc_klass->io_flush = qio_channel_rdma_flush;
    ioc_klass->io_set_blocking = qio_channel_rdma_set_blocking;
    ioc_klass->io_close = qio_channel_rdma_close;
    ioc_klass->io_shutdown = qio_channel_rdma_shutdown;
    ioc_klass->io_create_watch = qio_channel_rdma_create_watch;
    ioc_klass->io_set_aio_fd_handler = qio_channel_rdma_set_aio_fd_handler;
}

static const TypeInfo qio_channel_rdma_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_QIO_CHANNEL_RDMA,
    .instance_size = sizeof(QIOChannelRDMA),
    .instance_init = qio_channel_rdma_init,
    .instance_finalize = qio_channel_rdma_finalize,
    .class_init = qio_channel_rdma_class_init,
};

static void qio_channel_rdma_register_types(void)
{
    type_register_static(&qio_channel_rdma_info);
}

type_init(qio_channel_rdma_register_types);
