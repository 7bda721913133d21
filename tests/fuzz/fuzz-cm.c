/*
 * Fuzz target: private data, of a request and of what answers one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The rooms link and up, on the device of device.h.  The last byte's bit 0:
 * the destination, which gets requests with private data from the schedule's
 * bytes (u8 host, u8 length, data), or the source, whose requests get replies
 * (u8 kind, i8 status, u8 length, data).  Bit 1: pin-all, bit 2: with a return
 * path, bit 3: extensions are not offered (or granted), bit 4: with a limit of
 * what may be pinned.
 *
 * Whether a connection comes about, and with which flags, is decided here a
 * second time and compared.  What is refused is refused in words, to us and,
 * with our version, to the peer.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "schedule.h"
#include "wire.h"

#define VERSION_1_ONLY 8
#define LIMITED 16
#define PIN_LIMIT (UINT64_C(64) << 20)

/* The reply in use; as long as it says, so that ASan sees what is read */
typedef struct Reply {
    int type;
    int status;
    uint8_t *data;
    uint8_t len;
} Reply;

static struct {
    RMigDest *dest;
    RMigSource *source;
    Reply reply[2]; /* main connection, return path */
    unsigned replies;
} f;

static const struct sockaddr_in addr = { .sin_family = AF_INET };

static uint8_t *take_data(uint8_t *len)
{
    uint8_t wanted = fuzz_take8();
    uint8_t *data = g_malloc(wanted);

    for (*len = 0; *len < wanted && fuzz_more(); (*len)++) {
        data[*len] = fuzz_take8();
    }
    return g_realloc(data, *len);
}

/* Our own reading of docs/rdma.txt, "Connection" */
static bool is_version_1(const uint8_t *data, uint8_t len)
{
    static const uint8_t version[4] = { 0, 0, 0, 1 };

    if (len < 8 || memcmp(data, version, 4) != 0) {
        return false;
    }
    /* Under BUDGET there must be an extension record of 16 bytes or more */
    return !(data[7] & RMIG_WIRE_FLAG_BUDGET) ||
           (len >= 24 &&
            (data[8] || data[9] || data[10] || data[11] >= 16));
}

/* ---- source ---- */

static const void *reply(int *type, int *status, uint8_t *len)
{
    Reply *r = &f.reply[MIN(f.replies, 1)];

    f.replies++;
    *type = r->type;
    *status = r->status;
    *len = r->len;
    return r->data;
}

static void take_reply(Reply *r)
{
    static const int types[] = {
        RDMA_CM_EVENT_CONNECT_RESPONSE, RDMA_CM_EVENT_ESTABLISHED,
        RDMA_CM_EVENT_CONNECT_RESPONSE, RDMA_CM_EVENT_REJECTED,
        RDMA_CM_EVENT_CONNECT_ERROR, RDMA_CM_EVENT_UNREACHABLE,
        RDMA_CM_EVENT_DISCONNECTED, RDMA_CM_EVENT_DEVICE_REMOVAL,
    };

    r->type = types[fuzz_take8() % G_N_ELEMENTS(types)];
    r->status = (int8_t)fuzz_take8();
    r->data = take_data(&r->len);
}

static bool is_acceptance(const Reply *r)
{
    return (r->type == RDMA_CM_EVENT_CONNECT_RESPONSE ||
            r->type == RDMA_CM_EVENT_ESTABLISHED) &&
           is_version_1(r->data, r->len);
}

/* Version 1, these flags, and under BUDGET how many bytes may be pinned */
static void check_said(const FuzzCmId *id, uint8_t flags)
{
    const uint8_t expected[16] = { 0, 0, 0, 1, 0, 0, 0, flags,
                                   0, 0, 0, 16, 0, 0, 0, 0 };
    bool budget = flags & RMIG_WIRE_FLAG_BUDGET;
    uint64_t bytes = 0;

    for (unsigned i = 16; i < 24; i++) {
        bytes = bytes << 8 | id->said[i];
    }
    if (id->said_bytes != (budget ? 24 : 8) ||
        memcmp(id->said, expected, budget ? 16 : 8) != 0) {
        fuzz_die("%u bytes of private data are sent that say something else",
                 id->said_bytes);
    }
    /* What is left beside the buffers, of which there are some MiB */
    if (budget && (fuzz_schedule.choice & LIMITED) &&
        (bytes >= PIN_LIMIT || bytes < PIN_LIMIT / 2)) {
        fuzz_die("%" G_GUINT64_FORMAT " bytes may be pinned, is said",
                 (guint64)bytes);
    }
}

/* What we offer or grant besides pin-all */
static uint8_t extensions(void)
{
    return fuzz_schedule.choice & VERSION_1_ONLY ? 0 :
           RMIG_WIRE_FLAG_BATCH | RMIG_WIRE_FLAG_BUDGET |
           RMIG_WIRE_FLAG_HANDOVER;
}

static uint64_t pin_limit(void)
{
    return fuzz_schedule.choice & LIMITED ? PIN_LIMIT : 0;
}

