/*
 * Unit tests of the destination: a flood of connection requests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On dest-fixture.h, and on a clock of its own.
 */
#include "dest-fixture.h"

#include <string.h>

#define REAL_HOST 1000
/* The bound that dest-accept.c states */
#define LET_IN_MS 6000

static gint64 now_us = G_USEC_PER_SEC;

gint64 g_get_monotonic_time(void)
{
    return now_us;
}

static RMigLink *offer(unsigned host, bool half_open)
{
    RMigLink *link = fake_link_new();

    link->host = host;
    link->half_open = half_open;
    fake_link_offer(link);
    return link;
}

static unsigned told;

static RMigAccepted look(Fixture *f, const char *needle)
{
    g_autoptr(GError) err = NULL;
    RMigAccepted accepted = rmig_dest_accept(f->dest, &err);

    told += err != NULL;
    if (needle && (!err || !strstr(err->message, needle))) {
        g_error("'%s' does not say '%s'", err ? err->message : "nothing",
                needle);
    }
    return accepted;
}

static void start(Fixture *f)
{
    setup(f);
    told = fake_links_refused = fake_links_prepared = 0;
}

/* All that is being made goes with the destination; the fakes count */
static void end(Fixture *f)
{
    teardown(f);
}

/* ---- who is let in, and when ---- */

/* @n hosts ask and do not go on with it, again and again */
static void flood(Fixture *f, unsigned n)
{
    for (unsigned host = 1; host <= n; host++) {
        offer(host, true);
    }
    g_assert_cmpint(look(f, NULL), ==, RMIG_ACCEPTED_NOTHING);
}

static void test_flood(gconstpointer data)
{
    unsigned hosts = GPOINTER_TO_UINT(data);
    RMigAccepted accepted = RMIG_ACCEPTED_NOTHING;
    unsigned ms = 0;
    Fixture f;

    start(&f);
    for (unsigned i = 0; i < 40; i++) {
        flood(&f, hosts);
        now_us += 50 * 1000;
    }
    offer(REAL_HOST, false);
    for (; accepted == RMIG_ACCEPTED_NOTHING; ms += 50) {
        g_assert_cmpuint(ms, <=, LET_IN_MS);
        for (unsigned host = 1; host <= hosts; host++) {
            offer(host, true);
        }
        accepted = look(&f, NULL);
        now_us += 50 * 1000;
    }
    g_test_message("%u hosts: let in after %u ms", hosts, ms - 50);
    g_assert_cmpint(accepted, ==, RMIG_ACCEPTED_MAIN);
    /* Two at a time, for half a second each, and the real one */
    g_assert_cmpuint(fake_links_prepared, <=, 2 + (2000 + ms) / 250 + 1);
    /* One warning, and one more every ten seconds */
    g_assert_cmpuint(told, <=, 1 + (2000 + ms) / 10000);
    end(&f);
}

/* They ask once, and hold their places as long as they can */
static void test_siege(gconstpointer data)
{
    unsigned hosts = GPOINTER_TO_UINT(data);
    RMigAccepted accepted;
    unsigned ms = 0;
    Fixture f;

    start(&f);
    flood(&f, hosts);
    now_us += 400 * 1000;
    offer(REAL_HOST, false);
    while ((accepted = look(&f, NULL)) == RMIG_ACCEPTED_NOTHING) {
        g_assert_true(fake_listener_ticks);
        ms += RMIG_LISTENER_TICK_MS;
        now_us += RMIG_LISTENER_TICK_MS * 1000;
        g_assert_cmpuint(ms, <=, LET_IN_MS);
    }
    g_test_message("%u hosts: let in after %u ms", hosts, ms);
    g_assert_cmpint(accepted, ==, RMIG_ACCEPTED_MAIN);
    g_assert_true(ms >= 500 || hosts < 8);
    end(&f);
}

/* It has all its time if nobody waits for its place */
static void test_patience(void)
{
    RMigLink *link;
    Fixture f;

    start(&f);
    link = offer(REAL_HOST, true);
    for (unsigned i = 0; i < 9; i++) {
        g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
        g_assert_true(fake_listener_ticks);
        now_us += G_USEC_PER_SEC;
    }
    offer(1, true); /* the second place is free */
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(told, ==, 0);
    link->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    end(&f);

    start(&f);
    offer(REAL_HOST, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    now_us += RMIG_LINK_CONNECT_MS * 1000;
    g_assert_cmpint(look(&f, "complete the connection"), ==,
                    RMIG_ACCEPTED_NOTHING);
    g_assert_false(fake_listener_ticks);
    end(&f);
}

/* Before anything is made for it */
static void test_judged_first(void)
{
    RMigLink *first;
    Fixture f;

    start(&f);
    first = offer(1, true);
    offer(1, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    offer(1, true);
    g_assert_cmpint(look(&f, "others from the same host"), ==,
                    RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 1);
    g_assert_cmpuint(fake_links_refused, ==, 1);
    /* Its own host does not hurry it, and then the next has its turn */
    now_us += 9 * G_USEC_PER_SEC;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 1);
    now_us += G_USEC_PER_SEC;
    first = offer(2, true);
    told = 0;
    g_assert_cmpint(look(&f, "complete the connection"), ==,
                    RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 3);
    first->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    offer(3, false);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 3);
    end(&f);
}

