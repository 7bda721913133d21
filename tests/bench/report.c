/*
 * rdma-bench: the table, and JSON
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"

typedef struct Field {
    const char *name;
    size_t offset; /* of a uint64_t */
} Field;

#define COUNTER(field) { #field, offsetof(RMigCounters, field) }

static const Field counter_fields[] = {
    COUNTER(pinned), COUNTER(pinned_peak), COUNTER(pin_limit),
    COUNTER(peer_pinned), COUNTER(peer_pinned_peak), COUNTER(peer_pin_limit),
    COUNTER(chunks_registered), COUNTER(chunks_again),
    COUNTER(chunks_evicted), COUNTER(chunks_refused),
    COUNTER(register_hidden_ns), COUNTER(register_exposed_ns),
    COUNTER(window_bytes), COUNTER(write_bytes), COUNTER(writes),
    COUNTER(data_pages), COUNTER(zero_pages), COUNTER(skipped_pages),
    COUNTER(zero_runs), COUNTER(control_bytes), COUNTER(control_messages),
};

static const char *const stall_names[] = {
    [RMIG_STALL_LATE] = "late",
    [RMIG_STALL_UNKNOWN] = "unknown",
    [RMIG_STALL_BUDGET] = "budget",
};
G_STATIC_ASSERT(G_N_ELEMENTS(stall_names) == RMIG_STALLS);

/* ---- JSON ---- */

/* A comma between two members, whatever they are */
static void key(GString *out, const char *name)
{
    char last = out->len ? out->str[out->len - 1] : '{';

    g_string_append_printf(out, "%s\"%s\": ",
                           last == '{' || last == '[' ? "" : ", ", name);
}

static void put_count(GString *out, const char *name, uint64_t value)
{
    key(out, name);
    g_string_append_printf(out, "%" PRIu64, value);
}

static void put_number(GString *out, const char *name, double value)
{
    key(out, name);
    g_string_append_printf(out, "%.7g", value);
}

/* Unknown is null */
static void put_known(GString *out, const char *name, double value, bool known)
{
    if (known) {
        put_number(out, name, value);
    } else {
        key(out, name);
        g_string_append(out, "null");
    }
}

static void put_bool(GString *out, const char *name, bool value)
{
    key(out, name);
    g_string_append(out, value ? "true" : "false");
}

static void put_text(GString *out, const char *name, const char *value)
{
    key(out, name);
    g_string_append_c(out, '"');
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') {
            g_string_append_c(out, '\\');
        }
        if ((unsigned char)*value >= ' ') {
            g_string_append_c(out, *value);
        }
    }
    g_string_append_c(out, '"');
}

static void put_stalls(GString *out, const char *name, const uint64_t *values)
{
    key(out, name);
    g_string_append_c(out, '{');
    for (unsigned i = 0; i < RMIG_STALLS; i++) {
        put_count(out, stall_names[i], values[i]);
    }
    g_string_append_c(out, '}');
}

static void put_counters(GString *out, const char *name, const RMigCounters *c)
{
    key(out, name);
    g_string_append_c(out, '{');
    put_text(out, "device", c->device);
    put_count(out, "extensions", c->extensions);
    put_bool(out, "pins_all", c->pins_all);
    for (unsigned i = 0; i < G_N_ELEMENTS(counter_fields); i++) {
        uint64_t value;

        memcpy(&value, (const char *)c + counter_fields[i].offset,
               sizeof(value));
        put_count(out, counter_fields[i].name, value);
    }
    put_stalls(out, "stalls", c->stalls);
    put_stalls(out, "stall_ns", c->stall_ns);
    g_string_append_c(out, '}');
}

/* ---- figures ---- */

typedef struct Figures {
    double seconds, gbit, share;
    double bulk_s, bulk_gbit, bulk_share; /* of the first round */
    double ns_per_page;                   /* likewise */
    double last_round_s;
    double stream_s, stream_gbit, stream_share;
} Figures;

static double gbit_per_s(uint64_t bytes, double s)
{
    return s > 0 ? bytes * 8 / s / 1e9 : 0;
}

static double share_of(double gbit)
{
    return bench.link_gbit > 0 ? gbit / bench.link_gbit : 0;
}

