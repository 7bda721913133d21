/*
 * What the RDMA migration tests share: the device, guest RAM, waiting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "migration/bootfile.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "migration/rdma-util.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include <arpa/inet.h>
#include <glob.h>
#include <sys/resource.h>

#define RDMA_CM "/dev/infiniband/rdma_cm"
#define GIDS "/sys/class/infiniband/*/ports/*/gids/*"

/* More than two guests of the framework, all pinned */
#define MEMLOCK_WANTED (512 * MiB)

/* What a filled piece of RAM is made of; every fifth stays zero */
#define PIECE (256 * KiB)
#define PIECES 128
/* and some zeros behind them */
#define PIECES_END ((PIECES + 8) * PIECE)

/* ---- the device --------------------------------------------------------- */

/* Whether @text is an address of this machine that others can connect to */
static bool is_local(int family, const char *text)
{
    struct sockaddr_storage ss = { .ss_family = family };
    socklen_t len;
    bool ok;
    int fd;

    if (family == AF_INET) {
        len = sizeof(struct sockaddr_in);
        inet_pton(family, text, &((struct sockaddr_in *)&ss)->sin_addr);
    } else {
        len = sizeof(struct sockaddr_in6);
        inet_pton(family, text, &((struct sockaddr_in6 *)&ss)->sin6_addr);
    }
    fd = socket(family, SOCK_DGRAM, 0);
    ok = fd >= 0 && bind(fd, (struct sockaddr *)&ss, len) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static bool port_active(const char *gid_path)
{
    g_autofree char *gids = g_path_get_dirname(gid_path);
    g_autofree char *state = g_build_filename(gids, "..", "state", NULL);
    g_autofree char *text = NULL;

    return g_file_get_contents(state, &text, NULL, NULL) &&
           strstr(text, "ACTIVE");
}

/* The IP address that a RoCE GID stands for, or NULL */
static char *gid_to_address(const char *gid_path, int family)
{
    g_autofree char *text = NULL;
    char address[INET6_ADDRSTRLEN];
    struct in6_addr gid;

    if (!g_file_get_contents(gid_path, &text, NULL, NULL) ||
        inet_pton(AF_INET6, g_strstrip(text), &gid) != 1 ||
        IN6_IS_ADDR_UNSPECIFIED(&gid) || IN6_IS_ADDR_LINKLOCAL(&gid) ||
        !IN6_IS_ADDR_V4MAPPED(&gid) != (family == AF_INET6)) {
        return NULL;
    }
    inet_ntop(family, family == AF_INET6 ? gid.s6_addr : gid.s6_addr + 12,
              address, sizeof(address));
    return is_local(family, address) ? g_strdup(address) : NULL;
}

static char *find_host(int family)
{
    const char *given = getenv(family == AF_INET6 ? "RMIG_TEST_ADDR6" :
                               "RMIG_TEST_ADDR");
    char *host = NULL;
    glob_t paths;

    if (given && *given) {
        return g_strdup(given);
    }
    if (access(RDMA_CM, R_OK | W_OK) != 0 ||
        glob(GIDS, 0, NULL, &paths) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < paths.gl_pathc && !host; i++) {
        if (port_active(paths.gl_pathv[i])) {
            host = gid_to_address(paths.gl_pathv[i], family);
        }
    }
    globfree(&paths);
    return host;
}

bool rmig_test_may_lock(void)
{
    struct rlimit lock;

    if (geteuid() != 0 && getrlimit(RLIMIT_MEMLOCK, &lock) == 0 &&
        lock.rlim_cur < MEMLOCK_WANTED) {
        g_test_skip("too little memory may be locked; run as root, or with "
                    "'ulimit -l' at 524288 or more, or run 'unshare -r "
                    "scripts/verbsim tests/lab/qtest'");
        return false;
    }
    return true;
}

const char *rmig_test_host(int family)
{
    /* [0]: AF_INET, [1]: AF_INET6 */
    static char *hosts[2];
    char **host = &hosts[family == AF_INET6];

    if (!*host) {
        *host = find_host(family);
    }
    if (!*host) {
        g_test_skip(family == AF_INET6 ?
                    "no RDMA device with an IPv6 address here; run "
                    "scripts/verbsim tests/lab/qtest or scripts/lab "
                    "tests/lab/qtest, or set RMIG_TEST_ADDR6" :
                    "no RDMA device with an IPv4 address here; run "
                    "scripts/verbsim tests/lab/qtest or scripts/lab "
                    "tests/lab/qtest, or set RMIG_TEST_ADDR");
        return NULL;
    }
    return rmig_test_may_lock() ? *host : NULL;
}

char *rmig_test_uri(const char *scheme, const char *host, const char *port)
{
    return g_strdup_printf(strchr(host, ':') ? "%s:[%s]:%s" : "%s:%s:%s",
                           scheme, host, port);
}

char *rmig_test_port(QTestState *to)
{
    /* The framework knows the address as a TCP one */
    g_autofree char *uri = migrate_get_connect_uri(to);

    return g_strdup(strrchr(uri, ':') + 1);
}

/* ---- guest RAM ---------------------------------------------------------- */

static bool piece_has_data(unsigned piece)
{
    return piece % 5 != 0;
}

void rmig_test_fill_ram(QTestState *who)
{
    for (unsigned i = 0; i < PIECES; i++) {
        if (piece_has_data(i)) {
            qtest_memset(who, start_address + i * PIECE, i + 1, PIECE);
        }
    }
}

uint64_t rmig_test_filled_bytes(void)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < PIECES; i++) {
        bytes += piece_has_data(i) ? PIECE : 0;
    }
    return bytes;
}

