/*
 * A source that does to a QEMU what it may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   hostile-peer commands ADDRESS PORT   commands without a pause
 *   hostile-peer unready ADDRESS PORT    no READY for the last report
 *   hostile-peer names ADDRESS PORT      one RAM block again and again
 *   hostile-peer half-open ADDRESS PORT SOURCE...   asks for connections, from
 *                    each of these addresses of its own, and completes none
 *
 * Speaks to a destination of -machine none with RAM_BYTES of RAM and
 * send-configuration=off, until it is killed, or the destination has left: then
 * it says why.  A line says that it is at it.  tests/lab/hostile starts it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "raw.h"

#define RAM_BYTES (16u << 20)
#define HALF_OPEN_US 100000

typedef struct Peer {
    RMigShutdown *shutdown;
    RMigLink *link;
    RMigControl *control;
    RMigLink *back;
    RMigControl *back_control;
} Peer;

static void give_up(const GError *err)
{
    printf("ended: %s\n", err ? err->message : "by itself");
    exit(0);
}

static void at_it(void)
{
    printf("at it\n");
    fflush(stdout);
}

static RMigLink *connect_one(Peer *p, const char *name,
                             const struct sockaddr *addr, bool commands,
                             RMigControl **control)
{
    RMigWirePrivate ask = { .flags = 0 }, answer;
    GError *err = NULL;
    RMigLink *link = rmig_link_resolve(name, &rmig_poll_waiter, p->shutdown,
                                       addr, &err);

    g_assert_no_error(err);
    *control = rmig_control_new(link, commands, &err);
    g_assert_no_error(err);
    if (!rmig_link_connect(link, &ask, &answer, &err)) {
        give_up(err);
    }
    return link;
}

static void command(Peer *p, RMigWireType type, const void *data,
                    uint32_t len)
{
    GError *err = NULL;
    uint8_t *buf = rmig_control_buffer(p->control, &err);

    if (buf && len) {
        memcpy(buf, data, len);
    }
    if (!buf || !rmig_control_command(p->control, type, len, 1, &err)) {
        give_up(err);
    }
}

static void take_answer(Peer *p)
{
    RMigWireMessage msg;
    GError *err = NULL;

    if (!rmig_control_wait_answer(p->control, 30000, &msg, &err) ||
        !rmig_control_release(p->control, &err)) {
        give_up(err);
    }
}

/* The beginning of a migration stream, and of its RAM section */
static const uint8_t begin[] = {
    'Q', 'E', 'V', 'M', 0, 0, 0, 3,
    1, 0, 0, 0, 2, 3, 'r', 'a', 'm', 0, 0, 0, 0, 0, 0, 0, 4,
};
/* What follows is so much of block "ram" */
static const uint8_t size[] = {
    0, 0, 0, 0, 1, 0, 0, 4, 3, 'r', 'a', 'm', 0, 0, 0, 0, 1, 0, 0, 0,
};
static const uint8_t hook[] = { 0, 0, 0, 0, 0, 0, 0, 0x80 };
/* The return path is to be opened; the end; no description of the devices */
static const uint8_t all[] = {
    'Q', 'E', 'V', 'M', 0, 0, 0, 3, 8, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0,
};

static void send_commands(Peer *p)
{
    RMigWireRegister reg = { .chunks = RAM_BYTES / (1u << 20) - 1 };
    uint8_t data[RMIG_WIRE_REGISTER_BYTES];

    command(p, RMIG_WIRE_QEMU_FILE, begin, sizeof(begin));
    command(p, RMIG_WIRE_QEMU_FILE, size, sizeof(size));
    command(p, RMIG_WIRE_QEMU_FILE, hook, sizeof(hook));
    command(p, RMIG_WIRE_RAM_BLOCKS_REQUEST, NULL, 0);
    take_answer(p);
    rmig_wire_register_pack(data, &reg);
    at_it();
    for (;;) {
        command(p, RMIG_WIRE_UNREGISTER_REQUEST, data, sizeof(data));
        take_answer(p);
    }
}

static void send_names(Peer *p)
{
    uint8_t again[4096 + sizeof(begin)];
    size_t n = 0;

    /* As if there were so much RAM that it takes as many names */
    memcpy(again, begin, sizeof(begin));
    n = sizeof(begin);
    memcpy(again + n, "\0\0\1\0\0\0\0\4", 8);
    n += 8;
    while (n + 12 <= sizeof(again)) {
        memcpy(again + n, size + 8, 12);
        n += 12;
    }
    command(p, RMIG_WIRE_QEMU_FILE, again, n);
    at_it();
    for (;;) {
        command(p, RMIG_WIRE_QEMU_FILE, again + sizeof(begin) + 8,
                (n - sizeof(begin) - 8) / 12 * 12);
    }
}

static void keep_unready(Peer *p, const struct sockaddr *addr)
{
    p->back = connect_one(p, "return path", addr, false, &p->back_control);
    command(p, RMIG_WIRE_QEMU_FILE, all, sizeof(all));
    at_it();
    for (;;) {
        /* The device goes on to acknowledge what comes */
        g_usleep(G_USEC_PER_SEC);
    }
}

static void half_open(const Address *address, char **sources, int n)
{
    g_autofree Raw **raws = g_new0(Raw *, n);
    uint8_t priv[8];

    raw_private(priv, 1, 0);
    at_it();
    for (;;) {
        for (int i = 0; i < n; i++) {
            Address from = address_parse(sources[i], 0);

            raws[i] = raw_ask_from(&from, address, priv, sizeof(priv));
            rdma_destroy_qp(raws[i]->id); /* or the library completes it */
        }
        g_usleep(HALF_OPEN_US);
        for (int i = 0; i < n; i++) {
            raw_free(raws[i]);
        }
    }
}

int main(int argc, char **argv)
{
    Address address;
    Peer p = { 0 };

    if (argc < 4) {
        fprintf(stderr, "usage: hostile-peer KIND ADDRESS PORT [SOURCE...]\n");
        return 2;
    }
    address = address_parse(argv[2], atoi(argv[3]));
    if (strcmp(argv[1], "half-open") == 0) {
        half_open(&address, argv + 4, argc - 4);
    }
    p.shutdown = rmig_shutdown_new(NULL);
    p.link = connect_one(&p, "main connection", address_of(&address), true,
                         &p.control);
    if (strcmp(argv[1], "commands") == 0) {
        send_commands(&p);
    } else if (strcmp(argv[1], "names") == 0) {
        send_names(&p);
    } else if (strcmp(argv[1], "unready") == 0) {
        keep_unready(&p, address_of(&address));
    }
    fprintf(stderr, "hostile-peer: no such kind: %s\n", argv[1]);
    return 2;
}
