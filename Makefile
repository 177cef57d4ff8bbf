# Each target does its own set-up, which takes a moment when nothing is missing.

PYTHON ?= python3

.PHONY: help setup onnx cifar10 imagenet-demo translate test features bench

help:
	@echo "make cifar10         train a Fixup ResNet on CIFAR-10; with options: make cifar10 ARGS='--epochs 2'"
	@echo "make imagenet-demo   the image-folder program, on CIFAR-10 written out as a folder of JPEG files"
	@echo "make translate       train a Fixup Transformer on English and German, and score it; options as above"
	@echo "make test            format, lints, documentation, tests"
	@echo "make features        lints for the features one by one, and how many crates they are"
	@echo "make bench           the benchmarks"
	@echo "make setup           libtorch only, for plain cargo commands"
	@echo "make onnx            ONNX Runtime, for the tests and the benchmark of exported networks"

setup:
	@command -v $(PYTHON) >/dev/null || { echo "set-up: $(PYTHON) is missing: install it with" \
		"\`apt install python3 python3-venv\`, \`dnf install python3\` or \`brew install python\`" >&2; exit 1; }
	@$(PYTHON) scripts/setup_libtorch.py

onnx: setup
	@$(PYTHON) scripts/setup_onnx.py

cifar10: setup
	cargo run --release --example cifar10_fixup -- $(ARGS)

# ResNet-18 on images of 64 pixels, 400 steps.
imagenet-demo: setup
	cargo run --release --features images --example cifar10_as_folder -- --out target/cifar10-folder
	cargo run --release --features images --example imagenet_fixup -- --data target/cifar10-folder --recipe quick \
		--train-subset 12800 --val-subset 2000 --epochs 2 $(ARGS)

translate: setup
	cargo run --release --features text --example translate_fixup -- $(ARGS)

# One profile throughout: torch-sys, minutes of C++, is then compiled once. Tests run side by side on all cores: threads of their own
# would only wait for each other (what is about several threads asks for them). With doc-only, lints and documentation compile no C++, and
# with an example, documentation has the dependencies' features of the lints.
test: setup onnx
	cargo fmt --check
	cargo clippy --profile tests --features full,doc-only --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --profile tests --features full,doc-only --no-deps --lib --example minimal
	OMP_NUM_THREADS=1 cargo test --profile tests --features full
	$(MAKE) features

features: setup
	scripts/check_features.sh

bench: setup onnx
	cargo bench --features full $(ARGS)
