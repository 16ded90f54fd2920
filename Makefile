# labkit: `make lab` for the lab itself, `make test` for every check, `make help` for the rest.
# Everything is installed into .venv, in the versions of requirements.lock;
# nothing is installed outside the tree.

PYTHON ?= python3
PORT ?= 8888
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
C_FILES = $(shell find labkit/native guests tests -name '*.[ch]' ! -name '_core.c')

# A target runs with the packages of .venv, never with the caller's.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONNOUSERSITE := 1
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lab install test check fuzz format asan fidelity museum docs notebooks student screenshots bench lock clean \
	FORCE

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

# -- install ----------------------------------------------------------------------------------------------------------
# Two stamps, each written when its step has ended well, so that an interrupted one is done again:
#   $(VENV)/complete   the locked packages; holds the path of the tree, for a moved or copied .venv is of no use
#   $(VENV)/built      labkit itself: metadata, C core, guests

ifneq ($(shell test -x $(BIN)/python && cat $(VENV)/complete 2>/dev/null),$(CURDIR))
$(VENV)/complete: FORCE
endif

$(VENV)/complete: requirements.lock
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "no $(PYTHON) here. On Debian or Ubuntu: apt-get install python3 python3-venv python3-dev gcc" >&2; exit 1; }
	@"$(PYTHON)" tools/preflight.py
	@echo "Installing JupyterLab and the other locked packages into $(VENV) (a minute or two) ..."
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) install -r requirements.lock
	@$(BIN)/jupyter labextension disable @jupyterlab/apputils-extension:announcements 2>/dev/null || true
	@$(BIN)/jupyter labextension disable @jupyter/nbgrader 2>/dev/null || true
	@$(BIN)/jupyter server extension disable --sys-prefix $(GRADERS_PAGES) 2>/dev/null || true
	@echo "$(CURDIR)" > $@

# nbgrader's pages in JupyterLab are for who grades by them: docs/course.md says how to have them back.
GRADERS_PAGES := $(addprefix nbgrader.server_extensions.,formgrader validate_assignment assignment_list course_list)

BUILT_FROM := pyproject.toml setup.py labkit/toolchain.py \
	$(shell find labkit/native guests -type f ! -name '*.so' ! -name '*.py[co]' ! -name _core.c 2>/dev/null)

$(VENV)/built: $(VENV)/complete $(BUILT_FROM)
	@echo "Building the C core and the guests ..."
	@"$(PYTHON)" tools/preflight.py
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

install: $(VENV)/built  ## make .venv and build the C core and the guests, no more

# -- the lab ----------------------------------------------------------------------------------------------------------
lab: install  ## install, check this machine, boot one guest, open the course in lab/ (LABKIT_NO_SERVE=1: not the last)
	@$(BIN)/labkit doctor
	@$(BIN)/labkit boot
	@echo
	@exec $(BIN)/labkit lab lab --port=$(PORT) $(if $(filter 1,$(LABKIT_NO_SERVE)),--no-serve)

# -- checks -----------------------------------------------------------------------------------------------------------
# Every part runs even if one before it failed; pytest's summary comes last and the exit status tells of all of them.
# The notebooks run once on each CPU back end that is here, or on the one that $LABKIT_CPU names.
# A process for each CPU: who has nothing left to do takes tests of another, but a notebook stays with one.
BACK_ENDS = cd tests && ../$(BIN)/python -c "import backends; print(*backends.back_ends())"
SPREAD := -n logical --maxprocesses=4
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with tools/nbval.cfg --timeout=300
test: install  ## every check: lint, types, unit and guest tests, notebooks
	@failed=; \
	$(MAKE) --no-print-directory check || failed="$$failed lint"; \
	$(BIN)/python -m pytest $(SPREAD) --dist worksteal || failed="$$failed tests"; \
	test -z "$$failed" || echo "FAILED before the notebooks:$$failed"; \
	back_ends="$$($(BACK_ENDS))" || failed="$$failed notebooks"; \
	test -n "$$back_ends" || echo "notebooks: SKIPPED, they boot guests and no CPU is here to run them: labkit doctor"; \
	for cpu in $$back_ends; do \
		echo "notebooks, cpu $$cpu"; \
		LABKIT_CPU=$$cpu $(BIN)/python -m pytest $(SPREAD) --dist loadfile $(NBVAL) $(NOTEBOOKS) || failed="$$failed notebooks-$$cpu"; \
	done; \
	test -z "$$failed"

