"""What of a prompt reaches the model: the tokens that each text encoder receives, and the words that are cut.

Two prompts with the same tokens in every encoder are one prompt to the model. They are one unit of any study.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.model.sampling import Sampling

_ENCODERS = (
    ("text_encoder", "tokenizer"),
    ("text_encoder_2", "tokenizer_2"),
    ("text_encoder_3", "tokenizer_3"),
)


@dataclass(frozen=True)
class PromptTokens:
    """One prompt as the model receives it.

    `tokens` holds the ids of each text encoder in use, without padding; `cut` the words that an encoder does
    not receive, by its name; `limits` how many tokens each takes.
    """

    prompt: str
    tokens: tuple[tuple[int, ...], ...]
    cut: tuple[tuple[str, str], ...]
    limits: tuple[tuple[str, int], ...]

    @property
    def whole(self) -> bool:
        """Whether some encoder receives every word."""
        return len(self.cut) < len(self.limits)

    def cut_in_words(self) -> str:
        """What is cut, for a reader; empty where nothing is."""
        if not self.cut:
            return ""
        limits = dict(self.limits)
        parts = [f"{name} reads {limits[name]} tokens and not {_short(words)!r}" for name, words in self.cut]
        rest = [name for name, _ in self.limits if name not in dict(self.cut)]
        kept = f"; {', '.join(rest)} reads all" if rest else ""
        return f"{_short(self.prompt)!r} is cut: {'; '.join(parts)}{kept}."


def tokens_of(pipeline: Any, prompts: Sequence[str], sampling: Sampling) -> tuple[PromptTokens, ...]:
    """Each prompt's tokens, cut as the pipeline cuts them before its encoders see them.

    >>> from dit_lens.zoo.random_pipelines import random_pipeline
    >>> pipeline, sampling = random_pipeline(), lens.sampling()
    >>> first, second = tokens_of(pipeline, ["star " * 18 + "left", "star " * 18 + "right"], sampling)
    >>> first.tokens == second.tokens, first.cut[0]
    (True, ('text_encoder', 'left'))
    """
    found: list[tuple[list[tuple[int, ...]], list[tuple[str, str]]]] = [([], []) for _ in prompts]
    limits: list[tuple[str, int]] = []
    for encoder, name in _ENCODERS:
        tokenizer = getattr(pipeline, name, None)
        if getattr(pipeline, encoder, None) is None or tokenizer is None:
            continue
        limit = sampling.max_sequence_length if name == "tokenizer_3" else pipeline.tokenizer_max_length
        limits.append((encoder, limit))
        whole = tokenizer(list(prompts), padding=False, truncation=False, verbose=False).input_ids
        cut = tokenizer(list(prompts), padding=False, truncation=True, max_length=max(limit, 1)).input_ids
        for (tokens, lost), all_ids, ids in zip(found, whole, cut, strict=True):
            tokens.append(tuple(ids) if limit else ())
            if len(all_ids) > len(ids):
                special = set(tokenizer.all_special_ids)
                kept = sum(each not in special for each in ids)
                words = [each for each in all_ids if each not in special][kept:]
                lost.append((encoder, tokenizer.decode(words).strip()))
    return tuple(
        PromptTokens(prompt, tuple(tokens), tuple(lost), tuple(limits))
        for prompt, (tokens, lost) in zip(prompts, found, strict=True)
    )


def merged(read: Iterable[PromptTokens]) -> tuple[tuple[PromptTokens, ...], ...]:
    """Prompts in groups that the model cannot tell apart, in the order of their first ones."""
    groups: dict[Any, list[PromptTokens]] = {}
    for each in read:
        groups.setdefault(each.tokens, []).append(each)
    return tuple(map(tuple, groups.values()))


def alike_in_words(group: Sequence[PromptTokens]) -> str:
    """What prompts of one group are, and why the model cannot tell them apart."""
    first, *rest = group
    named = ", ".join(repr(_short(each.prompt)) for each in rest[:2]) + (" …" if len(rest) > 2 else "")
    lost = dict.fromkeys(words for each in group for _, words in each.cut)
    ends = [repr(words if len(words) <= 40 else f"… {words[-38:]}") for words in list(lost)[:6]]
    why = f" What tells them apart is cut: {', '.join(ends)}{' …' if len(lost) > 6 else ''}." if lost else ""
    count = f"{len(group)} prompts reach the model as one: "
    return f"{count}{_short(first.prompt)!r} and {named} have the same tokens.{why}"


def distinct(
    read: Sequence[PromptTokens], *, least: int, what: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the first prompt of each group, sentences about groups of several).

    Raises:
        BadInput: so few remain, where enough were given, that no verdict would be possible: fewer than
        `least`.
    """
    groups = merged(read)
    said = tuple(alike_in_words(group) for group in groups if len(group) > 1)
    if len(groups) < least <= len(read):
        raise BadInput(
            f"{what}: {len(read)} prompts were given, and {len(groups)} of them {_differ(len(groups))} to "
            "this model; no "
            f"p-value can reach 0.05 on fewer than {least}. {' '.join(said)} Shorten them, or give others."
        )
    return tuple(group[0].prompt for group in groups), said


def _differ(count: int) -> str:
    return "differs" if count == 1 else "differ"


def _short(prompt: str, most: int = 90) -> str:
    return prompt if len(prompt) <= most else f"{prompt[: most // 2 - 1]} … {prompt[-most // 2 + 2 :]}"
