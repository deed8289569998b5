/* argv[2] MiB of memory, in every page its number and how often it has been changed,
   twice; a second thread changes and checks them as the first one does. */
#include "status.h"

enum { WORDS = 4096 / 8, THREADS = 2 };

static volatile uint64_t *pages;
static uint64_t count;

static void *change(void *arg) {
    uint64_t half = count / THREADS, first = (uint64_t)arg * half, state = first + 1;
    for (uint64_t n = 1;; n++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint64_t number = first + (state >> 33) % half;
        volatile uint64_t *page = pages + number * WORDS;
        if (page[0] != number || page[1] != page[WORDS - 1]) status[ERRORS]++;
        page[1]++;
        page[WORDS - 1]++;
        if (n % 32 == 0) {
            nap_us(500);
            if (arg == 0) status[PROGRESS]++;
        }
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    count = strtoul(argv[2], NULL, 10) << 8;
    pages = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) _exit(3);
    for (uint64_t number = 0; number < count; number++) pages[number * WORDS] = number;
    pthread_t thread;
    pthread_create(&thread, NULL, change, (void *)1);
    status[READY] = 1;
    change(0);
}
