/* standalone.c - main() of a fuzz target for compilers without libFuzzer.
 *
 *   fuzz-NAME [--backend NAME] [--seed N] [--runs N] [FILE...]
 *
 * Makes N inputs from the seed and runs the target on each; the same seed makes the same inputs
 * on every machine. With files, runs those instead: findings of libFuzzer, or an input that is
 * being cut down. Each input is written to fuzz-NAME.input before it is run when
 * PIER_FUZZ_KEEP is set, so that a crash leaves its cause behind. */

#include "standalone.h"

#include "pier/pier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 2048

static const char *backend;

const char *fuzz_backend(void)
{
    return backend != NULL ? backend : getenv("PIER_FUZZ_BACKEND");
}

uint32_t fuzz_random(uint64_t *state, uint32_t limit)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t mixed = *state;
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((mixed ^ (mixed >> 31)) >> 16) % limit;
}

#ifndef PIER_FUZZ_LIBFUZZER

static void keep(const uint8_t *data, size_t size)
{
    char path[100];
    snprintf(path, sizeof(path), "fuzz-%s.input", fuzz_name);
    FILE *file = fopen(path, "wb");
    if (file != NULL) {
        fwrite(data, 1, size, file);
        fclose(file);
    }
}

static int run_file(const char *path)
{
    uint8_t data[INPUT_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "fuzz-%s: \"%s\" can't be read\n", fuzz_name, path);
        return 1;
    }
    const size_t size = fread(data, 1, sizeof(data), file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    return 0;
}

static bool parse_number(const char *text, unsigned long *number)
{
    char *end = NULL;
    *number = text == NULL ? 0 : strtoul(text, &end, 10);
    if (text == NULL || end == text || *end != '\0') {
        fprintf(stderr, "fuzz-%s: \"%s\" isn't a number\n", fuzz_name, text == NULL ? "" : text);
        return false;
    }
    return true;
}

int main(int count, char **words)
{
    unsigned long seed = 1, runs = 1000;
    int files = 0;
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? words[i + 1] : NULL;
        bool right = true;
        if (strcmp(words[i], "--backend") == 0 && value != NULL) {
            backend = value;
            i++;
        } else if (strcmp(words[i], "--seed") == 0) {
            right = parse_number(value, &seed);
            i++;
        } else if (strcmp(words[i], "--runs") == 0) {
            right = parse_number(value, &runs);
            i++;
        } else if (words[i][0] == '-') {
            fprintf(stderr, "usage: fuzz-%s [--backend NAME] [--seed N] [--runs N] [FILE...]\n",
                    fuzz_name);
            right = false;
        } else {
            words[++files] = words[i];
        }
        if (!right) {
            return 1;
        }
    }
    if (fuzz_needs_backend && fuzz_backend() != NULL && pier_backend_probe(fuzz_backend()) < 0) {
        printf("%s: not to be had here: %s\n", fuzz_backend(), pier_error_detail());
        return 77;
    }
    for (int i = 1; i <= files; i++) {
        if (run_file(words[i]) != 0) {
            return 1;
        }
    }
    const bool keeps = getenv("PIER_FUZZ_KEEP") != NULL;
    for (unsigned long run = 0; files == 0 && run < runs; run++) {
        uint8_t data[INPUT_MAX];
        uint64_t state = ((uint64_t)seed << 32) + run;
        const size_t size = fuzz_make_input(data, sizeof(data), &state);
        if (keeps) {
            keep(data, size);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("fuzz=%s seed=%lu runs=%lu: 1 passed, 0 failed, 0 skipped\n", fuzz_name, seed,
           files > 0 ? (unsigned long)files : runs);
    return 0;
}

#endif
