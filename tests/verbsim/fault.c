/*
 * fault: what goes wrong on demand
 *
 * The rules of $VERBSIM_FAULTS and of the control socket.  The rooms ask
 * vs_fault_at() at every event; what concerns one request or event is handed
 * back to them, what concerns the process is done here.  Everything runs with
 * vs_lock held, on the NIC thread or in an API call; rules "at TIME" are
 * timers of the NIC.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fault.h"

static GQueue rules = G_QUEUE_INIT;     /* FaultRule * of this process */
static FaultParse parse;
static VsTimer link_timer, freeze_timer, receives_timer, remove_timer;

bool vs_receives_refused;

/* "at TIME" of the script counts from here. */
static uint64_t process_start_ns;

static void __attribute__((constructor)) note_start(void)
{
    process_start_ns = vs_now_ns();
}

/* -------------------------------------------------- actions of the process */

static void link_up(VsTimer *timer G_GNUC_UNUSED)
{
    VS_TRACE("fault", "event=time action=link-up");
    vs_nic_set_port(true);
}

static void unfreeze(VsTimer *timer G_GNUC_UNUSED)
{
    VS_TRACE("fault", "event=time action=unfreeze");
    vs_nic_set_frozen(false);
}

static void accept_receives(VsTimer *timer G_GNUC_UNUSED)
{
    VS_TRACE("fault", "event=time action=accept-receives");
    vs_receives_refused = false;
}

static void remove_device(VsTimer *timer G_GNUC_UNUSED)
{
    vs_nic_remove_device();
}

static void collect_connected(VsQp *qp, void *opaque)
{
    enum ibv_qp_state state = vs_qp_ibv(qp)->state;

    if (state == IBV_QPS_RTR || state == IBV_QPS_RTS ||
        state == IBV_QPS_SQD) {
        g_array_append_val((GArray *)opaque, vs_qp_ibv(qp)->qp_num);
    }
}

void vs_fault_disconnect(uint32_t qp_num)
{
    VsQp *qp;

    if (vs_cm_ops && vs_cm_ops->disconnect_qp) {
        vs_cm_ops->disconnect_qp(qp_num);
    }
    qp = vs_qp_find(qp_num);
    if (qp) {
        vs_qp_error(qp);
    }
}

static void disconnect_all(void)
{
    g_autoptr(GArray) numbers = g_array_new(false, false, sizeof(uint32_t));

    vs_qp_foreach(collect_connected, numbers);
    for (unsigned i = 0; i < numbers->len; i++) {
        vs_fault_disconnect(g_array_index(numbers, uint32_t, i));
    }
}

static void act_on_process(const FaultRule *rule)
{
    uint64_t until = rule->for_ns ? vs_now_ns() + rule->for_ns : 0;

    switch (rule->effect) {
    case EFFECT_VERDICT:
        if (rule->timed) {
            disconnect_all();           /* the only one that has a time */
        }
        break;
    case EFFECT_LINK_DOWN:
        vs_timer_clear(&link_timer);
        vs_nic_set_port(false);
        if (until) {
            link_timer.fire = link_up;
            vs_timer_set(&link_timer, until);
        }
        break;
    case EFFECT_LINK_UP:
        vs_timer_clear(&link_timer);
        vs_nic_set_port(true);
        break;
    case EFFECT_FREEZE:
        vs_timer_clear(&freeze_timer);
        vs_nic_set_frozen(true);
        if (until) {
            freeze_timer.fire = unfreeze;
            vs_timer_set(&freeze_timer, until);
        }
        break;
    case EFFECT_UNFREEZE:
        vs_timer_clear(&freeze_timer);
        vs_nic_set_frozen(false);
        break;
    case EFFECT_REFUSE_RECEIVES:
        vs_timer_clear(&receives_timer);
        vs_receives_refused = true;
        if (until) {
            receives_timer.fire = accept_receives;
            vs_timer_set(&receives_timer, until);
        }
        break;
    case EFFECT_ACCEPT_RECEIVES:
        vs_timer_clear(&receives_timer);
        vs_receives_refused = false;
        break;
    case EFFECT_REMOVE_DEVICE:
        /* On the NIC thread: the caller is in the midst of a queue pair. */
        remove_timer.fire = remove_device;
        vs_timer_set(&remove_timer, vs_now_ns());
        break;
    }
}

/* ------------------------------------------------------------------- rules */

/* Whether @rule, which has just seen an event of its kind, acts on it. */
static bool is_due(FaultRule *rule)
{
    switch (rule->when) {
    case FAULT_NTH:
        return rule->seen >= rule->n;
    case FAULT_EVERY:
        return rule->seen % rule->n == 0;
    case FAULT_RANDOM:
        return g_rand_double(rule->rand) < rule->probability;
    }
    g_assert_not_reached();
}

