#!/usr/bin/env bash
# Installs what flowrank needs and does not find: Debian packages, then MuJoCo and the task models (tools/pinned.txt)
# unpacked under build/deps. What is there is left alone, so a second run needs neither root nor network.
#   tools/setup.sh [--render] [--humanoid] [--tests] [--slurm]
#     --render: what `flowrank render` needs as well: ffmpeg, and OpenGL without a screen
#     --humanoid: the bodies and clips of the task humanoid_track as well (two wheels, 160 MB; little of them is kept)
#     --tests: what building and running the tests needs as well, rendering and humanoids included
#     --slurm: what the tests on a SLURM need as well; none of its services is started
# tools/quickstart.sh and tools/test.sh source this file and use its functions.
set -euo pipefail

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps_dir=${FLOWRANK_DEPS_DIR:-$source_dir/build/deps}
pinned=$source_dir/tools/pinned.txt

say() { printf '\n== %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Prints the first Python that imports all the named modules.
python_with() {
  local python
  for python in ${FLOWRANK_PYTHON:+"$FLOWRANK_PYTHON"} python3 /usr/bin/python3; do
    if "$python" -c "import $1" 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  return 1
}
plot_modules=numpy,h5py,matplotlib
render_packages=(ffmpeg libegl1 libgl1-mesa-dri)
slurm_packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix2 iproute2)

install_packages() {
  local wanted=(build-essential cmake pkg-config openmpi-bin libopenmpi-dev libhdf5-dev libopenblas-dev libyaml-dev
    libxxhash-dev libsleef-dev librandom123-dev libjansson-dev python3 python3-pip unzip ca-certificates)
  python_with "yaml,$plot_modules" >/dev/null ||
    wanted+=(python3-numpy python3-h5py python3-matplotlib python3-yaml)
  [[ " $* " != *" --tests "* ]] || wanted+=(libcmocka-dev clang libomp-dev clang-format clang-tidy hdf5-tools)
  [[ " $* " != *" --tests "* && " $* " != *" --render "* ]] || wanted+=("${render_packages[@]}")
  [[ " $* " != *" --slurm "* ]] || wanted+=("${slurm_packages[@]}")

  say "Debian packages"
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "not a Debian system: the libraries are up to you (docs/install.md names them)"
    return
  fi
  local installed missing=() package
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null) || true
  for package in "${wanted[@]}"; do
    grep -qx "installed $package" <<<"$installed" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    echo "all ${#wanted[@]} are there"
    return
  fi

  local as_root=(env DEBIAN_FRONTEND=noninteractive)
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null || ! { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
      die "packages are missing and need root: apt-get install --no-install-recommends ${missing[*]}"
    fi
    as_root=(sudo "${as_root[@]}")
  fi
  echo "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${missing[@]}" >/dev/null
}

# check_wheel FILE PIN: refuses a file whose sha256 the pinned line does not list.
check_wheel() {
  local sum
  sum=$(sha256sum "$1")
  sum=${sum%% *}
  [[ " $2 " == *" --hash=sha256:$sum "* ]] ||
    die "$1 is refused: its sha256 is $sum, which tools/pinned.txt does not list; delete the file and run again"
}

