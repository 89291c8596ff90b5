# Python 3.11+, git and make are all that a machine needs.
UV := $(or $(shell command -v uv),.uv/bin/uv)
PYTHON := $(shell python3 -c 'import sys; print("3.%d" % min(sys.version_info[1], 13))')
DEMO := demo/fraud-detection
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: demo
demo: $(DEMO) ## bake the example, train it, show what came of it
	$(MAKE) --no-print-directory -C $(DEMO) UV=$(abspath $(UV)) setup train

$(DEMO): | $(UV)
	$(UV) run --quiet cookiecutter . --no-input --output-dir demo python_version=$(PYTHON)

.PHONY: test
test: $(UV) ## every promise, executed
	$(UV) run pytest

.PHONY: lint
lint: $(UV) ## style, also of the template's own source where it stands
	$(UV) run ruff check --config pyproject.toml . && $(UV) run ruff format --config pyproject.toml --check .

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet uv
