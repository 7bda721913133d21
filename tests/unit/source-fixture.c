/*
 * What the tests of the source share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See source-fixture.h.
 */
#include "source-fixture.h"

#include <string.h>

/* ---- the destination in miniature ---- */

static Block *block_at(Fixture *f, uint64_t remote_addr, uint64_t *offset)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        Block *b = &f->block[i];

        if (remote_addr >= b->remote_host &&
            remote_addr - b->remote_host < b->length) {
            *offset = remote_addr - b->remote_host;
            return b;
        }
    }
    g_assert_not_reached(); /* a write to nowhere */
}

static uint32_t key_of(const Fixture *f, unsigned block, uint64_t chunk)
{
    return f->pinned ? 0x9000 + block : 0x10000 * (block + 1) + chunk;
}

/* A write lands: a device would refuse it without the right key */
static void landed(void *opaque, const FakePost *write)
{
    Fixture *f = opaque;
    uint64_t offset;
    Block *b = block_at(f, write->remote_addr, &offset);
    unsigned i = b - f->block;
    uint64_t chunk = rmig_block_chunk_of(offset);

    g_assert_cmpuint(write->bytes, <=, b->length - offset);
    g_assert_cmpuint(rmig_block_chunk_of(offset + write->bytes - 1), ==,
                     chunk);
    g_assert_true(f->pinned || f->registered[i][chunk]);
    g_assert_cmphex(write->rkey, ==,
                    key_of(f, i, f->pinned ? 0 :
                                 f->registered[i][chunk] - 1u));
    memcpy(b->theirs + offset, write->addr, write->bytes);
}

static void script_blocks(Fixture *f, RMigLink *link)
{
    uint8_t data[N_BLOCKS * RMIG_WIRE_BLOCK_BYTES];
    unsigned n = N_BLOCKS - (f->vice == BLOCKS_ONE_MISSING);

    for (unsigned i = 0; i < n; i++) {
        const Block *b = &f->block[i];
        RMigWireBlock record = {
            .host_addr = b->remote_host,
            .offset = b->remote_offset,
            .length = b->length + (f->vice == BLOCKS_WRONG_LENGTH),
            .rkey = f->pinned && f->vice != BLOCKS_NO_KEYS ?
                    key_of(f, i, 0) : 0,
        };

        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES, &record);
    }
    fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT, data,
                                             n * RMIG_WIRE_BLOCK_BYTES, 1));
}

static void script_result(Fixture *f, RMigLink *link,
                          const RMigWireMessage *msg)
{
    uint8_t data[RMIG_WIRE_RESULT_BYTES];
    RMigWireRegister reg;
    const Block *b;
    uint64_t chunk;

    /* what stock peers can do: one record, one answer */
    g_assert_cmpuint(msg->n_records, ==, 1);
    rmig_wire_register_unpack(msg, 0, &reg);
    g_assert_cmpuint(reg.block, <, N_BLOCKS);
    b = &f->block[reg.block];
    g_assert_cmphex(reg.key, >=, b->remote_offset);
    g_assert_cmphex(reg.key - b->remote_offset, <, b->length);
    chunk = rmig_block_chunk_of(reg.key - b->remote_offset);
    for (uint64_t c = chunk; c <= chunk + reg.chunks; c++) {
        g_assert_cmpuint(c << RMIG_CHUNK_SHIFT, <, b->length);
        g_assert_false(f->registered[reg.block][c]); /* once is enough */
        f->registered[reg.block][c] = chunk + 1;
    }
    rmig_wire_result_pack(data, &(RMigWireResult) {
        .rkey = f->vice == RESULT_ZERO_KEY ? 0 : key_of(f, reg.block, chunk),
        .host_addr = b->remote_host + (f->vice == RESULT_WRONG_ADDRESS),
    });
    fake_link_script(link, fake_link_message(RMIG_WIRE_REGISTER_RESULT, data,
                                             sizeof(data), 1));
}

static void take_zero_run(Fixture *f, const RMigWireMessage *msg)
{
    RMigWireZeroRun run;
    const Block *b;

    g_assert_cmpuint(msg->n_records, ==, 1);
    rmig_wire_zero_run_unpack(msg, 0, &run);
    g_assert_cmpuint(run.value, ==, 0);
    g_assert_cmpuint(run.block, <, N_BLOCKS);
    b = &f->block[run.block];
    g_assert_cmphex(run.offset, >=, b->remote_offset);
    g_assert_cmpuint(run.length, <=,
                     b->length - (run.offset - b->remote_offset));
    if (b->theirs) {
        memset(b->theirs + (run.offset - b->remote_offset), 0, run.length);
    }
    f->longest_run = MAX(f->longest_run, run.length);
    f->zeroed_bytes += run.length;
}

/* REGISTER_FINISHED promises that every write has completed */
static void check_finished(Fixture *f, const FakePost *sent)
{
    for (unsigned i = 0; i < f->verbs->posts->len; i++) {
        const FakePost *post = fake_verbs_post(f->verbs, i);

        if (post == sent) {
            return;
        }
        g_assert_true(post->kind != FAKE_WRITE ||
                      i < sent->completed_before);
    }
    g_assert_not_reached();
}

