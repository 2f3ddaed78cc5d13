/* worker_thread.c - lets another thread do the work that would hold up the loop.
 *
 * usage: worker_thread [ADDRESS]
 *
 * A client sends a number as a line, and is answered with the count of primes up to it. The loop's
 * thread reads and writes; the worker counts, and hands each answer back with pier_post(), which is
 * the one way from another thread into a callback. Everything in a job belongs to one thread at a
 * time: to the worker from the queue until the post, else to the loop. */

#include <pier/pier.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    struct pier_handle socket;
    struct pier_op receive, send, done;
    struct pier_loop *loop;
    struct job *next;
    char line[32], answer[64];
    size_t length;
    unsigned long number, primes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
static struct job *first, **last = &first;

static void receive_line(struct job *job);

static void on_closed(struct pier_handle *socket)
{
    free(PIER_OWNER(socket, struct job, socket));
}

static void on_sent(struct pier_op *op)
{
    struct job *job = PIER_OWNER(op, struct job, send);
    if (op->result < 0)
        pier_close(&job->socket, on_closed);
    else
        receive_line(job);
}

/* On the loop's thread again. */
static void on_done(struct pier_op *op)
{
    struct job *job = PIER_OWNER(op, struct job, done);
    int length = snprintf(job->answer, sizeof job->answer, "%lu primes up to %lu\n", job->primes,
                          job->number);
    pier_send(&job->socket, &job->send, job->answer, (size_t)length, on_sent);
}

static unsigned long count_primes(unsigned long limit)
{
    unsigned long count = 0;
    for (unsigned long n = 2; n <= limit; n++) {
        unsigned long divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        count += divisor * divisor > n;
    }
    return count;
}

static void *run_worker(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (first == NULL)
            pthread_cond_wait(&wanted, &lock);
        struct job *job = first;
        first = job->next;
        if (first == NULL)
            last = &first;
        pthread_mutex_unlock(&lock);

        job->primes = count_primes(job->number);
        pier_post(job->loop, &job->done, on_done);
    }
    return NULL;
}

static void give_to_worker(struct job *job)
{
    pthread_mutex_lock(&lock);
    job->next = NULL;
    *last = job;
    last = &job->next;
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
}

static void on_received(struct pier_op *op)
{
    struct job *job = PIER_OWNER(op, struct job, receive);
    job->length += (size_t)op->done;
    if (op->result <= 0 || job->length == sizeof job->line) { /* gone, or not a number */
        pier_close(&job->socket, on_closed);
    } else if (memchr(job->line, '\n', job->length) == NULL) {
        receive_line(job);
    } else {
        /* Nothing is in flight on the socket while the worker has the job, so nothing closes it. */
        job->line[job->length - 1] = '\0';
        job->number = strtoul(job->line, NULL, 10);
        if (job->number > 5000000)
            job->number = 5000000;
        job->length = 0;
        give_to_worker(job);
    }
}

static void receive_line(struct job *job)
{
    pier_receive(&job->socket, &job->receive, job->line + job->length,
                 sizeof job->line - job->length, on_received);
}

static void on_accepted(struct pier_op *op)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL || pier_accept_take(op, NULL, &job->socket) < 0) {
        free(job);
        return;
    }
    job->loop = pier_handle_loop(&job->socket);
    receive_line(job);
}

int main(int argc, char **argv)
{
    struct pier_loop *loop;
    struct pier_address address;
    struct pier_handle listener = {0};
    struct pier_op accept = {0};
    char text[PIER_ADDRESS_TEXT_MAX];
    pthread_t worker;

    if (pier_address_parse(&address, argc > 1 ? argv[1] : "127.0.0.1:7003") < 0 ||
        pier_loop_new(&loop, NULL) < 0 || pier_listen(loop, &listener, &address, NULL) < 0 ||
        pier_local_address(&listener, &address) < 0) {
        fprintf(stderr, "worker_thread: %s\n", pier_error_detail());
        return 1;
    }
    if (pthread_create(&worker, NULL, run_worker, NULL) != 0) {
        fprintf(stderr, "worker_thread: no thread to be had\n");
        return 1;
    }
    pier_address_format(&address, text, sizeof text);
    printf("listening on %s\n", text);
    fflush(stdout);

    pier_accept_each(&listener, &accept, on_accepted);
    return pier_loop_run(loop, PIER_RUN_UNTIL_IDLE) < 0;
}
