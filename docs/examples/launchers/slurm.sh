#!/bin/sh
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --requeue
# The step of Slurm is the job: all of its tasks are one run, with one agent on each node. Where Slurm starts the job
# anew, the name makes it go on in its run. --kill-on-bad-exit: when a rank falls, the others are not left waiting.
export TAILRACE_JOB="slurm-$SLURM_JOB_ID"
srun --kill-on-bad-exit=1 python "${TRAIN:-train.py}"
