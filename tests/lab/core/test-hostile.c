/*
 * Tests on a real RDMA device: a source that does what it may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hostile source is made of the core's own link, control and verbs rooms,
 * whose messages and writes the test composes itself.  Whatever it does, the
 * destination's memory is untouched where it was not offered, and the
 * destination ends with an error that says why.  docs/rdma.txt, "Security".
 */
#include <string.h>

#include "blocks.h"
#include "control.h"
#include "serve.h"

#define PAGE 4096u
#define MIB (1024u * 1024u)
#define ANSWER_MS 10000
#define MARK 0x5a
/* The chunk that fixture_begin() registers */
#define REGISTERED_CHUNK 1
/* An end must not take longer than this */
#define END_SECONDS 5

static TestBlock blocks[] = {
    { .name = "ram", .length = 3 * MIB + 5 * PAGE, .offset = 0x10000000 },
    { .name = "rom", .length = 3 * PAGE, .offset = 0x20000000 },
    { .name = "empty", .length = 0, .offset = 0x30000000 },
};
#define N_BLOCKS G_N_ELEMENTS(blocks)
enum { RAM, ROM, EMPTY };

typedef struct Fixture {
    Held held;
    Serve serve;
    RMigShutdown *shutdown;
    RMigLink *link;
    RMigControl *control;
    RMigMr *mr;
    uint8_t *marks; /* 2 MiB of MARK, @mr */
    uint32_t rkey;  /* of the registered chunk */
    RMigWork write;
    bool written; /* it has come to its end */
} Fixture;

/* ---- what it says ---- */

static void command(Fixture *f, RMigWireType type, const void *data,
                    uint32_t len, uint32_t repeat)
{
    GError *err = NULL;
    uint8_t *buf = rmig_control_buffer(f->control, &err);

    g_assert_no_error(err);
    if (len) {
        memcpy(buf, data, len);
    }
    g_assert_true(rmig_control_command(f->control, type, len, repeat, &err));
    g_assert_no_error(err);
}

static void say(Fixture *f, ServeOrder order, uint32_t number)
{
    uint8_t buf[ORDER_BYTES];

    command(f, RMIG_WIRE_QEMU_FILE, buf, order_pack(buf, order, number), 1);
}

static void command_registers(Fixture *f, RMigWireType type, uint64_t key,
                              uint32_t block, uint64_t chunks)
{
    RMigWireRegister reg = { .key = key, .block = block, .chunks = chunks };
    uint8_t buf[RMIG_WIRE_REGISTER_BYTES];

    rmig_wire_register_pack(buf, &reg);
    command(f, type, buf, sizeof(buf), 1);
}

static void command_zero(Fixture *f, uint32_t block, uint64_t offset,
                         uint64_t length)
{
    RMigWireZeroRun run = {
        .block = block, .offset = offset, .length = length,
    };
    uint8_t buf[RMIG_WIRE_ZERO_RUN_BYTES];

    rmig_wire_zero_run_pack(buf, &run);
    command(f, RMIG_WIRE_COMPRESS, buf, sizeof(buf), 1);
}

static void take_answer(Fixture *f, RMigWireMessage *msg)
{
    GError *err = NULL;

    g_assert_true(rmig_control_wait_answer(f->control, ANSWER_MS, msg, &err));
    g_assert_no_error(err);
}

static void release(Fixture *f)
{
    GError *err = NULL;

    g_assert_true(rmig_control_release(f->control, &err));
    g_assert_no_error(err);
}

/* @address in the destination's ram_addr_t space; returns the rkey */
static uint32_t register_chunks(Fixture *f, uint64_t address, uint32_t block,
                                uint64_t further)
{
    RMigWireMessage msg;
    RMigWireResult result;

    command_registers(f, RMIG_WIRE_REGISTER_REQUEST, address, block, further);
    take_answer(f, &msg);
    g_assert_cmpuint(msg.n_records, ==, 1);
    rmig_wire_result_unpack(&msg, 0, &result);
    release(f);
    g_assert_cmpuint(result.rkey, !=, 0);
    g_assert_cmpuint(result.host_addr, ==, (uintptr_t)blocks[block].dst);
    return result.rkey;
}

