/*
 * QTest testcases for RDMA migration: the end, where one QEMU gets the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest runs at the source, and would start at the destination by itself.
 * What breaks is told to the software fabric that the two QEMUs use, at the
 * very message: without one these tests skip.  Whatever happens, exactly one
 * guest runs, or can be run.
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "migration/rdma-util.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#define FAST_BYTES_PER_S (1 * TiB)
#define SLOW_BYTES_PER_S (3 * MiB)
#define MIDDLE_BYTES (1 * MiB)

/* How a pair is set up; 0 is the usual thing */
typedef struct EndCase {
    bool return_path;
    bool waits_for_cont; /* the destination, -S */
    const char *opts;    /* of both sides */
} EndCase;

static const EndCase usual;
static const EndCase reporting = { .return_path = true };
static const EndCase waiting = { .waits_for_cont = true };

static QTestState *from, *to;

/* ---- the fabric ---------------------------------------------------------- */

/* The program that gives a line to a process of the fabric, with arguments */
static const char *tell_program(void)
{
    const char *tell = getenv("RMIG_TEST_TELL");

    if (!tell || !*tell) {
        g_test_skip("no fabric that fails on demand here; run "
                    "'scripts/verbsim tests/lab/qtest'");
        return NULL;
    }
    return tell;
}

static bool try_tell(QTestState *who, const char *line)
{
    g_autofree char *command = g_strdup_printf(
        "%s %d '%s' >/dev/null 2>&1", tell_program(), qtest_pid(who), line);

    return system(command) == 0;
}

static void tell(QTestState *who, const char *line)
{
    g_assert_true(try_tell(who, line));
}

/* One that is frozen for very long finds that out by itself, and exits */
static void unfreeze_to_exit(void)
{
    if (!try_tell(to, "now: unfreeze")) {
        g_test_message("the destination has gone already");
    }
    rmig_test_wait_exit(to);
}

/* ---- a pair -------------------------------------------------------------- */

/* Listening, and a guest that runs; false: skipped */
static bool start_pair(const EndCase *c, char **uri)
{
    const char *host = tell_program() ? rmig_test_host(AF_INET) : NULL;
    g_autofree char *opts_to = g_strdup_printf(
        "%s %s", c->waits_for_cont ? "-S" : "", c->opts ?: "");
    MigrateStart args = { .hide_stderr = true, .opts_source = c->opts,
                          .opts_target = opts_to };
    g_autofree char *listen = NULL;
    g_autofree char *port = NULL;

    if (!host || migrate_start(&from, &to, "defer", &args)) {
        return false;
    }
    if (c->return_path) {
        migrate_set_capability(from, "return-path", true);
        migrate_set_capability(to, "return-path", true);
    }
    listen = rmig_test_uri("rdma", host, "0");
    migrate_incoming_qmp(to, listen, NULL, "{}");
    port = rmig_test_port(to);
    *uri = rmig_test_uri("rdma", host, port);
    migrate_set_parameter_int(from, "max-bandwidth", FAST_BYTES_PER_S);
    migrate_set_parameter_int(from, "downtime-limit", 60 * 1000);
    return true;
}

static bool start(const EndCase *c, const char *dest_line)
{
    g_autofree char *uri = NULL;

    if (!start_pair(c, &uri)) {
        return false;
    }
    tell(to, dest_line);
    migrate_qmp(from, to, uri, NULL, "{}");
    return true;
}

static void stop_pair(void)
{
    qtest_quit(from);
    qtest_quit(to);
}

/* What query-migrate says that @who waits for; NULL: nothing */
static char *waits_for(QTestState *who)
{
    QDict *info = migrate_query(who);
    QDict *rdma = qdict_get_qdict(info, "rdma");
    char *what = rdma ? g_strdup(qdict_get_try_str(rdma, "waiting-for")) :
                 NULL;

    qobject_unref(info);
    return what;
}

