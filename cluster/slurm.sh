#!/bin/bash
# One sweep on SLURM nodes: starts Ray on all of them, runs the sweep on the first, stops Ray.
#
#   sbatch cluster/slurm.sh sweeps/lambda_opt.py --label-noise 0.2
#
# Submit from the project's root, on storage that every node mounts, with the project installed in .venv.
# A job that is cut off by its time limit is resumed by submitting it again.
#SBATCH --job-name=sdd-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.log
set -euo pipefail

: "${SDD_STORE:=$PWD/store}"                                # shared by all nodes
: "${MLFLOW_TRACKING_URI:=sqlite:///$PWD/mlflow.db}"        # $PWD starts with a slash: four in all
: "${SDD_CPUS_PER_TRIAL:=4}"
: "${SDD_GPUS_PER_TRIAL:=1}"
if [ $# -eq 0 ]; then
  echo "usage: sbatch cluster/slurm.sh SCRIPT [OPTIONS], e.g. sweeps/lambda_opt.py" >&2
  exit 2
fi
source .venv/bin/activate

# All nodes of the job share this token, and nobody else can read it.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<<"$nodes")
ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))                      # another user's Ray may be on the node
config=slurm-$SLURM_JOB_ID.yaml
cat >"$config" <<YAML
cluster_name: slurm-$SLURM_JOB_ID
provider: {type: local, head_ip: $ip, worker_ips: []}
head_start_ray_commands: ["ray start --head --port=$port"]
metadata:
  sdd:
    store: "$SDD_STORE"
    mlflow_tracking_uri: "$MLFLOW_TRACKING_URI"
    cpus_per_trial: $SDD_CPUS_PER_TRIAL
    gpus_per_trial: $SDD_GPUS_PER_TRIAL
YAML

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" -- \
  python "$@" --cluster "$config"
