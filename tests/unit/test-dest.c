/*
 * Unit tests of the destination: connections, commands, hostile sources
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On dest-fixture.h.  What goes beyond version 1 is in test-dest-extended.c.
 */
#include "dest-fixture.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- connections ---- */

static void test_accept(void)
{
    RMigLink *back, *stranger;
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    g_assert_cmpint(rmig_dest_listen_fd(f.dest), ==, 43);
    g_assert_cmpint(rmig_dest_port(f.dest), ==, 4444);
    g_assert_null(rmig_dest_stream(f.dest));
    g_assert_cmpint(rmig_dest_accept(f.dest, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_no_error(err);

    accept_main(&f, 0);
    g_assert_nonnull(rmig_dest_stream(f.dest));
    g_assert_null(rmig_dest_return_stream(f.dest));
    g_assert_cmpuint(f.link->granted, ==, 0);

    stranger = fake_link_new();
    stranger->host = 99;
    fake_links_refused = 0;
    fake_link_offer(stranger);
    g_assert_cmpint(rmig_dest_accept(f.dest, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_nonnull(strstr(err->message, "refused another"));
    g_assert_cmpuint(fake_links_refused, ==, 1);
    g_clear_error(&err);

    back = fake_link_new();
    fake_link_offer(back);
    g_assert_cmpint(rmig_dest_accept(f.dest, NULL), ==, RMIG_ACCEPTED_RETURN);
    g_assert_nonnull(rmig_dest_return_stream(f.dest));

    fake_link_offer(fake_link_new());
    g_assert_cmpint(rmig_dest_accept(f.dest, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_refused, ==, 2);

    rmig_dest_stop_listening(f.dest);
    g_assert_cmpint(rmig_dest_listen_fd(f.dest), ==, -1);
    teardown(&f);
}

/* The first one gives up half way: the listener takes the next */
static void test_accept_fails(void)
{
    g_autoptr(GError) err = NULL;
    RMigLink *link;
    Fixture f;

    setup(&f);
    link = fake_link_new();
    link->cannot_connect = true;
    fake_link_offer(link);
    g_assert_cmpint(rmig_dest_accept(f.dest, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED);
    g_assert_null(rmig_dest_stream(f.dest));
    g_clear_error(&err);
    accept_main(&f, 0);
    teardown(&f);

    setup(&f);
    link = fake_link_new();
    link->verbs->fail_register = 0;
    fake_link_offer(link);
    g_assert_cmpint(rmig_dest_accept(f.dest, &err), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_nonnull(strstr(err->message, "setting up the control channel"));

    accept_main(&f, 0);
    teardown(&f);
}

static void test_unknown_flags(void)
{
    Fixture f;

    setup(&f);
    accept_main(&f, 0xfffffffe);
    g_assert_cmphex(f.link->granted, ==,
                    RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET |
                    RMIG_WIRE_FLAG_HANDOVER);
    teardown(&f);
}

/* Whether this process may ignore its limit of locked memory */
static void set_ipc_lock(bool on)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    struct __user_cap_data_struct *word = &data[CAP_TO_INDEX(CAP_IPC_LOCK)];
    uint32_t bit = CAP_TO_MASK(CAP_IPC_LOCK);

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    word->effective = on ? word->effective | (word->permitted & bit) :
                      word->effective & ~bit;
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
}

/* A limit of locked memory that cannot carry the RAM: the flag is cleared */
static void test_pin_all_declined(void)
{
    Fixture f;

    fake_memlock_bytes = 16 * MIB;
    set_ipc_lock(false);

    setup(&f);
    f.ram_bytes = 11 * MIB; /* the message buffers are not left */
    accept_main(&f, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_cmphex(f.link->granted, ==, 0);
    g_assert_nonnull(strstr(f.warning, "memory-lock limit"));
    teardown(&f);

    setup(&f);
    f.ram_bytes = 5 * MIB;
    accept_main(&f, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_cmphex(f.link->granted, ==, RMIG_WIRE_FLAG_PIN_ALL);
    g_assert_null(f.warning);
    teardown(&f);

    fake_memlock_bytes = UINT64_MAX;
    set_ipc_lock(true);
}

/* ---- the blocks ---- */

static void test_blocks(gconstpointer data)
{
    uint32_t flags = GPOINTER_TO_UINT(data);
    RMigWireMessage msg;
    RMigWireBlock block[3];
    Fixture f;

    setup_exchanged(&f, flags);
    last_answer(&f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_RAM_BLOCKS_RESULT);
    g_assert_cmpuint(msg.n_records, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        rmig_wire_block_unpack(&msg, i, &block[i]);
    }
    g_assert_cmphex(block[RAM].host_addr, ==, (uintptr_t)f.ram);
    g_assert_cmphex(block[RAM].offset, ==, RAM_OFFSET);
    g_assert_cmphex(block[RAM].length, ==, RAM_BYTES);
    g_assert_cmphex(block[ROM].host_addr, ==, (uintptr_t)f.rom);
    g_assert_cmphex(block[ROM].length, ==, PAGE);
    g_assert_cmphex(block[EMPTY].length, ==, 0);
    g_assert_cmphex(block[EMPTY].rkey, ==, 0);
    if (flags) {
        g_assert_cmphex(block[RAM].rkey, !=, 0);
        g_assert_cmphex(block[ROM].rkey, !=, 0);
        g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
        g_assert_true(((RMigMr *)f.verbs->mrs->pdata[1])->remote_write);
    } else {
        g_assert_cmphex(block[RAM].rkey, ==, 0);
        g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    }
    teardown(&f);
}

static void test_blocks_refused(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    accept_main(&f, 0);
    g_assert_true(rmig_dest_note_block(f.dest, "ram", NULL));
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    assert_refused(&f, "the source has no RAM block");
    teardown(&f);

    setup(&f);
    accept_main(&f, 0);
    note_blocks(&f);
    g_assert_true(rmig_dest_note_block(f.dest, "nvram", NULL));
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    assert_refused(&f, "'nvram' that does not exist here");
    teardown(&f);

    setup(&f);
    accept_main(&f, 0);
    note_blocks(&f);
    f.list_fails = true;
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    assert_refused(&f, "no list today");
    teardown(&f);

    setup_exchanged(&f, 0);
    g_assert_false(rmig_dest_note_block(f.dest, "late", &err));
    g_assert_nonnull(strstr(err->message, "late"));
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    assert_refused(&f, "asked twice");
    teardown(&f);

    setup(&f);
    accept_main(&f, RMIG_WIRE_FLAG_PIN_ALL);
    note_blocks(&f);
    f.verbs->fail_register = 1;
    fake_link_script_type(f.link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    assert_refused(&f, "pinning all guest memory");
    teardown(&f);
}

/* ---- commands ---- */

static void test_register(void)
{
    RMigWireMessage msg;
    RMigWireResult result;
    const RMigMr *mr;
    Fixture f;

    setup_exchanged(&f, 0);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM,
                    RAM_OFFSET + MIB + 5, 2);
    finish(&f);
    last_answer(&f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_RESULT);
    g_assert_cmpuint(msg.n_records, ==, 1);
    rmig_wire_result_unpack(&msg, 0, &result);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 2);
    mr = f.verbs->mrs->pdata[1];
    g_assert_cmphex(result.rkey, ==, mr->rkey);
    g_assert_cmphex(result.host_addr, ==, (uintptr_t)f.ram);
    g_assert_true(mr->addr == f.ram + MIB);
    g_assert_cmpuint(mr->bytes, ==, 2 * MIB + PAGE);
    g_assert_true(mr->remote_write);

    /* chunk by chunk it is given back */
    script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 1, 1);
    script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 3, 0);
    finish(&f);
    last_answer(&f, &msg);
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_UNREGISTER_FINISHED);
    g_assert_cmpuint(msg.len, ==, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    teardown(&f);
}

/* A message of several records has as many results */
static void test_register_many(void)
{
    uint8_t data[3 * RMIG_WIRE_REGISTER_BYTES];
    RMigWireMessage msg;
    RMigWireResult result;
    Fixture f;

    setup_exchanged(&f, 0);
    for (unsigned i = 0; i < 3; i++) {
        RMigWireRegister reg = {
            .key = i == 2 ? 0x1000 : RAM_OFFSET + i * MIB,
            .block = i == 2 ? ROM : RAM,
        };

        rmig_wire_register_pack(data + i * RMIG_WIRE_REGISTER_BYTES, &reg);
    }
    fake_link_script(f.link, fake_link_message(RMIG_WIRE_REGISTER_REQUEST,
                                               data, sizeof(data), 3));
    finish(&f);
    last_answer(&f, &msg);
    g_assert_cmpuint(msg.n_records, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        rmig_wire_result_unpack(&msg, i, &result);
        g_assert_cmphex(result.rkey, ==,
                        ((RMigMr *)f.verbs->mrs->pdata[i + 1])->rkey);
        g_assert_cmphex(result.host_addr, ==,
                        (uintptr_t)(i == 2 ? f.rom : f.ram));
    }
    teardown(&f);
}

static void test_zero_run(void)
{
    Fixture f;

    setup_exchanged(&f, 0);
    script_zero_run(&f, 0, RAM, RAM_OFFSET + PAGE, 2 * MIB);
    script_zero_run(&f, 0, ROM, 0x1000, PAGE);
    finish(&f);
    g_assert_cmpuint(f.zero_calls, ==, 2);
    g_assert_cmphex(f.ram[PAGE - 1], ==, 0xee);
    g_assert_cmphex(f.ram[PAGE], ==, 0);
    g_assert_cmphex(f.ram[PAGE + 2 * MIB - 1], ==, 0);
    g_assert_cmphex(f.ram[PAGE + 2 * MIB], ==, 0xee);
    g_assert_cmphex(f.rom[PAGE - 1], ==, 0);
    teardown(&f);
}

/* Numbers that lead out of the guest's memory */
static void test_hostile_numbers(void)
{
    static const struct {
        RMigWireType type;
        uint32_t block;
        uint64_t key;
        uint64_t chunks;
    } cases[] = {
        { RMIG_WIRE_REGISTER_REQUEST, 3, RAM_OFFSET, 0 },
        { RMIG_WIRE_REGISTER_REQUEST, UINT32_MAX, RAM_OFFSET, 0 },
        { RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET - 1, 0 },
        { RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET + RAM_BYTES, 0 },
        { RMIG_WIRE_REGISTER_REQUEST, RAM, 0, 0 },
        { RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 4 },
        { RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, UINT64_MAX },
        { RMIG_WIRE_REGISTER_REQUEST, EMPTY, 0x2000, 0 },
        { RMIG_WIRE_UNREGISTER_REQUEST, 3, 0, 0 },
        { RMIG_WIRE_UNREGISTER_REQUEST, RAM, 4, 0 },
        { RMIG_WIRE_UNREGISTER_REQUEST, RAM, 0, 4 },
        { RMIG_WIRE_UNREGISTER_REQUEST, RAM, UINT64_MAX, UINT64_MAX },
        { RMIG_WIRE_UNREGISTER_REQUEST, EMPTY, 0, 0 },
        { RMIG_WIRE_COMPRESS, 3, RAM_OFFSET, PAGE },
        { RMIG_WIRE_COMPRESS, RAM, RAM_OFFSET - PAGE, PAGE },
        { RMIG_WIRE_COMPRESS, RAM, RAM_OFFSET, RAM_BYTES + 1 },
        { RMIG_WIRE_COMPRESS, RAM, RAM_OFFSET, UINT64_MAX },
        { RMIG_WIRE_COMPRESS, RAM, RAM_OFFSET + PAGE, UINT64_MAX - PAGE },
        { RMIG_WIRE_COMPRESS, RAM, RAM_OFFSET, 0 },
        { RMIG_WIRE_COMPRESS, EMPTY, 0x2000, 1 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        Fixture f;

        setup_exchanged(&f, 0);
        if (cases[i].type == RMIG_WIRE_COMPRESS) {
            script_zero_run(&f, 0, cases[i].block, cases[i].key,
                            cases[i].chunks);
        } else {
            script_register(&f, cases[i].type, cases[i].block, cases[i].key,
                            cases[i].chunks);
        }
        assert_refused(&f, rmig_wire_type_name(cases[i].type));
        g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
        teardown(&f);
    }
}

/* @n records of @type, each about all of block RAM */
static void script_many(Fixture *f, RMigWireType type, uint32_t n)
{
    uint8_t data[4 * RMIG_WIRE_REGISTER_BYTES];
    bool unregister = type == RMIG_WIRE_UNREGISTER_REQUEST;

    g_assert_cmpuint(n * RMIG_WIRE_REGISTER_BYTES, <=, sizeof(data));
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = data + i * RMIG_WIRE_REGISTER_BYTES;

        if (type == RMIG_WIRE_COMPRESS) {
            rmig_wire_zero_run_pack(at, &(RMigWireZeroRun) {
                .block = RAM, .offset = RAM_OFFSET, .length = RAM_BYTES,
            });
        } else {
            rmig_wire_register_pack(at, &(RMigWireRegister) {
                .block = RAM, .key = unregister ? 0 : RAM_OFFSET, .chunks = 3,
            });
        }
    }
    fake_link_script(f->link, fake_link_message(type, data, n *
                                                RMIG_WIRE_REGISTER_BYTES, n));
}

/*
 * The main loop waits for each message: none makes more work than all of RAM
 * does.  But several messages may.
 */
static void test_work_of_a_message(void)
{
    static const RMigWireType types[] = {
        RMIG_WIRE_REGISTER_REQUEST, RMIG_WIRE_UNREGISTER_REQUEST,
        RMIG_WIRE_COMPRESS,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        g_autoptr(GError) err = NULL;
        Fixture f;

        setup_exchanged(&f, 0);
        script_many(&f, types[i], 1);
        script_many(&f, types[i], 1);
        finish(&f);
        f.zero_calls = 0;
        script_many(&f, types[i], 4);
        g_assert_false(rmig_dest_handle(f.dest, &err));
        g_assert_nonnull(strstr(err->message, "more memory than there is"));
        g_assert_cmpuint(f.zero_calls, <=, 1);
        teardown(&f);
    }
}

/* Well-formed messages where they do not belong */
static void test_out_of_place(void)
{
    static const RMigWireType early[] = {
        RMIG_WIRE_COMPRESS, RMIG_WIRE_REGISTER_REQUEST,
        RMIG_WIRE_UNREGISTER_REQUEST, RMIG_WIRE_QEMU_FILE,
    };
    Fixture f;
    char byte;

    for (size_t i = 0; i < G_N_ELEMENTS(early); i++) {
        setup(&f);
        accept_main(&f, 0);
        note_blocks(&f);
        fake_link_script_type(f.link, early[i]);
        assert_refused(&f, "before it asked for the RAM blocks");
        teardown(&f);
    }

    setup_exchanged(&f, 0);
    fake_link_script_type(f.link, RMIG_WIRE_QEMU_FILE);
    assert_refused(&f, "in the middle of a round");
    teardown(&f);

    setup_exchanged(&f, 0);
    script_zero_run(&f, 1, RAM, RAM_OFFSET, PAGE);
    assert_refused(&f, "only 0 is defined");
    teardown(&f);

    setup_exchanged(&f, 0);
    fake_link_script_type(f.link, RMIG_WIRE_REGISTER_RESULT);
    assert_refused(&f, "the peer sent REGISTER_RESULT while");
    teardown(&f);

    /* the stream goes on in the message that held the hook */
    setup_exchanged(&f, 0);
    fake_link_script(f.link, fake_link_message(RMIG_WIRE_QEMU_FILE, "ab", 2,
                                               1));
    g_assert_cmpint(rmig_stream_read(rmig_dest_stream(f.dest), &byte, 1, true,
                                     NULL), ==, 1);
    assert_refused(&f, "goes on behind the RAM hook");
    teardown(&f);
}

/*
 * The source need not wait for us to come to the hook, nor out of it: its first
 * command may come while the hook is read, its stream while the round ends
 */
static void test_comes_early(void)
{
    RMigStream *stream;
    char buf[8];
    Fixture f;

    setup_exchanged(&f, 0);
    stream = rmig_dest_stream(f.dest);
    fake_link_script(f.link, fake_link_message(RMIG_WIRE_QEMU_FILE, "hook", 4,
                                               1));
    g_assert_cmpint(rmig_stream_read(stream, buf, 3, true, NULL), ==, 3);
    script_zero_run(&f, 0, RAM, RAM_OFFSET, PAGE);
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    g_assert_cmpuint(f.zero_calls, ==, 0);
    g_assert_cmpint(rmig_stream_read(stream, buf, 3, true, NULL), ==, 1);
    g_assert_false(rmig_stream_has_data(stream));
    finish(&f);
    g_assert_cmpuint(f.zero_calls, ==, 1);

    fake_link_script(f.link, fake_link_message(RMIG_WIRE_QEMU_FILE, "on", 2,
                                               1));
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 1);
    f.link->frozen = true;
    g_assert_true(rmig_stream_has_data(stream));
    g_assert_cmpint(rmig_stream_read(stream, buf, 8, false, NULL), ==, 2);
    g_assert_cmpmem(buf, 2, "on", 2);
    teardown(&f);
}

static void test_source_gives_up(void)
{
    Fixture f;

    setup_exchanged(&f, 0);
    fake_link_script_type(f.link, RMIG_WIRE_ERROR);
    assert_refused(&f, "gave up");
    teardown(&f);

    setup_exchanged(&f, 0);
    fake_link_script_close(f.link);
    assert_refused(&f, "closed the connection");
    teardown(&f);
}

/* Our own failures are errors of the migration, and the source is told */
static void test_local_failures(void)
{
    g_autoptr(GPtrArray) posts = NULL;
    const FakePost *last;
    Fixture f;

    setup_exchanged(&f, 0);
    f.verbs->fail_register = 0;
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 0);
    assert_refused(&f, "RAM block ram, chunks 0 to 0");
    posts = g_ptr_array_ref(f.verbs->posts);
    rmig_dest_close(f.dest, false); /* failed, whatever the caller thinks */
    last = g_ptr_array_index(posts, posts->len - 1);
    g_assert_cmpuint(((const uint8_t *)g_bytes_get_data(last->data, NULL))[7],
                     ==, RMIG_WIRE_ERROR);
    teardown(&f);
}

/* ---- memory that is not plugged ---- */

static void setup_hole(Fixture *f, uint32_t flags)
{
    setup(f);
    f->hole = true;
    accept_main(f, flags);
    note_blocks(f);
    fake_link_script_type(f->link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
}

static void test_hole(void)
{
    Fixture f;

    setup_hole(&f, 0);
    f.hole = false;
    finish(&f);
    f.hole = true; /* it is told only after the blocks */
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 0);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET + 2 * MIB,
                    1);
    script_zero_run(&f, 0, RAM, RAM_OFFSET, MIB);
    finish(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3); /* with the buffers */
    g_assert_cmphex(f.ram[MIB], ==, 0xee);
    teardown(&f);
}

static void test_hole_hostile(void)
{
    for (unsigned i = 0; i < 6; i++) {
        Fixture f;

        setup_hole(&f, 0);
        finish(&f);
        switch (i) {
        case 0:
            script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM,
                            RAM_OFFSET + MIB, 0);
            break;
        case 1:
            script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET,
                            3);
            break;
        case 2:
            script_register(&f, RMIG_WIRE_UNREGISTER_REQUEST, RAM, 1, 0);
            break;
        case 3:
            script_zero_run(&f, 0, RAM, RAM_OFFSET + MIB, MIB);
            break;
        case 4:
            script_zero_run(&f, 0, RAM, RAM_OFFSET, RAM_BYTES);
            break;
        default:
            script_zero_run(&f, 0, RAM, RAM_OFFSET + 2 * MIB - 1, 2);
        }
        assert_refused(&f, "not plugged");
        g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
        teardown(&f);
    }
}

