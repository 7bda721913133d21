/*
 * RDMA migration transport: page runs turned into RDMA Writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: merges neighbouring pages into runs, a run being one RDMA Write; posts
 * runs in batches, one doorbell and one completion each; knows what is on the
 * wire and when everything has landed.
 * Callers: source.
 * Thread: the connection's.
 *
 * A page that continues the run costs a comparison and an addition.  A run ends
 * where its span does at the latest, so it always has one key on each side.
 * Spans with writes on the wire, and the one that is being written, are pinned.
 */
#ifndef RMIG_WRITER_H
#define RMIG_WRITER_H

#include "mr.h"
#include "verbs.h"

/* Writes that share one completion */
#define RMIG_WRITER_BATCH RMIG_VERBS_CHAIN

typedef struct RMigBatch RMigBatch;

/* What is learned when a batch has completed */
typedef struct RMigLanded {
    uint64_t bytes;
    int64_t us;        /* since the one before it, or since an idle wire */
    int64_t flight_us; /* since it was posted */
    bool alone;        /* nothing was on the wire when it was */
    int64_t now_us;
} RMigLanded;

typedef struct RMigWriter {
    RMigVerbs *verbs; /* not owned */
    /* Called when a batch has completed */
    void (*landed)(void *opaque, const RMigLanded *landed);
    void *opaque;
    uint64_t wire_max; /* bytes that may be on the wire; the caller's choice */
    bool drains;       /* likewise: nothing is posted until the wire is idle */
    bool has_alone;    /* a batch is on it that was posted to an idle wire */
    /* The run that is being merged; @run_bytes 0: none */
    RMigSpan *span;      /* what the run lies in; NULL: none yet */
    uint64_t span_start; /* of @span, in its block */
    uint64_t span_end;
    uint64_t run_offset; /* in the block */
    uint64_t run_bytes;
    /* The batch that runs are added to, and those that are not complete */
    RMigBatch *batch;     /* not posted */
    uint64_t batch_bytes; /* of its runs */
    unsigned batches_in_flight;
    uint64_t wire_bytes;  /* posted and not complete */
    int64_t busy_since_us; /* last completion, or post to an empty wire */
    GQueue idle; /* of RMigBatch, owned */
    GQueue busy; /* of RMigBatch, owned: all that the NIC may still name */
    uint64_t bytes;  /* posted */
    uint64_t writes; /* posted */
} RMigWriter;

void rmig_writer_init(RMigWriter *writer, RMigVerbs *verbs);
/* After the queue pair is gone */
void rmig_writer_cleanup(RMigWriter *writer);

/*
 * Whether what is held back can be posted; if not, wait for completions before
 * the next add or flush
 */
bool rmig_writer_has_room(const RMigWriter *writer);
/* Whether @len bytes at @offset of @block lie in the span that is written */
static inline bool rmig_writer_covers(const RMigWriter *w,
                                      const RMigBlock *block, uint64_t offset,
                                      uint64_t len)
{
    return w->span && w->span->block == block && offset >= w->span_start &&
           offset + len <= w->span_end;
}
/* What is written next lies in @span, which is ready on both sides */
void rmig_writer_enter(RMigWriter *writer, RMigSpan *span);
/*
 * rmig_writer_add: @len bytes at @offset of the entered span's block, in it
 *
 * There must be room.
 */
bool rmig_writer_add(RMigWriter *writer, uint64_t offset, uint64_t len,
                     GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Post what is held back.  There must be room. */
bool rmig_writer_flush(RMigWriter *writer, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Flush and leave the span, so that nothing keeps it any more */
bool rmig_writer_leave(RMigWriter *writer, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Bytes that have landed since the start */
static inline uint64_t rmig_writer_landed_bytes(const RMigWriter *w)
{
    return w->bytes - w->wire_bytes;
}
/* Whether everything posted has landed */
bool rmig_writer_is_idle(const RMigWriter *writer);

#endif
