"""The published cubes' metadata, as a file in the repository: a change of dtype, chunk or attribute is a visible diff.

``python -m tests.contract.test_structure`` writes the files anew.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from datlstm.products.forecast import forecast_cube
from datlstm.products.skill import skill_cube
from datlstm.settings import load_settings
from datlstm.store import as_json

FOLDER = Path(__file__).parents[2] / "docs" / "structure"
CUBES = {"forecast.zarr": forecast_cube, "skill.zarr": skill_cube}


def structure(name: str, folder: str) -> dict[str, Any]:
    """The root document of an empty cube of the shipped region."""
    return CUBES[name](load_settings("bohai").replace(store=folder)).structure()


@pytest.mark.parametrize("name", CUBES)
def test_the_cubes_metadata_are_those_of_the_file_in_the_repository(name: str, tmp_path: Path) -> None:
    assert structure(name, str(tmp_path)) == json.loads((FOLDER / f"{name}.json").read_text())


if __name__ == "__main__":
    assert not [name for name in os.environ if name.startswith("DATLSTM_")], "unset DATLSTM_* first"
    with tempfile.TemporaryDirectory() as empty:
        for cube in CUBES:
            (FOLDER / f"{cube}.json").write_bytes(as_json(structure(cube, empty)))
