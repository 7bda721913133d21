/*
 * What the RDMA migration tests share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RDMA_UTIL_H
#define RDMA_UTIL_H

#include "libqtest.h"

/* framework.c's test memory, guest-physical; no header of its own has them */
extern unsigned start_address;
extern unsigned end_address;

/* How long a peer's death or a cancel may take to be noticed */
#define RMIG_TEST_NOTICE_S 5
/* How long a migration may take under emulation inside emulation */
#define RMIG_TEST_COMPLETE_S 120

/*
 * An address of an RDMA device of this machine, from AF_INET or AF_INET6;
 * without one the test is marked as skipped, with the remedy, and this is
 * NULL.
 */
const char *rmig_test_host(int family);
/*
 * Whether this process may lock as much memory as a migration needs; if not,
 * the test is marked as skipped
 */
bool rmig_test_may_lock(void);
/* SCHEME:HOST:PORT; an IPv6 address gets its brackets */
char *rmig_test_uri(const char *scheme, const char *host, const char *port);
/* The port that @to listens on, as query-migrate shows it */
char *rmig_test_port(QTestState *to);

/* Fill some of a stopped or running guest's RAM with data and with zeros */
void rmig_test_fill_ram(QTestState *who);
/* Bytes of data that rmig_test_fill_ram() wrote */
uint64_t rmig_test_filled_bytes(void);
/*
 * Compare the RAM of two stopped guests byte for byte: what was filled, or
 * @all of the test memory
 */
void rmig_test_same_ram(QTestState *from, QTestState *to, bool all);
/* Check what the framework's guest program left in a stopped guest's RAM */
void rmig_test_program_ram(QTestState *who);
/* Wait until the framework's guest program has gone on */
void rmig_test_program_runs(QTestState *who);

/* Wait for a migration status; another final one fails with its cause */
void rmig_test_wait(QTestState *who, const char *status, unsigned seconds);
/* Wait until the migration failed; its error-desc */
char *rmig_test_wait_failed(QTestState *who, unsigned seconds);
/* Wait until that many bytes of RAM have gone out */
void rmig_test_wait_sent(QTestState *from, uint64_t bytes);
/* The migration is over: no memory is pinned, no connection is left */
void rmig_test_released(QTestState *who);
/* Whether query-status says that the guest runs */
bool rmig_test_running(QTestState *who);

/*
 * Check what query-migrate and "info migrate" say of RDMA on both sides of a
 * completed migration; nothing if it was not one over @rdma
 */
void rmig_test_info(QTestState *from, QTestState *to, bool rdma);
/* Add the tests of rdma-info-tests.c */
void rmig_test_add_info(void);
/* Add the tests of rdma-end-tests.c */
void rmig_test_add_end(void);

/* Kill it for good, as a crash of the host would; it cannot be used again */
void rmig_test_kill(QTestState *who);
/* Wait until it has exited with an error of its own, and forget it */
void rmig_test_wait_exit(QTestState *who);

#endif
