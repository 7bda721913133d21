/*
 * RDMA migration: where query-migrate finds the counters
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef QEMU_MIGRATION_RDMA_INFO_H
#define QEMU_MIGRATION_RDMA_INFO_H

#include "rdma-channel.h"

/*
 * rdma_info_attach: a migration over @rioc begins
 *
 * From here on its counters are shown, in place of those of its side's last
 * migration.
 */
void rdma_info_attach(QIOChannelRDMA *rioc);
/*
 * rdma_info_detach: @rioc is about to be closed: keep its counters
 *
 * Must come before what belongs to the connection goes; of a channel that is
 * not attached (any more) nothing is kept.
 */
void rdma_info_detach(QIOChannelRDMA *rioc);

#endif