static Figures figures(const BenchSource *s, const BenchDest *d)
{
    const BenchRound *first = &s->round[0];
    const BenchRound *last = &s->round[s->rounds - 1];
    Figures f = {
        .seconds = seconds(s->connect_ns + s->paused_ns, s->landed_ns),
        .bulk_s = first->ns / 1e9,
        .bulk_gbit = gbit_per_s(first->bytes, first->ns / 1e9),
        .ns_per_page = (double)first->cpu_ns / MAX(first->pages, 1),
        .last_round_s = s->rounds > 1 ? last->ns / 1e9 : 0,
        .stream_s = bench.stream_bytes ?
                    seconds(s->stream_ns, d->stream_end_ns) : 0,
    };

    f.gbit = gbit_per_s(s->bytes, f.seconds);
    f.share = share_of(f.gbit);
    f.bulk_share = share_of(f.bulk_gbit);
    f.stream_gbit = gbit_per_s(bench.stream_bytes, f.stream_s);
    f.stream_share = share_of(f.stream_gbit);
    return f;
}

static char *workload(void)
{
    g_autofree char *rounds = bench.rounds == 0 ? g_strdup("") :
        g_strdup_printf(", %d rounds of %s", bench.rounds, bench.dirty_text);

    return g_strdup_printf("%s%s%s%s%s%s%s%s", bench.fill_text,
                           bench.sparse ? ", sparse" : "",
                           bench.pin_all ? ", pin-all" : "",
                           bench.pin_limit || bench.dest_pin_limit ?
                           ", limited" : "",
                           bench.version_1 ? ", version 1" : "",
                           bench.no_zero_check ? ", no zero check" : "",
                           bench.no_hints ? ", no hints" : "", rounds);
}

static void put_setting(GString *out, unsigned run, const BenchSource *s)
{
    g_autofree char *what = workload();
    const char *profile = g_getenv("VERBSIM_PROFILE");

    put_text(out, "name", bench.name ? bench.name : "");
    put_count(out, "run", run);
    put_text(out, "workload", what);
    put_text(out, "profile", profile ? profile : "");
    put_bool(out, "no_copy", bench.no_copy);
    put_count(out, "ram_bytes", bench.ram_bytes);
    put_count(out, "blocks", bench.blocks);
    put_count(out, "threads", bench.threads);
    put_count(out, "slice_ms", bench.slice_ms);
    put_count(out, "pin_limit", bench.pin_limit);
    put_count(out, "dest_pin_limit", bench.dest_pin_limit);
    put_bool(out, "pins_all", s->pins_all);
    put_number(out, "load_average", s->load);
}

static void put_rounds(GString *out, const BenchSource *s)
{
    key(out, "rounds");
    g_string_append_c(out, '[');
    for (unsigned i = 0; i < s->rounds; i++) {
        const BenchRound *r = &s->round[i];

        g_string_append(out, i == 0 ? "{" : ", {");
        put_number(out, "seconds", r->ns / 1e9);
        put_count(out, "pages", r->pages);
        put_count(out, "bytes", r->bytes);
        put_number(out, "thread_cpu_s", r->cpu_ns / 1e9);
        put_number(out, "ns_per_page", (double)r->cpu_ns / MAX(r->pages, 1));
        g_string_append_c(out, '}');
    }
    g_string_append_c(out, ']');
}

static void put_speed(GString *out, const BenchSource *s, const Figures *f)
{
    bool link = bench.link_gbit > 0;

    put_number(out, "seconds", f->seconds);
    put_number(out, "connect_s", seconds(s->connect_ns, s->connected_ns));
    put_number(out, "setup_s", seconds(s->connect_ns, s->first_page_ns));
    put_known(out, "first_write_s", seconds(s->connect_ns, s->first_write_ns),
              s->first_write_ns > 0);
    put_count(out, "bytes", s->bytes);
    put_number(out, "gbit_per_s", f->gbit);
    put_known(out, "link_gbit_per_s", bench.link_gbit, link);
    put_known(out, "share", f->share, link);
    put_number(out, "bulk_s", f->bulk_s);
    put_number(out, "bulk_gbit_per_s", f->bulk_gbit);
    put_known(out, "bulk_share", f->bulk_share, link);
    put_number(out, "ns_per_page", f->ns_per_page);
}

