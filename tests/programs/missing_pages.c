/* Memory registered with userfaultfd(2) for missing pages, and nobody who supplies
   them. FIRST is its address: one page there, one missing, one missing and marked
   write-protected, where the kernel can. Also a guard page
   (MADV_GUARD_INSTALL) at SECOND, a mapping of a file beyond its end, and one the
   program may write but not read. */
#include "status.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define WP_UNPOPULATED (1 << 13)
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *reserve(size_t pages, int prot) {
    return mmap(NULL, pages * 4096, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(int argc, char **argv) {
    (void)argc;
    open_status(argv[1]);
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = WP_UNPOPULATED | 1};
    int marks = uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0;
    if (!marks) {
        close(uffd);
        uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
        api = (struct uffdio_api){.api = UFFD_API};
        if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) return 5;
    }

    char *memory = reserve(3, PROT_READ | PROT_WRITE);
    madvise(memory, 3 * 4096, MADV_NOHUGEPAGE);
    memset(memory, 'u', 4096);
    struct uffdio_register range = {
        .range = {(uint64_t)memory, 3 * 4096},
        .mode = UFFDIO_REGISTER_MODE_MISSING | (marks ? 2 : 0),
    };
    if (ioctl(uffd, UFFDIO_REGISTER, &range)) return 6;
    uint64_t protect[3] = {(uint64_t)memory + 2 * 4096, 4096, 1};
    if (marks && ioctl(uffd, 0xc018aa06 /* UFFDIO_WRITEPROTECT */, protect)) return 8;
    status[FIRST] = (uint64_t)memory;

    char *guarded = reserve(3, PROT_READ | PROT_WRITE);
    memset(guarded, 'g', 3 * 4096);
    status[SECOND] = (uint64_t)guarded;
    status[SECOND + 1] = madvise(guarded + 4096, 4096, MADV_GUARD_INSTALL) == 0;

    char *secret = reserve(2, PROT_READ | PROT_WRITE);
    memset(secret, 'w', 2 * 4096);
    mprotect(secret, 2 * 4096, PROT_WRITE);
    status[SECOND + 2] = (uint64_t)secret;

    int fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(fd, "file", 4) != 4) return 7;
    char *file = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    status[SECOND + 3] = (uint64_t)file;

    status[READY] = 1;
    for (;;) {
        status[PROGRESS]++;
        nap_us(1000);
    }
}
