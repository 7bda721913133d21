/*
 * verbsim: the connection manager's event channels and identifiers
 *
 * Owns the tables of both.  Called by programs (rdma_create_..., rdma_destroy_
 * ..., rdma_migrate_id) and by the other cm rooms.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <time.h>
#include <unistd.h>

#include "cm.h"

enum { PATIENCE_SECONDS = 2 };

static GHashTable *ids;         /* number -> CmId */
static GHashTable *channels;    /* set */
static uint32_t last_number;

static const char *const state_names[] = {
    [CM_IDLE] = "IDLE",
    [CM_BOUND] = "BOUND",
    [CM_ADDR_QUERY] = "ADDR_QUERY",
    [CM_ADDR_RESOLVED] = "ADDR_RESOLVED",
    [CM_ROUTE_RESOLVED] = "ROUTE_RESOLVED",
    [CM_LISTEN] = "LISTEN",
    [CM_REQ_SENT] = "REQ_SENT",
    [CM_REP_RCVD] = "REP_RCVD",
    [CM_REQ_RCVD] = "REQ_RCVD",
    [CM_REP_SENT] = "REP_SENT",
    [CM_ESTABLISHED] = "ESTABLISHED",
    [CM_DREQ_SENT] = "DREQ_SENT",
    [CM_DREQ_RCVD] = "DREQ_RCVD",
    [CM_TIMEWAIT] = "TIMEWAIT",
    [CM_OVER] = "OVER",
    [CM_REMOVED] = "REMOVED",
};

const char *cm_state_name(CmState state)
{
    return state_names[state];
}

void cm_set_state(CmId *id, CmState state)
{
    VS_TRACE("cm-state", "id=%u qp=%u from=%s to=%s", id->number, id->qp_num,
             state_names[id->state], state_names[state]);
    id->state = state;
}

/* ---------------------------------------------------------------- channels */

struct rdma_event_channel *rdma_create_event_channel(void)
{
    CmChannel *channel;
    int error = cm_start();
    int fd = error ? -1 : cm_event_fd();

    if (error) {
        errno = -error;
    }
    if (fd < 0) {
        return NULL;
    }
    channel = g_new0(CmChannel, 1);
    channel->ch.fd = fd;
    cm_lock();
    if (!channels) {
        channels = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_add(channels, channel);
    cm_unlock();
    return &channel->ch;
}

/*
 * The kernel ends the identifiers of a channel that is closed under them; the
 * program may still call rdma_destroy_id() for what is left of them.
 */
static void stop_ids_of(CmChannel *channel)
{
    g_autoptr(GArray) numbers = cm_id_numbers();

    for (unsigned i = 0; i < numbers->len; i++) {
        CmId *id = cm_id_find(g_array_index(numbers, uint32_t, i));

        if (id && id->id.channel == &channel->ch) {
            cm_id_stop(id);
            id->id.channel = NULL;
        }
    }
}

void rdma_destroy_event_channel(struct rdma_event_channel *ch)
{
    CmChannel *channel = (CmChannel *)ch;

    cm_lock();
    if (!channels || !g_hash_table_contains(channels, channel)) {
        cm_unlock();
        vs_complain("rdma_destroy_event_channel(%p): no such channel; "
                    "destroyed already?", (void *)ch);
        return;
    }
    stop_ids_of(channel);
    g_hash_table_remove(channels, channel);
    cm_unlock();
    close(ch->fd);
    g_free(channel);
}

/* ------------------------------------------------------------- identifiers */

CmId *cm_id_find(uint32_t number)
{
    return ids ? g_hash_table_lookup(ids, GUINT_TO_POINTER(number)) : NULL;
}

static gint older_first(gconstpointer a, gconstpointer b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

GArray *cm_id_numbers(void)
{
    GArray *numbers = g_array_new(false, false, sizeof(uint32_t));
    GHashTableIter iter;
    void *key;

    if (ids) {
        g_hash_table_iter_init(&iter, ids);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            uint32_t number = GPOINTER_TO_UINT(key);

            g_array_append_val(numbers, number);
        }
    }
    g_array_sort(numbers, older_first);
    return numbers;
}

bool cm_id_alive(struct rdma_cm_id *id, const char *function)
{
    GHashTableIter iter;
    void *value;

    if (ids) {
        g_hash_table_iter_init(&iter, ids);
        while (g_hash_table_iter_next(&iter, NULL, &value)) {
            if (value == (void *)id) {
                return true;
            }
        }
    }
    vs_complain("%s(%p): no such identifier; destroyed already?", function,
                (void *)id);
    return false;
}

CmId *cm_id_new(struct rdma_event_channel *channel, void *context,
                enum rdma_port_space ps)
{
    CmId *id = g_new0(CmId, 1);

