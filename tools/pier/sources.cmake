# The files of the `pier` command, one by one. Paths start at the project's root, since this file is
# included there.

set(PIER_TOOL_SOURCES
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
  tools/pier/slab.c)
if(WIN32)
  list(APPEND PIER_TOOL_SOURCES tools/pier/platform_windows.c)
else()
  list(APPEND PIER_TOOL_SOURCES tools/pier/platform.c)
endif()

# Without the subcommands that compare backends and examine the machine the others still build.
if(NOT EXISTS ${PROJECT_SOURCE_DIR}/tools/pier/bench.c)
  set_source_files_properties(tools/pier/main.c PROPERTIES
    COMPILE_DEFINITIONS PIER_TOOL_WITHOUT_BENCH=1)
endif()
