/*
 * RDMA migration: what the memory core tells it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Implemented in migration/rdma-memory.c.
 */
#ifndef MIGRATION_RDMA_DISCARD_H
#define MIGRATION_RDMA_DISCARD_H

#ifdef CONFIG_RDMA
/*
 * rdma_memory_discard: @length bytes at @host are about to be discarded
 *
 * If they take part in an RDMA migration, it fails: the adapter would go on
 * with the pages that were there.  Any thread.
 */
void rdma_memory_discard(void *host, size_t length);
#else
static inline void rdma_memory_discard(void *host, size_t length)
{
}
#endif

#endif
