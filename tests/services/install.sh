#!/bin/sh
# Installs what the tests of outside services need beside Python, where that can be done: as root, on Debian and its
# kin. It never fails: the tests know best what is missing. They skip with a reason, and fail under CI=true.

packages=""
command -v chromium >/dev/null && command -v chromedriver >/dev/null ||
    packages="chromium chromium-driver fonts-dejavu-core"
command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
    packages="$packages postgresql"
command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] || packages="$packages mariadb-server"
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || packages="$packages nginx-light"
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v srun >/dev/null && command -v munged >/dev/null ||
    packages="$packages slurmctld slurmd slurm-client munge"
command -v tmux >/dev/null || packages="$packages tmux"
command -v less >/dev/null || packages="$packages less"
command -v mpirun >/dev/null || packages="$packages openmpi-bin"

[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "There is no apt-get here to install what is missing:" $packages >&2
elif [ "$(id -u)" != 0 ]; then
    echo "Not root, so this is not installed: apt-get install" $packages >&2
else
    echo "Installing" $packages
    export DEBIAN_FRONTEND=noninteractive
    # One after the other, so that one that cannot be had does not keep the other away.
    apt-get update -qq || echo "apt-get update has failed: the package lists may be old, or missing" >&2
    for package in $packages; do
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
            echo "apt-get install $package has failed: the tests that need it are skipped (under CI=true they fail)" >&2
    done
fi
