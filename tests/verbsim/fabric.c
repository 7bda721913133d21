/*
 * verbsim: the directory in which the processes of a fabric meet
 *
 * A process holds a slot by a lock on nic-<slot>.lock, which the kernel lets
 * go however the process ends; its NIC listens on nic-<slot>.sock.  A port of
 * the connection manager is a file port-<port>-<address> that names its slot.
 * What a dead process left is removed by whoever stumbles on it.
 * Called at start-up and by the connection manager, with vs_lock held; changes
 * of the directory are made under a lock on its own file.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "vs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_EPHEMERAL = 32768, LAST_EPHEMERAL = 60999 };

static char *directory;
static int slot_lock = -1;
static unsigned own_slot;

static char *path_of(const char *format, ...) G_GNUC_PRINTF(1, 2);

static char *path_of(const char *format, ...)
{
    g_autofree char *name = NULL;
    va_list args;

    va_start(args, format);
    name = g_strdup_vprintf(format, args);
    va_end(args);
    return g_build_filename(directory, name, NULL);
}

static void G_GNUC_NORETURN give_up(const char *what, const char *path)
{
    vs_complain("cannot %s %s: %s; set VERBSIM_DIR to a directory of your own "
                "with a short name", what, path, g_strerror(errno));
    exit(EXIT_FAILURE);
}

static void find_directory(void)
{
    const char *given = g_getenv("VERBSIM_DIR");
    const char *base = g_getenv("XDG_RUNTIME_DIR");

    directory = given ? g_strdup(given)
                      : g_strdup_printf("%s/verbsim-%u", base ? base : "/tmp",
                                        (unsigned)getuid());
    if (g_mkdir_with_parents(directory, 0700) < 0) {
        give_up("create", directory);
    }
}

static int lock_fabric(void)
{
    g_autofree char *path = path_of("fabric.lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        give_up("lock", path);
    }
    return fd;
}

static int open_slot(unsigned slot)
{
    g_autofree char *path = path_of("nic-%u.lock", slot);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0) {
        give_up("open", path);
    }
    return fd;
}

static bool slot_is_alive(unsigned slot)
{
    int fd;
    bool alive;

    if (slot == own_slot && slot_lock >= 0) {
        return true;
    }
    fd = open_slot(slot);
    alive = flock(fd, LOCK_EX | LOCK_NB) < 0;
    close(fd);
    return alive;
}

/* ------------------------------------------------------------------- ports */

typedef struct Port {
    unsigned port;
    struct in6_addr addr;       /* IPv4 as a mapped address */
    bool any4, any6;            /* wildcards */
    unsigned slot;
    bool listening;
} Port;

