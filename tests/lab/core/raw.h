/*
 * Tests on a real RDMA device: a peer that is not the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Plain librdmacm, so that it can say what the core never would.  Any failure
 * of its own ends the test.
 */
#ifndef TEST_RAW_H
#define TEST_RAW_H

#include <rdma/rdma_cma.h>

#include "device.h"

typedef struct Raw {
    struct rdma_event_channel *channel;
    struct rdma_cm_id *id;
    /* Of the last event */
    int status;
    uint8_t priv[256];
    size_t priv_bytes;
} Raw;

/* A client that asks with @bytes of private data; does not wait */
Raw *raw_ask(const Address *address, const void *priv, size_t bytes);
/* ... from @own, an address of this host with port 0; NULL: any */
Raw *raw_ask_from(const Address *own, const Address *address, const void *priv,
                  size_t bytes);
/* A listening server at @address, any port */
Raw *raw_listen(const Address *address);
uint16_t raw_port(const Raw *raw);
/* The next event, within 10 s; remembers what came with it */
enum rdma_cm_event_type raw_event(Raw *raw);
/*
 * The next request at a listening server, which stays what it is; the request
 * can be accepted, rejected or left alone.
 */
Raw *raw_take(Raw *server);
void raw_accept(Raw *request, const void *priv, size_t bytes);
void raw_reject(Raw *request, const void *priv, size_t bytes);
void raw_free(Raw *raw);

/* Private data of the protocol: 8 bytes at @priv */
void raw_private(uint8_t *priv, uint32_t version, uint32_t flags);

#endif
