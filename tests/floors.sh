#!/usr/bin/env bash
# The house rules that a script can see: a file includes headers of its own floor and below, every
# header names its floor in its first comment, nobody below the command line knows MPI_COMM_WORLD,
# leaves the program or branches on a method's name.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A number=([base]=0 [formats]=1 [tensor]=2 [dist]=3 [model]=4 [calibrate]=5 [method]=6
    [checkpoint]=7 [eval]=8 [pipeline]=9 [cli]=10)
failed=0

complain() {
    echo "$*"
    failed=1
}

floor_of_header() {
    sed -n '1,5s/^ \* Floor \([0-9]*\): .*/\1/p' "$1"
}

for header in include/mpress/*.h src/*/*.h; do
    [ -n "$(floor_of_header "$header")" ] || complain "$header: no line \"Floor N: name.\" in its head"
done

for file in include/mpress/*.h src/*/*.[ch]; do
    case $file in
    include/*) own=$(floor_of_header "$file") ;;
    *) own=${number[$(basename "$(dirname "$file")")]} ;;
    esac
    for included in $(sed -n 's/^#include "\(mpress\/[a-z0-9_]*\.h\)".*/\1/p' "$file"); do
        other=$(floor_of_header "include/$included")
        [ "${other:-99}" -le "${own:-0}" ] || complain "$file (floor $own) includes $included (floor $other)"
    done
    if [ "${own:-0}" -lt 10 ]; then
        ! grep -nE '\bMPI_COMM_WORLD\b|\b(exit|abort|assert)\(' "$file" /dev/null || complain "$file: see above"
        case $file in
        */method/*) ;;
        *) ! grep -nE 'strcmp\([^)]*method' "$file" /dev/null || complain "$file: branches on a method" ;;
        esac
    fi
done
exit $failed
