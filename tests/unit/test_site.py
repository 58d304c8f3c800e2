"""The page and the picture, and that what they point to is there."""

import io
import re
from datetime import timedelta

import matplotlib.image
import numpy as np
import pytest
import xarray as xr

from datlstm.errors import ProductError
from datlstm.ladder import nightly_forecast
from datlstm.plots import quicklook
from datlstm.products.forecast import published_days, read_init
from datlstm.products.outlook import outlook
from datlstm.products.skill import standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.settings import Settings
from datlstm.site import page as page_of
from datlstm.store import Store
from tests.derived_fields import LINEAGE, with_derived_fields
from tests.nights import publish_forecast, publish_pages, verify

FLAG_VARIABLES = ("heatwave_category", "threshold_flags")


def page(settings: Settings) -> str:
    return (Store(settings.store).read("site/index.html") or b"").decode()


@pytest.fixture
def init(published: Settings) -> xr.Dataset:
    """The newest published init with everything that is derived from a forecast."""
    found = read_init(published, published_days(published)[-1])
    assert found is not None
    return with_derived_fields(found)


def test_the_page_shows_picture_model_and_numbers(published: Settings) -> None:
    newest = published_days(published)[-1]
    verify(published, newest + timedelta(days=5))
    url = publish_pages(published)
    text, store = page(published), Store(published.store)
    assert url == store.url_of("site/index.html")
    assert f'src="../quicklook/{newest}.png"' in text
    latest = store.read_json("latest.json")
    assert latest["init_time"] == str(newest)
    assert latest["forecast_source"] == "model"
    assert latest["quicklook"] == store.url_of(f"quicklook/{newest}.png")
    assert latest["model_id"] in text
    assert "SYNTHETIC" in text
    standing = standing_skill(published)
    assert standing is not None
    skill = skill_by_lead(standing)
    for name in ("forecast", "persistence", "climatology", "damped_persistence"):
        cells = "".join(f"<td>{value:.2f}</td>" for value in skill.sel(forecaster=name).values)
        assert f"<td>{name.replace('_', ' ')}</td>{cells}" in text


def test_the_picture_is_an_image_with_colours(published: Settings) -> None:
    publish_pages(published)
    picture = Store(published.store).read(f"quicklook/{published_days(published)[-1]}.png")
    assert picture is not None and picture.startswith(b"\x89PNG\r\n")
    pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 500
    assert len({tuple(pixel) for pixel in pixels[::7, ::7, :3].reshape(-1, 3).round(2).tolist()}) > 50


def test_everything_the_page_and_the_pointer_name_is_there(published: Settings) -> None:
    publish_pages(published)
    store = Store(published.store)
    hrefs = re.findall(r'(?:href|src)="([^"]+)"', page(published))
    latest = store.read_json("latest.json")
    named = [latest["netcdf"], latest["quicklook"], latest["page"], *latest["stac"].values()]
    paths = [href.removeprefix("../") for href in hrefs] + [url.removeprefix(f"{store.url}/") for url in named]
    assert len(paths) == 10
    assert [path for path in paths if store.read(path) is None] == []
    assert latest["forecast"]["inits"] == len(published_days(published))
    assert latest["skill"]["scorings"] == 0


def test_the_page_is_made_of_its_arguments_alone(published: Settings, init: xr.Dataset) -> None:
    days = published_days(published)
    gone = published.replace(store=f"{published.store}-that-never-was")
    made = page_of(gone, init, [("forecast", [0.25, 0.5, float("nan"), 1.0])], days).decode()
    assert "<td>forecast</td><td>0.25</td><td>0.50</td><td>–</td><td>1.00</td>" in made
    assert 'href="../skill/summary.json"' in made
    assert "6\nforecasts published" in made
    assert page_of(gone, init, [("forecast", [0.25, 0.5, float("nan"), 1.0])], days).decode() == made


def test_the_page_tells_how_the_forecast_was_made(published: Settings, init: xr.Dataset) -> None:
    made = page_of(published, init, [], published_days(published)).decode()
    for name, value in {**LINEAGE, "archive_snapshot": init["archive_snapshot"].item()}.items():
        assert f"<dt>{name.replace('_', ' ')}</dt><dd>{value}</dd>" in made