static void wait_until_waits_for(QTestState *who, const char *what)
{
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND;

    for (;;) {
        g_autofree char *now = waits_for(who);

        if (g_strcmp0(now, what) == 0) {
            return;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(20 * 1000);
    }
}

static void assert_run_state(QTestState *who, const char *state)
{
    QDict *status = qtest_qmp_assert_success_ref(
        who, "{ 'execute': 'query-status' }");

    g_assert_cmpstr(qdict_get_str(status, "status"), ==, state);
    qobject_unref(status);
}

static void wait_run_state(QTestState *who, const char *state)
{
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND;
    bool is;

    do {
        QDict *status = qtest_qmp_assert_success_ref(
            who, "{ 'execute': 'query-status' }");

        g_assert_cmpint(g_get_monotonic_time(), <, end);
        is = g_str_equal(qdict_get_str(status, "status"), state);
        qobject_unref(status);
        g_usleep(20 * 1000);
    } while (!is);
}

/* The guest was moved, and lives there only */
static void assert_moved(void)
{
    g_autofree char *what = NULL;

    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    assert_run_state(from, "postmigrate");
    assert_run_state(to, "running");
    what = waits_for(from);
    g_assert_null(what);
    rmig_test_released(from);
    rmig_test_released(to);
}

/* ---- the destination takes its time -------------------------------------- */

/* "completed" comes after it has loaded, and what is waited for is shown */
static void test_slow(void)
{
    for (int i = 0; i < 2; i++) {
        const EndCase c = { .return_path = i };
        g_autofree char *hmp = NULL;

        if (!start(&c, "on recv LOAD_REQUEST: freeze")) {
            return;
        }
        wait_until_waits_for(from, "load");
        rmig_test_wait(from, "device", 0);
        hmp = qtest_hmp(from, "info migrate");
        g_assert_nonnull(strstr(hmp, "rdma waiting for: load"));
        assert_run_state(to, "inmigrate");
        tell(to, "now: unfreeze");
        assert_moved();
        stop_pair();
    }
}

static void test_slow_cancel(void)
{
    for (int i = 0; i < 2; i++) {
        const EndCase c = { .return_path = i };

        if (!start(&c, "on recv LOAD_REQUEST: freeze")) {
            return;
        }
        wait_until_waits_for(from, "load");
        migrate_cancel(from);
        rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
        assert_run_state(from, "running");
        unfreeze_to_exit();
        rmig_test_released(from);
        qtest_quit(from);
    }
}

/* It gives up instead, and says so */
static void test_load_fails(void)
{
    g_autofree char *why = NULL;

    if (!start(&usual, "on recv LOAD_REQUEST: disconnect")) {
        return;
    }
    why = rmig_test_wait_failed(from, RMIG_TEST_COMPLETE_S);
    assert_run_state(from, "running");
    rmig_test_wait_exit(to);
    qtest_quit(from);
}

/* ---- the last messages are lost ------------------------------------------ */

static void check_lost_sight(void)
{
    g_autofree char *why = rmig_test_wait_failed(from, RMIG_TEST_COMPLETE_S);

    g_assert_nonnull(strstr(why, "told to start the guest and did not "
                            "confirm it"));
    g_assert_nonnull(strstr(why, "'cont' resumes it here"));
    wait_run_state(from, "paused");
}

/* STARTED: the guest lives there, and the source does not know */
static void test_started_lost(void)
{
    if (!start(&usual, "on send STARTED: disconnect")) {
        return;
    }
    check_lost_sight();
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    assert_run_state(to, "running");
    assert_run_state(from, "paused");
    stop_pair();
}

/* START: it lives nowhere, until somebody says where */
static void test_start_lost(void)
{
    if (!start(&usual, "on recv START: disconnect")) {
        return;
    }
    check_lost_sight();
    rmig_test_wait_exit(to);
    assert_run_state(from, "paused");
    qtest_qmp_assert_success(from, "{ 'execute': 'cont' }");
    assert_run_state(from, "running");
    qtest_quit(from);
}

/* and from there it can move as any other */
static void test_start_lost_again(void)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .hide_stderr = true, .only_target = true };
    g_autofree char *listen = NULL, *port = NULL, *uri = NULL;

    if (!start(&usual, "on recv START: disconnect")) {
        return;
    }
    check_lost_sight();
    rmig_test_wait_exit(to);
    qtest_qmp_assert_success(from, "{ 'execute': 'cont' }");
    g_assert_cmpint(migrate_start(&from, &to, "defer", &args), ==, 0);
    listen = rmig_test_uri("rdma", host, "0");
    migrate_incoming_qmp(to, listen, NULL, "{}");
    port = rmig_test_port(to);
    uri = rmig_test_uri("rdma", host, port);
    migrate_qmp(from, to, uri, NULL, "{}");
    assert_moved();
    stop_pair();
}

