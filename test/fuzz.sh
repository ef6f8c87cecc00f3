#!/usr/bin/env bash
# Fuzzes every fuzz target that there is for FUZZTIME: a time (default 10s) or a number
# of inputs (1000x). Two targets at a time, each on one core. What a crash needs to
# happen again is kept in the package's testdata/fuzz: commit it with the mending.
set -euo pipefail
cd "$(dirname "$0")/.."

export FUZZTIME=${FUZZTIME:-10s}

one() {
	package=$1 target=$2
	if ! out=$(go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" -parallel 1 2>&1 </dev/null); then
		# At the end of its time go test may fail by itself; a finding has a file of its
		# own.
		if grep -q 'Failing input' <<<"$out" || ! grep -q 'context deadline exceeded' <<<"$out"; then
			printf '%-45s FAILED\n%s\n' "$package $target" "$out"
			exit 1
		fi
	fi
	printf '%-45s %s\n' "$package $target" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -n 1)"
}
export -f one

grep -rHoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . |
	sed -E 's|^(.*)/[^/]*:func (.*)$|\1 \2|' | sort |
	xargs -P 2 -L 1 bash -c 'one "$@"' fuzz
