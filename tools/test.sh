#!/usr/bin/env bash
# Installs what is missing, then runs every check: formatting, the tests built by gcc, the unit and golden tests built by
# clang, the unit, golden and fault tests under AddressSanitizer and UBSan, and clang-tidy. All warnings are errors.
#   tools/test.sh [--fast | --slow | --ci | --slurm | --fuzz[=SECONDS]]
#                                                 --fast: formatting and the gcc build's tests only
#                                                 --slow: the tests labelled slow as well
#                                                 --ci: installs SLURM as well, if it can: for a machine of CI's own
#                                                 --slurm: only those labelled slurm: batch jobs on a SLURM that they bring
#                                                 up, as root, in namespaces of this machine; about 6 minutes
#                                                 --fuzz: only the fuzz targets, each for SECONDS (600), under sanitizers;
#                                                 what they find is left in build-fuzz/
# Every stage runs even when one before it failed; exit code 1 when any did.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

fast=false
slurm=false
fuzz=0
ci=false
not_slow=(-LE 'slow|slurm')
for option in "$@"; do
  case $option in
  --fast) fast=true ;;
  --slow) not_slow=(-LE slurm) ;;
  --slurm) slurm=true ;;
  --ci) ci=true ;;
  --fuzz) fuzz=600 ;;
  --fuzz=[1-9] | --fuzz=[1-9][0-9] | --fuzz=[1-9][0-9][0-9] | --fuzz=[1-9][0-9][0-9][0-9]) fuzz=${option#--fuzz=} ;;
  --help | -h)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
  *)
    echo "test.sh: unknown option '$option'; allowed: --fast, --slow, --ci, --slurm, --fuzz[=SECONDS]" >&2
    exit 2
    ;;
  esac
done
cd "$source_dir"
jobs=$(nproc)
passed=0 failed=0
failed_stages=()

# stage TITLE COMMAND...: runs a stage and remembers whether it failed.
stage() {
  local title=$1 start=$SECONDS
  shift
  say "$title"
  if "$@"; then
    echo "-- $title: ok, $((SECONDS - start)) s"
  else
    echo "-- $title: FAILED"
    failed_stages+=("$title")
  fi
}

# run_ctest FOLDER [CTEST OPTION...]: runs tests and adds them to the totals.
run_ctest() {
  local folder=$1 log=$1/ctest.log code=0
  shift
  ctest --test-dir "$folder" --parallel "$jobs" --output-on-failure --no-tests=error "$@" 2>&1 | tee "$log" || code=1
  local pattern='([0-9]+) tests failed out of ([0-9]+)'
  if [[ $(<"$log") =~ $pattern ]]; then
    failed=$((failed + BASH_REMATCH[1]))
    passed=$((passed + BASH_REMATCH[2] - BASH_REMATCH[1]))
  fi
  grep '^skipped: ' "$folder/Testing/Temporary/LastTest.log" || true
  return "$code"
}

# build_and_test FOLDER COMPILER CMAKE_OPTION... -- CTEST_OPTION...
build_and_test() {
  local folder=$1 compiler=$2 options=()
  shift 2
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  CC=$compiler build "$folder" all -DFLOWRANK_TESTS=ON "${options[@]}" && run_ctest "$folder" "$@"
}

check_format() {
  local file good=true
  while IFS= read -r file; do
    clang-format "$file" | cmp --silent - "$file" && continue
    echo "not formatted: clang-format -i $file"
    good=false
  done < <(find src tests -name '*.[ch]' | sort)
  $good
}

# tidy CLANG_TIDY_OPTION...: checks the sources whose names come in, ended by NUL. Findings are on stdout; stderr counts
# what is suppressed in system headers.
tidy() {
  xargs -0 -P "$jobs" -n 1 clang-tidy -p build-clang --quiet "$@" 2>build-clang/tidy.log ||
    { grep -v 'warnings\? generated' build-clang/tidy.log >&2; return 1; }
}

# error.c defines what analyzer.h wraps.
check_tidy() {
  printf 'src/common/error.c\0' | tidy &&
    find src -name '*.c' ! -path src/common/error.c -print0 | tidy --extra-arg="-include$source_dir/tests/analyzer.h"
}

# Asked for, a skipped test is a failure; what it prints tells the reason.
slurm_tests() {
  build_and_test "${gcc_build[@]}" -- -L slurm --verbose && ! grep -q '\*\*\*Skipped' build/ctest.log
}

# fuzz_one TARGET: from the corpus and what earlier runs have added to it.
fuzz_one() {
  local found=build-fuzz/corpus/$1 log=build-fuzz/$1.log
  mkdir -p "$found"
  "build-fuzz/tests/fuzz_$1" -max_total_time="$fuzz" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/$1-" "$found" "tests/fuzz/corpus/$1" >"$log" 2>&1 || { tail -50 "$log"; return 1; }
  grep -E '^(stat::number_of_executed_units|Done)' "$log" | sed "s/^/$1: /"
  grep -oE ' cov: [0-9]+ ft: [0-9]+' "$log" | tail -1 | sed "s/^/$1: edges, features:/"
}

fuzz_tests() {
  local target pids=() code=0
  CC=clang build build-fuzz fuzz -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG='-O1 -g' -DFLOWRANK_SANITIZE=ON \
    -DFLOWRANK_FUZZ=ON -DFLOWRANK_TESTS=ON || return 1
  for target in tests/fuzz/fuzz_*.c; do
    target=${target##*/fuzz_}
    fuzz_one "${target%.c}" &
    pids+=($!)
  done
  for target in "${pids[@]}"; do wait "$target" || code=1; done
  return "$code"
}

gcc_build=(build gcc -DCMAKE_BUILD_TYPE=Release -DFLOWRANK_WERROR=ON)
if $slurm; then
  setup --tests --slurm
  stage "gcc: tests on a SLURM" slurm_tests
elif ((fuzz > 0)); then
  setup --tests
  stage "fuzzing, $fuzz s a target" fuzz_tests
else
  setup --tests
  if $ci; then (install_packages --tests --slurm) || echo "without SLURM, whose test says so"; fi
  stage "formatting" check_format
  stage "gcc: all tests" build_and_test "${gcc_build[@]}" -- "${not_slow[@]}"
fi
if ! $fast && ! $slurm && ((fuzz == 0)); then
  stage "clang: unit and golden tests" build_and_test build-clang clang -DCMAKE_BUILD_TYPE=Release -DFLOWRANK_WERROR=ON -- \
    -L 'unit|golden' "${not_slow[@]}"
  stage "sanitizers: unit, golden and fault tests" build_and_test build-asan gcc -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_C_FLAGS_DEBUG='-O1 -g' -DFLOWRANK_SANITIZE=ON -- -L 'unit|golden|fault' "${not_slow[@]}"
  stage "clang-tidy" check_tidy
fi

say "result after $((SECONDS / 60)) min $((SECONDS % 60)) s"
((${#failed_stages[@]} == 0)) || printf 'failed: %s\n' "${failed_stages[@]}"
echo "total: $passed passed, $failed failed"
((${#failed_stages[@]} == 0))
