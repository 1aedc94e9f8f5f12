# `make run` computes the study of config.yaml, `make test` runs all tests and `make test-unit` those
# that run no study, `make check` the static checks, `make bench` measures speed (docs/speed.md). Each
# makes .venv from requirements.lock first, if it is not there.

BIN := .venv/bin
INSTALLED := .venv/installed
SNAKEMAKE := $(BIN)/snakemake
SMK := Snakefile rules

# Two workers share the tests: one that has none left takes over half of what the other has left.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: run test test-unit check bench format

run: $(INSTALLED)
	$(SNAKEMAKE) --cores all

test: $(INSTALLED)
	$(PYTEST)

test-unit: $(INSTALLED)
	$(PYTEST) tests/unit

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check $(SMK)
	$(SNAKEMAKE) --lint
	for study in config.yaml $(wildcard studies/*.yaml); do \
		$(SNAKEMAKE) --cores 1 --dry-run --quiet all --configfile $$study >/dev/null || exit 1; \
	done

bench: $(INSTALLED)
	PYTHONPATH=workflow_scripts $(BIN)/python -m benchmarks.run

format: $(INSTALLED)
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format --quiet
	$(BIN)/snakefmt $(SMK)

$(INSTALLED): requirements.lock
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	echo '$(CURDIR)/workflow_scripts' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/reprscope.pth"
	touch $@
