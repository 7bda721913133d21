/*
 * A stand-in for the link room: a scripted peer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See fake-link.h.
 */
#include "fake-link.h"

#include <poll.h>
#include <string.h>

/* Heartbeats of a wait in which nothing else happens */
#define BEATS 3

GQuark rmig_link_error_quark(void)
{
    return g_quark_from_static_string("rmig-link-error-quark");
}

RMigLink *fake_link_new(void)
{
    RMigLink *link = g_new0(RMigLink, 1);

    link->verbs = fake_verbs_new();
    link->watched_fd = -1;
    g_queue_init(&link->script);
    return link;
}

void rmig_link_free(RMigLink *link)
{
    if (!link) {
        return;
    }
    rmig_link_disconnect(link);
    g_queue_clear_full(&link->script, (GDestroyNotify)g_bytes_unref);
    fake_verbs_free(link->verbs);
    g_clear_error(&link->error);
    g_free(link);
}

GBytes *fake_link_message(RMigWireType type, const void *data, uint32_t len,
                          uint32_t repeat)
{
    RMigWireHeader header = { .len = len, .type = type, .repeat = repeat };
    uint8_t *buf = g_malloc0(RMIG_WIRE_HEADER_BYTES + len);

    rmig_wire_header_pack(buf, &header);
    if (data) {
        memcpy(buf + RMIG_WIRE_HEADER_BYTES, data, len);
    }
    return g_bytes_new_take(buf, RMIG_WIRE_HEADER_BYTES + len);
}

void fake_link_script(RMigLink *link, GBytes *message)
{
    g_queue_push_tail(&link->script, message);
}

void fake_link_script_type(RMigLink *link, RMigWireType type)
{
    static const uint32_t record[RMIG_WIRE_TYPES] = {
        [RMIG_WIRE_QEMU_FILE] = 1,
        [RMIG_WIRE_RAM_BLOCKS_RESULT] = RMIG_WIRE_BLOCK_BYTES,
        [RMIG_WIRE_COMPRESS] = RMIG_WIRE_ZERO_RUN_BYTES,
        [RMIG_WIRE_REGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_REGISTER_RESULT] = RMIG_WIRE_RESULT_BYTES,
        [RMIG_WIRE_UNREGISTER_REQUEST] = RMIG_WIRE_REGISTER_BYTES,
        [RMIG_WIRE_LOADED] = RMIG_WIRE_LOADED_BYTES,
    };

    fake_link_script(link, fake_link_message(type, NULL, record[type], 1));
}

void fake_link_script_close(RMigLink *link)
{
    fake_link_script(link, g_bytes_new(NULL, 0));
}

void fake_link_script_raw(RMigLink *link, const void *data, uint32_t len)
{
    fake_link_script(link, g_bytes_new(data, len));
}

static void say_ready(RMigLink *link, RMigWireType type, const FakePost *sent)
{
    (void)type;
    (void)sent;
    fake_link_script_type(link, RMIG_WIRE_READY);
}

void fake_link_oblige(RMigLink *link)
{
    fake_link_script_type(link, RMIG_WIRE_READY);
    link->peer = say_ready;
}

/* The peer sees what was sent to it since the last time */
static void ask_peer(RMigLink *link)
{
    while (link->peer && link->answered < link->verbs->posts->len) {
        const FakePost *post = fake_verbs_post(link->verbs, link->answered++);
        RMigWireMessage msg;
        gsize len;
        const void *data;

        if (post->kind == FAKE_SEND) {
            data = g_bytes_get_data(post->data, &len);
            g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
            link->peer(link, msg.type, post);
        }
    }
}

/* Whether what is watched says something, now or in a moment */
static bool watched_happens(RMigLink *link, bool due)
{
    struct pollfd pfd = { .fd = link->watched_fd, .events = POLLIN };
    int ms = link->in_step ? link->watched_wait_ms : 0;

    if (link->watched_fd < 0 ||
        (!due && (link->watched_wait_ms == 0 || poll(&pfd, 1, ms) <= 0))) {
        return false;
    }
    link->watched_ready(link->watched_opaque);
    return true;
}

