"""The Ray that a run starts: who can reach it, what it leaves behind, and how a signal meets its start."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avprep.execution import RunnerConfig, RunnerError, open_runner
from avprep.execution.cluster import _private_folder

RAY_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
TOP = Path(__file__).parents[3]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for temporary files; its path is short, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def family(process: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(processes: set[int]) -> set[str]:
    """The local addresses, in the kernel's hexadecimal, at which the processes wait for connections."""
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
    "00000000000000000000000001000000",  # ::1
}


def make_file(path: str) -> None:
    Path(path).touch()


STRANGER = """
import ray, sys
try:
    ray.init(address=sys.argv[1], logging_level="ERROR")
except Exception as error:
    print("refused", type(error).__name__)
else:
    print("let in")
"""


def ask_as_a_stranger(address: str, token: Path) -> str:
    """What a process with another token gets at the cluster's address."""
    token.write_text("0" * 64)
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, "-c", STRANGER, address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "refused without an answer"
    return done.stdout


@pytest.mark.timeout(150)
def test_a_cluster_that_is_started_is_closed_to_others_and_leaves_nothing(temporary, tmp_path):
    import ray

    before = {name: os.environ.get(name) for name in RAY_VARIABLES}
    made = tmp_path / "made"
    with open_runner(RunnerConfig(workers=1)) as runner:
        assert list(runner.map(make_file, [str(made)], lambda: False))
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
        assert list(folder.glob("ray/session_*")), "Ray's files are elsewhere"
        found = listening(family(os.getpid()))
        assert found and found <= LOOPBACK
        address = ray.get_runtime_context().gcs_address
        assert "refused" in ask_as_a_stranger(address, tmp_path / "token")
    assert not list(temporary.iterdir())
    assert {name: os.environ.get(name) for name in RAY_VARIABLES} == before
    (tmp_path / "ours").touch()
    assert made.stat().st_mode == (tmp_path / "ours").stat().st_mode, "workers write with another umask"


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_one_process_may_start_several_in_turn_and_none_is_anothers(monkeypatch):
    """Ray attaches to a cluster that it finds unless it is asked for its own; each has a token of its own."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "somebody else's, from the environment")
    for _ in range(2):
        with open_runner(RunnerConfig(workers=1)) as runner:
            assert [result for _, result in runner.map(abs, [-1], lambda: False)] == [1]
    assert os.environ["RAY_AUTH_TOKEN"] == "somebody else's, from the environment"


def test_a_ray_that_listens_to_other_machines_is_not_used(temporary, monkeypatch):
    import ray

    started, ended = [], []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    with pytest.raises(RunnerError, match=r"workers = 2: Ray listens on 192\.0\.2\.7"):
        with open_runner(RunnerConfig(workers=2)):
            pass
    assert started and ended and not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "workers = 2: Ray does not start"),
        ("10.0.0.1:6379", "address = 10.0.0.1:6379: Ray does not answer"),
    ],
)
def test_a_ray_that_fails_is_named_with_the_argument(address, message, temporary, monkeypatch):
    import ray

    def fail(**options):
        raise ConnectionError("no route")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RunnerError, match=rf"{message} \(no route\)"):
        with open_runner(RunnerConfig(workers=2, address=address)):
            pass
    assert not list(temporary.iterdir())


def test_a_temporary_folder_with_a_path_too_long_for_sockets_is_not_used(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with _private_folder() as folder:
        assert folder.parent == Path("/tmp")
    assert not folder.exists()


_OWNER = """
import sys
from avprep.execution.cluster import _private_folder
with _private_folder() as folder:
    (folder / "ray").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


def _start_owner() -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder, and the folder."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return owner, Path(owner.stdout.readline().strip())


@pytest.mark.timeout(120)
def test_the_next_run_removes_the_folder_of_a_killed_one_and_no_other(temporary):
    killed, abandoned = _start_owner()
    running, in_use = _start_owner()
    killed.kill()
    killed.wait()
    others = {name: temporary / name for name in ("avprep-new", "avprep-open", "other", "avprep-link")}
    for name in ("avprep-new", "avprep-open", "other"):
        others[name].mkdir(mode=0o700)
    (others["avprep-open"] / "run.lock").touch()  # unlocked, and anyone could have put it there
    others["avprep-open"].chmod(0o755)
    (others["other"] / "run.lock").touch()
    others["avprep-link"].symlink_to(others["other"])
    assert abandoned.exists() and in_use.exists()
    with _private_folder() as folder:
        assert not abandoned.exists()
        assert set(temporary.iterdir()) == {folder, in_use, *others.values()}
        assert (others["other"] / "run.lock").exists()
    running.communicate("", timeout=60)
    assert not in_use.exists()


def test_folders_of_another_user_are_not_removed(temporary, monkeypatch):
    killed, abandoned = _start_owner()
    killed.kill()
    killed.wait()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with _private_folder():
        assert abandoned.exists()


def test_no_usable_temporary_folder_is_a_message(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunnerError, match="Set TMPDIR, or use workers = 0"):
        with _private_folder():
            pass


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_sigterm_while_ray_starts_ends_the_command_with_143(temporary, clip_root, tmp_path):
    command = ["clip", "--dataset", "folder", "--root", clip_root, "--out", tmp_path / "out", "--workers", 1]
    run = subprocess.Popen(
        [sys.executable, "-m", "avprep", *map(str, command)], cwd=TOP, stderr=subprocess.PIPE, text=True
    )
    while not list(temporary.glob("avprep-*/ray/session_*/logs")) and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(signal.SIGTERM)
    _, messages = run.communicate(timeout=100)
    assert run.returncode == 143, messages
    assert "Traceback" not in messages and not list(temporary.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_sigterm_during_a_run_is_answered_by_the_run_alone(temporary, capfd):
    """Ray's native handler would write its stack first, and end the process at the second signal."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with open_runner(RunnerConfig(workers=1)) as runner:
            for _ in runner.map(abs, [-1], lambda: False):
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM] * 2
    assert "SIGTERM received" not in capfd.readouterr().err
