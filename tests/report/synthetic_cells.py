"""Pictures of a map's cells, each of a colour of its own, and the table of arms that says which is which."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from dit_lens.run.records import RunFolder

CELL_BLOCKS, CELL_STEPS = (0, 2, 7), (0, 5, 19)
FAMILIES = ("massive", "energy_matched")


def cell_colour(family: str, block: int, step: int, prompt: int) -> tuple[int, int, int]:
    """The colour of a cell's picture: red is the block, green the step, blue the family and the prompt."""
    return 20 + 30 * block, 20 + 11 * step, 40 + 90 * FAMILIES.index(family) + 60 * prompt


def arms() -> pd.DataFrame:
    """The arms of `final_map` and `step_map` as a run writes them."""
    rows = [
        (f"{family}{'.step' * (readout == 'step')}.at-{block}-{step}", family, "single_cell", block, step,
         readout, study)
        for study, readout in (("final_map", "final"), ("step_map", "step"))
        for family in FAMILIES
        for block in range(8)
        for step in range(20)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "family", "protocol", "block", "step", "readout", "study"])


def write_cells(folder: RunFolder, prompts: tuple[str, ...], size: int = 16) -> None:
    """Write the pictures of some cells; the report has to do without the others."""
    for index, prompt in enumerate(prompts):
        for family in FAMILIES:
            for block in CELL_BLOCKS:
                for step in CELL_STEPS:
                    name = f"{family}.at-{block}-{step}"
                    folder.write_image(
                        f"cell-final_map-{index:02d}-seed-0-{name}",
                        Image.new("RGB", (size, size), cell_colour(family, block, step, index)),
                        prompt=prompt,
                        seed=0,
                        caption=name,
                        kind="cell",
                    )
