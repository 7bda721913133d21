/*
 * RDMA migration transport: inside of the source
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by source.c (the migration from connecting to closing), source-end.c
 * (its last messages), source-ahead.c (what is registered when), source-spans.c
 * (registration on both sides) and source-pages.c (pages handed over), and by
 * nobody else.  All of it is used by one thread at a time, but for @shown.
 */
#ifndef RMIG_SOURCE_PRIV_H
#define RMIG_SOURCE_PRIV_H

#include "conn.h"
#include "jobs.h"
#include "mr.h"
#include "pages.h"
#include "plan.h"
#include "writer.h"

/* Chunks of a block that are neither here nor at the destination any more */
typedef struct RMigRange {
    const RMigBlock *block;
    uint64_t first;
    uint64_t n;
} RMigRange;

typedef struct RMigZeroRun {
    const RMigBlock *block;
    uint64_t offset;
    uint64_t bytes;
} RMigZeroRun;

/*
 * Registration on both sides.  A span's local half is a job of @local, its
 * remote half one record of a REGISTER_REQUEST; both are charged, to two
 * budgets, when the span is made.
 */
typedef struct RMigAhead {
    RMigMrTable local;
    RMigBudget peer;
    RMigPace pace;
    RMigPlanLimits limits;
    /* Spans in the order in which the writer will come to them */
    GQueue window;
    uint64_t window_bytes;
    /* Where to look for the next one */
    uint32_t next_block;
    uint64_t next_chunk;
    bool found; /* @next_* is a place of this round */
    bool filling; /* the window is not yet as long as it is to be */
    uint32_t at_block; /* where the writer was last seen */
    uint64_t at_chunk;
    uint64_t pin_left; /* chunks that no span covers */
    bool no_rest;      /* pin-all: there was no room for all after all */
    GQueue to_ask;     /* of RMigSpan */
    uint64_t to_ask_bytes;
    GQueue to_release; /* of RMigRange, owned */
    /* The command that waits for its answer, NONE: there is none */
    RMigWireType waiting;
    int64_t asked_us;
    uint64_t waiting_bytes; /* that it is to register */
    int64_t deadline_us;  /* of its answer */
    GPtrArray *asked;     /* of RMigSpan, by record of the REGISTER_REQUEST */
    uint64_t released_bytes; /* of an UNREGISTER_REQUEST */
    RMigWireType said;      /* the last of its commands */
    uint64_t asked_bytes; /* the largest request so far */
    uint8_t **evicted;  /* [block], a bit a chunk; once let go */
    unsigned refused;   /* single chunks in turn, none of which was had */
    unsigned used_well; /* spans since the last that was let go unused */
    uint64_t exchanges; /* grows with whatever the two sides have settled */
    uint64_t reaped;    /* and with what the workers here have done */
    uint64_t busy_ns;   /* sum of the time from asking to having */
} RMigAhead;

/* Which pages of a stretch of memory were ever touched */
typedef struct RMigTouched {
    const RMigBlock *block; /* NULL: nothing is known */
    uint64_t start;         /* in the block, bytes */
    uint64_t end;
    uint64_t *bits;         /* RMIG_TOUCHED_WORDS */
} RMigTouched;

#define RMIG_TOUCHED_PAGES 16384
#define RMIG_TOUCHED_WORDS (RMIG_TOUCHED_PAGES / 64)

struct RMigSource {
    RMigSourceConfig config;
    RMigShutdown *shutdown;
    RMigConn main;
    RMigConn back;
    uint32_t granted;       /* RMIG_WIRE_FLAG_* */
    uint64_t peer_pin_bytes; /* announced; UINT64_MAX: any number */
    RMigBlocks blocks;
    GArray *hints; /* of RMigBlockHints, by index */
    bool exchanged;
    RMigJobs *jobs;
    RMigAhead ahead;
    RMigWriter writer;
    RMigPages *pages;
    unsigned page_bytes;   /* of the host, which @pages counts in */
    RMigTouched touched;
    RMigZeroRun zero_run;  /* being merged; bytes 0: none */
    GArray *zero_queue;    /* of RMigZeroRun, to be sent */
    unsigned zeros_sent;   /* of them, from the first on */
    unsigned pages_left;   /* until the next look around */
    uint64_t waited_for;   /* bytes that had landed when a wait last looked */
    int64_t wait_until_us; /* when one of them must have completed */
    const RMigBlock *last_block;
    RMigCounters count;    /* what nobody else counts */
    GMutex lock;
    RMigCounters shown;    /* under @lock: for other threads */
};

static inline bool rmig_source_batches(const RMigSource *s)
{
    return s->granted & RMIG_WIRE_FLAG_BATCH;
}

