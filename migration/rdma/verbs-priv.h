/*
 * RDMA migration transport: what verbs and link share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Verbs owns the queue pair, the link knows how to connect it.  No room but
 * these two may include this file.
 */
#ifndef RMIG_VERBS_PRIV_H
#define RMIG_VERBS_PRIV_H

#include <infiniband/verbs.h>

#include "verbs.h"

/*
 * rmig_verbs_new: PD, completion channel and queue on an opened device
 * @device: stays librdmacm's
 * @port: of the device, from 1, that the connection uses
 */
RMigVerbs *rmig_verbs_new(struct ibv_context *device, uint8_t port,
                          GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * The queue pair, in state RESET; the link moves it on with the attributes
 * that the connection manager has for each state.
 */
bool rmig_verbs_create_qp(RMigVerbs *verbs, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
bool rmig_verbs_modify_qp(RMigVerbs *verbs, struct ibv_qp_attr *attr, int mask,
                          GError **err) G_GNUC_WARN_UNUSED_RESULT;
uint32_t rmig_verbs_qp_num(const RMigVerbs *verbs);
/* Nothing that was posted is used any more; before rmig_verbs_free() */
void rmig_verbs_destroy_qp(RMigVerbs *verbs);
/*
 * Move the queue pair to ERR: from then on nobody can write through it.  False
 * if the device refuses; then it must be destroyed.
 */
bool rmig_verbs_revoke(RMigVerbs *verbs) G_GNUC_WARN_UNUSED_RESULT;
void rmig_verbs_free(RMigVerbs *verbs);

#endif
