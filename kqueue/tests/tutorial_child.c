/* Watching for the end of a child, as tutorials on kqueue have it. */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    struct kevent ke;
    pid_t pid;
    int kq, n, status;

    pid = fork();
    if (pid == -1)
        err(1, "fork");
    if (pid == 0) {
        /* the child works for a moment, then exits */
        sleep(1);
        _exit(23);
    }

    kq = kqueue();
    if (kq == -1)
        err(1, "kqueue");
    EV_SET(&ke, pid, EVFILT_PROC, EV_ADD | EV_ENABLE | EV_ONESHOT, NOTE_EXIT, 0, NULL);
    if (kevent(kq, &ke, 1, NULL, 0, NULL) < 0)
        err(1, "kevent");
    printf("watching the child\n");

    n = kevent(kq, NULL, 0, &ke, 1, NULL);
    if (n < 0)
        err(1, "kevent");
    if (n > 0 && (ke.fflags & NOTE_EXIT)) {
        status = ke.data;
        if ((pid_t)ke.ident == pid && WIFEXITED(status))
            printf("the child exited with status %d\n", WEXITSTATUS(status));
        waitpid(pid, NULL, 0);
    }
    close(kq);
    return 0;
}
