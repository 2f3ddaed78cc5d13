/* doctor.c - `pier doctor`: says what this machine allows, for people or as JSON.
 *
 * Backends and limits come from the other files as filled structs; here they are printed, and the
 * limit that comes first is found. Exit code 0, or 1 when no backend works. */

#include "doctor.h"

#include "options.h"
#include "platform.h"
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "usage: pier doctor [OPTION...]\n"
    "\n"
    "Says which backends this kernel and sandbox allow, with which features, and why not the\n"
    "others; and which limits decide how many connections fit: the value of each, what it means,\n"
    "and how to raise it. Exit code 1 when no backend works.\n"
    "\n"
    "  --json             print one line of JSON\n";

enum { WIDTH = 100 };

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

/* Prints text in lines of WIDTH columns, all but the first indented. The cursor stands at column
 * `column`. */
static void print_wrapped(const char *text, size_t column, size_t indent)
{
    while (*text != '\0') {
        size_t word = strcspn(text, " ");
        if (column + word > WIDTH && column > indent) {
            printf("\n%*s", (int)indent, "");
            column = indent;
        }
        printf("%.*s", (int)word, text);
        text += word;
        column += word;
        if (*text == ' ') {
            text++;
            column++;
            if (column + strcspn(text, " ") <= WIDTH) {
                putchar(' ');
            } else {
                column = WIDTH;
            }
        }
    }
    putchar('\n');
}

static void print_backend(const struct doctor_backend *backend)
{
    printf("  %-8s %s", backend->name, backend->works ? "works\n" : "no: ");
    if (!backend->works) {
        print_wrapped(backend->reason, 15, 15);
        if (backend->remedy[0] != '\0') {
            printf("%15sto allow it: ", "");
            print_wrapped(backend->remedy, 28, 15);
        }
    }
}

/* What backends have in common, as a matrix; the rows are those of the first one that works, since
 * all are asked the same. */
static void print_common(const struct diagnosis *diagnosis)
{
    const struct doctor_backend *first = NULL;
    printf("\nFeatures\n  %-22s", "");
    int blanks = 1;
    for (size_t i = 0; i < diagnosis->backends_count; i++) {
        if (diagnosis->backends[i].works) {
            first = first == NULL ? &diagnosis->backends[i] : first;
            printf("%*s%s", blanks, "", diagnosis->backends[i].name);
            blanks = 7 - (int)strlen(diagnosis->backends[i].name);
        }
    }
    printf("\n");
    if (first == NULL) {
        return;
    }
    for (size_t i = 0; i < first->features_count && first->features[i].is_common; i++) {
        printf("  %-22s", first->features[i].name);
        size_t column = 25;
        for (size_t j = 0; j < diagnosis->backends_count; j++) {
            if (diagnosis->backends[j].works) {
                printf(" %-6s", diagnosis->backends[j].features[i].works ? "yes" : "no");
                column += 7;
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
        printf("  %-23s %-6s ", feature->name, feature->works ? "yes" : "no");
        print_wrapped(feature->text, 33, 33);
    }
}

static void print_limit(const struct doctor_limit *limit)
{
    printf("  %s: %s\n", limit->title, limit->value);
    if (strcmp(limit->name, limit->title) != 0 && strchr(limit->name, ' ') == NULL) {
        printf("      setting   %s\n", limit->name);
    }
    printf("      meaning   ");
    print_wrapped(limit->meaning, 16, 16);
    printf("      to raise  ");
    print_wrapped(limit->remedy, 16, 16);
}

static void print_least(const struct diagnosis *diagnosis, enum doctor_scope scope, const char *who)
{
    const struct doctor_limit *least = find_least(diagnosis, scope);
    char text[TOOL_TEXT_MAX];
    if (least != NULL) {
        printf("  %-31s about %s connections, limited by: %s\n", who,
               tool_format_count(text, least->connections), least->title);
    } else {
        printf("  %-31s no limit found\n", who);
    }
}

static void print_text(const struct diagnosis *diagnosis)
{
    const struct doctor_system *system = &diagnosis->system;
    printf("pier %s on %s, %u CPU%s", pier_version(), system->name, system->processors,
           system->processors == 1 ? "" : "s");
    if (system->seccomp >= 0) {
        printf(", %d seccomp filter%s", system->seccomp, system->seccomp == 1 ? "" : "s");
    }
    printf("%s%s\n\nBackends, best first. ",
           system->container[0] != '\0' ? ", in a container: " : "", system->container);
    if (diagnosis->chosen != NULL) {
        printf("A loop that names none gets %s%s.\n", diagnosis->chosen,
               diagnosis->environment != NULL ? ", from PIER_BACKEND" : "");
    } else {
        printf("A loop that names none fails: %s.\n", diagnosis->chosen_reason);
    }
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
    printf(",\"%s\":", name);
    print_number(least != NULL ? least->connections : UINT64_MAX);
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
    bool works = diagnosis->works;
    free(diagnosis);
    if (!works) {
        tool_say("no backend works here");
    }
    return works ? TOOL_DONE : TOOL_FAILED;
}
