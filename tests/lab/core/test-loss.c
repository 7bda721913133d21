/*
 * Tests on a real RDMA device: peers that die, freeze, or never answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every case ends by itself, in the time that the core promises, with a
 * message that says what happened.  Most of them wait for seconds, so that
 * core-tests runs them all at the same time, each in a process of its own;
 * but /loss/wire, which breaks the network for everybody.
 *
 * This program is its own peer, too, where that has to be another process:
 *   test-loss --peer destination
 *   test-loss --peer source PORT
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control.h"
#include "raw.h"
#include "serve.h"

/*
 * How something was noticed shows in its message.  It has to be noticed at
 * all: on a busy machine that may take several times as long as the core's own
 * time-outs, of 25 s at the most.
 */
#define NOTICED_SECONDS 100

/* ---- the source's side ---- */

static RMigSource *new_source(bool return_path)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .return_path = return_path,
    };
    GError *err = NULL;
    RMigSource *source = rmig_source_new(&config, &err);

    g_assert_no_error(err);
    return source;
}

static RMigSource *connect_source(uint16_t port, bool return_path)
{
    Address address = device_address(AF_INET, port);
    RMigSource *source = new_source(return_path);
    GError *err = NULL;

    g_assert_true(rmig_source_connect(source, address_of(&address), &err));
    g_assert_no_error(err);
    return source;
}

static bool tell(RMigSource *source, ServeOrder order, GError **err)
{
    RMigStream *stream = rmig_source_stream(source);
    uint8_t byte = order;

    return rmig_stream_write(stream, &byte, 1, err) &&
           rmig_stream_flush(stream, err);
}

/* Waits on an idle connection for what ends it; how many seconds that took */
static double await_return_path_end(RMigSource *source, int64_t since,
                                    GError **err)
{
    uint8_t byte;
    ssize_t n = rmig_stream_read(rmig_source_return_stream(source), &byte, 1,
                                 true, err);

    g_assert_cmpint(n, <=, 0);
    return seconds_since(since);
}

/* ---- another process ---- */

typedef struct Peer {
    GPid pid;
    int out;
} Peer;

static int be_destination(void)
{
    Address address = device_address(AF_INET, 0);
    Serve serve;

    serve_init(&serve, &address);
    serve.return_path = true;
    printf("%05u", serve.port);
    fflush(stdout);
    serve_run(&serve);
    serve_cleanup(&serve);
    return 0;
}

static int be_source(uint16_t port)
{
    RMigSource *source = connect_source(port, false);

    printf("ready");
    fflush(stdout);
    pause();
    rmig_source_free(source);
    return 0;
}

static int be_peer(int argc, char **argv)
{
    /* Not to outlive a test that has failed */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!device_find()) {
        return 1;
    }
    return argc > 3 ? be_source(atoi(argv[3])) : be_destination();
}

/* @word: 5 characters that it prints when it is ready, or its port */
static Peer start_peer(const char *role, const char *port, char word[6])
{
    char self[] = "/proc/self/exe", flag[] = "--peer";
    char *argv[] = { self, flag, (char *)role, (char *)port, NULL };
    GError *err = NULL;
    Peer peer;

    g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                             NULL, NULL, &peer.pid, NULL, &peer.out, NULL,
                             &err);
    g_assert_no_error(err);
    if (word) {
        for (int n = 0; n < 5;) {
            ssize_t got = read(peer.out, word + n, 5 - n);

            g_assert_cmpint(got, >, 0);
            n += got;
        }
        word[5] = '\0';
    }
    return peer;
}

static void end_peer(Peer *peer, int signal_number)
{
    g_assert_cmpint(kill(peer->pid, signal_number), ==, 0);
    g_assert_cmpint(waitpid(peer->pid, NULL, 0), ==, peer->pid);
    close(peer->out);
}

/* Its program stops, its NIC does not: which verbsim's would with it */
static void freeze_peer(const Peer *peer)
{
    if (device_is_verbsim()) {
        device_tell_verbsim(peer->pid, "now: freeze");
    } else {
        g_assert_cmpint(kill(peer->pid, SIGSTOP), ==, 0);
    }
}

/* ---- processes that end or freeze ---- */

