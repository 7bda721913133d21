/*
 * QTest testcases for migration over RDMA
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What needs an RDMA device skips without one; see rmig_test_host().  Most
 * guests here never run at the source: their RAM is filled by hand, which in
 * the lab is much quicker than booting, and compared when both sides have
 * stopped.  The guest must run where that is the point.
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "migration/rdma-util.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"

/* Slow enough to be in the middle of a migration for several seconds */
#define SLOW_BYTES_PER_S (3 * MiB)
/* ... for half a minute */
#define SLOWEST_BYTES_PER_S (1 * MiB)
#define MIDDLE_BYTES (1 * MiB)
#define FAST_BYTES_PER_S (1 * TiB)
/* Slower than the guest changes its RAM, wherever it runs */
#define LIVE_BYTES_PER_S (64 * MiB)
/* A guest is well past its first pass over its RAM */
#define LIVE_PASSES 3

/* How an ordinary migration is set up; 0 or NULL is the usual thing */
typedef struct RdmaCase {
    int family;              /* of the address; AF_INET */
    const char *scheme;      /* "rdma" */
    const char *listen_host; /* the address itself */
    const char *non_rdma;    /* a URI to listen on, for another transport */
    bool channels;           /* QMP's channels instead of a URI */
    bool pin_all;
    bool return_path;
    bool live;               /* the guest runs, and changes its RAM */
} RdmaCase;

/* The guest waits for "cont" */
static const char paused[] = "-S";

/* ---- one ordinary migration --------------------------------------------- */

static void set_speed(QTestState *from, uint64_t bytes_per_s)
{
    migrate_set_parameter_int(from, "max-bandwidth", bytes_per_s);
}

static void set_capabilities(QTestState *who, const RdmaCase *c)
{
    if (c->pin_all) {
        migrate_set_capability(who, "rdma-pin-all", true);
    }
    if (c->return_path) {
        migrate_set_capability(who, "return-path", true);
    }
}

static QObject *channels(const char *host, const char *port)
{
    return qobject_from_jsonf_nofail(
        "[ { 'channel-type': 'main', 'addr': { 'transport': 'rdma',"
        " 'host': %s, 'port': %s } } ]", host, port);
}

/* Let @to listen as @c says; what to give to migrate_qmp(), in *uri or *chan */
static void listen_for(QTestState *to, const RdmaCase *c, const char *host,
                       char **uri, QObject **chan)
{
    const char *scheme = c->scheme ?: "rdma";
    const char *at = c->listen_host ?: host;
    g_autofree char *listen = rmig_test_uri(scheme, at, "0");
    g_autofree char *port = NULL;

    migrate_incoming_qmp(to, c->channels ? NULL : c->non_rdma ?: listen,
                         c->channels ? channels(at, "0") : NULL, "{}");
    port = rmig_test_port(to);
    *chan = c->channels ? channels(host, port) : NULL;
    *uri = c->channels ? NULL :
           c->non_rdma ? migrate_get_connect_uri(to) :
           rmig_test_uri(scheme, host, port);
}

/* A source and a destination that is ready for it */
static bool start_pair(QTestState **from, QTestState **to, const RdmaCase *c,
                       const char *host, char **uri, QObject **chan)
{
    MigrateStart args = {
        .opts_source = c->live ? NULL : paused,
        .opts_target = paused,
    };

    if (migrate_start(from, to, "defer", &args)) {
        return false;
    }
    set_capabilities(*from, c);
    set_capabilities(*to, c);
    listen_for(*to, c, host, uri, chan);
    if (c->live) {
        /* Its program fills RAM itself, whenever it comes to run */
        set_speed(*from, LIVE_BYTES_PER_S);
    } else {
        set_speed(*from, FAST_BYTES_PER_S);
        rmig_test_fill_ram(*from);
    }
    return true;
}

