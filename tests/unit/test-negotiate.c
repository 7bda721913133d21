/*
 * Unit tests of the link room: what the private data agree on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of link-fixture.h.
 */
#include "link-fixture.h"

#include <string.h>

#define BATCH RMIG_WIRE_FLAG_BATCH
#define BUDGET RMIG_WIRE_FLAG_BUDGET

/* What peers say.  A stock one, padded by the connection manager: */
static const uint8_t stock[196] = { 0, 0, 0, 1 };
static const uint8_t batch[8] = { 0, 0, 0, 1, 0, 0, 0, 2 };
static const uint8_t all[24] = {
    0, 0, 0, 1, 0, 0, 0, 0x27, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0,
};
/* A later version's, with a longer record and a flag of its own */
static const uint8_t later[40] = {
    0, 0, 0, 1, 0x80, 0, 0, 0x06, 0, 0, 0, 32, 9, 9, 9, 9,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5, 5, 5, 5,
};
/* Bytes that would be a record, if there were its flag */
static const uint8_t no_record[24] = {
    0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
};
/* And what none may say */
static const uint8_t no_length[56] = { 0, 0, 0, 1, 0, 0, 0, 4 };
static const uint8_t short_length[24] = {
    0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 15,
};

static const struct {
    const uint8_t *data;
    uint8_t bytes;
    const char *needle;
} bad[] = {
    { no_length, 56, "has 0 bytes, it must have at least 16" },
    { short_length, 24, "has 15 bytes, it must have at least 16" },
    { no_length, 8, "has 8 bytes, 24 are needed" },
    { all, 23, "has 23 bytes, 24 are needed" },
    { all, 7, "has 7 bytes, a QEMU's has at least 8" },
};

/* What we say when we ask for or grant BATCH and BUDGET */
static const uint8_t said_budget[24] = {
    0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8,
};
#define OUR_PIN_BYTES UINT64_C(0x0102030405060708)

static void check_said(const uint8_t *expected, size_t bytes)
{
    g_assert_cmpuint(fake_rdma.param.private_data_len, ==, bytes);
    g_assert_cmpmem(fake_rdma.private_data, bytes, expected, bytes);
}

/* ---- the active side ---- */

static const uint8_t *answer_data;
static uint8_t answer_bytes;

static void answer_comes(void)
{
    fake_rdma_event(RDMA_CM_EVENT_CONNECT_RESPONSE, 0, answer_data,
                    answer_bytes);
}

static void begin_connect(Fixture *f, const uint8_t *data, uint8_t bytes)
{
    setup(f);
    answer_data = data;
    answer_bytes = bytes;
    set_script(addr_resolved, route_resolved, answer_comes);
    f->link = resolve_link(f);
    g_assert_nonnull(f->link);
}

/* A flag holds if both set it, and the record goes with its flag */
static void test_connect(void)
{
    static const struct {
        const uint8_t *data;
        uint8_t bytes;
        uint32_t ask, holds;
        uint64_t pin_bytes;
    } cases[] = {
        { stock, 56, BATCH | BUDGET, 0, 0 },
        { stock, 196, BATCH | BUDGET, 0, 0 },
        { batch, 8, BATCH | BUDGET, BATCH, 0 },
        { all, 24, BATCH | BUDGET, BATCH | BUDGET, 256 },
        { all, 24, BATCH, BATCH, 0 },
        { all, 24, 0, 0, 0 },
        { later, 40, BATCH | BUDGET, BATCH | BUDGET, UINT64_MAX },
        { no_record, 24, BATCH | BUDGET, 0, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        RMigWirePrivate ask = { .flags = cases[i].ask,
                                .pin_bytes = OUR_PIN_BYTES };
        RMigWirePrivate answer;
        Fixture f;

        begin_connect(&f, cases[i].data, cases[i].bytes);
        memset(&answer, 99, sizeof(answer));
        g_assert_true(rmig_link_connect(f.link, &ask, &answer, NULL));
        g_assert_cmpuint(answer.version, ==, 1);
        g_assert_cmphex(answer.flags, ==, cases[i].holds);
        g_assert_true(answer.pin_bytes == cases[i].pin_bytes);
        switch (cases[i].ask) {
        case 0:
            check_said(stock, 8);
            break;
        case BATCH:
            check_said(batch, 8);
            break;
        default:
            check_said(said_budget, 24);
            break;
        }
        teardown(&f);
    }
}

static void test_connect_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        RMigWirePrivate answer;
        Fixture f;

        begin_connect(&f, bad[i].data, bad[i].bytes);
        g_assert_false(rmig_link_connect(f.link, &ask_nothing, &answer, &err));
        if (strstr(err->message, bad[i].needle) == NULL) {
            g_error("'%s' does not say '%s'", err->message, bad[i].needle);
        }
        teardown(&f);
    }
}

