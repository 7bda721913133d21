/*
 * RDMA migration transport: connections that the destination is asked for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_dest_accept() of migration/rdma-transport.h: who is let in.
 * Callers: the face, whenever rmig_dest_listen_fd() is readable.
 * Thread: the destination's.  Nothing here waits.
 *
 * Anybody on the network can ask, as often as he likes, and need not go on
 * with it.  So a request is judged first by what costs nothing: its private
 * data, whether there is a place for it in this migration, and whether its host
 * has another one.  What passes is a candidate; it waits, and then is accepted
 * with a queue pair and message buffers of its own, ACCEPTING_MAX at a time: as
 * many as memory is set aside for, as the return path has its own later.  The
 * first whose peer completes the connection has it, and the others go.
 *
 * One that its peer does not complete has its place for RMIG_LINK_CONNECT_MS,
 * but only for HURRY_MS if another waits for it.  A host has one candidate: it
 * cannot fill the places alone, and a flood costs it no more of ours than two
 * queue pairs a second.  So a source whose host asks only once is let in
 * within CANDIDATES_MAX / ACCEPTING_MAX * (HURRY_MS + a tick), 6 s, as long as
 * fewer than CANDIDATES_MAX other hosts ask at the same time.
 */
#include "dest-priv.h"

#define CANDIDATES_MAX 16
#define ACCEPTING_MAX 2
#define HURRY_MS 500
/* Requests that are looked at before others in this thread have their turn */
#define TAKE_MAX 32
/* A refusal is told, those that follow are counted and told that much later */
#define TELL_US (10 * G_USEC_PER_SEC)

typedef struct Candidate {
    RMigLink *link; /* owned by @conn, if that is open */
    RMigConn conn;
    RMigWirePrivate asked;
    RMigWirePrivate granted;
    char *warning;    /* that goes with @granted; NULL: none */
    int64_t since_us; /* that it waits, or is being accepted */
} Candidate;

static bool is_accepting(const Candidate *c)
{
    return c->conn.link != NULL;
}

/* ---- refusals ---- */

/* Consumes @why */
static void note(RMigDest *d, GError *why)
{
    g_clear_error(&d->unlet);
    d->unlet = why;
    d->n_unlet++;
}

static void tell(RMigDest *d, GError **err)
{
    int64_t now = g_get_monotonic_time();

    if (!d->unlet || (d->told_us && now - d->told_us < TELL_US)) {
        return;
    }
    if (d->n_unlet > 1) {
        g_prefix_error(&d->unlet, "%u RDMA connections were not accepted, the "
                       "last one because: ", d->n_unlet);
    }
    d->n_unlet = 0;
    d->told_us = now;
    g_propagate_error(err, g_steal_pointer(&d->unlet));
}

static void free_candidate(Candidate *c)
{
    if (is_accepting(c)) {
        rmig_conn_cleanup(&c->conn);
    } else {
        rmig_link_refuse(c->link);
        rmig_link_free(c->link);
    }
    g_free(c->warning);
    g_free(c);
}

static void drop(RMigDest *d, Candidate *c, GError *why)
{
    note(d, why);
    g_queue_remove(&d->candidates, c);
    rmig_listener_unwatch(d->listener, c->link);
    free_candidate(c);
}

void rmig_dest_drop_candidates(RMigDest *d)
{
    Candidate *c;

    while ((c = g_queue_pop_head(&d->candidates))) {
        rmig_listener_unwatch(d->listener, c->link);
        free_candidate(c);
    }
    g_clear_error(&d->unlet);
}

/* ---- requests ---- */

static Candidate *same_host(RMigDest *d, const RMigLink *link)
{
    for (GList *l = d->candidates.head; l; l = l->next) {
        Candidate *c = l->data;

        if (rmig_link_same_peer(c->link, link)) {
            return c;
        }
    }
    return NULL;
}

static bool is_late(const Candidate *c, int64_t after_ms)
{
    return g_get_monotonic_time() - c->since_us >= after_ms * 1000;
}

static GError *refusal(const char *why)
{
    return g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                       "refused another RDMA connection while %s", why);
}

/* NULL: nothing speaks against it */
static GError *judge(RMigDest *d, RMigLink *link)
{
    Candidate *other = same_host(d, link);

    if (d->main.link &&
        (d->back.link || !rmig_link_same_peer(d->main.link, link))) {
        return refusal("a migration comes in");
    }
    if (other && !is_late(other, HURRY_MS)) {
        return refusal("one from the same host is being made");
    }
    if (!other && d->candidates.length == CANDIDATES_MAX) {
        return refusal("many others are being made");
    }
    if (other) {
        drop(d, other, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                                   "the peer asked for another RDMA "
                                   "connection before it had completed this "
                                   "one"));
    }
    return NULL;
}

