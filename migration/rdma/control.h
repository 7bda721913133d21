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
 * Early READY: when a QEMU_FILE or REGISTER_FINISHED is in hand, READY for a
 * later command leaves at once, by itself, so that the peer need not wait for
 * it when it has the next message.  A command that comes before the one in hand
 * has been released waits for that, and is the next that is received.
 *
 * Pipelined: two messages of the stream may be under way at once.  Where one
 * READY permits one command, there are two credits then: the first READY grants
 * both, and every later one gives back that of the oldest command.  Only a
 * QEMU_FILE behind a QEMU_FILE or REGISTER_FINISHED is content with one; any
 * other command needs both at home, so all before it has been taken, and
 * handled if its kind is not said READY for early.
 *
 * Receives: each side has RMIG_CONTROL_RECVS, each of which is posted, or its
 * message is in hand or waits.  To the commanding side at most two READYs and
 * an ERROR can be under way, or one, an answer, unreleased perhaps, and an
 * ERROR, as an answered command has all credits at home when it is sent.  To
 * the serving side it is the command in hand, two others, as that is how many
 * credits there are beside it, and an ERROR.  So four never run out, and three
 * are enough when it is not pipelined.  A message that is released is posted
 * again before the READY which may bring another.
 * docs/rdma.txt, "Exchange rules".
 */
#ifndef RMIG_CONTROL_H
#define RMIG_CONTROL_H

#include "link.h"
#include "wire.h"

#define RMIG_CONTROL_RECVS 4
/*
 * How long a peer may take to say READY or to answer.  Its NIC may well be
 * alive while its software is not, which no heartbeat can tell.
 */
#define RMIG_CONTROL_TIMEOUT_MS 25000
/* For rmig_control_wait_answer(): the heartbeat finds a dead host */
#define RMIG_CONTROL_NO_DEADLINE (-1)

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
/*
 * rmig_control_set_pipelined: two messages of the stream may be under way
 *
 * Both sides must agree on it.  Before anything is commanded or received; on
 * the serving side before the peer can send.
 */
void rmig_control_set_pipelined(RMigControl *control);
/*
 * rmig_control_set_hands_over: LOAD_REQUEST and START may be sent, or come
 *
 * As above: both sides must agree on it, and before the peer can send.
 */
void rmig_control_set_hands_over(RMigControl *control);
/* After rmig_link_disconnect(), before rmig_link_free() */
void rmig_control_free(RMigControl *control);

/*
 * rmig_control_buffer: RMIG_WIRE_DATA_MAX_BYTES bytes to compose the data of
 * the next command or answer in
 *
 * The same place until that is sent, then another.  Waits until the last but
 * one has left it.  NULL on failure.
 */
uint8_t *rmig_control_buffer(RMigControl *control, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- commanding side ---- */

/* Whether rmig_control_command() would not have to wait, whatever the type */
bool rmig_control_may_command(const RMigControl *control);
/*
 * Whether rmig_control_buffer(), and a command of @type, would not have to
 * wait, as far as is known: rmig_link_poll() makes it known
 */
bool rmig_control_may_compose(const RMigControl *control);
bool rmig_control_may_send(const RMigControl *control, RMigWireType type);
/*
 * rmig_control_command: wait for a credit, or all, then send a command
 * @len: bytes of data, composed in rmig_control_buffer()
 */
bool rmig_control_command(RMigControl *control, RMigWireType type,
                          uint32_t len, uint32_t repeat, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_control_wait_credit: until rmig_control_command() would not have to wait
 * if it sent a @type; without a deadline
 * rmig_control_wait_idle: likewise, whatever the type
 *
 * For a peer that is known to be busy, and may be so for long.
 */
bool rmig_control_wait_credit(RMigControl *control, RMigWireType type,
                              GError **err) G_GNUC_WARN_UNUSED_RESULT;
bool rmig_control_wait_idle(RMigControl *control, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Whether rmig_control_wait_answer() would not have to wait */
bool rmig_control_has_answer(const RMigControl *control);
/*
 * rmig_control_wait_answer: after a command that has one
 * @timeout_ms: or RMIG_CONTROL_NO_DEADLINE
 * @msg: valid until rmig_control_release()
 */
bool rmig_control_wait_answer(RMigControl *control, int64_t timeout_ms,
                              RMigWireMessage *msg, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/* ---- serving side ---- */

/*
 * rmig_control_receive: the next command, with none in hand; says READY if that
 * is not yet said.  One that has come is handed out even if the connection
 * broke afterwards, and the next call meets the error; but not one of a peer
 * that gave up or broke a rule, nor after a shutdown.
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
 * Whether the next command is there and is a @type; the call of
 * rmig_control_receive() that gives it does not wait then
 */
bool rmig_control_has(const RMigControl *control, RMigWireType type);
/*
 * rmig_control_expect: any thread: from now on a command must come within
 * @timeout_ms, or waiting for it fails
 */
void rmig_control_expect(RMigControl *control, int64_t timeout_ms);
/* Answer the command in hand, which must be one that has an answer */
bool rmig_control_answer(RMigControl *control, uint32_t len, uint32_t repeat,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;

/* ---- both ---- */

/*
 * rmig_control_release: done with the message in hand; its buffer takes a new
 * one
 *
 * If that fails the connection has ended, but what has come before may still
 * be received.
 */
bool rmig_control_release(RMigControl *control, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Tell the peer that we give up, if it can still be told; does not wait */
void rmig_control_send_error(RMigControl *control);
uint64_t rmig_control_sent_messages(const RMigControl *control);
/* But for the data of QEMU_FILE, which the stream's user counts himself */
uint64_t rmig_control_sent_bytes(const RMigControl *control);
RMigLink *rmig_control_link(RMigControl *control);

#endif
