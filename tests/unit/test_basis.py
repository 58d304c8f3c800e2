"""What scores rest on decides whether a row is written, what it says of its reason, and whether it is final."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import xarray as xr

from datlstm.products.basis import Basis, bases
from datlstm.settings import CopernicusSource, SourceSettings

JAN_1, JAN_2, JAN_3 = (date(2024, 1, day) for day in (1, 2, 3))
EARLY, LATE = (np.datetime64(seconds, "s") for seconds in (1_000, 2_000))
NRT, REP = "SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001", "SST_GLO_SST_L4_REP_OBSERVATIONS_010_011"
STANDING = Basis("NRT", "1", EARLY, frozenset([JAN_1, JAN_2]), 2)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (replace(STANDING, truth_product="REP", truth_ingested_at=LATE), "truth revised: NRT 1 → REP 1"),
        (replace(STANDING, truth_version="2", truth_ingested_at=LATE), "truth revised: NRT 1 → NRT 2"),
        (replace(STANDING, truth_ingested_at=LATE), "truth revised: new values of NRT 1"),
        (replace(STANDING, definitions_version=3), "definitions version 2 → 3"),
        (replace(STANDING, inits=frozenset([JAN_1, JAN_2, JAN_3])), "forecasts added: 2024-01-03"),
        (
            replace(STANDING, truth_ingested_at=LATE, inits=frozenset([JAN_1])),
            "truth revised: new values of NRT 1; forecasts left out: 2024-01-02",
        ),
        (
            replace(STANDING, definitions_version=1, inits=frozenset([JAN_2, JAN_3])),
            "definitions version 2 → 1; forecasts added: 2024-01-03; forecasts left out: 2024-01-01",
        ),
    ],
)
def test_a_new_basis_makes_a_row_that_says_why(new: Basis, reason: str) -> None:
    assert new.adds_to(STANDING)
    assert new.reason(STANDING) == reason


def test_the_first_truth_of_a_day_makes_a_row() -> None:
    assert STANDING.adds_to(None)
    assert STANDING.reason(None) == "first truth"


@pytest.mark.parametrize(
    "new",
    [
        STANDING,
        replace(STANDING, inits=frozenset([JAN_1])),
        replace(STANDING, truth_product="OLDER", truth_ingested_at=np.datetime64(0, "s")),
        replace(STANDING, truth_ingested_at=np.datetime64(0, "s"), inits=frozenset([JAN_1, JAN_2, JAN_3])),
    ],
)
def test_the_same_or_fewer_forecasts_or_an_older_truth_make_none(new: Basis) -> None:
    assert not new.adds_to(STANDING)


@pytest.mark.parametrize(
    ("kind", "product", "version", "final"),
    [
        ("copernicus", NRT, "1", False),
        ("copernicus", REP, "2", True),
        ("copernicus", NRT, f"1 (not in {REP} 2)", True),
        ("copernicus", NRT, "1 minus step abc", False),
        ("copernicus", f"SYNTHETIC-{REP}", "2", False),
        ("marine-store", f"SYNTHETIC-{NRT}", "1", False),
        ("marine-store", f"SYNTHETIC-{REP}", "2", True),
        ("files", "my files", "unversioned", True),
        ("synthetic", "SYNTHETIC-BOHAI", "1", True),
    ],
)
def test_a_truth_is_final_when_its_source_has_no_better_product_for_the_day(
    kind: str, product: str, version: str, final: bool
) -> None:
    source = SourceSettings.model_validate({"kind": kind})
    assert replace(STANDING, truth_product=product, truth_version=version).is_final(source) == final


def test_where_there_is_no_reprocessed_product_every_truth_is_final() -> None:
    source = SourceSettings(kind="copernicus", copernicus=CopernicusSource(reprocessed=None))
    assert replace(STANDING, truth_product=NRT).is_final(source)


def test_the_last_row_of_a_day_tells_what_its_scores_rest_on() -> None:
    rows = xr.Dataset(
        {
            "valid_time": ("scoring", np.array(["2024-01-03", "2024-01-04", "2024-01-03"], "datetime64[ns]")),
            "init_time": (
                ("scoring", "lead_time"),
                np.array(
                    [["2024-01-02", "NaT"], ["2024-01-03", "2024-01-02"], ["2024-01-02", "2024-01-01"]],
                    "datetime64[ns]",
                ),
            ),
            "truth_product": ("scoring", np.array(["NRT", "NRT", "REP"], object)),
            "truth_version": ("scoring", np.array(["1", "1", "2"], object)),
            "truth_ingested_at": ("scoring", np.array([1_000, 1_000, 2_000]).astype("datetime64[s]")),
            "definitions_version": ("scoring", np.array([2, 2, 2], "int16")),
        }
    )
    assert bases(rows) == {
        JAN_3: Basis("REP", "2", LATE, frozenset([JAN_1, JAN_2]), 2),
        date(2024, 1, 4): Basis("NRT", "1", EARLY, frozenset([JAN_2, JAN_3]), 2),
    }
