/*
 * verbsim: holding on to the pages of registered memory
 *
 * io_uring's fixed buffers pin the pages of user memory as an adapter's driver
 * does, and carry out reads and writes of files on these pages, without
 * looking at the addresses again.  So every region is a fixed buffer, and what
 * goes out of it or into it goes by way of a file in memory:
 *
 *   out   region --WRITE_FIXED--> stage; the peer's NIC pulls it from there
 *   in    peer's memory --process_vm_readv--> bounce --READ_FIXED--> region
 *
 * Memory that io_uring does not take (read-only, or beyond what the kernel
 * lets the user lock) is not held: it is used by its addresses.
 *
 * Where the kernel shows the numbers of page frames, which it does to root,
 * they are noted when a region is made.  If they are others when the adapter
 * uses it, the program has pages there that the adapter does not know, and is
 * told so.
 *
 * Regions are made and ended on the program's threads, guarded by hold_lock;
 * the rings' queues and the bounce are the NIC thread's alone.  Stages are
 * guarded by vs_lock, but for their content, which is the NIC thread's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#define _GNU_SOURCE
#include "hold.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "nic.h"

#define PIECE_BYTES (UINT64_C(1) << 30)     /* io_uring's most */
#define STAGE_BYTES (UINT64_C(4) << 30)     /* sparse; a message has 2 GiB */
#define STAGE_SOFT_BYTES (UINT64_C(128) << 20)
#define STAGE_KEPT_BYTES (UINT64_C(64) << 20)
#define REST_NS UINT64_C(5000000000)

enum {
    PAGE = 4096,
    RING_BUFFERS = 1 << 14,     /* io_uring's most */
    RING_ENTRIES = 4,
    BOUNCE_BYTES = 1 << 20,
    PROBE_BYTES = 16 * PAGE,
    MAX_RINGS = 64,
    FRAME_BATCH = 512,
};

/* One instance of io_uring, with a table of buffers. */
typedef struct Ring {
    int fd;
    struct io_uring_params params;
    char *sq, *cq;
    struct io_uring_sqe *sqes;
    unsigned free;              /* entries of the table */
    unsigned next;              /* where to look for one */
    bool *taken;
} Ring;

typedef struct Buffer {
    Ring *ring;
    unsigned index;
} Buffer;

struct VsHold {
    char *start;                /* of its first page */
    uint64_t bytes;             /* whole pages */
    uint64_t *frames;           /* their numbers, or NULL */
    bool told;                  /* of pages that were replaced */
    unsigned num_buffers;
    Buffer buffers[];           /* PIECE_BYTES each, but for the last */
};

/* A file in memory, and where we have it. */
typedef struct Area {
    int fd;
    char *map;
} Area;

/* A span of the stage that is in use, or rests. */
typedef struct Span {
    uint64_t start, bytes;
    uint64_t until_ns;          /* it rests until then; 0: in use */
} Span;

bool vs_holding;

static pthread_mutex_t hold_lock = PTHREAD_MUTEX_INITIALIZER;
static Ring *rings[MAX_RINGS];
static unsigned num_rings;
static Area bounce, stage_area;
static GQueue spans = G_QUEUE_INIT;     /* Span *, by their start */
static uint64_t staged;                 /* bytes of those in use */
static int pagemap = -1;
static bool must_hold;                  /* it was asked for */

/* ------------------------------------------------------------------- rings */

static void *map_ring(int fd, size_t bytes, off_t offset)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_POPULATE, fd, offset);

    return map == MAP_FAILED ? NULL : map;
}

static bool map_queues(Ring *ring)
{
    const struct io_uring_params *p = &ring->params;

    if (!(p->features & IORING_FEAT_SINGLE_MMAP)) {
        errno = ENOSYS;
        return false;
    }
    ring->sq = map_ring(ring->fd,
                        MAX(p->sq_off.array + p->sq_entries * sizeof(unsigned),
                            p->cq_off.cqes +
                            p->cq_entries * sizeof(struct io_uring_cqe)),
                        IORING_OFF_SQ_RING);
    ring->cq = ring->sq;
    ring->sqes = map_ring(ring->fd, p->sq_entries * sizeof(*ring->sqes),
                          IORING_OFF_SQES);
    return ring->sq && ring->sqes;
}