static void destination(RMigLink *link, RMigWireType type,
                        const FakePost *sent)
{
    Fixture *f = link->peer_opaque;
    gsize len;
    const void *data = g_bytes_get_data(sent->data, &len);
    RMigWireMessage msg;

    g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
    f->seen[type]++;
    if (f->vice == SAYS_NOTHING) {
        return;
    }
    if (f->vice == GIVES_UP) {
        fake_link_script_type(link, RMIG_WIRE_ERROR);
        return;
    }
    switch (type) {
    case RMIG_WIRE_RAM_BLOCKS_REQUEST:
        script_blocks(f, link);
        break;
    case RMIG_WIRE_REGISTER_REQUEST:
        g_assert_false(f->pinned);
        if (f->vice == ANSWERS_LATE) {
            f->late = sent;
            return;
        }
        script_result(f, link, &msg);
        break;
    case RMIG_WIRE_COMPRESS:
        take_zero_run(f, &msg);
        break;
    case RMIG_WIRE_REGISTER_FINISHED:
        check_finished(f, sent);
        break;
    default:
        g_assert_cmpint(type, ==, RMIG_WIRE_QEMU_FILE);
        g_assert_cmpmem(msg.data, msg.len, "hook", 4);
        break;
    }
    fake_link_script_type(link, RMIG_WIRE_READY);
}

void release_answer(Fixture *f)
{
    RMigWireMessage msg;
    gsize len;
    const void *data = g_bytes_get_data(f->late->data, &len);

    g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
    script_result(f, f->link, &msg);
    fake_link_script_type(f->link, RMIG_WIRE_READY);
    f->late = NULL;
}

/* ---- fixture ---- */

bool is_zero(const void *host, uint64_t len)
{
    const uint8_t *p = host;

    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

void init_blocks(Fixture *f)
{
    static const Block blocks[N_BLOCKS] = {
        { .name = "ram", .length = 3 * MIB + PAGE, .offset = 0,
          .remote_offset = 0x40000000 },
        { .name = "vga", .length = 2 * MIB, .offset = 0x20000000,
          .remote_offset = 0 },
        { .name = "rom", .length = PAGE, .offset = 0x10000000,
          .remote_offset = 0x10000000 },
    };

    for (unsigned i = 0; i < N_BLOCKS; i++) {
        Block *b = &f->block[i];

        *b = blocks[i];
        b->ours = g_malloc0(b->length);
        b->theirs = g_malloc0(b->length);
        b->remote_host = REMOTE_BASE + i * (UINT64_C(1) << 32);
        f->registered[i] = g_malloc0(b->length / MIB + 1);
        memset(b->theirs, 0xee, b->length);
    }
}

static RMigLink *offer_destination(Fixture *f)
{
    RMigLink *link = fake_link_new();

    link->peer = destination;
    link->peer_opaque = f;
    link->verbs->landed = landed;
    link->verbs->opaque = f;
    link->granted = RMIG_WIRE_FLAG_PIN_ALL;
    fake_link_script_type(link, RMIG_WIRE_READY);
    fake_link_offer(link);
    return link;
}

void start(Fixture *f, const RMigSourceConfig *config)
{
    struct sockaddr addr = { .sa_family = AF_INET };

    f->link = offer_destination(f);
    f->verbs = f->link->verbs;
    f->source = rmig_source_new(config, NULL);
    g_assert_nonnull(f->source);
    g_assert_true(rmig_source_connect(f->source, &addr, NULL));
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        const Block *b = &f->block[i];

        g_assert_true(rmig_source_add_block(f->source, b->name, b->ours,
                                            b->offset, b->length, NULL));
    }
}

void setup(Fixture *f, bool pin_all)
{
    RMigSourceConfig config = { .waiter = rmig_poll_waiter,
                                .is_zero = is_zero, .pin_all = pin_all };

    memset(f, 0, sizeof(*f));
    f->pinned = pin_all;
    init_blocks(f);
    start(f, &config);
    g_assert_cmpint(rmig_source_pins_all(f->source), ==, pin_all);
}

void setup_exchanged(Fixture *f, bool pin_all)
{
    setup(f, pin_all);
    g_assert_true(rmig_source_exchange(f->source, NULL));
    g_assert_true(rmig_source_finish(f->source, NULL));
}

void teardown(Fixture *f)
{
    rmig_source_free(f->source);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_free(f->block[i].ours);
        g_free(f->block[i].theirs);
        g_free(f->registered[i]);
    }
}

void dirty(Fixture *f, unsigned block, uint64_t page)
{
    for (unsigned i = 0; i < PAGE; i++) {
        f->block[block].ours[page * PAGE + i] = g_test_rand_int();
    }
}

RMigPage page(Fixture *f, unsigned block, uint64_t number)
{
    return rmig_source_page(f->source, f->block[block].offset, number * PAGE,
                            PAGE, NULL);
}

void send_everything(Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t n = 0; n < f->block[i].length / PAGE; n++) {
            const uint8_t *at = f->block[i].ours + n * PAGE;

            g_assert_cmpint(page(f, i, n), ==, is_zero(at, PAGE) ?
                            RMIG_PAGE_ZERO : RMIG_PAGE_DATA);
        }
    }
    g_assert_true(rmig_source_finish(f->source, NULL));
}

void assert_same_memory(const Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        g_assert_cmpmem(f->block[i].ours, f->block[i].length,
                        f->block[i].theirs, f->block[i].length);
    }
}
