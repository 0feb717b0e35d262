#!/usr/bin/env bash
# From a fresh clone to a body that follows motion capture: installs what is missing, builds, imports the clips, trains a preset,
# tells how well each clip is followed, and draws it beside its reference. Run again, it goes on where it was stopped.
#   tools/humanoid.sh [CONFIG [RUN]]     default: configs/humanoid/fpo_full.yaml into runs/humanoid
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if (($# > 2)) || [[ ${1-} == -* ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
  [[ ${1-} == --help || ${1-} == -h ]] || exit 2
  exit 0
fi
cd "$source_dir"
config=${1:-configs/humanoid/fpo_full.yaml}
run=${2:-runs/humanoid}
library=runs/motions.h5

setup --humanoid --render

say "build (Release, in build/)"
build build flowrank -DCMAKE_BUILD_TYPE=Release

if [[ ! -f $library ]]; then
  say "import the clips into $library"
  mkdir -p runs
  build/flowrank motion import -o "$library"
fi

say "train $config into $run"
code=0
build/flowrank train "$config" --run "$run" || code=$?
if ((code == 75)); then
  echo "stopped early; the same line goes on from the checkpoint" >&2
fi
((code == 0)) || exit "$code"

say "evaluate"
build/flowrank eval "$run" | tee "$run/eval.txt"

say "draw"
build/flowrank render "$run" -o "$run/humanoid.mp4" --width 480 --height 360

say "done"
cat <<EOF
trained policy   $run/checkpoints
figures          $run/eval.txt
film             $run/humanoid.mp4
EOF
