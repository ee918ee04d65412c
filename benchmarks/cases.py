"""What is measured: models with fresh weights at fixed sizes, each as duosora runs it and in its plain PyTorch form.

A case gives two things for a form. `ours` and `plain` build the model; what they return makes the inputs, and gives
the call that is timed. So memory can be counted beyond the model, inputs and what is kept for a run included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from duosora.core import random, samplers
from duosora.core.layout import Constant, FreshWeights, Layout, Weights
from duosora.core.models import opensora_t2v, stdit3, t5, wfvae
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks
from duosora.core.pipelines.denoise import Guidance, denoise
from duosora.core.samplers.schedule import Schedule
from duosora.core.seam.backend import Backend
from duosora.core.seam.models import Given
from duosora.core.seam.training import AutoencoderBatch, AutoencoderLosses, DiffusionBatch, TrainOptions
from duosora.core.shapes import LatentShape

SMALLEST = LatentShape(1, 8, 8)
Run = Callable[[], Any]
Setup = Callable[[], Run]

T2V_1152 = opensora_t2v.OpenSoraT2VSpec(
    num_layers=8,
    num_attention_heads=12,
    attention_head_dim=96,
    in_channels=8,
    out_channels=8,
    caption_channels=4096,
)
WFVAE_64 = wfvae.WFVAESpec(
    base_channels=64,
    norm_type="layernorm",
    t_interpolation="trilinear",
    connect_res_layer_num=2,
    encoder_energy_flow_hidden_size=64,
    decoder_energy_flow_hidden_size=64,
)
STDIT3_1152 = replace(stdit3.XL_2, depth=3)
MT5_1024 = t5.T5Spec(vocab_size=8192, d_model=1024, d_kv=64, d_ff=2816, num_layers=4, num_heads=16)
GUIDANCE = 7.5
LEARNING_RATE, DECAY = 1e-4, 0.99
OPTIMIZER_PASSES = 10
"""How often training has to touch each weight: gradient, two moments and weight read, three of them written, the
average read, compared and written."""


def fresh_weights(spec: Any) -> Weights:
    """As training starts with."""
    return FreshWeights(spec.layout(), 0)


def tiled_weights(spec: Any) -> Weights:
    """The same few numbers again and again, for models of billions, whose fresh weights take minutes to draw."""
    return TiledWeights(spec.layout())


class TiledWeights(Mapping[str, np.ndarray]):
    """Of a layout: constants as they are, norms as ones, biases as zeros, all else small enough to keep numbers so."""

    source = "tiled weights"

    def __init__(self, layout: Layout) -> None:
        self.layout, self.pool = layout, random.normal((1 << 20,), 0, "tiled weights")

    def __getitem__(self, name: str) -> np.ndarray:
        weight = self.layout[name]
        if isinstance(weight.init, Constant) or len(weight.shape) < 2:
            return self.layout.fresh_weight(name, 0)
        spread = np.float32(prod(weight.shape[1:]) ** -0.5)
        return np.resize(self.pool, weight.shape) * spread

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout)

    def __len__(self) -> int:
        return len(self.layout)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.layout[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)


@dataclass(frozen=True)
class Place:
    """Where and how a form runs."""

    backend: str = "torch"
    device: str = "cpu"
    dtype: str = "fp32"
    compile: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of Backend.build."""
    weights: Callable[[Any], Weights] = fresh_weights
    """Of a spec."""

    def connect(self) -> Backend:
        from duosora.core.seam.backend import get

        return get(self.backend, self.device)

    def torch_dtype(self) -> Any:
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.dtype]


