/* SPDX-License-Identifier: MIT */
/* doctor.c - `pier doctor`: says what this machine allows, for people or as JSON.
 *
 * Backends and limits come from the other files as filled structs; here they are printed, and the
 * limit that comes first is found. What depends on a limit that can't be read is unknown. Exit code
 * 0, or 1 when no backend works, or a loop that names none gets none (a wrong PIER_BACKEND). */

#include "doctor.h"

#include "options.h"
#include "platform.h"
#include "report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "usage: pier doctor [OPTION...]\n"
    "\n"
    "Says which backends this kernel and sandbox allow, with which features, and why not the\n"
    "others; and which limits decide how many connections fit: the value of each, what it means,\n"
    "and how to raise it. Exit code 1 when no backend works, or PIER_BACKEND names none that\n"
    "does. Lines are as long as the terminal is wide, or COLUMNS says, else 100.\n"
    "\n"
    "  --json             print one line of JSON\n";

enum { WIDTH_USUAL = 100, WIDTH_LEAST = 40, WIDTH_MOST = 200 };

static size_t width = WIDTH_USUAL; /* of a line */

struct diagnosis {
    struct doctor_system system;
    struct doctor_backend backends[DOCTOR_BACKENDS_MAX];
    size_t backends_count;
    struct doctor_limit limits[DOCTOR_LIMITS_MAX];
    size_t limits_count;
    const char *chosen;                  /* what a loop gets that names no backend, or NULL */
    char chosen_reason[DOCTOR_TEXT_MAX]; /* why it gets none */
    const char *environment;             /* PIER_BACKEND, or NULL */
    bool works;
};

static void diagnose(struct diagnosis *diagnosis)
{
    doctor_system_describe(&diagnosis->system);
    diagnosis->backends_count = doctor_backends(diagnosis->backends, &diagnosis->system);
    diagnosis->limits_count = doctor_limits(diagnosis->limits);
    diagnosis->environment = getenv("PIER_BACKEND");
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        diagnosis->works = diagnosis->works || diagnosis->backends[i].works;
    }
    struct pier_loop *loop;
    if (pier_loop_new(&loop, NULL) < 0) {
        snprintf(diagnosis->chosen_reason, sizeof(diagnosis->chosen_reason), "%s",
                 pier_error_detail());
        return;
    }
    diagnosis->chosen = pier_loop_backend(loop);
    pier_loop_free(loop);
}

/* The limit of the least connections. Another process can raise its soft limit, so that only the
 * hard one counts. */
static const struct doctor_limit *find_least(const struct diagnosis *diagnosis,
                                             enum doctor_scope scope)
{
    const struct doctor_limit *least = NULL;
    for (size_t i = 0; i < diagnosis->limits_count; i++) {
        const struct doctor_limit *limit = &diagnosis->limits[i];
        if (limit->scope == scope && strncmp(limit->name, "soft", 4) != 0 &&
            (least == NULL || limit->connections < least->connections)) {
            least = limit;
        }
    }
    return least != NULL && least->connections < UINT64_MAX ? least : NULL;
}

/* ---- for people ---- */

static void choose_width(void)
{
    const char *columns = getenv("COLUMNS");
    uint64_t given = 0;
    if (columns == NULL || !tool_parse_number(columns, &given)) {
        given = platform_terminal_width(stdout);
    }
    if (given > 0) {
        width = given < WIDTH_LEAST ? WIDTH_LEAST : given > WIDTH_MOST ? WIDTH_MOST : (size_t)given;
    }
}

static size_t longest_word(const char *text)
{
    size_t longest = 0;
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        longest = length > longest ? length : longest;
        text += length;
        text += strspn(text, " ");
    }
    return longest;
}

/* Prints text in lines of that width, all but the first indented. The cursor stands at `column`;
 * where too little is left of the line, the text begins on the next one. */
static void print_wrapped(const char *text, size_t column, size_t indent)
{
    enum { LEAST = 20, NARROW_INDENT = 2 };
    bool fresh = false; /* nothing of the text is on this line */
    if (indent + LEAST > width || indent + longest_word(text) > width) {
        indent = NARROW_INDENT;
    }
    if (column > indent && column + LEAST > width && column + strlen(text) > width) {
        printf("\n%*s", (int)indent, "");
        column = indent;
        fresh = true;
    }
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (column + word > width && column > indent && !fresh) {
            printf("\n%*s", (int)indent, "");
            column = indent;
        }
        printf("%.*s", (int)word, text);
        fresh = false;
        text += word;
        column += word;
        if (*text == ' ') {
            text++;
            column++;
            if (column + strcspn(text, " ") <= width) {
                putchar(' ');
            } else {
                column = width;
            }
        }
    }
    putchar('\n');
}

