"""What a kernel's process reaches, and that nothing of it is left once it was ended."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import textwrap
from itertools import product
from pathlib import Path

import pytest

from pytest_avo.core.evaluation import KERNEL
from pytest_avo.evaluation.linux import memory_use, sandbox
from pytest_avo.evaluation.linux.mounts import OWN_MOUNTS
from pytest_avo.evaluation.linux.removal import remove_tree
from tests import ROOT
from tests.evaluation.conftest import SECRET
from tests.evaluation.laboratory import ESCAPES, Laboratory, kernel

PROBE = """
def attempt(what):
    try:
        return repr(what())
    except Exception as error:
        return type(error).__name__

"""


def seen(laboratory: Laboratory, **attempts: str) -> dict[str, str]:
    """What expressions evaluate to inside a kernel's process, or the name of the error that they raise."""
    pairs = ", ".join(f"{name}=attempt(lambda: {code})" for name, code in attempts.items())
    ending = laboratory.run(kernel(f"print('SEEN', json.dumps(dict({pairs})), flush=True)\nos._exit(3)", top=PROBE))
    assert ending.reason == "process exited with status 3 in check", ending
    found: dict[str, str] = json.loads(ending.log.rpartition("SEEN ")[2])
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    path.write_text("precious\n")
    return path


@pytest.fixture
def apart(confined: Laboratory, layers: tuple[str, ...]) -> Laboratory:
    """Where files and processes of others are out of a kernel's reach, and so more is left to it."""
    if "own mounts" not in layers or not any(layer.startswith("landlock") for layer in layers):
        pytest.skip("this machine, a container perhaps, offers no mounts of one's own: modes and /dev/shm are refused")
    return confined


@pytest.fixture
def unreached(confined: Laboratory, layers: tuple[str, ...]) -> Laboratory:
    """Where files of others are out of a kernel's reach."""
    if not any(layer.startswith("landlock") for layer in layers):
        pytest.skip("this machine, a container perhaps, has no Landlock")
    return confined


@pytest.fixture(scope="session")
def layers() -> tuple[str, ...]:
    """What this machine offers."""
    return sandbox.offered_layers()


