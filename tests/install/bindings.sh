#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs a program that has the shared library alone, with the names of all structs and of all
# functions that stand in the headers whole: the library has to know each.
#
# usage: tests/install/bindings.sh INCLUDE-DIRECTORY PROGRAM LIBRARY
set -u

# A function's name may stand on the line below its type.
names=$(cat "$1"/pier/*.h | awk '
/^struct pier_[a-z_]+ \{/ { print "struct " $2 }
/^PIER_INLINE / { text = ""; inside = 1 }
inside {
    text = text " " $0
    if (index(text, "(")) {
        sub(/\(.*/, "", text)
        sub(/.*[ *]/, "", text)
        print "function " text
        inside = 0
    }
}')
case $names in
*'struct pier_op'*'function pier_op_pending'* | *'function pier_op_pending'*'struct pier_op'*) ;;
*)
    echo 'not ok bindings: found no structs and functions in the headers'
    echo '0 passed, 1 failed, 0 skipped'
    exit 1
    ;;
esac
# shellcheck disable=SC2086 # the list is split on purpose
"$2" "$3" $names