/*
 * The first @size bytes of the test memory.  Through a file: over the qtest
 * socket it would take minutes in the lab.
 */
static char *read_ram(QTestState *who, uint64_t size)
{
    g_autofree char *path = g_build_filename(migration_get_env()->tmpfs,
                                             "ram", NULL);
    gsize got = 0;
    char *data = NULL;

    qtest_qmp_assert_success(who, "{ 'execute': 'pmemsave', 'arguments': {"
                             " 'val': %u, 'size': %" PRIu64
                             ", 'filename': %s } }",
                             start_address, size, path);
    g_assert(g_file_get_contents(path, &data, &got, NULL));
    g_assert_cmpuint(got, ==, size);
    unlink(path);
    return data;
}

void rmig_test_same_ram(QTestState *from, QTestState *to, bool all)
{
    uint64_t size = all ? end_address - start_address : PIECES_END;
    g_autofree char *source = read_ram(from, size);
    g_autofree char *dest = read_ram(to, size);
    unsigned differ = 0;

    for (uint64_t at = 0; at < size; at += TEST_MEM_PAGE_SIZE) {
        if (memcmp(source + at, dest + at, TEST_MEM_PAGE_SIZE) != 0) {
            if (differ++ < 10) {
                g_test_message("guest page at 0x%" PRIx64 " differs: begins "
                               "with 0x%x at the source, 0x%x at the "
                               "destination",
                               start_address + at, (uint8_t)source[at],
                               (uint8_t)dest[at]);
            }
        }
    }
    g_assert_cmpuint(differ, ==, 0);
}

void rmig_test_program_ram(QTestState *who)
{
    g_autofree char *data = read_ram(who, end_address - start_address);
    unsigned pages = (end_address - start_address) / TEST_MEM_PAGE_SIZE;
    unsigned steps = 0;

    /* It increments the first byte of each page, from the first to the last */
    for (unsigned i = 1; i < pages; i++) {
        uint8_t before = data[(size_t)(i - 1) * TEST_MEM_PAGE_SIZE];
        uint8_t here = data[(size_t)i * TEST_MEM_PAGE_SIZE];

        if (here != before) {
            g_assert_cmphex(here, ==, (uint8_t)(before - 1));
            steps++;
        }
    }
    g_assert_cmpuint(steps, <=, 1);
}

void rmig_test_program_runs(QTestState *who)
{
    uint64_t last = end_address - TEST_MEM_PAGE_SIZE;
    uint8_t before = qtest_readb(who, last);
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND;

    while (qtest_readb(who, last) == before) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(20 * 1000);
    }
}

/* ---- waiting ------------------------------------------------------------ */

static bool is_final(const char *status)
{
    return g_str_equal(status, "completed") || g_str_equal(status, "failed") ||
           g_str_equal(status, "cancelled");
}

