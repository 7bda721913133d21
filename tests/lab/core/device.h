/*
 * Tests on a real RDMA device: finding it, and what must not stay behind
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The tests need a device with an active port and an IP address.  Where there
 * is none they skip; scripts/verbsim and scripts/lab have one.
 */
#ifndef TEST_DEVICE_H
#define TEST_DEVICE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/*
 * Instead of g_test_init().  Ends the program, as skipped, without a device.
 */
void device_test_init(int *argc, char ***argv);
/* Looks for the device without any test; false if there is none */
bool device_find(void);
/* The network interface of its addresses */
const char *device_netdev(void);

/* Room for an address of either family */
typedef struct Address {
    struct sockaddr_storage storage;
} Address;

/* Whether the device has an address of @family; if not, the test is skipped */
bool device_has(int family);
/* Its address of @family, which it has, with @port */
Address device_address(int family, uint16_t port);
/* @text: numeric */
Address address_parse(const char *text, uint16_t port);
const struct sockaddr *address_of(const Address *address);
/* Whether the device is verbsim's */
bool device_is_verbsim(void);
/* Whether this is the lab's VM, whose network may be broken; else skips */
bool device_is_lab(void);
/* Whether it is known at which addresses nobody is; else skips */
bool device_knows_nobody(void);
/* Has verbsim carry out @line, of its fault scripts, in process @pid */
void device_tell_verbsim(int pid, const char *line);
/* Runs a command of the shell that must not fail; without single quotes */
void shell(const char *command);

/*
 * What must be as before at the end of a test: open files, and no memory
 * registered by the core
 */
typedef struct Held {
    unsigned fds;
} Held;

Held held_now(void);
void held_check(Held before);

double seconds_since(int64_t start_us);

/* The error is one, and its text has @part in it; frees it */
void expect_error(GError *err, const char *part);

#endif
