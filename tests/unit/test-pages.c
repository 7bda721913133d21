/*
 * Unit tests of the pages room: real memory, the real kernel, both back ends
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Swapped pages are not tested: that needs a swap device and root.  Guard
 * pages stand for them, which are entries of the same kind.
 */
#include "pages.h"

#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define REGION_BYTES (64 * MIB)
#define CANARY UINT64_C(0x5a5aa5a5c3c33c3c)
/* Linux 6.13 */
#define ADVICE_GUARD_INSTALL 102

/* What a page has seen since it was mapped or dropped */
enum { FRESH, READ, WRITTEN };

static uint64_t page_bytes;

static char *map(uint64_t bytes)
{
    char *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(mem != MAP_FAILED);
    /* The tests count single pages; the kernel may have no huge ones */
    madvise(mem, bytes, MADV_NOHUGEPAGE);
    return mem;
}

static void look(const char *page)
{
    /* Volatile: it is read for the page table's sake */
    (void)*(const volatile char *)page;
}

static void drop(char *mem, uint64_t bytes)
{
    g_assert_cmpint(madvise(mem, bytes, MADV_DONTNEED), ==, 0);
}

static bool bit(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static uint64_t *new_bits(uint64_t n)
{
    return g_new0(uint64_t, n / 64 + 1);
}

static RMigPages *open_on(const char *path, bool scan)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    return fd < 0 ? NULL : rmig_pages_new_on(fd, scan);
}

/* The back end, or NULL if the test is skipped for want of it */
static RMigPages *open_pages(gconstpointer scan)
{
    RMigPages *pages = open_on("/proc/self/pagemap", scan != NULL);
    char *mem = map(page_bytes);
    uint64_t touched = 0;

    rmig_pages_touched(pages, mem, 1, &touched);
    munmap(mem, page_bytes);
    if (touched) {
        g_test_skip(scan ? "needs PAGEMAP_SCAN: Linux 6.7 or later"
                         : "needs /proc/self/pagemap: mount -t proc proc "
                           "/proc");
        rmig_pages_free(pages);
        return NULL;
    }
    return pages;
}

/* The zero pages of a read are only told from others by the ioctl */
static bool expected(uint8_t state, gconstpointer scan)
{
    return state == WRITTEN || (state == READ && !scan);
}

static void assert_bits(RMigPages *pages, const char *mem, uint64_t n,
                        const uint8_t *state, gconstpointer scan)
{
    g_autofree uint64_t *bits = new_bits(n + 64);
    uint64_t words = (n + 63) / 64;

    memset(bits, 0xff, words * sizeof(*bits));
    bits[words] = CANARY;
    rmig_pages_touched(pages, mem, n, bits);
    g_assert_cmphex(bits[words], ==, CANARY);
    for (uint64_t i = 0; i < n; i++) {
        g_assert_cmpint(bit(bits, i), ==, expected(state[i], scan));
    }
    for (uint64_t i = n; i < words * 64; i++) {
        g_assert_false(bit(bits, i));
    }
}

/* rmig_pages_next_touched() from run to run says the same, byte for byte */
static void assert_runs(RMigPages *pages, const char *mem, uint64_t from,
                        uint64_t to, const uint8_t *state, gconstpointer scan)
{
    uint64_t at = from;

    while (at < to) {
        uint64_t run = CANARY;
        uint64_t skip = rmig_pages_next_touched(pages, mem + at, to - at, &run);
        uint64_t next = at + skip;

        g_assert_cmpuint(skip, <=, to - at);
        g_assert_cmpuint(run, <=, to - next);
        g_assert_true((run == 0) == (next == to));
        for (; at < next; at = (at / page_bytes + 1) * page_bytes) {
            g_assert_false(expected(state[at / page_bytes], scan));
        }
        for (at = next; at < next + run;
             at = (at / page_bytes + 1) * page_bytes) {
            g_assert_true(expected(state[at / page_bytes], scan));
        }
        at = next + run;
        /* Only the range itself ends within a page */
        if (at < to && run > 0) {
            g_assert_cmpuint((uintptr_t)(mem + at) % page_bytes, ==, 0);
        }
    }
    g_assert_cmpuint(at, ==, to);
}

static void test_new(void)
{
    RMigPages *pages = rmig_pages_new();
    char *mem;
    uint64_t touched = 0;

    if (!pages) {
        g_test_skip("needs /proc/self/pagemap: mount -t proc proc /proc");
        return;
    }
    mem = map(3 * page_bytes);
    mem[page_bytes] = 1;
    rmig_pages_touched(pages, mem, 3, &touched);
    g_assert_cmphex(touched, ==, 2);
    munmap(mem, 3 * page_bytes);
    rmig_pages_free(pages);
    rmig_pages_free(NULL);
}