static void unregister_chunks(Fixture *f, uint64_t chunk, uint32_t block,
                              uint64_t further)
{
    RMigWireMessage msg;

    command_registers(f, RMIG_WIRE_UNREGISTER_REQUEST, chunk, block, further);
    take_answer(f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_UNREGISTER_FINISHED);
    release(f);
}

/* ---- what it writes ---- */

static void write_done(RMigWork *work, uint32_t bytes)
{
    Fixture *f = work->owner;

    (void)bytes;
    f->written = true;
}

/* Waits for the write to end; false with the reason why it failed */
static bool write_marks(Fixture *f, const uint8_t *to, uint32_t bytes,
                        uint32_t rkey, unsigned seconds, GError **err)
{
    int64_t deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    bool ok;

    f->write = (RMigWork) {
        .what = "RDMA Write", .done = write_done, .owner = f,
    };
    f->written = false;
    ok = rmig_verbs_post_write(rmig_link_verbs(f->link), &f->write, true,
                               f->mr, f->marks, bytes, (uintptr_t)to, rkey,
                               err);
    while (ok && !f->written) {
        ok = rmig_link_step(f->link, deadline, "the write", err);
    }
    return ok;
}

static void expect_write(Fixture *f, uint8_t *to, uint32_t bytes,
                         uint32_t rkey)
{
    GError *err = NULL;

    g_assert_true(write_marks(f, to, bytes, rkey, END_SECONDS, &err));
    g_assert_no_error(err);
    g_assert_cmpmem(to, bytes, f->marks, bytes);
    memset(to, 0xee, bytes); /* as blocks_alloc() left it */
}

/* The device of the destination refuses it */
static void expect_no_write(Fixture *f, const uint8_t *to, uint32_t bytes,
                            uint32_t rkey)
{
    GError *err = NULL;

    g_assert_false(write_marks(f, to, bytes, rkey, END_SECONDS, &err));
    g_test_message("%s", err->message);
    expect_error(err, "remote access error");
    blocks_check_untouched(blocks, N_BLOCKS);
}

/* ---- fixture ---- */

static void exchange_blocks(Fixture *f)
{
    RMigWireMessage msg;

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        uint32_t len = strlen(blocks[i].name);

        say(f, ORDER_NAME, len);
        command(f, RMIG_WIRE_QEMU_FILE, blocks[i].name, len, 1);
    }
    say(f, ORDER_HOOK, 0);
    command(f, RMIG_WIRE_RAM_BLOCKS_REQUEST, NULL, 0, 1);
    take_answer(f, &msg);
    g_assert_cmpuint(msg.n_records, ==, N_BLOCKS);
    release(f);
}

/*
 * Connected, the blocks exchanged, one chunk registered, which works; the
 * destination serves commands.  False without a device.
 */
static bool fixture_begin(Fixture *f)
{
    Address address;
    GError *err = NULL;
    RMigWirePrivate ask = { 0 }, answer;

    memset(f, 0, sizeof(*f));
    if (!device_has(AF_INET)) {
        return false;
    }
    f->held = held_now();
    address = device_address(AF_INET, 0);
    blocks_alloc(blocks, N_BLOCKS);
    serve_init(&f->serve, &address);
    f->serve.blocks = blocks;
    f->serve.n_blocks = N_BLOCKS;
    serve_start(&f->serve);
    address = device_address(AF_INET, f->serve.port);
    f->shutdown = rmig_shutdown_new(&err);
    f->link = rmig_link_resolve("hostile", &rmig_poll_waiter, f->shutdown,
                                address_of(&address), &err);
    g_assert_no_error(err);
    f->control = rmig_control_new(f->link, true, &err);
    g_assert_no_error(err);
    g_assert_true(rmig_link_connect(f->link, &ask, &answer, &err));
    g_assert_no_error(err);
    f->marks = g_malloc(2 * MIB);
    memset(f->marks, MARK, 2 * MIB);
    f->mr = rmig_mr_register(rmig_link_verbs(f->link), f->marks, 2 * MIB,
                             false, &err);
    g_assert_no_error(err);
    exchange_blocks(f);
    f->rkey = register_chunks(f, blocks[RAM].offset + SERVE_OFFSET +
                              REGISTERED_CHUNK * MIB, RAM, 0);
    expect_write(f, blocks[RAM].dst + REGISTERED_CHUNK * MIB, PAGE, f->rkey);
    return true;
}

