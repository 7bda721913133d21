/*
 * What the tests of the source share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See source-fixture.h.
 */
#include "source-fixture.h"
#include "source-priv.h"

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

bool is_in_hole(const Block *b, uint64_t offset)
{
    return offset / MIB >= b->hole_first && offset / MIB < b->hole_end;
}

static void assert_plugged(const Block *b, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += PAGE) {
        g_assert_false(is_in_hole(b, at));
    }
}

/* A write lands: a device would refuse it without the right key */
static void place(Fixture *f, FakePost *write)
{
    uint64_t offset;
    Block *b = block_at(f, write->remote_addr, &offset);
    unsigned i = b - f->block;

    if (write->placed) {
        return;
    }
    write->placed = true;
    assert_plugged(b, offset, write->bytes);
    g_assert_cmpuint(write->bytes, <=, b->length - offset);
    g_assert_cmphex(write->rkey, !=, 0);
    for (uint64_t c = rmig_block_chunk_of(offset);
         c <= rmig_block_chunk_of(offset + write->bytes - 1); c++) {
        g_assert_cmphex(write->rkey, ==, f->keys[i][c]);
    }
    memcpy(b->theirs + offset, write->addr, write->bytes);
}

static void landed(void *opaque, const FakePost *write)
{
    place(opaque, (FakePost *)write);
}

/* A message is behind the writes that were posted before it */
static void place_before(Fixture *f, const FakePost *sent)
{
    FakePost *post;

    while ((post = g_ptr_array_index(f->verbs->posts, f->placed)) != sent) {
        if (post->kind == FAKE_WRITE) {
            place(f, post);
        }
        f->placed++;
    }
}

static uint64_t bytes_of(const Block *b, uint64_t first, uint64_t n)
{
    uint64_t start = first * MIB;

    return MIN(n * MIB, b->length - start);
}

/* Returns the key of chunks that were not registered */
static uint32_t pin(Fixture *f, unsigned block, uint64_t first, uint64_t n)
{
    const Block *b = &f->block[block];
    uint32_t key = ++f->last_key;

    for (uint64_t c = first; c < first + n; c++) {
        g_assert_cmpuint(c << RMIG_CHUNK_SHIFT, <, b->length);
        g_assert_false(is_in_hole(b, c << RMIG_CHUNK_SHIFT));
        g_assert_cmphex(f->keys[block][c], ==, 0); /* once is enough */
        f->registered[block][c] = first + 1;
        f->keys[block][c] = key;
    }
    f->pinned_bytes += bytes_of(b, first, n);
    f->pinned_peak = MAX(f->pinned_peak, f->pinned_bytes);
    /* The source knows how much there is */
    g_assert_true(!(f->mode.flags & RMIG_WIRE_FLAG_BUDGET) ||
                  f->mode.peer_budget == 0 ||
                  f->pinned_bytes <= f->mode.peer_budget);
    return key;
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
        };

        if (f->pinned && f->vice != BLOCKS_NO_KEYS) {
            record.rkey = pin(f, i, 0, (b->length + MIB - 1) / MIB);
        }
        rmig_wire_block_pack(data + i * RMIG_WIRE_BLOCK_BYTES, &record);
    }
    fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT, data,
                                             n * RMIG_WIRE_BLOCK_BYTES, 1));
}

/* Whether the destination has no room, or says so */
static bool refuses(const Fixture *f, uint64_t bytes)
{
    if (f->vice == RESULT_ZERO_KEY ||
        (f->mode.peer_table > 0 &&
         f->pinned_bytes + bytes > f->mode.peer_table)) {
        return true;
    }
    return f->batch && f->mode.refuse_one_in > 0 && f->pinned_bytes > 0 &&
           g_test_rand_int_range(0, f->mode.refuse_one_in) == 0;
}