/* One random step in a page's life */
static uint8_t live(char *page, uint8_t state)
{
    switch (g_test_rand_int_range(0, 6)) {
    case 0:
        page[g_test_rand_int_range(0, page_bytes)] = 1;
        return WRITTEN;
    case 1:
        page[0] = 0; /* still zeros, but touched */
        return WRITTEN;
    case 2:
        look(page);
        return MAX(state, READ);
    case 3:
        drop(page, page_bytes);
        return FRESH;
    case 4:
        /* The protection is no part of it */
        mprotect(page, page_bytes,
                 g_test_rand_bit() ? PROT_NONE : PROT_READ);
        mprotect(page, page_bytes, PROT_READ | PROT_WRITE);
        return state;
    default:
        return state;
    }
}

static void test_exact(gconstpointer scan)
{
    uint64_t n = REGION_BYTES / page_bytes;
    g_autofree uint8_t *state = g_new0(uint8_t, n);
    RMigPages *pages = open_pages(scan);
    char *mem;

    if (!pages) {
        return;
    }
    mem = map(REGION_BYTES);
    assert_bits(pages, mem, n, state, scan);
    assert_runs(pages, mem, 0, REGION_BYTES, state, scan);
    for (int round = 0; round < 8; round++) {
        for (uint64_t i = 0; i < n / 4; i++) {
            uint64_t page = g_test_rand_int_range(0, n);

            state[page] = live(mem + page * page_bytes, state[page]);
        }
        assert_bits(pages, mem, n, state, scan);
        for (int part = 0; part < 20; part++) {
            uint64_t first = g_test_rand_int_range(0, n);
            uint64_t some = g_test_rand_int_range(0, MIN(n - first, 500) + 1);

            assert_bits(pages, mem + first * page_bytes, some, state + first,
                        scan);
        }
        assert_runs(pages, mem, 0, REGION_BYTES, state, scan);
        for (int part = 0; part < 20; part++) {
            uint64_t from = g_test_rand_int_range(0, REGION_BYTES);
            uint64_t len = g_test_rand_int_range(0, MIB);

            assert_runs(pages, mem, from, MIN(from + len, REGION_BYTES),
                        state, scan);
        }
    }
    munmap(mem, REGION_BYTES);
    rmig_pages_free(pages);
}

/* The promise itself, without a model: what is not zero is touched */
static void test_never_misses(gconstpointer scan)
{
    uint64_t n = 8 * MIB / page_bytes;
    g_autofree uint64_t *bits = new_bits(n);
    RMigPages *pages = open_pages(scan);
    char *mem;

    if (!pages) {
        return;
    }
    mem = map(8 * MIB);
    /* Here the kernel may do what it likes */
    madvise(mem, 8 * MIB, MADV_HUGEPAGE);
    for (int trial = 0; trial < 50; trial++) {
        for (uint64_t i = 0; i < n / 8; i++) {
            live(mem + g_test_rand_int_range(0, n) * page_bytes, 0);
        }
        rmig_pages_touched(pages, mem, n, bits);
        for (uint64_t i = 0; i < n; i++) {
            const char *page = mem + i * page_bytes;
            bool zero = page[0] == 0 &&
                        memcmp(page, page + 1, page_bytes - 1) == 0;

            g_assert_true(zero || bit(bits, i));
        }
        if (trial % 10 == 9) {
            drop(mem, 8 * MIB);
        }
    }
    munmap(mem, 8 * MIB);
    rmig_pages_free(pages);
}

/* Every second page: more regions than one call of the kernel reports */
static void test_shreds(gconstpointer scan)
{
    uint64_t n = 4 * MIB / page_bytes;
    g_autofree uint8_t *state = g_new0(uint8_t, n);
    RMigPages *pages = open_pages(scan);
    char *mem;

    if (!pages) {
        return;
    }
    mem = map(4 * MIB);
    for (uint64_t i = 1; i < n; i += 2) {
        mem[i * page_bytes] = 1;
        state[i] = WRITTEN;
    }
    assert_bits(pages, mem, n, state, scan);
    assert_bits(pages, mem + page_bytes, n - 1, state + 1, scan);
    assert_runs(pages, mem, 0, 4 * MIB, state, scan);
    munmap(mem, 4 * MIB);
    rmig_pages_free(pages);
}

