# Two commands: `make demo` and `make test`. Both need Rust; with no GPU adapter they install Debian's software Vulkan.
.PHONY: demo test check adapter

# The whole job on the built-in digits: poison, train, find the poison, unlearn, test.
demo: adapter
	cargo build --release
	./target/release/dau demo --force

test: adapter
	cargo test

# Style, and the licences of what dau is built of, as CI sees them. cargo-deny is installed if it is missing: some minutes, once.
check:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --version 0.20.2
	cargo deny check licenses bans

adapter:
	@sh scripts/ensure-adapter.sh
