/*
 * verbsim: librdmacm.so.1 - its start, its device and its end
 *
 * As the real library, it opens the device once and keeps it open; every
 * identifier that has an address shares that context and protection domain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdlib.h>

#include "cm.h"

static struct ibv_context *device;      /* set once, under opening */
static struct ibv_pd *domain;
static enum ibv_mtu active_mtu;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

static __thread int cancel_state;

void cm_lock(void)
{
    int state;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    pthread_mutex_lock(&vs_lock);
    cancel_state = state;
}

void cm_unlock(void)
{
    int state = cancel_state;

    pthread_mutex_unlock(&vs_lock);
    pthread_setcancelstate(state, &state);
}

static VsContext *context_of(struct ibv_context *context)
{
    return (VsContext *)((char *)context - offsetof(VsContext, verbs.context));
}

/* Needs no lock.  0 or -errno. */
static int open_device(void)
{
    struct ibv_device **list = ibv_get_device_list(NULL);
    struct ibv_context *context;
    struct ibv_port_attr port;
    struct ibv_pd *pd;

    context = list && list[0] ? ibv_open_device(list[0]) : NULL;
    if (list) {
        ibv_free_device_list(list);
    }
    if (!context) {
        return -ENODEV;
    }
    pd = ibv_alloc_pd(context);
    if (!pd || ibv_query_port(context, 1, &port) != 0) {
        int error = -errno;

        if (pd) {
            ibv_dealloc_pd(pd);
        }
        ibv_close_device(context);
        return error;
    }
    cm_lock();
    context_of(context)->by_cm = true;
    ((VsPd *)pd)->by_cm = true;
    vs_cm_ops = &cm_ops;
    active_mtu = port.active_mtu;
    domain = pd;
    device = context;
    cm_unlock();
    return 0;
}

int cm_start(void)
{
    int error = 0;

    vs_nic_start();
    pthread_mutex_lock(&opening);
    if (!device) {
        error = open_device();
    }
    pthread_mutex_unlock(&opening);
    return error;
}

void cm_use_device(CmId *id)
{
    id->id.verbs = device;
    id->id.port_num = 1;
    if (!id->id.pd) {
        id->id.pd = domain;
    }
}

enum ibv_mtu cm_active_mtu(void)
{
    return active_mtu;
}

struct ibv_context **rdma_get_devices(int *num_devices)
{
    struct ibv_context **list = calloc(2, sizeof(*list));
    int error = cm_start();

    if (num_devices) {
        *num_devices = 0;
    }
    if (!list || error) {
        free(list);
        errno = error ? -error : ENOMEM;
        return NULL;
    }
    if (!vs_removed) {
        list[0] = device;
        if (num_devices) {
            *num_devices = 1;
        }
    }
    return list;
}

void rdma_free_devices(struct ibv_context **list)
{
    free(list);
}
