/*
 * RDMA migration: what query-migrate and "info migrate" show of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: turns the core's counters into QAPI's MigrationRDMA and into text.
 * Callers: migration.c and the monitor; rdma.c and rdma-channel.c say which
 * channel there is.
 * Threads: the monitor asks in the main loop, while the migration thread uses
 * the channel; closing may come from any.  The lock keeps a channel attached,
 * and with that its core object alive, while its counters are read.
 */
#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "monitor/monitor.h"
#include "qapi/qapi-types-migration.h"
#include "qapi/util.h"
#include "migration.h"
#include "rdma.h"
#include "rdma-info.h"

#define NS_PER_US 1000

/* One for each direction: a guest that came over RDMA may leave over it */
typedef struct RDMASide {
    QIOChannelRDMA *rioc; /* whose counters to read; NULL: see @last */
    bool known;           /* there has been a migration */
    RMigCounters last;
} RDMASide;

/* All of it protected by the lock */
static QemuMutex lock;
static RDMASide outgoing;
static RDMASide incoming;

static void __attribute__((constructor)) init_lock(void)
{
    qemu_mutex_init(&lock);
}

static void read_counters(QIOChannelRDMA *rioc, RMigCounters *counters)
{
    if (rioc->source) {
        rmig_source_counters(rioc->source, counters);
    } else {
        rmig_dest_counters(rioc->dest, counters);
    }
}

void rdma_info_attach(QIOChannelRDMA *rioc)
{
    RDMASide *side = rioc->source ? &outgoing : &incoming;

    QEMU_LOCK_GUARD(&lock);
    side->rioc = rioc;
    side->known = true;
}

void rdma_info_detach(QIOChannelRDMA *rioc)
{
    RDMASide *side = rioc->source ? &outgoing : &incoming;

    QEMU_LOCK_GUARD(&lock);
    if (side->rioc == rioc) {
        read_counters(rioc, &side->last);
        /* The close that follows lets it go, and waits for nobody */
        side->last.pinned = 0;
        side->last.waiting = RMIG_WAIT_NONE;
        side->rioc = NULL;
    }
}

static bool get_counters(RDMASide *side, RMigCounters *counters)
{
    QEMU_LOCK_GUARD(&lock);
    if (side->rioc) {
        read_counters(side->rioc, counters);
    } else if (side->known) {
        *counters = side->last;
    }
    return side->known;
}

/* ---- QAPI --------------------------------------------------------------- */

static MigrationRDMAPinned *pinned_info(uint64_t now, uint64_t peak,
                                        uint64_t limit)
{
    MigrationRDMAPinned *pinned = g_new0(MigrationRDMAPinned, 1);

    pinned->now = now;
    pinned->peak = peak;
    /* 0: the core has not looked yet */
    pinned->has_limit = limit != UINT64_MAX && limit != 0;
    pinned->limit = pinned->has_limit ? limit : 0;
    return pinned;
}

static MigrationRDMAStall *stall_info(const RMigCounters *c, RMigStall cause)
{
    MigrationRDMAStall *stall = g_new0(MigrationRDMAStall, 1);

    stall->count = c->stalls[cause];
    stall->time_us = c->stall_ns[cause] / NS_PER_US;
    return stall;
}

static MigrationRDMAStalls *stalls_info(const RMigCounters *c)
{
    MigrationRDMAStalls *stalls = g_new0(MigrationRDMAStalls, 1);

    stalls->late = stall_info(c, RMIG_STALL_LATE);
    stalls->unknown = stall_info(c, RMIG_STALL_UNKNOWN);
    stalls->budget = stall_info(c, RMIG_STALL_BUDGET);
    return stalls;
}

static MigrationRDMAExtensionList *extensions_info(uint32_t bits)
{
    MigrationRDMAExtensionList *list = NULL;

    if (bits & RMIG_EXTENSION_HANDOVER) {
        QAPI_LIST_PREPEND(list, MIGRATION_RDMA_EXTENSION_HANDOVER);
    }
    if (bits & RMIG_EXTENSION_BUDGET) {
        QAPI_LIST_PREPEND(list, MIGRATION_RDMA_EXTENSION_BUDGET);
    }
    if (bits & RMIG_EXTENSION_BATCH) {
        QAPI_LIST_PREPEND(list, MIGRATION_RDMA_EXTENSION_BATCH);
    }
    return list;
}

static MigrationRDMAWait wait_info(RMigWait waiting)
{
    switch (waiting) {
    case RMIG_WAIT_ARRIVAL:
        return MIGRATION_RDMA_WAIT_ARRIVAL;
    case RMIG_WAIT_LOAD:
        return MIGRATION_RDMA_WAIT_LOAD;
    case RMIG_WAIT_STARTED:
        return MIGRATION_RDMA_WAIT_START;
    case RMIG_WAIT_REPORT:
        return MIGRATION_RDMA_WAIT_REPORT;
    case RMIG_WAIT_GO_AHEAD:
        return MIGRATION_RDMA_WAIT_GO_AHEAD;
    case RMIG_WAIT_NONE:
        break;
    }
    g_assert_not_reached();
}

