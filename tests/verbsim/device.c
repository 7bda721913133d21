/*
 * verbsim: the device list, contexts, and queries of device and port
 *
 * Called by the program's threads.  There is one device with one port; its
 * limits and its name come from the profile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    PKEY = 0xffff,              /* the default partition, full member */
    PHYS_LINK_UP = 5,
    PHYS_DISABLED = 3,
    WIDTH_4X = 2,
    ACK_DELAY = 15,             /* 4.096 us << 15: as adapters report */
};

static struct ibv_device device = {
    .node_type = IBV_NODE_CA,
    .transport_type = IBV_TRANSPORT_IB,
};

/* ----------------------------------------------------------- the one device */

static void name_device(void)
{
    if (vs_shape.iwarp) {
        device.node_type = IBV_NODE_RNIC;
        device.transport_type = IBV_TRANSPORT_IWARP;
    }
    g_strlcpy(device.name, vs_shape.device, sizeof(device.name));
    g_strlcpy(device.dev_name, "uverbs0", sizeof(device.dev_name));
    snprintf(device.dev_path, sizeof(device.dev_path),
             "/sys/class/infiniband_verbs/uverbs0");
    snprintf(device.ibdev_path, sizeof(device.ibdev_path),
             "/sys/class/infiniband/%s", vs_shape.device);
}

struct ibv_device **ibv_get_device_list(int *num_devices)
{
    struct ibv_device **list = calloc(2, sizeof(*list));

    if (!list) {
        return NULL;
    }
    vs_nic_start();
    pthread_mutex_lock(&vs_lock);
    name_device();
    if (!vs_removed) {
        list[0] = &device;
    }
    pthread_mutex_unlock(&vs_lock);
    if (num_devices) {
        *num_devices = list[0] != NULL;
    }
    return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
    free(list);
}

const char *ibv_get_device_name(struct ibv_device *dev)
{
    return dev->name;
}

int ibv_get_device_index(struct ibv_device *dev)
{
    (void)dev;
    return 0;
}

__be64 ibv_get_device_guid(struct ibv_device *dev)
{
    (void)dev;
    /* Locally administered; "vs", then the slot. */
    return GUINT64_TO_BE(0x0276730000000000 | vs_slot);
}

int vs_device_error(void)
{
    return vs_removed ? ENODEV : 0;
}

/* ----------------------------------------------------------------- contexts */

static int query_device_ex(struct ibv_context *context,
                           const struct ibv_query_device_ex_input *input,
                           struct ibv_device_attr_ex *attr, size_t attr_size);
static int query_port(struct ibv_context *context, uint8_t port_num,
                      struct ibv_port_attr *attr, size_t attr_len);

static void fill_context(VsContext *ctx, struct ibv_device *dev, int fd)
{
    struct verbs_context *verbs = &ctx->verbs;

    vs_loud_context(verbs);
    verbs->sz = sizeof(*verbs);
    verbs->query_port = query_port;
    verbs->query_device_ex = query_device_ex;
    verbs->create_qp_ex = vs_create_qp_ex;
    verbs->context.device = dev;
    verbs->context.cmd_fd = -1;
    verbs->context.async_fd = fd;
    verbs->context.num_comp_vectors = 1;
    verbs->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
    pthread_mutex_init(&verbs->context.mutex, NULL);
    verbs->context.ops.poll_cq = vs_poll_cq;
    verbs->context.ops.req_notify_cq = vs_req_notify_cq;
    verbs->context.ops.post_send = vs_post_send;
    verbs->context.ops.post_recv = vs_post_recv;
}

struct ibv_context *ibv_open_device(struct ibv_device *dev)
{
    VsContext *ctx;
    int fd, error;

    vs_nic_start();
    pthread_mutex_lock(&vs_lock);
    error = vs_device_error();
    pthread_mutex_unlock(&vs_lock);
    fd = error ? -1 : vs_event_fd();
    if (fd < 0) {
        errno = error ? error : errno;
        return NULL;
    }
    ctx = g_new0(VsContext, 1);
    fill_context(ctx, dev, fd);
    pthread_mutex_lock(&vs_lock);
    vs_object_add(VS_KIND_CONTEXT, ctx);
    pthread_mutex_unlock(&vs_lock);
    VS_TRACE("open", "context=%p device=%s", (void *)ctx, dev->name);
    return &ctx->verbs.context;
}

