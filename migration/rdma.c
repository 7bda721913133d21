/*
 * RDMA migration: entry points, RAM hooks and statistics
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: translates what migration.c and ram.c call (rdma.h) to the core
 * (migration/rdma-transport.h).
 * Threads: starting and accepting run in the main loop, connecting in a
 * QIOTask's thread, the source's hooks in the migration thread, the
 * destination's in the incoming coroutine.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "io/task.h"
#include "migration/misc.h"
#include "migration.h"
#include "migration-stats.h"
#include "options.h"
#include "qemu-file.h"
#include "ram.h"
#include "rdma.h"
#include "rdma-blocks.h"
#include "rdma-channel.h"
#include "rdma-info.h"
#include "rdma-memory.h"
#include "system/runstate.h"
#include "trace.h"
#include "yank_functions.h"

/* The channel that listens or receives, if there is one; main loop only */
static QIOChannelRDMA *incoming;

/* The core's own events, if anybody traces them when a migration starts */
static void trace_line(const char *line)
{
    trace_rdma_core(line);
}

static void set_core_trace(void)
{
    rmig_trace = trace_event_get_state_backends(TRACE_RDMA_CORE) ?
                 trace_line : NULL;
}

/* ---- what goes with RDMA ------------------------------------------------ */

static const struct {
    MigrationCapability cap;
    const char *why;
} refused_caps[] = {
    { MIGRATION_CAPABILITY_MULTIFD, "it has one data path of its own" },
    { MIGRATION_CAPABILITY_XBZRLE, "pages are not sent in the stream" },
    { MIGRATION_CAPABILITY_POSTCOPY_RAM, "it does not do postcopy yet" },
    { MIGRATION_CAPABILITY_POSTCOPY_PREEMPT, "it does not do postcopy yet" },
    { MIGRATION_CAPABILITY_MAPPED_RAM, "that needs a file" },
    { MIGRATION_CAPABILITY_ZERO_COPY_SEND, "RDMA Writes never copy" },
    { MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT, "that needs a file" },
    { MIGRATION_CAPABILITY_X_COLO, "COLO needs pages in the stream" },
};

static bool caps_go_with_rdma(const bool *caps, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused_caps); i++) {
        MigrationCapability cap = refused_caps[i].cap;

        if (caps[cap]) {
            error_setg(errp, "RDMA migration cannot be used together with "
                       "the capability %s: %s; switch it off first",
                       MigrationCapability_str(cap), refused_caps[i].why);
            return false;
        }
    }
    return true;
}

/* Whether the kernel lets this process pin what the transport needs at least */
static bool check_memlock(Error **errp)
{
    GError *err = NULL;

    if (!rmig_memlock_allows(RMIG_PIN_LIMIT_MIN, &err)) {
        qio_channel_rdma_error(errp, err);
        error_prepend(errp, "RDMA migration cannot start: ");
        return false;
    }
    return true;
}

bool rdma_caps_compatible(Error **errp)
{
    ERRP_GUARD();

    if (!caps_go_with_rdma(migrate_get_current()->capabilities, errp)) {
        return false;
    }
    if (migrate_tls()) {
        error_setg(errp, "RDMA migration cannot be encrypted: unset the "
                   "parameter tls-creds, or migrate over TCP");
        return false;
    }
    return rdma_memory_check_blocks(errp) && check_memlock(errp);
}

bool rdma_caps_check(const bool *caps, Error **errp)
{
    return !incoming || caps_go_with_rdma(caps, errp);
}

bool rdma_pin_limit_check(uint64_t limit, Error **errp)
{
    if (limit != 0 && limit < RMIG_PIN_LIMIT_MIN) {
        error_setg(errp, "Parameter 'rdma-pin-limit' is too small: RDMA needs "
                   "at least %u MiB (0 stands for what the memory-lock limit "
                   "allows)", (unsigned)(RMIG_PIN_LIMIT_MIN / MiB));
        return false;
    }
    /* The core has been told already, and may have told the source */
    if (incoming && limit != incoming->pin_limit) {
        error_setg(errp, "Parameter 'rdma-pin-limit' comes too late: this "
                   "QEMU listens for RDMA already; use -incoming defer and "
                   "set it before migrate-incoming");
        return false;
    }
    return true;
}