static void test_killed_destination(void)
{
    RMigSource *source;
    GError *err = NULL;
    int64_t start;
    char port[6];
    double took;
    Peer peer;

    if (!device_has(AF_INET)) {
        return;
    }
    peer = start_peer("destination", NULL, port);
    source = connect_source(atoi(port), true);
    start = g_get_monotonic_time();
    end_peer(&peer, SIGKILL);
    took = await_return_path_end(source, start, &err);
    g_clear_error(&err);
    g_test_message("noticed after %.2f s", took);
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    /* The main connection ends, too */
    g_assert_false(tell(source, ORDER_END, &err) &&
                   tell(source, ORDER_END, &err));
    expect_error(err, "closed the connection");
    g_assert_cmpfloat(seconds_since(start), <, NOTICED_SECONDS);
    rmig_source_free(source);
}

static void test_killed_source(void)
{
    char port[6], word[6];
    Address address;
    int64_t killed;
    double took;
    Serve serve;
    Peer peer;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve_start(&serve);
    snprintf(port, sizeof(port), "%u", serve.port);
    peer = start_peer("source", port, word);
    g_assert_cmpstr(word, ==, "ready");
    killed = g_get_monotonic_time();
    end_peer(&peer, SIGKILL);
    serve_end(&serve);
    took = (serve.ended_us - killed) / 1e6;
    g_assert_nonnull(serve.error);
    g_test_message("noticed after %.2f s: %s", took, serve.error->message);
    /* It was told, and did not find out by silence */
    g_assert_null(strstr(serve.error->message, "timed out"));
    g_assert_null(strstr(serve.error->message, "retry counter"));
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    serve_cleanup(&serve);
}

/* Its NIC acknowledges the heartbeat, but nobody says READY */
static void test_frozen_destination(void)
{
    double limit = RMIG_CONTROL_TIMEOUT_MS / 1e3;
    RMigSource *source;
    GError *err = NULL;
    int64_t start;
    char port[6];
    double took;
    Peer peer;

    if (!device_has(AF_INET)) {
        return;
    }
    peer = start_peer("destination", NULL, port);
    source = connect_source(atoi(port), true);
    freeze_peer(&peer);
    start = g_get_monotonic_time();
    while (tell(source, ORDER_NAME, &err)) {
        /* the first may use a READY that it had said already */
        start = g_get_monotonic_time();
    }
    took = seconds_since(start);
    g_test_message("noticed after %.2f s: %s", took, err->message);
    g_assert_nonnull(strstr(err->message, "before sending QEMU_FILE"));
    if (device_is_verbsim() && strstr(err->message, "peer gave up")) {
        /* It hears nothing, but its own time-outs run */
        g_error_free(err);
    } else {
        expect_error(err, "timed out while waiting for the peer to say READY");
        g_assert_cmpfloat(took, >=, limit);
    }
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    end_peer(&peer, SIGKILL);
    rmig_source_free(source);
}

/* ---- devices that fall silent ---- */

/* The destination's queue pair answers nothing, and nobody says so */
static void test_silent_destination(void)
{
    RMigSource *source;
    GError *err = NULL;
    Address address;
    int64_t start;
    double took;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve_start(&serve);
    source = connect_source(serve.port, false);
    g_assert_true(tell(source, ORDER_REVOKE, &err));
    serve_wait_parked(&serve);
    start = g_get_monotonic_time();
    while (tell(source, ORDER_NAME, &err)) {
        /* until a READY is missing */
    }
    took = seconds_since(start);
    g_test_message("noticed after %.2f s: %s", took, err->message);
    expect_error(err, "transport retry counter exceeded");
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    rmig_source_free(source);
    serve_cleanup(&serve);
}

