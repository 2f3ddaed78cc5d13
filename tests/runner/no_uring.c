/* no_uring.c - runs a command in which the kernel answers io_uring_setup() with an error.
 *
 * usage: no-uring EPERM|ENOSYS COMMAND [ARGUMENT...]
 *
 * The filter does what containers do, and what sysctl kernel.io_uring_disabled=2 does, but needs no
 * privilege and touches no other process of the machine. Children inherit it. */

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    unsigned code = 0;
    if (argc >= 3 && strcmp(argv[1], "EPERM") == 0)
        code = EPERM;
    else if (argc >= 3 && strcmp(argv[1], "ENOSYS") == 0)
        code = ENOSYS;
    if (code == 0) {
        fprintf(stderr, "usage: no-uring EPERM|ENOSYS COMMAND [ARGUMENT...]\n");
        return 2;
    }

    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        fprintf(stderr, "no-uring: this kernel or sandbox refuses a filter: %s\n", strerror(errno));
        return 2;
    }
    execvp(argv[2], argv + 2);
    fprintf(stderr, "no-uring: %s: %s\n", argv[2], strerror(errno));
    return 127;
}
