"""Where declared analyses lie, and the text files that they name."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Iterator
from pathlib import Path

from dit_lens.analysis.faults import short
from dit_lens.errors import BadInput, did_you_mean
from dit_lens.paths import named_path


def packaged_folder() -> Path:
    """Where the packaged analyses lie: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parent.parent
    return here / "analyses" if (here / "analyses").is_dir() else here.parent / "analyses"


def packaged() -> dict[str, Path]:
    """Names and files of the packaged analyses."""
    return {path.stem: path for path in sorted(packaged_folder().glob("*.yaml"))}


def named_text_file(written: str | Path, *, asked_by: str, folder: Path = Path()) -> Path:
    """A text file that a spec names: relative to a folder, else among the packaged analyses' files."""
    path = named_path(written, asked_by=asked_by, folder=folder)
    packaged_one = packaged_folder() / written
    return packaged_one if not path.exists() and packaged_one.is_file() else path


def find_spec(source: str | Path) -> Path:
    """The file of a spec given by path, or by the name of a packaged analysis.

    Raises:
        BadInput: there is neither such a file nor such a name.
    """
    path = named_path(source, asked_by="spec")
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "spec.yaml").is_file():
            raise BadInput(f"{path} is a run folder. Its spec is {path / 'spec.yaml'}: name that file.")
        raise BadInput(f"{path} is a folder. Name a spec: a YAML file in it.")
    known = packaged()
    if str(source) in known:
        return known[str(source)]
    near = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    raise BadInput(
        f"There is no spec {str(source)!r}: no such file, and the packaged analyses are "
        f"{', '.join(known) or 'none'}.{did_you_mean(path.name, [*near, *known])}"
    )


def read_text(path: Path, *, what: str) -> str:
    """A file's text, UTF-8 with or without a byte order mark; raises `BadInput` when it is not."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near)
        raise BadInput(f"There is no {what} {path}, looked for in {path.parent.absolute()}.{hint}") from None
    except UnicodeDecodeError as error:
        encoding = _encoding(error.object)
        raise BadInput(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}"
            f"{', as in UTF-16, which Windows calls Unicode' if encoding == 'utf-16' else ''}). "
            f"Save it as UTF-8, for example with: iconv -f {encoding} -t utf-8"
        ) from None
    except OSError as error:
        raise BadInput(f"Cannot read the {what} {path}: {error.strerror or error}.") from None


def _encoding(start: bytes) -> str:
    """What bytes that are not UTF-8 are most likely to be, as iconv calls it."""
    # First, since the mark of UTF-16 begins that of UTF-32.
    if start.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "latin1"


def read_prompts(path: str | Path, *, asked_by: str = "") -> tuple[str, ...]:
    """Prompts from a text file: one per line; empty lines and lines that begin with `#` do not count.

    Raises:
        BadInput: the file is missing, not UTF-8, holds no prompt, one twice, or pairs of prompts.
    """
    path = named_path(path, asked_by=asked_by or "prompts file")
    text = _asked_text(path, "prompts file", asked_by)
    found: dict[str, int] = {}
    for number, prompt in _entries(text):
        if prompt in found:
            raise BadInput(
                f"{path}:{number}: the prompt of line {found[prompt]} stands here again; "
                "it would count double."
            )
        found[prompt] = number
    # One prompt may well show an arrow; where every line does, it is the other kind of file.
    if found and all("->" in prompt for prompt in found):
        raise BadInput(
            f"{path} is a file of pairs, `source -> target` on each line, and prompts are read from it, one "
            "per line. Give a file of prompts here; pairs belong to effects.pairs and transport.pairs."
        )
    if not found:
        why = "only comments" if text.strip() else "nothing"
        raise BadInput(
            f"The prompts file {path} holds {why}. Write one prompt per line, for example: "
            "a large red plain star in the centre on a white background"
        )
    return tuple(found)


def read_pairs(path: str | Path, *, asked_by: str = "") -> tuple[tuple[str, str], ...]:
    """Pairs of prompts from a text file: `source -> target` on each line; `#` begins a comment line.

    Raises:
        BadInput: the file is missing, not UTF-8, holds no pair, or a line that is none.
    """
    path = named_path(path, asked_by=asked_by or "pairs file")
    text = _asked_text(path, "pairs file", asked_by)
    pairs = []
    for number, line in _entries(text):
        source, arrow, target = (part.strip() for part in line.partition("->"))
        if not (source and arrow and target) or "->" in target:
            raise BadInput(f"{path}:{number}: write `source prompt -> target prompt`, not {short(line)}.")
        pairs.append((source, target))
    if not pairs:
        raise BadInput(
            f"The pairs file {path} holds no pair. Write `source prompt -> target prompt` per line."
        )
    return tuple(pairs)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield number, entry


def _asked_text(path: Path, what: str, asked_by: str) -> str:
    try:
        return read_text(path, what=what)
    except BadInput as error:
        if not path.exists():
            brought = sorted(f"prompts/{each.name}" for each in packaged_folder().glob("prompts/*.txt"))
            error = BadInput(f"{error} dit_lens itself brings {', '.join(brought)}.")
        raise BadInput(f"{asked_by}: {error}" if asked_by else str(error)) from None
