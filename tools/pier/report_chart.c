/* SPDX-License-Identifier: MIT */
/* report_chart.c - a chart of a report, as inline SVG.
 *
 * The picture is laid out in units of its view box and scaled by the page. Axes are linear from
 * zero, with steps of 1, 2 or 5 times a power of ten, or logarithmic, with whole decades on the x
 * axis where the points are few. A tooltip (<title>) on each marker has the exact numbers. */

#include "report.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 520, HEIGHT = 300, LEFT = 62, RIGHT = 14, TOP = 24, BOTTOM = 44 };

enum { TICKS_MAX = 16 };

struct axis {
    enum report_scale scale;
    double low, high;        /* of the values that are shown; of their logarithms on log axes */
    double from_px, to_px;   /* where low and high are */
    double ticks[TICKS_MAX]; /* values */
    size_t ticks_count;
};

static double place(const struct axis *axis, double value)
{
    double at = axis->scale == REPORT_LOG ? log10(value) : value;
    double part = axis->high > axis->low ? (at - axis->low) / (axis->high - axis->low) : 0.5;
    return axis->from_px + part * (axis->to_px - axis->from_px);
}

static bool is_shown(const struct report_chart *chart, const struct report_point *point)
{
    return isfinite(point->x) && isfinite(point->y) &&
           (chart->x_scale != REPORT_LOG || point->x > 0) &&
           (chart->y_scale != REPORT_LOG || point->y > 0);
}

/* ---- axes ---- */

static void add_tick(struct axis *axis, double value)
{
    if (axis->ticks_count < TICKS_MAX) {
        axis->ticks[axis->ticks_count++] = value;
    }
}

/* About five steps from zero to `most`. */
static void make_linear(struct axis *axis, double most)
{
    double rough = most > 0 ? most / 5 : 1;
    double power = pow(10, floor(log10(rough)));
    double step = rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10;
    step *= power;
    double steps = ceil(most / step);
    axis->low = 0;
    axis->high = step * (steps > 0 ? steps : 1);
    for (int i = 0; i <= (int)(axis->high / step + 0.5); i++) {
        add_tick(axis, step * i);
    }
}

/* Ticks at 1, 2 and 5 times each decade, or at the decades alone when there are many. The axis
 * begins and ends at a tick. */
static void make_log(struct axis *axis, double least, double most)
{
    double decade = pow(10, floor(log10(least)));
    bool sparse = log10(most / least) > 3;
    double value;
    for (int i = 0;; i = (i + 1) % 3) {
        static const double steps[] = {1, 2, 5};
        value = steps[i] * decade;
        decade *= i == 2 ? 10 : 1;
        if (sparse && i > 0) {
            continue;
        }
        if (value <= least * 1.0001) {
            axis->ticks_count = 0;
        }
        add_tick(axis, value);
        if (value >= most * 0.9999) {
            break;
        }
    }
    axis->low = log10(axis->ticks[0]);
    axis->high = log10(value);
}

/* The x axis has its ticks at the points themselves when these are few. */
static void make_x(struct axis *axis, const struct report_chart *chart, double least, double most)
{
    axis->low = chart->x_scale == REPORT_LOG ? log10(least) : least;
    axis->high = chart->x_scale == REPORT_LOG ? log10(most) : most;
    for (size_t i = 0; i < chart->lines_count; i++) {
        for (size_t j = 0; j < chart->lines[i].points_count; j++) {
            double x = chart->lines[i].points[j].x;
            bool known = !is_shown(chart, &chart->lines[i].points[j]);
            for (size_t k = 0; k < axis->ticks_count; k++) {
                double apart = fabs(place(axis, x) - place(axis, axis->ticks[k]));
                known = known || apart < 48 || axis->ticks[k] == x;
            }
            if (!known) {
                add_tick(axis, x);
            }
        }
    }
}

