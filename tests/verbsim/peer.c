/*
 * verbsim: channels to the NICs of other processes
 *
 * A channel is a Unix stream socket that carries whole packets both ways.
 * Whoever needs one first connects it; the other side then uses it as well.
 * Anybody may queue a packet; only the NIC thread touches the socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "nic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_CHUNK = 256 * 1024 };

static GPtrArray *peers;        /* with a socket; each holds a reference */

VsPeer *vs_peer_ref(VsPeer *peer)
{
    peer->refs++;
    return peer;
}

void vs_peer_unref(VsPeer *peer)
{
    if (--peer->refs == 0) {
        g_byte_array_unref(peer->in);
        g_byte_array_unref(peer->out);
        g_free(peer);
    }
}

static VsPeer *peer_new(int fd, unsigned slot)
{
    VsPeer *peer = g_new0(VsPeer, 1);
    struct ucred cred = { 0 };
    socklen_t length = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &length) < 0 ||
        !vs_nic_watch(fd, peer)) {
        int error = errno;

        g_free(peer);
        close(fd);
        errno = error;
        return NULL;
    }
    peer->refs = 1;
    peer->fd = fd;
    peer->slot = slot;
    peer->pid = cred.pid;
    peer->writable = true;
    peer->in = g_byte_array_new();
    peer->out = g_byte_array_new();
    if (!peers) {
        peers = g_ptr_array_new();
    }
    g_ptr_array_add(peers, peer);
    return peer;
}

/*
 * Programs that talk to themselves, tests above all, may count their
 * descriptors: those of this channel are there from the start.
 */
bool vs_peer_start(void)
{
    int fd[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                   fd) < 0) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(fd); i++) {
        VsPeer *peer = peer_new(fd[i], vs_slot);

        if (!peer) {
            return false;
        }
        peer->greeted = true;
    }
    return true;
}

VsPeer *vs_peer_get(unsigned slot)
{
    VsPkt hello = { .kind = VS_PKT_HELLO, .src_qpn = vs_slot };
    VsPeer *peer;
    int fd;

    for (unsigned i = 0; peers && i < peers->len; i++) {
        peer = peers->pdata[i];
        if (peer->greeted && peer->slot == slot) {
            return vs_peer_ref(peer);
        }
    }
    fd = vs_fabric_connect(slot);
    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    peer = peer_new(fd, slot);
    if (!peer) {
        return NULL;
    }
    peer->greeted = true;
    vs_peer_send(peer, &hello, NULL, 0, NULL, 0);
    return vs_peer_ref(peer);
}

void vs_peer_send(VsPeer *peer, VsPkt *pkt, const void *a, size_t a_bytes,
                  const void *b, size_t b_bytes)
{
    if (peer->fd < 0) {
        return;
    }
    pkt->bytes = (uint32_t)(sizeof(*pkt) + a_bytes + b_bytes);
    g_assert(pkt->bytes <= VS_PKT_MAX);
    g_byte_array_append(peer->out, (const guint8 *)pkt, sizeof(*pkt));
    if (a_bytes) {
        g_byte_array_append(peer->out, a, (guint)a_bytes);
    }
    if (b_bytes) {
        g_byte_array_append(peer->out, b, (guint)b_bytes);
    }
    vs_nic_kick();
}

void vs_peer_send_cm(VsPeer *peer, const void *payload, size_t length)
{
    VsPkt pkt = { .kind = VS_PKT_CM };

    if (vs_port_up) {
        pkt.due_ns = vs_shape_transmit(length);
        vs_peer_send(peer, &pkt, payload, length, NULL, 0);
    }
}

/* ------------------------------------------------------- on the NIC thread */

/* The connections of a process that died end after what it has said last. */
static void tell_cm_if_gone(VsPeer *peer)
{
    if (peer->fd < 0 && peer->greeted && !peer->flights && vs_cm_ops) {
        vs_cm_ops->peer_gone(peer);
    }
}

static void peer_gone(VsPeer *peer)
{
    vs_nic_unwatch(peer->fd);
    close(peer->fd);
    peer->fd = -1;
    g_ptr_array_remove_fast(peers, peer);
    if (peer->greeted) {
        VS_TRACE("peer-gone", "slot=%u pid=%d", peer->slot, (int)peer->pid);
        vs_requester_peer_gone(peer);
        tell_cm_if_gone(peer);
    }
    vs_peer_unref(peer);
}

void vs_peer_accept(int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL,
                         SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        peer_new(fd, VS_SLOTS);
    }
}

static void answer_command(VsPeer *peer, const VsPkt *pkt)
{
    g_autofree char *line = g_strndup(vs_pkt_payload(pkt),
                                      pkt->bytes - sizeof(*pkt));
    g_autofree char *text = vs_fault_command(line);
    VsPkt answer = { .kind = VS_PKT_ANSWER };
    size_t length = MIN(strlen(text), VS_PKT_MAX - sizeof(answer));

    vs_peer_send(peer, &answer, text, length, NULL, 0);
}

