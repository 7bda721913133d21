/*
 * Tests on a real RDMA device: how connections come to be, or do not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * docs/rdma.txt, "Connection".
 */
#include <arpa/inet.h>
#include <string.h>

#include "raw.h"
#include "serve.h"

#define PIN_ALL 1u
#define BUDGET 4u
#define KNOWN_FLAGS 0x27u
/* The wait of a test that has to see that something does not happen */
#define A_MOMENT_US (G_USEC_PER_SEC / 10)
/* Sooner than the shortest wait of the core ends, which is 5 s */
#define AT_ONCE_SECONDS 4

static RMigSource *new_source(bool pin_all, bool return_path)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .pin_all = pin_all,
        .return_path = return_path,
    };
    GError *err = NULL;
    RMigSource *source = rmig_source_new(&config, &err);

    g_assert_no_error(err);
    return source;
}

static void tell(RMigSource *source, ServeOrder order, uint32_t number)
{
    RMigStream *stream = rmig_source_stream(source);
    uint8_t buf[ORDER_BYTES];
    GError *err = NULL;

    g_assert_true(rmig_stream_write(stream, buf,
                                    order_pack(buf, order, number), &err) &&
                  rmig_stream_flush(stream, &err));
    g_assert_no_error(err);
}

/* A connection that works, over @via to a destination that listens at @at */
static void connect_and_use(const Address *at, Address via, bool pin_all)
{
    RMigSource *source = new_source(pin_all, false);
    GError *err = NULL;
    Serve serve;

    serve_init(&serve, at);
    serve_start(&serve);
    ((struct sockaddr_in *)&via)->sin_port = htons(serve.port);
    g_assert_true(rmig_source_connect(source, address_of(&via), &err));
    g_assert_no_error(err);
    g_assert_cmpint(rmig_source_pins_all(source), ==, pin_all);
    g_assert_null(rmig_source_return_stream(source));
    tell(source, ORDER_END, 0);
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_free(source);
    serve_cleanup(&serve);
}

static void test_family(gconstpointer data)
{
    int family = GPOINTER_TO_INT(data);
    Held held = held_now();
    Address own;

    if (!device_has(family)) {
        return;
    }
    own = device_address(family, 0);
    connect_and_use(&own, own, false);
    connect_and_use(&own, own, true);
    held_check(held);
}

static void test_any_ipv4(void)
{
    Address any = address_parse("0.0.0.0", 0);

    if (device_has(AF_INET)) {
        connect_and_use(&any, device_address(AF_INET, 0), false);
    }
}

static void test_any_ipv6(void)
{
    Address any = address_parse("::", 0);

    if (device_has(AF_INET6)) {
        connect_and_use(&any, device_address(AF_INET6, 0), false);
    }
}

/* [::] takes both, as it does for TCP */
static void test_any_ipv6_from_ipv4(void)
{
    Address any = address_parse("::", 0);

    if (device_has(AF_INET6) && device_has(AF_INET)) {
        connect_and_use(&any, device_address(AF_INET, 0), false);
    }
}

/* ---- what cannot be listened on ---- */

static void expect_not_listening(const Address *address, const char *part)
{
    RMigDestConfig config = { .waiter = rmig_poll_waiter };
    GError *err = NULL;

    g_assert_null(rmig_dest_new(&config, address_of(address), &err));
    expect_error(err, part);
}

static void test_cannot_listen(void)
{
    Address loopback = address_parse("127.0.0.1", 0);
    Address foreign = address_parse("203.0.113.7", 0);
    Held held = held_now();
    Address taken;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    /* verbsim is a device that loopback leads to */
    if (!device_is_verbsim()) {
        expect_not_listening(&loopback, "no RDMA device of this host has");
    }
    expect_not_listening(&foreign, "no RDMA device of this host has");
    taken = device_address(AF_INET, 0);
    serve_init(&serve, &taken);
    taken = device_address(AF_INET, serve.port);
    expect_not_listening(&taken, "Address already in use");
    serve_cleanup(&serve);
    held_check(held);
}

/* ---- a client that is not the core ---- */

typedef struct Refusal {
    const char *name;
    size_t bytes;
    uint32_t version, flags;
    const char *message;
} Refusal;

static const Refusal refusals[] = {
    { "version-2", 8, 2, 0, "version 2" },
    { "version-0", 8, 0, 0, "version 0" },
    { "version-huge", 8, 0xffffffff, 0, "version 4294967295" },
    /* The connection manager pads with zeros, so this is version 0 as well */
    { "3-bytes", 3, 1, 0, "version 0" },
    { "nothing", 0, 1, 0, "version 0" },
    { "no-extension", 8, 1, BUDGET, "extension record" },
};