    if (!ids) {
        ids = g_hash_table_new(NULL, NULL);
    }
    id->number = ++last_number;
    id->id.channel = channel;
    id->id.context = context;
    id->id.ps = ps;
    id->id.qp_type = IBV_QPT_RC;
    id->ack_timeout = -1;
    id->psn = g_random_int() & 0xffffff;
    id->timer.fire = cm_timer_fired;
    id->timer.opaque = id;
    g_hash_table_insert(ids, GUINT_TO_POINTER(id->number), id);
    return id;
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id,
                   void *context, enum rdma_port_space ps)
{
    bool sync = !channel;
    int error = cm_start();
    CmId *made;

    if (error) {
        return cm_errno(-error);
    }
    if (ps != RDMA_PS_TCP) {
        vs_unimplemented(ps == RDMA_PS_UDP || ps == RDMA_PS_IPOIB ?
                         "rdma_create_id (datagrams)" :
                         "rdma_create_id (port space not RDMA_PS_TCP)");
        return -1;
    }
    if (sync) {
        channel = rdma_create_event_channel();
        if (!channel) {
            return -1;
        }
    }
    cm_lock();
    made = cm_id_new(channel, context, ps);
    made->sync = sync;
    made->known = true;
    cm_unlock();
    *id = &made->id;
    return 0;
}

/* What the peer is told when an identifier goes away in this state. */
static void say_goodbye(CmId *id)
{
    switch (id->state) {
    case CM_REQ_SENT:
        cm_send_reject(id, CM_REJ_TIMEOUT, NULL, 0);
        break;
    case CM_REQ_RCVD:
    case CM_REP_SENT:
    case CM_REP_RCVD:
        cm_send_reject(id, CM_REJ_CONSUMER, NULL, 0);
        break;
    case CM_ESTABLISHED:
        cm_send_kind(id, CM_DREQ);
        break;
    case CM_DREQ_RCVD:
        cm_send_kind(id, CM_DREP);
        break;
    default:
        break;
    }
}

void cm_id_stop(CmId *id)
{
    say_goodbye(id);
    cm_set_state(id, CM_OVER);
    id->stopped = true;
    vs_timer_clear(&id->timer);
    cm_event_purge(id);
    cm_unbind(id);
    if (id->peer) {
        vs_peer_unref(id->peer);
        id->peer = NULL;
    }
}

void cm_id_free(CmId *id)
{
    g_hash_table_remove(ids, GUINT_TO_POINTER(id->number));
    g_free(id->id.route.path_rec);
    g_free(id->ep_attr);
    g_free(id);
}

/* Until the program has acknowledged what it took.  Sleeps without the lock. */
static void wait_for_acks(const CmId *id, const char *function)
{
    struct timespec until;
    bool said = false;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_SECONDS;
    while (id->events_got) {
        if (said) {
            pthread_cond_wait(&vs_idle, &vs_lock);
        } else if (pthread_cond_clockwait(&vs_idle, &vs_lock, CLOCK_MONOTONIC,
                                          &until) == ETIMEDOUT) {
            vs_complain("%s still waits for rdma_ack_cm_event (%u)", function,
                        id->events_got);
            said = true;
        }
    }
}

int rdma_destroy_id(struct rdma_cm_id *rid)
{
    struct rdma_event_channel *own = NULL;
    CmId *id = cm_id(rid);

    cm_lock();
    if (!cm_id_alive(rid, "rdma_destroy_id")) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    cm_id_stop(id);
    cm_unlock();
    cm_drop_kept_event(rid);
    cm_lock();
    wait_for_acks(id, "rdma_destroy_id");
    if (id->sync) {
        own = rid->channel;
    }
    cm_id_free(id);
    cm_unlock();
    if (own) {
        rdma_destroy_event_channel(own);
    }
    return 0;
}

int rdma_migrate_id(struct rdma_cm_id *rid, struct rdma_event_channel *to)
{
    struct rdma_event_channel *own = NULL;
    CmId *id = cm_id(rid);
    bool sync = !to;

    if (sync && id->sync) {
        return cm_errno(EINVAL);
    }
    if (sync) {
        to = rdma_create_event_channel();
        if (!to) {
            return -1;
        }
    }
    cm_drop_kept_event(rid);
    cm_lock();
    if (!cm_id_alive(rid, "rdma_migrate_id")) {
        cm_unlock();
        return cm_errno(EINVAL);
    }
    if (id->sync) {
        own = rid->channel;
    }
    cm_event_migrate(id, to);
    wait_for_acks(id, "rdma_migrate_id");
    id->sync = sync;
    cm_unlock();
    if (own) {
        rdma_destroy_event_channel(own);
    }
    return 0;
}

/* ------------------------------------------------------------------- leaks */

static unsigned report(unsigned left, const char *one, const char *kind)
{
    if (left) {
        vs_complain("leak: %u %s%s left at exit", left, one,
                    left == 1 ? "" : "s");
        VS_TRACE("leak", "kind=%s count=%u", kind, left);
    }
    return left;
}

void cm_count(unsigned *num_ids, unsigned *num_channels)
{
    GHashTableIter iter;
    void *value;

    *num_ids = 0;
    *num_channels = channels ? g_hash_table_size(channels) : 0;
    if (!ids) {
        return;
    }
    g_hash_table_iter_init(&iter, ids);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const CmId *id = value;

        *num_ids += id->known;
        *num_channels -= id->sync && id->id.channel;
    }
}

unsigned cm_report_leaks(void)
{
    unsigned num_ids, num_channels;

    cm_count(&num_ids, &num_channels);
    return report(num_ids, "connection identifier", "cm-id") +
           report(num_channels, "connection event channel", "cm-channel");
}
