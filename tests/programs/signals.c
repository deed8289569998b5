/* A thousand queued signals a second, numbered; the handler checks the order and
   that none is missing. A child sends them. */
#include "status.h"

static void handle(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    if ((uint64_t)info->si_value.sival_int != status[PROGRESS] + 1) status[ERRORS]++;
    status[PROGRESS] = info->si_value.sival_int;
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 3, &action, NULL);
    pid_t target = getpid();
    if (fork() == 0) {
        for (int n = 1; getppid() == target; n++) {
            while (sigqueue(target, SIGRTMIN + 3, (union sigval){.sival_int = n}))
                if (errno != EAGAIN) _exit(0);
            status[FIRST] = n;
            nap_us(900);
        }
        _exit(0);
    }
    status[READY] = 1;
    for (volatile uint64_t spin = 0;; spin++)
        if (spin % 4096 == 0) nap_us(50);
}