static void test_refused_client(gconstpointer data)
{
    const Refusal *refusal = data;
    Held held = held_now();
    uint8_t priv[8], ours[8];
    GError *err = NULL;
    RMigSource *source;
    Address address;
    Serve serve;
    Raw *raw;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    address = device_address(AF_INET, serve.port);
    raw_private(priv, refusal->version, refusal->flags);
    raw = raw_ask(&address, priv, refusal->bytes);
    g_assert_cmpint(serve_accept(&serve, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_test_message("%s", err->message);
    g_assert_true(!strstr(refusal->message, "version") ||
                  strstr(err->message, "version 1"));
    expect_error(err, refusal->message);
    /* And it is told our version */
    g_assert_cmpint(raw_event(raw), ==, RDMA_CM_EVENT_REJECTED);
    raw_private(ours, 1, 0);
    g_assert_cmpuint(raw->priv_bytes, >=, 8);
    g_assert_cmpmem(raw->priv, 8, ours, 8);
    raw_free(raw);
    /* The listener goes on */
    serve_start(&serve);
    source = new_source(false, false);
    err = NULL;
    g_assert_true(rmig_source_connect(source, address_of(&address), &err));
    tell(source, ORDER_END, 0);
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_free(source);
    serve_cleanup(&serve);
    held_check(held);
}

/* Flags that nobody knows are cleared, a record may be of a later version */
static void test_unknown_flags(void)
{
    uint8_t priv[32];
    uint32_t version, flags;
    Held held = held_now();
    Address address;
    Serve serve;
    Raw *raw;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve_start(&serve);
    address = device_address(AF_INET, serve.port);
    memset(priv, 0xff, sizeof(priv));
    raw_private(priv, 1, 0xffffffff);
    raw = raw_ask(&address, priv, sizeof(priv));
    g_assert_cmpint(raw_event(raw), ==, RDMA_CM_EVENT_ESTABLISHED);
    g_assert_cmpuint(raw->priv_bytes, >=, 8);
    memcpy(&version, raw->priv, 4);
    memcpy(&flags, raw->priv + 4, 4);
    g_assert_cmpuint(ntohl(version), ==, 1);
    g_assert_cmphex(ntohl(flags) & PIN_ALL, ==, PIN_ALL);
    g_assert_cmphex(ntohl(flags) & ~KNOWN_FLAGS, ==, 0);
    g_assert_cmpint(rdma_disconnect(raw->id), ==, 0);
    serve_end(&serve);
    expect_error(g_steal_pointer(&serve.error), "end of the stream");
    raw_free(raw);
    serve_cleanup(&serve);
    held_check(held);
}

/* x-ignore-shared may leave no RAM to send: setup, a round, the end */
static void test_no_blocks(void)
{
    Held held = held_now();
    GError *err = NULL;
    RMigSource *source;
    Address address;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    serve_start(&serve);
    address = device_address(AF_INET, serve.port);
    source = new_source(true, false);
    g_assert_true(rmig_source_connect(source, address_of(&address), &err));
    tell(source, ORDER_HOOK, 0);
    g_assert_true(rmig_source_exchange(source, &err));
    g_assert_true(rmig_source_finish(source, &err));
    tell(source, ORDER_HOOK, 0);
    g_assert_true(rmig_source_finish(source, &err));
    tell(source, ORDER_END, 0);
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_free(source);
    serve_cleanup(&serve);
    held_check(held);
}

/* ---- a server that is not the core ---- */

typedef enum Answer {
    ANSWER_ACCEPT, ANSWER_REJECT,
} Answer;

typedef struct Server {
    const char *name;
    Answer answer;
    size_t bytes;
    uint32_t version, flags;
    const char *message; /* NULL: it is fine */
} Server;

typedef struct ServerThread {
    const Server *server;
    Raw *raw;
} ServerThread;

static void *server_thread(void *opaque)
{
    ServerThread *self = opaque;
    const Server *server = self->server;
    Raw *request = raw_take(self->raw);
    uint8_t priv[8];

    raw_private(priv, server->version, server->flags);
    if (server->answer == ANSWER_ACCEPT) {
        raw_accept(request, priv, server->bytes);
        g_assert_cmpint(raw_event(request), ==, RDMA_CM_EVENT_ESTABLISHED);
        /* The core leaves, by itself or at the test's end */
        g_assert_cmpint(raw_event(request), ==, RDMA_CM_EVENT_DISCONNECTED);
    } else {
        raw_reject(request, priv, server->bytes);
    }
    raw_free(request);
    return NULL;
}

static const Server servers[] = {
    { "accepts-version-2", ANSWER_ACCEPT, 8, 2, 0, "version 2" },
    { "accepts-version-0", ANSWER_ACCEPT, 8, 0, 0, "version 0" },
    { "accepts-silently", ANSWER_ACCEPT, 0, 0, 0, "version 0" },
    { "refuses-version-2", ANSWER_REJECT, 8, 2, 0, "version 2" },
    { "refuses-silently", ANSWER_REJECT, 0, 0, 0, "refused the connection" },
    { "grants-too-much", ANSWER_ACCEPT, 8, 1, ~BUDGET, NULL },
    { "accepts-without-extension", ANSWER_ACCEPT, 8, 1, BUDGET,
      "extension record" },
};

static void test_server(gconstpointer data)
{
    const Server *server = data;
    ServerThread self = { .server = server };
    RMigSource *source = new_source(false, false);
    Held held = held_now();
    GError *err = NULL;
    GThread *thread;
    Address address;
    bool ok;

    if (!device_has(AF_INET)) {
        rmig_source_free(source);
        return;
    }
    address = device_address(AF_INET, 0);
    self.raw = raw_listen(&address);
    address = device_address(AF_INET, raw_port(self.raw));
    thread = g_thread_new("server", server_thread, &self);
    ok = rmig_source_connect(source, address_of(&address), &err);
    if (!server->message) {
        g_assert_no_error(err);
        g_assert_false(rmig_source_pins_all(source)); /* was not asked for */
        rmig_source_close(source, false);
    } else {
        g_assert_false(ok);
        g_test_message("%s", err->message);
        /* Both versions, where there are two */
        g_assert_true(!strstr(server->message, "version") ||
                      strstr(err->message, "version 1"));
        expect_error(err, server->message);
    }
    g_thread_join(thread);
    raw_free(self.raw);
    held_check(held);
    rmig_source_free(source);
}

/* ---- addresses that lead nowhere ---- */

static void expect_no_connection(RMigSource *source, Address address,
                                 const char *part, double within)
{
    int64_t start = g_get_monotonic_time();
    GError *err = NULL;

    g_assert_false(rmig_source_connect(source, address_of(&address), &err));
    g_test_message("%s (after %.2f s)", err->message, seconds_since(start));
    expect_error(err, part);
    g_assert_cmpfloat(seconds_since(start), <, within);
}

/* After each failure the same source may try another address */
static void test_nobody(void)
{
    RMigSource *source = new_source(true, false);
    Held held = held_now();
    GError *err = NULL;
    Address address;
    Serve serve;

    if (!device_has(AF_INET)) {
        rmig_source_free(source);
        return;
    }
    address = device_address(AF_INET, 0);
    serve_init(&serve, &address);
    expect_no_connection(source, device_address(AF_INET, 9),
                         "nothing listens", 5);
    if (!device_is_verbsim()) {
        expect_no_connection(source, address_parse("127.0.0.1", serve.port),
                             "no RDMA device leads to that address", 5);
    }
    serve_start(&serve);
    address = device_address(AF_INET, serve.port);
    g_assert_true(rmig_source_connect(source, address_of(&address), &err));
    g_assert_no_error(err);
    g_assert_true(rmig_source_pins_all(source));
    tell(source, ORDER_END, 0);
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_close(source, false);
    serve_cleanup(&serve);
    held_check(held);
    rmig_source_free(source);
}

/* ---- the return path, and others ---- */

/* A connection with a return path that has carried a byte; dest is parked */
static RMigSource *connect_both(Serve *serve, const Address *at)
{
    RMigSource *source = new_source(false, true);
    GError *err = NULL;
    Address address;
    uint8_t byte;

    serve_init(serve, at);
    serve->return_path = true;
    serve_start(serve);
    address = device_address(AF_INET, serve->port);
    g_assert_true(rmig_source_connect(source, address_of(&address), &err));
    g_assert_no_error(err);
    tell(source, ORDER_RETURN, 1);
    g_assert_cmpint(rmig_stream_read(rmig_source_return_stream(source), &byte,
                                     1, true, &err), ==, 1);
    g_assert_cmpuint(byte, ==, return_byte(0));
    tell(source, ORDER_PARK, 0);
    serve_wait_parked(serve);
    return source;
}

static void expect_refused(Serve *serve, int family)
{
    Address own = device_address(family, serve->port);
    GError *err = NULL;
    uint8_t priv[8];
    Raw *raw;

    raw_private(priv, 1, 0);
    raw = raw_ask(&own, priv, sizeof(priv));
    g_assert_cmpint(serve_accept(serve, &err), ==, RMIG_ACCEPTED_NOTHING);
    expect_error(err, "refused another");
    g_assert_cmpint(raw_event(raw), ==, RDMA_CM_EVENT_REJECTED);
    raw_free(raw);
}

static void test_third_connection(void)
{
    Held held = held_now();
    RMigSource *source;
    Address address;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    source = connect_both(&serve, &address);
    expect_refused(&serve, AF_INET);
    expect_refused(&serve, AF_INET);
    serve_end(&serve);
    g_assert_no_error(serve.error);
    rmig_source_free(source);
    serve_cleanup(&serve);
    held_check(held);
}

/* Only the source's own host may open the return path */
static void test_other_host(void)
{
    Address any = address_parse("::", 0);
    RMigSource *source = new_source(false, false);
    Held held = held_now();
    GError *err = NULL;
    Address address;
    Serve serve;

    if (device_has(AF_INET) && device_has(AF_INET6)) {
        serve_init(&serve, &any);
        serve_start(&serve);
        address = device_address(AF_INET, serve.port);
        g_assert_true(rmig_source_connect(source, address_of(&address),
                                          &err));
        tell(source, ORDER_PARK, 0);
        serve_wait_parked(&serve);
        expect_refused(&serve, AF_INET6);
        serve_end(&serve);
        g_assert_no_error(serve.error);
        rmig_source_close(source, false);
        serve_cleanup(&serve);
        held_check(held);
    }
    rmig_source_free(source);
}

/* ---- shutdown from another thread ends every wait at once ---- */

typedef struct Stopper {
    RMigSource *source;
    RMigDest *dest;
    int64_t stopped_us;
    GThread *thread;
} Stopper;

static void *stopper_thread(void *opaque)
{
    Stopper *stopper = opaque;

    g_usleep(A_MOMENT_US);
    stopper->stopped_us = g_get_monotonic_time();
    if (stopper->source) {
        rmig_source_shutdown(stopper->source);
    } else {
        rmig_dest_shutdown(stopper->dest);
    }
    return NULL;
}

static void stop_soon(Stopper *stopper, RMigSource *source, RMigDest *dest)
{
    *stopper = (Stopper) { .source = source, .dest = dest };
    stopper->thread = g_thread_new("stopper", stopper_thread, stopper);
}

/* @err: of the call that was stopped, which has just ended */
static void stopped(Stopper *stopper, GError *err)
{
    double took;

    g_thread_join(stopper->thread);
    took = seconds_since(stopper->stopped_us);
    g_test_message("woken after %.0f ms", took * 1e3);
    expect_error(err, "shut down");
    g_assert_cmpfloat(took, >=, 0); /* it has really waited */
    g_assert_cmpfloat(took, <, AT_ONCE_SECONDS);
}

static void test_shutdown_connect(void)
{
    RMigSource *source = new_source(false, false);
    Held held = held_now();
    GError *err = NULL;
    Stopper stopper;
    Address address;
    Raw *server;

    if (device_has(AF_INET)) {
        address = device_address(AF_INET, 0);
        server = raw_listen(&address);
        address = device_address(AF_INET, raw_port(server));
        stop_soon(&stopper, source, NULL);
        g_assert_false(rmig_source_connect(source, address_of(&address),
                                           &err));
        stopped(&stopper, err);
        raw_free(server);
        held_check(held);
    }
    rmig_source_free(source);
}

static void test_shutdown_resolve(void)
{
    RMigSource *source = new_source(false, false);
    Address nobody = address_parse("192.0.2.99", 4444);
    GError *err = NULL;
    Stopper stopper;

    if (device_knows_nobody()) {
        stop_soon(&stopper, source, NULL);
        g_assert_false(rmig_source_connect(source, address_of(&nobody),
                                           &err));
        stopped(&stopper, err);
    }
    rmig_source_free(source);
}

/* A client that asks and then does not take the answer */
static void test_shutdown_accept(void)
{
    GError *err = NULL;
    Stopper stopper;
    uint8_t priv[8];
    Address address;
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
    stop_soon(&stopper, NULL, serve.dest);
    g_assert_cmpint(serve_accept(&serve, &err), ==, RMIG_ACCEPTED_NOTHING);
    stopped(&stopper, err);
    raw_free(raw);
    serve_cleanup(&serve);
}

/* The destination waits for an order */
static void test_shutdown_read(void)
{
    RMigSource *source = new_source(false, false);
    Held held = held_now();
    GError *err = NULL;
    Stopper stopper;
    Address address;
    Serve serve;

    if (device_has(AF_INET)) {
        address = device_address(AF_INET, 0);
        serve_init(&serve, &address);
        serve_start(&serve);
        address = device_address(AF_INET, serve.port);
        g_assert_true(rmig_source_connect(source, address_of(&address),
                                          &err));
        stop_soon(&stopper, NULL, serve.dest);
        serve_end(&serve);
        g_thread_join(stopper.thread);
        g_test_message("woken after %.0f ms",
                       (serve.ended_us - stopper.stopped_us) / 1e3);
        expect_error(g_steal_pointer(&serve.error), "shut down");
        g_assert_cmpint(serve.ended_us, >=, stopper.stopped_us);
        g_assert_cmpint(serve.ended_us - stopper.stopped_us, <,
                        AT_ONCE_SECONDS * G_USEC_PER_SEC);
        serve_cleanup(&serve);
        rmig_source_close(source, false);
        held_check(held);
    }
    rmig_source_free(source);
}

/* READY has been said for the first two messages, but nobody reads those */
static bool send_three(RMigSource *source, GError **err)
{
    RMigStream *stream = rmig_source_stream(source);

    for (int i = 0; i < 3; i++) {
        if (!rmig_stream_write(stream, "D", 1, err) ||
            !rmig_stream_flush(stream, err)) {
            return false;
        }
    }
    return true;
}

/* The source waits for return-path bytes, then for READY */
static void test_shutdown_source(void)
{
    Held held = held_now();
    GError *err = NULL;
    RMigSource *source;
    Stopper stopper;
    Address address;
    uint8_t byte;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    source = connect_both(&serve, &address);
    stop_soon(&stopper, source, NULL);
    g_assert_cmpint(rmig_stream_read(rmig_source_return_stream(source), &byte,
                                     1, true, &err), ==, -1);
    stopped(&stopper, err);
    /* And every later wait fails with it */
    err = NULL;
    g_assert_false(send_three(source, &err));
    expect_error(err, "shut down");
    rmig_source_close(source, true);
    serve_cleanup(&serve);
    rmig_source_free(source);
    held_check(held);
}

static void test_shutdown_ready(void)
{
    GError *err = NULL;
    RMigSource *source;
    Stopper stopper;
    Address address;
    Serve serve;

    if (!device_has(AF_INET)) {
        return;
    }
    address = device_address(AF_INET, 0);
    source = connect_both(&serve, &address);
    stop_soon(&stopper, source, NULL);
    g_assert_false(send_three(source, &err));
    stopped(&stopper, err);
    rmig_source_free(source);
    serve_cleanup(&serve);
}

static void add_tables(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(refusals); i++) {
        g_autofree char *path = g_strdup_printf("/link/refuses/%s",
                                                refusals[i].name);

        g_test_add_data_func(path, &refusals[i], test_refused_client);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(servers); i++) {
        g_autofree char *path = g_strdup_printf("/link/server/%s",
                                                servers[i].name);

        g_test_add_data_func(path, &servers[i], test_server);
    }
}

int main(int argc, char **argv)
{
    device_test_init(&argc, &argv);
    g_test_add_data_func("/link/connect/ipv4", GINT_TO_POINTER(AF_INET),
                         test_family);
    g_test_add_data_func("/link/connect/ipv6", GINT_TO_POINTER(AF_INET6),
                         test_family);
    g_test_add_func("/link/listen/any-ipv4", test_any_ipv4);
    g_test_add_func("/link/listen/any-ipv6", test_any_ipv6);
    g_test_add_func("/link/listen/any-ipv6-from-ipv4",
                    test_any_ipv6_from_ipv4);
    g_test_add_func("/link/listen/cannot", test_cannot_listen);
    add_tables();
    g_test_add_func("/link/unknown-flags", test_unknown_flags);
    g_test_add_func("/link/nobody", test_nobody);
    g_test_add_func("/link/third-connection", test_third_connection);
    g_test_add_func("/link/other-host", test_other_host);
    g_test_add_func("/link/shutdown/connect", test_shutdown_connect);
    g_test_add_func("/link/shutdown/resolve", test_shutdown_resolve);
    g_test_add_func("/link/shutdown/accept", test_shutdown_accept);
    g_test_add_func("/link/shutdown/read", test_shutdown_read);
    g_test_add_func("/link/shutdown/return-path", test_shutdown_source);
    g_test_add_func("/link/shutdown/ready", test_shutdown_ready);
    g_test_add_func("/link/no-blocks", test_no_blocks);
    return g_test_run();
}
