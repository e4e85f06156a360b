# The same recipes for people and for CI. `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export CARGO_INCREMENTAL := 0

.PHONY: help serve test check fmt bench bench-peers soak fuzz golden demo screenshots

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: target/tools/bin/protox ## Start a router and four expert nodes with the demonstration model
	cargo run --release --package guildhall-cli -- up

test: check target/clients target/page target/etcd target/prometheus ## Everything that CI runs
	promtool=$$(command -v promtool || echo target/prometheus/usr/bin/promtool); \
		$$promtool check rules deploy/prometheus/alerts.yaml; \
		$$promtool test rules deploy/prometheus/alerts_test.yaml
	cargo test --workspace
	target/clients/bin/pytest --quiet cli/tests/clients
	target/page/bin/pytest --quiet cli/tests/page

# Python with the clients that people use.
target/clients: cli/tests/clients/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	touch $@

# Python that drives a browser, and Debian's Chromium unless there is one in the path.
target/page: cli/tests/page/requirements.txt
	$(if $(BROWSER),,$(call install-chromium))
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	touch $@

BROWSER = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
define install-chromium
	if [[ $$(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then \
		echo "The tests of the live page need Chromium: install it (chromium, or google-chrome) and try again." >&2; exit 1; \
	fi; \
	apt-get -qq install -y --no-install-recommends chromium >/dev/null || \
		{ apt-get -qq update; apt-get -qq install -y --no-install-recommends chromium >/dev/null; }
endef

screenshots: target/page ## Make the pictures of the live page in docs/ again
	cargo build --package guildhall-cli
	target/page/bin/pytest --quiet cli/tests/page -k pictures --screenshots docs

# What the build needs besides Rust; .cargo/config.toml names it.
target/tools/bin/protox:
	cargo install --quiet --locked --root target/tools --features bin --version ^0.10 protox

# A real etcd for the tests: Debian's, unpacked and not installed; elsewhere the one in the path is used.
target/etcd:
	$(call unpacked,etcd etcdctl,etcd-server etcd-client)

# The same for the checks of the alerts.
target/prometheus:
	$(call unpacked,promtool,prometheus)

# Unpacks packages of Debian into a folder, unless the programs that are wanted of them are in the path.
define unpacked
	mkdir -p $@.part
	if command -v $(1) >/dev/null; then :; else \
		cd $@.part; \
		apt-get -qq download $(2) || { apt-get -qq update; apt-get -qq download $(2); }; \
		for package in *.deb; do dpkg -x $$package .; done; \
	fi
	mv $@.part $@
endef

check: target/tools/bin/protox ## Formatting, lints, and the rules of crates/tidy
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --package guildhall-tidy
	$(MAKE) --no-print-directory deny

.PHONY: deny
deny: # Licences, advisories and duplicates of dependencies, where cargo-deny is installed
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
	else echo "cargo-deny is not installed: dependencies are not checked"; fi

fmt: ## Format all code
	cargo fmt --all

bench: target/tools/bin/protox target/etcd ## Kernels, round trips and tokens per second, each beside what it is measured against
	cargo bench --package guildhall-kernels --bench linear
	cargo bench --package guildhall-transport --bench round_trip
	cargo bench --package guildhall-cli --bench tokens_per_second
	cargo bench --package guildhall-cli --bench ping_pong
	cargo bench --package guildhall-cli --bench growth
	cargo bench --package guildhall-cli --bench weights
	cargo bench --package guildhall-cli --bench start_up
	cargo bench --package guildhall-cli --bench serving
	cargo bench --package guildhall-cli --bench telemetry_cost
	cargo bench --package guildhall-cli --bench failover
	cargo bench --package guildhall-cli --bench control_plane
	cargo bench --package guildhall-loadtest --bench client_cost

# The variables are paths; whichever are given are measured. BENCHMARKS.md says how they were built.
bench-peers: target/tools/bin/protox ## Guildhall beside LLAMA_CPP=, IK_LLAMA_CPP= (folders of programs), TRANSFORMERS_PYTHON=
	cargo bench --package guildhall-cli --bench peers

soak: target/tools/bin/protox ## Five minutes of random load, cancels and deadlines
	cargo test --package guildhall-cli --test soak -- --seconds 300

# The flags that a fuzzer needs are not stable yet; the code is compiled as it is.
fuzz: target/tools/bin/protox ## Five minutes of fuzzing for each target (needs cargo-fuzz)
	for target in http_body grpc_request; do \
		mkdir -p fuzz/corpus/$$target fuzz/seeds/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target --target-dir target/fuzz fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=300 -rss_limit_mb=4096; \
	done

# Python with what the scripts under models/ and router/tests/golden/ need.
target/python: models/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	touch $@

golden: target/python ## Make the golden fixtures again with the reference implementation
	target/python/bin/python router/tests/golden/make_golden.py
	target/python/bin/python router/tests/golden/make_demo_golden.py
	target/python/bin/python router/tests/golden/make_sampling_golden.py

demo: target/python ## Train the demonstration model again
	OMP_NUM_THREADS=1 target/python/bin/python models/training/train.py --out models/demo --seed 1
