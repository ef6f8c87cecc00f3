# `make` lists the targets. Needs make 4.3 and Go 1.26 or later.

MODE ?= iptables
KEEP ?=
ARGS ?=

GO := $(or $(shell command -v go 2>/dev/null),$(wildcard /usr/local/go/bin/go),go)
GOFMT := $(shell $(GO) env GOROOT 2>/dev/null)/bin/gofmt
VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),unknown)
# What needs root is re-run with sudo; what is built is built as the user.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

export PATH := $(PATH):/usr/sbin:/sbin:/usr/local/go/bin

.DEFAULT_GOAL := help
.PHONY: help build install-deps run test fuzz vuln torture switch soak image proxybench bench bench-targets bench-report bench-guard gobench lint fmt clean update

help: ## show this
	@echo 'Switchyard: a kube-proxy.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## build the static binary bin/kube-proxy
	@test -e bin/kube-proxy || echo 'a cold build takes a few minutes; go names each package as it is compiled'
	CGO_ENABLED=0 $(GO) build -v -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/kube-proxy ./cmd/kube-proxy

install-deps: ## install the Debian packages that are missing: iptables ipset conntrack iproute2
	@bash test/install.sh

# What the mode needs beside: IPVS its tool, and another kernel where this one has none.
FOR_ipvs = ipvsadm $(if $(wildcard /proc/net/ip_vs),,$(shell modprobe -nq ip_vs 2>/dev/null || echo user-mode-linux kmod))

run: install-deps build ## see it work: two nodes, six pods, a shop, real connections (MODE=iptables, ipvs or userspace; KEEP=1 leaves it up)
	@bash test/install.sh $(FOR_$(MODE))
	@CGO_ENABLED=0 $(GO) build -v -trimpath -o bin/demo ./test/demo
	@$(SUDO) bin/demo -mode '$(MODE)' $(if $(filter-out 0,$(KEEP)),-keep) $(ARGS)

test: ## run every test there is; ends with the counts
	@bash test/run.sh $(ARGS)

torture: install-deps build $(if $(API),bin/kube-apiserver) ## try to break the proxy's word: faults and changes at random under load (SECONDS=180, SEED=, MODE=, ARGS=; API=1: objects come from an API server)
	@bash test/install.sh $(FOR_$(MODE)) $(if $(API),etcd-server)
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/torture ./test/torture
	@$(SUDO) bin/torture -mode '$(MODE)' -seconds $(or $(SECONDS),180) $(if $(SEED),-seed $(SEED)) $(if $(API),-api) $(ARGS)

switch: install-deps build bin/kube-apiserver bin/upstream-kube-proxy ## from each mode to each other under load, IPVS and upstream's among them (10 minutes)
	@bash test/install.sh etcd-server user-mode-linux kmod ipvsadm
	@$(SUDO) SWITCH=all $(GO) test -count=1 -v -timeout 20m ./test/switch

soak: install-deps build ## 2,000 Services for a while: memory, goroutines, files and sockets must not grow (MINUTES=10, MODE=)
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/torture ./test/torture
	@bash test/install.sh $(FOR_$(MODE))
	@$(SUDO) bin/torture -mode '$(MODE)' -soak $(or $(MINUTES),10)

image: ## build the container image (IMAGE=registry/kube-proxy:version); needs docker
	docker build --build-arg VERSION='$(VERSION)' -t '$(IMAGE)' .

gobench: ## run the Go benchmarks (ARGS=./proxier/cluster/ for one package)
	$(GO) test -run '^$$' -bench . -benchmem $(or $(ARGS),./...)

bin/upstream-kube-proxy:
	cd test/upstream && $(GO) build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2' -o ../../bin/upstream-kube-proxy .

bin/kube-apiserver:
	cd test/apiserver && $(GO) build -o ../../bin/kube-apiserver .

proxybench: install-deps build bin/upstream-kube-proxy bin/kube-apiserver
	@bash test/install.sh etcd-server ipvsadm
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/proxybench ./cmd/proxybench

# How much each measure does where many contestants share little time.
BRIEF = --changes 4 --budget 7s --churn 150 --connects 1000 --seconds 1s --idle 2s --visit 60s --give-up 45s

BENCH = -n 100,1000 -m 5 $(BRIEF) --at-most 10m -o bin/bench \
	-c upstream-iptables -c iptables -c userspace -c upstream-nftables -c floor -c direct \
	$(if $(wildcard /proc/net/ip_vs),-c ipvs -c upstream-ipvs)

bench: proxybench ## which mode, at which size, on this kernel? about 10 minutes, tables, plots and bin/bench/report.html (ARGS='-n 1000 -c iptables -c ipvs -o out')
	@$(SUDO) bin/proxybench $(or $(ARGS),$(BENCH))

bench-targets: proxybench ## what we promise beside upstream, row by row (ARGS='--row 3,12')
	@$(SUDO) bin/proxybench targets $(ARGS)

# Sizes, and how long each of the two kernels may take.
SIZES ?= 100,1000,10000
UML_SIZES ?= 100,1000
HOST_TIME ?= 14m
UML_TIME ?= 5m

bench-report: proxybench ## make docs/benchmarks anew: 20 minutes on a machine that does nothing else
	@bash test/install.sh user-mode-linux kmod
	@$(SUDO) bin/proxybench -n $(SIZES) -m 5 -r 2 $(BRIEF) --at-most $(HOST_TIME) --no-tables -o bin/report/host \
		-c upstream-iptables -c iptables -c upstream-iptables-legacy -c iptables-legacy \
		-c upstream-nftables -c userspace -c floor -c floor-legacy -c direct \
		--measure coldstart,idle,size,connect,throughput,scheduler,change,churn,restart,change-zero
	@$(SUDO) bin/proxybench -n $(UML_SIZES) -m 5 -r 1 $(BRIEF) --changes 3 --connects 300 --churn 100 --visit 25s --at-most $(UML_TIME) --no-tables -o bin/report/uml \
		-c upstream-ipvs -c ipvs -c iptables-legacy -c floor-ipvs -c direct \
		--measure coldstart,size,connect,change-zero,churn
	@bin/proxybench report -o docs/benchmarks --preface docs/benchmarks/preface.md \
		--plot coldstart-cpu-m5,change-zero-latency-p50-m5,connect-random-p50-m5,restart-cpu-m5 bin/report/host/results.json bin/report/uml/results.json

bench-guard: ## the cheap ratios must not be worse than test/bench/baseline.json; under 5 minutes, part of make test
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/proxybench ./cmd/proxybench
	@$(SUDO) bin/proxybench guard $(ARGS)

fuzz: ## fuzz every parser of what comes from outside, a while each (FUZZTIME=10m)
	@FUZZTIME='$(or $(FUZZTIME),10m)' bash test/fuzz.sh

vuln: ## look for known vulnerabilities in what the program calls; needs the Go vulnerability database
	@bash test/vuln.sh

lint: ## go vet, gofmt, staticcheck
	$(GO) vet ./...
	@unformatted=$$($(GOFMT) -l cmd iptables ipvs proxier test userspace); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) tool staticcheck ./...

fmt: ## format the source
	$(GOFMT) -w cmd iptables ipvs proxier test userspace

clean: ## remove what was built
	rm -rf bin

update: ## rewrite the golden files of the tests; look at the diff before you commit it
	$(GO) test $(or $(ARGS),./iptables ./test) -run "Golden|TestScenarioState" -update