static void note_hit(FaultRule *rule, const char *name, uint32_t qp_num)
{
    rule->hits++;
    rule->spent = rule->timed || rule->when == FAULT_NTH;
    vs_stats->faults++;
    VS_TRACE("fault", "line=%u event=%s name=%s qp=%u seen=%" PRIu64
             " rule=\"%s\"", rule->line,
             rule->timed ? "time" : fault_site_name(rule->site),
             name ? name : "-", qp_num, rule->seen, rule->text);
}

static void fire_now(FaultRule *rule)
{
    note_hit(rule, NULL, 0);
    act_on_process(rule);
}

static void fire(VsTimer *timer)
{
    fire_now(timer->opaque);
}

/* "at TIME" counts from @since; what is late is done at once. */
static void arm(FaultRule *rule, uint64_t since)
{
    g_queue_push_tail(&rules, rule);
    if (rule->timed && since + rule->after_ns <= vs_now_ns()) {
        fire_now(rule);
    } else if (rule->timed) {
        rule->timer.fire = fire;
        rule->timer.opaque = rule;
        vs_timer_set(&rule->timer, since + rule->after_ns);
    }
}

VsVerdict vs_fault_at(VsSite site, const char *name, uint32_t qp_num)
{
    VsVerdict verdict = { .action = VS_ACT_NONE };

    for (GList *l = rules.head; l; l = l->next) {
        FaultRule *rule = l->data;

        if (rule->timed || rule->spent || rule->site != site ||
            (rule->name && g_strcmp0(rule->name, name))) {
            continue;
        }
        rule->seen++;
        if (!is_due(rule)) {
            continue;
        }
        /* One verdict an event: a second rule has to wait for the next. */
        if (rule->effect == EFFECT_VERDICT) {
            if (verdict.action != VS_ACT_NONE) {
                continue;
            }
            verdict = rule->verdict;
        }
        note_hit(rule, name, qp_num);
        act_on_process(rule);
    }
    return verdict;
}

/* --------------------------------------------------------- script, commands */

void vs_fault_load(void)
{
    const char *path = getenv("VERBSIM_FAULTS");
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) err = NULL;

    if (!path || !*path) {
        return;
    }
    if (!g_file_get_contents(path, &text, NULL, &err)) {
        vs_complain("VERBSIM_FAULTS: %s", err->message);
        _exit(1);
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        g_autofree char *error = NULL;
        FaultRule *rule;

        if (!fault_parse_line(&parse, lines[i], i + 1, &rule, &error)) {
            vs_complain("%s:%u: %s", path, i + 1, error);
            _exit(1);
        }
        if (rule && rule->mine) {
            arm(rule, process_start_ns);
        } else {
            fault_rule_free(rule);
        }
    }
}

static void clear_rules(void)
{
    FaultRule *rule;

    while ((rule = g_queue_pop_head(&rules))) {
        vs_timer_clear(&rule->timer);
        fault_rule_free(rule);
    }
    /* A script that is told anew draws the same random numbers. */
    parse = (FaultParse) { 0 };
}

static char *stats(void)
{
    g_autofree char *counters = vs_stats_text();
    GString *text = g_string_new(counters);

    for (GList *l = rules.head; l; l = l->next) {
        const FaultRule *rule = l->data;

        g_string_append_printf(text, "rule line=%u seen=%" PRIu64 " hits=%"
                               PRIu64 " %s\n", rule->line, rule->seen,
                               rule->hits, rule->text);
    }
    return g_string_free(text, FALSE);
}

char *vs_fault_command(const char *line)
{
    g_autofree char *command = g_strstrip(g_strdup(line));
    g_autofree char *error = NULL;
    FaultRule *rule;

    if (!strcmp(command, "stats")) {
        return stats();
    }
    if (!strcmp(command, "objects")) {
        return vs_objects_text();
    }
    if (!strcmp(command, "clear")) {
        clear_rules();
        VS_TRACE("command", "clear");
        return g_strdup("ok\n");
    }
    if (!fault_parse_line(&parse, command, 0, &rule, &error)) {
        return g_strdup_printf("error: %s\n", error);
    }
    VS_TRACE("command", "\"%s\"", command);
    if (!rule) {
        return g_strdup("ok\n");
    }
    if (!rule->mine) {
        fault_rule_free(rule);
        return g_strdup_printf("ok, but not for %s\n", vs_name());
    }
    arm(rule, vs_now_ns());
    return g_strdup("ok\n");
}
