/*
 * Unit tests of the writer room: merging, batches, a full queue, failure
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fake of verbs, which refuses a write outside of its region and into
 * a full queue.
 */
#include "fake-verbs.h"
#include "writer.h"

#include <string.h>

#define MIB RMIG_CHUNK_BYTES
#define PAGE 4096u
#define PAGES_PER_CHUNK (MIB / PAGE)
#define REMOTE UINT64_C(0x550000000000)

typedef struct Fixture {
    RMigVerbs *verbs;
    RMigBlocks blocks;
    const RMigBlock *ram, *other;
    RMigMr *mr, *mr2;
    RMigWriter writer;
} Fixture;

static void add_block(Fixture *f, const char *name, uint64_t host,
                      uint64_t offset, uint64_t remote, RMigBlock **block,
                      RMigMr **mr)
{
    g_assert_true(rmig_blocks_add(&f->blocks, name, (void *)(uintptr_t)host,
                                  offset, 64 * MIB, NULL));
    *block = rmig_blocks_by_name(&f->blocks, name);
    (*block)->remote_host = remote;
    *mr = rmig_mr_register(f->verbs, (*block)->host, 64 * MIB, false, NULL);
}

static void setup(Fixture *f)
{
    f->verbs = fake_verbs_new();
    rmig_blocks_init(&f->blocks);
    add_block(f, "ram", 0x7f0000000000, 0, REMOTE, (RMigBlock **)&f->ram,
              &f->mr);
    /* right behind the first one, on both sides */
    add_block(f, "other", 0x7f0000000000 + 64 * MIB, 1 << 30,
              REMOTE + 64 * MIB, (RMigBlock **)&f->other, &f->mr2);
    rmig_writer_init(&f->writer, f->verbs);
}

static void teardown(Fixture *f)
{
    rmig_writer_cleanup(&f->writer);
    rmig_mr_unregister(f->mr);
    rmig_mr_unregister(f->mr2);
    rmig_blocks_cleanup(&f->blocks);
    fake_verbs_free(f->verbs);
}

static void add(Fixture *f, uint64_t offset, uint32_t len)
{
    g_assert_true(rmig_writer_has_room(&f->writer));
    g_assert_true(rmig_writer_add(&f->writer, f->ram, offset, len, f->mr, 77,
                                  NULL));
}

static void flush(Fixture *f)
{
    g_assert_true(rmig_writer_flush(&f->writer, NULL));
}

static unsigned posts(const Fixture *f)
{
    return f->verbs->posts->len;
}

static void assert_write(const Fixture *f, unsigned i, uint64_t offset,
                         uint32_t bytes, bool signalled)
{
    const FakePost *post = fake_verbs_post(f->verbs, i);

    g_assert_cmpint(post->kind, ==, FAKE_WRITE);
    g_assert_true(post->addr == f->ram->host + offset);
    g_assert_cmphex(post->remote_addr, ==, REMOTE + offset);
    g_assert_cmpuint(post->bytes, ==, bytes);
    g_assert_cmpuint(post->rkey, ==, 77);
    g_assert_true(post->mr == f->mr);
    g_assert_cmpint(post->signalled, ==, signalled);
}

static void test_one_page(void)
{
    Fixture f;

    setup(&f);
    g_assert_true(rmig_writer_is_idle(&f.writer));
    add(&f, 5 * PAGE, PAGE);
    g_assert_false(rmig_writer_is_idle(&f.writer)); /* held back */
    g_assert_cmpuint(posts(&f), ==, 0);
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 1);
    assert_write(&f, 0, 5 * PAGE, PAGE, true);
    g_assert_false(rmig_writer_is_idle(&f.writer)); /* on the wire */
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(&f.writer));
    g_assert_cmpuint(f.writer.bytes, ==, PAGE);
    g_assert_cmpuint(f.writer.writes, ==, 1);

    flush(&f); /* nothing to do */
    g_assert_cmpuint(posts(&f), ==, 1);
    teardown(&f);
}

