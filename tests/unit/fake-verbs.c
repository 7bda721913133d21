/*
 * A stand-in for the verbs room: records what is posted
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See fake-verbs.h.
 */
#include "fake-verbs.h"

#include <string.h>

uint64_t fake_verbs_pinned_bytes;

GQuark rmig_verbs_error_quark(void)
{
    return g_quark_from_static_string("rmig-verbs-error-quark");
}

static void post_free(gpointer data)
{
    FakePost *post = data;

    g_clear_pointer(&post->data, g_bytes_unref);
    g_free(post);
}

RMigVerbs *fake_verbs_new(void)
{
    RMigVerbs *v = g_new0(RMigVerbs, 1);

    v->posts = g_ptr_array_new_with_free_func(post_free);
    v->mrs = g_ptr_array_new();
    v->write_slots = RMIG_VERBS_SLOTS_WRITE;
    v->fail_post = -1;
    v->fail_register = -1;
    g_queue_init(&v->recvs);
    g_mutex_init(&v->lock);
    return v;
}

void fake_verbs_free(RMigVerbs *v)
{
    g_assert_cmpuint(v->mrs->len, ==, 0);
    g_ptr_array_unref(v->posts);
    g_ptr_array_unref(v->mrs);
    g_queue_clear_full(&v->recvs, g_free);
    g_mutex_clear(&v->lock);
    g_free(v);
}

/* Counts down to the call that is to fail */
static bool fails_now(int *countdown, const char *what, GError **err)
{
    if (*countdown < 0 || (*countdown)-- > 0) {
        return false;
    }
    g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_FAILED,
                "%s failed: as the test wishes", what);
    return true;
}

RMigMr *rmig_mr_register(RMigVerbs *v, void *addr, uint64_t bytes,
                         bool remote_write, GError **err)
{
    g_autoptr(GMutexLocker) locker = NULL;
    int wished = 0;
    RMigMr *mr;

    if (v->registering) {
        v->registering(v);
    }
    locker = g_mutex_locker_new(&v->lock);
    g_assert_cmpuint(bytes, >, 0);
    if (v->unpinnable && (uint8_t *)addr < v->unpinnable + v->unpinnable_bytes &&
        v->unpinnable < (uint8_t *)addr + bytes) {
        g_set_error(err, RMIG_VERBS_ERROR, RMIG_VERBS_ERROR_UNPINNABLE,
                    "registering failed: as for a ROM");
        return NULL;
    }
    if (fails_now(&v->fail_register, "registering", err) ||
        (v->refuse && v->refuse(v, bytes) &&
         fails_now(&wished, "registering", err))) {
        return NULL;
    }
    mr = g_new0(RMigMr, 1);
    *mr = (RMigMr) { .verbs = v, .addr = addr, .bytes = bytes,
                     .remote_write = remote_write,
                     .rkey = 0x1000 + v->registered++ };
    g_ptr_array_add(v->mrs, mr);
    v->mr_bytes += bytes;
    g_assert_true(v->mr_bytes_max == 0 || v->mr_bytes <= v->mr_bytes_max);
    return mr;
}

void rmig_mr_unregister(RMigMr *mr)
{
    RMigVerbs *v;

    if (mr) {
        v = mr->verbs;
        if (v->unregistering) {
            v->unregistering(v);
        }
        g_mutex_lock(&v->lock);
        g_assert_true(g_ptr_array_remove(v->mrs, mr));
        v->mr_bytes -= mr->bytes;
        g_mutex_unlock(&v->lock);
        g_free(mr);
    }
}

uint32_t rmig_mr_rkey(const RMigMr *mr)
{
    return mr->rkey;
}

uint64_t rmig_mr_bytes(const RMigMr *mr)
{
    return mr->bytes;
}

uint64_t rmig_mr_pinned_bytes(void)
{
    return fake_verbs_pinned_bytes;
}

uint64_t rmig_mr_pinned_peak_bytes(void)
{
    return 0;
}

void rmig_mr_reset_peak(void)
{
}

/* What a device would refuse: memory that is not registered */
static void check_inside(const RMigMr *mr, const void *addr, uint64_t bytes)
{
    g_assert_nonnull(mr);
    g_assert_true((const uint8_t *)addr >= mr->addr);
    g_assert_cmpuint((const uint8_t *)addr - mr->addr + bytes, <=, mr->bytes);
}

static bool post(RMigVerbs *v, const FakePost *wanted, GError **err)
{
    FakePost *made;

    g_assert_nonnull(wanted->work);
    g_assert_cmpuint(fake_verbs_pending(v), <,
                     v->write_slots + RMIG_VERBS_SLOTS_RESERVED);
    if (fails_now(&v->fail_post, "posting", err)) {
        return false;
    }
    made = g_memdup2(wanted, sizeof(*wanted));
    if (made->kind == FAKE_SEND) {
        made->data = g_bytes_new(made->addr, made->bytes);
    }
    made->completed_before = v->completed;
    g_ptr_array_add(v->posts, made);
    return true;
}

