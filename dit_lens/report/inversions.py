"""How well sampling from an inverted picture leads back: otherwise what is carried is another picture's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.report.section import RunView, Section
from dit_lens.report.text import count, number

if TYPE_CHECKING:
    import pandas as pd

TABLE = "inversions"

RECONSTRUCTED = 30.0
"""dB from which up a picture can be called reconstructed: an error of 3 % of the range (root mean square)."""


def inversions_said(table: pd.DataFrame) -> str:
    """Return how well inversion leads back, over the pictures of the table `inversions`, and what is enough.

    >>> import pandas as pd
    >>> found = pd.DataFrame({"psnr": [44.0, 28.0], "steps": [6, 6], "iterations": [8, 8]})
    >>> print(inversions_said(found))
    Sampling from inverted paths leads back to 2 pictures with 36 dB in the median and 28 dB at worst (6 ...
    """
    psnr = table["psnr"].astype(float)
    many = len(psnr) > 1
    found = (
        f"Sampling from inverted paths leads back to {len(psnr)} pictures with {number(psnr.median())} dB in "
        f"the median and {number(psnr.min())} dB at worst"
        if many
        else f"Sampling from the inverted path leads back to the picture with {number(psnr.iloc[0])} dB"
    )
    if {"steps", "iterations"} <= set(table.columns):
        steps, iterations = int(table["steps"].max()), int(table["iterations"].max())
        each = "each undone" if steps > 1 else "undone"
        found += f" ({count(steps, 'step')}, {each} by at most {count(iterations, 'iteration')})"
    short = int((psnr < RECONSTRUCTED).sum())
    if not short:
        verdict = "all are" if many else "it is one"
    elif many:
        verdict = f"{short} of {len(psnr)} are not, and what is carried from their paths is not quite theirs"
    else:
        verdict = "it is none, and what is carried from its path is not quite its own"
    return f"{found}. From {RECONSTRUCTED:g} dB up it can be called a reconstruction: {verdict}."


def inversions_part(run: RunView, anchor: str) -> tuple[Section, ...]:
    """Return the part about inversion; nothing where no picture was inverted."""
    if TABLE not in run.folder.table_names or run.folder.table(TABLE).empty:
        return ()
    return (
        Section(
            id=anchor,
            title="Does an inverted picture come back?",
            lead="An inverted path is found by running the sampler backwards from the picture. Sampled "
            "forwards from the noise that it ends in, it should lead back to the picture.",
            reading="psnr compares the picture, as the autoencoder decodes it, with what sampling from its "
            "inverted path makes, in dB: the more, the nearer; 100 stands for no difference. "
            f"{RECONSTRUCTED:g} dB are an error of 3 % of the range of values (root mean square). Noised "
            "paths end in the picture itself.",
            conclusion=inversions_said(run.table(TABLE)),
            table=TABLE,
        ),
    )
