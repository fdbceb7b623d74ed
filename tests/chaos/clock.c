/* The wall clock of a process, moved by seconds that somebody else writes into a file.
 *
 * The file of CITEMESH_CHAOS_CLOCKS is an array of 32-bit seconds, one a process id. A process
 * uses the place of the id it was started with, and so do those it forks: a Postgres and its
 * sessions have one clock. The monotonic clock stays true, as it does when a machine's clock
 * is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int32_t none = 0;
static const volatile int32_t *moved = &none;

__attribute__((constructor)) static void find_place(void) {
    const char *path = getenv("CITEMESH_CHAOS_CLOCKS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct stat status;
    if (file < 0) return;
    if (fstat(file, &status) == 0 && (off_t)(getpid() + 1) * 4 <= status.st_size) {
        void *all = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (all != MAP_FAILED) moved = (const volatile int32_t *)all + getpid();
    }
    close(file);
}

static int is_wall(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && is_wall(clock)) now->tv_sec += *moved;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (kept) *kept = exact.tv_sec;
    return exact.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
                    struct timespec *left) {
    struct timespec real = *until;
    if (is_wall(clock) && (flags & TIMER_ABSTIME)) real.tv_sec -= *moved;
    return syscall(SYS_clock_nanosleep, clock, flags, &real, left) ? errno : 0;
}
