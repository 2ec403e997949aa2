#!/usr/bin/env bash
# Compresses a model on several hosts that this machine pretends to have, and again on one, and compares
# the tensors of both byte for byte.  A host has a name, an address, shared memory and a disk of its own:
# nothing that one writes there is seen by another, and model and OUT are on the disk of the first.
#
#   fake-hosts.sh MODEL CALIB [options of mpress compress]
#
# HOSTFILE (hostfiles/fake) has their names and how many ranks they get; BANDWIDTH=1gbit limits what each
# of them sends; MPRESS names another program than build/mpress.  No sshd is needed, but namespaces: run it
# as root, or where users may make their own (exit code 77 where it cannot be done).  All of it is gone
# when the script ends, however it ends.
#
# It shows that the hosts find each other, that nothing is shared by accident, and that the bytes do not
# depend on the hosts.  It shows nothing of speed: all of them compute on the same cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ $# -lt 2 ]; then
    echo "usage: $0 MODEL CALIB [options of mpress compress]" >&2
    exit 64
fi
mpress=$(realpath "${MPRESS:-$here/../build/mpress}")
if [ ! -x "$mpress" ]; then
    echo "$mpress is not there: build it first (README, \"Building\"), or set MPRESS" >&2
    exit 64
fi

for tool in ip unshare nsenter; do
    if ! command -v $tool >/dev/null; then
        echo "no fake hosts here: $tool is missing (packages iproute2, util-linux)" >&2
        exit 77
    fi
done

# A network and mounts of our own, and processes that end with the first of them: this script.
if [ -z "${FAKE_HOSTS_INSIDE:-}" ]; then
    apart=(--net --mount --pid --fork --kill-child --mount-proc)
    if [ "$(id -u)" -ne 0 ]; then
        apart+=(--user --map-root-user)
    fi
    if ! unshare "${apart[@]}" --uts true; then
        echo "no fake hosts here: this user may not make namespaces" >&2
        exit 77
    fi
    stage=$(mktemp -d /tmp/fake-hosts.XXXXXX)
    status=0
    FAKE_HOSTS_INSIDE=$stage unshare "${apart[@]}" "$0" "$@" || status=$?
    rmdir "$stage"
    exit $status
fi

# shellcheck source=mpi-runs/environment.sh
. "$here/environment.sh"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export OMPI_MCA_btl_vader_single_copy_mechanism=none # wants rights that a namespace may not give
export OMPI_MCA_mpi_yield_when_idle=1                # each host believes that it has all cores
stage=$FAKE_HOSTS_INSIDE
hostfile=$(realpath "${HOSTFILE:-$here/../hostfiles/fake}")
model=$(realpath "$1") calib=$(realpath "$2")
shift 2
mount -t tmpfs tmpfs "$stage"
mount -t tmpfs tmpfs /dev/shm # MPI names its files there by process ids, which two scripts may share
mkdir "$stage/hosts" "$stage/disk"
cd "$stage"

# Runs a command on a host, also for mpirun, which starts it in the place of ssh.
cat >on <<END
#!/bin/sh
pid=\$(cat "$stage/hosts/\$1")
shift
exec nsenter --target "\$pid" --net --uts --mount sh -c "cd $stage && \$*"
END
chmod +x on

# Host number $1, named $2, is held by a process that does nothing.
make_host() {
    local pid

    unshare --net --uts --mount sleep infinity &
    pid=$!
    until [ "$(readlink /proc/$pid/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do
        sleep 0.02
    done
    echo $pid >"hosts/$2"
    ip link add "port$1" type veth peer name eth0 netns $pid
    ip link set "port$1" master switch up
    ./on "$2" "set -e; hostname $2
        ip link set lo up && ip address add 10.77.0.$1/24 dev eth0 && ip link set eth0 up
        mount -t tmpfs tmpfs '$stage/disk' && mount -t tmpfs tmpfs /dev/shm"
    if [ -n "${BANDWIDTH:-}" ]; then
        ./on "$2" "tc qdisc add dev eth0 root tbf rate $BANDWIDTH burst 256kb latency 50ms"
    fi
}

ip link set lo up
ip link add switch type bridge
ip address add 10.77.0.254/24 dev switch
ip link set switch up
mapfile -t names < <(sed -n 's/^\([^# ][^ ]*\) .*/\1/p' "$hostfile")
slots=$(sed -n 's/^[^#].* slots=\([0-9]*\).*/+\1/p' "$hostfile" | tr -d '\n')
ranks=$((slots))
for i in "${!names[@]}"; do
    make_host $((i + 1)) "${names[i]}"
done
first=${names[0]}
./on "$first" "cp -rL '$model' disk/model && cp '$calib' 'disk/$(basename "$calib")'"

echo "== $ranks ranks on one host"
own=(--mca orte_tmpdir_base "$stage/disk") # what MPI itself puts on a disk
mpirun "${own[@]}" -n "$ranks" "$mpress" compress "$model" one --calib "$calib" "$@"

echo "== $ranks ranks on ${#names[@]} hosts: $(printf '%s ' "${names[@]}")"
mpirun "${own[@]}" --mca plm_rsh_agent "$stage/on" --hostfile "$hostfile" -n "$ranks" \
    --mca btl tcp,vader,self \
    --mca oob_tcp_if_include 10.77.0.0/24 --mca btl_tcp_if_include 10.77.0.0/24 \
    "$mpress" compress disk/model disk/out --calib "disk/$(basename "$calib")" "$@"

same=0
for file in one/blocks/*.h5 one/hf/*.safetensors; do
    ./on "$first" "cmp '$file' 'disk/out/${file#one/}'"
    same=$((same + 1))
done
for name in "${names[@]:1}"; do
    ./on "$name" "test ! -e disk/model && test ! -e disk/out"
done
echo "== the same bytes in $same files of blocks/ and hf/; model and OUT are on $first alone"
