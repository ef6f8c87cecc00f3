#!/usr/bin/env bash
# Fuzzes every fuzz target for FUZZTIME: a number of inputs (default 10000x), or a
# time such as 30s, at whose end `go test` may by itself fail with "context deadline
# exceeded".
set -euo pipefail
cd "$(dirname "$0")/.."

time=${FUZZTIME:-10000x}
grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r package; do
	grep -ohE '^func Fuzz[A-Za-z0-9_]+' "$package"/*_test.go | sed 's/^func //' | while read -r target; do
		printf '%-40s ' "$package $target"
		inputs=$time
		# Each of its inputs is connections over real sockets, a thousand times slower.
		if [ "$target" = FuzzPump ] && [ -z "${FUZZTIME:-}" ]; then inputs=300x; fi
		if ! out=$(go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$inputs" 2>&1 </dev/null); then
			printf 'FAILED\n%s\n' "$out"
			exit 1
		fi
		grep -oE 'execs: [0-9]+' <<<"$out" | tail -n 1
	done
done