/* A line that begins with a label, and the text behind it. */
TOOL_PRINTF(3, 4)
static void print_labelled(const char *label, size_t indent, const char *format, ...)
{
    char text[2 * DOCTOR_TEXT_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    /* The label's own blanks at its end would be left there, when the text begins below. */
    size_t length = strlen(label), filled = length;
    while (filled > 0 && label[filled - 1] == ' ') {
        filled--;
    }
    bool below = length > 4 && length + strlen(text) > width &&
                 (length + 20 > width || length + strcspn(text, " ") > width);
    printf("%.*s", (int)(below ? filled : length), label);
    print_wrapped(text, below ? width : length, indent);
}

static void print_backend(const struct doctor_backend *backend)
{
    char label[48];
    if (backend->works) {
        printf("  %-8s works\n", backend->name);
        return;
    }
    snprintf(label, sizeof(label), "  %-8s no: ", backend->name);
    print_labelled(label, 15, "%s", backend->reason);
    if (backend->remedy[0] != '\0') {
        print_labelled("               to allow it: ", 15, "%s", backend->remedy);
    }
}

/* What backends have in common, one feature after the other: for lines that have no room for a
 * matrix. */
static void print_common_list(const struct diagnosis *diagnosis, const struct doctor_backend *first)
{
    for (size_t i = 0; i < first->features_count && first->features[i].is_common; i++) {
        char names[128] = "";
        for (size_t j = 0; j < diagnosis->backends_count; j++) {
            const struct doctor_backend *backend = &diagnosis->backends[j];
            if (backend->works && backend->features[i].works) {
                size_t used = strlen(names);
                snprintf(names + used, sizeof(names) - used, "%s%s", used > 0 ? ", " : "",
                         backend->name);
            }
        }
        char label[48];
        snprintf(label, sizeof(label), "  %s: ", first->features[i].name);
        print_labelled(label, 4, "%s (%s)", names[0] != '\0' ? names : "none",
                       first->features[i].text);
    }
}

/* The same as a matrix; the rows are those of the first backend that works, since all are asked the
 * same. */
static void print_common(const struct diagnosis *diagnosis)
{
    enum { NAME_WIDTH = 25, COLUMN_WIDTH = 7, TEXT_LEAST = 24 };
    const struct doctor_backend *first = NULL;
    size_t working = 0;
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        if (diagnosis->backends[i].works) {
            first = first == NULL ? &diagnosis->backends[i] : first;
            working++;
        }
    }
    printf("\nFeatures\n");
    if (first == NULL) {
        return;
    }
    if (NAME_WIDTH + working * COLUMN_WIDTH + TEXT_LEAST > width) {
        print_common_list(diagnosis, first);
        return;
    }
    printf("  %-22s", "");
    int blanks = 1;
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        if (diagnosis->backends[i].works) {
            printf("%*s%s", blanks, "", diagnosis->backends[i].name);
            blanks = COLUMN_WIDTH - (int)strlen(diagnosis->backends[i].name);
        }
    }
    printf("\n");
    for (size_t i = 0; i < first->features_count && first->features[i].is_common; i++) {
        printf("  %-22s", first->features[i].name);
        size_t column = NAME_WIDTH;
        for (size_t j = 0; j < diagnosis->backends_count; j++) {
            if (diagnosis->backends[j].works) {
                printf(" %-6s", diagnosis->backends[j].features[i].works ? "yes" : "no");
                column += COLUMN_WIDTH;
            }
        }
        printf(" ");
        print_wrapped(first->features[i].text, column, column);
    }
}

/* What only one backend has. */
static void print_own(const struct doctor_backend *backend)
{
    bool titled = false;
    for (size_t i = 0; i < backend->features_count; i++) {
        const struct doctor_feature *feature = &backend->features[i];
        if (feature->is_common) {
            continue;
        }
        if (!titled) {
            printf("\nFeatures of %s\n", backend->name);
            titled = true;
        }
        char label[64];
        snprintf(label, sizeof(label), "  %-23s %-6s ", feature->name,
                 feature->works ? "yes" : "no");
        print_labelled(label, 33, "%s", feature->text);
    }
}

