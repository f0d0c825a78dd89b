"""The numbers of the training recipe, in one place: pool, seeds, steps, rates."""

from __future__ import annotations

from dataclasses import dataclass, field

from dit_lens.zoo.loop import Recipe, scaled


@dataclass(frozen=True)
class ZooRecipe:
    """Everything that decides the shipped weights (with torch's version and the hardware)."""

    pool: int = 20_000
    pool_seed: int = 1
    text: Recipe = field(
        default=Recipe(steps=1200, batch=128, learning_rate=1e-3, warmup=100, ema=0.99, seed=10)
    )
    clip: Recipe = field(
        default=Recipe(steps=3000, batch=64, learning_rate=1e-3, warmup=200, weight_decay=0.05, seed=11)
    )
    autoencoder: Recipe = field(
        default=Recipe(steps=1800, batch=16, learning_rate=2e-3, warmup=100, ema=0.995, seed=12)
    )
    transformer: Recipe = field(
        default=Recipe(steps=4500, batch=32, learning_rate=2e-3, warmup=200, ema=0.998, seed=13)
    )
    transformer_until: int = 2768
    """The first schedule is left at this step: shapes had only begun to appear, and its rate was falling."""
    refinement: Recipe = field(
        default=Recipe(steps=2700, batch=32, learning_rate=1.5e-3, warmup=100, ema=0.998, seed=14)
    )
    """A second schedule from the first one's averaged weights (a warm restart, 1608.03983)."""
    caption_drop: float = 0.1
    """Share of training captions replaced by the empty one, for classifier-free guidance."""
    partial_captions: float = 0.1
    """Share of captions that leave some attributes open."""
    padded_batches: float = 0.05
    """Share of steps that carry the 256 zero tokens which diffusers puts in place of an absent T5."""

    noise_shift: float = 2.5
    """Shift of the transformer's training noise levels from step `noise_shift_from` on."""
    noise_shift_from: int = 2300

    def miniature(self, share: float = 0.0015, pool: int = 256) -> ZooRecipe:
        """The same recipe in well under a minute: proves the code path, not the model."""
        return ZooRecipe(
            pool=pool,
            pool_seed=self.pool_seed,
            text=scaled(self.text, share),
            clip=scaled(self.clip, share),
            autoencoder=scaled(self.autoencoder, share),
            transformer=scaled(self.transformer, share),
            transformer_until=max(1, round(self.transformer_until * share)),
            refinement=scaled(self.refinement, share),
        )
