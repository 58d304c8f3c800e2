"""Work goes where the settings say, and the process is left as it was."""

import gc
from typing import Any

import pytest
import torch
from distributed import Client, LocalCluster, default_client

from datlstm import compute
from datlstm.compute import dask_compute, torch_threads
from datlstm.errors import SettingsError
from datlstm.settings import Settings


def test_without_a_scheduler_dask_stays_in_the_process(settings: Settings) -> None:
    with dask_compute(settings), pytest.raises(ValueError, match="No client"):
        default_client()


def test_a_scheduler_is_used_inside_the_block_only(settings: Settings) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        with dask_compute(settings.replace(dask_scheduler=cluster.scheduler_address)):
            assert default_client().scheduler.address == cluster.scheduler_address
        with pytest.raises(ValueError, match="No client"):
            default_client()


@pytest.mark.parametrize("address", ["carrier-pigeon://roof", "tcp://127.0.0.1"])
def test_an_address_that_is_none_is_a_setting_to_correct_and_leaves_no_client(settings: Settings, address: str) -> None:
    with pytest.raises(SettingsError, match=f"no Dask scheduler answers at {address}: start it or unset it"):
        with dask_compute(settings.replace(dask_scheduler=address)):
            pass
    # Half-open clients hang in their own deletion.
    assert not [found for found in gc.get_objects() if type(found) is Client and found.status != "closed"]


def test_a_scheduler_without_workers_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "CONNECT_SECONDS", 0.5)
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        with pytest.raises(SettingsError, match="has no worker after 0.5 s: start some, or unset it"):
            with dask_compute(settings.replace(dask_scheduler=cluster.scheduler_address)):
                pass


def test_a_worker_of_another_release_is_told_with_both_versions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = Client.get_versions

    def of_another_release(client: Client, **options: Any) -> Any:
        found: Any = versions(client, **options)
        for worker in found["workers"].values():
            worker["packages"] = {**worker["packages"], "datlstm": "0.0.9"}
        return found

    monkeypatch.setattr(Client, "get_versions", of_another_release)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None
    ) as cluster:
        with pytest.raises(SettingsError, match="has datlstm 0.0.9, this process datlstm .*start workers of this rel"):
            with dask_compute(settings.replace(dask_scheduler=cluster.scheduler_address)):
                pass


def test_threads_of_torch_are_given_back_even_after_a_failure() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before
