/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The workload guest: fills memory with reproducible pseudo-random pages,
 * rewrites a hot set of pages at a settable rate, checks every page it meets
 * against what it wrote there, and says on the first serial port ten times a
 * second that it is alive:
 *
 *     boot
 *     ready
 *     beat 000123 gen 000045 sweep 000002 ok
 *     error page 0x00001234            what it read is not what it wrote
 *     verified 034816 pages ok         the answer to a 'v' on the serial port
 *
 * "gen" counts the passes over the hot set, "sweep" those of the slow check of
 * the random region; "ok" becomes "bad NNNNNN" after the first error.
 *
 * The timer interrupt prints the heartbeat, so it keeps time whatever the main
 * loop does, and hands the main loop its work for one tick.  Without work left
 * the processor sleeps until the next tick.
 */
#include "guest.h"

#define TICKS_PER_SECOND 20
#define TICKS_PER_BEAT 2
#define PIT_HZ 1193182
#define SERIAL_PORT 0x3f8
#define ERRORS_SHOWN 20
#define TIMER_VECTOR 0x20
#define VECTORS 48

/*
 * Patched into the image by scripts/lib/guest.py, which knows this layout.
 * Page numbers are physical; 0 pages means there is no such region.
 */
struct GuestParams {
    char magic[8];
    uint32_t seed;
    uint32_t random_page;
    uint32_t random_pages;
    uint32_t hot_page;
    uint32_t hot_pages;
    uint32_t hot_per_tick;      /* pages rewritten in a tick, at most */
    uint32_t sweep_per_tick;    /* random pages checked in a tick, at most */
};

volatile const struct GuestParams params
    __attribute__((section(".params"), used)) = { .magic = "RMIGGST1" };

static volatile uint32_t ticks, beats, errors;
static volatile uint32_t hot_budget, sweep_budget;
static volatile bool verify_wanted;
static volatile uint32_t generation, sweeps;    /* written by the main loop */
static uint32_t hot_cursor, sweep_cursor;

