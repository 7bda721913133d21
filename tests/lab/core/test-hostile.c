/*
 * Tests on a real RDMA device: a source that does what it may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whatever the hostile source of hostile.h does, the destination's memory is
 * untouched where it was not offered, and the destination ends with an error
 * that says why.  docs/rdma.txt, "Security".
 */
#include <string.h>

#include "hostile.h"

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

#define N_WRITES (2 * RMIG_VERBS_CHAIN)

static void writes_done(RMigWork *work, uint32_t bytes)
{
    unsigned *left = work->owner;

    (void)bytes;
    (*left)--;
}

static bool post_many(Fixture *f, RMigWork *work, GError **err)
{
    RMigWrite writes[RMIG_VERBS_CHAIN];

    for (unsigned i = 0; i < G_N_ELEMENTS(writes); i++) {
        writes[i] = (RMigWrite) {
            .mr = f->mr, .addr = f->marks, .bytes = MIB / 2, .rkey = f->rkey,
            .remote_addr = (uintptr_t)blocks[RAM].dst + REGISTERED_CHUNK * MIB,
        };
    }
    return rmig_verbs_post_writes(rmig_link_verbs(f->link), work, writes,
                                  G_N_ELEMENTS(writes), err);
}

/*
 * Let go while writes are on their way: they land or are refused, and neither
 * touches anything else
 */
static void test_unregister_under_writes(void)
{
    unsigned left = 2;
    RMigWork work[2] = {
        { .what = "RDMA Write", .done = writes_done, .owner = &left },
        { .what = "RDMA Write", .done = writes_done, .owner = &left },
    };
    RMigWireMessage msg;
    GError *err = NULL;
    Fixture f;
    bool ok;

    if (!fixture_begin_with(&f, EXTENSIONS, 0)) {
        return;
    }
    g_assert_true(post_many(&f, &work[0], &err));
    g_assert_no_error(err);
    command_registers(&f, UNREGISTER, REGISTERED_CHUNK, RAM, 0);
    ok = post_many(&f, &work[1], &err);
    while (ok && left > 0) {
        ok = rmig_link_step(f.link, g_get_monotonic_time() +
                            END_SECONDS * G_USEC_PER_SEC, "writes", &err);
    }
    memset(blocks[RAM].dst + REGISTERED_CHUNK * MIB, 0xee, MIB);
    if (ok) {
        g_test_message("all have landed");
        take_answer(&f, &msg);
        release(&f);
        command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
        say(&f, ORDER_END, 0);
        fixture_end(&f, NULL);
        return;
    }
    g_test_message("%s", err->message);
    /* The refusal, or what the destination made of it */
    if (!strstr(err->message, "the peer gave up") &&
        !strstr(err->message, "closed")) {
        expect_error(err, "remote access error");
    } else {
        g_error_free(err);
    }
    fixture_end(&f, "");
}

/* ---- many records ---- */

static uint64_t address_in(unsigned block, uint64_t chunk)
{
    return blocks[block].offset + SERVE_OFFSET + chunk * MIB;
}

/* Answers in the order of the records, each key for its own chunk */
static void test_batch_answered(void)
{
    const RMigWireRegister regs[] = {
        { .block = RAM, .key = address_in(RAM, 3) },
        { .block = ROM, .key = address_in(ROM, 0) },
        { .block = RAM, .key = address_in(RAM, 0) },
        { .block = RAM, .key = address_in(RAM, 1) },
    };
    uint32_t rkeys[G_N_ELEMENTS(regs)];
    Fixture f;

    if (!fixture_begin_with(&f, EXTENSIONS, 0)) {
        return;
    }
    register_many(&f, regs, G_N_ELEMENTS(regs), rkeys);
    expect_write(&f, blocks[RAM].dst + 3 * MIB, 5 * PAGE, rkeys[0]);
    expect_write(&f, blocks[ROM].dst, 3 * PAGE, rkeys[1]);
    expect_write(&f, blocks[RAM].dst, MIB, rkeys[2]);
    g_assert_cmpuint(rkeys[3], ==, f.rkey); /* it had that one already */
    expect_write(&f, blocks[RAM].dst + MIB, MIB, rkeys[3]);
    expect_no_write(&f, blocks[RAM].dst, MIB + 1, rkeys[2]);
    fixture_end(&f, "");
}

/* The same chunk so often that it is more than all of RAM */
static void check_too_many(uint32_t n, const char *message)
{
    g_autofree RMigWireRegister *regs = g_new0(RMigWireRegister, n);
    Fixture f;

    if (!fixture_begin_with(&f, EXTENSIONS, 0)) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        regs[i].key = address_in(RAM, i % 3);
    }
    command_records(&f, REGISTER, regs, n);
    expect_told(&f);
    fixture_end(&f, message);
}

static void test_batch_most_records(void)
{
    check_too_many(RMIG_WIRE_RECORDS_MAX, "names more memory than there is");
}

static void test_batch_too_many_records(void)
{
    check_too_many(RMIG_WIRE_RECORDS_MAX + 1, "records");
}

/*
 * A short chunk can be named many times, up to the size of RAM; the last one
 * counts
 */
