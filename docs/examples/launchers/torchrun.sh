#!/bin/sh
# One node. torchrun's end is the run's, also where a rank is killed; --max-restarts goes on in the same run.
cd "$(dirname "$0")" || exit
exec tailrace run -- torchrun --nproc-per-node "${RANKS:-8}" --max-restarts "${RESTARTS:-0}" train.py
