/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Contents of the workload guest's pages: four 32-bit xorshift generators side
 * by side, so that SSE2 makes 16 bytes a step.  The guest runs under TCG, in
 * the lab even under TCG within TCG: instructions are what counts.
 *
 * The only file built with SSE.  The interrupt handler does not save vector
 * registers, so it must not call anything in here.
 */
#include "guest.h"

typedef uint32_t Lanes __attribute__((vector_size(16)));

static inline Lanes lanes_seed(uint32_t key)
{
    /* Zero is xorshift's fixed point: every lane must start odd. */
    return (Lanes) { key, key ^ 0x6c078965u, key ^ 0x9d2c5680u,
                     key ^ 0xefc60000u } | 1u;
}

static inline Lanes lanes_step(Lanes s)
{
    s ^= s << 13;
    s ^= s >> 17;
    s ^= s << 5;
    return s;
}

void page_fill(uint32_t page, uint32_t key)
{
    Lanes *to = (Lanes *)(page * GUEST_PAGE_BYTES);
    Lanes *end = to + GUEST_PAGE_BYTES / sizeof(*to);
    Lanes s = lanes_seed(key);

    while (to < end) {
        s = lanes_step(s);
        *to++ = s;
    }
}

bool page_check(uint32_t page, uint32_t key)
{
    const Lanes *from = (const Lanes *)(page * GUEST_PAGE_BYTES);
    const Lanes *end = from + GUEST_PAGE_BYTES / sizeof(*from);
    Lanes s = lanes_seed(key);
    Lanes wrong = { 0, 0, 0, 0 };

    while (from < end) {
        s = lanes_step(s);
        wrong |= s ^ *from++;
    }
    return (wrong[0] | wrong[1] | wrong[2] | wrong[3]) == 0;
}
