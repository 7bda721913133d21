/*
 * fault-parse: from the lines of a fault script to rules
 *
 * Called by fault.c with vs_lock held.  Statuses, errno names and events are
 * known in full, and what could never act - a rejection of a Write, say - is
 * refused when it is read, so that a test cannot wait for it in vain.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fault.h"
#include "units.h"

/* glibc's own names: complete, and no table of ours to keep. */
static const char *(*const errno_name)(int) = strerrorname_np;
enum { LAST_ERRNO = 133 };

/* Index: enum ibv_wc_status.  Success is no fault. */
static const char *const statuses[] = {
    NULL, "LOC_LEN_ERR", "LOC_QP_OP_ERR", "LOC_EEC_OP_ERR", "LOC_PROT_ERR",
    "WR_FLUSH_ERR", "MW_BIND_ERR", "BAD_RESP_ERR", "LOC_ACCESS_ERR",
    "REM_INV_REQ_ERR", "REM_ACCESS_ERR", "REM_OP_ERR", "RETRY_EXC_ERR",
    "RNR_RETRY_EXC_ERR", "LOC_RDD_VIOL_ERR", "REM_INV_RD_REQ_ERR",
    "REM_ABORT_ERR", "INV_EECN_ERR", "INV_EEC_STATE_ERR", "FATAL_ERR",
    "RESP_TIMEOUT_ERR", "GENERAL_ERR", "TM_ERR", "TM_RNDV_INCOMPLETE",
};
G_STATIC_ASSERT(G_N_ELEMENTS(statuses) == IBV_WC_TM_RNDV_INCOMPLETE + 1);

static const char *const cm_events[] = {
    "ADDR_RESOLVED", "ADDR_ERROR", "ROUTE_RESOLVED", "ROUTE_ERROR",
    "CONNECT_REQUEST", "CONNECT_RESPONSE", "CONNECT_ERROR", "UNREACHABLE",
    "REJECTED", "ESTABLISHED", "DISCONNECTED", "DEVICE_REMOVAL",
    "MULTICAST_JOIN", "MULTICAST_ERROR", "ADDR_CHANGE", "TIMEWAIT_EXIT",
};

#define ON(site) (1u << VS_SITE_##site)
#define ON_REQUEST (ON(SEND) | ON(WRITE) | ON(READ))
#define ON_ALL (ON_REQUEST | ON(RECV) | ON(REGISTER) | ON(DEREGISTER) | ON(CM))

static const char *const sites[] = {
    [VS_SITE_SEND] = "send",
    [VS_SITE_WRITE] = "write",
    [VS_SITE_READ] = "read",
    [VS_SITE_RECV] = "recv",
    [VS_SITE_REGISTER] = "register",
    [VS_SITE_DEREGISTER] = "deregister",
    [VS_SITE_CM] = "cm",
};

/* The actions that the caller of vs_fault_at() carries out, and where. */
static const struct {
    const char *name;
    VsAction action;
    unsigned sites;
    bool timed;                 /* also "at" and "now" */
} actions[] = {
    { "complete", VS_ACT_COMPLETE, ON_REQUEST | ON(RECV), false },
    { "fail", VS_ACT_FAIL, ON(REGISTER) | ON(DEREGISTER), false },
    { "delay", VS_ACT_DELAY, ON_ALL, false },
    { "lose", VS_ACT_LOSE, ON_REQUEST | ON(RECV) | ON(CM), false },
    { "duplicate", VS_ACT_DUPLICATE, ON(CM), false },
    { "disconnect", VS_ACT_DISCONNECT, ON_REQUEST | ON(RECV) | ON(CM), true },
    { "reject", VS_ACT_REJECT, ON(CM), false },
};

/* What a consumer's reject is on the wire, in InfiniBand's CM. */
enum { REASON_CONSUMER_DEFINED = 28 };

const char *fault_site_name(VsSite site)
{
    return sites[site];
}

