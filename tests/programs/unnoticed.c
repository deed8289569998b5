/* Waits in every way that a stop could disturb, computes in between, and counts what
   goes wrong in ERRORS; FIRST says in which step. With an argument an early end of a
   sleep is all right. */
#include "status.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/time.h>

static volatile sig_atomic_t alarms;

static void note(int signo) {
    (void)signo;
    alarms++;
}

static void check(int right, uint64_t step) {
    if (!right) {
        status[ERRORS]++;
        status[FIRST] = step;
    }
}

static uint64_t compute(uint64_t rounds) {
    uint64_t integer = 1;
    double real = 1.0;
    for (uint64_t i = 0; i < rounds; i++) {
        integer = integer * 6364136223846793005u + 1442695040888963407u;
        real = real * 0.75 + (double)(integer >> 40);
    }
    return integer ^ (uint64_t)real;
}

int main(int argc, char **argv) {
    int early = argc > 2;
    uint32_t word = 0;
    open_status(argv[1]);
    struct sigaction action = {.sa_handler = note};
    sigaction(SIGALRM, &action, NULL);
    sigset_t blocked, none;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    uint64_t expected = compute(200000);
    status[READY] = 1;
    for (;;) {
        struct timespec two_ms = {0, 2000000};
        check(nanosleep(&two_ms, NULL) == 0 || early, 1);
        check(poll(NULL, 0, 2) == 0 || early, 2);
        long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &two_ms, 0, 0);
        check(result == -1 && (errno == ETIMEDOUT || early), 3);
        check(compute(200000) == expected, 4);
        /* A signal that came at any time ends the wait: it is not to be lost. */
        int before = alarms;
        struct itimerval once = {.it_value = {0, 1000}};
        setitimer(ITIMER_REAL, &once, NULL);
        while (alarms == before) check(sigsuspend(&none) == -1 && errno == EINTR, 5);
        check(alarms == before + 1, 6);
        status[PROGRESS]++;
    }
}
