/* guide.c - the code of docs/guide.md, as a program that runs all of it.
 *
 * usage: guide
 *
 * The guide quotes this file and the other examples; examples/check_guide.sh sees to it that what
 * it quotes is there. Each section is a few functions and one that runs them on a loop of its own,
 * over socket pairs, and fails the program when the outcome isn't what the guide says. */

#include <pier/pier.h>

#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void expect(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "guide: not as the guide says: %s\n", what);
        exit(1);
    }
}

static struct pier_loop *new_loop(void)
{
    struct pier_loop *loop;
    int error = pier_loop_new(&loop, NULL);
    if (error < 0) {
        fprintf(stderr, "%s: %s\n", pier_error_name(error), pier_error_detail());
        exit(1);
    }
    return loop;
}

static void on_ended(struct pier_op *op)
{
    (void)op;
}

/* A first server: what is shared by all connections of a loop. */

struct server {
    int visits;
};

static void on_visit(struct pier_op *op)
{
    struct server *server = pier_loop_user(pier_op_loop(op));
    server->visits++;
}

static void count_handle(void *context, struct pier_handle *handle)
{
    (void)handle;
    ++*(int *)context;
}

static void run_shared(void)
{
    struct pier_loop *loop = new_loop();
    struct server server = {.visits = 0};
    struct pier_handle a = {0}, b = {0};
    struct pier_op timers[2] = {0};
    int handles = 0;
    expect(pier_socket_pair(loop, &a, &b) == 0, "a socket pair");
    pier_loop_set_user(loop, &server);
    pier_timer(loop, &timers[0], 0, on_visit);
    pier_timer(loop, &timers[1], 0, on_visit);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    pier_loop_each_handle(loop, count_handle, &handles);
    expect(server.visits == 2 && handles == 2, "two timers, two handles");
    pier_loop_drain(loop, PIER_SECOND);
    pier_loop_free(loop);
}

/* Time-outs: a session that may be silent for so long, and no longer. */

struct session {
    struct pier_handle socket, peer;
    struct pier_op receive;
    uint64_t idle_ns;
    bool timed_out;
};

static void on_session_closed(struct pier_handle *socket)
{
    struct session *session = PIER_OWNER(socket, struct session, socket);
    pier_close(&session->peer, NULL);
}

static void on_request(struct pier_op *op)
{
    struct session *session = PIER_OWNER(op, struct session, receive);
    if (op->result == PIER_ETIMEDOUT)
        session->timed_out = true;
    if (op->result <= 0) {
        pier_close(&session->socket, on_session_closed);
        return;
    }
    /* ... answer the request, then wait for the next ... */
}

static void wait_for_request(struct session *session)
{
    session->receive.timeout_ns = session->idle_ns; /* read and cleared by the submit */
    pier_receive_lent(&session->socket, &session->receive, on_request);
}

static void run_time_outs(void)
{
    struct pier_loop *loop = new_loop();
    struct session session = {.idle_ns = 20 * PIER_MILLISECOND};
    expect(pier_socket_pair(loop, &session.socket, &session.peer) == 0, "a socket pair");
    wait_for_request(&session);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    expect(session.timed_out, "a silent session times out");
    pier_loop_free(loop);
}

/* Timers tied to a handle: whoever closes the visitor needn't think of the timer. */

struct visitor {
    struct pier_handle socket, peer;
    struct pier_op silence;
    bool gone;
};

static void on_visitor_gone(struct pier_handle *socket)
{
    struct visitor *visitor = PIER_OWNER(socket, struct visitor, socket);
    expect(!pier_op_pending(&visitor->silence), "a timer ends before its handle");
    visitor->gone = true;
    pier_close(&visitor->peer, NULL);
}

static void on_silence(struct pier_op *op)
{
    struct visitor *visitor = PIER_OWNER(op, struct visitor, silence);
    if (op->result == 0) /* else it was closed before */
        pier_close(&visitor->socket, on_visitor_gone);
}

