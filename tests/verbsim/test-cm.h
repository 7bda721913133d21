/*
 * Tests of the connection manager: what its programs share
 *
 * Both ends are in one process on a fabric of its own, with a profile whose
 * time-outs are short.  They use nothing but librdmacm's functions and
 * verbsim's control socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TEST_CM_H
#define TEST_CM_H

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <string.h>

/* Of the profile that the programs run with. */
enum { CM_TIMEOUT_MS = 150, CM_RETRIES = 3, ACK_TIMEOUT = 12 };
/* When UNREACHABLE is due. */
#define GIVE_UP_SECONDS (CM_TIMEOUT_MS * (CM_RETRIES + 1) / 1000.0)

/* A queue pair that only the other side's program has heard of. */
enum { SERVER_QPN = 0x111, CLIENT_QPN = 0x222 };

/* First in main(). */
void cm_test_init(int *argc, char ***argv);
/* A line for this process's control socket. */
void tell(const char *format, ...) G_GNUC_PRINTF(1, 2);

struct sockaddr *address(const char *text, uint16_t port);

typedef struct Rig {
    struct rdma_event_channel *server, *client;     /* O_NONBLOCK */
    struct rdma_cm_id *listener, *active, *passive;
} Rig;

Rig rig_new(void);
/* Checks that no event is left over, too. */
void rig_free(Rig *rig);
/* A listener on 127.0.0.1, and an active side that has its route. */
void rig_listen(Rig *rig, int backlog);
struct rdma_cm_id *rig_route(Rig *rig, uint16_t port);
/* rdma_connect() with queue pair number CLIENT_QPN. */
void rig_ask(Rig *rig);
/* ... and the server's program takes the request. */
void rig_request(Rig *rig);
/* ... and both are ESTABLISHED. */
void rig_connect(Rig *rig);

/* The next event, of that type and status. */
struct rdma_cm_event *expect(struct rdma_event_channel *channel,
                             enum rdma_cm_event_type type, int status);
/* The same, acknowledged at once. */
void expect_only(struct rdma_event_channel *channel,
                 enum rdma_cm_event_type type, int status);
void expect_nothing(struct rdma_event_channel *channel, int ms);

/* The private data is @text and nothing but zeros, @bytes in all. */
void expect_private(const struct rdma_cm_event *event, const char *text,
                    unsigned bytes);

#define g_assert_errno(call, error)             \
    do {                                        \
        errno = 0;                              \
        g_assert_cmpint((call), ==, -1);        \
        g_assert_cmpint(errno, ==, (error));    \
    } while (0)
#define g_assert_ok(call) g_assert_cmpint((call), ==, 0)

static inline double seconds_since(int64_t start_us)
{
    return (g_get_monotonic_time() - start_us) / 1e6;
}

#endif
