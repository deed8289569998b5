/* Starts and ends threads all the time; each must run and come back. */
#include "status.h"

static void *work(void *arg) { return (void *)((uint64_t)arg * 3 + 1); }

static void *relay(void *arg) {
    /* Every runner starts the next one and ends. */
    pthread_t next;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    __atomic_add_fetch(&status[FIRST], 1, __ATOMIC_SEQ_CST);
    while (pthread_create(&next, &attr, relay, arg)) nap_us(100);
    return NULL;
}

static void *churn(void *arg) {
    (void)arg;
    for (uint64_t n = 1;; n++) {
        pthread_t threads[4];
        for (uint64_t i = 0; i < 4; i++)
            while (pthread_create(&threads[i], NULL, work, (void *)(n + i))) nap_us(100);
        for (uint64_t i = 0; i < 4; i++) {
            void *result;
            pthread_join(threads[i], &result);
            if ((uint64_t)result != (n + i) * 3 + 1) status[ERRORS]++;
        }
        __atomic_add_fetch(&status[PROGRESS], 1, __ATOMIC_SEQ_CST);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    pthread_t thread;
    pthread_create(&thread, NULL, churn, NULL);
    pthread_create(&thread, NULL, relay, NULL);
    status[READY] = 1;
    churn(NULL);
}
