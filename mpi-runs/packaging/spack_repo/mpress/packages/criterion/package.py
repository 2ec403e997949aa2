from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class Criterion(Package):
    """A unit testing framework for C.  Spack has no recipe for it, and this one builds nothing: it lets
    `mpress+tests` take the Criterion of the system, which packages.yaml must name:

    packages:
      criterion:
        buildable: false
        externals:
        - spec: criterion@2.4
          prefix: /usr
    """

    has_code = False

    version("2.4")

    def install(self, spec, prefix):
        raise InstallError("criterion is taken from the system: see the text of its recipe")
