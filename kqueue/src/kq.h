/*
 * What the files of libpier-kqueue share: the queue, the knote, and what a filter must provide.
 *
 * A queue is an epoll instance whose descriptor the program holds, plus this library's tables. All
 * kernel sources of its events are registered there, so that the descriptor is readable exactly
 * when kevent() has something to look at:
 *
 *   EVFILT_READ         the descriptor itself, in `fd`
 *   EVFILT_WRITE        the descriptor itself, in a second epoll `side` that lies in the first: one
 *                       epoll knows a descriptor only once, and two registrations keep the two
 *                       filters' edges and one-shots apart
 *   EVFILT_PROC         a pidfd each (process.c), and the process connector (connector.c)
 *   EVFILT_TIMER        a heap and a timerfd per clock (timer.c)
 *   EVFILT_VNODE        an inotify instance (inotify.c), which files' EVFILT_READ shares (file.c)
 *   EVFILT_SIGNAL       an eventfd and a signalfd of the whole process (signal.c)
 *   EVFILT_USER, and whatever else is known only here: the active list, and the bell (knote.c)
 *
 * A registration carries a tag, the index and generation of its knote, so that an event that was
 * fetched just before its knote was deleted finds nobody. Everything but the wait itself happens
 * under the queue's lock; no lock is held while waiting. Lock order: the list of queues, a queue,
 * the signal table. Errors travel as positive errno values, as the kernel's own kqueue has it.
 */
#ifndef PIER_KQUEUE_KQ_H
#define PIER_KQUEUE_KQ_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/event.h>

struct kq;
struct knote;
struct sigaction;
struct stat;

/* The flags of a change that stay with the knote. */
#define PIER__KQ_STICKY (EV_ONESHOT | EV_CLEAR | EV_RECEIPT | EV_DISPATCH)

/*
 * One per EVFILT_*. All are called with the queue locked and return 0 or an errno.
 *
 * attach: the knote is new, `event` is the change, `disabled` is set. On failure it is freed.
 * modify: `note->event` still has the old fflags and data, all else is new already. The filter
 *   takes over what it wants of `change`. May drop the knote, if its object turned out to be gone.
 * detach: let go of the kernel; the knote is freed next. `spent` says that a one-shot event has
 *   just been returned. The outcome is what EV_DELETE returns.
 * report: `ready` are epoll's flags (0: called from the active list). If there is an event,
 *   complete `out` (which has ident, filter, flags, udata and ext) and return true.
 * silence: the knote was disabled by EV_DISPATCH after an event was returned.
 */
struct pier__kq_filter {
    int (*attach)(struct kq *q, struct knote *note);
    int (*modify)(struct kq *q, struct knote *note, const struct kevent *change);
    int (*detach)(struct kq *q, struct knote *note, bool spent);
    bool (*report)(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out);
    void (*silence)(struct kq *q, struct knote *note);
    unsigned short implied; /* EV_CLEAR, where the filter always has it */
    bool is_descriptor;     /* ident is a descriptor */
};

extern const struct pier__kq_filter pier__kq_read, pier__kq_write, pier__kq_vnode;
extern const struct pier__kq_filter pier__kq_process, pier__kq_signal, pier__kq_timer;
extern const struct pier__kq_filter pier__kq_user;

/* What a descriptor turned out to be, learnt when first needed. */
enum knote_kind { KIND_UNKNOWN, KIND_SOCKET, KIND_PIPE, KIND_FILE, KIND_OTHER };

