# shellcheck shell=sh
# Sourced by the scripts here and by the tests: lets Open MPI run as root (containers, CI) and start
# more ranks than there are cores.  Other MPI libraries ignore these variables.
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1
# One core per rank would be bound twice where two jobs share a machine.
export OMPI_MCA_hwloc_base_binding_policy=none
