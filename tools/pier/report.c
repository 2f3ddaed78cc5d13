/* SPDX-License-Identifier: MIT */
/* report.c - the page of a report, its tables, and the same as text; charts are in
 * report_chart.c.
 *
 * The style sheet below is all the page has of looks. Colours are custom properties with a value
 * for light and one for dark, so that charts need not know which of the two is shown. The colours
 * of lines are told apart by people who see no difference between red and green, and each line has
 * a marker of its own besides. */

#include "report.h"

#include <math.h>
#include <string.h>

/* ---- numbers ---- */

char *report_format(char text[TOOL_TEXT_MAX], double value, int decimals)
{
    if (!isfinite(value)) {
        text[0] = '\0';
        return text;
    }
    double size = fabs(value);
    if (decimals < 0) {
        decimals = size >= 99.95 || size == 0 ? 0 : size >= 9.995 ? 1 : 2;
    }
    char digits[TOOL_TEXT_MAX];
    int length = snprintf(digits, sizeof(digits), "%.*f", decimals, size < 1e15 ? size : 1e15);
    int whole = decimals > 0 ? length - decimals - 1 : length;
    char *out = text;
    if (value < 0 && strspn(digits, "0.") < (size_t)length) {
        *out++ = '-';
    }
    for (int i = 0; i < length; i++) {
        if (i > 0 && i < whole && (whole - i) % 3 == 0) {
            *out++ = ',';
        }
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

/* ---- the page ---- */

/* Each string is below the 4095 bytes that C11 promises. */
static const char style_colours[] =
    ":root{color-scheme:light dark;--page:#f6f6f4;--card:#ffffff;--ink:#16161a;--soft:#55555e;\n"
    "--rule:#dcdcd8;--grid:#e9e9e6;--axis:#b4b4b0;--l0:#2a78d6;--l1:#16936b;--l2:#c98500;\n"
    "--l3:#4a4a55;--l4:#5b48b8;--l5:#d8383a;--l6:#c2447f;--l7:#d3591f}\n"
    "@media (prefers-color-scheme:dark){:root{--page:#121214;--card:#1b1b1e;--ink:#f0f0ee;\n"
    "--soft:#a9a9b0;--rule:#34343a;--grid:#2a2a2f;--axis:#5a5a62;--l0:#4a95ea;--l1:#27b58a;\n"
    "--l2:#dd9f24;--l3:#c4c4cc;--l4:#9c8ff0;--l5:#ee6c6c;--l6:#e274aa;--l7:#ea7b45}}\n";

static const char style_page[] =
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--page);color:var(--ink);\n"
    "font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}\n"
    "main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}\n"
    "h1{font-size:27px;line-height:1.2;margin:0 0 8px}\n"
    "h2{font-size:20px;margin:44px 0 6px}\n"
    "h3{font-size:15px;margin:0}\n"
    "p{margin:0 0 10px;max-width:76ch;color:var(--soft)}\n"
    "p.lead{font-size:16px;color:var(--ink)}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:18px 0;\n"
    "padding:14px 18px;background:var(--card);border:1px solid var(--rule);border-radius:8px}\n"
    "dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}\n";

static const char style_parts[] =
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));\n"
    "gap:18px;margin:14px 0}\n"
    "figure{margin:0;padding:14px 16px 10px;background:var(--card);min-width:0;\n"
    "border:1px solid var(--rule);border-radius:8px}\n"
    "figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px}\n"
    "figcaption span{color:var(--soft);font-size:13px}\n"
    "ul.legend{display:flex;flex-wrap:wrap;gap:2px 11px;margin:6px 0 4px;padding:0;\n"
    "list-style:none;font-size:13px}\n"
    "ul.legend li{display:flex;align-items:center;gap:5px;white-space:nowrap}\n"
    "svg{display:block;width:100%;height:auto;overflow:visible}\n"
    "ul.legend svg{width:22px;height:12px;flex:none;display:inline-block}\n"
    "svg text{fill:var(--soft);font-size:12px}\n"
    ".grid{stroke:var(--grid)}.axis{stroke:var(--axis)}\n"
    ".table{overflow-x:auto;margin:14px 0;background:var(--card);\n"
    "border:1px solid var(--rule);border-radius:8px}\n"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\n"
    "caption{text-align:left;font-weight:600;padding:12px 16px 4px}\n"
    "th,td{padding:6px 16px;text-align:right;white-space:nowrap;vertical-align:bottom}\n"
    "th{font-weight:500;color:var(--soft);font-size:13px;border-bottom:1px solid var(--rule)}\n"
    "th small{display:block;font-weight:400}\n"
    "tr+tr td,tr+tr th{border-top:1px solid var(--grid)}\n"
    "th:first-child{text-align:left}\n"
    "tbody th{font-weight:400;color:var(--ink);font-size:inherit;border-bottom:0}\n"
    "td.note{text-align:left;color:var(--soft);white-space:normal}\n"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}\n"
    ".spread{stroke-width:1.5;opacity:.55}\n"
    ".mark{stroke:var(--card);stroke-width:1.5}.point:hover .mark{stroke:var(--ink)}\n";

/* On a telephone: less around the edges, names above what they are, and charts that are moved aside
 * rather than made too small to read. */
static const char style_narrow[] =
    "@media (max-width:600px){main{padding:18px 10px 40px}h1{font-size:22px}h2{font-size:18px}\n"
    "dl{display:block;padding:10px 12px}dd+dt{margin-top:6px}\n"
    "figure{padding:10px 10px 8px;overflow-x:auto}figure>svg{min-width:460px}\n"
    "th,td{padding:5px 9px}caption{padding:10px 9px 4px}}\n";

