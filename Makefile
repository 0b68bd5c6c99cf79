# What one does with a clone. Everything real happens in cargo, `keelson` and the scripts named here.

TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
# The folder of the local cluster.
DIR ?= $(CURDIR)/.keelson
NODES ?= 1
CONTROL_PLANES ?= 1
KEELSON := $(TARGET)/release/keelson
TEST := $(if $(shell command -v cargo-nextest),nextest run,test)

.PHONY: help up down status build test verify fix bench

help:
	@echo 'make up       a cluster on this machine with a sample on it (NODES=1 CONTROL_PLANES=1 DIR=.keelson)'
	@echo 'make down     end it; nothing of it is left'
	@echo 'make status   what runs, and how it is'
	@echo 'make test     all tests'
	@echo 'make verify   format, lints, dependencies: looks only'
	@echo 'make fix      format and lints: mends what it can'
	@echo 'make bench    figures, with the method beside each'

build:
	cargo build --release --locked

up:
	deploy/install-packages run
	$(MAKE) --no-print-directory build
	$(KEELSON) local up --dir $(DIR) --nodes $(NODES) --control-planes $(CONTROL_PLANES)
	deploy/samples/web.sh $(KEELSON) $(DIR)
	@echo 'export KUBECONFIG=$(DIR)/pki/admin.kubeconfig'

down:
	@if [ -x $(KEELSON) ]; then $(KEELSON) local down --dir $(DIR); else cargo run --release --locked -p keelson -- local down --dir $(DIR); fi

status:
	@$(KEELSON) local status --dir $(DIR)

# The tests start the daemons as programs, so these are built first.
test:
	deploy/install-packages test
	cargo build --workspace --locked
	cargo $(TEST) --workspace --locked --no-fail-fast

verify:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test -q --locked -p keelson --test workspace

fix:
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

bench:
	cargo build --release --locked --workspace
	$(TARGET)/release/bench