/* The destination waits for orders on an idle connection */
static void test_silent_source(void)
{
    RMigShutdown *shutdown;
    RMigControl *control;
    GError *err = NULL;
    Address address;
    RMigWirePrivate ask = { 0 }, answer;
    RMigLink *link;
    int64_t start;
    double took;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve_start(&serve);
    address = device_address(AF_INET, serve.port);
    shutdown = rmig_shutdown_new(&err);
    link = rmig_link_resolve("silent", &rmig_poll_waiter, shutdown,
                             address_of(&address), &err);
    g_assert_no_error(err);
    control = rmig_control_new(link, true, &err);
    g_assert_no_error(err);
    g_assert_true(rmig_link_connect(link, &ask, &answer, &err));
    g_assert_no_error(err);
    while (!rmig_control_may_command(control)) {
        g_assert_true(rmig_link_step(link, 0, "the first READY", &err));
    }
    start = g_get_monotonic_time();
    rmig_link_revoke(link);
    g_thread_join(g_steal_pointer(&serve.thread));
    took = (serve.ended_us - start) / 1e6;
    g_assert_nonnull(serve.error);
    g_test_message("noticed after %.2f s: %s", took, serve.error->message);
    expect_error(g_steal_pointer(&serve.error),
                 "heartbeat failed: transport retry counter exceeded");
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    rmig_link_disconnect(link);
    rmig_control_free(control);
    rmig_link_free(link);
    rmig_shutdown_free(shutdown);
    serve_cleanup(&serve);
}

/* ---- peers that never complete a connection ---- */

static void test_unanswered_connect(void)
{
    RMigSource *source = new_source(false);
    GError *err = NULL;
    Address address;
    int64_t start;
    double took;
    Raw *server;

    if (device_has(AF_INET)) {
        address = device_address(AF_INET, 0);
        server = raw_listen(&address);
        address = device_address(AF_INET, raw_port(server));
        start = g_get_monotonic_time();
        g_assert_false(rmig_source_connect(source, address_of(&address),
                                           &err));
        took = seconds_since(start);
        g_test_message("gave up after %.2f s: %s", took, err->message);
        expect_error(err, "timed out while waiting for the peer to accept");
        g_assert_cmpfloat(took, <, NOTICED_SECONDS);
        raw_free(server);
    }
    rmig_source_free(source);
}

static void test_unfinished_accept(void)
{
    GError *err = NULL;
    RMigSource *source;
    Address address;
    uint8_t priv[8];
    int64_t start;
    double took;
    Serve serve;
    Raw *raw;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    address = device_address(AF_INET, serve.port);
    raw_private(priv, 1, 0);
    raw = raw_ask(&address, priv, sizeof(priv));
    rdma_destroy_qp(raw->id); /* or else the library completes it */
    start = g_get_monotonic_time();
    g_assert_cmpint(serve_accept(&serve, &err), ==, RMIG_ACCEPTED_NOTHING);
    took = seconds_since(start);
    g_test_message("gave up after %.2f s: %s", took, err->message);
    expect_error(err, "timed out while waiting for the peer to complete");
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    raw_free(raw);
    /* The listener goes on */
    serve_start(&serve);
    source = connect_source(serve.port, false);
    err = NULL;
    g_assert_true(tell(source, ORDER_END, &err));
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_free(source);
    serve_cleanup(&serve);
}

typedef struct Unreachable {
    const char *path, *address, *message;
    bool lab_only;
} Unreachable;

static const Unreachable unreachables[] = {
    { "/loss/unreachable/ipv4", "192.0.2.99", "nobody answers", false },
    { "/loss/unreachable/ipv6", "fd72:6d69:6700::99", "nobody answers",
      false },
    /* verbsim has no routes, and another machine may have one */
    { "/loss/unreachable/no-route", "198.51.100.1", "Network is unreachable",
      true },
};

static void test_unreachable(gconstpointer data)
{
    const Unreachable *unreachable = data;
    Address nobody = address_parse(unreachable->address, 4444);
    RMigSource *source = new_source(false);
    GError *err = NULL;
    int64_t start;
    double took;

    if (unreachable->lab_only ? device_is_lab() : device_knows_nobody()) {
        start = g_get_monotonic_time();
        g_assert_false(rmig_source_connect(source, address_of(&nobody),
                                           &err));
        took = seconds_since(start);
        g_test_message("gave up after %.2f s: %s", took, err->message);
        g_assert_nonnull(strstr(err->message, unreachable->address));
        expect_error(err, unreachable->message);
        g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    }
    rmig_source_free(source);
}

/* ---- networks that break ---- */