/* Ranges of more than one piece of 256 MiB, and pages at its borders */
static void test_large(gconstpointer scan)
{
    uint64_t bytes = 2 * GIB + GIB / 2;
    uint64_t n = bytes / page_bytes;
    g_autofree uint8_t *state = g_new0(uint8_t, n);
    RMigPages *pages = open_pages(scan);
    char *mem;
    uint64_t run = CANARY;

    if (!pages) {
        return;
    }
    mem = map(bytes);
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem, bytes, &run), ==,
                     bytes);
    g_assert_cmpuint(run, ==, 0);
    mem[bytes - 1] = 1;
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem, bytes, &run), ==,
                     bytes - page_bytes);
    g_assert_cmpuint(run, ==, page_bytes);
    for (uint64_t at = GIB; at <= 2 * GIB; at += GIB) {
        for (uint64_t i = at / page_bytes - 3; i < at / page_bytes + 2; i++) {
            mem[i * page_bytes] = 1;
            state[i] = WRITTEN;
        }
    }
    mem[0] = 1;
    state[0] = state[n - 1] = WRITTEN;
    assert_bits(pages, mem, n, state, scan);
    assert_runs(pages, mem, 0, bytes, state, scan);
    munmap(mem, bytes);
    rmig_pages_free(pages);
}

static void test_bounds(gconstpointer scan)
{
    RMigPages *pages = open_pages(scan);
    char *mem;
    uint64_t bits[2];
    uint64_t run;

    if (!pages) {
        return;
    }
    mem = map(100 * page_bytes);
    mem[10 * page_bytes] = mem[11 * page_bytes] = 1;

    bits[0] = CANARY;
    rmig_pages_touched(pages, mem, 0, bits);
    g_assert_cmphex(bits[0], ==, CANARY);
    rmig_pages_touched(pages, mem, 64, bits);
    g_assert_cmphex(bits[0], ==, UINT64_C(3) << 10);
    rmig_pages_touched(pages, mem + 11 * page_bytes, 65, bits);
    g_assert_cmphex(bits[0], ==, 1);
    g_assert_cmphex(bits[1], ==, 0);

    g_assert_cmpuint(rmig_pages_next_touched(pages, mem, 0, &run), ==, 0);
    g_assert_cmpuint(run, ==, 0);
    /* Up to the touched page, and a byte into it */
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem, 10 * page_bytes,
                                             &run), ==, 10 * page_bytes);
    g_assert_cmpuint(run, ==, 0);
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem, 10 * page_bytes + 1,
                                             &run), ==, 10 * page_bytes);
    g_assert_cmpuint(run, ==, 1);
    /* From within it */
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem + 10 * page_bytes + 5,
                                             50 * page_bytes, &run), ==, 0);
    g_assert_cmpuint(run, ==, 2 * page_bytes - 5);
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem + 12 * page_bytes - 1,
                                             7, &run), ==, 0);
    g_assert_cmpuint(run, ==, 1);
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem + 12 * page_bytes, 7,
                                             &run), ==, 7);
    g_assert_cmpuint(run, ==, 0);
    munmap(mem, 100 * page_bytes);
    rmig_pages_free(pages);
}

/* Pages that are there while nobody may look at them */
static void test_protected(gconstpointer scan)
{
    RMigPages *pages = open_pages(scan);
    char *mem;
    uint64_t bits;

    if (!pages) {
        return;
    }
    mem = map(8 * page_bytes);
    mem[0] = mem[2 * page_bytes] = 1;
    g_assert_cmpint(mprotect(mem, 2 * page_bytes, PROT_NONE), ==, 0);
    g_assert_cmpint(mprotect(mem + 2 * page_bytes, 2 * page_bytes, PROT_READ),
                    ==, 0);
    rmig_pages_touched(pages, mem, 8, &bits);
    g_assert_cmphex(bits, ==, 0x5);
    if (madvise(mem + 5 * page_bytes, page_bytes, ADVICE_GUARD_INSTALL) == 0) {
        rmig_pages_touched(pages, mem, 8, &bits);
        g_assert_cmphex(bits, ==, 0x25);
    } else {
        g_test_message("no guard pages: needs Linux 6.13 or later");
    }
    munmap(mem, 8 * page_bytes);
    rmig_pages_free(pages);
}

static uint64_t count_bits(const uint64_t *bits, uint64_t first, uint64_t n)
{
    uint64_t count = 0;

    for (uint64_t i = first; i < first + n; i++) {
        count += bit(bits, i);
    }
    return count;
}

