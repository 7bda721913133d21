/*
 * RDMA migration transport: what verbs and link share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * librdmacm creates the queue pair, on verbs' completion queue.  No room but
 * these two may include this file.
 */
#ifndef RMIG_VERBS_PRIV_H
#define RMIG_VERBS_PRIV_H

#include <infiniband/verbs.h>

#include "verbs.h"

/*
 * rmig_verbs_new: PD, completion channel and queue on an opened device
 * @device: stays librdmacm's
 */
RMigVerbs *rmig_verbs_new(struct ibv_context *device, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* The attributes with which the queue pair is to be created */
void rmig_verbs_qp_attr(RMigVerbs *verbs, struct ibv_qp_init_attr *attr);
struct ibv_pd *rmig_verbs_pd(RMigVerbs *verbs);
/*
 * @qp: created by the link; from now on work can be posted to it.  NULL when
 * it has been destroyed: the link does so before rmig_verbs_free().
 */
void rmig_verbs_set_qp(RMigVerbs *verbs, struct ibv_qp *qp);
/* Move the queue pair to ERR: from then on nobody can write through it */
void rmig_verbs_revoke(RMigVerbs *verbs);
void rmig_verbs_free(RMigVerbs *verbs);

#endif
