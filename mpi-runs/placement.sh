# shellcheck shell=bash
# Sourced by the scripts here: sets `cores` (not hardware threads) and `domains` (NUMA) to what this
# process may use.
read -r cores domains < <(LC_ALL=C lscpu -p=CPU,CORE,NODE | awk -F, \
    -v allowed="$(awk '/^Cpus_allowed_list/ { print $2 }' /proc/self/status)" '
    BEGIN {
        count = split(allowed, ranges, ",")
        for (i = 1; i <= count; i++) {
            ends = split(ranges[i], range, "-")
            for (cpu = range[1] + 0; cpu <= range[ends] + 0; cpu++) mine[cpu] = 1
        }
    }
    /^#/ || !(($1 + 0) in mine) { next }
    !($2 in core) { core[$2] = 1; cores++ }
    !($3 in node) { node[$3] = 1; nodes++ }
    END { print cores, nodes }')
export cores domains
