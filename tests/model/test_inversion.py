"""A picture as a trajectory: encoded, noised, inverted, and what is refused before anything runs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import dit_lens
from dit_lens.errors import BadInput, RunFailure
from dit_lens.model import inversion
from dit_lens.model.inversion import PSNR_CAP, encode, inverted_path, noised_path, picture_psnr, rms
from dit_lens.model.pictures import read_picture
from dit_lens.model.progress import ProgressBar
from dit_lens.model.sampling import denoise
from dit_lens.zoo import scenes

pytestmark = pytest.mark.tiny


@pytest.fixture(scope="module")
def lens(tiny_sd3_lens):
    return tiny_sd3_lens


@pytest.fixture(scope="module")
def short(lens):
    return lens.sampling(steps=4, guidance_scale=4.5, max_sequence_length=0)


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def latents(lens, pictures):
    return encode(lens, pictures)


@pytest.fixture
def no_forward(lens):
    """Fails a test in which the transformer, the autoencoder or a text encoder computes."""

    def fail(*_):
        raise AssertionError("a forward pass ran")

    parts = (lens.pipeline.transformer, lens.pipeline.vae.encoder, lens.pipeline.text_encoder)
    handles = [part.register_forward_pre_hook(fail) for part in parts]
    yield
    for handle in handles:
        handle.remove()


def sampled(lens, batch, noise):
    with torch.no_grad():
        return denoise(batch.with_latents(noise), lambda _, inputs: lens.traced.forward(inputs))


# ------------------------------------------------------------------ encode


def test_encoding_is_what_decoding_undoes(lens, tiny_sd3_pipeline, pictures, latents):
    vae = tiny_sd3_pipeline.vae
    with torch.no_grad():
        mean = torch.cat([vae.encode(each[None]).latent_dist.mean for each in pictures])
    assert latents.shape == (3, 4, 8, 8)
    assert torch.equal(latents, (mean - vae.config.shift_factor) * vae.config.scaling_factor)
    # diffusers' decoding inverts it: the autoencoder gets its own latents back.
    back = latents / vae.config.scaling_factor + vae.config.shift_factor
    torch.testing.assert_close(back, mean)


def test_a_picture_is_encoded_as_if_alone(lens, pictures, latents):
    assert torch.equal(encode(lens, [pictures[2]])[0], latents[2])
    assert not latents.requires_grad


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "No pictures"),
        (torch.zeros(3, 16, 16), r"\[3, H, W\] in \[-1, 1\]; got \[16, 16\]"),
        ([np.zeros((3, 16, 16))], "got ndarray"),
        (torch.zeros(1, 1, 16, 16), "got \\[1, 16, 16\\]"),
        (torch.full((1, 3, 16, 16), 1.5), "got float32 from 1.5 to 1.5"),
        (torch.full((1, 3, 16, 16), torch.nan), r"floats in \[-1, 1\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "got uint8"),
        (torch.zeros(1, 3, 16, 18), "multiples of 4"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 8, 16)], "differ in size"),
    ],
)
def test_pictures_that_cannot_be_encoded_are_refused(lens, no_forward, wrong, says):
    with pytest.raises(BadInput, match=says):
        encode(lens, wrong)


def test_an_autoencoder_that_overflows_says_so(make_pipeline):
    pipeline = make_pipeline("sd3")
    with torch.no_grad():
        pipeline.vae.encoder.conv_out.bias.fill_(3e38)
    with pytest.raises(RunFailure, match="NaN or infinite latents"):
        encode(dit_lens.load(pipeline), torch.zeros(1, 3, 16, 16))


# ------------------------------------------------------------------ noised


def test_noised_paths_run_from_the_pipelines_noise_to_the_latents(lens, short, latents):
    paths = noised_path(lens, latents, ["a", "b", "c"], seeds=[5, 6, 5], sampling=short)
    batch = lens.prepare_rows(["x", "y", "z"], [5, 6, 5], short)
    for path, x0, noise, prompt, seed in zip(paths, latents, batch.latents, "abc", (5, 6, 5), strict=True):
        assert path.latents.shape == (5, 4, 8, 8)
        assert torch.equal(path.latents[0], noise)
        assert torch.equal(path.latents[-1], x0)
        assert path.sigmas == tuple(batch.sigmas.tolist())
        assert (path.prompt, path.seed, path.origin) == (prompt, seed, "noised")
        path.require_fits(batch.latents.shape[1:], batch.sigmas)
    # The same noise for the same seed, whatever the prompt.
    assert torch.equal(paths[0].latents[0], paths[2].latents[0])


def test_noising_is_the_schedulers_own(lens, short, latents):
    path = noised_path(lens, latents[:1], seeds=3, sampling=short)[0]
    batch = lens.prepare(["any"], [3], short)
    scheduler = copy.deepcopy(batch.scheduler)
    for step, t in enumerate(scheduler.timesteps):
        expected = scheduler.scale_noise(latents[:1], t[None], batch.latents)[0]
        torch.testing.assert_close(path.latents[step], expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": ["a", "b"]}, "2 prompts were given for 3 rows"),
        ({"prompts": 7}, "prompts is 7"),
        ({"seeds": [1]}, "1 seeds were given for 3 rows"),
        ({"seeds": 0.5}, "seeds is 0.5"),
        ({"seeds": -1}, "Seed -1"),
        ({"latents": torch.zeros(4, 8, 8)}, r"must be \[rows, C, h, w\].*got \[4, 8, 8\]"),
        ({"latents": torch.zeros(3, 4, 4, 4)}, r"16 × 16 pixels.*one resolution"),
        ({"latents": torch.full((3, 4, 8, 8), torch.inf)}, "not finite"),
    ],
)
def test_noising_refuses_what_does_not_fit(lens, short, latents, no_forward, change, says):
    with pytest.raises(BadInput, match=says):
        noised_path(lens, **{"latents": latents, "sampling": short, **change})


# ------------------------------------------------------------------ inverted


@pytest.mark.parametrize("guided", [False, True])
def test_sampling_from_the_inverted_noise_gives_the_latents_back(tiny_lens, latents, guided):
    sampling = tiny_lens.sampling(steps=4, guidance_scale=2.0, max_sequence_length=0)
    found = inverted_path(
        tiny_lens, latents, "a red star", sampling=sampling, guided=guided, iterations=20, tolerance=1e-6
    )
    assert found.sampling.guidance_scale == (2.0 if guided else 1.0)
    batch = tiny_lens.prepare_rows(["a red star"] * 3, [0] * 3, found.sampling)
    noise = torch.stack([path.latents[0] for path in found.paths])
    torch.testing.assert_close(sampled(tiny_lens, batch, noise), latents, rtol=1e-4, atol=1e-4)
    assert found.drift[:, -1].max() < 1e-4
    assert min(found.reconstruction_psnr) > 60
    assert torch.allclose(rms(noise), torch.tensor(found.noise_rms))
    for path, x0 in zip(found.paths, latents, strict=True):
        assert torch.equal(path.latents[-1], x0)
        assert (path.steps, path.prompt, path.seed, path.origin) == (4, "a red star", None, "inverted")
        path.require_fits(batch.latents.shape[1:], batch.sigmas)


def test_every_step_of_the_path_is_a_step_of_the_sampler(lens, short, latents):
    found = inverted_path(lens, latents, "a", sampling=short, iterations=20, tolerance=1e-6)
    assert found.drift.shape == (3, 5)
    assert (found.drift[:, 0] == 0).all()
    assert found.drift.max() < 1e-4


def test_iterations_are_what_makes_it_exact(lens, short, latents):
    plain = inverted_path(lens, latents, sampling=short, iterations=0)
    exact = inverted_path(lens, latents, sampling=short, iterations=6)
    assert plain.forwards == 3 * 4
    assert exact.forwards > plain.forwards
    assert exact.drift[:, -1].max() < 0.1 * plain.drift[:, -1].min()


def test_plain_inversion_is_euler_backwards(lens, short, latents):
    path = inverted_path(lens, latents[:1], "a", sampling=short, iterations=0).paths[0].latents
    batch = lens.prepare(["a"], [0], lens.sampling(steps=4, guidance_scale=1.0, max_sequence_length=0))
    for step in range(4):
        with torch.no_grad():
            velocity = lens.pipeline.transformer(
                hidden_states=path[step + 1][None],
                timestep=batch.scheduler.timesteps[step][None],
                encoder_hidden_states=batch.prompt_embeds,
                pooled_projections=batch.pooled_embeds,
            ).sample[0]
        expected = path[step + 1] + float(batch.sigmas[step] - batch.sigmas[step + 1]) * velocity
        torch.testing.assert_close(path[step], expected, rtol=1e-5, atol=1e-5)


def test_the_prompt_conditions_it(lens, short, latents):
    prompts = ["", "a red star", "a blue square"]
    found = inverted_path(lens, latents[:1].expand(3, -1, -1, -1), prompts, sampling=short)
    assert [path.prompt for path in found.paths] == prompts
    assert len({path.digest for path in found.paths}) == 3
    assert not torch.allclose(found.paths[0].latents[0], found.paths[1].latents[0], atol=1e-4)


def test_a_picture_is_inverted_as_if_alone(lens, short, latents):
    prompts = ["a", "b", "c"]
    ones = inverted_path(lens, latents, prompts, sampling=short)
    last = inverted_path(lens, latents[2:], prompts[2:], sampling=short)
    assert ones.paths[2] == last.paths[0]
    assert ones.reconstruction_psnr[2:] == last.reconstruction_psnr
    # In a batch the last bits differ.
    whole = inverted_path(
        lens, latents, prompts, sampling=short, iterations=10, tolerance=1e-6, batch_size=None
    )
    ones = inverted_path(lens, latents, prompts, sampling=short, iterations=10, tolerance=1e-6)
    for a, b in zip(whole.paths, ones.paths, strict=True):
        torch.testing.assert_close(a.latents, b.latents, rtol=1e-3, atol=1e-3)


def test_half_precision_is_undone_to_its_own_rounding(make_pipeline, latents):
    lens = dit_lens.load(make_pipeline("sd3"), dtype="bfloat16")
    found = inverted_path(lens, latents, sampling=lens.sampling(steps=4, max_sequence_length=0))
    assert found.drift[:, -1].max() < 0.05
    for path in found.paths:
        assert torch.equal(path.latents, path.latents.bfloat16().float())


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("tolerance", [1e-7, 0.5])
def test_the_bar_ends_where_it_said_it_would(lens, short, latents, monkeypatch, iterations, tolerance):
    bars = []

    class Watched(ProgressBar):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(inversion, "ProgressBar", Watched)
    inverted_path(
        lens,
        latents,
        sampling=short,
        iterations=iterations,
        tolerance=tolerance,
        batch_size=2,
        progress=False,
    )
    assert [bar.done for bar in bars] == [bar.total for bar in bars] == [2 * 4 * (iterations + 2)]


def test_a_diverging_inversion_says_so(make_pipeline, latents):
    pipeline = make_pipeline("sd3")
    with torch.no_grad():
        pipeline.transformer.proj_out.weight *= 300
    lens = dit_lens.load(pipeline)
    sampling = lens.sampling(steps=4, max_sequence_length=0)
    with pytest.raises(
        RunFailure, match=r"diverges at step \d, sigma .*times as large.*noised_path"
    ) as error:
        inverted_path(lens, latents, "a", sampling=sampling, iterations=0)
    assert "guided=False" not in str(error.value)
    with pytest.raises(RunFailure, match="guided=False"):
        inverted_path(lens, latents, "a", sampling=sampling, iterations=0, guided=True)
    assert lens.traced.idle


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_overflow_names_its_row(lens, short, latents, monkeypatch, batch_size):
    forward, calls = lens.traced.forward, []

    def overflowing(inputs):
        velocity = forward(inputs)
        calls.append(len(velocity))
        # Alone, row 0 takes four steps back and four forth; then it is row 1's turn.
        if batch_size == 3 or len(calls) > 8:
            velocity[min(1, batch_size - 1)] = torch.inf
        return velocity

    monkeypatch.setattr(lens.traced, "forward", overflowing)
    with pytest.raises(RunFailure, match=r"row 1 \(prompt 'b'\) diverges at step 3.*not finite"):
        inverted_path(lens, latents, ["a", "b", "c"], sampling=short, iterations=0, batch_size=batch_size)


def test_running_out_of_memory_says_so(lens, short, latents, monkeypatch):
    def full(inputs):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(lens.traced, "forward", full)
    with pytest.raises(RunFailure, match="Out of memory while inverting 1 rows of 16 × 16 pixels"):
        inverted_path(lens, latents, sampling=short)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"iterations": -1}, "iterations is -1"),
        ({"iterations": True}, "iterations is True"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"prompts": ["a", 3, "b"]}, "Prompt 3"),
        ({"prompts": ["a"]}, "1 prompts were given for 3 rows"),
        ({"latents": torch.zeros(0, 4, 8, 8)}, r"got \[0, 4, 8, 8\]"),
        ({"latents": torch.zeros(3, 16, 8, 8)}, "do not fit this sampling"),
    ],
)
def test_inverting_refuses_what_does_not_fit(lens, short, latents, no_forward, change, says):
    with pytest.raises(BadInput, match=says):
        inverted_path(lens, **{"latents": latents, "sampling": short, **change})


def test_psnr_is_capped_and_counts_eight_bits():
    a = np.zeros((4, 4, 3), dtype=np.uint8)
    assert picture_psnr(a, a) == PSNR_CAP
    assert picture_psnr(a, a + 255) == 0
    assert picture_psnr(a, a + np.uint8(26)) == pytest.approx(20 * np.log10(255 / 26))


# ------------------------------------------------------------------ the shipped model


@pytest.mark.embedded
def test_a_generated_picture_is_reconstructed(embedded_lens):
    caption = scenes.sample_scenes(1, seed=5, held_out=True)[0].caption
    generated = embedded_lens.generate(caption, seeds=[1], progress=False).images[0]
    unseen = scenes.render(scenes.sample_scenes(1, seed=6, held_out=True)[0])
    clean = encode(embedded_lens, [read_picture(each, embedded_lens) for each in (generated, unseen)])
    # Default steps, no guidance, the empty prompt. Eight generated pictures had 59 dB or more.
    found = inverted_path(embedded_lens, clean, iterations=2, progress=False)
    assert min(found.reconstruction_psnr) > 50
    assert picture_psnr(found.images[0], generated) > 30
