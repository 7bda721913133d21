/*
 * verbsim: what the files behind libibverbs' functions share
 *
 * device.c, object.c, event.c, mr.c, cq.c and qp*.c.  The functions here want
 * vs_lock held unless they say otherwise.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_API_H
#define VERBSIM_API_H

#include "vs.h"

/* ------------------------------------------------------------- object.c */

/* What a program creates and must destroy. */
typedef enum VsKind {
    VS_KIND_CONTEXT,
    VS_KIND_PD,
    VS_KIND_MR,
    VS_KIND_CHANNEL,
    VS_KIND_CQ,
    VS_KIND_QP,
    VS_KINDS,
} VsKind;

void vs_object_add(VsKind kind, void *object);
/*
 * Is @object alive and of @kind?  If not, that is misuse by the program, and
 * a complaint names @function.
 */
bool vs_object_check(VsKind kind, const void *object, const char *function);
void vs_object_remove(VsKind kind, void *object);
unsigned vs_object_count(VsKind kind);
void vs_object_foreach(VsKind kind, void (*fn)(void *object, void *opaque),
                       void *opaque);
/* A handle as the kernel would give: never the same twice. */
uint32_t vs_object_handle(void);

/*
 * Sleeps until *@count is zero; somebody who makes it so broadcasts vs_idle.
 * Says what it waits for if that takes longer than a program would like.
 */
void vs_wait_idle(const unsigned *count, const char *what);

/* -------------------------------------------------------------- event.c */

/* Events of a semaphore eventfd: one token for each entry of @queue. */
int vs_event_fd(void);
void vs_event_put(int fd, unsigned tokens);
/*
 * The first entry of @queue, with its token.  Sleeps without vs_lock unless
 * @fd is O_NONBLOCK; NULL with errno as read() would.
 */
void *vs_event_get(int fd, GQueue *queue);
/*
 * Removes the entries of @queue that @differs finds equal to @object, with
 * their tokens; @fd -1: they have none.
 */
void vs_event_purge(int fd, GQueue *queue, const void *object,
                    GCompareFunc differs, GDestroyNotify destroy);

/*
 * Asynchronous events of @object that nobody took are dropped; then waits
 * until those that were taken are acknowledged.
 */
void vs_async_forget(VsContext *context, void *object, const unsigned *got);
/* A freeze has ended. */
void vs_async_unfrozen(void);

/* ------------------------------------------------------------- device.c */

enum { VS_MAX_PD = 32768 };

static inline VsContext *vs_context(struct ibv_context *context)
{
    return (VsContext *)((char *)context -
                         offsetof(VsContext, verbs.context));
}

/* May objects be made?  0, or ENODEV once the device is gone. */
int vs_device_error(void);

/* gid.c: the table; false: no such entry. */
unsigned vs_gid_count(void);
bool vs_gid_at(unsigned index, struct ibv_gid_entry *entry);
/* Is @gid one of this machine's? */
bool vs_gid_is_local(const union ibv_gid *gid);

/* --------------------------------------- the operations of the context */

int vs_poll_cq(struct ibv_cq *ibv, int max, struct ibv_wc *wc);
int vs_req_notify_cq(struct ibv_cq *ibv, int solicited_only);
int vs_post_send(struct ibv_qp *ibv, struct ibv_send_wr *wr,
                 struct ibv_send_wr **bad_wr);
int vs_post_recv(struct ibv_qp *ibv, struct ibv_recv_wr *wr,
                 struct ibv_recv_wr **bad_wr);
struct ibv_qp *vs_create_qp_ex(struct ibv_context *context,
                               struct ibv_qp_init_attr_ex *attr);
/* loud.c: fills every operation that verbsim does not have. */
void vs_loud_context(struct verbs_context *verbs);
void vs_loud_qp(struct ibv_qp_ex *ex);

/* ----------------------------------------------------------------- qp*.c */

static inline VsQp *vs_qp(struct ibv_qp *ibv)
{
    return (VsQp *)ibv;
}

/* qp-build.c: the ibv_wr_* functions. */
void vs_qp_builder_init(VsQp *qp);
/* qp-post.c: the free slots of the send queue, and the end of posting to it. */
unsigned vs_qp_send_room(const VsQp *qp);
void vs_qp_posted(VsQp *qp, unsigned count);
/* 0 if the queue pair's state allows posting sends. */
int vs_qp_may_send(const VsQp *qp);
/* qp-state.c: back to what a new queue pair is; waits for the NIC. */
void vs_qp_reset(VsQp *qp);
const char *vs_qp_state_name(enum ibv_qp_state state);

#endif