/* ---- addresses ---------------------------------------------------------- */

/* getaddrinfo() of @addr; may block on the name server */
static struct addrinfo *look_up(InetSocketAddress *addr, bool passive,
                                Error **errp)
{
    struct addrinfo hints = {
        .ai_flags = passive ? AI_PASSIVE : 0,
        .ai_socktype = SOCK_STREAM,
    };
    const char *host = *addr->host ? addr->host : NULL;
    struct addrinfo *list = NULL;
    unsigned long port;
    Error *err = NULL;
    int ret;

    hints.ai_family = inet_ai_family_from_address(addr, &err);
    if (err) {
        error_propagate(errp, err);
        return NULL;
    }
    if (!host && !passive) {
        error_setg(errp, "RDMA: no host given, as in rdma:HOST:PORT");
        return NULL;
    }
    /* getaddrinfo() would quietly take it modulo 65536 */
    if (qemu_strtoul(addr->port, NULL, 10, &port) == 0 && port > UINT16_MAX) {
        error_setg(errp, "RDMA: %s is no port: they end at %d", addr->port,
                   UINT16_MAX);
        return NULL;
    }
    ret = getaddrinfo(host, addr->port, &hints, &list);
    if (ret != 0) {
        error_setg(errp, "RDMA: address resolution failed for %s:%s: %s",
                   addr->host, addr->port, gai_strerror(ret));
        return NULL;
    }
    return list;
}

/* ---- source: connecting ------------------------------------------------- */

/* In a QIOTask's thread: try each address in turn */
static void connect_worker(QIOTask *task, gpointer opaque)
{
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(qio_task_get_source(task));
    InetSocketAddress *addr = opaque;
    Error *err = NULL;
    struct addrinfo *list = look_up(addr, false, &err);
    GError *last = NULL;

    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        g_clear_error(&last);
        if (rmig_source_connect(rioc->source, ai->ai_addr, &last)) {
            break;
        }
    }
    if (last) {
        qio_channel_rdma_error(&err, last);
        error_prepend(&err, "connecting to %s:%s failed: ", addr->host,
                      addr->port);
    }
    if (list) {
        freeaddrinfo(list);
    }
    if (err) {
        qio_task_set_error(task, err);
    }
}

/*
 * The file exists while the connection is made, so that cancel can shut it
 * down.  An attempt that failed must take it away again before it is reported.
 */
static void drop_outgoing_file(MigrationState *s)
{
    QEMUFile *f;

    WITH_QEMU_LOCK_GUARD(&s->qemu_file_lock) {
        f = s->to_dst_file;
        s->to_dst_file = NULL;
    }
    if (f) {
        migration_ioc_unregister_yank_from_file(f);
        qemu_fclose(f);
    }
}

static void connect_done(QIOTask *task, gpointer opaque)
{
    MigrationState *s = opaque;
    QIOChannelRDMA *rioc = QIO_CHANNEL_RDMA(qio_task_get_source(task));
    Error *err = NULL;

    if (!qio_task_propagate_error(task, &err) &&
        s->state != MIGRATION_STATUS_SETUP) {
        error_setg(&err, "RDMA: the migration was cancelled while connecting");
    }
    if (err) {
        trace_rdma_outgoing_failed(error_get_pretty(err));
        drop_outgoing_file(s);
    } else {
        trace_rdma_outgoing_connected(rioc,
                                      rmig_source_pins_all(rioc->source));
        if (migrate_rdma_pin_all() && !rmig_source_pins_all(rioc->source)) {
            warn_report("RDMA: the destination does not pin all guest "
                        "memory; registering it chunk by chunk");
        }
    }
    migration_connect(s, err);
    error_free(err);
}

