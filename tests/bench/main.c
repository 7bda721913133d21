/*
 * rdma-bench: the parent, which starts both processes of a run and reports
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See bench.h.  The parent never touches verbs: what a process has opened its
 * children may not use.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

const char *role = "rdma-bench";

void fail(const char *format, ...)
{
    int cause = errno; /* for %m */
    va_list args;

    fprintf(stderr, "%s: ", role);
    va_start(args, format);
    errno = cause;
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

void fail_on(GError *err)
{
    if (err) {
        fail("%s", err->message);
    }
}

void write_all(int fd, const void *buf, size_t size)
{
    const char *from = buf;

    while (size > 0) {
        ssize_t n = write(fd, from, size);

        if (n < 0) {
            fail("nobody waits for the result: %m");
        }
        from += n;
        size -= n;
    }
}

bool read_all(int fd, void *buf, size_t size)
{
    char *to = buf;

    while (size > 0) {
        ssize_t n = read(fd, to, size);

        if (n <= 0) {
            return false;
        }
        to += n;
        size -= n;
    }
    return true;
}

const struct sockaddr *bench_address(uint16_t port)
{
    static union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } address;
    const char *text = bench.address ? bench.address : "127.0.0.1";

    memset(&address, 0, sizeof(address));
    if (inet_pton(AF_INET, text, &address.in.sin_addr) == 1) {
        address.in.sin_family = AF_INET;
        address.in.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, text, &address.in6.sin6_addr) == 1) {
        address.in6.sin6_family = AF_INET6;
        address.in6.sin6_port = htons(port);
    } else {
        fail("--address: %s is no IP address", text);
    }
    return &address.any;
}

typedef struct Child {
    pid_t pid;
    int fd; /* what it reports */
} Child;

/* 0 in the child, with the end of the pipe to write to in @child */
static pid_t start(Child *child, const char *name)
{
    pid_t parent = getpid();
    int fds[2];

    child->pid = pipe(fds) == 0 ? fork() : -1;
    if (child->pid < 0) {
        fail("no new process: %m");
    }
    child->fd = fds[child->pid == 0];
    close(fds[child->pid != 0]);
    if (child->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            exit(1);
        }
        /* Its label on verbsim */
        g_setenv("VERBSIM_NAME", name, false);
    }
    return child->pid;
}

static bool ended_well(Child *child)
{
    int status;

    close(child->fd);
    return waitpid(child->pid, &status, 0) == child->pid &&
           WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void check_memory(const BenchSource *source, const BenchDest *dest)
{
    for (int i = 0; bench.verify && i < bench.blocks; i++) {
        if (source->sums[i] != dest->sums[i]) {
            fail("the memories differ in block %d", i);
        }
    }
}

static void run_once(unsigned run)
{
    g_autofree BenchSource *from = g_new0(BenchSource, 1);
    g_autofree BenchDest *to = g_new0(BenchDest, 1);
    Child source, dest;
    uint16_t port;
    bool well;

    if (start(&dest, "dst") == 0) {
        dest_main(dest.fd);
    }
    if (!read_all(dest.fd, &port, sizeof(port))) {
        exit(1);
    }
    if (start(&source, "src") == 0) {
        close(dest.fd);
        source_main(run, port, source.fd);
    }
    well = read_all(source.fd, from, sizeof(*from));
    if (!well) {
        /* It may wait for a source that will never come */
        kill(dest.pid, SIGTERM);
    }
    well = well && read_all(dest.fd, to, sizeof(*to));
    well = ended_well(&source) && well;
    well = ended_well(&dest) && well;
    if (!well) {
        exit(1);
    }
    check_memory(from, to);
    report_run(run, from, to);
}

int main(int argc, char **argv)
{
    options_parse(argc, argv);
    for (int run = 0; run < bench.runs; run++) {
        run_once(run);
    }
    return 0;
}
