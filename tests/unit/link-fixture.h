/*
 * What the tests of the link room share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A link on a fake of libibverbs and librdmacm, with the real verbs room
 * between.  Sleeping is a step of a script, after which the link's descriptor
 * must be readable: so a lost wake-up fails the test instead of hanging it.
 */
#ifndef LINK_FIXTURE_H
#define LINK_FIXTURE_H

#include "fake-rdma.h"
#include "link.h"

typedef void Step(void);

typedef struct Fixture {
    RMigShutdown *shutdown;
    RMigLink *link;
    RMigWork work;
    unsigned done;
} Fixture;

/* The next step of the script, and how often the link slept */
extern unsigned at;
extern unsigned rests; /* turns that others had */
extern unsigned sleeps;
/* The fixture that steps work on */
extern Fixture *current;
/* The private data of an acceptance: version 1, PIN_ALL */
extern const char accepted[8];
/* What a link may ask for or grant */
extern const RMigWirePrivate ask_nothing;
extern const RMigWirePrivate ask_pin_all;
extern const RMigWaiter waiter;

/* What happens at the next sleeps; then seconds pass */
void set_script(Step *a, Step *b, Step *c);
/* Steps */
void addr_resolved(void);
void route_resolved(void);
void established(void);
void disconnected(void);
void message_arrives(void);
void message_and_goodbye(void);
void write_breaks(void);
void message_and_break(void);
void shut_down(void);

const struct sockaddr *some_address(void);
RMigLink *resolve_link(Fixture *f);
void setup(Fixture *f);
void setup_connected(Fixture *f);
void teardown(Fixture *f);
/* @err is of the link, with @code, and says @needle; it is freed */
void assert_says(GError **err, int code, const char *needle);

#endif
