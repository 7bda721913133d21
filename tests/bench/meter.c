/*
 * rdma-bench: clocks, what a process takes, and the timeline
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The timeline is written by a thread of its own while the source works; it
 * reads the counters, and the pages that remain through an atomic.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bench.h"

#define SAMPLE_US 5000

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (to_ns - from_ns) / 1e9 : 0;
}

double load_average(void)
{
    double load;

    return getloadavg(&load, 1) == 1 ? load : 0;
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* A line of /proc/self/status, in bytes */
static uint64_t status_bytes(const char *key)
{
    FILE *file = fopen("/proc/self/status", "re");
    size_t len = strlen(key);
    uint64_t kib = 0;
    char line[256];

    if (!file) {
        fail("/proc/self/status: %m");
    }
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, key, len) == 0 && line[len] == ':') {
            kib = g_ascii_strtoull(line + len + 1, NULL, 10);
        }
    }
    fclose(file);
    return kib << 10;
}

/* Makes VmHWM start again from what is resident now */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "we");

    if (!file || fputs("5", file) < 0 || fclose(file) != 0) {
        fail("/proc/self/clear_refs: %m");
    }
}

void meter_start(BenchMeter *meter)
{
    reset_peak();
    meter->guest = memory_resident();
    meter->rss = status_bytes("VmRSS");
    meter->cpu_s = cpu_seconds();
}

BenchUsage meter_stop(const BenchMeter *meter)
{
    BenchUsage usage = { .cpu_s = cpu_seconds() - meter->cpu_s };
    uint64_t peak = status_bytes("VmHWM"), base;

    usage.guest_rss = memory_resident() - meter->guest;
    base = meter->rss + usage.guest_rss;
    usage.transport_rss = peak > base ? peak - base : 0;
    return usage;
}

/* ---- the timeline ---- */

static struct {
    GThread *thread;
    RMigSource *source;
    FILE *file;
    unsigned run;
    uint64_t start_ns;
    atomic_bool stop;
    _Atomic uint64_t remaining;
} timeline;

static void sample(void)
{
    RMigCounters c;

    rmig_source_counters(timeline.source, &c);
    fprintf(timeline.file, "%u,%.4f,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%"
            PRIu64 ",%" PRIu64 "\n", timeline.run,
            seconds(timeline.start_ns, now_ns()), c.write_bytes, c.pinned,
            c.peer_pinned, c.window_bytes, atomic_load(&timeline.remaining));
}

static void *timeline_thread(void *opaque)
{
    (void)opaque;
    while (!atomic_load(&timeline.stop)) {
        sample();
        g_usleep(SAMPLE_US);
    }
    sample();
    return NULL;
}

void timeline_start(RMigSource *source, unsigned run, uint64_t start_ns)
{
    if (!bench.timeline) {
        return;
    }
    timeline.file = fopen(bench.timeline, run == 0 ? "we" : "ae");
    if (!timeline.file) {
        fail("%s: %m", bench.timeline);
    }
    if (run == 0) {
        fputs("run,seconds,write_bytes,pinned,peer_pinned,window_bytes,"
              "remaining_pages\n", timeline.file);
    }
    timeline.source = source;
    timeline.run = run;
    timeline.start_ns = start_ns;
    timeline.thread = g_thread_new("timeline", timeline_thread, NULL);
}

void timeline_remaining(uint64_t pages)
{
    atomic_store_explicit(&timeline.remaining, pages, memory_order_relaxed);
}

void timeline_stop(void)
{
    if (timeline.thread) {
        atomic_store(&timeline.stop, true);
        g_thread_join(timeline.thread);
        timeline.thread = NULL;
        fclose(timeline.file);
    }
}
