/* Executes itself in a loop, now from the main thread, now from another one,
   while further threads run. argv[2] is the generation. */
#include "status.h"

static char **arguments;

static void again(void) {
    static char number[32];
    uint64_t generation = strtoull(arguments[2], NULL, 10);
    if (status[PROGRESS] != generation) status[ERRORS]++;
    status[PROGRESS] = generation + 1;
    snprintf(number, sizeof number, "%llu", (unsigned long long)generation + 1);
    char *argv[] = {arguments[0], arguments[1], number, NULL};
    execv("/proc/self/exe", argv);
    status[ERRORS]++;
}

static void *spin(void *arg) {
    for (;;) nap_us((long)arg);
    return NULL;
}

static void *exec_thread(void *arg) {
    (void)arg;
    again();
    return NULL;
}

int main(int argc, char **argv) {
    (void)argc;
    arguments = argv;
    open_status(argv[1]);
    pthread_t thread;
    pthread_create(&thread, NULL, spin, (void *)50);
    pthread_create(&thread, NULL, spin, (void *)200);
    status[READY] = 1;
    nap_us(300);
    if (strtoull(argv[2], NULL, 10) % 2) {
        pthread_create(&thread, NULL, exec_thread, NULL);
        for (;;) pause();
    }
    again();
    return 4;
}
