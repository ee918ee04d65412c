# make demo   a first video from a prompt, and a real clip through the autoencoder, into outputs/demo; BACKEND=mindspore
#             does it with MindSpore
# make tiny   train the tiny models of core/models/tiny from nothing, into runs/tiny; goes on where it was ended
# make tiny_v1_2   the same for those of core/models/tiny_v1_2, with the networks of Open-Sora 1.2, into runs/tiny_v1_2
# make tiny_first   train the first release's network on moving shapes, once for each way to tell the text, and judge them
# make tiny_lora  teach the tiny model a colour that it does not know, by LoRA, and judge it by that and by the others
# make lesson train a diffusion transformer on handwritten digits, twice, and judge what it draws (docs/lesson.md); with
#             fewer training steps and pictures of a class: make lesson STEPS=500 EACH=10
# make test   lint, types, import rules and every test: what CI runs; about seventeen minutes on two cores
# make quick  the same without the tests that start several processes, compile, install, or take long: under three minutes
# make lint   the same without any test
# make parity measure how far MindSpore is from torch, into docs/parity.md
# make clean  remove .venv and caches
#
# Each sets up what it needs in .venv on its first run, and again when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
BACKEND ?= torch
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP_FILES := pyproject.toml constraints.txt setup.py

.PHONY: demo tiny tiny_v1_2 tiny_first tiny_lora lesson test quick lint parity clean

demo: $(VENV)/installed-$(BACKEND)
	$(BIN)/duosora sample --backend $(BACKEND) --config configs/sample/tiny.yaml --overwrite --out outputs/demo
	$(BIN)/duosora reconstruct tests/media/city.mp4 --backend $(BACKEND) --overwrite --out outputs/demo/city.mp4

# The autoencoder in five stages, the scale of its latents, these latents, the denoiser in two; then what it learned.
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
	$(BIN)/duosora train --config configs/train/tiny_t2v_last.yaml
	$(BIN)/duosora judge --set model.denoiser=runs/tiny/t2v_last/checkpoint-8000/model_ema --set model.vae=runs/tiny/vae --set model.text_encoder=tiny \
		--json runs/tiny/judge.json --picture runs/tiny/judge.png

# The autoencoder of frames, the temporal one on its latents, both again, from pixels to pixels, the decoders; then as above.
tiny_v1_2: $(VENV)/installed-torch
	$(BIN)/duosora train --config configs/train/tiny_v1_2_windows.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_frames.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_temporal.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_frames_more.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_temporal_more.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_pixels.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_pixels_more.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_decoder.yaml
	mkdir -p runs/tiny_v1_2/vae && cp runs/tiny_v1_2/decoder/checkpoint-700/model/* runs/tiny_v1_2/vae
	$(BIN)/duosora calibrate runs/tiny_v1_2/vae --config configs/train/tiny_v1_2_pixels.yaml
	$(BIN)/duosora cache latents --config configs/train/tiny_v1_2_t2v.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_t2v.yaml
	$(BIN)/duosora train --config configs/train/tiny_v1_2_t2v_last.yaml
	$(BIN)/duosora judge --set model.denoiser=runs/tiny_v1_2/t2v_last/checkpoint-8500/model_ema \
		--set model.vae=runs/tiny_v1_2/vae --set model.text_encoder=tiny_v1_2 --json runs/tiny_v1_2/judge.json --picture runs/tiny_v1_2/judge.png

# As docs/lesson.md has it. The digits are written once; what was trained goes on where it was ended. One thread: networks
# so small gain little from a second, and wait for it where the cores are busy.
EACH ?= 50
DRAWING := $(BIN)/duosora sample 0 1 2 3 4 5 6 7 8 9 --set samples_per_prompt=$(EACH) --set batch_size=100 \
	--set output.grid=$(EACH)

tiny_first: $(addprefix runs/tiny_first/,$(addsuffix .json,cross_attn adaln token_concat))

runs/tiny_first/%.json: $(VENV)/installed-torch
	$(BIN)/duosora cache latents --config configs/train/tiny_first.yaml
	$(BIN)/duosora train --config configs/train/tiny_first.yaml --set model.denoiser=tiny_first_$* --out runs/tiny_first/$*
	$(BIN)/duosora judge --set model.denoiser=runs/tiny_first/$* --json $@ --picture runs/tiny_first/$*.png

tiny_lora: export OMP_NUM_THREADS := 1
tiny_lora: $(VENV)/installed-torch
	$(BIN)/duosora cache latents --config configs/train/tiny_lora.yaml
	$(BIN)/duosora train --config configs/train/tiny_lora.yaml
	$(BIN)/duosora judge --lora runs/tiny_lora --colour teal --json runs/tiny_lora/teal.json --picture runs/tiny_lora/teal.png
	$(BIN)/duosora judge --lora runs/tiny_lora --json runs/tiny_lora/others.json --picture runs/tiny_lora/others.png

lesson: export OMP_NUM_THREADS := 1
lesson: $(VENV)/installed-lesson runs/lesson/digits
	$(BIN)/duosora cache latents --config configs/train/lesson_dit.yaml
	$(BIN)/duosora train --config configs/train/lesson_dit.yaml $(if $(STEPS),--set max_steps=$(STEPS))
	$(BIN)/duosora train --config configs/train/lesson_sit.yaml $(if $(STEPS),--set max_steps=$(STEPS))
	rm -rf outputs/lesson
	$(DRAWING) --set model.denoiser=runs/lesson/dit --out outputs/lesson/dit
	$(DRAWING) --set model.denoiser=runs/lesson/sit --out outputs/lesson/sit
	$(BIN)/duosora judge outputs/lesson/dit --json outputs/lesson/dit.json
	$(BIN)/duosora judge outputs/lesson/sit --json outputs/lesson/sit.json

runs/lesson/digits: | $(VENV)/installed-lesson
	$(BIN)/duosora data digits --out $@

# Two processes of one thread each: on two cores half the time of one process with two threads, which wait for each other.
# The tests of a file, which may share what is costly to make, stay in one of them; so do all that share a set of ranks.
# ORDER=reversed, or a number to shuffle by: no test depends on what ran before it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --durations=10 $(if $(ORDER),--order=$(ORDER))

test: lint
	$(PYTEST)

quick: lint
	$(PYTEST) -m "not processes and not slow and not install"

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

parity: $(VENV)/installed-test
	$(BIN)/duosora parity --config configs/sample/tiny.yaml --dtype fp32 --dtype fp16 \
		--json outputs/parity.json --markdown docs/parity.md

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/installed-torch $(VENV)/installed-mindspore: $(VENV)/installed-%: $(SETUP_FILES) | $(BIN)/pip
	$(INSTALL) -e ".[$*]"
	touch $@

$(VENV)/installed-lesson: $(SETUP_FILES) | $(BIN)/pip
	$(INSTALL) -e ".[torch,lesson]"
	touch $(VENV)/installed-torch $@

$(VENV)/installed-test: $(SETUP_FILES) | $(BIN)/pip
	$(INSTALL) -e ".[test]"
	touch $(VENV)/installed-torch $(VENV)/installed-mindspore $(VENV)/installed-lesson $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
