# Your cluster on one page, for the scripts beside it. Copy it, fill it in, and source it before sbatch:
#
#     source slurm/env.sh
#     sbatch --array=0-99 slurm/array.sbatch RUN fetch
#
# sbatch takes SBATCH_* for options: they win over the #SBATCH lines of a script, and the command line wins over them.
# A line that stays a comment leaves the matter to the cluster. Jobs inherit the environment that is made here, as long
# as nobody tells sbatch otherwise (--export). `danqing run` does not read this page; its site file says the same.

# What all jobs ask for.
# export SBATCH_PARTITION=normal
# export SBATCH_ACCOUNT=mylab
# export SBATCH_QOS=normal
# export SBATCH_CONSTRAINT=avx2
# export SBATCH_GRES=lscratch:10
# export SBATCH_TIMELIMIT=240               # minutes
# export SBATCH_MEM_PER_NODE=8G             # of a task, on each of its nodes

# How the toolkit is found: modules that its Python needs, then the folder that it was installed into.
# module load python
# source /shared/me/danqing/bin/activate
export DANQING="${DANQING:-danqing}"        # the command, or its whole path

# What starts the ranks in mpi.sbatch: srun serves the mpich wheel; mpiexec gets `-n` with the number of ranks.
export DANQING_MPI="${DANQING_MPI:-srun --mpi=pmi2}"
