/*
 * fault: what its two files share - the rules of a script
 *
 * The grammar is in docs/verbsim.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_FAULT_H
#define VERBSIM_FAULT_H

#include "vs.h"

typedef enum FaultEffect {
    EFFECT_VERDICT,             /* for the caller of vs_fault_at() */
    EFFECT_LINK_DOWN,
    EFFECT_LINK_UP,
    EFFECT_FREEZE,
    EFFECT_UNFREEZE,
    EFFECT_REFUSE_RECEIVES,
    EFFECT_ACCEPT_RECEIVES,
    EFFECT_REMOVE_DEVICE,
} FaultEffect;

typedef struct FaultRule {
    char *text;                 /* as it was written */
    unsigned line;              /* of the script; 0: came over the socket */
    bool mine;                  /* WHO matches this process */

    bool timed;                 /* at a time, else on an event */
    uint64_t after_ns;          /* since the script was armed */
    VsSite site;
    char *name;                 /* control type or CM event; NULL: any */
    enum { FAULT_NTH, FAULT_EVERY, FAULT_RANDOM } when;
    uint64_t n;
    double probability;
    GRand *rand;                /* of FAULT_RANDOM */

    FaultEffect effect;
    VsVerdict verdict;
    uint64_t for_ns;            /* link down, freeze; 0: for good */

    uint64_t seen, hits;        /* matching events; those acted upon */
    bool spent;
    VsTimer timer;
} FaultRule;

typedef struct FaultParse {
    uint32_t seed;              /* "seed N"; of the rules that follow */
    unsigned rules;             /* so far: tells their random numbers apart */
} FaultParse;

/*
 * Reads one line.  *@rule is NULL after a blank line, a comment or "seed N".
 * False with @error (g_free()) if it is bad.  @line: number, 0 if it is none.
 */
bool fault_parse_line(FaultParse *parse, const char *text, unsigned line,
                      FaultRule **rule, char **error);

/* "write", ... */
const char *fault_site_name(VsSite site);

void fault_rule_free(FaultRule *rule);

#endif
