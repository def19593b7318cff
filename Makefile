# Every target makes .venv on first use and needs only python3 (3.11 or newer)
# with its venv module, and a package registry.

# The CPU unless told otherwise: JAX_PLATFORMS=tpu make demo
export JAX_PLATFORMS ?= cpu

PYTHON ?= python3
# Two files of tests at a time.
PYTEST_FLAGS ?= -n 2 --dist loadfile

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed

.PHONY: demo test quick exhaustive lint docs docs-check bench trl-check study \
  warm-start clean

demo: $(INSTALLED)
	$(RUN) -m gradlens.main --config=configs/toy.py --workdir=runs/demo

test: $(INSTALLED)
	$(RUN) -m pytest $(PYTEST_FLAGS)

quick: $(INSTALLED)
	$(RUN) -m pytest -m 'not slow' $(PYTEST_FLAGS)

# All meshes by all numbers of tasks, of which the tests take some; it takes
# minutes.
exhaustive: $(INSTALLED)
	$(RUN) -m pytest -m exhaustive tests

lint: $(INSTALLED)
	$(RUN) -m ruff check
	@# A checker that is told to look away is no checker.
	@! grep -rnE 'noqa|type: ignore|pylint: ?disable|pragma: no|fmt: (off|skip)' \
	  --include='*.py' --exclude-dir='.venv*' --exclude-dir=build .

# The documentation, as a site in build/site. It is still made by MkDocs 1, and
# its theme would say so on every build.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# Links of the site, and whatever stands in the docs to be run: code, commands
# and doctests.
docs-check: docs
	$(RUN) docs/site/links.py build/site
	$(RUN) -m pytest $(PYTEST_FLAGS) gradlens tests/docs_test.py \
	  tests/readme_test.py tests/site_test.py

# What measuring costs, in ratios, with TorchJD, TRL and Tunix taking turns from
# environments of their own. On an idle machine with 24 GiB; an hour.
bench: $(INSTALLED) .venv-bench/installed .venv-bench-trl/installed \
  .venv-bench-tunix/installed
	$(RUN) -m benchmarks.instrument --sizes=medium --rows=4,8,32 \
	  --repeats=3 --torchjd=.venv-bench/bin/python
	$(RUN) -m benchmarks.instrument --sizes=small --rows=2,16 \
	  --repeats=3 --torchjd=.venv-bench/bin/python
	$(RUN) -m benchmarks.step --config=configs/toy.py
	$(RUN) -m benchmarks.depth
	$(RUN) -m benchmarks.grpo --trl=.venv-bench-trl/bin/python \
	  --tunix=.venv-bench-tunix/bin/python

# An experiment of experiments/, resumed where it was cut, and its figures:
# make study NAME=imbalance, or NAME=imbalance:smoke for a few steps of it.
study: $(INSTALLED)
	$(RUN) -m experiments.$(STUDY).run --variant=$(VARIANT)
	$(RUN) -m experiments.$(STUDY).plot --variant=$(VARIANT)
study: STUDY = $(word 1,$(subst :, ,$(NAME)))
study: VARIANT = $(or $(word 2,$(subst :, ,$(NAME))),all)

# The losses and advantages of TRL beside these: how far they are apart.
trl-check: $(INSTALLED) .venv-bench-trl/installed
	mkdir -p runs
	HF_HUB_OFFLINE=1 .venv-bench-trl/bin/python benchmarks/trl_losses.py \
	  runs/trl_values.json
	$(RUN) tests/trl_cases.py runs/trl_values.json

# An environment for each extra: .venv-bench-trl has gradlens[bench-trl].
.venv-%/installed: setup.py
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q '.[$*]'
	touch $@

# Trains the weights that the package ships, then puts them there.
warm-start: $(INSTALLED)
	$(RUN) -m gradlens.main --config=configs/warm_start.py \
	  --workdir=runs/warm_start
	$(RUN) -m gradlens.export --workdir=runs/warm_start \
	  --output=gradlens/models/warm

clean:
	rm -rf $(VENV) .venv-bench* build gradlens.egg-info

# The stamp is touched last: an installation that was cut off starts again.
$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@