static void print_limit(const struct doctor_limit *limit)
{
    char label[96];
    snprintf(label, sizeof(label), "  %s: ", limit->title);
    print_labelled(label, 6, "%s", limit->value);
    if (strcmp(limit->name, limit->title) != 0 && strchr(limit->name, ' ') == NULL) {
        print_labelled("      setting   ", 16, "%s", limit->name);
    }
    print_labelled("      meaning   ", 16, "%s", limit->meaning);
    print_labelled("      to raise  ", 16, "%s", limit->remedy);
}

/* The limits of a scope that can't be read, as a list of their names. */
static bool name_unknown(const struct diagnosis *diagnosis, enum doctor_scope scope, char *names,
                         size_t size)
{
    names[0] = '\0';
    for (size_t i = 0; i < diagnosis->limits_count; i++) {
        const struct doctor_limit *limit = &diagnosis->limits[i];
        if (limit->scope == scope && limit->unknown) {
            size_t used = strlen(names);
            snprintf(names + used, size - used, "%s%s", used > 0 ? ", " : "", limit->name);
        }
    }
    return names[0] != '\0';
}

static void print_least(const struct diagnosis *diagnosis, enum doctor_scope scope, const char *who)
{
    const struct doctor_limit *least = find_least(diagnosis, scope);
    char text[TOOL_TEXT_MAX], names[DOCTOR_TEXT_MAX], label[64];
    bool unknown = name_unknown(diagnosis, scope, names, sizeof(names));
    snprintf(label, sizeof(label), "  %-31s ", who);
    if (least == NULL && unknown) {
        print_labelled(label, 34, "unknown: %s can't be read here", names);
    } else if (least == NULL) {
        print_labelled(label, 34, "no limit found");
    } else {
        print_labelled(label, 34, "%s %s connection%s, limited by: %s%s%s",
                       unknown ? "unknown, at most" : "about",
                       tool_format_count(text, least->connections), tool_plural(least->connections),
                       least->title, unknown ? "; can't be read here: " : "", names);
    }
}

static void print_text(const struct diagnosis *diagnosis)
{
    const struct doctor_system *system = &diagnosis->system;
    char text[2 * DOCTOR_TEXT_MAX], seccomp[48] = "";
    choose_width();
    if (system->seccomp >= 0) {
        snprintf(seccomp, sizeof(seccomp), ", %d seccomp filter%s", system->seccomp,
                 system->seccomp == 1 ? "" : "s");
    }
    snprintf(text, sizeof(text), "pier %s on %s, %u CPU%s%s%s%s", pier_version(), system->name,
             system->processors, system->processors == 1 ? "" : "s", seccomp,
             system->container[0] != '\0' ? ", in a container: " : "", system->container);
    print_wrapped(text, 0, 4);
    if (diagnosis->chosen != NULL) {
        snprintf(text, sizeof(text), "Backends, best first. A loop that names none gets %s%s.",
                 diagnosis->chosen, diagnosis->environment != NULL ? ", from PIER_BACKEND" : "");
    } else {
        snprintf(text, sizeof(text), "Backends, best first. A loop that names none fails: %s.",
                 diagnosis->chosen_reason);
    }
    printf("\n");
    print_wrapped(text, 0, 4);
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        print_backend(&diagnosis->backends[i]);
    }
    if (diagnosis->works) {
        print_common(diagnosis);
    }
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        print_own(&diagnosis->backends[i]);
    }
    printf("\nLimits\n");
    for (size_t i = 0; i < diagnosis->limits_count; i++) {
        print_limit(&diagnosis->limits[i]);
    }
    printf("\nHow many connections fit\n");
    print_least(diagnosis, DOCTOR_PROCESS, "a server of one process");
    print_least(diagnosis, DOCTOR_MACHINE, "all processes of the machine");
    print_least(diagnosis, DOCTOR_CLIENT, "a client with one address");
}

/* ---- JSON ---- */

static void print_number(uint64_t number)
{
    if (number >= UINT64_MAX / 4) {
        printf("null");
    } else {
        printf("%" PRIu64, number);
    }
}

static void print_member(const char *name, const char *text)
{
    printf(",\"%s\":", name);
    if (text == NULL || text[0] == '\0') {
        printf("null");
    } else {
        report_json_text(stdout, text);
    }
}

