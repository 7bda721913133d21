/*
 * verbsim: options of identifiers, and rdma_getaddrinfo()
 *
 * Called by programs, on their threads.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "cm.h"

enum { MAX_ACK_TIMEOUT = 31 };

/* ----------------------------------------------------------------- options */

/* 0 or -errno. */
static int set_byte(CmId *id, int name, uint8_t value)
{
    switch (name) {
    case RDMA_OPTION_ID_TOS:
        id->tos = value;
        return 0;
    case RDMA_OPTION_ID_ACK_TIMEOUT:
        if (value > MAX_ACK_TIMEOUT) {
            return -EINVAL;
        }
        id->ack_timeout = value;
        return 0;
    default:
        return -ENOSYS;
    }
}

/* As the kernel: reuse may come late, unless one listens already. */
static int set_flag(CmId *id, int name, bool value)
{
    switch (name) {
    case RDMA_OPTION_ID_REUSEADDR:
        if (id->state != CM_IDLE && (!value || id->state == CM_LISTEN)) {
            return -EINVAL;
        }
        id->reuse = value;
        if (id->binding) {
            id->binding->shared = value;
        }
        return 0;
    case RDMA_OPTION_ID_AFONLY:
        if (id->state != CM_IDLE && id->state != CM_BOUND) {
            return -EINVAL;
        }
        id->v6only = value;
        return 0;
    default:
        return -ENOSYS;
    }
}

int rdma_set_option(struct rdma_cm_id *rid, int level, int name, void *value,
                    size_t length)
{
    bool is_byte = name == RDMA_OPTION_ID_TOS ||
                   name == RDMA_OPTION_ID_ACK_TIMEOUT;
    int error;

    if (level == RDMA_OPTION_IB) {
        vs_unimplemented("rdma_set_option (RDMA_OPTION_IB)");
        return -1;
    }
    if (level != RDMA_OPTION_ID ||
        length != (is_byte ? sizeof(uint8_t) : sizeof(int))) {
        return cm_errno(level == RDMA_OPTION_ID ? EINVAL : ENOSYS);
    }
    cm_lock();
    if (!cm_id_alive(rid, "rdma_set_option")) {
        error = -EINVAL;
    } else if (is_byte) {
        error = set_byte(cm_id(rid), name, *(const uint8_t *)value);
    } else {
        error = set_flag(cm_id(rid), name, *(const int *)value != 0);
    }
    cm_unlock();
    return cm_result(error);
}

/* --------------------------------------------------------- rdma_getaddrinfo */

void rdma_freeaddrinfo(struct rdma_addrinfo *info)
{
    while (info) {
        struct rdma_addrinfo *next = info->ai_next;

        g_free(info->ai_src_addr);
        g_free(info->ai_dst_addr);
        g_free(info->ai_src_canonname);
        g_free(info->ai_dst_canonname);
        g_free(info);
        info = next;
    }
}

static struct addrinfo plain_hints(const struct rdma_addrinfo *hints)
{
    struct addrinfo plain = {
        .ai_family = hints->ai_flags & RAI_FAMILY || hints->ai_family ?
                     hints->ai_family : AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
    };

    if (hints->ai_flags & RAI_PASSIVE) {
        plain.ai_flags |= AI_PASSIVE;
    }
    if (hints->ai_flags & RAI_NUMERICHOST) {
        plain.ai_flags |= AI_NUMERICHOST;
    }
    return plain;
}

static struct rdma_addrinfo *convert(const struct addrinfo *from,
                                     const struct rdma_addrinfo *hints)
{
    struct rdma_addrinfo *info = g_new0(struct rdma_addrinfo, 1);
    struct sockaddr *addr = g_memdup2(from->ai_addr, from->ai_addrlen);
    char *name = g_strdup(from->ai_canonname);

    info->ai_flags = hints->ai_flags;
    info->ai_family = from->ai_family;
    info->ai_qp_type = hints->ai_qp_type ? hints->ai_qp_type : IBV_QPT_RC;
    info->ai_port_space = hints->ai_port_space ? hints->ai_port_space :
                                                 RDMA_PS_TCP;
    if (hints->ai_flags & RAI_PASSIVE) {
        info->ai_src_addr = addr;
        info->ai_src_len = from->ai_addrlen;
        info->ai_src_canonname = name;
        return info;
    }
    info->ai_dst_addr = addr;
    info->ai_dst_len = from->ai_addrlen;
    info->ai_dst_canonname = name;
    if (hints->ai_src_len && hints->ai_src_addr) {
        info->ai_src_addr = g_memdup2(hints->ai_src_addr, hints->ai_src_len);
        info->ai_src_len = hints->ai_src_len;
    }
    return info;
}

/* As librdmacm: the first address only. */
int rdma_getaddrinfo(const char *node, const char *service,
                     const struct rdma_addrinfo *hints,
                     struct rdma_addrinfo **res)
{
    static const struct rdma_addrinfo no_hints;
    struct addrinfo plain, *list;
    int error;

    if (!node && !service && !(hints && hints->ai_src_addr)) {
        return cm_errno(EINVAL);
    }
    hints = hints ? hints : &no_hints;
    plain = plain_hints(hints);
    error = getaddrinfo(node, service, &plain, &list);
    if (error) {
        return error;
    }
    *res = convert(list, hints);
    freeaddrinfo(list);
    return 0;
}
