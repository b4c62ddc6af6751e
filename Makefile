# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11 or later.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# The oldest onnxruntime that is tested, which needs Python 3.13 or earlier; all else is that of .venv.
OLD_ORT := .cache/onnxruntime-1.20.1

# OpenCV 4 beside the OpenCV 5 of .venv, from which it has all else.
OPENCV_4 := .cache/opencv-4.14
OPENCV_4_VERSION := 4.14.0.94
OPENCV_TESTS := tests/interception/opencv_dnn tests/destination/test_opencv_executor.py

.PHONY: help demo test test-onnx test-opencv test-torch-ops test-torch-replay test-torch-compile test-recovery test-hostile \
	fuzz soak check format bench bench-all bench-onnx bench-torch bench-codecs bench-training bench-resume bench-sharing bench-tls \
	bench-recovery bench-paper bench-paper-small bench-paper-tiny goldens clean

help:            ## Show the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(READY)   ## Find people in the bundled clip and pictures, computing at a destination of this machine
	$(BIN)/avec run --local -v --report out/report.json examples/openpose/openpose.py --output out

test: $(READY)   ## Run the tests
	$(BIN)/python -m pytest

test-onnx: $(READY) $(OLD_ORT)/ready ## Compare ONNX's own cases with and without AVEC; the ONNX tests with an old onnxruntime
	$(BIN)/python scripts/compare_onnx_backend.py
	$(OLD_ORT)/bin/python scripts/compare_onnx_backend.py
	$(OLD_ORT)/bin/python -m pytest tests/interception/onnxruntime tests/destination/onnx

test-torch-ops: $(READY) ## Run PyTorch's OpInfo suite against a destination, six minutes; OPTIONS=--native beside a GPU, --help for more
	TORCH_OPS=all $(BIN)/python -m pytest tests/interception/torch/test_torch_ops.py
	$(BIN)/python tests/torch_ops $(OPTIONS)

test-torch-replay: $(READY) ## Three programs that are perturbed at random, 2000 steps each, with and without replay
	REPLAY_SEEDS=3 REPLAY_STEPS=2000 $(BIN)/python -m pytest tests/interception/torch/test_replay.py

test-torch-compile: $(READY) ## torch.compile, --graph, extensions and all kernels in C++, with a compiler
	TORCH_COMPILE=all $(BIN)/python -m pytest tests/interception/torch/test_compiling.py \
		tests/interception/torch/test_whole_graphs.py tests/interception/torch/test_extensions.py \
		tests/interception/torch/test_native.py

test-recovery: $(READY) ## Connections cut at every place; 10,000 calls under all faults; programs of each library whose workers are killed
	CUTS=all $(BIN)/python -m pytest tests/host/test_resume.py
	RECOVERY_ROUNDS=500 $(BIN)/python -m pytest tests/recovery

test-hostile: $(READY) ## Faults at every message boundary of every conversation, and every process killed and stopped in every state
	HOSTILE=all $(BIN)/python -m pytest tests/hostile tests/destination/test_hung_processes.py $(OPTIONS)

fuzz: $(READY)   ## Fuzz the decoder and a server's first bytes with atheris, two minutes; SECONDS= for more
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	PYTHONPATH=src:tests $(BIN)/python tests/hostile/fuzz.py --seconds $(or $(SECONDS),120) $(OPTIONS)

soak: $(READY)   ## 50 hosts coming and going for SOAK_MINUTES (2), while memory, descriptors, threads and processes stay flat
	PYTHONPATH=src:tests $(BIN)/python tests/hostile/soak.py --minutes $(or $(SOAK_MINUTES),2) $(OPTIONS)

test-opencv: $(READY) $(OPENCV_4)/ready ## Every form of a call with OpenCV 4.14 and 5.0, at a destination with either
	$(BIN)/python -m pytest $(OPENCV_TESTS)
	$(OPENCV_4)/bin/python -m pytest $(OPENCV_TESTS)
	OPENCV_DESTINATION_PYTHON=$(OPENCV_4)/bin/python $(BIN)/python -m pytest $(OPENCV_TESTS)
	OPENCV_DESTINATION_PYTHON=$(BIN)/python $(OPENCV_4)/bin/python -m pytest $(OPENCV_TESTS)