/* The same address family for both: IPv4 is a mapped IPv6 address. */
static unsigned read_addr(const struct sockaddr *sa, struct in6_addr *addr)
{
    memset(addr, 0, sizeof(*addr));
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)sa;

        addr->s6_addr[10] = addr->s6_addr[11] = 0xff;
        memcpy(&addr->s6_addr[12], &in->sin_addr, 4);
        return ntohs(in->sin_port);
    }
    *addr = ((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    return ntohs(((const struct sockaddr_in6 *)(const void *)sa)->sin6_port);
}

static Port port_of(const struct sockaddr *sa, bool v6only)
{
    static const uint8_t none[4];
    Port port = { .slot = own_slot };

    port.port = read_addr(sa, &port.addr);
    if (IN6_IS_ADDR_V4MAPPED(&port.addr)) {
        port.any4 = !memcmp(&port.addr.s6_addr[12], none, 4);
    } else if (IN6_IS_ADDR_UNSPECIFIED(&port.addr)) {
        port.any6 = true;
        port.any4 = !v6only;
    }
    return port;
}

static char *port_path(const Port *port)
{
    char text[INET6_ADDRSTRLEN];

    inet_ntop(AF_INET6, &port->addr, text, sizeof(text));
    return path_of("port-%u-%s", port->port, text);
}

static bool read_port(const char *name, Port *port)
{
    g_auto(GStrv) part = g_strsplit(name, "-", 3);
    g_autofree char *path = path_of("%s", name);
    g_autofree char *text = NULL;
    unsigned any4, any6, listening;

    if (g_strv_length(part) != 3 || strcmp(part[0], "port") ||
        inet_pton(AF_INET6, part[2], &port->addr) != 1 ||
        !g_file_get_contents(path, &text, NULL, NULL) ||
        sscanf(text, "%u %u %u %u", &port->slot, &any4, &any6,
               &listening) != 4) {
        return false;
    }
    port->port = (unsigned)strtoul(part[1], NULL, 10);
    port->any4 = any4;
    port->any6 = any6;
    port->listening = listening;
    return true;
}

static bool write_port(const Port *port)
{
    g_autofree char *path = port_path(port);
    g_autofree char *text = g_strdup_printf("%u %d %d %d\n", port->slot,
                                            port->any4, port->any6,
                                            port->listening);

    return g_file_set_contents(path, text, -1, NULL);
}

static bool covers(const Port *port, const struct in6_addr *addr)
{
    return IN6_IS_ADDR_V4MAPPED(addr) && port->any4 ? true
           : !IN6_IS_ADDR_V4MAPPED(addr) && port->any6
           ? true : IN6_ARE_ADDR_EQUAL(&port->addr, addr);
}

static bool overlap(const Port *a, const Port *b)
{
    return a->port == b->port &&
           (covers(a, &b->addr) || covers(b, &a->addr) ||
            (a->any4 && b->any4) || (a->any6 && b->any6));
}

/*
 * The first port entry for which @test says yes, into @found.  Entries of dead
 * processes are removed on the way if the fabric is locked.
 */
static bool search(bool (*test)(const Port *port, const Port *wanted),
                   const Port *wanted, Port *found, bool locked)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        if (!g_str_has_prefix(name, "port-") || !read_port(name, found)) {
            continue;
        }
        if (!slot_is_alive(found->slot)) {
            g_autofree char *path = path_of("%s", name);

            if (locked) {
                unlink(path);
            }
        } else if (test(found, wanted)) {
            return true;
        }
    }
    return false;
}

static bool serves(const Port *port, const Port *wanted)
{
    return port->listening && port->port == wanted->port &&
           covers(port, &wanted->addr);
}

static void set_port(struct sockaddr *sa, unsigned port)
{
    if (sa->sa_family == AF_INET) {
        ((struct sockaddr_in *)(void *)sa)->sin_port = htons(port);
    } else {
        ((struct sockaddr_in6 *)(void *)sa)->sin6_port = htons(port);
    }
}

static bool bind_free_port(Port *port)
{
    unsigned range = LAST_EPHEMERAL - FIRST_EPHEMERAL + 1;
    unsigned start = g_random_int_range(0, (gint32)range);
    Port other;

    for (unsigned i = 0; i < range; i++) {
        port->port = FIRST_EPHEMERAL + (start + i) % range;
        if (!search(overlap, port, &other, true)) {
            return write_port(port);
        }
    }
    return false;
}

int vs_fabric_bind(struct sockaddr *addr, bool v6only)
{
    Port port = port_of(addr, v6only), other;
    int lock = lock_fabric();
    bool bound;

    if (port.port) {
        bound = !search(overlap, &port, &other, true) && write_port(&port);
    } else {
        bound = bind_free_port(&port);
        set_port(addr, port.port);
    }
    close(lock);
    return bound ? 0 : EADDRINUSE;
}

void vs_fabric_unbind(const struct sockaddr *addr, bool v6only)
{
    Port port = port_of(addr, v6only);
    g_autofree char *path = port_path(&port);
    int lock = lock_fabric();

    unlink(path);
    close(lock);
}

int vs_fabric_listen(const struct sockaddr *addr, bool v6only)
{
    Port port = port_of(addr, v6only);
    int lock = lock_fabric();
    bool written;

    port.listening = true;
    written = write_port(&port);
    close(lock);
    return written ? 0 : EIO;
}

