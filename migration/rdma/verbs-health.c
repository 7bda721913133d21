/*
 * RDMA migration transport: what a device says of itself when something fails
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See verbs-health-priv.h for the job, the callers and the threads.
 *
 * Providers differ in what they report for the same loss.  A link that goes
 * down is a retry counter that is exceeded, seconds later, with InfiniBand and
 * RoCE adapters; a local queue pair error at once with Soft-RoCE; flushed
 * requests, and a disconnection by the connection manager, with iWARP; and a
 * fatal or general error, or flushed requests, with an adapter that is being
 * reset.  So a status alone is no news to a user: the port's state is.
 */
#include "verbs-health-priv.h"

#include <errno.h>
#include <fcntl.h>

#include "log.h"

static GMutex lock;
static GPtrArray *watchers; /* of RMigHealth, alive, not owned; under lock */

/* ---- asynchronous events ------------------------------------------------ */

static void note_qp_event(struct ibv_qp *qp, enum ibv_event_type type)
{
    for (guint i = 0; i < watchers->len; i++) {
        RMigHealth *health = g_ptr_array_index(watchers, i);

        if (health->qp == qp && !health->qp_reported) {
            health->qp_reported = true;
            health->why = type;
        }
    }
}

static void note_cq_event(struct ibv_cq *cq)
{
    for (guint i = 0; i < watchers->len; i++) {
        RMigHealth *health = g_ptr_array_index(watchers, i);

        if (health->qp && health->qp->send_cq == cq) {
            health->cq_failed = true;
        }
    }
}

static void note_device_event(struct ibv_context *device,
                              const struct ibv_async_event *event)
{
    for (guint i = 0; i < watchers->len; i++) {
        RMigHealth *health = g_ptr_array_index(watchers, i);

        if (health->device != device) {
            continue;
        }
        if (event->event_type == IBV_EVENT_DEVICE_FATAL) {
            health->device_failed = true;
        } else if (event->element.port_num != health->port) {
            /* of another port */
        } else if (event->event_type == IBV_EVENT_PORT_ERR) {
            health->port_failed = true;
        } else {
            health->address_changed = true;
        }
    }
}

static void note_event(struct ibv_context *device,
                       const struct ibv_async_event *event)
{
    switch (event->event_type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
        note_qp_event(event->element.qp, event->event_type);
        break;
    case IBV_EVENT_CQ_ERR:
        note_cq_event(event->element.cq);
        break;
    case IBV_EVENT_DEVICE_FATAL:
    case IBV_EVENT_PORT_ERR:
    case IBV_EVENT_GID_CHANGE:
        note_device_event(device, event);
        break;
    default:
        break;
    }
}

/*
 * Under the lock.  An event holds up the end of its queue pair until it is
 * acknowledged, so that comes at once.
 */
