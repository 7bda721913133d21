/*
 * Conformance tests: a region means the pages it was made of
 *
 * A program that puts other pages under the addresses of a registered region
 * - by discarding them and writing anew, say - has pages that the adapter does
 * not know: the adapter reads and writes the old ones, and nobody is told.
 * verbsim does so in its mode that holds pages (VERBSIM_PAGES=hold).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

enum { PAGE = 4096, BYTES = 3 * PAGE, OLD = 1, NEW, SENT };

typedef enum Memory { PRIVATE, SHARED } Memory;

/* A region of pair.a's of three pages, with content OLD. */
typedef struct Fixture {
    RigPair pair;
    int fd;                     /* of SHARED */
    uint8_t *mem;
    struct ibv_mr *mr;
} Fixture;

static void fixture_set_up(Fixture *f, const void *opaque)
{
    Memory memory = GPOINTER_TO_INT(opaque);
    RigOptions options = rig_defaults;

    options.mr_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                        IBV_ACCESS_REMOTE_READ;
    f->pair = rig_pair(&options);
    f->fd = memory == SHARED ? memfd_create("pages", MFD_CLOEXEC) : -1;
    if (f->fd >= 0) {
        g_assert_cmpint(ftruncate(f->fd, BYTES), ==, 0);
    }
    f->mem = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                  memory == SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
                  f->fd, 0);
    g_assert_true(f->mem != MAP_FAILED);
    rig_fill(f->mem, BYTES, OLD);
    f->mr = ibv_reg_mr(f->pair.a->pd, f->mem, BYTES, options.mr_access);
    g_assert_nonnull(f->mr);
}

static void fixture_tear_down(Fixture *f, const void *opaque)
{
    (void)opaque;
    g_assert_cmpint(ibv_dereg_mr(f->mr), ==, 0);
    rig_pair_free(f->pair);
    munmap(f->mem, BYTES);
    if (f->fd >= 0) {
        close(f->fd);
    }
}

/* Discards @bytes from @offset on, as a balloon does, and fills them anew. */
static void replace(Fixture *f, size_t offset, size_t bytes)
{
    g_assert_cmpint(madvise(f->mem + offset, bytes,
                            f->fd >= 0 ? MADV_REMOVE : MADV_DONTNEED), ==, 0);
    g_assert_cmpint(f->mem[offset], ==, 0);
    rig_fill(f->mem + offset, bytes, NEW);
}

static int post(Fixture *f, RigEnd *end, enum ibv_wr_opcode opcode,
                uint64_t wr_id)
{
    bool own = end == f->pair.a;
    RigEnd *other = own ? f->pair.b : f->pair.a;
    struct ibv_sge sge = {
        (uintptr_t)(own ? f->mem : end->buf), BYTES,
        own ? f->mr->lkey : end->mr->lkey,
    };
    struct ibv_send_wr *bad, wr = {
        .wr_id = wr_id, .sg_list = &sge, .num_sge = 1, .opcode = opcode,
        .send_flags = IBV_SEND_SIGNALED,
        .wr.rdma = {
            (uintptr_t)(own ? other->buf : f->mem),
            own ? other->mr->rkey : f->mr->rkey,
        },
    };

    return ibv_post_send(end->qp, &wr, &bad);
}

/* One request of the region's owner, or of its peer, with success. */
static void carry_out(Fixture *f, RigEnd *end, enum ibv_wr_opcode opcode)
{
    g_assert_cmpint(post(f, end, opcode, 7), ==, 0);
    rig_done(end->send_cq, 7, IBV_WC_SUCCESS);
}

static void test_write_from(Fixture *f, const void *opaque)
{
    (void)opaque;
    replace(f, 0, BYTES);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, OLD));
    g_assert_true(rig_filled(f->mem, BYTES, NEW));
}

/* Only the pages that were replaced are strangers to the adapter. */
static void test_write_from_one(Fixture *f, const void *opaque)
{
    uint8_t expected[BYTES];

    (void)opaque;
    memcpy(expected, f->mem, BYTES);
    replace(f, PAGE, PAGE);
    memset(f->mem, 0x11, PAGE);
    memset(f->mem + 2 * PAGE, 0x22, PAGE);
    memset(expected, 0x11, PAGE);
    memset(expected + 2 * PAGE, 0x22, PAGE);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_cmpmem(f->pair.b->buf, BYTES, expected, BYTES);
}

/* What is written into the old pages can only be read from there. */
static void test_write_into(Fixture *f, const void *opaque)
{
    (void)opaque;
    replace(f, 0, BYTES);
    rig_fill(f->pair.b->buf, BYTES, SENT);
    carry_out(f, f->pair.b, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->mem, BYTES, NEW));
    memset(f->pair.b->buf, 0, BYTES);
    carry_out(f, f->pair.b, IBV_WR_RDMA_READ);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, SENT));
}