/* What query-migrate and info migrate say of a completed migration */
static void check_statistics(QTestState *from, const RdmaCase *c)
{
    QDict *info = migrate_query(from);
    QDict *ram = qdict_get_qdict(info, "ram");
    int64_t page = qdict_get_int(ram, "page-size");
    int64_t pages = qdict_get_int(ram, "total") / page;
    int64_t normal = qdict_get_int(ram, "normal");
    int64_t normal_bytes = qdict_get_int(ram, "normal-bytes");
    int64_t zero = qdict_get_int(ram, "duplicate");
    int64_t sent = qdict_get_int(ram, "transferred");
    g_autofree char *hmp = qtest_hmp(from, "info migrate");

    g_test_message("%" PRId64 " normal and %" PRId64 " zero of %" PRId64
                   " pages, %" PRId64 " bytes, setup %" PRId64 " ms, total %"
                   PRId64 " ms", normal, zero, pages, sent,
                   qdict_get_int(info, "setup-time"),
                   qdict_get_int(info, "total-time"));
    g_assert_cmpint(normal + zero, >=, pages);
    g_assert_cmpint(normal_bytes, ==, normal * page);
    g_assert_cmpint(normal_bytes, >=, rmig_test_filled_bytes());
    g_assert_cmpint(sent, >=, normal_bytes);
    g_assert_cmpint(qdict_get_int(ram, "remaining"), ==, 0);
    g_assert_nonnull(strstr(hmp, "completed"));
    if (!c->live) {
        /* Every page once, but for the few that the end itself dirties */
        g_assert_cmpint(normal + zero, <, pages + pages / 100);
        /* Zero pages are named, never sent; the rest is device state */
        g_assert_cmpint(zero, >, pages / 4);
        g_assert_cmpint(sent, <, normal_bytes + 4 * MiB);
    }
    qobject_unref(info);
}

/* A migration was started: see it through and look at both ends */
static void check_completed(QTestState *from, QTestState *to,
                            const RdmaCase *c)
{
    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    g_assert_false(rmig_test_running(from));
    g_assert_false(rmig_test_running(to));
    check_statistics(from, c);
    rmig_test_info(from, to, !c->non_rdma);
    rmig_test_same_ram(from, to, c->live);
    rmig_test_released(from);
    qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
    g_assert_true(rmig_test_running(to));
    rmig_test_released(to);
}

/* The running guest is seen to change its RAM all the time, then it is moved */
static void go_live(QTestState *from)
{
    int64_t sent = -1, end = 0;

    rmig_test_wait(from, "active", RMIG_TEST_COMPLETE_S);
    /* As slowly as the machine likes, but it goes on */
    while (get_migration_pass(from) <= LIVE_PASSES) {
        int64_t now = read_ram_property_int(from, "transferred");

        if (now != sent) {
            sent = now;
            end = g_get_monotonic_time() +
                  RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND;
        }
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(100 * 1000);
    }
    g_assert_true(rmig_test_running(from));
    set_speed(from, FAST_BYTES_PER_S);
    migrate_set_parameter_int(from, "downtime-limit", 60 * 1000);
}

static void run_case(const RdmaCase *c)
{
    const char *host = c->non_rdma ? "" : rmig_test_host(c->family ?: AF_INET);
    g_autofree char *uri = NULL;
    QTestState *from, *to;
    QObject *chan;

    if (!host || !start_pair(&from, &to, c, host, &uri, &chan)) {
        return;
    }
    if (c->live) {
        rmig_test_program_runs(from);
        migrate_set_parameter_int(from, "downtime-limit", 1);
    }
    migrate_qmp(from, to, uri, chan, "{}");
    if (c->live) {
        go_live(from);
    }
    check_completed(from, to, c);
    if (c->live) {
        rmig_test_program_runs(to);
        qtest_qmp_assert_success(to, "{ 'execute': 'stop' }");
        rmig_test_program_ram(to);
    }
    migrate_end(from, to, false);
}

static void test_dynamic(void)
{
    run_case(&(RdmaCase) { });
}

static void test_pin_all(void)
{
    run_case(&(RdmaCase) { .pin_all = true });
}

static void test_dynamic_live(void)
{
    run_case(&(RdmaCase) { .live = true });
}

static void test_pin_all_live(void)
{
    run_case(&(RdmaCase) { .pin_all = true, .return_path = true,
                           .live = true });
}

static void test_return_path(void)
{
    run_case(&(RdmaCase) { .return_path = true });
}

static void test_x_rdma(void)
{
    run_case(&(RdmaCase) { .scheme = "x-rdma" });
}

