/*
 * verbsim: the objects that a program has made and must destroy
 *
 * Called by the functions of libibverbs on the program's threads.  The tables
 * tell a live object from a pointer that was freed, without looking at what it
 * points to, and say at exit what is left.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"

#include <inttypes.h>
#include <time.h>

enum { PATIENCE_SECONDS = 2 };

/* As the kernel's resource tracking has them, where it does. */
static const char *const kind_words[VS_KINDS] = {
    [VS_KIND_CONTEXT] = "context",
    [VS_KIND_PD] = "pd",
    [VS_KIND_MR] = "mr",
    [VS_KIND_CHANNEL] = "comp_channel",
    [VS_KIND_CQ] = "cq",
    [VS_KIND_QP] = "qp",
};

static const char *const kind_names[VS_KINDS] = {
    [VS_KIND_CONTEXT] = "device context",
    [VS_KIND_PD] = "protection domain",
    [VS_KIND_MR] = "memory region",
    [VS_KIND_CHANNEL] = "completion channel",
    [VS_KIND_CQ] = "completion queue",
    [VS_KIND_QP] = "queue pair",
};

static GHashTable *objects[VS_KINDS];   /* sets */

void vs_object_add(VsKind kind, void *object)
{
    if (!objects[kind]) {
        objects[kind] = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_add(objects[kind], object);
}

bool vs_object_check(VsKind kind, const void *object, const char *function)
{
    if (objects[kind] && g_hash_table_contains(objects[kind], object)) {
        return true;
    }
    vs_complain("%s(%p): no such %s; destroyed already?", function, object,
                kind_names[kind]);
    return false;
}

void vs_object_remove(VsKind kind, void *object)
{
    g_hash_table_remove(objects[kind], object);
}

unsigned vs_object_count(VsKind kind)
{
    return objects[kind] ? g_hash_table_size(objects[kind]) : 0;
}

void vs_object_foreach(VsKind kind, void (*fn)(void *object, void *opaque),
                       void *opaque)
{
    GHashTableIter iter;
    void *object;

    if (!objects[kind]) {
        return;
    }
    g_hash_table_iter_init(&iter, objects[kind]);
    while (g_hash_table_iter_next(&iter, &object, NULL)) {
        fn(object, opaque);
    }
}

uint32_t vs_object_handle(void)
{
    static uint32_t last;

    return ++last;
}

void vs_wait_idle(const unsigned *count, const char *what)
{
    struct timespec until;
    bool said = false;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += PATIENCE_SECONDS;
    while (*count) {
        if (said) {
            pthread_cond_wait(&vs_idle, &vs_lock);
        } else if (pthread_cond_clockwait(&vs_idle, &vs_lock, CLOCK_MONOTONIC,
                                          &until) == ETIMEDOUT) {
            vs_complain("still waiting: %s (%u)", what, *count);
            said = true;
        }
    }
}

/* ----------------------------------------------------- what is there, leaks */

static void count_our_contexts(void *object, void *opaque)
{
    const VsContext *context = object;

    *(unsigned *)opaque += context->by_cm;
}

static void count_our_domains(void *object, void *opaque)
{
    const VsPd *pd = object;

    *(unsigned *)opaque += pd->by_cm;
}

/* Without librdmacm's own. */
static unsigned count_of_program(VsKind kind)
{
    unsigned ours = 0;

    if (kind == VS_KIND_CONTEXT) {
        vs_object_foreach(kind, count_our_contexts, &ours);
    } else if (kind == VS_KIND_PD) {
        vs_object_foreach(kind, count_our_domains, &ours);
    }
    return vs_object_count(kind) - ours;
}

char *vs_objects_text(void)
{
    unsigned ids = 0, channels = 0;
    GString *text = g_string_new(NULL);

    for (VsKind kind = 0; kind < VS_KINDS; kind++) {
        g_string_append_printf(text, "%s %u\n", kind_words[kind],
                               count_of_program(kind));
    }
    if (vs_cm_ops && vs_cm_ops->count) {
        vs_cm_ops->count(&ids, &channels);
    }
    g_string_append_printf(text, "cm_id %u\ncm_channel %u\npinned_bytes %"
                           PRIu64 "\n", ids, channels,
                           vs_stats->pinned_bytes);
    return g_string_free(text, FALSE);
}

unsigned vs_device_report_leaks(void)
{
    unsigned all = 0;

    for (VsKind kind = 0; kind < VS_KINDS; kind++) {
        unsigned left = count_of_program(kind);

        if (left) {
            vs_complain("leak: %u %s%s left at exit", left, kind_names[kind],
                        left == 1 ? "" : "s");
            VS_TRACE("leak", "kind=\"%s\" count=%u", kind_names[kind], left);
        }
        all += left;
    }
    if (vs_cm_ops && vs_cm_ops->report_leaks) {
        all += vs_cm_ops->report_leaks();
    }
    return all;
}