static void receive_visitor(struct pier_loop *loop, struct visitor *visitor)
{
    expect(pier_socket_pair(loop, &visitor->socket, &visitor->peer) == 0, "a socket pair");
    pier_timer_on(&visitor->socket, &visitor->silence, 20 * PIER_MILLISECOND, on_silence);
}

static void run_tied_timers(void)
{
    struct pier_loop *loop = new_loop();
    struct visitor silent = {.gone = false}, hasty = {.gone = false};
    receive_visitor(loop, &silent);
    receive_visitor(loop, &hasty);
    pier_close(&hasty.socket, on_visitor_gone);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    expect(silent.gone && hasty.gone, "both are gone");
    pier_loop_free(loop);
}

/* Batches: what is said in one turn goes out in one message. */

struct talker {
    struct pier_handle socket, peer;
    struct pier_op turn_ends, send, receive, words[4];
    char text[64], sent[64], heard[64];
    size_t gathered;
};

static void on_turn_ends(struct pier_op *op)
{
    struct talker *talker = PIER_OWNER(op, struct talker, turn_ends);
    if (talker->gathered == 0 || pier_op_pending(&talker->send))
        return; /* nothing to say, or the last message isn't through: its end brings a turn too */
    memcpy(talker->sent, talker->text, talker->gathered);
    pier_send(&talker->socket, &talker->send, talker->sent, talker->gathered, on_ended);
    talker->gathered = 0;
}

static struct talker *the_talker;

static void say_word(struct pier_op *op)
{
    (void)op;
    memcpy(the_talker->text + the_talker->gathered, "word ", 5);
    the_talker->gathered += 5;
}

static void on_heard(struct pier_op *op)
{
    struct talker *talker = PIER_OWNER(op, struct talker, receive);
    expect(op->result == 20, "four words in one message");
    pier_close(&talker->socket, NULL);
    pier_close(&talker->peer, NULL);
}

static void talk(struct pier_loop *loop, struct talker *talker)
{
    talker->turn_ends.flags = PIER_BACKGROUND; /* it alone shouldn't keep the loop running */
    pier_prepare_each(loop, &talker->turn_ends, on_turn_ends);
    pier_receive(&talker->peer, &talker->receive, talker->heard, sizeof talker->heard, on_heard);
    for (int i = 0; i < 4; i++)
        pier_post(loop, &talker->words[i], say_word);
}

static void run_batches(void)
{
    struct pier_loop *loop = new_loop();
    struct talker talker = {.gathered = 0};
    expect(pier_socket_pair(loop, &talker.socket, &talker.peer) == 0, "a socket pair");
    the_talker = &talker;
    talk(loop, &talker);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    pier_loop_drain(loop, PIER_SECOND); /* ends the op that is in the background */
    pier_loop_free(loop);
}

/* A large send to somebody who may read slowly, but must get on. */

struct download {
    struct pier_handle socket, peer;
    struct pier_op send;
    uint64_t stall_ns;
    bool stalled;
};

static void on_file_sent(struct pier_op *op)
{
    struct download *download = PIER_OWNER(op, struct download, send);
    download->stalled = op->result == PIER_ETIMEDOUT;
    pier_close(&download->socket, NULL);
    pier_close(&download->peer, NULL);
}

static void send_file(struct download *download, const void *bytes, size_t size)
{
    download->send.timeout_ns = download->stall_ns;
    download->send.flags |= PIER_PROGRESS; /* cleared by the submit, like the time */
    pier_send(&download->socket, &download->send, bytes, size, on_file_sent);
}

static void run_progress(void)
{
    struct pier_loop *loop = new_loop();
    struct download download = {.stall_ns = 20 * PIER_MILLISECOND};
    static char bytes[4 << 20];
    expect(pier_socket_pair(loop, &download.socket, &download.peer) == 0, "a socket pair");
    send_file(&download, bytes, sizeof bytes);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    expect(download.stalled, "a reader that doesn't read is noticed");
    expect(download.send.done > 0 && download.send.done < sizeof bytes, "some of it was sent");
    pier_loop_free(loop);
}