static void script_result(Fixture *f, RMigLink *link,
                          const RMigWireMessage *msg)
{
    uint32_t n = msg->n_records;
    g_autofree uint8_t *data = g_malloc(n * RMIG_WIRE_RESULT_BYTES);

    /* What stock peers can do: one record, one answer */
    g_assert_true(f->batch || n == 1);
    for (uint32_t i = 0; i < n; i++) {
        RMigWireRegister reg;
        RMigWireResult result = { .rkey = 0 };
        const Block *b;
        uint64_t chunk;

        rmig_wire_register_unpack(msg, i, &reg);
        g_assert_cmpuint(reg.block, <, N_BLOCKS);
        b = &f->block[reg.block];
        g_assert_cmphex(reg.key, >=, b->remote_offset);
        g_assert_cmphex(reg.key - b->remote_offset, <, b->length);
        chunk = rmig_block_chunk_of(reg.key - b->remote_offset);
        if (f->vice == RESULT_UNPINNABLE) {
            result.reason = RMIG_WIRE_REFUSED_UNPINNABLE;
        } else if (refuses(f, bytes_of(b, chunk, reg.chunks + 1))) {
            f->chunks_refused += reg.chunks + 1;
        } else {
            result.rkey = pin(f, reg.block, chunk, reg.chunks + 1);
        }
        f->chunks_asked += reg.chunks + 1;
        result.host_addr = b->remote_host + (f->vice == RESULT_WRONG_ADDRESS);
        rmig_wire_result_pack(data + i * RMIG_WIRE_RESULT_BYTES, &result);
    }
    n -= f->vice == RESULT_ONE_MISSING;
    fake_link_script(link, fake_link_message(RMIG_WIRE_REGISTER_RESULT, data,
                                             n * RMIG_WIRE_RESULT_BYTES, 1));
}

/* Nothing that is on its way may lead there */
static void check_no_write(Fixture *f, const Block *block, uint64_t first,
                           uint64_t n)
{
    for (unsigned i = f->verbs->completed; i < f->verbs->posts->len; i++) {
        const FakePost *post = fake_verbs_post(f->verbs, i);
        uint64_t offset;

        if (post->kind == FAKE_WRITE &&
            block_at(f, post->remote_addr, &offset) == block) {
            g_assert_true(offset + post->bytes <= first * MIB ||
                          offset >= (first + n) * MIB);
        }
    }
}

static void take_unregister(Fixture *f, RMigLink *link,
                            const RMigWireMessage *msg)
{
    g_assert_true(f->batch || msg->n_records == 1);
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireRegister reg;
        const Block *b;

        rmig_wire_register_unpack(msg, i, &reg);
        g_assert_cmpuint(reg.block, <, N_BLOCKS);
        b = &f->block[reg.block];
        g_assert_cmpuint((reg.key + reg.chunks) * MIB, <, b->length);
        check_no_write(f, b, reg.key, reg.chunks + 1);
        for (uint64_t c = reg.key; c <= reg.key + reg.chunks; c++) {
            g_assert_cmphex(f->keys[reg.block][c], !=, 0);
            f->keys[reg.block][c] = 0;
            f->registered[reg.block][c] = 0;
        }
        f->pinned_bytes -= bytes_of(b, reg.key, reg.chunks + 1);
    }
    fake_link_script_type(link, RMIG_WIRE_UNREGISTER_FINISHED);
}

static void take_zero_runs(Fixture *f, const RMigWireMessage *msg)
{
    uint64_t bytes = 0;

    g_assert_true(f->batch || msg->n_records == 1);
    for (uint32_t i = 0; i < msg->n_records; i++) {
        RMigWireZeroRun run;
        const Block *b;

        rmig_wire_zero_run_unpack(msg, i, &run);
        g_assert_cmpuint(run.value, ==, 0);
        g_assert_cmpuint(run.block, <, N_BLOCKS);
        b = &f->block[run.block];
        g_assert_cmphex(run.offset, >=, b->remote_offset);
        g_assert_cmpuint(run.length, <=,
                         b->length - (run.offset - b->remote_offset));
        assert_plugged(b, run.offset - b->remote_offset, run.length);
        if (b->theirs) {
            memset(b->theirs + (run.offset - b->remote_offset), 0,
                   run.length);
        }
        f->longest_run = MAX(f->longest_run, run.length);
        bytes += run.length;
    }
    f->largest_zeros = MAX(f->largest_zeros, bytes);
    f->zeroed_bytes += bytes;
}