/* A CM packet that is on the wire until it is due. */
typedef struct Flight {
    VsTimer timer;
    VsPeer *peer;
    VsPkt *pkt;
} Flight;

static void deliver_cm(VsPeer *peer, const VsPkt *pkt)
{
    if (vs_port_up && vs_cm_ops) {
        vs_cm_ops->packet(peer, vs_pkt_payload(pkt),
                          pkt->bytes - sizeof(*pkt));
    }
}

static void flight_lands(VsTimer *timer)
{
    Flight *flight = timer->opaque;

    deliver_cm(flight->peer, flight->pkt);
    flight->peer->flights--;
    tell_cm_if_gone(flight->peer);
    vs_peer_unref(flight->peer);
    g_free(flight->pkt);
    g_free(flight);
}

static void receive_cm(VsPeer *peer, const VsPkt *pkt)
{
    Flight *flight;

    if (pkt->due_ns <= vs_now_ns()) {
        deliver_cm(peer, pkt);
        return;
    }
    flight = g_new0(Flight, 1);
    flight->peer = vs_peer_ref(peer);
    peer->flights++;
    flight->pkt = g_memdup2(pkt, pkt->bytes);
    flight->timer.fire = flight_lands;
    flight->timer.opaque = flight;
    vs_timer_set(&flight->timer, pkt->due_ns);
}

static void dispatch(VsPeer *peer, const VsPkt *pkt)
{
    switch (pkt->kind) {
    case VS_PKT_HELLO:
        peer->slot = pkt->src_qpn;
        peer->greeted = true;
        break;
    case VS_PKT_REQUEST:
        vs_responder_packet(peer, pkt);
        break;
    case VS_PKT_ACK:
    case VS_PKT_NAK:
    case VS_PKT_READ_REPLY:
    case VS_PKT_LOST:
        vs_requester_packet(peer, pkt);
        break;
    case VS_PKT_CM:
        receive_cm(peer, pkt);
        break;
    case VS_PKT_COMMAND:
        answer_command(peer, pkt);
        break;
    default:
        vs_complain("packet of unknown kind %u from process %d", pkt->kind,
                    (int)peer->pid);
        break;
    }
}

/* Packets are not padded in the stream, so an aligned copy is handled. */
static void dispatch_copy(VsPeer *peer, const uint8_t *data, size_t bytes)
{
    g_autofree VsPkt *pkt = g_memdup2(data, bytes);

    dispatch(peer, pkt);
}

/* Handles the whole packets at the front of what was read. */
static void dispatch_all(VsPeer *peer)
{
    size_t at = 0;

    while (peer->in->len - at >= sizeof(VsPkt)) {
        VsPkt head;

        memcpy(&head, peer->in->data + at, sizeof(head));
        if (head.bytes < sizeof(head) || head.bytes > VS_PKT_MAX) {
            vs_complain("packet of %u bytes from process %d", head.bytes,
                        (int)peer->pid);
            at = peer->in->len;
            break;
        }
        if (peer->in->len - at < head.bytes) {
            break;
        }
        dispatch_copy(peer, peer->in->data + at, head.bytes);
        at += head.bytes;
    }
    if (at) {
        g_byte_array_remove_range(peer->in, 0, (guint)at);
    }
}

/*
 * One portion only: a peer that keeps writing must not keep the NIC from its
 * timers and from others.  epoll tells again, of the end as well.
 */
void vs_peer_readable(VsPeer *peer)
{
    guint had = peer->in->len;
    ssize_t n;

    g_byte_array_set_size(peer->in, had + READ_CHUNK);
    n = read(peer->fd, peer->in->data + had, READ_CHUNK);
    g_byte_array_set_size(peer->in, had + (guint)MAX(n, 0));
    if (n > 0) {
        dispatch_all(peer);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        peer_gone(peer);
    }
}

void vs_peer_flush(VsPeer *peer)
{
    while (peer->fd >= 0 && peer->writable &&
           peer->out_start < peer->out->len) {
        ssize_t n = send(peer->fd, peer->out->data + peer->out_start,
                         peer->out->len - peer->out_start, MSG_NOSIGNAL);

        if (n < 0) {
            /* A broken channel is noticed by its reader. */
            peer->writable = false;
            vs_nic_watch_writing(peer->fd, peer, true);
            return;
        }
        peer->out_start += (size_t)n;
    }
    if (peer->out_start == peer->out->len) {
        g_byte_array_set_size(peer->out, 0);
        peer->out_start = 0;
    }
}

void vs_peer_writable(VsPeer *peer)
{
    peer->writable = true;
    vs_nic_watch_writing(peer->fd, peer, false);
    vs_peer_flush(peer);
}

void vs_peer_flush_all(void)
{
    for (unsigned i = 0; peers && i < peers->len; i++) {
        vs_peer_flush(peers->pdata[i]);
    }
}