/* What was asked for and said in @data, and nothing else */
static void check_granted(bool pin_all, const uint8_t *data)
{
    bool pins_all = pin_all && (data[7] & RMIG_WIRE_FLAG_PIN_ALL);
    uint8_t flags = data[7] & extensions();
    uint64_t pin_bytes = 0;
    RMigCounters counters;

    rmig_source_counters(f.source, &counters);
    if (rmig_source_pins_all(f.source) != pins_all ||
        counters.pins_all != pins_all || counters.extensions != flags) {
        fuzz_die("pin-all is %d, extensions are 0x%x", counters.pins_all,
                 counters.extensions);
    }
    for (unsigned i = 16; (flags & RMIG_WIRE_FLAG_BUDGET) && i < 24; i++) {
        pin_bytes = pin_bytes << 8 | data[i];
    }
    if (counters.peer_pin_limit != pin_bytes) {
        fuzz_die("the destination's limit is taken for %" G_GUINT64_FORMAT,
                 (guint64)counters.peer_pin_limit);
    }
}

static void run_source(void)
{
    bool pin_all = fuzz_schedule.choice & 2;
    bool return_path = fuzz_schedule.choice & 4;
    RMigSourceConfig config = {
        .waiter = fuzz_waiter, .pin_all = pin_all, .return_path = return_path,
        .pin_limit = pin_limit(),
        .version_1_only = fuzz_schedule.choice & VERSION_1_ONLY,
    };
    GError *err = NULL;

    f.source = rmig_source_new(&config, &err);
    /* After a failure it may be tried again */
    for (unsigned tries = 0; tries < 4 && fuzz_more(); tries++) {
        bool expected, ok;

        take_reply(&f.reply[0]);
        take_reply(&f.reply[1]);
        f.replies = 0;
        expected = is_acceptance(&f.reply[0]) &&
                   (!return_path || is_acceptance(&f.reply[1]));
        fuzz_schedule_call();
        ok = fuzz_check(rmig_source_connect(f.source,
                                            (const struct sockaddr *)&addr,
                                            &err), &err, "connect");
        if (ok != expected) {
            fuzz_die("a connection %s about", ok ? "comes" : "does not come");
        }
        if (ok) {
            check_granted(pin_all, f.reply[0].data);
            for (guint i = 0; i < fuzz_device.ids->len; i++) {
                check_said(fuzz_device.ids->pdata[i], pin_all | extensions());
            }
        }
        g_free(f.reply[0].data);
        g_free(f.reply[1].data);
        if (ok) {
            break;
        }
    }
    fuzz_schedule_call();
    rmig_source_close(f.source, false);
    rmig_source_free(f.source);
}

/* ---- destination ---- */

static uint64_t ram_bytes(void *opaque)
{
    (void)opaque;
    return 4096;
}

static const RMigDestOps ops = { .ram_bytes = ram_bytes };

/* The request that has just been handled, if the core still has it */
static void check_accepted(RMigAccepted accepted, const uint8_t *data)
{
    FuzzCmId *id = fuzz_cm_last_id();

    if (!id) {
        fuzz_die("an accepted connection is gone");
    }
    /* The return path has what the main connection has, and no budget */
    if (accepted == RMIG_ACCEPTED_MAIN) {
        check_said(id, data[7] & (RMIG_WIRE_FLAG_PIN_ALL | extensions()));
    } else if (id->said[7] & (~data[7] | RMIG_WIRE_FLAG_BUDGET)) {
        fuzz_die("a flag is granted that was not asked for");
    }
}

static void run_dest(void)
{
    RMigDestConfig config = {
        .waiter = fuzz_waiter, .ops = &ops, .pin_limit = pin_limit(),
        .version_1_only = fuzz_schedule.choice & VERSION_1_ONLY,
    };
    bool have_main = false, have_back = false;
    uint8_t main_host = 0;
    GError *err = NULL;

    f.dest = rmig_dest_new(&config, (const struct sockaddr *)&addr, &err);
    for (unsigned tries = 0; tries < 8 && fuzz_more(); tries++) {
        RMigAccepted accepted, expected = RMIG_ACCEPTED_NOTHING;
        uint8_t host = fuzz_take8();
        uint8_t len;
        g_autofree uint8_t *data = take_data(&len);

        fuzz_cm_request(data, len, host);
        if (is_version_1(data, len) && !have_main) {
            expected = RMIG_ACCEPTED_MAIN;
            main_host = host;
        } else if (is_version_1(data, len) && !have_back &&
                   host == main_host) {
            expected = RMIG_ACCEPTED_RETURN;
        }
        fuzz_schedule_call();
        accepted = rmig_dest_accept(f.dest, &err);
        if (accepted != expected) {
            fuzz_die("accepted is %d instead of %d", accepted, expected);
        }
        if (fuzz_check(accepted != RMIG_ACCEPTED_NOTHING, &err, "accept")) {
            have_back |= have_main;
            have_main = true;
            check_accepted(accepted, data);
        }
    }
    fuzz_schedule_call();
    rmig_dest_close(f.dest, false);
    rmig_dest_free(f.dest);
}

/* What the destination says when it refuses: version 1 and nothing else */
static void rejected(const FuzzCmId *id)
{
    check_said(id, 0);
}

static FuzzQp *qp(bool back)
{
    (void)back;
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const FuzzHooks hooks = { .reply = reply, .rejected = rejected };
    static const FuzzRole role = { .qp = qp };

    fuzz_schedule_init(&role, hooks, data, size);
    memset(&f, 0, sizeof(f));
    fuzz_schedule.gentle = true;
    if (fuzz_schedule.choice & 1) {
        run_dest();
    } else {
        run_source();
    }
    fuzz_device_cleanup();
    return 0;
}
