/*
 * RDMA migration transport: the control channel
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See control.h for the job and the callers.
 *
 * One buffer is allocated and registered for everything:
 *
 *   recv 0 ... recv 3 | composed 0 | composed 1 | READY 0 ... READY 3 | ERROR
 *
 * without remote access, so that no rkey of the peer's reaches it.  Messages
 * are composed in the two buffers in turn: the next one while the one before
 * leaves.  At most all seven SENDs and the heartbeat are on the send queue at
 * once, so the slots that writes may not use always suffice for them.
 *
 * A credit is leave to send a command.  There are @window of them: one, or two
 * if pipelined; the first READY grants all, a later one gives one back.  On
 * the serving side each is out (@credits), or its command waits or is in hand,
 * or its READY is yet to be said (@owed, or the state is IDLE).
 */
#include <string.h>

#include "control.h"
#include "log.h"

#define SLOT_BYTES RMIG_WIRE_MESSAGE_MAX_BYTES
#define N_COMPOSED 2
#define WINDOW_MAX 2
/*
 * A command often comes before the completion of the READY that permitted it,
 * so as many again
 */
#define N_READY (2 * WINDOW_MAX)
#define N_SMALL (N_READY + 1)
#define SMALL_ERROR N_READY
#define BUFFER_BYTES ((RMIG_CONTROL_RECVS + N_COMPOSED) * SLOT_BYTES + \
                      N_SMALL * RMIG_WIRE_HEADER_BYTES)
/* How long to look for a message before going to sleep: a full one's way */
#define LOOK_US 150
G_STATIC_ASSERT(N_COMPOSED + N_SMALL + 1 <= RMIG_VERBS_SLOTS_RESERVED);

typedef enum RMigControlState {
    RMIG_CONTROL_IDLE,    /* nothing owed by anybody */
    RMIG_CONTROL_CREDIT,  /* commanding: the peer is ready for any command */
    RMIG_CONTROL_PARTLY,  /* commanding: one of two credits is out */
    RMIG_CONTROL_WAITING, /* commanding: the peer owes an answer */
    RMIG_CONTROL_ASKED,   /* serving: we said READY */
    RMIG_CONTROL_HOLDING, /* serving: a command is in hand */
    RMIG_CONTROL_OWING,   /* serving: and we owe its answer */
    RMIG_CONTROL_AHEAD,   /* serving: and we said READY for the next one */
    RMIG_CONTROL_QUEUED,  /* serving: and the next one is there */
    RMIG_CONTROL_FULL,    /* serving: and so is the one behind that */
    RMIG_CONTROL_STATES
} RMigControlState;

static const char *const state_names[RMIG_CONTROL_STATES] = {
    "idle", "ready", "ready for the stream", "waiting for an answer",
    "waiting for a command", "handling a command", "answering a command",
    "handling a command and waiting for the next", "handling two commands",
    "handling three commands",
};

#define BIT(type) (1u << (type))
#define HANDOVER (BIT(RMIG_WIRE_LOAD_REQUEST) | BIT(RMIG_WIRE_START))
#define COMMANDS (BIT(RMIG_WIRE_QEMU_FILE) | \
                  BIT(RMIG_WIRE_RAM_BLOCKS_REQUEST) | \
                  BIT(RMIG_WIRE_COMPRESS) | \
                  BIT(RMIG_WIRE_REGISTER_REQUEST) | \
                  BIT(RMIG_WIRE_REGISTER_FINISHED) | \
                  BIT(RMIG_WIRE_UNREGISTER_REQUEST) | HANDOVER)

/*
 * READY for the next command is said as soon as one of these is in hand, and if
 * pipelined the stream may go on behind one before that.  They have no answer
 * that READY could overtake, and promise nothing by having been handled, as
 * COMPRESS does: writes may follow its zeros.
 */
#define EARLY_READY (BIT(RMIG_WIRE_QEMU_FILE) | \
                     BIT(RMIG_WIRE_REGISTER_FINISHED))

/*
 * What may arrive, by state.  ERROR may arrive in every one.  WAITING is
 * narrowed to the answer that belongs to the command, and commands by the
 * credits that are out.
 */
