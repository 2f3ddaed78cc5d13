# SPDX-License-Identifier: MIT
#
# emulated.sh - for the scripts that test the `pier` command, when it's a program of another system.
#
# Sourced with $pier and $directory set. Where the environment names an emulator in PIER_EMULATOR,
# $pier becomes a script that runs the command under it. $windows is 1 when the command is one for
# Windows, else 0, and $stop_signal what asks it to stop: Wine makes Ctrl-C of SIGINT, while SIGTERM
# ends a program without a word.

windows=0 stop_signal=TERM
case $pier in
*.exe) windows=1 stop_signal=INT ;;
esac
if [ -n "${PIER_EMULATOR:-}" ]; then
    # exec, so that a signal to the script is one to the command.
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$PIER_EMULATOR" "$pier" >"$directory/emulated"
    chmod +x "$directory/emulated"
    pier=$directory/emulated
fi
