/* SPDX-License-Identifier: MIT */
/* consumer.c - the smallest whole program on an installed pier: a timer that fires once. Valid C
 * and C++, since the header has to be both. */

#include <pier/pier.h>

#include <stdio.h>

static int fired;

static void on_timer(struct pier_op *op)
{
    fired += op->result == 0;
}

int main(void)
{
    static struct pier_op timer;
    struct pier_loop *loop = NULL;
    if (pier_loop_new(&loop, NULL) != 0)
        return 1;
    pier_timer(loop, &timer, PIER_MILLISECOND, on_timer);
    int more = pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    printf("pier %s on %s: %d timer fired\n", pier_version(), pier_loop_backend(loop), fired);
    pier_loop_free(loop);
    return more == 0 && fired == 1 ? 0 : 1;
}
