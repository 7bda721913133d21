/*
 * shape: the link's profile - bandwidth, latency, costs and limits
 *
 * The profile is read once, by the NIC's start; after that vs_shape is
 * constant.  The port is one transmitter: what is sent through it waits for
 * what was sent before it, and its own bytes take bytes / bandwidth.  Packet
 * headers are not booked one by one: a profile's bandwidth is the payload rate
 * at the usual MTU, so whole packets have paid for theirs, and what the last,
 * partly filled packet of a message would cost more is less than one MTU.
 *
 * vs_shape_transmit() is called with vs_lock held, by the NIC and by API
 * calls; vs_shape_reg_cost() by any thread without it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "shape.h"
#include "units.h"

VsShape vs_shape;

static uint64_t port_busy_until_ns;

/* ---------------------------------------------------------------- profiles */

typedef enum ValueKind {
    V_TEXT, V_LAYER, V_RATE, V_TIME, V_BYTES, V_COUNT32, V_COUNT8, V_MILLI,
    V_COPY, V_TRANSPORT,
} ValueKind;

typedef struct Key {
    const char *name;
    ValueKind kind;
    size_t offset;
    uint64_t min, max;          /* of counts */
} Key;

#define KEY(name, kind, field, min, max) \
    { name, kind, offsetof(VsShape, field), min, max }

static const Key keys[] = {
    KEY("device", V_TEXT, device, 0, 0),
    KEY("link-layer", V_LAYER, infiniband, 0, 0),
    KEY("transport", V_TRANSPORT, iwarp, 0, 0),
    KEY("bandwidth", V_RATE, bytes_per_ns, 0, 0),
    KEY("latency", V_TIME, latency_ns, 0, 0),
    KEY("register-call", V_TIME, reg_call_ns, 0, 0),
    KEY("register-mib-4k", V_TIME, reg_mib_4k_ns, 0, 0),
    KEY("register-mib-2m", V_TIME, reg_mib_2m_ns, 0, 0),
    KEY("deregister-call", V_TIME, dereg_call_ns, 0, 0),
    KEY("max-mr-bytes", V_BYTES, max_mr_bytes, 4096, UINT64_MAX),
    KEY("max-mr", V_COUNT32, max_mr, 1, INT32_MAX),
    KEY("max-qp", V_COUNT32, max_qp, 1, INT32_MAX),
    KEY("max-qp-wr", V_COUNT32, max_qp_wr, 1, 1 << 20),
    KEY("max-sge", V_COUNT32, max_sge, 1, VS_MAX_SGE),
    KEY("max-inline", V_COUNT32, max_inline, 0, VS_MAX_INLINE),
    KEY("max-cq", V_COUNT32, max_cq, 1, INT32_MAX),
    KEY("max-cqe", V_COUNT32, max_cqe, 1, 1 << 24),
    KEY("max-rd-atomic", V_COUNT32, max_rd_atomic, 1, 128),
    KEY("ack-timeout", V_COUNT8, ack_timeout, 1, 31),
    KEY("cm-timeout", V_MILLI, cm_timeout_ms, 1, 3600 * 1000),
    KEY("cm-retries", V_COUNT32, cm_retries, 0, 255),
    KEY("copy", V_COPY, no_copy, 0, 0),
};

/*
 * The time-outs are what Linux's connection manager gives RoCE: an ack
 * time-out of 2 x packet life time (4.096 us << 16, Linux 6.2 on) + the
 * adapter's own delay (of the same size), and 15 repetitions of a CM message
 * that is unanswered for 4.096 us << 20.
 */
static const VsShape defaults = {
    .device = "verbsim0",
    .max_mr_bytes = UINT64_MAX,
    .max_mr = 1 << 20,
    .max_qp = 1 << 14,
    .max_qp_wr = 1 << 15,
    .max_sge = 30,
    .max_inline = 1024,
    .max_cq = 1 << 16,
    .max_cqe = 4194303,
    .max_rd_atomic = 16,
    .ack_timeout = 18,
    .cm_timeout_ms = 4295,
    .cm_retries = 15,
};

static const char *set_count(VsShape *shape, const Key *key, uint64_t value)
{
    void *field = (char *)shape + key->offset;

    if (value < key->min || value > key->max) {
        return "is out of range";
    }
    switch (key->kind) {
    case V_COUNT8:
        *(uint8_t *)field = value;
        break;
    case V_BYTES:
        *(uint64_t *)field = value;
        break;
    default:
        *(uint32_t *)field = value;
        break;
    }
    return NULL;
}

