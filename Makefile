# make demo   a first video from a prompt, and a real clip through the autoencoder, into outputs/demo
# make tiny   train the tiny models of core/models/tiny from nothing, into runs/tiny; goes on where it was ended
# make test   lint, types, import rules and every test: what CI runs
# make lint   the same without the tests
# make clean  remove .venv and caches
#
# Each sets up what it needs in .venv on its first run, and again when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP_FILES := pyproject.toml constraints.txt setup.py

.PHONY: demo tiny test lint clean

demo: $(VENV)/installed-torch
	$(BIN)/duosora sample --config configs/sample/tiny.yaml --overwrite --out outputs/demo
	$(BIN)/duosora reconstruct tests/media/city.mp4 --overwrite --out outputs/demo/city.mp4

# The autoencoder in five stages, the scale of its latents, these latents, and the denoiser; then what it learned.
tiny: $(VENV)/installed-torch
	$(BIN)/duosora train --config configs/train/tiny_wfvae_windows.yaml
	$(BIN)/duosora train --config configs/train/tiny_wfvae.yaml
	$(BIN)/duosora train --config configs/train/tiny_wfvae_long.yaml
	$(BIN)/duosora train --config configs/train/tiny_wfvae_last.yaml
	$(BIN)/duosora train --config configs/train/tiny_wfvae_decoder.yaml
	mkdir -p runs/tiny/vae && cp runs/tiny/wfvae_decoder/checkpoint-2000/model/* runs/tiny/vae
	$(BIN)/duosora calibrate runs/tiny/vae --config configs/train/tiny_wfvae_last.yaml
	$(BIN)/duosora cache latents --config configs/train/tiny_t2v.yaml
	$(BIN)/duosora train --config configs/train/tiny_t2v.yaml
	$(BIN)/duosora judge --set model.denoiser=runs/tiny/t2v/checkpoint-12000/model_ema --set model.vae=runs/tiny/vae --set model.text_encoder=tiny \
		--json runs/tiny/judge.json --picture runs/tiny/judge.png

# Two processes of one thread each: on two cores half the time of one process with two threads, which wait for each other.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed-torch: $(SETUP_FILES) | $(BIN)/pip
	$(INSTALL) -e ".[torch]"
	touch $@

$(VENV)/installed-test: $(SETUP_FILES) | $(BIN)/pip
	$(INSTALL) -e ".[test]"
	touch $(VENV)/installed-torch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