static void print_backend_json(const struct doctor_backend *backend)
{
    printf("{\"name\":\"%s\",\"works\":%s", backend->name, backend->works ? "true" : "false");
    print_member("reason", backend->reason);
    print_member("remedy", backend->remedy);
    printf(",\"features\":[");
    for (size_t i = 0; i < backend->features_count; i++) {
        printf("%s{\"name\":\"%s\",\"works\":%s", i > 0 ? "," : "", backend->features[i].name,
               backend->features[i].works ? "true" : "false");
        print_member("meaning", backend->features[i].text);
        printf("}");
    }
    printf("]}");
}

static void print_limit_json(const struct doctor_limit *limit)
{
    static const char *const scopes[] = {"", "process", "machine", "client"};
    printf("{\"name\":");
    report_json_text(stdout, limit->name);
    print_member("title", limit->title);
    printf(",\"values\":[");
    for (size_t i = 0; i < limit->numbers_count; i++) {
        printf("%s", i > 0 ? "," : "");
        print_number(limit->numbers[i]);
    }
    printf("]");
    printf(",\"known\":%s", limit->unknown ? "false" : "true");
    print_member("unit", limit->unit);
    print_member("scope", scopes[limit->scope]);
    printf(",\"connections\":");
    print_number(limit->scope != DOCTOR_NO_COUNT ? limit->connections : UINT64_MAX);
    print_member("meaning", limit->meaning);
    print_member("remedy", limit->remedy);
    printf("}");
}

static void print_least_json(const struct diagnosis *diagnosis, enum doctor_scope scope,
                             const char *name)
{
    const struct doctor_limit *least = find_least(diagnosis, scope);
    char names[DOCTOR_TEXT_MAX];
    bool unknown = name_unknown(diagnosis, scope, names, sizeof(names));
    printf(",\"%s\":", name);
    print_number(least != NULL && !unknown ? least->connections : UINT64_MAX);
}

static void print_json(const struct diagnosis *diagnosis)
{
    const struct doctor_system *system = &diagnosis->system;
    printf("{\"pier\":\"%s\"", pier_version());
    print_member("system", system->name);
    print_member("processor", system->processor);
    printf(",\"processors\":%u,\"seccomp_filters\":", system->processors);
    print_number(system->seccomp < 0 ? UINT64_MAX : (uint64_t)system->seccomp);
    print_member("container", system->container);
    print_member("environment_backend", diagnosis->environment);
    print_member("default_backend", diagnosis->chosen);
    print_member("default_reason", diagnosis->chosen_reason);
    printf(",\"backends\":[");
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        printf("%s", i > 0 ? "," : "");
        print_backend_json(&diagnosis->backends[i]);
    }
    printf("],\"limits\":[");
    for (size_t i = 0; i < diagnosis->limits_count; i++) {
        printf("%s", i > 0 ? "," : "");
        print_limit_json(&diagnosis->limits[i]);
    }
    printf("]");
    print_least_json(diagnosis, DOCTOR_PROCESS, "connections_per_process");
    print_least_json(diagnosis, DOCTOR_MACHINE, "connections_of_machine");
    print_least_json(diagnosis, DOCTOR_CLIENT, "connections_of_client");
    printf("}\n");
}

int pier_tool_doctor(int argc, char **argv)
{
    bool json = false;
    const struct tool_option table[] = {
        {.name = "--json", .kind = TOOL_OPTION_FLAG, .value.flag = &json},
        {.name = NULL},
    };
    int status = tool_options_parse(table, help_text, argc, argv);
    if (status != TOOL_GO_ON) {
        return status;
    }
    struct diagnosis *diagnosis = calloc(1, sizeof(*diagnosis));
    if (diagnosis == NULL) {
        tool_say("no memory for the diagnosis");
        return TOOL_FAILED;
    }
    diagnose(diagnosis);
    if (json) {
        print_json(diagnosis);
    } else {
        print_text(diagnosis);
    }
    bool works = diagnosis->works, chosen = diagnosis->chosen != NULL;
    if (!works) {
        tool_say("no backend works here");
    } else if (!chosen) {
        tool_say("a loop that names no backend fails: %s", diagnosis->chosen_reason);
    }
    free(diagnosis);
    return works && chosen ? TOOL_DONE : TOOL_FAILED;
}