/* Regions that overlap: together no more than what is plugged */
static void test_hole_overlap(void)
{
    RMigWireMessage msg;
    RMigWireResult result;
    Fixture f;

    setup_hole(&f, RMIG_WIRE_FLAG_BATCH);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 0);
    finish(&f);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET + 2 * MIB,
                    1);
    finish(&f);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET + 2 * MIB,
                    0);
    finish(&f);
    last_answer(&f, &msg);
    rmig_wire_result_unpack(&msg, 0, &result);
    g_assert_cmphex(result.rkey, ==, 0);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3);
    teardown(&f);
}

static void test_hole_pin_all(void)
{
    Fixture f;

    setup_hole(&f, RMIG_WIRE_FLAG_PIN_ALL);
    assert_refused(&f, "rdma-pin-all");
    g_assert_cmpuint(f.verbs->mrs->len, ==, 1);
    teardown(&f);
}

/* ---- the end ---- */

static void test_revoke(void)
{
    Fixture f;

    setup(&f);
    rmig_dest_revoke(f.dest); /* without a connection it has no effect */
    teardown(&f);

    setup_exchanged(&f, RMIG_WIRE_FLAG_PIN_ALL);
    rmig_dest_revoke(f.dest);
    g_assert_true(f.verbs->revoked);
    g_assert_cmpuint(f.verbs->mrs->len, ==, 3); /* unpinning comes later */
    teardown(&f);
}

