/*
 * rdma-bench: the command line, and the link's rate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "units.h"

BenchOptions bench = {
    .blocks = 1, .slice_ms = 50, .runs = 1, .threads = RMIG_REGISTER_THREADS,
};

/* As they are on the command line */
static struct {
    char *ram, *fill, *dirty, *stream, *pin_limit, *dest_pin_limit;
} text;

static const GOptionEntry entries[] = {
    { "name", 0, 0, G_OPTION_ARG_STRING, &bench.name,
      "the run's name in the report", "TEXT" },
    { "ram", 0, 0, G_OPTION_ARG_STRING, &text.ram,
      "guest RAM (default 1G)", "BYTES" },
    { "blocks", 0, 0, G_OPTION_ARG_INT, &bench.blocks,
      "RAM blocks of equal size (default 1)", "N" },
    { "fill", 0, 0, G_OPTION_ARG_STRING, &text.fill,
      "random (default), half-zero, zero:P% (with that much data), untouched",
      "WHAT" },
    { "sparse", 0, 0, G_OPTION_ARG_NONE, &bench.sparse,
      "RAM is never touched, zeros are made up; for verbsim --no-copy", NULL },
    { "rounds", 0, 0, G_OPTION_ARG_INT, &bench.rounds,
      "rounds after the first; the last has the guest stopped", "N" },
    { "dirty", 0, 0, G_OPTION_ARG_STRING, &text.dirty,
      "what is written between rounds: none (default), random:P%, hot:BYTES",
      "WHAT" },
    { "slice", 0, 0, G_OPTION_ARG_INT, &bench.slice_ms,
      "a section of a round, as in ram.c (default 50; 0: the round)", "MS" },
    { "stream", 0, 0, G_OPTION_ARG_STRING, &text.stream,
      "device state at the end", "BYTES" },
    { "pin-all", 0, 0, G_OPTION_ARG_NONE, &bench.pin_all,
      "register everything first", NULL },
    { "pin-limit", 0, 0, G_OPTION_ARG_STRING, &text.pin_limit,
      "what each side may pin", "BYTES" },
    { "dest-pin-limit", 0, 0, G_OPTION_ARG_STRING, &text.dest_pin_limit,
      "what the destination may pin, if that is another limit", "BYTES" },
    { "threads", 0, 0, G_OPTION_ARG_INT, &bench.threads,
      "that register memory, on each side", "N" },
    { "version-1", 0, 0, G_OPTION_ARG_NONE, &bench.version_1,
      "the source offers no extensions", NULL },
    { "no-zero-check", 0, 0, G_OPTION_ARG_NONE, &bench.no_zero_check,
      "the source does not look for zero pages", NULL },
    { "no-hints", 0, 0, G_OPTION_ARG_NONE, &bench.no_hints,
      "the core is told nothing of dirty and untouched pages", NULL },
    { "verify", 0, 0, G_OPTION_ARG_NONE, &bench.verify,
      "compare both memories in the end", NULL },
    { "runs", 0, 0, G_OPTION_ARG_INT, &bench.runs,
      "how often (default 1)", "N" },
    { "link", 0, 0, G_OPTION_ARG_DOUBLE, &bench.link_gbit,
      "the link's rate (default: of verbsim's profile)", "GBIT" },
    { "address", 0, 0, G_OPTION_ARG_STRING, &bench.address,
      "an address of this host's RDMA device (default 127.0.0.1)", "IP" },
    { "json", 0, 0, G_OPTION_ARG_FILENAME, &bench.json,
      "a JSON object for each run, one a line; - is stdout, without a table",
      "FILE" },
    { "timeline", 0, 0, G_OPTION_ARG_FILENAME, &bench.timeline,
      "the source's counters every 5 ms, as CSV", "FILE" },
    { NULL },
};

static void usage_error(const char *option, const char *value)
{
    fprintf(stderr, "rdma-bench: --%s: \"%s\" makes no sense; see --help\n",
            option, value);
    exit(1);
}

/* 4096, 64K, 512M, 8G, 4T, and with iB behind it */
static uint64_t parse_bytes(const char *option, const char *value)
{
    static const char units[] = "KMGT";
    char *end;
    double number = g_ascii_strtod(value, &end);
    const char *unit = *end ? strchr(units, g_ascii_toupper(*end)) : NULL;

    if (end == value || number < 0 ||
        (*end && (!unit || (end[1] && strcmp(end + 1, "iB") != 0)))) {
        usage_error(option, value);
    }
    return unit ? number * (UINT64_C(1024) << (10 * (unit - units))) : number;
}

/* "5%" or "5" behind the colon */
static double parse_percent(const char *option, const char *value)
{
    char *end;
    double number = g_ascii_strtod(strchr(value, ':') + 1, &end);

    if ((*end && strcmp(end, "%") != 0) || number <= 0 || number > 100) {
        usage_error(option, value);
    }
    return number;
}