void fault_rule_free(FaultRule *rule)
{
    if (rule) {
        g_free(rule->text);
        g_free(rule->name);
        if (rule->rand) {
            g_rand_free(rule->rand);
        }
        g_free(rule);
    }
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FaultRule, fault_rule_free)

/* ------------------------------------------------------------------- words */

/* The words that are left to read. */
typedef struct Words {
    char **list;
    unsigned at;
} Words;

static const char *peek(const Words *words)
{
    return words->list[words->at];
}

static const char *next(Words *words)
{
    const char *word = peek(words);

    words->at += word != NULL;
    return word;
}

static bool take(Words *words, const char *word)
{
    if (g_strcmp0(peek(words), word)) {
        return false;
    }
    words->at++;
    return true;
}

/* Whether nothing is left; else an error that names what is. */
static bool at_end(const Words *words, char **error)
{
    if (peek(words)) {
        *error = g_strdup_printf("unexpected \"%s\"", peek(words));
        return false;
    }
    return true;
}

static bool next_time(Words *words, uint64_t *ns, char **error)
{
    const char *word = next(words);

    if (!word || !vs_parse_time(word, ns)) {
        *error = g_strdup_printf("\"%s\" is no time like 250ms",
                                 word ? word : "");
        return false;
    }
    return true;
}

/* ----------------------------------------------------------------- trigger */

/* Control types and CM events: any word in capitals that is known. */
static bool is_event_name(VsSite site, const char *word)
{
    if (site == VS_SITE_CM) {
        for (size_t i = 0; i < G_N_ELEMENTS(cm_events); i++) {
            if (!strcmp(cm_events[i], word)) {
                return true;
            }
        }
    }
    for (int i = 0; i < 32 && site != VS_SITE_CM; i++) {
        if (!strcmp(vs_control_name(i), word)) {
            return true;
        }
    }
    return false;
}

static bool parse_name(FaultRule *rule, Words *words, char **error)
{
    const char *word = peek(words);
    bool named = rule->site == VS_SITE_SEND || rule->site == VS_SITE_RECV ||
                 rule->site == VS_SITE_CM;

    if (!word || !g_ascii_isupper(word[0])) {
        return true;
    }
    if (!named) {
        *error = g_strdup_printf("a %s has no name like \"%s\"",
                                 sites[rule->site], word);
        return false;
    }
    if (!is_event_name(rule->site, word)) {
        *error = g_strdup_printf(rule->site == VS_SITE_CM
            ? "no CM event is called RDMA_CM_EVENT_%s"
            : "no control message is called %s (a number: TYPE_16)", word);
        return false;
    }
    rule->name = g_strdup(next(words));
    return true;
}

static bool parse_when(FaultParse *parse, FaultRule *rule, Words *words,
                       char **error)
{
    const char *word;

    rule->when = FAULT_NTH;
    rule->n = 1;
    if (!peek(words)) {
        return true;
    }
    if (take(words, "random")) {
        uint32_t seeds[] = { parse->seed, parse->rules };

        rule->when = FAULT_RANDOM;
        word = next(words);
        if (!word || !vs_parse_fraction(word, &rule->probability) ||
            rule->probability <= 0 || rule->probability > 1) {
            *error = g_strdup("random wants a probability like 0.01");
            return false;
        }
        rule->rand = g_rand_new_with_seed_array(seeds, G_N_ELEMENTS(seeds));
        return at_end(words, error);
    }
    if (take(words, "every")) {
        rule->when = FAULT_EVERY;
    }
    word = next(words);
    if (!word || !vs_parse_count(word, &rule->n) || rule->n == 0) {
        *error = g_strdup_printf("\"%s\" is no count from 1",
                                 word ? word : "");
        return false;
    }
    return at_end(words, error);
}

