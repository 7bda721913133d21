/*
 * Tests on a real RDMA device: finding it, and what must not stay behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See device.h.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "reaper.h"
#include "verbs.h"

#define REMEDY "no RDMA device with an active port and an IP address; run " \
               "scripts/verbsim tests/lab/core-tests (natively) or " \
               "tests/lab/core-tests (in the lab)"

static Address own[2]; /* IPv4, IPv6; family 0: none */
static char own_netdev[IF_NAMESIZE];

static Address *own_slot(int family)
{
    return &own[family == AF_INET6];
}

/* Whether an RDMA device has that address; an id bound to it stays open */
static bool bind_to(struct rdma_event_channel *channel,
                    const struct sockaddr *addr)
{
    struct ibv_port_attr port;
    struct rdma_cm_id *id;
    bool active;

    if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP) != 0) {
        return false;
    }
    active = rdma_bind_addr(id, (struct sockaddr *)addr) == 0 && id->verbs &&
             ibv_query_port(id->verbs, id->port_num, &port) == 0 &&
             port.state == IBV_PORT_ACTIVE;
    /*
     * An id keeps the device open, so that its descriptors are not taken for
     * a leak of whoever opens it first.  verbsim's stays open without.
     */
    if (!active || device_is_verbsim()) {
        rdma_destroy_id(id);
    }
    return active;
}

static bool usable(const struct ifaddrs *ifa)
{
    const struct sockaddr_in6 *in6 = (const void *)ifa->ifa_addr;

    if (!ifa->ifa_addr) {
        return false;
    }
    /* Which is all that some machines have; to verbsim it is as good */
    if ((ifa->ifa_flags & IFF_LOOPBACK) && !device_is_verbsim()) {
        return false;
    }
    return ifa->ifa_addr->sa_family == AF_INET ||
           (ifa->ifa_addr->sa_family == AF_INET6 &&
            !IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr));
}

bool device_find(void)
{
    struct rdma_event_channel *channel = rdma_create_event_channel();
    struct ifaddrs *list;

    if (!channel || getifaddrs(&list) != 0) {
        return false;
    }
    for (struct ifaddrs *ifa = list; ifa; ifa = ifa->ifa_next) {
        if (usable(ifa) &&
            !own_slot(ifa->ifa_addr->sa_family)->storage.ss_family &&
            bind_to(channel, ifa->ifa_addr)) {
            memcpy(own_slot(ifa->ifa_addr->sa_family), ifa->ifa_addr,
                   ifa->ifa_addr->sa_family == AF_INET6 ?
                   sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
            g_strlcpy(own_netdev, ifa->ifa_name, sizeof(own_netdev));
        }
    }
    freeifaddrs(list);
    if (device_is_verbsim()) {
        rdma_destroy_event_channel(channel);
    }
    return own[0].storage.ss_family || own[1].storage.ss_family;
}

const char *device_netdev(void)
{
    return own_netdev;
}

void device_test_init(int *argc, char ***argv)
{
    g_test_init(argc, argv, NULL);
    if (!device_find()) {
        printf("1..0 # SKIP " REMEDY "\n");
        exit(0);
    }
}

bool device_has(int family)
{
    if (own_slot(family)->storage.ss_family) {
        return true;
    }
    g_test_skip(family == AF_INET6 ? "the RDMA device has no IPv6 address" :
                                     "the RDMA device has no IPv4 address");
    return false;
}

static void set_port(Address *address, uint16_t port)
{
    /* At the same place in both families */
    ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
}

Address device_address(int family, uint16_t port)
{
    Address address = *own_slot(family);

    g_assert_cmpint(address.storage.ss_family, ==, family);
    set_port(&address, port);
    return address;
}

Address address_parse(const char *text, uint16_t port)
{
    Address address = { 0 };
    struct sockaddr_in *in = (void *)&address;
    struct sockaddr_in6 *in6 = (void *)&address;

    if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
    } else {
        in6->sin6_family = AF_INET6;
        g_assert_cmpint(inet_pton(AF_INET6, text, &in6->sin6_addr), ==, 1);
    }
    set_port(&address, port);
    return address;
}

const struct sockaddr *address_of(const Address *address)
{
    return (const struct sockaddr *)&address->storage;
}

bool device_is_verbsim(void)
{
    return g_getenv("VERBSIM_DIR");
}

bool device_is_lab(void)
{
    if (g_getenv("RMIG_LAB")) {
        return true;
    }
    g_test_skip("it breaks the network, so it runs in the lab only: "
                "scripts/lab tests/lab/core-tests");
    return false;
}

bool device_knows_nobody(void)
{
    return device_is_verbsim() || device_is_lab();
}

void shell(const char *command)
{
    g_autofree char *text = NULL;
    g_autofree char *line = g_strdup_printf("sh -c '%s'", command);
    GError *err = NULL;
    int status;

    g_spawn_command_line_sync(line, NULL, &text, &status, &err);
    g_assert_no_error(err);
    if (status != 0) {
        g_error("%s: %s", line, text);
    }
}

void device_tell_verbsim(int pid, const char *line)
{
    /* core-tests says where the program is */
    g_autofree char *command =
        g_strdup_printf("$RMIG_VERBSIM tell %d \"%s\"", pid, line);

    g_assert_nonnull(g_getenv("RMIG_VERBSIM"));
    shell(command);
}

Held held_now(void)
{
    Held held = { 0 };
    GDir *dir;

    /* What the core frees beside its caller */
    rmig_reaper_wait(NULL);
    dir = g_dir_open("/proc/self/fd", 0, NULL);
    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        held.fds++;
    }
    g_dir_close(dir);
    return held;
}

void held_check(Held before)
{
    Held now = held_now();

    g_assert_cmpuint(rmig_mr_pinned_bytes(), ==, 0);
    g_assert_cmpuint(now.fds, ==, before.fds);
}

double seconds_since(int64_t start_us)
{
    return (g_get_monotonic_time() - start_us) / 1e6;
}

void expect_error(GError *err, const char *part)
{
    g_assert_nonnull(err);
    if (!strstr(err->message, part)) {
        g_error("expected '%s' in the error: %s", part, err->message);
    }
    g_error_free(err);
}
