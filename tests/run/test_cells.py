"""Cells: found again by what determines them, stored together or not at all, dropped when damaged."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_lens.errors import BadInput, RunFailure
from dit_lens.run import cells as module
from dit_lens.run.cells import Cell, CellKey, CellStore, Damaged, Measured

pytestmark = pytest.mark.pure


def key(**changed):
    fields = {
        "identity": "f" * 64,
        "sampling": {"steps": 4, "guidance_scale": 4.5},
        "arm": {"edits": [{"op": {"op": "zero"}, "channels": [3]}], "readout": "final"},
        "prompt": "a red circle",
        "seed": 0,
    }
    return CellKey(**{**fields, **changed})


def cell(of=None, value=0.25, **more):
    return Cell(key=of or key(), metrics={"ssim": Measured.of("ssim/1", value)}, **more)


def test_what_was_put_is_found_by_another_process_s_store(tmp_path) -> None:
    CellStore(tmp_path).put([cell(sham_difference=1e-7), cell(key(seed=1), value=math.nan)])
    store = CellStore(tmp_path)
    assert store.get(key()) == cell(sham_difference=1e-7)
    assert math.isnan(store.get(key(seed=1)).metrics["ssim"].number)
    assert store.get(key(seed=2)) is None
    assert len(store) == 2
    assert not any(path.is_file() for path in (tmp_path / "journal").iterdir())


@pytest.mark.parametrize(
    "changed",
    [
        {"identity": "0" * 64},
        {"sampling": {"steps": 5, "guidance_scale": 4.5}},
        {"arm": {"edits": [], "readout": "final"}},
        {"prompt": "a blue circle"},
        {"seed": 1},
        {"donor": "a blue circle"},
        {"material": "00"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_each_part_of_the_key_makes_another_address(changed) -> None:
    assert key(**changed).address != key().address


def test_the_order_of_mappings_does_not_matter_and_that_of_lists_does() -> None:
    turned = key(sampling={"guidance_scale": 4.5, "steps": 4})
    assert turned.address == key().address
    arms = [{"edits": [1, 2]}, {"edits": [2, 1]}]
    assert key(arm=arms[0]).address != key(arm=arms[1]).address


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_values_come_back_bit_for_bit(value) -> None:
    text = module._text(cell(value=value))
    assert module._cell(text).metrics["ssim"].number == value


def damage_truncate(place):
    place.write_text(place.read_text()[:-40])


def damage_empty(place):
    place.write_text("")


def damage_bytes(place):
    place.write_bytes(b"\xff\xfe\x00")


def damage_metric(place):
    place.write_text(place.read_text().replace("0.25", "0.75"))


def damage_key(place):
    place.write_text(place.read_text().replace("a red circle", "a blue circle"))


def resigned(place, **changed):
    body = json.loads(place.read_text())
    body.pop("checksum")
    body |= changed
    place.write_text(json.dumps({**body, "checksum": module.digest_of(body)}))


def damage_version(place):
    resigned(place, schema_version=module.SCHEMA_VERSION + 1)


def damage_list(place):
    place.write_text("[1, 2]")


def damage_field(place):
    resigned(place, metrics={"ssim": 0.3})


def damage_foreign(place):
    resigned(place, key=key(identity="0" * 64).model_dump(mode="json"))


REASONS = {
    damage_truncate: "truncated",
    damage_empty: "truncated",
    damage_bytes: "codec",
    damage_metric: "checksum",
    damage_key: "checksum",
    damage_version: f"schema_version {module.SCHEMA_VERSION + 1}",
    damage_list: "no cell",
    damage_field: "metrics.ssim",
    damage_foreign: "something else",
}


@pytest.mark.parametrize("damage", REASONS, ids=lambda damage: damage.__name__)
def test_a_damaged_cell_is_told_from_an_absent_one_and_is_replaced(tmp_path, damage) -> None:
    CellStore(tmp_path).put([cell()])
    store = CellStore(tmp_path)
    damage(store.path(key()))
    found = store.get(key())
    assert isinstance(found, Damaged) and REASONS[damage] in found.reason
    assert tmp_path / found.file == store.path(key())
    store.put([cell(value=0.5)])
    assert store.get(key()).metrics["ssim"].number == 0.5


def interrupted(monkeypatch, after):
    """Let the process die (as an exception that nothing catches) at the n-th rename of a cell."""
    done = {"renames": 0}
    rename = module.Path.replace

    def replace(self, target):
        if target.parent.parent.name == module.CELLS:
            if done["renames"] == after:
                raise KeyboardInterrupt
            done["renames"] += 1
        return rename(self, target)

    monkeypatch.setattr(module.Path, "replace", replace)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_cells_of_a_batch_appear_together_even_if_the_process_dies_between_them(
    tmp_path, monkeypatch, after
) -> None:
    batch = [cell(key(seed=seed), value=seed / 8) for seed in range(3)]
    with monkeypatch.context() as patched:
        interrupted(patched, after)
        with pytest.raises(KeyboardInterrupt):
            CellStore(tmp_path).put(batch)
    store = CellStore(tmp_path)
    assert [store.get(each.key) for each in batch] == batch
    assert not list(tmp_path.rglob("*.tmp"))


def test_before_the_journal_is_whole_no_cell_of_the_batch_exists(tmp_path, monkeypatch) -> None:
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", dies)
        with pytest.raises(KeyboardInterrupt):
            CellStore(tmp_path).put([cell()])
    store = CellStore(tmp_path)
    assert store.get(key()) is None


def test_a_damaged_journal_is_thrown_away_and_never_writes_elsewhere(tmp_path) -> None:
    journal = tmp_path / "store" / "journal"
    journal.mkdir(parents=True)
    (journal / "half.json").write_text('{"cells": {"cells/00/')
    texts = {"../outside.json": "gotcha"}
    body = {"cells": texts, "checksum": module.digest_of(texts)}
    (journal / "evil.json").write_text(json.dumps(body))
    (journal / ".left.tmp").write_text("half")
    store = CellStore(tmp_path / "store")
    assert len(store) == 0
    assert not list(journal.iterdir())
    assert not (tmp_path / "outside.json").exists()


def test_cells_lack_metrics_they_do_not_have_and_those_defined_otherwise() -> None:
    assert not cell().lacks({"ssim": "ssim/1"})
    assert not cell().lacks({})
    assert cell().lacks({"ssim": "ssim/2"})
    assert cell().lacks({"ssim": "ssim/1", "psnr": "psnr/1"})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "cells").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        CellStore(tmp_path / "cells")


def test_a_place_that_cannot_be_written_fails_with_what_to_do(tmp_path) -> None:
    (tmp_path / "cells").write_text("in the way")
    with pytest.raises(RunFailure, match=r"safe in .*journal"):
        CellStore(tmp_path).put([cell()])
    (tmp_path / "cells").unlink()
    assert CellStore(tmp_path).get(key()) == cell()