# install_wheel NAME ARCH TOP PATTERN...: puts the files of NAME's pinned wheel for ARCH (any: whatever there is) that match
# a PATTERN, and its licences, into $deps_dir/NAME, without the leading folder TOP (may be '') of the wheel. A wheel in $deps_dir/wheels saves the
# download. All steps end in a rename, and the stamp names the pinned line, so an interrupted run is done again.
install_wheel() {
  local name=$1 arch=$2 top=$3 pin version
  shift 3
  pin=$(grep "^$name==" "$pinned") || die "$pinned: no line for $name"
  version=${pin%% *}
  version=${version#*==}
  local target=$deps_dir/$name
  say "$name $version"
  if [[ -f $target/.pinned && $(<"$target/.pinned") == "$pin" ]]; then
    echo "there: $target"
    return
  fi
  mkdir -p "$deps_dir/wheels"
  (
    work=$(mktemp -d "$deps_dir/unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    shopt -s nullglob
    wheels=("$deps_dir/wheels/$name-$version-"*"$arch.whl")
    if ((${#wheels[@]} == 0)); then
      echo "downloading"
      python=$(python_with pip) || die "no Python with pip (Debian package python3-pip)"
      printf '%s\n' "$pin" >"$work/requirement.txt"
      "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --requirement \
        "$work/requirement.txt" --no-deps --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
        --platform "manylinux_2_28_$(uname -m)" --platform manylinux2014_x86_64 --dest "$work/download" ||
        die "could not download $name $version; without network see docs/install.md"
      mv "$work/download/"*.whl "$deps_dir/wheels/"
      wheels=("$deps_dir/wheels/$name-$version-"*"$arch.whl")
    fi
    ((${#wheels[@]} == 1)) || die "$deps_dir/wheels: expected one wheel $name-$version-*$arch.whl"
    check_wheel "${wheels[0]}" "$pin"
    unzip -q "${wheels[0]}" "$@" '*.dist-info/*' -d "$work/files"
    tree=$work/files${top:+/$top}
    mkdir "$tree/licenses"
    find "$work/files/"*.dist-info -type f \( -path '*/licenses/*' -o -name 'LICENSE*' -o -name 'AUTHORS*' \) \
      -exec mv -t "$tree/licenses" {} +
    rm -r "$work/files/"*.dist-info
    printf '%s\n' "$pin" >"$tree/.pinned"
    rm -rf "$target"
    mv -T "$tree" "$target"
    echo "unpacked to $target"
  )
}

install_mujoco() {
  if [[ -n ${MUJOCO_DIR-} ]]; then
    say "MuJoCo"
    echo "MUJOCO_DIR is set: $MUJOCO_DIR"
  else
    install_wheel mujoco "_$(uname -m)" mujoco 'mujoco/libmujoco.so*' 'mujoco/include/*'
  fi
}

install_models() {
  if [[ -n ${FLOWRANK_ASSETS-} ]]; then
    say "task models"
    echo "FLOWRANK_ASSETS is set: $FLOWRANK_ASSETS"
  else
    install_wheel playground any '' 'mujoco_playground/_src/dm_control_suite/*'
  fi
}

# The bodies and clips of humanoid_track into $deps_dir/humanoid: nothing of a body is copied but its numbers, which
# tools/humanoid_models.py makes MJCF of.
install_humanoid() {
  install_wheel pybullet manylinux2014_x86_64 pybullet_data 'pybullet_data/data/motions/*' \
    'pybullet_data/humanoid/humanoid.urdf'
  install_wheel dm_control any '' 'dm_control/locomotion/walkers/cmu_humanoid.py' \
    'dm_control/locomotion/walkers/assets/humanoid_CMU_V2020.xml' 'dm_control/locomotion/mocap/test_trajectories.h5'
  say "humanoid bodies"
  local target=$deps_dir/humanoid maker=$source_dir/tools/humanoid_models.py made
  made="$(sha256sum <"$maker") $(grep -E '^(pybullet|dm_control)==' "$pinned")"
  if [[ -f $target/.made && $(<"$target/.made") == "$made" ]]; then
    echo "there: $target"
    return
  fi
  (
    work=$(mktemp -d "$deps_dir/unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/humanoid"
    python3 "$maker" deepmimic "$deps_dir/pybullet/humanoid/humanoid.urdf" "$work/humanoid/deepmimic.xml"
    python3 "$maker" cmu "$deps_dir/dm_control" "$work/humanoid/cmu.xml"
    ln -s ../pybullet/data/motions "$work/humanoid/motions"
    printf '%s\n' "$made" >"$work/humanoid/.made"
    rm -rf "$target"
    mv -T "$work/humanoid" "$target"
    echo "made: $target"
  )
}

setup() {
  install_packages "$@"
  install_mujoco
  install_models
  [[ " $* " != *" --tests "* && " $* " != *" --humanoid "* ]] || install_humanoid
}

# build FOLDER TARGET [-D...]: configures and builds with all cores; returns whether that went well.
build() {
  local folder=$source_dir/$1 target=$2
  shift 2
  mkdir -p "$folder"
  cmake -S "$source_dir" -B "$folder" -DFLOWRANK_DEPS_DIR="$deps_dir" "$@" >"$folder/configure.log" 2>&1 ||
    { cat "$folder/configure.log" >&2; return 1; }
  grep '^-- flowrank' "$folder/configure.log"
  cmake --build "$folder" --target "$target" --parallel "$(nproc)"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  for option in "$@"; do
    case $option in
    --render | --humanoid | --tests | --slurm) ;;
    --help | -h)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
      exit 0
      ;;
    *)
      echo "setup.sh: unknown option '$option'; allowed: --render, --humanoid, --tests, --slurm" >&2
      exit 2
      ;;
    esac
  done
  setup "$@"
fi