static const uint32_t may_arrive[2][RMIG_CONTROL_STATES] = {
    { /* serving side */
        [RMIG_CONTROL_ASKED] = COMMANDS,
        [RMIG_CONTROL_AHEAD] = COMMANDS,
        [RMIG_CONTROL_QUEUED] = BIT(RMIG_WIRE_QEMU_FILE),
    },
    { /* commanding side */
        [RMIG_CONTROL_IDLE] = BIT(RMIG_WIRE_READY),
        [RMIG_CONTROL_PARTLY] = BIT(RMIG_WIRE_READY),
        [RMIG_CONTROL_WAITING] = BIT(RMIG_WIRE_RAM_BLOCKS_RESULT) |
                                 BIT(RMIG_WIRE_REGISTER_RESULT) |
                                 BIT(RMIG_WIRE_UNREGISTER_FINISHED) |
                                 BIT(RMIG_WIRE_LOADED) |
                                 BIT(RMIG_WIRE_STARTED),
    },
};

typedef struct RMigSlot {
    RMigWork work;
    uint8_t *buf;
    bool busy; /* posted */
} RMigSlot;

/* A command, and the receive that it lies in */
typedef struct RMigTaken {
    RMigSlot *slot;
    RMigWireMessage msg;
} RMigTaken;

struct RMigControl {
    RMigLink *link;
    bool commands;
    bool hands_over; /* agreed on with the peer */
    RMigControlState state;
    unsigned window;     /* commands that may be under way at a time */
    unsigned credits;    /* how many more may be sent now */
    unsigned owed;       /* serving: READYs that wait for a buffer */
    RMigWireType last;   /* command sent, or arrived; NONE: none yet */
    RMigWireType answer; /* WAITING, OWING: its type */
    uint8_t *buffer;
    RMigMr *mr;
    RMigSlot recv[RMIG_CONTROL_RECVS];
    RMigSlot composed[N_COMPOSED];
    unsigned composing; /* which of them takes the next message */
    RMigSlot small[N_SMALL];
    RMigSlot *held; /* the receive that @in_hand lies in */
    RMigWireMessage in_hand;
    bool given;                   /* serving: the caller has got @in_hand */
    RMigTaken queued[WINDOW_MAX]; /* QUEUED, FULL: what comes next */
    unsigned n_queued;
    bool gave_up; /* we sent ERROR */
    _Atomic int64_t receive_by_us; /* 0: no deadline */
    uint64_t sent_messages;
    uint64_t sent_bytes;
};

GQuark rmig_control_error_quark(void)
{
    return g_quark_from_static_string("rmig-control-error");
}

static void set_state(RMigControl *c, RMigControlState state)
{
    RMIG_LOG("control %p: %s -> %s", (void *)c, state_names[c->state],
             state_names[state]);
    c->state = state;
}

/* The answer that @type has, or NONE */
static RMigWireType answer_to(RMigWireType type)
{
    switch (type) {
    case RMIG_WIRE_RAM_BLOCKS_REQUEST:
        return RMIG_WIRE_RAM_BLOCKS_RESULT;
    case RMIG_WIRE_REGISTER_REQUEST:
        return RMIG_WIRE_REGISTER_RESULT;
    case RMIG_WIRE_UNREGISTER_REQUEST:
        return RMIG_WIRE_UNREGISTER_FINISHED;
    case RMIG_WIRE_LOAD_REQUEST:
        return RMIG_WIRE_LOADED;
    case RMIG_WIRE_START:
        return RMIG_WIRE_STARTED;
    default:
        return RMIG_WIRE_NONE;
    }
}

static void fail(RMigControl *c, GError *err)
{
    rmig_link_fail(c->link, err);
}

/* What cannot be posted ends the connection; for the caller, too */
static bool refused(RMigControl *c, RMigSlot *slot, GError *local,
                    GError **err)
{
    slot->busy = false;
    fail(c, g_error_copy(local));
    g_propagate_error(err, local);
    return false;
}

static bool post_recv(RMigControl *c, RMigSlot *slot, GError **err)
{
    GError *local = NULL;

    slot->busy = true;
    return rmig_verbs_post_recv(rmig_link_verbs(c->link), &slot->work, c->mr,
                                slot->buf, SLOT_BYTES, &local) ||
           refused(c, slot, local, err);
}

/*
 * Whether the commanding side may send a @type now: anything if nothing is
 * under way, else only the stream's continuation.
 */
static bool has_credit(const RMigControl *c, RMigWireType type)
{
    return c->credits == c->window ||
           (c->credits > 0 && type == RMIG_WIRE_QEMU_FILE &&
            (EARLY_READY & BIT(c->last)));
}

