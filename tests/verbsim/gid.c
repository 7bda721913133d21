/*
 * verbsim: the port's GID table, an entry for each local address
 *
 * Called by the program's threads and by librdmacm.  Entries are only added,
 * so that an index stays good for as long as the process lives.  On Ethernet a
 * GID is the address (IPv4 mapped); on InfiniBand it is link-local with a
 * number made from the address.  All processes of a machine get the same.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

#include <ifaddrs.h>
#include <net/if.h>

static GArray *table;           /* struct ibv_gid_entry */

/* @addr as an IPv6 address; false if it is neither that nor IPv4. */
static bool as_ipv6(const struct sockaddr *addr, struct in6_addr *out)
{
    if (addr->sa_family == AF_INET6) {
        *out = ((const struct sockaddr_in6 *)addr)->sin6_addr;
        return true;
    }
    if (addr->sa_family == AF_INET) {
        *out = (struct in6_addr){ 0 };
        out->s6_addr[10] = out->s6_addr[11] = 0xff;
        memcpy(&out->s6_addr[12],
               &((const struct sockaddr_in *)addr)->sin_addr, 4);
        return true;
    }
    return false;
}

/* FNV-1a: spreads addresses that differ little. */
static uint64_t hash_of(const struct in6_addr *addr)
{
    uint64_t hash = 0xcbf29ce484222325;

    for (unsigned i = 0; i < sizeof(addr->s6_addr); i++) {
        hash = (hash ^ addr->s6_addr[i]) * 0x100000001b3;
    }
    return hash;
}

void vs_gid_of(const struct sockaddr *addr, union ibv_gid *gid)
{
    struct in6_addr ipv6;

    *gid = (union ibv_gid){ .raw = { 0 } };
    if (!as_ipv6(addr, &ipv6)) {
        return;
    }
    if (vs_shape.infiniband) {
        gid->global.subnet_prefix = GUINT64_TO_BE(0xfe80000000000000);
        gid->global.interface_id = GUINT64_TO_BE(hash_of(&ipv6));
    } else {
        memcpy(gid->raw, &ipv6, sizeof(gid->raw));
    }
}

static int find(const union ibv_gid *gid)
{
    for (unsigned i = 0; table && i < table->len; i++) {
        struct ibv_gid_entry *entry = &g_array_index(table,
                                                     struct ibv_gid_entry, i);

        if (!memcmp(&entry->gid, gid, sizeof(*gid))) {
            return (int)i;
        }
    }
    return -1;
}

static void add(const struct ifaddrs *interface)
{
    struct ibv_gid_entry entry = {
        .gid_index = table->len,
        .port_num = 1,
        .gid_type = vs_shape.infiniband ? IBV_GID_TYPE_IB
                                        : IBV_GID_TYPE_ROCE_V2,
    };

    vs_gid_of(interface->ifa_addr, &entry.gid);
    if (find(&entry.gid) < 0) {
        entry.ndev_ifindex = vs_shape.infiniband
                             ? 0 : if_nametoindex(interface->ifa_name);
        g_array_append_val(table, entry);
    }
}

static void refresh(void)
{
    struct ifaddrs *list, *it;

    if (!table) {
        table = g_array_new(false, true, sizeof(struct ibv_gid_entry));
    }
    if (getifaddrs(&list) < 0) {
        return;
    }
    for (it = list; it; it = it->ifa_next) {
        if (it->ifa_addr && (it->ifa_addr->sa_family == AF_INET ||
                             it->ifa_addr->sa_family == AF_INET6)) {
            add(it);
        }
    }
    freeifaddrs(list);
}

unsigned vs_gid_count(void)
{
    refresh();
    return table->len;
}

bool vs_gid_at(unsigned index, struct ibv_gid_entry *entry)
{
    if (!table || index >= table->len) {
        refresh();
    }
    if (index >= table->len) {
        return false;
    }
    *entry = g_array_index(table, struct ibv_gid_entry, index);
    return true;
}

static int find_fresh(const union ibv_gid *gid)
{
    int index = find(gid);

    if (index < 0) {
        refresh();
        index = find(gid);
    }
    return index;
}

int vs_gid_index(const struct sockaddr *addr)
{
    struct sockaddr_in loopback = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    struct in6_addr ipv6;
    union ibv_gid gid;
    int index;

    vs_gid_of(addr, &gid);
    index = find_fresh(&gid);
    /* All of 127/8 is local, but only one address is configured. */
    if (index < 0 && as_ipv6(addr, &ipv6) && IN6_IS_ADDR_V4MAPPED(&ipv6) &&
        ipv6.s6_addr[12] == IN_LOOPBACKNET) {
        vs_gid_of((struct sockaddr *)&loopback, &gid);
        index = find_fresh(&gid);
    }
    return index;
}

bool vs_gid_is_local(const union ibv_gid *gid)
{
    struct sockaddr_in6 addr = { .sin6_family = AF_INET6 };

    if (find_fresh(gid) >= 0) {
        return true;
    }
    if (vs_shape.infiniband) {
        return false;
    }
    memcpy(&addr.sin6_addr, gid->raw, sizeof(addr.sin6_addr));
    return vs_fabric_is_local((struct sockaddr *)&addr);
}

/* -------------------------------------------------------------- the queries */

static bool entry_at(uint32_t port_num, unsigned index,
                     struct ibv_gid_entry *entry)
{
    bool found;

    pthread_mutex_lock(&vs_lock);
    found = port_num == 1 && vs_gid_at(index, entry);
    pthread_mutex_unlock(&vs_lock);
    return found;
}

int ibv_query_gid(struct ibv_context *context, uint8_t port_num, int index,
                  union ibv_gid *gid)
{
    struct ibv_gid_entry entry;

    (void)context;
    if (index < 0 || !entry_at(port_num, (unsigned)index, &entry)) {
        errno = EINVAL;
        return -1;
    }
    *gid = entry.gid;
    return 0;
}

int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port_num,
                      uint32_t gid_index, struct ibv_gid_entry *entry,
                      uint32_t flags, size_t entry_size)
{
    struct ibv_gid_entry found;

    (void)context;
    if (flags) {
        return EOPNOTSUPP;
    }
    if (!entry_at(port_num, gid_index, &found)) {
        return port_num == 1 ? ENODATA : EINVAL;
    }
    memcpy(entry, &found, MIN(entry_size, sizeof(found)));
    return 0;
}

ssize_t _ibv_query_gid_table(struct ibv_context *context,
                             struct ibv_gid_entry *entries, size_t max_entries,
                             uint32_t flags, size_t entry_size)
{
    struct ibv_gid_entry found;
    size_t n = 0;

    (void)context;
    if (flags || entry_size < sizeof(found)) {
        return -EOPNOTSUPP;
    }
    while (n < max_entries && entry_at(1, (unsigned)n, &found)) {
        memcpy((char *)entries + n * entry_size, &found, sizeof(found));
        n++;
    }
    return (ssize_t)n;
}

/* Private, for librdmacm and providers: the types as sysfs numbers them. */
VS_EXPORT int ibv_query_gid_type(struct ibv_context *context, uint8_t port_num,
                                 unsigned int index, int *type);
int ibv_query_gid_type(struct ibv_context *context, uint8_t port_num,
                       unsigned int index, int *type)
{
    struct ibv_gid_entry entry;

    (void)context;
    if (!entry_at(port_num, index, &entry)) {
        errno = EINVAL;
        return -1;
    }
    *type = entry.gid_type == IBV_GID_TYPE_ROCE_V2;
    return 0;
}