/*
 * Real libraries let the kernel reap what is left; here it is misuse, and
 * what is left stays valid.
 */
int ibv_close_device(struct ibv_context *context)
{
    VsContext *ctx = vs_context(context);

    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_CONTEXT, ctx, __func__)) {
        pthread_mutex_unlock(&vs_lock);
        return EINVAL;
    }
    if (ctx->children) {
        vs_complain("ibv_close_device(): %u object(s) still use the context",
                    ctx->children);
        pthread_mutex_unlock(&vs_lock);
        return EBUSY;
    }
    vs_object_remove(VS_KIND_CONTEXT, ctx);
    VS_TRACE("close", "context=%p", (void *)ctx);
    pthread_mutex_unlock(&vs_lock);

    close(context->async_fd);
    g_queue_clear_full(&ctx->async, g_free);
    g_queue_clear_full(&ctx->held, g_free);
    pthread_mutex_destroy(&context->mutex);
    g_free(ctx);
    return 0;
}

/* ------------------------------------------------------------------ queries */

int ibv_query_device(struct ibv_context *context,
                     struct ibv_device_attr *attr)
{
    const int rd_atomic = (int)vs_shape.max_rd_atomic;

    *attr = (struct ibv_device_attr){
        .fw_ver = "1.0",
        .node_guid = ibv_get_device_guid(context->device),
        .sys_image_guid = ibv_get_device_guid(context->device),
        .max_mr_size = vs_shape.max_mr_bytes,
        .page_size_cap = ~(uint64_t)4095,
        .max_qp = (int)vs_shape.max_qp,
        .max_qp_wr = (int)vs_shape.max_qp_wr,
        .device_cap_flags = IBV_DEVICE_CURR_QP_STATE_MOD |
                            IBV_DEVICE_PORT_ACTIVE_EVENT |
                            IBV_DEVICE_SYS_IMAGE_GUID |
                            (vs_shape.iwarp ? 0u
                             : (unsigned)IBV_DEVICE_RC_RNR_NAK_GEN),
        .max_sge = (int)vs_shape.max_sge,
        .max_sge_rd = (int)vs_shape.max_sge,
        .max_cq = (int)vs_shape.max_cq,
        .max_cqe = (int)vs_shape.max_cqe,
        .max_mr = (int)vs_shape.max_mr,
        .max_pd = VS_MAX_PD,
        .max_qp_rd_atom = rd_atomic,
        .max_res_rd_atom = rd_atomic * (int)MIN(vs_shape.max_qp, 1 << 20),
        .max_qp_init_rd_atom = rd_atomic,
        .atomic_cap = IBV_ATOMIC_NONE,
        .max_pkeys = 1,
        .local_ca_ack_delay = ACK_DELAY,
        .phys_port_cnt = 1,
    };
    return vs_device_error();
}

static int query_device_ex(struct ibv_context *context,
                           const struct ibv_query_device_ex_input *input,
                           struct ibv_device_attr_ex *attr, size_t attr_size)
{
    struct ibv_device_attr_ex all = { .phys_port_cnt_ex = 1 };
    int error;

    if (input && input->comp_mask) {
        return EINVAL;
    }
    error = ibv_query_device(context, &all.orig_attr);
    all.device_cap_flags_ex = all.orig_attr.device_cap_flags;
    memset(attr, 0, attr_size);
    memcpy(attr, &all, MIN(attr_size, sizeof(all)));
    return error;
}

/* The speed code of four lanes that carry at least the profile's bandwidth. */
static uint8_t speed_code(void)
{
    static const struct {
        double gbit;
        uint8_t code;
    } speeds[] = {
        { 10, 1 }, { 20, 2 }, { 40, 4 }, { 56, 16 }, { 100, 32 }, { 200, 64 },
    };
    double gbit = vs_shape.bytes_per_ns * 8;

    for (unsigned i = 0; gbit > 0 && i < G_N_ELEMENTS(speeds); i++) {
        if (gbit <= speeds[i].gbit) {
            return speeds[i].code;
        }
    }
    return 128;
}

