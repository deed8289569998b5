/* Counts in memory of every kind, and goes on in a file: one line for each number,
   at the offset where it is. It naps with a value in every vector register, another
   on the x87 stack, and a rounding mode of its own; whatever is not as it was ends
   it with status 4.

   argv[1] is the file, argv[2] the nap in microseconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MARK "lower half of %X!upper half of %X!"
#define ROUND_UP 0x4000

static uint64_t in_data = 1;
static __thread uint64_t in_thread = 1;
static char wanted[16][32], found[16][32];
static int has_avx;

/* nanosleep(2) with all of them set before, and stored behind it. */
static long double nap_avx(const struct timespec *nap) {
    long double pi;
    long result = SYS_nanosleep;
#define LOAD(n) "vmovdqu " #n "*32(%[from]), %%ymm" #n "\n\t"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[to])\n\t"
#define ALL(X) \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
    asm volatile("fldpi\n\t" ALL(LOAD) "syscall\n\t" ALL(STORE) "vzeroupper\n\t"
                 "fstpt (%[pi])"
                 : "+a"(result)
                 : [from] "r"(wanted), [to] "r"(found), [pi] "r"(&pi), "D"(nap), "S"(0)
                 : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
                   "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                   "xmm13", "xmm14", "xmm15");
    if (result != 0) _exit(5);
    return pi;
}

static void nap_any(const struct timespec *nap) {
    nanosleep(nap, NULL);
    memcpy(found, wanted, sizeof found);
}

int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (argc < 3 || fd < 0) return 3;
    struct timespec nap = {0, atol(argv[2]) * 1000};
    for (int i = 0; i < 16; i++) {
        char text[64];
        snprintf(text, sizeof text, MARK, i, i);
        memcpy(wanted[i], text, sizeof wanted[i]);
    }
    has_avx = __builtin_cpu_supports("avx");
    unsigned mxcsr = __builtin_ia32_stmxcsr() | ROUND_UP;
    __builtin_ia32_ldmxcsr(mxcsr);

    uint64_t *on_heap = malloc(sizeof *on_heap);
    uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *on_heap = *shared = 1;
    volatile double one = 1, three = 3;
    for (uint64_t on_stack = 1;; on_stack++) {
        long double pi = 3.141592653589793238462643383279502884L;
        if (has_avx) {
            pi = nap_avx(&nap);
        } else {
            nap_any(&nap);
        }
        if (memcmp(wanted, found, sizeof wanted)) return 4;
        if (pi != 3.141592653589793238462643383279502884L) return 4;
        if ((__builtin_ia32_stmxcsr() & ROUND_UP) == 0) return 4;
        if (one / three <= 0.333333333333333314829616256247390992939472198486328125)
            return 4;
        if (on_stack != in_data || on_stack != in_thread) return 4;
        if (on_stack != *on_heap || on_stack != *shared) return 4;
        in_data++, in_thread++, ++*on_heap, ++*shared;
        char line[32];
        int length = snprintf(line, sizeof line, "%llu\n", (unsigned long long)on_stack);
        if (write(fd, line, length) != length) return 6;
    }
}
