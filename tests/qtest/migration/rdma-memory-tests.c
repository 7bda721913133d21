/*
 * QTest testcases for migration over RDMA: memory that is discarded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest that gives pages away, takes them back and writes them anew while it
 * migrates.  It has no code: "-accel qtest", and the test drives its devices.
 */
#include "qemu/osdep.h"
#include "libqtest.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-pci.h"
#include "migration/framework.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "migration/rdma-util.h"
#include "qemu/bswap.h"
#include "qemu/units.h"

#define PAGE 4096
/* Written in the first round, and given away once that is under way */
#define GIVEN_ADDR (16 * MiB)
#define GIVEN_PAGES 4096
#define GIVEN_BYTES (GIVEN_PAGES * PAGE)
/* Keeps the migration going meanwhile */
#define REST_ADDR (64 * MiB)
#define REST_BYTES (64 * MiB)

#define WALK_BYTES_PER_S (32 * MiB)
/* It would take hours: the migration ends when the test says so */
#define CRAWL_BYTES_PER_S (16 * KiB)
#define FAST_BYTES_PER_S (1 * TiB)

#define INFLATE 0
#define DEFLATE 1
#define REPORT 3 /* behind the statistics */
#define PAGE_SHIFT_OF_BALLOON 12

typedef struct Guest {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;
    QVirtioPCIDevice *pci;
    QVirtQueue *queues[REPORT + 1];
    uint64_t pfns; /* where the numbers of pages are in its memory */
} Guest;

typedef struct Case {
    bool pin_all;
    bool reporting; /* instead of inflating and deflating */
} Case;

/* ---- a guest with a balloon ---------------------------------------------- */

static QTestState *start_qemu(const char *more)
{
    return qtest_initf("-machine pc -m 256M -nodefaults -device "
                       "virtio-balloon-pci,addr=4,free-page-reporting=on %s",
                       more);
}

static void start_guest(Guest *g)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    g_autofree uint32_t *pfns = g_new(uint32_t, GIVEN_PAGES);
    QVirtioDevice *dev;

    g->qts = start_qemu("");
    pc_alloc_init(&g->alloc, g->qts, 0);
    g->bus = qpci_new_pc(g->qts, &g->alloc);
    g->pci = virtio_pci_new(g->bus, &addr);
    dev = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    qvirtio_start_device(dev);
    qvirtio_set_features(dev, qvirtio_get_features(dev) &
                         ~(QVIRTIO_F_BAD_FEATURE |
                           (1ull << VIRTIO_RING_F_INDIRECT_DESC) |
                           (1ull << VIRTIO_RING_F_EVENT_IDX)));
    for (unsigned i = 0; i < G_N_ELEMENTS(g->queues); i++) {
        g->queues[i] = qvirtqueue_setup(dev, &g->alloc, i);
    }
    qvirtio_set_driver_ok(dev);
    g->pfns = guest_alloc(&g->alloc, GIVEN_PAGES * sizeof(uint32_t));
    for (unsigned i = 0; i < GIVEN_PAGES; i++) {
        pfns[i] = cpu_to_le32((GIVEN_ADDR >> PAGE_SHIFT_OF_BALLOON) + i);
    }
    qtest_bufwrite(g->qts, g->pfns, pfns, GIVEN_PAGES * sizeof(*pfns));
    qtest_memset(g->qts, GIVEN_ADDR, 0xaa, GIVEN_BYTES);
    qtest_memset(g->qts, REST_ADDR, 0x55, REST_BYTES);
}

static void stop_guest(Guest *g)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(g->queues); i++) {
        qvirtqueue_cleanup(g->pci->vdev.bus, g->queues[i], &g->alloc);
    }
    qvirtio_pci_device_disable(g->pci);
    g_free(g->pci->pdev);
    g_free(g->pci);
    qpci_free_pc(g->bus);
    alloc_destroy(&g->alloc);
    qtest_quit(g->qts);
}

/* One message of the guest's to the device, taken when this returns */
static void tell(Guest *g, unsigned queue, uint64_t addr, uint32_t bytes,
                 bool write)
{
    uint32_t head = qvirtqueue_add(g->qts, g->queues[queue], addr, bytes,
                                   write, false);

    qvirtqueue_kick(g->qts, &g->pci->vdev, g->queues[queue], head);
    qvirtio_wait_used_elem(g->qts, &g->pci->vdev, g->queues[queue], head, NULL,
                           RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND);
}

/* All pages are given away, and taken back */
static void give_and_take(Guest *g, const Case *c)
{
    if (c->reporting) {
        tell(g, REPORT, GIVEN_ADDR, GIVEN_BYTES, true);
        return;
    }
    tell(g, INFLATE, g->pfns, GIVEN_PAGES * sizeof(uint32_t), false);
    tell(g, DEFLATE, g->pfns, GIVEN_PAGES * sizeof(uint32_t), false);
}

/* How many of the given pages have nothing but @byte in them */
static unsigned pages_with(QTestState *who, uint8_t byte)
{
    g_autofree uint8_t *data = g_malloc(GIVEN_BYTES);
    unsigned n = 0;

    qtest_bufread(who, GIVEN_ADDR, data, GIVEN_BYTES);
    for (unsigned i = 0; i < GIVEN_PAGES; i++) {
        const uint8_t *page = data + (size_t)i * PAGE;

        n += page[0] == byte && memcmp(page, page + 1, PAGE - 1) == 0;
    }
    return n;
}