static void test_channels(void)
{
    run_case(&(RdmaCase) { .channels = true });
}

static void test_ipv6(void)
{
    run_case(&(RdmaCase) { .family = AF_INET6 });
}

/* An IPv4 client of the IPv6 wildcard, which is how libvirt listens */
static void test_listen_any6(void)
{
    run_case(&(RdmaCase) { .listen_host = "::" });
}

static void test_listen_any6_ipv6(void)
{
    run_case(&(RdmaCase) { .family = AF_INET6, .listen_host = "::" });
}

static void test_listen_any4(void)
{
    run_case(&(RdmaCase) { .listen_host = "0.0.0.0" });
}

/* Our changes outside of the transport must leave the others as they are */
static void test_tcp(void)
{
    run_case(&(RdmaCase) { .non_rdma = "tcp:127.0.0.1:0" });
}

/* The same with QEMU's own check of RAM, which takes minutes in the lab */
static char *framework_uri;

static void *connect_where_it_listens(QTestState *from, QTestState *to)
{
    g_autofree char *port = rmig_test_port(to);

    strcpy(strrchr(framework_uri, ':') + 1, port);
    return NULL;
}

static void test_framework(void)
{
    const char *host = rmig_test_host(AF_INET);
    /* Room for any port */
    g_autofree char *uri = host ? rmig_test_uri("rdma", host, "00000") : NULL;
    g_autofree char *listen = host ? rmig_test_uri("rdma", host, "0") : NULL;
    MigrateCommon args = {
        .listen_uri = listen,
        .connect_uri = uri,
        .start_hook = connect_where_it_listens,
        .live = true,
    };

    if (host) {
        framework_uri = uri;
        test_precopy_common(&args);
    }
}

/* ---- migrations that end early ------------------------------------------ */

/* A running source and a destination, in the middle of a slow migration */
static char *start_slow(QTestState **from, QTestState **to)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .hide_stderr = true, .opts_target = paused };
    g_autofree char *uri = NULL;
    QObject *chan;

    if (!host || migrate_start(from, to, "defer", &args)) {
        return NULL;
    }
    listen_for(*to, &(RdmaCase) { }, host, &uri, &chan);
    set_speed(*from, SLOW_BYTES_PER_S);
    rmig_test_fill_ram(*from);
    migrate_qmp(*from, *to, uri, NULL, "{}");
    rmig_test_wait_sent(*from, MIDDLE_BYTES);
    return g_steal_pointer(&uri);
}

/* The guest runs at the source; move it to a new destination */
static void retry(QTestState *from)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .only_target = true, .opts_target = paused };
    const RdmaCase c = { };
    g_autofree char *uri = NULL;
    QTestState *to;
    QObject *chan;

    g_assert_true(rmig_test_running(from));
    rmig_test_released(from);
    g_assert(migrate_start(&from, &to, "defer", &args) == 0);
    listen_for(to, &c, host, &uri, &chan);
    qtest_qmp_assert_success(from, "{ 'execute': 'stop' }");
    set_speed(from, FAST_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    check_completed(from, to, &c);
    migrate_end(from, to, false);
}

static void test_cancel(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_slow(&from, &to);

    if (uri) {
        migrate_cancel(from);
        rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
        rmig_test_wait_exit(to);
        retry(from);
    }
}

#define YANK "{ 'execute': 'yank', 'arguments': {" \
             " 'instances': [ { 'type': 'migration' } ] } }"

/* The other side is there, but says nothing any more */
static void test_yank_frozen_dest(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_slow(&from, &to);

    if (uri) {
        kill(qtest_pid(to), SIGSTOP);
        qtest_qmp_assert_success(from, YANK);
        g_free(rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S));
        kill(qtest_pid(to), SIGCONT);
        rmig_test_wait_exit(to);
        retry(from);
    }
}

static void test_yank_dest(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_slow(&from, &to);

    if (uri) {
        /* It may exit before it has answered */
        qtest_qmp_send(to, YANK);
        rmig_test_wait_exit(to);
        g_free(rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S));
        g_assert_true(rmig_test_running(from));
        qtest_quit(from);
    }
}

static void test_dest_killed(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_slow(&from, &to);

    if (uri) {
        rmig_test_kill(to);
        g_free(rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S));
        rmig_test_program_runs(from);
        retry(from);
    }
}

