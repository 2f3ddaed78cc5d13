/* SPDX-License-Identifier: MIT */
/* report.h - results as tables and charts: in one self-contained HTML page, as text, as CSV.
 *
 * Knows nothing of what was measured: it is handed tables (columns of numbers, a row for each
 * subject) and charts (lines over one axis), and writes them to a file in the order of the calls.
 * A number that is not known is NAN: tables leave the cell empty, charts a gap. The page needs
 * nothing from outside, is well-formed XML too, and follows the reader's light or dark setting.
 *
 * Writing never fails here: look at ferror() of the file in the end. */

#ifndef PIER_TOOL_REPORT_H
#define PIER_TOOL_REPORT_H

#include "pier.h"

#include <stdio.h>

/* ---- tables ---- */

struct report_column {
    const char *title, *unit;
    int decimals; /* -1: as many as give three digits */
};

struct report_row {
    const char *name;
    const double *values; /* one for each column; NULL: `note` stands in their place */
    const char *note;
};

struct report_table {
    const char *title, *row_title;
    const struct report_column *columns;
    size_t columns_count;
    const struct report_row *rows;
    size_t rows_count;
};

/* ---- charts ---- */

enum report_scale {
    REPORT_LINEAR, /* from zero */
    REPORT_LOG
};

struct report_point {
    double x, y, low, high; /* low and high: how far single rounds were from y, or NAN */
};

struct report_line {
    const char *name;
    int line; /* which colour and marker, so that a subject has the same in all charts */
    const struct report_point *points;
    size_t points_count;
};

/* Writes a value with its unit, and returns the text. */
typedef char *report_format_fn(char text[TOOL_TEXT_MAX], double value);

struct report_chart {
    const char *title, *note;    /* such as "higher is better" */
    const char *x_title, *x_one; /* such as "connections" and "connection" */
    const char *y_title, *y_unit;
    enum report_scale x_scale, y_scale;
    int y_decimals;             /* of values in tooltips, as in a column */
    report_format_fn *y_format; /* writes values of the y axis and in tooltips instead, or NULL */
    const struct report_line *lines;
    size_t lines_count;
};

/* ---- the page ---- */

void report_begin(FILE *file, const char *title, const char *lead);
void report_section(FILE *file, const char *title, const char *text);
void report_paragraph(FILE *file, const char *text);

/* A list of names and what they are: begin, entries, end. */
void report_facts_begin(FILE *file);
void report_fact(FILE *file, const char *name, const char *text);
void report_facts_end(FILE *file);

/* Charts stand side by side where there is room: begin, charts, end. */
void report_charts_begin(FILE *file);
void report_chart(FILE *file, const struct report_chart *chart);
void report_charts_end(FILE *file);

void report_table(FILE *file, const struct report_table *table);
void report_end(FILE *file);

/* ---- other forms ---- */

/* The table as columns of text. */
void report_table_text(FILE *file, const struct report_table *table);

/* A field of a CSV file, quoted where it has to be. NULL is an empty one. */
void report_csv_text(FILE *file, const char *text);

/* A string of JSON with its quotes. */
void report_json_text(FILE *file, const char *text);

/* ---- shared by the files of the report ---- */

enum { REPORT_LINES = 8 }; /* colours; more lines than these begin again */

/* Text with what means something to HTML escaped. */
void report_html_text(FILE *file, const char *text);

/* A number for people: groups of three digits, so many decimals (-1: three digits in all). */
char *report_format(char text[TOOL_TEXT_MAX], double value, int decimals);

#endif