static bool is_zero(const void *host, uint64_t len)
{
    return buffer_is_zero(host, len);
}

/* pin-all states its need before anything is touched */
static bool check_pin_all(Error **errp)
{
    uint64_t limit = migrate_rdma_pin_limit();
    uint64_t ram = rdma_memory_plugged_bytes();
    GError *err = NULL;

    if (!migrate_rdma_pin_all()) {
        return true;
    }
    /* The transport's own buffers come on top */
    if (limit != 0 && limit < ram + RMIG_PIN_LIMIT_MIN) {
        error_setg(errp, "RDMA: the capability rdma-pin-all cannot be used: "
                   "rdma-pin-limit is %" PRIu64 " MiB, and the guest has %"
                   PRIu64 " MiB of RAM; raise it to %" PRIu64 " MiB, or do "
                   "without pinning everything", limit / MiB, ram / MiB,
                   (ram + RMIG_PIN_LIMIT_MIN) / MiB);
        return false;
    }
    if (!rmig_memlock_allows(ram + RMIG_PIN_LIMIT_MIN, &err)) {
        qio_channel_rdma_error(errp, err);
        error_prepend(errp, "the capability rdma-pin-all cannot be used: ");
        return false;
    }
    return true;
}

void rdma_start_outgoing_migration(void *opaque, InetSocketAddress *addr,
                                   Error **errp)
{
    MigrationState *s = opaque;
    RMigSourceConfig config = {
        .waiter = qio_channel_rdma_waiter,
        .is_zero = migrate_zero_page_detection() ==
                   ZERO_PAGE_DETECTION_NONE ? NULL : is_zero,
        .pin_all = migrate_rdma_pin_all(),
        .return_path = migrate_return_path(),
        .pin_limit = migrate_rdma_pin_limit(),
        .register_threads = RMIG_REGISTER_THREADS,
        .released = rdma_memory_release,
    };
    GError *err = NULL;
    RMigSource *source;
    QIOChannelRDMA *rioc;
    QEMUFile *f;
    QIOTask *task;

    set_core_trace();
    trace_rdma_outgoing_start(addr->host, addr->port, config.pin_all,
                              config.return_path);
    if (!check_pin_all(errp) || !rdma_memory_hold(errp)) {
        return;
    }
    source = rmig_source_new(&config, &err);
    if (!source) {
        rdma_memory_release();
        qio_channel_rdma_error(errp, err);
        return;
    }
    rioc = qio_channel_rdma_new();
    rioc->source = source;
    qio_channel_set_name(QIO_CHANNEL(rioc), "migration-rdma-outgoing");
    s->rdma_migration = true;
    rdma_info_attach(rioc);

    f = qemu_file_new_output(QIO_CHANNEL(rioc));
    migration_ioc_register_yank(QIO_CHANNEL(rioc));
    WITH_QEMU_LOCK_GUARD(&s->qemu_file_lock) {
        s->to_dst_file = f;
    }
    task = qio_task_new(OBJECT(rioc), connect_done, s, NULL);
    qio_task_run_in_thread(task, connect_worker,
                           QAPI_CLONE(InetSocketAddress, addr),
                           (GDestroyNotify)qapi_free_InetSocketAddress, NULL);
    object_unref(OBJECT(rioc));
}

/* ---- destination: listening and accepting ------------------------------- */

/*
 * Any thread, several at a time: ram_handle_zero() keeps no state, and the core
 * lets no two threads, nor an RDMA Write, have the same page.
 */
static void zero_range(void *opaque, void *host, uint64_t len)
{
    uint64_t page = qemu_real_host_page_size();
    uint8_t *at = host;

    /* Page by page: one that is zero already is not even touched */
    while (len > 0) {
        uint64_t part = MIN(len, page);

        ram_handle_zero(at, part);
        at += part;
        len -= part;
    }
}

