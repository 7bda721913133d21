/*
 * What the tests of the destination share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See dest-fixture.h.
 */
#include "dest-fixture.h"

#include <string.h>

/* ---- what the face supplies ---- */

/* In another order than the source's */
static bool list_blocks(void *opaque, GError **err)
{
    Fixture *f = opaque;

    if (f->list_fails) {
        g_set_error(err, RMIG_BLOCKS_ERROR, 0, "no list today");
        return false;
    }
    if (f->no_blocks) {
        return true;
    }
    if (!rmig_dest_add_block(f->dest, "rom", f->rom, 0x1000, PAGE, err) ||
        !rmig_dest_add_block(f->dest, "empty", NULL, 0x2000, 0, err) ||
        !rmig_dest_add_block(f->dest, "ram", f->ram, RAM_OFFSET, RAM_BYTES,
                             err)) {
        return false;
    }
    if (f->anonymous) {
        rmig_dest_hint_block(f->dest, RAM_OFFSET,
                             &(RMigBlockHints) { .anonymous = true });
    }
    return true;
}

static bool list_holes(void *opaque, GError **err)
{
    Fixture *f = opaque;

    return !f->hole || rmig_dest_add_hole(f->dest, RAM_OFFSET, MIB, MIB, err);
}

static void zero(void *opaque, void *host, uint64_t len)
{
    Fixture *f = opaque;

    if (f->zeroing) {
        f->zeroing();
    }
    g_mutex_lock(&f->lock);
    f->zero_calls++;
    f->zeroed_bytes += len;
    f->longest_zero = MAX(f->longest_zero, len);
    g_mutex_unlock(&f->lock);
    memset(host, 0, len);
}

static uint64_t ram_bytes(void *opaque)
{
    return ((Fixture *)opaque)->ram_bytes;
}

static void warn(void *opaque, const char *message)
{
    Fixture *f = opaque;

    g_free(f->warning);
    f->warning = g_strdup(message);
}

static const RMigDestOps ops = {
    .list_blocks = list_blocks, .zero = zero, .ram_bytes = ram_bytes,
    .warn = warn, .list_holes = list_holes,
};

/* ---- fixture ---- */

void setup_config(Fixture *f, RMigDestConfig config)
{
    struct sockaddr addr = { .sa_family = AF_INET };

    config.waiter = rmig_poll_waiter;
    config.ops = &ops;
    config.opaque = f;
    memset(f, 0, sizeof(*f));
    g_mutex_init(&f->lock);
    g_queue_init(&f->commands);
    f->ram_bytes = RAM_BYTES;
    f->ram = g_malloc(RAM_BYTES);
    f->rom = g_malloc(PAGE);
    memset(f->ram, 0xee, RAM_BYTES);
    memset(f->rom, 0xee, PAGE);
    f->dest = rmig_dest_new(&config, &addr, NULL);
    g_assert_nonnull(f->dest);
}

void setup(Fixture *f)
{
    setup_config(f, (RMigDestConfig) { .pin_limit = 0 });
}

void accept_main(Fixture *f, uint32_t flags)
{
    f->link = fake_link_new();
    f->verbs = f->link->verbs;
    f->link->asked = flags;
    f->link->watched_wait_ms = 60000; /* for worker threads */
    fake_link_offer(f->link);
    g_assert_cmpint(rmig_dest_accept(f->dest, NULL), ==, RMIG_ACCEPTED_MAIN);
}

/* The fakes check that nothing is left registered */
void teardown(Fixture *f)
{
    rmig_dest_free(f->dest);
    g_free(f->ram);
    g_free(f->rom);
    g_free(f->warning);
    g_queue_clear_full(&f->commands, (GDestroyNotify)g_bytes_unref);
    g_mutex_clear(&f->lock);
}

void note_blocks(Fixture *f)
{
    g_assert_true(rmig_dest_note_block(f->dest, "ram", NULL));
    g_assert_true(rmig_dest_note_block(f->dest, "rom", NULL));
    g_assert_true(rmig_dest_note_block(f->dest, "empty", NULL));
}

static void send_commands(Fixture *f)
{
    while (f->ready > 0 && !g_queue_is_empty(&f->commands)) {
        fake_link_script(f->link, g_queue_pop_head(&f->commands));
        f->ready--;
    }
}

static void see(RMigLink *link, RMigWireType type, const FakePost *sent)
{
    Fixture *f = link->peer_opaque;

    (void)sent;
    f->ready += type == RMIG_WIRE_READY;
    send_commands(f);
}

void obey(Fixture *f)
{
    f->obeys = true;
    f->link->peer = see;
    f->link->peer_opaque = f;
}

void finish(Fixture *f)
{
    fake_link_script_type(f->link, RMIG_WIRE_REGISTER_FINISHED);
    while (f->obeys && !g_queue_is_empty(&f->link->script)) {
        g_queue_push_tail(&f->commands, g_queue_pop_head(&f->link->script));
    }
    send_commands(f);
    g_assert_true(rmig_dest_handle(f->dest, NULL));
}

/* Connected, the blocks exchanged, out of the hook again */
void setup_exchanged(Fixture *f, uint32_t flags)
{
    setup(f);
    accept_main(f, flags);
    note_blocks(f);
    fake_link_script_type(f->link, RMIG_WIRE_RAM_BLOCKS_REQUEST);
    finish(f);
}

void script_register(Fixture *f, RMigWireType type, uint32_t block,
                     uint64_t key, uint64_t chunks)
{
    RMigWireRegister reg = { .key = key, .block = block, .chunks = chunks };
    uint8_t data[RMIG_WIRE_REGISTER_BYTES];

    rmig_wire_register_pack(data, &reg);
    fake_link_script(f->link, fake_link_message(type, data, sizeof(data), 1));
}

void script_zero_run(Fixture *f, uint32_t value, uint32_t block,
                     uint64_t offset, uint64_t length)
{
    RMigWireZeroRun run = { .value = value, .block = block, .offset = offset,
                            .length = length };
    uint8_t data[RMIG_WIRE_ZERO_RUN_BYTES];

    rmig_wire_zero_run_pack(data, &run);
    fake_link_script(f->link, fake_link_message(RMIG_WIRE_COMPRESS, data,
                                                sizeof(data), 1));
}

/* The last message that we sent, but for READY */
void last_answer(const Fixture *f, RMigWireMessage *msg)
{
    for (unsigned i = f->verbs->posts->len; i-- > 0; ) {
        gsize len;
        const void *data =
            g_bytes_get_data(fake_verbs_post(f->verbs, i)->data, &len);

        g_assert_true(rmig_wire_message_unpack(data, len, msg, NULL));
        if (msg->type != RMIG_WIRE_READY) {
            return;
        }
    }
    g_assert_not_reached();
}

/* What the next hook brings is refused, and the memory is as it was */
void assert_refused(Fixture *f, const char *needle)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GError) again = NULL;

    g_assert_false(rmig_dest_handle(f->dest, &err));
    if (strstr(err->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", err->message, needle);
    }
    g_assert_true(rmig_link_failed(f->link));
    g_assert_cmpuint(f->zero_calls, ==, 0);
    g_assert_cmphex(f->ram[0], ==, 0xee);
    g_assert_cmphex(f->rom[0], ==, 0xee);
    /* nor does it go on afterwards */
    g_assert_false(rmig_dest_handle(f->dest, &again));
    g_assert_nonnull(again);
}
