/*
 * Conformance tests: protection domains and memory regions
 *
 * How keys, bounds and access are enforced when memory is used is in test-send
 * (local) and test-access (remote).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rig.h"

#define PAGE 4096
#define MEMLOCK_PAGES 64

static uint8_t *map_pages(unsigned pages, int prot)
{
    void *mem = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS,
                     -1, 0);

    g_assert_true(mem != MAP_FAILED);
    return mem;
}

static struct ibv_pd *make_pd(void)
{
    struct ibv_pd *pd = ibv_alloc_pd(rig_device());

    g_assert_nonnull(pd);
    return pd;
}

/* The errno of a registration, which is undone if it succeeds. */
static int try_register(struct ibv_pd *pd, void *mem, size_t bytes, int access)
{
    struct ibv_mr *mr;

    errno = 0;
    mr = ibv_reg_mr(pd, mem, bytes, access);
    if (mr) {
        g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
        return 0;
    }
    g_assert_cmpint(errno, !=, 0);
    return errno;
}

static void test_fields(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(4, PROT_READ | PROT_WRITE);
    struct ibv_mr *mr = ibv_reg_mr(pd, mem + 100, 5000,
                                   IBV_ACCESS_LOCAL_WRITE);
    struct ibv_mr *again = ibv_reg_mr(pd, mem + 100, 5000,
                                      IBV_ACCESS_LOCAL_WRITE);

    g_assert_nonnull(mr);
    g_assert_true(mr->addr == mem + 100);
    g_assert_cmpuint(mr->length, ==, 5000);
    g_assert_true(mr->pd == pd);
    g_assert_true(mr->context == rig_device());
    /* The same memory any number of times, each with a key of its own. */
    g_assert_nonnull(again);
    g_assert_cmphex(again->lkey, !=, mr->lkey);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    g_assert_cmpint(ibv_dereg_mr(again), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, 4 * PAGE);
}

static void test_access(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(1, PROT_READ | PROT_WRITE);

    g_assert_cmpint(try_register(pd, mem, PAGE, 0), ==, 0);
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_REMOTE_READ), ==,
                    0);
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_LOCAL_WRITE |
                                                IBV_ACCESS_REMOTE_WRITE), ==,
                    0);
    /* Who lets others write must let itself. */
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_REMOTE_WRITE), ==,
                    EINVAL);
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_REMOTE_READ |
                                                IBV_ACCESS_REMOTE_ATOMIC),
                    ==, EINVAL);
    /* Unknown, but marked as optional: ignored. */
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_LOCAL_WRITE |
                                                IBV_ACCESS_RELAXED_ORDERING),
                    ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, PAGE);
}

static void test_range(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(1, PROT_READ | PROT_WRITE);

    g_assert_cmpint(try_register(pd, mem + PAGE - 1, 1,
                                 IBV_ACCESS_LOCAL_WRITE), ==, 0);
    g_assert_cmpint(try_register(pd, mem, 0, IBV_ACCESS_LOCAL_WRITE), ==,
                    EINVAL);
    /* It wraps around. */
    g_assert_cmpint(try_register(pd, mem, SIZE_MAX - 10,
                                 IBV_ACCESS_LOCAL_WRITE), ==, EINVAL);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, PAGE);
}

static void test_unmapped(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(3, PROT_READ | PROT_WRITE);

    munmap(mem + PAGE, PAGE);
    g_assert_cmpint(try_register(pd, mem + PAGE, PAGE,
                                 IBV_ACCESS_LOCAL_WRITE), ==, EFAULT);
    g_assert_cmpint(try_register(pd, mem, 3 * PAGE, IBV_ACCESS_LOCAL_WRITE),
                    ==, EFAULT);
    g_assert_cmpint(try_register(pd, mem + PAGE, PAGE, 0), ==, EFAULT);
    /* Nothing of the failed ones is left over. */
    g_assert_cmpint(try_register(pd, mem, PAGE, IBV_ACCESS_LOCAL_WRITE), ==,
                    0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, PAGE);
    munmap(mem + 2 * PAGE, PAGE);
}

