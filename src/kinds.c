/* kinds.c - a row per kind of op. See core/kind.h for what the columns say. */

#include "core/kind.h"
#include "ops/ops.h"
#include "ops/stream/stream.h"

/* Ops that a handle's table of calls runs, in one of its queues. */
#define STREAM(kind, its_name, its_direction, its_refusal) \
    [kind] = {.name = (its_name), \
              .has_handle = true, \
              .direction = (its_direction), \
              .has_age = true, \
              .start = pier__stream_start, \
              .cancel = pier__stream_cancel, \
              .pause = pier__stream_pause, \
              .resume = pier__stream_resume, \
              .refusal = (its_refusal)}

const struct pier__kind pier__kinds[PIER__OP_KINDS] = {
    [PIER__OP_NONE] = {.name = "none", .direction = PIER__NO_DIRECTION},
    STREAM(PIER__OP_ACCEPT, "accept", PIER__RECEIVING, pier__refuse_accept),
    STREAM(PIER__OP_CONNECT, "connect", PIER__SENDING, pier__refuse_connect),
    STREAM(PIER__OP_RECEIVE, "receive", PIER__RECEIVING, pier__refuse_receive),
    STREAM(PIER__OP_RECEIVE_LENT, "receive lent", PIER__RECEIVING, pier__refuse_receive),
    STREAM(PIER__OP_SEND, "send", PIER__SENDING, pier__refuse_send),
    STREAM(PIER__OP_SEND_VECTORED, "send vectored", PIER__SENDING, pier__refuse_send),
    STREAM(PIER__OP_SHUTDOWN, "shutdown", PIER__SENDING, pier__refuse_send),
    [PIER__OP_POLL] = {.name = "poll",
                       .direction = PIER__NO_DIRECTION,
                       .start = pier__poll_start,
                       .cancel = pier__poll_cancel,
                       .pause = pier__poll_pause,
                       .resume = pier__poll_resume},
    [PIER__OP_TIMER] = {.name = "timer",
                        .direction = PIER__NO_DIRECTION,
                        .cancel = pier__timer_cancel,
                        .resume = pier__timer_resume},
    [PIER__OP_TIMER_ON] = {.name = "timer",
                           .has_handle = true,
                           .direction = PIER__NO_DIRECTION,
                           .cancel = pier__timer_cancel},
    [PIER__OP_POST] = {.name = "post", .direction = PIER__NO_DIRECTION},
    [PIER__OP_NOTIFY] = {.name = "notify",
                         .direction = PIER__NO_DIRECTION,
                         .cancel = pier__notify_cancel,
                         .resume = pier__notify_resume},
    [PIER__OP_PREPARE] = {.name = "prepare",
                          .direction = PIER__NO_DIRECTION,
                          .cancel = pier__hook_cancel},
    [PIER__OP_CHECK] = {.name = "check",
                        .direction = PIER__NO_DIRECTION,
                        .cancel = pier__hook_cancel},
};