static MigrationRDMA *rdma_info(const RMigCounters *c)
{
    MigrationRDMA *rdma = g_new0(MigrationRDMA, 1);

    rdma->device = *c->device ? g_strdup(c->device) : NULL;
    rdma->peer = c->extensions ? MIGRATION_RDMA_PEER_EXTENDED :
                 MIGRATION_RDMA_PEER_VERSION_1;
    rdma->extensions = extensions_info(c->extensions);
    rdma->has_waiting_for = c->waiting != RMIG_WAIT_NONE;
    if (rdma->has_waiting_for) {
        rdma->waiting_for = wait_info(c->waiting);
    }
    rdma->pin_all = c->pins_all;
    rdma->pinned = pinned_info(c->pinned, c->pinned_peak, c->pin_limit);
    if (c->peer_pin_limit) {
        rdma->peer_pinned = pinned_info(c->peer_pinned, c->peer_pinned_peak,
                                        c->peer_pin_limit);
    }
    rdma->chunks_registered = c->chunks_registered;
    rdma->chunks_again = c->chunks_again;
    rdma->chunks_evicted = c->chunks_evicted;
    rdma->chunks_refused = c->chunks_refused;
    rdma->register_hidden_us = c->register_hidden_ns / NS_PER_US;
    rdma->register_exposed_us = c->register_exposed_ns / NS_PER_US;
    rdma->stalls = stalls_info(c);
    rdma->window_bytes = c->window_bytes;
    rdma->control_messages = c->control_messages;
    rdma->control_bytes = c->control_bytes;
    rdma->writes = c->writes;
    rdma->write_bytes = c->write_bytes;
    rdma->has_pages_per_write = c->writes > 0;
    rdma->pages_per_write = c->writes ? (double)c->data_pages / c->writes : 0;
    rdma->data_pages = c->data_pages;
    rdma->zero_pages = c->zero_pages;
    rdma->skipped_pages = c->skipped_pages;
    rdma->zero_runs = c->zero_runs;
    return rdma;
}

/* As the status: of the source, if there has been an outgoing migration */
void rdma_fill_migration_info(MigrationInfo *info)
{
    MigrationState *s = migrate_get_current();
    RDMASide *side = s->state == MIGRATION_STATUS_NONE ? &incoming :
                     s->rdma_migration ? &outgoing : NULL;
    RMigCounters counters;

    if (side && get_counters(side, &counters)) {
        info->rdma = rdma_info(&counters);
    }
}

/* ---- text --------------------------------------------------------------- */

static void print_pinned(Monitor *mon, const char *whose,
                         const MigrationRDMAPinned *pinned)
{
    monitor_printf(mon, "rdma %spinned: %" PRIu64 " kbytes, peak %" PRIu64
                   " kbytes, ", whose, pinned->now >> 10, pinned->peak >> 10);
    if (pinned->has_limit) {
        monitor_printf(mon, "limit %" PRIu64 " kbytes\n", pinned->limit >> 10);
    } else {
        monitor_printf(mon, "no limit\n");
    }
}

static void print_stall(Monitor *mon, const char *cause,
                        const MigrationRDMAStall *stall)
{
    monitor_printf(mon, "rdma stalls, %s: %" PRIu64 ", %" PRIu64 " us\n",
                   cause, stall->count, stall->time_us);
}

static void print_peer(Monitor *mon, const MigrationRDMA *rdma)
{
    monitor_printf(mon, "rdma device: %s\n", rdma->device ?: "none yet");
    monitor_printf(mon, "rdma peer: %s", MigrationRDMAPeer_str(rdma->peer));
    for (MigrationRDMAExtensionList *at = rdma->extensions; at;
         at = at->next) {
        monitor_printf(mon, "%s%s", at == rdma->extensions ? ": " : ", ",
                       MigrationRDMAExtension_str(at->value));
    }
    monitor_printf(mon, "\nrdma pin-all: %s\n", rdma->pin_all ? "on" : "off");
    if (rdma->has_waiting_for) {
        monitor_printf(mon, "rdma waiting for: %s\n",
                       MigrationRDMAWait_str(rdma->waiting_for));
    }
}

static void print_registration(Monitor *mon, const MigrationRDMA *rdma)
{
    print_pinned(mon, "", rdma->pinned);
    if (rdma->peer_pinned) {
        print_pinned(mon, "peer ", rdma->peer_pinned);
    }
    monitor_printf(mon, "rdma chunks: %" PRIu64 " registered, %" PRIu64
                   " of them again, %" PRIu64 " evicted, %" PRIu64
                   " refused\n", rdma->chunks_registered, rdma->chunks_again,
                   rdma->chunks_evicted, rdma->chunks_refused);
    monitor_printf(mon, "rdma registration: %" PRIu64 " us hidden, %" PRIu64
                   " us exposed\n", rdma->register_hidden_us,
                   rdma->register_exposed_us);
    print_stall(mon, "late", rdma->stalls->late);
    print_stall(mon, "unknown", rdma->stalls->unknown);
    print_stall(mon, "budget", rdma->stalls->budget);
    monitor_printf(mon, "rdma window: %" PRIu64 " kbytes\n",
                   rdma->window_bytes >> 10);
}

void rdma_hmp_info_migrate(Monitor *mon, const MigrationInfo *info)
{
    const MigrationRDMA *rdma = info->rdma;

    if (!rdma) {
        return;
    }
    print_peer(mon, rdma);
    print_registration(mon, rdma);
    monitor_printf(mon, "rdma control: %" PRIu64 " messages, %" PRIu64
                   " bytes\n", rdma->control_messages, rdma->control_bytes);
    monitor_printf(mon, "rdma writes: %" PRIu64 ", %" PRIu64 " kbytes",
                   rdma->writes, rdma->write_bytes >> 10);
    if (rdma->has_pages_per_write) {
        monitor_printf(mon, ", %0.2f pages each", rdma->pages_per_write);
    }
    monitor_printf(mon, "\nrdma pages: %" PRIu64 " data, %" PRIu64
                   " zero, %" PRIu64 " of them skipped, %" PRIu64
                   " zero runs\n", rdma->data_pages, rdma->zero_pages,
                   rdma->skipped_pages, rdma->zero_runs);
}
