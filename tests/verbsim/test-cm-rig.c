/*
 * Tests of the connection manager: what its programs share; see test-cm.h
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "test-cm.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <glib/gstdio.h>

#include "packet.h"

#define WAIT_MS 60000

/*
 * The tests run in a child: the fabric can only be removed when the last of
 * its processes has left it.
 */
static void run_in_child(const char *directory)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", directory);
    pid_t pid = fork();
    int status;

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        return;
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(system(command), ==, 0);
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
}

void cm_test_init(int *argc, char ***argv)
{
    g_autofree char *directory = g_dir_make_tmp("verbsim-test-XXXXXX", NULL);
    g_autofree char *profile = NULL;
    g_autofree char *text = g_strdup_printf(
        "device = verbsim0\nlink-layer = ethernet\nlatency = 1ms\n"
        "cm-timeout = %dms\n"
        "cm-retries = %d\nack-timeout = %d\n", CM_TIMEOUT_MS, CM_RETRIES,
        ACK_TIMEOUT);

    g_assert_nonnull(directory);
    run_in_child(directory);
    g_test_init(argc, argv, NULL);
    profile = g_build_filename(directory, "short.profile", NULL);
    g_assert_true(g_file_set_contents(profile, text, -1, NULL));
    g_setenv("VERBSIM_DIR", directory, true);
    g_setenv("VERBSIM_PROFILE", profile, true);
}

/* ---------------------------------------------------------- control socket */

/* This process's NIC: the lock file that has our number in it. */
static char *own_socket(void)
{
    g_autoptr(GDir) dir = g_dir_open(g_getenv("VERBSIM_DIR"), 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(g_getenv("VERBSIM_DIR"),
                                                 name, NULL);
        g_autofree char *text = NULL;

        if (g_str_has_prefix(name, "nic-") && g_str_has_suffix(name, ".lock") &&
            g_file_get_contents(path, &text, NULL, NULL) &&
            atoi(text) == getpid()) {
            strcpy(path + strlen(path) - strlen("lock"), "sock");
            return g_steal_pointer(&path);
        }
    }
    g_error("this process has no NIC");
}

void tell(const char *format, ...)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    g_autofree char *path = own_socket();
    g_autofree char *line = NULL;
    VsPkt pkt = { .kind = VS_PKT_COMMAND }, answer;
    char text[64] = "";
    va_list args;
    int fd;

    va_start(args, format);
    line = g_strdup_vprintf(format, args);
    va_end(args);
    g_strlcpy(to.sun_path, path, sizeof(to.sun_path));
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_ok(connect(fd, (struct sockaddr *)&to, sizeof(to)));
    pkt.bytes = sizeof(pkt) + strlen(line);
    g_assert_cmpint(write(fd, &pkt, sizeof(pkt)), ==, sizeof(pkt));
    g_assert_cmpint(write(fd, line, strlen(line)), ==, strlen(line));
    g_assert_cmpint(recv(fd, &answer, sizeof(answer), MSG_WAITALL), ==,
                    sizeof(answer));
    g_assert_cmpint(recv(fd, text, MIN(answer.bytes - sizeof(answer),
                                       sizeof(text) - 1), MSG_WAITALL), >, 0);
    if (!g_str_has_prefix(text, "ok")) {
        g_error("'%s': %s", line, text);
    }
    close(fd);
}

/* ------------------------------------------------------------------ events */

static bool readable(int fd, int ms)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return poll(&pfd, 1, ms) > 0;
}

struct rdma_cm_event *expect(struct rdma_event_channel *channel,
                             enum rdma_cm_event_type type, int status)
{
    struct rdma_cm_event *event;

    if (!readable(channel->fd, WAIT_MS)) {
        g_error("%s does not come", rdma_event_str(type));
    }
    g_assert_ok(rdma_get_cm_event(channel, &event));
    g_assert_cmpstr(rdma_event_str(event->event), ==, rdma_event_str(type));
    g_assert_cmpint(event->status, ==, status);
    return event;
}

void expect_only(struct rdma_event_channel *channel,
                 enum rdma_cm_event_type type, int status)
{
    g_assert_ok(rdma_ack_cm_event(expect(channel, type, status)));
}

