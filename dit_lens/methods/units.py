"""The unit of every study: a prompt as the model receives it, not as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

from dit_lens.errors import BadInput
from dit_lens.methods.resampling import smallest_p
from dit_lens.methods.verdicts import ALPHA
from dit_lens.model.prompts import alike_in_words, distinct, merged
from dit_lens.notices import notice

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

LEAST = next(n for n in count(1) if smallest_p(n) <= ALPHA)
"""The fewest prompts on which a p-value can reach `ALPHA`."""


def units(
    lens: DiTLens, prompts: Sequence[str], sampling: Sampling, *, what: str = "prompts", judged: bool = True
) -> tuple[str, ...]:
    """The prompts that the model can tell apart: the first of each group that reaches it as one.

    What was merged, and what of it was cut, is given notice of. With `judged`, verdicts are to rest on them;
    `what` names them in messages.

    Raises:
        BadInput: with `judged`, fewer than `LEAST` remain of more.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     units(lens, ["a red circle", "a  red circle"], lens.sampling(), judged=False)
    ('a red circle',)
    """
    read = lens.read_prompts(prompts, sampling)
    kept, said = distinct(read, least=LEAST if judged else 0, what=what)
    if said:
        left = f"{len(kept)} of {len(read)} are used, and n counts these"
        notice(f"{what}: {' '.join(said)} {left}.")
    return kept


def require_two(lens: DiTLens, source: str, target: str, sampling: Sampling, *, what: str) -> None:
    """Raise BadInput for a pair of different texts that the model cannot tell apart: nothing would change."""
    groups = merged(lens.read_prompts([source, target], sampling))
    if len(groups) == 1 and source != target:
        raise BadInput(f"{what}: {alike_in_words(groups[0])} A source must differ from its target.")