static bool is_legal(const RMigControl *c, RMigWireType type)
{
    uint32_t legal = may_arrive[c->commands][c->state];

    if (!c->hands_over) {
        legal &= ~HANDOVER;
    }
    if (c->state == RMIG_CONTROL_WAITING) {
        legal &= BIT(c->answer);
    }
    return (legal & BIT(type)) && (c->commands || has_credit(c, type));
}

static bool post_message(RMigControl *c, RMigSlot *slot, RMigWireType type,
                         uint32_t len, uint32_t repeat, GError **err)
{
    RMigWireHeader header = { .len = len, .type = type, .repeat = repeat };
    GError *local = NULL;

    g_assert(!slot->busy && len <= RMIG_WIRE_DATA_MAX_BYTES);
    rmig_wire_header_pack(slot->buf, &header);
    slot->busy = true;
    if (!rmig_verbs_post_send(rmig_link_verbs(c->link), &slot->work, c->mr,
                              slot->buf, RMIG_WIRE_HEADER_BYTES + len,
                              &local)) {
        g_prefix_error(&local, "sending %s: ", rmig_wire_type_name(type));
        return refused(c, slot, local, err);
    }
    RMIG_LOG("control %p: sent %s, %u bytes", (void *)c,
             rmig_wire_type_name(type), len);
    c->sent_messages++;
    c->sent_bytes += RMIG_WIRE_HEADER_BYTES;
    if (type != RMIG_WIRE_QEMU_FILE) {
        c->sent_bytes += len;
    }
    return true;
}

/* Credits that the next READY brings */
static unsigned granted(const RMigControl *c)
{
    return c->last == RMIG_WIRE_NONE ? c->window : 1;
}

/* Those before have long been taken, except by a dead peer */
static RMigSlot *ready_slot(RMigControl *c)
{
    unsigned i = 0;

    while (i < 2 * c->window - 1 && c->small[i].busy) {
        i++;
    }
    return &c->small[i];
}

static bool post_ready(RMigControl *c, RMigSlot *slot, GError **err)
{
    /* Before posting: the command may arrive with the READY's completion */
    c->credits += granted(c);
    return post_message(c, slot, RMIG_WIRE_READY, 0, 1, err);
}

/*
 * READY for a later command travels while this one is handled.  Waiting is not
 * for a completion's handler: without a free buffer READY stays owed, and it is
 * said when a buffer becomes free, which is in send_done().
 */
static void say_owed(RMigControl *c)
{
    while (c->owed > 0 && !ready_slot(c)->busy && !c->gave_up &&
           !rmig_link_failed(c->link)) {
        c->owed--;
        if (!post_ready(c, ready_slot(c), NULL)) {
            RMIG_LOG("control %p: no READY for the next command", (void *)c);
        }
    }
}

/* ASKED: this is the next command that the caller gets */
static void take_command(RMigControl *c, const RMigTaken *taken)
{
    RMigWireType type = taken->msg.type;

    c->held = taken->slot;
    c->in_hand = taken->msg;
    c->answer = answer_to(type);
    set_state(c, c->answer == RMIG_WIRE_NONE ? RMIG_CONTROL_HOLDING :
                 RMIG_CONTROL_OWING);
    if (EARLY_READY & BIT(type)) {
        set_state(c, c->n_queued > 0 ? RMIG_CONTROL_QUEUED :
                     RMIG_CONTROL_AHEAD);
        c->owed++;
        say_owed(c);
    }
}

/* Commanding, and no answer is waited for */
static void count_credits(RMigControl *c)
{
    set_state(c, c->credits == 0 ? RMIG_CONTROL_IDLE :
                 c->credits < c->window ? RMIG_CONTROL_PARTLY :
                 RMIG_CONTROL_CREDIT);
}

/* What the commanding side gets; returns whether @slot stays held */
static bool take_reply(RMigControl *c, RMigSlot *slot,
                       const RMigWireMessage *msg)
{
    bool holds = c->state == RMIG_CONTROL_WAITING;

    if (holds) {
        c->held = slot;
        c->in_hand = *msg;
    } else {
        c->credits += granted(c);
    }
    count_credits(c);
    return holds;
}

