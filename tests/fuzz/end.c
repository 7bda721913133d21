/*
 * How a source's guest is given away, and what it may never be told of that
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See end.h.
 */
#include "end.h"
#include "schedule.h"

void fuzz_end_sent(const FuzzEnd *end, const RMigSource *source,
                   RMigWireType type)
{
    if ((type == RMIG_WIRE_LOAD_REQUEST || type == RMIG_WIRE_START) &&
        !rmig_source_hands_over(source)) {
        fuzz_die("the guest is handed over, but that was not granted");
    }
    if (type == RMIG_WIRE_START && !end->committed) {
        fuzz_die("the guest is given away, but nobody said so");
    }
}

void fuzz_end_arriving(FuzzEnd *end, RMigWireType type)
{
    end->started |= end->committed && type == RMIG_WIRE_STARTED;
}

bool fuzz_end(FuzzEnd *end, RMigSource *source, FuzzQp *main,
              bool (*check)(bool ok, GError **err, const char *what,
                            FuzzQp *connection))
{
    GError *err = NULL;
    bool starts, left;

    fuzz_schedule_call();
    if (!check(rmig_source_end(source, &err), &err, "end", main)) {
        return false;
    }
    if (!rmig_source_hands_over(source)) {
        return true;
    }
    fuzz_schedule_call();
    if (!check(rmig_source_wait_loaded(source, &starts, &err), &err, "loaded",
               main) ||
        !check(rmig_source_commit(source, &err), &err, "commit", main)) {
        return false;
    }
    end->committed = true;
    fuzz_schedule_call();
    if (!check(rmig_source_start(source, &left, &err), &err, "start", main)) {
        return false;
    }
    if (!end->started) {
        fuzz_die("the guest is gone, but nobody has confirmed it");
    }
    return true;
}
