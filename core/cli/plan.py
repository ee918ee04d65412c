"""`duosora plan`: memory, time and traffic of a run, before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import lora_override

plan = typer.Typer(
    name="plan",
    help="Say what a run will need, without starting it: memory, time, traffic.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
)

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A YAML file, or one that comes with duosora: sample/tiny."),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting, as where it runs.")
]
Backend = Annotated[str | None, typer.Option(help="torch or mindspore; the framework that it is planned for.")]
On = Annotated[
    str,
    typer.Option("--on", help="cpu, gpu-24g, gpu-40g, gpu-80g, gpu-141g, ascend-910b, ..., or NAME.yaml of another."),
]
Devices = Annotated[int | None, typer.Option("--devices", min=1, help="Devices that share the run.")]


@plan.callback()
def _group(
    context: typer.Context,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine in a minute, and keep the figures.")
    ] = False,
    device: Annotated[str, typer.Option(help="With --calibrate: auto, cpu, cuda, npu, ...")] = "auto",
) -> None:
    """Say what a run will need, without starting it: memory, time, traffic. See docs/planning.md."""
    from ..errors import ConfigError

    if calibrate and context.invoked_subcommand is not None:
        raise ConfigError("--calibrate measures the machine and plans nothing; leave the other words out")
    if calibrate:
        from ..planning.calibrating import calibrate_all
        from ..printable import say

        for line in calibrate_all(device):
            say(line)
    elif context.invoked_subcommand is None:
        raise ConfigError("name what is planned: duosora plan sample or duosora plan train; or add --calibrate")


@plan.command()
def sample(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts, or files of them (.txt, .jsonl, .json, .csv, .tsv); instead of the config's."),
    ] = None,
    config: Config = None,
    settings: Overrides = None,
    backend: Backend = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:SCALE]", help="LoRA of the denoiser, as where it runs.")
    ] = None,
    on: On = "cpu",
    devices: Devices = None,
) -> None:
    """Plan what `duosora sample` with the same words would do."""
    import json

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..planning.unstarted import plan_sampling

    overrides = [*(settings or []), *([] if backend is None else [f"backend.name={backend}"])]
    overrides += lora_override(lora)
    if prompts:
        overrides.append(f"prompts.sources={json.dumps(prompts)}")
    _show(*plan_sampling(load(config, SampleConfig, overrides), override_paths(overrides), on, devices))


@plan.command()
def train(
    config: Config = None,
    settings: Overrides = None,
    backend: Backend = None,
    on: On = "cpu",
    devices: Devices = None,
) -> None:
    """Plan a step of what `duosora train` with the same words would do."""
    from ..config.loading import load, override_paths
    from ..config.training import TrainConfig
    from ..planning.unstarted import plan_training

    overrides = [*(settings or []), *([] if backend is None else [f"compute.name={backend}"])]
    _show(*plan_training(load(config, TrainConfig, overrides), override_paths(overrides), on, devices))


def _show(case: Any, device: Any, notes: Sequence[str]) -> None:
    from ..planning.advice import advice
    from ..planning.telling import rows, short_lines
    from ..printable import say
    from .tables import Table, show

    forecast = case.forecast(device)
    table = Table()
    table.add_column(device.title)
    for phase in forecast.phases:
        table.add_column(phase.name, justify="right")
    for row in rows(forecast):
        table.add_row(*row, end_section=row[0] in ("peak",))
    show(table)
    say(*short_lines(forecast, advice(case, device)), *(f"NOTE       {note}" for note in notes))
