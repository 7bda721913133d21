/*
 * RDMA migration transport: the wire format of protocol version 1
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: packs, unpacks and validates one message.  Bytes in, host structs out.
 * Callers: link (private data), control, source, dest.
 * Thread: any; there is no state here.
 *
 * Byte layouts: docs/rdma.txt, "Messages".  Every integer is big-endian on the
 * wire.  Nothing here trusts the peer; whoever holds an RMigWireMessage may
 * rely on its record count, but not yet on the values in the records, which
 * are checked against the RAM block table in blocks.h.
 */
#ifndef RMIG_WIRE_H
#define RMIG_WIRE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RMIG_WIRE_VERSION 1u

/* Flags in the private data; docs/rdma.txt, "Versions and flags" */
#define RMIG_WIRE_FLAG_PIN_ALL (1u << 0)
#define RMIG_WIRE_FLAG_BATCH (1u << 1)
#define RMIG_WIRE_FLAG_BUDGET (1u << 2) /* an extension record follows */
#define RMIG_WIRE_FLAG_HANDOVER (1u << 5)
#define RMIG_WIRE_FLAGS_KNOWN \
    (RMIG_WIRE_FLAG_PIN_ALL | RMIG_WIRE_FLAG_BATCH | \
     RMIG_WIRE_FLAG_BUDGET | RMIG_WIRE_FLAG_HANDOVER)

/* Sizes in bytes */
#define RMIG_WIRE_PRIVATE_BYTES 8u /* without an extension record */
#define RMIG_WIRE_EXTENSION_BYTES 16u
#define RMIG_WIRE_PRIVATE_MAX_BYTES \
    (RMIG_WIRE_PRIVATE_BYTES + RMIG_WIRE_EXTENSION_BYTES)
#define RMIG_WIRE_HEADER_BYTES 16u
#define RMIG_WIRE_BLOCK_BYTES 32u
#define RMIG_WIRE_REGISTER_BYTES 24u
#define RMIG_WIRE_RESULT_BYTES 16u
#define RMIG_WIRE_ZERO_RUN_BYTES 24u
#define RMIG_WIRE_LOADED_BYTES 4u
#define RMIG_WIRE_MESSAGE_MAX_BYTES (512u * 1024u)
#define RMIG_WIRE_DATA_MAX_BYTES \
    (RMIG_WIRE_MESSAGE_MAX_BYTES - RMIG_WIRE_HEADER_BYTES)

/* Most records of one REGISTER, UNREGISTER or COMPRESS message */
#define RMIG_WIRE_RECORDS_MAX 4096u
/* Most RAM blocks that one RAM_BLOCKS_RESULT can announce */
#define RMIG_WIRE_BLOCKS_MAX (RMIG_WIRE_DATA_MAX_BYTES / RMIG_WIRE_BLOCK_BYTES)

typedef enum RMigWireType {
    RMIG_WIRE_NONE = 0,
    RMIG_WIRE_ERROR = 1,
    RMIG_WIRE_READY = 2,
    RMIG_WIRE_QEMU_FILE = 3,
    RMIG_WIRE_RAM_BLOCKS_REQUEST = 4,
    RMIG_WIRE_RAM_BLOCKS_RESULT = 5,
    RMIG_WIRE_COMPRESS = 6,
    RMIG_WIRE_REGISTER_REQUEST = 7,
    RMIG_WIRE_REGISTER_RESULT = 8,
    RMIG_WIRE_REGISTER_FINISHED = 9,
    RMIG_WIRE_UNREGISTER_REQUEST = 10,
    RMIG_WIRE_UNREGISTER_FINISHED = 11,
    /* Only if both sides set RMIG_WIRE_FLAG_HANDOVER */
    RMIG_WIRE_LOAD_REQUEST = 12,
    RMIG_WIRE_LOADED = 13,
    RMIG_WIRE_START = 14,
    RMIG_WIRE_STARTED = 15,
    RMIG_WIRE_TYPES
} RMigWireType;

typedef struct RMigWireHeader {
    uint32_t len;    /* bytes of data behind the header */
    uint32_t type;   /* RMigWireType */
    uint32_t repeat; /* records, where the type has any */
} RMigWireHeader;

typedef struct RMigWirePrivate {
    uint32_t version;
    uint32_t flags;
    /*
     * Bytes of guest RAM that the sender is willing to have pinned on its
     * side; UINT64_MAX: no limit.  0 without RMIG_WIRE_FLAG_BUDGET; with it 0
     * is legal, too, and means none.
     */
    uint64_t pin_bytes;
} RMigWirePrivate;

typedef struct RMigWireBlock {
    uint64_t host_addr; /* virtual address of the block on the destination */
    uint64_t offset;    /* in the destination's ram_addr_t space */
    uint64_t length;    /* bytes */
    uint32_t rkey;      /* of the whole block under pin-all, else 0 */
} RMigWireBlock;