static void test_merge(void)
{
    Fixture f;

    setup(&f);
    for (unsigned i = 0; i < 10; i++) {
        add(&f, (20 + i) * PAGE, PAGE);
    }
    add(&f, 40 * PAGE, PAGE);     /* a gap */
    add(&f, 39 * PAGE, PAGE);     /* backwards */
    add(&f, 39 * PAGE, PAGE);     /* the same again */
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 4);
    assert_write(&f, 0, 20 * PAGE, 10 * PAGE, false);
    assert_write(&f, 1, 40 * PAGE, PAGE, false);
    assert_write(&f, 2, 39 * PAGE, PAGE, false);
    assert_write(&f, 3, 39 * PAGE, PAGE, true);
    teardown(&f);
}

/* A run never leaves its chunk, even if one region covers both */
static void test_merge_ends_with_chunk(void)
{
    Fixture f;

    setup(&f);
    for (unsigned i = 0; i < 2 * PAGES_PER_CHUNK + 1; i++) {
        add(&f, i * PAGE, PAGE);
    }
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 3);
    assert_write(&f, 0, 0, MIB, false);
    assert_write(&f, 1, MIB, MIB, false);
    assert_write(&f, 2, 2 * MIB, PAGE, true);
    g_assert_cmpuint(f.writer.bytes, ==, 2 * MIB + PAGE);
    teardown(&f);
}

/* Neighbours with another key, another region or another block */
static void test_merge_needs_same_keys(void)
{
    Fixture f;
    RMigMr *mr3;

    setup(&f);
    mr3 = rmig_mr_register(f.verbs, f.ram->host, 64 * MIB, false, NULL);
    add(&f, 0, PAGE);
    g_assert_true(rmig_writer_add(&f.writer, f.ram, PAGE, PAGE, f.mr, 78,
                                  NULL));
    g_assert_true(rmig_writer_add(&f.writer, f.ram, 2 * PAGE, PAGE, mr3, 78,
                                  NULL));
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 3);
    g_assert_cmpuint(fake_verbs_post(f.verbs, 0)->rkey, ==, 77);
    g_assert_cmpuint(fake_verbs_post(f.verbs, 1)->rkey, ==, 78);
    g_assert_true(fake_verbs_post(f.verbs, 2)->mr == mr3);
    fake_verbs_complete_all(f.verbs);

    add(&f, 64 * MIB - PAGE, PAGE);
    g_assert_true(rmig_writer_add(&f.writer, f.other, 0, PAGE, f.mr2, 77,
                                  NULL));
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, 5);
    g_assert_cmphex(fake_verbs_post(f.verbs, 4)->remote_addr, ==,
                    REMOTE + 64 * MIB);
    rmig_mr_unregister(mr3);
    teardown(&f);
}

/* One completion a batch, and one for what is left at the end */
static void test_batches(void)
{
    unsigned n = 2 * RMIG_WRITER_BATCH + 5;
    Fixture f;

    setup(&f);
    for (unsigned i = 0; i < n; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    flush(&f);
    g_assert_cmpuint(posts(&f), ==, n);
    for (unsigned i = 0; i < n; i++) {
        assert_write(&f, i, 2 * i * PAGE, PAGE,
                     (i + 1) % RMIG_WRITER_BATCH == 0 || i == n - 1);
    }
    g_assert_cmpuint(f.writer.batches_in_flight, ==, 3);
    fake_verbs_complete(f.verbs, RMIG_WRITER_BATCH);
    g_assert_cmpuint(f.writer.batches_in_flight, ==, 2);
    g_assert_false(rmig_writer_is_idle(&f.writer));
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(&f.writer));
    teardown(&f);
}

/* Rounds that end with a full batch leave nothing half done */
static void test_round_of_one_batch(void)
{
    Fixture f;

    setup(&f);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < RMIG_WRITER_BATCH; i++) {
            add(&f, 2 * i * PAGE, PAGE);
        }
        flush(&f);
        g_assert_cmpuint(posts(&f), ==, (round + 1) * RMIG_WRITER_BATCH);
        g_assert_true(fake_verbs_last(f.verbs)->signalled);
        fake_verbs_complete_all(f.verbs);
        g_assert_true(rmig_writer_is_idle(&f.writer));
    }
    g_assert_cmpuint(g_queue_get_length(&f.writer.idle), ==, 1); /* reused */
    teardown(&f);
}