STRICT_CC := $(if $(filter default,$(origin CC)),gcc,$(CC)) -std=gnu11 -O2 -Wall -Wextra -Werror -Ilabkit/native -Iguests/include
NOT_HERE := $(if $(filter x86_64,$(shell uname -m)),,labkit/native/kvm%.c)
check: install  ## lint, types and compiler warnings only
	@failed=; \
	$(BIN)/ruff check --quiet . || failed=1; \
	layout="$$($(BIN)/ruff format --check . 2>&1)" || { echo "$$layout (mend: make format)"; failed=1; }; \
	$(BIN)/mypy --no-error-summary || failed=1; \
	$(BIN)/clang-format --dry-run -Werror $(C_FILES) || { echo "C layout differs (mend: make format)"; failed=1; }; \
	for source in $(filter-out $(NOT_HERE),$(filter labkit/native/%.c tests/%.c,$(C_FILES))); do \
		$(STRICT_CC) -c -o /dev/null $$source || failed=1; \
	done; \
	test -z "$$failed" && echo "lint: clean"

fuzz: install  ## the fuzz tests with far more steps, and the rules' steps in all revisions (about half an hour)
	@LABKIT_FUZZ=1 $(BIN)/python -m pytest -q -s -o faulthandler_timeout=0 --timeout=1800 tests/test_fuzz_*.py \
		tests/test_every_step.py

format: install  ## put Python and C into the house's layout
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(C_FILES)

asan: install  ## the C core with address and undefined-behaviour sanitizers, in build/asan
	@rm -rf build/asan
	@LABKIT_SANITIZE=1 $(BIN)/python -W ignore setup.py -q build --force --build-base build/asan-objects --build-lib build/asan

fidelity: install  ## hold rules, checklist and QEMU to the tests, then write docs/fidelity.md and docs/rules.md
	@$(BIN)/python tools/record_qemu.py
	@$(BIN)/python -m pytest -q tests/test_rules_*.py tests/oracle tests/test_checklist*.py tests/test_ioeventfd.py \
		tests/test_fuzz_kicks.py tests/test_fuzz_vring.py
	@$(BIN)/python tools/fidelity.py

museum: install  ## play every specimen of the museum, print the table, and write docs/museum.md
	@LABKIT_CPU=$${LABKIT_CPU:-emulated} $(BIN)/python tools/museum.py

docs: install  ## the site of pages, notebooks and docstrings, in build/site; a warning or a dead link is an error
	@$(BIN)/python tools/site.py build/site

notebooks: install  ## run the notebooks on KVM and store what they show (after a change that shows)
	@LABKIT_CPU=kvm $(BIN)/python -W ignore tools/store_notebooks.py $(NOTEBOOKS)

student: install  ## write the notebooks as students get them into build/student, with nbgrader
	@$(BIN)/python -W ignore tools/student.py build/student $(NOTEBOOKS)

screenshots: install  ## take the pictures of docs/images in a browser, on KVM (after a change that shows)
	@LABKIT_CPU=kvm $(BIN)/python tools/screenshots.py

bench: install  ## measure kicks, requests and boots beside their floors
	@$(BIN)/labkit bench

# -- versions ---------------------------------------------------------------------------------------------------------
# Markers that are true wherever labkit runs (x86-64 Linux, CPython) are cut off; those on the Python version stay.
EVERYWHERE := implementation_name == 'cpython' and platform_machine == 'x86_64'
lock:  ## write requirements.lock anew from pyproject.toml, with the newest versions that fit
	@"$(PYTHON)" -m venv build/lock && build/lock/bin/python -m pip -qq install uv==$(UV_VERSION)
	@printf 'pip\nsetuptools\n' > build/lock/tools.txt
	@build/lock/bin/uv --quiet pip compile --upgrade --universal --python-version 3.11 --extra dev --extra docs --extra emulated \
		--generate-hashes --no-header --no-annotate --no-emit-index-url -o build/lock/requirements.txt pyproject.toml build/lock/tools.txt
	@{ echo "# Everything that make installs into .venv, for CPython 3.11 to 3.13 on x86-64 Linux. Written by make lock."; \
	sed -e "s/ and platform_python_implementation != 'PyPy'//" -e "s/ and sys_platform == 'linux'//" \
		-e "s/ ; $(EVERYWHERE)//" -e "s/ and $(EVERYWHERE)//" build/lock/requirements.txt; } > requirements.lock
	@grep -c == requirements.lock | sed 's/$$/ packages locked/'

clean:  ## remove everything that make made, .venv too
	@rm -rf $(VENV) build dist labkit/guest_images labkit/guest_library labkit/left_out.txt *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find labkit guests tests tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@find labkit -name '*.so' -delete
