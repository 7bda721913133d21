/*
 * RDMA migration transport: registration of guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See mr.h.  A span's count of chunks that still point at it is what keeps it.
 */
#include <linux/capability.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mr.h"

/* What goes on top of guest RAM: queues and message buffers of two links */
#define RESERVE_BYTES (UINT64_C(7) << 20)
/* Message buffers of one link, rounded up */
#define BUFFER_BYTES (UINT64_C(4) << 20)

/* ---- budget ---- */

void rmig_budget_init(RMigBudget *b, uint64_t ceiling)
{
    *b = (RMigBudget) { .ceiling = ceiling, .limit = ceiling };
}

bool rmig_budget_fits(const RMigBudget *b, uint64_t bytes)
{
    return b->used <= b->limit && bytes <= b->limit - b->used;
}

bool rmig_budget_will_fit(const RMigBudget *b, uint64_t bytes)
{
    uint64_t stays = b->used - b->leaving;

    return stays <= b->limit && bytes <= b->limit - stays;
}

void rmig_budget_charge(RMigBudget *b, uint64_t bytes)
{
    b->used += bytes;
    b->peak = MAX(b->peak, b->used);
}

void rmig_budget_refused(RMigBudget *b, uint64_t bytes)
{
    b->used -= bytes;
    b->limit = MIN(b->limit, MAX(b->used, RMIG_CHUNK_BYTES));
}

void rmig_budget_granted(RMigBudget *b, uint64_t bytes)
{
    /* Slowly: each step too far costs a refusal */
    b->limit += MIN(bytes / 8, b->ceiling - b->limit);
}

void rmig_budget_leave(RMigBudget *b, uint64_t bytes)
{
    b->leaving += bytes;
}

void rmig_budget_left(RMigBudget *b, uint64_t bytes)
{
    b->leaving -= bytes;
    b->used -= bytes;
}

/* ---- table ---- */

void rmig_mr_table_init(RMigMrTable *table, RMigVerbs *verbs, RMigJobs *jobs,
                        const RMigBlocks *blocks, bool remote_write,
                        uint64_t limit)
{
    uint32_t n = rmig_blocks_count(blocks);

    memset(table, 0, sizeof(*table));
    table->verbs = verbs;
    table->jobs = jobs;
    table->remote_write = remote_write;
    table->n_blocks = n;
    g_queue_init(&table->spans);
    g_queue_init(&table->leaving);
    rmig_budget_init(&table->budget, limit);
    table->chunks = g_new0(RMigSpan **, n);
    for (uint32_t i = 0; i < n; i++) {
        /* Untouched pages of these arrays cost nothing */
        table->chunks[i] = g_new0(RMigSpan *,
                                  rmig_block_chunks(rmig_blocks_get(blocks,
                                                                    i)));
    }
}

static void set_table(gpointer span, gpointer table)
{
    ((RMigSpan *)span)->table = table;
}

void rmig_mr_table_moved(RMigMrTable *table)
{
    g_queue_foreach(&table->spans, set_table, table);
    g_queue_foreach(&table->leaving, set_table, table);
}

static void free_span(RMigSpan *span)
{
    rmig_mr_unregister(span->mr);
    g_clear_error(&span->error);
    g_free(span);
}

static void free_spans(GQueue *spans)
{
    GList *link;

    while ((link = g_queue_pop_head_link(spans))) {
        free_span(link->data);
    }
}

/* A share of the spans of a table */
typedef struct Share {
    RMigJob job;
    GPtrArray *spans; /* not owned */
    gint *next;       /* of them that nobody has taken */
    const gint *stop;
} Share;

static void run_share(RMigJob *job)
{
    Share *share = (Share *)job;
    unsigned i;

    while (!g_atomic_int_get(share->stop) &&
           (i = g_atomic_int_add(share->next, 1)) < share->spans->len) {
        RMigSpan *span = g_ptr_array_index(share->spans, i);

        rmig_mr_unregister(span->mr);
        span->mr = NULL;
    }
}

static void share_done(RMigJob *job)
{
    (void)job;
}

static void add_span(gpointer span, gpointer spans)
{
    g_ptr_array_add(spans, span);
}

