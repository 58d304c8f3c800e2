"""What a fresh process with xarray and s3fs alone needs to read published stores: seconds, requests, bytes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import benchmarks.cold_reader
from benchmarks.invented_nights import FIRST_INIT, Table, filled
from datlstm.products.forecast import FORECAST_PATH
from datlstm.products.series import series_path, write_series
from datlstm.products.skill import SKILL_PATH
from datlstm.settings import Settings

YEAR = 365


def cold_reads(settings: Settings, root: str, ages: Sequence[int], repeats: int) -> Table:
    """Return what a fresh process needs to answer each question of stores of several ages, in turns."""
    stores = {age: filled(settings, root, age).settings.store for age in ages}
    questions = {("newest", FORECAST_PATH): stores, ("recent_scores", SKILL_PATH): stores}
    return [
        row
        for (question, path), urls in questions.items()
        for row in _read_in_turns(question, {f"{age}": f"{url}/{path}" for age, url in urls.items()}, repeats)
    ]


def point_reads(settings: Settings, root: str, repeats: int) -> Table:
    """Return what a year at one cell takes from the cube and from its yearly copy, which is made if need be."""
    own = filled(settings, root, YEAR).settings
    write_series(own, FIRST_INIT.year)
    urls = {"cube": f"{own.store}/{FORECAST_PATH}", "yearly copy": f"{own.store}/{series_path(FIRST_INIT.year)}"}
    return _read_in_turns("point", urls, repeats)


def ask(url: str, question: str) -> dict[str, Any]:
    """Return what `benchmarks.cold_reader` tells of one question, asked of a URL by a fresh process."""
    command = [sys.executable, "-I", benchmarks.cold_reader.__file__, url, question]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return answer


def _read_in_turns(question: str, urls: dict[str, str], repeats: int) -> Table:
    answers: dict[str, list[dict[str, Any]]] = {label: [] for label in urls}
    for _ in range(repeats):
        for label, url in urls.items():
            answers[label].append(ask(url, question))
    first = median(answer["processor_seconds"] for answer in next(iter(answers.values())))
    return [_told(question, label, own, first) for label, own in answers.items()]


def _told(question: str, label: str, answers: Sequence[dict[str, Any]], first: float) -> dict[str, str]:
    parts = ("import", "open", "read", "processor")
    seconds = {name: median(answer[f"{name}_seconds"] for answer in answers) for name in parts}
    last = answers[-1]
    return {
        "question": question,
        "of": label,
        "import s": f"{seconds['import']:.2f}",
        "open s": f"{seconds['open']:.2f}",
        "read s": f"{seconds['read']:.2f}",
        "processor s": f"{seconds['processor']:.2f}",
        "times the first": f"{seconds['processor'] / first:.2f}",
        **{verb: f"{last['requests'].get(verb, 0)}" for verb in ("GET", "HEAD", "LIST")},
        "to open": f"{last['at_opening']}",
        "documents": f"{last['documents']}",
        "asked for in vain": f"{last['absent']}",
        "kB": f"{last['bytes'] / 1e3:.0f}",
    }
