/* timer_sort.c - sorting the links of a slot of the timer wheel: a merge sort of lists.
 *
 * A slot has its links newest first. What comes out is sorted by deadline, and of equal deadlines
 * oldest first, so that timers of one delay fire in the order in which they were started. */

#include "base/timer.h"

static unsigned lowest_run(uint64_t runs)
{
    unsigned rank = 0;
    while ((runs >> rank & 1) == 0) {
        rank++;
    }
    return rank;
}

/* Merges two sorted lists. Of equal links those of `a` come first. */
static struct pier_timer_link *merge_links(struct pier_timer_link *a, struct pier_timer_link *b)
{
    struct pier_timer_link *merged;
    struct pier_timer_link **end = &merged;

    while (a != NULL && b != NULL) {
        if (b->deadline_ns < a->deadline_ns) {
            *end = b;
            end = &b->next;
            b = b->next;
        } else {
            *end = a;
            end = &a->next;
            a = a->next;
        }
    }
    *end = a != NULL ? a : b;
    return merged;
}

/* Takes from a list that is newest first the links at its head whose deadlines don't grow, as a
 * list that is oldest first: sorted by deadline, and all older than those taken later. Timers of
 * one delay are a single run. */
static struct pier_timer_link *take_run(struct pier_timer_link **rest)
{
    struct pier_timer_link *run = *rest;
    struct pier_timer_link *older = run->next;

    run->next = NULL;
    while (older != NULL && older->deadline_ns <= run->deadline_ns) {
        struct pier_timer_link *next = older->next;
        older->next = run;
        run->back = &older->next;
        run = older;
        older = next;
    }
    *rest = older;
    return run;
}

/* Sorts a list that is newest first by deadline, equal ones oldest first. The places that lead to
 * the links are right afterwards but for the first link's. */
struct pier_timer_link *pier__timers_sort(struct pier_timer_link *rest)
{
    struct pier_timer_link *sorted[64]; /* [i] has 2^i runs if that bit of `runs` is set */
    struct pier_timer_link *run = take_run(&rest);
    uint64_t runs = 0;

    if (rest == NULL) {
        return run;
    }
    for (;;) {
        unsigned rank = 0;
        for (; (runs >> rank & 1) != 0; rank++) {
            run = merge_links(run, sorted[rank]);
        }
        sorted[rank] = run;
        runs++;
        if (rest == NULL) {
            break;
        }
        run = take_run(&rest);
    }
    run = sorted[lowest_run(runs)];
    while ((runs &= runs - 1) != 0) {
        run = merge_links(run, sorted[lowest_run(runs)]);
    }
    for (struct pier_timer_link *link = run; link->next != NULL; link = link->next) {
        link->next->back = &link->next;
    }
    return run;
}