class Work(NamedTuple):
    """The least that any form has to do."""

    flop: float
    """Multiplications and additions of products and convolutions."""
    bytes: float
    """Of the weights, as often as they have to be read or written."""


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    trains: ClassVar[bool] = False

    title: str
    spec: Any
    dtype: str = "fp32"

    def ours(self, place: Place) -> Setup:
        """Build duosora's form."""
        raise NotImplementedError

    def plain(self, place: Place) -> Setup:
        """Build the plain form."""
        raise NotImplementedError

    def work(self, dtype: str) -> Work:
        """Counted from the shapes."""
        raise NotImplementedError

    def weight_bytes(self, dtype: str) -> float:
        return self.spec.layout().num_parameters * (4.0 if dtype == "fp32" else 2.0)


@dataclass(frozen=True)
class Denoising(Case):
    """A call of a denoiser, or a run of guided steps."""

    latent: LatentShape = SMALLEST
    text_tokens: int = 128
    """None of them is padding, so that nothing is gained by cutting it off."""
    batch: int = 1
    steps: int = 0
    """0: a single call as in the middle of a run, the text's part made beforehand as far as the form can."""

    def ours(self, place: Place) -> Setup:
        backend = place.connect()
        model = backend.build(self.spec, place.weights(self.spec), place.dtype, compile=place.compile, **place.settings)

        return lambda: self.call(backend, model)

    def call(self, backend: Backend, model: Any) -> Run:
        """What is timed, of a model that is built."""
        given = Given(text=self.text(), text_mask=np.ones((self.rows, self.text_tokens)), **self.facts())
        if self.steps:
            return lambda: self._guided(backend, model, given)
        condition = model.condition(given, self.latent)
        latents = backend.asarray(self.latents())
        times = backend.asarray(np.full(self.rows, 500.0, np.float32))
        return lambda: model(latents, times, condition)

    def _guided(self, backend: Backend, model: Any, given: Given) -> Any:
        condition = model.condition(given, self.latent)
        initial = self.latents()[:1]
        return denoise(backend, model, condition, initial, self.sampler(), Guidance(GUIDANCE), self.step_noise)

    def plain(self, place: Place) -> Setup:
        import torch
        from plain import sampling

        model = self.plain_model(place)
        dtype, device = place.torch_dtype(), place.device

        def setup() -> Run:
            text = torch.from_numpy(self.text()).to(device, dtype)
            mask = torch.ones(self.rows, self.text_tokens, device=device)
            latents = torch.from_numpy(self.latents()).to(device, dtype)
            facts = {name: torch.from_numpy(values).to(device) for name, values in self.facts().items()}
            if not self.steps:
                times = torch.full((self.rows,), 500.0, device=device)
                return lambda: model(latents, times, text, mask, **facts)
            path, draws = self.sampler(), torch.Generator(device).manual_seed(0)

            def draw(i: int) -> Any:
                return torch.randn(latents[:1].shape, generator=draws, device=device)

            timesteps, sigmas = path.timesteps.tolist(), path.sigmas.tolist()
            initial = latents[:1].float()
            return lambda: sampling.sample(model, initial, text, mask, timesteps, sigmas, GUIDANCE, draw)

        return setup

    def plain_model(self, place: Place) -> Any:
        """The plain form with its weights, ready for inference."""
        from plain.loading import load

        model = load(self.plain_class(), self.spec, place.weights(self.spec), place.device, place.torch_dtype())
        if place.compile:
            model.compile(dynamic=False)
        return model

    def plain_class(self) -> Any:
        if isinstance(self.spec, stdit3.STDiT3Spec):
            from plain.stdit3 import STDiT3

            return STDiT3
        from plain.opensora_t2v import OpenSoraT2V

        return OpenSoraT2V

    @property
    def rows(self) -> int:
        """Of the network's batch."""
        return 2 if self.steps else self.batch

    def text(self) -> np.ndarray:
        return random.normal((self.rows, self.text_tokens, self.spec.text_channels), 0, "text")

    def latents(self) -> np.ndarray:
        return random.normal((self.rows, self.spec.in_channels, *self.latent), 0, "latents")

    def facts(self) -> dict[str, np.ndarray]:
        """What else the model reads of a clip."""
        if not isinstance(self.spec, stdit3.STDiT3Spec):
            return {}
        sides = {"height": 8.0 * self.latent.height, "width": 8.0 * self.latent.width}
        return {name: np.full(self.rows, value, np.float32) for name, value in {"fps": 24.0, **sides}.items()}

    def sampler(self) -> Any:
        schedule = Schedule(zero_terminal_snr=True)
        return samplers.create("euler_ancestral", self.steps, objective="v_prediction", schedule=schedule)

    def step_noise(self, i: int) -> np.ndarray:
        return random.normal((1, self.spec.in_channels, *self.latent), 0, "step noise", step=i)

    def work(self, dtype: str) -> Work:
        import torch

        with torch.device("meta"):
            model = self.plain_class()(self.spec)
            inputs = [torch.empty(self.rows, self.spec.in_channels, *self.latent), torch.empty(self.rows)]
            inputs += [
                torch.empty(self.rows, self.text_tokens, self.spec.text_channels),
                torch.ones(self.rows, self.text_tokens),
            ]
        # Of the facts the model reads the numbers, so they are not on the meta device.
        facts = {name: torch.from_numpy(values) for name, values in self.facts().items()}
        facts |= {"fps": torch.empty(self.rows, device="meta")} if facts else {}
        counts = counted(lambda: model(*inputs, **facts))
        of_text = sum(sum(of.values()) for name, of in counts.items() if name.endswith(OF_TEXT))
        call = sum(counts["Global"].values()) - of_text
        calls = max(self.steps, 1)
        return Work(calls * call + (of_text if self.steps else 0), calls * self.weight_bytes(dtype))


