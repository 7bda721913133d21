/*
 * The control room over the fakes of link and verbs, for its tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef CONTROL_FIXTURE_H
#define CONTROL_FIXTURE_H

#include "control.h"
#include "fake-link.h"

typedef struct Fixture {
    RMigLink *link;
    RMigControl *control;
} Fixture;

void setup(Fixture *f, bool commands);
/* Frees everything; the fake verbs notice a region left behind */
void teardown(Fixture *f);

/* Receives that are posted */
unsigned recvs(const Fixture *f);
/* Messages that were sent */
unsigned sends(const Fixture *f);
/* The last SEND is a message of @type with @len bytes of @data */
void assert_sent(const Fixture *f, RMigWireType type, const void *data,
                 uint32_t len, uint32_t repeat);

void assert_fails(GError **err, GQuark domain, int code, const char *needle);
/* The link has failed in that way, and every later call says so */
void assert_link_failed(Fixture *f, GQuark domain, int code,
                        const char *needle);

/* Let @type arrive now */
void arrive(Fixture *f, RMigWireType type);
/* Receive a @type, which arrives when it is waited for */
void serve(Fixture *f, RMigWireType type, RMigWireMessage *msg);

#endif
