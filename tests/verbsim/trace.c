/*
 * trace: a line for each event, and counters that outlive the process
 *
 * With VERBSIM_TRACE=DIR a process writes two files there:
 *   NAME.PID.trace  "<ns> <name> <event> <key=value>...", CLOCK_MONOTONIC, so
 *                   that `sort -n DIR/\*.trace` merges all processes
 *   NAME.PID.stats  VsStats, mapped shared, behind a header that says who and
 *                   what; scripts/lib/verbsim.py reads it
 *
 * Any thread may write a line; lines gather in a buffer with a lock of its
 * own, which is written out when it is full, when the NIC's loop goes to
 * sleep, and at exit.  What is still in it when a process is killed is lost;
 * the counters are not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "vs.h"

VsStats *vs_stats;
bool vs_trace_on;

enum { BUFFER_BYTES = 64 * 1024, LINE_BYTES = 1024 };

static pthread_mutex_t buffer_lock = PTHREAD_MUTEX_INITIALIZER;
static char buffer[BUFFER_BYTES];
static size_t buffered;
static int trace_fd = -1;

/* ----------------------------------------------------------- control types */

/* The types of version 1, docs/rdma.txt; the rest are numbers. */
static const char *const control_names[] = {
    "NONE", "ERROR", "READY", "QEMU_FILE", "RAM_BLOCKS_REQUEST",
    "RAM_BLOCKS_RESULT", "COMPRESS", "REGISTER_REQUEST", "REGISTER_RESULT",
    "REGISTER_FINISHED", "UNREGISTER_REQUEST", "UNREGISTER_FINISHED",
    "LOAD_REQUEST", "LOADED", "START", "STARTED", "TYPE_16", "TYPE_17",
    "TYPE_18", "TYPE_19", "TYPE_20", "TYPE_21", "TYPE_22", "TYPE_23",
    "TYPE_24", "TYPE_25", "TYPE_26", "TYPE_27", "TYPE_28", "TYPE_29",
    "TYPE_30", "TYPE_31",
};

G_STATIC_ASSERT(G_N_ELEMENTS(control_names) ==
                G_N_ELEMENTS(((VsStats *)0)->control));

static uint32_t be32_at(const void *bytes, size_t offset)
{
    uint32_t value;

    memcpy(&value, (const char *)bytes + offset, sizeof(value));
    return GUINT32_FROM_BE(value);
}

/*
 * The header has no magic number; but its length is that of the rest of the
 * message, which other programs' payloads do not say at that place.  Sixteen
 * zero bytes are no message of anybody.
 */
int vs_control_type(const void *head, size_t length)
{
    static const uint8_t nothing[16];
    uint32_t type;

    if (length < 16 || be32_at(head, 0) != length - 16 ||
        !memcmp(head, nothing, sizeof(nothing))) {
        return -1;
    }
    type = be32_at(head, 4);
    return type < G_N_ELEMENTS(control_names) ? (int)type : -1;
}

const char *vs_control_name(int type)
{
    return type >= 0 && type < (int)G_N_ELEMENTS(control_names)
        ? control_names[type] : "-";
}

const char *vs_name(void)
{
    static char name[32];

    if (!name[0]) {
        const char *given = getenv("VERBSIM_NAME");

        g_strlcpy(name, given && *given ? given : program_invocation_short_name,
                  sizeof(name));
        g_strcanon(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-_.+", '_');
        if (name[0] == '.') {
            name[0] = '_';          /* no hidden files */
        }
    }
    return name;
}

/* ---------------------------------------------------------------- counters */

typedef struct StatsHeader {
    char magic[8];
    uint32_t version;
    uint32_t counters;          /* uint64_t each, at counters_offset */
    uint32_t counters_offset;
    uint32_t names_offset;      /* their names, each ended by a zero byte */
    uint32_t pid, slot;
    uint32_t no_copy;
    uint32_t reserved;
    uint64_t start_ns;
    char name[32], profile[32], device[32];
} StatsHeader;

typedef struct StatsFile {
    StatsHeader header;
    VsStats stats;
    char names[2048];
} StatsFile;

G_STATIC_ASSERT(sizeof(VsStats) % sizeof(uint64_t) == 0);
G_STATIC_ASSERT(offsetof(StatsFile, stats) % sizeof(uint64_t) == 0);

#define COUNTER(field) { #field, offsetof(VsStats, field) }

static const struct {
    const char *name;
    size_t offset;
} counters[] = {
    COUNTER(tx_send), COUNTER(tx_send_bytes),
    COUNTER(tx_write), COUNTER(tx_write_bytes),
    COUNTER(tx_read), COUNTER(tx_read_bytes),
    COUNTER(rx_send), COUNTER(rx_send_bytes),
    COUNTER(rx_write), COUNTER(rx_write_bytes),
    COUNTER(rx_read), COUNTER(rx_read_bytes),
    COUNTER(copied_bytes), COUNTER(copy_ns),
    COUNTER(registrations), COUNTER(deregistrations),
    COUNTER(reg_failed), COUNTER(reg_ns),
    COUNTER(mrs), COUNTER(mrs_peak),
    COUNTER(pinned_bytes), COUNTER(pinned_peak),
    COUNTER(completions), COUNTER(cq_events),
    COUNTER(rnr_naks), COUNTER(retransmits), COUNTER(naks), COUNTER(link_lost),
    COUNTER(turns),
    COUNTER(cm_events), COUNTER(faults),
    COUNTER(held_bytes), COUNTER(replaced_pages),
};

/* control[] comes last, and nothing is without a name. */
G_STATIC_ASSERT(offsetof(VsStats, control) ==
                G_N_ELEMENTS(counters) * sizeof(uint64_t));
G_STATIC_ASSERT(sizeof(VsStats) == offsetof(VsStats, control) +
                sizeof(((VsStats *)0)->control));

/* The name of counter @i; its place in VsStats is @i's, too. */
static void counter_name(unsigned i, char *name, size_t size)
{
    if (i < G_N_ELEMENTS(counters)) {
        g_assert(counters[i].offset == i * sizeof(uint64_t));
        g_strlcpy(name, counters[i].name, size);
    } else {
        snprintf(name, size, "control_%s",
                 control_names[i - G_N_ELEMENTS(counters)]);
    }
}

char *vs_stats_text(void)
{
    const uint64_t *values = (const uint64_t *)vs_stats;
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < sizeof(VsStats) / sizeof(uint64_t); i++) {
        char name[64];

        counter_name(i, name, sizeof(name));
        g_string_append_printf(text, "%s %" PRIu64 "\n", name, values[i]);
    }
    return g_string_free(text, FALSE);
}