static void take_link(RMigDest *d, RMigLink *link,
                      const RMigWirePrivate *asked)
{
    GError *why = judge(d, link);
    Candidate *c;

    if (why || !rmig_listener_watch(d->listener, link, &why)) {
        note(d, why);
        rmig_link_refuse(link);
        rmig_link_free(link);
        return;
    }
    c = g_new0(Candidate, 1);
    c->link = link;
    c->asked = *asked;
    c->since_us = g_get_monotonic_time();
    g_queue_push_tail(&d->candidates, c);
}

static void take_requests(RMigDest *d)
{
    for (unsigned i = 0; i < TAKE_MAX; i++) {
        RMigWirePrivate asked = { 0 };
        GError *why = NULL;
        RMigLink *link =
            rmig_listener_take(d->listener, d->main.link ? "return path" :
                               "main connection", &d->config.waiter,
                               d->shutdown, &asked, &why);

        if (link) {
            take_link(d, link, &asked);
        } else if (why) {
            note(d, why);
        } else {
            break;
        }
    }
}

/* ---- candidates ---- */

/* On the main connection the source commands, on the return path we do */
static bool start(RMigDest *d, Candidate *c, GError **err)
{
    if (!rmig_link_prepare(c->link, err)) {
        return false;
    }
    /* Which takes the link, and frees it if it fails */
    rmig_listener_unwatch(d->listener, c->link);
    if (!rmig_conn_init(&c->conn, c->link, d->main.link != NULL, err)) {
        c->link = NULL;
        return false;
    }
    if (d->main.link) {
        c->granted.flags = c->asked.flags & d->granted &
                           ~RMIG_WIRE_FLAG_BUDGET;
    } else {
        c->granted = rmig_dest_grant(d, &c->asked, &c->warning);
        if (c->granted.flags & RMIG_WIRE_FLAG_BATCH) {
            rmig_control_set_pipelined(c->conn.control);
        }
    }
    c->since_us = g_get_monotonic_time();
    return rmig_link_accept(c->link, &c->granted, err) &&
           rmig_listener_watch(d->listener, c->link, err);
}

static void start_waiting(RMigDest *d)
{
    unsigned accepting = 0;
    GList *next;

    for (GList *l = d->candidates.head; l; l = next) {
        Candidate *c = l->data;
        GError *why = NULL;

        next = l->next;
        if (is_accepting(c)) {
            accepting++;
        } else if (accepting == ACCEPTING_MAX) {
            return;
        } else if (start(d, c, &why)) {
            accepting++;
        } else if (c->link) {
            drop(d, c, why);
        } else {
            note(d, why);
            g_queue_delete_link(&d->candidates, l);
            g_free(c->warning);
            g_free(c);
        }
    }
}

/*
 * Those whose peer has left, or that have had their time.  The queue is in the
 * order in which they came: all that are being accepted, then all that wait.
 */
static void drop_lost(RMigDest *d)
{
    bool wanted = d->candidates.length > ACCEPTING_MAX;
    GList *next;

    for (GList *l = d->candidates.head; l; l = next) {
        Candidate *c = l->data;
        GError *why = NULL;

        next = l->next;
        if (rmig_link_accepted(c->link, &why) < 0) {
            drop(d, c, why);
        } else if (is_accepting(c) && !rmig_link_is_up(c->link) &&
                   is_late(c, wanted ? HURRY_MS : RMIG_LINK_CONNECT_MS)) {
            drop(d, c, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                                   "timed out while waiting for the peer to "
                                   "complete the connection"));
        }
    }
}

static void refuse_others(RMigDest *d)
{
    while (d->candidates.head) {
        drop(d, d->candidates.head->data, refusal("a migration comes in"));
    }
}

static RMigAccepted let_in(RMigDest *d, Candidate *c)
{
    bool is_main = !d->main.link;

    g_queue_remove(&d->candidates, c);
    rmig_listener_unwatch(d->listener, c->link);
    if (is_main) {
        d->main = c->conn;
        d->granted = c->granted.flags;
        if (c->warning) {
            d->config.ops->warn(d->config.opaque, c->warning);
        }
    } else {
        d->back = c->conn;
    }
    g_free(c->warning);
    g_free(c);
    refuse_others(d);
    rmig_dest_publish(d);
    return is_main ? RMIG_ACCEPTED_MAIN : RMIG_ACCEPTED_RETURN;
}

static RMigAccepted find_completed(RMigDest *d)
{
    for (GList *l = d->candidates.head; l; l = l->next) {
        Candidate *c = l->data;

        if (is_accepting(c) && rmig_link_accepted(c->link, NULL) > 0) {
            return let_in(d, c);
        }
    }
    return RMIG_ACCEPTED_NOTHING;
}

RMigAccepted rmig_dest_accept(RMigDest *d, GError **err)
{
    RMigAccepted accepted;

    take_requests(d);
    drop_lost(d);
    start_waiting(d);
    accepted = find_completed(d);
    if (accepted == RMIG_ACCEPTED_NOTHING) {
        tell(d, err);
    }
    rmig_listener_tick(d->listener, d->candidates.head || d->unlet);
    return accepted;
}

bool rmig_dest_return_pending(const RMigDest *d)
{
    return d->main.link && !d->back.link && d->candidates.head;
}
