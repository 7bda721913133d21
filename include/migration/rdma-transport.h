/*
 * RDMA migration transport: the public interface of the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The core moves guest RAM and a byte stream between two hosts over one RC
 * queue pair (and a second one for the return path).  It knows nothing of
 * QEMU; migration/rdma.c and migration/rdma-channel.c translate between them.
 *
 * Threads: an RMigSource or RMigDest is used by one thread at a time, and its
 * return-path stream by one thread at a time, which may be another.  The
 * functions marked "any thread" may be called at any time in the object's
 * life.
 *
 * Errors: functions that can fail take a GError, return false, NULL or a
 * negative number with it, and leave it alone on success.  The first fatal
 * error of a connection is kept; every later call fails with it.
 *
 * docs/rdma.txt has the protocol.
 */
#ifndef MIGRATION_RDMA_TRANSPORT_H
#define MIGRATION_RDMA_TRANSPORT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/*
 * How the caller waits.  Called in the thread (or coroutine) that called into
 * the core; returns when @fd may be readable.  Returning too early is
 * harmless, as the core looks again.
 */
typedef struct RMigWaiter {
    void (*wait_readable)(void *opaque, int fd);
    /*
     * Lets whatever else this thread has to do have its turn, and comes back.
     * Called now and then while a peer leaves nothing to wait for.  NULL: it
     * has nothing else to do.
     */
    void (*rest)(void *opaque);
    void *opaque;
} RMigWaiter;

/*
 * Called once for each RMigSource or RMigDest that was made: none of its memory
 * is registered any more, and none will be.  Any thread, at the latest in
 * rmig_source_free() or rmig_dest_free(), or in the thread that unregisters
 * after it; may call nothing of the core.
 */
typedef void (*RMigReleased)(void);

/* A waiter for a plain thread: poll(2) */
extern const RMigWaiter rmig_poll_waiter;

/*
 * For tracing: while it is set, called with a line of text, without a newline,
 * for each thing that happens.  NULL at first; may be changed at any time.
 */
extern void (*rmig_trace)(const char *line);

/*
 * rmig_memlock_allows: whether this process may pin @bytes of guest RAM, on
 * top of what the transport has pinned and needs for itself
 *
 * False with the limit and the remedy in @err.  A privileged process
 * (CAP_IPC_LOCK) may pin anything.
 */
