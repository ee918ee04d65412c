"""The models of a training run, found but not loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ...config.schema import ModelSettings
from ...config.training import AutoencoderSettings
from ...errors import ConfigError
from ...io.any_tokenizer import AnyTokenizer
from ...models.finding import Part, open_part
from ...models.lpips import open_lpips
from ...pipelines.settings import open_parts
from ...seam.training import Companion


@dataclass(frozen=True)
class TrainParts:
    """The models of a run, known but not loaded."""

    trained: Part
    text_encoder: Part | None
    """None where an autoencoder is trained, and where the denoiser reads labels."""
    vae: Part | None
    tokenizer: AnyTokenizer | None
    perceptual: Companion | None = None
    """The LPIPS that an autoencoder is trained with."""

    @property
    def frozen(self) -> dict[str, Part]:
        """The models that are used but not trained, by kind."""
        kinds = {"text_encoder": self.text_encoder, "vae": self.vae}
        return {kind: part for kind, part in kinds.items() if part is not None}


def train_parts(model: ModelSettings, autoencoder: AutoencoderSettings | None, seed: int) -> TrainParts:
    """Find the models. Raises: as open_parts and open_lpips."""
    if autoencoder is not None:
        trained = open_part("vae", str(model.vae or "tiny"), seed)
        return TrainParts(trained, None, None, None, _perceptual(autoencoder))
    merging = model.model_copy(update={"lora_mode": "merged"})
    parts = open_parts(merging, seed, needs_text_weights=True)
    return TrainParts(parts.denoiser, parts.text_encoder, parts.vae, parts.tokenizer)


def _perceptual(settings: AutoencoderSettings) -> Companion | None:
    """The LPIPS that autoencoders are trained with. Raises: ConfigError and CheckpointError when it is not there."""
    if not settings.perceptual_weight:
        return None
    if settings.perceptual_backbone is None:
        raise ConfigError(
            f"autoencoder.perceptual_weight = {settings.perceptual_weight:g} needs autoencoder.perceptual_backbone, a "
            "folder with VGG16 and the LPIPS heads (docs/evaluation.md says how to make it); 0 leaves LPIPS out"
        )
    return Companion(*open_lpips(settings.perceptual_backbone))
