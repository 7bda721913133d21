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
 * data, whether there is a place for it in this migration, and what else its
 * host has asked for.  What passes is a candidate; it waits, and then is
 * accepted with a queue pair and message buffers of its own, ACCEPTING_MAX at a
 * time: as many as memory is set aside for, as the return path has its own
 * later.  The first whose peer completes the connection has it.
 *
 * One that its peer does not complete keeps its place for RMIG_LINK_CONNECT_MS,
 * but only for HURRY_MS if another host waits for it.  Of each host one is
 * accepted at a time and one waits (a source asks for its return path as soon
 * as it holds the main connection complete, of which this side may hear later).
 * So no host can fill the places alone, and a flood makes no more than four
 * queue pairs a second.  A source whose host asks for nothing else is let in
 * within CANDIDATES_MAX / ACCEPTING_MAX * (HURRY_MS + a tick), 6 s, as long as
 * fewer than CANDIDATES_MAX - ACCEPTING_MAX other hosts ask at the same time.
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
    RMigLink *twin; /* the same request again; NULL: none */
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
    rmig_link_free(c->twin);
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

/* The candidate of @link's host that is being accepted, or that waits */
static Candidate *same_host(RMigDest *d, const RMigLink *link, bool accepting)
{
    for (GList *l = d->candidates.head; l; l = l->next) {
        Candidate *c = l->data;

        if (is_accepting(c) == accepting &&
            rmig_link_same_peer(c->link, link)) {
            return c;
        }
    }
    return NULL;
}

static GError *refusal(const char *why)
{
    return g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                       "refused another RDMA connection while %s", why);
}

/* NULL: nothing speaks against it */
static GError *judge(RMigDest *d, const RMigLink *link)
{
    if (d->main.link &&
        (d->back.link || !rmig_link_same_peer(d->main.link, link))) {
        return refusal("a migration comes in");
    }
    /* One more than is being accepted, in case that comes to nothing */
    if (same_host(d, link, false)) {
        return refusal("others from the same host are being made");
    }
    if (d->candidates.length == CANDIDATES_MAX) {
        return refusal("many others are being made");
    }
    return NULL;
}

/*
 * Events may come twice.  To refuse the second, or to free it, would be an
 * answer to the one that is being dealt with; so it is kept until that is over.
 * True if @link is such a one, which is taken then.
 */
static bool take_twin(RMigDest *d, RMigLink *link)
{
    for (GList *l = d->candidates.head; l; l = l->next) {
        Candidate *c = l->data;

        if (rmig_link_same_request(c->link, link)) {
            rmig_link_free(c->twin);
            c->twin = link;
            return true;
        }
    }
    if ((d->main.link && rmig_link_same_request(d->main.link, link)) ||
        (d->back.link && rmig_link_same_request(d->back.link, link))) {
        rmig_link_free(link);
        return true;
    }
    return false;
}

static void take_link(RMigDest *d, RMigLink *link,
                      const RMigWirePrivate *asked)
{
    GError *why;
    Candidate *c;

    if (take_twin(d, link)) {
        return;
    }
    why = judge(d, link);
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

/* ---- candidates ---- */

/* On the main connection the source commands, on the return path we do */
static bool start(RMigDest *d, Candidate *c, GError **err)
{
    if (!rmig_link_prepare(c->link, d->main.link ? "return path" :
                           "main connection", err)) {
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
        if (c->granted.flags & RMIG_WIRE_FLAG_HANDOVER) {
            rmig_control_set_hands_over(c->conn.control);
        }
    }
    c->since_us = g_get_monotonic_time();
    return rmig_link_accept(c->link, &c->granted, err) &&
           rmig_listener_watch(d->listener, c->link, err);
}

static void start_or_drop(RMigDest *d, Candidate *c)
{
    GError *why = NULL;

    if (start(d, c, &why)) {
        return;
    }
    if (c->link) {
        drop(d, c, why);
        return;
    }
    note(d, why);
    g_queue_remove(&d->candidates, c);
    rmig_link_free(c->twin);
    g_free(c->warning);
    g_free(c);
}

/*
 * The one that has waited the longest, of those that need not wait for another
 * of their own host; NULL: none
 */
static Candidate *next_waiting(RMigDest *d)
{
    for (GList *l = d->candidates.head; l; l = l->next) {
        Candidate *c = l->data;

        if (!is_accepting(c) && !same_host(d, c->link, true)) {
            return c;
        }
    }
    return NULL;
}

static unsigned count_accepting(const RMigDest *d)
{
    unsigned n = 0;

    for (GList *l = d->candidates.head; l; l = l->next) {
        n += is_accepting(l->data);
    }
    return n;
}

static void start_waiting(RMigDest *d)
{
    Candidate *c;

    while (count_accepting(d) < ACCEPTING_MAX && (c = next_waiting(d))) {
        start_or_drop(d, c);
    }
}

static void take_requests(RMigDest *d)
{
    for (unsigned i = 0; i < TAKE_MAX; i++) {
        RMigWirePrivate asked = { 0 };
        GError *why = NULL;
        RMigLink *link =
            rmig_listener_take(d->listener, "connection that is asked for",
                               &d->config.waiter, d->shutdown, &asked, &why);

        if (link) {
            take_link(d, link, &asked);
            start_waiting(d);
        } else if (why) {
            note(d, why);
        } else {
            break;
        }
    }
}

static bool is_late(const Candidate *c, int64_t after_ms)
{
    return g_get_monotonic_time() - c->since_us >= after_ms * 1000;
}

/* Those whose peer has left, or that have had their time */
static void drop_lost(RMigDest *d)
{
    GList *next;

    for (GList *l = d->candidates.head; l; l = next) {
        Candidate *c = l->data;
        GError *why = NULL;
        int ret = rmig_link_accepted(c->link, &why);
        bool wanted = count_accepting(d) == ACCEPTING_MAX && next_waiting(d);

        next = l->next;
        if (ret < 0) {
            drop(d, c, why);
        } else if (ret == 0 && is_accepting(c) &&
                   is_late(c, wanted ? HURRY_MS : RMIG_LINK_CONNECT_MS)) {
            drop(d, c, g_error_new(RMIG_LINK_ERROR, RMIG_LINK_ERROR_TIMEOUT,
                                   "timed out while waiting for the peer to "
                                   "complete the connection"));
        }
    }
}

/* Those for which there is no place any more */
static void refuse_others(RMigDest *d)
{
    GList *next;

    for (GList *l = d->candidates.head; l; l = next) {
        Candidate *c = l->data;

        next = l->next;
        if (d->back.link || is_accepting(c) ||
            !rmig_link_same_peer(d->main.link, c->link)) {
            drop(d, c, refusal("a migration comes in"));
        }
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
    rmig_link_free(c->twin);
    g_free(c->warning);
    g_free(c);
    refuse_others(d);
    start_waiting(d);
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