/* ---- its migration ------------------------------------------------------- */

static QTestState *start_dest(const Case *c, const char *host, char **uri)
{
    QTestState *to = start_qemu("-incoming defer");
    g_autofree char *listen = rmig_test_uri("rdma", host, "0");
    g_autofree char *port = NULL;

    migrate_set_capability(to, "rdma-pin-all", c->pin_all);
    migrate_incoming_qmp(to, listen, NULL, "{}");
    port = rmig_test_port(to);
    *uri = rmig_test_uri("rdma", host, port);
    return to;
}

/* The pages have gone once, and are registered on both sides */
static void start_migration(Guest *g, QTestState *to, const Case *c,
                            const char *uri)
{
    migrate_set_capability(g->qts, "rdma-pin-all", c->pin_all);
    migrate_set_parameter_int(g->qts, "max-bandwidth", WALK_BYTES_PER_S);
    migrate_qmp(g->qts, to, uri, NULL, "{}");
    rmig_test_wait_sent(g->qts, GIVEN_BYTES + MiB);
    migrate_set_parameter_int(g->qts, "max-bandwidth", CRAWL_BYTES_PER_S);
}

static void finish_migration(Guest *g, QTestState *to)
{
    migrate_set_parameter_int(g->qts, "max-bandwidth", FAST_BYTES_PER_S);
    rmig_test_wait(g->qts, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
}

static void run_case(const Case *c)
{
    const char *host = rmig_test_host(AF_INET);
    g_autofree char *uri = NULL;
    Guest g = { };
    QTestState *to;

    if (!host) {
        return;
    }
    start_guest(&g);
    to = start_dest(c, host, &uri);
    start_migration(&g, to, c, uri);
    give_and_take(&g, c);
    /* Held off: the pages are still the ones that are registered */
    g_assert_cmpuint(pages_with(g.qts, 0xaa), ==, GIVEN_PAGES);
    qtest_memset(g.qts, GIVEN_ADDR, 0xbb, GIVEN_BYTES);
    finish_migration(&g, to);
    g_assert_cmpuint(pages_with(to, 0xbb), ==, GIVEN_PAGES);
    qtest_quit(to);
    stop_guest(&g);
}

static void test_balloon(void)
{
    run_case(&(Case) { });
}

static void test_balloon_pin_all(void)
{
    run_case(&(Case) { .pin_all = true });
}

static void test_reporting(void)
{
    run_case(&(Case) { .reporting = true });
}

/* What is given away now goes, once nothing is registered any more */
static void check_goes_on(Guest *g, const Case *c)
{
    rmig_test_released(g->qts);
    qtest_memset(g->qts, GIVEN_ADDR, 0xcc, GIVEN_BYTES);
    give_and_take(g, c);
    g_assert_cmpuint(pages_with(g->qts, 0), ==, GIVEN_PAGES);
}

/* A migration that was @cancelled, or has failed */
static void check_after(const Case *c, bool cancelled)
{
    const char *host = rmig_test_host(AF_INET);
    g_autofree char *uri = NULL;
    Guest g = { };
    QTestState *to;

    if (!host) {
        return;
    }
    start_guest(&g);
    /* One that comes to nothing before anything is registered */
    uri = rmig_test_uri("rdma", host, "1");
    migrate_qmp(g.qts, NULL, uri, NULL, "{}");
    g_free(rmig_test_wait_failed(g.qts, RMIG_TEST_COMPLETE_S));
    check_goes_on(&g, c);
    qtest_memset(g.qts, GIVEN_ADDR, 0xaa, GIVEN_BYTES);
    g_free(uri);
    to = start_dest(c, host, &uri);
    start_migration(&g, to, c, uri);
    give_and_take(&g, c);
    g_assert_cmpuint(pages_with(g.qts, 0xaa), ==, GIVEN_PAGES);
    if (cancelled) {
        migrate_cancel(g.qts);
        rmig_test_wait(g.qts, "cancelled", RMIG_TEST_COMPLETE_S);
        rmig_test_wait_exit(to);
    } else {
        rmig_test_kill(to);
        g_free(rmig_test_wait_failed(g.qts, RMIG_TEST_COMPLETE_S));
    }
    check_goes_on(&g, c);
    stop_guest(&g);
}

static void test_after_cancel(void)
{
    check_after(&(Case) { }, true);
}

static void test_after_failure(void)
{
    check_after(&(Case) { .reporting = true }, false);
}

void rmig_test_add_memory(void)
{
    static const struct {
        const char *path;
        void (*fn)(void);
    } tests[] = {
        { "balloon", test_balloon },
        { "balloon-pin-all", test_balloon_pin_all },
        { "free-page-reporting", test_reporting },
        { "balloon-after-cancel", test_after_cancel },
        { "reporting-after-failure", test_after_failure },
    };

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("/migration/rdma/memory/",
                                            tests[i].path, NULL);

        migration_test_add(path, tests[i].fn);
    }
}
