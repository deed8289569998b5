/* The main thread ends while another one runs on. */
#include "status.h"

static void *run_on(void *arg) {
    (void)arg;
    for (;;) {
        status[PROGRESS]++;
        nap_us(1000);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    pthread_t thread;
    pthread_create(&thread, NULL, run_on, NULL);
    status[READY] = 1;
    pthread_exit(NULL);
}
