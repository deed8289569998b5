/* Has something of everything a capture looks at, and checks itself: ERRORS counts what
   goes wrong, FIRST says in which step. argv[2] is a file that it maps. */
#include "status.h"
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static sigset_t usual;
static __thread uint64_t mine;
static uint64_t counts[3];

static void handle(int signo) { (void)signo; }

static void check(int right, uint64_t step) {
    if (!right) {
        status[ERRORS]++;
        status[FIRST] = step;
    }
}

static void check_this_thread(uint64_t id) {
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    for (int signo = 1; signo < 32; signo++)
        check(sigismember(&now, signo) == sigismember(&usual, signo), 1);
    check(++counts[id] == ++mine, 2);
    struct timespec nap = {0, 100000};
    check(nanosleep(&nap, NULL) == 0, 3);
}

static void *count(void *arg) {
    for (;;) {
        check_this_thread((uint64_t)arg);
        status[SECOND]++;
    }
}

static int waiting(int fd) {
    int found = -1;
    ioctl(fd, FIONREAD, &found);
    return found;
}

static void start_child(void) {
    pid_t parent = getpid();
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == parent) nap_us(1000);
        _exit(0);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGALRM, &action, NULL);
    pthread_sigmask(SIG_BLOCK, NULL, &usual);
    start_child();

    /* Of a size that is written by itself; and pages that are not there, from the file. */
    size_t large = 320 << 10, size = 512 << 10;
    memset(mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
           7, large);
    int file = open(argv[2], O_RDWR);
    char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    mapped[0]++;
    int memory = memfd_create("varied", MFD_ALLOW_SEALING);
    if (ftruncate(memory, size)) return 4;
    char *shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    shared[0] = shared[size / 2] = 1;
    char *secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    secret[0] = 1;
    mprotect(secret, 4096, PROT_NONE);

    int ends[2], stream[2], packets[2];
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, stream) ||
        socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets))
        return 4;
    if (write(ends[1], "pipe", 4) < 4 || write(stream[0], "stream", 6) < 6 ||
        write(packets[0], "packet", 6) < 6)
        return 4;
    if (dup(file) < 0 || socket(AF_INET, SOCK_STREAM, 0) < 0) return 4;

    for (uint64_t id = 1; id < 3; id++) {
        pthread_t thread;
        pthread_create(&thread, NULL, count, (void *)id);
    }
    status[READY] = 1;
    for (;;) {
        check_this_thread(0);
        check(waiting(ends[0]) == 4 && waiting(stream[1]) == 6, 4);
        status[PROGRESS]++;
    }
}
