/* A TCP echo server, as tutorials on kqueue have it. usage: tutorial_echo PORT */
#include <sys/types.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char *argv[])
{
    struct sockaddr_in addr;
    struct kevent evSet;
    struct kevent evList[32];
    int kq, nev, i, fd, localFd, one = 1;
    char buf[256];
    ssize_t bytes_read;

    if (argc != 2)
        errx(EXIT_FAILURE, "usage: %s port", argv[0]);

    if ((localFd = socket(AF_INET, SOCK_STREAM, 0)) == -1)
        err(EXIT_FAILURE, "socket");
    setsockopt(localFd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    memset(&addr, 0, sizeof(addr));
    addr.sin_family = AF_INET;
    addr.sin_port = htons(atoi(argv[1]));
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(localFd, (struct sockaddr *)&addr, sizeof(addr)) == -1)
        err(EXIT_FAILURE, "bind");
    if (listen(localFd, 5) == -1)
        err(EXIT_FAILURE, "listen");

    if ((kq = kqueue()) == -1)
        err(EXIT_FAILURE, "kqueue");
    EV_SET(&evSet, localFd, EVFILT_READ, EV_ADD, 0, 0, NULL);
    if (kevent(kq, &evSet, 1, NULL, 0, NULL) == -1)
        err(EXIT_FAILURE, "kevent");
    printf("waiting for connections\n");

    while (1) {
        nev = kevent(kq, NULL, 0, evList, 32, NULL);
        if (nev < 1)
            err(EXIT_FAILURE, "kevent");
        for (i = 0; i < nev; i++) {
            if (evList[i].flags & EV_EOF) {
                fd = evList[i].ident;
                while ((bytes_read = recv(fd, buf, sizeof(buf), 0)) > 0)
                    send(fd, buf, bytes_read, 0);
                printf("disconnect\n");
                EV_SET(&evSet, fd, EVFILT_READ, EV_DELETE, 0, 0, NULL);
                if (kevent(kq, &evSet, 1, NULL, 0, NULL) == -1)
                    err(EXIT_FAILURE, "kevent");
                close(fd);
            } else if ((int)evList[i].ident == localFd) {
                fd = accept(evList[i].ident, NULL, NULL);
                if (fd == -1)
                    err(EXIT_FAILURE, "accept");
                printf("got connection!\n");
                EV_SET(&evSet, fd, EVFILT_READ, EV_ADD, 0, 0, NULL);
                if (kevent(kq, &evSet, 1, NULL, 0, NULL) == -1)
                    err(EXIT_FAILURE, "kevent");
            } else if (evList[i].filter == EVFILT_READ) {
                bytes_read = recv(evList[i].ident, buf, sizeof(buf), 0);
                printf("read %zd bytes\n", bytes_read);
                if (bytes_read > 0)
                    send(evList[i].ident, buf, bytes_read, 0);
            }
        }
    }
}
