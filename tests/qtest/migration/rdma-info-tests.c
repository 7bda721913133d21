/*
 * QTest testcases for RDMA migration: the pin limit and the statistics
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
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
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define PIN_LIMIT_MIN (16 * MiB)
/* Slow enough to be in the middle of a migration for several seconds */
#define SLOW_BYTES_PER_S (3 * MiB)
#define FAST_BYTES_PER_S (1 * TiB)

/* ---- the statistics ----------------------------------------------------- */

static int64_t number(QDict *rdma, const char *name)
{
    g_assert(qdict_haskey(rdma, name));
    return qdict_get_int(rdma, name);
}

/* What is so on either side, as long as there is a connection, and after */
static void check_common(QDict *rdma)
{
    const char *peer = qdict_get_str(rdma, "peer");
    QDict *pinned = qdict_get_qdict(rdma, "pinned");
    QDict *stalls = qdict_get_qdict(rdma, "stalls");
    bool extended = g_str_equal(peer, "extended");

    g_assert(extended || g_str_equal(peer, "version-1"));
    g_assert(qlist_empty(qdict_get_qlist(rdma, "extensions")) != extended);
    g_assert_cmpint(number(pinned, "now"), <=, number(pinned, "peak"));
    g_assert_cmpint(number(rdma, "chunks-again"), <=,
                    number(rdma, "chunks-registered"));
    g_assert_cmpint(number(rdma, "skipped-pages"), <=,
                    number(rdma, "zero-pages"));
    g_assert(qdict_haskey(rdma, "pages-per-write") ==
             (number(rdma, "writes") > 0));
    for (const QDictEntry *at = qdict_first(stalls); at;
         at = qdict_next(stalls, at)) {
        QDict *stall = qobject_to(QDict, qdict_entry_value(at));

        g_assert(number(stall, "count") > 0 || number(stall, "time-us") == 0);
    }
    g_assert_cmpint(qdict_size(stalls), ==, 3);
}

static void check_hmp(QTestState *who)
{
    static const char *const lines[] = {
        "rdma device: ", "rdma peer: ", "rdma pin-all: ", "rdma pinned: ",
        "rdma chunks: ", "rdma registration: ", "rdma stalls, late: ",
        "rdma stalls, unknown: ", "rdma stalls, budget: ", "rdma window: ",
        "rdma control: ", "rdma writes: ", "rdma pages: ",
    };
    g_autofree char *hmp = qtest_hmp(who, "info migrate");

    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        g_autofree char *line = g_strconcat("\n", lines[i], NULL);
        g_autofree char *plain = g_strdelimit(g_strdup(hmp), "\r", '\n');

        if (!strstr(plain, line)) {
            g_printerr("no line '%s' in:\n%s\n", lines[i], hmp);
            g_assert_not_reached();
        }
    }
}

static void check_source(QTestState *from)
{
    QDict *info = migrate_query(from);
    QDict *rdma = qdict_get_qdict(info, "rdma");

    g_assert_nonnull(rdma);
    check_common(rdma);
    g_assert_cmpint(number(rdma, "writes"), >, 0);
    g_assert_cmpint(number(rdma, "chunks-registered"), >, 0);
    g_assert_cmpint(number(rdma, "control-messages"), >, 0);
    g_assert_cmpint(number(rdma, "control-bytes"), >, 0);
    g_assert_cmpint(number(rdma, "zero-runs"), >, 0);
    g_assert_cmpint(number(rdma, "write-bytes"), >=,
                    rmig_test_filled_bytes());
    g_assert_cmpint(number(qdict_get_qdict(rdma, "pinned"), "now"), ==, 0);
    /*
     * HERE: what the source's counters must be once the core fills them all:
     * device, peer, extensions, pinned, pages, times.
     */
    qobject_unref(info);
}

static void check_dest(QTestState *to)
{
    QDict *info = migrate_query(to);
    QDict *rdma = qdict_get_qdict(info, "rdma");

    g_assert_nonnull(rdma);
    check_common(rdma);
    g_assert_cmpint(number(rdma, "writes"), ==, 0);
    g_assert_cmpint(number(rdma, "chunks-registered"), >, 0);
    g_assert_cmpint(number(rdma, "control-messages"), >, 0);
    g_assert(!qdict_haskey(rdma, "peer-pinned"));
    /* HERE: the same for the destination */
    qobject_unref(info);
}

static bool has_info(QTestState *who)
{
    QDict *info = migrate_query(who);
    bool has = qdict_haskey(info, "rdma");

    qobject_unref(info);
    return has;
}

