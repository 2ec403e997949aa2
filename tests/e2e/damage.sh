#!/usr/bin/env bash
# One byte of each file of a run is flipped: inspect and eval name it, and the same command makes it again,
# or refuses.
#   damage.sh MPRESS MPIEXEC
set -euo pipefail
mpress=$1 mpiexec=$2
. "$(dirname "$0")/../../mpi-runs/environment.sh"
export OMP_NUM_THREADS=1
model=$(cd "$(dirname "$0")/../data/wikillama-5m" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

run() { # ranks, command; what it says goes to log
    local ranks=$1
    shift
    "$mpiexec" --bind-to none -n "$ranks" "$mpress" "$@" >"$scratch/log" 2>&1
}
compress() {
    local ranks=$1
    shift
    run "$ranks" compress "$model" "$scratch/out" --sparsity 2:4 --calib "$model/sample-calib.jsonl" \
        --nsamples 6 --seqlen 128 "$@"
}
fail() {
    echo "$*" >&2
    cat "$scratch/log" >&2
    exit 1
}
flip() { # a bit of the byte in the middle, or at the offset $2
    local at=${2:-$(($(stat -c %s "$1") / 2))} byte
    byte=$(od -An -tu1 -j "$at" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x $((byte ^ 16)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}

compress 2 || fail "the first run failed"
cp -r "$scratch/out" "$scratch/whole"
run 2 inspect --verify "$scratch/out" || fail "a whole run is said to be damaged"

cd "$scratch/whole"
for file in model.h5 blocks/rest.h5 blocks/00000.h5 blocks/00003.h5 assets/config.json \
    assets/tokenizer.json calib.safetensors hf/config.json hf/model.safetensors report.json \
    journal.jsonl; do
    flip "$scratch/out/$file"
    if run 2 inspect --verify "$scratch/out"; then fail "$file: the damage was not found"; fi
    grep -q "$file" "$scratch/log" || fail "$file: inspect does not name it"
    case $file in
    blocks/* | assets/* | model.h5)
        if run 1 eval "$scratch/out" --data "$model/sample-eval.jsonl" --seqlen 128; then
            fail "$file: eval read it"
        fi
        grep -q "$file: damaged" "$scratch/log" || fail "$file: eval does not name it" ;;
    esac
    compress 3 || fail "$file: the same command failed"
    grep -q "$file" "$scratch/log" || fail "$file: the same command does not name it"
    for made in blocks/*.h5 hf/* assets/*; do
        cmp -s "$made" "$scratch/out/$made" || fail "$file: afterwards $made differs"
    done
    echo "$file: named, and made again"
done

# a run that was killed when not all files of hf/ were in the journal yet: what is not there may be anything
sed -i '/"file":"hf\/model.safetensors"/,$d' "$scratch/out/journal.jsonl"
flip "$scratch/out/hf/model.safetensors"
compress 2 || fail "a run that was killed at its export is not gone on with"
grep -q "hf: not all of its files have checksums" "$scratch/log" || fail "nothing is said of hf/"
for made in hf/*; do
    cmp -s "$made" "$scratch/out/$made" || fail "a run that was killed at its export: $made differs"
done
run 2 inspect --verify "$scratch/out" || fail "a run that was killed at its export is damaged in the end"
# and the same for assets/, which the model is read with
sed -i '/"file":"assets\/tokenizer.json"\|"folder":"assets"/d' "$scratch/out/journal.jsonl"
flip "$scratch/out/assets/tokenizer.json"
compress 2 --no-export || fail "a run that was killed when it copied assets/ is not gone on with"
cmp -s assets/tokenizer.json "$scratch/out/assets/tokenizer.json" || fail "assets/tokenizer.json differs"
echo "folders that are in the journal in part: made again"

# without its first line a journal says nothing
flip "$scratch/out/journal.jsonl" 100
if compress 2; then fail "a journal without a first line was believed"; fi
grep -q "journal.jsonl: line 1: damaged" "$scratch/log" || fail "the first line is not named"
echo "first line of journal.jsonl: refused"