/* Whether the peer makes use of its turn to say what it owes */
static bool owes(RMigLink *link)
{
    return link->owes && link->owes(link);
}

/* One of the things that can happen next, which does; false: none can */
static bool happen_at_random(RMigLink *link)
{
    unsigned ripe = fake_verbs_ripe(link->verbs, 0);
    bool sends = link->answered < link->verbs->posts->len;
    bool comes = !g_queue_is_empty(&link->script);
    int what = g_test_rand_int_range(0, 4);

    if (what == 3 && owes(link)) {
        return true;
    }
    if (comes && (what == 0 || (ripe == 0 && !sends))) {
        g_autoptr(GBytes) next = g_queue_pop_head(&link->script);
        gsize len;
        const void *data = g_bytes_get_data(next, &len);

        fake_verbs_arrive(link->verbs, data, len);
        return true;
    }
    if (ripe > 0 && (what == 1 || !sends)) {
        unsigned keep = g_test_rand_int_range(0, ripe);
        unsigned some = fake_verbs_ripe(link->verbs,
                                        fake_verbs_pending(link->verbs) -
                                        (ripe - keep));

        fake_verbs_complete(link->verbs, some ? some : ripe);
        return true;
    }
    if (sends) {
        ask_peer(link);
        return true;
    }
    return owes(link) || watched_happens(link, false);
}

/* Lets one thing happen; false if there is nothing left that could */
static bool happen(RMigLink *link)
{
    g_autoptr(GBytes) next = NULL;
    unsigned ripe;
    gsize len;
    const void *data;

    if (link->watched_due) {
        link->watched_due = false;
        return watched_happens(link, true);
    }
    if (link->frozen) {
        return watched_happens(link, false);
    }
    if (link->random) {
        return happen_at_random(link);
    }
    if (g_queue_is_empty(&link->script)) {
        ask_peer(link);
    }
    if (g_queue_is_empty(&link->script) && owes(link)) {
        return true;
    }
    next = g_queue_pop_head(&link->script);

    if (next && g_bytes_get_size(next) == 0) {
        rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR,
                                         RMIG_LINK_ERROR_CLOSED,
                                         "the peer closed the connection"));
        return true;
    }
    if (next) {
        /* What the peer reacts to may be unacknowledged, nothing older is */
        fake_verbs_complete(link->verbs, fake_verbs_ripe(link->verbs, 1));
        data = g_bytes_get_data(next, &len);
        fake_verbs_arrive(link->verbs, data, len);
        return true;
    }
    ripe = fake_verbs_ripe(link->verbs, 0);
    fake_verbs_complete(link->verbs, ripe);
    return ripe > 0 || watched_happens(link, false);
}

static void probe_done(RMigWork *work, uint32_t bytes)
{
    (void)bytes;
    ((RMigLink *)work->owner)->probing = false;
}

/* As the real one does in a second without a completion */
static void post_probe(RMigLink *link)
{
    if (link->probing || link->verbs->fail_post == 0) {
        return;
    }
    link->probe = (RMigWork) { .what = "heartbeat", .done = probe_done,
                               .owner = link };
    link->probing = true;
    g_assert_true(rmig_verbs_post_probe(link->verbs, &link->probe, NULL));
}

int rmig_link_poll(RMigLink *link, GError **err)
{
    bool probing = link->probing;
    unsigned completed = link->verbs->completed;

    link->steps++;
    if (link->shutdown && rmig_shutdown_triggered(link->shutdown)) {
        rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR,
                                         RMIG_LINK_ERROR_SHUTDOWN,
                                         "the connection was shut down"));
    }
    if (link->error) {
        if (err) {
            *err = g_error_copy(link->error);
        }
        return -1;
    }
    if (!happen(link)) {
        return 0;
    }
    if (probing && !link->probing && link->verbs->completed == completed + 1) {
        return 1; /* it was only the heartbeat */
    }
    link->idle_deadline_us = 0;
    link->beats = 0;
    return 1;
}

