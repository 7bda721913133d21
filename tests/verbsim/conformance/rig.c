/*
 * Conformance tests: the program, its device and its child processes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See rig.h.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "differs.h"
#include "rig.h"

#define ROLE "CONFORMANCE_ROLE"

static struct ibv_context *device;
static struct ibv_device_attr limits;

static void close_device(void)
{
    if (device) {
        g_assert_cmpint(ibv_close_device(device), ==, 0);
        device = NULL;
    }
}

static void run_role(const RigRole *roles, const char *name)
{
    for (; roles && roles->name; roles++) {
        if (!strcmp(roles->name, name)) {
            roles->run();
            close_device();
            exit(0);
        }
    }
    g_error("no role '%s'", name);
}

void rig_init(int *argc, char ***argv, const RigRole *roles)
{
    const char *role = g_getenv(ROLE);

    /* A child that has gone shows in what it did not say. */
    signal(SIGPIPE, SIG_IGN);
    if (role) {
        /* Even a stopped one must not outlive a test that has failed. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_role(roles, role);
    }
    g_test_init(argc, argv, NULL);
}

int rig_run(void)
{
    int status = g_test_run();

    close_device();
    return status;
}

struct ibv_context *rig_device(void)
{
    const char *wanted = g_getenv("RMIG_DEVICE");
    struct ibv_device **list;

    if (device) {
        return device;
    }
    list = ibv_get_device_list(NULL);
    g_assert_nonnull(list);
    for (struct ibv_device **dev = list; *dev && !device; dev++) {
        if (!wanted || !strcmp(wanted, ibv_get_device_name(*dev))) {
            device = ibv_open_device(*dev);
            g_assert_nonnull(device);
        }
    }
    ibv_free_device_list(list);
    if (!device) {
        g_error("no RDMA device%s%s", wanted ? " named " : "",
                wanted ? wanted : "");
    }
    g_assert_cmpint(ibv_query_device(device, &limits), ==, 0);
    return device;
}

const struct ibv_device_attr *rig_limits(void)
{
    rig_device();
    return &limits;
}

bool rig_is_verbsim(void)
{
    return g_str_has_prefix(ibv_get_device_name(rig_device()->device),
                            "verbsim");
}

bool differs(const char *what)
{
    const char *who = rig_is_verbsim() ? "verbsim" : "rxe";
    bool known = false;

    for (const Difference *difference = differences; difference->what;
         difference++) {
        if (!strcmp(difference->what, what)) {
            known = true;
            if (!strcmp(difference->who, who)) {
                g_test_message("differs: %s", what);
                return true;
            }
        }
    }
    if (!known) {
        g_error("'%s' is not in the table of differences", what);
    }
    return false;
}

bool rig_can_hold(void)
{
    int status;
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        ibv_free_device_list(ibv_get_device_list(NULL));
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (status == 0) {
        return true;
    }
    puts("1..0 # SKIP verbsim cannot hold pages here: enable io_uring (sysctl "
         "kernel.io_uring_disabled=0), raise ulimit -l");
    return false;
}

struct sockaddr_storage rig_address(int family, uint16_t port)
{
    struct sockaddr_storage address = { .ss_family = family };
    struct sockaddr_in *in = (void *)&address;
    struct sockaddr_in6 *in6 = (void *)&address;
    const char *text = g_getenv(family == AF_INET ? "RMIG_LAB_ADDR4" :
                                                    "RMIG_LAB_ADDR6");

    if (family == AF_INET) {
        in->sin_port = htons(port);
        g_assert_cmpint(inet_pton(family, text ? text : "127.0.0.1",
                                  &in->sin_addr), ==, 1);
    } else {
        in6->sin6_port = htons(port);
        g_assert_cmpint(inet_pton(family, text ? text : "::1",
                                  &in6->sin6_addr), ==, 1);
    }
    return address;
}

bool rig_infiniband(void)
{
    struct ibv_port_attr port;

    g_assert_cmpint(ibv_query_port(rig_device(), 1, &port), ==, 0);
    return port.link_layer == IBV_LINK_LAYER_INFINIBAND;
}

bool rig_iwarp(void)
{
    return rig_device()->device->transport_type == IBV_TRANSPORT_IWARP;
}

uint8_t rig_gid(int family, union ibv_gid *gid)
{
    struct sockaddr_storage address = rig_address(family, 0);
    const struct in6_addr *in6 = &((struct sockaddr_in6 *)&address)->sin6_addr;
    struct ibv_port_attr port;
    uint8_t wanted[16] = { [10] = 0xff, [11] = 0xff };

    if (family == AF_INET) {
        memcpy(wanted + 12, &((struct sockaddr_in *)&address)->sin_addr, 4);
    } else {
        memcpy(wanted, in6, 16);
    }
    if (rig_infiniband()) {
        g_assert_cmpint(ibv_query_gid(rig_device(), 1, 0, gid), ==, 0);
        return 0;
    }
    g_assert_cmpint(ibv_query_port(rig_device(), 1, &port), ==, 0);
    for (int i = 0; i < port.gid_tbl_len; i++) {
        if (ibv_query_gid(rig_device(), 1, i, gid) == 0 &&
            !memcmp(gid->raw, wanted, 16)) {
            return i;
        }
    }
    g_error("the device has no GID for its address");
}

bool rig_readable(int fd, int ms)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    return poll(&pfd, 1, ms) == 1;
}

double rig_seconds_since(int64_t start_us)
{
    return (g_get_monotonic_time() - start_us) / 1e6;
}

/* ----------------------------------------------------------------- children */

RigChild *rig_child_with(const char *role, const char *name,
                         const char *value)
{
    char *argv[] = { (char *)"/proc/self/exe", NULL };
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), ROLE, role, true);
    RigChild *child = g_new0(RigChild, 1);
    g_autoptr(GError) err = NULL;

    if (name) {
        env = g_environ_setenv(env, name, value, true);
    }
    g_spawn_async_with_pipes(NULL, argv, env, G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                             NULL, &child->pid, &child->to, &child->from,
                             NULL, &err);
    g_assert_no_error(err);
    return child;
}

