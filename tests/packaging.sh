#!/usr/bin/env bash
# What is packaged fits the project: the version, the switches of the build, recipes and scripts that
# parse.
set -euo pipefail
cd "$(dirname "$0")/.."
packaging=mpi-runs/packaging
failed=0

complain() {
    echo "$*"
    failed=1
}

version=$(sed -n 's/^project(mpress VERSION \([0-9.]*\) .*/\1/p' CMakeLists.txt)
grep -qx "version: $version" $packaging/CITATION.cff || complain "CITATION.cff: expected version $version"

for recipe in "$packaging"/spack_repo/mpress/packages/*/package.py; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$recipe" || complain "$recipe: see above"
done
# Every switch that the recipe sets is one that CMakeLists.txt knows.
for name in $(sed -n 's/.*self\.define[a-z_]*("\(MPRESS_[A-Z]*\)".*/\1/p' $packaging/spack_repo/mpress/packages/mpress/package.py); do
    grep -qE "(option|set)\($name " CMakeLists.txt || complain "package.py: $name is not in CMakeLists.txt"
done
for script in mpi-runs/*.sh mpi-runs/slurm/* tests/*.sh; do
    bash -n "$script" || complain "$script: see above"
done
exit $failed