/* Addresses: of a peer, and from and to the form that the system's own calls have. */

struct door {
    struct pier_handle listener, client;
    struct pier_op accept, connect;
    int guests;
};

static void on_guest(struct pier_op *op)
{
    struct pier_address guest;
    char text[PIER_ADDRESS_TEXT_MAX];
    if (op->result == 1 && pier_accept_address(op, &guest) == 0) {
        pier_address_format(&guest, text, sizeof text);
        printf("a guest from %s\n", text);
        PIER_OWNER(op, struct door, accept)->guests++;
    }
}

/* The first address of a name that pier can use. */
static int look_up(const char *host, const char *port, struct pier_address *address)
{
    struct addrinfo *list, wish = {.ai_socktype = SOCK_STREAM};
    int error = PIER_EAFNOSUPPORT;
    if (getaddrinfo(host, port, &wish, &list) != 0)
        return PIER_ENOHOST;
    for (struct addrinfo *item = list; item != NULL && error < 0; item = item->ai_next)
        error = pier_address_from_sockaddr(address, item->ai_addr, item->ai_addrlen);
    freeaddrinfo(list);
    return error;
}

static void run_addresses(void)
{
    struct pier_loop *loop = new_loop();
    struct door door = {.guests = 0};
    struct pier_address address;
    struct sockaddr_storage native;
    expect(look_up("127.0.0.1", "0", &address) == 0, "an address looked up");
    expect(pier_listen(loop, &door.listener, &address, NULL) == 0, "a listener");
    pier_local_address(&door.listener, &address);
    pier_accept_each(&door.listener, &door.accept, on_guest);
    pier_open_socket(loop, &door.client, &address);
    pier_connect(&door.client, &door.connect, &address, on_ended);
    while (door.guests == 0)
        pier_loop_run(loop, PIER_RUN_ONCE);
    int length = pier_address_to_sockaddr(&address, &native, sizeof native);
    expect(length > 0 && native.ss_family == AF_INET, "an address as the system has it");
    pier_loop_drain(loop, PIER_SECOND);
    pier_loop_free(loop);
}

/* Lent buffers: keeping what arrived until there is time for it. */

struct mailbox {
    struct pier_handle socket, peer;
    struct pier_op receive, send;
    struct pier_buffer *letters[8];
    int count;
};

static void on_letter(struct pier_op *op)
{
    struct mailbox *box = PIER_OWNER(op, struct mailbox, receive);
    if (!(op->flags & PIER_MORE))
        return;
    box->letters[box->count++] = pier_buffer_keep(op); /* else it goes back on return */
    if (box->count == 8)
        pier_pause(op);
}

static void read_letters(struct mailbox *box)
{
    for (int i = 0; i < box->count; i++) {
        fwrite(pier_buffer_data(box->letters[i]), 1, pier_buffer_size(box->letters[i]), stdout);
        pier_buffer_release(box->letters[i]);
    }
    box->count = 0;
    pier_resume(&box->receive);
}

static void run_lent_buffers(void)
{
    struct pier_loop *loop = new_loop();
    struct mailbox box = {.count = 0};
    expect(pier_socket_pair(loop, &box.socket, &box.peer) == 0, "a socket pair");
    pier_receive_each(&box.socket, &box.receive, on_letter);
    pier_send(&box.peer, &box.send, "a letter\n", 9, NULL);
    while (box.count == 0)
        pier_loop_run(loop, PIER_RUN_ONCE);
    read_letters(&box);
    pier_loop_drain(loop, PIER_SECOND);
    pier_loop_free(loop);
}

/* Threads: telling a loop that there is something to look at. */

struct feed {
    struct pier_op news;
    int64_t heard;
};

static void on_news(struct pier_op *op)
{
    struct feed *feed = PIER_OWNER(op, struct feed, news);
    if (op->flags & PIER_MORE)
        feed->heard += op->result; /* notifications since the last call: they coalesce */
}