static void fill_stats_file(StatsFile *file, unsigned slot)
{
    size_t used = 0;

    file->header = (StatsHeader) {
        .version = 1,
        .counters = sizeof(VsStats) / sizeof(uint64_t),
        .counters_offset = offsetof(StatsFile, stats),
        .names_offset = offsetof(StatsFile, names),
        .pid = getpid(),
        .slot = slot,
        .no_copy = vs_shape.no_copy,
        .start_ns = vs_now_ns(),
    };
    g_strlcpy(file->header.name, vs_name(), sizeof(file->header.name));
    g_strlcpy(file->header.profile, vs_shape.name,
              sizeof(file->header.profile));
    g_strlcpy(file->header.device, vs_shape.device,
              sizeof(file->header.device));
    for (unsigned i = 0; i < file->header.counters; i++) {
        g_assert(used + 64 <= sizeof(file->names));
        counter_name(i, file->names + used, 64);
        used += strlen(file->names + used) + 1;
    }
    /* Last, so that a reader who sees it finds the rest. */
    memcpy(file->header.magic, "VERBSIM\n", sizeof(file->header.magic));
}

/* ------------------------------------------------------------------- lines */

static void write_out(void)
{
    size_t done = 0;

    while (trace_fd >= 0 && done < buffered) {
        ssize_t n = write(trace_fd, buffer + done, buffered - done);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            int error = errno;

            /* First of all: the complaint must not become a line of it. */
            vs_trace_on = false;
            close(trace_fd);
            trace_fd = -1;
            vs_complain("the trace ends here: %s", strerror(error));
            break;
        }
        done += n;
    }
    buffered = 0;
}

void vs_trace_flush(void)
{
    if (!vs_trace_on) {
        return;
    }
    pthread_mutex_lock(&buffer_lock);
    write_out();
    pthread_mutex_unlock(&buffer_lock);
}

void vs_trace_line(const char *event, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;
    int head, n;

    head = snprintf(line, sizeof(line), "%" PRIu64 " %s %s ", vs_now_ns(),
                    vs_name(), event);
    va_start(args, format);
    n = head + vsnprintf(line + head, sizeof(line) - head, format, args);
    va_end(args);
    n = MIN(n, LINE_BYTES - 2);
    line[n++] = '\n';

    pthread_mutex_lock(&buffer_lock);
    if (buffered + n > sizeof(buffer)) {
        write_out();
    }
    memcpy(buffer + buffered, line, n);
    buffered += n;
    pthread_mutex_unlock(&buffer_lock);
    /* It writes the line out when it goes to sleep again. */
    vs_nic_kick();
}

/* ------------------------------------------------------------------- start */

/* The lines belong to the parent; a child that forked writes none. */
static void after_fork(void)
{
    vs_trace_on = false;
    buffered = 0;
    pthread_mutex_init(&buffer_lock, NULL);
}

static int create(const char *folder, const char *suffix)
{
    g_autofree char *path = g_strdup_printf("%s/%s.%d.%s", folder, vs_name(),
                                            (int)getpid(), suffix);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0) {
        vs_complain("cannot write %s (VERBSIM_TRACE): %s", path,
                    strerror(errno));
        _exit(1);
    }
    return fd;
}

void vs_trace_start(unsigned slot)
{
    const char *folder = getenv("VERBSIM_TRACE");
    int flags = MAP_SHARED | MAP_ANONYMOUS, fd = -1;
    StatsFile *file;

    if (folder && *folder) {
        if (g_mkdir_with_parents(folder, 0700)) {
            vs_complain("cannot create %s (VERBSIM_TRACE): %s", folder,
                        strerror(errno));
            _exit(1);
        }
        trace_fd = create(folder, "trace");
        fd = create(folder, "stats");
        flags = MAP_SHARED;
        if (ftruncate(fd, sizeof(StatsFile))) {
            vs_complain("no room for counters in %s: %s", folder,
                        strerror(errno));
            _exit(1);
        }
        vs_trace_on = true;
        pthread_atfork(NULL, NULL, after_fork);
        atexit(vs_trace_flush);
    }
    file = mmap(NULL, sizeof(StatsFile), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (file == MAP_FAILED) {
        vs_complain("no memory for counters: %s", strerror(errno));
        _exit(1);
    }
    if (fd >= 0) {
        close(fd);
    }
    fill_stats_file(file, slot);
    vs_stats = &file->stats;
    VS_TRACE("start", "pid=%d slot=%u profile=%s copy=%s", (int)getpid(),
             slot, vs_shape.name, vs_shape.no_copy ? "no" : "yes");
}
