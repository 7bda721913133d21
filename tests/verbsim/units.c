/*
 * units: numbers with units, as profiles and fault scripts have them
 *
 * Called while scripts are read, on any thread; no locks, no state.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <glib.h>
#include <string.h>
#include "units.h"

typedef struct Unit {
    const char *name;
    double factor;
} Unit;

static const Unit times[] = {
    { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { NULL, 0 },
};

static const Unit sizes[] = {
    { "B", 1 }, { "KiB", 1024.0 }, { "MiB", 1048576.0 },
    { "GiB", 1073741824.0 }, { "TiB", 1099511627776.0 }, { NULL, 0 },
};

/* To bytes per ns. */
static const Unit rates[] = {
    { "Mbit/s", 0.001 / 8 }, { "Gbit/s", 1.0 / 8 },
    { "MB/s", 0.001 }, { "GB/s", 1 }, { NULL, 0 },
};

/* A plain decimal number; *@rest is what follows it, without blanks. */
static bool parse_number(const char *text, double *value, const char **rest)
{
    size_t digits = strspn(text, "0123456789.");
    g_autofree char *number = g_strndup(text, digits);
    char *end;

    if (!digits || !g_ascii_isdigit(text[0]) || digits > 20) {
        return false;
    }
    *value = g_ascii_strtod(number, &end);
    *rest = text + digits + strspn(text + digits, " \t");
    return *end == '\0';
}

static bool parse_with_unit(const char *text, const Unit *units, double *value)
{
    const char *rest;
    double number;

    if (!parse_number(text, &number, &rest)) {
        return false;
    }
    for (; units->name; units++) {
        if (!strcmp(units->name, rest)) {
            *value = number * units->factor;
            return true;
        }
    }
    return false;
}

bool vs_parse_fraction(const char *text, double *value)
{
    const char *rest;
    double number;

    if (!parse_number(text, &number, &rest) || *rest) {
        return false;
    }
    *value = number;
    return true;
}

bool vs_parse_count(const char *text, uint64_t *count)
{
    return g_ascii_string_to_unsigned(text, 10, 0, UINT64_MAX, count, NULL);
}

static bool to_uint64(double value, uint64_t *result)
{
    if (value >= 1.8e19) {
        return false;
    }
    *result = (uint64_t)(value + 0.5);
    return true;
}

/* "0" needs no unit. */
bool vs_parse_time(const char *text, uint64_t *ns)
{
    double value = 0;

    return (!strcmp(text, "0") || parse_with_unit(text, times, &value)) &&
           to_uint64(value, ns);
}

bool vs_parse_bytes(const char *text, uint64_t *bytes)
{
    double value;

    if (!strcmp(text, "unlimited")) {
        *bytes = UINT64_MAX;
        return true;
    }
    return parse_with_unit(text, sizes, &value) && to_uint64(value, bytes);
}

bool vs_parse_rate(const char *text, double *bytes_per_ns)
{
    double value;

    if (!strcmp(text, "unlimited")) {
        *bytes_per_ns = 0;
        return true;
    }
    if (!parse_with_unit(text, rates, &value) || value <= 0) {
        return false;
    }
    *bytes_per_ns = value;
    return true;
}
