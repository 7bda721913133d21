/*
 * What GLib's locks order, told to ThreadSanitizer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A system's GLib is not instrumented and takes its locks by futexes, so that
 * everything they guard would be reported as a race.  Functions of a program
 * come before those of the libraries that it is linked to: these call GLib's.
 * Without -fsanitize=thread there is nothing here.
 */
#include <glib.h>

#if defined(__SANITIZE_THREAD__)

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#define NEXT(fn) ((__typeof__(&fn))dlsym(RTLD_NEXT, #fn))

void (g_mutex_lock)(GMutex *mutex)
{
    NEXT(g_mutex_lock)(mutex);
    __tsan_acquire(mutex);
}

void (g_mutex_unlock)(GMutex *mutex)
{
    __tsan_release(mutex);
    NEXT(g_mutex_unlock)(mutex);
}

void (g_cond_wait)(GCond *cond, GMutex *mutex)
{
    __tsan_release(mutex);
    NEXT(g_cond_wait)(cond, mutex);
    __tsan_acquire(mutex);
}

void (g_async_queue_push)(GAsyncQueue *queue, gpointer data)
{
    __tsan_release(queue);
    NEXT(g_async_queue_push)(queue, data);
}

void (g_async_queue_push_front)(GAsyncQueue *queue, gpointer data)
{
    __tsan_release(queue);
    NEXT(g_async_queue_push_front)(queue, data);
}

gpointer (g_async_queue_try_pop)(GAsyncQueue *queue)
{
    gpointer data = NEXT(g_async_queue_try_pop)(queue);

    __tsan_acquire(queue);
    return data;
}

gpointer (g_async_queue_pop)(GAsyncQueue *queue)
{
    gpointer data = NEXT(g_async_queue_pop)(queue);

    __tsan_acquire(queue);
    return data;
}

#else
typedef int nothing;
#endif
