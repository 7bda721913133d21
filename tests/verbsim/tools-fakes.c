/*
 * verbsim: what shape, trace and fault call, faked for their unit tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "tools-fakes.h"

#include <stdarg.h>
#include <stdio.h>

uint64_t fake_now_ns = 1000;
GString *fake_log;
const VsCmOps *vs_cm_ops;

static GList *timers;

uint64_t vs_now_ns(void)
{
    return fake_now_ns;
}

void (*fake_on_complaint)(void);

void vs_complain(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("verbsim: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    if (fake_on_complaint) {
        fake_on_complaint();
    }
}

void vs_timer_set(VsTimer *timer, uint64_t at_ns)
{
    vs_timer_clear(timer);
    timer->at_ns = at_ns;
    timers = g_list_prepend(timers, timer);
}

void vs_timer_clear(VsTimer *timer)
{
    timer->at_ns = 0;
    timers = g_list_remove(timers, timer);
}

unsigned fake_timers_set(void)
{
    return g_list_length(timers);
}

void fake_run_until(uint64_t ns)
{
    for (;;) {
        VsTimer *first = NULL;

        for (GList *l = timers; l; l = l->next) {
            VsTimer *timer = l->data;

            if (timer->at_ns <= ns &&
                (!first || timer->at_ns < first->at_ns)) {
                first = timer;
            }
        }
        if (!first) {
            break;
        }
        fake_now_ns = MAX(fake_now_ns, first->at_ns);
        vs_timer_clear(first);
        first->fire(first);
    }
    fake_now_ns = MAX(fake_now_ns, ns);
}

static void G_GNUC_PRINTF(1, 2) note(const char *format, ...)
{
    va_list args;

    if (!fake_log) {
        fake_log = g_string_new(NULL);
    }
    va_start(args, format);
    g_string_append_vprintf(fake_log, format, args);
    g_string_append_c(fake_log, ';');
    va_end(args);
}

char *fake_take_log(void)
{
    GString *log = fake_log ? fake_log : g_string_new(NULL);

    fake_log = NULL;
    return g_string_free(log, FALSE);
}

void vs_nic_kick(void)
{
}

void vs_nic_set_port(bool up)
{
    note("port %d", up);
}

void vs_nic_set_frozen(bool frozen)
{
    note("freeze %d", frozen);
}

void vs_nic_remove_device(void)
{
    note("remove");
}

/* Two queue pairs: 7 is connected, 8 is not. */
static VsQp qps[2];

void vs_qp_foreach(void (*fn)(VsQp *qp, void *opaque), void *opaque)
{
    vs_qp_ibv(&qps[0])->qp_num = 7;
    vs_qp_ibv(&qps[0])->state = IBV_QPS_RTS;
    vs_qp_ibv(&qps[1])->qp_num = 8;
    vs_qp_ibv(&qps[1])->state = IBV_QPS_INIT;
    fn(&qps[0], opaque);
    fn(&qps[1], opaque);
}

VsQp *vs_qp_find(uint32_t qp_num)
{
    return qp_num == 7 ? &qps[0] : qp_num == 8 ? &qps[1] : NULL;
}

void vs_qp_error(VsQp *qp)
{
    note("error %u", vs_qp_ibv(qp)->qp_num);
}

char *vs_objects_text(void)
{
    return g_strdup("qp 1\n");
}