static void test_source_killed(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_slow(&from, &to);

    if (uri) {
        rmig_test_kill(from);
        rmig_test_wait_exit(to);
    }
}

/* A to B, then B to C */
static void test_chain(void)
{
    const char *host = rmig_test_host(AF_INET);
    const RdmaCase c = { };
    g_autofree char *uri = NULL;
    QTestState *a, *b;
    QObject *chan;

    if (!host || !start_pair(&a, &b, &c, host, &uri, &chan)) {
        return;
    }
    migrate_qmp(a, b, uri, NULL, "{}");
    check_completed(a, b, &c);
    qtest_quit(a);
    retry(b);
}

/* ---- connecting --------------------------------------------------------- */

/* A running source, and a destination that listens but does not answer */
static char *start_connecting(QTestState **from, QTestState **to)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .hide_stderr = true, .opts_source = paused,
                          .opts_target = paused };
    g_autofree char *uri = NULL;
    QObject *chan;

    if (!host || migrate_start(from, to, "defer", &args)) {
        return NULL;
    }
    listen_for(*to, &(RdmaCase) { }, host, &uri, &chan);
    rmig_test_fill_ram(*from);
    set_speed(*from, FAST_BYTES_PER_S);
    kill(qtest_pid(*to), SIGSTOP);
    migrate_qmp(*from, *to, uri, NULL, "{}");
    /* A monitor that waits for the destination sees only that it has failed */
    for (int i = 0; i < 5; i++) {
        rmig_test_wait(*from, "setup", 0);
        g_usleep(50 * 1000);
    }
    rmig_test_info_early(*from);
    return g_steal_pointer(&uri);
}

static void test_connect_slowly(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_connecting(&from, &to);

    if (uri) {
        kill(qtest_pid(to), SIGCONT);
        check_completed(from, to, &(RdmaCase) { });
        migrate_end(from, to, false);
    }
}

/* The destination wakes up to a caller that has gone, and takes the next */
static void test_connect_cancel(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_connecting(&from, &to);

    if (uri) {
        migrate_cancel(from);
        rmig_test_wait(from, "cancelled", RMIG_TEST_NOTICE_S);
        rmig_test_released(from);
        kill(qtest_pid(to), SIGCONT);
        migrate_qmp(from, to, uri, NULL, "{}");
        check_completed(from, to, &(RdmaCase) { });
        migrate_end(from, to, false);
    }
}

static void test_connect_yank(void)
{
    QTestState *from, *to;
    g_autofree char *uri = start_connecting(&from, &to);

    if (uri) {
        qtest_qmp_assert_success(from, YANK);
        g_free(rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S));
        rmig_test_released(from);
        kill(qtest_pid(to), SIGCONT);
        migrate_qmp(from, to, uri, NULL, "{}");
        check_completed(from, to, &(RdmaCase) { });
        migrate_end(from, to, false);
    }
}

static void test_nobody_listens(void)
{
    const char *host = rmig_test_host(AF_INET);
    MigrateStart args = { .hide_stderr = true, .opts_target = paused };
    g_autofree char *uri = NULL;
    g_autofree char *why = NULL;
    QTestState *from, *to;

    if (!host || migrate_start(&from, &to, "defer", &args)) {
        return;
    }
    uri = rmig_test_uri("rdma", host, "1");
    migrate_qmp(from, to, uri, NULL, "{}");
    why = rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S);
    g_assert_nonnull(strstr(why, "nothing listens"));
    g_assert_nonnull(strstr(why, host));
    rmig_test_info_early(from);
    qtest_quit(to);
    rmig_test_fill_ram(from);
    retry(from);
}

/* ---- refusals ----------------------------------------------------------- */

static const struct {
    const char *name;
    const char *needs;  /* cannot be set without */
    bool may_be_absent; /* of this build or this host's kernel */
} refused_caps[] = {
    { "multifd" },
    { "xbzrle" },
    { "mapped-ram" },
    { "zero-copy-send", .needs = "multifd" },
    { "postcopy-ram", .may_be_absent = true },
    { "background-snapshot", .may_be_absent = true },
    { "x-colo", .may_be_absent = true },
};

