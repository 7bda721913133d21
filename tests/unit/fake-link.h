/*
 * A stand-in for the link room: a scripted peer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each step of a wait lets the next thing of the script happen.  When nothing
 * is left, requests on the send queue complete; when none is left either, the
 * wait wakes up for heartbeats alone and then times out.  One without a
 * deadline fails the test, unless that expects it (patience), and so does one
 * whose deadline a heartbeat puts off.
 */
#ifndef FAKE_LINK_H
#define FAKE_LINK_H

#include "fake-verbs.h"
#include "link.h"
#include "wire.h"

struct RMigLink {
    RMigVerbs *verbs; /* owned */
    GError *error;
    GQueue script; /* of GBytes, owned; an empty one: the peer leaves */
    /* Runs for each SEND, when the script has come to its end */
    void (*peer)(RMigLink *link, RMigWireType type, const FakePost *sent);
    void *peer_opaque;
    unsigned answered; /* posts that the peer has seen */
    /* Messages, completions and the peer's turns come in any order that may */
    bool random;
    /* Nothing is to arrive: the peer may say what it owes; false: nothing */
    bool (*owes)(RMigLink *link);
    unsigned steps;
    unsigned rests; /* calls of rmig_link_rest() */
    unsigned idle_steps; /* that slept though nothing was to come */
    gint disconnected; /* which other threads may look at */
    /*
     * Setting up: the flags that the peer asked for or will grant, and those
     * that it was asked for or given; of pin_bytes likewise
     */
    uint32_t asked;
    uint32_t granted;
    uint64_t asked_pin_bytes;
    uint64_t granted_pin_bytes;
    bool cannot_connect; /* passive side: the peer has left */
    bool half_open;      /* the peer does not complete what was accepted */
    bool frozen;         /* nothing arrives or completes any more */
    bool break_settling; /* the last message fails */
    int64_t idle_deadline_us; /* of the wait that has woken up for nothing */
    RMigWork probe;
    bool probing;
    unsigned beats; /* since something else has happened */
    /* A wait without a deadline, and nothing is left: something must happen */
    void (*patience)(RMigLink *link);
    bool no_answer;   /* rmig_link_ask() finds nobody */
    unsigned asks;
    bool up;
    unsigned host; /* a number for the host that the peer is on */
    unsigned port; /* and for its port there; 0: like no other */
    RMigShutdown *shutdown;
    /* rmig_link_watch(): what it was given, for a test to see or to call */
    int watched_fd; /* -1: none */
    void (*watched_ready)(void *opaque);
    void *watched_opaque;
    bool watched_due; /* the next step says once that the descriptor is ready */
    /*
     * How long a step for which nothing is left waits for the descriptor, for
     * tests with threads; 0: it is not looked at
     */
    int watched_wait_ms;
    bool in_step; /* rather than a look that does not wait */
};

RMigLink *fake_link_new(void);
/* The peer serves: it says READY, now and after each SEND */
void fake_link_oblige(RMigLink *link);
/* The next link that resolving or listening gives; it becomes the caller's */
void fake_link_offer(RMigLink *link);
/* Links that were refused so far, or were given a queue pair */
extern unsigned fake_links_refused;
extern unsigned fake_links_prepared;
extern unsigned fake_listener_watches;
extern bool fake_listener_ticks;
/* The memory-lock limit that the program sees; at first there is none */
extern uint64_t fake_memlock_bytes;

/* A well-formed message of the peer's, @len bytes of @data (NULL: zeros) */
GBytes *fake_link_message(RMigWireType type, const void *data, uint32_t len,
                          uint32_t repeat);
/* Takes over @message: it arrives when it is waited for */
void fake_link_script(RMigLink *link, GBytes *message);
void fake_link_script_type(RMigLink *link, RMigWireType type);
/* The peer closes the connection */
void fake_link_script_close(RMigLink *link);
/* Bytes that are no message */
void fake_link_script_raw(RMigLink *link, const void *data, uint32_t len);

#endif
