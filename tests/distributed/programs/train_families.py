"""Trains the denoiser of each family on the ranks that were started, or on one process: BACKEND FOLDER SEQUENCE CASE...

A case may be LoRA of one. Writes FOLDER/<case>-on-<data>x<sequence>/: what the steps reported, and the saved state.
"""

import json
import sys
from pathlib import Path

from writing import save

from duosora.core.parallel.launched import launched
from duosora.core.seam.backend import get
from duosora.core.seam.ranks import make_plan

sys.path.append(str(Path(__file__).parents[2] / "families"))
from family_cases import DENOISERS
from training_cases import LORA, Run, lora_run

STEPS = 3


def main(backend_name: str, folder: str, sequence: str, *cases: str) -> None:
    backend = get(backend_name, "cpu")
    ranks = backend.connect(make_plan(launched().world, int(sequence)))
    for case in cases:
        place = Path(folder) / f"{case}-on-{ranks.plan.data}x{ranks.plan.sequence}"
        run = lora_run(backend, case, ranks) if case.startswith(LORA) else Run(backend, DENOISERS[case], ranks)
        reports = [run.step(number) for number in range(STEPS)]
        save(run.trainer, ranks, place)
        if ranks.is_first:
            (place / "reports.json").write_text(json.dumps([[each.loss, each.grad_norm] for each in reports]))


if __name__ == "__main__":
    main(*sys.argv[1:])
