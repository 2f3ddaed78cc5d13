/* SPDX-License-Identifier: MIT */
/* report_text.c - text as HTML, JSON and CSV want it. `pier doctor` needs no more of a report. */

#include "report.h"

#include <string.h>

/* Bytes of the character of UTF-8 that the text begins with; 0 when there is none: a stray or cut
 * sequence, a longer one than needed, a surrogate, a number beyond the last. */
static size_t character_size(const unsigned char *text)
{
    static const struct {
        unsigned char mask, lead;
        unsigned long least;
    } forms[] = {{0x80, 0, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t size = 1; size <= 4; size++) {
        if ((text[0] & forms[size - 1].mask) != forms[size - 1].lead) {
            continue;
        }
        unsigned long number = text[0] & (unsigned char)~forms[size - 1].mask;
        for (size_t i = 1; i < size; i++) {
            if ((text[i] & 0xc0) != 0x80) { /* the end of the text is none either */
                return 0;
            }
            number = number << 6 | (text[i] & 0x3f);
        }
        bool surrogate = number >= 0xd800 && number <= 0xdfff;
        return number >= forms[size - 1].least && number <= 0x10ffff && !surrogate ? size : 0;
    }
    return 0;
}

/* Text comes from the environment, the system and the command line, and may be anything. What isn't
 * UTF-8 becomes the character that stands for what can't be shown. Returns how far it went. */
static size_t write_character(FILE *file, const char *text)
{
    size_t size = character_size((const unsigned char *)text);
    if (size == 0) {
        fputs("\xef\xbf\xbd", file);
        return 1;
    }
    fwrite(text, 1, size, file);
    return size;
}

void report_html_text(FILE *file, const char *text)
{
    while (*text != '\0') {
        const char *entity = NULL;
        switch (*text) {
        case '&': entity = "&amp;"; break;
        case '<': entity = "&lt;"; break;
        case '>': entity = "&gt;"; break;
        case '"': entity = "&quot;"; break;
        default:
            /* XML has no control characters, escaped or not. */
            entity = (unsigned char)*text < ' ' && *text != '\n' ? "?" : NULL;
        }
        if (entity != NULL) {
            fputs(entity, file);
            text++;
        } else {
            text += write_character(file, text);
        }
    }
}

void report_json_text(FILE *file, const char *text)
{
    fputc('"', file);
    while (*text != '\0') {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') {
            fprintf(file, "\\%c", byte);
            text++;
        } else if (byte < ' ' || byte == 0x7f) {
            fprintf(file, "\\u%04x", byte);
            text++;
        } else {
            text += write_character(file, text);
        }
    }
    fputc('"', file);
}

void report_csv_text(FILE *file, const char *text)
{
    if (text == NULL) {
        return;
    }
    const char *quote = strpbrk(text, ",\"\r\n") != NULL ? "\"" : "";
    fputs(quote, file);
    while (*text != '\0') {
        fputs(*text == '"' ? "\"" : "", file);
        text += write_character(file, text);
    }
    fputs(quote, file);
}
