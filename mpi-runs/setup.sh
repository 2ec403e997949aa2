#!/usr/bin/env bash
# Installs what mpress is built from on Debian and Ubuntu, with sudo where it is needed; does nothing
# where all of it is there.  On a cluster use its modules instead (README, "Building").
#   setup.sh [tests]      tests: also Criterion, Python for the read-back checks, and what makes hosts up
set -euo pipefail

packages=(build-essential cmake pkg-config git openmpi-bin libopenmpi-dev libscalapack-openmpi-dev
    libhdf5-openmpi-dev libopenblas-openmp-dev libdnnl-dev ocl-icd-opencl-dev libjansson-dev
    libpcre2-dev libutf8proc-dev) # OpenCL: what libdnnl-dev looks for without depending on it
if [ "${1:-}" = tests ]; then
    packages+=(libcriterion-dev python3-venv iproute2)
fi

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
