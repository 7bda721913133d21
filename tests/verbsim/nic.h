/*
 * verbsim: what the files of the NIC thread share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_NIC_H
#define VERBSIM_NIC_H

#include "packet.h"
#include <sys/uio.h>

/* nic.c: the epoll set; @opaque is a VsPeer, or NULL for the NIC's own. */
bool vs_nic_watch(int fd, void *opaque);
void vs_nic_watch_writing(int fd, void *opaque, bool wanted);
void vs_nic_unwatch(int fd);
/* @qp owes its requester an acknowledgement. */
void vs_nic_owe_ack(VsQp *qp);
/* @qp goes away: it is taken off the NIC's lists. */
void vs_nic_forget(VsQp *qp);

/* peer.c, on the NIC thread */
/* The channel to ourselves; false with errno. */
bool vs_peer_start(void);
void vs_peer_accept(int listener);
void vs_peer_readable(VsPeer *peer);
void vs_peer_writable(VsPeer *peer);
void vs_peer_flush(VsPeer *peer);
void vs_peer_flush_all(void);

/* responder.c */
void vs_responder_send_ack(VsQp *qp);

/* copy.c, needs no lock */
enum { VS_COPY_OK, VS_COPY_BAD_REMOTE, VS_COPY_BAD_LOCAL, VS_COPY_GONE };
/* Pulls @bytes out of process @pid; @local and @remote have that many. */
int vs_copy(pid_t pid, const struct iovec *local, unsigned num_local,
            const struct iovec *remote, unsigned num_remote, size_t bytes);
/* Exits with a message where the kernel forbids reading other processes. */
void vs_copy_check(void);

#endif
