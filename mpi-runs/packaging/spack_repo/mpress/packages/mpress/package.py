import pathlib

from spack_repo.builtin.build_systems.cmake import CMakePackage

from spack.package import *


class Mpress(CMakePackage):
    """Compresses large language models after training, on CPU clusters, in C with MPI: prunes the
    linear maps of a Hugging Face checkpoint, or factors them into low rank, with the help of a
    calibration text."""

    # The source is the clone that this recipe lies in.
    git = pathlib.Path(__file__).resolve().parents[6].as_uri()

    license("BSD-3-Clause")

    version("main", branch="main")

    variant("onednn", default=True, description="Single-precision products by oneDNN instead of BLAS")
    variant("native", default=False, description="Compile for the processor of the build host only")
    variant("tests", default=False, description="Build the tests (they need Criterion)")

    depends_on("c", type="build")
    depends_on("cmake@3.20:", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi@3.1:")
    depends_on("blas")
    depends_on("lapack")
    depends_on("scalapack")
    depends_on("hdf5@1.10:+mpi")
    depends_on("jansson")
    depends_on("pcre2")
    depends_on("utf8proc")
    depends_on("onednn@2: cpu_runtime=omp", when="+onednn")
    depends_on("criterion", type=("build", "link"), when="+tests")

    # BLAS and oneDNN are called inside of OpenMP's parallel regions, which keeps them to one thread;
    # threads of their own would be too many.
    conflicts("^openblas threads=pthreads", msg="mpress needs OpenBLAS with threads=openmp or none")
    conflicts("^openblas+ilp64", msg="mpress needs BLAS and LAPACK with 32-bit integers")

    def cmake_args(self):
        spec = self.spec
        return [
            self.define("MPI_C_COMPILER", spec["mpi"].mpicc),
            self.define("BLAS_LIBRARIES", spec["blas"].libs.joined(";")),
            self.define("LAPACK_LIBRARIES", spec["lapack"].libs.joined(";")),
            self.define("SCALAPACK_LIBRARIES", spec["scalapack"].libs.joined(";")),
            self.define("HDF5_ROOT", spec["hdf5"].prefix),
            self.define("MPRESS_ONEDNN", "ON" if spec.satisfies("+onednn") else "OFF"),
            self.define_from_variant("MPRESS_NATIVE", "native"),
            self.define_from_variant("MPRESS_TESTS", "tests"),
        ]
