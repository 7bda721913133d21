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
#define RESERVE_BYTES (UINT64_C(5) << 20)

struct RMigSpan {
    RMigMr *mr;
    uint64_t first;
    uint64_t n;
    uint64_t users; /* chunks that point here */
};

void rmig_mr_table_init(RMigMrTable *table, RMigVerbs *verbs,
                        const RMigBlocks *blocks, bool remote_write)
{
    uint32_t n = rmig_blocks_count(blocks);

    memset(table, 0, sizeof(*table));
    table->verbs = verbs;
    table->blocks = blocks;
    table->remote_write = remote_write;
    table->chunks = g_new0(RMigSpan **, n);
    for (uint32_t i = 0; i < n; i++) {
        /* Untouched pages of these arrays cost nothing */
        table->chunks[i] = g_new0(RMigSpan *,
                                  rmig_block_chunks(rmig_blocks_get(blocks,
                                                                    i)));
    }
}

static void drop_user(RMigSpan *span)
{
    if (--span->users == 0) {
        rmig_mr_unregister(span->mr);
        g_free(span);
    }
}

void rmig_mr_table_cleanup(RMigMrTable *table)
{
    if (!table->chunks) {
        return;
    }
    for (uint32_t i = 0; i < rmig_blocks_count(table->blocks); i++) {
        const RMigBlock *block = rmig_blocks_get(table->blocks, i);

        for (uint64_t c = 0; c < rmig_block_chunks(block); c++) {
            if (table->chunks[i][c]) {
                drop_user(table->chunks[i][c]);
            }
        }
        g_free(table->chunks[i]);
    }
    g_free(table->chunks);
    memset(table, 0, sizeof(*table));
}

RMigMr *rmig_mr_table_find(const RMigMrTable *table, const RMigBlock *block,
                           uint64_t chunk)
{
    RMigSpan *span = table->chunks[block->index][chunk];

    return span ? span->mr : NULL;
}

RMigMr *rmig_mr_table_register(RMigMrTable *table, const RMigBlock *block,
                               uint64_t first, uint64_t n, GError **err)
{
    RMigSpan **chunks = table->chunks[block->index];
    RMigSpan *span = chunks[first];
    RMigMr *mr;

    g_assert(n > 0 && first + n <= rmig_block_chunks(block));
    if (span && span->first == first && span->n == n && span->users == n) {
        return span->mr;
    }
    mr = rmig_mr_register(table->verbs,
                          block->host + (first << RMIG_CHUNK_SHIFT),
                          rmig_block_span_bytes(block, first, n),
                          table->remote_write, err);
    if (!mr) {
        g_prefix_error(err, "RAM block %s, chunks %" G_GUINT64_FORMAT " to %"
                       G_GUINT64_FORMAT ": ", block->name, (guint64)first,
                       (guint64)(first + n - 1));
        return NULL;
    }
    span = g_new(RMigSpan, 1);
    *span = (RMigSpan) { .mr = mr, .first = first, .n = n, .users = n };
    for (uint64_t c = first; c < first + n; c++) {
        if (chunks[c]) {
            drop_user(chunks[c]);
        }
        chunks[c] = span;
    }
    table->chunks_registered += n;
    return mr;
}

bool rmig_mr_table_register_all(RMigMrTable *table, GError **err)
{
    for (uint32_t i = 0; i < rmig_blocks_count(table->blocks); i++) {
        const RMigBlock *block = rmig_blocks_get(table->blocks, i);
        uint64_t n = rmig_block_chunks(block);

        if (n > 0 && !rmig_mr_table_register(table, block, 0, n, err)) {
            return false;
        }
    }
    return true;
}

void rmig_mr_table_unregister(RMigMrTable *table, const RMigBlock *block,
                              uint64_t chunk)
{
    RMigSpan **chunks = table->chunks[block->index];

    if (chunks[chunk]) {
        drop_user(chunks[chunk]);
        chunks[chunk] = NULL;
    }
}

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

bool rmig_memlock_allows(uint64_t bytes, GError **err)
{
    struct rlimit limit;

    bytes += rmig_mr_pinned_bytes() + RESERVE_BYTES;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ||
        limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes ||
        may_ignore_memlock()) {
        return true;
    }
    g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                "pinning %" G_GUINT64_FORMAT " MiB exceeds the memory-lock "
                "limit of this process, %" G_GUINT64_FORMAT " MiB; raise it "
                "(ulimit -l, systemd's LimitMEMLOCK=, libvirt's <hard_limit>) "
                "or do without pinning everything",
                (guint64)(bytes >> 20), (guint64)limit.rlim_cur >> 20);
    return false;
}