/* @part: of the error with which the destination ends; NULL: with none */
static void fixture_end(Fixture *f, const char *part)
{
    int64_t start = g_get_monotonic_time();

    if (part) {
        /* By itself, while we are still there */
        g_thread_join(g_steal_pointer(&f->serve.thread));
        g_assert_cmpfloat(seconds_since(start), <, END_SECONDS);
        g_assert_nonnull(f->serve.error);
        g_test_message("%s", f->serve.error->message);
        expect_error(g_error_copy(f->serve.error), part);
    }
    serve_end(&f->serve);
    blocks_check_untouched(blocks, N_BLOCKS);
    rmig_link_disconnect(f->link);
    rmig_mr_unregister(f->mr);
    rmig_control_free(f->control);
    rmig_link_free(f->link);
    rmig_shutdown_free(f->shutdown);
    g_free(f->marks);
    serve_cleanup(&f->serve);
    blocks_free(blocks, N_BLOCKS);
    held_check(f->held);
}

/* The peer says ERROR before it leaves */
static void expect_told(Fixture *f)
{
    GError *err = NULL;

    while (rmig_link_step(f->link,
                          g_get_monotonic_time() + 5 * G_USEC_PER_SEC,
                          "the destination's ERROR", &err)) {
        /* until something fails */
    }
    expect_error(err, "gave up");
}

/* ---- commands outside of the blocks ---- */

typedef struct Outside {
    const char *path;
    RMigWireType type;
    uint32_t block;
    uint64_t key; /* REGISTER: relative to the block's address */
    uint64_t chunks;
    const char *message;
} Outside;

#define REGISTER RMIG_WIRE_REGISTER_REQUEST
#define UNREGISTER RMIG_WIRE_UNREGISTER_REQUEST

static const Outside outsides[] = {
    { "register/no-such-block", REGISTER, N_BLOCKS, 0, 0,
      "names RAM block 3 of 3" },
    { "register/below", REGISTER, RAM, -(uint64_t)PAGE, 0, "names address" },
    { "register/behind", REGISTER, RAM, 3 * MIB + 5 * PAGE, 0,
      "names address" },
    { "register/too-many-chunks", REGISTER, RAM, 2 * MIB, 2,
      "names chunk 2 and 2 further" },
    { "register/chunks-overflow", REGISTER, RAM, MIB, UINT64_MAX,
      "names chunk 1 and 18446744073709551615 further" },
    { "register/empty-block", REGISTER, EMPTY, 0, 0, "names address" },
    { "unregister/no-such-block", UNREGISTER, 77, 0, 0,
      "names RAM block 77 of 3" },
    { "unregister/no-such-chunk", UNREGISTER, ROM, 1, 0, "names chunk 1" },
    { "unregister/chunks-overflow", UNREGISTER, RAM, 1, UINT64_MAX,
      "names chunk 1 and 18446744073709551615 further" },
};

static void test_outside(gconstpointer data)
{
    const Outside *o = data;
    uint64_t key = o->key;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    if (o->type == REGISTER && o->block < N_BLOCKS) {
        key += blocks[o->block].offset + SERVE_OFFSET;
    }
    command_registers(&f, o->type, key, o->block, o->chunks);
    expect_told(&f);
    fixture_end(&f, o->message);
}

typedef struct ZeroRun {
    const char *path;
    uint32_t block;
    uint64_t offset; /* relative to the block's address */
    uint64_t length;
} ZeroRun;

