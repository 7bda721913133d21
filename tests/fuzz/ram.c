/*
 * Guest RAM to fuzz with: between pages that nobody may touch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See ram.h.  A block ends where its last page ends, so that a byte too many
 * is a fault.
 */
#define _GNU_SOURCE
#include "ram.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

static uint64_t room_of(const FuzzBlock *block)
{
    return (block->length + FUZZ_PAGE - 1) / FUZZ_PAGE * FUZZ_PAGE;
}

static uint64_t total_of(const FuzzBlock *blocks, unsigned n)
{
    uint64_t total = FUZZ_MIB;

    for (unsigned i = 0; i < n; i++) {
        total += room_of(&blocks[i]) + FUZZ_MIB;
    }
    return total;
}

static void *map(uint64_t bytes, int prot, int flags, int fd)
{
    void *at = mmap(NULL, bytes, prot, flags | MAP_NORESERVE, fd, 0);

    if (at == MAP_FAILED) {
        fuzz_die("no address space for guest RAM");
    }
    return at;
}

static void place(FuzzBlock *blocks, unsigned n, uint8_t *at)
{
    for (unsigned i = 0; i < n; i++) {
        at += FUZZ_MIB;
        if (blocks[i].length) {
            blocks[i].host = at + room_of(&blocks[i]) - blocks[i].length;
        }
        at += room_of(&blocks[i]);
    }
}

void fuzz_ram_reserve(FuzzBlock *blocks, unsigned n)
{
    place(blocks, n, map(total_of(blocks, n), PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1));
}

uint8_t *fuzz_ram_fill(FuzzBlock *blocks, unsigned n)
{
    uint64_t total = total_of(blocks, n);
    int fd = memfd_create("fuzz-ram", MFD_CLOEXEC);
    uint8_t *ours, *theirs;

    if (fd < 0 || ftruncate(fd, total) != 0) {
        fuzz_die("no memory for guest RAM");
    }
    ours = map(total, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    theirs = map(total, PROT_NONE, MAP_SHARED, fd);
    place(blocks, n, theirs);
    for (unsigned i = 0; i < n; i++) {
        if (mprotect(blocks[i].host, room_of(&blocks[i]), PROT_READ) != 0) {
            fuzz_die("protecting guest RAM failed");
        }
    }
    return ours + (blocks[0].host - theirs);
}

const FuzzBlock *fuzz_ram_find(const FuzzBlock *blocks, unsigned n,
                               const void *host, uint64_t len)
{
    uintptr_t at = (uintptr_t)host;

    for (unsigned i = 0; i < n; i++) {
        uintptr_t start = (uintptr_t)blocks[i].host;

        if (blocks[i].length && at >= start &&
            at - start <= blocks[i].length &&
            len <= blocks[i].length - (at - start)) {
            return &blocks[i];
        }
    }
    return NULL;
}

const FuzzBlock *fuzz_ram_overlaps(const FuzzBlock *blocks, unsigned n,
                                   const void *host, uint64_t len)
{
    uintptr_t at = (uintptr_t)host;

    for (unsigned i = 0; i < n; i++) {
        uintptr_t start = (uintptr_t)blocks[i].host;

        if (blocks[i].length && start < at + len &&
            at < start + blocks[i].length) {
            return &blocks[i];
        }
    }
    return NULL;
}

bool fuzz_ram_has_holes;

uint64_t fuzz_ram_hole(const FuzzBlock *block)
{
    return fuzz_ram_has_holes && block->length > FUZZ_MIB ?
           MIN(block->length - FUZZ_MIB, FUZZ_MIB) : 0;
}

bool fuzz_ram_is_plugged(const FuzzBlock *block, uint64_t offset,
                         uint64_t bytes)
{
    return fuzz_ram_hole(block) == 0 || offset >= 2 * FUZZ_MIB ||
           offset + bytes <= FUZZ_MIB;
}

bool fuzz_ram_list_holes(RMigDest *dest, const FuzzBlock *blocks, unsigned n,
                         GError **err)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t bytes = fuzz_ram_hole(&blocks[i]);

        if (bytes > 0 && !rmig_dest_add_hole(dest, blocks[i].offset, FUZZ_MIB,
                                             bytes, err)) {
            return false;
        }
    }
    return true;
}
