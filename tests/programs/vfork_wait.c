/* The main thread is in vfork(2): state D until the child ends, argv[2] ms later. */
#include "status.h"

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    long ms = atol(argv[2]);
    status[READY] = 1;
    if (vfork() == 0) {
        for (long i = 0; i < ms; i++) nap_us(1000);
        _exit(0);
    }
    wait(NULL);
    for (;;) {
        status[PROGRESS]++;
        nap_us(1000);
    }
}
