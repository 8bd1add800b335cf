# Everything is built into bin/; nothing is downloaded but Go modules and Debian packages.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

KUBERNETES := $(shell go list -m -f '{{.Version}}' k8s.io/kubernetes)
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT     := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
KMAJOR     := $(word 1,$(subst ., ,$(KUBERNETES:v%=%)))
KMINOR     := $(word 2,$(subst ., ,$(KUBERNETES:v%=%)))
KVERSION   := k8s.io/component-base/version

LDFLAGS := -s -w \
	-X $(KVERSION).gitVersion=$(KUBERNETES) -X $(KVERSION).gitMajor=$(KMAJOR) -X $(KVERSION).gitMinor=$(KMINOR) \
	-X $(KVERSION).gitCommit= -X $(KVERSION).gitTreeState=clean

GO_BUILD := go build -ldflags

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: deps
deps: ## Install the Debian packages that building and testing need (root)
	@test/deps.sh

.PHONY: build
build: deps bin/orlop bin/orlop-storage tools ## Build bin/: orlop, orlop-storage, containerd, runc, CNI plugins

.PHONY: bin/orlop bin/orlop-storage tools
bin/orlop:
	$(GO_BUILD) "$(LDFLAGS) -X main.orlopVersion=$(VERSION)" -o $@ ./cmd/orlop
bin/orlop-storage:
	CGO_ENABLED=0 $(GO_BUILD) "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/orlop-storage
tools:
	cluster/tools/build.sh bin