/* A validated, legal message has arrived; returns whether @slot stays held */
static bool take_message(RMigControl *c, RMigSlot *slot,
                         const RMigWireMessage *msg)
{
    RMigTaken taken = { .slot = slot, .msg = *msg };

    if (c->commands) {
        return take_reply(c, slot, msg);
    }
    c->credits--;
    c->last = msg->type;
    switch (c->state) {
    case RMIG_CONTROL_ASKED:
        take_command(c, &taken);
        return true;
    case RMIG_CONTROL_AHEAD:
        c->queued[c->n_queued++] = taken;
        set_state(c, RMIG_CONTROL_QUEUED);
        return true;
    case RMIG_CONTROL_QUEUED:
        c->queued[c->n_queued++] = taken;
        set_state(c, RMIG_CONTROL_FULL);
        return true;
    default:
        g_assert_not_reached(); /* the table is wrong */
    }
}

static void recv_done(RMigWork *work, uint32_t bytes)
{
    RMigControl *c = work->owner;
    RMigSlot *slot = (RMigSlot *)work;
    RMigWireMessage msg;
    GError *err = NULL;

    slot->busy = false;
    if (!rmig_wire_message_unpack(slot->buf, bytes, &msg, &err)) {
        g_prefix_error(&err, "unusable message from the peer: ");
        fail(c, err);
        return;
    }
    RMIG_LOG("control %p: got %s, %u bytes, %u records", (void *)c,
             rmig_wire_type_name(msg.type), msg.len, msg.n_records);
    if (msg.type == RMIG_WIRE_ERROR) {
        fail(c, g_error_new(RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PEER,
                            "the peer gave up the migration; its own log "
                            "says why"));
        return;
    }
    if (!is_legal(c, msg.type)) {
        fail(c, g_error_new(RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                            "the peer sent %s while this side was %s",
                            rmig_wire_type_name(msg.type),
                            state_names[c->state]));
        return;
    }
    if (!take_message(c, slot, &msg) && !post_recv(c, slot, NULL)) {
        RMIG_LOG("control %p: no receive for the next message", (void *)c);
    }
}

static void send_done(RMigWork *work, uint32_t bytes)
{
    (void)bytes;
    ((RMigSlot *)work)->busy = false;
    say_owed(work->owner);
}

static void init_slot(RMigControl *c, RMigSlot *slot, uint8_t **at,
                      size_t bytes, bool receives)
{
    slot->buf = *at;
    *at += bytes;
    slot->work.owner = c;
    slot->work.what = receives ? "RECV" : "SEND";
    slot->work.done = receives ? recv_done : send_done;
}

RMigControl *rmig_control_new(RMigLink *link, bool commands, GError **err)
{
    RMigControl *c = g_new0(RMigControl, 1);
    uint8_t *at;

    c->link = link;
    c->commands = commands;
    c->window = 1;
    c->buffer = g_malloc0(BUFFER_BYTES);
    c->mr = rmig_mr_register(rmig_link_verbs(link), c->buffer, BUFFER_BYTES,
                             false, err);
    if (!c->mr) {
        g_prefix_error(err, "setting up the control channel: ");
        goto fail;
    }
    at = c->buffer;
    for (unsigned i = 0; i < RMIG_CONTROL_RECVS; i++) {
        init_slot(c, &c->recv[i], &at, SLOT_BYTES, true);
    }
    for (unsigned i = 0; i < N_COMPOSED; i++) {
        init_slot(c, &c->composed[i], &at, SLOT_BYTES, false);
    }
    for (unsigned i = 0; i < N_SMALL; i++) {
        init_slot(c, &c->small[i], &at, RMIG_WIRE_HEADER_BYTES, false);
    }
    for (unsigned i = 0; i < RMIG_CONTROL_RECVS; i++) {
        if (!post_recv(c, &c->recv[i], err)) {
            goto fail;
        }
    }
    return c;

fail:
    rmig_link_disconnect(link);
    rmig_control_free(c);
    return NULL;
}

void rmig_control_free(RMigControl *c)
{
    if (!c) {
        return;
    }
    rmig_mr_unregister(c->mr);
    g_free(c->buffer);
    g_free(c);
}

void rmig_control_set_pipelined(RMigControl *c)
{
    g_assert(c->window == 1 && c->last == RMIG_WIRE_NONE);
    c->window = WINDOW_MAX;
    /* The first READY may have come with the connection */
    c->credits *= WINDOW_MAX;
}

void rmig_control_set_hands_over(RMigControl *c)
{
    g_assert(c->last == RMIG_WIRE_NONE);
    c->hands_over = true;
}

/*
 * Like rmig_link_poll(), but patient.  While messages flow, the next one comes
 * sooner than a thread goes to sleep and wakes up, and what that takes the link
 * idles, as one message waits for the other side's READY.
 */