bool rmig_verbs_post_send(RMigVerbs *v, RMigWork *work, RMigMr *mr,
                          const void *addr, uint32_t bytes, GError **err)
{
    check_inside(mr, addr, bytes);
    return post(v, &(FakePost) { .kind = FAKE_SEND, .work = work,
                                 .signalled = true, .mr = mr, .addr = addr,
                                 .bytes = bytes }, err);
}

bool rmig_verbs_post_writes(RMigVerbs *v, RMigWork *work,
                            const RMigWrite *writes, unsigned n, GError **err)
{
    g_assert_cmpuint(n, >, 0);
    g_assert_cmpuint(n, <=, RMIG_VERBS_CHAIN);
    g_assert_cmpuint(n, <=, rmig_verbs_write_room(v));
    v->doorbells++;
    for (unsigned i = 0; i < n; i++) {
        const RMigWrite *w = &writes[i];
        FakePost wanted = { .kind = FAKE_WRITE, .work = work,
                            .signalled = i == n - 1, .mr = w->mr,
                            .addr = w->addr, .bytes = w->bytes,
                            .remote_addr = w->remote_addr, .rkey = w->rkey };

        check_inside(w->mr, w->addr, w->bytes);
        if (!post(v, &wanted, err)) {
            return false;
        }
    }
    return true;
}

bool rmig_verbs_post_probe(RMigVerbs *v, RMigWork *work, GError **err)
{
    return post(v, &(FakePost) { .kind = FAKE_PROBE, .work = work,
                                 .signalled = true }, err);
}

bool rmig_verbs_post_recv(RMigVerbs *v, RMigWork *work, RMigMr *mr,
                          void *addr, uint32_t bytes, GError **err)
{
    FakeRecv recv = { .work = work, .addr = addr, .bytes = bytes };

    check_inside(mr, addr, bytes);
    if (fails_now(&v->fail_post, "posting", err)) {
        return false;
    }
    g_queue_push_tail(&v->recvs, g_memdup2(&recv, sizeof(recv)));
    g_assert_cmpuint(g_queue_get_length(&v->recvs), <=, RMIG_VERBS_RECVS);
    return true;
}

unsigned fake_verbs_pending(const RMigVerbs *v)
{
    return v->posts->len - v->completed;
}

unsigned rmig_verbs_write_room(const RMigVerbs *v)
{
    unsigned pending = fake_verbs_pending(v);

    return pending < v->write_slots ? v->write_slots - pending : 0;
}

unsigned rmig_verbs_sends_in_flight(const RMigVerbs *v)
{
    return fake_verbs_pending(v);
}

void fake_verbs_arrive(RMigVerbs *v, const void *data, uint32_t bytes)
{
    g_autofree FakeRecv *recv = g_queue_pop_head(&v->recvs);

    g_assert_nonnull(recv); /* "receiver not ready" */
    g_assert_cmpuint(bytes, <=, recv->bytes);
    memcpy(recv->addr, data, bytes);
    recv->work->done(recv->work, bytes);
}

void fake_verbs_complete(RMigVerbs *v, unsigned n)
{
    g_assert_cmpuint(n, <=, fake_verbs_pending(v));
    /* A device reports nothing, and frees no slot, for an unsignalled one */
    g_assert_true(n == 0 ||
                  fake_verbs_post(v, v->completed + n - 1)->signalled);
    while (n-- > 0) {
        FakePost *done = g_ptr_array_index(v->posts, v->completed++);

        if (done->kind == FAKE_WRITE && v->landed) {
            v->landed(v->opaque, done);
        }
        if (done->signalled) {
            done->work->done(done->work, 0);
        }
    }
}

unsigned fake_verbs_ripe(const RMigVerbs *v, unsigned keep)
{
    unsigned n = fake_verbs_pending(v);

    n -= MIN(n, keep);
    while (n > 0 && !fake_verbs_post(v, v->completed + n - 1)->signalled) {
        n--;
    }
    return n;
}

void fake_verbs_complete_all(RMigVerbs *v)
{
    fake_verbs_complete(v, fake_verbs_pending(v));
}

FakePost *fake_verbs_post(const RMigVerbs *v, unsigned i)
{
    g_assert_cmpuint(i, <, v->posts->len);
    return g_ptr_array_index(v->posts, i);
}

FakePost *fake_verbs_last(const RMigVerbs *v)
{
    return fake_verbs_post(v, v->posts->len - 1);
}