RigChild *rig_child(const char *role)
{
    return rig_child_with(role, NULL, NULL);
}

static void write_all(int fd, const void *data, size_t bytes)
{
    const char *at = data;

    while (bytes > 0) {
        ssize_t done = write(fd, at, bytes);

        g_assert_cmpint(done, >, 0);
        at += done;
        bytes -= done;
    }
}

void rig_child_tell(RigChild *child, const void *data, size_t bytes)
{
    write_all(child->to, data, bytes);
}

void rig_child_hear(RigChild *child, void *data, size_t bytes)
{
    char *at = data;

    while (bytes > 0) {
        ssize_t done;

        if (!rig_readable(child->from, RIG_WAIT_MS)) {
            g_error("the child process says nothing");
        }
        done = read(child->from, at, bytes);
        if (done <= 0) {
            g_error("the child process has ended early");
        }
        at += done;
        bytes -= done;
    }
}

void rig_child_kill(RigChild *child, int number)
{
    int status;

    g_assert_cmpint(kill(child->pid, number), ==, 0);
    /* Both take a moment. */
    if (number == SIGKILL || number == SIGSTOP) {
        g_assert_cmpint(waitpid(child->pid, &status, WUNTRACED), ==,
                        child->pid);
    }
    if (number == SIGKILL) {
        child->pid = 0;
    }
}

void rig_child_free(RigChild *child)
{
    int status;

    close(child->to);
    if (child->pid) {
        g_assert_cmpint(waitpid(child->pid, &status, 0), ==, child->pid);
        g_assert_cmpint(status, ==, 0);
    }
    close(child->from);
    g_free(child);
}

void rig_tell(const void *data, size_t bytes)
{
    write_all(STDOUT_FILENO, data, bytes);
}

void rig_hear(void *data, size_t bytes)
{
    char *at = data;

    while (bytes > 0) {
        ssize_t done = read(STDIN_FILENO, at, bytes);

        if (done <= 0) {
            exit(1);
        }
        at += done;
        bytes -= done;
    }
}