/*
 * A queue shorter than a batch: the write that fills it must be signalled, or
 * no completion would ever make room again
 */
static void test_short_queue(void)
{
    Fixture f;

    setup(&f);
    f.verbs->write_slots = 5;
    for (unsigned i = 0; i < 6; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    g_assert_cmpuint(posts(&f), ==, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_write(&f, i, 2 * i * PAGE, PAGE, i == 4);
    }
    g_assert_false(rmig_writer_has_room(&f.writer));
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_has_room(&f.writer));
    flush(&f);
    assert_write(&f, 5, 10 * PAGE, PAGE, true);
    fake_verbs_complete_all(f.verbs);
    g_assert_true(rmig_writer_is_idle(&f.writer));
    teardown(&f);
}

/* Merging goes on while the queue is full: it posts nothing */
static void test_merge_in_full_queue(void)
{
    Fixture f;

    setup(&f);
    f.verbs->write_slots = 1;
    add(&f, 0, PAGE);
    add(&f, 10 * PAGE, PAGE);
    g_assert_false(rmig_writer_has_room(&f.writer));
    g_assert_true(rmig_writer_add(&f.writer, f.ram, 11 * PAGE, PAGE, f.mr, 77,
                                  NULL));
    g_assert_cmpuint(posts(&f), ==, 1);
    fake_verbs_complete_all(f.verbs);
    flush(&f);
    assert_write(&f, 1, 10 * PAGE, 2 * PAGE, true);
    teardown(&f);
}

static void test_post_fails(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup(&f);
    add(&f, 7 * PAGE, PAGE);
    f.verbs->fail_post = 0;
    g_assert_false(rmig_writer_add(&f.writer, f.ram, 9 * PAGE, PAGE, f.mr, 77,
                                   &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_nonnull(strstr(err->message, "RAM block ram, offset 0x7000: "));
    g_clear_error(&err);
    g_assert_cmpuint(posts(&f), ==, 0);
    g_assert_cmpuint(f.writer.bytes, ==, 0); /* only what was posted counts */
    g_assert_cmpuint(f.writer.writes, ==, 0);
    g_assert_false(rmig_writer_is_idle(&f.writer));
    teardown(&f);

    /* in the middle of a batch, with writes of it on the wire */
    setup(&f);
    for (unsigned i = 0; i < 10; i++) {
        add(&f, 2 * i * PAGE, PAGE);
    }
    f.verbs->fail_post = 0;
    g_assert_false(rmig_writer_flush(&f.writer, &err));
    g_assert_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED);
    g_assert_cmpuint(f.writer.writes, ==, 9);
    teardown(&f);
}

/* What an error completion will say about a failed write */
static void test_describe(void)
{
    g_autofree char *text = NULL;
    const FakePost *post;
    Fixture f;

    setup(&f);
    add(&f, 3 * MIB + 2 * PAGE, PAGE);
    add(&f, 5 * MIB, PAGE);
    flush(&f);
    post = fake_verbs_post(f.verbs, 0);
    text = post->work->describe(post->work);
    g_assert_nonnull(strstr(text, "RAM block ram, offset 0x302000, chunk 3"));
    g_assert_nonnull(strstr(text, "one of 2"));
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/writer/one-page", test_one_page);
    g_test_add_func("/writer/merge", test_merge);
    g_test_add_func("/writer/merge/chunk", test_merge_ends_with_chunk);
    g_test_add_func("/writer/merge/keys", test_merge_needs_same_keys);
    g_test_add_func("/writer/batches", test_batches);
    g_test_add_func("/writer/batches/round", test_round_of_one_batch);
    g_test_add_func("/writer/queue/short", test_short_queue);
    g_test_add_func("/writer/queue/full", test_merge_in_full_queue);
    g_test_add_func("/writer/post-fails", test_post_fails);
    g_test_add_func("/writer/describe", test_describe);
    return g_test_run();
}
