#!/bin/sh
# Checks that each C snippet of docs/guide.md stands, line for line, in an example that compiles.
#
# usage: examples/check_guide.sh [PROJECT-DIRECTORY]
#
# Prints FILE:LINE for each snippet that doesn't, then a closing line as all tests do.
set -u

cd "${1:-.}" || exit 2
[ -f docs/guide.md ] || { echo "check_guide: $PWD has no docs/guide.md" >&2; exit 2; }

awk '
FILENAME != "docs/guide.md" { code[FILENAME] = code[FILENAME] $0 "\n"; next }
/^```c$/ { inside = 1; start = FNR; snippet = ""; next }
/^```$/ && inside {
    inside = 0
    total++
    found = 0
    for (file in code)
        if (index(code[file], snippet))
            found = 1
    if (!found) {
        print "docs/guide.md:" start ": this snippet is in no example"
        missing++
    }
    next
}
inside { snippet = snippet $0 "\n" }
END {
    if (total == 0) {
        print "docs/guide.md:1: has no snippet"
        missing++
    }
    printf "%d passed, %d failed, 0 skipped\n", total - missing, missing
    exit missing > 0
}' examples/*.c docs/guide.md