def test_the_page_warns_of_heatwaves_and_thresholds(published: Settings, init: xr.Dataset) -> None:
    lines = [
        "Marine heatwaves: strong at most, over up to 25 % of the sea (day 2).",
        "Warmer than 24 celsius: over up to 50 % of the sea (day 3).",
    ]
    assert outlook(init) == lines
    made = page_of(published, init, [], published_days(published)).decode()
    assert all(f"<li>{line}</li>" in made for line in lines)


def test_a_calm_or_unknown_sea_is_told_as_that(init: xr.Dataset) -> None:
    category = init["heatwave_category"]
    calm = init.assign(heatwave_category=category.clip(max=0).assign_attrs(category.attrs)).drop_vars("threshold_flags")
    assert outlook(calm) == ["Marine heatwaves: none."]
    unknown = calm.assign(heatwave_category=(category * 0 - 1).assign_attrs(category.attrs))
    assert outlook(unknown) == ["Marine heatwaves: no category is told, for want of years to compare with."]
    assert outlook(unknown.drop_vars("heatwave_category")) == []


def test_a_heatwave_of_one_cell_is_not_rounded_away(init: xr.Dataset) -> None:
    category = init["heatwave_category"].clip(max=0)
    category.values[3][tuple(np.argwhere(init["sst"][3].notnull().values)[0])] = 4
    category.attrs = init["heatwave_category"].attrs
    assert outlook(init.assign(heatwave_category=category))[0] == (
        "Marine heatwaves: extreme at most, over less than 1 % of the sea (day 4)."
    )


def test_missing_cells_count_the_same_when_they_were_decoded_to_nan(init: xr.Dataset) -> None:
    decoded = {name: init[name].where(init[name] != -1).astype("float32") for name in FLAG_VARIABLES}
    assert outlook(init.assign(decoded)) == outlook(init)


def test_the_picture_outlines_heatwaves(init: xr.Dataset) -> None:
    def black(picture: bytes) -> int:
        pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")[150:]
        return int((pixels[..., :3].max(-1) < 0.2).sum())

    category = init["heatwave_category"]
    everywhere = init.assign(heatwave_category=category.where(category != 0, 1).assign_attrs(category.attrs))
    one_day = everywhere.isel(lead_time=[0])
    without = quicklook(one_day.drop_vars("heatwave_category"), "x")
    assert black(quicklook(one_day, "x")) > black(without) + 200


def test_publishing_twice_writes_nothing(published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_pages(published)
    written: list[str] = []
    monkeypatch.setattr(Store, "write", lambda self, path, content: written.append(path))
    publish_pages(published)
    assert written == []


def test_a_new_night_moves_the_page(published: Settings) -> None:
    publish_pages(published)
    before, newest = page(published), published_days(published)[-1]
    publish_forecast(published, nightly_forecast(published, newest + timedelta(days=2)))
    publish_pages(published)
    assert page(published) != before
    assert Store(published.store).read_json("latest.json")["init_time"] == str(newest + timedelta(days=1))
    assert Store(published.store).read(f"quicklook/{newest}.png") is not None


def test_what_settings_say_is_escaped(published: Settings) -> None:
    hostile = published.replace(
        region=published.region.model_copy(update={"title": "<script>alert('Bohai')</script> & more"})
    )
    publish_pages(hostile)
    assert "<script" not in page(hostile)
    assert "&lt;script&gt;alert(&#39;Bohai&#39;)&lt;/script&gt; &amp; more" in page(hostile)


def test_before_any_truth_the_page_says_so(published: Settings) -> None:
    publish_pages(published)
    assert "No forecast's truth has arrived yet." in page(published)
    assert "<table>" not in page(published)


def test_before_the_first_forecast_there_is_no_page(settings: Settings) -> None:
    with pytest.raises(ProductError, match="datlstm nightly"):
        publish_pages(settings)
    assert page(settings) == ""
