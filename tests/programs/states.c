/* Sixteen threads, each with a value of its own in ymm0 and in thread-local memory,
   each with another signal blocked; one signal is ignored, one handled, one waits for
   the process and one for a thread. FIRST is where the thread-local value lies in the
   first thread, from SECOND on pairs of tid and fs base. Two timers are armed. */
#include "status.h"
#include <asm/prctl.h>
#include <sys/time.h>

/* What the kernel has of SIGUSR1's action, the alternate stack, and the heap's end. */
enum { ACTION = SECOND + 32, STACK = ACTION + 4, BREAK = STACK + 2 };

static __thread volatile uint64_t mine;
static int ready[2];

static void handle(int signo) { (void)signo; }

static void *be(void *arg) {
    uint64_t id = (uint64_t)arg, fs = 0;
    mine = 0x1000 + id;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &fs);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 4 + id);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    status[SECOND + 2 * id] = syscall(SYS_gettid);
    status[SECOND + 2 * id + 1] = fs;
    if (id == 0) status[FIRST] = (uint64_t)&mine;
    if (id == 3) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGRTMIN + 4 + id);
    if (write(ready[1], "x", 1) != 1) _exit(4);
    uint64_t value[4] = {id, ~id, 0x5eed, id * 3};
    __asm__ volatile(
        "vmovdqu %0, %%ymm0\n"
        "1: mov $34, %%eax\n" /* pause(2): no call of the C library may touch ymm0 */
        "syscall\n"
        "jmp 1b\n"
        :
        : "m"(value)
        : "rax", "rcx", "r11", "memory");
    return NULL;
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    if (!__builtin_cpu_supports("avx")) _exit(6);
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    static char alternate[1 << 16];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    struct itimerval once = {.it_value = {4000, 0}};
    setitimer(ITIMER_REAL, &once, NULL);
    struct itimerval often = {.it_value = {3000, 0}, .it_interval = {7, 5}};
    setitimer(ITIMER_PROF, &often, NULL);
    if (pipe2(ready, O_CLOEXEC)) return 5;
    for (uint64_t id = 1; id < 16; id++) {
        pthread_t thread;
        pthread_create(&thread, NULL, be, (void *)id);
    }
    char byte;
    for (int i = 1; i < 16; i++)
        if (read(ready[0], &byte, 1) != 1) return 4;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR2);
    syscall(SYS_rt_sigaction, SIGUSR1, NULL, &status[ACTION], 8);
    status[STACK] = (uint64_t)alternate;
    status[STACK + 1] = sizeof alternate;
    syscall(SYS_brk, syscall(SYS_brk, 0) + 123);
    status[BREAK] = syscall(SYS_brk, 0);
    status[READY] = 1;
    be(NULL);
}
