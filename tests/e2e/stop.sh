#!/usr/bin/env bash
# Requests to stop, a second run in the same OUT, and an OUT that goes away under a run.
#   stop.sh MPRESS MPIEXEC
set -euo pipefail
mpress=$1 mpiexec=$2
. "$(dirname "$0")/../../mpi-runs/environment.sh"
export OMP_NUM_THREADS=1
model=$(cd "$(dirname "$0")/../data/wikillama-5m" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
out=$scratch/out

compress() { # ranks, more options
    local ranks=$1
    shift
    exec "$mpiexec" --bind-to none -n "$ranks" "$mpress" compress "$model" "$out" --sparsity 2:4 \
        --calib "$model/sample-calib.jsonl" --nsamples 160 --seqlen 256 --no-export "$@"
}
fail() {
    echo "$*" >&2
    cat "$scratch/log" >&2
    exit 1
}
blocks() {
    grep -c '"event":"block"' "$out/journal.jsonl" 2>/dev/null || true
}
begin() { # in the background, until it is at work and $1 blocks are there
    local wanted=$1
    shift
    : >"$scratch/log"
    (compress "$@") >"$scratch/log" 2>&1 &
    job=$!
    until grep -q "GEMM rate" "$scratch/log" && [ "$(blocks)" -ge "$wanted" ] 2>/dev/null; do
        kill -0 "$job" 2>/dev/null || fail "the run ended before it had $wanted blocks"
        sleep 0.02
    done
}
ranks() { # the processes of the job
    grep -l "^PPid:[[:space:]]*$job\$" /proc/[0-9]*/status 2>/dev/null | cut -d / -f 3
}
expect() { # exit code, words
    local code=0
    wait "$job" || code=$?
    [ "$code" -eq "$1" ] || fail "exit code $code, expected $1"
    grep -q "$2" "$scratch/log" || fail "expected: $2"
}

(compress 2) 2>"$scratch/log" || fail "the run that is left alone failed"
mv "$out" "$scratch/alone"

begin 1 2
kill -USR1 "$job"
expect 75 "stopped by SIGUSR1: [1-5] of 6 blocks are there; the same command goes on"
echo "SIGUSR1: finished its block, $(blocks) of 6"

begin "$(($(blocks) + 1))" 3 --stop-grace 0
kill -USR1 "$job"
expect 75 "stopped by SIGUSR1"
echo "SIGUSR1 without grace: dropped its block, $(blocks) of 6"

had=$(blocks)
begin "$had" 1
touch "$out/stop"
expect 75 "stopped by the file 'stop'"
[ ! -e "$out/stop" ] || fail "the request is still there"
echo "file: $(blocks) of 6"

(compress 4 --max-time 1 --overwrite) >"$scratch/log" 2>&1 &
job=$!
expect 75 "stopped by --max-time"
echo "--max-time: $(blocks) of 6"

# the first run stands still while others try, however fast the machine is
begin 0 2 --overwrite
for rank in $(ranks); do kill -STOP "$rank"; done
[ "$(blocks)" -lt 6 ] || fail "the first run was done before the second began"
code=0
(compress 2) >"$scratch/second" 2>&1 || code=$?
grep -q "another run is at work in it (process [0-9]* on " "$scratch/second" ||
    { cat "$scratch/second"; fail "the second run was not refused"; }
[ "$code" -eq 65 ] || fail "the second run ended with $code"
code=0
(compress 2 --overwrite) >"$scratch/second" 2>&1 || code=$?
[ "$code" -eq 65 ] || fail "the second run with --overwrite ended with $code"
for rank in $(ranks); do kill -CONT "$rank"; done
expect 0 "done in"
for block in "$scratch"/alone/blocks/*.h5; do
    cmp "$block" "$out/blocks/$(basename "$block")"
done
echo "a second run was refused; the first ended with the bytes of the one that was left alone"

as_it_was() { # what is asked for is there: one line, and nothing is touched
    cp "$out/journal.jsonl" "$scratch/journal"
    (compress 3 "$@") >"$scratch/log" 2>&1 || fail "a finished run is an error"
    [ "$(grep -vc "mpress: 3 ranks" "$scratch/log")" -eq 1 ] && grep -q "finished already" "$scratch/log" ||
        fail "expected one line for a finished run"
    cmp "$scratch/journal" "$out/journal.jsonl"
}
before() { # perplexity of the dense model, as the report has it
    grep '"before": [0-9]' "$out/report.json"
}
as_it_was
# an evaluation that it has not is made; the same tokens in other windows are another evaluation
for windows in "32 8" "128 2"; do
    # shellcheck disable=SC2086
    set -- --eval "$model/sample-eval.jsonl" --eval-seqlen ${windows% *} --max-windows ${windows#* }
    (compress 2 "$@") >"$scratch/log" 2>&1 || fail "a finished run is not evaluated"
    grep -q "perplexity .* on ${windows#* } windows of ${windows% *} tokens" "$scratch/log" || fail "no perplexity"
    before >"$scratch/before.${windows#* }" || fail "no perplexity in the report"
    as_it_was "$@"
done
if cmp -s "$scratch"/before.*; then fail "the perplexity of other windows"; fi
as_it_was
set --
echo "a finished run is evaluated when asked to, and otherwise left alone"
code=0
(compress 2 --damp 0.02) >"$scratch/log" 2>&1 || code=$?
[ "$code" -eq 65 ] || fail "another identity ended with $code"
grep -q "damp was 0.01, now 0.02" "$scratch/log" || fail "the difference is not shown"
code=0
(compress 2 --resume never) >"$scratch/log" 2>&1 || code=$?
[ "$code" -eq 65 ] || fail "--resume never ended with $code"
rm -rf "$out"
code=0
(compress 2 --resume require) >"$scratch/log" 2>&1 || code=$?
[ "$code" -eq 64 ] || fail "--resume require ended with $code"
[ ! -e "$out" ] || fail "--resume require made OUT"

begin 1 3
rm -rf "$out"
expect 74 "/out/.*\(No such file\|failed\)"
grep -c "mpress: error" "$scratch/log" | grep -qx 1 || fail "expected one line"
echo "OUT deleted under way: $(grep 'mpress: error' "$scratch/log" | sed "s|$scratch||")"
