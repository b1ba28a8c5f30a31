#!/bin/sh
# Open MPI. Its own name of the job comes again; -x passes one on that does not.
cd "$(dirname "$0")" || exit
export TAILRACE_JOB="${TAILRACE_JOB:-mpi-$(date +%s)-$$}"
exec mpirun -x TAILRACE_JOB -n "${RANKS:-16}" python train.py
