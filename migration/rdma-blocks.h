/*
 * RDMA migration: what the core is told of guest RAM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_MIGRATION_RDMA_BLOCKS_H
#define QEMU_MIGRATION_RDMA_BLOCKS_H

#include "rdma-channel.h"

/* All blocks that migrate, to the source's or destination's core object */
bool rdma_blocks_list_source(QIOChannelRDMA *rioc, GError **err);
/* RMigDestOps; @opaque: the QIOChannelRDMA */
bool rdma_blocks_list_dest(void *opaque, GError **err);
bool rdma_blocks_list_holes(void *opaque, GError **err);

#endif