static uint64_t ram_bytes(void *opaque)
{
    /* What virtio-mem has plugged is not known yet; the budget sees to it */
    return rdma_memory_plugged_bytes();
}

static void warn(void *opaque, const char *message)
{
    warn_report("RDMA: %s", message);
}

static const RMigDestOps dest_ops = {
    .list_blocks = rdma_blocks_list_dest,
    .list_holes = rdma_blocks_list_holes,
    .zero = zero_range,
    .ram_bytes = ram_bytes,
    .warn = warn,
};

/*
 * The guest is about to run: the source's queue pair must be dead by then.
 * The return path has its own, and a message to go.
 */
static void revoke_before_run(void *opaque, bool running, RunState state)
{
    QIOChannelRDMA *rioc = opaque;

    if (running && !rioc->closed) {
        trace_rdma_incoming_revoke(rioc);
        rmig_dest_revoke(rioc->dest);
    }
}

static void start_incoming(QIOChannelRDMA *rioc)
{
    QEMUFile *f = qemu_file_new_input(QIO_CHANNEL(rioc));

    migration_ioc_register_yank(QIO_CHANNEL(rioc));
    rdma_info_attach(rioc);
    migration_fd_process_incoming(f);
}

/* Somebody asks for a connection, completes one, or is late with it */
static void connection_asked(void *opaque)
{
    QIOChannelRDMA *rioc = opaque;
    RMigAccepted accepted;

    object_ref(OBJECT(rioc));
    /* Until there is nothing more, and why something was refused is known */
    do {
        GError *err = NULL;

        accepted = rmig_dest_accept(rioc->dest, &err);
        if (err) {
            warn_report("RDMA: %s", err->message);
            g_error_free(err);
        }
        if (accepted != RMIG_ACCEPTED_NOTHING) {
            trace_rdma_incoming_accepted(rioc, accepted);
        }
        if (accepted == RMIG_ACCEPTED_MAIN) {
            start_incoming(rioc);
        }
    } while (accepted != RMIG_ACCEPTED_NOTHING && !rioc->closed &&
             rmig_dest_listen_fd(rioc->dest) >= 0);
    /*
     * Writers look whether the return path is there, or will never be.  Not
     * before that is decided: they would wait again, and be entered again.
     */
    if (!rmig_dest_return_pending(rioc->dest)) {
        qemu_co_enter_all(&rioc->return_ready, NULL);
    }
    object_unref(OBJECT(rioc));
}

static void incoming_cleanup(void *opaque)
{
    QIOChannelRDMA *rioc = opaque;

    qemu_del_vm_change_state_handler(rioc->vm_state);
    qio_channel_close(QIO_CHANNEL(rioc), NULL);
    object_unref(OBJECT(rioc));
    incoming = NULL;
}

/* For query-migrate: where we listen, with the port that the system chose */
static void publish_address(QIOChannelRDMA *rioc, InetSocketAddress *addr)
{
    g_autoptr(SocketAddress) sa = g_new0(SocketAddress, 1);

    sa->type = SOCKET_ADDRESS_TYPE_INET;
    sa->u.inet.host = g_strdup(addr->host);
    sa->u.inet.port = g_strdup_printf("%u", rmig_dest_port(rioc->dest));
    migrate_add_address(sa);
}