/* What @value is not, or NULL if it has been stored. */
static const char *set_value(VsShape *shape, const Key *key, const char *value)
{
    void *field = (char *)shape + key->offset;
    uint64_t number;

    switch (key->kind) {
    case V_TEXT:
        if (!*value || strlen(value) >= sizeof(shape->device) ||
            strpbrk(value, "/ \t")) {
            return "is no name of at most 31 characters";
        }
        g_strlcpy(field, value, sizeof(shape->device));
        return NULL;
    case V_LAYER:
        *(bool *)field = !strcmp(value, "infiniband");
        return *(bool *)field || !strcmp(value, "ethernet")
            ? NULL : "is neither ethernet nor infiniband";
    case V_TRANSPORT:
        *(bool *)field = !strcmp(value, "iwarp");
        return *(bool *)field || !strcmp(value, "infiniband")
            ? NULL : "is neither infiniband nor iwarp";
    case V_COPY:
        *(bool *)field = !strcmp(value, "no");
        return *(bool *)field || !strcmp(value, "yes")
            ? NULL : "is neither yes nor no";
    case V_RATE:
        return vs_parse_rate(value, field)
            ? NULL : "is no rate like 40Gbit/s or 5GB/s";
    case V_TIME:
        return vs_parse_time(value, field) ? NULL : "is no time like 1.3us";
    case V_MILLI:
        if (!vs_parse_time(value, &number)) {
            return "is no time like 1s";
        }
        return set_count(shape, key, number / 1000000);
    case V_BYTES:
        if (!vs_parse_bytes(value, &number)) {
            return "is no size like 2GiB";
        }
        return set_count(shape, key, number);
    default:
        if (!vs_parse_count(value, &number)) {
            return "is no number";
        }
        return set_count(shape, key, number);
    }
}

static const Key *find_key(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (!strcmp(keys[i].name, name)) {
            return &keys[i];
        }
    }
    return NULL;
}

/* One line; what is wrong with it (g_free()), or NULL. */
static char *parse_line(VsShape *shape, char *line)
{
    char *equals, *comment = strchr(line, '#');
    const char *wrong, *name, *value;
    const Key *key;

    if (comment) {
        *comment = '\0';
    }
    if (!*g_strstrip(line)) {
        return NULL;
    }
    equals = strchr(line, '=');
    if (!equals) {
        return g_strdup_printf("\"%s\" is not \"key = value\"", line);
    }
    *equals = '\0';
    name = g_strstrip(line);
    value = g_strstrip(equals + 1);
    key = find_key(name);
    if (!key) {
        return g_strdup_printf("unknown key \"%s\"", name);
    }
    wrong = set_value(shape, key, value);
    return wrong ? g_strdup_printf("%s: \"%s\" %s", name, value, wrong) : NULL;
}

bool vs_shape_parse(const char *file, VsShape *shape, char **error)
{
    g_autofree char *text = NULL;
    g_autofree char *base = g_path_get_basename(file);
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) err = NULL;

    *shape = defaults;
    if (g_str_has_suffix(base, ".profile")) {
        base[strlen(base) - strlen(".profile")] = '\0';
    }
    g_strlcpy(shape->name, base, sizeof(shape->name));
    if (!g_file_get_contents(file, &text, NULL, &err)) {
        *error = g_strdup(err->message);
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        g_autofree char *wrong = parse_line(shape, lines[i]);

        if (wrong) {
            *error = g_strdup_printf("%s:%u: %s", file, i + 1, wrong);
            return false;
        }
    }
    if (shape->iwarp && shape->infiniband) {
        *error = g_strdup_printf("%s: iWARP runs on Ethernet", file);
        return false;
    }
    return true;
}

/* The folder "profiles" beside the file this code was loaded from, or NULL. */
static char *profiles_beside_library(void)
{
    g_autofree char *folder = NULL;
    Dl_info info;

    if (!dladdr((void *)(uintptr_t)vs_shape_load, &info) || !info.dli_fname) {
        return NULL;
    }
    folder = g_path_get_dirname(info.dli_fname);
    return g_build_filename(folder, "profiles", NULL);
}

char *vs_shape_find(const char *name)
{
    g_autofree char *file = g_strconcat(name, ".profile", NULL);
    g_autofree char *beside = profiles_beside_library();
    const char *folders[] = {
        getenv("VERBSIM_PROFILES"), beside, VERBSIM_PROFILE_DIR,
    };

    if (strchr(name, '/')) {
        return g_strdup(name);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(folders); i++) {
        g_autofree char *path = NULL;

        if (!folders[i] || !*folders[i]) {
            continue;
        }
        path = g_build_filename(folders[i], file, NULL);
        if (!access(path, R_OK)) {
            return g_steal_pointer(&path);
        }
    }
    return NULL;
}