def test_no_secret_is_in_the_environment(laboratory: Laboratory) -> None:
    # Only what kernels need is handed on, so a secret need not look like one to be kept back.
    assert os.environ["OPENAI_API_KEY"] == os.environ["HARMLESS_NAME"] == SECRET
    found = seen(laboratory, now="sorted(os.environ)", first="open('/proc/self/environ').read()")
    assert SECRET not in found["first"]
    allowed = {"PATH", "HOME", "TMPDIR", "LC_ALL", "OMP_NUM_THREADS", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "CUDA_HOME"}
    allowed |= {"TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH"}
    allowed |= {"CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "CC", "CXX", "USER", "LOGNAME"}
    # Libraries that the fork server imports set flags of their own.
    extra = {
        name for name in json.loads(found["now"].replace("'", '"')) if not name.startswith(("TORCH", "KMP", "MKL"))
    }
    assert extra <= allowed


def test_a_confined_kernel_reads_nothing_of_the_users(unreached: Laboratory, victim: Path) -> None:
    found = seen(
        unreached,
        project=f"open({str(ROOT / 'pyproject.toml')!r}).read()",
        folder=f"os.listdir({str(ROOT)!r})",
        file=f"open({str(victim)!r}).read()",
        home=f"os.listdir({str(Path.home())!r})",
        judge=f"open('/proc/{os.getpid()}/environ').read()",
        parent="open(f'/proc/{os.getppid()}/environ').read()",
        others="[x for x in os.listdir('/proc') if x.isdigit()]",
        box="os.listdir('..')",
    )
    assert set(found.values()) <= {"PermissionError", "FileNotFoundError"}


def test_a_confined_kernel_writes_to_its_own_folder_alone(unreached: Laboratory, victim: Path) -> None:
    here = tempfile.gettempdir()
    found = seen(
        unreached,
        own="open(os.path.join(tempfile.gettempdir(), 'x'), 'w').write('x')",
        compiled="subprocess.run(['sh', '-c', 'echo x > compiled && cat compiled'], capture_output=True).stdout",
        over=f"open({str(victim)!r}, 'w')",
        cut=f"os.truncate({str(victim)!r}, 0)",
        gone=f"os.remove({str(victim)!r})",
        beside=f"open({str(victim.parent / 'new')!r}, 'w')",
        temporary=f"open({here + '/avo-escaped'!r}, 'w')",
        project=f"open({str(ROOT / 'kernels' / 'escaped.py')!r}, 'w')",
        home="open(os.path.join('..', 'x'), 'w')",
    )
    assert found.pop("own") == "1"
    assert found.pop("compiled") == repr(b"x\n")
    assert set(found.values()) <= {"PermissionError", "FileNotFoundError", "OSError"}  # the last: read-only
    assert victim.read_text() == "precious\n"


def test_a_confined_kernel_changes_nothing_about_files_of_others(confined: Laboratory, victim: Path) -> None:
    if OWN_MOUNTS not in confined.spawner.layers:
        pytest.skip("this machine offers no mounts of one's own")
    before = victim.stat()
    path = repr(str(victim))
    found = seen(
        confined,
        mode=f"os.chmod({path}, 0o4777)",
        folder=f"os.chmod({str(victim.parent)!r}, 0o777)",
        times=f"os.utime({path}, (1, 1))",
        attribute=f"os.setxattr({path}, 'user.mine', b'1')",
        owner=f"os.chown({path}, os.getuid(), os.getgid())",
        own_mode="os.chmod('.', 0o700)",
    )
    assert found.pop("own_mode") == "None"
    assert set(found.values()) <= {"OSError", "PermissionError"}
    assert victim.stat() == before


@pytest.mark.parametrize("name", ["memfd", "shared mapping", "children"])
def test_memory_that_no_limit_counts_is_counted(confined: Laboratory, name: str) -> None:
    hog = {
        "memfd": "x = os.memfd_create('x')\nfor _ in range(20): os.write(x, bytes(64 << 20))",
        "shared mapping": "import mmap\nx = mmap.mmap(-1, 3 << 29)\nfor i in range(0, 3 << 29, 4096): x[i] = 1",
        "children": "for _ in range(3):\n    if not os.fork():\n        x = b'x' * (450 << 20)\n        time.sleep(9)",
    }[name]
    ending = confined.run(kernel(hog + "\ntime.sleep(9)"))
    assert ending.outcome == "crashed"
    assert "GiB of memory, the limit is 1.0 GiB" in ending.reason or "File too large" in ending.reason


def test_memory_is_counted_also_where_others_free_as_much(
    confined: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_use, "free_bytes", lambda: 1 << 40)
    ending = confined.run(
        kernel("x = os.memfd_create('x')\nfor _ in range(20): os.write(x, bytes(64 << 20))\ntime.sleep(9)")
    )
    assert "GiB of memory, the limit is 1.0 GiB" in ending.reason


def test_a_deep_tree_without_permissions_is_removed(apart: Laboratory, tmp_path: Path) -> None:
    top = """
    here = os.open(".", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d"), os.chdir("d")
    open("x", "w").close()
    os.chmod(".", 0)
    os.fchdir(here)
    os.chmod("d", 0), os.chmod(".", 0)
    """
    for _ in range(2):
        assert apart.run(kernel(top="if not os.path.exists('d'):" + textwrap.indent(top, "    "))).outcome == "ok"
        apart.end()
    box = tmp_path / "box"
    (apart.spawner.box / "kernels").rename(box)
    remove_tree(box)
    assert not box.exists()


def test_a_confined_kernel_reaches_no_network_and_no_other_process(unreached: Laboratory) -> None:
    found = seen(
        unreached,
        tcp="socket.create_connection(('127.0.0.1', 9), timeout=1)",
        udp="socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        local="socket.socket(socket.AF_UNIX)",
        judge=f"os.kill({os.getpid()}, 0)",
        fork_server=f"os.kill({unreached.spawner._process.pid if unreached.spawner._process else 0}, 0)",
        name="socket.sethostname('mine')",
    )
    assert set(found.values()) <= {"PermissionError", "ProcessLookupError"}


def test_a_confined_kernel_makes_no_namespaces_and_shares_no_memory(confined: Laboratory) -> None:
    found = seen(
        confined,
        clone="ctypes.CDLL(None).syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
        clone3="ctypes.CDLL(None).syscall(435, bytes(88), 88)",
        segment="ctypes.CDLL(None).shmget(0, 4096, 0o1600)",
        queue="ctypes.CDLL(None).mq_open(b'/x', os.O_CREAT | os.O_RDWR, 0o600, None)",
    )
    assert set(found.values()) == {"-1"}


def test_a_kernel_can_neither_outlive_its_fork_server_nor_hide_the_memory_that_it_holds(confined: Laboratory) -> None:
    found = seen(
        confined,
        ask="ctypes.CDLL(None).prctl(1, 0)",
        still="(lambda x: ctypes.CDLL(None).prctl(2, ctypes.byref(x)) or x.value)(ctypes.c_int())",
        hide="ctypes.CDLL(None).prctl(4, 0)",
        seen="ctypes.CDLL(None).prctl(3)",
    )
    assert found == {"ask": "0", "still": str(int(signal.SIGKILL)), "hide": "0", "seen": "1"}


def test_few_timers_go_off_while_a_kernel_is_stopped(confined: Laboratory) -> None:
    found = seen(
        confined,
        descriptor="ctypes.CDLL(None).timerfd_create(1, 0)",
        made="sum(not ctypes.CDLL(None).timer_create(1, None, ctypes.byref(ctypes.c_long())) for _ in range(99)) < 33",
        interval="signal.setitimer(signal.ITIMER_REAL, 100)",
    )
    assert found == {"descriptor": "-1", "made": "True", "interval": "(0.0, 0.0)"}


def test_what_honest_kernels_need_still_works(unreached: Laboratory, layers: tuple[str, ...]) -> None:
    core = min(os.sched_getaffinity(0))
    found = seen(
        unreached,
        threads="[t.start() or t.join() for t in [threading.Thread(target=int)]]",
        pair="[x.close() for x in socket.socketpair()]",
        child="subprocess.run([sys.executable, '-c', 'import numpy; print(1)'], capture_output=True, text=True).stdout",
        random="len(os.urandom(4))",
        devnull="open('/dev/null', 'w').write('x')",
        cpus="os.cpu_count() > 0",
        lock="__import__('multiprocessing').Lock().acquire()",
        affinity=f"os.sched_setaffinity(0, {{{core}}}) or os.sched_getaffinity(0)",
        mode="os.chmod('kernel.py', 0o700)",
        compiler="subprocess.run(['sh', '-c', 'command -v g++ && g++ --version'], capture_output=True).returncode",
    )
    assert found.pop("compiler") in {"0", "127", "1"}  # 0 where one is installed
    if "own mounts" not in layers:  # as docs/how-to/ci.md says of containers
        lacking = found.pop("lock"), found.pop("mode")
        assert lacking == ("OSError", "PermissionError")
        found |= {"lock": "True", "mode": "None"}
    chosen = {core} if sandbox.PID_NAMESPACE in layers else os.sched_getaffinity(0)  # else it is told that it did
    assert found == {
        "threads": "[None]", "pair": "[None, None]", "child": repr("1\n"), "random": "4", "devnull": "1",
        "cpus": "True", "lock": "True", "affinity": repr(chosen), "mode": "None",
    }  # fmt: skip


def test_memory_is_limited(laboratory: Laboratory) -> None:
    ending = laboratory.run(kernel("x = torch.ones(3 << 30, dtype=torch.uint8)"))
    assert ending.outcome == "crashed"
    assert "allocate" in ending.reason
    assert laboratory.run(kernel("x = torch.ones(1 << 28, dtype=torch.uint8)")).outcome == "ok"


def test_files_are_limited(laboratory: Laboratory) -> None:
    body = (
        "with open(os.path.join(tempfile.gettempdir(), 'big'), 'wb') as file:\n    os.truncate(file.fileno(), 3 << 30)"
    )
    assert "File too large" in laboratory.run(kernel(body)).reason


@pytest.mark.parametrize(
    ("name", "ending"), [*product(ESCAPES, ("honest", "crash")), ("children", "hang"), ("deaf ones", "hang")]
)
def test_no_process_outlives_its_kernel(laboratory: Laboratory, name: str, ending: str) -> None:
    last = {"honest": "", "crash": "ctypes.string_at(0)", "hang": "while True: pass"}[ending]
    found = laboratory.run(kernel(f"{ESCAPES[name]}\n{last}"), limit_s=1 if ending == "hang" else 20)
    assert found.outcome == {"honest": "ok", "crash": "crashed", "hang": "timeout"}[ending]
    if ending == "honest":
        assert len(laboratory.below_fork_server()) >= 2
    assert laboratory.leftovers() == []
    assert laboratory.run(kernel()).outcome == "ok"


@pytest.mark.skipif(tuple(map(int, os.uname().release.split(".")[:2])) < (6, 14), reason="pid_max is the machine's own")
def test_a_fork_bomb_runs_into_a_wall_of_its_own(confined: Laboratory) -> None:
    if "pid namespace" not in confined.spawner.layers:
        pytest.skip("no PID namespace on this machine")
    limit = Path("/proc/sys/kernel/pid_max").read_text()
    # Threads count like processes and are quicker to make.
    ending = confined.run(kernel("for _ in range(2000): threading.Thread(target=time.sleep, args=[600]).start()"))
    assert "can't start new thread" in ending.reason
    assert Path("/proc/sys/kernel/pid_max").read_text() == limit
    assert confined.leftovers() == []


def test_a_link_in_the_place_of_its_file_is_not_followed(laboratory: Laboratory, victim: Path) -> None:
    """The judge writes the file again for the next process of the same kernel, and nothing confines the judge."""
    source = kernel(f"os.remove('kernel.py')\nos.symlink({str(victim)!r}, 'kernel.py')")
    for _ in range(2):
        assert laboratory.run(source).outcome == "ok"
        laboratory.arms.drop(KERNEL)
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("left", ["os.mkfifo('kernel.py')", "os.mkdir('kernel.py'); open('kernel.py/x', 'w').close()"])
def test_whatever_a_kernel_leaves_in_the_place_of_its_file_is_replaced(confined: Laboratory, left: str) -> None:
    source = kernel(f"os.remove('kernel.py')\n{left}")
    for _ in range(2):
        assert confined.run(source).outcome == "ok"
        confined.arms.drop(KERNEL)


def test_kernels_have_folders_of_their_own(confined: Laboratory) -> None:
    found = {
        json.dumps(seen(confined, here="os.getcwd()", cache="os.environ['TRITON_CACHE_DIR']", n=number))
        for number in ("1", "2")
    }
    assert len({json.loads(x)["here"] for x in found}) == 2
    assert len({json.loads(x)["cache"] for x in found}) == 2
