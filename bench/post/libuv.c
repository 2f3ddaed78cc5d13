/* Posts on libuv: one uv_async_t in each loop. */
#include "post.h"

#include <stdio.h>

#include <uv.h>

const char post_name[] = "libuv";

static struct side {
    uv_loop_t loop;
    uv_async_t async;
} sides[2];

static void on_async(uv_async_t *async)
{
    post_arrived(async == &sides[1].async);
}

int post_open(int side)
{
    int error = uv_loop_init(&sides[side].loop);
    if (error == 0)
        error = uv_async_init(&sides[side].loop, &sides[side].async, on_async);
    if (error < 0) {
        fprintf(stderr, "libuv: %s\n", uv_strerror(error));
        return -1;
    }
    return 0;
}

void post_send(int side)
{
    uv_async_send(&sides[side].async);
}

void post_run(int side)
{
    uv_run(&sides[side].loop, UV_RUN_DEFAULT);
}

void post_leave(int side)
{
    uv_stop(&sides[side].loop);
}