void rmig_mr_table_unpin(RMigMrTable *table, unsigned threads,
                         const gint *stop)
{
    g_autoptr(GPtrArray) spans = g_ptr_array_new();
    g_autofree Share *shares = g_new0(Share, MAX(threads, 1));
    RMigJobs *jobs = NULL;
    gint next = 0;

    g_queue_foreach(&table->spans, add_span, spans);
    g_queue_foreach(&table->leaving, add_span, spans);
    threads = MIN(threads, spans->len);
    if (threads > 1) {
        jobs = rmig_jobs_new(threads, NULL);
    }
    for (unsigned i = 0; i < (jobs ? threads : 1); i++) {
        shares[i] = (Share) { .job.run = run_share, .job.done = share_done,
                              .spans = spans, .next = &next, .stop = stop };
        if (jobs) {
            rmig_jobs_add(jobs, &shares[i].job);
        } else {
            run_share(&shares[i].job);
        }
    }
    rmig_jobs_free(jobs);
}

void rmig_mr_table_cleanup(RMigMrTable *table)
{
    if (!table->chunks) {
        return;
    }
    free_spans(&table->spans);
    free_spans(&table->leaving);
    for (uint32_t i = 0; i < table->n_blocks; i++) {
        g_free(table->chunks[i]);
    }
    g_free(table->chunks);
    memset(table, 0, sizeof(*table));
}

RMigSpan *rmig_mr_table_find(const RMigMrTable *table, const RMigBlock *block,
                             uint64_t chunk)
{
    return table->chunks[block->index][chunk];
}

bool rmig_span_is_unpinnable(const RMigSpan *span)
{
    return g_error_matches(span->error, RMIG_VERBS_ERROR,
                           RMIG_VERBS_ERROR_UNPINNABLE);
}

uint64_t rmig_span_bytes(const RMigSpan *span)
{
    return rmig_block_span_bytes(span->block, span->first, span->n);
}

void rmig_span_touch(RMigSpan *span)
{
    g_queue_unlink(&span->table->spans, &span->link);
    g_queue_push_tail_link(&span->table->spans, &span->link);
}

/* On a worker */
static void run_register(RMigJob *job)
{
    RMigSpan *span = (RMigSpan *)job;

    span->mr = rmig_mr_register(span->verbs, span->block->host +
                                (span->first << RMIG_CHUNK_SHIFT),
                                rmig_span_bytes(span), span->remote_write,
                                &span->error);
    if (!span->mr) {
        g_prefix_error(&span->error, "RAM block %s, chunks %" G_GUINT64_FORMAT
                       " to %" G_GUINT64_FORMAT ": ", span->block->name,
                       (guint64)span->first,
                       (guint64)(span->first + span->n - 1));
    }
}

static void run_unregister(RMigJob *job)
{
    RMigSpan *span = (RMigSpan *)job;

    rmig_mr_unregister(span->mr);
    span->mr = NULL;
}

static void unregistered(RMigJob *job)
{
    RMigSpan *span = (RMigSpan *)job;
    RMigMrTable *table = span->table;

    if (job->dropped) {
        return; /* it is the cleanup's */
    }
    rmig_budget_left(&table->budget, rmig_span_bytes(span));
    g_queue_unlink(&table->leaving, &span->link);
    free_span(span);
}

static void start_leaving(RMigSpan *span)
{
    RMigMrTable *table = span->table;

    span->state = RMIG_SPAN_LEAVING;
    span->job.run = run_unregister;
    span->job.done = unregistered;
    rmig_jobs_add(table->jobs, &span->job);
}

static void registered(RMigJob *job)
{
    RMigSpan *span = (RMigSpan *)job;
    RMigMrTable *table = span->table;
    uint64_t bytes = rmig_span_bytes(span);

    table->registering_bytes -= bytes;
    if (span->mr) {
        span->state = RMIG_SPAN_READY;
        table->chunks_registered += span->n;
        rmig_budget_granted(&table->budget, bytes);
        if (span->leaves) {
            start_leaving(span);
        }
        return;
    }
    span->state = RMIG_SPAN_FAILED;
    table->chunks_refused += job->dropped ? 0 : span->n;
    if (span->leaves) {
        rmig_budget_left(&table->budget, bytes);
        g_queue_unlink(&table->leaving, &span->link);
        free_span(span);
        return;
    }
    if (job->dropped) {
        table->budget.used -= bytes;
        return;
    }
    if (rmig_span_is_unpinnable(span)) {
        table->budget.used -= bytes; /* the limit has nothing to do with it */
    } else {
        rmig_budget_refused(&table->budget, bytes);
    }
    span->alone = span->alone && table->budget.used == 0;
}

