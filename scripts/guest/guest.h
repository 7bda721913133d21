/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the parts of the workload guest share.
 */
#ifndef RMIG_GUEST_H
#define RMIG_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#define GUEST_PAGE_BYTES 4096u

/*
 * Write one page of pseudo-random words that @key determines; read it back
 * and say whether every word is as page_fill() with the same key left it.
 */
void page_fill(uint32_t page, uint32_t key);
bool page_check(uint32_t page, uint32_t key);

#endif
