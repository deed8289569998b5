/* Small, and of everything a little: a thread, handlers, an alternate stack, a timer,
 * a pipe and sockets with something in them, an eventfd, and a child. */
#include "status.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>

static char stack[1 << 16];

static void handler(int number) { (void)number; }

static void *wait_forever(void *arg) {
    for (;;) pause();
    return arg;
}

static int fill(void) {
    int ends[2], pair[2], grams[2];
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ||
        socketpair(AF_UNIX, SOCK_DGRAM, 0, grams))
        return 0;
    return write(ends[1], "in the pipe", 11) == 11 && write(pair[0], "stream", 6) == 6 &&
           write(grams[0], "one", 3) == 3 && write(grams[0], "two", 3) == 3;
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct itimerval hour = {.it_value = {.tv_sec = 3600}};
    setitimer(ITIMER_REAL, &hour, NULL);
    if (!fill()) _exit(3);
    int counter = eventfd(7, EFD_NONBLOCK), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(poll, EPOLL_CTL_ADD, counter, &event);
    int flags = MAP_ANONYMOUS, access = PROT_READ | PROT_WRITE;
    char *shared = mmap(NULL, 1 << 14, access, flags | MAP_SHARED, -1, 0);
    char *sparse = mmap(NULL, 1 << 22, access, flags | MAP_PRIVATE, -1, 0);
    shared[1 << 13] = sparse[1 << 21] = 1;
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        wait_forever(NULL);
    }
    pthread_t thread;
    pthread_create(&thread, NULL, wait_forever, NULL);
    status[READY] = 1;
    wait_forever(NULL);
}