void rmig_test_info_early(QTestState *from)
{
    QDict *info = migrate_query(from);
    QDict *rdma = qdict_get_qdict(info, "rdma");
    g_autofree char *hmp = qtest_hmp(from, "info migrate");

    g_assert_nonnull(rdma);
    g_assert_false(qdict_haskey(rdma, "device"));
    g_assert_false(qdict_haskey(rdma, "peer"));
    g_assert_true(qlist_empty(qdict_get_qlist(rdma, "extensions")));
    g_assert_nonnull(strstr(hmp, "rdma device: none yet"));
    g_assert_nonnull(strstr(hmp, "rdma peer: none yet"));
    check_hmp(from);
    qobject_unref(info);
}

void rmig_test_info(QTestState *from, QTestState *to, bool rdma)
{
    if (rdma) {
        check_source(from);
        check_dest(to);
        check_hmp(from);
        check_hmp(to);
    } else {
        g_assert(!has_info(from) && !has_info(to));
    }
}

/* ---- a migration with it ------------------------------------------------ */

/* A stopped guest with some data, and a destination that waits for it */
static char *start_pair(QTestState **from, QTestState **to, uint64_t limit)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .opts_source = "-S", .opts_target = "-S",
                          .hide_stderr = true };
    g_autofree char *listen = NULL;
    g_autofree char *port = NULL;

    if (!host || migrate_start(from, to, "defer", &args)) {
        return NULL;
    }
    if (limit) {
        migrate_set_parameter_int(*from, "rdma-pin-limit", limit);
        migrate_set_parameter_int(*to, "rdma-pin-limit", limit);
    }
    listen = rmig_test_uri("rdma", host, "0");
    migrate_incoming_qmp(*to, listen, NULL, "{}");
    port = rmig_test_port(*to);
    rmig_test_fill_ram(*from);
    return rmig_test_uri("rdma", host, port);
}

/* The words of a refusal to set the parameter */
static char *set_refused(QTestState *who, uint64_t limit)
{
    QDict *error = qtest_qmp_assert_failure_ref(
        who, "{ 'execute': 'migrate-set-parameters', 'arguments': {"
        " 'rdma-pin-limit': %" PRIu64 " } }", limit);
    char *why = g_strdup(qdict_get_str(error, "desc"));

    g_test_message("%s", why);
    qobject_unref(error);
    return why;
}

