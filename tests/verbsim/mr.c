/*
 * verbsim: protection domains and memory regions
 *
 * Registering is done on the program's thread and takes the time that the
 * profile says, without vs_lock.  The NIC thread looks keys up and holds a
 * busy reference while it copies; deregistering waits for that.
 *
 * A key is index << 8 | generation.  An index is not used again before many
 * others were, and then with the next generation, so a stale key finds nothing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "api.h"
#include "hold.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Exported by the real library; in verbs.h they are behind macros. */
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

enum {
    PAGE = 4096,
    KEY_SHIFT = 8,
    MAX_INDEX = 1 << 24,
    MIN_IDLE = 1024,            /* this many unused indices before one again */
    PROBE_PAGES = 64 * 1024,
};

enum {
    REMOTE_WRITERS = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC,
    KNOWN_ACCESS = IBV_ACCESS_LOCAL_WRITE | REMOTE_WRITERS |
                   IBV_ACCESS_REMOTE_READ | IBV_ACCESS_MW_BIND |
                   IBV_ACCESS_HUGETLB,
    UNSUPPORTED_ACCESS = IBV_ACCESS_ZERO_BASED | IBV_ACCESS_ON_DEMAND,
};

static GPtrArray *slots;        /* index -> VsMr * or NULL; 0 is never used */
static GByteArray *generations; /* index -> that of its last key */
static GQueue unused = G_QUEUE_INIT;    /* indices, oldest first */
static uint32_t registered;     /* including those being registered */
static uint64_t pinned;         /* bytes, likewise */

/* ------------------------------------------------------- protection domains */

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    VsPd *pd = NULL;
    int error;

    pthread_mutex_lock(&vs_lock);
    error = vs_device_error();
    if (!error && vs_object_count(VS_KIND_PD) >= VS_MAX_PD) {
        error = ENOMEM;
    }
    if (!error) {
        pd = g_new0(VsPd, 1);
        pd->ibv.context = context;
        pd->ibv.handle = vs_object_handle();
        vs_context(context)->children++;
        vs_object_add(VS_KIND_PD, pd);
    }
    pthread_mutex_unlock(&vs_lock);
    if (!pd) {
        errno = error;
        return NULL;
    }
    return &pd->ibv;
}

int ibv_dealloc_pd(struct ibv_pd *ibv)
{
    VsPd *pd = (VsPd *)ibv;
    int error = 0;

    pthread_mutex_lock(&vs_lock);
    if (!vs_object_check(VS_KIND_PD, pd, __func__)) {
        error = EINVAL;
    } else if (pd->children) {
        error = EBUSY;
    } else {
        vs_object_remove(VS_KIND_PD, pd);
        vs_context(ibv->context)->children--;
        g_free(pd);
    }
    pthread_mutex_unlock(&vs_lock);
    return error;
}

/* --------------------------------------------------------------------- keys */

/* Puts @mr into the table and gives it its key; false if it is full. */
static bool give_key(VsMr *mr)
{
    uint8_t generation = 0;
    uint32_t index;

    if (!slots) {
        slots = g_ptr_array_new();
        generations = g_byte_array_new();
        g_ptr_array_add(slots, NULL);
        g_byte_array_append(generations, &generation, 1);
    }
    if (g_queue_get_length(&unused) > MIN_IDLE ||
        (slots->len == MAX_INDEX && !g_queue_is_empty(&unused))) {
        index = GPOINTER_TO_UINT(g_queue_pop_head(&unused));
        slots->pdata[index] = mr;
    } else if (slots->len < MAX_INDEX) {
        index = slots->len;
        g_ptr_array_add(slots, mr);
        g_byte_array_append(generations, &generation, 1);
    } else {
        return false;
    }
    mr->ibv.lkey = index << KEY_SHIFT | ++generations->data[index];
    mr->ibv.rkey = mr->ibv.lkey;
    return true;
}

static void take_key(VsMr *mr)
{
    uint32_t index = mr->ibv.lkey >> KEY_SHIFT;

    slots->pdata[index] = NULL;
    g_queue_push_tail(&unused, GUINT_TO_POINTER(index));
}

VsMr *vs_mr_get(uint32_t key, const VsPd *pd, uint64_t addr, uint64_t length,
                int access)
{
    uint32_t index = key >> KEY_SHIFT;
    VsMr *mr = slots && index < slots->len ? slots->pdata[index] : NULL;

    if (!mr || mr->ibv.lkey != key || mr->ibv.pd != &pd->ibv ||
        (mr->access & access) != access || addr < mr->iova ||
        addr - mr->iova > mr->ibv.length ||
        length > mr->ibv.length - (addr - mr->iova)) {
        return NULL;
    }
    mr->busy++;
    return mr;
}