static void take_events(struct ibv_context *device)
{
    int flags = fcntl(device->async_fd, F_GETFL);
    struct ibv_async_event event;

    /* Nobody else in this process reads them: librdmacm does not */
    if (flags < 0 ||
        fcntl(device->async_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return;
    }
    while (ibv_get_async_event(device, &event) == 0) {
        RMIG_LOG("%s: event %s", ibv_get_device_name(device->device),
                 ibv_event_type_str(event.event_type));
        note_event(device, &event);
        ibv_ack_async_event(&event);
    }
}

void rmig_health_init(RMigHealth *health, struct ibv_context *device,
                      uint8_t port)
{
    *health = (RMigHealth) { .device = device, .port = port };
    g_mutex_lock(&lock);
    if (!watchers) {
        watchers = g_ptr_array_new();
    }
    /* What has come until now is not about this connection */
    take_events(device);
    g_ptr_array_add(watchers, health);
    g_mutex_unlock(&lock);
}

void rmig_health_cleanup(RMigHealth *health)
{
    g_mutex_lock(&lock);
    g_ptr_array_remove(watchers, health);
    if (watchers->len == 0) {
        g_clear_pointer(&watchers, g_ptr_array_unref);
    }
    g_mutex_unlock(&lock);
}

void rmig_health_set_qp(RMigHealth *health, struct ibv_qp *qp)
{
    g_mutex_lock(&lock);
    health->qp = qp;
    g_mutex_unlock(&lock);
}

/* ---- words -------------------------------------------------------------- */

/* NULL: packets come and go */
static const char *port_state(enum ibv_port_state state)
{
    switch (state) {
    case IBV_PORT_DOWN:
        return "is down";
    case IBV_PORT_INIT:
        return "is up, but no subnet manager has configured it";
    case IBV_PORT_ARMED:
        return "is not active yet";
    case IBV_PORT_ACTIVE_DEFER:
        return "has just lost its link";
    case IBV_PORT_ACTIVE:
        return NULL;
    default:
        return "is in an unknown state";
    }
}

/* "its port", or which one if there are more */
static char *port_name(const RMigHealth *health)
{
    struct ibv_device_attr attr;

    if (ibv_query_device(health->device, &attr) == 0 &&
        attr.phys_port_cnt > 1) {
        return g_strdup_printf("its port %u", health->port);
    }
    return g_strdup("its port");
}

/* What is wrong with the port, or NULL */
static char *port_trouble(const RMigHealth *health, const char *name)
{
    struct ibv_port_attr attr;
    int ret = ibv_query_port(health->device, health->port, &attr);
    const char *state;

    if (ret != 0) {
        return g_strdup_printf("the state of %s cannot be asked for: %s", name,
                               g_strerror(ABS(ret)));
    }
    state = port_state(attr.state);
    if (state) {
        return g_strdup_printf("%s %s", name, state);
    }
    if (health->port_failed) {
        return g_strdup_printf("%s is active, but was down meanwhile", name);
    }
    if (health->address_changed) {
        return g_strdup_printf("%s is active, but an address of it has "
                               "changed meanwhile", name);
    }
    return NULL;
}

/* What the device has reported of the queue pair, or NULL */
static const char *qp_trouble(const RMigHealth *health)
{
    if (health->cq_failed) {
        return "it has lost completions";
    }
    if (!health->qp_reported) {
        return NULL;
    }
    switch (health->why) {
    case IBV_EVENT_QP_ACCESS_ERR:
        return "the peer wanted to use memory of this side that it may not "
               "use";
    case IBV_EVENT_QP_REQ_ERR:
        return "the peer sent what is not valid";
    default:
        return "it has given up the connection";
    }
}

static char *describe(const RMigHealth *health, const char *advice)
{
    const char *device = ibv_get_device_name(health->device->device);
    const char *qp = qp_trouble(health);
    g_autofree char *name = NULL;
    g_autofree char *port = NULL;

    /* A device that has failed may take a minute to answer a question */
    if (health->device_failed) {
        return g_strdup_printf("%s: the device has failed", device);
    }
    name = port_name(health);
    port = port_trouble(health, name);
    if (port || qp) {
        return g_strdup_printf("%s: %s%s%s", device, port ? port : "",
                               port && qp ? "; " : "", qp ? qp : "");
    }
    return advice ? g_strdup_printf("%s: %s is active, so look at %s", device,
                                    name, advice) : NULL;
}

char *rmig_health_text(RMigHealth *health, const char *advice)
{
    RMigHealth now;

    g_mutex_lock(&lock);
    take_events(health->device);
    now = *health;
    g_mutex_unlock(&lock);
    return describe(&now, advice);
}

#define LOOK_PATH "the network and at the peer's host"
#define LOOK_HERE "this host's kernel log"
#define NOT_USED "this is for what is not used here, so the device or its " \
                 "driver is at fault"

static const struct {
    const char *meaning;
    const char *advice;
} statuses[] = {
    [IBV_WC_SUCCESS] = { "nothing is wrong", NULL },
    [IBV_WC_LOC_LEN_ERR] = {
        "a message is longer than what was to receive it, or than this "
        "host's device can carry", NULL },
    [IBV_WC_LOC_QP_OP_ERR] = {
        "this host's device cannot send it", LOOK_HERE },
    [IBV_WC_LOC_EEC_OP_ERR] = { NOT_USED, NULL },
    [IBV_WC_LOC_PROT_ERR] = {
        "this host's device may not use that memory", LOOK_HERE },
    [IBV_WC_WR_FLUSH_ERR] = {
        "the connection had broken before", NULL },
    [IBV_WC_MW_BIND_ERR] = { NOT_USED, NULL },
    [IBV_WC_BAD_RESP_ERR] = {
        "the peer's device answered what is not valid", NULL },
    [IBV_WC_LOC_ACCESS_ERR] = {
        "this host's device may not use that memory so", LOOK_HERE },
    [IBV_WC_REM_INV_REQ_ERR] = {
        "the peer's device takes it for invalid, or for too long", NULL },
    [IBV_WC_REM_ACCESS_ERR] = {
        "the peer does not let its memory be used any more; its own log may "
        "say why", NULL },
    [IBV_WC_REM_OP_ERR] = {
        "the peer's device could not complete it; the log of its host may say "
        "why", NULL },
    [IBV_WC_RETRY_EXC_ERR] = {
        "the peer's device does not acknowledge it", LOOK_PATH },
    [IBV_WC_RNR_RETRY_EXC_ERR] = {
        "the peer's device works, but its program does not receive", NULL },
    [IBV_WC_LOC_RDD_VIOL_ERR] = { NOT_USED, NULL },
    [IBV_WC_REM_INV_RD_REQ_ERR] = { NOT_USED, NULL },
    [IBV_WC_REM_ABORT_ERR] = {
        "the peer's device aborted it; the log of its host may say why",
        NULL },
    [IBV_WC_INV_EECN_ERR] = { NOT_USED, NULL },
    [IBV_WC_INV_EEC_STATE_ERR] = { NOT_USED, NULL },
    [IBV_WC_FATAL_ERR] = {
        "this host's device cannot go on with the connection", LOOK_HERE },
    [IBV_WC_RESP_TIMEOUT_ERR] = {
        "the peer's device does not answer", LOOK_PATH },
    [IBV_WC_GENERAL_ERR] = {
        "this host's device does not say why", LOOK_HERE },
    [IBV_WC_TM_ERR] = { NOT_USED, NULL },
    [IBV_WC_TM_RNDV_INCOMPLETE] = { NOT_USED, NULL },
};

const char *rmig_health_meaning(enum ibv_wc_status status, const char **advice)
{
    unsigned i = (unsigned)status;

    if (i >= G_N_ELEMENTS(statuses) || !statuses[i].meaning) {
        *advice = LOOK_HERE;
        return "an unknown error";
    }
    *advice = statuses[i].advice;
    return statuses[i].meaning;
}
