/* The second thread writes one counter to two places 400 MB apart, as fast as it
   can. FIRST and SECOND are the places. */
#include "status.h"

#define APART (400UL << 20)

static void *write_both(void *arg) {
    volatile uint64_t *first = arg, *second = first + APART / 8;
    for (uint64_t n = 1;; n++) {
        *first = n;
        *second = n;
        if (n % (1 << 20) == 0) status[PROGRESS]++;
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    char *memory = mmap(NULL, APART + 4096, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc > 2) memset(memory, 1, APART + 4096); /* dense */
    /* Two mappings, with a page between them: sandlock refuses one over 256 MiB. */
    if (mprotect(memory + APART / 2, 4096, PROT_NONE)) return 5;
    status[FIRST] = (uint64_t)memory;
    status[SECOND] = (uint64_t)memory + APART;
    pthread_t thread;
    pthread_create(&thread, NULL, write_both, memory);
    status[READY] = 1;
    for (;;) pause();
}