static bool parse_trigger(FaultParse *parse, FaultRule *rule,
                          const char *text, char **error)
{
    g_auto(GStrv) list = g_strsplit_set(text, " \t", -1);
    Words words = { list, 0 };
    const char *word;

    if (take(&words, "now")) {
        rule->timed = true;
        return at_end(&words, error);
    }
    if (take(&words, "at")) {
        rule->timed = true;
        return next_time(&words, &rule->after_ns, error) &&
               at_end(&words, error);
    }
    if (!take(&words, "on")) {
        *error = g_strdup_printf("\"%s\" is neither \"on EVENT\" nor "
                                 "\"at TIME\"", text);
        return false;
    }
    word = next(&words);
    for (size_t i = 0; word && i < G_N_ELEMENTS(sites); i++) {
        if (!strcmp(sites[i], word)) {
            rule->site = i;
            return parse_name(rule, &words, error) &&
                   parse_when(parse, rule, &words, error);
        }
    }
    *error = g_strdup_printf("no event is called \"%s\"", word ? word : "");
    return false;
}

/* ------------------------------------------------------------------ action */

static bool parse_status(FaultRule *rule, Words *words, char **error)
{
    const char *word = next(words);

    for (size_t i = 1; word && i < G_N_ELEMENTS(statuses); i++) {
        if (!strcmp(statuses[i], word)) {
            rule->verdict.status = i;
            return true;
        }
    }
    *error = g_strdup_printf("no completion error is called IBV_WC_%s",
                             word ? word : "");
    return false;
}

static bool parse_errno(FaultRule *rule, Words *words, char **error)
{
    const char *word = next(words);

    for (int i = 1; word && i <= LAST_ERRNO; i++) {
        if (!g_strcmp0(errno_name(i), word)) {
            rule->verdict.error = i;
            return true;
        }
    }
    *error = g_strdup_printf("no errno is called \"%s\"", word ? word : "");
    return false;
}

static bool parse_reason(FaultRule *rule, Words *words, char **error)
{
    uint64_t reason = REASON_CONSUMER_DEFINED;

    if (peek(words) && (!vs_parse_count(next(words), &reason) ||
                        reason == 0 || reason > 0xffff)) {
        *error = g_strdup_printf("\"%s\" is no reject reason: 1 to 65535",
                                 words->list[words->at - 1]);
        return false;
    }
    rule->verdict.reason = reason;
    return true;
}

static bool parse_argument(FaultRule *rule, Words *words, char **error)
{
    switch (rule->verdict.action) {
    case VS_ACT_COMPLETE:
        return parse_status(rule, words, error);
    case VS_ACT_FAIL:
        return parse_errno(rule, words, error);
    case VS_ACT_DELAY:
        return next_time(words, &rule->verdict.delay_ns, error);
    case VS_ACT_REJECT:
        return parse_reason(rule, words, error);
    default:
        return true;
    }
}

/* "for T", if it is there. */
static bool parse_for(FaultRule *rule, Words *words, char **error)
{
    if (!take(words, "for")) {
        return true;
    }
    if (!next_time(words, &rule->for_ns, error)) {
        return false;
    }
    if (rule->for_ns == 0) {
        *error = g_strdup("\"for\" wants a time above 0");
        return false;
    }
    return true;
}

/* Those that concern the process as a whole. */
static bool parse_process_action(FaultRule *rule, Words *words, char **error)
{
    if (take(words, "link")) {
        if (take(words, "down")) {
            rule->effect = EFFECT_LINK_DOWN;
            return parse_for(rule, words, error);
        }
        rule->effect = EFFECT_LINK_UP;
        if (!take(words, "up")) {
            *error = g_strdup("\"link\" wants \"down\" or \"up\"");
            return false;
        }
        return true;
    }
    if (take(words, "freeze")) {
        rule->effect = EFFECT_FREEZE;
        return parse_for(rule, words, error);
    }
    if (take(words, "unfreeze")) {
        rule->effect = EFFECT_UNFREEZE;
        return true;
    }
    if (take(words, "refuse-receives")) {
        rule->effect = EFFECT_REFUSE_RECEIVES;
        return parse_for(rule, words, error);
    }
    if (take(words, "accept-receives")) {
        rule->effect = EFFECT_ACCEPT_RECEIVES;
        return true;
    }
    if (take(words, "remove-device")) {
        rule->effect = EFFECT_REMOVE_DEVICE;
        return true;
    }
    *error = g_strdup_printf("no action is called \"%s\"",
                             peek(words) ? peek(words) : "");
    return false;
}

