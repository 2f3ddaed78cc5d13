/* A timer that fires each second, as tutorials on kqueue have it; ends after three times. */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    struct kevent change; /* event we want to monitor */
    struct kevent event;  /* event that was triggered */
    int kq, nev, fired = 0;

    /* create a new kernel event queue */
    if ((kq = kqueue()) == -1)
        err(1, "kqueue()");

    /* initialise kevent structure */
    EV_SET(&change, 1, EVFILT_TIMER, EV_ADD | EV_ENABLE, 0, 1000, 0);

    /* loop */
    while (fired < 3) {
        nev = kevent(kq, fired == 0 ? &change : NULL, fired == 0 ? 1 : 0, &event, 1, NULL);
        if (nev < 0)
            err(1, "kevent()");
        else if (nev > 0) {
            if (event.flags & EV_ERROR)
                errx(1, "EV_ERROR: %s", strerror(event.data));
            fired++;
            printf("timer %d fired\n", (int)event.ident);
        }
    }

    close(kq);
    return EXIT_SUCCESS;
}
