/*
 * QTest testcases for migration over RDMA: memory that comes and goes
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
#include "qobject/qdict.h"

#define PAGE 4096
/* Written in the first round, and given away once that is under way */
#define GIVEN_ADDR (16 * MiB)
#define GIVEN_PAGES 4096
#define GIVEN_BYTES (GIVEN_PAGES * PAGE)
/* libqtest takes quadratic time for long answers */
#define READ_PAGES 16
/* Keeps the migration going meanwhile */
#define REST_ADDR (64 * MiB)
#define REST_BYTES (32 * MiB)

#define WALK_BYTES_PER_S (16 * MiB)
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
    unsigned n_queues;
    uint64_t pfns; /* where what is told to the device is in its memory */
    uint64_t region; /* of virtio-mem */
    uint64_t block_size;
} Guest;

typedef struct Case {
    bool pin_all;
    bool reporting; /* instead of inflating and deflating */
} Case;

/* ---- a guest with a balloon ---------------------------------------------- */

static QTestState *start_qemu(const char *more)
{
    return qtest_initf("-machine pc -m 128M -nodefaults -device "
                       "virtio-balloon-pci,addr=4,free-page-reporting=on %s",
                       more);
}

static void find_device(Guest *g, QPCIAddress *addr)
{
    QVirtioDevice *dev;

    g->bus = qpci_new_pc(g->qts, &g->alloc);
    g->pci = virtio_pci_new(g->bus, addr);
    dev = &g->pci->vdev;
    qvirtio_pci_device_enable(g->pci);
    qvirtio_start_device(dev);
    qvirtio_set_features(dev, qvirtio_get_features(dev) &
                         ~(QVIRTIO_F_BAD_FEATURE |
                           (1ull << VIRTIO_RING_F_INDIRECT_DESC) |
                           (1ull << VIRTIO_RING_F_EVENT_IDX)));
}