struct knote {
    struct kevent event; /* as asked for; of the flags only the sticky ones */
    const struct pier__kq_filter *filter;
    struct knote *hash_next;
    struct knote *active_next, *active_previous;
    uint32_t index;      /* its place, fixed for the life of the queue */
    uint32_t generation; /* how often that place was given away */
    uint32_t round;      /* the queue's, when epoll last returned it */
    bool in_use;
    bool disabled;
    bool active;        /* on the active list */
    bool registered;    /* epoll knows it */
    bool parked;        /* edge-triggered for now, because epoll is ready and the filter isn't */
    unsigned char kind; /* enum knote_kind */
    int watch;          /* inotify's number for it, or -1 */
    struct knote *watch_next;
    union {
        struct {
            uint64_t next_ns, period_ns; /* when it expires next; 0: never again */
            uint64_t returned_ns;        /* by the wall clock: when it was last returned, or 0 */
            uint32_t place;              /* in the heap, or PIER__KQ_NOWHERE */
            bool wall;                   /* by the wall clock */
        } timer;
        struct {
            uint64_t seen; /* deliveries already returned */
        } signal;
        struct {
            bool triggered;
        } user;
        struct {
            int pidfd;
            uint32_t happened; /* NOTE_FORK, NOTE_EXEC */
        } process;
        struct {
            uint64_t device, inode, size, links; /* as last seen */
            uint64_t rights, attributes;         /* digests: mode and owner; the extended ones */
            int64_t modified_ns;
            uint32_t heard;    /* IN_* not looked at yet */
            uint32_t entries;  /* NOTE_* for changes of a directory's entries, likewise */
            uint32_t happened; /* NOTE_* not returned yet */
            int parent_watch;  /* directories: inotify's number for "..", or -1 */
            bool is_directory;
        } vnode;
        struct {
            uint64_t device, inode;
            struct knote *next;
        } file;
    } u;
};

#define PIER__KQ_NOWHERE UINT32_MAX

/* A heap of timers on one clock. */
struct pier__kq_heap {
    struct knote **notes;
    uint32_t count, room;
    int timerfd;       /* -1 before the first timer */
    uint64_t armed_ns; /* what the timerfd is set to; 0: nothing */
};

/* The library's own descriptors in the queue's epoll. Their tags are no knote's. */
enum pier__kq_source {
    SOURCE_BELL,
    SOURCE_SIDE,
    SOURCE_TIMER,
    SOURCE_WALL_TIMER,
    SOURCE_INOTIFY,
    SOURCE_SIGNAL,
    SOURCE_SIGNAL_BLOCKED,
    SOURCE_CONNECTOR,
    SOURCE_COUNT
};

/* Those of them behind which there are many. */
enum pier__kq_turn { TURN_ACTIVE, TURN_SIDE, TURN_TIMER, TURN_WALL_TIMER, TURN_COUNT };

#define PIER__KQ_WATCH_BUCKETS 64
#define PIER__KQ_NO_TAG UINT64_MAX
/* How many events one wait brings at most. */
#define PIER__KQ_BATCH 256

/*
 * Memory of a queue is never given back, only used again, so that a thread that comes late finds a
 * lock and the word "closed" instead of nothing.
 */
struct kq {
    pthread_mutex_t lock;
    int fd;                 /* under the lock: a number that the caller has the queue open under */
    bool open;              /* the program hasn't closed it, as far as known */
    _Atomic uint64_t life;  /* counts the queues that lived here; read without the lock as well */
    atomic_bool needs_look; /* there is something that each kevent() looks at before it waits */
    struct kq *next;
    struct kq *ring_next, *ring_previous; /* of the open ones; ring_next alone: of the others */
    int first_number;                     /* the first of the numbers it is open under, or -1 */

    struct knote **chunks;
    uint32_t chunk_count;
    uint32_t free_index; /* first free knote; they are linked by `u.timer.place` */
    struct knote **buckets;
    uint32_t bucket_count, note_count;

    struct knote *active_first, *active_last;
    uint32_t active_count;
    bool bell_rung;
    bool is_collecting; /* kevent() is about to look at the active list: no need to ring */

    struct {
        int fd; /* -1: not there */
        uint32_t events;
    } sources[SOURCE_COUNT];

    struct pier__kq_heap heaps[2]; /* monotonic, wall clock */
    struct knote *watches[PIER__KQ_WATCH_BUCKETS];
    struct knote *files; /* EVFILT_READ on regular files */
    uint32_t signal_count, connector_count, parent_count;
    uint32_t stale_streak; /* waits in a row that brought events of nobody */
    /* collect.c: how many events a source may still return before epoll is asked again. */
    uint32_t owed[TURN_COUNT];
    uint32_t round;      /* counts the calls that collect events */
    uint64_t side_first; /* the tag that the second epoll's turn began with */
};

