/*
 * Unit tests of the source: a destination that freezes, and the last message
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fakes of link and verbs.  The destination has one RAM block, pinned,
 * and answers as it should until it freezes.
 */
#include "blocks.h"
#include "control.h"
#include "fake-link.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE UINT64_C(4096)

/* How often a source has said that nothing of it is registered any more */
static unsigned times_released;

static void released(void)
{
    times_released++;
}

typedef struct Fixture {
    RMigSource *source;
    RMigLink *main, *back;
    uint8_t *ram;
    uint32_t flags;     /* of LOADED */
    bool keeps_silent;  /* about LOAD_REQUEST and START */
    unsigned patience;  /* how often it was waited for without a deadline */
    RMigWireType then;  /* what comes after that; NONE: the peer leaves */
    bool shuts_down;    /* what happens instead */
    unsigned seen[RMIG_WIRE_TYPES];
} Fixture;

static void answer(RMigLink *link, RMigWireType type, const FakePost *sent)
{
    RMigWireBlock block = {
        .host_addr = 0x550000000000, .length = MIB, .rkey = 7,
    };
    Fixture *f = link->peer_opaque;
    uint8_t data[RMIG_WIRE_BLOCK_BYTES];

    (void)sent;
    f->seen[type]++;
    if (type == RMIG_WIRE_RAM_BLOCKS_REQUEST) {
        rmig_wire_block_pack(data, &block);
        fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT,
                                                 data, sizeof(data), 1));
    }
    if (f->keeps_silent &&
        (type == RMIG_WIRE_LOAD_REQUEST || type == RMIG_WIRE_START)) {
        return;
    }
    if (type == RMIG_WIRE_LOAD_REQUEST) {
        rmig_wire_loaded_pack(data, f->flags);
        fake_link_script(link, fake_link_message(RMIG_WIRE_LOADED, data,
                                                 RMIG_WIRE_LOADED_BYTES, 1));
    }
    if (type == RMIG_WIRE_START) {
        fake_link_script_type(link, RMIG_WIRE_STARTED);
        return;
    }
    fake_link_script_type(link, RMIG_WIRE_READY);
}

/* Waited for without a deadline: far longer than any that there ever was */
static void be_patient(RMigLink *link)
{
    Fixture *f = link->peer_opaque;

    if (++f->patience < 100) {
        return;
    }
    if (f->shuts_down) {
        rmig_source_shutdown(f->source);
    } else if (f->then == RMIG_WIRE_NONE) {
        fake_link_script_close(link);
    } else {
        fake_link_script_type(link, f->then);
        if (f->then == RMIG_WIRE_LOADED) {
            fake_link_script_type(link, RMIG_WIRE_READY);
        }
    }
}

static RMigLink *offer_link(Fixture *f)
{
    RMigLink *link = fake_link_new();

    link->peer_opaque = f;
    link->patience = be_patient;
    fake_link_offer(link);
    return link;
}

/* A source that has exchanged its one block */
static void setup_with(Fixture *f, bool return_path, uint32_t granted)
{
    RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .pin_all = true,
        .return_path = return_path, .released = released,
    };

    memset(f, 0, sizeof(*f));
    times_released = 0;
    f->ram = g_malloc0(MIB);
    f->source = rmig_source_new(&config, NULL);
    f->main = offer_link(f);
    f->main->granted = RMIG_WIRE_FLAG_PIN_ALL | granted;
    f->main->peer = answer;
    fake_link_script_type(f->main, RMIG_WIRE_READY);
    if (return_path) {
        f->back = offer_link(f);
    }
    g_assert_true(rmig_source_connect(f->source, NULL, NULL));
    g_assert_true(rmig_source_add_block(f->source, "ram", f->ram, 0, MIB,
                                        NULL));
    g_assert_true(rmig_source_exchange(f->source, NULL));
}

static void setup(Fixture *f, bool return_path)
{
    setup_with(f, return_path, 0);
}

/* It is said once, however the source ends */
static void teardown(Fixture *f)
{
    rmig_source_free(f->source);
    g_assert_cmpuint(times_released, ==, 1);
    g_free(f->ram);
}

static void assert_says(GError **err, int code, const char *needle)
{
    g_assert_error(*err, RMIG_LINK_ERROR, code);
    if (!strstr((*err)->message, needle)) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}

static void assert_waits_for(Fixture *f, RMigWait what)
{
    RMigCounters c;

    rmig_source_counters(f->source, &c);
    g_assert_cmpint(c.waiting, ==, what);
}