/* Sets up both axes; false when there is nothing to show. */
static bool make_axes(const struct report_chart *chart, struct axis *x, struct axis *y)
{
    double x_least = INFINITY, x_most = -INFINITY, y_least = INFINITY, y_most = 0;
    for (size_t i = 0; i < chart->lines_count; i++) {
        for (size_t j = 0; j < chart->lines[i].points_count; j++) {
            const struct report_point *point = &chart->lines[i].points[j];
            if (is_shown(chart, point)) {
                x_least = fmin(x_least, point->x);
                x_most = fmax(x_most, point->x);
                y_least = fmin(y_least, fmin(point->y, point->low)); /* fmin() passes over NAN */
                y_most = fmax(y_most, fmax(point->y, point->high));
            }
        }
    }
    *x = (struct axis){.scale = chart->x_scale, .from_px = LEFT + 14, .to_px = WIDTH - RIGHT - 14};
    *y = (struct axis){.scale = chart->y_scale, .from_px = HEIGHT - BOTTOM, .to_px = TOP};
    if (!isfinite(x_least)) {
        return false;
    }
    make_x(x, chart, x_least, x_most);
    if (chart->y_scale == REPORT_LOG) {
        make_log(y, y_least > 0 ? y_least : y_most, y_most);
    } else {
        make_linear(y, y_most);
    }
    return true;
}

/* A tick's number, short: 50k, 2M, 0.4. */
static char *format_tick(char text[TOOL_TEXT_MAX], const struct report_chart *chart, double value)
{
    const char *suffix = "";
    if (chart->y_format != NULL) {
        return chart->y_format(text, value);
    }
    if (value >= 1000 && value < 1e4) {
        return report_format(text, value, 0);
    }
    if (value >= 1e6) {
        value /= 1e6;
        suffix = "M";
    } else if (value >= 1e4) {
        value /= 1e3;
        suffix = "k";
    }
    snprintf(text, TOOL_TEXT_MAX, "%.4g%s", value, suffix);
    return text;
}

static void write_axes(FILE *file, const struct report_chart *chart, const struct axis *x,
                       const struct axis *y)
{
    char text[TOOL_TEXT_MAX];
    for (size_t i = 0; i < y->ticks_count; i++) {
        double at = place(y, y->ticks[i]);
        fprintf(file, "<line class=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>",
                i == 0 ? "axis" : "grid", LEFT, WIDTH - RIGHT, at, at);
        fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT - 8, at + 4,
                format_tick(text, chart, y->ticks[i]));
    }
    for (size_t i = 0; i < x->ticks_count; i++) {
        double at = place(x, x->ticks[i]);
        fprintf(file, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", at, at,
                HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5);
        fprintf(file, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", at,
                HEIGHT - BOTTOM + 19, report_format(text, x->ticks[i], 0));
    }
    fprintf(file, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2,
            HEIGHT - 6);
    report_html_text(file, chart->x_title);
    fputs(chart->x_scale == REPORT_LOG ? " (log scale)" : "", file);
    fprintf(file, "</text>\n<text x=\"0\" y=\"10\">");
    report_html_text(file, chart->y_title);
    fputs(chart->y_scale == REPORT_LOG ? " (log scale)" : "", file);
    fputs("</text>\n", file);
}

/* ---- lines ---- */

/* A marker: a shape of its own for each line. */
static void write_mark(FILE *file, int line, double x, double y)
{
    static const char *const shapes[REPORT_LINES] = {
        NULL,                                                        /* a circle */
        "-4 -4h8v8h-8z",                                             /* square */
        "0 -5.5l5.2 9h-10.4z",                                       /* triangle */
        "0 -5.8l5.8 5.8-5.8 5.8-5.8 -5.8z",                          /* diamond */
        "0 5.5l5.2 -9h-10.4z",                                       /* triangle on its tip */
        "-1.8 -5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z", /* plus */
        "-5 -2.6h10v5.2h-10z",                                       /* bar */
        "-2.6 -5h5.2v10h-5.2z",                                      /* upright bar */
    };
    const char *shape = shapes[line % REPORT_LINES];
    if (shape == NULL) {
        fprintf(file, "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.6\">", x, y);
    } else {
        fprintf(file, "<path class=\"mark\" transform=\"translate(%.1f %.1f)\" d=\"m%s\">", x, y,
                shape);
    }
}

static void end_mark(FILE *file, int line)
{
    fputs(line % REPORT_LINES == 0 ? "</circle>" : "</path>", file);
}

