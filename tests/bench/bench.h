/*
 * rdma-bench: the core between two processes, without QEMU
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The program forks a destination and a source for each run, before anything
 * has touched verbs, so that both are as fresh as two QEMUs.  They report to
 * the parent through pipes, which prints.
 *
 * The source drives the core as ram.c and the face do, with orders of its own
 * in the stream: BenchOrder.
 */
#ifndef BENCH_H
#define BENCH_H

#include "migration/rdma-transport.h"

#define BENCH_PAGE_SHIFT 12
#define BENCH_PAGE (UINT64_C(1) << BENCH_PAGE_SHIFT)
#define BENCH_MAX_BLOCKS 256
#define BENCH_MAX_ROUNDS 64
/* What QEMUFile hands over at a time */
#define BENCH_STREAM_PIECE 32768
/* The destination has its blocks elsewhere in its ram_addr_t space */
#define BENCH_DEST_OFFSET (UINT64_C(1) << 50)

typedef enum BenchFill {
    FILL_RANDOM,
    FILL_HALF_ZERO, /* alternating stretches, and alternating pages */
    FILL_ZERO,      /* but for fill_percent of the pages */
    FILL_UNTOUCHED,
} BenchFill;

typedef enum BenchDirty { DIRTY_NONE, DIRTY_RANDOM, DIRTY_HOT } BenchDirty;

/* The command line; constant while a run is on */
typedef struct BenchOptions {
    char *name;
    uint64_t ram_bytes;
    int blocks;
    BenchFill fill;
    double fill_percent;
    char *fill_text;
    gboolean sparse; /* zero or not by a pattern; nothing is written */
    int rounds;      /* after the first */
    BenchDirty dirty;
    double dirty_percent;
    uint64_t hot_bytes;
    char *dirty_text;
    int slice_ms; /* how long ram.c goes on in one section; 0: to the end */
    uint64_t stream_bytes;
    gboolean pin_all;
    uint64_t pin_limit, dest_pin_limit;
    int threads;
    gboolean version_1;
    gboolean no_zero_check;
    gboolean no_hints;
    gboolean verify;
    int runs;
    double link_gbit; /* 0: unknown, or no limit */
    bool no_copy;     /* verbsim moves no data */
    char *address;
    char *json;
    char *timeline;
} BenchOptions;

extern BenchOptions bench;

/* ---- memory.c: guest RAM ---- */

typedef struct BenchBlock {
    uint8_t *host;
    uint64_t length;
    uint64_t offset; /* in the source's ram_addr_t space */
} BenchBlock;

typedef struct BenchMemory {
    unsigned n;
    BenchBlock blocks[BENCH_MAX_BLOCKS];
} BenchMemory;

extern BenchMemory memory;

/* Reserves the blocks; nothing is touched */
void memory_map(void);
/* Writes what bench.fill says */
void memory_fill(void);
/* As a guest does: the page has data, and other data than before */
void memory_rewrite(BenchBlock *block, uint64_t page, unsigned round);
/* For RMigSourceConfig: by reading, or by the pattern of a sparse memory */
bool memory_is_zero(const void *host, uint64_t len);
/* All pages that are handed over from now on have been written by the guest */
void memory_all_rewritten(void);
void memory_checksum(uint64_t *sums);
/* Bytes of the blocks that are resident */
uint64_t memory_resident(void);

/* ---- meter.c: what a process takes ---- */

typedef struct BenchUsage {
    double cpu_s;           /* user and system, all threads */
    uint64_t transport_rss; /* peak, without guest RAM; see meter_stop() */
    uint64_t guest_rss;     /* guest RAM that has become resident */
} BenchUsage;

typedef struct BenchMeter {
    double cpu_s;
    uint64_t rss, guest;
} BenchMeter;

/* CLOCK_MONOTONIC, which is the same in both processes */
uint64_t now_ns(void);
/* Of this thread */
uint64_t thread_cpu_ns(void);
double seconds(uint64_t from_ns, uint64_t to_ns);
/* Of the machine, in the last minute: whether figures are worth anything */
double load_average(void);
void meter_start(BenchMeter *meter);
/*
 * What was used since.  The peak is that of the whole process, minus what was
 * resident at the start, minus the guest RAM that has become resident since:
 * buffers, tables and what the libraries need.
 */
BenchUsage meter_stop(const BenchMeter *meter);

/* Samples the counters every 5 ms into bench.timeline, if there is one */
void timeline_start(RMigSource *source, unsigned run, uint64_t start_ns);
/* Any thread, and cheap */
void timeline_remaining(uint64_t pages);
void timeline_stop(void);

/* ---- the two processes ---- */

typedef enum BenchOrder {
    ORDER_BLOCK = 'B',  /* u32 index: the name of the next block */
    ORDER_HOOK = 'H',   /* serve commands */
    ORDER_MARK = 'M',   /* nothing: the end of a section */
    ORDER_STREAM = 'S', /* u64 length, bytes: the state of a device */
    ORDER_END = 'E',
} BenchOrder;

typedef struct BenchRound {
    uint64_t ns;
    uint64_t cpu_ns; /* of the source's thread */
    uint64_t pages;
    uint64_t bytes; /* sent */
} BenchRound;

typedef struct BenchSource {
    RMigCounters counters;
    BenchUsage usage;
    double load; /* before the run */
    bool pins_all;
    /* Absolute, by now_ns(); first_write_ns 0: there was none */
    uint64_t connect_ns, connected_ns, first_page_ns, first_write_ns;
    uint64_t landed_ns, stream_ns, end_ns, closed_ns;
    uint64_t close_ns;
    /* Between two rounds, while the bench itself rewrites memory */
    uint64_t paused_ns;
    uint64_t thread_cpu_ns;
    uint64_t bytes; /* sent until landed_ns */
    unsigned rounds;
    BenchRound round[BENCH_MAX_ROUNDS + 1];
    uint64_t sums[BENCH_MAX_BLOCKS];
} BenchSource;

typedef struct BenchDest {
    RMigCounters counters;
    BenchUsage usage;
    uint64_t stream_end_ns; /* its last byte has been read */
    uint64_t revoke_ns;     /* the order to end has been read */
    uint64_t revoked_ns, closed_ns;
    uint64_t zero_ns; /* of all threads */
    uint64_t zero_bytes;
    uint64_t sums[BENCH_MAX_BLOCKS];
} BenchDest;

/* Each is a process: its result, and the port first, are written to @fd */
void source_main(unsigned run, uint16_t port, int fd) G_GNUC_NORETURN;
void dest_main(int fd) G_GNUC_NORETURN;

/* "source: ..." on stderr, and exit with 1 */
void fail(const char *format, ...) G_GNUC_PRINTF(1, 2) G_GNUC_NORETURN;
/* The same, if there is an error */
void fail_on(GError *err);
extern const char *role;

void write_all(int fd, const void *buf, size_t size);
bool read_all(int fd, void *buf, size_t size);
/* bench.address with @port */
const struct sockaddr *bench_address(uint16_t port);

/* ---- options.c, report.c ---- */

void options_parse(int argc, char **argv);
/* What is left out is unknown or was not measured */
void report_run(unsigned run, const BenchSource *source,
                const BenchDest *dest);

#endif
