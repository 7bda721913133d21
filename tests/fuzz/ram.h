/*
 * Guest RAM to fuzz with: between pages that nobody may touch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: address ranges for RAM blocks, with guards between, and the question
 * which block an address is in.
 * Callers: fuzz-dest, whose RAM cannot be touched at all, as only the peer's
 * NIC writes into it; fuzz-source, whose RAM can only be read.
 */
#ifndef FUZZ_RAM_H
#define FUZZ_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/rdma-transport.h"

#define FUZZ_PAGE UINT64_C(4096)
#define FUZZ_MIB (UINT64_C(1) << 20)

typedef struct FuzzBlock {
    const char *name;
    uint64_t offset; /* in the ram_addr_t space */
    uint64_t length;
    uint8_t *host; /* NULL for an empty one */
    /* fuzz-source: where the honest destination has it */
    uint64_t remote_host;
    uint64_t remote_offset;
} FuzzBlock;

/* Address space for @n blocks; it is kept for the process's life */
void fuzz_ram_reserve(FuzzBlock *blocks, unsigned n);
/* ... that can be read; returns where the harness can write @blocks[0] */
uint8_t *fuzz_ram_fill(FuzzBlock *blocks, unsigned n);
/* The block that [host, host + len) lies in altogether, or NULL */
const FuzzBlock *fuzz_ram_find(const FuzzBlock *blocks, unsigned n,
                               const void *host, uint64_t len);
/* ... or a block that it lies in only partly or surrounds; NULL: neither */
const FuzzBlock *fuzz_ram_overlaps(const FuzzBlock *blocks, unsigned n,
                                   const void *host, uint64_t len);

/* fuzz-dest: whether the second MiB of a block, if it has one, is unplugged */
extern bool fuzz_ram_has_holes;
/* Bytes of it that are not */
uint64_t fuzz_ram_hole(const FuzzBlock *block);
/* Whether all of [offset, offset + bytes) of the block is plugged */
bool fuzz_ram_is_plugged(const FuzzBlock *block, uint64_t offset,
                         uint64_t bytes);
bool fuzz_ram_list_holes(RMigDest *dest, const FuzzBlock *blocks, unsigned n,
                         GError **err);

#endif