/* While pages go out, and after it was cancelled */
static void test_info_running(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_pair(&from, &to, 0);
    QDict *info;

    if (!uri) {
        return;
    }
    g_assert(!has_info(from) && !has_info(to));
    migrate_set_parameter_int(from, "max-bandwidth", SLOW_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait_sent(from, 1 * MiB);
    for (int i = 0; i < 2; i++) {
        info = migrate_query(i ? to : from);
        check_common(qdict_get_qdict(info, "rdma"));
        qobject_unref(info);
        check_hmp(i ? to : from);
    }
    migrate_cancel(from);
    rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
    rmig_test_wait_exit(to);
    info = migrate_query(from);
    g_assert_cmpint(number(qdict_get_qdict(info, "rdma"), "writes"), >, 0);
    qobject_unref(info);
    qtest_quit(from);
}

static void test_limit_migration(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_pair(&from, &to, PIN_LIMIT_MIN);
    g_autofree char *why = NULL;

    if (!uri) {
        return;
    }
    /* It listens: the limit stays, other parameters may change */
    why = set_refused(to, 2 * PIN_LIMIT_MIN);
    g_assert_nonnull(strstr(why, "too late"));
    migrate_set_parameter_int(to, "rdma-pin-limit", PIN_LIMIT_MIN);
    migrate_set_parameter_int(to, "downtime-limit", 1000);

    migrate_set_parameter_int(from, "max-bandwidth", FAST_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_info(from, to, true);
    /* HERE: limit is in the statistics of both sides, and peak below it */
    rmig_test_same_ram(from, to, false);
    /* It does not listen any more */
    migrate_set_parameter_int(to, "rdma-pin-limit", 2 * PIN_LIMIT_MIN);
    migrate_end(from, to, false);
}

/* ---- the parameter alone ------------------------------------------------ */

static int64_t query_limit(QTestState *who)
{
    QDict *answer = qtest_qmp_assert_success_ref(
        who, "{ 'execute': 'query-migrate-parameters' }");
    int64_t limit = number(answer, "rdma-pin-limit");

    qobject_unref(answer);
    return limit;
}

static void test_limit_values(void)
{
    QTestState *who = qtest_init("-machine none");
    static const uint64_t small[] = { 1, 4096, PIN_LIMIT_MIN - 1 };
    g_autofree char *set = NULL;
    g_autofree char *bad = NULL;
    g_autofree char *hmp = NULL;

    g_assert_cmpint(query_limit(who), ==, 0);
    for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
        g_autofree char *why = set_refused(who, small[i]);

        g_assert_nonnull(strstr(why, "rdma-pin-limit"));
        g_assert_nonnull(strstr(why, "16 MiB"));
        g_assert_cmpint(query_limit(who), ==, 0);
    }
    migrate_set_parameter_int(who, "rdma-pin-limit", PIN_LIMIT_MIN);
    g_assert_cmpint(query_limit(who), ==, PIN_LIMIT_MIN);
    set = qtest_hmp(who, "migrate_set_parameter rdma-pin-limit 64M");
    g_assert_cmpstr(set, ==, "");
    g_assert_cmpint(query_limit(who), ==, 64 * MiB);
    bad = qtest_hmp(who, "migrate_set_parameter rdma-pin-limit 1M");
    g_assert_nonnull(strstr(bad, "16 MiB"));
    hmp = qtest_hmp(who, "info migrate_parameters");
    g_assert_nonnull(strstr(hmp, "rdma-pin-limit: 67108864 bytes"));
    migrate_set_parameter_int(who, "rdma-pin-limit", 0);
    g_assert_cmpint(query_limit(who), ==, 0);
    qtest_quit(who);

    who = qtest_init("-machine none -global migration.rdma-pin-limit=32M");
    g_assert_cmpint(query_limit(who), ==, 32 * MiB);
    qtest_quit(who);
}

/* Pinning everything needs a limit that RAM fits in */
static void test_limit_pin_all(void)
{
    MigrateStart args = { .opts_source = "-S", .opts_target = "-S",
                          .hide_stderr = true };
    g_autofree char *why = NULL;
    QTestState *from, *to;
    QDict *error;

    if (!rmig_test_host(AF_INET) ||
        migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    migrate_set_capability(from, "rdma-pin-all", true);
    migrate_set_parameter_int(from, "rdma-pin-limit", PIN_LIMIT_MIN);
    error = qtest_qmp_assert_failure_ref(
        from, "{ 'execute': 'migrate', 'arguments': {"
        " 'uri': 'rdma:127.0.0.1:1' } }");
    why = g_strdup(qdict_get_str(error, "desc"));
    qobject_unref(error);
    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, "rdma-pin-limit is 16 MiB"));
    qtest_quit(from);
    qtest_quit(to);
}

/* ---- the kernel's limit ------------------------------------------------- */

static void check_memlock_refusal(const char *options, const char *command)
{
    QTestState *who = qtest_init(options);
    QDict *error = qtest_qmp_assert_failure_ref(
        who, "{ 'execute': %s, 'arguments': { 'uri': 'rdma:127.0.0.1:1' } }",
        command);
    const char *why = qdict_get_str(error, "desc");

    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, "memory-lock limit"));
    g_assert_nonnull(strstr(why, "8 MiB"));
    g_assert_nonnull(strstr(why, "ulimit -l"));
    qobject_unref(error);
    qtest_quit(who);
}

/*
 * Capabilities belong to a thread, so dropping one ends with this one; what it
 * starts has none either.  Without any there is nothing to drop.
 */
static gpointer without_ipc_lock(gpointer opaque)
{
    prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
    check_memlock_refusal("-machine none", "migrate");
    check_memlock_refusal("-machine none -incoming defer",
                          "migrate-incoming");
    return NULL;
}

static void test_memlock(void)
{
    struct rlimit before, limit;

    g_assert(getrlimit(RLIMIT_MEMLOCK, &before) == 0);
    limit = before;
    limit.rlim_cur = MIN(limit.rlim_max, 8 * MiB);
    if (limit.rlim_cur != 8 * MiB) {
        g_test_skip("less than 8 MiB of memory may be locked");
        return;
    }
    g_assert(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    g_thread_join(g_thread_new("memlock", without_ipc_lock, NULL));
    g_assert(setrlimit(RLIMIT_MEMLOCK, &before) == 0);
}

void rmig_test_add_info(void)
{
    migration_test_add("/migration/rdma/limit/values", test_limit_values);
    migration_test_add("/migration/rdma/limit/pin-all", test_limit_pin_all);
    migration_test_add("/migration/rdma/limit/memlock", test_memlock);
    migration_test_add("/migration/rdma/limit/migration",
                       test_limit_migration);
    migration_test_add("/migration/rdma/info/running", test_info_running);
}
