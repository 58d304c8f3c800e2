"""Every module can be imported, from a checkout as from a wheel, and every architecture is selected by one setting."""

import importlib
import pkgutil

import pytest

import datlstm
import flows
import tasks
from datlstm.models import build
from datlstm.settings import load_settings, shipped_regions
from datlstm.training import network_config

MODULES = [
    module.name
    for package in (datlstm, flows, tasks)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_and_says_what_it_is_for(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("region", shipped_regions())
def test_a_shipped_region_builds_its_model(region: str) -> None:
    settings = load_settings(region)
    network = build(settings.model.name, network_config(settings))
    assert sum(parameter.numel() for parameter in network.parameters()) > 0