static void *report_news(void *argument)
{
    struct feed *feed = argument;
    for (int i = 0; i < 1000; i++)
        pier_notify(&feed->news);
    return NULL;
}

static void run_notify(void)
{
    struct pier_loop *loop = new_loop();
    struct feed feed = {.heard = 0};
    pthread_t thread;
    pier_notify_each(loop, &feed.news, on_news);
    expect(pthread_create(&thread, NULL, report_news, &feed) == 0, "a thread");
    while (feed.heard < 1000)
        pier_loop_run(loop, PIER_RUN_ONCE);
    pthread_join(thread, NULL); /* nobody notifies any more */
    pier_cancel(&feed.news);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    pier_loop_free(loop);
}

/* Threads: an op of another thread's loop is named by a token, since its memory may be gone. */

struct request {
    struct pier_op timer;
    struct pier_loop *loop;
    uint64_t token;
    int64_t result;
};

static void on_request_done(struct pier_op *op)
{
    PIER_OWNER(op, struct request, timer)->result = op->result;
}

static void *give_up(void *argument)
{
    struct request *request = argument;
    pier_cancel_remote(request->loop, request->token);
    return NULL;
}

static void run_cancel_remote(void)
{
    struct request request = {.loop = new_loop()};
    pthread_t thread;
    pier_timer(request.loop, &request.timer, 60 * PIER_SECOND, on_request_done);
    request.token = pier_op_token(&request.timer);
    expect(pthread_create(&thread, NULL, give_up, &request) == 0, "a thread");
    pier_loop_run(request.loop, PIER_RUN_UNTIL_IDLE);
    pthread_join(thread, NULL);
    expect(request.result == PIER_ECANCELED, "a cancel from another thread");
    pier_loop_free(request.loop);
}

/* Embedding: a pier loop inside another loop, here one of poll(). */

static int poll_ms(uint64_t ns)
{
    if (ns == PIER_FOREVER)
        return -1;
    uint64_t ms = ns / PIER_MILLISECOND + (ns % PIER_MILLISECOND != 0);
    return ms > 60000 ? 60000 : (int)ms;
}

static void run_inside_poll(struct pier_loop *loop)
{
    struct pollfd item = {.fd = (int)pier_loop_descriptor(loop), .events = POLLIN};
    while (pier_loop_run(loop, PIER_RUN_NO_WAIT) > 0)
        poll(&item, 1, poll_ms(pier_loop_next_timeout(loop)));
}

static void run_embedding(void)
{
    struct pier_loop *loop = new_loop();
    struct pier_op timer = {0};
    if (pier_loop_capabilities(loop) & PIER_CAN_EMBED) {
        pier_timer(loop, &timer, 20 * PIER_MILLISECOND, on_ended);
        run_inside_poll(loop);
        expect(!pier_op_pending(&timer), "an embedded loop runs its timers");
    }
    pier_loop_free(loop);
}

/* Foreign descriptors: a library that does its own input and output. This one says hello to its
 * peer, and then waits for the answer. */

struct foreign {
    struct pier_loop *loop;
    struct pier_op ready;
    int descriptor;
    size_t bytes;
};

static void on_library_wants(struct foreign *foreign, unsigned events);

static void on_ready(struct pier_op *op)
{
    struct foreign *foreign = PIER_OWNER(op, struct foreign, ready);
    char data[64];
    if (op->result < 0)
        return;
    if (op->result & PIER_WRITABLE) {
        expect(write(foreign->descriptor, "hello", 5) == 5, "a descriptor that is writable");
        on_library_wants(foreign, PIER_READABLE);
    } else if (op->result & PIER_READABLE) {
        ssize_t count = read(foreign->descriptor, data, sizeof data);
        foreign->bytes += count > 0 ? (size_t)count : 0;
    }
}

static void on_library_wants(struct foreign *foreign, unsigned events)
{
    if (pier_op_pending(&foreign->ready))
        pier_poll_change(&foreign->ready, events); /* 0: nothing for now */
    else
        pier_poll_each(foreign->loop, &foreign->ready, foreign->descriptor, events, on_ready);
}