static void test_batch_again_and_again(void)
{
    RMigWireRegister regs[150];
    uint32_t rkeys[G_N_ELEMENTS(regs)];
    Fixture f;

    if (!fixture_begin_with(&f, EXTENSIONS, 0)) {
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(regs); i++) {
        regs[i] = (RMigWireRegister) { .block = ROM,
                                       .key = address_in(ROM, 0) };
    }
    register_many(&f, regs, G_N_ELEMENTS(regs), rkeys);
    expect_write(&f, blocks[ROM].dst, 3 * PAGE,
                 rkeys[G_N_ELEMENTS(regs) - 1]);
    unregister_chunks(&f, 0, ROM, 0);
    command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
    say(&f, ORDER_END, 0);
    serve_end(&f.serve);
    g_assert_no_error(f.serve.error);
    g_assert_cmpuint(f.serve.counters.chunks_registered, ==,
                     1 + G_N_ELEMENTS(regs));
    fixture_end(&f, NULL);
}

/* ---- more than may be pinned ---- */

/* Regions that overlap pin no more than all of RAM together */
static void test_overlap(void)
{
    uint64_t ram = blocks[RAM].length + blocks[ROM].length;
    uint64_t others;
    Fixture f;

    if (!fixture_begin_with(&f, EXTENSIONS, 0)) {
        return;
    }
    others = rmig_mr_pinned_bytes() - MIB;
    rmig_mr_reset_peak();
    for (unsigned turn = 0; turn < 3; turn++) {
        for (uint64_t n = 4; n > 0; n--) {
            const RMigWireRegister reg = {
                .block = RAM, .key = address_in(RAM, 0), .chunks = n - 1,
            };
            uint32_t rkey;

            register_many(&f, &reg, 1, &rkey);
            if (n == 4) {
                g_assert_cmpuint(rkey, !=, 0);
                expect_write(&f, blocks[RAM].dst + 3 * MIB, 5 * PAGE, rkey);
            }
        }
    }
    g_assert_cmpuint(rmig_mr_pinned_peak_bytes(), <=, others + ram);
    command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
    say(&f, ORDER_END, 0);
    serve_end(&f.serve);
    g_assert_no_error(f.serve.error);
    fixture_end(&f, NULL);
}

/* Both sides' buffers and the marks count, too; what is left is a chunk */
#define LITTLE (12 * MIB)

static void test_limit_refused(void)
{
    const RMigWireRegister regs[] = {
        { .block = RAM, .key = address_in(RAM, 0) },
        { .block = RAM, .key = address_in(RAM, 3) },
        { .block = RAM, .key = address_in(RAM, 2) },
    };
    uint32_t rkeys[G_N_ELEMENTS(regs)];
    Fixture f;

    if (!fixture_begin_with(&f, EXTENSIONS, LITTLE)) {
        return;
    }
    g_assert_cmpuint(f.room, >, MIB);
    g_assert_cmpuint(f.room, <, 2 * MIB);
    register_many(&f, regs, G_N_ELEMENTS(regs), rkeys);
    g_assert_cmpuint(rkeys[0], ==, 0);
    g_assert_cmpuint(rkeys[1], !=, 0); /* a short one */
    g_assert_cmpuint(rkeys[2], ==, 0);
    expect_write(&f, blocks[RAM].dst + 3 * MIB, 5 * PAGE, rkeys[1]);
    unregister_chunks(&f, REGISTERED_CHUNK, RAM, 0);
    register_many(&f, regs, G_N_ELEMENTS(regs), rkeys);
    g_assert_cmpuint(rkeys[0], !=, 0);
    g_assert_cmpuint(rkeys[2], ==, 0);
    expect_write(&f, blocks[RAM].dst, MIB, rkeys[0]);
    command(&f, RMIG_WIRE_REGISTER_FINISHED, NULL, 0, 1);
    say(&f, ORDER_END, 0);
    serve_end(&f.serve);
    g_assert_no_error(f.serve.error);
    g_assert_cmpuint(f.serve.counters.chunks_refused, ==, 3);
    fixture_end(&f, NULL);
}

/* One that knows of no refusal cannot go on */
static void test_limit_version_1(void)
{
    Fixture f;

    if (!fixture_begin_with(&f, 0, LITTLE)) {
        return;
    }
    command_registers(&f, REGISTER, address_in(RAM, 0), RAM, 0);
    expect_told(&f);
    fixture_end(&f, "asks for more memory to be pinned than may be here");
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

static void sent(RMigWork *work, uint32_t bytes)
{
    (void)work;
    (void)bytes;
}

/* Larger than any receive: the destination's device refuses it */
static void test_oversized_message(void)
{
    RMigWork work = { .what = "SEND", .done = sent };
    GError *err = NULL;
    Fixture f;

    if (!fixture_begin(&f)) {
        return;
    }
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
            .what = "SEND", .done = sent,
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
    g_test_add_func("/hostile/unregister/under-writes",
                    test_unregister_under_writes);
    g_test_add_func("/hostile/batch/answered", test_batch_answered);
    g_test_add_func("/hostile/batch/most-records", test_batch_most_records);
    g_test_add_func("/hostile/batch/too-many-records",
                    test_batch_too_many_records);
    g_test_add_func("/hostile/batch/again-and-again",
                    test_batch_again_and_again);
    g_test_add_func("/hostile/limit/overlap", test_overlap);
    g_test_add_func("/hostile/limit/refused", test_limit_refused);
    g_test_add_func("/hostile/limit/version-1", test_limit_version_1);
    g_test_add_func("/hostile/unregister/answered", test_unregister_answered);
    g_test_add_func("/hostile/message/oversized", test_oversized_message);
    g_test_add_func("/hostile/message/unasked", test_unasked_messages);
    return g_test_run();
}
