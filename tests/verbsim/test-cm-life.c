/*
 * Tests of the connection manager: ends, threads, synchronous calls, and
 * other processes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "test-cm.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------ the end */

static void test_disconnect(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_nothing(rig.server, 20);
    g_assert_ok(rdma_disconnect(rig.active));
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    /* Nothing is left to do, and that is no error. */
    g_assert_ok(rdma_disconnect(rig.active));
    rig_free(&rig);
}

static void test_disconnect_unanswered(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.server, RDMA_CM_EVENT_DISCONNECTED, -ETIMEDOUT);
    expect_only(rig.server, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
}

static void test_destroyed_peer(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    g_assert_ok(rdma_destroy_id(rig.passive));
    rig.passive = NULL;
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    rig_free(&rig);
}

/* Closing a channel ends what is on it; the identifiers can be destroyed. */
static void test_closed_channel(void)
{
    Rig rig = rig_new();

    rig_listen(&rig, 1);
    rig_connect(&rig);
    rdma_destroy_event_channel(rig.server);
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    g_assert_ok(rdma_disconnect(rig.passive));
    g_assert_errno(rdma_listen(rig.listener, 1), EINVAL);
    rig.server = rdma_create_event_channel();
    g_assert_ok(fcntl(rig.server->fd, F_SETFL, O_NONBLOCK));
    rig_free(&rig);
}

/* ----------------------------------------------- threads, synchronous calls */

static void *destroy_active(void *opaque)
{
    Rig *rig = opaque;

    g_assert_ok(rdma_destroy_id(rig->active));
    return rig;
}

static void test_destroy_waits(void)
{
    struct rdma_cm_event *event;
    struct timespec until;
    Rig rig = rig_new();
    pthread_t thread;

    rig.active = rig_route(&rig, 9);
    rig_ask(&rig);
    event = expect(rig.client, RDMA_CM_EVENT_REJECTED, 8);
    g_assert_ok(pthread_create(&thread, NULL, destroy_active, &rig));
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    g_assert_cmpint(pthread_timedjoin_np(thread, NULL, &until), ==, ETIMEDOUT);
    g_assert_ok(rdma_ack_cm_event(event));
    g_assert_ok(pthread_join(thread, NULL));
    rig.active = NULL;
    rig_free(&rig);
}

static void *take_one(void *opaque)
{
    struct rdma_cm_event *event;

    rdma_get_cm_event(opaque, &event);
    return opaque;
}

/* As perftest and rping do: the event thread is cancelled as it waits. */
static void test_cancelled(void)
{
    struct rdma_event_channel *channel = rdma_create_event_channel();
    pthread_t thread;
    void *result;
    Rig rig;

    g_assert_ok(pthread_create(&thread, NULL, take_one, channel));
    g_usleep(50000);
    g_assert_ok(pthread_cancel(thread));
    g_assert_ok(pthread_join(thread, &result));
    g_assert_true(result == PTHREAD_CANCELED);
    rdma_destroy_event_channel(channel);
    /* It has not left a lock behind. */
    rig = rig_new();
    rig_listen(&rig, 1);
    rig_connect(&rig);
    rig_free(&rig);
}

static void test_migrate(void)
{
    struct rdma_event_channel *other = rdma_create_event_channel();
    Rig rig = rig_new();

    g_assert_ok(fcntl(other->fd, F_SETFL, O_NONBLOCK));
    rig_listen(&rig, 1);
    rig_connect(&rig);
    g_assert_ok(rdma_disconnect(rig.active));
    g_usleep(20000);
    /* With the event that waits. */
    g_assert_ok(rdma_migrate_id(rig.passive, other));
    g_assert_true(rig.passive->channel == other);
    expect_nothing(rig.server, 0);
    expect_only(other, RDMA_CM_EVENT_DISCONNECTED, 0);
    g_assert_ok(rdma_disconnect(rig.passive));
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(other, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    rig_free(&rig);
    rdma_destroy_event_channel(other);
}

static const struct ibv_qp_init_attr sync_attr = {
    .cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1,
             .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
};

static void *sync_server(void *opaque)
{
    struct rdma_cm_id *listener = opaque, *id;

    g_assert_ok(rdma_get_request(listener, &id));
    g_assert_nonnull(id->qp);
    expect_private(id->event, "sync", 56);
    g_assert_ok(rdma_accept(id, NULL));
    g_assert_cmpint(id->event->event, ==, RDMA_CM_EVENT_ESTABLISHED);
    g_assert_ok(rdma_disconnect(id));
    rdma_destroy_ep(id);
    g_assert_ok(rdma_get_request(listener, &id));
    g_assert_ok(rdma_reject(id, NULL, 0));
    rdma_destroy_ep(id);
    return NULL;
}

static struct rdma_cm_id *endpoint(const char *port, int flags)
{
    struct rdma_addrinfo hints = { .ai_flags = flags,
                                   .ai_port_space = RDMA_PS_TCP };
    struct ibv_qp_init_attr attr = sync_attr;
    struct rdma_addrinfo *info;
    struct rdma_cm_id *id;

    g_assert_ok(rdma_getaddrinfo("127.0.0.1", port, &hints, &info));
    g_assert_ok(rdma_create_ep(&id, info, NULL, &attr));
    rdma_freeaddrinfo(info);
    return id;
}

static void test_sync(void)
{
    struct rdma_conn_param param = { .private_data = "sync",
                                     .private_data_len = 4 };
    struct rdma_cm_id *listener = endpoint("0", RAI_PASSIVE), *id;
    g_autofree char *port = NULL;
    pthread_t thread;

    g_assert_ok(rdma_listen(listener, 2));
    port = g_strdup_printf("%u", ntohs(rdma_get_src_port(listener)));
    g_assert_ok(pthread_create(&thread, NULL, sync_server, listener));
    id = endpoint(port, 0);
    g_assert_ok(rdma_connect(id, &param));
    g_assert_cmpint(id->event->event, ==, RDMA_CM_EVENT_ESTABLISHED);
    g_assert_ok(rdma_disconnect(id));
    rdma_destroy_ep(id);
    id = endpoint(port, 0);
    g_assert_errno(rdma_connect(id, &param), ECONNREFUSED);
    rdma_destroy_ep(id);
    g_assert_ok(pthread_join(thread, NULL));
    rdma_destroy_ep(listener);

    g_assert_ok(rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP));
    g_assert_errno(rdma_resolve_addr(id, NULL, address("203.0.113.7", 4), 50),
                   ETIMEDOUT);
    g_assert_ok(rdma_destroy_id(id));
}