static void write_line_colours(FILE *file)
{
    for (int i = 0; i < REPORT_LINES; i++) {
        fprintf(file, ".c%d .line,.c%d .spread{stroke:var(--l%d)}.c%d .mark{fill:var(--l%d)}\n", i,
                i, i, i, i);
    }
}

void report_begin(FILE *file, const char *title, const char *lead)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          file);
    report_html_text(file, title);
    fputs("</title>\n<style>\n", file);
    fputs(style_colours, file);
    fputs(style_page, file);
    fputs(style_parts, file);
    fputs(style_narrow, file);
    write_line_colours(file);
    fputs("</style>\n</head>\n<body>\n<main>\n<h1>", file);
    report_html_text(file, title);
    fputs("</h1>\n<p class=\"lead\">", file);
    report_html_text(file, lead);
    fputs("</p>\n", file);
}

void report_section(FILE *file, const char *title, const char *text)
{
    fputs("<h2>", file);
    report_html_text(file, title);
    fputs("</h2>\n", file);
    if (text != NULL) {
        report_paragraph(file, text);
    }
}

void report_paragraph(FILE *file, const char *text)
{
    fputs("<p>", file);
    report_html_text(file, text);
    fputs("</p>\n", file);
}

void report_facts_begin(FILE *file)
{
    fputs("<dl>\n", file);
}

void report_fact(FILE *file, const char *name, const char *text)
{
    fputs("<dt>", file);
    report_html_text(file, name);
    fputs("</dt><dd>", file);
    report_html_text(file, text);
    fputs("</dd>\n", file);
}

void report_facts_end(FILE *file)
{
    fputs("</dl>\n", file);
}

void report_charts_begin(FILE *file)
{
    fputs("<div class=\"charts\">\n", file);
}

void report_charts_end(FILE *file)
{
    fputs("</div>\n", file);
}

void report_end(FILE *file)
{
    fputs("</main>\n</body>\n</html>\n", file);
}

/* ---- tables ---- */

static void write_cells(FILE *file, const struct report_table *table, const struct report_row *row)
{
    if (row->values == NULL) {
        fprintf(file, "<td class=\"note\" colspan=\"%d\">", (int)table->columns_count);
        report_html_text(file, row->note);
        fputs("</td>", file);
        return;
    }
    for (size_t i = 0; i < table->columns_count; i++) {
        char text[TOOL_TEXT_MAX];
        fprintf(file, "<td>%s</td>",
                report_format(text, row->values[i], table->columns[i].decimals));
    }
}

void report_table(FILE *file, const struct report_table *table)
{
    fputs("<div class=\"table\"><table>\n<caption>", file);
    report_html_text(file, table->title);
    fputs("</caption>\n<thead><tr><th scope=\"col\">", file);
    report_html_text(file, table->row_title);
    fputs("</th>", file);
    for (size_t i = 0; i < table->columns_count; i++) {
        fputs("<th scope=\"col\">", file);
        report_html_text(file, table->columns[i].title);
        fputs("<small>", file);
        report_html_text(file, table->columns[i].unit);
        fputs("</small></th>", file);
    }
    fputs("</tr></thead>\n<tbody>\n", file);
    for (size_t i = 0; i < table->rows_count; i++) {
        fputs("<tr><th scope=\"row\">", file);
        report_html_text(file, table->rows[i].name);
        fputs("</th>", file);
        write_cells(file, table, &table->rows[i]);
        fputs("</tr>\n", file);
    }
    fputs("</tbody>\n</table></div>\n", file);
}

static size_t text_width(const struct report_table *table, size_t column)
{
    size_t width = strlen(table->columns[column].title);
    size_t unit = strlen(table->columns[column].unit);
    width = width > unit ? width : unit;
    for (size_t i = 0; i < table->rows_count; i++) {
        char text[TOOL_TEXT_MAX];
        if (table->rows[i].values != NULL) {
            size_t length = strlen(report_format(text, table->rows[i].values[column],
                                                 table->columns[column].decimals));
            width = width > length ? width : length;
        }
    }
    return width;
}

void report_table_text(FILE *file, const struct report_table *table)
{
    size_t name_width = strlen(table->row_title);
    for (size_t i = 0; i < table->rows_count; i++) {
        size_t length = strlen(table->rows[i].name);
        name_width = name_width > length ? name_width : length;
    }
    fprintf(file, "%s\n  %-*s", table->title, (int)name_width, table->row_title);
    for (size_t i = 0; i < table->columns_count; i++) {
        fprintf(file, "  %*s", (int)text_width(table, i), table->columns[i].title);
    }
    fprintf(file, "\n  %-*s", (int)name_width, "");
    for (size_t i = 0; i < table->columns_count; i++) {
        fprintf(file, "  %*s", (int)text_width(table, i), table->columns[i].unit);
    }
    fputc('\n', file);
    for (size_t i = 0; i < table->rows_count; i++) {
        const struct report_row *row = &table->rows[i];
        fprintf(file, "  %-*s", (int)name_width, row->name);
        if (row->values == NULL) {
            fprintf(file, "  %s", row->note);
        }
        for (size_t j = 0; row->values != NULL && j < table->columns_count; j++) {
            char text[TOOL_TEXT_MAX];
            fprintf(file, "  %*s", (int)text_width(table, j),
                    report_format(text, row->values[j], table->columns[j].decimals));
        }
        fputc('\n', file);
    }
}
