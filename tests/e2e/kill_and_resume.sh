#!/usr/bin/env bash
# A run that is killed again and again, each time continued on another number of ranks, ends with the
# bytes of one that was left alone.
#   kill_and_resume.sh MPRESS MPIEXEC [KILLS [METHOD OPTIONS...]]
set -euo pipefail
mpress=$1 mpiexec=$2 kills=${3:-20}
shift $(($# < 3 ? $# : 3))
[ $# -gt 0 ] || set -- --sparsity 2:4
model=$(cd "$(dirname "$0")/../data/wikillama-5m" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

. "$(dirname "$0")/../../mpi-runs/environment.sh"
export OMP_NUM_THREADS=1
compress() { # ranks, OUT, more options
    local ranks=$1 out=$2
    shift 2
    exec "$mpiexec" --bind-to none -n "$ranks" "$mpress" compress "$model" "$out" \
        --calib "$model/sample-calib.jsonl" --nsamples 8 --seqlen 128 "$@"
}

blocks_of() { # what the journal names, by lines, and by different blocks
    grep -o '"event":"block".*"block":[0-9]*' "$1/journal.jsonl" 2>/dev/null | grep -o '[0-9]*$' || true
}

started=$(date +%s%N)
(compress 2 "$scratch/alone" "$@") 2>"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
took=$((($(date +%s%N) - started) / 1000000))
echo "left alone: $took ms"

# first at moments that are chosen: where the n-th file cannot be given its name
for nth in 13 14 15 16; do
    code=0
    (MPRESS_FAULT=rename:rank=0:nth=$nth compress 2 "$scratch/cut" "$@") 2>"$scratch/log" || code=$?
    had=$(blocks_of "$scratch/cut" | wc -l)
    if [ "$code" -ne 74 ] || [ "$had" -lt 1 ] || [ "$had" -gt 5 ]; then
        cat "$scratch/log" >&2
        echo "cut off at rename $nth: exit code $code, $had blocks" >&2
        exit 1
    fi
    # a first block that has to be made again must not take the place of the states after later ones
    [ "$nth" -ne 16 ] || printf x | dd of="$scratch/cut/blocks/00000.h5" bs=1 seek=5000 conv=notrunc status=none
    (compress $((nth % 4 + 1)) "$scratch/cut" "$@") 2>"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
    cmp "$scratch/alone/hf/model.safetensors" "$scratch/cut/hf/model.safetensors"
    grep -o 'hidden/[0-9]*' "$scratch/cut/journal.jsonl" | sort -c
    echo "cut off at rename $nth with $had blocks: $(grep -c 'is there already' "$scratch/log" || true) of them replayed"
    rm -rf "$scratch/cut"
done

killed=0 before=0 runs=0
while [ "$killed" -lt "$kills" ] && [ "$runs" -lt $((3 * kills)) ]; do
    ranks=$((runs++ % 4 + 1))
    setsid bash -c "$(declare -f compress); mpress='$mpress' mpiexec='$mpiexec' model='$model'; compress $ranks '$scratch/out' $*" \
        2>"$scratch/log" &
    session=$!
    # from the start to about the end of what is left
    pause=$((RANDOM * (took * (7 - before) / 7) / 32768))
    sleep "$(printf '%d.%03d' $((pause / 1000)) $((pause % 1000)))"
    if pkill -KILL -s "$session"; then
        killed=$((killed + 1))
    else
        took=$((took * 3 / 4)) # it was over before: the machine was busier when the first run was timed
        wait "$session" || { cat "$scratch/log" >&2; exit 1; }
    fi
    { wait "$session"; } 2>/dev/null || true
    while pgrep -s "$session" >/dev/null; do sleep 0.01; done
    now=$(blocks_of "$scratch/out" | wc -l)
    if [ "$now" -ne "$(blocks_of "$scratch/out" | sort -u | wc -l)" ] || [ "$now" -lt "$before" ]; then
        echo "run $runs: a block that was there has been made again, or is gone" >&2
        exit 1
    fi
    # a run that is complete is begun again, so that every kill meets one at work
    if grep -q '"event":"finish"' "$scratch/out/journal.jsonl" 2>/dev/null; then
        cmp "$scratch/alone/hf/model.safetensors" "$scratch/out/hf/model.safetensors"
        rm -rf "$scratch/out"
        now=0
    fi
    before=$now
done

(compress 3 "$scratch/out" "$@") 2>"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
for file in "$scratch"/alone/blocks/*.h5 "$scratch"/alone/hf/model.safetensors; do
    cmp "$file" "${file/alone/out}"
done
# what was measured at blocks that earlier runs made is in the last one's report, to the last digit
states_of() { sed -n '/^ *"states": \[/,/^ *\],*$/p' "$1/report.json"; }
[ "$(states_of "$scratch/alone" | grep -c '"distance"')" -gt 0 ]
cmp <(states_of "$scratch/alone") <(states_of "$scratch/out")
[ "$killed" -eq "$kills" ] || { echo "only $killed of $runs runs could be killed" >&2; exit 1; }
echo "$killed kills in $runs runs: the tensors are those of the run that was left alone"