bool rmig_memlock_allows(uint64_t bytes, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * The least, in bytes, that a pin_limit or the memory-lock limit must allow:
 * buffers, and a few chunks of RAM at a time
 */
#define RMIG_PIN_LIMIT_MIN (16u << 20)

/* Worker threads that register memory, for a configuration without a wish */
#define RMIG_REGISTER_THREADS 6

/* Why the source could not go on writing pages */
typedef enum RMigStall {
    RMIG_STALL_LATE,    /* the page's memory was asked for ahead, too late */
    RMIG_STALL_UNKNOWN, /* nothing had said that this memory comes next */
    RMIG_STALL_BUDGET,  /* other memory had to be let go first */
    RMIG_STALLS
} RMigStall;

/* What a side waits for at the end of a migration, perhaps for long */
typedef enum RMigWait {
    RMIG_WAIT_NONE,
    RMIG_WAIT_ARRIVAL,  /* source: the last message to arrive */
    RMIG_WAIT_LOAD,     /* source: the destination to load what it has got */
    RMIG_WAIT_STARTED,  /* source: it to confirm that it has the guest */
    RMIG_WAIT_REPORT,   /* source: its final report on the return path */
    RMIG_WAIT_GO_AHEAD, /* dest, loaded: the source to hand the guest over */
} RMigWait;

/*
 * What one side of a migration did so far, and how it stands; all counted since
 * it was created.  Times are in ns.
 */
typedef struct RMigCounters {
    /* Its name; "" until there has been a connection, and nothing agreed */
    char device[64];
    uint32_t extensions; /* RMIG_EXTENSION_*, granted by both sides */
    bool pins_all;       /* granted by both sides */
    /* Bytes of RAM and buffers; a limit of UINT64_MAX is none */
    uint64_t pinned;
    uint64_t pinned_peak;
    uint64_t pin_limit;
    /* Of RAM, by the peer, as far as the source knows; dest: 0 */
    uint64_t peer_pinned;
    uint64_t peer_pinned_peak;
    uint64_t peer_pin_limit; /* 0: it has not said */
    uint64_t chunks_registered;
    uint64_t chunks_again;   /* of these, that had been evicted before */
    uint64_t chunks_evicted; /* let go to stay within a limit */
    uint64_t chunks_refused; /* by this side's device or by the peer */
    uint64_t register_hidden_ns;  /* of registering, behind other work */
    uint64_t register_exposed_ns; /* that the source waited for */
    uint64_t stalls[RMIG_STALLS];
    uint64_t stall_ns[RMIG_STALLS];
    uint64_t window_bytes;   /* how far ahead memory is registered now */
    uint64_t write_bytes;    /* by RDMA Write, posted or about to be */
    uint64_t writes;         /* work requests */
    uint64_t data_pages;     /* handed over, not zero */
    uint64_t zero_pages;     /* handed over, zero */
    uint64_t skipped_pages;  /* of these, that were not even read */
    uint64_t zero_runs;      /* records of COMPRESS */
    uint64_t control_bytes;  /* of messages, without the stream's bytes */
    uint64_t control_messages; /* sent */
    RMigWait waiting; /* for the other side, at the end */
} RMigCounters;

/* Bits of RMigCounters.extensions; docs/rdma.txt, "Versions and flags" */
#define RMIG_EXTENSION_BATCH (1u << 1)
#define RMIG_EXTENSION_BUDGET (1u << 2)
#define RMIG_EXTENSION_HANDOVER (1u << 5)

/*
 * A byte stream, in the direction that its place in the protocol gives it.
 * Stream bytes gather in a message buffer until it is full or flushed.
 */
typedef struct RMigStream RMigStream;

#define RMIG_STREAM_WOULD_BLOCK (-2)

/*
 * rmig_stream_read: take up to @size bytes (at least 1)
 * @wait: whether to wait for the first byte
 *
 * Returns the number of bytes, 0 when the peer closed the connection in
 * order, RMIG_STREAM_WOULD_BLOCK (only with @wait false; then
 * rmig_stream_fd() becomes readable when there is more), or -1 with @err.
 */
ssize_t rmig_stream_read(RMigStream *stream, void *buf, size_t size, bool wait,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Append @size bytes; sends only what fills a message */
bool rmig_stream_write(RMigStream *stream, const void *buf, size_t size,
                       GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Send what has gathered */
bool rmig_stream_flush(RMigStream *stream, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_stream_write_now, rmig_stream_flush_now: likewise, for a caller whose
 * thread must not wait for the peer
 *
 * What cannot be appended is an error.  What cannot leave now does so with what
 * comes later, or while the connection is closed.
 */
bool rmig_stream_write_now(RMigStream *stream, const void *buf, size_t size,
                           GError **err) G_GNUC_WARN_UNUSED_RESULT;
bool rmig_stream_flush_now(RMigStream *stream, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Whether rmig_stream_read() has bytes at hand */
bool rmig_stream_has_data(const RMigStream *stream);
/* Readable when something happens on the stream's connection */
int rmig_stream_fd(const RMigStream *stream);

/* ---- source ------------------------------------------------------------ */

typedef struct RMigSource RMigSource;

typedef struct RMigSourceConfig {
    RMigWaiter waiter;
    /* Whether @len bytes at @host are all zero; NULL: never asked */
    bool (*is_zero)(const void *host, uint64_t len);
    bool pin_all;     /* ask for whole-block registration */
    bool return_path; /* open a second connection */
    /*
     * Bytes that this side may pin, with its buffers; 0: what the memory-lock
     * limit allows
     */
    uint64_t pin_limit;
    unsigned register_threads; /* 0: the caller's own thread registers */
    RMigReleased released;     /* NULL: nobody asks */
    bool version_1_only; /* offer no extensions; for tests and benchmarks */
} RMigSourceConfig;

RMigSource *rmig_source_new(const RMigSourceConfig *config, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* Closes what is open; frees everything.  NULL is allowed. */
void rmig_source_free(RMigSource *source);

/*
 * rmig_source_connect: connect to a destination that listens at @addr
 *
 * Waits at most about 20 s.  After a failure it may be called again with
 * another address.
 */
bool rmig_source_connect(RMigSource *source, const struct sockaddr *addr,
                         GError **err) G_GNUC_WARN_UNUSED_RESULT;
/* Whether the destination granted pin-all; false too when it was not asked */
bool rmig_source_pins_all(const RMigSource *source);

/* The migration stream, for writing; NULL without a connection */
RMigStream *rmig_source_stream(RMigSource *source);
/* The return path, for reading; NULL without one */
RMigStream *rmig_source_return_stream(RMigSource *source);

/*
 * rmig_source_add_block: announce a RAM block, before rmig_source_exchange()
 * @name: copied
 * @host: its first byte; stays the caller's
 * @offset, @length: in the ram_addr_t space, bytes
 *
 * In the order in which the stream's RAM setup section lists them.
 */
bool rmig_source_add_block(RMigSource *source, const char *name, void *host,
                           uint64_t offset, uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_source_add_hole: [offset, offset + length) of the block that starts at
 * @block_offset is not plugged, and will not be before the migration ends
 *
 * After rmig_source_add_block().  Nothing of it is registered, read or sent,
 * and the destination neither writes nor clears it.  Whole MiB only.
 */
bool rmig_source_add_hole(RMigSource *source, uint64_t block_offset,
                          uint64_t offset, uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * What the caller knows about a block's memory.  All of it may be missing (an
 * all-zero struct): then everything is taken for dirty, and nothing is skipped.
 */
typedef struct RMigBlockHints {
    /*
     * A bit for each page of 1 << @page_shift bytes that is still to be handed
     * over; NULL: all.  Not owned; read by the source's own thread alone,
     * and only inside of rmig_source_exchange(), _page() and _finish(), so it
     * may go when the last of these has returned.  Read without a lock, so it
     * only decides what is registered ahead.
     */
    const unsigned long *dirty;
    unsigned page_shift;
    /*
     * The memory is private and anonymous: a page without a mapping has never
     * been touched and reads as zeros.  Unsound for shared and for file-backed
     * memory, whose contents may lie elsewhere.
     */
    bool anonymous;
    /*
     * Aligned stretches of so many bytes are cleared as one in the hypervisor's
     * dirty log before their first page is handed over, so a look at the whole
     * stretch then is a look at memory whose further changes will be seen.
     * A power of two; 0: only single pages are.
     */
    uint64_t clear_bytes;
} RMigBlockHints;

/* For the block at @block_offset, after rmig_source_add_block() */
void rmig_source_hint_block(RMigSource *source, uint64_t block_offset,
                            const RMigBlockHints *hints);

/*
 * rmig_source_exchange: learn where the destination has these blocks
 *
 * The stream must have announced the RAM hook.  Under pin-all both sides
 * register all blocks here, at the same time.  docs/rdma.txt, "Setup".
 */
bool rmig_source_exchange(RMigSource *source, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
typedef enum RMigPage {
    RMIG_PAGE_FAILED, /* with @err */
    RMIG_PAGE_DATA,   /* will be written */
    RMIG_PAGE_ZERO,   /* will be named only */
} RMigPage;

/*
 * rmig_source_page: hand over @len bytes at @offset of the block that starts
 * at @block_offset of the ram_addr_t space
 *
 * Returns when they are queued, perhaps not even posted.  The memory is read
 * until rmig_source_finish() returns, and no page may be handed over twice
 * before that: writes and zero runs overtake each other.  Nor may the stream be
 * written to before that.
 */
RMigPage rmig_source_page(RMigSource *source, uint64_t block_offset,
                          uint64_t offset, uint64_t len, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_source_finish: end of a round: everything handed over has landed when
 * this returns, and the destination goes back to the stream
 */
bool rmig_source_finish(RMigSource *source, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * The end, docs/rdma.txt, "The end".  All of it may wait for
 * long, as the destination may take its time; rmig_source_shutdown() ends each
 * wait, and so does what happens to the connection.
 *
 * rmig_source_end: the stream is complete: flush it, and see it arrive or the
 * destination leave in order.  What is not known to have arrived is a failure.
 */
bool rmig_source_end(RMigSource *source, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * Whether the guest is handed over in the two steps below; without them a
 * destination starts it when it sees fit
 */
bool rmig_source_hands_over(const RMigSource *source);
/*
 * rmig_source_wait_loaded: the destination has loaded everything, and waits
 * @starts: whether it starts the guest by itself after rmig_source_start()
 */
bool rmig_source_wait_loaded(RMigSource *source, bool *starts, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_source_commit: the last moment at which everything can be called off
 *
 * False if it has been shut down, or if the destination has given up by now.
 * From here on a return path that breaks leaves the main connection alone.  Does
 * not wait.
 */
bool rmig_source_commit(RMigSource *source, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_source_start: give the guest away, after rmig_source_commit()
 *
 * True: the destination has it.  False: nobody knows, but if @left says that
 * START has not left; else, if the destination starts the guest by itself, the
 * guest must not run here any more unless a user says so.  The return path, if
 * there is one, must bring something within RMIG_REPORT_MS afterwards, or
 * reading it fails.
 */
bool rmig_source_start(RMigSource *source, bool *left, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* How long a destination that has the guest may take for a last report */
#define RMIG_REPORT_MS 5000
/*
 * Any thread: the return path cannot be used any more, which ends all waits
 * like rmig_source_shutdown(), but not once the guest is being given away
 */
void rmig_source_return_failed(RMigSource *source);

/* Any thread, until rmig_source_free() */
void rmig_source_counters(RMigSource *source, RMigCounters *counters);
/*
 * Bytes that left by other ways than the stream, or will: write_bytes and
 * control_bytes.  The source's own thread; cheap enough for every page.
 */
uint64_t rmig_source_sent_bytes(const RMigSource *source);
/* Any thread: all waits end, now and later */
void rmig_source_shutdown(RMigSource *source);
/*
 * rmig_source_close: leave
 * @failed: tell the destination that the migration is off
 *
 * Does not wait for memory that is just being registered or let go; see
 * RMigReleased.  Neither does rmig_dest_close().
 */
void rmig_source_close(RMigSource *source, bool failed);

/* ---- destination -------------------------------------------------------- */

typedef struct RMigDest RMigDest;

typedef struct RMigDestOps {
    /*
     * The stream announced the RAM hook: call rmig_dest_add_block() for every
     * block.  In any order; the order is that of rmig_dest_note_block().
     */
    bool (*list_blocks)(void *opaque, GError **err);
    /*
     * Memory is about to be registered, written or cleared: call
     * rmig_dest_add_hole() for what is not plugged.  Once, as late as it can
     * be; NULL: there is no such memory.
     */
    bool (*list_holes)(void *opaque, GError **err);
    /*
     * Make [host, host + len) zero; @len any multiple of nothing.  Any thread,
     * several at a time.
     */
    void (*zero)(void *opaque, void *host, uint64_t len);
    /* Bytes of guest RAM, roughly, to judge whether pin-all can work */
    uint64_t (*ram_bytes)(void *opaque);
    /* Something the user should know, but nothing failed */
    void (*warn)(void *opaque, const char *message);
} RMigDestOps;

typedef struct RMigDestConfig {
    RMigWaiter waiter;
    const RMigDestOps *ops;
    void *opaque;
    uint64_t pin_limit;        /* as the source's */
    unsigned register_threads; /* likewise; they also clear memory */
    RMigReleased released;     /* likewise */
    bool version_1_only;       /* likewise */
} RMigDestConfig;

/*
 * rmig_dest_new: listen at @addr
 *
 * Port 0 lets the system choose; see rmig_dest_port().
 */
RMigDest *rmig_dest_new(const RMigDestConfig *config,
                        const struct sockaddr *addr, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
void rmig_dest_free(RMigDest *dest);
/* Readable when rmig_dest_accept() is due; -1 when not listening any more */
int rmig_dest_listen_fd(const RMigDest *dest);
uint16_t rmig_dest_port(const RMigDest *dest);

typedef enum RMigAccepted {
    RMIG_ACCEPTED_NOTHING, /* nobody was let in yet; look again when readable */
    RMIG_ACCEPTED_MAIN,    /* the migration may start */
    RMIG_ACCEPTED_RETURN,  /* the return path is there */
} RMigAccepted;

/*
 * rmig_dest_accept: what there is to do when rmig_dest_listen_fd() is readable
 *
 * Does not wait.  The first peer that completes a connection has the main one,
 * the next from the same host the return path; any other is refused.  @err says
 * (only with RMIG_ACCEPTED_NOTHING) why requests were refused or came to
 * nothing: once, then at most every 10 s with their number.  The listener
 * lives on.
 */
RMigAccepted rmig_dest_accept(RMigDest *dest, GError **err);
/* Stop listening; called by free as well */
void rmig_dest_stop_listening(RMigDest *dest);

/* The migration stream, for reading; NULL without a connection */
RMigStream *rmig_dest_stream(RMigDest *dest);
/* The return path, for writing; NULL while there is none */
RMigStream *rmig_dest_return_stream(RMigDest *dest);
/* Whether a return path is being made right now */
bool rmig_dest_return_pending(const RMigDest *dest);

/* The stream named @name as its next RAM block */
bool rmig_dest_note_block(RMigDest *dest, const char *name, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* From list_blocks(); like rmig_source_add_block() */
bool rmig_dest_add_block(RMigDest *dest, const char *name, void *host,
                         uint64_t offset, uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* From list_holes(); like rmig_source_add_hole() */
bool rmig_dest_add_hole(RMigDest *dest, uint64_t block_offset, uint64_t offset,
                        uint64_t length, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/* For the block at @offset, after rmig_dest_add_block(); of @hints anonymous */
void rmig_dest_hint_block(RMigDest *dest, uint64_t offset,
                          const RMigBlockHints *hints);
/*
 * rmig_dest_handle: the stream announced the RAM hook: serve the source's
 * commands until it goes back to the stream
 */
bool rmig_dest_handle(RMigDest *dest, GError **err) G_GNUC_WARN_UNUSED_RESULT;

/*
 * The end, docs/rdma.txt, "The end"
 *
 * Whether the source hands the guest over; else rmig_dest_may_start() has to do
 */
bool rmig_dest_hands_over(const RMigDest *dest);
/*
 * rmig_dest_hand_over: everything is loaded: tell the source, and wait until it
 * gives the guest away, for as long as it likes
 * @starts: whether the guest runs when this has returned, without anybody else
 *     doing anything
 *
 * True: the guest belongs to this side, whatever becomes of the connection.
 * False: the migration has failed, and the guest must not start.
 */
bool rmig_dest_hand_over(RMigDest *dest, bool starts, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;
/*
 * rmig_dest_may_start: whether the source, one that does not hand over, is
 * still there and has not given up
 *
 * Asks its NIC if there is a return path, and waits for the answer; without one
 * a source may have left, but not given up.
 */
bool rmig_dest_may_start(RMigDest *dest, GError **err)
    G_GNUC_WARN_UNUSED_RESULT;

/*
 * rmig_dest_revoke: the guest is about to run: from here on the source cannot
 * write into its memory.  Takes microseconds; unpinning comes with close.
 */
void rmig_dest_revoke(RMigDest *dest);

/* Any thread, until rmig_dest_free() */
void rmig_dest_counters(RMigDest *dest, RMigCounters *counters);
void rmig_dest_shutdown(RMigDest *dest);
void rmig_dest_close(RMigDest *dest, bool failed);

#endif
