#!/usr/bin/env bash
# Compresses a model on the hosts of a hostfile that can be reached by ssh without a password: one rank
# per NUMA domain, one thread per core of the domain.  Under Slurm use mpi-runs/slurm instead.
#
#   cluster.sh HOSTFILE MODEL OUT CALIB [options of mpress compress]
#
# The hosts are taken to be like this one.  Where they are not (a login node), say how many ranks a host
# gets and how many threads a rank: RANKS=4 THREADS=16.  MPRESS names another program than build/mpress;
# it must be under the same path on all hosts, and so must the MPI library.  MODEL and OUT may be on the
# disk of the first host alone; a file system that all see is faster.
#
# Where the ranks go, in the words of Open MPI:
#   --map-by ppr:1:numa:PE=16   one rank per NUMA domain, with 16 cores of it
#   --map-by ppr:4:node:PE=16   four ranks per host, with 16 cores each, whatever domains these are in
#   --bind-to core              a rank's threads stay on its cores: memory that they touched first is near
#   --report-bindings           says on stderr where everybody is; look at it once
# A rank then starts as many threads as it has cores.  OMP_NUM_THREADS overrides that; with more threads
# than cores everything is many times slower.  mpress prints what came of it:
#   mpress: 32 ranks on 8 nodes (4 each), 16 threads each
# Uneven hosts, as in "(4 + 4 + 2)", wait for the slowest.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ $# -lt 4 ]; then
    echo "usage: $0 HOSTFILE MODEL OUT CALIB [options of mpress compress]" >&2
    exit 64
fi
mpress=$(realpath "${MPRESS:-$here/../build/mpress}")
if [ ! -x "$mpress" ]; then
    echo "$mpress is not there: build it first (README, \"Building\"), or set MPRESS" >&2
    exit 64
fi
hostfile=$1 model=$2 out=$3 calib=$4
shift 4

# shellcheck source=mpi-runs/placement.sh
. "$here/placement.sh"
hosts=$(grep -c '^[^# ]' "$hostfile")
ranks=${RANKS:-$domains}
threads=${THREADS:-$((cores / ranks > 0 ? cores / ranks : 1))}
if [ "$ranks" -eq "$domains" ]; then
    map=ppr:1:numa:PE=$threads
else
    map=ppr:$ranks:node:PE=$threads
fi

# Debian's Open MPI sends over TCP unless it is told otherwise.  Where the hosts have InfiniBand and UCX:
#   fabric=(--mca pml ucx)
# and where they have several networks, the one to use:
#   fabric=(--mca btl_tcp_if_include 10.0.0.0/24 --mca oob_tcp_if_include 10.0.0.0/24)
fabric=()

echo "$hosts hosts x $ranks ranks x $threads threads"
exec mpirun --hostfile "$hostfile" -n $((hosts * ranks)) --map-by "$map" --bind-to core \
    --report-bindings "${fabric[@]}" -x OMP_NUM_THREADS="$threads" \
    "$mpress" compress "$model" "$out" --calib "$calib" "$@"