/* With an empty table; false with errno.  What failed stays: it is small. */
static bool add_ring(void)
{
    struct io_uring_rsrc_register table = {
        .nr = RING_BUFFERS, .flags = IORING_RSRC_REGISTER_SPARSE,
    };
    Ring *ring = g_new0(Ring, 1);

    if (num_rings == MAX_RINGS) {
        errno = ENOSPC;
        g_free(ring);
        return false;
    }
    ring->fd = (int)syscall(SYS_io_uring_setup, RING_ENTRIES, &ring->params);
    if (ring->fd < 0 || !map_queues(ring) ||
        syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS2,
                &table, sizeof(table)) < 0) {
        int error = errno;

        if (ring->fd >= 0) {
            close(ring->fd);
        }
        g_free(ring);
        errno = error;
        return false;
    }
    ring->free = RING_BUFFERS;
    ring->taken = g_new0(bool, RING_BUFFERS);
    rings[num_rings++] = ring;
    return true;
}

static int update(const Buffer *buffer, void *addr, size_t bytes)
{
    struct iovec iov = { addr, bytes };
    struct io_uring_rsrc_update2 what = {
        .offset = buffer->index, .data = (uintptr_t)&iov, .nr = 1,
    };

    return syscall(SYS_io_uring_register, buffer->ring->fd,
                   IORING_REGISTER_BUFFERS_UPDATE, &what, sizeof(what)) == 1
           ? 0 : errno;
}

/* An entry of a table; false: there are no more. */
static bool find_entry(Buffer *buffer)
{
    Ring *ring = NULL;

    for (unsigned i = 0; i < num_rings && !ring; i++) {
        ring = rings[i]->free ? rings[i] : NULL;
    }
    if (!ring) {
        if (!add_ring()) {
            return false;
        }
        ring = rings[num_rings - 1];
    }
    while (ring->taken[ring->next]) {
        ring->next = (ring->next + 1) % RING_BUFFERS;
    }
    *buffer = (Buffer) { ring, ring->next };
    ring->taken[ring->next] = true;
    ring->free--;
    return true;
}

static void give_back(const Buffer *buffer)
{
    buffer->ring->taken[buffer->index] = false;
    buffer->ring->free++;
}

/*
 * One request, to its end.  0 or -errno; it may do less than it should.
 * NIC thread.
 */
