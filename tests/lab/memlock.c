/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tells a program that it may lock MEMLOCK bytes (of the environment): for
 * LD_PRELOAD.  Only who may do anything can raise that limit.  verbsim, which
 * locks nothing, asks here as well and holds the program to it.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's declarations have an enum for @resource, and nonnull */
int rmig_getrlimit(int resource, struct rlimit *limit) __asm__("getrlimit");
int rmig_getrlimit64(int resource, struct rlimit *limit)
    __asm__("getrlimit64");

int rmig_getrlimit(int resource, struct rlimit *limit)
{
    const char *bytes = getenv("MEMLOCK");

    if (resource == RLIMIT_MEMLOCK && bytes) {
        limit->rlim_cur = limit->rlim_max = atol(bytes);
        return 0;
    }
    return syscall(SYS_prlimit64, 0, resource, NULL, limit);
}

int rmig_getrlimit64(int resource, struct rlimit *limit)
{
    return rmig_getrlimit(resource, limit);
}
