/*
 * RDMA migration transport: a byte stream over QEMU_FILE messages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See stream.h.
 */
#include <string.h>

#include "log.h"
#include "stream.h"

void rmig_stream_init(RMigStream *s, RMigControl *control)
{
    memset(s, 0, sizeof(*s));
    s->control = control;
}

bool rmig_stream_is_empty(const RMigStream *s)
{
    return s->gathered == 0 && !rmig_stream_has_data(s);
}

bool rmig_stream_has_data(const RMigStream *s)
{
    return s->left > 0 || rmig_control_has(s->control, RMIG_WIRE_QEMU_FILE);
}

int rmig_stream_fd(const RMigStream *s)
{
    return rmig_link_fd(rmig_control_link(s->control));
}

bool rmig_stream_flush(RMigStream *s, GError **err)
{
    size_t bytes = s->gathered;

    if (bytes == 0) {
        return true;
    }
    s->gathered = 0;
    return rmig_control_command(s->control, RMIG_WIRE_QEMU_FILE, bytes, 1,
                                err);
}

/* What the peer has done so far is known after it */
static bool look(RMigStream *s, GError **err)
{
    int ret;

    do {
        ret = rmig_link_poll(rmig_control_link(s->control), err);
    } while (ret > 0);
    return ret == 0;
}

bool rmig_stream_write_now(RMigStream *s, const void *buf, size_t size,
                           GError **err)
{
    if (!look(s, err)) {
        return false;
    }
    if (!rmig_control_may_compose(s->control) ||
        size >= RMIG_WIRE_DATA_MAX_BYTES - s->gathered) {
        g_set_error(err, RMIG_LINK_ERROR, RMIG_LINK_ERROR_FAILED,
                    "the peer does not take what must not wait for it");
        return false;
    }
    return rmig_stream_write(s, buf, size, err);
}

bool rmig_stream_flush_now(RMigStream *s, GError **err)
{
    return look(s, err) &&
           (!rmig_control_may_send(s->control, RMIG_WIRE_QEMU_FILE) ||
            rmig_stream_flush(s, err));
}

bool rmig_stream_write(RMigStream *s, const void *buf, size_t size,
                       GError **err)
{
    const uint8_t *from = buf;

    while (size > 0) {
        size_t room = RMIG_WIRE_DATA_MAX_BYTES - s->gathered;
        size_t part = MIN(room, size);
        uint8_t *data;

        /* The last message but one may still be leaving from there */
        data = rmig_control_buffer(s->control, err);
        if (!data) {
            return false;
        }
        memcpy(data + s->gathered, from, part);
        s->gathered += part;
        from += part;
        size -= part;
        if (part == room && !rmig_stream_flush(s, err)) {
            return false;
        }
    }
    return true;
}

/* 1: a message is in hand; else what rmig_stream_read() is to return */
static ssize_t next_message(RMigStream *s, bool wait, GError **err)
{
    GError *local = NULL;
    RMigWireMessage msg;
    int ret = rmig_control_receive(s->control, wait, &msg, &local);

    if (ret == 0) {
        return RMIG_STREAM_WOULD_BLOCK;
    }
    if (ret < 0) {
        if (g_error_matches(local, RMIG_LINK_ERROR, RMIG_LINK_ERROR_CLOSED)) {
            g_error_free(local);
            return 0;
        }
        g_propagate_error(err, local);
        return -1;
    }
    if (msg.type != RMIG_WIRE_QEMU_FILE) {
        local = g_error_new(RMIG_CONTROL_ERROR, RMIG_CONTROL_ERROR_PROTOCOL,
                            "the peer sent %s where the migration stream "
                            "goes on", rmig_wire_type_name(msg.type));
        if (err) {
            *err = g_error_copy(local);
        }
        rmig_link_fail(rmig_control_link(s->control), local);
        return -1;
    }
    s->data = msg.data;
    s->left = msg.len;
    return 1;
}

/*
 * A peer that gave up takes back what it has sent before: a destination that
 * was stopped must not complete a migration that has failed, for then the
 * guest runs on where it was.
 */
static bool peer_gave_up(const RMigStream *s, GError **err)
{
    GError *local = NULL;

    if (rmig_link_check(rmig_control_link(s->control), &local) ||
        !g_error_matches(local, RMIG_CONTROL_ERROR,
                         RMIG_CONTROL_ERROR_PEER)) {
        g_clear_error(&local);
        return false;
    }
    g_propagate_error(err, local);
    return true;
}

ssize_t rmig_stream_read(RMigStream *s, void *buf, size_t size, bool wait,
                         GError **err)
{
    size_t part;

    if (s->left == 0) {
        ssize_t ret = next_message(s, wait, err);

        if (ret <= 0) {
            return ret;
        }
    }
    if (peer_gave_up(s, err)) {
        return -1;
    }
    part = MIN(size, s->left);
    memcpy(buf, s->data, part);
    s->data += part;
    s->left -= part;
    if (s->left == 0 && !rmig_control_release(s->control, NULL)) {
        RMIG_LOG("the last bytes of a connection that has broken");
    }
    return part;
}