/* numbers.c: which descriptor leads to which queue, if it is still open. */

struct kq *pier__kq_queue_at(int fd);
/* The number after `fd` of the same queue, or -1. With the queue's lock held, as the other two. */
int pier__kq_next_number(int fd);
/* The number leads nowhere so far. One thread at a time adds and removes, whatever the queue. */
int pier__kq_add_number(struct kq *q, int fd);
void pier__kq_remove_number(struct kq *q, int fd);
/* Whether one number is a duplicate of the other. */
bool pier__kq_is_same_open_file(int a, int b);

/* queue.c: birth and end of queues, and finding out that one closed. */

/* The queue that is open as `fd`, locked, or NULL. */
struct kq *pier__kq_lock(int fd);
/*
 * What kevent() without changes needs to know before it waits, without the lock: the queue's life,
 * or 0 if `fd` isn't known as a queue or has something to look at first.
 */
uint64_t pier__kq_peek(int fd);
void pier__kq_unlock(struct kq *q);
/* EBADF if `q->fd` isn't this queue any more, else 0. */
int pier__kq_verify(struct kq *q);
bool pier__kq_is_queue(int fd);
/* Puts `epoll` in the place of every number that `q` is open under. */
int pier__kq_replace_epoll(struct kq *q, int epoll);
/* After the former, with no lock held: queues that watch `fd` look at it anew. */
void pier__kq_refresh_watchers(int fd);

/* knote.c: the table of knotes, the active list, the bell, the library's own descriptors. */

struct knote *pier__kq_find(struct kq *q, const struct pier__kq_filter *filter, uintptr_t ident);
struct knote *pier__kq_at(struct kq *q, uint32_t index);
struct knote *pier__kq_by_tag(struct kq *q, uint64_t tag);
uint64_t pier__kq_tag(const struct knote *note);
struct knote *pier__kq_note_new(struct kq *q, const struct pier__kq_filter *filter,
                                const struct kevent *change);
void pier__kq_note_free(struct kq *q, struct knote *note);
/* Detaches and frees; returns what detach said. */
int pier__kq_drop(struct kq *q, struct knote *note, bool spent);
/* Puts it on the active list: the next kevent() calls its report(). */
int pier__kq_activate(struct kq *q, struct knote *note);
void pier__kq_deactivate(struct kq *q, struct knote *note);
/* Makes the queue readable while the active list isn't empty. */
int pier__kq_ring(struct kq *q);
/* Takes that back: all that it told of has been returned by a call that didn't hear it. */
void pier__kq_silence_bell(struct kq *q);
int pier__kq_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int pier__kq_stat(int fd, struct stat *status);
bool pier__kq_is_open(int fd);
int pier__kq_source_add(struct kq *q, enum pier__kq_source source, int fd, uint32_t events);
void pier__kq_source_close(struct kq *q, enum pier__kq_source source);
uint64_t pier__kq_source_tag(enum pier__kq_source source);
/* Whether `fd` is open, and of the kind that /proc calls by a name with `kind` in it. */
bool pier__kq_is_kind(int fd, const char *kind);
/* Closes it if it is. */
void pier__kq_close(int fd, const char *kind);

/* collect.c: what epoll said becomes events. */

/* Stores an event if the filter has one, and does what the flags want done then. */
bool pier__kq_deliver(struct kq *q, struct knote *note, uint32_t ready, struct kevent *out);
/* Stores at most `room` events, of which a wait has brought `count` or fewer so far. */
int pier__kq_collect(struct kq *q, const struct epoll_event *ready, int count, struct kevent *out,
                     int room);
/* Stores what found no room in its turn. */
int pier__kq_collect_owed(struct kq *q, struct kevent *out, int room);
bool pier__kq_owes(const struct kq *q);

/* descriptor.c: EVFILT_READ and EVFILT_WRITE in epoll. rebuild.c: making epoll forget. */

