/*
 * What happens to a role that is fuzzed, and when
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: reads an input as a schedule of messages, completions, events and
 * failures, and lets one item happen whenever the core waits.
 * Callers: the targets that run a role (fuzz-dest, fuzz-source, fuzz-cm).
 * Thread: one.
 *
 * An input is the schedule, from its front, and behind it what the target
 * itself decides by, read from its back: a byte of choices, a byte that says
 * how many there are of the others, and those.  An item of the schedule is a
 * byte, see FuzzOp, and its operands.  make-seeds writes inputs in words.
 */
#ifndef FUZZ_SCHEDULE_H
#define FUZZ_SCHEDULE_H

#include "device.h"
#include "migration/rdma-transport.h"

/* The low five bits of an item's first byte */
typedef enum FuzzOp {
    FUZZ_HONEST,     /* whatever comes next when nobody disturbs it */
    FUZZ_RAW,        /* u16 length, bytes: arrive as they are */
    FUZZ_TYPED,      /* u8 type, u8 lie, u16 length, data: with a header */
    FUZZ_RECORDS,    /* u8 type, u16 count, u8 block, u32, u32, u8 stride */
    FUZZ_BIG,        /* u8 type, u32 length: zeros with a header */
    FUZZ_COMPLETE,   /* u8 count: requests, without what the peer answers */
    FUZZ_BREAK_SEND, /* u8 status */
    FUZZ_BREAK_RECV, /* u8 status */
    FUZZ_CM,         /* u8 event, i8 status, u8 length, private data */
    FUZZ_FAIL,       /* u8 call, u8 errno, u8 calls that work before */
    FUZZ_TICK,       /* u8 seconds */
    FUZZ_SHUTDOWN,
    FUZZ_RING,       /* a completion channel wakes for nothing */
    FUZZ_BREAK,      /* the queue pair goes to ERR */
    FUZZ_REQUEST,    /* u8 host, u8 length, private data: to the listener */
    FUZZ_LIE,        /* u8 kind, u32: about the next honest answer */
    FUZZ_FREEZE,     /* the device hangs: nothing completes or fails any more */
    FUZZ_REFUSE,     /* u8: every so manieth registration fails from here on */
    FUZZ_OPS
} FuzzOp;
#define FUZZ_BACK 0x20 /* to the return path */
#define FUZZ_GAP 0x40  /* not at a sleep, but between two looks at a queue */
#define FUZZ_CHAIN 0x80 /* the next one at the same time */

/* What happens when the schedule has come to its end */
typedef enum FuzzEnding {
    FUZZ_END_HONEST, /* honestly, and then nothing any more */
    FUZZ_END_SILENT, /* the peer's NIC is dead */
    FUZZ_END_LEAVE,  /* the peer disconnects */
    FUZZ_END_SHUTDOWN, /* it is shut down from outside */
} FuzzEnding;

typedef struct FuzzRole {
    /* The queue pair of the main connection or the return path, or NULL */
    FuzzQp *(*qp)(bool back);
    /* What the peer does by itself; false if that is nothing.  May be NULL. */
    bool (*answer)(void);
    void (*lie)(uint8_t kind, uint32_t value);
    void (*shutdown)(void);
    /* Before a message of the peer's arrives.  May be NULL. */
    void (*arriving)(FuzzQp *qp, const uint8_t *data, size_t bytes);
    /* One record of FUZZ_RECORDS in wire format; returns its bytes */
    unsigned (*record)(uint8_t *buf, uint8_t type, uint8_t block, uint32_t a,
                       uint32_t b);
} FuzzRole;

typedef struct FuzzSchedule {
    const FuzzRole *role;
    const uint8_t *at, *end; /* not read yet */
    const uint8_t *choices, *choices_end; /* likewise, from the end */
    uint8_t choice; /* the last byte */
    FuzzEnding ending;
    bool gentle;  /* what comes is honest; the schedule waits */
    bool hostile; /* something happened that an honest peer cannot cause */
    unsigned idle; /* ticks at the end since the last call */
    bool ended;
    bool frozen;
    gint64 told_us; /* when a refusal was told; 0: never */
    unsigned turns; /* that the thread's other work has had */
    const FuzzQp *to_tell; /* ERROR must be sent on it, */
    unsigned unless;       /* unless more calls than these have failed */
} FuzzSchedule;

extern FuzzSchedule fuzz_schedule;
/* A waiter for the core */
extern const RMigWaiter fuzz_waiter;

/* Takes hooks.gap and hooks.sleep; the others are the target's */
void fuzz_schedule_init(const FuzzRole *role, FuzzHooks hooks,
                        const uint8_t *data, size_t size);
/* The next item, or the end */
void fuzz_schedule_step(void);
/*
 * rmig_dest_accept() once.  Checks how much is made and told of; remembers the
 * queue pair of whom it lets in.
 */
RMigAccepted fuzz_accept(RMigDest *dest, FuzzQp **main, FuzzQp **back);
/* The core is called: the time that it may take starts anew */
void fuzz_schedule_call(void);

/* From the front; zeros behind the end */
uint8_t fuzz_take8(void);
uint16_t fuzz_take16(void);
uint32_t fuzz_take32(void);
bool fuzz_more(void);
/* From the back */
bool fuzz_may_choose(void);
uint8_t fuzz_choose(void);

/* Whatever is natural for the connection manager and the NIC */
bool fuzz_honest(void);
void fuzz_arrive(FuzzQp *qp, const void *data, size_t bytes);
/* The type of a message of ours, which must be well formed */
uint32_t fuzz_type_of(const FuzzWr *wr);

/*
 * A function of the core has returned: an error comes with words, success
 * without; frees the error.  Returns @ok.
 */
bool fuzz_check(bool ok, GError **err, const char *what);
/* From here on only ERROR may leave @qp.  NULL is allowed. */
void fuzz_has_failed(FuzzQp *qp);
void fuzz_check_posted(const FuzzQp *qp, const FuzzWr *wr);
/* Before and after closing: a peer that can be told must have been told */
void fuzz_expect_error(FuzzQp *qp, bool failed);
void fuzz_check_told(void);

#endif
