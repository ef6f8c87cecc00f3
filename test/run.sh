#!/usr/bin/env bash
# Runs every test there is and ends with a line of counts. Installs what it needs.
#
#   test/run.sh [arguments for go test]    with arguments: only these, no fuzzing
#
# CI=true: nothing may be skipped, and the random tests take more turns.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"
: "${CI:=}"
export CI

# Beside the proxy's own needs: for the race detector, under a real API server, and
# a kernel that has IPVS, with its tool.
bash test/install.sh gcc libc6-dev etcd-server user-mode-linux kmod ipvsadm

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "run.sh: not root, and there is no sudo: the tests with real packets will be skipped" >&2
	else
		as_root=(sudo --preserve-env=PATH,CI,SEED,MEM,GOFLAGS,GOPROXY,HOME)
	fi
fi

step() { printf '\n== %s\n' "$*"; }

step 'building'
go version
make -s build

if [ $# -eq 0 ]; then
	step 'building a kube-apiserver for the tests (cold, this takes 5 to 10 minutes)'
	(cd test/apiserver && go build -o ../../bin/kube-apiserver .)
	bin/kube-apiserver --version
	make -s bin/upstream-kube-proxy
fi

step 'go vet, gofmt, staticcheck'
make -s lint
echo ok

tally=$(mktemp -d)/tally
go build -o "$tally" ./test/tally
counts=$(mktemp)

step 'tests, with the race detector'
# Those that load the machine on purpose come last, one by one: what others promise
# about time holds on a machine that has some left.
heavy='/test/(torture|switch|crowd)$'
go_test() { "${as_root[@]}" "$(command -v go)" test -race -count=1 -json -timeout 30m "$@" 2>&1; }
run_tests() {
	if [ $# -gt 0 ]; then
		go_test "$@"
		return
	fi
	local failed=0
	mapfile -t light < <(go list ./... | grep -vE "$heavy")
	mapfile -t loads < <(go list ./... | grep -E "$heavy")
	go_test "${light[@]}" || failed=1
	go_test -p 1 "${loads[@]}" || failed=1
	return $failed
}
status=0
run_tests "$@" | "$tally" ${CI:+-no-skips} | tee "$counts" || status=$?

if [ $# -eq 0 ] && [ $status -eq 0 ]; then
	step "alerts and dashboard, by Prometheus' own parser and engine"
	# -count=1: its files are outside of its module, where the cache does not look.
	(cd test/promcheck && go vet ./... && go test -count=1 ./...) || status=$?
fi

if [ $# -eq 0 ] && [ $status -eq 0 ]; then
	step "the benchmark's cheap ratios, against those recorded"
	CGO_ENABLED=0 go build -trimpath -o bin/proxybench ./cmd/proxybench
	"${as_root[@]}" bin/proxybench guard || status=$?
fi

if [ $# -eq 0 ] && [ $status -eq 0 ]; then
	step 'known vulnerabilities'
	bash test/vuln.sh || status=$?
	step 'fuzzing, 10 s for each target, two at a time'
	bash test/fuzz.sh || status=$?
	tail -n 1 "$counts"
fi
exit $status
