/*
 * verbsim: holding on to the pages of registered memory
 *
 * An adapter works with the pages that memory consisted of when it was
 * registered, whatever the program puts under the addresses later.  See
 * hold.c for how, and docs/verbsim.md for when.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_HOLD_H
#define VERBSIM_HOLD_H

#include <sys/uio.h>

#include "vs.h"

/* By what $VERBSIM_PAGES says and this machine can.  Exits if it cannot. */
void vs_hold_start(void);
/* Are pages held at all?  Constant from then on. */
extern bool vs_holding;

/*
 * The pages of [@addr, @addr + @bytes), which are present; NULL: they are not
 * held, and what is at the addresses is used.  Need no lock.
 */
VsHold *vs_hold_take(void *addr, uint64_t bytes);
void vs_hold_drop(VsHold *hold);

/* ------------------------------------------- the rest is for the NIC thread */

/* A part of a region; @hold NULL: of memory that is not held. */
typedef struct VsPiece {
    VsHold *hold;
    void *addr;
    size_t bytes;
} VsPiece;

/*
 * Pulls @bytes out of process @pid's @remote into @pieces, which have that
 * many.  VS_COPY_*.  Needs no lock.
 */
int vs_hold_copy(pid_t pid, const VsPiece *pieces, unsigned num_pieces,
                 const struct iovec *remote, unsigned num_remote,
                 size_t bytes);

/* False: not now, there is too much of it. */
bool vs_stage_take(VsStage *stage, size_t bytes);
/* Reads @pieces, which have as many bytes, into @stage.  Needs no lock. */
bool vs_stage_fill(const VsStage *stage, const VsPiece *pieces,
                   unsigned num_pieces);
/*
 * @fetched: the peer has it; otherwise it might still come for it, so the
 * memory rests for some seconds.  Any thread.
 */
void vs_stage_drop(VsStage *stage, bool fetched);

#endif