static int look(RMigControl *c, GError **err)
{
    int64_t end = g_get_monotonic_time() + LOOK_US;
    int ret;

    do {
        ret = rmig_link_poll(c->link, err);
    } while (ret == 0 && g_get_monotonic_time() < end);
    return ret;
}

/* Like rmig_link_step() */
static bool step(RMigControl *c, int64_t deadline_us, const char *what,
                 GError **err)
{
    int ret = look(c, err);

    return ret == 0 ? rmig_link_step(c->link, deadline_us, what, err) :
           ret > 0;
}

static int64_t deadline_after(int64_t timeout_ms)
{
    return timeout_ms == RMIG_CONTROL_NO_DEADLINE ? 0 :
           g_get_monotonic_time() + timeout_ms * 1000;
}

static bool wait_for_slot(RMigControl *c, RMigSlot *slot, int64_t timeout_ms,
                          GError **err)
{
    int64_t deadline = deadline_after(timeout_ms);

    while (slot->busy) {
        if (!step(c, deadline, "the peer's NIC to take a message", err)) {
            return false;
        }
    }
    return true;
}

uint8_t *rmig_control_buffer(RMigControl *c, GError **err)
{
    RMigSlot *slot = &c->composed[c->composing];

    if (!wait_for_slot(c, slot, RMIG_CONTROL_TIMEOUT_MS, err)) {
        return NULL;
    }
    return slot->buf + RMIG_WIRE_HEADER_BYTES;
}

/* What was composed leaves; the next message is composed in the other buffer */
static bool post_composed(RMigControl *c, RMigWireType type, uint32_t len,
                          uint32_t repeat, GError **err)
{
    RMigSlot *slot = &c->composed[c->composing];

    if (!wait_for_slot(c, slot, RMIG_CONTROL_TIMEOUT_MS, err) ||
        !post_message(c, slot, type, len, repeat, err)) {
        return false;
    }
    c->composing = (c->composing + 1) % N_COMPOSED;
    return true;
}

bool rmig_control_may_command(const RMigControl *c)
{
    return c->state == RMIG_CONTROL_CREDIT &&
           !c->composed[c->composing].busy;
}

bool rmig_control_may_compose(const RMigControl *c)
{
    return !c->composed[c->composing].busy;
}

bool rmig_control_may_send(const RMigControl *c, RMigWireType type)
{
    return has_credit(c, type) && rmig_control_may_compose(c);
}

bool rmig_control_wait_credit(RMigControl *c, RMigWireType type, GError **err)
{
    g_assert(c->commands);
    while (!has_credit(c, type)) {
        if (!step(c, 0, "the peer to say READY", err)) {
            return false;
        }
    }
    return rmig_link_check(c->link, err);
}

bool rmig_control_wait_idle(RMigControl *c, GError **err)
{
    g_assert(c->commands);
    while (!rmig_control_may_command(c)) {
        if (!step(c, 0, "the peer to say READY", err)) {
            return false;
        }
    }
    return rmig_link_check(c->link, err);
}

bool rmig_control_command(RMigControl *c, RMigWireType type, uint32_t len,
                          uint32_t repeat, GError **err)
{
    int64_t deadline = deadline_after(RMIG_CONTROL_TIMEOUT_MS);

    g_assert(c->commands && (COMMANDS & BIT(type)));
    g_assert(c->hands_over || !(HANDOVER & BIT(type)));
    if (!rmig_link_check(c->link, err)) {
        return false;
    }
    g_assert(!c->held);
    while (!has_credit(c, type)) {
        if (!step(c, deadline, "the peer to say READY", err)) {
            g_prefix_error(err, "before sending %s: ",
                           rmig_wire_type_name(type));
            return false;
        }
    }
    if (!post_composed(c, type, len, repeat, err)) {
        return false;
    }
    c->credits--;
    c->last = type;
    c->answer = answer_to(type);
    if (c->answer == RMIG_WIRE_NONE) {
        count_credits(c);
    } else {
        set_state(c, RMIG_CONTROL_WAITING);
    }
    return true;
}

bool rmig_control_has_answer(const RMigControl *c)
{
    return c->commands && c->held;
}

bool rmig_control_wait_answer(RMigControl *c, int64_t timeout_ms,
                              RMigWireMessage *msg, GError **err)
{
    int64_t deadline = deadline_after(timeout_ms);

    g_assert(c->commands && c->answer != RMIG_WIRE_NONE);
    while (!c->held) {
        if (!step(c, deadline, "the peer's answer", err)) {
            g_prefix_error(err, "waiting for %s: ",
                           rmig_wire_type_name(c->answer));
            return false;
        }
    }
    *msg = c->in_hand;
    return true;
}

