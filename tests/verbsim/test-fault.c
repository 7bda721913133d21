/*
 * Unit tests of fault: the grammar in full, counting, chance, and the clock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "fault.h"
#include "tools-fakes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <glib/gstdio.h>

#define MS UINT64_C(1000000)

/* ----------------------------------------------------------------- helpers */

static void command(const char *line, const char *expected)
{
    g_autofree char *answer = vs_fault_command(line);

    g_assert_cmpstr(answer, ==, expected);
}

static void arm(const char *line)
{
    command(line, "ok\n");
}

static void clear(void)
{
    g_autofree char *log = NULL;

    command("clear", "ok\n");
    log = fake_take_log();
}

static void expect_log(const char *expected)
{
    g_autofree char *log = fake_take_log();

    g_assert_cmpstr(log, ==, expected);
}

static VsAction at(VsSite site, const char *name)
{
    return vs_fault_at(site, name, 7).action;
}

static FaultRule *parse(const char *text)
{
    FaultParse state = { 0 };
    g_autofree char *error = NULL;
    FaultRule *rule = NULL;

    if (!fault_parse_line(&state, text, 1, &rule, &error)) {
        g_error("%s: %s", text, error);
    }
    g_assert_nonnull(rule);
    return rule;
}

static void refuses(const char *text, const char *because)
{
    FaultParse state = { 0 };
    g_autofree char *error = NULL;
    FaultRule *rule = NULL;

    g_assert_false(fault_parse_line(&state, text, 1, &rule, &error));
    g_assert_null(rule);
    if (!strstr(error, because)) {
        g_error("%s: \"%s\" does not say \"%s\"", text, error, because);
    }
}

/* ----------------------------------------------------------------- grammar */

