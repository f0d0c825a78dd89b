"""nnsight around a transformer: forward passes that read and replace values at hook points.

The only module that knows nnsight, so that its next rewrite touches one file.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import merge
from itertools import groupby
from typing import Any

import torch
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.interleaver import Mediator, OutOfOrderError
from nnsight.intervention.source import STATE, Controller
from torch import Tensor, nn

from dit_lens.errors import BadInput, RunFailure
from dit_lens.model.adapters import Access, Adapter, Geometry, adapter_for
from dit_lens.model.hook_points import HookPoint, in_forward_order
from dit_lens.model.sampling import SampleBatch, denoise

Touch = Callable[[HookPoint, Tensor], "Tensor | None"]
"""(hook point, its live tensor for all rows) → a tensor that replaces it, or None to leave it as it is."""


@dataclass(frozen=True)
class Place:
    """One module of a forward pass and who serves it when the pass gets there.

    `side` says what `serve` is given: the module's `"input"` or `"output"` (it may return a replacement, or
    None), `"through"` = (first input, output) for a new output, or `"skip"` = None for the output of a module
    that then does not run. `key` orders places as `HookPoint.forward_key` orders hook points.
    """

    key: tuple[float, float, float]
    module: str
    side: str
    serve: Callable[[Any], Any]
    name: str


class _WrappedWhenNamed(Envoy):
    """A block whose inner modules nnsight wraps only once they are named.

    Every wrapped module costs time at each call, and a run names few of them. Only for our own one-forward
    traces: nnsight counts visits from the moment of wrapping, so a trace over many forwards that first names
    a module half-way would bind to a later one.
    """

    def _add_envoy(self, name: str, module: nn.Module) -> Any:
        if self._module._modules.get(name) is module:
            return None
        return super()._add_envoy(name, module)


_LOAD_AGAIN = "To take the pipeline as it is now, make a new lens: lens = dit_lens.load(lens.pipeline)."

# nnsight keeps one run per model at a time; two lenses around one transformer share it.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()


class TracedTransformer:
    """nnsight around one transformer: forward passes that read and replace values at hook points.

    Each forward pass is a trace of its own. A place that was passed already can then only raise; in a trace
    over several passes it would silently stand for the next pass.

    `pipeline` is what the transformer belongs to, if it belongs to one.
    """

    def __init__(self, transformer: Any, pipeline: Any = None) -> None:
        self.transformer = transformer
        self._pipeline = pipeline
        self.adapter: Adapter = adapter_for(transformer)
        self.lock = _LOCKS.setdefault(transformer, threading.RLock())
        self._envoy = NNsight(transformer, envoys={self.adapter.block_class: _WrappedWhenNamed})
        for module in transformer.modules():
            _hook_once(module)
        self._hook = _hook_of(transformer)

    @cached_property
    def everything(self) -> NNsight:
        """The transformer under plain nnsight, every module wrapped. Made when first asked for."""
        return NNsight(self.transformer)

    def trace_loop(self, batch: SampleBatch) -> Any:
        """Plain nnsight over the whole denoising loop of a batch; `tracer.result` is the final latents."""
        # What the body of the trace enters around a read, the model enters; `no_grad` entered before the loop
        # and left within it would switch gradients on for the rest of the loop, and off for good after it.
        before = torch.is_grad_enabled()

        def forward(step: int, inputs: Mapping[str, Any]) -> Tensor:
            torch.set_grad_enabled(False)
            velocity = self.forward(inputs).detach()
            torch.set_grad_enabled(False)
            return velocity

        def loop(batch: SampleBatch) -> Tensor | None:
            try:
                return denoise(batch, forward)
            finally:
                torch.set_grad_enabled(before)

        return self.everything.trace(batch, fn=loop)

    @property
    def idle(self) -> bool:
        """Whether no trace is running and none left anything behind."""
        return not self._envoy.interleaver.interleaving and not self._envoy.interleaver.mediators

    def require_unchanged(self) -> None:
        """Raise BadInput if the pipeline's transformer or its hooks are no longer those that were wrapped."""
        now = self.transformer if self._pipeline is None else self._pipeline.transformer
        if now is not self.transformer:
            raise BadInput(
                f"The pipeline's transformer was replaced, by {_described(now)}, after the lens was made, "
                f"and the lens still holds the one before. {_LOAD_AGAIN}"
            )
        hook = _hook_of(self.transformer)
        if hook is not self._hook:
            raise BadInput(
                f"The transformer's accelerate hook was {_hook_name(self._hook)} when the lens was made and "
                f"is {_hook_name(hook)} now. A hook that comes after nnsight runs twice per forward pass. "
                f"Offload first, with dit_lens.load(..., offload='model'). {_LOAD_AGAIN}"
            )
        # Offloading takes its hook off and puts it on again after each run, and nnsight's forward with it.
        _hook_once(self.transformer)

    def _require_ready(self) -> None:
        self.require_unchanged()
        if self._under_way():
            raise BadInput(
                "This transformer is in the middle of a forward pass: the call came from inside a "
                "`with lens.trace(...)` block, or from a function that is shown activations. Call before or "
                "after it, or load the model a second time."
            )

    def _under_way(self) -> bool:
        """Whether this code runs inside a trace of this transformer, be it another lens's."""
        try:
            trace = Mediator.current("a forward pass").interleaver
        except ValueError:
            return False
        return any(of() is trace for of, *_ in self.transformer.__dict__[STATE].routes)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The velocity of one untraced forward pass: [rows, C, h, w].

        Raises:
            BadInput: the transformer or its hooks were replaced, or a forward pass is under way.
        """
        self._require_ready()
        velocity: Tensor = self.transformer(**inputs, return_dict=False)[0]
        return velocity

    def traced_forward(
        self,
        inputs: Mapping[str, Any],
        points: Sequence[HookPoint],
        touch: Touch,
        *,
        stop: bool = False,
        extra: Sequence[Place] = (),
        rows_at: Callable[[HookPoint], int] | None = None,
    ) -> Tensor | None:
        """One forward pass in which `touch` sees every point, in forward order, and may replace it.

        With `stop`, the pass ends after the last point and returns None. `extra` places, given in their
        order, are served too. `rows_at` tells how many rows a point has where they are not those of the
        inputs.

        Raises:
            BadInput: the model has no such point, or as for `forward`.
            RunFailure: a point was not reached, or had another shape than the adapter declares.
        """
        self._require_ready()
        geometry = Geometry(
            rows=inputs["hidden_states"].shape[0],
            latent_height=inputs["hidden_states"].shape[2],
            latent_width=inputs["hidden_states"].shape[3],
            context_tokens=inputs["encoder_hidden_states"].shape[1],
        )
        # Modules in the order in which the pass reaches them, each with the points that lie in its value.
        located = [(point, self.adapter.access(point)) for point in in_forward_order(points)]
        grouped = [
            (place, list(group))
            for place, group in groupby(located, key=lambda each: (each[1].module, each[1].side))
        ]

        def serving(group: Sequence[tuple[HookPoint, Access]]) -> Callable[[Any], Any]:
            def serve(value: Any) -> Any:
                changed = False
                for point, access in group:
                    tensor = access.pick(value)
                    here = geometry if rows_at is None else replace(geometry, rows=rows_at(point))
                    _require_shape(point, tensor, self.adapter.shape(point, here))
                    new = touch(point, tensor)
                    if new is not None:
                        _require_shape(point, new, tuple(tensor.shape))
                        value, changed = access.put(value, new), True
                return value if changed else None

            return serve

        places = [
            Place(group[0][0].forward_key, module, side, serving(group), str(group[0][0]))
            for (module, side), group in grouped
        ]
        return self._walk(inputs, list(merge(places, extra, key=lambda place: place.key)), stop=stop)

    def _walk(self, inputs: Mapping[str, Any], places: Sequence[Place], *, stop: bool) -> Tensor | None:
        served = 0
        velocity: list[Tensor] = []

        def visit(tracer: Any) -> None:
            nonlocal served
            for (module, side), group in groupby(places, key=lambda place: (place.module, place.side)):
                envoy = self._envoy.get(module) if module else self._envoy
                if side == "input":
                    # Places may share a module's inputs, which are asked for once and replaced once.
                    value, changed = envoy.inputs, False
                    for place in group:
                        if (new := place.serve(value)) is not None:
                            value, changed = new, True
                        served += 1
                    if changed:
                        envoy.inputs = value
                    continue
                (place,) = group
                if side == "skip":
                    envoy.skip(place.serve(None))
                else:
                    first = envoy.input if place.side == "through" else None
                    value = envoy.output if first is None else (first, envoy.output)
                    if (new := place.serve(value)) is not None:
                        envoy.output = new
                served += 1
            if stop:
                tracer.stop()

        def run(_: bool) -> None:
            velocity.append(self.forward(inputs))

        try:
            # The inputs stay out of nnsight's hands: it would move them to the first parameter's device,
            # which is the wrong one for an offloaded model.
            with self._envoy.trace(True, fn=run) as tracer:
                visit(tracer)
        except OutOfOrderError as error:
            raise RunFailure(f"{places[served].name} was not reached in this forward pass: {error}") from None
        if served != len(places):
            raise RunFailure(f"{served} of {len(places)} places were served in one forward pass.")
        return velocity[0] if velocity else None


def _hook_once(module: nn.Module) -> None:
    """Put nnsight's forward where accelerate has put its own since: nnsight's runs the hook, once."""
    own = module.__dict__
    function = getattr(own.get("forward"), "func", None)
    if "_hf_hook" in own and STATE in own and getattr(function, "__module__", "") == "accelerate.hooks":
        inner = own.get("_old_forward")
        own["forward"] = inner if isinstance(inner, Controller) else Controller(module, own[STATE])


def own_forward(module: nn.Module) -> Any:
    """The forward that somebody put on this very module; None where its class's runs. nnsight's does not
    count.
    """
    own = module.__dict__
    forward, state = own.get("forward"), own.get(STATE)
    if state is None or not isinstance(forward, Controller):
        return own.get("_old_forward", forward)
    before = state.original
    if before is type(module).forward:
        return None
    # nnsight holds a forward that is bound to the module in a function of its own.
    cells = before.__closure__ if before.__module__ == Controller.__module__ else None
    return before if not cells else cells[0].cell_contents


def _hook_of(module: nn.Module) -> type | None:
    """The kind of accelerate hook on a module. Not the hook: offloading makes a new one after each run."""
    hook = module.__dict__.get("_hf_hook")
    return None if hook is None else type(hook)


def _hook_name(hook: type | None) -> str:
    return "none" if hook is None else hook.__name__


def _described(transformer: Any) -> str:
    if hasattr(transformer, "_orig_mod"):
        return f"torch.compile's {type(transformer).__name__}"
    return f"another {type(transformer).__name__}"


def _require_shape(point: HookPoint, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise RunFailure(f"{point} has shape {tuple(tensor.shape)}, expected {expected}.")
