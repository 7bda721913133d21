/*
 * verbsim: the operations of contexts and queue pairs that it does not have
 *
 * verbs.h calls these through pointers.  An empty pointer would make it fail
 * without a word, or crash; so each is filled with a function that says which
 * call is missing.  They are all alike but for the name, and are never given
 * an argument that they would look at: hence the casts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "api.h"

#define FAILS(name)                                         \
    static int loud_##name(void)                            \
    {                                                       \
        return vs_unimplemented("ibv_" #name);              \
    }

#define GIVES_NULL(name)                                    \
    static void *loud_##name(void)                          \
    {                                                       \
        vs_unimplemented("ibv_" #name);                     \
        return NULL;                                        \
    }

/* For ibv_wr_*: ibv_wr_complete() reports it. */
#define SPOILS(name)                                        \
    static void loud_##name(struct ibv_qp_ex *ex)           \
    {                                                       \
        vs_qp(&ex->qp_base)->wr.error =                     \
            vs_unimplemented("ibv_" #name);                 \
    }

FAILS(advise_mr)
FAILS(attach_counters_point_flow)
FAILS(bind_mw)
FAILS(close_xrcd)
FAILS(dealloc_mw)
FAILS(dealloc_td)
FAILS(destroy_counters)
FAILS(destroy_flow)
FAILS(destroy_flow_action)
FAILS(destroy_rwq_ind_table)
FAILS(destroy_wq)
FAILS(free_dm)
FAILS(get_srq_num)
FAILS(modify_cq)
FAILS(modify_flow_action_esp)
FAILS(modify_qp_rate_limit)
FAILS(modify_wq)
FAILS(post_srq_ops)
FAILS(post_srq_recv)
FAILS(query_rt_values_ex)
FAILS(read_counters)
GIVES_NULL(alloc_dm)
GIVES_NULL(alloc_mw)
GIVES_NULL(alloc_null_mr)
GIVES_NULL(alloc_parent_domain)
GIVES_NULL(alloc_td)
GIVES_NULL(create_counters)
GIVES_NULL(create_cq_ex)
GIVES_NULL(create_flow)
GIVES_NULL(create_flow_action_esp)
GIVES_NULL(create_rwq_ind_table)
GIVES_NULL(create_srq_ex)
GIVES_NULL(create_wq)
GIVES_NULL(open_qp)
GIVES_NULL(open_xrcd)
GIVES_NULL(reg_dm_mr)
SPOILS(wr_atomic_cmp_swp)
SPOILS(wr_atomic_fetch_add)
SPOILS(wr_atomic_write)
SPOILS(wr_bind_mw)
SPOILS(wr_local_inv)
SPOILS(wr_send_inv)
SPOILS(wr_send_tso)
SPOILS(wr_set_ud_addr)
SPOILS(wr_set_xrc_srqn)

void vs_loud_context(struct verbs_context *verbs)
{
    struct ibv_context_ops *ops = &verbs->context.ops;

    verbs->advise_mr = (void *)loud_advise_mr;
    verbs->alloc_null_mr = (void *)loud_alloc_null_mr;
    verbs->read_counters = (void *)loud_read_counters;
    verbs->attach_counters_point_flow =
        (void *)loud_attach_counters_point_flow;
    verbs->create_counters = (void *)loud_create_counters;
    verbs->destroy_counters = (void *)loud_destroy_counters;
    verbs->reg_dm_mr = (void *)loud_reg_dm_mr;
    verbs->alloc_dm = (void *)loud_alloc_dm;
    verbs->free_dm = (void *)loud_free_dm;
    verbs->modify_flow_action_esp = (void *)loud_modify_flow_action_esp;
    verbs->destroy_flow_action = (void *)loud_destroy_flow_action;
    verbs->create_flow_action_esp = (void *)loud_create_flow_action_esp;
    verbs->modify_qp_rate_limit = (void *)loud_modify_qp_rate_limit;
    verbs->alloc_parent_domain = (void *)loud_alloc_parent_domain;
    verbs->dealloc_td = (void *)loud_dealloc_td;
    verbs->alloc_td = (void *)loud_alloc_td;
    verbs->modify_cq = (void *)loud_modify_cq;
    verbs->post_srq_ops = (void *)loud_post_srq_ops;
    verbs->destroy_rwq_ind_table = (void *)loud_destroy_rwq_ind_table;
    verbs->create_rwq_ind_table = (void *)loud_create_rwq_ind_table;
    verbs->destroy_wq = (void *)loud_destroy_wq;
    verbs->modify_wq = (void *)loud_modify_wq;
    verbs->create_wq = (void *)loud_create_wq;
    verbs->query_rt_values = (void *)loud_query_rt_values_ex;
    verbs->create_cq_ex = (void *)loud_create_cq_ex;
    verbs->ibv_destroy_flow = (void *)loud_destroy_flow;
    verbs->ibv_create_flow = (void *)loud_create_flow;
    verbs->open_qp = (void *)loud_open_qp;
    verbs->get_srq_num = (void *)loud_get_srq_num;
    verbs->create_srq_ex = (void *)loud_create_srq_ex;
    verbs->open_xrcd = (void *)loud_open_xrcd;
    verbs->close_xrcd = (void *)loud_close_xrcd;
    ops->alloc_mw = (void *)loud_alloc_mw;
    ops->bind_mw = (void *)loud_bind_mw;
    ops->dealloc_mw = (void *)loud_dealloc_mw;
    ops->post_srq_recv = (void *)loud_post_srq_recv;
}

void vs_loud_qp(struct ibv_qp_ex *ex)
{
    ex->wr_atomic_cmp_swp = (void *)loud_wr_atomic_cmp_swp;
    ex->wr_atomic_fetch_add = (void *)loud_wr_atomic_fetch_add;
    ex->wr_atomic_write = (void *)loud_wr_atomic_write;
    ex->wr_bind_mw = (void *)loud_wr_bind_mw;
    ex->wr_local_inv = (void *)loud_wr_local_inv;
    ex->wr_send_inv = (void *)loud_wr_send_inv;
    ex->wr_send_tso = (void *)loud_wr_send_tso;
    ex->wr_set_ud_addr = (void *)loud_wr_set_ud_addr;
    ex->wr_set_xrc_srqn = (void *)loud_wr_set_xrc_srqn;
}