static const ZeroRun zero_runs[] = {
    { "zero/behind", RAM, 3 * MIB + 5 * PAGE, PAGE },
    { "zero/over-the-end", RAM, 3 * MIB, 6 * PAGE },
    { "zero/below", ROM, -(uint64_t)PAGE, PAGE },
    { "zero/overflow", ROM, PAGE, UINT64_MAX },
    { "zero/no-such-block", UINT32_MAX, 0, PAGE },
    { "zero/empty-block", EMPTY, 0, 1 },
};

static void test_zero_outside(gconstpointer data)
{
    const ZeroRun *run = data;
    uint64_t offset = run->offset + SERVE_OFFSET;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    if (run->block < N_BLOCKS) {
        offset += blocks[run->block].offset;
    }
    command_zero(&f, run->block, offset, run->length);
    expect_told(&f);
    g_assert_cmpuint(f.serve.zeroed_bytes, ==, 0);
    fixture_end(&f, "COMPRESS from the peer names");
}

/* ---- writes that were not offered ---- */

static void test_write_unknown_key(void)
{
    Fixture f;

    if (fixture_begin(&f)) {
        expect_no_write(&f, blocks[RAM].dst, PAGE, f.rkey ^ 0x5500);
        fixture_end(&f, "");
    }
}

/* With the right key for the wrong chunk, or over the edge of the right one */
static void test_write_neighbour(void)
{
    Fixture f;

    if (fixture_begin(&f)) {
        expect_no_write(&f, blocks[RAM].dst, PAGE, f.rkey);
        fixture_end(&f, "");
    }
}

static void test_write_over_edge(void)
{
    uint32_t last = 2 * MIB - PAGE;
    Fixture f;

    if (fixture_begin(&f)) {
        expect_no_write(&f, blocks[RAM].dst + last, PAGE + 1, f.rkey);
        fixture_end(&f, "");
    }
}

/* The last chunk of a block is short, and so is what its key opens */
static void test_write_behind_block(void)
{
    uint8_t *last;
    uint32_t rkey;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    last = blocks[RAM].dst + 3 * MIB;
    rkey = register_chunks(&f, blocks[RAM].offset + SERVE_OFFSET + 3 * MIB,
                           RAM, 0);
    expect_write(&f, last, 5 * PAGE, rkey);
    expect_no_write(&f, last, 5 * PAGE + 1, rkey);
    fixture_end(&f, "");
}

static void test_write_unregistered(void)
{
    Fixture f;

    if (fixture_begin(&f)) {
        unregister_chunks(&f, REGISTERED_CHUNK, RAM, 0);
        expect_no_write(&f, blocks[RAM].dst + REGISTERED_CHUNK * MIB, PAGE,
                        f.rkey);
        fixture_end(&f, "");
    }
}

static void test_write_revoked(void)
{
    GError *err = NULL;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
    say(&f, ORDER_REVOKE, 0);
    serve_wait_parked(&f.serve);
    g_assert_cmpuint(rmig_mr_pinned_bytes(), >, MIB); /* not yet let go */
    /* Nobody answers: it would fail when the device has tried often enough */
    g_assert_false(write_marks(&f, blocks[RAM].dst + REGISTERED_CHUNK * MIB,
                               PAGE, f.rkey, 2, &err));
    expect_error(err, "timed out while waiting for the write");
    blocks_check_untouched(blocks, N_BLOCKS);
    fixture_end(&f, NULL);
}

/* ---- what is allowed goes on being answered ---- */

