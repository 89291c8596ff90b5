# Python 3.11+, git and make are all that a machine needs.
UV := $(if $(shell command -v uv),uv,.uv/bin/uv)
PYTHON := $(shell python3 -c 'import sys; print("3.%d" % min(sys.version_info[1], 13))')
DEMO := demo/fraud-detection
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: demo
demo: $(DEMO) ## bake the example, train it, show the result
	$(MAKE) --no-print-directory -C $(DEMO) UV=$(if $(filter .uv/%,$(UV)),../../$(UV),$(UV)) setup train

$(DEMO): | $(UV)
	$(UV) run --quiet --only-group bake cookiecutter . --no-input --output-dir demo python_version=$(PYTHON)

.PHONY: test
test: $(UV) ## the tests, in four processes
	$(UV) run pytest

.PHONY: pictures
pictures: $(UV) ## the pictures of the docs, from a bake of its own; with Chromium, or after `playwright install chromium`
	$(UV) run python docs/pictures.py

.PHONY: lint
lint: $(UV) ## style and types of hooks, tests, benchmarks and tabloop
	$(UV) run ruff check --config pyproject.toml . && $(UV) run ruff format --config pyproject.toml --check . && $(UV) run mypy

# Where uv is installed, its path may have spaces, which a rule can't.
uv: ;
.uv/bin/uv:
	@python3 -m venv .uv && .uv/bin/pip install --quiet uv || { \
	  echo "uv can't be installed, see above: pip needs venv, and a way to a package index (PIP_INDEX_URL, HTTPS_PROXY)" >&2; exit 1; }
