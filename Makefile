# `make quickstart` and `make test` need Python 3.11+ and nothing else. They take
# the newest Python from 3.11 to 3.14 that works; for another one, `make clean`
# and then PYTHON=python3.12.
PYTHONS = $(shell sh tools/pythons.sh)
PYTHON ?= $(firstword $(PYTHONS))
PY := .venv/bin/python

# On Linux: large pages. Most of a step can go by in page faults otherwise, as XLA
# asks the system for its buffers anew in every step.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test test-slow test-versions lint docs docs-serve peers \
  experiments cifar10 english glue llama-60m theory bench bench-hosts soak clean

# ARGS='--steps 20' overrides keys of the configuration.
quickstart: .venv/train
	JAX_PLATFORMS=cpu $(PY) -m train configs/quickstart.py $(ARGS)
	@echo 'Next, send 30 times less with local steps (docs/local_updates.md):'
	@echo 'make quickstart ARGS="--local.every 4 --optimizer.name muon' \
	  '--optimizer.learning_rate 0.01 --compression.method quantize' \
	  '--compression.bits 4 --compression.start_step 0 --workdir runs/local"'

# Three at a time for two cores, as some tests wait for processes that they start;
# a file's tests share what they compiled.
test: lint
	$(PY) -m pytest --numprocesses 3 --dist loadfile -m 'not slow'

# What `make test` leaves out: the longest tests, and those that kill processes.
test-slow: .venv/test
	$(PY) -m pytest --numprocesses 2 --dist loadfile -m slow

# The lowest and the newest versions on every Python: docs/versions.md. For one of
# them, ARGS='--versions newest --core' and PYTHONS=python3.12.
test-versions:
	JAX_PLATFORMS=cpu $(PYTHON) tools/versions.py $(PYTHONS) $(ARGS)

# Of the files that git knows, so that others lying around change nothing.
lint: .venv/test
	.venv/bin/ruff format --check $$(git ls-files "*.py")
	.venv/bin/ruff check $$(git ls-files "*.py")
	.venv/bin/mypy --strict --package greedylore_jax
	.venv/bin/mypy

# The site, into site/. It needs no network once its packages are installed.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

docs-serve: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

# Against PyTorch, hundreds of MB; `make test` runs these, too, where it finds it.
peers: .venv/peers
	$(PY) -m pytest -rP tests/algorithm/test_torch.py

# Rerun a study to resume it: runs in experiments/*/results.jsonl are done.
COMPARE := JAX_PLATFORMS=cpu $(PY) -m train.compare
FAMILY := dense powersgd range_finder greedylore \
  powersgd:factor_dtype=int8 range_finder:factor_dtype=int8 \
  range_finder:warm=0.5 tsr_adam:start_step=0 tsr \
  top_k top_k:indices=own fixed_subspace random_subspace random_k \
  quantize quantize:bits=4 sign greedylore:probes=0 greedylore:probes=16 \
  greedylore:basis_size=64 range_finder:start_step=0 powersgd:start_step=0 \
  powersgd:factor_dtype=int8:start_step=0 \
  greedylore:factor_dtype=int8
FRONT := dense powersgd range_finder \
  powersgd:factor_dtype=int8 range_finder:factor_dtype=int8
ABLATION := configs/studies/family.py:ablation --workdir experiments/ablation
comma := ,
list = $(subst $() ,$(comma),$(strip $(1)))

experiments: .venv/train
	$(COMPARE) configs/studies/family.py --workdir experiments/family --budgets 10 \
	  --compressors $(call list,$(FRONT)) --learning_rates 1e-3 --seeds 0,1,2
	$(COMPARE) configs/studies/family.py --workdir experiments/family --budgets 10 \
	  --compressors $(call list,$(FRONT)) --learning_rates 5e-4,2e-3,4e-3
	$(COMPARE) configs/studies/family.py:4m --workdir experiments/family_4m \
	  --budgets 10 --compressors $(call list,$(FRONT)) --learning_rates 1e-3
	$(COMPARE) configs/studies/family.py --workdir experiments/family --budgets 4,10 \
	  --compressors $(call list,$(FAMILY))
	$(COMPARE) $(ABLATION)_projection --compressors $(call list,dense \
	  greedylore:start_step=0 random_subspace:start_step=0 \
	  greedylore:start_step=150 random_subspace:start_step=150)
	$(COMPARE) $(ABLATION)_error_feedback --compressors $(call list,dense \
	  greedylore:start_step=0 greedylore:start_step=0:error_feedback=False \
	  greedylore:start_step=150 greedylore:start_step=150:error_feedback=False)