int rmig_link_arm(RMigLink *link, GError **err)
{
    return rmig_link_poll(link, err);
}

bool rmig_link_step(RMigLink *link, int64_t deadline_us, const char *what,
                    GError **err)
{
    int ret;

    link->in_step = true;
    ret = rmig_link_poll(link, err);
    link->in_step = false;
    if (ret == 0) {
        link->idle_steps++;
        if (deadline_us == 0 && link->patience) {
            link->patience(link);
            return true;
        }
        g_assert_cmpint(deadline_us, >, 0); /* it would sleep for ever */
        /* Waking up for nothing or for a heartbeat must not put off the end */
        g_assert_true(!link->idle_deadline_us ||
                      deadline_us == link->idle_deadline_us);
        link->idle_deadline_us = deadline_us;
        if (link->beats++ < BEATS) {
            g_usleep(1000); /* so that one that moves is seen to */
            post_probe(link);
            return true;
        }
        rmig_link_fail(link, g_error_new(RMIG_LINK_ERROR,
                                         RMIG_LINK_ERROR_TIMEOUT,
                                         "timed out while waiting for %s",
                                         what));
        return rmig_link_poll(link, err) > 0;
    }
    return ret > 0;
}

void rmig_link_rest(RMigLink *link)
{
    link->rests++;
}

void rmig_link_fail(RMigLink *link, GError *err)
{
    if (link->error) {
        g_error_free(err);
    } else {
        link->error = err;
    }
}

bool rmig_link_failed(const RMigLink *link)
{
    return link->error != NULL;
}

bool rmig_link_check(const RMigLink *link, GError **err)
{
    if (link->error && err) {
        *err = g_error_copy(link->error);
    }
    return !link->error;
}

bool rmig_link_settle(RMigLink *link, int64_t timeout_ms, GError **err)
{
    g_assert_cmpint(timeout_ms, >, 0);
    g_assert_false(link->disconnected);
    if (link->break_settling) {
        g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_COMPLETION,
                    "SEND failed");
        return false;
    }
    fake_verbs_complete(link->verbs, fake_verbs_ripe(link->verbs, 0));
    return true;
}

bool rmig_link_drain(RMigLink *link, int64_t timeout_ms, const char *what,
                     GError **err)
{
    int64_t deadline = g_get_monotonic_time() + timeout_ms * 1000;

    g_assert_cmpint(timeout_ms, >, 0);
    if (link->break_settling) {
        rmig_link_fail(link, g_error_new(RMIG_VERBS_ERROR,
                                         RMIG_VERBS_ERROR_COMPLETION,
                                         "SEND failed"));
    }
    while (fake_verbs_pending(link->verbs) > 0) {
        if (!rmig_link_step(link, deadline, what, err)) {
            return false;
        }
    }
    return rmig_link_check(link, err);
}

bool rmig_link_look(RMigLink *link, GError **err)
{
    int ret;

    do {
        ret = rmig_link_poll(link, err);
    } while (ret > 0);
    return ret == 0;
}

bool rmig_link_ask(RMigLink *link, GError **err)
{
    link->asks++;
    if (link->no_answer) {
        rmig_link_fail(link, g_error_new(RMIG_VERBS_ERROR,
                                         RMIG_VERBS_ERROR_COMPLETION,
                                         "heartbeat failed"));
    }
    return rmig_link_look(link, err);
}

void rmig_link_disconnect(RMigLink *link)
{
    g_atomic_int_set(&link->disconnected, true);
}

RMigVerbs *rmig_link_verbs(RMigLink *link)
{
    return link->verbs;
}

const char *rmig_link_device_name(const RMigLink *link)
{
    (void)link;
    return "fake0";
}

bool rmig_link_watch(RMigLink *link, int fd, void (*ready)(void *opaque),
                     void *opaque, GError **err)
{
    (void)err;
    link->watched_fd = fd;
    link->watched_ready = ready;
    link->watched_opaque = opaque;
    return true;
}

int rmig_link_fd(const RMigLink *link)
{
    (void)link;
    return 42;
}