static char *format_value(char text[TOOL_TEXT_MAX], const struct report_chart *chart, double value)
{
    return chart->y_format != NULL ? chart->y_format(text, value)
                                   : report_format(text, value, chart->y_decimals);
}

static void write_tooltip(FILE *file, const struct report_chart *chart,
                          const struct report_line *line, const struct report_point *point)
{
    char text[TOOL_TEXT_MAX], more[TOOL_TEXT_MAX];
    fputs("<title>", file);
    report_html_text(file, line->name);
    fprintf(file, ", %s ", report_format(text, point->x, 0));
    report_html_text(file, point->x == 1 ? chart->x_one : chart->x_title);
    fprintf(file, ": %s", format_value(text, chart, point->y));
    if (chart->y_format == NULL) {
        fputc(' ', file);
        report_html_text(file, chart->y_unit);
    }
    if (isfinite(point->low) && isfinite(point->high)) {
        fprintf(file, " (rounds: %s to %s)", format_value(text, chart, point->low),
                format_value(more, chart, point->high));
    }
    fputs("</title>", file);
}

static void write_line(FILE *file, const struct report_chart *chart, const struct report_line *line,
                       const struct axis *x, const struct axis *y)
{
    fprintf(file, "<g class=\"c%d\">\n<path class=\"line\" d=\"", line->line % REPORT_LINES);
    bool broken = true;
    for (size_t i = 0; i < line->points_count; i++) {
        const struct report_point *point = &line->points[i];
        if (is_shown(chart, point)) {
            fprintf(file, "%c%.1f %.1f", broken ? 'M' : 'L', place(x, point->x),
                    place(y, point->y));
        }
        broken = !is_shown(chart, point);
    }
    fputs("\"/>\n", file);
    for (size_t i = 0; i < line->points_count; i++) {
        const struct report_point *point = &line->points[i];
        if (!is_shown(chart, point)) {
            continue;
        }
        fputs("<g class=\"point\">", file);
        if (isfinite(point->low) && isfinite(point->high) &&
            (chart->y_scale != REPORT_LOG || point->low > 0)) {
            fprintf(file,
                    "<line class=\"spread\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>",
                    place(x, point->x), place(x, point->x), place(y, point->low),
                    place(y, point->high));
        }
        write_mark(file, line->line, place(x, point->x), place(y, point->y));
        write_tooltip(file, chart, line, point);
        end_mark(file, line->line);
        fputs("</g>\n", file);
    }
    fputs("</g>\n", file);
}

static void write_legend(FILE *file, const struct report_chart *chart)
{
    fputs("<ul class=\"legend\">\n", file);
    for (size_t i = 0; i < chart->lines_count; i++) {
        const struct report_line *line = &chart->lines[i];
        fprintf(file,
                "<li><svg class=\"c%d\" viewBox=\"0 0 22 12\" aria-hidden=\"true\">"
                "<path class=\"line\" d=\"M1 6L21 6\"/>",
                line->line % REPORT_LINES);
        write_mark(file, line->line, 11, 6);
        end_mark(file, line->line);
        fputs("</svg>", file);
        report_html_text(file, line->name);
        fputs("</li>\n", file);
    }
    fputs("</ul>\n", file);
}

void report_chart(FILE *file, const struct report_chart *chart)
{
    struct axis x, y;
    fputs("<figure>\n<figcaption><h3>", file);
    report_html_text(file, chart->title);
    fputs("</h3><span>", file);
    report_html_text(file, chart->note);
    fputs("</span></figcaption>\n", file);
    write_legend(file, chart);
    fprintf(file, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    report_html_text(file, chart->title);
    fputs("\">\n", file);
    if (make_axes(chart, &x, &y)) {
        write_axes(file, chart, &x, &y);
        for (size_t i = 0; i < chart->lines_count; i++) {
            write_line(file, chart, &chart->lines[i], &x, &y);
        }
    } else {
        fprintf(file, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">not measured here</text>\n",
                WIDTH / 2, HEIGHT / 2);
    }
    fputs("</svg>\n</figure>\n", file);
}
