/* SPDX-License-Identifier: MIT */
/* doctor_limits.h - between doctor_limits.c, which has the table of limits, and doctor_explain.c,
 * which has what each of them means.
 *
 * A function of the second file fills in limit->meaning from limit->numbers, and where the limit is
 * one of connections, how many. */

#ifndef PIER_TOOL_DOCTOR_LIMITS_H
#define PIER_TOOL_DOCTOR_LIMITS_H

#include "doctor.h"

/* Writes "1,234", "12 MiB" or "unlimited" into `text`, and returns it. */
char *doctor_format_number(char text[TOOL_TEXT_MAX], uint64_t number);
char *doctor_format_bytes(char text[TOOL_TEXT_MAX], uint64_t bytes);

void doctor_explain_files_soft(struct doctor_limit *limit);
void doctor_explain_files_hard(struct doctor_limit *limit);
void doctor_explain_files_most(struct doctor_limit *limit);
void doctor_explain_files_all(struct doctor_limit *limit);
void doctor_explain_backlog(struct doctor_limit *limit);
void doctor_explain_half_open(struct doctor_limit *limit);
void doctor_explain_tcp_memory(struct doctor_limit *limit);
void doctor_explain_receive_memory(struct doctor_limit *limit);
void doctor_explain_send_memory(struct doctor_limit *limit);
void doctor_explain_ports(struct doctor_limit *limit);
void doctor_explain_time_wait(struct doctor_limit *limit);
void doctor_explain_watches(struct doctor_limit *limit);
void doctor_explain_locked(struct doctor_limit *limit);
void doctor_explain_processes(struct doctor_limit *limit);
void doctor_explain_threads(struct doctor_limit *limit);
void doctor_explain_process_numbers(struct doctor_limit *limit);
void doctor_explain_tracking(struct doctor_limit *limit);
void doctor_explain_sockets(struct doctor_limit *limit);
void doctor_explain_files_process(struct doctor_limit *limit);
void doctor_explain_memory(struct doctor_limit *limit);
void doctor_explain_handles(struct doctor_limit *limit);
void doctor_explain_commit(struct doctor_limit *limit);
void doctor_explain_group_processes(struct doctor_limit *limit);
void doctor_explain_swap(struct doctor_limit *limit);
void doctor_explain_group_swap(struct doctor_limit *limit);
void doctor_explain_overcommit(struct doctor_limit *limit);
void doctor_explain_uring_disabled(struct doctor_limit *limit);
void doctor_explain_uring_group(struct doctor_limit *limit);

#endif