typedef struct Break {
    const char *path;
    const char *how, *repair; /* shell commands with $dev */
    const char *verbsim, *verbsim_repair;
    const char *says; /* both sides, behind the device's name; NULL: any */
} Break;

static const Break breaks[] = {
    /*
     * Both ends are one device here, and what it sends to its own hardware
     * address never leaves it; to its old address, it goes nowhere.
     */
    { "/loss/wire/cut",
      "cat /sys/class/net/$dev/address >/run/rmig-mac &&"
      " ip link set $dev address 02:00:00:00:00:99",
      "ip link set $dev address $(cat /run/rmig-mac)", NULL, NULL, NULL },
    /*
     * The last of all: Soft-RoCE's connection manager does not recover, not
     * even when the link comes back.
     */
    { "/loss/wire/link-down", "ip link set $dev down", NULL,
      "now: link down", "now: link up", ": its port is down" },
};

/* After a repair it takes a while; then a request is refused, as it should */
static void await_network(void)
{
    int64_t start = g_get_monotonic_time();
    Address nobody = device_address(AF_INET, 9);
    RMigSource *source = new_source(false);
    bool works = false;

    while (!works) {
        g_autoptr(GError) err = NULL;

        g_assert_false(rmig_source_connect(source, address_of(&nobody),
                                           &err));
        works = strstr(err->message, "nothing listens");
        g_assert_true(works || seconds_since(start) < NOTICED_SECONDS);
    }
    rmig_source_free(source);
}

/* @command: NULL where nothing helps */
static void change_network(const char *command, const char *verbsim)
{
    if (device_is_verbsim()) {
        device_tell_verbsim(getpid(), verbsim);
    } else if (command) {
        shell(command);
    }
}

static bool can_break(const Break *broken)
{
    return (device_is_verbsim() && broken->verbsim) || device_is_lab();
}

static void check_says(const Break *broken, const GError *err)
{
    g_assert_nonnull(err);
    g_assert_true(!broken->says || strstr(err->message, broken->says));
}

/* Both sides are idle, and both must notice */
static void test_broken_network(gconstpointer data)
{
    const Break *broken = data;
    RMigSource *source;
    GError *err = NULL;
    Address address;
    int64_t start;
    double took, other;
    Serve serve;

    if (!can_break(broken) || !device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve.return_path = true;
    serve_start(&serve);
    source = connect_source(serve.port, true);
    start = g_get_monotonic_time();
    change_network(broken->how, broken->verbsim);
    took = await_return_path_end(source, start, &err);
    g_thread_join(g_steal_pointer(&serve.thread));
    other = (serve.ended_us - start) / 1e6;
    g_test_message("source noticed after %.2f s: %s", took,
                   err ? err->message : "closed");
    g_test_message("destination noticed after %.2f s: %s", other,
                   serve.error->message);
    check_says(broken, err);
    check_says(broken, serve.error);
    g_clear_error(&err);
    g_assert_cmpfloat(took, <, NOTICED_SECONDS);
    g_assert_cmpfloat(other, <, NOTICED_SECONDS);
    rmig_source_free(source);
    serve_cleanup(&serve);
    if (broken->repair || device_is_verbsim()) {
        change_network(broken->repair, broken->verbsim_repair);
        await_network();
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--peer") == 0) {
        return be_peer(argc, argv);
    }
    device_test_init(&argc, &argv);
    g_setenv("dev", device_netdev(), true); /* for shell() */
    g_test_add_func("/loss/killed-destination", test_killed_destination);
    g_test_add_func("/loss/killed-source", test_killed_source);
    g_test_add_func("/loss/frozen-destination", test_frozen_destination);
    g_test_add_func("/loss/silent-destination", test_silent_destination);
    g_test_add_func("/loss/silent-source", test_silent_source);
    g_test_add_func("/loss/unanswered-connect", test_unanswered_connect);
    g_test_add_func("/loss/unfinished-accept", test_unfinished_accept);
    for (unsigned i = 0; i < G_N_ELEMENTS(unreachables); i++) {
        g_test_add_data_func(unreachables[i].path, &unreachables[i],
                             test_unreachable);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(breaks); i++) {
        g_test_add_data_func(breaks[i].path, &breaks[i], test_broken_network);
    }
    return g_test_run();
}
