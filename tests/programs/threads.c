/* Sixteen threads, each counting in its own way; each checks itself. */
#include "status.h"

static __thread uint64_t mine;
static uint64_t counts[16];

static void *count(void *arg) {
    uint64_t id = (uint64_t)arg;
    for (;;) {
        mine++;
        if (++counts[id] != mine) status[ERRORS]++;
        if (id % 2) nap_us(100);
        if (id == 0 && mine % 1024 == 0) status[PROGRESS]++;
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    for (uint64_t id = 1; id < 16; id++) {
        pthread_t thread;
        pthread_create(&thread, NULL, count, (void *)id);
    }
    status[READY] = 1;
    count(0);
}