void vs_mr_put(VsMr *mr)
{
    if (--mr->busy == 0) {
        pthread_cond_broadcast(&vs_idle);
    }
}

void *vs_mr_pointer(const VsMr *mr, uint64_t addr)
{
    return (char *)mr->ibv.addr + (addr - mr->iova);
}

/* -------------------------------------------------------------- registering */

static bool may_pin_anything(void)
{
    struct __user_cap_header_struct head = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

    return syscall(SYS_capget, &head, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &
            CAP_TO_MASK(CAP_IPC_LOCK));
}

static bool fits_memlock(uint64_t bytes)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_MEMLOCK, &limit) < 0 ||
           limit.rlim_cur == RLIM_INFINITY ||
           (bytes <= limit.rlim_cur && pinned <= limit.rlim_cur - bytes) ||
           may_pin_anything();
}

static int check_arguments(const void *addr, uint64_t length, uint64_t iova,
                           int access)
{
    uint64_t start = (uintptr_t)addr;

    if (access & UNSUPPORTED_ACCESS) {
        vs_unimplemented("ibv_reg_mr: on-demand or zero-based memory");
        return EOPNOTSUPP;
    }
    if (access & ~(KNOWN_ACCESS | (int)IBV_ACCESS_OPTIONAL_RANGE)) {
        return EINVAL;
    }
    if ((access & REMOTE_WRITERS) && !(access & IBV_ACCESS_LOCAL_WRITE)) {
        return EINVAL;
    }
    if (!length || start + length < start || iova + length < iova ||
        start % PAGE != iova % PAGE || length > vs_shape.max_mr_bytes) {
        return EINVAL;
    }
    return 0;
}

/* Charges one region of @bytes; what can fail without looking at memory. */
static int reserve(VsPd *pd, uint64_t bytes, uint64_t *delay_ns)
{
    VsVerdict verdict;

    if (!vs_object_check(VS_KIND_PD, pd, "ibv_reg_mr")) {
        return EINVAL;
    }
    if (vs_device_error()) {
        return vs_device_error();
    }
    verdict = vs_fault_at(VS_SITE_REGISTER, NULL, 0);
    if (verdict.action == VS_ACT_FAIL) {
        return verdict.error;
    }
    if (registered >= vs_shape.max_mr || !fits_memlock(bytes)) {
        return ENOMEM;
    }
    *delay_ns = verdict.action == VS_ACT_DELAY ? verdict.delay_ns : 0;
    registered++;
    pinned += bytes;
    pd->children++;
    vs_context(pd->ibv.context)->children++;
    return 0;
}

static void unreserve(VsPd *pd, uint64_t bytes)
{
    registered--;
    pinned -= bytes;
    pd->children--;
    vs_context(pd->ibv.context)->children--;
}

/* Is every page mapped?  For a device that never looks at the memory. */
static int probe(char *start, uint64_t bytes)
{
    g_autofree unsigned char *present = g_malloc(PROBE_PAGES);

    while (bytes) {
        uint64_t step = MIN(bytes, (uint64_t)PROBE_PAGES * PAGE);

        if (mincore(start, step, present) < 0) {
            return errno == ENOMEM ? EFAULT : errno;
        }
        start += step;
        bytes -= step;
    }
    return 0;
}

/* Makes the pages present, as pinning them would. */
static int populate(void *addr, uint64_t bytes, int access)
{
    char *start = (char *)addr - (uintptr_t)addr % PAGE;
    int advice = access & IBV_ACCESS_LOCAL_WRITE ? MADV_POPULATE_WRITE
                                                 : MADV_POPULATE_READ;

    if (vs_shape.no_copy) {
        return probe(start, bytes);
    }
    while (madvise(start, bytes, advice) < 0) {
        if (errno != EINTR && errno != EAGAIN) {
            return EFAULT;
        }
    }
    return 0;
}

/* Populates, and lets as much time pass as an adapter would need. */
static int take_time(VsMr *mr, uint64_t delay_ns)
{
    void *addr = mr->ibv.addr;
    uint64_t length = mr->ibv.length;
    uint64_t start = vs_now_ns(), until, now;
    int error = populate(addr, mr->pinned_bytes, mr->access);

    if (!error) {
        mr->hold = vs_hold_take(addr, length);
    }
    now = vs_now_ns();
    until = start + delay_ns + (error ? 0 : vs_shape_reg_cost(addr, length));
    if (until > now) {
        vs_sleep_ns(until - now);
    }
    return error;
}