typedef struct RMigWireRegister {
    /*
     * REGISTER: address in the destination's ram_addr_t space; UNREGISTER:
     * chunk number in the block
     */
    uint64_t key;
    uint32_t block;  /* index in the announced order */
    uint64_t chunks; /* further chunks behind the one that holds key */
} RMigWireRegister;

/* Why a registration was refused, under BATCH; a later one is as NO_ROOM */
#define RMIG_WIRE_REFUSED_NO_ROOM 0
#define RMIG_WIRE_REFUSED_UNPINNABLE 1

typedef struct RMigWireResult {
    uint32_t rkey;
    uint32_t reason;    /* RMIG_WIRE_REFUSED_*; means something if rkey is 0 */
    uint64_t host_addr; /* of the block's start */
} RMigWireResult;

typedef struct RMigWireZeroRun {
    uint32_t value; /* must be 0 */
    uint32_t block;
    uint64_t offset; /* in the destination's ram_addr_t space */
    uint64_t length; /* bytes */
} RMigWireZeroRun;

/* LOADED: the destination starts the guest by itself when it may */
#define RMIG_WIRE_LOADED_STARTS (1u << 0)

/* A validated message that still lies in a receive buffer */
typedef struct RMigWireMessage {
    RMigWireType type;
    const uint8_t *data; /* not owned; header.len bytes */
    uint32_t len;        /* bytes of data */
    uint32_t n_records;  /* whole records in data; 0 for types without */
} RMigWireMessage;

#define RMIG_WIRE_ERROR_QUARK rmig_wire_error_quark()
GQuark rmig_wire_error_quark(void);

/* The type's name, or "unknown"; never NULL */
const char *rmig_wire_type_name(uint32_t type);

/*
 * rmig_wire_private_pack: write our private data
 * @buf: RMIG_WIRE_PRIVATE_MAX_BYTES
 *
 * Returns how many bytes were written: with RMIG_WIRE_FLAG_BUDGET all, with
 * the extension record, else RMIG_WIRE_PRIVATE_BYTES.
 */
size_t rmig_wire_private_pack(uint8_t *buf, const RMigWirePrivate *priv);

/* Each pack writes exactly the number of bytes of the constant above */
void rmig_wire_header_pack(uint8_t *buf, const RMigWireHeader *header);
void rmig_wire_block_pack(uint8_t *buf, const RMigWireBlock *block);
void rmig_wire_register_pack(uint8_t *buf, const RMigWireRegister *reg);
void rmig_wire_result_pack(uint8_t *buf, const RMigWireResult *result);
void rmig_wire_zero_run_pack(uint8_t *buf, const RMigWireZeroRun *run);
/* @flags: RMIG_WIRE_LOADED_* */
void rmig_wire_loaded_pack(uint8_t *buf, uint32_t flags);

/*
 * Record @i (< n_records) of a validated message of the fitting type.  These
 * cannot fail; reserved padding is ignored.
 */
void rmig_wire_block_unpack(const RMigWireMessage *msg, uint32_t i,
                            RMigWireBlock *block);
void rmig_wire_register_unpack(const RMigWireMessage *msg, uint32_t i,
                               RMigWireRegister *reg);
void rmig_wire_result_unpack(const RMigWireMessage *msg, uint32_t i,
                             RMigWireResult *result);
void rmig_wire_zero_run_unpack(const RMigWireMessage *msg, uint32_t i,
                               RMigWireZeroRun *run);
/* The flags of a LOADED, with bits that are not known here */
uint32_t rmig_wire_loaded_unpack(const RMigWireMessage *msg);

/*
 * rmig_wire_private_unpack: read a peer's private data
 * @buf, @bytes: as the connection manager gave it, which pads with zeros
 *
 * Fails if fewer than eight bytes came; if the version is 0 or above ours (the
 * message names both); or if RMIG_WIRE_FLAG_BUDGET is set and no extension
 * record of at least RMIG_WIRE_EXTENSION_BYTES follows.  A longer record is one
 * of a later version: its beginning is read.  All other bytes are ignored.
 * Flags are returned as they came.
 */
bool rmig_wire_private_unpack(const void *buf, size_t bytes,
                              RMigWirePrivate *priv, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_wire_message_unpack: validate one received message
 * @buf, @bytes: what the receive completion says has arrived
 *
 * Checks: a whole header; a known type other than NONE, which is never sent;
 * len within the limit and within @bytes (what follows is ignored); and per
 * type: no data where none belongs, a whole number of records, at least one,
 * at most the limit, and for REGISTER_REQUEST, UNREGISTER_REQUEST and COMPRESS
 * len == repeat * record size.
 * RAM_BLOCKS_RESULT and LOADED (one record) count their records by len alone,
 * and so does REGISTER_RESULT (a stock destination answers N requests with one
 * record of repeat N); none of them needs a particular repeat.  QEMU_FILE must
 * not be empty.
 * @msg points into @buf.
 */
bool rmig_wire_message_unpack(const uint8_t *buf, size_t bytes,
                              RMigWireMessage *msg, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

#endif
