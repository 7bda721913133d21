/*
 * verbsim: what NICs say to each other over their Unix sockets
 *
 * All processes run on one machine, so numbers are in host order.  A stream
 * of packets, each with its size first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef VERBSIM_PACKET_H
#define VERBSIM_PACKET_H

#include "vs.h"

typedef enum VsPktKind {
    VS_PKT_HELLO,               /* first on a channel: src_qpn is the slot */
    VS_PKT_REQUEST,             /* SEND, Write or Read: a VsRequest follows */
    VS_PKT_ACK,                 /* all up to psn */
    VS_PKT_NAK,                 /* psn, code */
    VS_PKT_READ_REPLY,          /* psn; a VsExtent follows: pull it */
    VS_PKT_LOST,                /* psn met a dead link: time-outs may start */
    VS_PKT_CM,                  /* librdmacm's payload follows */
    VS_PKT_COMMAND,             /* text for the control socket follows */
    VS_PKT_ANSWER,              /* text */
} VsPktKind;

typedef enum VsNak {
    VS_NAK_RNR,                 /* arg: the responder's min_rnr_timer */
    VS_NAK_INVALID_REQUEST,
    VS_NAK_REMOTE_ACCESS,
    VS_NAK_REMOTE_OPERATION,
    VS_NAK_LOCAL_MEMORY,        /* the requester's memory could not be read */
} VsNak;

struct VsPkt {
    uint32_t bytes;             /* of the whole packet */
    uint16_t kind;              /* VsPktKind */
    uint16_t code;              /* VsNak */
    uint32_t dst_qpn, src_qpn;
    uint32_t psn;               /* 24 bits; one a message */
    uint32_t arg;
    uint64_t due_ns;            /* nothing shows before this; 0: at once */
};

/* A piece of the sender's memory. */
typedef struct VsExtent {
    uint64_t addr, length;
} VsExtent;

typedef struct VsRequest {
    uint32_t opcode;            /* enum ibv_wr_opcode */
    uint32_t imm;
    uint64_t remote_addr;
    uint32_t rkey;
    uint32_t length;
    uint32_t solicited;
    uint32_t num_extents;       /* then as many VsExtent; or, if 0, the data */
    int32_t control;            /* of a SEND: vs_control_type(), for faults */
    uint32_t reserved;          /* what follows is aligned */
} VsRequest;

enum { VS_PKT_MAX = 64 * 1024 };

/* Queues a packet of @pkt and up to two parts for @peer. */
void vs_peer_send(VsPeer *peer, VsPkt *pkt, const void *a, size_t a_bytes,
                  const void *b, size_t b_bytes);

static inline const void *vs_pkt_payload(const VsPkt *pkt)
{
    return pkt + 1;
}

#endif
