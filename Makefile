# Every target is one line of ordinary commands, so that nobody needs make. `make` alone explains them.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
FUZZTIME ?= 10s
TOOL = go tool -modfile=test/tools.mod

.DEFAULT_GOAL := help
.PHONY: help build demo run test prepare bench lint fmt generate long fuzz

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the one binary, bin/causeway
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/causeway .

demo: build ## Run global and two zones on this machine until Ctrl-C: fetches Envoy, builds, shows real traffic
	bin/causeway envoy fetch >/dev/null && bin/causeway demo up

run: build ## Run one zone with the embedded store in ./causeway-data
	bin/causeway run zone --zone local

test: prepare ## Run every test with the race detector; the one command
	envoy="$${CAUSEWAY_ENVOY:-$$(go run . envoy fetch)}" && CAUSEWAY_ENVOY="$$envoy" go test -race -p 2 -timeout 30m ./...

prepare: ## Install what tests need and this machine lacks: PostgreSQL, protoc, a C compiler
	.ci/prepare

bench: ## Run every benchmark once
	envoy="$${CAUSEWAY_ENVOY:-$$(go run . envoy fetch)}" && CAUSEWAY_ENVOY="$$envoy" go test -run '^$$' -bench . -p 1 -timeout 60m ./...

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