/*
 * Not wait_for_migration_status(): its thousand queries a second would take
 * most of the lab's processors.
 */
static char *wait_status(QTestState *who, const char *status, unsigned seconds)
{
    int64_t end = g_get_monotonic_time() + seconds * G_TIME_SPAN_SECOND;

    for (;;) {
        QDict *info = migrate_query(who);
        const char *now = qdict_get_try_str(info, "status") ?: "none";
        char *why = g_strdup(qdict_get_try_str(info, "error-desc") ?: "");
        bool late = g_get_monotonic_time() > end;

        if (g_str_equal(now, status)) {
            qobject_unref(info);
            return why;
        }
        if (is_final(now) || late) {
            g_printerr("migration is %s, not %s%s: %s\n", now, status,
                       late ? " in time" : "", why);
            g_assert_cmpstr(now, ==, status);
        }
        g_free(why);
        qobject_unref(info);
        g_usleep(50 * 1000);
    }
}

void rmig_test_wait(QTestState *who, const char *status, unsigned seconds)
{
    g_free(wait_status(who, status, seconds));
}

char *rmig_test_wait_failed(QTestState *who, unsigned seconds)
{
    char *why = wait_status(who, "failed", seconds);

    g_test_message("failed as it should: %s", why);
    return why;
}

void rmig_test_wait_sent(QTestState *from, uint64_t bytes)
{
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND;

    rmig_test_wait(from, "active", RMIG_TEST_COMPLETE_S);
    while (read_ram_property_int(from, "transferred") < bytes) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(50 * 1000);
    }
}

/* A "Name:   number kB" of /proc/PID/status */
static uint64_t process_kib(QTestState *who, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", qtest_pid(who));
    g_autofree char *text = NULL;
    const char *line;

    g_assert(g_file_get_contents(path, &text, NULL, NULL));
    line = strstr(text, name);
    g_assert(line);
    return g_ascii_strtoull(line + strlen(name), NULL, 10);
}

/*
 * Event channels of librdmacm and libibverbs.  librdmacm keeps each device
 * open that it has used, with one event channel for it.
 */
static int open_channels(QTestState *who)
{
    g_autofree char *pattern = g_strdup_printf("/proc/%d/fd/*",
                                               qtest_pid(who));
    glob_t paths;
    int count = 0;

    g_assert(glob(pattern, 0, NULL, &paths) == 0);
    for (size_t i = 0; i < paths.gl_pathc; i++) {
        g_autofree char *link = g_file_read_link(paths.gl_pathv[i], NULL);

        if (link && strstr(link, "/uverbs")) {
            count--;
        } else if (link && strstr(link, "infiniband")) {
            count++;
        }
    }
    globfree(&paths);
    return count;
}

void rmig_test_released(QTestState *who)
{
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_NOTICE_S * G_TIME_SPAN_SECOND;

    while (process_kib(who, "VmPin:") > 0 || open_channels(who) > 0) {
        if (g_get_monotonic_time() > end) {
            g_assert_cmpuint(process_kib(who, "VmPin:"), ==, 0);
            g_assert_cmpint(open_channels(who), ==, 0);
        }
        g_usleep(50 * 1000);
    }
}

bool rmig_test_running(QTestState *who)
{
    QDict *status = qtest_qmp_assert_success_ref(
        who, "{ 'execute': 'query-status' }");
    bool running = qdict_get_bool(status, "running");

    qobject_unref(status);
    return running;
}

/* ---- ends --------------------------------------------------------------- */

void rmig_test_kill(QTestState *who)
{
    kill(qtest_pid(who), SIGKILL);
    /*
     * libqtest takes a death by signal for a crash, whoever sent it: let it
     * reap the process, and never ask it to end this one.
     */
    while (qtest_probe_child(who)) {
        g_usleep(10 * 1000);
    }
}

void rmig_test_wait_exit(QTestState *who)
{
    int64_t end = g_get_monotonic_time() +
                  RMIG_TEST_NOTICE_S * G_TIME_SPAN_SECOND;

    qtest_set_expected_status(who, EXIT_FAILURE);
    while (qtest_probe_child(who)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(20 * 1000);
    }
    qtest_quit(who);
}
