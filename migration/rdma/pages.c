/*
 * RDMA migration transport: memory that was never touched
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See pages.h.  Two back ends over /proc/self/pagemap, neither of which needs
 * a privilege:
 *
 * - the ioctl PAGEMAP_SCAN (Linux 6.7), which skips holes in the page tables
 *   and answers with ranges;
 * - reading one entry of 64 bits for each page.  It does not tell zero pages
 *   (that takes the frame's number, which only root sees), so memory that was
 *   read counts as touched.
 *
 * Both hold the lock of the address space for reading while they walk, which
 * keeps out mmap() and whoever waits behind it.  A piece bounds that.
 *
 * Page table entries that change under the walk do no harm: the kernel changes
 * them under the lock of their table, or with the address space locked, so an
 * entry is never seen empty on its way from one state to another.
 */
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

struct RMigPages {
    int fd;
    bool scan;
    uint64_t page_bytes;
};

/*
 * The kernel's ABI: struct pm_scan_arg, struct page_region and PAGE_IS_* of
 * <linux/fs.h>, under names of our own because older headers lack them.
 */
typedef struct ScanRegion {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
} ScanRegion;

typedef struct ScanArg {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end; /* out: the first address that was not looked at */
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    /* A page is reported if its categories, after ^ inverted, have... */
    uint64_t category_inverted;
    uint64_t category_mask;       /* ...all of these... */
    uint64_t category_anyof_mask; /* ...and any of these */
    uint64_t return_mask;
} ScanArg;

G_STATIC_ASSERT(sizeof(ScanRegion) == 24);
G_STATIC_ASSERT(sizeof(ScanArg) == 96);

#define SCAN_IOCTL _IOWR('f', 16, ScanArg)
#define SCAN_IS_PRESENT (1 << 3)
#define SCAN_IS_SWAPPED (1 << 4)
#define SCAN_IS_PFNZERO (1 << 5)

/* Of an entry of pagemap */
#define ENTRY_TOUCHED (UINT64_C(3) << 62) /* present, swapped */

/* On the stack, which may be a coroutine's: 3 and 8 KiB */
#define SCAN_REGIONS 128
#define READ_ENTRIES 1024
#define READ_FIRST_ENTRIES 16
/* Some 300 us if all of it are small pages; more would not be faster */
#define SCAN_PIECE_BYTES (UINT64_C(256) << 20)

/*
 * The touched regions from @from on, which must be aligned, as far as they fit.
 * Returns where it stopped, at @to at the latest, or 0 if it failed.
 */
static uint64_t scan_piece(RMigPages *pages, uint64_t from, uint64_t to,
                           ScanRegion *regions, unsigned max, unsigned *n)
{
    ScanArg arg = {
        .size = sizeof(arg),
        .start = from,
        .end = MIN(to, from + SCAN_PIECE_BYTES),
        .vec = (uintptr_t)regions,
        .vec_len = max,
        .category_inverted = SCAN_IS_PFNZERO,
        .category_mask = SCAN_IS_PFNZERO,
        .category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
        /* No categories are returned: neighbours differ in none, and merge */
    };
    int found = ioctl(pages->fd, SCAN_IOCTL, &arg);

    if (found < 0 || (unsigned)found > max || arg.walk_end <= from ||
        arg.walk_end > arg.end) {
        RMIG_LOG("pages: scan of 0x%" PRIx64 " failed: %s", from,
                 found < 0 ? strerror(errno) : "strange answer");
        return 0;
    }
    for (int i = 0; i < found; i++) {
        if (regions[i].start < from || regions[i].start >= regions[i].end ||
            regions[i].end > arg.end) {
            RMIG_LOG("pages: scan of 0x%" PRIx64 " failed: strange region",
                     from);
            return 0;
        }
    }
    *n = found;
    return arg.walk_end;
}

/* The entries of @n pages from @from on, READ_ENTRIES at the most */
static bool read_entries(RMigPages *pages, uint64_t from, uint64_t n,
                         uint64_t *entries)
{
    ssize_t len = n * sizeof(*entries);
    ssize_t got = pread(pages->fd, entries, len,
                        from / pages->page_bytes * sizeof(*entries));

    if (got != len) {
        RMIG_LOG("pages: reading at 0x%" PRIx64 " failed: %s", from,
                 got < 0 ? strerror(errno) : "short");
        return false;
    }
    return true;
}

static void set_bits(uint64_t *bits, uint64_t first, uint64_t n)
{
    while (n > 0) {
        unsigned shift = first % 64;
        uint64_t now = MIN(n, 64 - shift);

        bits[first / 64] |= (UINT64_MAX >> (64 - now)) << shift;
        first += now;
        n -= now;
    }
}

static bool scan_touched(RMigPages *pages, uint64_t host, uint64_t n,
                         uint64_t *touched)
{
    ScanRegion regions[SCAN_REGIONS];
    uint64_t size = pages->page_bytes;
    uint64_t end = host + n * size;
    unsigned found;

    for (uint64_t at = host; at < end; ) {
        at = scan_piece(pages, at, end, regions, SCAN_REGIONS, &found);
        if (at == 0) {
            return false;
        }
        for (unsigned i = 0; i < found; i++) {
            set_bits(touched, (regions[i].start - host) / size,
                     (regions[i].end - regions[i].start) / size);
        }
    }
    return true;
}