static inline void outb(uint16_t port, uint8_t value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;

    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put_char(char c)
{
    while (!(inb(SERIAL_PORT + 5) & 0x20)) {
        /* until the transmitter is empty */
    }
    outb(SERIAL_PORT, c);
}

static void put_text(const char *text)
{
    while (*text) {
        put_char(*text++);
    }
}

static void put_decimal(uint32_t value)
{
    uint32_t unit;

    for (unit = 100000; unit; unit /= 10) {
        put_char('0' + value / unit % 10);
    }
}

static void put_hex(uint32_t value)
{
    int shift;

    put_text("0x");
    for (shift = 28; shift >= 0; shift -= 4) {
        put_char("0123456789abcdef"[value >> shift & 15]);
    }
}

static void put_verdict(void)
{
    if (errors) {
        put_text(" bad ");
        put_decimal(errors);
    } else {
        put_text(" ok");
    }
    put_text("\n");
}

/* Timer interrupt, TICKS_PER_SECOND times a second. */
void guest_tick(void)
{
    hot_budget = params.hot_per_tick;
    sweep_budget = params.sweep_per_tick;
    if (inb(SERIAL_PORT + 5) & 1 && inb(SERIAL_PORT) == 'v') {
        verify_wanted = true;
    }
    if (++ticks % TICKS_PER_BEAT == 0) {
        put_text("beat ");
        put_decimal(++beats);
        put_text(" gen ");
        put_decimal(generation);
        put_text(" sweep ");
        put_decimal(sweeps);
        put_verdict();
    }
}

/* Any exception: the code or its tables are damaged, there is no going on. */
void guest_trap(void)
{
    put_text("error trap\n");
    for (;;) {
        asm volatile("cli; hlt");
    }
}

static void report_page(uint32_t page)
{
    asm volatile("cli");        /* a heartbeat must not cut the line in two */
    if (errors++ < ERRORS_SHOWN) {
        put_text("error page ");
        put_hex(page);
        put_text("\n");
    }
    asm volatile("sti");
}

static uint32_t page_key(uint32_t page, uint32_t gen)
{
    return page * 0x9e3779b1u ^ gen * 0x85ebca6bu ^ params.seed;
}

/* Generation of hot page @index: the cursor's pass has or has not met it. */
static uint32_t hot_generation(uint32_t index)
{
    return index < hot_cursor ? generation + 1 : generation;
}

static void expect(uint32_t page, uint32_t gen)
{
    if (!page_check(page, page_key(page, gen))) {
        report_page(page);
    }
}

static void hot_step(void)
{
    uint32_t page = params.hot_page + hot_cursor;

    expect(page, generation);
    page_fill(page, page_key(page, generation + 1));
    if (++hot_cursor == params.hot_pages) {
        hot_cursor = 0;
        generation++;
    }
}

static void sweep_step(void)
{
    expect(params.random_page + sweep_cursor, 0);
    if (++sweep_cursor == params.random_pages) {
        sweep_cursor = 0;
        sweeps++;
    }
}

static void fill_all(void)
{
    uint32_t i;

    for (i = 0; i < params.random_pages; i++) {
        page_fill(params.random_page + i,
                  page_key(params.random_page + i, 0));
    }
    for (i = 0; i < params.hot_pages; i++) {
        page_fill(params.hot_page + i, page_key(params.hot_page + i, 0));
    }
}

static void verify_all(void)
{
    uint32_t i;

    for (i = 0; i < params.random_pages; i++) {
        expect(params.random_page + i, 0);
    }
    for (i = 0; i < params.hot_pages; i++) {
        expect(params.hot_page + i, hot_generation(i));
    }
    asm volatile("cli");
    put_text("verified ");
    put_decimal(params.random_pages + params.hot_pages);
    put_text(" pages");
    put_verdict();
    asm volatile("sti");
}

static void work(void)
{
    for (;;) {
        if (verify_wanted) {
            verify_wanted = false;
            verify_all();
        } else if (hot_budget && params.hot_pages) {
            hot_budget--;
            hot_step();
        } else if (sweep_budget && params.random_pages) {
            sweep_budget--;
            sweep_step();
        } else {
            asm volatile("hlt");
        }
    }
}

static void interrupts_on(void)
{
    static uint32_t idt[VECTORS][2] __attribute__((aligned(8)));
    static struct {
        uint16_t limit;
        const void *base;
    } __attribute__((packed)) idt_pointer = { sizeof(idt) - 1, idt };
    extern void timer_entry(void), trap_entry(void);
    uint32_t i, entry;

    for (i = 0; i < VECTORS; i++) {
        entry = (uint32_t)(i == TIMER_VECTOR ? timer_entry : trap_entry);
        idt[i][0] = 0x08u << 16 | (entry & 0xffff);
        idt[i][1] = (entry & 0xffff0000) | 0x8e00;  /* interrupt gate */
    }
    asm volatile("lidt %0" : : "m"(idt_pointer));

    outb(0x20, 0x11);           /* both interrupt controllers: initialise, */
    outb(0xa0, 0x11);
    outb(0x21, TIMER_VECTOR);   /* vectors, */
    outb(0xa1, TIMER_VECTOR + 8);
    outb(0x21, 4);              /* cascade, */
    outb(0xa1, 2);
    outb(0x21, 1);              /* 8086 mode, */
    outb(0xa1, 1);
    outb(0x21, 0xfe);           /* and nothing but the timer let through */
    outb(0xa1, 0xff);

    outb(0x43, 0x34);           /* timer 0: rate generator */
    outb(0x40, PIT_HZ / TICKS_PER_SECOND & 0xff);
    outb(0x40, PIT_HZ / TICKS_PER_SECOND >> 8);
    asm volatile("sti");
}

static void serial_on(void)
{
    outb(SERIAL_PORT + 1, 0);           /* no interrupts: it is polled */
    outb(SERIAL_PORT + 3, 0x80);
    outb(SERIAL_PORT, 1);               /* 115200 baud */
    outb(SERIAL_PORT + 1, 0);
    outb(SERIAL_PORT + 3, 3);           /* 8N1 */
    outb(SERIAL_PORT + 2, 7);           /* FIFOs on and empty */
    outb(SERIAL_PORT + 4, 3);
}

void guest_main(void)
{
    serial_on();
    put_text("boot\n");
    fill_all();
    put_text("ready\n");
    interrupts_on();
    work();
}
