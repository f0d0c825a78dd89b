"""What a lens, a trajectory and a check show in a notebook's cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_lens.inline_html import card, facts, folded, preformatted, table, thumbnails

if TYPE_CHECKING:
    from dit_lens.model.check import CheckReport
    from dit_lens.model.lens import DiTLens
    from dit_lens.model.sampling import Sampling, Trajectory


def sampling_words(sampling: Sampling) -> str:
    """A sampling setup in a line."""
    negative = f", negative prompt {sampling.negative_prompt!r}" if sampling.negative_prompt else ""
    return (
        f"{sampling.steps} steps, guidance {sampling.guidance_scale:g}, {sampling.height} × "
        f"{sampling.width} px{negative}"
    )


def lens_html(lens: DiTLens) -> str:
    """The model's size, how it samples, and every hook point behind a fold."""
    from dit_lens.model.weights import parameter_count

    transformer = lens.pipeline.transformer
    rows, columns = lens.token_grid()
    text = lens.geometry(lens.defaults, 1).context_tokens
    about = {
        "transformer": f"{type(transformer).__name__}, {lens.num_blocks} blocks × {lens.num_channels} "
        f"channels, {parameter_count(transformer) / 1e6:.1f} M parameters",
        "tokens": f"{rows} × {columns} of the image, {text} of the prompt",
        "by default": sampling_words(lens.defaults),
        "weights": f"{str(lens.dtype).removeprefix('torch.')} on {lens.device}",
    }
    points = folded(f"{len(lens.hook_points)} hook points", preformatted(str(lens.hook_points)))
    return card(f"DiTLens {lens.name}", facts(about), points)


def trajectory_html(trajectory: Trajectory) -> str:
    """The images with their prompts and seeds, and the shape of the latents."""
    about = {
        "sampling": sampling_words(trajectory.sampling),
        "latents": f"{list(trajectory.latents.shape)}: rows, steps + 1, channels, height, width",
    }
    rows = len(trajectory)
    return card(
        f"Trajectory of {rows} {'row' if rows == 1 else 'rows'}",
        facts(about),
        thumbnails(trajectory.labelled_images),
    )


def check_html(report: CheckReport) -> str:
    """Every check with what it found, those that failed first."""
    entries = sorted(report.checks, key=lambda entry: entry.ok)
    failed = sum(not entry.ok for entry in entries)
    rows = [
        ("✓ ok" if each.ok else "✗ FAILED", each.name, each.detail, f"{each.seconds:.1f} s")
        for each in entries
    ]
    outcome = f"{failed} of {len(entries)} checks failed" if failed else f"all {len(entries)} checks passed"
    return card(f"{report.model}: {outcome}", table(("", "check", "found", "took"), rows))
