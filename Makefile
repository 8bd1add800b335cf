# Everything is built into bin/; nothing is downloaded but Go modules and Debian packages.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

KUBERNETES := $(shell go list -m -f '{{.Version}}' k8s.io/kubernetes)
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
KMAJOR     := $(word 1,$(subst ., ,$(KUBERNETES:v%=%)))
KMINOR     := $(word 2,$(subst ., ,$(KUBERNETES:v%=%)))
KVERSION   := k8s.io/component-base/version

# Without these, every component would say it is v0.0.0-master+$Format:%H$.
KUBERNETES_LDFLAGS := -X $(KVERSION).gitVersion=$(KUBERNETES) -X $(KVERSION).gitMajor=$(KMAJOR) \
	-X $(KVERSION).gitMinor=$(KMINOR) -X $(KVERSION).gitCommit= -X $(KVERSION).gitTreeState=clean

# Tests of one machine's mounts, loop devices and clusters do not gain from more at a time than it has cores.
GO_TEST := go test -count=1 -timeout 30m

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: deps runtime-deps
runtime-deps:
	@RUNTIME=1 test/deps.sh
deps: ## Install the Debian packages that testing needs, where they are missing (root)
	@test/deps.sh

.PHONY: build bin/orlop bin/orlop-storage tools
build: runtime-deps bin/orlop bin/orlop-storage tools ## Build all of bin/
bin/orlop:
	@echo "building bin/orlop (Kubernetes $(KUBERNETES) and etcd inside: minutes when the build cache is cold)"
	@go build -ldflags "-s -w $(KUBERNETES_LDFLAGS) -X main.orlopVersion=$(VERSION)" -o bin/.orlop.new ./cmd/orlop
	@mv -f bin/.orlop.new $@
bin/orlop-storage:
	@echo "building bin/orlop-storage"
	@CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/.orlop-storage.new ./cmd/orlop-storage
	@mv -f bin/.orlop-storage.new $@
tools:
	@echo "building containerd, runc and the CNI plugins"
	@cluster/tools/build.sh bin

IMAGE := orlop.io/orlop-storage:$(VERSION)
.PHONY: image
image: bin/orlop-storage ## Put orlop-storage into a container image (IMAGE=name:tag, bin/images/orlop-storage.tar)
	@mkdir -p bin/images
	@go run ./deploy/image -name $(IMAGE) -o bin/images/orlop-storage.tar bin/orlop-storage

.PHONY: demo
demo: deps build ## Run MySQL on a StatefulSet and see its data survive
	@deploy/examples/mysql/demo.sh

.PHONY: test test-unit test-sanity test-controllers test-e2e
test: deps build lint test-unit test-sanity test-controllers test-e2e ## Run everything that is tested
	@echo "all tests passed"
test-unit: ## Unit tests, and every backend on real mounts (volumetest)
	@echo "== unit tests and volumetest"
	@$(GO_TEST) $$(go list ./... | grep -v -e /test/e2e -e /test/controllers -e /test/sanity)
test-sanity: ## csi-sanity over the driver
	@echo "== csi-sanity"
	@$(GO_TEST) -v ./test/sanity
test-controllers: ## The controllers against a real etcd and API server
	@echo "== controllers"
	@$(GO_TEST) ./test/controllers
test-e2e: ## The bundled cluster, with real pods
	@echo "== end to end"
	@$(GO_TEST) ./test/e2e

.PHONY: lint
lint: bin/golangci-lint ## gofmt, vet and golangci-lint, with the architecture's import rules
	@echo "== lint"
	@bin/golangci-lint run ./...
bin/golangci-lint: test/lint/go.mod
	@echo "building golangci-lint"
	@cd test/lint && go build -o ../../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: bench
bench: deps build ## Measure: time to Ready, memory of the idle cluster, edits of configuration (bin/bench.json)
	@go run ./test/bench -json bin/bench.json

.PHONY: clean
clean: ## Remove bin/
	rm -rf bin