static void test_read_only(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(2, PROT_READ);
    uint8_t *none = map_pages(1, PROT_NONE);

    g_assert_cmpint(try_register(pd, mem, 2 * PAGE, IBV_ACCESS_LOCAL_WRITE),
                    ==, EFAULT);
    g_assert_cmpint(try_register(pd, mem, 2 * PAGE, IBV_ACCESS_REMOTE_READ),
                    ==, 0);
    g_assert_cmpint(try_register(pd, none, PAGE, IBV_ACCESS_LOCAL_WRITE), ==,
                    EFAULT);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, 2 * PAGE);
    munmap(none, PAGE);
}

static void test_populates(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(8, PROT_READ | PROT_WRITE);
    struct ibv_mr *mr = ibv_reg_mr(pd, mem, 8 * PAGE, IBV_ACCESS_LOCAL_WRITE);
    unsigned char there[8] = { 0 };

    /* Registered memory is there: it is pinned, not only promised. */
    g_assert_nonnull(mr);
    g_assert_cmpint(mincore(mem, 8 * PAGE, there), ==, 0);
    for (int i = 0; i < 8; i++) {
        g_assert_cmpint(there[i] & 1, ==, 1);
    }
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, 8 * PAGE);
}

static void test_busy_pd(void)
{
    RigEnd *end = rig_end(&rig_defaults);

    g_assert_cmpint(ibv_dealloc_pd(end->pd), ==, EBUSY);
    g_assert_cmpint(ibv_dereg_mr(end->mr), ==, 0);
    end->mr = NULL;
    /* The queue pair is left. */
    g_assert_cmpint(ibv_dealloc_pd(end->pd), ==, EBUSY);
    rig_end_free(end);
}

static void test_iova(void)
{
    struct ibv_pd *pd = make_pd();
    uint8_t *mem = map_pages(4, PROT_READ | PROT_WRITE);
    uint64_t iova = 0x123400000000ull;
    struct ibv_mr *mr = ibv_reg_mr_iova(pd, mem + 100, 5000, iova + 100,
                                        IBV_ACCESS_LOCAL_WRITE);

    g_assert_nonnull(mr);
    g_assert_true(mr->addr == mem + 100);
    g_assert_cmpint(ibv_dereg_mr(mr), ==, 0);
    /* Not at the same place in its page. */
    errno = 0;
    g_assert_null(ibv_reg_mr_iova(pd, mem, 5000, iova + 100,
                                  IBV_ACCESS_LOCAL_WRITE));
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    munmap(mem, 4 * PAGE);
}

/* ----------------------------------------------------------- RLIMIT_MEMLOCK */

static void drop_ipc_lock(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[2];

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    g_assert_cmpint(syscall(SYS_capset, &header, data), ==, 0);
}

static bool may_lock_all(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[2];

    g_assert_cmpint(syscall(SYS_capget, &header, data), ==, 0);
    return data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &
           CAP_TO_MASK(CAP_IPC_LOCK);
}

static void limit_memlock(void)
{
    struct rlimit limit = { MEMLOCK_PAGES * PAGE, MEMLOCK_PAGES * PAGE };

    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
}