static bool read_touched(RMigPages *pages, uint64_t host, uint64_t n,
                         uint64_t *touched)
{
    uint64_t entries[READ_ENTRIES];

    for (uint64_t first = 0; first < n; first += READ_ENTRIES) {
        uint64_t now = MIN(n - first, READ_ENTRIES);

        if (!read_entries(pages, host + first * pages->page_bytes, now,
                          entries)) {
            return false;
        }
        for (uint64_t i = 0; i < now; i++) {
            if (entries[i] & ENTRY_TOUCHED) {
                touched[(first + i) / 64] |= UINT64_C(1) << (first + i) % 64;
            }
        }
    }
    return true;
}

void rmig_pages_touched(RMigPages *pages, const void *host, uint64_t n,
                        uint64_t *touched)
{
    uint64_t from = (uintptr_t)host;

    memset(touched, 0, (n / 64 + (n % 64 > 0)) * sizeof(*touched));
    if (pages) {
        g_assert(from % pages->page_bytes == 0);
        g_assert(n <= (UINTPTR_MAX - from) / pages->page_bytes);
        if (pages->scan ? scan_touched(pages, from, n, touched)
                        : read_touched(pages, from, n, touched)) {
            return;
        }
    }
    set_bits(touched, 0, n);
}

/* The first run from @from on; an empty one at @to if there is none */
static ScanRegion scan_next(RMigPages *pages, uint64_t from, uint64_t to)
{
    ScanRegion region;
    unsigned found;

    while (from < to) {
        uint64_t at = scan_piece(pages, from, to, &region, 1, &found);

        if (at == 0) {
            return (ScanRegion) { .start = from, .end = to };
        }
        if (found > 0) {
            return region;
        }
        from = at;
    }
    return (ScanRegion) { .start = to, .end = to };
}

/*
 * As scan_next().  A small look first, for the run may be near and short: then
 * what is read behind it is read again by the next call.
 */
static ScanRegion read_next(RMigPages *pages, uint64_t from, uint64_t to)
{
    uint64_t entries[READ_ENTRIES];
    uint64_t window = READ_FIRST_ENTRIES;
    uint64_t start = to;

    while (from < to) {
        uint64_t n = MIN((to - from) / pages->page_bytes, window);

        if (!read_entries(pages, from, n, entries)) {
            return (ScanRegion) { .start = MIN(start, from), .end = to };
        }
        for (uint64_t i = 0; i < n; i++, from += pages->page_bytes) {
            if (entries[i] & ENTRY_TOUCHED) {
                start = MIN(start, from);
            } else if (start < to) {
                return (ScanRegion) { .start = start, .end = from };
            }
        }
        window = MIN(4 * window, READ_ENTRIES);
    }
    return (ScanRegion) { .start = start, .end = to };
}

uint64_t rmig_pages_next_touched(RMigPages *pages, const void *host,
                                 uint64_t bytes, uint64_t *run_bytes)
{
    uint64_t start = (uintptr_t)host;
    uint64_t end = start + bytes;
    uint64_t from, to, mask;
    ScanRegion run;

    if (!pages || bytes == 0) {
        *run_bytes = bytes;
        return 0;
    }
    mask = pages->page_bytes - 1;
    g_assert(bytes <= UINTPTR_MAX - mask - start);
    from = start & ~mask;
    to = (end + mask) & ~mask;
    run = pages->scan ? scan_next(pages, from, to) : read_next(pages, from, to);
    run.start = CLAMP(run.start, start, end);
    run.end = CLAMP(run.end, start, end);
    *run_bytes = run.end - run.start;
    return run.start - start;
}

unsigned rmig_page_bytes(void)
{
    return sysconf(_SC_PAGESIZE);
}

RMigPages *rmig_pages_new_on(int fd, bool scan)
{
    RMigPages *pages = g_new0(RMigPages, 1);

    pages->fd = fd;
    pages->scan = scan;
    pages->page_bytes = rmig_page_bytes();
    return pages;
}

/*
 * Whether it sees a page that was written.  A sandbox may have a pagemap that
 * shows nothing, and would have us take all of RAM for zeros.
 */
static bool works(RMigPages *pages)
{
    /* Volatile: the compiler must not keep the write from the kernel */
    volatile char *page = mmap(NULL, pages->page_bytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t touched = 0;
    bool ok;

    if (page == MAP_FAILED) {
        return false;
    }
    *page = 1;
    if (pages->scan) {
        ok = scan_touched(pages, (uintptr_t)page, 1, &touched);
    } else {
        ok = read_touched(pages, (uintptr_t)page, 1, &touched);
    }
    munmap((void *)page, pages->page_bytes);
    return ok && touched == 1;
}

RMigPages *rmig_pages_new(void)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    RMigPages *pages;

    if (fd < 0) {
        RMIG_LOG("pages: no pagemap: %s", strerror(errno));
        return NULL;
    }
    pages = rmig_pages_new_on(fd, true);
    if (!works(pages)) {
        pages->scan = false;
        if (!works(pages)) {
            RMIG_LOG("pages: the pagemap is of no use");
            rmig_pages_free(pages);
            return NULL;
        }
    }
    RMIG_LOG("pages: untouched memory is found by %s",
             pages->scan ? "scan" : "reading");
    return pages;
}

void rmig_pages_free(RMigPages *pages)
{
    if (pages) {
        close(pages->fd);
        g_free(pages);
    }
}