RMigSpan *rmig_span_register(RMigMrTable *table, const RMigBlock *block,
                             uint64_t first, uint64_t n)
{
    RMigSpan *span = g_new0(RMigSpan, 1);

    g_assert(n > 0 && first + n <= rmig_block_chunks(block));
    span->table = table;
    span->verbs = table->verbs;
    span->remote_write = table->remote_write;
    span->block = block;
    span->first = first;
    span->n = n;
    span->link.data = span;
    span->job.run = run_register;
    span->job.done = registered;
    span->alone = table->budget.used == 0;
    rmig_budget_charge(&table->budget, rmig_span_bytes(span));
    table->registering_bytes += rmig_span_bytes(span);
    g_queue_push_tail_link(&table->spans, &span->link);
    rmig_jobs_add(table->jobs, &span->job);
    return span;
}

void rmig_span_hurry(RMigSpan *span)
{
    if (span->state == RMIG_SPAN_REGISTERING && !span->hurries) {
        span->hurries = true;
        rmig_jobs_hurry(span->table->jobs, &span->job);
    }
}

static void drop_user(RMigSpan *span)
{
    if (--span->users == 0) {
        rmig_span_leave(span);
    }
}

void rmig_span_install(RMigSpan *span)
{
    RMigSpan **chunks = span->table->chunks[span->block->index];

    span->users = span->n;
    for (uint64_t c = span->first; c < span->first + span->n; c++) {
        RMigSpan *before = chunks[c];

        chunks[c] = span;
        if (before) {
            drop_user(before);
        }
    }
}

void rmig_span_leave(RMigSpan *span)
{
    RMigMrTable *table = span->table;
    RMigSpan **chunks = table->chunks[span->block->index];

    for (uint64_t c = span->first; span->users > 0; c++) {
        if (chunks[c] == span) {
            chunks[c] = NULL;
            span->users--;
        }
    }
    g_queue_unlink(&table->spans, &span->link);
    if (span->state == RMIG_SPAN_FAILED) {
        free_span(span);
        return;
    }
    g_queue_push_tail_link(&table->leaving, &span->link);
    rmig_budget_leave(&table->budget, rmig_span_bytes(span));
    if (span->state == RMIG_SPAN_REGISTERING) {
        span->leaves = true;
    } else {
        start_leaving(span);
    }
}

void rmig_mr_table_unregister(RMigMrTable *table, const RMigBlock *block,
                              uint64_t chunk)
{
    RMigSpan **chunks = table->chunks[block->index];
    RMigSpan *span = chunks[chunk];

    if (span) {
        chunks[chunk] = NULL;
        drop_user(span);
    }
}

/* ---- the memory-lock limit ---- */

static bool may_ignore_memlock(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    return syscall(SYS_capget, &header, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &
            CAP_TO_MASK(CAP_IPC_LOCK));
}

/* What may be locked in all, UINT64_MAX: any number */
static uint64_t memlock_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY || may_ignore_memlock()) {
        return UINT64_MAX;
    }
    return limit.rlim_cur;
}

static uint64_t left_of(uint64_t limit, uint64_t used)
{
    return limit == UINT64_MAX ? limit : limit - MIN(limit, used);
}

uint64_t rmig_pin_limit(uint64_t pin_limit)
{
    return MIN(pin_limit ? pin_limit : UINT64_MAX, memlock_limit());
}

uint64_t rmig_pin_room(uint64_t pin_limit)
{
    uint64_t used = rmig_mr_pinned_bytes() + BUFFER_BYTES;
    uint64_t user = pin_limit ? left_of(pin_limit, used) : UINT64_MAX;

    /* The kernel counts queues as well */
    return MIN(user, left_of(memlock_limit(), used + RESERVE_BYTES));
}

bool rmig_memlock_allows(uint64_t bytes, GError **err)
{
    uint64_t limit = memlock_limit();

    bytes += rmig_mr_pinned_bytes() + RESERVE_BYTES;
    if (limit >= bytes) {
        return true;
    }
    g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                "pinning %" G_GUINT64_FORMAT " MiB exceeds the memory-lock "
                "limit of this process, %" G_GUINT64_FORMAT " MiB; raise it "
                RMIG_MEMLOCK_WAYS,
                (guint64)(bytes >> 20), (guint64)limit >> 20);
    return false;
}