int vs_fabric_find(const struct sockaddr *addr)
{
    Port wanted = port_of(addr, false), found;

    return search(serves, &wanted, &found, false) ? (int)found.slot : -1;
}

/* --------------------------------------------------------------- addresses */

bool vs_fabric_is_local(const struct sockaddr *addr)
{
    struct ifaddrs *list, *it;
    struct in6_addr wanted, own;
    bool local = false;

    if (addr->sa_family != AF_INET && addr->sa_family != AF_INET6) {
        return false;
    }
    read_addr(addr, &wanted);
    if (IN6_IS_ADDR_UNSPECIFIED(&wanted) || IN6_IS_ADDR_LOOPBACK(&wanted) ||
        (IN6_IS_ADDR_V4MAPPED(&wanted) &&
         (wanted.s6_addr[12] == 127 || !wanted.s6_addr32[3]))) {
        return true;
    }
    if (getifaddrs(&list) < 0) {
        return false;
    }
    for (it = list; it && !local; it = it->ifa_next) {
        if (it->ifa_addr && (it->ifa_addr->sa_family == AF_INET ||
                             it->ifa_addr->sa_family == AF_INET6)) {
            read_addr(it->ifa_addr, &own);
            local = IN6_ARE_ADDR_EQUAL(&own, &wanted);
        }
    }
    freeifaddrs(list);
    return local;
}

/* ------------------------------------------------------------------- slots */

static bool socket_name(unsigned slot, struct sockaddr_un *name)
{
    g_autofree char *path = path_of("nic-%u.sock", slot);

    memset(name, 0, sizeof(*name));
    name->sun_family = AF_UNIX;
    return g_strlcpy(name->sun_path, path, sizeof(name->sun_path)) <
           sizeof(name->sun_path);
}

/* The port entries of a process that had this slot before. */
static void clean_slot(unsigned slot)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name;
    Port port;

    while (dir && (name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, "port-") && read_port(name, &port) &&
            port.slot == slot) {
            g_autofree char *path = path_of("%s", name);

            unlink(path);
        }
    }
}

static void take_slot(void)
{
    g_autofree char *text = NULL;

    for (unsigned slot = 0; slot < VS_SLOTS; slot++) {
        slot_lock = open_slot(slot);
        if (flock(slot_lock, LOCK_EX | LOCK_NB) == 0) {
            own_slot = slot;
            clean_slot(slot);
            text = g_strdup_printf("%d %s\n", (int)getpid(), vs_name());
            if (ftruncate(slot_lock, 0) < 0 ||
                write(slot_lock, text, strlen(text)) < 0) {
                give_up("write the slot of", directory);
            }
            return;
        }
        close(slot_lock);
    }
    errno = EUSERS;
    give_up("find a free slot in", directory);
}

int vs_fabric_join(unsigned *slot)
{
    struct sockaddr_un name;
    int fd, lock;

    find_directory();
    lock = lock_fabric();
    take_slot();
    if (!socket_name(own_slot, &name)) {
        errno = ENAMETOOLONG;
        give_up("listen in", directory);
    }
    unlink(name.sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0 ||
        listen(fd, SOMAXCONN) < 0) {
        give_up("listen on", name.sun_path);
    }
    close(lock);
    *slot = own_slot;
    return fd;
}

void vs_fabric_leave(void)
{
    struct sockaddr_un name;
    int lock;

    if (slot_lock < 0) {
        return;
    }
    lock = lock_fabric();
    clean_slot(own_slot);
    if (socket_name(own_slot, &name)) {
        unlink(name.sun_path);
    }
    close(slot_lock);
    slot_lock = -1;
    close(lock);
}

int vs_fabric_connect(unsigned slot)
{
    struct sockaddr_un name;
    int fd;

    if (slot >= VS_SLOTS || !socket_name(slot, &name)) {
        return -EINVAL;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
        int error = errno;

        close(fd);
        return -error;
    }
    return fd;
}
