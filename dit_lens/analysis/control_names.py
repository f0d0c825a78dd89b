"""Names of controls in a spec: any kind that serves there, whichever package brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, StrictInt
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from dit_lens.methods.controls import Place, is_drawn, serving

Controls = TypeVar("Controls", bound=Mapping[Any, int])


@dataclass(frozen=True)
class _Serving:
    """Says of a field that it names a control for `place`. What there is, is asked when it is validated."""

    place: Place

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._known)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return {"enum": list(serving(self.place)), "type": "string"}

    def _known(self, value: Any) -> str:
        kinds = serving(self.place)
        if isinstance(value, str) and value in kinds:
            return value
        quoted = [f"'{kind}'" for kind in kinds]
        raise PydanticKnownError(
            "literal_error", {"expected": " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))}
        )


def _require_draws(controls: Controls) -> Controls:
    """Raise ValueError for more than one draw of a kind that involves no chance."""
    for kind, draws in controls.items():
        if draws > 1 and not is_drawn(kind):
            raise ValueError(
                f"{draws} draws of {kind} were asked for, and nothing in it is drawn: there is one. "
                f"Write {kind}: 1"
            )
    return controls


DrawsFit = AfterValidator(_require_draws)
"""Of a spec's `controls`: one draw of what involves no chance."""

Draws = Annotated[StrictInt, Field(ge=1, le=1000)]

EffectControl = Annotated[str, _Serving("effects")]
MapControl = Annotated[str, _Serving("maps")]
TransportControl = Annotated[str, _Serving("transport")]
SpatialControl = Annotated[str, _Serving("spatial")]