check: $(READY)  ## Check format, lint, types and import layers
	$(BIN)/ruff format --check src tests examples benchmarks scripts
	$(BIN)/ruff check src tests examples benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Rewrite the sources in the project's format
	$(BIN)/ruff format src tests examples benchmarks scripts
	$(BIN)/ruff check --fix src tests examples benchmarks scripts

bench: $(READY)  ## Measure the execution cycle of OpenPose's COCO net on loopback; writes benchmarks/results
	$(BIN)/python benchmarks/openpose_cycle.py

bench-all: $(READY) ## Measure the standard workloads natively and under AVEC over four links; OPTIONS=--quick on a CPU
	$(BIN)/avec bench --output benchmarks/results/bench.json $(OPTIONS)

bench-onnx: $(READY) ## Measure a run of ONNX Runtime, of ResNet-50 and of a model that hardly computes; writes benchmarks/results
	$(BIN)/python benchmarks/onnx_cycle.py

bench-torch: $(READY) ## Measure what PyTorch's operators cost the host, and training beside native; writes benchmarks/results
	$(BIN)/python benchmarks/torch_cost.py
	$(BIN)/python benchmarks/torch_training.py

bench-resume: $(READY) ## Measure how long a broken connection takes to be mended, and what being able to costs; writes benchmarks/results
	$(BIN)/python benchmarks/resume.py --output benchmarks/results/resume-cpu.json

bench-sharing: $(READY) ## Measure how hosts share an accelerator; OPTIONS="--hosts 4 --quick" on a CPU; writes benchmarks/results
	$(BIN)/python benchmarks/sharing.py $(OPTIONS)

bench-tls: $(READY) ## Measure what TLS costs calls and a frame loop over four links; writes benchmarks/results
	$(BIN)/python benchmarks/tls.py

bench-recovery: $(READY) ## Measure how long a session takes to go on at another worker, and what being able to costs; writes benchmarks/results
	$(BIN)/python benchmarks/recovery.py --output benchmarks/results/recovery-cpu.json

bench-paper: $(READY) ## The paper's experiments on this machine and its GPU, four minutes; OPTIONS=… for more
	$(BIN)/avec bench paper benchmarks/paper-h200.toml --output benchmarks/results/paper.json $(OPTIONS)

bench-paper-small: $(READY) ## The same tables on a machine without a GPU, in two to five minutes
	$(BIN)/avec bench paper benchmarks/paper-small.toml --output out/paper-small.json --plots out/paper-small

bench-paper-tiny: $(READY) ## A few frames of them, for CI
	$(BIN)/avec bench paper benchmarks/paper-tiny.toml

bench-codecs: $(READY) ## Measure the tensor codecs, and a frame loop over four links with each and with auto; writes benchmarks/results
	$(BIN)/python benchmarks/codecs.py

bench-training: $(READY) ## Measure an SGD iteration of an AlexNet-shaped net; writes benchmarks/results
	$(BIN)/python benchmarks/caffe_training.py

goldens:         ## Make the golden files anew with real Caffe (root, and Debian 11's archive)
	scripts/caffe_goldens/make.sh

clean:           ## Remove what the targets made
	rm -rf $(VENV) .cache out build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(OLD_ORT)/ready: $(READY)
	$(BIN)/python -m venv $(OLD_ORT)
	$(OLD_ORT)/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/oldest_onnxruntime.txt onnxruntime
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), "$(CURDIR)/src", sep="\n")' \
		> $$($(OLD_ORT)/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz_others.pth
	@touch $(OLD_ORT)/ready

$(OPENCV_4)/ready: $(READY)
	$(BIN)/python -m venv $(OPENCV_4)
	$(OPENCV_4)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		opencv-python-headless==$(OPENCV_4_VERSION)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), "$(CURDIR)/src", sep="\n")' \
		> $$($(OPENCV_4)/bin/python -c 'import site; print(site.getsitepackages()[0])')/zz_others.pth
	@touch $(OPENCV_4)/ready

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@mkdir -p out && touch $(READY)
