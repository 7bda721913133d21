/*
 * RDMA migration transport: memory that was never touched
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Job: tells from the page tables which pages of the host can only hold zeros,
 * so that they need not be read (source) or cleared (destination).
 * Callers: source, dest.
 * Thread: any; one object may be used by several at the same time, for it is
 * not written to after it was made.  Only in the process that made it: a child
 * would be told of its parent's memory.
 *
 * For private anonymous memory only.  There a page without an entry in the
 * page table has no contents yet, and the kernel gives zeros to whoever looks
 * first.  Elsewhere that says nothing, because contents lie where this process
 * has no entry for them:
 *
 * - shared memory, memfd, shmem: in the page cache, or in swap, whether they
 *   are mapped here or not; another process may have written them;
 * - files, private mappings too, and hugetlbfs: a page that is not mapped
 *   reads as the file;
 * - device memory: the kernel skips it as if it were empty;
 * - memory whose missing pages a userfaultfd brings (an incoming postcopy):
 *   they hold what the handler will put there.
 *
 * Nor does it tell an address that is not mapped at all from one that is
 * untouched.
 *
 * What counts as touched: every page that is present, except, where the kernel
 * tells them apart, the shared zero pages that a read of untouched memory
 * leaves behind; and every entry that is not empty but not present either:
 * swapped out, being migrated, poisoned, a guard page, a userfaultfd's marker.
 * So a page of zeros may well be called touched, but not the other way round.
 *
 * An answer is as good as a look at the page's bytes at that moment, and no
 * better: whoever writes afterwards, to a hole or to a zero page, gets a new
 * page and appears in the dirty log.  So the dirty bits must be taken before
 * the look, as they must be before reading.
 *
 * How much to ask about at once: 1 MiB (a chunk) or more, and never single
 * pages.  A call costs some 0.25 us, as much as reading a page that is in the
 * cache; after that small pages that are present cost 1 us (ioctl) or 2 us
 * (reading) per MiB.  For the ioctl, holes and huge pages are next to free.
 * Measured on Linux 6.18, in ms per GiB:
 *
 *   pages of 4 KiB a call        1     64    256   16384   262144
 *   ioctl, untouched            65    1.0   0.25   0.004    0.001
 *   ioctl, all touched          81    2.5    1.4     1.1      1.1
 *   read, untouched             67    1.7   0.85    0.67     0.68
 *   read, all touched           72    4.1    2.3     2.0      2.0
 *
 * Reading the memory takes 66 (huge pages) to 126 ms, and the first time, if it
 * is untouched, 139 ms and page tables for it.
 */
#ifndef RMIG_PAGES_H
#define RMIG_PAGES_H

#include <stdbool.h>
#include <stdint.h>

typedef struct RMigPages RMigPages;

/* Bytes of a page of this host, which everything here counts in */
unsigned rmig_page_bytes(void);

/*
 * rmig_pages_new: open this process's page tables
 *
 * NULL if they cannot be read, or not be trusted: a page that was just written
 * is the test.  The other functions take NULL, and then call all touched.
 */
RMigPages *rmig_pages_new(void);
/* NULL is allowed */
void rmig_pages_free(RMigPages *pages);

/*
 * rmig_pages_touched: which of @n pages may hold anything but zeros
 * @host: the first one, aligned to the host's page size
 * @touched: bit i of the array, from the lowest of touched[0], is set if the
 *           page at @host + i * page size is touched, and cleared if not;
 *           whole words are written, their bits from @n on as 0
 *
 * Sets all @n bits if anything fails.  Allocates nothing.
 */
void rmig_pages_touched(RMigPages *pages, const void *host, uint64_t n,
                        uint64_t *touched);

/*
 * rmig_pages_next_touched: the first touched memory of a range
 * @host, @bytes: need not be aligned; a page counts whole
 * @run_bytes: how much is touched there, at least a byte; more may follow at
 *             once, since a long run may come in pieces
 *
 * Returns the offset from @host, or @bytes and a run of 0 if nothing is
 * touched.  If anything fails, all that was not looked at is touched.  For
 * memory in which long stretches are alike: a run is a system call.
 */
uint64_t rmig_pages_next_touched(RMigPages *pages, const void *host,
                                 uint64_t bytes, uint64_t *run_bytes);

/*
 * For tests: on a descriptor of /proc/self/pagemap, which becomes the
 * object's; with the ioctl (@scan), or by reading.  Neither is tried out.
 */
RMigPages *rmig_pages_new_on(int fd, bool scan);

#endif