static inline bool rmig_source_pinned_before(const RMigSource *s)
{
    return (s->granted & RMIG_WIRE_FLAG_PIN_ALL) && !rmig_source_batches(s);
}

static inline const RMigBlockHints *rmig_source_hints(const RMigSource *s,
                                                      const RMigBlock *block)
{
    return &g_array_index(s->hints, RMigBlockHints, block->index);
}

/* ---- source.c ---- */

/* Room for a command's data; the stream gathers its bytes in the same place */
uint8_t *rmig_source_compose(RMigSource *s, GError **err);
/* @len bytes of data, in the buffer of rmig_source_compose() */
bool rmig_source_command(RMigSource *s, RMigWireType type, uint32_t len,
                         uint32_t repeat, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* What other threads see is what is so now */
void rmig_source_publish(RMigSource *s);
/* The first error ends the migration: every later call fails with it */
void rmig_source_give_up(RMigSource *s, GError *local, GError **err);

/* ---- source-spans.c ---- */

bool rmig_ahead_init(RMigSource *s, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* @table: gets what is registered here, for the reaper */
void rmig_ahead_cleanup(RMigSource *s, RMigMrTable *table);
/* All of every block, on this side; for pin-all with a peer of version 1 */
bool rmig_ahead_pin_all(RMigSource *s, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* The destination has pinned all, too: its keys are in the block table */
void rmig_ahead_pinned_all(RMigSource *s);

static inline bool rmig_span_is_usable(const RMigSpan *span)
{
    return span->state == RMIG_SPAN_READY && span->peer == RMIG_PEER_READY;
}

/* Both halves are asked for, or about to be; there must be room for them */
RMigSpan *rmig_span_make(RMigSource *s, const RMigBlock *block,
                         uint64_t first, uint64_t n);
/* It goes on both sides; nothing may pin it, nor its request be under way */
void rmig_span_drop(RMigSource *s, RMigSpan *span);
/* Whether @bytes more can be registered on both sides now */
bool rmig_ahead_fits(const RMigAhead *a, uint64_t bytes);
/* Likewise; lets go what must make way for them */
bool rmig_ahead_make_room(RMigSource *s, uint64_t bytes);
/* A span that was registered ahead is being used */
void rmig_ahead_used_well(RMigAhead *a);
/* Refusals of a single chunk after which another try is in vain */
#define RMIG_REFUSALS_MAX 8
/*
 * A single chunk was refused, and its span is gone: whether that is the end.
 * @alone: nothing else was registered; else something makes way
 */
bool rmig_ahead_is_hopeless(RMigSource *s, bool alone);
/* How long something may take while @bytes are registered */
int64_t rmig_ahead_timeout_ms(uint64_t bytes);
/* Until when it must happen, from now on; us */
int64_t rmig_ahead_deadline(uint64_t bytes);
/*
 * Writes have landed: one that asks for memory may have stood behind them, so
 * its answer is not late yet
 */
void rmig_ahead_landed(RMigSource *s);
/* Take what has come, without waiting */
bool rmig_ahead_listen(RMigSource *s, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Say what can be said, likewise */
bool rmig_ahead_speak(RMigSource *s, GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Take the answer that is owed, if one is; waits for it */
bool rmig_ahead_settle(RMigSource *s, GError **err) G_GNUC_WARN_UNUSED_RESULT;

/* ---- source-ahead.c ---- */

/*
 * The span that holds @chunk, ready on both sides; if it must, waits.  The
 * window follows.
 */
RMigSpan *rmig_ahead_need(RMigSource *s, const RMigBlock *block,
                          uint64_t chunk, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * Whatever can be done without waiting, now that pages of @chunk come: listen,
 * register what comes next, let go, speak
 */
bool rmig_ahead_pump(RMigSource *s, const RMigBlock *block, uint64_t chunk,
                     GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* The window does without @span */
void rmig_ahead_forget(RMigAhead *a, RMigSpan *span);
/* The round is over: what came next comes no more */
void rmig_ahead_end_round(RMigSource *s);

/* ---- source-pages.c ---- */

/* Everything handed over is posted, but for zeros */
bool rmig_source_flush_pages(RMigSource *s, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * Everything posted has landed, or is on a way so long that the wire would run
 * dry; in any case before what is posted next
 */
bool rmig_source_wait_for_writes(RMigSource *s, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* The zero run that is being merged is complete: send or write it */
bool rmig_source_queue_zeros(RMigSource *s, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Send as many zero runs as one message takes */
bool rmig_source_send_zeros(RMigSource *s, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
unsigned rmig_source_zeros_waiting(const RMigSource *s);

#endif