static bool say_ready(RMigControl *c, GError **err)
{
    RMigSlot *slot = ready_slot(c);

    if (!wait_for_slot(c, slot, RMIG_CONTROL_TIMEOUT_MS, err)) {
        return false;
    }
    set_state(c, RMIG_CONTROL_ASKED);
    return post_ready(c, slot, err);
}

void rmig_control_expect(RMigControl *c, int64_t timeout_ms)
{
    c->receive_by_us = deadline_after(timeout_ms);
}

bool rmig_control_has(const RMigControl *c, RMigWireType type)
{
    return !c->commands && c->held && !c->given && c->in_hand.type == type;
}

/*
 * Whether what has come before @broken still counts.  The connection's end says
 * nothing against it: a peer may close it, or a device break it, as soon as the
 * last message is out.  But a peer that gave up takes back what it said, one
 * that broke a rule is not believed, and a shutdown is somebody's wish.
 */
static bool came_before(const GError *broken)
{
    return broken->domain == RMIG_VERBS_ERROR ||
           (broken->domain == RMIG_LINK_ERROR &&
            broken->code != RMIG_LINK_ERROR_SHUTDOWN);
}

/* Whether what has come, and nobody has got, may still be handed out */
static bool may_receive(const RMigControl *c, GError **err)
{
    GError *local = NULL;

    if (rmig_link_check(c->link, &local)) {
        return true;
    }
    if (c->held && !c->given && came_before(local)) {
        g_error_free(local);
        return true;
    }
    g_propagate_error(err, local);
    return false;
}

int rmig_control_receive(RMigControl *c, bool wait, RMigWireMessage *msg,
                         GError **err)
{
    g_assert(!c->commands);
    rmig_link_rest(c->link);
    /* The call that found the failure has seen all that came before it */
    if (!may_receive(c, err)) {
        return -1;
    }
    g_assert(!c->given);
    if (c->state == RMIG_CONTROL_IDLE && !say_ready(c, err)) {
        return -1;
    }
    while (!c->held) {
        if (wait) {
            if (!step(c, c->receive_by_us, "the peer's report", err)) {
                return -1;
            }
        } else {
            int ret = look(c, err);

            if (ret == 0) {
                ret = rmig_link_arm(c->link, err);
            }
            if (ret <= 0) {
                return ret;
            }
        }
    }
    /* ERROR may have come together with it */
    if (!may_receive(c, err)) {
        return -1;
    }
    c->given = true;
    *msg = c->in_hand;
    return 1;
}

bool rmig_control_answer(RMigControl *c, uint32_t len, uint32_t repeat,
                         GError **err)
{
    g_assert(c->state == RMIG_CONTROL_OWING);
    if (!post_composed(c, c->answer, len, repeat, err)) {
        return false;
    }
    set_state(c, RMIG_CONTROL_HOLDING);
    return true;
}

bool rmig_control_release(RMigControl *c, GError **err)
{
    RMigSlot *slot = c->held;
    RMigTaken next;
    bool ok;

    g_assert(slot && c->state != RMIG_CONTROL_OWING);
    c->held = NULL;
    c->given = false;
    if (!c->commands) {
        set_state(c, c->state == RMIG_CONTROL_HOLDING ? RMIG_CONTROL_IDLE :
                     RMIG_CONTROL_ASKED);
    }
    /* Before the READY that may use it, which is not said if this failed */
    ok = post_recv(c, slot, err);
    if (c->n_queued > 0) {
        next = c->queued[0];
        c->queued[0] = c->queued[1];
        c->n_queued--;
        take_command(c, &next);
    }
    return ok;
}

void rmig_control_send_error(RMigControl *c)
{
    RMigSlot *slot = &c->small[SMALL_ERROR];
    g_autoptr(GError) err = NULL;

    c->gave_up = true;
    if (slot->busy ||
        !post_message(c, slot, RMIG_WIRE_ERROR, 0, 1, &err)) {
        RMIG_LOG("not telling the peer: %s", err ? err->message : "said");
    }
}

uint64_t rmig_control_sent_messages(const RMigControl *c)
{
    return c->sent_messages;
}

uint64_t rmig_control_sent_bytes(const RMigControl *c)
{
    return c->sent_bytes;
}

RMigLink *rmig_control_link(RMigControl *c)
{
    return c->link;
}