void rdma_start_incoming_migration(InetSocketAddress *addr, Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    QIOChannelRDMA *rioc = qio_channel_rdma_new();
    RMigDestConfig config = {
        .waiter = qio_channel_rdma_waiter,
        .ops = &dest_ops,
        .opaque = rioc,
        .pin_limit = migrate_rdma_pin_limit(),
        .register_threads = RMIG_REGISTER_THREADS,
        .released = rdma_memory_release,
    };
    struct addrinfo *list;
    GError *err = NULL;

    if (!rdma_memory_hold(errp)) {
        object_unref(OBJECT(rioc));
        return;
    }
    list = look_up(addr, true, errp);
    set_core_trace();
    for (struct addrinfo *ai = list; ai && !rioc->dest; ai = ai->ai_next) {
        g_clear_error(&err);
        rioc->dest = rmig_dest_new(&config, ai->ai_addr, &err);
    }
    if (list) {
        freeaddrinfo(list);
    }
    if (!rioc->dest) {
        rdma_memory_release();
        if (err) {
            qio_channel_rdma_error(errp, err);
        }
        object_unref(OBJECT(rioc));
        return;
    }
    trace_rdma_incoming_listen(rioc, addr->host, rmig_dest_port(rioc->dest));
    qio_channel_set_name(QIO_CHANNEL(rioc), "migration-rdma-incoming");
    rioc->vm_state = qemu_add_vm_change_state_handler(revoke_before_run,
                                                      rioc);
    rioc->pin_limit = config.pin_limit;
    incoming = rioc;
    mis->transport_data = rioc;
    mis->transport_cleanup = incoming_cleanup;
    publish_address(rioc, addr);
    qemu_set_fd_handler(rmig_dest_listen_fd(rioc->dest), connection_asked,
                        NULL, rioc);
}

/* ---- RAM hooks ---------------------------------------------------------- */

/*
 * Keep @err where it is reported: in the migration, and in the file, which
 * stops the migration.
 */
static int keep_error(QEMUFile *f, QIOChannelRDMA *rioc, GError *err)
{
    Error *error = NULL;

    qio_channel_rdma_error(&error, err);
    trace_rdma_hook_failed(error_get_pretty(error));
    qio_channel_rdma_note(rioc, error);
    qemu_file_set_error_obj(f, -EIO, error);
    return -EIO;
}

static QIOChannelRDMA *source_channel(QEMUFile *f)
{
    /* Once a page: no dynamic cast */
    return migrate_rdma() && !migration_in_postcopy() ?
           (QIOChannelRDMA *)qemu_file_get_ioc(f) : NULL;
}

/* Pages between two updates of mig_stats, for a fast migration */
#define BATCH_PAGES_MAX 64
/*
 * A rate limit is looked at after every page, but sees what is in mig_stats: it
 * may be exceeded by this part of its quota.
 */
#define BATCH_PART_OF_QUOTA 16

/*
 * How many pages may be handed over before mig_stats must know: adding to it
 * is an atomic operation on memory that other threads read.
 */
static unsigned next_batch(void)
{
    uint64_t quota = migration_rate_get();
    uint64_t pages = quota / BATCH_PART_OF_QUOTA >> qemu_target_page_bits();

    if (quota == RATE_LIMIT_DISABLED) {
        return BATCH_PAGES_MAX;
    }
    return MAX(1, MIN(pages, BATCH_PAGES_MAX));
}

/* Transferred bytes are those that left by other ways than the QEMUFile */
static void account(QIOChannelRDMA *rioc)
{
    uint64_t bytes = rmig_source_sent_bytes(rioc->source) -
                     rioc->accounted_bytes;

    if (rioc->data_pages > 0) {
        stat64_add(&mig_stats.normal_pages, rioc->data_pages);
        rioc->data_pages = 0;
    }
    if (rioc->zero_pages > 0) {
        stat64_add(&mig_stats.zero_pages, rioc->zero_pages);
        rioc->zero_pages = 0;
    }
    if (bytes > 0) {
        rioc->accounted_bytes += bytes;
        stat64_add(&mig_stats.rdma_bytes, bytes);
        ram_transferred_add(bytes);
    }
    rioc->batch_pages = next_batch();
}

/*
 * The end of the SETUP stage, in which the migration thread holds the BQL.  It
 * is dropped here: under pin-all the exchange registers all memory, which can
 * take seconds in which the guest and the monitor want to go on.
 */
