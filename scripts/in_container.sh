#!/usr/bin/env bash
# Runs a command in a container image, as the engine's command prefix: in this folder, on the host's network, with the
# host's GPUs where the engine computes on them. Nothing else of the host is seen but the folder of downloaded models
# and, read-only, each folder that an argument names.
#
# Usage: in_container.sh apptainer|docker|podman cpu|cuda IMAGE COMMAND [ARGUMENT]...
# Example: in_container.sh apptainer cuda images/vllm.sif python3 -m vllm.entrypoints.cli.main serve results/models/m
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 apptainer|docker|podman cpu|cuda IMAGE COMMAND [ARGUMENT]..." >&2
    exit 2
fi
runtime=$1 device=$2 image=$3
shift 3

hub="${HF_HOME:-$HOME/.cache/huggingface}"
folders=()
[ -d "$hub" ] && folders+=("$hub:$hub")
for argument in "$@"; do
    [[ $argument == /* && -d $argument ]] && folders+=("$argument:$argument:ro")
done

case "$runtime" in
apptainer)
    options=(--bind "$PWD" --pwd "$PWD")
    for folder in "${folders[@]}"; do options+=(--bind "$folder"); done
    [ "$device" = cuda ] && options+=(--nv)
    # Apptainer passes the environment on and uses the host's network by itself.
    exec apptainer exec "${options[@]}" "$image" "$@"
    ;;
docker | podman)
    # --init hands signals on, so that stopping this process stops the engine; --interactive hands standard input on.
    options=(--rm --init --interactive --network host --ipc host --volume "$PWD:$PWD" --workdir "$PWD")
    for folder in "${folders[@]}"; do options+=(--volume "$folder"); done
    if [ "$runtime" = docker ]; then
        # Files that the engine writes belong to who started it; rootless podman does that by itself.
        options+=(--user "$(id -u):$(id -g)" --env HOME=/tmp)
        [ "$device" = cuda ] && options+=(--gpus all)
    elif [ "$device" = cuda ]; then
        options+=(--device nvidia.com/gpu=all)
    fi
    # Variables that speak to the engine, by name: a value (the API key) must not stand on a command line.
    for name in $(compgen -e); do
        case "$name" in
        VLLM_* | SGLANG_* | LMCACHE_* | LEVERLAB_* | HF_* | TRANSFORMERS_* | DO_NOT_TRACK | CUDA_* | NCCL_* | OMP_* | TORCH* | UCX_* | TOKENIZERS_*)
            options+=(--env "$name")
            ;;
        esac
    done
    exec "$runtime" run "${options[@]}" "$image" "$@"
    ;;
*)
    echo "$0: unknown container runtime $runtime: use apptainer, docker or podman" >&2
    exit 2
    ;;
esac
