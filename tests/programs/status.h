/* What a tracee tells its test: u64 slots of a shared file, argv[1]. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY, PROGRESS, ERRORS, FIRST, SECOND };

static volatile uint64_t *status;

static void open_status(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    status = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || status == MAP_FAILED) _exit(3);
    close(fd);
}

static inline void nap_us(long us) {
    struct timespec t = {0, us * 1000};
    nanosleep(&t, NULL);
}