static void account(VsMr *mr, uint64_t ns)
{
    vs_object_add(VS_KIND_MR, mr);
    vs_stats->registrations++;
    vs_stats->reg_ns += ns;
    vs_stats->mrs++;
    vs_stats->mrs_peak = MAX(vs_stats->mrs_peak, vs_stats->mrs);
    vs_stats->pinned_bytes += mr->pinned_bytes;
    vs_stats->held_bytes += mr->hold ? mr->pinned_bytes : 0;
    vs_stats->pinned_peak = MAX(vs_stats->pinned_peak,
                                vs_stats->pinned_bytes);
    VS_TRACE("register", "key=0x%x addr=%p length=%zu iova=0x%" PRIx64
             " access=0x%x ns=%" PRIu64, mr->ibv.lkey, mr->ibv.addr,
             mr->ibv.length, mr->iova, (unsigned)mr->access, ns);
}

static int reg_locked(VsMr *mr)
{
    VsPd *pd = (VsPd *)mr->ibv.pd;
    uint64_t start = vs_now_ns(), delay_ns = 0;
    int error;

    error = reserve(pd, mr->pinned_bytes, &delay_ns);
    if (error) {
        return error;
    }
    mr->ibv.context = pd->ibv.context;
    pthread_mutex_unlock(&vs_lock);
    error = take_time(mr, delay_ns);
    pthread_mutex_lock(&vs_lock);
    if (!error && !give_key(mr)) {
        vs_hold_drop(mr->hold);
        error = ENOMEM;
    }
    if (error) {
        unreserve(pd, mr->pinned_bytes);
        return error;
    }
    account(mr, vs_now_ns() - start);
    return 0;
}

static struct ibv_mr *reg(struct ibv_pd *pd, void *addr, size_t length,
                          uint64_t iova, int access)
{
    uint64_t head = (uintptr_t)addr % PAGE;
    VsMr *mr = g_new0(VsMr, 1);
    int error = check_arguments(addr, length, iova, access);

    mr->ibv.pd = pd;
    mr->ibv.addr = addr;
    mr->ibv.length = length;
    mr->iova = iova;
    mr->access = access;
    mr->pinned_bytes = (head + length + PAGE - 1) / PAGE * PAGE;
    pthread_mutex_lock(&vs_lock);
    mr->ibv.handle = vs_object_handle();
    error = error ? error : reg_locked(mr);
    if (error) {
        vs_stats->reg_failed++;
        VS_TRACE("register-fail", "addr=%p length=%zu access=0x%x errno=%d",
                 addr, length, (unsigned)access, error);
    }
    pthread_mutex_unlock(&vs_lock);
    if (error) {
        g_free(mr);
        errno = error;
        return NULL;
    }
    return &mr->ibv;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length,
                          int access)
{
    return reg(pd, addr, length, (uintptr_t)addr, access);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length,
                               uint64_t iova, int access)
{
    return reg(pd, addr, length, iova, access);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                uint64_t iova, unsigned int access)
{
    return reg(pd, addr, length, iova, (int)access);
}

/* ------------------------------------------------------------ deregistering */

static int dereg_locked(VsMr *mr, uint64_t *delay_ns)
{
    VsVerdict verdict;

    if (!vs_object_check(VS_KIND_MR, mr, "ibv_dereg_mr")) {
        return EINVAL;
    }
    verdict = vs_fault_at(VS_SITE_DEREGISTER, NULL, 0);
    if (verdict.action == VS_ACT_FAIL) {
        return verdict.error;
    }
    if (verdict.action == VS_ACT_DELAY) {
        *delay_ns += verdict.delay_ns;
    }
    /* From here on no copy can begin; those under way are let finish. */
    vs_object_remove(VS_KIND_MR, mr);
    take_key(mr);
    vs_wait_idle(&mr->busy, "the NIC to finish with a memory region");
    unreserve((VsPd *)mr->ibv.pd, mr->pinned_bytes);
    vs_stats->deregistrations++;
    vs_stats->mrs--;
    vs_stats->pinned_bytes -= mr->pinned_bytes;
    vs_stats->held_bytes -= mr->hold ? mr->pinned_bytes : 0;
    VS_TRACE("deregister", "key=0x%x addr=%p length=%zu", mr->ibv.lkey,
             mr->ibv.addr, mr->ibv.length);
    return 0;
}

int ibv_dereg_mr(struct ibv_mr *ibv)
{
    uint64_t delay_ns = vs_shape.dereg_call_ns;
    VsMr *mr = (VsMr *)ibv;
    int error;

    pthread_mutex_lock(&vs_lock);
    error = dereg_locked(mr, &delay_ns);
    pthread_mutex_unlock(&vs_lock);
    if (!error) {
        vs_hold_drop(mr->hold);
        vs_sleep_ns(delay_ns);
        g_free(mr);
    }
    return error;
}