/*
 * The source holds the main connection complete, and asks for its return path,
 * before this side has heard of it
 */
static void test_return_early(void)
{
    RMigLink *first;
    Fixture f;

    start(&f);
    first = offer(1, true);
    offer(1, false);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 1);
    now_us += 9 * G_USEC_PER_SEC;
    first->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    g_assert_cmpuint(fake_links_prepared, ==, 2);
    g_assert_true(rmig_dest_return_pending(f.dest));
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_RETURN);
    g_assert_nonnull(rmig_dest_return_stream(f.dest));
    g_assert_cmpuint(told, ==, 0);
    end(&f);
}

/* Those that wait go when the first has completed its connection */
static void test_others_go(void)
{
    RMigLink *second;
    Fixture f;

    start(&f);
    offer(1, true);
    second = offer(2, true);
    offer(3, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 2);
    second->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    g_assert_cmpuint(fake_links_refused, ==, 1);
    g_assert_false(rmig_dest_return_pending(f.dest));
    offer(2, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_true(rmig_dest_return_pending(f.dest));
    g_assert_null(rmig_dest_return_stream(f.dest));
    end(&f);
}

/*
 * A request for the return path that comes twice: the second is refused when
 * the first is complete, as its peer might take that for the first's answer
 */
static void test_return_twice(void)
{
    RMigLink *first, *back;
    Fixture f;

    start(&f);
    first = offer(1, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    first->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    back = offer(1, true);
    offer(1, true);
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_refused, ==, 0);
    g_assert_true(rmig_dest_return_pending(f.dest));
    back->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_RETURN);
    g_assert_cmpuint(fake_links_refused, ==, 1);
    g_assert_nonnull(rmig_dest_return_stream(f.dest));
    end(&f);
}

/* The same event twice is one request, which nothing of this may refuse */
static void test_request_twice(void)
{
    RMigLink *first;
    Fixture f;

    start(&f);
    first = offer(1, true);
    first->port = 7;
    offer(1, true)->port = 7;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_cmpuint(fake_links_prepared, ==, 1);
    first->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    g_assert_cmpuint(fake_links_refused, ==, 0);
    offer(1, true)->port = 7;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_NOTHING);
    g_assert_false(rmig_dest_return_pending(f.dest));
    g_assert_cmpuint(fake_links_refused, ==, 0);
    end(&f);
}

/* What others are refused is told once, then counted */
static void test_told(void)
{
    RMigLink *first;
    Fixture f;

    start(&f);
    first = offer(1, true);
    offer(1, true);
    look(&f, NULL);
    for (unsigned i = 0; i < 1000; i++) {
        offer(1, true);
        look(&f, NULL);
    }
    g_assert_cmpuint(told, ==, 1);
    now_us += 10 * G_USEC_PER_SEC - 1;
    first->up = true;
    g_assert_cmpint(look(&f, NULL), ==, RMIG_ACCEPTED_MAIN);
    g_assert_cmpuint(told, ==, 1);
    g_assert_true(fake_listener_ticks); /* there is something to be told */
    now_us += 1;
    look(&f, "999 RDMA connections were not accepted, the last one because");
    end(&f);
}

int main(int argc, char **argv)
{
    static const unsigned hosts[] = { 0, 1, 2, 3, 8, 13 };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(hosts); i++) {
        g_autofree char *path = g_strdup_printf("/accept/flood/%u", hosts[i]);

        g_autofree char *siege = g_strdup_printf("/accept/siege/%u",
                                                 hosts[i]);

        g_test_add_data_func(path, GUINT_TO_POINTER(hosts[i]), test_flood);
        g_test_add_data_func(siege, GUINT_TO_POINTER(hosts[i]), test_siege);
    }
    g_test_add_func("/accept/patience", test_patience);
    g_test_add_func("/accept/judged-first", test_judged_first);
    g_test_add_func("/accept/return-early", test_return_early);
    g_test_add_func("/accept/others-go", test_others_go);
    g_test_add_func("/accept/return-twice", test_return_twice);
    g_test_add_func("/accept/request-twice", test_request_twice);
    g_test_add_func("/accept/told", test_told);
    return g_test_run();
}
