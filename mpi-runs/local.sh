#!/usr/bin/env bash
# Compresses a model on this machine: one rank per NUMA domain, one thread per core of the domain.
#   local.sh MODEL OUT CALIB [options of mpress compress]
# RANKS=4 THREADS=8 local.sh ... chooses otherwise (ranks are then not bound to cores);
# MPRESS names another program than build/mpress.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ $# -lt 3 ]; then
    echo "usage: $0 MODEL OUT CALIB [options of mpress compress]" >&2
    exit 64
fi
mpress=${MPRESS:-$here/../build/mpress}
if [ ! -x "$mpress" ]; then
    echo "$mpress is not there: build it first (README, \"Building\"), or set MPRESS" >&2
    exit 64
fi
# shellcheck source=mpi-runs/environment.sh
. "$here/environment.sh"
# shellcheck source=mpi-runs/placement.sh
. "$here/placement.sh"

placement=()
if [ -z "${RANKS:-}" ] && [ "$domains" -gt 1 ]; then
    # Open MPI's words; other libraries place ranks by their own options or variables
    placement=(--map-by "ppr:1:numa:PE=$((cores / domains))" --bind-to core)
fi
ranks=${RANKS:-$domains}
threads=${THREADS:-$((cores / ranks > 0 ? cores / ranks : 1))}
model=$1 out=$2 calib=$3
shift 3

echo "$ranks ranks x $threads threads on $cores cores in $domains NUMA domains"
export OMP_NUM_THREADS=$threads
exec mpirun -n "$ranks" "${placement[@]}" "$mpress" compress "$model" "$out" --calib "$calib" "$@"
