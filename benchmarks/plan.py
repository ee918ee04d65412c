"""What `duosora plan` says against what is measured, for configurations of all families.

    OMP_NUM_THREADS=1 duosora plan --calibrate
    python benchmarks/plan.py --keep FIGURES.jsonl [--parts] [case ...]

Each case runs in a process of its own with one thread: memory is the most that the process holds beyond what it held
when the run was settled, before any weight was read; time is the processor's. Both commands together take four minutes
on an idle machine. Prints the table of docs/planning.md, how many cases are near, the worst, and how long counting
took.--parts: also the phases that were planned, and what was seen of each.

To fit again after models have changed:

1. `pytest tests/torch/test_planning.py` compares `Work.alive` of each spec with exact tensors; its message has the
   measured figure. Set the spec's to it.
2. Run both commands above. Change core/planning/constants.py and see what becomes of it with `--again FIGURES.jsonl`,
   which plans the kept figures anew in seconds. For memory: KERNELS, REORDERED and SLACK; for time: PASSES,
   WEIGHT_PASSES, CALLS and BACKWARD.
3. Only cases that are marked as fitted may decide. The others, whose names begin with new-, tell how well it foretells.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from duosora.core.layout import Constant, Ones, Zeros
from duosora.core.models import (
    clip_text,
    dit,
    dit_first,
    dit_meta,
    opensora_t2v,
    opensora_vae,
    pixart,
    sd_vae,
    stdit,
    stdit2,
    stdit3,
    t5,
    vqvae,
    wfvae,
)
from duosora.core.models.finding import TINY_FOLDER

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "tests" / "goldens" / "clip_text" / "tokenizer"
PROMPT = "a big red circle moves to the right on a white background"
WIDE = {"hidden_size": 384, "depth": 6, "num_heads": 6}
SPECS: Mapping[str, Any] = {
    "t2v": replace(opensora_t2v.TINY, num_layers=8, num_attention_heads=4, attention_head_dim=96, caption_channels=512),
    "t2v_8": replace(opensora_t2v.TINY, num_layers=8, num_attention_heads=4, attention_head_dim=96),
    "stdit3": replace(stdit3.TINY, **WIDE, caption_channels=512, in_channels=8),
    "stdit2": replace(stdit2.TINY, **WIDE, caption_channels=512),
    "stdit": replace(stdit.TINY, **WIDE, caption_channels=512, input_size=(8, 16, 16)),
    "stdit_24": replace(stdit.TINY, **WIDE, caption_channels=512, input_size=(8, 24, 16)),
    "pixart": replace(pixart.TINY, **WIDE, caption_channels=512, input_size=(1, 32, 32)),
    "latte": replace(dit.TINY, **WIDE, alternates=True, num_classes=10, caption_channels=0),
    "dit": replace(dit.TINY, **WIDE, caption_channels=256),
    "dit_first": replace(
        dit_first.PRESETS["dit_first_tiny_cross_attn"],
        **WIDE,
        in_channels=32,
        text_embed_dim=256,
        max_num_embeddings=65536,
    ),
    "dit_meta": replace(dit_meta.TINY, **WIDE, input_size=32),
    "wfvae": replace(
        wfvae.PRESETS["wfvae_d8_4x8x8"],
        base_channels=32,
        encoder_energy_flow_hidden_size=32,
        decoder_energy_flow_hidden_size=32,
    ),
    "osvae": replace(
        opensora_vae.PRESETS["tiny_v1_2"],
        spatial=replace(
            opensora_vae.PRESETS["tiny_v1_2"].spatial, block_out_channels=(32, 64, 64, 128), norm_num_groups=8
        ),
        temporal=replace(opensora_vae.PRESETS["tiny_v1_2"].temporal, filters=64, num_groups=8),
        micro_batch_size=4,
    ),
    "sdvae": replace(sd_vae.PRESETS["sd_vae_tiny"], block_out_channels=(32, 64, 128, 128), norm_num_groups=8),
    "vqvae": vqvae.VQVAESpec(embedding_dim=32, n_codes=64, n_hiddens=96, n_res_layers=2, downsample=(2, 4, 4)),
    "t5": t5.T5Spec(vocab_size=160, d_model=512, d_kv=64, d_ff=1024, num_layers=6, num_heads=8),
    "t5_wide": t5.T5Spec(vocab_size=160, d_model=512, d_kv=64, d_ff=8192, num_layers=12, num_heads=8),
    "clip": replace(
        clip_text.VIT_B_32,
        vocab_size=574,
        num_attention_heads=4,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
    ),
}


@dataclass(frozen=True)
class Case:
    """A run that is planned and measured."""

    title: str
    settings: Mapping[str, Any]
    models: Mapping[str, str]
    """Kinds to names in SPECS."""
    dtype: str = "fp32"
    backend: str = "torch"
    verb: str = "sample"
    fitted: bool = True
    """Whether constants were fitted to it."""


def _video(frames: int, height: int, width: int, steps: int) -> dict[str, Any]:
    return {"video.frames": frames, "video.height": height, "video.width": width, "sampler.steps": steps}


PIXART = {"denoiser": "pixart", "text_encoder": "t5", "vae": "sdvae"}
T2V = {"denoiser": "t2v", "text_encoder": "t5", "vae": "wfvae"}
STDIT3 = {"denoiser": "stdit3", "text_encoder": "t5", "vae": "osvae"}
CLASSES = {"denoiser": "dit_meta", "vae": "sdvae"}
PATCHES = {"denoiser": "dit_first", "text_encoder": "clip", "vae": "vqvae"}
LABEL = {"prompts.sources": ["3"]}
MANY = {"prompts.sources": [f"{PROMPT} {number}" for number in range(12)]}
INT8 = {"backend.dtype.text_encoder": "int8"}
TRAINING = {
    "data.files": [str(ROOT / "tests" / "media" / "clips.json")],
    "data.min_bucket_batches": 0,
    "data.frames": 17,
    "data.height": 128,
    "data.width": 128,
    "data.fps": 25,
    "data.workers": 1,
    "max_steps": 3,
    "batch_size": 2,
    "checkpoints.every": None,
}
AUTOENCODER = {"autoencoder.discriminator_factor": 0, "data.autoencoder": {}, "batch_size": 1}
CASES: Mapping[str, Case] = {
    "t2v": Case("OpenSoraT2V, WFVAE, 17x256x256, 6 steps", _video(17, 256, 256, 6), T2V),
    "t2v-bf16": Case("the same, 49x256x256", _video(49, 256, 256, 6), T2V, "bf16"),
    "t2v-whole": Case(
        "the same, 17x192x192, 4 steps, decoded at once", _video(17, 192, 192, 4) | {"decode.chunk": None}, T2V
    ),
    "tiny": Case("the tiny model as it comes, 20 steps", {"sampler.steps": 20}, {}),
    "stdit3": Case("STDiT3, OpenSoraVAE, 34x128x128, 8 steps", _video(34, 128, 128, 8), STDIT3),
    "stdit3-bf16": Case("the same, 34x192x192", _video(34, 192, 192, 8), STDIT3, "bf16"),
    "stdit2": Case("STDiT2, SDVAE, 16x128x128, 10 steps", _video(16, 128, 128, 10), {**PIXART, "denoiser": "stdit2"}),
    "stdit-bf16": Case(
        "STDiT, SDVAE, 16x256x256, 10 steps", _video(16, 256, 256, 10), {**PIXART, "denoiser": "stdit"}, "bf16"
    ),
    "pixart": Case("PixArt, SDVAE, 1x512x512, 10 steps", _video(1, 512, 512, 10), PIXART),
    "dit": Case(
        "DiT of videos, CLIP, SDVAE, 8x128x128, 10 steps",
        _video(8, 128, 128, 10),
        {"denoiser": "dit", "text_encoder": "clip", "vae": "sdvae"},
    ),
    "latte": Case(
        "Latte of classes, SDVAE, 16x128x128, 10 steps",
        _video(16, 128, 128, 10) | LABEL,
        {"denoiser": "latte", "vae": "sdvae"},
    ),
    "dit_first": Case("DiT of the first release, CLIP, VQVAE, 16x128x128, 20 steps", _video(16, 128, 128, 20), PATCHES),
    "dit_meta": Case("DiT of classes, SDVAE, 1x256x256, 30 steps", _video(1, 256, 256, 30) | LABEL, CLASSES),
    "dit_meta-bf16": Case(
        "the same, 4 pictures", _video(1, 256, 256, 30) | LABEL | {"samples_per_prompt": 4}, CLASSES, "bf16"
    ),
    "t5": Case("a T5 of 170 M weights, 12 prompts", _video(1, 64, 64, 2) | MANY, {**PIXART, "text_encoder": "t5_wide"}),
    "train-t2v": Case("training of OpenSoraT2V, a step of 2 clips, 17x128x128", TRAINING, T2V, verb="train"),
    "train-stdit3": Case(
        "the same of STDiT3, recomputed",
        TRAINING | {"compute.recompute_every": 1},
        STDIT3,
        "bf16",
        verb="train",
    ),
    "train-wfvae": Case("the same of WFVAE, 1 clip", TRAINING | AUTOENCODER, {"vae": "wfvae"}, verb="train"),
    "ms-tiny": Case("the tiny model as it comes, 10 steps", {"sampler.steps": 10}, {}, backend="mindspore"),
    "ms-dit_meta": Case(
        "DiT of classes, SDVAE, 1x256x256, 10 steps", _video(1, 256, 256, 10) | LABEL, CLASSES, backend="mindspore"
    ),
    "new-t2v": Case("OpenSoraT2V, WFVAE, 29x160x224, 5 steps", _video(29, 160, 224, 5), T2V, fitted=False),
    "new-stdit3": Case(
        "STDiT3, OpenSoraVAE, 17x160x96, 12 steps", _video(17, 160, 96, 12), STDIT3, "bf16", fitted=False
    ),
    "new-pixart": Case("PixArt, SDVAE, 1x384x640, 8 steps", _video(1, 384, 640, 8), PIXART, "bf16", fitted=False),
    "new-stdit": Case(
        "STDiT, SDVAE, 16x192x128, 6 steps",
        _video(16, 192, 128, 6),
        {**PIXART, "denoiser": "stdit_24"},
        fitted=False,
    ),
    "new-latte": Case(
        "Latte of classes, SDVAE, 8x192x192, 8 steps",
        _video(8, 192, 192, 8) | LABEL,
        {"denoiser": "latte", "vae": "sdvae"},
        "bf16",
        fitted=False,
    ),
    "new-int8": Case(
        "a T5 of 170 M weights in int8, 12 prompts",
        _video(1, 64, 64, 2) | MANY | INT8,
        {**PIXART, "text_encoder": "t5_wide"},
        fitted=False,
    ),
    "new-stream": Case(
        "the same in fp32, layer by layer",
        _video(1, 64, 64, 2) | MANY | {"backend.text_encoder": "stream"},
        {**PIXART, "text_encoder": "t5_wide"},
        fitted=False,
    ),
    "new-parts": Case(
        "DiT of videos, CLIP, SDVAE, 4x192x192, 8 steps, parts apart",
        _video(4, 192, 192, 8) | {"backend.offload": "parts"},
        {"denoiser": "dit", "text_encoder": "clip", "vae": "sdvae"},
        fitted=False,
    ),
    "new-train": Case(
        "training of OpenSoraT2V, a step of 1 clip, 9x160x160",
        TRAINING | {"data.frames": 9, "data.height": 160, "data.width": 160, "batch_size": 1},
        T2V,
        "bf16",
        verb="train",
        fitted=False,
    ),
    "new-lora": Case(
        "LoRA of rank 16 for it, 2 clips, 17x128x128",
        TRAINING | {"tune.kind": "lora", "tune.rank": 16},
        T2V,
        verb="train",
        fitted=False,
    ),
    "new-ms": Case("the tiny model, 33x96x96, 5 steps", _video(33, 96, 96, 5), {}, backend="mindspore", fitted=False),
}


def write_model(spec: Any, folder: Path) -> None:
    """A model of a spec with weights of no meaning."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(spec.to_config()))
    generator = np.random.default_rng(0)
    arrays = {}
    for name, weight in spec.layout().weights.items():
        if isinstance(weight.init, Constant | Ones | Zeros):
            arrays[name] = spec.layout().fresh_weight(name, 0)
            if isinstance(weight.init, Zeros) and len(weight.shape) > 1:
                arrays[name] = generator.random(weight.shape, dtype=np.float32) * 0.02
        else:
            arrays[name] = (generator.random(weight.shape, dtype=np.float32) - 0.5) * 0.05
    save_file(arrays, folder / "model.safetensors")
    if spec.family == "t5":
        shutil.copy(TINY_FOLDER / "spiece.model", folder)
    if spec.family == "clip_text":
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(WORDS / file, folder)