/* With -S nothing is given away by a message */
static void test_started_lost_paused(void)
{
    if (!start(&waiting, "on send STARTED: disconnect")) {
        return;
    }
    g_free(rmig_test_wait_failed(from, RMIG_TEST_COMPLETE_S));
    wait_run_state(from, "running");
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    assert_run_state(to, "paused");
    stop_pair();
}

/* Too late to cancel: nobody may say "cancelled", nor run the guest here */
static void test_cancel_committed(void)
{
    if (!start(&usual, "on recv START: freeze")) {
        return;
    }
    wait_until_waits_for(from, "start");
    migrate_cancel(from);
    check_lost_sight();
    /* It finds START taken back, in a word that came with it */
    unfreeze_to_exit();
    qtest_qmp_assert_success(from, "{ 'execute': 'cont' }");
    assert_run_state(from, "running");
    qtest_quit(from);
}

/* The destination has the guest: its last report is a courtesy */
static void test_report_lost(void)
{
    /* Behind PONG */
    if (!start(&reporting, "on send QEMU_FILE 2: disconnect")) {
        return;
    }
    assert_moved();
    stop_pair();
}

/* The report is waited for, or, on a machine that was busy, was waited for */
static bool is_reporting(void)
{
    g_autofree char *what = waits_for(from);
    QDict *info = migrate_query(from);
    bool is = g_strcmp0(what, "report") == 0 ||
              g_str_equal(qdict_get_str(info, "status"), "completed");

    qobject_unref(info);
    return is;
}

/* nor can it be called off any more: that ends the wait for the report only */
static void test_cancel_reported(void)
{
    if (!start(&reporting, "on send QEMU_FILE 2: delay 8s")) {
        return;
    }
    while (!is_reporting()) {
        g_usleep(10 * 1000);
    }
    migrate_cancel(from);
    assert_moved();
    stop_pair();
}

/* What became of one guest says nothing about the next migration */
static void test_another(void)
{
    g_autofree char *uri = NULL;

    if (!start_pair(&usual, &uri)) {
        return;
    }
    migrate_qmp(from, to, uri, NULL, "{}");
    assert_moved();
    qtest_quit(to);
    qtest_qmp_assert_success(from, "{ 'execute': 'cont' }");
    migrate_set_parameter_int(from, "max-bandwidth", SLOW_BYTES_PER_S);
    migrate_set_parameter_int(from, "downtime-limit", 1);
    rmig_test_fill_ram(from);
    qtest_qmp_assert_success(from, "{ 'execute': 'migrate', 'arguments':"
                             " { 'uri': 'exec:cat >/dev/null' } }");
    rmig_test_wait(from, "active", RMIG_TEST_NOTICE_S);
    migrate_cancel(from);
    rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
    assert_run_state(from, "running");
    qtest_quit(from);
}

/* "cont" that comes when the source was told that nobody starts the guest */
static void test_late_cont(void)
{
    if (!start(&waiting, "on recv START: freeze for 2s")) {
        return;
    }
    wait_until_waits_for(from, "start");
    qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    assert_run_state(to, "paused");
    qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
    assert_run_state(to, "running");
    stop_pair();
}

/* ---- cancelled while connecting ------------------------------------------ */

