"""When the champion must not forecast: validation found twice running that damped persistence is better."""

import logging
from datetime import date

from datlstm.errors import DatlstmError
from datlstm.registry import Promotion
from datlstm.store import Store
from datlstm.validation.record import newest_records

log = logging.getLogger(__name__)


def fallback_reason(store: Store, promotion: Promotion, forecast_date: date) -> str | None:
    """Return why damped persistence should forecast in the champion's place that night, or None when it should not.

    It should when the two newest records up to that night, of the standing promotion and not older than
    `record.MEMORY_DAYS`, both found the champion's skill lost and worse than damped persistence. Records that can't be
    read change nothing: they are logged, and the champion forecasts.
    """
    try:
        newest = newest_records(store, forecast_date, 2)
    except DatlstmError as error:
        log.error("the champion forecasts unwatched, for a validation record can't be read: %s", error)
        return None
    if len(newest) < 2 or not all(record.is_of(promotion) and record.is_worse_than_damped for record in newest):
        return None
    later, earlier = newest
    return (
        f"validation of {earlier.as_of} and of {later.as_of} found that {promotion.bundle_id} lost its skill and is "
        f"worse than that: `datlstm retrain`, or, if you know better, `datlstm promote {promotion.bundle_id}`"
    )