def overrides_of(case: Case, folder: Path) -> list[str]:
    """The command line's."""
    kind = "backend" if case.verb == "sample" else "compute"
    values: dict[str, Any] = {f"{kind}.name": case.backend, f"{kind}.device": "cpu"}
    if case.verb == "sample":
        values |= {f"backend.dtype.{each}": case.dtype for each in ("denoiser", "text_encoder", "vae")}
        values["prompts.sources"] = [PROMPT]
    else:
        values["compute.dtype"] = case.dtype
    values |= {f"model.{part}": str(folder / name) for part, name in case.models.items()}
    values |= case.settings
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Plan and run a case in this process."""
    from duosora.core.planning.devices import this_device

    settle = _sampling if case.verb == "sample" else _training
    planned, run = settle(overrides_of(case, folder), folder)
    device = this_device(case.backend, "cpu")
    started = time.process_time()
    forecast = planned().forecast(device)
    planning = time.process_time() - started
    seconds, memory, seen = run()
    return {**told(forecast), "measured": [memory, seconds], "seen": seen, "planning": planning}


Seen = dict[str, tuple[float, int]]
"""Seconds and bytes up to the end of parts of a run."""


def _sampling(overrides: list[str], folder: Path) -> tuple[Callable[[], Any], Callable[[], tuple[float, int, Seen]]]:
    """What is planned, and what runs: to the frames, without their file."""
    from duosora.core.config.loading import load, override_paths
    from duosora.core.config.schema import SampleConfig
    from duosora.core.pipelines.sample import Sampling
    from duosora.core.planning.cases import sampling_case

    sampling = Sampling(load(None, SampleConfig, overrides), overrides=override_paths(overrides))

    def run() -> tuple[float, int, Seen]:
        seen: Seen = {}
        spent = _spending()
        for job, latent in sampling.latents():
            seen["to latents"] = spent()
            sampling.frames(job, latent)
        seen["all"] = spent()
        return *spent(), seen

    return lambda: sampling_case(sampling.settled, sampling.jobs), run


def _training(overrides: list[str], folder: Path) -> tuple[Callable[[], Any], Callable[[], tuple[float, int, Seen]]]:
    """What is planned, and what runs: steps, of which all but the first are timed."""
    from duosora.core.config.loading import load, override_paths
    from duosora.core.config.training import TrainConfig
    from duosora.core.planning.cases import training_case
    from duosora.core.train.run import TrainRun

    overrides = [*overrides, f"folder={folder / 'run'}"]
    training = TrainRun(load(None, TrainConfig, overrides), overrides=override_paths(overrides))

    def run() -> tuple[float, int, Seen]:
        steps: list[tuple[float, int]] = []
        spent = _spending()
        training.run(lambda step, report: steps.append(spent()), lambda line: None)
        shutil.rmtree(folder / "run")
        seconds = (steps[-1][0] - steps[0][0]) / (len(steps) - 1)
        return seconds, steps[-1][1], {f"step {number}": each for number, each in enumerate(steps, 1)}

    return lambda: training_case(training.config, training.parts, training.dtype, training.ranks.plan), run


def _spending() -> Callable[[], tuple[float, int]]:
    """From now on: seconds of the processor, and the most memory beyond what there is now."""
    from duosora.core.planning.here import reset_most, resident_bytes

    before, start = resident_bytes(), time.process_time()
    reset_most()
    return lambda: (time.process_time() - start, resident_bytes(most=True) - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--parts", action="store_true", help="also what was planned and seen of each phase")
    parser.add_argument("--keep", type=Path, help="add the figures of each case to this file, a line of JSON each")
    parser.add_argument("--again", type=Path, help="plan anew what such a file has measured, and compare")
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        print(json.dumps(measure(CASES[options.cases[0]], Path(options.in_process))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = [json.loads(line) for line in options.again.read_text().splitlines()] if options.again else []
        names = [figures["case"] for figures in kept] or options.cases
        for spec in {each for case in names for each in CASES[case].models.values()}:
            write_model(SPECS[spec], folder / spec)
        found = (planned_anew(each, folder) for each in kept) if kept else map(partial(run_alone, folder), names)
        report(found, options.parts, options.keep)


def run_alone(folder: Path, name: str) -> dict[str, Any]:
    """The figures of a case, of a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name, "--in-process", str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {"case": name, **json.loads(done.stdout.splitlines()[-1])}