static bool exchange_blocks(QIOChannelRDMA *rioc, GError **err)
{
    bool ok;

    if (!rdma_blocks_list_source(rioc, err)) {
        return false;
    }
    bql_unlock();
    ok = rmig_source_exchange(rioc->source, err);
    bql_lock();
    return ok;
}

int rdma_registration_start(QEMUFile *f, uint64_t flags)
{
    QIOChannelRDMA *rioc = source_channel(f);

    if (!rioc) {
        return 0;
    }
    trace_rdma_hook_start(flags);
    rioc->hold_flush = false;
    qemu_put_be64(f, RAM_SAVE_FLAG_HOOK);
    return qemu_fflush(f);
}

/* ram.c holds the RCU read lock for the pages of a round, but not here */
static bool finish_round(QIOChannelRDMA *rioc, GError **err)
{
    RCU_READ_LOCK_GUARD();
    return rdma_memory_is_sound(rioc, err) &&
           rmig_source_finish(rioc->source, err);
}

int rdma_registration_stop(QEMUFile *f, uint64_t flags)
{
    QIOChannelRDMA *rioc = source_channel(f);
    GError *err = NULL;

    if (!rioc) {
        return 0;
    }
    if (qemu_file_get_error(f)) {
        return qemu_file_get_error(f);
    }
    if ((flags == RAM_CONTROL_SETUP && !exchange_blocks(rioc, &err)) ||
        !finish_round(rioc, &err)) {
        account(rioc);
        return keep_error(f, rioc, err);
    }
    /*
     * A round ends with a flushed end mark, but its section goes on: the rest
     * leaves with the next flush, without which the destination cannot use
     * the mark.  So both leave then, and save a round trip a round.
     */
    rioc->hold_flush = flags == RAM_CONTROL_ROUND;
    rioc->ram_is_over = flags == RAM_CONTROL_FINISH;
    account(rioc);
    trace_rdma_hook_stop(flags, rioc->accounted_bytes);
    return 0;
}

int rdma_control_save_page(QEMUFile *f, ram_addr_t block_offset,
                           ram_addr_t offset, size_t size)
{
    QIOChannelRDMA *rioc = source_channel(f);
    GError *err = NULL;

    if (!rioc) {
        return RAM_SAVE_CONTROL_NOT_SUPP;
    }
    if (!rdma_memory_is_sound(rioc, &err)) {
        return keep_error(f, rioc, err);
    }
    switch (rmig_source_page(rioc->source, block_offset, offset, size, &err)) {
    case RMIG_PAGE_DATA:
        rioc->data_pages++;
        break;
    case RMIG_PAGE_ZERO:
        rioc->zero_pages++;
        break;
    case RMIG_PAGE_FAILED:
        account(rioc);
        return keep_error(f, rioc, err);
    }
    if (rioc->data_pages + rioc->zero_pages >= rioc->batch_pages) {
        account(rioc);
    }
    return RAM_SAVE_CONTROL_DELAYED;
}

int rdma_block_notification_handle(QEMUFile *f, const char *name)
{
    QIOChannelRDMA *rioc = qio_channel_rdma_from_file(f);
    RAMBlock *rb = qemu_ram_block_by_name(name);
    GError *err = NULL;

    if (!rioc || !rioc->dest || migrate_ram_is_ignored(rb)) {
        return 0;
    }
    trace_rdma_incoming_block(name);
    return rmig_dest_note_block(rioc->dest, name, &err) ? 0 :
           keep_error(f, rioc, err);
}

int rdma_registration_handle(QEMUFile *f)
{
    QIOChannelRDMA *rioc = qio_channel_rdma_from_file(f);
    GError *err = NULL;

    if (!rioc || !rioc->dest) {
        error_report("the migration stream has an RDMA hook, but did not "
                     "come over RDMA");
        return -EINVAL;
    }
    trace_rdma_incoming_commands(rioc);
    return rmig_dest_handle(rioc->dest, &err) ? 0 : keep_error(f, rioc, err);
}