static bool parse_action(FaultRule *rule, const char *text, char **error)
{
    g_auto(GStrv) list = g_strsplit_set(text, " \t", -1);
    Words words = { list, 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(actions); i++) {
        if (!take(&words, actions[i].name)) {
            continue;
        }
        if (rule->timed ? !actions[i].timed
                        : !(actions[i].sites & (1u << rule->site))) {
            *error = g_strdup_printf("\"%s\" cannot happen %s%s",
                                     actions[i].name,
                                     rule->timed ? "at a time" : "on a ",
                                     rule->timed ? "" : sites[rule->site]);
            return false;
        }
        rule->verdict.action = actions[i].action;
        return parse_argument(rule, &words, error) && at_end(&words, error);
    }
    return parse_process_action(rule, &words, error) && at_end(&words, error);
}

/* -------------------------------------------------------------------- line */

/* Without the comment, and with single blanks. */
static char *tidy(const char *text)
{
    g_auto(GStrv) words = NULL;
    g_autofree char *line = g_strndup(text, strcspn(text, "#"));
    GString *tidied = g_string_new(NULL);

    words = g_strsplit_set(line, " \t\r\n", -1);
    for (unsigned i = 0; words[i]; i++) {
        if (*words[i]) {
            g_string_append_printf(tidied, "%s%s", tidied->len ? " " : "",
                                   words[i]);
        }
    }
    return g_string_free(tidied, FALSE);
}

static bool parse_seed(FaultParse *parse, const char *text, char **error)
{
    uint64_t seed;

    if (!vs_parse_count(text, &seed) || seed > UINT32_MAX) {
        *error = g_strdup_printf("\"%s\" is no seed", text);
        return false;
    }
    parse->seed = seed;
    return true;
}

static bool is_trigger(const char *text)
{
    return !strcmp(text, "now") || g_str_has_prefix(text, "on ") ||
           g_str_has_prefix(text, "at ");
}

bool fault_parse_line(FaultParse *parse, const char *text, unsigned line,
                      FaultRule **result, char **error)
{
    g_autofree char *tidied = tidy(text);
    g_autoptr(FaultRule) rule = NULL;
    g_auto(GStrv) parts = NULL;
    char **part;
    const char *who = "*";

    *result = NULL;
    if (!*tidied) {
        return true;
    }
    if (g_str_has_prefix(tidied, "seed ")) {
        return parse_seed(parse, tidied + strlen("seed "), error);
    }

    parts = g_strsplit(tidied, ":", 3);
    for (part = parts; *part; part++) {
        g_strstrip(*part);
    }
    part = parts;
    if (!is_trigger(part[0])) {
        who = *part++;
    }
    if (g_strv_length(part) != 2 || !*who || strchr(who, ' ')) {
        *error = g_strdup("not \"WHO: on EVENT: ACTION\" or "
                          "\"WHO: at TIME: ACTION\"");
        return false;
    }
    rule = g_new0(FaultRule, 1);
    rule->text = g_strdup(tidied);
    rule->line = line;
    rule->mine = g_pattern_match_simple(who, vs_name());
    parse->rules++;
    if (!parse_trigger(parse, rule, part[0], error) ||
        !parse_action(rule, part[1], error)) {
        return false;
    }
    *result = g_steal_pointer(&rule);
    return true;
}