static void test_counters(void)
{
    RMigCounters counters;
    Fixture f;

    setup_exchanged(&f, 0);
    script_register(&f, RMIG_WIRE_REGISTER_REQUEST, RAM, RAM_OFFSET, 3);
    finish(&f);
    rmig_dest_counters(f.dest, &counters);
    g_assert_cmpuint(counters.chunks_registered, ==, 4);
    g_assert_cmpuint(counters.control_messages, ==, f.verbs->posts->len);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dest/accept", test_accept);
    g_test_add_func("/dest/accept/fails", test_accept_fails);
    g_test_add_func("/dest/accept/unknown-flags", test_unknown_flags);
    g_test_add_func("/dest/accept/pin-all-declined", test_pin_all_declined);
    g_test_add_data_func("/dest/blocks/chunks", GUINT_TO_POINTER(0),
                         test_blocks);
    g_test_add_data_func("/dest/blocks/pin-all",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_PIN_ALL),
                         test_blocks);
    g_test_add_func("/dest/blocks/refused", test_blocks_refused);
    g_test_add_func("/dest/register", test_register);
    g_test_add_func("/dest/register/many", test_register_many);
    g_test_add_func("/dest/zero-run", test_zero_run);
    g_test_add_func("/dest/hostile/numbers", test_hostile_numbers);
    g_test_add_func("/dest/hostile/work", test_work_of_a_message);
    g_test_add_func("/dest/hostile/out-of-place", test_out_of_place);
    g_test_add_func("/dest/comes-early", test_comes_early);
    g_test_add_func("/dest/source-gives-up", test_source_gives_up);
    g_test_add_func("/dest/local-failures", test_local_failures);
    g_test_add_func("/dest/hole", test_hole);
    g_test_add_func("/dest/hole/hostile", test_hole_hostile);
    g_test_add_func("/dest/hole/overlap", test_hole_overlap);
    g_test_add_func("/dest/hole/pin-all-version-1", test_hole_pin_all);
    g_test_add_func("/dest/revoke", test_revoke);
    g_test_add_func("/dest/counters", test_counters);
    return g_test_run();
}