static void destination(RMigLink *link, RMigWireType type,
                        const FakePost *sent)
{
    Fixture *f = link->peer_opaque;
    gsize len;
    const void *data = g_bytes_get_data(sent->data, &len);
    RMigWireMessage msg;

    g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
    place_before(f, sent);
    f->seen[type]++;
    f->records[type] += msg.n_records;
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
        if (f->vice == ANSWERS_LATE || f->mode.late > 0 ||
            (f->mode.random && g_test_rand_bit())) {
            f->late = sent;
            f->looks = f->mode.late;
            return;
        }
        script_result(f, link, &msg);
        break;
    case RMIG_WIRE_UNREGISTER_REQUEST:
        take_unregister(f, link, &msg);
        break;
    case RMIG_WIRE_COMPRESS:
        take_zero_runs(f, &msg);
        break;
    case RMIG_WIRE_REGISTER_FINISHED:
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

/* An answer may come after anything else, and later still */
static bool say_what_is_owed(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    if ((!f->mode.random && f->mode.late == 0) || !f->late) {
        return false;
    }
    if (f->looks > 0) {
        f->looks--;
    } else {
        release_answer(f);
    }
    return true;
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
        if (i < 2 && (i ? f->mode.vga_bytes : f->mode.ram_bytes)) {
            b->length = i ? f->mode.vga_bytes : f->mode.ram_bytes;
        }
        if (f->mode.holes) {
            uint64_t chunks = b->length / MIB + (b->length % MIB > 0);

            b->hole_first = g_test_rand_int_range(0, chunks + 1);
            b->hole_end = g_test_rand_int_range(b->hole_first, chunks + 1);
        }
        b->ours = g_malloc0(b->length);
        b->theirs = g_malloc(b->length);
        b->remote_host = REMOTE_BASE + i * (UINT64_C(1) << 32);
        f->registered[i] = g_malloc0(b->length / MIB + 1);
        f->keys[i] = g_new0(uint32_t, b->length / MIB + 1);
        memset(b->theirs, 0xee, b->length);
    }
}

/* A device that refuses now and then, but never the only one */
static bool refuse_some(RMigVerbs *verbs, uint64_t bytes)
{
    Fixture *f = verbs->opaque;

    (void)bytes;
    f->luck = f->luck * 1664525 + 1013904223;
    return f->mode.fail_one_in > 0 && verbs->mrs->len > 1 &&
           (f->luck >> 16) % f->mode.fail_one_in == 0;
}

static RMigLink *offer_destination(Fixture *f)
{
    RMigLink *link = fake_link_new();

    link->peer = destination;
    link->peer_opaque = f;
    link->owes = say_what_is_owed;
    link->random = f->mode.random;
    link->watched_wait_ms = f->mode.threads ? 60000 : 0;
    link->verbs->landed = landed;
    link->verbs->opaque = f;
    link->verbs->refuse = refuse_some;
    link->granted = f->mode.flags;
    link->granted_pin_bytes = f->mode.peer_budget ? f->mode.peer_budget :
                                                    UINT64_MAX;
    fake_link_script_type(link, RMIG_WIRE_READY);
    fake_link_offer(link);
    return link;
}

void start(Fixture *f, const RMigSourceConfig *config)
{
    struct sockaddr addr = { .sa_family = AF_INET };

    f->luck = g_test_rand_int();
    f->link = offer_destination(f);
    f->verbs = f->link->verbs;
    f->source = rmig_source_new(config, NULL);
    g_assert_nonnull(f->source);
    g_assert_true(rmig_source_connect(f->source, &addr, NULL));
    f->batch = f->mode.flags & f->link->asked & RMIG_WIRE_FLAG_BATCH;
    f->pinned = rmig_source_pins_all(f->source) && !f->batch;
    f->verbs->mr_bytes_max = config->pin_limit;
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        const Block *b = &f->block[i];

        g_assert_true(rmig_source_add_block(f->source, b->name, b->ours,
                                            b->offset, b->length, NULL));
        if (b->hole_first < b->hole_end) {
            uint64_t hole = b->hole_first * MIB;

            g_assert_true(rmig_source_add_hole(
                              f->source, b->offset, hole,
                              MIN(b->hole_end * MIB, b->length) - hole, NULL));
        }
    }
}

