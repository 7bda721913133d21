/*
 * verbsim: how fast memory moves, beside memcpy() in the same run
 *
 * Two processes; the first copies 1 MiB pieces with memcpy(), then writes the
 * same pieces into the second's memory by RDMA, turn about, and prints the
 * medians and their spread.  Plain verbs, so it also runs on a real device.
 *
 *   scripts/verbsim <build>/tests/verbsim/verbsim-rate [ROUNDS] [PIECE-KIB]
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <arpa/inet.h>
#include <glib.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    AREA = 256 << 20,
    DEPTH = 16,
    ROUND_US = 400 * 1000,
    MAX_ROUNDS = 99,
};

/* What the server tells the client, as private data. */
typedef struct Target {
    uint64_t addr;
    uint32_t rkey;
} Target;

static void G_GNUC_NORETURN die(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

static char *new_area(int value)
{
    char *area = mmap(NULL, AREA, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (area == MAP_FAILED) {
        die("mmap");
    }
    memset(area, value, AREA);
    return area;
}

static struct rdma_cm_id *new_endpoint(const char *host, const char *port,
                                       int flags)
{
    struct rdma_addrinfo hints = { .ai_flags = flags,
                                   .ai_port_space = RDMA_PS_TCP };
    struct ibv_qp_init_attr attr = {
        .cap = { .max_send_wr = DEPTH, .max_recv_wr = 1, .max_send_sge = 1,
                 .max_recv_sge = 1 },
        .qp_type = IBV_QPT_RC,
        .sq_sig_all = 1,
    };
    struct rdma_addrinfo *info;
    struct rdma_cm_id *id;

    if (rdma_getaddrinfo(host, port, &hints, &info) ||
        rdma_create_ep(&id, info, NULL, &attr)) {
        die(host);
    }
    rdma_freeaddrinfo(info);
    return id;
}

/* Until the client closes its end of @done. */
static void serve(const char *host, int ready, int done)
{
    struct rdma_cm_id *listener = new_endpoint(host, "0", RAI_PASSIVE), *id;
    uint16_t port;
    char *area = new_area(2), byte;
    struct ibv_mr *mr;
    Target target;
    struct rdma_conn_param param = {
        .private_data = &target, .private_data_len = sizeof(target),
        .responder_resources = 1, .initiator_depth = 1,
    };

    if (rdma_listen(listener, 1)) {
        die("rdma_listen");
    }
    port = ntohs(rdma_get_src_port(listener));
    if (write(ready, &port, sizeof(port)) != sizeof(port) ||
        rdma_get_request(listener, &id)) {
        die("rdma_get_request");
    }
    mr = rdma_reg_write(id, area, AREA);
    if (!mr) {
        die("rdma_reg_write");
    }
    target = (Target) { (uintptr_t)area, mr->rkey };
    if (rdma_accept(id, &param)) {
        die("rdma_accept");
    }
    while (read(done, &byte, 1) > 0) {
        continue;
    }
    rdma_disconnect(id);
    rdma_dereg_mr(mr);
    rdma_destroy_ep(id);
    rdma_destroy_ep(listener);
    munmap(area, AREA);
}

static double rate_of_memcpy(char *to, const char *from, size_t piece)
{
    gint64 start = g_get_monotonic_time(), spent;
    uint64_t bytes = 0;

    do {
        size_t at = bytes % AREA;

        memcpy(to + at, from + at, piece);
        bytes += piece;
        spent = g_get_monotonic_time() - start;
    } while (spent < ROUND_US);
    return (double)bytes / (double)spent / 1000;
}

static void reap(struct rdma_cm_id *id)
{
    struct ibv_wc wc;

    if (rdma_get_send_comp(id, &wc) < 1 || wc.status != IBV_WC_SUCCESS) {
        die("RDMA Write");
    }
}

static double rate_of_writes(struct rdma_cm_id *id, struct ibv_mr *mr,
                             char *from, const Target *target, size_t piece)
{
    gint64 start = g_get_monotonic_time(), spent;
    uint64_t bytes = 0, posted = 0, done = 0;

    do {
        size_t at = bytes % AREA;

        if (posted - done == DEPTH) {
            reap(id);
            done++;
        }
        if (rdma_post_write(id, NULL, from + at, piece, mr, 0,
                            target->addr + at, target->rkey)) {
            die("rdma_post_write");
        }
        posted++;
        bytes += piece;
        spent = g_get_monotonic_time() - start;
    } while (spent < ROUND_US);
    while (done++ < posted) {
        reap(id);
    }
    spent = g_get_monotonic_time() - start;
    return (double)bytes / (double)spent / 1000;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const char *name, double *rate, unsigned n)
{
    qsort(rate, n, sizeof(rate[0]), compare);
    printf("%-12s %6.2f GB/s  (%.2f to %.2f)\n", name, rate[n / 2], rate[0],
           rate[n - 1]);
    return rate[n / 2];
}

static void measure(const char *host, uint16_t port, unsigned rounds,
                    size_t piece, int done)
{
    g_autofree char *service = g_strdup_printf("%u", port);
    struct rdma_cm_id *id = new_endpoint(host, service, 0);
    char *from = new_area(1), *to = new_area(3);
    struct ibv_mr *mr = rdma_reg_msgs(id, from, AREA);
    struct rdma_conn_param param = { .retry_count = 6, .responder_resources = 1,
                                     .initiator_depth = 1 };
    double copied[MAX_ROUNDS], written[MAX_ROUNDS], ratio;
    Target target;

    if (!mr || rdma_connect(id, &param)) {
        die("rdma_connect");
    }
    memcpy(&target, id->event->param.conn.private_data, sizeof(target));
    for (unsigned i = 0; i < rounds; i++) {
        copied[i] = rate_of_memcpy(to, from, piece);
        written[i] = rate_of_writes(id, mr, from, &target, piece);
    }
    printf("%zu KiB pieces, %u rounds, median (least to most)\n", piece >> 10,
           rounds);
    ratio = median("RDMA Write", written, rounds);
    ratio /= median("memcpy", copied, rounds);
    printf("%-12s %6.2f of memcpy\n", "ratio", ratio);
    close(done);
    rdma_disconnect(id);
    rdma_dereg_mr(mr);
    rdma_destroy_ep(id);
}

int main(int argc, char **argv)
{
    const char *host = g_getenv("RMIG_ADDR");
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 5;
    size_t piece = (argc > 2 ? (size_t)atoi(argv[2]) : 1024) << 10;
    uint16_t port = 0;
    int ready[2], done[2], status = 1;
    pid_t child;

    if (!piece || AREA % piece || !rounds || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: %s [ROUNDS (1-%d)] [PIECE-KIB (power of 2)]\n",
                argv[0], MAX_ROUNDS);
        return EXIT_FAILURE;
    }
    host = host ? host : "127.0.0.1";
    if (pipe(ready) < 0 || pipe(done) < 0) {
        die("pipe");
    }
    child = fork();
    if (child < 0) {
        die("fork");
    }
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(done[1]);
        serve(host, ready[1], done[0]);
        return EXIT_SUCCESS;
    }
    close(ready[1]);
    if (read(ready[0], &port, sizeof(port)) == sizeof(port)) {
        measure(host, port, rounds, piece, done[1]);
    }
    waitpid(child, &status, 0);
    return port && !status ? EXIT_SUCCESS : EXIT_FAILURE;
}
