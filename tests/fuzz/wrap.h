/*
 * A device to fuzz on: what the linker puts in place of the C library's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Calls of NAME lead to __wrap_NAME; __real_NAME is the library's.  The list is
 * the same as in meson.build.
 */
#ifndef FUZZ_WRAP_H
#define FUZZ_WRAP_H

#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include "device.h"

int __real_eventfd(unsigned int count, int flags);
int __real_epoll_create1(int flags);
int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __real_close(int fd);
int __real_open(const char *path, int flags, ...);
int __real_open64(const char *path, int flags, ...);
int __real_poll(struct pollfd *pfds, nfds_t n, int timeout);
int __wrap_eventfd(unsigned int count, int flags);
int __wrap_epoll_create1(int flags);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_timerfd_create(int clock, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *value,
                           struct itimerspec *old);
int __wrap_close(int fd);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_poll(struct pollfd *pfds, nfds_t n, int timeout);

#endif
