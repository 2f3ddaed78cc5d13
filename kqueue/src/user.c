/*
 * EVFILT_USER: events that the program makes.
 *
 * Wholly in user space: a trigger puts the knote on the active list, and the bell wakes a waiter.
 * The stored flags are the low 24 bits of `event.fflags`, the stored data is `event.data`; a
 * trigger replaces the data, and changes the flags as its NOTE_FF* operation says.
 */
#include "kq.h"

static unsigned int combine(unsigned int stored, unsigned int change)
{
    unsigned int flags = change & NOTE_FFLAGSMASK;

    switch (change & NOTE_FFCTRLMASK) {
    case NOTE_FFAND: return stored & flags;
    case NOTE_FFOR: return stored | flags;
    case NOTE_FFCOPY: return flags;
    default: return stored;
    }
}

static int trigger_if_asked(struct kq *q, struct knote *note, unsigned int change)
{
    if (change & NOTE_TRIGGER)
        note->u.user.triggered = true;
    return note->u.user.triggered ? pier__kq_activate(q, note) : 0;
}

static int attach(struct kq *q, struct knote *note)
{
    unsigned int change = note->event.fflags;

    note->event.fflags = change & NOTE_FFLAGSMASK;
    return trigger_if_asked(q, note, change);
}

static int modify(struct kq *q, struct knote *note, const struct kevent *change)
{
    note->event.fflags = combine(note->event.fflags, change->fflags);
    note->event.data = change->data;
    return trigger_if_asked(q, note, change->fflags);
}

static int detach(struct kq *q, struct knote *note, bool spent)
{
    (void)q;
    (void)note;
    (void)spent;
    return 0;
}

static bool report(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out)
{
    (void)q;
    (void)ready;
    if (!note->u.user.triggered)
        return false;
    out->fflags = note->event.fflags;
    out->data = note->event.data;
    if (note->event.flags & EV_CLEAR)
        note->u.user.triggered = false;
    return true;
}

static void silence(struct kq *q, struct knote *note)
{
    (void)q;
    (void)note;
}

const struct pier__kq_filter pier__kq_user = {
    .attach = attach,
    .modify = modify,
    .detach = detach,
    .report = report,
    .silence = silence,
};
