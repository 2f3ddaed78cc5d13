/* unit_system.h - what the harness needs from the operating system, one implementation per family
 * in unit_system.c. */

#ifndef PIER_UNIT_SYSTEM_H
#define PIER_UNIT_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>

enum { UNIT_DESCRIPTORS_MAX = 65536 };

/* The open descriptors: a bit for each where they have numbers, and how many there are. */
struct unit_descriptors {
    size_t count;
    unsigned char open[UNIT_DESCRIPTORS_MAX / 8];
};

void unit_list_descriptors(struct unit_descriptors *list);

/* Whether something is open in `after` that was not in `before`. */
bool unit_descriptors_grew(const struct unit_descriptors *before,
                           const struct unit_descriptors *after);

/* Prints what that is, where the system has names for it. */
void unit_report_descriptors(const struct unit_descriptors *before,
                             const struct unit_descriptors *after);

/* Called once before the first test. */
void unit_system_start(void);

/* Between these two a crash, or more than so many seconds, is reported with the test's name and
 * ends the process. */
void unit_guard_start(const char *test_name, unsigned seconds);
void unit_guard_stop(void);

#endif