static void parse_fill(const char *value)
{
    bench.fill_text = g_strdup(value);
    if (strcmp(value, "random") == 0) {
        bench.fill = FILL_RANDOM;
    } else if (strcmp(value, "half-zero") == 0) {
        bench.fill = FILL_HALF_ZERO;
    } else if (strcmp(value, "untouched") == 0) {
        bench.fill = FILL_UNTOUCHED;
    } else if (g_str_has_prefix(value, "zero:")) {
        bench.fill = FILL_ZERO;
        bench.fill_percent = parse_percent("fill", value);
    } else {
        usage_error("fill", value);
    }
}

static void parse_dirty(const char *value)
{
    bench.dirty_text = g_strdup(value);
    if (strcmp(value, "none") == 0) {
        bench.dirty = DIRTY_NONE;
    } else if (g_str_has_prefix(value, "random:")) {
        bench.dirty = DIRTY_RANDOM;
        bench.dirty_percent = parse_percent("dirty", value);
    } else if (g_str_has_prefix(value, "hot:")) {
        bench.dirty = DIRTY_HOT;
        bench.hot_bytes = parse_bytes("dirty", value + strlen("hot:"));
    } else {
        usage_error("dirty", value);
    }
}

/* ---- verbsim's profile ---- */

static char *profile_text(void)
{
    const char *name = g_getenv("VERBSIM_PROFILE");
    const char *folders[] = { g_getenv("VERBSIM_PROFILES"),
                              VERBSIM_PROFILE_DIR };
    char *found = NULL;

    if (!name || !*name) {
        return NULL;
    }
    if (strchr(name, '/')) {
        g_file_get_contents(name, &found, NULL, NULL);
        return found;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(folders) && !found; i++) {
        g_autofree char *path = g_strdup_printf("%s/%s.profile",
                                                folders[i] ? folders[i] : "",
                                                name);

        g_file_get_contents(path, &found, NULL, NULL);
    }
    return found;
}

/* verbsim itself complains of what is wrong with it */
static void read_profile(void)
{
    g_autofree char *profile = profile_text();
    g_auto(GStrv) lines = g_strsplit(profile ? profile : "", "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        g_auto(GStrv) sides = g_strsplit(lines[i], "=", 2);
        double bytes_per_ns;

        if (!sides[0] || !sides[1]) {
            continue;
        }
        g_strstrip(sides[0]);
        sides[1][strcspn(sides[1], "#")] = '\0';
        g_strstrip(sides[1]);
        if (strcmp(sides[0], "bandwidth") == 0 && bench.link_gbit == 0 &&
            vs_parse_rate(sides[1], &bytes_per_ns)) {
            bench.link_gbit = bytes_per_ns * 8;
        } else if (strcmp(sides[0], "copy") == 0) {
            bench.no_copy = strcmp(sides[1], "no") == 0;
        }
    }
    if (g_strcmp0(g_getenv("VERBSIM_COPY"), "none") == 0) {
        bench.no_copy = true;
    }
}

static void check(void)
{
    const char *wrong = NULL;

    if (bench.ram_bytes < BENCH_PAGE ||
        bench.ram_bytes > UINT64_C(64) << 40) {
        wrong = "--ram is from 4K to 64T";
    } else if (bench.blocks < 1 || bench.blocks > BENCH_MAX_BLOCKS ||
               bench.rounds < 0 || bench.rounds > BENCH_MAX_ROUNDS ||
               bench.runs < 1 || bench.threads < 0 || bench.slice_ms < 0 ||
               bench.link_gbit < 0) {
        wrong = "a number is out of range";
    } else if (bench.sparse && !bench.no_copy) {
        wrong = "--sparse is for verbsim's --no-copy: without, all of the RAM "
                "would have to be there";
    } else if (bench.verify && bench.no_copy) {
        wrong = "--verify cannot be used where no data moves";
    }
    if (wrong) {
        fprintf(stderr, "rdma-bench: %s\n", wrong);
        exit(1);
    }
}

void options_parse(int argc, char **argv)
{
    GOptionContext *context = g_option_context_new(NULL);
    GError *err = NULL;
    bool well;

    g_option_context_set_summary(context,
        "Measure the RDMA migration core between two processes.");
    g_option_context_add_main_entries(context, entries, NULL);
    well = g_option_context_parse(context, &argc, &argv, &err) && argc == 1;
    g_option_context_free(context);
    if (!well) {
        fprintf(stderr, "rdma-bench: %s; see --help\n",
                err ? err->message : "an argument is no option");
        g_clear_error(&err);
        exit(1);
    }
    bench.ram_bytes = parse_bytes("ram", text.ram ? text.ram : "1G");
    bench.ram_bytes &= ~(BENCH_PAGE - 1);
    bench.stream_bytes = parse_bytes("stream", text.stream ? text.stream : "0");
    bench.pin_limit = parse_bytes("pin-limit",
                                  text.pin_limit ? text.pin_limit : "0");
    bench.dest_pin_limit = text.dest_pin_limit ?
        parse_bytes("dest-pin-limit", text.dest_pin_limit) : bench.pin_limit;
    parse_fill(text.fill ? text.fill : "random");
    parse_dirty(text.dirty ? text.dirty : "none");
    read_profile();
    check();
}
