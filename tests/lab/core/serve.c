/*
 * Tests on a real RDMA device: a destination in a thread of its own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See serve.h.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <string.h>

#include "serve.h"

#define GUARD_BYTES 4096
#define FILL 0xee
#define WAIT_MS 60000

/* ---- memory ---- */

void blocks_alloc(TestBlock *blocks, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        TestBlock *b = &blocks[i];

        b->src = g_malloc0(b->length);
        b->dst = g_malloc(b->length + 2 * GUARD_BYTES);
        memset(b->dst, FILL, b->length + 2 * GUARD_BYTES);
        b->dst += GUARD_BYTES;
    }
}

static bool is_filled(const uint8_t *buf, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        if (buf[i] != FILL) {
            return false;
        }
    }
    return true;
}

void blocks_free(TestBlock *blocks, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        TestBlock *b = &blocks[i];

        g_assert_true(is_filled(b->dst - GUARD_BYTES, GUARD_BYTES));
        g_assert_true(is_filled(b->dst + b->length, GUARD_BYTES));
        g_free(b->src);
        g_free(b->dst - GUARD_BYTES);
    }
}

void blocks_check_untouched(const TestBlock *blocks, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_assert_true(is_filled(blocks[i].dst, blocks[i].length));
    }
}

/* ---- what a face supplies ---- */

/* In the order opposite to the test's own */
static bool list_blocks(void *opaque, GError **err)
{
    Serve *s = opaque;

    for (unsigned i = s->n_blocks; i-- > 0;) {
        TestBlock *b = &s->blocks[i];

        if (!rmig_dest_add_block(s->dest, b->name, b->length ? b->dst : NULL,
                                 b->offset + SERVE_OFFSET, b->length, err)) {
            return false;
        }
    }
    return true;
}

static void zero(void *opaque, void *host, uint64_t len)
{
    Serve *s = opaque;

    /* On several threads */
    __atomic_fetch_add(&s->zeroed_bytes, len, __ATOMIC_RELAXED);
    memset(host, 0, len);
}

static uint64_t ram_bytes(void *opaque)
{
    Serve *s = opaque;
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->n_blocks; i++) {
        sum += s->blocks[i].length;
    }
    return sum;
}

static void warn(void *opaque, const char *message)
{
    Serve *s = opaque;

    if (!s->may_warn) {
        g_error("no warning was expected: %s", message);
    }
    s->warnings++;
}

static const RMigDestOps dest_ops = {
    .list_blocks = list_blocks, .zero = zero, .ram_bytes = ram_bytes,
    .warn = warn,
};

/* ---- orders ---- */

size_t order_pack(uint8_t *buf, ServeOrder order, uint32_t number)
{
    number = htonl(number);
    buf[0] = order;
    memcpy(buf + 1, &number, 4);
    return order == ORDER_DATA || order == ORDER_NAME ||
           order == ORDER_RETURN ? ORDER_BYTES : 1;
}

uint8_t return_byte(uint32_t i)
{
    return (i * 2654435761u) >> 24;
}

/* Up to @size bytes, without waiting in the core: as an event loop reads */
static ssize_t read_polling(RMigStream *stream, void *buf, size_t size,
                            GError **err)
{
    for (;;) {
        struct pollfd pfd = { .fd = rmig_stream_fd(stream), .events = POLLIN };
        ssize_t n = rmig_stream_read(stream, buf, size, false, err);

        if (n != RMIG_STREAM_WOULD_BLOCK) {
            return n;
        }
        poll(&pfd, 1, -1);
    }
}

/* Exactly @size bytes, in portions that fit no boundary of the sender's */
static bool read_all(Serve *s, void *buf, size_t size, GError **err)
{
    static const size_t portions[] = { 1, 3, 4099, 7, 65521, 1048573 };
    RMigStream *stream = rmig_dest_stream(s->dest);
    uint8_t *to = buf;

    for (unsigned turn = 0; size > 0; turn++) {
        size_t part = MIN(size, portions[turn % G_N_ELEMENTS(portions)]);
        ssize_t n = s->polls ? read_polling(stream, to, part, err) :
                    rmig_stream_read(stream, to, part, true, err);

        if (n == 0) {
            g_set_error(err, G_IO_CHANNEL_ERROR, 0, "end of the stream");
        }
        if (n <= 0) {
            return false;
        }
        g_assert_cmpuint(n, <=, part);
        to += n;
        size -= n;
    }
    return true;
}

static bool read_number(Serve *s, uint32_t *number, GError **err)
{
    if (!read_all(s, number, sizeof(*number), err)) {
        return false;
    }
    *number = ntohl(*number);
    return true;
}

static bool keep_data(Serve *s, GError **err)
{
    uint32_t len;
    guint at = s->got->len;

    if (!read_number(s, &len, err)) {
        return false;
    }
    g_byte_array_set_size(s->got, at + len);
    return read_all(s, s->got->data + at, len, err);
}