/* -------------------------------------------------------- another process */

/* The child: a listener that prints its port. */
static struct rdma_event_channel *serve(void)
{
    struct rdma_event_channel *channel = rdma_create_event_channel();
    struct rdma_cm_id *id;

    g_assert_ok(rdma_create_id(channel, &id, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_bind_addr(id, address("127.0.0.1", 0)));
    g_assert_ok(rdma_listen(id, 8));
    printf("%05u", ntohs(rdma_get_src_port(id)));
    fflush(stdout);
    return channel;
}

/* Accepts the first request, and sleeps until it is killed. */
static G_NORETURN void be_acceptor(void)
{
    struct rdma_conn_param param = { .qp_num = SERVER_QPN };
    struct rdma_event_channel *channel = serve();
    struct rdma_cm_event *event;

    for (bool first = true;; first = false) {
        g_assert_ok(rdma_get_cm_event(channel, &event));
        if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST && first) {
            g_assert_ok(rdma_accept(event->id, &param));
        }
    }
}

static G_NORETURN void be_refuser(void)
{
    struct rdma_event_channel *channel = serve();
    struct rdma_cm_event *event;

    g_assert_ok(rdma_get_cm_event(channel, &event));
    g_assert_ok(rdma_reject(event->id, "last words", 10));
    exit(EXIT_SUCCESS);
}

static GPid start_child(const char *role, uint16_t *port)
{
    char self[] = "/proc/self/exe", text[6] = "";
    char *argv[] = { self, NULL };
    GError *err = NULL;
    GPid pid;
    int out;

    g_setenv("TEST_CM_ROLE", role, true);
    g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                             NULL, &pid, NULL, &out, NULL, &err);
    g_assert_no_error(err);
    g_unsetenv("TEST_CM_ROLE");
    for (int n = 0; n < 5;) {
        ssize_t got = read(out, text + n, 5 - n);

        g_assert_cmpint(got, >, 0);
        n += got;
    }
    close(out);
    *port = atoi(text);
    return pid;
}

static void test_peer_dies(void)
{
    struct rdma_cm_id *connected;
    Rig rig = rig_new();
    uint16_t port;
    GPid pid = start_child("acceptor", &port);

    rig.active = rig_route(&rig, port);
    rig_ask(&rig);
    expect_only(rig.client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_establish(rig.active));
    connected = rig.active;
    rig.active = rig_route(&rig, port);
    rig_ask(&rig);
    expect_nothing(rig.client, CM_TIMEOUT_MS / 2);
    kill(pid, SIGKILL);
    expect_only(rig.client, RDMA_CM_EVENT_DISCONNECTED, 0);
    expect_only(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    waitpid(pid, NULL, 0);
    g_assert_ok(rdma_disconnect(connected));
    expect_only(rig.client, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0);
    g_assert_ok(rdma_destroy_id(connected));
    rig_free(&rig);
}

/* What a process has said is heard, though it exits at once. */
static void test_last_words(void)
{
    struct rdma_cm_event *event;
    Rig rig = rig_new();
    uint16_t port;
    GPid pid = start_child("refuser", &port);

    rig.active = rig_route(&rig, port);
    rig_ask(&rig);
    event = expect(rig.client, RDMA_CM_EVENT_REJECTED, 28);
    expect_private(event, "last words", 148);
    g_assert_ok(rdma_ack_cm_event(event));
    waitpid(pid, NULL, 0);
    rig_free(&rig);
}

int main(int argc, char **argv)
{
    if (!g_strcmp0(g_getenv("TEST_CM_ROLE"), "acceptor")) {
        be_acceptor();
    } else if (!g_strcmp0(g_getenv("TEST_CM_ROLE"), "refuser")) {
        be_refuser();
    }
    cm_test_init(&argc, &argv);
    g_test_add_func("/cm-life/disconnect", test_disconnect);
    g_test_add_func("/cm-life/disconnect-unanswered",
                    test_disconnect_unanswered);
    g_test_add_func("/cm-life/destroyed-peer", test_destroyed_peer);
    g_test_add_func("/cm-life/closed-channel", test_closed_channel);
    g_test_add_func("/cm-life/destroy-waits", test_destroy_waits);
    g_test_add_func("/cm-life/cancelled", test_cancelled);
    g_test_add_func("/cm-life/migrate", test_migrate);
    g_test_add_func("/cm-life/sync", test_sync);
    g_test_add_func("/cm-life/peer-dies", test_peer_dies);
    g_test_add_func("/cm-life/last-words", test_last_words);
    return g_test_run();
}