static void start_guest(Guest *g)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    g_autofree uint32_t *pfns = g_new(uint32_t, GIVEN_PAGES);
    QVirtioDevice *dev;

    g->qts = start_qemu("");
    g->n_queues = G_N_ELEMENTS(g->queues);
    pc_alloc_init(&g->alloc, g->qts, 0);
    find_device(g, &addr);
    dev = &g->pci->vdev;
    for (unsigned i = 0; i < g->n_queues; i++) {
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
    for (unsigned i = 0; i < g->n_queues; i++) {
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

/* Whether nothing but @byte is in the page at @addr */
static bool page_is(QTestState *who, uint64_t addr, uint8_t byte)
{
    uint8_t page[PAGE];

    qtest_bufread(who, addr, page, PAGE);
    return page[0] == byte && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Of the given pages, a few */
static void check_some(QTestState *who, uint8_t byte)
{
    for (unsigned i = 0; i < GIVEN_PAGES; i += GIVEN_PAGES / 32 - 1) {
        g_assert(page_is(who, GIVEN_ADDR + (uint64_t)i * PAGE, byte));
    }
}

/* How many of the given pages have nothing but @byte in them */
static unsigned pages_with(QTestState *who, uint8_t byte)
{
    g_autofree uint8_t *data = g_malloc(READ_PAGES * PAGE);
    unsigned n = 0;

    for (unsigned i = 0; i < GIVEN_PAGES; i++) {
        const uint8_t *page = data + i % READ_PAGES * PAGE;

        if (i % READ_PAGES == 0) {
            qtest_bufread(who, GIVEN_ADDR + (uint64_t)i * PAGE, data,
                          READ_PAGES * PAGE);
        }
        n += page[0] == byte && memcmp(page, page + 1, PAGE - 1) == 0;
    }
    return n;
}

/* ---- its migration ------------------------------------------------------- */

static void listen_on(QTestState *to, const Case *c, const char *host,
                      char **uri)
{
    g_autofree char *listen = rmig_test_uri("rdma", host, "0");
    g_autofree char *port = NULL;

    migrate_set_capability(to, "rdma-pin-all", c->pin_all);
    migrate_incoming_qmp(to, listen, NULL, "{}");
    port = rmig_test_port(to);
    *uri = rmig_test_uri("rdma", host, port);
}

static QTestState *start_dest(const Case *c, const char *host, char **uri)
{
    QTestState *to = start_qemu("-incoming defer");

    listen_on(to, c, host, uri);
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
    check_some(g.qts, 0xaa);
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
    check_some(g->qts, 0);
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
    check_some(g.qts, 0xaa);
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

/* ---- memory that is not plugged ------------------------------------------ */

#define PLUG_REGION (512 * MiB)
#define PLUGGED_BYTES (128 * MiB)
/* Every other stretch is plugged */
#define STRETCH (4 * MiB)
#define STRETCHES (PLUGGED_BYTES / STRETCH)
#define BASE_RAM (128 * MiB)
/* What the machine has beside RAM, and the transport's buffers */
#define OTHER_BYTES (24 * MiB)

/* Of virtio-mem: places of its configuration, its request and the answer */
#define MEM_CONFIG_BLOCK_SIZE 0
#define MEM_CONFIG_ADDR 16
#define MEM_REQUEST_BYTES 24
#define MEM_ANSWER_BYTES 10
#define MEM_REQUEST_PLUG 0
#define MEM_ANSWER_ACK 0

static QTestState *start_mem_qemu(const char *machine, const char *more)
{
    return qtest_initf("-machine %s -m 128M,maxmem=2G -nodefaults "
                       "-object memory-backend-ram,id=plug,size=512M -device "
                       "virtio-mem-pci,memdev=plug,id=mem,addr=4,"
                       "requested-size=128M %s", machine, more);
}

static uint64_t stretch_addr(const Guest *g, unsigned i)
{
    return g->region + i * 2 * STRETCH;
}

static void plug(Guest *g, uint64_t addr, uint64_t bytes)
{
    struct {
        uint16_t type;
        uint16_t padding[3];
        uint64_t addr;
        uint16_t blocks;
        uint16_t more_padding[3];
    } QEMU_PACKED request = {
        .type = cpu_to_le16(MEM_REQUEST_PLUG),
        .addr = cpu_to_le64(addr),
        .blocks = cpu_to_le16(bytes / g->block_size),
    };
    uint64_t answer = g->pfns + MEM_REQUEST_BYTES;
    uint32_t head;

    QEMU_BUILD_BUG_ON(sizeof(request) != MEM_REQUEST_BYTES);
    qtest_bufwrite(g->qts, g->pfns, &request, sizeof(request));
    head = qvirtqueue_add(g->qts, g->queues[0], g->pfns, MEM_REQUEST_BYTES,
                          false, true);
    qvirtqueue_add(g->qts, g->queues[0], answer, MEM_ANSWER_BYTES, true, false);
    qvirtqueue_kick(g->qts, &g->pci->vdev, g->queues[0], head);
    qvirtio_wait_used_elem(g->qts, &g->pci->vdev, g->queues[0], head, NULL,
                           RMIG_TEST_COMPLETE_S * G_TIME_SPAN_SECOND);
    g_assert_cmpuint(qtest_readw(g->qts, answer), ==, MEM_ANSWER_ACK);
}

static void start_mem_guest(Guest *g, const char *more)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(4, 0) };
    QVirtioDevice *dev;

    g->qts = start_mem_qemu("pc", more);
    g->n_queues = 1;
    pc_alloc_init(&g->alloc, g->qts, 0);
    find_device(g, &addr);
    dev = &g->pci->vdev;
    g->queues[0] = qvirtqueue_setup(dev, &g->alloc, 0);
    qvirtio_set_driver_ok(dev);
    g->pfns = guest_alloc(&g->alloc, PAGE);
    g->block_size = qvirtio_config_readq(dev, MEM_CONFIG_BLOCK_SIZE);
    g->region = qvirtio_config_readq(dev, MEM_CONFIG_ADDR);
    for (unsigned i = 0; i < STRETCHES; i++) {
        plug(g, stretch_addr(g, i), STRETCH);
        qtest_memset(g->qts, stretch_addr(g, i), 0x40 + i, STRETCH);
    }
    qtest_memset(g->qts, GIVEN_ADDR, 0xaa, GIVEN_BYTES);
}

/* What is plugged is what the guest wrote, and the rest is not there */
static void check_mem(QTestState *who, const Guest *g)
{
    for (unsigned i = 0; i < STRETCHES; i++) {
        uint64_t addr = stretch_addr(g, i);

        g_assert(page_is(who, addr, 0x40 + i));
        g_assert(page_is(who, addr + STRETCH - PAGE, 0x40 + i));
        g_assert(page_is(who, addr + STRETCH, 0));
        g_assert(page_is(who, addr + 2 * STRETCH - PAGE, 0));
    }
    check_some(who, 0xaa);
}

/* The most that @who has pinned, of RAM and buffers */
static uint64_t pinned_peak(QTestState *who)
{
    QDict *info = migrate_query(who);
    uint64_t peak = qdict_get_int(qdict_get_qdict(qdict_get_qdict(
                                      info, "rdma"), "pinned"), "peak");

    qobject_unref(info);
    g_test_message("at most %" PRIu64 " MiB pinned", (uint64_t)(peak / MiB));
    return peak;
}

static void migrate_mem(QTestState *from, QTestState *to, const Guest *g,
                        bool pin_all, const char *uri)
{
    migrate_set_capability(from, "rdma-pin-all", pin_all);
    migrate_set_parameter_int(from, "max-bandwidth", CRAWL_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait(from, "active", RMIG_TEST_COMPLETE_S);
    /* What is not plugged may be written to; that need not be kept */
    qtest_memset(from, g->region + STRETCH, 0x11, PAGE);
    migrate_set_parameter_int(from, "max-bandwidth", FAST_BYTES_PER_S);
    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    g_assert_cmpuint(pinned_peak(from), <,
                     BASE_RAM + PLUGGED_BYTES + OTHER_BYTES);
    g_assert_cmpuint(pinned_peak(to), <,
                     BASE_RAM + PLUGGED_BYTES + OTHER_BYTES);
    if (pin_all) {
        g_assert_cmpuint(pinned_peak(from), >, PLUGGED_BYTES + BASE_RAM);
        g_assert_cmpuint(pinned_peak(to), >, PLUGGED_BYTES + BASE_RAM);
    }
    check_mem(to, g);
}

/* There, and back to a new one; @more: of all three's command lines */
static void run_mem(bool pin_all, bool bitmaps, const char *more)
{
    g_autofree char *incoming = g_strconcat("-incoming defer ", more, NULL);
    const char *host = rmig_test_host(AF_INET);
    const Case c = { .pin_all = pin_all };
    g_autofree char *there = NULL;
    g_autofree char *back = NULL;
    QTestState *to, *again;
    Guest g = { };

    if (!host) {
        return;
    }
    start_mem_guest(&g, more);
    migrate_set_capability(g.qts, "dirty-bitmaps", bitmaps);
    to = start_mem_qemu("pc", incoming);
    migrate_set_capability(to, "dirty-bitmaps", bitmaps);
    listen_on(to, &c, host, &there);
    migrate_mem(g.qts, to, &g, pin_all, there);
    again = start_mem_qemu("pc", incoming);
    migrate_set_capability(again, "dirty-bitmaps", bitmaps);
    listen_on(again, &c, host, &back);
    migrate_mem(to, again, &g, pin_all, back);
    qtest_quit(again);
    qtest_quit(to);
    stop_guest(&g);
}

static void test_virtio_mem(void)
{
    run_mem(false, false, "");
}

static void test_virtio_mem_pin_all(void)
{
    run_mem(true, false, "");
}

/*
 * Bitmaps make QEMU believe in postcopy, so virtio-mem discards what it has
 * just allocated: before anything is registered, which harms nothing
 */
static void test_virtio_mem_prealloc(void)
{
    run_mem(false, true, "-global virtio-mem.prealloc=on");
}

/* A machine whose virtio-mem tells too late what is plugged */
static void test_virtio_mem_late(void)
{
    QTestState *who = start_mem_qemu("pc-i440fx-7.2", "");
    QDict *error = qtest_qmp_assert_failure_ref(
        who, "{ 'execute': 'migrate', 'arguments': {"
        " 'uri': 'rdma:127.0.0.1:1' } }");
    const char *why = qdict_get_str(error, "desc");

    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, "RAM block"));
    g_assert_nonnull(strstr(why, "plug"));
    g_assert_nonnull(strstr(why, "machine type"));
    qobject_unref(error);
    qtest_quit(who);
}

/* ---- memory that cannot be received, or goes away ------------------------ */

#define NV_BYTES (4 * MiB)
#define DIMM_BYTES (64 * MiB)
/* The first memory device is mapped there */
#define DEVICE_ADDR (4 * GiB)
/* ACPI's memory hotplug registers: the slot, and bits to write */
#define ACPI_MEMORY 0xa00
#define ACPI_MEMORY_BITS (ACPI_MEMORY + 0x14)
#define ACPI_MEMORY_EJECT (1 << 3)

static QTestState *start_nv_qemu(const char *file, const char *more)
{
    return qtest_initf("-machine pc,nvdimm=on -m 128M,slots=2,maxmem=1G "
                       "-nodefaults -object memory-backend-file,id=nv,"
                       "mem-path=%s,size=4M,readonly=on,rom=on,share=on "
                       "-device nvdimm,memdev=nv,unarmed=on %s", file, more);
}

static void check_refused(QTestState *who, const char *command)
{
    QDict *error = qtest_qmp_assert_failure_ref(
        who, "{ 'execute': %s, 'arguments': {"
        " 'uri': 'rdma:127.0.0.1:0' } }", command);
    const char *why = qdict_get_str(error, "desc");

    g_test_message("%s", why);
    g_assert_nonnull(strstr(why, "RAM block"));
    g_assert_nonnull(strstr(why, "read-only"));
    g_assert_nonnull(strstr(why, "x-ignore-shared"));
    g_assert_null(strstr(why, "limit"));
    qobject_unref(error);
}

/* Refused with the reason, on both sides; with the same file it need not go */
static void test_read_only(void)
{
    const char *host = rmig_test_host(AF_INET);
    g_autofree char *file = NULL;
    g_autofree char *uri = NULL;
    QTestState *from, *to;
    uint8_t byte = 0x77;
    int fd;

    if (!host) {
        return;
    }
    fd = g_file_open_tmp("rmig-nv-XXXXXX", &file, NULL);
    g_assert(fd >= 0);
    g_assert(ftruncate(fd, NV_BYTES) == 0);
    g_assert(pwrite(fd, &byte, 1, NV_BYTES - 1) == 1);
    close(fd);
    from = start_nv_qemu(file, "");
    to = start_nv_qemu(file, "-incoming defer");
    check_refused(from, "migrate");
    check_refused(to, "migrate-incoming");
    migrate_set_capability(from, "x-ignore-shared", true);
    migrate_set_capability(to, "x-ignore-shared", true);
    listen_on(to, &(Case) { }, host, &uri);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait(from, "completed", RMIG_TEST_COMPLETE_S);
    rmig_test_wait(to, "completed", RMIG_TEST_COMPLETE_S);
    g_assert_cmphex(qtest_readb(to, DEVICE_ADDR + NV_BYTES - 1), ==, byte);
    qtest_quit(from);
    qtest_quit(to);
    unlink(file);
}

static QTestState *start_dimm_qemu(const char *more)
{
    return qtest_initf("-machine pc -m 128M,slots=2,maxmem=1G -nodefaults "
                       "-object memory-backend-ram,id=back,size=64M "
                       "-device pc-dimm,id=dimm,memdev=back %s", more);
}

/* The guest lets go a DIMM, as it was asked before, and then its memory goes */
static void test_unplug(void)
{
    const char *host = rmig_test_host(AF_INET);
    g_autofree char *uri = NULL;
    g_autofree char *why = NULL;
    QTestState *from, *to;

    if (!host) {
        return;
    }
    from = start_dimm_qemu("");
    to = start_dimm_qemu("-incoming defer");
    qtest_memset(from, DEVICE_ADDR, 0x99, DIMM_BYTES);
    qtest_qmp_assert_success(from, "{ 'execute': 'device_del',"
                             " 'arguments': { 'id': 'dimm' } }");
    listen_on(to, &(Case) { }, host, &uri);
    migrate_set_parameter_int(from, "max-bandwidth", WALK_BYTES_PER_S);
    migrate_qmp(from, to, uri, NULL, "{}");
    rmig_test_wait_sent(from, 4 * MiB);
    qtest_outl(from, ACPI_MEMORY, 0);
    qtest_outb(from, ACPI_MEMORY_BITS, ACPI_MEMORY_EJECT);
    qtest_qmp_eventwait(from, "DEVICE_DELETED");
    qtest_qmp_assert_success(from, "{ 'execute': 'object-del',"
                             " 'arguments': { 'id': 'back' } }");
    why = rmig_test_wait_failed(from, RMIG_TEST_COMPLETE_S);
    g_assert_nonnull(strstr(why, "went away"));
    g_assert_nonnull(strstr(why, "back"));
    rmig_test_released(from);
    g_assert_true(rmig_test_running(from));
    qtest_quit(from);
    rmig_test_wait_exit(to);
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
        { "virtio-mem", test_virtio_mem },
        { "virtio-mem-pin-all", test_virtio_mem_pin_all },
        { "virtio-mem-prealloc", test_virtio_mem_prealloc },
        { "virtio-mem-late", test_virtio_mem_late },
        { "read-only", test_read_only },
        { "unplug", test_unplug },
    };

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strconcat("/migration/rdma/memory/",
                                            tests[i].path, NULL);

        migration_test_add(path, tests[i].fn);
    }
}