static void test_released(void)
{
    const RMigSourceConfig config = {
        .waiter = rmig_poll_waiter, .released = released,
    };
    RMigSource *never_connected = rmig_source_new(&config, NULL);
    Fixture f;

    setup(&f, true);
    times_released = 0;
    rmig_source_close(f.source, true);
    g_assert_cmpuint(times_released, ==, 1);
    rmig_source_free(f.source);
    g_assert_cmpuint(times_released, ==, 1);
    g_free(f.ram);
    rmig_source_free(never_connected);
    g_assert_cmpuint(times_released, ==, 2);
}

/* The link wakes its waiters every second: that must not put the end off */
static void test_writes_hang(void)
{
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_cmpint(rmig_source_page(f.source, 0, 0, PAGE, NULL), ==,
                    RMIG_PAGE_DATA);
    f.main->frozen = true;
    g_assert_false(rmig_source_finish(f.source, &err));
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "RDMA Writes to complete");
    teardown(&f);
}

static void test_send_queue_hangs(void)
{
    RMigPage page = RMIG_PAGE_DATA;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    f.main->frozen = true;
    /* Every other page, so that each is a write of its own */
    for (uint64_t i = 0; page == RMIG_PAGE_DATA; i += 2) {
        page = rmig_source_page(f.source, 0, i * PAGE % MIB, PAGE, &err);
        g_assert_cmpuint(i, <, 4096);
    }
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "room in the send queue");
    teardown(&f);
}

/* ---- version 1 ---- */

/*
 * The destination may load for as long as it likes: reading its report has no
 * deadline, whatever has been sent
 */
static void test_late_report(void)
{
    RMigStream *stream;
    GError *err = NULL;
    uint8_t byte;
    Fixture f;

    setup(&f, true);
    stream = rmig_source_return_stream(f.source);
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, false, &err), ==,
                    RMIG_STREAM_WOULD_BLOCK);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    g_assert_true(rmig_source_end(f.source, NULL));
    assert_waits_for(&f, RMIG_WAIT_REPORT);
    f.then = RMIG_WIRE_QEMU_FILE;
    g_assert_cmpint(rmig_stream_read(stream, &byte, 1, true, NULL), ==, 1);
    g_assert_cmpuint(f.patience, ==, 100);
    teardown(&f);
}

/* and a user's patience ends it */
static void test_report_cancelled(void)
{
    GError *err = NULL;
    uint8_t byte;
    Fixture f;

    setup(&f, true);
    g_assert_true(rmig_source_end(f.source, NULL));
    f.shuts_down = true;
    g_assert_cmpint(rmig_stream_read(rmig_source_return_stream(f.source),
                                     &byte, 1, true, &err), ==, -1);
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "shut down");
    teardown(&f);
}

static void answer_none(RMigLink *link, RMigWireType type,
                        const FakePost *sent)
{
    (void)sent;
    if (type == RMIG_WIRE_RAM_BLOCKS_REQUEST) {
        fake_link_script(link, fake_link_message(RMIG_WIRE_RAM_BLOCKS_RESULT,
                                                 NULL, 0, 1));
    }
    fake_link_script_type(link, RMIG_WIRE_READY);
}

/* Everything is ignored: rounds without RAM, to the end */
static void test_no_blocks(gconstpointer data)
{
    RMigSourceConfig config = { .waiter = rmig_poll_waiter, .pin_all = true };
    RMigLink *link = fake_link_new();
    RMigSource *source = rmig_source_new(&config, NULL);

    link->granted = GPOINTER_TO_UINT(data);
    link->granted_pin_bytes = UINT64_MAX;
    link->peer = answer_none;
    fake_link_script_type(link, RMIG_WIRE_READY);
    fake_link_offer(link);
    g_assert_true(rmig_source_connect(source, NULL, NULL));
    g_assert_true(rmig_source_exchange(source, NULL));
    g_assert_true(rmig_source_finish(source, NULL));
    g_assert_true(rmig_source_finish(source, NULL));
    g_assert_true(rmig_stream_write(rmig_source_stream(source), "end", 3,
                                    NULL));
    g_assert_true(rmig_source_end(source, NULL));
    rmig_source_free(source);
}

/* Nothing waits behind the last message that would notice */
static void test_last_message_fails(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    f.main->break_settling = true;
    g_assert_false(rmig_source_end(f.source, &err));
    g_assert_nonnull(strstr(err->message, "SEND failed"));
    g_clear_error(&err);
    g_assert_false(rmig_source_end(f.source, &err)); /* and stays so */
    g_assert_nonnull(err);
    assert_waits_for(&f, RMIG_WAIT_NONE);
    f.main->break_settling = false;
    teardown(&f);
}

