#!/usr/bin/env bash
# {{ name }} on Slurm: sbatch {{ script }}
#
# Before the limit the run stops at a checkpoint and the job is requeued, until the run is over.
# SIGUSR1 goes to this script only: Ray's own processes would end by it.
#SBATCH --job-name=slimctl-{{ name }}
#SBATCH --nodes={{ machines.nodes }}
#SBATCH --ntasks-per-node=1
# `ray symmetric-run` ends every Ray of yours on its nodes, so that they are not to be shared:
#SBATCH --exclusive
#SBATCH --time={{ time }}
#SBATCH --signal=B:USR1@{{ notice_s }}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slimctl-{{ name }}-%j.log
{% if machines.cpus %}#SBATCH --cpus-per-task={{ machines.cpus }}
{% endif %}{% if machines.gpus %}#SBATCH --gpus-per-node={{ machines.gpus }}
{% endif %}{% if machines.memory_gib %}#SBATCH --mem={{ machines.memory_gib }}G
{% endif %}{% for line in more %}#SBATCH {{ line }}
{% endfor %}
set -uo pipefail
cd {{ folder | quote }}
export PATH={{ programs | quote }}:"$PATH"
export pipeline={{ pipeline | quote }}
export storage={{ storage | quote }}
export state="$PWD/slimctl-{{ name }}-$SLURM_JOB_ID.run"    # the run's id, over requeues

head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port="$((20000 + SLURM_JOB_ID % 10000))"
export address="$head:$port"
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"    # of this attempt
export RAY_AUTH_MODE RAY_AUTH_TOKEN

# Runs on the first node, inside the cluster.
drive='
if [ ! -s "$state" ]; then
  slimctl submit "$pipeline" --storage "$storage" --address "$address" --detach --json > "$state.json" || exit
  python -c "import json, sys; print(json.load(sys.stdin)[\"run\"])" < "$state.json" > "$state" || exit
  rm "$state.json"
fi
exec slimctl resume "$(cat "$state")" --storage "$storage" --address "$address"
'

leave() {
  trap "" USR1
  echo "slimctl: the time limit is near"
  if [ -s "$state" ]; then
    slimctl cancel "$(cat "$state")" --storage "$storage" --checkpoint
  else
    scancel --signal=INT "$SLURM_JOB_ID"    # the steps only: Ray ends, and nothing is lost yet
  fi
  for _ in {1..20}; do    # what follows the run ends by itself, and Ray with it
    kill -0 "$step" 2> /dev/null || break
    sleep 1
  done
  scontrol requeue "$SLURM_JOB_ID"
  exit
}
trap leave USR1

# What an attempt that was killed left on a node; the nodes are this job's alone.
srun ray stop > /dev/null 2>&1

srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --temp-dir "/tmp/ray-$SLURM_JOB_ID" --dashboard-agent-listen-port "$((port + 10000))"{% if machines.cpus %} \
  --num-cpus {{ machines.cpus }}{% endif %} \
  -- bash -c "$drive" &
step="$!"
while kill -0 "$step" 2> /dev/null; do
  wait "$step"
  code="$?"
done
exit "$code"