void expect_nothing(struct rdma_event_channel *channel, int ms)
{
    struct rdma_cm_event *event;

    if (readable(channel->fd, ms)) {
        g_assert_ok(rdma_get_cm_event(channel, &event));
        g_error("%s, status %d, was not expected",
                rdma_event_str(event->event), event->status);
    }
    g_assert_errno(rdma_get_cm_event(channel, &event), EAGAIN);
}

void expect_private(const struct rdma_cm_event *event, const char *text,
                           unsigned bytes)
{
    static const uint8_t zeros[256];
    const uint8_t *data = event->param.conn.private_data;
    unsigned length = strlen(text);

    g_assert_cmpuint(event->param.conn.private_data_len, ==, bytes);
    g_assert_cmpmem(data, length, text, length);
    g_assert_cmpmem(data + length, bytes - length, zeros, bytes - length);
}

/* --------------------------------------------------------------------- rig */

struct sockaddr *address(const char *text, uint16_t port)
{
    static union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } addr;

    memset(&addr, 0, sizeof(addr));
    addr.in.sin_port = htons(port);
    if (inet_pton(AF_INET, text, &addr.in.sin_addr) == 1) {
        addr.sa.sa_family = AF_INET;
    } else {
        g_assert_cmpint(inet_pton(AF_INET6, text, &addr.in6.sin6_addr), ==, 1);
        addr.sa.sa_family = AF_INET6;
    }
    return &addr.sa;
}

static struct rdma_event_channel *new_channel(void)
{
    struct rdma_event_channel *channel = rdma_create_event_channel();

    g_assert_nonnull(channel);
    g_assert_ok(fcntl(channel->fd, F_SETFL, O_NONBLOCK));
    return channel;
}

Rig rig_new(void)
{
    return (Rig) { .server = new_channel(), .client = new_channel() };
}

void rig_free(Rig *rig)
{
    expect_nothing(rig->server, 0);
    expect_nothing(rig->client, 0);
    if (rig->active) {
        g_assert_ok(rdma_destroy_id(rig->active));
    }
    if (rig->passive) {
        g_assert_ok(rdma_destroy_id(rig->passive));
    }
    if (rig->listener) {
        g_assert_ok(rdma_destroy_id(rig->listener));
    }
    rdma_destroy_event_channel(rig->server);
    rdma_destroy_event_channel(rig->client);
}

void rig_listen(Rig *rig, int backlog)
{
    g_assert_ok(rdma_create_id(rig->server, &rig->listener, &rig->listener,
                               RDMA_PS_TCP));
    g_assert_ok(rdma_bind_addr(rig->listener, address("127.0.0.1", 0)));
    g_assert_ok(rdma_listen(rig->listener, backlog));
    rig->active = rig_route(rig, ntohs(rdma_get_src_port(rig->listener)));
}

struct rdma_cm_id *rig_route(Rig *rig, uint16_t port)
{
    struct rdma_cm_id *id;

    g_assert_ok(rdma_create_id(rig->client, &id, NULL, RDMA_PS_TCP));
    g_assert_ok(rdma_resolve_addr(id, NULL, address("127.0.0.1", port), 1000));
    expect_only(rig->client, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
    g_assert_ok(rdma_resolve_route(id, 1000));
    expect_only(rig->client, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
    return id;
}

void rig_ask(Rig *rig)
{
    struct rdma_conn_param param = {
        .private_data = "hello", .private_data_len = 5,
        .responder_resources = 3, .initiator_depth = 4,
        .retry_count = 6, .rnr_retry_count = 5, .qp_num = CLIENT_QPN,
    };

    g_assert_ok(rdma_connect(rig->active, &param));
}

void rig_request(Rig *rig)
{
    struct rdma_cm_event *event;

    rig_ask(rig);
    event = expect(rig->server, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
    rig->passive = event->id;
    g_assert_ok(rdma_ack_cm_event(event));
}

void rig_connect(Rig *rig)
{
    struct rdma_conn_param param = {
        .responder_resources = 2, .initiator_depth = 1,
        .rnr_retry_count = 1, .qp_num = SERVER_QPN,
    };

    rig_request(rig);
    g_assert_ok(rdma_accept(rig->passive, &param));
    expect_only(rig->client, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
    g_assert_ok(rdma_establish(rig->active));
    expect_only(rig->server, RDMA_CM_EVENT_ESTABLISHED, 0);
}
