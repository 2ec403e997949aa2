-- Lmod module file of mpress.  Copy it to MODULEPATH/mpress/VERSION.lua (the version is the name of the
-- file) and set the two values below.
local prefix = "/opt/mpress/" .. myModuleVersion() -- what cmake --install was given
local needs = {} -- modules that it was built with: {"gcc/12", "openmpi/4.1"}

help([[
mpress compresses large language models after training, on CPU clusters: prunes or factors the linear
maps of a Hugging Face checkpoint.  See "man mpress"; start it with mpirun or srun.
]])
whatis("Name: mpress")
whatis("Version: " .. myModuleVersion())
whatis("Description: compresses large language models on CPU clusters (MPI)")
whatis("Keywords: machine learning, MPI")

for _, module in ipairs(needs) do
    depends_on(module)
end

prepend_path("PATH", pathJoin(prefix, "bin"))
prepend_path("MANPATH", pathJoin(prefix, "share/man"))
append_path("MANPATH", "") -- an empty entry: the pages of the system stay
setenv("MPRESS", pathJoin(prefix, "bin/mpress")) -- what the scripts in mpi-runs start

if myShellName() == "bash" then
    execute({ cmd = ". " .. pathJoin(prefix, "share/bash-completion/completions/mpress"), modeA = { "load" } })
    execute({ cmd = "complete -r mpress", modeA = { "unload" } })
end