static bool note_name(Serve *s, GError **err)
{
    char name[64] = { 0 };
    uint32_t len;

    if (!read_number(s, &len, err)) {
        return false;
    }
    g_assert_cmpuint(len, <, sizeof(name));
    return read_all(s, name, len, err) &&
           rmig_dest_note_block(s->dest, name, err);
}

static bool send_back(Serve *s, GError **err)
{
    RMigStream *back = rmig_dest_return_stream(s->dest);
    uint32_t len;

    if (!read_number(s, &len, err)) {
        return false;
    }
    g_assert_nonnull(back);
    for (uint32_t at = 0; at < len;) {
        uint8_t buf[1021];
        uint32_t part = MIN(sizeof(buf), len - at);

        for (uint32_t i = 0; i < part; i++) {
            buf[i] = return_byte(s->returned_bytes++);
        }
        if (!rmig_stream_write(back, buf, part, err)) {
            return false;
        }
        at += part;
    }
    return rmig_stream_flush(back, err);
}

static void park(Serve *s)
{
    g_atomic_int_set(&s->parked, 1);
    while (!g_atomic_int_get(&s->stop)) {
        g_usleep(1000);
    }
}

/* False at the end, or with serve->error */
static bool obey(Serve *s)
{
    uint8_t order;

    if (!read_all(s, &order, 1, &s->error)) {
        return false;
    }
    switch (order) {
    case ORDER_DATA:
        return keep_data(s, &s->error);
    case ORDER_NAME:
        return note_name(s, &s->error);
    case ORDER_HOOK:
        return rmig_dest_handle(s->dest, &s->error);
    case ORDER_RETURN:
        return send_back(s, &s->error);
    case ORDER_REVOKE:
        rmig_dest_revoke(s->dest);
        park(s);
        return false;
    case ORDER_PARK:
        park(s);
        return false;
    case ORDER_END:
        return false;
    default:
        g_error("order 0x%02x: the stream is damaged", order);
    }
}

void serve_init(Serve *s, const Address *address)
{
    RMigDestConfig wishes = { .register_threads = RMIG_REGISTER_THREADS };

    serve_init_with(s, address, &wishes);
}

void serve_init_with(Serve *s, const Address *address,
                     const RMigDestConfig *wishes)
{
    RMigDestConfig config = *wishes;
    GError *err = NULL;

    config.waiter = rmig_poll_waiter;
    config.ops = &dest_ops;
    config.opaque = s;
    memset(s, 0, sizeof(*s));
    s->got = g_byte_array_new();
    s->dest = rmig_dest_new(&config, address_of(address), &err);
    g_assert_no_error(err);
    s->port = rmig_dest_port(s->dest);
    g_assert_cmpuint(s->port, !=, 0);
}

RMigAccepted serve_accept(Serve *s, GError **err)
{
    struct pollfd pfd = {
        .fd = rmig_dest_listen_fd(s->dest), .events = POLLIN,
    };
    GError *local = NULL;
    RMigAccepted accepted;

    do {
        g_assert_cmpint(poll(&pfd, 1, WAIT_MS), ==, 1);
        accepted = rmig_dest_accept(s->dest, &local);
    } while (accepted == RMIG_ACCEPTED_NOTHING && !local);
    if (local) {
        g_propagate_error(err, local);
    }
    return accepted;
}

static void close_dest(Serve *s)
{
    if (!s->closed) {
        s->closed = true;
        rmig_dest_counters(s->dest, &s->counters);
        rmig_dest_close(s->dest, s->error != NULL);
    }
}

void serve_run(Serve *s)
{
    if (serve_accept(s, &s->error) != RMIG_ACCEPTED_MAIN ||
        (s->return_path &&
         serve_accept(s, &s->error) != RMIG_ACCEPTED_RETURN)) {
        return;
    }
    while (obey(s)) {
        /* and the next */
    }
    s->ended_us = g_get_monotonic_time();
    /* A face tells the source at once too */
    if (s->error) {
        close_dest(s);
    }
}

static void *serve_thread(void *opaque)
{
    serve_run(opaque);
    return NULL;
}

void serve_start(Serve *s)
{
    s->thread = g_thread_new("destination", serve_thread, s);
}

void serve_wait_parked(Serve *s)
{
    int64_t start = g_get_monotonic_time();

    while (!g_atomic_int_get(&s->parked)) {
        g_assert_cmpfloat(seconds_since(start), <, WAIT_MS / 1e3);
        g_usleep(1000);
    }
}

void serve_end(Serve *s)
{
    g_atomic_int_set(&s->stop, 1);
    if (s->thread) {
        g_thread_join(s->thread);
        s->thread = NULL;
    }
    close_dest(s);
}

void serve_cleanup(Serve *s)
{
    serve_end(s);
    rmig_dest_free(s->dest);
    g_byte_array_free(s->got, true);
    g_clear_error(&s->error);
}