static void put_end(GString *out, const BenchSource *s, const BenchDest *d,
                    const Figures *f)
{
    put_known(out, "last_round_s", f->last_round_s, s->rounds > 1);
    put_count(out, "stream_bytes", bench.stream_bytes);
    put_known(out, "stream_s", f->stream_s, bench.stream_bytes > 0);
    put_known(out, "stream_gbit_per_s", f->stream_gbit,
              bench.stream_bytes > 0);
    put_known(out, "stream_share", f->stream_share,
              bench.stream_bytes > 0 && bench.link_gbit > 0);
    /* From the last round, or what follows it, to the guest that may run */
    put_number(out, "downtime_s", f->last_round_s +
               seconds(s->landed_ns, d->revoked_ns));
    put_number(out, "revoke_s", seconds(d->revoke_ns, d->revoked_ns));
    put_number(out, "revoke_to_closed_s", seconds(d->revoke_ns,
                                                  d->closed_ns));
    put_number(out, "close_s_source", seconds(s->close_ns, s->closed_ns));
    put_number(out, "close_s_dest", seconds(d->revoked_ns, d->closed_ns));
}

static void put_costs(GString *out, const BenchSource *s, const BenchDest *d)
{
    put_number(out, "cpu_s_source", s->usage.cpu_s);
    put_number(out, "cpu_s_source_thread", s->thread_cpu_ns / 1e9);
    put_number(out, "cpu_s_dest", d->usage.cpu_s);
    put_count(out, "pinned_peak_source", s->counters.pinned_peak);
    put_count(out, "pinned_peak_dest", d->counters.pinned_peak);
    put_count(out, "rss_peak_source", s->usage.transport_rss);
    put_count(out, "rss_peak_dest", d->usage.transport_rss);
    put_count(out, "guest_rss_source", s->usage.guest_rss);
    put_count(out, "guest_rss_dest", d->usage.guest_rss);
    put_number(out, "dest_zero_s", d->zero_ns / 1e9);
    put_count(out, "dest_zero_bytes", d->zero_bytes);
    put_stalls(out, "stalls", s->counters.stalls);
    put_counters(out, "counters_source", &s->counters);
    put_counters(out, "counters_dest", &d->counters);
}

static void report_json(unsigned run, const BenchSource *s, const BenchDest *d,
                        const Figures *f)
{
    g_autoptr(GString) out = g_string_new("{");
    bool to_stdout = strcmp(bench.json, "-") == 0;
    FILE *file = to_stdout ? stdout : fopen(bench.json, run ? "ae" : "we");

    put_setting(out, run, s);
    put_speed(out, s, f);
    put_rounds(out, s);
    put_end(out, s, d, f);
    put_costs(out, s, d);
    if (bench.verify) {
        put_bool(out, "verified", true);
    }
    if (!file || fprintf(file, "%s}\n", out->str) < 0 || fflush(file) != 0) {
        fail("%s: %m", bench.json);
    }
    if (!to_stdout) {
        fclose(file);
    }
}

/* ---- the table ---- */

static void report_table(unsigned run, const BenchSource *s,
                         const BenchDest *d, const Figures *f)
{
    if (run == 0) {
        g_autofree char *what = workload();

        printf("%s%s%s, %.4g GiB in %d block(s)%s\n",
               bench.name ? bench.name : "", bench.name ? ": " : "", what,
               bench.ram_bytes / 1073741824.0, bench.blocks,
               bench.no_copy ? "; no data was copied" : "");
        printf("%3s %9s %8s %8s %6s %8s %7s %8s %8s %8s %8s %8s\n", "run",
               "seconds", "setup", "Gbit/s", "share", "bulk", "ns/page",
               "last", "stream", "close", "peak src", "peak dst");
        printf("%3s %9s %8s %8s %6s %8s %7s %8s %8s %8s %8s %8s\n", "",
               "s", "s", "", "%", "Gbit/s", "", "ms", "Gbit/s", "ms",
               "pin MiB", "pin MiB");
    }
    printf("%3u %9.4f %8.4f %8.2f %6.1f %8.2f %7.0f %8.2f %8.2f %8.2f %8.1f "
           "%8.1f\n", run, f->seconds,
           seconds(s->connect_ns, s->first_page_ns), f->gbit, f->share * 100,
           f->bulk_gbit, f->ns_per_page, f->last_round_s * 1e3, f->stream_gbit,
           seconds(d->revoke_ns, d->closed_ns) * 1e3,
           s->counters.pinned_peak / 1048576.0,
           d->counters.pinned_peak / 1048576.0);
    fflush(stdout);
}

void report_run(unsigned run, const BenchSource *s, const BenchDest *d)
{
    Figures f = figures(s, d);

    if (bench.json) {
        report_json(run, s, d, &f);
    }
    if (g_strcmp0(bench.json, "-") != 0) {
        report_table(run, s, d, &f);
    }
}
