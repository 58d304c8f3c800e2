"""What a person opens: the night's picture, the static page, and ``latest.json`` that points to them."""

from datetime import date

from jinja2 import Environment, PackageLoader

from datlstm.archive import Archive
from datlstm.errors import ProductError
from datlstm.ladder import ForecastSource
from datlstm.plots import quicklook
from datlstm.products.forecast import FORECAST_PATH, published_days, read_init
from datlstm.products.skill import FORECASTERS, SKILL_PATH, standing_skill
from datlstm.products.skill_summary import skill_by_lead
from datlstm.settings import Settings
from datlstm.store import Store

LATEST = "latest.json"
PAGE = "site/index.html"


def publish_site(settings: Settings) -> str:
    """Draw the newest published forecast, write page and pointer, and return the page's URL.

    What is already there, byte for byte, is not written again. Raises `ProductError` when nothing was published yet.
    """
    days = published_days(settings)
    if not days:
        raise ProductError("nothing is published yet: run `datlstm nightly`")
    newest = days[-1]
    init = read_init(settings, newest)
    assert init is not None
    store = Store(settings.store)
    picture = f"quicklook/{newest}.png"
    title = f"{settings.region.title}: forecast from {newest}"
    if settings.source.is_synthetic:
        title += " (SYNTHETIC sea, not observations)"
    latest = {
        "init_time": str(newest),
        "model_id": str(init["model_id"].values),
        "forecast_source": ForecastSource(int(init["forecast_source"])).name.lower(),
        "input_age_days": int(init["input_age_days"]),
        "forecast": store.url_of(FORECAST_PATH),
        "skill": store.url_of(SKILL_PATH),
        "quicklook": store.url_of(picture),
    }
    _write_if_new(store, picture, quicklook(init, title))
    _write_if_new(store, PAGE, _page(settings, title, latest, f"../{picture}", days).encode())
    if store.read_json(LATEST) != latest:
        store.write_json(LATEST, latest)
    return store.url_of(PAGE)


def _write_if_new(store: Store, path: str, content: bytes) -> None:
    if store.read(path) != content:
        store.write(path, content)


def _page(settings: Settings, title: str, latest: dict[str, object], picture: str, days: list[date]) -> str:
    standing = standing_skill(settings)
    skill = None if standing is None else skill_by_lead(standing)
    rows = (
        [] if skill is None else [(name.replace("_", " "), skill.sel(forecaster=name).values) for name in FORECASTERS]
    )
    environment = Environment(loader=PackageLoader("datlstm", "site"), autoescape=True)
    return environment.get_template("page.html").render(
        title=title,
        latest=latest,
        picture=picture,
        rows=rows,
        leads=range(1, settings.model.lead_days + 1),
        count=len(days),
        attribution=Archive(settings).attribution(),
        location=Store(settings.store).location_of(FORECAST_PATH),
    )
