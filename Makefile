# The same recipes for people and for CI. `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export CARGO_INCREMENTAL := 0

.PHONY: help serve test check fmt bench soak fuzz golden demo

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: ## Start a router and three expert nodes with the demonstration model
	cargo run --release --package guildhall-cli -- up

test: check target/clients ## Everything that CI runs
	cargo test --workspace
	target/clients/bin/pytest --quiet cli/tests/clients

# Python with the clients that people use.
target/clients: cli/tests/clients/requirements.txt
	python3 -m venv $@
	$@/bin/pip install --quiet --requirement $<
	touch $@

check: ## Formatting, lints, and the rules of crates/tidy
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

bench: ## Kernels, round trips and tokens per second, each beside what it is measured against
	cargo bench --package guildhall-kernels --bench linear
	cargo bench --package guildhall-transport --bench round_trip
	cargo bench --package guildhall-cli --bench tokens_per_second
	cargo bench --package guildhall-cli --bench serving

soak: ## Five minutes of random load, cancels and deadlines
	cargo test --package guildhall-cli --test soak -- --seconds 300

# The flags that a fuzzer needs are not stable yet; the code is compiled as it is.
fuzz: ## Five minutes of fuzzing for each target (needs cargo-fuzz)
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