/* NULL, or the words of the refusal */
static char *try_cap(QTestState *who, size_t i, bool on)
{
    const char *name = refused_caps[i].name;
    QDict *answer = qtest_qmp(
        who, "{ 'execute': 'migrate-set-capabilities', 'arguments': {"
        " 'capabilities': [ { 'capability': %s, 'state': %i },"
        "                   { 'capability': %s, 'state': %i } ] } }",
        refused_caps[i].needs ?: name, on, name, on);
    char *why = NULL;

    if (qdict_haskey(answer, "error")) {
        why = g_strdup(qdict_get_str(qdict_get_qdict(answer, "error"),
                                     "desc"));
    }
    qobject_unref(answer);
    return why;
}

static void check_names_cap(const char *why, size_t i)
{
    g_autofree char *lower = g_ascii_strdown(why, -1);

    g_test_message("%s: %s", refused_caps[i].name, why);
    g_assert(strstr(lower, refused_caps[i].name) ||
             (refused_caps[i].needs && strstr(lower, refused_caps[i].needs)));
}

/* Start a migration that must be refused; the words of the refusal */
static char *refusal(QTestState *who, const char *command, const char *uri)
{
    QDict *error = qtest_qmp_assert_failure_ref(
        who, "{ 'execute': %s, 'arguments': { 'uri': %s } }", command, uri);
    char *why = g_strdup(qdict_get_str(error, "desc"));

    qobject_unref(error);
    return why;
}

/* With each capability set, @command must be refused and leave no trace */
static void check_caps_refuse(QTestState *who, const char *command,
                              const char *uri)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused_caps); i++) {
        g_autofree char *absent = try_cap(who, i, true);
        g_autofree char *why = NULL;

        if (absent) {
            g_test_message("%s: not tested: %s", refused_caps[i].name, absent);
            g_assert(refused_caps[i].may_be_absent);
            continue;
        }
        why = refusal(who, command, uri);
        check_names_cap(why, i);
        g_assert_null(try_cap(who, i, false));
    }
}

/* No device is needed: the refusal comes before one is looked for */
static void test_caps_source(void)
{
    QTestState *from = qtest_init("-machine none");
    g_autofree char *why = NULL;

    check_caps_refuse(from, "migrate", "rdma:127.0.0.1:1");
    migrate_set_parameter_str(from, "tls-creds", "some");
    why = refusal(from, "migrate", "rdma:127.0.0.1:1");
    g_assert_nonnull(strstr(why, "tls-creds"));
    qtest_quit(from);
}

static void test_caps_dest_before(void)
{
    QTestState *to = qtest_init("-machine none -incoming defer");
    g_autofree char *why = NULL;

    check_caps_refuse(to, "migrate-incoming", "rdma:127.0.0.1:0");
    migrate_set_parameter_str(to, "tls-creds", "some");
    why = refusal(to, "migrate-incoming", "rdma:127.0.0.1:0");
    g_assert_nonnull(strstr(why, "tls-creds"));
    qtest_quit(to);
}

/* A listener keeps refusing, and still serves a source afterwards */
static void test_caps_dest_after(void)
{
    const char *host = rmig_test_host(AF_INET);
    const RdmaCase c = { };
    g_autofree char *uri = NULL;
    QTestState *from, *to;
    QObject *chan;

    if (!host || !start_pair(&from, &to, &c, host, &uri, &chan)) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(refused_caps); i++) {
        g_autofree char *why = try_cap(to, i, true);

        g_assert_nonnull(why);
        if (!refused_caps[i].may_be_absent) {
            check_names_cap(why, i);
        }
    }
    migrate_qmp(from, to, uri, NULL, "{}");
    check_completed(from, to, &c);
    migrate_end(from, to, false);
}

/* What is wrong can be seen before anything is started */
static void test_bad_uris(void)
{
    static const struct {
        const char *uri;
        const char *says;
    } bad[] = {
        { "rdma:", "" },
        { "rdma:host", "host" },
        { "rdma:[::1", "" },
        { "rdma:host:1,ipv4=maybe", "ipv4" },
    };
    QTestState *from = qtest_init("-machine none");

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *why = refusal(from, "migrate", bad[i].uri);

        g_test_message("%s: %s", bad[i].uri, why);
        g_assert_nonnull(strstr(why, bad[i].says));
        g_assert_cmpstr(why, !=, "");
    }
    qtest_quit(from);
}