uint64_t pin_limit_for(uint64_t bytes)
{
    return bytes + 4 * MIB;
}

void setup_mode(Fixture *f, const Mode *mode)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter,
        .is_zero = mode->no_detection ? NULL : is_zero,
        .pin_all = mode->pin_all,
        .register_threads = mode->threads,
    };

    memset(f, 0, sizeof(*f));
    f->mode = *mode;
    if (mode->own_budget) {
        config.pin_limit = pin_limit_for(mode->own_budget);
    }
    init_blocks(f);
    start(f, &config);
}

void setup(Fixture *f, bool pin_all)
{
    setup_mode(f, &(Mode) { .flags = RMIG_WIRE_FLAG_PIN_ALL,
                            .pin_all = pin_all });
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
        g_free(f->keys[i]);
    }
}

void dirty(Fixture *f, unsigned block, uint64_t page)
{
    uint32_t *at = (uint32_t *)(f->block[block].ours + page * PAGE);
    uint32_t x = (uint32_t)g_test_rand_int() | 1;

    for (unsigned i = 0; i < PAGE / sizeof(*at); i++) {
        x = x * 1664525 + 1013904223;
        at[i] = x;
    }
}

RMigPage page(Fixture *f, unsigned block, uint64_t number)
{
    return rmig_source_page(f->source, f->block[block].offset, number * PAGE,
                            PAGE, NULL);
}

void assert_says(GError **err, const char *needle)
{
    g_assert_nonnull(*err);
    if (strstr((*err)->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}

void settle(Fixture *f)
{
    while (rmig_link_poll(f->link, NULL) > 0) {
        /* the next */
    }
}

/* What was posted last; the heartbeat aside */
static const FakePost *last_post(const RMigVerbs *verbs)
{
    unsigned i = verbs->posts->len - 1;

    while (fake_verbs_post(verbs, i)->kind == FAKE_PROBE) {
        i--;
    }
    return fake_verbs_post(verbs, i);
}

void finish_round(Fixture *f)
{
    const RMigWriter *w = &f->source->writer;
    RMigWireMessage msg;
    const FakePost *last;
    gsize len;
    const void *data;

    g_assert_true(rmig_source_finish(f->source, NULL));
    /* It promises that every page has been written before it */
    g_assert_cmpuint(w->run_bytes, ==, 0);
    g_assert_null(w->batch);
    last = last_post(f->verbs);
    g_assert_cmpint(last->kind, ==, FAKE_SEND);
    data = g_bytes_get_data(last->data, &len);
    g_assert_true(rmig_wire_message_unpack(data, len, &msg, NULL));
    g_assert_cmpint(msg.type, ==, RMIG_WIRE_REGISTER_FINISHED);
    while (!f->mode.far && !rmig_writer_is_idle(w)) {
        g_assert_cmpint(rmig_link_poll(f->link, NULL), >, 0);
    }
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
    finish_round(f);
}

void assert_same_memory(const Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        const Block *b = &f->block[i];
        uint64_t hole = MIN(b->hole_first * MIB, b->length);
        uint64_t end = MIN(b->hole_end * MIB, b->length);

        g_assert_cmpmem(b->ours, hole, b->theirs, hole);
        g_assert_cmpmem(b->ours + end, b->length - end, b->theirs + end,
                        b->length - end);
        for (uint64_t at = hole; at < end; at += 64) {
            g_assert_cmphex(b->theirs[at], ==, 0xee);
        }
    }
}

void assert_untouched_memory(const Fixture *f)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        for (uint64_t at = 0; at < f->block[i].length; at += 64) {
            g_assert_cmphex(f->block[i].theirs[at], ==, 0xee);
        }
    }
}