# On data sets that `train.prepare` makes, as the configurations say, and GLUE from
# what is pre-trained: 4 to 18 minutes a run beside another.
cifar10: .venv/train
	$(COMPARE) configs/studies/cifar10_small.py --workdir experiments/cifar10_small \
	  --seeds 0,1,2 --compressors $(call list,dense greedylore:rank=16 \
	  powersgd:rank=16 greedylore:rank=4 powersgd:rank=4 \
	  greedylore:rank=4:error_feedback=False random_subspace:rank=4 \
	  greedylore:rank=2)
english: .venv/train
	$(COMPARE) configs/studies/llama_2m.py --workdir experiments/english \
	  --data.held_out data/wiki.test.txt c4/en --learning_rates 2e-3,1e-3,4e-3 \
	  --compressors $(call list,dense greedylore:rank=32 greedylore:rank=8 \
	  powersgd:rank=32:factor_dtype=int8 powersgd:rank=8)

glue: $(addprefix glue-,cola mrpc sst2 stsb)
glue-%: .venv/train
	$(COMPARE) configs/studies/glue.py:$* --workdir experiments/glue_$* \
	  --compressors $(call list,dense greedylore:rank=8 greedylore:rank=16 \
	  powersgd:rank=8:factor_dtype=int8)

# On English text, with the tokenizer of t5-base: 40 to 50 minutes a run.
llama-60m: .venv/train
	$(COMPARE) configs/greedylore/llama.py:60m_english \
	  --workdir experiments/llama_60m --compressors $(call list,dense \
	  powersgd:rank=64:factor_dtype=int8 \
	  powersgd:rank=224:factor_dtype=int8:embedding_method=top_k:density=0.06)

theory: .venv/train
	JAX_PLATFORMS=cpu $(PY) -m experiments.theory

# Averaging needs simulated hosts, see below, and takes an hour. Models of 350M
# parameters fit one crew and method in 23 GB, without GreedyLore's refreshes:
# --models 350m --hosts 2 --crews ours --methods range_finder, or another one.
bench: .venv/train .venv/peers
	$(PY) -m benchmarks.compute.decompositions
	$(PY) -m benchmarks.compute.compile_time
	JAX_PLATFORMS=cpu $(PY) -m benchmarks.averaging --hosts 1 --rates none
	JAX_PLATFORMS=cpu $(PY) -m benchmarks.averaging
	$(PY) -m benchmarks.compute.one_worker configs/greedylore/llama.py:9m \
	  configs/greedylore/llama.py:60m --tokens 2048
	JAX_PLATFORMS=cpu $(PY) -m benchmarks.network.outlook

# Very many steps, kills, processes and damaged files: ten minutes or more each;
# 64 processes need 16 GB of memory.
soak: .venv/train
	$(PY) -m benchmarks.soak
	$(PY) -m benchmarks.soak.kills
	$(PY) -m benchmarks.soak.goodput  # Needs root.
	$(PY) -m benchmarks.soak.processes
	$(PY) -m benchmarks.soak.fuzz

# On simulated hosts (network namespaces): root, iproute2, three hours.
bench-hosts: .venv/train .venv/peers
	$(PY) -m benchmarks.network.wire
	$(PY) -m benchmarks.network.time_to_loss
	$(PY) -m benchmarks.network.links
	$(PY) -m benchmarks.network.overlap

clean:
	rm -rf .venv .venvs runs site

.venv/train: pyproject.toml
	@python='$(PYTHON)'; if [ -z "$$python" ]; then \
	  echo 'expected a Python from 3.11 to 3.14 that can make virtual' \
	    'environments, found none: install one, or set PYTHON=...'; exit 2; fi; \
	$$python -c 'import sys; version = sys.version.split()[0]; \
	  sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got " \
	    + version + ": set PYTHON=..."); \
	  print("Using Python", version, "at", sys.executable)' && \
	$$python -m venv --clear .venv
	$(PY) -m pip install --quiet --editable '.[train]'
	touch $@

.venv/test: .venv/train
	$(PY) -m pip install --quiet --editable '.[test]'
	touch $@

.venv/docs: .venv/train
	$(PY) -m pip install --quiet --editable '.[docs]'
	touch $@

.venv/peers: .venv/test
	$(PY) -m pip install --quiet --editable '.[peers]'
	touch $@
