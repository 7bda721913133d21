/*
 * Unit tests of the link room: a caller's descriptor, and the device's name
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On the fixture of link-fixture.h.
 */
#include "link-fixture.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct Watched {
    RMigLink *link;
    int fd;
    unsigned calls;
    bool last; /* the next call is to be the last */
} Watched;

static Watched w;

static void watched_ready(void *opaque)
{
    eventfd_t value;

    g_assert_true(opaque == &w);
    g_assert_cmpint(eventfd_read(w.fd, &value), ==, 0);
    w.calls++;
    if (w.last) {
        g_assert_true(rmig_link_watch(w.link, -1, NULL, NULL, NULL));
    }
}

static void worker_is_done(void)
{
    g_assert_cmpint(eventfd_write(w.fd, 1), ==, 0);
}

static void setup_watched(Fixture *f)
{
    setup_connected(f);
    w = (Watched) { .link = f->link, .fd = eventfd(0, EFD_NONBLOCK) };
    g_assert_true(rmig_link_watch(f->link, w.fd, watched_ready, &w, NULL));
}

static void teardown_watched(Fixture *f)
{
    teardown(f);
    close(w.fd); /* it must outlive the link */
}

static bool is_readable(const Fixture *f)
{
    struct pollfd pfd = { .fd = rmig_link_fd(f->link), .events = POLLIN };

    return poll(&pfd, 1, 0) == 1;
}

static void test_step(void)
{
    Fixture f;

    setup_watched(&f);
    set_script(worker_is_done, message_arrives, worker_is_done);
    g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    g_assert_cmpuint(w.calls, ==, 1);
    g_assert_cmpuint(sleeps, ==, 1);
    while (f.done == 0) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    g_assert_cmpuint(w.calls, ==, 1);
    while (w.calls < 2) {
        g_assert_true(rmig_link_step(f.link, 0, "a test", NULL));
    }
    g_assert_cmpuint(sleeps, ==, 3);
    g_assert_true(rmig_link_is_up(f.link));
    teardown_watched(&f);
}

/* Those who wait on the link's descriptor themselves */
static void test_arm(void)
{
    Fixture f;

    setup_watched(&f);
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 0);
    g_assert_false(is_readable(&f));
    worker_is_done();
    g_assert_true(is_readable(&f));
    g_assert_cmpint(rmig_link_poll(f.link, NULL), ==, 0);
    g_assert_cmpuint(w.calls, ==, 0);
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 1);
    g_assert_cmpuint(w.calls, ==, 1);
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 0);
    g_assert_false(is_readable(&f));
    teardown_watched(&f);
}

/* All that can wake at once does, and nothing is lost over the others */
static void test_all_at_once(void)
{
    g_autoptr(GError) err = NULL;
    Fixture f;

    setup_watched(&f);
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 0);
    fake_rdma_event(RDMA_CM_EVENT_TIMEWAIT_EXIT, 0, NULL, 0);
    message_arrives();
    worker_is_done();
    fake_rdma_tick();
    rmig_shutdown_trigger(f.shutdown);
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 1);
    g_assert_cmpuint(w.calls, ==, 1);
    while (rmig_link_arm(f.link, &err) > 0) {
        /* look again */
    }
    g_assert_cmpuint(f.done, ==, 1);
    assert_says(&err, RMIG_LINK_ERROR_SHUTDOWN, "shut down");
    teardown_watched(&f);
}

static void test_unwatch(void)
{
    Fixture f;

    /* by the callback itself */
    setup_watched(&f);
    w.last = true;
    worker_is_done();
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 1);
    worker_is_done();
    g_assert_false(is_readable(&f));
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 0);
    g_assert_cmpuint(w.calls, ==, 1);

    /* again, and twice */
    w.last = false;
    g_assert_true(rmig_link_watch(f.link, w.fd, watched_ready, &w, NULL));
    g_assert_true(rmig_link_watch(f.link, w.fd, watched_ready, &w, NULL));
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 1);
    g_assert_cmpuint(w.calls, ==, 2);
    g_assert_true(rmig_link_watch(f.link, -1, NULL, NULL, NULL));
    g_assert_true(rmig_link_watch(f.link, -1, NULL, NULL, NULL));
    worker_is_done();
    g_assert_false(is_readable(&f));
    teardown_watched(&f);
}

/* One that cannot be watched takes the place of the old one all the same */
static void test_watch_fails(void)
{
    int closed = eventfd(0, 0);
    GError *err = NULL;
    Fixture f;

    setup_watched(&f);
    close(closed);
    g_assert_false(rmig_link_watch(f.link, closed, watched_ready, &w, &err));
    assert_says(&err, RMIG_LINK_ERROR_FAILED, "watching a file descriptor");
    worker_is_done();
    g_assert_false(is_readable(&f));
    g_assert_cmpint(rmig_link_arm(f.link, NULL), ==, 0);
    g_assert_cmpuint(w.calls, ==, 0);
    g_assert_true(rmig_link_is_up(f.link));
    teardown_watched(&f);
}

static void test_device_name(void)
{
    Fixture f;

    setup_connected(&f);
    g_assert_cmpstr(rmig_link_device_name(f.link), ==, "fake0");
    rmig_link_disconnect(f.link);
    g_assert_cmpstr(rmig_link_device_name(f.link), ==, "fake0");
    teardown(&f);
}

/* Others have their turn when the last one, or the last sleep, is long ago */
static void test_rest(void)
{
    Fixture f;

    setup_connected(&f);
    rests = 0;
    rmig_link_rest(f.link);
    fake_rdma.now_us += RMIG_LINK_BUSY_US - 1;
    rmig_link_rest(f.link);
    g_assert_cmpuint(rests, ==, 0);
    fake_rdma.now_us++;
    rmig_link_rest(f.link);
    rmig_link_rest(f.link);
    g_assert_cmpuint(rests, ==, 1);
    fake_rdma.now_us += RMIG_LINK_BUSY_US;
    g_assert_true(rmig_link_step(f.link, 0, "nothing", NULL));
    rmig_link_rest(f.link);
    g_assert_cmpuint(rests, ==, 1);
    teardown(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/watch/step", test_step);
    g_test_add_func("/watch/arm", test_arm);
    g_test_add_func("/watch/all-at-once", test_all_at_once);
    g_test_add_func("/watch/unwatch", test_unwatch);
    g_test_add_func("/watch/fails", test_watch_fails);
    g_test_add_func("/watch/device-name", test_device_name);
    g_test_add_func("/link/rest", test_rest);
    return g_test_run();
}