void vs_shape_load(void)
{
    const char *name = getenv("VERBSIM_PROFILE");
    const char *copy = getenv("VERBSIM_COPY");
    g_autofree char *path = NULL;
    g_autofree char *error = NULL;

    if (!name || !*name) {
        name = "fast";
    }
    path = vs_shape_find(name);
    if (!path) {
        vs_complain("no profile \"%s\": VERBSIM_PROFILE is fast, fdr40, "
                    "roce100, ndr400, iwarp or the path of a file (with a "
                    "/)", name);
        _exit(1);
    }
    if (!vs_shape_parse(path, &vs_shape, &error)) {
        vs_complain("%s", error);
        _exit(1);
    }
    if (copy && *copy) {
        if (strcmp(copy, "none")) {
            vs_complain("VERBSIM_COPY is \"none\" or not set, not \"%s\"",
                        copy);
            _exit(1);
        }
        vs_shape.no_copy = true;
    }
}

/* -------------------------------------------------------------------- time */

uint64_t vs_shape_transmit(uint64_t bytes)
{
    uint64_t now;

    if (vs_shape.bytes_per_ns == 0 && vs_shape.latency_ns == 0) {
        return 0;
    }
    now = vs_now_ns();
    if (port_busy_until_ns < now) {
        port_busy_until_ns = now;
    }
    if (vs_shape.bytes_per_ns > 0) {
        port_busy_until_ns += (uint64_t)(bytes / vs_shape.bytes_per_ns + 0.5);
    }
    return port_busy_until_ns + vs_shape.latency_ns;
}

/* ------------------------------------------------------------ page sizes */

/*
 * Which mappings consist of huge pages of hugetlbfs.  /proc/self/smaps says
 * so, but reading it takes tens of milliseconds in a big process, so it is
 * only read where the machine has such pages, and a mapping is looked up once.
 * If another takes its place later the answer may be stale; only the time that
 * registering takes hangs on it.  Transparent huge pages do not count: whether
 * a range has them would have to be asked each time.
 */
typedef struct Mapping {
    uintptr_t start, end;
    bool huge;
} Mapping;

static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;
static Mapping mappings[32];
static unsigned mappings_next;

static Mapping read_mapping(uintptr_t addr)
{
    Mapping found = { addr, addr + 1, false };
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool inside = false;

    while (file && fgets(line, sizeof(line), file)) {
        uintptr_t start, end;
        unsigned long kib;

        /* Only the first line of a mapping begins like this. */
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2) {
            inside = addr >= start && addr < end;
            if (inside) {
                found.start = start;
                found.end = end;
            }
        } else if (inside && sscanf(line, "KernelPageSize: %lu", &kib) == 1) {
            found.huge = kib > 4;
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return found;
}

/* Of any size; asked once */
static bool machine_has_huge_pages(void)
{
    static gsize answer; /* 1: no, 2: yes */

    if (g_once_init_enter(&answer)) {
        FILE *file = fopen("/proc/meminfo", "re");
        unsigned long kib = file ? 0 : 1;
        char line[128];

        while (file && fgets(line, sizeof(line), file) &&
               sscanf(line, "Hugetlb: %lu", &kib) != 1) {
            /* the next line */
        }
        if (file) {
            fclose(file);
        }
        g_once_init_leave(&answer, kib > 0 ? 2 : 1);
    }
    return answer == 2;
}

static bool is_huge(uintptr_t addr)
{
    Mapping *mapping = NULL;
    bool huge;

    pthread_mutex_lock(&mappings_lock);
    for (size_t i = 0; i < G_N_ELEMENTS(mappings) && !mapping; i++) {
        if (addr >= mappings[i].start && addr < mappings[i].end) {
            mapping = &mappings[i];
        }
    }
    if (!mapping) {
        mapping = &mappings[mappings_next++ % G_N_ELEMENTS(mappings)];
        *mapping = read_mapping(addr);
    }
    huge = mapping->huge;
    pthread_mutex_unlock(&mappings_lock);
    return huge;
}

uint64_t vs_shape_reg_cost(const void *addr, uint64_t length)
{
    uint64_t mib_ns = vs_shape.reg_mib_4k_ns;

    if (vs_shape.reg_mib_2m_ns != mib_ns && machine_has_huge_pages() &&
        is_huge((uintptr_t)addr)) {
        mib_ns = vs_shape.reg_mib_2m_ns;
    }
    return vs_shape.reg_call_ns + (uint64_t)(length / 1048576.0 * mib_ns);
}
