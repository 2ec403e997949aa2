#!/usr/bin/env bash
# Everything that is tested, from a clone: packages, a build with warnings as errors, all tests, and
# the serial ones once more under the sanitizers.  What CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."

bash mpi-runs/setup.sh tests
. mpi-runs/environment.sh

# Python only reads outputs back; where its packages cannot be had, those tests say that they skip.
if [ ! -x build-tests/python/bin/python3 ]; then
    mkdir -p build-tests
    { python3 -m venv build-tests/python &&
        build-tests/python/bin/pip install --quiet numpy safetensors h5py; } ||
        rm -rf build-tests/python
fi

cmake -S . -B build-tests -DMPRESS_WERROR=ON
cmake --build build-tests -j "$(nproc)"

cmake -S . -B build-sanitized -DMPRESS_WERROR=ON -DMPRESS_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug \
    -DMPRESS_SERIAL_ONLY=ON
cmake --build build-sanitized -j "$(nproc)"
(cd build-sanitized && ctest --output-on-failure -L unit)

cd build-tests
ctest --output-on-failure || failed=$?
grep -h "^skipped: " Testing/Temporary/LastTest.log | sort | uniq -c || true
exit "${failed:-0}"
