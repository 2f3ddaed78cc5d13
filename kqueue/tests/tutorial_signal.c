/* Waiting for SIGINT and SIGTERM, as tutorials on kqueue have it. */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    struct kevent changes[2];
    struct kevent event;
    int kq, n;

    kq = kqueue();
    if (kq == -1)
        err(EXIT_FAILURE, "kqueue");

    EV_SET(&changes[0], SIGINT, EVFILT_SIGNAL, EV_ADD, 0, 0, NULL);
    EV_SET(&changes[1], SIGTERM, EVFILT_SIGNAL, EV_ADD, 0, 0, NULL);
    /* kqueue comes after the ordinary delivery: keep the default action from ending us */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    if (kevent(kq, changes, 2, NULL, 0, NULL) == -1)
        err(EXIT_FAILURE, "kevent");
    printf("my pid is %d\n", (int)getpid());

    for (;;) {
        n = kevent(kq, NULL, 0, &event, 1, NULL);
        if (n == -1)
            err(EXIT_FAILURE, "kevent");
        if (event.filter != EVFILT_SIGNAL)
            continue;
        if (event.ident == SIGINT) {
            printf("SIGINT\n");
        } else if (event.ident == SIGTERM) {
            printf("SIGTERM, bye\n");
            break;
        }
    }
    close(kq);
    return EXIT_SUCCESS;
}
