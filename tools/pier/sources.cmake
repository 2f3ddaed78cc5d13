# SPDX-License-Identifier: MIT
#
# The files of the `pier` command, one by one. Paths start at the project's root, since this file is
# included there.

set(PIER_TOOL_SOURCES
  tools/pier/doctor.c
  tools/pier/doctor_backends.c
  tools/pier/doctor_explain.c
  tools/pier/doctor_limits.c
  tools/pier/doctor_uring.c
  tools/pier/echo.c
  tools/pier/echo_connection.c
  tools/pier/echo_server.c
  tools/pier/histogram.c
  tools/pier/load.c
  tools/pier/load_client.c
  tools/pier/load_connection.c
  tools/pier/load_report.c
  tools/pier/main.c
  tools/pier/options.c
  tools/pier/report_text.c
  tools/pier/slab.c)

# Comparing backends starts a process for each, as only POSIX systems can.
if(WIN32)
  list(APPEND PIER_TOOL_SOURCES
    tools/pier/doctor_windows.c
    tools/pier/platform_windows.c)
  set_source_files_properties(tools/pier/main.c PROPERTIES
    COMPILE_DEFINITIONS PIER_TOOL_WITHOUT_BENCH=1)
else()
  list(APPEND PIER_TOOL_SOURCES
    tools/pier/bench_command.c
    tools/pier/bench_page.c
    tools/pier/bench_plan.c
    tools/pier/bench_report.c
    tools/pier/bench_run.c
    tools/pier/bench_system.c
    tools/pier/doctor_system.c
    tools/pier/platform.c
    tools/pier/report.c
    tools/pier/report_chart.c)
endif()
