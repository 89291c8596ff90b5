# Python 3.11+, git and make are all that a machine needs.
UV := $(or $(shell command -v uv),.uv/bin/uv)
PYTHON := $(shell python3 -c 'import sys; print("3.%d" % min(sys.version_info[1], 13))')
DEMO := demo/fraud-detection
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: demo
demo: $(DEMO) ## bake the example, train it, show the result
	$(MAKE) --no-print-directory -C $(DEMO) UV=$(abspath $(UV)) setup train

$(DEMO): | $(UV)
	$(UV) run --quiet --only-group bake cookiecutter . --no-input --output-dir demo python_version=$(PYTHON)

.PHONY: test
test: $(UV) ## the tests, in three processes
	$(UV) run pytest

.PHONY: pictures
pictures: demo ## the pictures of the pages, for the docs; with Chromium, or after `playwright install chromium`
	$(UV) run python docs/pictures.py $(DEMO)

.PHONY: lint
lint: $(UV) ## style and types of hooks, tests, benchmarks and tabloop
	$(UV) run ruff check --config pyproject.toml . && $(UV) run ruff format --config pyproject.toml --check . && $(UV) run mypy

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv
