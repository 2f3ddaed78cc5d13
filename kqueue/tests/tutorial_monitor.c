/* A file monitor, as tutorials on kqueue have it. usage: tutorial_monitor FILE */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
    int f, kq, nev;
    struct kevent change;
    struct kevent event;

    if (argc != 2)
        errx(1, "usage: %s file", argv[0]);

    kq = kqueue();
    if (kq == -1)
        err(1, "kqueue()");

    f = open(argv[1], O_RDONLY);
    if (f == -1)
        err(1, "open()");

    EV_SET(&change, f, EVFILT_VNODE, EV_ADD | EV_ENABLE | EV_CLEAR,
           NOTE_DELETE | NOTE_EXTEND | NOTE_WRITE | NOTE_ATTRIB | NOTE_RENAME, 0, 0);
    if (kevent(kq, &change, 1, NULL, 0, NULL) == -1)
        err(1, "kevent()");
    printf("watching %s\n", argv[1]);

    for (;;) {
        nev = kevent(kq, NULL, 0, &event, 1, NULL);
        if (nev == -1)
            err(1, "kevent()");
        if (nev > 0) {
            if (event.fflags & NOTE_EXTEND)
                printf("File extended\n");
            else if (event.fflags & NOTE_WRITE)
                printf("File modified\n");
            if (event.fflags & NOTE_ATTRIB)
                printf("File attributes modified\n");
            if (event.fflags & NOTE_RENAME)
                printf("File renamed\n");
            if (event.fflags & NOTE_DELETE) {
                printf("File deleted\n");
                break;
            }
        }
    }

    close(kq);
    close(f);
    return EXIT_SUCCESS;
}