OF_TEXT = ("caption_projection", "attn2.to_k", "attn2.to_v", "y_embedder.y_proj", "cross_attn.kv_linear")
"""What does not change from step to step."""


@dataclass(frozen=True)
class DenoiserTraining(Denoising):
    """A training step of a denoiser; recomputes: all blocks' activations, instead of keeping them."""

    trains = True

    recomputes: bool = False

    def ours(self, place: Place) -> Setup:
        backend = place.connect()
        options = TrainOptions(dtype=place.dtype, compile=place.compile, recompute_every=int(self.recomputes))
        trainer = backend.train_denoiser(self.spec, place.weights(self.spec), options)
        batch = self.training_batch()
        return lambda: lambda: trainer.step([batch], LEARNING_RATE, DECAY).loss

    def training_batch(self) -> DiffusionBatch:
        """What ours is told; it learns to predict v."""
        alpha = self.alpha()
        return DiffusionBatch(
            latents=self.latents(),
            noise=self.noise(),
            timesteps=np.full(self.rows, 500.0),
            signal=alpha**0.5,
            spread=(1 - alpha) ** 0.5,
            of_clean=-((1 - alpha) ** 0.5),
            of_noise=alpha**0.5,
            weights=np.ones(self.rows),
            given=Given(text=self.text(), **self.facts()),
        )

    def plain(self, place: Place) -> Setup:
        import torch
        from plain import training

        model = self.plain_model(replace(place, dtype="fp32"))
        model.gradient_checkpointing = self.recomputes
        trainer = training.Trainer(model, LEARNING_RATE)
        tensors = [torch.from_numpy(each) for each in (self.latents(), self.noise(), self.alpha().astype(np.float32))]
        latents, noise, alpha = (each.to(place.device) for each in tensors)
        text = torch.from_numpy(self.text()).to(place.device)
        times = torch.full((self.rows,), 500.0, device=place.device)
        mask = torch.ones(self.rows, self.text_tokens, device=place.device)
        narrow = place.dtype != "fp32"

        def loss_of(model: Any) -> Any:
            with torch.autocast(torch.device(place.device).type, place.torch_dtype(), enabled=narrow):
                return training.diffusion_loss(model, latents, noise, alpha, times, text, mask)

        return lambda: lambda: trainer.step(loss_of, DECAY)

    def noise(self) -> np.ndarray:
        return random.normal((self.rows, self.spec.in_channels, *self.latent), 0, "noise")

    def alpha(self) -> np.ndarray:
        return np.linspace(0.3, 0.9, self.rows)

    def work(self, dtype: str) -> Work:
        import torch

        with torch.device("meta"):
            model = self.plain_class()(self.spec).train()
            model.gradient_checkpointing = self.recomputes
            latents = torch.empty(self.rows, self.spec.in_channels, *self.latent)
            text = torch.empty(self.rows, self.text_tokens, self.spec.text_channels)
            mask, times = torch.ones(self.rows, self.text_tokens), torch.empty(self.rows)
        counts = counted(lambda: model(latents, times, text, mask).sum().backward(), gradients=True)
        return Work(
            sum(counts["Global"].values()), OPTIMIZER_PASSES * self.weight_bytes("fp32") + 2 * self.weight_bytes(dtype)
        )


