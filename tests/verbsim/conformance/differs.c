/*
 * Conformance tests: where implementations differ from what is expected
 *
 * The one table of them.  A test that calls differs() asserts what stands
 * here under "instead", so that an entry that is no longer true fails;
 * docs/verbsim-conformance.md has the same table (test-differences checks it).
 *
 * Soft-RoCE is that of Linux 6.1 with rdma-core 44, which the lab runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stddef.h>

#include "differs.h"

const Difference differences[] = {
    {
        "qp-pkey-index", "rxe",
        "a P_Key index beyond the table is refused",
        "ibv_modify_qp() takes it; RoCE has one partition and nobody "
        "looks at the index",
    },
    {
        "qp-path-mtu", "rxe",
        "a path MTU of 0, which no code stands for, is refused",
        "it is taken",
    },
    {
        "qp-max-dest-rd-atomic", "rxe",
        "more incoming Reads than the device can have under way are "
        "refused",
        "max_dest_rd_atomic is taken as it is; only max_rd_atomic is "
        "checked",
    },
    {
        "qp-wide-values", "rxe",
        "retry counts above 7 and RNR timer codes above 31, wider than "
        "their fields on the wire, are refused",
        "they are taken",
    },
    {
        "qp-current-state", "rxe",
        "IBV_QP_CUR_STATE that is not the current state is refused",
        "the given state is believed, and what the real one would need "
        "is not asked for",
    },
    {
        "qp-post-recv-error", "rxe",
        "a receive that is posted in ERR is flushed",
        "it is taken, and no completion comes",
    },
    {
        "qp-reset-completions", "rxe",
        "RESET removes the queue pair's completions that were not "
        "polled, as drivers of adapters do",
        "they stay in the queue",
    },
    {
        "qp-destroy-completions", "rxe",
        "so does destroying it",
        "they stay in the queue",
    },
    {
        "qp-comm-est", "rxe",
        "the first request that arrives in RTR raises "
        "IBV_EVENT_COMM_EST",
        "no event",
    },
    {
        "access-event", "rxe",
        "a refused RDMA request raises IBV_EVENT_QP_ACCESS_ERR or "
        "IBV_EVENT_QP_REQ_ERR at the responder",
        "no event; the queue pair does go to ERR",
    },
    {
        "receive-too-small", "rxe",
        "the receiver completes with LOC_LEN_ERR, the sender with "
        "REM_INV_REQ_ERR",
        "LOC_QP_OP_ERR and REM_OP_ERR",
    },
    {
        "local-protection", "rxe",
        "a request whose own memory is not as its key says completes "
        "with LOC_PROT_ERR",
        "LOC_QP_OP_ERR if the key is bad, and for every receive; "
        "LOC_PROT_ERR only for a range beyond the region's",
    },
    {
        "slots-without-poll", "rxe",
        "a slot of the send queue is free once a completion for it or a "
        "later one was polled",
        "it is free once the request has been carried out",
    },
    {
        "stopped-process", "verbsim",
        "a stopped program's adapter lives on: messages go into the "
        "receives that were posted",
        "messages and Writes wait until it runs again, because its NIC "
        "is a thread of it; nothing is lost. The fault `freeze` is the "
        "adapter that lives on",
    },
    {
        "wildcard-conflict", "verbsim",
        "binding a port that a wildcard overlaps fails with "
        "EADDRNOTAVAIL, as Linux' CM has it",
        "EADDRINUSE, as for the same address twice",
    },
    {
        "builder-inline", "rxe",
        "ibv_wr_set_inline_data() makes a request inline",
        "only if wr_flags say IBV_SEND_INLINE, too",
    },
    {
        "builder-inline-list", "rxe",
        "ibv_wr_set_inline_data_list() sends the pieces one after the other",
        "the request completes with success, and nothing is sent",
    },
    {
        "builder-overflow", "rxe",
        "ibv_wr_complete() tells of a full send queue with ENOMEM, as "
        "ibv_post_send() does",
        "ENOSPC",
    },
    { NULL, NULL, NULL, NULL },
};
