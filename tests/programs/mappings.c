/* Memory of every kind that sandlock's layouts tell apart, and then it waits in
   pause(2). argv[2] is a folder for files, argv[3] the name of one that stays. */
#include "status.h"

#define PAGES 3
#define SIZE (PAGES * 4096)

static char mark = 'a';

/* Map, write a page in the middle, and take the rights that it shall have. */
static void map(int fd, int flags, int prot) {
    int writing = flags & MAP_SHARED && fd >= 0 && !(prot & PROT_WRITE);
    int first = writing ? prot : PROT_READ | PROT_WRITE;
    char *memory = mmap(NULL, SIZE, first, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (memory == MAP_FAILED) _exit(4);
    if (!writing) memset(memory + 4096, mark++, 4096);
    if (mprotect(memory, SIZE, prot)) _exit(5);
}

static int make(const char *folder, const char *name) {
    char path[512], page[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < PAGES; i++) {
        memset(page, 'F' + i, sizeof page);
        if (write(fd, page, sizeof page) != sizeof page) _exit(6);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 4) return 3;
    open_status(argv[1]);
    const int R = PROT_READ, W = PROT_WRITE, X = PROT_EXEC, N = PROT_NONE;

    map(-1, MAP_PRIVATE, R | W);
    map(-1, MAP_PRIVATE, R);
    map(-1, MAP_PRIVATE, R | W | X);
    map(-1, MAP_PRIVATE, N);
    map(-1, MAP_PRIVATE, W);
    map(-1, MAP_SHARED, R | W);
    map(-1, MAP_SHARED, R);

    int file = make(argv[2], argv[3]);
    map(file, MAP_PRIVATE, R | W);
    map(file, MAP_PRIVATE, R);
    map(file, MAP_PRIVATE, R | X);
    map(file, MAP_SHARED, R | W);
    map(file, MAP_SHARED, R);
    lseek(file, 4097, SEEK_SET);

    int memfd = memfd_create("with a space", MFD_CLOEXEC);
    if (ftruncate(memfd, SIZE)) _exit(7);
    map(memfd, MAP_SHARED, R | W);
    map(memfd, MAP_PRIVATE, R | W);
    map(memfd, MAP_PRIVATE, R);

    int gone = make(argv[2], "gone");
    char path[512];
    snprintf(path, sizeof path, "%s/gone", argv[2]);
    unlink(path);
    map(gone, MAP_SHARED, R | W);
    map(gone, MAP_PRIVATE, R);

    if (mmap(NULL, 512ul << 20, N, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) ==
        MAP_FAILED)
        _exit(8);

    int ends[2];
    if (pipe2(ends, O_NONBLOCK) || write(ends[1], "held", 4) != 4) _exit(9);
    open("/dev/null", O_WRONLY | O_APPEND | O_CLOEXEC);

    status[READY] = 1;
    for (;;) pause();
}