uint32_t pier__kq_epoll_mask(const struct knote *note);
int pier__kq_epoll_of(struct kq *q, const struct knote *note);
/* Replaces the epoll instances by new ones that know only what is still watched. */
void pier__kq_rebuild(struct kq *q);

/* socket.c: what a socket or pipe says of itself. */

int pier__kq_backlog(int fd);
int pier__kq_socket_error(int fd);
/*
 * What EPOLLERR means when there is nothing else: an error that the next call will return, or
 * messages in the error queue (time stamps, word of MSG_ZEROCOPY), which BSD doesn't have, and
 * which neither read() nor write() would find.
 */
enum pier__kq_error { ERROR_OF_SOCKET, ERROR_QUEUE, ERROR_UNKNOWN };
enum pier__kq_error pier__kq_error_kind(int fd);
int64_t pier__kq_socket_space(int fd);
int64_t pier__kq_pipe_space(int fd);

/* file.c: EVFILT_READ and EVFILT_WRITE on what epoll refuses. */

int pier__kq_file_attach(struct kq *q, struct knote *note);
void pier__kq_file_detach(struct kq *q, struct knote *note);
/* Whether the number still means the file that was attached. */
bool pier__kq_file_is_same(const struct knote *note);
bool pier__kq_file_report(struct kq *q, struct knote *note, struct kevent *out);
/* Activates those that have become readable unseen, by lseek(). */
void pier__kq_files_check(struct kq *q);

/* inotify.c: watches, and who hears of what. */

#define PIER__KQ_DIRECTORY_ENTRIES (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)
/* Beside the IN_* that a knote heard: something in the parent was removed or replaced. */
#define PIER__KQ_HEARD_OF_END 0x80000000U

int pier__kq_watch_add(struct kq *q, struct knote *note, uint32_t mask);
void pier__kq_watch_remove(struct kq *q, struct knote *note);
/* Watches the directory that a directory lies in now. */
int pier__kq_watch_parent(struct kq *q, struct knote *note);
void pier__kq_unwatch_parent(struct kq *q, struct knote *note);
/* Reads what inotify has, and activates who is concerned. */
void pier__kq_inotify_read(struct kq *q);

/* vnode.c: finds out what it was that the knote heard of. May drop the knote. */
void pier__kq_vnode_look(struct kq *q, struct knote *note);
/* NOTE_* for an entry of a directory; `is_inside`: it was renamed within the directory. */
uint32_t pier__kq_vnode_entries_changed(uint32_t mask, bool is_inside);

/* timer.c: stores the events of expired timers. */
int pier__kq_timers_collect(struct kq *q, int which, struct kevent *out, int room);
void pier__kq_timers_close(struct kq *q);

/* signal.c: activates the knotes whose signal came. disposition.c: how it was noticed. */

void pier__kq_signals_collect(struct kq *q);
/* Looks whether the program has changed what the watched signals do, and adapts. */
void pier__kq_signals_refresh(struct kq *q);

/* Begins or ends counting `signal`; each kqueue counts as one watcher. */
int pier__kq_signal_watch(int signal);
void pier__kq_signal_unwatch(int signal);
uint64_t pier__kq_signal_count(int signal);
void pier__kq_signal_adapt(int signal);
/* Takes the blocked signals that wait; counts them. */
void pier__kq_signal_take_blocked(void);
int pier__kq_signal_eventfd(void);
int pier__kq_signal_blockedfd(void);
/* How many signals this thread caught that the program itself ignores. */
unsigned int pier__kq_signals_swallowed(void);
/* sigaction() as the program sees it: ours doesn't show. An errno. */
int pier__kq_disposition(int signal, const struct sigaction *wanted, struct sigaction *old);
/* interpose.c: the C library's sigaction(). */
int pier__kq_real_sigaction(int number, const struct sigaction *action, struct sigaction *old);
void pier__kq_signals_before_fork(void);
void pier__kq_signals_after_fork(void);
/* In a child: the eventfd and the signalfd are the parent's. */
void pier__kq_signals_forget_descriptors(void);

/* connector.c: the kernel's news of fork() and execve(). */

int pier__kq_connector_open(struct kq *q);
void pier__kq_connector_read(struct kq *q);

#endif