static void test_unregister_answered(void)
{
    RMigCounters counters;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    unregister_chunks(&f, REGISTERED_CHUNK, RAM, 0);
    unregister_chunks(&f, REGISTERED_CHUNK, RAM, 0); /* no longer */
    unregister_chunks(&f, 3, RAM, 0);                /* never was */
    /* A span of several, of which one is let go: the others stay writable */
    f.rkey = register_chunks(&f, blocks[RAM].offset + SERVE_OFFSET, RAM, 3);
    expect_write(&f, blocks[RAM].dst + MIB - PAGE, 2 * MIB, f.rkey);
    unregister_chunks(&f, 1, RAM, 0);
    expect_write(&f, blocks[RAM].dst + 3 * MIB, 5 * PAGE, f.rkey);
    unregister_chunks(&f, 0, RAM, 3);
    /* And a chunk can be had again */
    f.rkey = register_chunks(&f, blocks[ROM].offset + SERVE_OFFSET, ROM, 0);
    expect_write(&f, blocks[ROM].dst, 3 * PAGE, f.rkey);
    command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
    say(&f, ORDER_END, 0);
    serve_end(&f.serve);
    g_assert_no_error(f.serve.error);
    counters = f.serve.counters;
    g_assert_cmpuint(counters.chunks_registered, ==, 1 + 4 + 1);
    fixture_end(&f, NULL);
}

/* ---- messages ---- */

/* Larger than any receive: the destination's device refuses it */
static void test_oversized_message(void)
{
    RMigWork work = { .what = "SEND", .done = write_done };
    GError *err = NULL;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    work.owner = &f;
    g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &work, f.mr,
                                       f.marks, 600 * 1024, &err));
    while (rmig_link_step(f.link,
                          g_get_monotonic_time() + 30 * G_USEC_PER_SEC,
                          "the end", &err)) {
        /* until it fails */
    }
    g_test_message("%s", err->message);
    /* Its refusal and its ERROR may come in one look at the queue */
    if (!strstr(err->message, "the peer gave up")) {
        expect_error(err, "SEND failed");
    } else {
        g_error_free(err);
    }
    fixture_end(&f, "RECV failed");
}

/* A command that nobody asked for: without READY, in the middle of another */
static void test_unasked_messages(void)
{
    static const RMigWireHeader header = {
        .type = RMIG_WIRE_REGISTER_FINISHED, .repeat = 1,
    };
    RMigWork work[4];
    GError *err = NULL;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
    rmig_wire_header_pack(f.marks, &header);
    for (unsigned i = 0; i < G_N_ELEMENTS(work); i++) {
        work[i] = (RMigWork) {
            .what = "SEND", .done = write_done, .owner = &f,
        };
        g_assert_true(rmig_verbs_post_send(rmig_link_verbs(f.link), &work[i],
                                           f.mr, f.marks,
                                           RMIG_WIRE_HEADER_BYTES, &err));
    }
    while (rmig_link_step(f.link,
                          g_get_monotonic_time() + 30 * G_USEC_PER_SEC,
                          "the end", &err)) {
        /* until it fails */
    }
    g_test_message("%s", err->message);
    g_error_free(err);
    fixture_end(&f, "REGISTER_FINISHED");
}

int main(int argc, char **argv)
{
    device_test_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(outsides); i++) {
        g_autofree char *path = g_strconcat("/hostile/", outsides[i].path,
                                            NULL);

        g_test_add_data_func(path, &outsides[i], test_outside);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(zero_runs); i++) {
        g_autofree char *path = g_strconcat("/hostile/", zero_runs[i].path,
                                            NULL);

        g_test_add_data_func(path, &zero_runs[i], test_zero_outside);
    }
    g_test_add_func("/hostile/write/unknown-key", test_write_unknown_key);
    g_test_add_func("/hostile/write/neighbour", test_write_neighbour);
    g_test_add_func("/hostile/write/over-edge", test_write_over_edge);
    g_test_add_func("/hostile/write/behind-block", test_write_behind_block);
    g_test_add_func("/hostile/write/unregistered", test_write_unregistered);
    g_test_add_func("/hostile/write/revoked", test_write_revoked);
    g_test_add_func("/hostile/unregister/answered", test_unregister_answered);
    g_test_add_func("/hostile/message/oversized", test_oversized_message);
    g_test_add_func("/hostile/message/unasked", test_unasked_messages);
    return g_test_run();
}