def planned_anew(figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What was measured with what is planned by now."""
    from duosora.core.config.loading import load, override_paths
    from duosora.core.config.schema import SampleConfig
    from duosora.core.config.training import TrainConfig
    from duosora.core.planning.unstarted import plan_sampling, plan_training

    case = CASES[figures["case"]]
    overrides = overrides_of(case, folder)
    if case.verb == "sample":
        config, paths = load(None, SampleConfig, overrides), override_paths(overrides)
        planned, device, _ = plan_sampling(config, paths, "cpu", None)
        return figures | told(planned.forecast(device))
    overrides.append(f"folder={folder / 'run'}")
    training = load(None, TrainConfig, overrides)
    step, device, _ = plan_training(training, override_paths(overrides), "cpu", None)
    return figures | told(step.forecast(device))


def told(forecast: Any) -> dict[str, Any]:
    """A forecast as plain numbers."""
    phases = {
        phase.name: [phase.seconds, phase.peak, {f"{of.part} {of.what}": size for of, size in phase.held.items()}]
        for phase in forecast.phases
    }
    return {"planned": [forecast.peak, forecast.seconds], "phases": phases, "device": forecast.device.source}


NEAR = {"memory": 0.10, "time": 0.15}
"""Errors that are aimed at."""


def report(found: Iterable[dict[str, Any]], shows_parts: bool, keep: Path | None) -> None:
    print("| case | backend, dtype | fitted | planned MiB | measured | off | planned s | measured | off |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    errors: dict[str, dict[str, float]] = {kind: {} for kind in NEAR}
    counting: list[float] = []
    for figures in found:
        name = figures["case"]
        if keep is not None:
            with keep.open("a") as file:
                file.write(json.dumps(figures) + "\n")
        (memory, seconds), (held, took) = figures["planned"], figures["measured"]
        errors["memory"][name], errors["time"][name] = memory / held - 1, seconds / took - 1
        counting.append(figures["planning"])
        case = CASES[name]
        print(
            f"| {case.title} | {case.backend}, {case.dtype} | {'yes' if case.fitted else 'no'} "
            f"| {memory / 2**20:.0f} | {held / 2**20:.0f} | {errors['memory'][name]:+.0%} "
            f"| {seconds:.2f} | {took:.2f} | {errors['time'][name]:+.0%} |",
            flush=True,
        )
        if shows_parts:
            for phase, (planned, peak, held_by) in figures["phases"].items():
                parts = ", ".join(f"{part} {size / 2**20:.1f}" for part, size in held_by.items())
                print(f"    {phase}: {planned:.3f} s, {peak / 2**20:.1f} MiB ({parts})")
            for phase, (seen, peak) in figures["seen"].items():
                print(f"    seen {phase}: {seen:.3f} s, {peak / 2**20:.1f} MiB")
    print()
    for kind, of_cases in errors.items():
        print(f"{kind}: {', '.join(_told_errors(of_cases, NEAR[kind], fitted) for fitted in (True, False))}.")
    print(f"Counting took {1000 * sorted(counting)[len(counting) // 2]:.0f} ms, at most {1000 * max(counting):.0f}.")
    print(f"Rates: {figures['device']}.")


def _told_errors(errors: Mapping[str, float], near: float, fitted: bool) -> str:
    """How many are near, and the worst."""
    chosen = {name: error for name, error in errors.items() if CASES[name].fitted == fitted}
    if not chosen:
        return f"none {'fitted' if fitted else 'others'}"
    worst = max(chosen, key=lambda name: abs(chosen[name]))
    count = sum(abs(error) <= near for error in chosen.values())
    kind = "fitted" if fitted else "others"
    return f"{count} of {len(chosen)} {kind} within {near:.0%}, worst {chosen[worst]:+.0%} ({CASES[worst].title})"


if __name__ == "__main__":
    main()
