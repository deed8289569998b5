/* A tree of five processes that passes one numbered token around through pipes, as
   fast as it can. Each keeps the number of the token in `holding` while it has it, and
   shows 0 some time afterwards. FIRST is the address of `holding` (the same in all),
   SECOND is where the pids begin. */
#include "status.h"
#include <sys/prctl.h>

enum { RUNNERS = 5 };
static volatile uint64_t holding;
static int pipes[RUNNERS][2];

static void run(int self) {
    int in = pipes[self][0], out = pipes[(self + 1) % RUNNERS][1];
    status[SECOND + self] = getpid();
    if (self == RUNNERS - 1) status[READY] = 1;
    for (;;) {
        /* From the pipe to `holding` in one step. */
        if (read(in, (void *)&holding, 8) != 8) _exit(4);
        uint64_t token = holding + 1;
        if (write(out, &token, 8) != 8) _exit(5);
        holding = 0;
        if (self == 0) status[PROGRESS] = token;
    }
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    status[FIRST] = (uint64_t)&holding;
    for (int i = 0; i < RUNNERS; i++)
        if (pipe(pipes[i])) return 3;
    uint64_t token = 1;
    if (write(pipes[0][1], &token, 8) != 8) return 5;
    for (int i = 1; i < RUNNERS; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            run(i);
        }
    run(0);
}
