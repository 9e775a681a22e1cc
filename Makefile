# Two commands: `make demo` and `make test`. Both need Rust; with no GPU adapter they install Debian's software Vulkan.
.PHONY: demo test check adapter

# The whole job on the built-in digits: poison, train, find the poison, unlearn, test.
demo: adapter
	cargo build --release
	./target/release/dau demo --force

test: adapter
	cargo test

# Style, as CI sees it.
check:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings

adapter:
	@sh scripts/ensure-adapter.sh
