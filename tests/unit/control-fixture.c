/*
 * The control room over the fakes of link and verbs, for its tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See control-fixture.h.
 */
#include "control-fixture.h"

#include <string.h>

void setup(Fixture *f, bool commands)
{
    f->link = fake_link_new();
    f->control = rmig_control_new(f->link, commands, NULL);
    g_assert_nonnull(f->control);
}

void teardown(Fixture *f)
{
    rmig_link_disconnect(f->link);
    rmig_control_free(f->control);
    rmig_link_free(f->link);
}

unsigned recvs(const Fixture *f)
{
    return g_queue_get_length(&f->link->verbs->recvs);
}

unsigned sends(const Fixture *f)
{
    const RMigVerbs *verbs = f->link->verbs;
    unsigned n = 0;

    for (unsigned i = 0; i < verbs->posts->len; i++) {
        n += fake_verbs_post(verbs, i)->kind == FAKE_SEND;
    }
    return n;
}

void assert_sent(const Fixture *f, RMigWireType type, const void *data,
                 uint32_t len, uint32_t repeat)
{
    g_autoptr(GBytes) expect = fake_link_message(type, data, len, repeat);
    FakePost *last = fake_verbs_last(f->link->verbs);

    g_assert_cmpint(last->kind, ==, FAKE_SEND);
    g_assert_true(g_bytes_equal(last->data, expect));
}

void assert_fails(GError **err, GQuark domain, int code, const char *needle)
{
    g_assert_error(*err, domain, code);
    if (strstr((*err)->message, needle) == NULL) {
        g_error("'%s' does not say '%s'", (*err)->message, needle);
    }
    g_clear_error(err);
}

void assert_link_failed(Fixture *f, GQuark domain, int code,
                        const char *needle)
{
    GError *err = NULL;

    g_assert_cmpint(rmig_link_poll(f->link, &err), ==, -1);
    assert_fails(&err, domain, code, needle);
}

void arrive(Fixture *f, RMigWireType type)
{
    g_assert_true(g_queue_is_empty(&f->link->script));
    fake_link_script_type(f->link, type);
    g_assert_cmpint(rmig_link_poll(f->link, NULL), ==, 1);
}

void serve(Fixture *f, RMigWireType type, RMigWireMessage *msg)
{
    fake_link_script_type(f->link, type);
    g_assert_cmpint(rmig_control_receive(f->control, true, msg, NULL), ==, 1);
    g_assert_cmpint(msg->type, ==, type);
}
