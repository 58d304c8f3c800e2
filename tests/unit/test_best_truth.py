"""Which product a day comes from: the better one stays, and days that it lacks are noted and not asked again."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.best_truth import (
    absent_days,
    acceptable,
    best_for,
    changed_versions,
    is_finished,
    names,
    not_worse,
    upgradable,
    with_second_choices_noted,
)
from datlstm.quality import DayQuality
from datlstm.sources.product import Product

REP = Product("REP", "2020", date(2000, 1, 1), date(2020, 12, 31))
NRT = Product("NRT", "1", date(2010, 1, 1), date(2023, 6, 14))
BOTH = [REP, NRT]
NEWER_REP = Product("REP", "20201", REP.first_day, date(2021, 12, 31))
FIRST, SECOND, THIRD = (date(2020, 12, day) for day in (29, 30, 31))
NEW_YEAR = date(2021, 1, 1)
NEVER_ASKED = ("", "", DayQuality.MISSING)

Row = tuple[str, str] | tuple[str, str, int]


def delivery(days: dict[date, Row]) -> xr.Dataset:
    """Return where each day of a delivery comes from, and its flags."""
    rows = [(*row, 0)[:3] for row in days.values()]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return xr.Dataset(
        {
            "source_product": ("time", np.array(columns[0], dtype=object)),
            "source_version": ("time", np.array(columns[1], dtype=object)),
            "quality": ("time", np.array(columns[2], "uint8")),
        },
        {"time": np.array(list(days), "datetime64[ns]")},
    )


def known(days: dict[date, Row]) -> pd.DataFrame:
    """Return what an archive says of its days, in the form of `Archive.provenance`."""
    rows: list[Any] = [(*row, 0)[:3] for row in days.values()]
    columns = ["source_product", "source_version", "quality"]
    return pd.DataFrame(rows, index=list(days), columns=columns).astype(object)


def kept(given: xr.Dataset) -> list[date]:
    return given["time"].values.astype("datetime64[D]").astype(object).tolist()


def versions(given: xr.Dataset) -> list[str]:
    return given["source_version"].values.tolist()


class TestChoice:
    @pytest.mark.parametrize(
        ("day", "product"),
        [
            (date(1999, 12, 31), None),
            (date(2000, 1, 1), REP),
            (THIRD, REP),
            (NEW_YEAR, NRT),
            (date(2023, 6, 14), NRT),
            (date(2023, 6, 15), None),
        ],
    )
    def test_the_best_product_is_the_first_that_announces_a_day(self, day: date, product: Product | None) -> None:
        assert best_for(day, BOTH) is product

    def test_a_sentence_has_all_names(self) -> None:
        assert names(BOTH) == "REP and NRT"


class TestSecondChoices:
    def test_a_day_from_a_lesser_product_says_that_the_better_one_lacks_it(self) -> None:
        given = delivery({SECOND: ("REP", "2020"), THIRD: ("NRT", "1"), NEW_YEAR: ("NRT", "1")})
        assert versions(with_second_choices_noted(given, BOTH)) == ["2020", "1 (not in REP 2020)", "1"]

    def test_an_empty_delivery_stays_one(self) -> None:
        assert versions(with_second_choices_noted(delivery({}), BOTH)) == []


class TestNotWorse:
    def test_a_lesser_product_is_not_let_over_a_better_one(self) -> None:
        given = delivery(dict.fromkeys((FIRST, SECOND, THIRD), ("NRT", "1")))
        assert kept(not_worse(given, known({FIRST: ("REP", "2020"), SECOND: ("NRT", "1")}), BOTH)) == [SECOND, THIRD]

    def test_the_same_or_a_better_product_is(self) -> None:
        given = delivery({FIRST: ("REP", "2021"), SECOND: ("REP", "2021")})
        assert kept(not_worse(given, known({FIRST: ("REP", "2020"), SECOND: ("NRT", "1")}), BOTH)) == [FIRST, SECOND]

    def test_a_product_that_the_source_no_longer_has_is_the_least(self) -> None:
        given = delivery({FIRST: ("NRT", "1")})
        assert kept(not_worse(given, known({FIRST: ("OLD", "9")}), BOTH)) == [FIRST]

    @pytest.mark.parametrize("flags", [DayQuality.OUT_OF_RANGE, DayQuality.MISSING, DayQuality.REPEATED])
    def test_what_is_not_usable_is_no_obstacle(self, flags: int) -> None:
        given = delivery({FIRST: ("NRT", "1")})
        assert kept(not_worse(given, known({FIRST: ("REP", "2020", flags)}), BOTH)) == [FIRST]

    def test_a_usable_day_with_a_warning_is(self) -> None:
        given = delivery({FIRST: ("NRT", "1")})
        assert kept(not_worse(given, known({FIRST: ("REP", "2020", DayQuality.JUMP)}), BOTH)) == []

    def test_without_an_archive_all_is_taken(self) -> None:
        assert kept(not_worse(delivery({FIRST: ("NRT", "1")}), None, BOTH)) == [FIRST]


def test_an_unusable_day_is_acceptable_only_where_there_is_no_usable_one() -> None:
    bad = DayQuality.OUT_OF_RANGE
    given = delivery({FIRST: ("REP", "2020", bad), SECOND: ("REP", "2020", bad), THIRD: ("REP", "2020")})
    assert acceptable(given, known({FIRST: ("NRT", "1"), SECOND: ("NRT", "1", bad)})) == {SECOND, THIRD}
    assert acceptable(given, None) == {FIRST, SECOND, THIRD}


class TestAbsentDays:
    def test_days_that_did_not_come_are_those_of_the_best_product_that_announces_them(self) -> None:
        unannounced = date(2023, 6, 15)
        assert absent_days({FIRST}, None, FIRST, NEW_YEAR, BOTH) == {
            SECOND: ("REP", "2020"),
            THIRD: ("REP", "2020"),
            NEW_YEAR: ("NRT", "1"),
        }
        assert absent_days(set(), None, unannounced, unannounced, BOTH) == {}

    def test_a_day_that_is_held_keeps_its_origin_and_gets_the_note(self) -> None:
        held = known({FIRST: ("NRT", "1 minus step ab"), SECOND: ("REP", "2019"), THIRD: NEVER_ASKED})
        assert absent_days(set(), held, FIRST, THIRD, BOTH) == {
            FIRST: ("NRT", "1 minus step ab (not in REP 2020)"),
            SECOND: ("REP", "2019 (not in REP 2020)"),
            THIRD: ("REP", "2020"),
        }

    def test_an_older_note_gives_way(self) -> None:
        held = known({FIRST: ("NRT", "1 (not in REP 2019) minus step ab")})
        assert absent_days(set(), held, FIRST, FIRST, BOTH) == {FIRST: ("NRT", "1 minus step ab (not in REP 2020)")}

    def test_what_is_noted_or_best_already_is_not_noted_again(self) -> None:
        held = known({FIRST: ("NRT", "1 (not in REP 2020)"), SECOND: ("REP", "2020"), THIRD: ("REP", "2020", 1)})
        assert absent_days(set(), held, FIRST, THIRD, BOTH) == {}


class TestFinished:
    def test_when_every_day_is_usable_from_its_best_product_or_known_to_be_absent(self) -> None:
        days: dict[date, Row] = {
            FIRST: ("REP", "2020"),
            SECOND: ("REP", "2020", DayQuality.MISSING),
            THIRD: ("NRT", "1 (not in REP 2020)"),
            NEW_YEAR: ("NRT", "1"),
        }
        assert is_finished(known(days), FIRST, NEW_YEAR, BOTH)

    @pytest.mark.parametrize(
        "row",
        [NEVER_ASKED, ("REP", "2020", DayQuality.OUT_OF_RANGE), ("NRT", "1"), ("REP", "2019"), None],
        ids=["never asked", "unusable", "second choice", "older version", "not on the axis"],
    )
    def test_not_when_one_day_can_be_had_better(self, row: Row | None) -> None:
        days: dict[date, Row] = {FIRST: ("REP", "2020"), **({} if row is None else {SECOND: row})}
        assert not is_finished(known(days), FIRST, SECOND, BOTH)

    def test_days_that_no_product_announces_are_not_waited_for(self) -> None:
        assert is_finished(known({NRT.last_day: ("NRT", "1")}), NRT.last_day, NRT.last_day + timedelta(9), BOTH)


class TestUpgradable:
    def stale(self, days: dict[date, Row], products: list[Product] = BOTH, most: int = 366) -> Any:
        return upgradable(known(days), products, date(2023, 6, 1), most)

    def test_days_of_a_lesser_product_when_a_better_one_announces_them(self) -> None:
        days: dict[date, Row] = {
            FIRST: ("REP", "2020"),
            SECOND: ("NRT", "1"),
            THIRD: ("NRT", "1"),
            NEW_YEAR: ("NRT", "1"),
        }
        assert self.stale(days) == (SECOND, THIRD)

    def test_none_when_all_is_as_good_as_it_gets(self) -> None:
        days: dict[date, Row] = {FIRST: ("REP", "2020"), SECOND: ("NRT", "1 (not in REP 2020)"), NEW_YEAR: ("NRT", "1")}
        assert self.stale(days) is None

    def test_a_note_counts_although_the_step_was_taken_off_afterwards(self) -> None:
        assert self.stale({SECOND: ("NRT", "1 (not in REP 2020) minus step abc")}) is None

    def test_a_new_version_of_the_reprocessed_record_even_if_the_old_one_is_its_beginning(self) -> None:
        assert self.stale({FIRST: ("REP", "2020")}, [NEWER_REP, NRT]) == (FIRST, FIRST)
        assert self.stale({FIRST: ("REP", "20201")}, BOTH) == (FIRST, FIRST)

    def test_a_note_about_an_older_version_is_asked_again(self) -> None:
        assert self.stale({FIRST: ("NRT", "1 (not in REP 2020)")}, [NEWER_REP, NRT]) == (FIRST, FIRST)

    def test_a_new_version_of_the_last_product_leaves_history_alone(self) -> None:
        assert self.stale({NEW_YEAR: ("NRT", "0")}) is None

    def test_a_better_day_is_not_stale_when_its_product_announces_less_by_now(self) -> None:
        assert self.stale({NEW_YEAR: ("REP", "2020")}) is None

    def test_a_day_never_asked_for_is_left_to_a_backfill(self) -> None:
        assert self.stale({FIRST: NEVER_ASKED}) is None

    def test_a_day_once_asked_for_in_vain_is_asked_of_the_better_product(self) -> None:
        assert self.stale({FIRST: ("NRT", "1", DayQuality.MISSING)}) == (FIRST, FIRST)

    def test_the_interval_starts_with_the_oldest_and_is_bounded(self) -> None:
        days: dict[date, Row] = {FIRST + timedelta(days=i): ("NRT", "1") for i in (0, 1, 400)}
        assert self.stale(days, [NEWER_REP, NRT]) == (FIRST, SECOND)
        assert self.stale({FIRST: ("NRT", "1"), SECOND: ("NRT", "1")}, most=1) == (FIRST, FIRST)

    def test_the_night_s_own_window_is_not_touched(self) -> None:
        assert upgradable(known({FIRST: ("NRT", "1"), SECOND: ("NRT", "1")}), BOTH, SECOND, 366) == (FIRST, FIRST)


class TestChangedVersions:
    def test_a_version_that_the_provider_changed_is_told_once_for_each_product(self) -> None:
        (line,) = changed_versions(
            delivery({NEW_YEAR: ("NRT", "2")}), known({FIRST: ("REP", "7"), THIRD: ("NRT", "1")})
        )
        assert "NRT comes in version 2, the archive's newest day of it in 1" in line

    def test_what_this_service_noted_behind_a_version_is_no_change(self) -> None:
        had = known({FIRST: ("NRT", "1 (not in REP 2020)"), SECOND: ("NRT", "1 minus step 47c39eb97ea0")})
        assert changed_versions(delivery({THIRD: ("NRT", "1")}), had) == []

    def test_the_first_day_of_a_product_changes_nothing(self) -> None:
        assert changed_versions(delivery({THIRD: ("NRT", "1")}), known({FIRST: ("REP", "2020")})) == []
        assert changed_versions(delivery({THIRD: ("NRT", "1")}), None) == []
