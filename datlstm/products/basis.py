"""What the scores of a day rest on: which truth, which forecasts, which definitions. A new basis makes a new row."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import xarray as xr

from datlstm.best_truth import NOTE
from datlstm.settings import SourceSettings
from datlstm.sources.copernicus import SYNTHETIC


@dataclass(frozen=True)
class Basis:
    """Product and version of a day's truth and when the archive took it in, the inits scored, and the definitions."""

    truth_product: str
    truth_version: str
    truth_ingested_at: np.datetime64
    inits: frozenset[date]
    definitions_version: int

    def adds_to(self, standing: "Basis | None") -> bool:
        """Tell whether scores on this basis say more than the standing ones, which may rest on a later truth."""
        if standing is None:
            return True
        if self._truth != standing._truth:
            return bool(self.truth_ingested_at >= standing.truth_ingested_at)
        return self.definitions_version != standing.definitions_version or not self.inits <= standing.inits

    def reason(self, standing: "Basis | None") -> str:
        """Return, in words, why a row on this basis follows the standing one."""
        if standing is None:
            return "first truth"
        reasons = []
        name, former = (f"{b.truth_product} {b.truth_version}" for b in (self, standing))
        if name != former:
            reasons.append(f"truth revised: {former} → {name}")
        elif self._truth != standing._truth:
            reasons.append(f"truth revised: new values of {name}")
        if self.definitions_version != standing.definitions_version:
            reasons.append(f"definitions version {standing.definitions_version} → {self.definitions_version}")
        for what, inits in (("added", self.inits - standing.inits), ("left out", standing.inits - self.inits)):
            if inits:
                reasons.append(f"forecasts {what}: {', '.join(map(str, sorted(inits)))}")
        return "; ".join(reasons)

    def is_final(self, source: SourceSettings) -> bool:
        """Tell whether the truth is of the best product the source has for the day: the reprocessed one if it has one.

        A day that the reprocessed product was found to lack is noted so in its version, and final as it is.
        """
        better = source.copernicus.reprocessed
        if source.kind in ("files", "synthetic") or better is None:
            return True
        best = SYNTHETIC + better.product if source.is_synthetic else better.product
        return self.truth_product == best or NOTE.search(self.truth_version) is not None

    @property
    def _truth(self) -> tuple[str, str, np.datetime64]:
        return self.truth_product, self.truth_version, self.truth_ingested_at


def bases(rows: xr.Dataset) -> dict[date, Basis]:
    """Return what the last row of each valid day rests on; ``rows`` is a piece of the log ``(scoring, …)``."""
    inits = rows["init_time"].transpose("scoring", "lead_time").values.astype("datetime64[D]")
    columns = (
        rows["truth_product"].values,
        rows["truth_version"].values,
        rows["truth_ingested_at"].values.astype("datetime64[s]"),
        (frozenset(row[~np.isnat(row)].tolist()) for row in inits),
        rows["definitions_version"].values,
    )
    days = rows["valid_time"].values.astype("datetime64[D]").tolist()
    return {
        day: Basis(str(product), str(version), ingested_at, own, int(definitions))
        for day, product, version, ingested_at, own, definitions in zip(days, *columns, strict=True)
    }
