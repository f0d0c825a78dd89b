"""Commands that look into a model: discover, segment, transport, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dit_lens.cli.frame import (
    Hints,
    app,
    command,
    inert,
    inert_json,
    print_json,
    say,
    stdout_kept_for_results,
)
from dit_lens.cli.options import (
    AsJson,
    Device,
    DeviceMap,
    DropT5,
    Dtype,
    Model,
    Offload,
    note_foreign_words,
    open_lens,
    parse_seeds,
    parse_step_count,
    parse_strengths,
    require_known,
    require_writable,
)
from dit_lens.errors import BadInput


@command(
    app,
    "discover",
    "dit-lens discover shapes-sd3 --prompts prompts.txt --top-k 4 --out massive.json",
    Hints(less_memory="--drop-t5, --batch-size 1 or a smaller --dtype needs less.", has_out=True),
)
def discover(
    model: Model,
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="Prompts, one per line; # begins a comment.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the channel set here as JSON.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Channels per block.")] = 4,
    seeds: Annotated[
        str, typer.Option(help="Seeds, separated by commas; every prompt runs with each.")
    ] = "0",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's own.")] = None,
    statistic: Annotated[str, typer.Option(help="abs_mean, mean_abs, max_abs or p999.")] = "abs_mean",
    stream: Annotated[str, typer.Option(help="image or context.")] = "image",
    batch_size: Annotated[int | None, typer.Option(help="Images sampled together.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    drop_t5: DropT5 = False,
    offload: Offload = None,
    device_map: DeviceMap = None,
    as_json: AsJson = False,
) -> None:
    """Find the massive channels of every block."""
    from dit_lens.analysis.files import read_prompts

    texts = read_prompts(prompts)
    numbers = parse_seeds(seeds)
    require_writable(out)
    require_known("--statistic", statistic, ("abs_mean", "mean_abs", "max_abs", "p999"))
    require_known("--stream", stream, ("image", "context"))
    with stdout_kept_for_results():
        from dit_lens.methods.channels import discover as discover_channels

        lens = open_lens(model, device, dtype, drop_t5=drop_t5, offload=offload, device_map=device_map)
        note_foreign_words(lens.name, texts)
        sampling = lens.sampling(steps=steps, guidance_scale=guidance)
        stats = discover_channels(lens, texts, numbers, sampling=sampling, batch_size=batch_size, top_k=top_k)
        chosen = stats.select(top_k=top_k, statistic=statistic, stream=stream)
        if out is not None:
            chosen.save(out)
    typer.echo(inert_json(chosen.to_json().rstrip()) if as_json else inert(repr(chosen)))
    if out is not None:
        say(f"Written to {out}")


@command(
    app,
    "segment",
    'dit-lens segment "a large red plain star on the left on a white background" --out mask.png',
    Hints(less_memory="--drop-t5, one block in --at-blocks or a smaller --dtype needs less.", has_out=True),
)
def segment(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture shows.")],
    model: Annotated[
        str, typer.Option(help="An embedded model, a diffusers pipeline's folder, or a hub id.")
    ] = "shapes-sd3",
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Channels that `dit-lens discover` wrote.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Channels per block, found in this prompt's own run; default: 4.")
    ] = None,
    at_blocks: Annotated[
        str | None,
        typer.Option(help="Blocks to look after: all, 3, 2-5, or 0.5-1 of the depth; default: the last."),
    ] = None,
    at_steps: Annotated[
        int | None,
        typer.Option(help="The one denoising step to look at, such as 3; default: a quarter into the run."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starting noise.")] = 0,
    rule: Annotated[
        str, typer.Option(help="Which cluster of tokens is the subject: border, brighter or smaller.")
    ] = "border",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's own.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The picture: a PNG.")] = Path("mask.png"),
    device: Device = None,
    dtype: Dtype = None,
    drop_t5: DropT5 = False,
    offload: Offload = None,
    device_map: DeviceMap = None,
    as_json: AsJson = False,
) -> None:
    """Draw a picture, and its subject as massive channels outline it.

    Image tokens are clustered by the massive channels, and the cluster that touches the border least is taken
    for the subject. The PNG holds a row per block: the picture, the mask, and the mask over the picture.
    Nothing is compared with a truth: `dit-lens run spatial` measures how well such masks fit.
    """
    require_writable(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the picture is a PNG; name a file such as {out.stem or 'mask'}.png")
    if channels is not None and top_k is not None:
        raise BadInput("--channels and --top-k exclude each other: the file already says which channels.")
    with stdout_kept_for_results():
        from dit_lens.methods.channel_sets import ChannelSet
        from dit_lens.methods.spatial import Clustering, first_look

        how, given = Clustering(rule=rule), ChannelSet.load(channels) if channels else None
        lens = open_lens(model, device, dtype, drop_t5=drop_t5, offload=offload, device_map=device_map)
        note_foreign_words(lens.name, [prompt])
        sampling = lens.sampling(steps=steps, guidance_scale=guidance)
        options: dict[str, Any] = {"channels": given, "top_k": top_k, "blocks": at_blocks, "step": at_steps}
        look = first_look(lens, prompt, seed, how=how, sampling=sampling, progress=True, **options)
        look.save(out)
    print_json({**look.as_data(), "picture": str(out)}) if as_json else typer.echo(inert(str(look)))
    say(f"Written to {out}")


@command(
    app,
    "transport",
    'dit-lens transport "a large red circle on a white background" "a small blue star on a white background" '
    "--out grid.png",
    Hints(less_memory="--drop-t5, fewer strengths or a smaller --dtype needs less.", has_out=True),
)
def transport(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The prompt to carry from.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The prompt to carry into.")],
    model: Annotated[
        str, typer.Option(help="An embedded model, a diffusers pipeline's folder, or a hub id.")
    ] = "shapes-sd3",
    strength: Annotated[
        str,
        typer.Option(
            help="start:stop:count, or numbers separated by commas; from 0 to 2. It acts anew in every "
            "block: 0.25 in all 8 of shapes-sd3 brings channels over half of the way to the source."
        ),
    ] = "0:1:5",
    channels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Channels that `dit-lens discover` wrote.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Channels per block, found in these prompts' own runs; default: 4.")
    ] = None,
    at_blocks: Annotated[
        str, typer.Option(help="Blocks to carry in: all, 3, 2-5, or 0.5-1 of the depth.")
    ] = "all",
    at_steps: Annotated[str, typer.Option(help="Denoising steps to carry at: all, 3, or 0:8.")] = "all",
    tokens: Annotated[
        str,
        typer.Option(
            help="Tokens to carry: all, or the subject's in the run of the source, target, or union."
        ),
    ] = "all",
    branch: Annotated[
        str, typer.Option(help="Branch of guidance to carry in: both, cond or uncond.")
    ] = "both",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise that both start from.")] = 0,
    steps: Annotated[
        str | None, typer.Option(metavar="INTEGER", help="Denoising steps; default: the model's own.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; default: the model's own.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The grid of pictures: a PNG.")] = Path(
        "grid.png"
    ),
    device: Device = None,
    dtype: Dtype = None,
    drop_t5: DropT5 = False,
    offload: Offload = None,
    device_map: DeviceMap = None,
    as_json: AsJson = False,
) -> None:
    """Carry one prompt's massive channels into another's picture.

    Both start from the same noise. The PNG shows the source, the target, and the target with its massive
    channels drawn toward the source's, more with each strength: 0 leaves them, 1 replaces them. Nothing is
    compared with a control: `dit-lens run transport_text` measures what these channels carry.
    """
    strengths, step_count = parse_strengths(strength), parse_step_count(steps)
    require_writable(out)
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out}: the grid is a PNG; name a file such as {out.stem or 'grid'}.png")
    if channels is not None and top_k is not None:
        raise BadInput("--channels and --top-k exclude each other: the file already says which channels.")
    with stdout_kept_for_results():
        from dit_lens.methods.channel_sets import ChannelSet
        from dit_lens.methods.transport.first_look import first_carry

        given = ChannelSet.load(channels) if channels else None
        lens = open_lens(model, device, dtype, drop_t5=drop_t5, offload=offload, device_map=device_map)
        if given is None:
            say(
                "Channels: a quick discovery on these two prompts; --channels FILE takes them from elsewhere."
            )
        note_foreign_words(lens.name, [source, target])
        if source == target:
            say("Note: source and target are the same prompt, so nothing can move.")
        sampling = lens.sampling(steps=step_count, guidance_scale=guidance)
        options: dict[str, Any] = {"channels": given, "top_k": top_k, "blocks": at_blocks, "steps": at_steps}
        options |= {"tokens": tokens, "branch": branch}
        look = first_carry(
            lens, source, target, seed, strengths=strengths, sampling=sampling, progress=True, **options
        )
        look.save(out)
    print_json({**look.as_data(), "picture": str(out)}) if as_json else typer.echo(inert(str(look)))
    say(f"Written to {out}")


@command(
    app,
    "check",
    "dit-lens check shapes-sd3 --json",
    Hints(less_memory="--drop-t5 or a smaller --dtype needs less."),
)
def check(
    model: Model,
    device: Device = None,
    dtype: Dtype = None,
    drop_t5: DropT5 = False,
    offload: Offload = None,
    device_map: DeviceMap = None,
    as_json: AsJson = False,
) -> None:
    """Test the lens on a model.

    Shapes and streams are as declared, an edit here changes the output, and reading changes nothing, bit for
    bit.
    """
    with stdout_kept_for_results():
        lens = open_lens(model, device, dtype, drop_t5=drop_t5, offload=offload, device_map=device_map)
        report = lens.check()
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(inert(str(report)))
    if not report.ok:
        raise typer.Exit(1)