static void run_foreign(void)
{
    struct pier_loop *loop = new_loop();
    struct foreign foreign = {.loop = loop};
    int ends[2];
    expect(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "a socket pair");
    expect(write(ends[1], "hello to you", 12) == 12, "an answer");
    foreign.descriptor = ends[0];
    pier_poll_each(loop, &foreign.ready, foreign.descriptor, PIER_WRITABLE, on_ready);
    while (foreign.bytes < 12)
        pier_loop_run(loop, PIER_RUN_ONCE);
    pier_cancel(&foreign.ready);
    close(ends[0]); /* allowed as soon as the cancel has returned */
    close(ends[1]);
    pier_loop_run(loop, PIER_RUN_UNTIL_IDLE);
    pier_loop_free(loop);
}

/* Debugging: what is the loop waiting for, what has it done, and which callback held it up? */

static void print_line(void *context, const char *line)
{
    fprintf(context, "  %s\n", line);
}

static void describe(struct pier_loop *loop)
{
    struct pier_loop_counters stats;
    pier_loop_stats(loop, &stats);
    printf("%s: %" PRIu64 " turns, %" PRIu64 " callbacks, %" PRIu64 " system calls, pending:\n",
           pier_loop_backend(loop), stats.turns, stats.callbacks, stats.system_calls);
    pier_loop_dump(loop, print_line, stdout);
}

static void on_slow(void *context, struct pier_loop *loop, pier_op_fn *fn, uint64_t took_ns)
{
    (void)loop;
    (void)fn; /* a debugger or addr2line knows its name */
    ++*(int *)context;
    printf("a callback took %" PRIu64 " ms\n", took_ns / PIER_MILLISECOND);
}

static void dawdle(struct pier_op *op)
{
    (void)op;
    usleep(5000);
}

static void run_debugging(void)
{
    struct pier_loop *loop;
    int slow = 0;
    struct pier_loop_options options = {
        .slow_callback_ns = 2 * PIER_MILLISECOND, .slow_callback = on_slow, .slow_context = &slow};
    struct pier_handle a = {0}, b = {0};
    struct pier_op receive = {0}, timer = {0};
    char byte;
    expect(pier_loop_new(&loop, &options) == 0, "a loop with options");
    expect(pier_socket_pair(loop, &a, &b) == 0, "a socket pair");
    pier_receive(&a, &receive, &byte, 1, dawdle);
    pier_timer(loop, &timer, 0, dawdle);
    describe(loop);
    pier_loop_drain(loop, PIER_SECOND);
    expect(slow > 0, "slow callbacks are told");
    pier_loop_free(loop);
}

/* Stopping: a signal ends the run, and drain ends the rest. */

static struct pier_loop *stopped_loop;

static void on_signal(int number)
{
    (void)number;
    pier_loop_stop(stopped_loop); /* allowed in signal handlers */
}

static void run_stopping(void)
{
    struct pier_handle a = {0}, b = {0};
    struct pier_op receive = {0};
    stopped_loop = new_loop();
    expect(pier_socket_pair(stopped_loop, &a, &b) == 0, "a socket pair");
    pier_receive_each(&a, &receive, on_ended);
    signal(SIGTERM, on_signal);
    raise(SIGTERM);
    pier_loop_run(stopped_loop, PIER_RUN_UNTIL_IDLE);
    if (pier_loop_drain(stopped_loop, 5 * PIER_SECOND) < 0)
        fprintf(stderr, "something didn't end within 5 s\n");
    pier_loop_free(stopped_loop);
}

int main(void)
{
    run_shared();
    run_time_outs();
    run_tied_timers();
    run_batches();
    run_progress();
    run_addresses();
    run_lent_buffers();
    run_notify();
    run_cancel_remote();
    run_embedding();
    run_foreign();
    run_debugging();
    run_stopping();
    printf("all as the guide says\n");
    return 0;
}
