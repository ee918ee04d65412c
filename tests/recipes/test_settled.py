"""Settings as they were settled while the schema still held published practice, and as recipes settle them now."""

import json
from pathlib import Path
from typing import Any

import pytest

from duosora.core.config.loading import load
from duosora.core.config.schema import SampleConfig
from duosora.core.config.settings import resolved
from duosora.core.config.training import ObjectiveSettings, TrainConfig
from duosora.core.models import opensora_t2v
from duosora.core.pipelines.following import sampled, trained

CONFIGS = Path(__file__).parents[2] / "configs"
BEFORE = json.loads((Path(__file__).parent / "settled_before.json").read_text())
"""Of each verb the values of most runs, and what others have instead; made once, when recipes came."""
OLD_DEFAULTS = {"sampler.objective": "v_prediction", "sampler.schedule": "linear", "sampler.zero_terminal_snr": True}
"""Which a diffusion sampler took where the settings had nothing."""
FOLDERS = {"models/any93x640x640": opensora_t2v.T2V_2B, "models/any93x640x640_i2v": opensora_t2v.INPAINT_2B}


@pytest.fixture(autouse=True)
def published_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, spec in FOLDERS.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(json.dumps(spec.to_config()))


def settled(verb: str, name: str) -> dict[str, Any]:
    is_file = name.endswith(".yaml")
    file, overrides = (CONFIGS / name, []) if is_file else (None, name.split())
    if verb == "sample":
        return flat(resolved(sampled(load(file, SampleConfig, overrides)).config))
    return flat(resolved(trained(load(file, TrainConfig, overrides)).config))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def effective(values: dict[str, Any], trains_autoencoder: bool) -> dict[str, Any]:
    """Without what has no effect, and with what nothing meant."""
    useless = {f"objective.{name}" for name in ObjectiveSettings.unused(values.get("objective.kind", ""))}
    kept = {name: value for name, value in values.items() if name not in useless}
    if trains_autoencoder:
        kept = {name: value for name, value in kept.items() if not name.startswith(("objective", "show", "max_tok"))}
    for group in ("", "show."):
        if kept.get(f"{group}sampler.name") == "euler_ancestral":
            old = {f"{group}{name}": value for name, value in OLD_DEFAULTS.items()}
            kept |= {name: value for name, value in old.items() if kept.get(name) is None}
    return kept


@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb, values in BEFORE.items() for name in values["other"]]
)
def test_settings_resolve_to_the_values_of_before(verb: str, name: str) -> None:
    before = BEFORE[verb]["usual"] | BEFORE[verb]["other"][name]
    if before.get("ema", 0) is None:
        before = {path: value for path, value in before.items() if not path.startswith("ema.")}
    now = settled(verb, name)
    trains_autoencoder = "autoencoder.loss" in now
    assert effective({path: now.get(path) for path in before}, trains_autoencoder) == effective(
        before, trains_autoencoder
    )