static void role_limited(void)
{
    unsigned n = MEMLOCK_PAGES;
    int access = IBV_ACCESS_LOCAL_WRITE;
    uint8_t *mem = map_pages(n + 1, PROT_READ | PROT_WRITE);
    struct ibv_mr *half;
    struct ibv_pd *pd;

    limit_memlock();
    drop_ipc_lock();
    pd = make_pd();
    g_assert_cmpint(try_register(pd, mem, n * PAGE, access), ==, 0);
    g_assert_cmpint(try_register(pd, mem, (n + 1) * PAGE, access), ==,
                    ENOMEM);
    g_assert_cmpint(try_register(pd, mem, n * PAGE + 1, access), ==, ENOMEM);
    /* Whole pages count: this one touches one more. */
    g_assert_cmpint(try_register(pd, mem + 1, n * PAGE, access), ==, ENOMEM);
    /* It is a sum; memory that is registered twice counts twice. */
    half = ibv_reg_mr(pd, mem, n / 2 * PAGE, access);
    g_assert_nonnull(half);
    g_assert_cmpint(try_register(pd, mem, n / 2 * PAGE, access), ==, 0);
    g_assert_cmpint(try_register(pd, mem, (n / 2 + 1) * PAGE, access), ==,
                    ENOMEM);
    /* Memory that is only read counts, too. */
    g_assert_cmpint(try_register(pd, mem, (n / 2 + 1) * PAGE, 0), ==, ENOMEM);
    /* What is let go is given back, and so is what failed. */
    g_assert_cmpint(ibv_dereg_mr(half), ==, 0);
    g_assert_cmpint(try_register(pd, mem, n * PAGE, access), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    rig_tell("k", 1);
}

static void role_capable(void)
{
    unsigned n = MEMLOCK_PAGES;
    uint8_t *mem = map_pages(n + 1, PROT_READ | PROT_WRITE);
    struct ibv_pd *pd;

    limit_memlock();
    pd = make_pd();
    g_assert_cmpint(try_register(pd, mem, (n + 1) * PAGE,
                                 IBV_ACCESS_LOCAL_WRITE), ==, 0);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    rig_tell("k", 1);
}

static void run_child(const char *role, const char *name, const char *value)
{
    RigChild *child = rig_child_with(role, name, value);
    char ok;

    rig_child_hear(child, &ok, 1);
    rig_child_free(child);
}

static void test_memlock(void)
{
    run_child("limited", NULL, NULL);
}

static void test_memlock_capable(void)
{
    if (!may_lock_all()) {
        g_test_skip("it needs CAP_IPC_LOCK (run it as root)");
        return;
    }
    run_child("capable", NULL, NULL);
}

/* ------------------------------------------------------------ device limits */

/* Under a device with max_mr and max_mr_size as below. */
static void role_small_device(void)
{
    uint8_t *mem = map_pages(5, PROT_READ | PROT_WRITE);
    struct ibv_pd *pd = make_pd();
    GPtrArray *mrs = g_ptr_array_new();

    g_assert_cmpint(rig_limits()->max_mr, ==, 3);
    g_assert_cmpuint(rig_limits()->max_mr_size, ==, 4 * PAGE);
    g_assert_cmpint(try_register(pd, mem, 4 * PAGE, 0), ==, 0);
    g_assert_cmpint(try_register(pd, mem, 4 * PAGE + 1, 0), ==, EINVAL);
    for (int i = 0; i < 3; i++) {
        g_ptr_array_add(mrs, ibv_reg_mr(pd, mem, PAGE, 0));
        g_assert_nonnull(mrs->pdata[i]);
    }
    g_assert_cmpint(try_register(pd, mem, PAGE, 0), ==, ENOMEM);
    g_assert_cmpint(ibv_dereg_mr(mrs->pdata[0]), ==, 0);
    mrs->pdata[0] = ibv_reg_mr(pd, mem, PAGE, 0);
    g_assert_nonnull(mrs->pdata[0]);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(ibv_dereg_mr(mrs->pdata[i]), ==, 0);
    }
    g_ptr_array_free(mrs, true);
    g_assert_cmpint(ibv_dealloc_pd(pd), ==, 0);
    rig_tell("k", 1);
}

static void test_device_limits(void)
{
    g_autofree char *dir = NULL, *path = NULL;

    if (!rig_is_verbsim()) {
        /* Half a million regions, and no limit on their size. */
        g_assert_cmpint(rig_limits()->max_mr, >, 100000);
        g_test_skip("the device's limits are too large to be reached");
        return;
    }
    dir = g_dir_make_tmp("conformance-XXXXXX", NULL);
    g_assert_nonnull(dir);
    path = g_build_filename(dir, "small.profile", NULL);
    g_assert_true(g_file_set_contents(path, "max-mr = 3\n"
                                      "max-mr-bytes = 16KiB\n", -1, NULL));
    run_child("small-device", "VERBSIM_PROFILE", path);
    g_assert_cmpint(remove(path), ==, 0);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    static const RigRole roles[] = {
        { "limited", role_limited },
        { "capable", role_capable },
        { "small-device", role_small_device },
        { NULL, NULL },
    };

    rig_init(&argc, &argv, roles);
    g_test_add_func("/mr/fields", test_fields);
    g_test_add_func("/mr/access-flags", test_access);
    g_test_add_func("/mr/range", test_range);
    g_test_add_func("/mr/unmapped", test_unmapped);
    g_test_add_func("/mr/read-only", test_read_only);
    g_test_add_func("/mr/populates", test_populates);
    g_test_add_func("/mr/busy-pd", test_busy_pd);
    g_test_add_func("/mr/iova", test_iova);
    g_test_add_func("/mr/memlock", test_memlock);
    g_test_add_func("/mr/memlock-capable", test_memlock_capable);
    g_test_add_func("/mr/device-limits", test_device_limits);
    return rig_run();
}
