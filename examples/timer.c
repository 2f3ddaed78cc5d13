/* timer.c - the three things timers are used for: once, again and again, and time-outs.
 *
 * usage: timer [MILLISECONDS]
 *
 * A heartbeat beats every so many milliseconds, and each beat winds up a watchdog, which is a
 * one-shot timer of three beats. After five beats the heart stops, and the watchdog barks. */

#include <pier/pier.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct patient {
    struct pier_loop *loop;
    struct pier_op heartbeat, watchdog;
    uint64_t interval_ns, started_ns;
    int beats;
};

static uint64_t elapsed_ms(const struct patient *patient)
{
    return (pier_loop_now(patient->loop) - patient->started_ns) / PIER_MILLISECOND;
}

static void on_heartbeat(struct pier_op *op)
{
    struct patient *patient = PIER_OWNER(op, struct patient, heartbeat);
    if (!(op->flags & PIER_MORE)) { /* the last call: cancelled */
        printf("heart stopped: %s\n", pier_error_text(op->result));
        return;
    }
    /* A loop that was held up gets one call with the number of beats that have passed. */
    patient->beats += (int)op->result;
    printf("beat %d after %" PRIu64 " ms\n", patient->beats, elapsed_ms(patient));
    pier_timer_reset(&patient->watchdog, 3 * patient->interval_ns);
    if (patient->beats >= 5)
        pier_cancel(op);
}

static void on_watchdog(struct pier_op *op)
{
    struct patient *patient = PIER_OWNER(op, struct patient, watchdog);
    printf("watchdog barks after %" PRIu64 " ms\n", elapsed_ms(patient));
}

int main(int argc, char **argv)
{
    struct patient patient = {0};
    char *end = "";
    unsigned long ms = argc > 1 ? strtoul(argv[1], &end, 10) : 100;
    if (ms < 1 || ms > 60000 || *end != '\0') {
        fprintf(stderr, "timer: \"%s\" is no interval: give 1 to 60000 milliseconds\n", argv[1]);
        return 2;
    }
    patient.interval_ns = ms * PIER_MILLISECOND;
    if (pier_loop_new(&patient.loop, NULL) < 0) {
        fprintf(stderr, "timer: %s\n", pier_error_detail());
        return 1;
    }
    patient.started_ns = pier_loop_now(patient.loop);
    pier_timer_each(patient.loop, &patient.heartbeat, patient.interval_ns, patient.interval_ns,
                    on_heartbeat);
    pier_timer(patient.loop, &patient.watchdog, 3 * patient.interval_ns, on_watchdog);

    int result = pier_loop_run(patient.loop, PIER_RUN_UNTIL_IDLE); /* ends when no timer is left */
    pier_loop_free(patient.loop);
    return result < 0;
}