/* What is not known to have arrived is no success */
static void test_last_message_unknown(void)
{
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    g_assert_true(rmig_stream_flush(rmig_source_stream(f.source), NULL));
    f.main->frozen = true;
    g_assert_false(rmig_source_end(f.source, &err));
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "end of the stream to arrive");
    f.main->frozen = false;
    teardown(&f);
}

/* One of version 1 may be done and gone; of others that is known better */
static void test_leaves(void)
{
    static const uint32_t granted[] = { 0, RMIG_WIRE_FLAG_HANDOVER };

    for (unsigned i = 0; i < G_N_ELEMENTS(granted); i++) {
        GError *err = NULL;
        Fixture f;

        setup_with(&f, false, granted[i]);
        g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end",
                                        3, NULL));
        g_assert_true(rmig_stream_flush(rmig_source_stream(f.source), NULL));
        f.main->peer = NULL;
        fake_link_script_close(f.main);
        if (granted[i]) {
            g_assert_false(rmig_source_end(f.source, &err));
            assert_says(&err, RMIG_LINK_ERROR_CLOSED, "closed");
        } else {
            g_assert_true(rmig_source_end(f.source, NULL));
        }
        teardown(&f);
    }
}

static void test_gives_up(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f, false);
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    g_assert_true(rmig_stream_flush(rmig_source_stream(f.source), NULL));
    f.main->peer = NULL;
    fake_link_script_type(f.main, RMIG_WIRE_ERROR);
    fake_link_script_close(f.main);
    g_assert_false(rmig_source_end(f.source, &err));
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    teardown(&f);
}

/* ---- handing over ---- */

static void setup_end(Fixture *f, bool return_path)
{
    setup_with(f, return_path, RMIG_WIRE_FLAG_HANDOVER);
    g_assert_true(rmig_source_hands_over(f->source));
    g_assert_true(rmig_stream_write(rmig_source_stream(f->source), "end", 3,
                                    NULL));
    g_assert_true(rmig_source_end(f->source, NULL));
    assert_waits_for(f, RMIG_WAIT_NONE);
}

/* START may have left: what the destination does then, nobody knows */
static bool start_guest(Fixture *f, GError **err)
{
    unsigned before = f->seen[RMIG_WIRE_START];
    bool left = false;
    bool ok = rmig_source_start(f->source, &left, err);

    g_assert_true(left || !ok);
    g_assert_true(left == (f->seen[RMIG_WIRE_START] > before));
    return ok;
}

static void test_hand_over(void)
{
    for (uint32_t flags = 0; flags < 4; flags++) {
        bool starts;
        Fixture f;

        setup_end(&f, flags & 2);
        f.flags = flags | 0x80000000;
        g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
        g_assert_true(starts == (flags & RMIG_WIRE_LOADED_STARTS));
        g_assert_cmpuint(f.seen[RMIG_WIRE_LOAD_REQUEST], ==, 1);
        g_assert_true(rmig_source_commit(f.source, NULL));
        g_assert_cmpuint(f.seen[RMIG_WIRE_START], ==, 0);
        g_assert_true(start_guest(&f, NULL));
        g_assert_cmpuint(f.seen[RMIG_WIRE_START], ==, 1);
        assert_waits_for(&f, flags & 2 ? RMIG_WAIT_REPORT : RMIG_WAIT_NONE);
        rmig_source_close(f.source, false);
        assert_waits_for(&f, RMIG_WAIT_NONE);
        teardown(&f);
    }
}

/* The destination takes its time, twice */
static void test_hand_over_slowly(void)
{
    bool starts;
    Fixture f;

    setup_end(&f, false);
    f.keeps_silent = true;
    f.then = RMIG_WIRE_LOADED;
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    g_assert_false(starts);
    g_assert_cmpuint(f.patience, ==, 100);
    f.patience = 0;
    f.then = RMIG_WIRE_STARTED;
    g_assert_true(rmig_source_commit(f.source, NULL));
    g_assert_true(start_guest(&f, NULL));
    g_assert_cmpuint(f.patience, ==, 100);
    teardown(&f);
}

/* It takes all but the last message late: nor has that a deadline */
static void test_ready_late(void)
{
    bool starts;
    Fixture f;

    setup_with(&f, false, RMIG_WIRE_FLAG_HANDOVER);
    f.main->peer = NULL;
    g_assert_true(rmig_stream_write(rmig_source_stream(f.source), "end", 3,
                                    NULL));
    g_assert_true(rmig_source_end(f.source, NULL));
    f.main->answered = f.main->verbs->posts->len;
    f.main->peer = answer;
    f.then = RMIG_WIRE_READY;
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    g_assert_cmpuint(f.patience, ==, 100);
    teardown(&f);
}

