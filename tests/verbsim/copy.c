/*
 * verbsim: the one copy, out of another process's memory into this one's
 *
 * Called by the NIC thread without vs_lock.  The kernel checks both sides'
 * addresses, so memory that is gone is an error here and not a signal.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "nic.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096 };

static bool byte_is_readable(pid_t pid, uintptr_t addr)
{
    char byte;
    struct iovec to = { &byte, 1 };
    struct iovec from = { (void *)addr, 1 };

    return process_vm_readv(pid, &to, 1, &from, 1, 0) == 1;
}

/* Can a byte of each page of each remote piece be read? */
static bool remote_is_readable(pid_t pid, const struct iovec *remote,
                               unsigned num_remote)
{
    for (unsigned i = 0; i < num_remote; i++) {
        uintptr_t at = (uintptr_t)remote[i].iov_base;
        uintptr_t end = at + remote[i].iov_len;

        for (; at < end; at = (at / PAGE + 1) * PAGE) {
            if (!byte_is_readable(pid, at)) {
                return false;
            }
        }
    }
    return true;
}

/* Not the memory is at fault, but who asks for it. */
static void complain_of_permission(pid_t pid)
{
    static bool said;

    if (!said) {
        said = true;
        vs_complain("process %d may not read the memory of process %d: run "
                    "both as the same user and in the same user namespace, "
                    "and neither with file capabilities", (int)getpid(),
                    (int)pid);
    }
}

int vs_copy(pid_t pid, const struct iovec *local, unsigned num_local,
            const struct iovec *remote, unsigned num_remote, size_t bytes)
{
    uint64_t start = vs_now_ns();
    ssize_t n;

    if (!bytes) {
        return VS_COPY_OK;
    }
    n = process_vm_readv(pid, local, num_local, remote, num_remote, 0);
    if (n == (ssize_t)bytes) {
        vs_stats->copied_bytes += bytes;
        vs_stats->copy_ns += vs_now_ns() - start;
        return VS_COPY_OK;
    }
    if (n < 0 && errno == ESRCH) {
        return VS_COPY_GONE;
    }
    if (n < 0 && errno == EPERM) {
        complain_of_permission(pid);
    }
    return remote_is_readable(pid, remote, num_remote) ? VS_COPY_BAD_LOCAL
                                                       : VS_COPY_BAD_REMOTE;
}

void vs_copy_check(void)
{
    char from = 1, to = 0;
    struct iovec a = { &to, 1 }, b = { &from, 1 };

    /* Where Yama restricts ptrace, the other NICs need our leave to read. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    if (process_vm_readv(getpid(), &a, 1, &b, 1, 0) != 1 || to != 1) {
        vs_complain("process_vm_readv() does not work here: %s; allow it in "
                    "the container's seccomp profile", g_strerror(errno));
        exit(EXIT_FAILURE);
    }
}
