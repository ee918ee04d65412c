"""What of a denoiser is trained: all, adapters beside some layers (LoRA), or some of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import prod

from ..config.training import TrainConfig, TuneSettings
from ..errors import ConfigError
from ..layout import Constant, Layout
from ..models.finding import Part
from ..models.lora.adapter import ATTENTION, MOST_NEAR, Adapter, Adapters, adapter_layout, chosen, ends_as
from ..printable import short_name

RANK = 16
"""Where none is set."""


@dataclass(frozen=True)
class Tuning:
    """What is trained, by names."""

    adapters: Adapters = field(default_factory=dict)
    only: Set[str] | None = None
    """The weights that alone are trained; None: all that are not frozen."""

    def told(self, layout: Layout) -> list[str]:
        """What a run says of it, a line; nothing where all is trained."""
        if self.only is None:
            return []
        if not self.adapters:
            count = sum(prod(layout[name].shape) for name in self.only)
            return [f"tuning     {len(self.only)} of {len(layout)} weights, {count:,} parameters"]
        added, some = adapter_layout(layout, self.adapters).num_parameters, next(iter(self.adapters.values()))
        kind = "rsLoRA" if some.stabilised else "LoRA"
        return [
            f"tuning     {kind} of rank {some.rank}, alpha {some.alpha:g}, beside {len(self.adapters)} layers, "
            f"{added:,} parameters ({added / max(layout.num_parameters, 1):.2%} of the model's)"
        ]


def tuning_of(config: TrainConfig, part: Part) -> Tuning:
    """What a run trains of its denoiser. Raises: ConfigError for settings without a use, and for targets that mean
    nothing."""
    settings = config.tune
    _refuse_unused(settings)
    if settings.kind == "full":
        return Tuning()
    _refuse_beside(config)
    layout = part.layout
    if settings.kind == "tensors":
        return Tuning(only=_named(layout, settings.targets or ()))
    names = chosen(layout, part.spec.blocks(), ATTENTION if settings.targets is None else settings.targets)
    if not names:
        raise ConfigError("tune.targets: names no layer; leave it out for the maps of all attentions")
    rank = settings.rank or RANK
    adapter = Adapter(rank, float(settings.alpha or rank), settings.rslora)
    adapters: Mapping[str, Adapter] = dict.fromkeys(names, adapter)
    return Tuning(adapters, frozenset(adapter_layout(layout, adapters)))


def _refuse_unused(settings: TuneSettings) -> None:
    fields = TuneSettings.model_fields
    for name in sorted(settings.unused(settings.kind)):
        if (value := getattr(settings, name)) != fields[name].default:
            told = f"[{', '.join(value)}]" if isinstance(value, tuple) else value
            raise ConfigError(f"tune.{name} = {told}: tune.kind = {settings.kind} has no use for it; leave it out")


def _refuse_beside(config: TrainConfig) -> None:
    start, kind = config.start, config.tune.kind
    if config.autoencoder is not None:
        raise ConfigError(f"tune.kind = {kind}: is for denoisers; start.frozen keeps parts of an autoencoder")
    if start.frozen:
        raise ConfigError(f"start.frozen: tune.kind = {kind} says what is trained; leave one of them out")
    if kind == "lora" and (start.fresh or start.leave_out or start.allow_missing):
        raise ConfigError(
            "tune.kind = lora: needs a model that is whole, so start.fresh, start.leave_out and start.allow_missing "
            "have no use; leave them out"
        )


def _named(layout: Layout, targets: tuple[str, ...]) -> frozenset[str]:
    """The weights that targets mean. Raises: ConfigError."""
    if not targets:
        raise ConfigError("tune.targets: tune.kind = tensors needs the names of the weights to train")
    known = [name for name, weight in layout.items() if weight.trained and not isinstance(weight.init, Constant)]
    found: set[str] = set()
    for target in targets:
        meant = {name for name in known if ends_as(name, target)}
        if not meant:
            ends = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in known))
            near = get_close_matches(target, [*ends, *known], n=MOST_NEAR) or ends[:MOST_NEAR]
            raise ConfigError(
                f"tune.targets: {short_name(target)} means no weight of {layout.model}; there are {', '.join(near)}"
            )
        found |= meant
    if all(name.startswith(layout.frozen) for name in found) and layout.frozen:
        raise ConfigError("tune.targets: the model's config keeps all of these as they are")
    return frozenset(found)
