/*
 * How a source's guest is given away, and what it may never be told of that
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: drives rmig_source_end(), _wait_loaded(), _commit() and _start() and
 * dies when a message or a success comes that must not.
 * Callers: fuzz-source.
 * Thread: one.
 */
#ifndef FUZZ_END_H
#define FUZZ_END_H

#include "device.h"
#include "migration/rdma-transport.h"
#include "wire.h"

typedef struct FuzzEnd {
    bool committed; /* START may be sent */
    bool started;   /* and a STARTED has come after that */
} FuzzEnd;

/* A message of the source's is on its way */
void fuzz_end_sent(const FuzzEnd *end, const RMigSource *source,
                   RMigWireType type);
/* A message for the source, true or not */
void fuzz_end_arriving(FuzzEnd *end, RMigWireType type);
/*
 * The stream is complete: whether the guest was given away, or may just run
 * there
 * @check: as in the target, whether it may go on
 */
bool fuzz_end(FuzzEnd *end, RMigSource *source, FuzzQp *main,
              bool (*check)(bool ok, GError **err, const char *what,
                            FuzzQp *connection));

#endif
