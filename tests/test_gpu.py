"""benchmarks/gpu.py as far as it can be told without a GPU: what it runs, and how it ends."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fxmem import ops

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
ABSENT = ("expecttest", "nbformat", "nbclient", "ipykernel", "transformers", "matplotlib", "tqdm")
# A part that begins another process, says which, and waits for it.
WAITS = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
    print(process.pid)
    process.wait()
"""


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_with_a_gpus_tests_is_found(gpu, request):
    items = request.session.items
    marked = {item.path for item in items if item.get_closest_marker("cuda")}
    assert marked <= set(gpu.asking())


def test_they_are_collected_with_nothing_but_torch_and_pytest(gpu):
    script = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); import pytest; "
    asked = [*gpu.command("tests", quick=True)[2:], "--collect-only"]
    command = [sys.executable, "-c", script + f"sys.exit(pytest.main({asked}))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "test_kernels_equal_the_reference_bit_for_bit[cuda]" in done.stdout


def is_gone(pid):
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_part_is_cut_short_with_what_it_has(gpu, tmp_path):
    log = tmp_path / "log"
    assert gpu.finished(["-c", "print(1); raise SystemExit(3)"], log, time.monotonic() + 60) == 3
    assert log.read_text() == "1\n"
    assert gpu.finished(["-c", WAITS], log, time.monotonic() + 2) == 124
    assert is_gone(log.read_text().splitlines()[0])


def on_a_pretended_gpu(tmp_path, *arguments):
    """The script where torch says that there is a GPU, and its kernels need no building."""
    script = f"""
import sys, torch
from types import SimpleNamespace
sys.argv = {["gpu.py", "--out", str(tmp_path), *arguments]}
torch.cuda.is_available = lambda: True
torch.cuda.get_device_properties = lambda i: SimpleNamespace(name="pretended", major=9, minor=0)
sys.path.insert(0, {str(SCRIPT.parent)!r})
import gpu
gpu.LEAST, gpu.NEEDS, gpu.prepare = 1, dict(norms="absent"), lambda out, end: None
gpu.command = lambda name, quick: ["-c", {WAITS!r} if name == "codec" else "print(7)"]
sys.exit(gpu.main())
"""
    return [sys.executable, "-c", script]


def test_what_does_not_fit_is_named(tmp_path):
    parts = ("--only", "loss", "codec", "tests", "norms", "--limit")
    short = subprocess.run(on_a_pretended_gpu(tmp_path, *parts, "5"), capture_output=True)
    assert short.returncode == 1, short.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["exit"] for name, part in found["parts"].items()} == {
        "tests": 0,
        "codec": 124,
    }
    assert found["parts"]["codec"]["output"][-1] == "KeyboardInterrupt"
    assert b"no time was left for: --only norms loss" in short.stdout
    again = on_a_pretended_gpu(tmp_path, "--only", "norms", "loss")
    assert subprocess.run(again, check=True, capture_output=True).stdout.endswith(b"\n7\n")
    table = (tmp_path / "gpu.txt").read_text()
    assert "codec: CUT SHORT" in table and "norms: left out" in table and "loss: ok" in table


def test_nothing_is_left_where_it_is_ended(tmp_path):
    process = subprocess.Popen(on_a_pretended_gpu(tmp_path, "--only", "tests", "codec"))
    log = tmp_path / "gpu-codec.log"
    while process.poll() is None and not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert is_gone(log.read_text().strip())
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["tests"]


def test_the_trial_tells_whether_the_kernels_run(gpu, tmp_path):
    log = tmp_path / "log"
    status = gpu.finished(["-c", gpu.TRIAL], log, time.monotonic() + 60)
    assert (status == 0) == ("cuda" in ops.NATIVE and torch.cuda.is_available())
    why = "AssertionError: the library was not|reference operators on cuda|RuntimeError: .*NVIDIA"
    assert status == 0 or re.search(why, gpu.complaint(log)), log.read_text()


def test_a_library_for_another_gpu_is_built_anew(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv("CUDAARCHS", "")  # so that what is set below ends with this test
    monkeypatch.delenv("CUDAARCHS")
    monkeypatch.setattr(gpu, "LIBRARY", SCRIPT)
    given, words = [], ["CUDA error: no kernel image\n", "", "", "error: no setuptools\n"]

    def finished(arguments, log, end):
        given.append(arguments[0])
        log.write_text(words[len(given) - 1])
        return int(words[len(given) - 1] != "")

    monkeypatch.setattr(gpu, "finished", finished)
    monkeypatch.setattr(torch._dynamo, "list_backends", list)
    gpu.prepare(tmp_path, 0)
    said = capsys.readouterr().err
    assert given == ["-c", "setup.py", "-c", "setup.py"] and os.environ["CUDAARCHS"] == "90-real"
    assert "(CUDA error: no kernel image): building them for 90-real" in said
    assert "egg_info failed" in said
