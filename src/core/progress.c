/* progress.c - time limits that ask for progress. See progress.h. */

#include "core/progress.h"

#include "core/end.h"

#define LOOKS 4

/* What the last look saw, in op->result. */
struct seen {
    uint32_t unsent; /* of the system's buffer */
    uint16_t moved;  /* handle->moved_ */
    uint8_t idle;    /* looks in a row that found nothing new */
    bool known;      /* false before the first look */
};

static_assert(sizeof(struct seen) == sizeof(int64_t), "what was seen fits into op->result");

static void look_later(struct pier_loop *loop, struct pier_op *op)
{
    uint64_t span = op->timeout_ns / LOOKS + 1;
    pier__timers_insert(&loop->core.timers, &op->timer_,
                        pier__time_after(pier__loop_clock(loop), span));
}

void pier__progress_begin(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    pier__handle_pace(handle);
    pier__op_set(op, PIER__PROGRESS);
    op->result = 0; /* nothing known */
    look_later(loop, op);
}

/* Behind an op whose progress isn't asked for nothing may be seen of it: then time stands still. */
static bool can_be_seen(const struct pier_handle *handle)
{
    const struct pier_op *head = handle->head_[PIER__SENDING];
    return head != NULL && (head->bits_ & PIER__PROGRESS);
}

bool pier__progress_goes_on(struct pier_loop *loop, struct pier_op *op)
{
    struct pier_handle *handle = op->owner_;
    struct seen before, now = {.moved = handle->moved_, .known = can_be_seen(handle)};
    memcpy(&before, &op->result, sizeof(before));
    if (handle->kind_ == PIER__KIND_STREAM) {
        loop->counters.system_calls++;
        now.unsent = pier__sys_unsent(handle->descriptor_);
    }
    if (before.known && now.known && now.moved == before.moved && now.unsent == before.unsent) {
        now.idle = (uint8_t)(before.idle + 1);
    }
    if (now.idle == LOOKS) {
        return false;
    }
    memcpy(&op->result, &now, sizeof(now));
    look_later(loop, op);
    return true;
}