/* A user's wish is nothing that QEMU has to be surprised by */
static void test_cancel_connecting(void)
{
    const char *host = rmig_test_host(AF_INET);
    g_autofree char *words = g_build_filename(migration_get_env()->tmpfs,
                                              "words", NULL);
    g_autofree char *opts = g_strdup_printf("-S 2>%s", words);
    MigrateStart args = { .opts_source = opts, .opts_target = "-S" };
    g_autofree char *listen = NULL, *port = NULL, *uri = NULL, *text = NULL;

    if (!host || migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    listen = rmig_test_uri("rdma", host, "0");
    migrate_incoming_qmp(to, listen, NULL, "{}");
    port = rmig_test_port(to);
    uri = rmig_test_uri("rdma", host, port);
    kill(qtest_pid(to), SIGSTOP);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait(from, "setup", RMIG_TEST_NOTICE_S);
    migrate_cancel(from);
    rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
    qtest_quit(from);
    /* It still listens, which it does not take back when it exits */
    kill(qtest_pid(to), SIGCONT);
    rmig_test_kill(to);
    g_assert_true(g_file_get_contents(words, &text, NULL, NULL));
    unlink(words);
    if (strstr(text, "Illegal")) {
        g_error("the source said: %s", text);
    }
}

/* ---- dirty bitmaps ------------------------------------------------------- */

#define DISK "-blockdev driver=null-co,node-name=disk0,size=67108864"

static void add_bitmap(QTestState *who)
{
    qtest_qmp_assert_success(who, "{ 'execute': 'block-dirty-bitmap-add',"
                             " 'arguments': { 'node': 'disk0',"
                             " 'name': 'backup' } }");
}

static bool has_bitmap(QTestState *who)
{
    QDict *answer = qtest_qmp(who, "{ 'execute': 'query-named-block-nodes',"
                              " 'arguments': { 'flat': true } }");
    QList *nodes = qdict_get_qlist(answer, "return");
    const QListEntry *at;
    bool found = false;

    QLIST_FOREACH_ENTRY(nodes, at) {
        QDict *node = qobject_to(QDict, qlist_entry_obj(at));

        found |= qdict_haskey(node, "dirty-bitmaps");
    }
    qobject_unref(answer);
    return found;
}

/* They go in precopy; postcopy, which they make believe in, is refused */
static void test_bitmaps(void)
{
    const EndCase c = { .return_path = true, .opts = DISK };
    g_autofree char *uri = NULL;
    QDict *error;

    if (!start_pair(&c, &uri)) {
        return;
    }
    migrate_set_capability(from, "dirty-bitmaps", true);
    migrate_set_capability(to, "dirty-bitmaps", true);
    add_bitmap(from);
    migrate_set_parameter_int(from, "max-bandwidth", SLOW_BYTES_PER_S);
    migrate_set_parameter_int(from, "downtime-limit", 1);
    rmig_test_fill_ram(from);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait_sent(from, MIDDLE_BYTES);
    error = qtest_qmp_assert_failure_ref(
        from, "{ 'execute': 'migrate-start-postcopy' }");
    g_assert_nonnull(strstr(qdict_get_str(error, "desc"),
                            "RDMA migration does not do postcopy"));
    qobject_unref(error);
    migrate_set_parameter_int(from, "max-bandwidth", FAST_BYTES_PER_S);
    migrate_set_parameter_int(from, "downtime-limit", 60 * 1000);
    assert_moved();
    g_assert_true(has_bitmap(to));
    stop_pair();
}

void rmig_test_add_end(void)
{
    static const struct {
        const char *path;
        void (*fn)(void);
    } tests[] = {
        { "slow", test_slow },
        { "slow-cancel", test_slow_cancel },
        { "load-fails", test_load_fails },
        { "started-lost", test_started_lost },
        { "start-lost", test_start_lost },
        { "start-lost-again", test_start_lost_again },
        { "started-lost-paused", test_started_lost_paused },
        { "cancel-committed", test_cancel_committed },
        { "report-lost", test_report_lost },
        { "cancel-reported", test_cancel_reported },
        { "another", test_another },
        { "late-cont", test_late_cont },
        { "cancel-connecting", test_cancel_connecting },
        { "bitmaps", test_bitmaps },
    };

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("/migration/rdma/hand-over/",
                                            tests[i].path, NULL);

        migration_test_add(path, tests[i].fn);
    }
}
