#!/usr/bin/env bash
# One study on nodes of a Slurm cluster: a Ray cluster for this job alone, gone with it.
#
#   sbatch --nodes 4 cluster/deploy/slurm.sh studies/neighbor2neighbor_gamma.py --budget gpu --gpus-per-trial 1 \
#       --store /shared/results
#
# from the repository's folder, which all nodes see, as they see the store and the images. Three minutes before the time
# limit every training saves, and the job is queued again: the same command goes on from the store.
# $DENOISE_VENV is the virtual environment (default: .venv in the folder that sbatch is called from).

#SBATCH --job-name=denoise-study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=denoise-%j.log

set -euo pipefail
if [ $# -eq 0 ]; then
    echo "Say which study: sbatch cluster/deploy/slurm.sh studies/... [its flags]" >&2
    exit 2
fi
venv=${DENOISE_VENV:-$PWD/.venv}
if [ ! -x "$venv/bin/denoise-studies" ]; then
    echo "$venv has no denoise-studies: make it as README.md says, or set DENOISE_VENV." >&2
    exit 2
fi
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} # where this script runs

# A token for this job alone, so that other users of these nodes cannot send programs to it.
private=$PWD/.denoise-job-$SLURM_JOB_ID
(
    umask 077
    mkdir -p "$private"
    "$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$private/token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token

# Ports that no other user of the nodes has: Ray's own are the same for everybody.
read -r port dashboard < <("$venv/bin/python" -c '
import socket
sockets = [socket.create_server(("", 0)) for _ in range(2)]
print(*[one.getsockname()[1] for one in sockets])')

on() { # on NODE COMMAND...
    srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --nodelist="$1" --overlap "${@:2}"
}
# On a node: Ray with a folder of its own, short, since names of sockets are, and private, since /tmp is not. The process
# id goes to a file: a signal to srun would reach the trainings too, before they can save.
# shellcheck disable=SC2016 # these variables are the node's
run_node='
folder=$(mktemp -d /tmp/ray-XXXXXX)
trap "rm -rf $folder" EXIT
"$0" node --cpus "${SLURM_CPUS_PER_TASK:-1}" --gpus "${SLURM_GPUS_ON_NODE:-0}" --deadline 60 "${@:2}" \
    --temp-dir="$folder" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 &
echo $! > "$1"
trap "kill -TERM $!" TERM INT
while kill -0 $! 2>/dev/null; do wait $! || true; done'

study=0 again=no
# shellcheck disable=SC2329 # called at the end
finish() {
    trap '' TERM USR1
    for node in "${nodes[@]}"; do # one after another would take too long
        # shellcheck disable=SC2016
        on "$node" bash -c 'kill -TERM "$(cat "$0")"' "$private/$node" 2>/dev/null &
    done
    wait || true
    rm -rf "$private"
    # queued again when nothing of this run is left
    [ "$again" = no ] || scontrol requeue "$SLURM_JOB_ID"
}
# shellcheck disable=SC2329 # called by signals
save() { # every training saves and returns, and the study with it
    if [ "$study" -eq 0 ]; then exit 143; fi
    kill -TERM "$study" 2>/dev/null || true
}
trap finish EXIT
trap 'again=yes; save' USR1 # the time limit is near
trap save TERM              # pre-empted (Slurm queues the job again by itself) or cancelled (it does not)

on "$head" bash -c "$run_node" "$venv/bin/denoise-studies" "$private/$head" \
    --head --port "$port" -- --dashboard-port="$dashboard" &
for node in "${nodes[@]:1}"; do
    on "$node" bash -c "$run_node" "$venv/bin/denoise-studies" "$private/$node" --address "$head:$port" -- &
done
# A study counts the nodes when it begins.
"$venv/bin/python" - "$port" "${#nodes[@]}" <<'WAIT'
import socket, sys, time

address, wanted, end = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2]), time.monotonic() + 150
while socket.socket().connect_ex(address) and time.monotonic() < end:
    time.sleep(1)
import ray

ray.init(address="{}:{}".format(*address), log_to_driver=False, logging_level="ERROR")
while (joined := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > end:
        sys.exit(f"Only {joined} of {wanted} nodes joined the cluster: what Ray printed above says why.")
    time.sleep(1)
WAIT

"$venv/bin/python" "$@" --address "127.0.0.1:$port" &
study=$!
while kill -0 "$study" 2>/dev/null; do # a signal interrupts wait, which then tells of the signal
    wait "$study" || true
done
status=0
wait "$study" || status=$? # bash remembers how it ended
[ "$status" -ne 0 ] || again=no # it was ready just in time
exit "$status"
