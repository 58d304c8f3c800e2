"""The page, the picture and the pointer."""

import io
from datetime import timedelta

import matplotlib.image
import pytest

from datlstm.errors import ProductError
from datlstm.ladder import nightly_forecast
from datlstm.products.forecast import publish_forecast, published_days
from datlstm.products.scoring import verify
from datlstm.products.skill import standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.settings import Settings
from datlstm.site import publish_site
from datlstm.store import Store


def page(settings: Settings) -> str:
    return (Store(settings.store).read("site/index.html") or b"").decode()


def test_the_page_shows_picture_model_and_numbers(published: Settings) -> None:
    newest = published_days(published)[-1]
    verify(published, newest + timedelta(days=5))
    url = publish_site(published)
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
    publish_site(published)
    picture = Store(published.store).read(f"quicklook/{published_days(published)[-1]}.png")
    assert picture is not None and picture.startswith(b"\x89PNG\r\n")
    pixels = matplotlib.image.imread(io.BytesIO(picture), format="png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 500
    assert len({tuple(pixel) for pixel in pixels[::7, ::7, :3].reshape(-1, 3).round(2).tolist()}) > 50


def test_publishing_twice_writes_nothing(published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_site(published)
    written: list[str] = []
    monkeypatch.setattr(Store, "write", lambda self, path, content: written.append(path))
    publish_site(published)
    assert written == []


def test_a_new_night_moves_the_page(published: Settings) -> None:
    publish_site(published)
    before, newest = page(published), published_days(published)[-1]
    publish_forecast(published, nightly_forecast(published, newest + timedelta(days=2)))
    publish_site(published)
    assert page(published) != before
    assert Store(published.store).read_json("latest.json")["init_time"] == str(newest + timedelta(days=1))
    assert Store(published.store).read(f"quicklook/{newest}.png") is not None


def test_what_settings_say_is_escaped(published: Settings) -> None:
    hostile = published.replace(
        region=published.region.model_copy(update={"title": "<script>alert('Bohai')</script> & more"})
    )
    publish_site(hostile)
    assert "<script" not in page(hostile)
    assert "&lt;script&gt;alert(&#39;Bohai&#39;)&lt;/script&gt; &amp; more" in page(hostile)


def test_before_any_truth_the_page_says_so(published: Settings) -> None:
    publish_site(published)
    assert "No forecast's truth has arrived yet." in page(published)
    assert "<table>" not in page(published)


def test_before_the_first_forecast_there_is_no_page(settings: Settings) -> None:
    with pytest.raises(ProductError, match="datlstm nightly"):
        publish_site(settings)
    assert page(settings) == ""
