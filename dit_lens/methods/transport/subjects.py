"""Where the subjects of two prompts' runs are, as tokens to carry: their own massive channels, clustered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from dit_lens.methods.channel_sets import ChannelSet
    from dit_lens.methods.spatial import Mask
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling

WHERE = ("all", "source", "target", "union")
"""Every token; the subject's in the source's run, in the target's, or in either."""

Masks = dict[tuple[str, int], "Mask"]
"""(prompt, seed) → the subject in its unedited run."""


def subjects(
    lens: DiTLens,
    massive: ChannelSet,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    progress: bool = False,
) -> Masks:
    """The subject in the unedited run of every prompt and seed, each run alone.

    Massive channels are clustered after the last block that holds some, at the last step of the conditional
    branch. A mask is empty where nothing stands out. Source: arXiv 2605.13974; see `methods.spatial`.

    Raises:
        BadInput: channels of another stream or model. RunFailure: an activation is NaN or infinite.

    >>> found = subjects(lens, massive, ["a large red circle"], [0], lens.sampling(steps=4))
    >>> found["a large red circle", 0].grid
    (12, 12)
    """
    from dit_lens.methods.questions.arm_sets import edited_blocks
    from dit_lens.methods.spatial.harvest import plan_harvest, segment_samples

    require_image_stream(massive.stream)
    block = edited_blocks(massive)[-1]
    where: dict[str, Any] = {"blocks": [block], "steps": [-1], "sampling": sampling}
    plan = plan_harvest(lens, {"massive": massive}, prompts, seeds, **where)
    # One at a time: a mask must not depend on the runs beside it, since it is part of a result's address.
    samples = segment_samples(lens, plan, batch_size=1, progress=progress)
    return {(sample.prompt, sample.seed): sample.at(block=block) for sample in samples}


def tokens_between(
    where: str, source: Mask, target: Mask, *, say: Callable[[str], None] | None = None, name: str = ""
) -> Any:
    """Tokens to carry from a source's run into a target's; one of `WHERE`.

    A mask that holds nothing or everything stands for all tokens, and `say` is told so of the pair's `name`.

    Raises:
        BadInput: another `where`.

    >>> from dit_lens.methods.spatial import Mask
    >>> left, top = Mask.from_tokens([0, 2], (2, 2)), Mask.from_tokens([0, 1], (2, 2))
    >>> tokens_between("union", left, top).tokens
    (0, 1, 2)
    """
    require_where(where)
    if where == "all":
        return "all"
    mask = {"source": source, "target": target}.get(where) or source.union(target)
    return mask_or_all(mask, name, f" ({where}); all tokens are carried.", say)


def mask_or_all(mask: Mask, name: str, then: str, say: Callable[[str], None] | None) -> Any:
    """The mask as tokens to carry; one that holds nothing or everything stands for "all", and `say` is told.

    `name` says of what it is the mask, `then` ends the sentence.
    """
    if not (mask.is_empty or mask.is_full):
        return mask
    if say is not None:
        what = "no subject" if mask.is_empty else "nothing but subject"
        say(f"{name}: {what} was found{then}")
    return "all"


def require_where(where: str) -> None:
    """Raise `BadInput` unless it is one of `WHERE`."""
    if where not in WHERE:
        hint = did_you_mean(str(where), WHERE)
        raise BadInput(f"There are no tokens {where!r} to carry; there are: {', '.join(WHERE)}.{hint}")


def require_image_stream(stream: str) -> None:
    """Raise `BadInput` for channels of another stream: a mask holds image tokens."""
    if stream != "image":
        raise BadInput(
            f"The subject is a mask of image tokens, and the channels are of the {stream} stream. Carry all "
            "tokens, or channels of the image stream."
        )