static void test_read_into(Fixture *f, const void *opaque)
{
    (void)opaque;
    replace(f, 0, BYTES);
    rig_fill(f->pair.b->buf, BYTES, SENT);
    carry_out(f, f->pair.a, IBV_WR_RDMA_READ);
    g_assert_true(rig_filled(f->mem, BYTES, NEW));
    memset(f->pair.b->buf, 0, BYTES);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, SENT));
}

static void test_messages(Fixture *f, const void *opaque)
{
    struct ibv_sge sge = { (uintptr_t)f->mem, BYTES, f->mr->lkey };
    struct ibv_recv_wr *bad, wr = { .wr_id = 5, .sg_list = &sge,
                                    .num_sge = 1 };
    RigEnd *a = f->pair.a, *b = f->pair.b;

    (void)opaque;
    replace(f, 0, BYTES);
    g_assert_cmpint(rig_recv(b, 4, 0, BYTES), ==, 0);
    carry_out(f, a, IBV_WR_SEND);
    rig_done(b->recv_cq, 4, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(b->buf, BYTES, OLD));

    g_assert_cmpint(ibv_post_recv(a->qp, &wr, &bad), ==, 0);
    rig_fill(b->buf, BYTES, SENT);
    carry_out(f, b, IBV_WR_SEND);
    rig_done(a->recv_cq, 5, IBV_WC_SUCCESS);
    g_assert_true(rig_filled(f->mem, BYTES, NEW));
    memset(b->buf, 0, BYTES);
    carry_out(f, b, IBV_WR_RDMA_READ);
    g_assert_true(rig_filled(b->buf, BYTES, SENT));
}

/* Other memory at the same addresses, or none. */
static void test_remapped(Fixture *f, const void *opaque)
{
    (void)opaque;
    g_assert_true(mmap(f->mem, BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                  f->mem);
    rig_fill(f->mem, BYTES, NEW);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, OLD));
    munmap(f->mem, BYTES);
    memset(f->pair.b->buf, 0, BYTES);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, OLD));
}

/* Who registers anew has the new pages. */
static void test_again(Fixture *f, const void *opaque)
{
    int access = IBV_ACCESS_LOCAL_WRITE;

    (void)opaque;
    replace(f, 0, BYTES);
    g_assert_cmpint(ibv_dereg_mr(f->mr), ==, 0);
    f->mr = ibv_reg_mr(f->pair.a->pd, f->mem, BYTES, access);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, NEW));
}

/* Two regions over one page, made before and after: each has its own. */
static void test_two_regions(Fixture *f, const void *opaque)
{
    struct ibv_mr *before = f->mr;

    (void)opaque;
    replace(f, 0, BYTES);
    f->mr = ibv_reg_mr(f->pair.a->pd, f->mem, BYTES, IBV_ACCESS_LOCAL_WRITE);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, NEW));
    g_assert_cmpint(ibv_dereg_mr(f->mr), ==, 0);
    f->mr = before;
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, OLD));
}

/*
 * A child process shares the pages until somebody writes.  Those that are
 * pinned stay the parent's, so what it writes then is what the adapter reads.
 */
static void test_fork(Fixture *f, const void *opaque)
{
    int fd[2], status;
    char byte;
    pid_t pid;

    (void)opaque;
    g_assert_cmpint(pipe(fd), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        close(fd[1]);
        _exit(read(fd[0], &byte, 1) == 0 && rig_filled(f->mem, BYTES, OLD)
              ? 0 : 1);
    }
    close(fd[0]);
    rig_fill(f->mem, BYTES, NEW);
    carry_out(f, f->pair.a, IBV_WR_RDMA_WRITE);
    g_assert_true(rig_filled(f->pair.b->buf, BYTES, NEW));
    close(fd[1]);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
}

#define ADD(path, memory, test)                                     \
    g_test_add(path, Fixture, GINT_TO_POINTER(memory),              \
               fixture_set_up, test, fixture_tear_down)

int main(int argc, char **argv)
{
    rig_init(&argc, &argv, NULL);
    if (!rig_can_hold()) {
        return 0;
    }
    ADD("/pages/private/write-from", PRIVATE, test_write_from);
    ADD("/pages/private/write-from-one", PRIVATE, test_write_from_one);
    ADD("/pages/private/write-into", PRIVATE, test_write_into);
    ADD("/pages/private/read-into", PRIVATE, test_read_into);
    ADD("/pages/private/messages", PRIVATE, test_messages);
    ADD("/pages/private/remapped", PRIVATE, test_remapped);
    ADD("/pages/private/again", PRIVATE, test_again);
    ADD("/pages/private/two-regions", PRIVATE, test_two_regions);
    ADD("/pages/private/fork", PRIVATE, test_fork);
    ADD("/pages/shared/write-from", SHARED, test_write_from);
    ADD("/pages/shared/write-from-one", SHARED, test_write_from_one);
    ADD("/pages/shared/write-into", SHARED, test_write_into);
    ADD("/pages/shared/messages", SHARED, test_messages);
    ADD("/pages/shared/remapped", SHARED, test_remapped);
    return rig_run();
}
