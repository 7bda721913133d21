/*
 * What the tests of the link room share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See link-fixture.h.
 */
#include "link-fixture.h"

#include <netinet/in.h>
#include <poll.h>
#include <string.h>

static Step *script[8]; /* what happens at each sleep; then seconds pass */
unsigned at;
unsigned sleeps;
const RMigWirePrivate ask_nothing = { 0 };
const RMigWirePrivate ask_pin_all = { .flags = RMIG_WIRE_FLAG_PIN_ALL };
const char accepted[8] = { 0, 0, 0, 1, 0, 0, 0, 1 };

static void wait_readable(void *opaque, int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };

    g_assert_true(opaque == script);
    sleeps++;
    if (at < G_N_ELEMENTS(script) && script[at]) {
        script[at++]();
    } else {
        fake_rdma_tick();
    }
    g_assert_cmpint(poll(&pfd, 1, 0), ==, 1);
}

unsigned rests;

static void rest(void *opaque)
{
    g_assert_true(opaque == script);
    rests++;
}

const RMigWaiter waiter = { .wait_readable = wait_readable, .rest = rest,
                            .opaque = script };

void set_script(Step *a, Step *b, Step *c)
{
    memset(script, 0, sizeof(script));
    script[0] = a;
    script[1] = b;
    script[2] = c;
    at = 0;
    sleeps = 0;
}

/* ---- steps ---- */

void addr_resolved(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0);
}

void route_resolved(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0);
}

void established(void)
{
    fake_rdma_event(RDMA_CM_EVENT_ESTABLISHED, 0, accepted, sizeof(accepted));
}

void disconnected(void)
{
    fake_rdma_event(RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
}

/* ---- fixture ---- */

Fixture *current;

static void work_done(RMigWork *work, uint32_t bytes)
{
    (void)bytes;
    ((Fixture *)work->owner)->done++;
}

void message_arrives(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_SUCCESS, 16);
}

void message_and_goodbye(void)
{
    message_arrives();
    disconnected();
}

void write_breaks(void)
{
    fake_rdma_complete((uintptr_t)&current->work, IBV_WC_RETRY_EXC_ERR, 0);
}

void message_and_break(void)
{
    message_arrives();
    write_breaks();
}

void shut_down(void)
{
    rmig_shutdown_trigger(current->shutdown);
}

static struct sockaddr_in6 address;

const struct sockaddr *some_address(void)
{
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(4444);
    address.sin6_addr = (struct in6_addr)IN6ADDR_LOOPBACK_INIT;
    return (struct sockaddr *)&address;
}

RMigLink *resolve_link(Fixture *f)
{
    return rmig_link_resolve("test", &waiter, f->shutdown, some_address(),
                             NULL);
}

void setup(Fixture *f)
{
    memset(f, 0, sizeof(*f));
    fake_rdma_init();
    f->shutdown = rmig_shutdown_new(NULL);
    g_assert_nonnull(f->shutdown);
    f->work = (RMigWork) { .what = "RECV", .done = work_done, .owner = f };
    current = f;
    set_script(addr_resolved, route_resolved, established);
}

void setup_connected(Fixture *f)
{
    RMigWirePrivate answer;

    setup(f);
    f->link = rmig_link_resolve("test", &waiter, f->shutdown, some_address(),
                                NULL);
    g_assert_nonnull(f->link);
    g_assert_false(rmig_link_is_up(f->link));
    g_assert_true(rmig_link_connect(f->link, &ask_pin_all, &answer, NULL));
    g_assert_true(rmig_link_is_up(f->link));
    set_script(NULL, NULL, NULL);
}

void teardown(Fixture *f)
{
    rmig_link_free(f->link);
    rmig_shutdown_free(f->shutdown);
    fake_rdma_cleanup();
}

void assert_says(GError **err, int code, const char *needle)
{
    g_assert_error(*err, RMIG_LINK_ERROR, code);
    if (strstr((*err)->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}
