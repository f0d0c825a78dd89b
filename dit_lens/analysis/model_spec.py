"""What a spec says of its model; the docstrings are the JSON Schema's descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

Text = Annotated[StrictStr, Field(min_length=1)]


class ModelSpec(BaseModel):
    """Which model is opened, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Text
    """An embedded model (`dit-lens list models`), a folder of a diffusers pipeline, or a hub id."""
    device: Text = "cpu"
    """Where it runs: `cpu`, `cuda`, `cuda:1`, …; leave it out beside `device_map`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Its weights' type, whatever they were saved in; absent, float32 on the CPU, and bfloat16 on any other
    device and with `device_map`."""
    revision: Text | None = None
    """Branch, tag or commit of a hub id."""
    drop_t5: StrictBool | None = None
    """Leave out the T5 text encoder, the largest part of most checkpoints; its tokens become zeros. Absent,
    T5 is left out only where the pipeline was saved without it."""
    offload: Literal["model", "sequential"] | None = None
    """Keep weights on the CPU and move them to `device` while they compute: whole parts (`model`), or single
    layers (`sequential`), which needs least memory and most time. `device` must be another than the CPU."""
    device_map: Text | None = None
    """Passed to diffusers: `balanced` spreads the parts over several GPUs. Excludes `device`, `offload`."""

    @property
    def implied(self) -> set[str]:
        """Keys whose default does not hold here: `device`, where `device_map` places the parts."""
        return {"device"} - self.model_fields_set if self.device_map is not None else set()

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `load`, without what is absent."""
        return self.model_dump(exclude={"name", *self.implied}, exclude_none=True)