/* What shows only when the address is looked up, which may take a while */
static void test_bad_addresses(void)
{
    static const struct {
        const char *uri;
        const char *says;
    } bad[] = {
        { "rdma::1", "no host" },
        { "rdma:127.0.0.1:notaport", "notaport" },
        { "rdma:[::1]:1,ipv6=off", "::1" },
    };

    if (!rmig_test_may_lock()) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        QTestState *from = qtest_init("-machine none");
        g_autofree char *why = NULL;

        migrate_qmp(from, NULL, bad[i].uri, NULL, "{}");
        why = rmig_test_wait_failed(from, RMIG_TEST_NOTICE_S);
        g_assert_nonnull(strstr(why, bad[i].says));
        qtest_quit(from);
    }
}

/* ---- bandwidth ---------------------------------------------------------- */

static void test_max_bandwidth(void)
{
    const char *host = rmig_test_host(AF_INET);
    const RdmaCase c = { };
    g_autofree char *uri = NULL;
    QTestState *from, *to;
    QObject *chan;
    QDict *info;
    int64_t sent, ms;

    if (!host || !start_pair(&from, &to, &c, host, &uri, &chan)) {
        return;
    }
    set_speed(from, SLOWEST_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait_sent(from, MIDDLE_BYTES);
    g_usleep(2 * G_USEC_PER_SEC);
    info = migrate_query(from);
    sent = qdict_get_int(qdict_get_qdict(info, "ram"), "transferred");
    ms = qdict_get_int(info, "total-time");
    qobject_unref(info);
    g_test_message("%" PRId64 " bytes in %" PRId64 " ms", sent, ms);
    /* Half as fast again, and what may be in flight */
    g_assert_cmpint(sent, <,
                    SLOWEST_BYTES_PER_S * 3 / 2 * ms / 1000 + 2 * MiB);
    g_assert_cmpint(read_ram_property_int(from, "remaining"), >, 0);
    set_speed(from, FAST_BYTES_PER_S);
    check_completed(from, to, &c);
    migrate_end(from, to, false);
}

void migration_test_add_rdma(MigrationTestEnv *env)
{
    static const struct {
        const char *path;
        void (*fn)(void);
    } tests[] = {
        { "caps/source", test_caps_source },
        { "caps/dest/before", test_caps_dest_before },
        { "caps/dest/after", test_caps_dest_after },
        { "uri/bad", test_bad_uris },
        { "uri/bad-address", test_bad_addresses },
        { "uri/x-rdma", test_x_rdma },
        { "uri/channels", test_channels },
        { "uri/ipv6", test_ipv6 },
        { "listen/any4", test_listen_any4 },
        { "listen/any6", test_listen_any6 },
        { "listen/any6-from-ipv6", test_listen_any6_ipv6 },
        { "precopy/dynamic", test_dynamic },
        { "precopy/pin-all", test_pin_all },
        { "precopy/return-path", test_return_path },
        { "precopy/dynamic-live", test_dynamic_live },
        { "precopy/pin-all-live", test_pin_all_live },
        { "precopy/chain", test_chain },
        { "precopy/max-bandwidth", test_max_bandwidth },
        { "connect/slowly", test_connect_slowly },
        { "connect/cancel", test_connect_cancel },
        { "connect/yank", test_connect_yank },
        { "connect/nobody-listens", test_nobody_listens },
        { "end/cancel", test_cancel },
        { "end/yank-frozen-dest", test_yank_frozen_dest },
        { "end/yank-dest", test_yank_dest },
        { "end/dest-killed", test_dest_killed },
        { "end/source-killed", test_source_killed },
        { "other-transports/tcp", test_tcp },
    };

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("/migration/rdma/",
                                            tests[i].path, NULL);

        migration_test_add(path, tests[i].fn);
    }
    rmig_test_add_info();
    rmig_test_add_end();
    rmig_test_add_memory();
    if (env->full_set) {
        migration_test_add("/migration/rdma/precopy/framework",
                           test_framework);
    }
}
