# Every target is one line of ordinary commands, so that nobody needs make. `make` alone explains them.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
FUZZTIME ?= 10s
TOOL = go tool -modfile=test/tools.mod

.DEFAULT_GOAL := help
.PHONY: help build demo run test prepare bench bench-full bench-compare lint fmt generate long fuzz

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the one binary, bin/causeway
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/causeway .

demo: build ## Run global and two zones on this machine until Ctrl-C: fetches Envoy, builds, shows real traffic
	bin/causeway envoy fetch >/dev/null && bin/causeway demo up

run: build ## Run one zone with the embedded store in ./causeway-data
	bin/causeway run zone --zone local

test: prepare ## Run every test with the race detector; the one command. What fails is run up to twice more and named, at most 3 tests
	go run . envoy fetch --version 1.39.3 >/dev/null
	envoy="$${CAUSEWAY_ENVOY:-$$(go run . envoy fetch)}" && { CAUSEWAY_ENVOY="$$envoy" $(TOOL) gotestsum --format standard-quiet --jsonfile test-results.json \
		--rerun-fails=2 --rerun-fails-max-failures=3 --rerun-fails-report test-reruns.txt --packages ./... -- -race -p 2 -timeout 30m; \
		tests=$$?; go run ./test/acceptance/report test-results.json && exit $$tests; }

prepare: ## Install what tests need and this machine lacks: PostgreSQL, protoc, a C compiler, npx
	.ci/prepare

bench: ## Measure a federation with 100 and 1,000 fake proxies beside the wire, and REST, also on the empty database BENCH_POSTGRES (10 minutes)
	go run ./test/load/bench -n 100,1000 -rounds 5 -seconds 15 -rolling 30 -json bench.json -postgres "$(BENCH_POSTGRES)"

bench-full: ## Measure that with 500 services and 5,000 proxies, too, then run every benchmark (hours)
	go run ./test/load/bench -n 100,1000,5000 -json bench-full.json -postgres "$(BENCH_POSTGRES)"
	go run ./test/load/bench -n 100,1000 -services 500 -json bench-full-500.json -only '^[^R]'
	go test -run '^$$' -bench . -benchmem -p 1 -timeout 120m ./...

bench-compare: ## Compare micro-benchmarks of two commits: make bench-compare OLD=main~5 NEW=main
	test/load/compare $(OLD) $(NEW)

lint: ## Check style, and what the compiler does not
	$(TOOL) golangci-lint run ./...

fmt: ## Format every file
	$(TOOL) golangci-lint fmt ./...

generate: ## Write generated files anew (needs protoc)
	PATH="$$(dirname "$$($(TOOL) -n protoc-gen-go)"):$$(dirname "$$($(TOOL) -n protoc-gen-go-grpc)"):$$PATH" go generate ./...

long: ## List the longest functions, for reviewers
	go test ./test/arch -run TestFunctionsCanBeRead -count=1 -v

fuzz: ## Run every fuzz target for FUZZTIME
	grep -rHo --include='*_test.go' 'func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file target; do go test -run '^$$' -fuzz "^$${target#func }$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")" || exit 1; done