/* Nor has the last message itself, of a destination that loads what it has */
static void test_last_message_waits(void)
{
    static const uint32_t granted[] = {
        0, RMIG_WIRE_FLAG_HANDOVER,
        RMIG_WIRE_FLAG_HANDOVER | RMIG_WIRE_FLAG_BATCH,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(granted); i++) {
        RMigStream *stream;
        Fixture f;

        setup_with(&f, false, granted[i]);
        f.main->peer = NULL;
        stream = rmig_source_stream(f.source);
        for (unsigned n = 0; n < (granted[i] & RMIG_WIRE_FLAG_BATCH ? 2 : 1);
             n++) {
            g_assert_true(rmig_stream_write(stream, "state", 5, NULL));
            g_assert_true(rmig_stream_flush(stream, NULL));
        }
        g_assert_true(rmig_stream_write(stream, "end", 3, NULL));
        f.then = RMIG_WIRE_READY;
        g_assert_true(rmig_source_end(f.source, NULL));
        g_assert_cmpuint(f.patience, ==, 100);
        teardown(&f);
    }
}

/* and a user's patience ends that, too */
static void test_last_message_cancelled(void)
{
    RMigStream *stream;
    GError *err = NULL;
    Fixture f;

    setup(&f, false);
    f.main->peer = NULL;
    stream = rmig_source_stream(f.source);
    g_assert_true(rmig_stream_write(stream, "state", 5, NULL));
    g_assert_true(rmig_stream_flush(stream, NULL));
    g_assert_true(rmig_stream_write(stream, "end", 3, NULL));
    f.shuts_down = true;
    g_assert_false(rmig_source_end(f.source, &err));
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "shut down");
    teardown(&f);
}

/* What ends a wait, and how it says so */
static const struct {
    RMigWireType then;
    bool shuts_down;
    const char *needle;
} ends[] = {
    { RMIG_WIRE_ERROR, false, "gave up" },
    { RMIG_WIRE_NONE, false, "closed" },
    { RMIG_WIRE_NONE, true, "shut down" },
    { RMIG_WIRE_QEMU_FILE, false, "sent QEMU_FILE" },
    { RMIG_WIRE_REGISTER_RESULT, false, "sent REGISTER_RESULT" },
};

static void test_load_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autoptr(GError) err = NULL;
        bool starts;
        Fixture f;

        setup_end(&f, false);
        f.keeps_silent = true;
        f.then = ends[i].then;
        f.shuts_down = ends[i].shuts_down;
        g_assert_false(rmig_source_wait_loaded(f.source, &starts, &err));
        g_assert_nonnull(strstr(err->message, ends[i].needle));
        g_assert_nonnull(strstr(err->message, "to load the guest"));
        g_assert_cmpuint(f.patience, ==, 100);
        assert_waits_for(&f, RMIG_WAIT_NONE);
        g_clear_error(&err);
        /* and nobody can give it away afterwards */
        g_assert_false(start_guest(&f, &err));
        g_assert_cmpuint(f.seen[RMIG_WIRE_START], ==, 0);
        teardown(&f);
    }
}

static void test_start_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autoptr(GError) err = NULL;
        bool starts;
        Fixture f;

        setup_end(&f, false);
        g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
        f.keeps_silent = true;
        f.then = ends[i].then;
        f.shuts_down = ends[i].shuts_down;
        g_assert_true(rmig_source_commit(f.source, NULL));
        g_assert_false(start_guest(&f, &err));
        g_assert_cmpuint(f.seen[RMIG_WIRE_START], ==, 1);
        g_assert_nonnull(strstr(err->message, ends[i].needle));
        assert_waits_for(&f, RMIG_WAIT_NONE);
        teardown(&f);
    }
}

static void start_and_leave(RMigLink *link, RMigWireType type,
                            const FakePost *sent)
{
    (void)sent;
    g_assert_cmpint(type, ==, RMIG_WIRE_START);
    fake_link_script_type(link, RMIG_WIRE_STARTED);
    fake_link_script_close(link);
}

/* A destination that has confirmed may leave at once, or be lost */
static void test_started_and_gone(void)
{
    bool starts, left;
    Fixture f;

    setup_end(&f, false);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    f.main->peer = start_and_leave;
    g_assert_true(rmig_source_commit(f.source, NULL));
    g_assert_true(rmig_source_start(f.source, &left, NULL));
    teardown(&f);
}

