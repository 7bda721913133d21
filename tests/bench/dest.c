/*
 * rdma-bench: the destination's process
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Obeys the orders in the stream, as QEMU's destination does.  zero() may be
 * called by several threads of the core at a time.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* The source fills its RAM before it connects */
#define CONNECT_MS (30 * 60 * 1000)

static struct {
    RMigDest *rmig;
    BenchDest result;
    _Atomic uint64_t zero_ns, zero_bytes;
} dst;

/* ---- what a face supplies ---- */

static bool list_blocks(void *opaque, GError **err)
{
    static const RMigBlockHints hints = { .anonymous = true };

    (void)opaque;
    for (unsigned i = 0; i < memory.n; i++) {
        g_autofree char *name = g_strdup_printf("bench.%u", i);
        BenchBlock *b = &memory.blocks[i];
        uint64_t offset = b->offset + BENCH_DEST_OFFSET;

        if (!rmig_dest_add_block(dst.rmig, name, b->host, offset, b->length,
                                 err)) {
            return false;
        }
        if (!bench.no_hints) {
            rmig_dest_hint_block(dst.rmig, offset, &hints);
        }
    }
    return true;
}

/* As QEMU: page by page, and one that is zero already is not written */
static void zero(void *opaque, void *host, uint64_t len)
{
    uint64_t start = now_ns();
    uint8_t *at = host, *end = at + len;

    (void)opaque;
    /* A sparse memory is never touched, and looking would take page tables */
    while (!bench.sparse && at < end) {
        uint64_t part = MIN((uint64_t)(end - at), BENCH_PAGE);

        if (!memory_is_zero(at, part)) {
            memset(at, 0, part);
        }
        at += part;
    }
    atomic_fetch_add(&dst.zero_bytes, len);
    atomic_fetch_add(&dst.zero_ns, now_ns() - start);
}

static uint64_t ram_bytes(void *opaque)
{
    (void)opaque;
    return bench.ram_bytes;
}

static void warn(void *opaque, const char *message)
{
    (void)opaque;
    fprintf(stderr, "destination: %s\n", message);
}

static const RMigDestOps dest_ops = {
    .list_blocks = list_blocks, .zero = zero, .ram_bytes = ram_bytes,
    .warn = warn,
};

/* ---- orders ---- */

static void take(void *buf, size_t size)
{
    RMigStream *stream = rmig_dest_stream(dst.rmig);
    uint8_t *to = buf;

    while (size > 0) {
        GError *err = NULL;
        ssize_t n = rmig_stream_read(stream, to, size, true, &err);

        fail_on(err);
        if (n <= 0) {
            fail("the stream ends too early");
        }
        to += n;
        size -= n;
    }
}

static void note_block(void)
{
    g_autofree char *name = NULL;
    GError *err = NULL;
    uint32_t index;

    take(&index, sizeof(index));
    name = g_strdup_printf("bench.%u", index);
    if (!rmig_dest_note_block(dst.rmig, name, &err)) {
        fail_on(err);
    }
}

static void load_device(void)
{
    g_autofree uint8_t *piece = g_malloc(BENCH_STREAM_PIECE);
    uint64_t left;

    take(&left, sizeof(left));
    while (left > 0) {
        size_t part = MIN(left, BENCH_STREAM_PIECE);

        take(piece, part);
        left -= part;
    }
    dst.result.stream_end_ns = now_ns();
}

/* False at the end */
static bool obey(void)
{
    GError *err = NULL;
    uint8_t order;

    take(&order, 1);
    switch (order) {
    case ORDER_BLOCK:
        note_block();
        return true;
    case ORDER_HOOK:
        if (!rmig_dest_handle(dst.rmig, &err)) {
            fail_on(err);
        }
        return true;
    case ORDER_MARK:
        return true;
    case ORDER_STREAM:
        load_device();
        return true;
    case ORDER_END:
        return false;
    default:
        fail("order 0x%02x: the stream is damaged", order);
    }
}

/* ---- the whole ---- */

static void listen_and_tell(int fd)
{
    RMigDestConfig config = {
        .waiter = rmig_poll_waiter,
        .ops = &dest_ops,
        .pin_limit = bench.dest_pin_limit,
        .register_threads = bench.threads,
    };
    GError *err = NULL;
    uint16_t port;

    dst.rmig = rmig_dest_new(&config, bench_address(0), &err);
    fail_on(err);
    port = rmig_dest_port(dst.rmig);
    write_all(fd, &port, sizeof(port));
}

static void accept_one(void)
{
    struct pollfd pfd = {
        .fd = rmig_dest_listen_fd(dst.rmig), .events = POLLIN,
    };
    RMigAccepted accepted;
    GError *err = NULL;

    do {
        if (poll(&pfd, 1, CONNECT_MS) != 1) {
            fail("no source has connected");
        }
        accepted = rmig_dest_accept(dst.rmig, &err);
        fail_on(err);
    } while (accepted != RMIG_ACCEPTED_MAIN);
}

/* The guest runs from revoke on; memory is unpinned behind its back */
static void end(void)
{
    BenchDest *r = &dst.result;

    r->revoke_ns = now_ns();
    rmig_dest_revoke(dst.rmig);
    r->revoked_ns = now_ns();
    rmig_dest_counters(dst.rmig, &r->counters);
    rmig_dest_close(dst.rmig, false);
    r->closed_ns = now_ns();
}

void dest_main(int fd)
{
    BenchMeter meter;

    role = "destination";
    memory_map();
    meter_start(&meter);
    listen_and_tell(fd);
    accept_one();
    while (obey()) {
        /* and the next */
    }
    end();
    dst.result.usage = meter_stop(&meter);
    dst.result.zero_ns = atomic_load(&dst.zero_ns);
    dst.result.zero_bytes = atomic_load(&dst.zero_bytes);
    rmig_dest_free(dst.rmig);
    if (bench.verify) {
        memory_checksum(dst.result.sums);
    }
    write_all(fd, &dst.result, sizeof(dst.result));
    exit(0);
}