static void test_actions(void)
{
    static const struct {
        const char *text;
        VsAction action;
        int status, error, reason;
        uint64_t delay_ns;
    } cases[] = {
        { "*: on write: complete REM_ACCESS_ERR", VS_ACT_COMPLETE,
          IBV_WC_REM_ACCESS_ERR, 0, 0, 0 },
        { "*: on register: fail EPERM", VS_ACT_FAIL, 0, EPERM, 0, 0 },
        { "*: on send: delay 1.5ms", VS_ACT_DELAY, 0, 0, 0, 1500000 },
        { "*: on read: lose", VS_ACT_LOSE, 0, 0, 0, 0 },
        { "*: on cm: duplicate", VS_ACT_DUPLICATE, 0, 0, 0, 0 },
        { "*: on recv: disconnect", VS_ACT_DISCONNECT, 0, 0, 0, 0 },
        { "*: on cm CONNECT_REQUEST: reject", VS_ACT_REJECT, 0, 0, 28, 0 },
        { "*: on cm CONNECT_REQUEST: reject 8", VS_ACT_REJECT, 0, 0, 8, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        FaultRule *rule = parse(cases[i].text);

        g_assert_cmpint(rule->effect, ==, EFFECT_VERDICT);
        g_assert_cmpint(rule->verdict.action, ==, cases[i].action);
        g_assert_cmpint(rule->verdict.status, ==, cases[i].status);
        g_assert_cmpint(rule->verdict.error, ==, cases[i].error);
        g_assert_cmpint(rule->verdict.reason, ==, cases[i].reason);
        g_assert_cmpuint(rule->verdict.delay_ns, ==, cases[i].delay_ns);
        fault_rule_free(rule);
    }
}

static void test_process_actions(void)
{
    static const struct {
        const char *text;
        FaultEffect effect;
        uint64_t for_ns;
    } cases[] = {
        { "*: on write: link down", EFFECT_LINK_DOWN, 0 },
        { "*: at 2s: link down for 500ms", EFFECT_LINK_DOWN, 500 * MS },
        { "*: at 2s: link up", EFFECT_LINK_UP, 0 },
        { "*: on cm ESTABLISHED: freeze for 1s", EFFECT_FREEZE, 1000 * MS },
        { "*: at 0: unfreeze", EFFECT_UNFREEZE, 0 },
        { "*: on recv START: refuse-receives", EFFECT_REFUSE_RECEIVES, 0 },
        { "*: at 1s: refuse-receives for 2s", EFFECT_REFUSE_RECEIVES,
          2000 * MS },
        { "*: at 2s: accept-receives", EFFECT_ACCEPT_RECEIVES, 0 },
        { "*: on deregister 3: remove-device", EFFECT_REMOVE_DEVICE, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        FaultRule *rule = parse(cases[i].text);

        g_assert_cmpint(rule->effect, ==, cases[i].effect);
        g_assert_cmpuint(rule->for_ns, ==, cases[i].for_ns);
        fault_rule_free(rule);
    }
}

static void test_triggers(void)
{
    FaultRule *rule = parse("  src :on\tsend READY  every 3 : lose # why");

    g_assert_true(rule->mine);
    g_assert_cmpstr(rule->text, ==, "src :on send READY every 3 : lose");
    g_assert_cmpint(rule->site, ==, VS_SITE_SEND);
    g_assert_cmpstr(rule->name, ==, "READY");
    g_assert_cmpint(rule->when, ==, FAULT_EVERY);
    g_assert_cmpuint(rule->n, ==, 3);
    fault_rule_free(rule);

    rule = parse("dst: on write: lose");
    g_assert_false(rule->mine);
    fault_rule_free(rule);
    rule = parse("s?c: on write 12: lose");
    g_assert_true(rule->mine);
    g_assert_cmpint(rule->when, ==, FAULT_NTH);
    g_assert_cmpuint(rule->n, ==, 12);
    fault_rule_free(rule);
    /* WHO may be left out. */
    rule = parse("on recv TYPE_16 random 0.25: lose");
    g_assert_true(rule->mine);
    g_assert_cmpint(rule->when, ==, FAULT_RANDOM);
    g_assert_cmpfloat(rule->probability, ==, 0.25);
    fault_rule_free(rule);
    rule = parse("at 1500ms: link up");
    g_assert_true(rule->timed);
    g_assert_cmpuint(rule->after_ns, ==, 1500 * MS);
    fault_rule_free(rule);
}

/* The names of the end of a migration, and of what has none. */
static void test_control_names(void)
{
    static const char *const names[] = {
        "ERROR", "READY", "QEMU_FILE", "REGISTER_FINISHED",
        "UNREGISTER_FINISHED", "LOAD_REQUEST", "LOADED", "START", "STARTED",
        "TYPE_16", "TYPE_31",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *text = g_strdup_printf(
            "*: on send %s: link down for %us", names[i], i + 1);
        FaultRule *rule = parse(text);

        g_assert_cmpstr(rule->name, ==, names[i]);
        g_assert_cmpuint(rule->for_ns, ==, (i + 1) * 1000 * MS);
        fault_rule_free(rule);
    }
    refuses("*: on send TYPE_12: lose", "no control message is called");
}

static void test_receives(void)
{
    arm("on recv READY 2: refuse-receives for 2s");
    at(VS_SITE_RECV, "READY");
    g_assert_false(vs_receives_refused);
    g_assert_cmpint(at(VS_SITE_RECV, "READY"), ==, VS_ACT_NONE);
    g_assert_true(vs_receives_refused);
    fake_run_until(fake_now_ns + 1999 * MS);
    g_assert_true(vs_receives_refused);
    fake_run_until(fake_now_ns + 1 * MS);
    g_assert_false(vs_receives_refused);
    /* Without an end, until it is told; an earlier one's end is no more. */
    arm("now: refuse-receives for 1s");
    arm("now: refuse-receives");
    fake_run_until(fake_now_ns + 5000 * MS);
    g_assert_true(vs_receives_refused);
    arm("now: accept-receives");
    g_assert_false(vs_receives_refused);
    clear();
}

/* Every errno that libc has. */
static void test_errnos(void)
{
    const char *(*errno_name)(int) = strerrorname_np;
    unsigned known = 0;

    for (int i = 1; i < 200; i++) {
        const char *name = errno_name(i);
        g_autofree char *text = NULL;
        FaultRule *rule;

        if (!name) {
            continue;
        }
        text = g_strdup_printf("*: on register: fail %s", name);
        rule = parse(text);
        g_assert_cmpint(rule->verdict.error, ==, i);
        fault_rule_free(rule);
        known++;
    }
    g_assert_cmpuint(known, >, 100);
}

static void test_statuses(void)
{
#define STATUS(name) { #name, IBV_WC_##name }
    static const struct {
        const char *name;
        enum ibv_wc_status status;
    } all[] = {
        STATUS(LOC_LEN_ERR), STATUS(LOC_QP_OP_ERR), STATUS(LOC_EEC_OP_ERR),
        STATUS(LOC_PROT_ERR), STATUS(WR_FLUSH_ERR), STATUS(MW_BIND_ERR),
        STATUS(BAD_RESP_ERR), STATUS(LOC_ACCESS_ERR), STATUS(REM_INV_REQ_ERR),
        STATUS(REM_ACCESS_ERR), STATUS(REM_OP_ERR), STATUS(RETRY_EXC_ERR),
        STATUS(RNR_RETRY_EXC_ERR), STATUS(LOC_RDD_VIOL_ERR),
        STATUS(REM_INV_RD_REQ_ERR), STATUS(REM_ABORT_ERR),
        STATUS(INV_EECN_ERR), STATUS(INV_EEC_STATE_ERR), STATUS(FATAL_ERR),
        STATUS(RESP_TIMEOUT_ERR), STATUS(GENERAL_ERR), STATUS(TM_ERR),
        STATUS(TM_RNDV_INCOMPLETE),
    };
#undef STATUS

    g_assert_cmpuint(G_N_ELEMENTS(all), ==, IBV_WC_TM_RNDV_INCOMPLETE);
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *text =
            g_strdup_printf("*: on send: complete %s", all[i].name);
        FaultRule *rule = parse(text);

        g_assert_cmpint(rule->verdict.status, ==, all[i].status);
        fault_rule_free(rule);
    }
    refuses("*: on send: complete SUCCESS", "IBV_WC_SUCCESS");
}

static void test_refusals(void)
{
    refuses("nonsense", "WHO: on EVENT: ACTION");
    refuses("src: on write", "WHO: on EVENT: ACTION");
    refuses("two words: on write: lose", "WHO: on EVENT: ACTION");
    refuses("src: when write: lose", "neither \"on EVENT\"");
    refuses("src: on flush: lose", "no event is called \"flush\"");
    refuses("src: on: lose", "no event is called \"\"");
    refuses("src: on write READY: lose", "a write has no name");
    refuses("src: on send PONY: lose", "called PONY");
    refuses("src: on cm PONY: lose", "RDMA_CM_EVENT_PONY");
    refuses("src: on cm RDMA_CM_EVENT_ESTABLISHED: lose", "no CM event");
    refuses("src: on write 0: lose", "no count from 1");
    refuses("src: on write -1: lose", "no count from 1");
    refuses("src: on write every: lose", "no count from 1");
    refuses("src: on write 1 2: lose", "unexpected \"2\"");
    refuses("src: on write random 0: lose", "probability");
    refuses("src: on write random 1.5: lose", "probability");
    refuses("src: at 5: link up", "no time like");
    refuses("src: at 5ms now: link up", "unexpected \"now\"");
    refuses("src: on write: explode", "no action is called \"explode\"");
    refuses("src: on write:", "no action is called \"\"");
    refuses("src: on write: reject", "\"reject\" cannot happen on a write");
    refuses("src: on send: fail ENOMEM", "cannot happen on a send");
    refuses("src: on register: fail EFUN", "no errno is called \"EFUN\"");
    refuses("src: on cm: complete FATAL_ERR", "cannot happen on a cm");
    refuses("src: at 1s: lose", "\"lose\" cannot happen at a time");
    refuses("src: on write: complete", "IBV_WC_");
    refuses("src: on write: delay", "no time like");
    refuses("src: on write: delay -1ms", "no time like");
    refuses("src: on cm: reject 70000", "no reject reason");
    refuses("src: on write: link", "wants \"down\" or \"up\"");
    refuses("src: on write: link down for 0", "above 0");
    refuses("src: on write: link up for 1s", "unexpected \"for\"");
    refuses("src: on write: lose it", "unexpected \"it\"");
    refuses("seed many", "no seed");
}

/* ---------------------------------------------------------------- counting */

static void test_nth(void)
{
    VsVerdict verdict;

    arm("src: on send READY 2: complete FATAL_ERR");
    g_assert_cmpint(at(VS_SITE_SEND, "READY"), ==, VS_ACT_NONE);
    g_assert_cmpint(at(VS_SITE_SEND, "QEMU_FILE"), ==, VS_ACT_NONE);
    g_assert_cmpint(at(VS_SITE_SEND, NULL), ==, VS_ACT_NONE);
    g_assert_cmpint(at(VS_SITE_RECV, "READY"), ==, VS_ACT_NONE);
    verdict = vs_fault_at(VS_SITE_SEND, "READY", 7);
    g_assert_cmpint(verdict.action, ==, VS_ACT_COMPLETE);
    g_assert_cmpint(verdict.status, ==, IBV_WC_FATAL_ERR);
    /* Only once. */
    g_assert_cmpint(at(VS_SITE_SEND, "READY"), ==, VS_ACT_NONE);
    g_assert_cmpint(at(VS_SITE_SEND, "READY"), ==, VS_ACT_NONE);
    clear();
}

static void test_every(void)
{
    unsigned hits = 0;

    arm("src: on write every 4: lose");
    for (unsigned i = 1; i <= 20; i++) {
        bool hit = at(VS_SITE_WRITE, NULL) == VS_ACT_LOSE;

        g_assert_cmpint(hit, ==, i % 4 == 0);
        hits += hit;
    }
    g_assert_cmpuint(hits, ==, 5);
    clear();
}

/* One verdict an event: the second rule waits for the next event. */
static void test_two_rules(void)
{
    arm("on register 2: fail ENOMEM");
    arm("on register 2: fail EPERM");
    g_assert_cmpint(vs_fault_at(VS_SITE_REGISTER, NULL, 0).action, ==,
                    VS_ACT_NONE);
    g_assert_cmpint(vs_fault_at(VS_SITE_REGISTER, NULL, 0).error, ==, ENOMEM);
    g_assert_cmpint(vs_fault_at(VS_SITE_REGISTER, NULL, 0).error, ==, EPERM);
    g_assert_cmpint(vs_fault_at(VS_SITE_REGISTER, NULL, 0).action, ==,
                    VS_ACT_NONE);
    clear();
}

/* Process-wide actions are done, and the event goes its way. */
static void test_process_wide(void)
{
    arm("on write: link down");
    arm("on write: lose");
    g_assert_cmpint(at(VS_SITE_WRITE, NULL), ==, VS_ACT_LOSE);
    expect_log("port 0;");
    clear();
}

static char *draw(const char *seed, unsigned line)
{
    GString *hits = g_string_new(NULL);

    clear();
    arm(seed);
    for (unsigned i = 1; i < line; i++) {
        command("other: on write: lose", "ok, but not for src\n");
    }
    arm("on write random 0.3: lose");
    for (unsigned i = 0; i < 200; i++) {
        g_string_append_c(hits, at(VS_SITE_WRITE, NULL) == VS_ACT_LOSE
                          ? 'x' : '.');
    }
    return g_string_free(hits, FALSE);
}

static unsigned count_hits(const char *text)
{
    unsigned n = 0;

    for (; *text; text++) {
        n += *text == 'x';
    }
    return n;
}

static void test_random(void)
{
    /* clear starts the count of rules anew, so a script draws the same. */
    g_autofree char *one = draw("seed 1", 1);
    g_autofree char *again = draw("seed 1", 1);
    g_autofree char *two = draw("seed 2", 1);
    g_autofree char *second = draw("seed 1", 2);

    g_assert_cmpstr(one, ==, again);
    g_assert_cmpstr(one, !=, two);
    g_assert_cmpstr(one, !=, second);
    g_assert_cmpuint(count_hits(one), >, 30);
    g_assert_cmpuint(count_hits(one), <, 90);
    clear();
}

/* ------------------------------------------------------------------- clock */

static void test_times(void)
{
    uint64_t start = fake_now_ns;

    arm("at 10ms: link down for 5ms");
    arm("at 12ms: freeze");
    arm("at 20ms: unfreeze");
    fake_run_until(start + 9 * MS);
    expect_log("");
    fake_run_until(start + 11 * MS);
    expect_log("port 0;");
    fake_run_until(start + 14 * MS);
    expect_log("freeze 1;");
    fake_run_until(start + 16 * MS);
    expect_log("port 1;");
    fake_run_until(start + 30 * MS);
    expect_log("freeze 0;");
    g_assert_cmpuint(fake_timers_set(), ==, 0);
    clear();
}

/* A second "link down" while the first is to end moves the end. */
static void test_link_down_again(void)
{
    uint64_t start = fake_now_ns;

    arm("now: link down for 5ms");
    fake_run_until(start + 4 * MS);
    arm("now: link down for 5ms");
    fake_run_until(start + 8 * MS);
    expect_log("port 0;port 0;");
    fake_run_until(start + 10 * MS);
    expect_log("port 1;");
    arm("now: link down for 5ms");
    arm("now: link up");
    fake_run_until(start + 30 * MS);
    expect_log("port 0;port 1;");
    clear();
}

/* The device goes on the NIC's thread, not within the event. */
static void test_remove_device(void)
{
    arm("on send: remove-device");
    g_assert_cmpint(at(VS_SITE_SEND, "READY"), ==, VS_ACT_NONE);
    expect_log("");
    fake_run_until(fake_now_ns);
    expect_log("remove;");
    clear();
}

static void fake_disconnect(uint32_t qp_num)
{
    g_autofree char *log = fake_take_log();

    fake_log = g_string_new(log);
    g_string_append_printf(fake_log, "disconnect %u;", qp_num);
}

static void test_disconnect_all(void)
{
    static const VsCmOps ops = { .disconnect_qp = fake_disconnect };

    arm("now: disconnect");
    expect_log("error 7;");
    vs_cm_ops = &ops;
    arm("now: disconnect");
    expect_log("disconnect 7;error 7;");
    vs_cm_ops = NULL;
    clear();
}

/* ---------------------------------------------------------------- commands */

static void test_commands(void)
{
    g_autofree char *error = NULL;
    g_autofree char *stats = NULL;
    g_autofree char *objects = NULL;
    g_autofree char *after = NULL;

    vs_stats->faults = 0;
    vs_stats->control[2] = 3;
    arm("on write: lose");
    g_assert_cmpint(at(VS_SITE_WRITE, NULL), ==, VS_ACT_LOSE);
    command("  ", "ok\n");
    command("other: now: link down", "ok, but not for src\n");
    expect_log("");
    error = vs_fault_command("explode");
    g_assert_true(g_str_has_prefix(error, "error: "));

    stats = vs_fault_command("stats");
    g_assert_nonnull(strstr(stats, "faults 1\n"));
    g_assert_nonnull(strstr(stats, "control_READY 3\n"));
    g_assert_nonnull(strstr(stats, "control_TYPE_31 0\n"));
    g_assert_nonnull(strstr(stats,
                            "rule line=0 seen=1 hits=1 on write: lose\n"));
    objects = vs_fault_command("objects");
    g_assert_cmpstr(objects, ==, "qp 1\n");
    arm("at 1s: link down");
    g_assert_cmpuint(fake_timers_set(), ==, 1);
    clear();
    g_assert_cmpuint(fake_timers_set(), ==, 0);
    after = vs_fault_command("stats");
    g_assert_null(strstr(after, "rule "));
}

static void write_script(const char *text)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("vs-fault-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_setenv("VERBSIM_FAULTS", path, true);
}

static void drop_script(void)
{
    g_unlink(g_getenv("VERBSIM_FAULTS"));
    g_unsetenv("VERBSIM_FAULTS");
}

static void test_script(void)
{
    g_autofree char *stats = NULL;

    write_script("# a script\nseed 9\n\ndst: on write: lose\n"
                 "src: on write 2: lose\n");
    vs_fault_load();
    drop_script();
    g_assert_cmpint(at(VS_SITE_WRITE, NULL), ==, VS_ACT_NONE);
    g_assert_cmpint(at(VS_SITE_WRITE, NULL), ==, VS_ACT_LOSE);
    stats = vs_fault_command("stats");
    g_assert_nonnull(strstr(stats, "rule line=5 seen=2 hits=1 src: on"));
    clear();
}

static void test_bad_script(void)
{
    if (g_test_subprocess()) {
        write_script("src: on write: lose\nsrc: on write: explode\n");
        vs_fault_load();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*:2: no action is called \"explode\"*");
}

int main(int argc, char **argv)
{
    g_setenv("VERBSIM_NAME", "src", true);
    g_unsetenv("VERBSIM_TRACE");
    g_unsetenv("VERBSIM_FAULTS");
    g_test_init(&argc, &argv, NULL);
    vs_trace_start(3);
    g_test_add_func("/fault/actions", test_actions);
    g_test_add_func("/fault/process-actions", test_process_actions);
    g_test_add_func("/fault/triggers", test_triggers);
    g_test_add_func("/fault/control-names", test_control_names);
    g_test_add_func("/fault/receives", test_receives);
    g_test_add_func("/fault/errnos", test_errnos);
    g_test_add_func("/fault/statuses", test_statuses);
    g_test_add_func("/fault/refusals", test_refusals);
    g_test_add_func("/fault/nth", test_nth);
    g_test_add_func("/fault/every", test_every);
    g_test_add_func("/fault/two-rules", test_two_rules);
    g_test_add_func("/fault/process-wide", test_process_wide);
    g_test_add_func("/fault/random", test_random);
    g_test_add_func("/fault/times", test_times);
    g_test_add_func("/fault/link-down-again", test_link_down_again);
    g_test_add_func("/fault/remove-device", test_remove_device);
    g_test_add_func("/fault/disconnect-all", test_disconnect_all);
    g_test_add_func("/fault/commands", test_commands);
    g_test_add_func("/fault/script", test_script);
    g_test_add_func("/fault/bad-script", test_bad_script);
    return g_test_run();
}
