/*
 * Tests on a real RDMA device: a source that does what it may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See hostile.h.
 */
#include <string.h>

#include "hostile.h"

#define ANSWER_MS 60000
#define MARK 0x5a

TestBlock blocks[N_BLOCKS] = {
    { .name = "ram", .length = 3 * MIB + 5 * PAGE, .offset = 0x10000000 },
    { .name = "rom", .length = 3 * PAGE, .offset = 0x20000000 },
    { .name = "empty", .length = 0, .offset = 0x30000000 },
};

/* ---- what it says ---- */

void command(Fixture *f, RMigWireType type, const void *data,
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

void say(Fixture *f, ServeOrder order, uint32_t number)
{
    uint8_t buf[ORDER_BYTES];

    command(f, RMIG_WIRE_QEMU_FILE, buf, order_pack(buf, order, number), 1);
}

void command_records(Fixture *f, RMigWireType type,
                     const RMigWireRegister *regs, uint32_t n)
{
    g_autofree uint8_t *buf = g_malloc(n * RMIG_WIRE_REGISTER_BYTES);

    for (uint32_t i = 0; i < n; i++) {
        rmig_wire_register_pack(buf + i * RMIG_WIRE_REGISTER_BYTES, &regs[i]);
    }
    command(f, type, buf, n * RMIG_WIRE_REGISTER_BYTES, n);
}

void command_registers(Fixture *f, RMigWireType type, uint64_t key,
                       uint32_t block, uint64_t chunks)
{
    RMigWireRegister reg = { .key = key, .block = block, .chunks = chunks };

    command_records(f, type, &reg, 1);
}

void command_zero(Fixture *f, uint32_t block, uint64_t offset,
                  uint64_t length)
{
    RMigWireZeroRun run = {
        .block = block, .offset = offset, .length = length,
    };
    uint8_t buf[RMIG_WIRE_ZERO_RUN_BYTES];

    rmig_wire_zero_run_pack(buf, &run);
    command(f, RMIG_WIRE_COMPRESS, buf, sizeof(buf), 1);
}

void take_answer(Fixture *f, RMigWireMessage *msg)
{
    GError *err = NULL;

    g_assert_true(rmig_control_wait_answer(f->control, ANSWER_MS, msg, &err));
    g_assert_no_error(err);
}

void release(Fixture *f)
{
    GError *err = NULL;

    g_assert_true(rmig_control_release(f->control, &err));
    g_assert_no_error(err);
}

/* @address in the destination's ram_addr_t space; returns the rkey */
uint32_t register_chunks(Fixture *f, uint64_t address, uint32_t block,
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

/* Many records at once; @rkeys: room for @n */
void register_many(Fixture *f, const RMigWireRegister *regs, uint32_t n,
                   uint32_t *rkeys)
{
    RMigWireMessage msg;

    command_records(f, RMIG_WIRE_REGISTER_REQUEST, regs, n);
    take_answer(f, &msg);
    g_assert_cmpuint(msg.n_records, ==, n);
    for (uint32_t i = 0; i < n; i++) {
        RMigWireResult result;

        rmig_wire_result_unpack(&msg, i, &result);
        g_assert_cmpuint(result.host_addr, ==,
                         (uintptr_t)blocks[regs[i].block].dst);
        rkeys[i] = result.rkey;
    }
    release(f);
}

void unregister_chunks(Fixture *f, uint64_t chunk, uint32_t block,
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
bool write_marks(Fixture *f, const uint8_t *to, uint32_t bytes,
                 uint32_t rkey, unsigned seconds, GError **err)
{
    int64_t deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    bool ok;

    f->write = (RMigWork) {
        .what = "RDMA Write", .done = write_done, .owner = f,
    };
    f->written = false;
    ok = rmig_verbs_post_writes(rmig_link_verbs(f->link), &f->write,
                                &(RMigWrite) {
        .mr = f->mr, .addr = f->marks, .bytes = bytes, .rkey = rkey,
        .remote_addr = (uintptr_t)to,
    }, 1, err);
    while (ok && !f->written) {
        ok = rmig_link_step(f->link, deadline, "the write", err);
    }
    return ok;
}

void expect_write(Fixture *f, uint8_t *to, uint32_t bytes,
                  uint32_t rkey)
{
    GError *err = NULL;

    g_assert_true(write_marks(f, to, bytes, rkey, END_SECONDS, &err));
    g_assert_no_error(err);
    g_assert_cmpmem(to, bytes, f->marks, bytes);
    memset(to, 0xee, bytes); /* as blocks_alloc() left it */
}

/* The device of the destination refuses it */
void expect_no_write(Fixture *f, const uint8_t *to, uint32_t bytes,
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

bool fixture_begin_with(Fixture *f, uint32_t flags, uint64_t pin_limit)
{
    Address address;
    GError *err = NULL;
    RMigWirePrivate ask = { .flags = flags, .pin_bytes = UINT64_MAX }, answer;
    RMigDestConfig wishes = {
        .pin_limit = pin_limit,
        /* Without, what is let go is gone when that is answered */
        .register_threads = flags ? RMIG_REGISTER_THREADS : 0,
    };

    memset(f, 0, sizeof(*f));
    if (!device_has(AF_INET)) {
        return false;
    }
    f->held = held_now();
    address = device_address(AF_INET, 0);
    blocks_alloc(blocks, N_BLOCKS);
    serve_init_with(&f->serve, &address, &wishes);
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
    g_assert_cmpuint(answer.flags, ==, flags);
    f->room = answer.pin_bytes;
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

bool fixture_begin(Fixture *f)
{
    return fixture_begin_with(f, 0, 0);
}

/* @part: of the error with which the destination ends; NULL: with none */
void fixture_end(Fixture *f, const char *part)
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
void expect_told(Fixture *f)
{
    GError *err = NULL;

    while (rmig_link_step(f->link,
                          g_get_monotonic_time() + 5 * G_USEC_PER_SEC,
                          "the destination's ERROR", &err)) {
        /* until something fails */
    }
    expect_error(err, "gave up");
}
