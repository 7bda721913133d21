/*
 * A stand-in for the verbs room: records what is posted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nothing completes by itself.  A test lets messages arrive and work requests
 * complete, and can make the next post or registration fail.
 */
#ifndef FAKE_VERBS_H
#define FAKE_VERBS_H

#include "verbs.h"

typedef enum FakeKind {
    FAKE_SEND,
    FAKE_WRITE,
    FAKE_PROBE,
} FakeKind;

/* A request on the send queue */
typedef struct FakePost {
    FakeKind kind;
    RMigWork *work;
    bool signalled;
    RMigMr *mr;
    const uint8_t *addr;
    uint32_t bytes;
    uint64_t remote_addr;
    uint32_t rkey;
    GBytes *data; /* SEND: what was in the buffer when it was posted */
    unsigned completed_before; /* requests, when this one was posted */
    bool placed; /* WRITE: the tests', whether it is in the peer's memory */
} FakePost;

struct RMigMr {
    RMigVerbs *verbs;
    uint8_t *addr;
    uint64_t bytes;
    bool remote_write;
    uint32_t rkey;
};

typedef struct FakeRecv {
    RMigWork *work;
    uint8_t *addr;
    uint32_t bytes;
} FakeRecv;

struct RMigVerbs {
    GPtrArray *posts;     /* of FakePost, everything ever posted, owned */
    unsigned completed;   /* of them, from the first on */
    unsigned doorbells;   /* of writes */
    GQueue recvs;         /* of FakeRecv, posted and empty, owned */
    unsigned write_slots; /* of the send queue, for writes */
    GMutex lock;          /* of what registering uses and changes */
    GPtrArray *mrs;       /* of RMigMr, registered now */
    unsigned registered;  /* in all */
    int fail_post;        /* 0: the next post fails, 1: the one after, ... */
    int fail_register;    /* likewise */
    const uint8_t *unpinnable; /* so many bytes never register; NULL: all do */
    uint64_t unpinnable_bytes;
    /* Whether registering @bytes fails; on any thread, under @lock */
    bool (*refuse)(struct RMigVerbs *verbs, uint64_t bytes);
    /* Run before a region is made or goes: may take their time; any thread */
    void (*registering)(struct RMigVerbs *verbs);
    void (*unregistering)(struct RMigVerbs *verbs);
    uint64_t mr_bytes;    /* registered now */
    uint64_t mr_bytes_max; /* more at a time is an error; 0: any number */
    bool revoked;
    /* Runs when a write completes: it has landed */
    void (*landed)(void *opaque, const FakePost *write);
    void *opaque;
};

/* What rmig_mr_pinned_bytes() says */
extern uint64_t fake_verbs_pinned_bytes;

RMigVerbs *fake_verbs_new(void);
/* Everything must have been unregistered */
void fake_verbs_free(RMigVerbs *verbs);

/* A message arrives in the oldest posted receive, which must be there */
void fake_verbs_arrive(RMigVerbs *verbs, const void *data, uint32_t bytes);
/* The oldest @n requests complete; done() runs for the signalled ones */
void fake_verbs_complete(RMigVerbs *verbs, unsigned n);
void fake_verbs_complete_all(RMigVerbs *verbs);
unsigned fake_verbs_pending(const RMigVerbs *verbs);
/* How many can complete, the newest @keep aside: up to a signalled one */
unsigned fake_verbs_ripe(const RMigVerbs *verbs, unsigned keep);

FakePost *fake_verbs_post(const RMigVerbs *verbs, unsigned i);
/* The last request posted */
FakePost *fake_verbs_last(const RMigVerbs *verbs);

#endif
