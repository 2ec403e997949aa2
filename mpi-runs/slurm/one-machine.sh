#!/usr/bin/env bash
# A Slurm of several nodes on this one machine, to try job scripts on: a slurmd for each node, told apart
# by port, under a name of its own.  Nothing of an installed cluster is touched: configuration, keys,
# state and logs lie in one directory.  Debian's packages: slurm-wlm and munge.
#   one-machine.sh start       and then: export SLURM_CONF=DIRECTORY/slurm.conf (it prints the line)
#   one-machine.sh status
#   one-machine.sh stop        also cancels the jobs; logs stay
# NODES (2) nodes of CPUS (4) processors each, whatever the machine has; PORT (17817) is the first of NODES + 1
# ports; SLURM_DIR (default: mpress-slurm-USER in TMPDIR) is the directory.
#
# An ordinary user can start it, too.  Root gives each node a host name of its own, which mpirun needs to
# start ranks on more than one; srun does not.
#
# What differs from a cluster: processes are followed by their parents and not by control groups
# (proctrack/linuxproc), nobody binds tasks to cores (task/none), all nodes share files and memory, and a
# requeued job starts again after 15 seconds and not after two minutes (cred_expire).
set -euo pipefail

nodes=${NODES:-2} cpus=${CPUS:-4} port=${PORT:-17817}
directory=${SLURM_DIR:-${TMPDIR:-/tmp}/mpress-slurm-$(id -un)}
export SLURM_CONF=$directory/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

configure() {
    local memory host

    memory=$(awk -v n="$nodes" '/^MemTotal/ { print int($2 / 1024 / n) }' /proc/meminfo)
    host=$(hostname)
    cat >"$SLURM_CONF" <<END
ClusterName=one-machine
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$directory/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/%n
TmpFS=$directory/%n/tmp
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/%n.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName=fake[1-$nodes] NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=$memory
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

# Runs a command under a host name of its own, where that is allowed (root).
named() {
    local name=$1
    shift

    if unshare --uts true 2>/dev/null; then
        # shellcheck disable=SC2016
        unshare --uts sh -c 'hostname "$0" && exec "$@"' "$name" "$@"
    else
        "$@"
    fi
}

# Whether the daemon of a pid file runs.
alive() {
    local pid

    pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null
}

daemons() {
    local file

    echo "$directory/slurmctld.pid"
    for file in "$directory"/fake*/; do echo "${file%/}.pid"; done
    echo "$directory/munge/munged.pid"
}

start() {
    if alive "$directory/slurmctld.pid"; then
        echo "$directory: already running" >&2
        exit 65
    fi
    rm -rf "$directory"/fake*/
    mkdir -p "$directory/state" "$directory/munge"
    chmod 755 "$directory" "$directory/munge"
    configure
    if [ ! -s "$directory/munge/key" ]; then
        (umask 077 && head -c 128 /dev/urandom >"$directory/munge/key")
    fi
    munged --key-file="$directory/munge/key" --socket="$directory/munge/socket" \
        --pid-file="$directory/munge/munged.pid" --log-file="$directory/munge/munged.log" \
        --seed-file="$directory/munge/munged.seed"
    slurmctld -c
    for ((i = 1; i <= nodes; i++)); do
        mkdir -p "$directory/fake$i/tmp"
        named "fake$i" slurmd -N "fake$i"
    done
    for ((i = 0; i < 30; i++)); do
        if [ "$(sinfo --noheader --Node --format=%t 2>/dev/null | grep -c idle)" -eq "$nodes" ]; then
            sinfo >&2
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 1
    done
    echo "the nodes did not come up within 30 s: see $directory/*.log" >&2
    exit 70
}

status() {
    local file

    for file in $(daemons); do
        if alive "$file"; then
            echo "$(basename "$file" .pid) runs, pid $(cat "$file")"
        else
            echo "$(basename "$file" .pid) does not run"
        fi
    done
    if alive "$directory/slurmctld.pid"; then
        sinfo
        squeue
    fi
}

stop() {
    local file

    if alive "$directory/slurmctld.pid"; then
        scancel --user="$(id -un)" || true
        for ((i = 0; i < 40; i++)); do
            [ -n "$(squeue --noheader 2>/dev/null)" ] || break
            sleep 1
        done
    fi
    for file in $(daemons); do
        if ! alive "$file"; then continue; fi
        kill "$(cat "$file")"
        for ((i = 0; i < 50; i++)); do
            alive "$file" || break
            sleep 0.2
        done
        if alive "$file"; then echo "$(basename "$file" .pid), pid $(cat "$file"), does not end" >&2; fi
    done
}

case ${1:-} in
start | stop | status) "$1" ;;
*)
    echo "usage: $0 start|stop|status" >&2
    exit 64
    ;;
esac