static int query_port(struct ibv_context *context, uint8_t port_num,
                      struct ibv_port_attr *attr, size_t attr_len)
{
    const bool ib = vs_shape.infiniband;
    struct ibv_port_attr all = {
        .max_mtu = IBV_MTU_4096,
        .active_mtu = IBV_MTU_4096,
        .port_cap_flags = IBV_PORT_CM_SUP |
                          (ib ? 0 : (uint32_t)IBV_PORT_IP_BASED_GIDS),
        .max_msg_sz = 1u << 31,
        .pkey_tbl_len = 1,
        .max_vl_num = 1,
        .active_width = WIDTH_4X,
        .active_speed = speed_code(),
        .link_layer = ib ? IBV_LINK_LAYER_INFINIBAND
                         : IBV_LINK_LAYER_ETHERNET,
        .flags = ib ? 0 : IBV_QPF_GRH_REQUIRED,
    };

    (void)context;
    if (port_num != 1) {
        return EINVAL;
    }
    pthread_mutex_lock(&vs_lock);
    all.state = vs_port_up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    all.phys_state = vs_port_up ? PHYS_LINK_UP : PHYS_DISABLED;
    all.gid_tbl_len = (int)vs_gid_count();
    all.lid = ib ? (uint16_t)(vs_slot + 1) : 0;
    all.sm_lid = ib ? 1 : 0;
    pthread_mutex_unlock(&vs_lock);
    memset(attr, 0, attr_len);
    memcpy(attr, &all, MIN(attr_len, sizeof(all)));
    return vs_device_error();
}

/* The old entry point, whose structure ends where later fields begin. */
#undef ibv_query_port
int ibv_query_port(struct ibv_context *context, uint8_t port_num,
                   struct _compat_ibv_port_attr *port_attr)
{
    return query_port(context, port_num, (struct ibv_port_attr *)port_attr,
                      offsetof(struct ibv_port_attr, port_cap_flags2));
}

int ibv_query_pkey(struct ibv_context *context, uint8_t port_num, int index,
                   __be16 *pkey)
{
    (void)context;
    if (port_num != 1 || index != 0) {
        errno = EINVAL;
        return -1;
    }
    *pkey = GUINT16_TO_BE(PKEY);
    return 0;
}

int ibv_get_pkey_index(struct ibv_context *context, uint8_t port_num,
                       __be16 pkey)
{
    (void)context;
    if (port_num != 1 || pkey != GUINT16_TO_BE(PKEY)) {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

/* ------------------------------------- what needs nothing of a software NIC */

/* Exported by the real library, declared in no public header. */
VS_EXPORT int ibv_dontfork_range(void *base, size_t size);
VS_EXPORT int ibv_dofork_range(void *base, size_t size);
VS_EXPORT const char *ibv_get_sysfs_path(void);
VS_EXPORT int ibv_read_sysfs_file(const char *dir, const char *file, char *buf,
                                  size_t size);

int ibv_fork_init(void)
{
    return 0;
}

enum ibv_fork_status ibv_is_fork_initialized(void)
{
    return IBV_FORK_UNNEEDED;
}

int ibv_dontfork_range(void *base, size_t size)
{
    (void)base;
    (void)size;
    return 0;
}

int ibv_dofork_range(void *base, size_t size)
{
    return ibv_dontfork_range(base, size);
}

const char *ibv_get_sysfs_path(void)
{
    const char *path = g_getenv("SYSFS_PATH");

    return path ? path : "/sys";
}

int ibv_read_sysfs_file(const char *dir, const char *file, char *buf,
                        size_t size)
{
    g_autofree char *path = g_build_filename(dir, file, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0) {
        return -1;
    }
    n = read(fd, buf, size);
    close(fd);
    if (n > 0 && buf[n - 1] == '\n') {
        buf[--n] = '\0';
    } else if (n >= 0 && (size_t)n < size) {
        buf[n] = '\0';
    }
    return (int)n;
}