@dataclass(frozen=True)
class Autoencoding(Case):
    """A way of an autoencoder: encode, decode, or stream (the plain form: upstream's tiles)."""

    way: str = "decode"
    size: tuple[int, int, int] = (17, 128, 128)
    """Frames, height and width in pixels."""

    def ours(self, place: Place) -> Setup:
        backend = place.connect()
        model = backend.build(self.spec, place.weights(self.spec), place.dtype, **place.settings)

        def stream(latents: np.ndarray) -> None:
            for _ in decode_chunks(backend, model, self.spec, latents, DecodeOptions(chunk=2)):
                pass

        def setup() -> Run:
            if self.way == "stream":
                return lambda: stream(self.latents())
            if self.way == "encode":
                video = backend.asarray(self.video())
                return lambda: model.encode(video).latents
            latents = backend.asarray(self.latents())
            return lambda: model.decode(latents)

        return setup

    def plain(self, place: Place) -> Setup:
        import torch
        from plain.loading import load
        from plain.wfvae import WFVAE

        model = load(WFVAE, self.spec, place.weights(self.spec), place.device, place.torch_dtype())

        def setup() -> Run:
            array = self.video() if self.way == "encode" else self.latents()
            inputs = torch.from_numpy(array).to(place.device, place.torch_dtype())
            call = {"encode": model.encode, "decode": model.decode, "stream": model.tiled_decode}[self.way]
            return lambda: call(inputs)

        return setup

    def video(self) -> np.ndarray:
        return np.tanh(random.normal((1, 3, *self.size), 0, "video"))

    def latents(self) -> np.ndarray:
        frames, height, width = self.size
        return random.normal((1, self.spec.latent_dim, 1 + (frames - 1) // 4, height // 8, width // 8), 0, "latents")

    def work(self, dtype: str) -> Work:
        import torch
        from plain.wfvae import WFVAE

        with torch.device("meta"):
            model = WFVAE(self.spec)
            inputs = torch.empty((self.video() if self.way == "encode" else self.latents()).shape)
        counts = counted(lambda: model.encode(inputs) if self.way == "encode" else model.decode(inputs))
        half = "encoder." if self.way == "encode" else "decoder."
        weights = sum(prod(each.shape) for name, each in self.spec.layout().items() if name.startswith(half))
        return Work(sum(counts["Global"].values()), weights * (4.0 if dtype == "fp32" else 2.0))


@dataclass(frozen=True)
class AutoencoderTraining(Autoencoding):
    """A training step of an autoencoder: absolute errors and the KL divergence, no discriminator."""

    trains = True

    def ours(self, place: Place) -> Setup:
        backend = place.connect()
        options = TrainOptions(dtype=place.dtype, compile=place.compile)
        trainer = backend.train_autoencoder(self.spec, place.weights(self.spec), AutoencoderLosses(), options)
        batch = self.training_batch()
        return lambda: lambda: trainer.step([batch], LEARNING_RATE, DECAY).loss

    def training_batch(self) -> AutoencoderBatch:
        """What ours is told."""
        return AutoencoderBatch(self.video(), {"latent": self.noise()}, "generator", adversarial=False)

    def plain(self, place: Place) -> Setup:
        import torch
        from plain import training
        from plain.loading import load
        from plain.wfvae import WFVAE

        trainer = training.Trainer(load(WFVAE, self.spec, place.weights(self.spec), place.device), LEARNING_RATE)
        video, noise = (torch.from_numpy(each).to(place.device) for each in (self.video(), self.noise()))
        narrow = place.dtype != "fp32"

        def loss_of(model: Any) -> Any:
            with torch.autocast(torch.device(place.device).type, place.torch_dtype(), enabled=narrow):
                return training.autoencoder_loss(model, video, noise)

        return lambda: lambda: trainer.step(loss_of, DECAY)

    def noise(self) -> np.ndarray:
        return random.normal(self.latents().shape, 0, "noise")

    def work(self, dtype: str) -> Work:
        import torch
        from plain.wfvae import WFVAE

        with torch.device("meta"):
            model = WFVAE(self.spec)
            video, noise = torch.empty(1, 3, *self.size), torch.empty(self.noise().shape)
        counts = counted(lambda: model.reconstruct(video, noise)[0].sum().backward(), gradients=True)
        return Work(
            sum(counts["Global"].values()), OPTIMIZER_PASSES * self.weight_bytes("fp32") + 2 * self.weight_bytes(dtype)
        )


@dataclass(frozen=True)
class TextEncoding(Case):
    """A text of `real` tokens; the plain form is given it with its padding, up to `padded`."""

    real: int = 100
    padded: int = 512

    def ours(self, place: Place) -> Setup:
        backend = place.connect()
        model = backend.build(self.spec, place.weights(self.spec), place.dtype, **place.settings)
        # As core.pipelines.text does.
        ids, mask = self.ids()[:, : self.real], self.mask()[:, : self.real]
        return lambda: lambda: model(backend.asarray(ids), backend.asarray(mask))

    def plain(self, place: Place) -> Setup:
        import torch
        from plain.loading import load
        from plain.t5 import T5Encoder

        model = load(T5Encoder, self.spec, place.weights(self.spec), place.device, place.torch_dtype())
        ids, mask = (torch.from_numpy(each).to(place.device) for each in (self.ids(), self.mask()))
        return lambda: lambda: model(ids, mask)[:, : self.real]  # nobody reads the rest

    def ids(self) -> np.ndarray:
        return np.arange(self.padded)[None] % self.spec.vocab_size * self.mask()

    def mask(self) -> np.ndarray:
        return (np.arange(self.padded) < self.real).astype(np.int64)[None]

    def work(self, dtype: str) -> Work:
        import torch
        from plain.t5 import T5Encoder

        with torch.device("meta"):
            model = T5Encoder(self.spec)
            ids, mask = torch.ones(1, self.real, dtype=torch.int64), torch.ones(1, self.real)
        counts = counted(lambda: model(ids, mask))
        table = self.spec.vocab_size * self.spec.d_model
        share = 1 - table / self.spec.layout().num_parameters
        return Work(sum(counts["Global"].values()), share * self.weight_bytes(dtype))


def counted(call: Callable[[], Any], gradients: bool = False) -> dict[str, Any]:
    """Floating point operations of a call on the meta device, by module and operator."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as mode:
        call()
    return mode.get_flop_counts()


FULL, SPARSE = replace(T2V_1152, sparse1d=False), T2V_1152
TOKENS_1536, TOKENS_1280, TOKENS_80 = LatentShape(6, 32, 32), LatentShape(20, 16, 16), LatentShape(5, 8, 8)
TINY = opensora_t2v.TINY
TINY_FULL = replace(TINY, sparse1d=False)

WIDE, SMALL = "T2V, 8 layers of 12x96, 1,536 tokens", "T2V, 6 layers of 3x48, 1,280 tokens"
VAE = "WFVAE base 64"
LONG_CLIPS = {f"stream-{frames}": (frames, 64, 64) for frames in (65, 257)}

CASES: dict[str, Case] = {
    "t2v-full": Denoising(f"{WIDE}, full attention", FULL, latent=TOKENS_1536),
    "t2v-skiparse": Denoising(f"{WIDE}, skiparse", SPARSE, latent=TOKENS_1536),
    "t2v-bf16": Denoising(f"{WIDE}, skiparse, bf16", SPARSE, "bf16", latent=TOKENS_1536),
    "guided": Denoising(f"{SMALL}, 20 guided steps, full attention", TINY_FULL, latent=TOKENS_1280, steps=20),
    "guided-skiparse": Denoising(f"{SMALL}, 20 guided steps, skiparse", TINY, latent=TOKENS_1280, steps=20),
    "guided-tiny": Denoising("T2V tiny, 80 tokens, 20 guided steps", TINY, latent=TOKENS_80, text_tokens=12, steps=20),
    "tiny-step": Denoising("T2V tiny, 80 tokens, a guided call", TINY, latent=TOKENS_80, text_tokens=12, batch=2),
    "wfvae-encode": Autoencoding(f"{VAE}, encode 17x128x128", WFVAE_64, way="encode"),
    "wfvae-decode": Autoencoding(f"{VAE}, decode 17x128x128", WFVAE_64),
    "wfvae-stream": Autoencoding(f"{VAE}, decode 17x128x128 by 2 latent frames", WFVAE_64, way="stream"),
    "wfvae-decode-large": Autoencoding(f"{VAE}, decode 33x256x256", WFVAE_64, size=(33, 256, 256)),
    "wfvae-encode-bf16": Autoencoding(f"{VAE}, encode 17x128x128, bf16", WFVAE_64, "bf16", way="encode"),
    "wfvae-decode-bf16": Autoencoding(f"{VAE}, decode 17x128x128, bf16", WFVAE_64, "bf16"),
    "train-t2v": DenoiserTraining(
        "training step, T2V, 4 layers of 12x96, 768 tokens",
        replace(T2V_1152, num_layers=4),
        latent=LatentShape(3, 32, 32),
    ),
    "train-tiny": DenoiserTraining(
        "training step, T2V tiny, two clips of 80 tokens", TINY, latent=TOKENS_80, text_tokens=12, batch=2
    ),
    "train-wfvae": AutoencoderTraining(f"training step, {VAE}, 9x64x64", WFVAE_64, size=(9, 64, 64)),
    "stdit3": Denoising("STDiT3, 3 pairs of 16x72, 1,280 tokens", STDIT3_1152, latent=LatentShape(5, 32, 32)),
    "mt5": TextEncoding("mT5, 4 layers of 1,024, 100 of 512 tokens", MT5_1024),
    **{
        name: Autoencoding(f"{VAE}, decode {size[0]}x64x64 by 2 latent frames", WFVAE_64, way="stream", size=size)
        for name, size in LONG_CLIPS.items()
    },
}
"""By their names on the command line."""
LONG = ("wfvae-decode-large", *LONG_CLIPS)
"""Measured only where they are named."""


def shrunk(case: Case) -> Case:
    """A case at a size that takes no time, for tests of the programs themselves."""
    if isinstance(case, Denoising):
        spec = stdit3.TINY if isinstance(case.spec, stdit3.STDiT3Spec) else replace(opensora_t2v.TINY, num_layers=3)
        return replace(case, spec=spec, latent=LatentShape(2, 8, 8), text_tokens=5, steps=min(case.steps, 2))
    if isinstance(case, Autoencoding):
        return replace(case, spec=wfvae.TINY, size=(9, 32, 32))
    return replace(case, spec=t5.TINY, real=5, padded=16)


def named(names: list[str]) -> Iterator[tuple[str, Case]]:
    """The cases of these names, or all that do not take long. Raises: KeyError."""
    for name in names or [name for name in CASES if name not in LONG]:
        yield name, CASES[name]
