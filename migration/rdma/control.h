/*
 * RDMA migration transport: the control channel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: typed exchanges with READY, answers and ERROR over the SEND/RECV side
 * of a link; who may send what when, as one table.
 * Callers: stream, conn, source, dest.
 * Thread: the link's.
 *
 * A control channel has a commanding side, which waits for READY, sends a
 * command and perhaps waits for the answer, and a serving side, which sends
 * READY, takes the command, and perhaps answers.  On the main connection the
 * source commands; on the return path the destination does.
 *
 * Credits: each side always has RMIG_CONTROL_RECVS receives posted or in hand.
 * By the rules the peer can have at most an answer, a READY and an ERROR
 * underway at once, so three never run out.  docs/rdma.txt, "Exchange rules".
 */
#ifndef RMIG_CONTROL_H
#define RMIG_CONTROL_H

#include "link.h"
#include "wire.h"

#define RMIG_CONTROL_RECVS 3
/*
 * How long a peer may take to say READY or to answer.  Its NIC may well be
 * alive while its software is not, which no heartbeat can tell.
 */
#define RMIG_CONTROL_TIMEOUT_MS 25000

typedef struct RMigControl RMigControl;

#define RMIG_CONTROL_ERROR rmig_control_error_quark()
GQuark rmig_control_error_quark(void);
typedef enum RMigControlErrorCode {
    RMIG_CONTROL_ERROR_PROTOCOL, /* the peer broke a rule */
    RMIG_CONTROL_ERROR_PEER,     /* the peer sent ERROR */
} RMigControlErrorCode;

/*
 * rmig_control_new: buffers, and the first receives
 * @link: with a queue pair, not yet connected; stays the caller's
 * @commands: whether this is the commanding side
 */
RMigControl *rmig_control_new(RMigLink *link, bool commands, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* After rmig_link_disconnect(), before rmig_link_free() */
void rmig_control_free(RMigControl *control);

/*
 * rmig_control_buffer: RMIG_WIRE_DATA_MAX_BYTES bytes to compose the data of
 * the next command or answer in
 *
 * Waits until the previous one has left it.  NULL on failure.
 */
uint8_t *rmig_control_buffer(RMigControl *control, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- commanding side ---- */

/* Whether rmig_control_command() would not have to wait */
bool rmig_control_may_command(const RMigControl *control);
/*
 * rmig_control_command: wait for READY, then send a command
 * @len: bytes of data, composed in rmig_control_buffer()
 */
bool rmig_control_command(RMigControl *control, RMigWireType type,
                          uint32_t len, uint32_t repeat, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_control_wait_answer: after a command that has one
 * @msg: valid until rmig_control_release()
 */
bool rmig_control_wait_answer(RMigControl *control, int64_t timeout_ms,
                              RMigWireMessage *msg, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- serving side ---- */

/*
 * rmig_control_receive: the next command; says READY if that is not yet said
 * @wait: whether to wait for it, without a deadline unless one was set with
 *     rmig_control_expect(): a source may be slow on purpose, and one that is
 *     dead is found by the heartbeat
 * @msg: valid until rmig_control_release()
 *
 * Returns 1 with a message, 0 without (only if not @wait), -1 on failure.
 */
int rmig_control_receive(RMigControl *control, bool wait, RMigWireMessage *msg,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_control_expect: any thread: from now on a command must come within
 * RMIG_CONTROL_TIMEOUT_MS, or waiting for it fails
 */
void rmig_control_expect(RMigControl *control);
/* Answer the command in hand, which must be one that has an answer */
bool rmig_control_answer(RMigControl *control, uint32_t len, uint32_t repeat,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;

/* ---- both ---- */

/* Done with the message in hand; its buffer takes a new one */
bool rmig_control_release(RMigControl *control, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Tell the peer that we give up, if it can still be told; does not wait */
void rmig_control_send_error(RMigControl *control);
uint64_t rmig_control_sent_messages(const RMigControl *control);
/* But for the data of QEMU_FILE, which the stream's user counts himself */
uint64_t rmig_control_sent_bytes(const RMigControl *control);
RMigLink *rmig_control_link(RMigControl *control);

#endif
