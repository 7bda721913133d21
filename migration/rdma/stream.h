/*
 * RDMA migration transport: a byte stream over QEMU_FILE messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: rmig_stream_read/write/flush() of migration/rdma-transport.h.
 * Callers: the face, through the public header; conn.
 * Thread: the link's.
 *
 * The commanding side of a control channel writes, the serving side reads.
 * Written bytes gather in the control channel's message buffer, so commands
 * may only be sent after a flush.  There are two buffers: bytes gather in one
 * while the message before leaves the other.
 */
#ifndef RMIG_STREAM_H
#define RMIG_STREAM_H

#include "control.h"

struct RMigStream {
    RMigControl *control; /* not owned */
    /* Writing: bytes gathered in the control channel's buffer */
    size_t gathered;
    /* Reading: what is left of the message in hand */
    const uint8_t *data;
    size_t left;
};

void rmig_stream_init(RMigStream *stream, RMigControl *control);
/* Whether every byte written has been sent, and every byte received read */
bool rmig_stream_is_empty(const RMigStream *stream);

#endif
