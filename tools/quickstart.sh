#!/usr/bin/env bash
# From a fresh clone to a trained policy: installs what is missing, builds, trains configs/quickstart.yaml on all cores,
# evaluates the result and draws its curve and, where ffmpeg is, an episode. Run again, it skips what is done and goes on where it was stopped.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if (($# > 0)); then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
  [[ $1 == --help || $1 == -h ]] || exit 2
  exit 0
fi
cd "$source_dir"
run=runs/quickstart
episodes=128
wanted_return=900

setup
plot_python=$(python_with "$plot_modules") || die "no Python has numpy, h5py and matplotlib (set FLOWRANK_PYTHON)"

say "build (Release, in build/)"
build build flowrank -DCMAKE_BUILD_TYPE=Release

say "train configs/quickstart.yaml into $run"
code=0
build/flowrank train configs/quickstart.yaml --run "$run" || code=$?
if ((code == 75)); then
  echo "stopped early; tools/quickstart.sh goes on from the checkpoint" >&2
fi
((code == 0)) || exit "$code"

say "evaluate $episodes episodes"
mean_return=$(build/flowrank eval "$run" --episodes "$episodes" --json |
  "$plot_python" -c 'import json, sys; print(format(json.load(sys.stdin)["mean_return"], ".1f"))')
echo "mean return $mean_return of 1000"

say "draw the curve"
"$plot_python" tools/plot.py "$run" -o "$run/curve.png"

"$plot_python" -c 'import sys; sys.exit(float(sys.argv[1]) < float(sys.argv[2]))' "$mean_return" "$wanted_return" ||
  die "the policy is not trained: mean return $mean_return over $episodes episodes, expected at least $wanted_return"

if command -v ffmpeg >/dev/null; then
  say "draw an episode"
  build/flowrank render "$run" -o "$run/cartpole.gif" --length 400 --width 320 --height 240 ||
    echo "no picture; tools/setup.sh --render installs what it needs"
fi

say "done"
mpi_option=
((EUID != 0)) || mpi_option=" --allow-run-as-root"
cat <<EOF
trained policy   $run/checkpoints (evaluation return $mean_return)
learning curve   $run/curve.png
metrics          $run/metrics.jsonl

to watch it               tools/setup.sh --render && build/flowrank render $run -o $run/cartpole.mp4
again, evaluated anew     build/flowrank eval $run --episodes $episodes
as an MPI job             mpirun$mpi_option -n 3 --bind-to none --oversubscribe build/flowrank train configs/quickstart.yaml --run runs/mpi
EOF
