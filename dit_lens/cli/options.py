"""Arguments that several commands share: their types and help, and how their text is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dit_lens.cli.frame import debugging, say
from dit_lens.errors import BadInput

if TYPE_CHECKING:
    from dit_lens.model.lens import DiTLens

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or the name of a packaged analysis.")]
Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="An embedded model, a diffusers pipeline's folder, or a hub id."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value of the spec; may be repeated."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; default: cpu.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; default: what suits the device.")
]
DropT5 = Annotated[
    bool,
    typer.Option("--drop-t5", help="Leave out the T5 text encoder and its memory; its tokens become zeros."),
]
Offload = Annotated[
    str | None,
    typer.Option(
        help="model or sequential: keep weights on the CPU, and move whole parts, or single layers, to "
        "--device while they compute."
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="balanced: spread the parts over several GPUs; excludes --device and --offload."),
]


_NAMED = 8
"""Foreign words that a note names."""


def open_lens(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    *,
    drop_t5: bool = False,
    offload: str | None = None,
    device_map: str | None = None,
) -> DiTLens:
    """Load a model without its libraries' chatter."""
    quieten_libraries(model)
    from dit_lens.model.loading import load

    # What --drop-t5 does not ask for is the pipeline's own business: it may have been saved without T5.
    t5 = True if drop_t5 else None
    return load(model, device=device, dtype=dtype, drop_t5=t5, offload=offload, device_map=device_map)


def quieten_libraries(model: str) -> None:
    """Keep notes for programmers off the terminal; must run before the libraries are imported."""
    if debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from dit_lens import zoo

    if model in zoo.names() or Path(model).is_dir():
        # Bars are for downloads; opening local files takes a moment.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def parse_seeds(text: str) -> list[int]:
    """Seeds from whole numbers separated by commas; raises `BadInput` for anything else."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise BadInput(
            f"--seeds {text!r}: write whole numbers separated by commas, for example --seeds 0,1,2"
        )
    return found


def parse_step_count(text: str | None) -> int | None:
    """How many denoising steps; raises `BadInput` for anything else, such as steps to act at."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise BadInput(
            f"--steps {text!r}: the number of denoising steps is a whole number, such as --steps 20. "
            f"To say at which of them to act, write --at-steps {text}"
        ) from None


def note_foreign_words(model: str, prompts: Iterable[str]) -> None:
    """Say once which words of the prompts the embedded model never met; other models know their own."""
    from dit_lens import zoo

    if model not in zoo.names():
        return
    from dit_lens.zoo.scenes import foreign_words

    if found := foreign_words(prompts):
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        say(
            f"Note: {model} was trained without these words: {', '.join(found[:_NAMED])}{more}. What "
            f"it draws for them means nothing; the words of its captions are listed in {zoo.card_path()}"
        )


def parse_strengths(text: str) -> tuple[float, ...]:
    """Strengths from start:stop:count, ends included, or from a list."""
    lowest, highest, most = 0.0, 2.0, 32
    found: list[float] = []
    try:
        if ":" in text:
            first, last, amount = text.split(":")
            start, stop, count = float(first), float(last), int(amount)
            if 2 <= count <= most:
                found = [round(start + (stop - start) * i / (count - 1), 6) for i in range(count)]
        else:
            found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not 1 <= len(found) <= most:
        raise BadInput(
            f"--strength {text!r}: write start:stop:count, such as 0:1:5, with a count from 2 to {most}; "
            f"or at most {most} numbers separated by commas, such as 0.5,1"
        )
    for value in found:
        # NaN compares false, and is refused as well.
        if not lowest <= value <= highest:
            raise BadInput(
                f"--strength {text!r}: {value:g} is outside [{lowest:g}, {highest:g}]; 0 leaves the target, "
                "1 puts the source's values in place of its own, more overshoots."
            )
    return tuple(dict.fromkeys(found))


def require_known(option: str, asked: str, known: tuple[str, ...]) -> None:
    """Raise `BadInput` for a value of an option that is none of the known ones."""
    from dit_lens.errors import did_you_mean

    if asked not in known:
        raise BadInput(f"{option} {asked!r}: there is {', '.join(known)}.{did_you_mean(asked, known)}")


def require_writable(out: Path | None) -> None:
    """Refuse a place that cannot be written before the minutes of work, not after."""
    if out is None:
        return
    if out.is_dir():
        raise BadInput(f"--out {out}: this is a folder; name a file, for example {out / 'massive.json'}")
    parent = next((folder for folder in (out.parent, *out.parent.parents) if folder.exists()), Path())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--out {out}: nothing can be written in {parent}. Choose another place.")
