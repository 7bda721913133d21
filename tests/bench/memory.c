/*
 * rdma-bench: guest RAM, and what is in it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a page holds depends on its number alone, so that a sparse memory of
 * terabytes can say of each page whether it is zero without being there.
 * is_zero() and zero() may be called by several threads of the core; all that
 * they read is constant while rounds run.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* Between two blocks, so that a write beyond one is found */
#define GUARD_BYTES (UINT64_C(2) << 20)
/* Of half-zero: data, zero, then twice as many pages that alternate */
#define STRETCH_PAGES 4096

BenchMemory memory;

static uint8_t *base;
static uint64_t stride;      /* from a block to the next */
static uint64_t block_pages; /* of all blocks but the last */
static bool all_rewritten;

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* @page: counted through all blocks */
static bool has_data(uint64_t page)
{
    uint64_t part = page % (4 * STRETCH_PAGES);

    switch (bench.fill) {
    case FILL_RANDOM:
        return true;
    case FILL_HALF_ZERO:
        return part < STRETCH_PAGES ||
               (part >= 2 * STRETCH_PAGES && part % 2 == 0);
    case FILL_ZERO:
        return mix(page + 1) % 1000000 < bench.fill_percent * 10000;
    default:
        return false;
    }
}

void memory_map(void)
{
    uint64_t pages = bench.ram_bytes >> BENCH_PAGE_SHIFT;
    uint64_t left = pages << BENCH_PAGE_SHIFT, longest;

    memory.n = bench.blocks;
    block_pages = (pages + memory.n - 1) / memory.n;
    longest = block_pages << BENCH_PAGE_SHIFT;
    stride = ((longest + GUARD_BYTES - 1) & ~(GUARD_BYTES - 1)) + GUARD_BYTES;
    base = mmap(NULL, stride * memory.n, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        fail("no address space for the RAM: %m");
    }
    /* As huge pages would begin */
    base += -(uintptr_t)base & (GUARD_BYTES - 1);
    for (unsigned i = 0; i < memory.n; i++) {
        BenchBlock *b = &memory.blocks[i];

        b->host = base + i * stride;
        b->length = MIN(longest, left);
        b->offset = i * stride;
        left -= b->length;
        if (b->length > 0 &&
            (mprotect(b->host, b->length, PROT_READ | PROT_WRITE) != 0 ||
             /* As in QEMU; and the kernel merges it with no other mapping */
             madvise(b->host, b->length, MADV_DONTDUMP) != 0)) {
            fail("no memory for the RAM: %m");
        }
    }
}

static uint64_t page_number(const BenchBlock *block, uint64_t page)
{
    return (block - memory.blocks) * block_pages + page;
}

static void fill_page(uint64_t *to, uint64_t seed)
{
    uint64_t x = mix(seed + 1);

    /* Odd: never zero, and each page differs from any other */
    for (unsigned i = 0; i < BENCH_PAGE / sizeof(*to); i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        to[i] = x | 1;
    }
}

void memory_fill(void)
{
    if (bench.sparse) {
        return;
    }
    for (unsigned i = 0; i < memory.n; i++) {
        BenchBlock *b = &memory.blocks[i];

        for (uint64_t page = 0; page < b->length >> BENCH_PAGE_SHIFT; page++) {
            void *at = b->host + (page << BENCH_PAGE_SHIFT);

            if (has_data(page_number(b, page))) {
                fill_page(at, page_number(b, page));
            } else if (bench.fill != FILL_UNTOUCHED) {
                /* There, and zero */
                *(volatile uint8_t *)at = 0;
            }
        }
    }
}

void memory_rewrite(BenchBlock *block, uint64_t page, unsigned round)
{
    if (!bench.sparse) {
        uint64_t *at = (void *)(block->host + (page << BENCH_PAGE_SHIFT));

        at[round % (BENCH_PAGE / sizeof(*at))] =
            mix(page_number(block, page) + ((uint64_t)round << 48)) | 1;
    }
}

void memory_all_rewritten(void)
{
    all_rewritten = true;
}

bool memory_is_zero(const void *host, uint64_t len)
{
    const uint8_t *p = host;
    uint64_t at, first, last;

    if (!bench.sparse) {
        return p[0] == 0 && p[len / 2] == 0 && p[len - 1] == 0 &&
               memcmp(p, p + 1, len - 1) == 0;
    }
    if (all_rewritten) {
        return false;
    }
    at = (p - base) % stride;
    first = (p - base) / stride * block_pages + (at >> BENCH_PAGE_SHIFT);
    last = first + ((at + len - 1) >> BENCH_PAGE_SHIFT) -
           (at >> BENCH_PAGE_SHIFT);
    for (uint64_t page = first; page <= last; page++) {
        if (has_data(page)) {
            return false;
        }
    }
    return true;
}

void memory_checksum(uint64_t *sums)
{
    for (unsigned i = 0; i < memory.n; i++) {
        const uint64_t *p = (const void *)memory.blocks[i].host;
        uint64_t sum = i + 1;

        for (uint64_t w = 0; w < memory.blocks[i].length / sizeof(*p); w++) {
            sum = (sum ^ p[w]) * UINT64_C(0x9e3779b97f4a7c15);
            sum ^= sum >> 29;
        }
        sums[i] = sum;
    }
}

static bool is_guest(uint64_t start)
{
    for (unsigned i = 0; i < memory.n; i++) {
        uint64_t host = (uintptr_t)memory.blocks[i].host;

        if (start >= host && start < host + memory.blocks[i].length) {
            return true;
        }
    }
    return false;
}

uint64_t memory_resident(void)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    uint64_t sum = 0;
    bool inside = false;
    char line[512];

    if (!file) {
        fail("/proc/self/smaps: %m");
    }
    while (fgets(line, sizeof(line), file)) {
        uint64_t start, end, kib;

        /* Only the first line of a mapping begins like this */
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
            inside = is_guest(start);
        } else if (inside && sscanf(line, "Rss: %" SCNu64, &kib) == 1) {
            sum += kib << 10;
        }
    }
    fclose(file);
    return sum;
}