/* Huge pages are there as a whole; a part that is dropped is not */
static void test_huge(gconstpointer scan)
{
    uint64_t per = 2 * MIB / page_bytes;
    g_autofree uint64_t *bits = new_bits(3 * per);
    RMigPages *pages = open_pages(scan);
    uint64_t count;
    char *all, *mem;

    if (!pages) {
        return;
    }
    all = map(8 * MIB);
    mem = (char *)(((uintptr_t)all + 2 * MIB - 1) & ~(2 * MIB - 1));
    madvise(mem, 6 * MIB, MADV_HUGEPAGE);
    mem[2 * MIB + MIB / 2] = 1;
    look(mem + 4 * MIB);

    rmig_pages_touched(pages, mem, 3 * per, bits);
    g_assert_cmpuint(count_bits(bits, 0, per), ==, 0);
    g_assert_true(bit(bits, per + per / 4));
    count = count_bits(bits, per, per);
    if (count != per) {
        g_test_message("no huge page: %" G_GUINT64_FORMAT " pages", count);
    }
    /* A kernel that knows no huge zero page may call it touched */
    g_test_message("huge zero page: %" G_GUINT64_FORMAT " pages touched",
                   count_bits(bits, 2 * per, per));

    drop(mem + 3 * MIB, MIB);
    rmig_pages_touched(pages, mem, 2 * per, bits);
    g_assert_true(bit(bits, per + per / 4));
    g_assert_cmpuint(count_bits(bits, per + per / 2, per / 2), ==, 0);
    munmap(all, 8 * MIB);
    rmig_pages_free(pages);
}

static void assert_all_touched(RMigPages *pages)
{
    char *mem = map(100 * page_bytes);
    uint64_t bits[3] = { 0, 0, CANARY };
    uint64_t run;

    rmig_pages_touched(pages, mem, 100, bits);
    g_assert_cmphex(bits[0], ==, UINT64_MAX);
    g_assert_cmphex(bits[1], ==, (UINT64_C(1) << 36) - 1);
    g_assert_cmphex(bits[2], ==, CANARY);
    g_assert_cmpuint(rmig_pages_next_touched(pages, mem + 3, 100, &run), ==, 0);
    g_assert_cmpuint(run, ==, 100);
    munmap(mem, 100 * page_bytes);
}

static void test_failure(gconstpointer scan)
{
    /* Not open at all; at its end; of another kind */
    RMigPages *closed = rmig_pages_new_on(-1, scan != NULL);
    RMigPages *empty = open_on("/dev/null", scan != NULL);
    RMigPages *text = open_on("/proc/self/status", scan != NULL);

    assert_all_touched(NULL);
    assert_all_touched(closed);
    assert_all_touched(empty);
    assert_all_touched(text);
    rmig_pages_free(closed);
    rmig_pages_free(empty);
    rmig_pages_free(text);
}

typedef struct Worker {
    RMigPages *pages;
    uint32_t seed;
} Worker;

static gpointer work(gpointer opaque)
{
    Worker *worker = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(worker->seed);
    char *mem = map(300 * page_bytes);

    for (int round = 0; round < 200; round++) {
        uint64_t page = g_rand_int_range(rand, 0, 300);
        uint64_t bits[5];
        uint64_t run;

        mem[page * page_bytes] = 1;
        rmig_pages_touched(worker->pages, mem, 300, bits);
        g_assert_cmpuint(count_bits(bits, 0, 300), ==, 1);
        g_assert_true(bit(bits, page));
        g_assert_cmpuint(rmig_pages_next_touched(worker->pages, mem,
                                                 300 * page_bytes, &run),
                         ==, page * page_bytes);
        g_assert_cmpuint(run, ==, page_bytes);
        drop(mem + page * page_bytes, page_bytes);
    }
    munmap(mem, 300 * page_bytes);
    return NULL;
}

static void test_threads(gconstpointer scan)
{
    RMigPages *pages = open_pages(scan);
    Worker workers[4];
    GThread *threads[4];

    if (!pages) {
        return;
    }
    for (int i = 0; i < 4; i++) {
        workers[i] = (Worker) { .pages = pages, .seed = g_test_rand_int() };
        threads[i] = g_thread_new("pages", work, &workers[i]);
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    rmig_pages_free(pages);
}

static void add(const char *name, GTestDataFunc func)
{
    g_autofree char *scan = g_strdup_printf("/pages/scan/%s", name);
    g_autofree char *read = g_strdup_printf("/pages/read/%s", name);

    g_test_add_data_func(scan, "scan", func);
    g_test_add_data_func(read, NULL, func);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    page_bytes = rmig_page_bytes();
    g_test_add_func("/pages/new", test_new);
    add("exact", test_exact);
    add("never-misses", test_never_misses);
    add("shreds", test_shreds);
    add("large", test_large);
    add("bounds", test_bounds);
    add("protected", test_protected);
    add("huge", test_huge);
    add("failure", test_failure);
    add("threads", test_threads);
    return g_test_run();
}