static int submit(const Buffer *buffer, const struct io_uring_sqe *request)
{
    Ring *ring = buffer->ring;
    const struct io_uring_params *p = &ring->params;
    unsigned *tail = (unsigned *)(ring->sq + p->sq_off.tail);
    unsigned *head = (unsigned *)(ring->cq + p->cq_off.head);
    unsigned *done = (unsigned *)(ring->cq + p->cq_off.tail);
    unsigned sq_mask = *(unsigned *)(ring->sq + p->sq_off.ring_mask);
    unsigned cq_mask = *(unsigned *)(ring->cq + p->cq_off.ring_mask);
    struct io_uring_cqe *cqes = (void *)(ring->cq + p->cq_off.cqes);
    unsigned at = *tail & sq_mask, count = 1;
    int result;

    ring->sqes[at] = *request;
    ((unsigned *)(ring->sq + p->sq_off.array))[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    while (*head == __atomic_load_n(done, __ATOMIC_ACQUIRE)) {
        long n = syscall(SYS_io_uring_enter, ring->fd, count, 1,
                         IORING_ENTER_GETEVENTS, NULL, 0);

        if (n > 0) {
            count = 0;          /* it is taken, now it is waited for */
        } else if (n < 0 && errno != EINTR && errno != EAGAIN &&
                   errno != EBUSY) {
            g_error("verbsim: io_uring_enter(): %s", g_strerror(errno));
        }
    }
    result = cqes[*head & cq_mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

/* ----------------------------------------------------------------- regions */

static bool fill_buffers(VsHold *hold)
{
    for (; hold->num_buffers * PIECE_BYTES < hold->bytes;
         hold->num_buffers++) {
        Buffer *buffer = &hold->buffers[hold->num_buffers];
        uint64_t offset = hold->num_buffers * PIECE_BYTES;
        bool found;
        int error;

        pthread_mutex_lock(&hold_lock);
        found = find_entry(buffer);
        pthread_mutex_unlock(&hold_lock);
        error = found ? update(buffer, hold->start + offset,
                               MIN(hold->bytes - offset, PIECE_BYTES))
                      : ENOSPC;
        if (error) {
            if (found) {
                pthread_mutex_lock(&hold_lock);
                give_back(buffer);
                pthread_mutex_unlock(&hold_lock);
            }
            errno = error;
            return false;
        }
    }
    return true;
}

/* What the kernel says of the pages from @addr on; false: nothing. */
static bool read_pagemap(const char *addr, unsigned count, uint64_t *entries)
{
    ssize_t bytes = count * sizeof(*entries);

    return pread(pagemap, entries, bytes,
                 (uintptr_t)addr / PAGE * sizeof(*entries)) == bytes;
}

/* Present, and which frame; 0: not present. */
static uint64_t frame_of(uint64_t entry)
{
    return entry >> 63 ? entry & ((UINT64_C(1) << 55) - 1) : 0;
}

static void note_frames(VsHold *hold)
{
    uint64_t pages = hold->bytes / PAGE;

    if (pagemap < 0) {
        return;
    }
    hold->frames = g_new(uint64_t, pages);
    for (uint64_t i = 0; i < pages; i += FRAME_BATCH) {
        unsigned n = MIN(pages - i, FRAME_BATCH);

        if (!read_pagemap(hold->start + i * PAGE, n, hold->frames + i)) {
            g_clear_pointer(&hold->frames, g_free);
            return;
        }
        for (unsigned k = 0; k < n; k++) {
            hold->frames[i + k] = frame_of(hold->frames[i + k]);
        }
    }
}

/*
 * io_uring counts what all processes of a user have pinned together against
 * the limit of each, and a device does not: so this is no failure.
 */
static void not_held(void *addr, uint64_t bytes, int error)
{
    static gint told;

    VS_TRACE("not-held", "addr=%p length=%" G_GUINT64_FORMAT " errno=%d",
             addr, bytes, error);
    if (error == ENOMEM && must_hold &&
        g_atomic_int_compare_and_exchange(&told, 0, 1)) {
        vs_complain("cannot hold the pages of all regions: the user's limit "
                    "on locked memory is reached; raise it (ulimit -l "
                    "unlimited) or run as root");
    }
}

VsHold *vs_hold_take(void *addr, uint64_t bytes)
{
    uint64_t head = (uintptr_t)addr % PAGE;
    uint64_t whole = (head + bytes + PAGE - 1) / PAGE * PAGE;
    VsHold *hold;

    if (!vs_holding) {
        return NULL;
    }
    hold = g_malloc0(sizeof(*hold) + sizeof(hold->buffers[0]) *
                     ((whole + PIECE_BYTES - 1) / PIECE_BYTES));
    hold->start = (char *)addr - head;
    hold->bytes = whole;
    if (!fill_buffers(hold)) {
        not_held(addr, bytes, errno);
        vs_hold_drop(hold);
        return NULL;
    }
    note_frames(hold);
    return hold;
}

void vs_hold_drop(VsHold *hold)
{
    if (!hold) {
        return;
    }
    for (unsigned i = 0; i < hold->num_buffers; i++) {
        update(&hold->buffers[i], NULL, 0);
    }
    pthread_mutex_lock(&hold_lock);
    for (unsigned i = 0; i < hold->num_buffers; i++) {
        give_back(&hold->buffers[i]);
    }
    pthread_mutex_unlock(&hold_lock);
    g_free(hold->frames);
    g_free(hold);
}

/*
 * Has the program still the page that was registered as number @page?  One
 * that is not present may be mapped again when it is looked at.
 */
static bool same_frame(const VsHold *hold, uint64_t page, uint64_t entry)
{
    char *addr = hold->start + page * PAGE, byte;
    struct iovec to = { &byte, 1 }, from = { addr, 1 };

    if (!hold->frames[page] || frame_of(entry) == hold->frames[page]) {
        return true;
    }
    return !frame_of(entry) &&
           process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 &&
           read_pagemap(addr, 1, &entry) &&
           frame_of(entry) == hold->frames[page];
}

/* The adapter is about to use [@addr, @addr + @bytes) of @hold. */
static void look_at_frames(VsHold *hold, const char *addr, size_t bytes)
{
    uint64_t entries[FRAME_BATCH], replaced = 0;
    uint64_t page = (uint64_t)(addr - hold->start) / PAGE;
    uint64_t end = (uint64_t)(addr - hold->start + bytes + PAGE - 1) / PAGE;
    const char *first = NULL;

    if (!hold->frames || hold->told) {
        return;
    }
    for (; page < end; page += FRAME_BATCH) {
        unsigned n = MIN(end - page, FRAME_BATCH);

        if (!read_pagemap(hold->start + page * PAGE, n, entries)) {
            return;
        }
        for (unsigned i = 0; i < n; i++) {
            if (!same_frame(hold, page + i, entries[i])) {
                first = first ? first : hold->start + (page + i) * PAGE;
                replaced++;
            }
        }
    }
    if (replaced) {
        hold->told = true;
        vs_stats->replaced_pages += replaced;
        vs_complain("pages of a registered region were replaced: the adapter "
                    "uses %" G_GUINT64_FORMAT " page(s) from %p on that the "
                    "program has no more (region %p, %" G_GUINT64_FORMAT
                    " KiB)", replaced, first, hold->start,
                    hold->bytes / 1024);
    }
}

/* ------------------------------------------------------------ moving, parts */

/*
 * Between [@addr, @addr + @bytes) of @hold and @offset of the file @fd.
 * @opcode: IORING_OP_READ_FIXED is from the file into the region.
 */
static bool move_held(VsHold *hold, uint8_t opcode, char *addr, size_t bytes,
                      int fd, uint64_t offset)
{
    look_at_frames(hold, addr, bytes);
    while (bytes) {
        uint64_t at = (uint64_t)(addr - hold->start);
        const Buffer *buffer = &hold->buffers[at / PIECE_BYTES];
        struct io_uring_sqe sqe = {
            .opcode = opcode,
            .fd = fd,
            .off = offset,
            .addr = (uintptr_t)addr,
            .len = (uint32_t)MIN(bytes, PIECE_BYTES - at % PIECE_BYTES),
            .buf_index = (uint16_t)buffer->index,
        };
        int n = submit(buffer, &sqe);

        if (n == -EAGAIN || n == -EINTR) {
            continue;
        }
        if (n <= 0) {
            vs_complain("moving %zu bytes at %p: %s", bytes, (void *)addr,
                        g_strerror(-n));
            return false;
        }
        addr += n;
        offset += (unsigned)n;
        bytes -= (unsigned)n;
    }
    return true;
}

/* The same for memory that is not held; the kernel looks at the addresses. */
static bool move_plain(void *to, void *from, size_t bytes)
{
    struct iovec a = { to, bytes }, b = { from, bytes };

    return process_vm_readv(getpid(), &a, 1, &b, 1, 0) == (ssize_t)bytes;
}

/* The next @bytes of @list, from *@at and *@skip on; returns their number. */
static unsigned cut(const struct iovec *list, unsigned *at, size_t *skip,
                    size_t bytes, struct iovec *out)
{
    unsigned n = 0;

    while (bytes) {
        size_t step = MIN(list[*at].iov_len - *skip, bytes);

        if (step) {
            out[n++] = (struct iovec) { (char *)list[*at].iov_base + *skip,
                                        step };
        }
        bytes -= step;
        *skip += step;
        if (*skip == list[*at].iov_len) {
            (*at)++;
            *skip = 0;
        }
    }
    return n;
}

/* From the bounce into the next @bytes of @pieces. */
static bool put(const VsPiece *pieces, unsigned *at, size_t *skip,
                size_t bytes)
{
    size_t from = 0;

    while (from < bytes) {
        const VsPiece *piece = &pieces[*at];
        size_t step = MIN(piece->bytes - *skip, bytes - from);
        char *to = (char *)piece->addr + *skip;

        if (step && !(piece->hold
                      ? move_held(piece->hold, IORING_OP_READ_FIXED, to, step,
                                  bounce.fd, from)
                      : move_plain(to, bounce.map + from, step))) {
            return false;
        }
        from += step;
        *skip += step;
        if (*skip == piece->bytes) {
            (*at)++;
            *skip = 0;
        }
    }
    return true;
}

int vs_hold_copy(pid_t pid, const VsPiece *pieces, unsigned num_pieces,
                 const struct iovec *remote, unsigned num_remote,
                 size_t bytes)
{
    struct iovec local[VS_MAX_SGE], part[VS_MAX_SGE];
    unsigned to = 0, from = 0;
    size_t to_skip = 0, from_skip = 0;
    bool held = false;

    for (unsigned i = 0; i < num_pieces; i++) {
        held |= pieces[i].hold != NULL;
        local[i] = (struct iovec) { pieces[i].addr, pieces[i].bytes };
    }
    if (!held) {
        return vs_copy(pid, local, num_pieces, remote, num_remote, bytes);
    }
    while (bytes) {
        size_t step = MIN(bytes, BOUNCE_BYTES);
        struct iovec here = { bounce.map, step };
        unsigned n = cut(remote, &from, &from_skip, step, part);
        int result = vs_copy(pid, &here, 1, part, n, step);

        if (result != VS_COPY_OK) {
            return result;
        }
        if (!put(pieces, &to, &to_skip, step)) {
            return VS_COPY_BAD_LOCAL;
        }
        bytes -= step;
    }
    return VS_COPY_OK;
}

/* ------------------------------------------------------------------- stages */

/* What has rested long enough is free; its memory goes if there is much. */
static void end_rests(void)
{
    uint64_t now = vs_now_ns();

    for (GList *l = spans.head, *next; l; l = next) {
        Span *span = l->data;

        next = l->next;
        if (span->until_ns && span->until_ns <= now) {
            g_queue_delete_link(&spans, l);
            g_free(span);
        }
    }
}

/* The first gap of @bytes. */
static Span *place(uint64_t bytes)
{
    uint64_t start = 0;
    Span *span;
    GList *l;

    for (l = spans.head; l; l = l->next) {
        Span *other = l->data;

        if (other->start - start >= bytes) {
            break;
        }
        start = other->start + other->bytes;
    }
    if (!l && STAGE_BYTES - start < bytes) {
        return NULL;
    }
    span = g_new0(Span, 1);
    span->start = start;
    span->bytes = bytes;
    g_queue_insert_before(&spans, l, span);
    return span;
}

bool vs_stage_take(VsStage *stage, size_t bytes)
{
    uint64_t whole = ((uint64_t)bytes + PAGE - 1) / PAGE * PAGE;
    Span *span;

    end_rests();
    if (staged && staged + whole > STAGE_SOFT_BYTES) {
        return false;
    }
    span = place(whole);
    if (!span) {
        return false;
    }
    staged += whole;
    *stage = (VsStage) { stage_area.map + span->start, bytes };
    return true;
}

bool vs_stage_fill(const VsStage *stage, const VsPiece *pieces,
                   unsigned num_pieces)
{
    char *to = stage->addr;

    for (unsigned i = 0; i < num_pieces; i++) {
        const VsPiece *piece = &pieces[i];

        if (piece->bytes &&
            !(piece->hold
              ? move_held(piece->hold, IORING_OP_WRITE_FIXED, piece->addr,
                          piece->bytes, stage_area.fd,
                          (uint64_t)(to - stage_area.map))
              : move_plain(to, piece->addr, piece->bytes))) {
            return false;
        }
        to += piece->bytes;
    }
    return true;
}

static void release_memory(const Span *span)
{
    if (span->start + span->bytes > STAGE_KEPT_BYTES) {
        fallocate(stage_area.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)span->start, (off_t)span->bytes);
    }
}

void vs_stage_drop(VsStage *stage, bool fetched)
{
    if (!stage->addr) {
        return;
    }
    for (GList *l = spans.head; l; l = l->next) {
        Span *span = l->data;

        if (stage_area.map + span->start != stage->addr) {
            continue;
        }
        staged -= span->bytes;
        if (fetched) {
            release_memory(span);
            g_queue_delete_link(&spans, l);
            g_free(span);
        } else {
            span->until_ns = vs_now_ns() + REST_NS;
        }
        break;
    }
    *stage = (VsStage) { 0 };
}

/* -------------------------------------------------------------------- start */

static bool area_new(Area *area, const char *name, uint64_t bytes)
{
    area->fd = memfd_create(name, MFD_CLOEXEC);
    if (area->fd < 0 || ftruncate(area->fd, (off_t)bytes) < 0) {
        return false;
    }
    area->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_NORESERVE, area->fd, 0);
    return area->map != MAP_FAILED;
}

/* Does it pin, and is it the old page that it reads?  False with errno. */
static bool works(void)
{
    char *memory = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    VsHold *hold;
    bool good;

    memset(memory, 1, PROBE_BYTES);
    hold = vs_hold_take(memory, PROBE_BYTES);
    if (!hold) {
        munmap(memory, PROBE_BYTES);
        return false;
    }
    g_clear_pointer(&hold->frames, g_free);
    madvise(memory, PROBE_BYTES, MADV_DONTNEED);
    good = move_held(hold, IORING_OP_WRITE_FIXED, memory, PROBE_BYTES,
                     bounce.fd, 0) && bounce.map[0] == 1;
    vs_hold_drop(hold);
    munmap(memory, PROBE_BYTES);
    errno = ENOSYS;
    return good;
}

static bool start(void)
{
    uint64_t entry;

    if (!area_new(&bounce, "verbsim-bounce", BOUNCE_BYTES) ||
        !area_new(&stage_area, "verbsim-stage", STAGE_BYTES) || !add_ring()) {
        return false;
    }
    vs_holding = true;
    if (!works()) {
        vs_holding = false;
        return false;
    }
    pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap >= 0 &&
        (!read_pagemap(bounce.map, 1, &entry) || !frame_of(entry))) {
        close(pagemap);         /* nobody's numbers but root's are shown */
        pagemap = -1;
    }
    return true;
}

void vs_hold_start(void)
{
    const char *pages = getenv("VERBSIM_PAGES");
    bool asked = pages && *pages;

    if (asked && strcmp(pages, "hold") && strcmp(pages, "follow")) {
        vs_complain("VERBSIM_PAGES is hold, follow or not set, not \"%s\"",
                    pages);
        _exit(1);
    }
    if (vs_shape.no_copy || (asked && !strcmp(pages, "follow"))) {
        return;
    }
    /* Unasked, links that are as fast as a profile says need not be slower. */
    if (!asked && vs_shape.bytes_per_ns > 0) {
        return;
    }
    if (start()) {
        must_hold = asked;
        return;
    }
    if (!asked) {
        VS_TRACE("hold", "no: %s", g_strerror(errno));
        return;
    }
    vs_complain("cannot hold pages (VERBSIM_PAGES=hold): io_uring: %s; it "
                "needs Linux 5.19, sysctl kernel.io_uring_disabled=0 and a "
                "limit on locked memory (ulimit -l) that suffices, or root",
                g_strerror(errno));
    _exit(1);
}