static void test_commit(void)
{
    GError *err = NULL;
    bool starts;
    Fixture f;

    /* called off before */
    setup_end(&f, false);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    rmig_source_shutdown(f.source);
    g_assert_false(rmig_source_commit(f.source, &err));
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "shut down");
    teardown(&f);

    /* the return path breaks before */
    setup_end(&f, true);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    rmig_source_return_failed(f.source);
    g_assert_false(rmig_source_commit(f.source, NULL));
    teardown(&f);

    /* and after */
    setup_end(&f, true);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    g_assert_true(rmig_source_commit(f.source, NULL));
    rmig_source_return_failed(f.source);
    g_assert_true(start_guest(&f, NULL));
    teardown(&f);
}

/*
 * ERROR has come, and nobody has looked since LOADED, as deciding took time:
 * the guest stays here
 */
static void test_commit_looks(void)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(GBytes) data = fake_link_message(RMIG_WIRE_ERROR, NULL, 0, 1);
    bool starts;
    Fixture f;

    setup_end(&f, false);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    fake_verbs_arrive(f.main->verbs, g_bytes_get_data(data, NULL),
                      g_bytes_get_size(data));
    g_assert_false(rmig_source_commit(f.source, &err));
    g_assert_error(err, RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER);
    teardown(&f);
}

/* START cannot be sent: it is known that the guest is still here */
static void test_start_stays(void)
{
    g_autoptr(GError) err = NULL;
    bool left = true;
    bool starts;
    Fixture f;

    setup_end(&f, false);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    g_assert_true(rmig_source_commit(f.source, NULL));
    f.main->verbs->fail_post = 0;
    g_assert_false(rmig_source_start(f.source, &left, &err));
    g_assert_false(left);
    g_assert_cmpuint(f.seen[RMIG_WIRE_START], ==, 0);
    teardown(&f);
}

/* A last report is a courtesy: it is not waited for without an end */
static void test_no_last_report(void)
{
    GError *err = NULL;
    uint8_t byte;
    bool starts;
    Fixture f;

    setup_end(&f, true);
    g_assert_true(rmig_source_wait_loaded(f.source, &starts, NULL));
    g_assert_true(rmig_source_commit(f.source, NULL));
    g_assert_true(start_guest(&f, NULL));
    f.back->frozen = true;
    g_assert_cmpint(rmig_stream_read(rmig_source_return_stream(f.source),
                                     &byte, 1, true, &err), ==, -1);
    assert_says(&err, RMIG_LINK_ERROR_TIMEOUT, "the peer's report");
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/end/released", test_released);
    g_test_add_func("/end/writes-hang", test_writes_hang);
    g_test_add_func("/end/send-queue-hangs", test_send_queue_hangs);
    g_test_add_func("/end/report/late", test_late_report);
    g_test_add_func("/end/report/cancelled", test_report_cancelled);
    g_test_add_func("/end/last-message/fails", test_last_message_fails);
    g_test_add_func("/end/last-message/unknown", test_last_message_unknown);
    g_test_add_func("/end/last-message/leaves", test_leaves);
    g_test_add_func("/end/last-message/gives-up", test_gives_up);
    g_test_add_func("/end/hand-over", test_hand_over);
    g_test_add_func("/end/hand-over/slowly", test_hand_over_slowly);
    g_test_add_func("/end/hand-over/ready-late", test_ready_late);
    g_test_add_func("/end/last-message/waits", test_last_message_waits);
    g_test_add_func("/end/last-message/cancelled",
                    test_last_message_cancelled);
    g_test_add_func("/end/hand-over/load-fails", test_load_fails);
    g_test_add_func("/end/hand-over/start-fails", test_start_fails);
    g_test_add_func("/end/hand-over/started-and-gone", test_started_and_gone);
    g_test_add_func("/end/hand-over/commit", test_commit);
    g_test_add_func("/end/hand-over/commit-looks", test_commit_looks);
    g_test_add_func("/end/hand-over/start-stays", test_start_stays);
    g_test_add_func("/end/hand-over/no-last-report", test_no_last_report);
    g_test_add_data_func("/end/no-blocks/version-1", GUINT_TO_POINTER(0),
                         test_no_blocks);
    g_test_add_data_func("/end/no-blocks/pin-all",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAG_PIN_ALL),
                         test_no_blocks);
    g_test_add_data_func("/end/no-blocks/extended",
                         GUINT_TO_POINTER(RMIG_WIRE_FLAGS_KNOWN),
                         test_no_blocks);
    return g_test_run();
}