/* ---- the passive side ---- */

/* What is not known here does not reach the caller */
static void test_take(void)
{
    static const struct {
        const uint8_t *data;
        uint8_t bytes;
        uint32_t flags;
        uint64_t pin_bytes;
    } cases[] = {
        { stock, 56, 0, 0 },
        { batch, 8, BATCH, 0 },
        { all, 24, RMIG_WIRE_FLAGS_KNOWN, 256 },
        { later, 40, BATCH | BUDGET, UINT64_MAX },
        { no_record, 24, RMIG_WIRE_FLAG_PIN_ALL, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        RMigListener *listener;
        RMigWirePrivate asked;
        Fixture f;

        setup(&f);
        listener = rmig_listener_new(some_address(), NULL);
        fake_rdma_request(cases[i].data, cases[i].bytes);
        memset(&asked, 99, sizeof(asked));
        f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown,
                                    &asked, NULL);
        g_assert_nonnull(f.link);
        g_assert_cmpuint(asked.version, ==, 1);
        g_assert_cmphex(asked.flags, ==, cases[i].flags);
        g_assert_true(asked.pin_bytes == cases[i].pin_bytes);
        rmig_listener_free(listener);
        teardown(&f);
    }
}

static void test_take_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) err = NULL;
        RMigListener *listener;
        RMigWirePrivate asked;
        Fixture f;

        setup(&f);
        listener = rmig_listener_new(some_address(), NULL);
        fake_rdma_request(bad[i].data, bad[i].bytes);
        g_assert_null(rmig_listener_take(listener, "test", &waiter,
                                         f.shutdown, &asked, &err));
        if (strstr(err->message, bad[i].needle) == NULL) {
            g_error("'%s' does not say '%s'", err->message, bad[i].needle);
        }
        g_assert_cmpint(fake_rdma.rejects, ==, 1);
        g_assert_cmpmem(fake_rdma.private_data, 8, stock, 8);
        rmig_listener_free(listener);
        teardown(&f);
    }
}

static void accept_with(uint32_t flags, const uint8_t *expected, size_t bytes)
{
    RMigWirePrivate granted = { .flags = flags, .pin_bytes = OUR_PIN_BYTES };
    RMigListener *listener;
    RMigWirePrivate asked;
    Fixture f;

    setup(&f);
    listener = rmig_listener_new(some_address(), NULL);
    fake_rdma_request(all, sizeof(all));
    f.link = rmig_listener_take(listener, "test", &waiter, f.shutdown, &asked,
                                NULL);
    g_assert_true(rmig_link_prepare(f.link, "test", NULL));
    g_assert_true(rmig_link_accept(f.link, &granted, NULL));
    check_said(expected, bytes);
    rmig_listener_free(listener);
    teardown(&f);
}

static void test_accept(void)
{
    accept_with(0, stock, 8);
    accept_with(BATCH, batch, 8);
    accept_with(BATCH | BUDGET, said_budget, 24);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/negotiate/connect", test_connect);
    g_test_add_func("/negotiate/connect/fails", test_connect_fails);
    g_test_add_func("/negotiate/take", test_take);
    g_test_add_func("/negotiate/take/fails", test_take_fails);
    g_test_add_func("/negotiate/accept", test_accept);
    return g_test_run();
}
