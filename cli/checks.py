"""What `doctor` looks at: each check is one thing that a sweep needs, what was seen of it, and what to do about it.

A problem would make a launch fail or mislead; a warning is something to know. Nothing is changed on the machine except
the cache of prepared text, which the first launch would fill anyway.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal

PACKAGES = ("torch", "torchao", "ray", "pyarrow", "tiktoken", "rustbpe")
PROBE_TIMEOUT_S = 180
SLOW_GPU_PCT = 3.0
LOW_DISK_GIB, NO_DISK_GIB = 20.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's report."""

    name: str
    level: Literal["ok", "warning", "problem"]
    seen: str
    advice: str | None = None
    values: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())  # measured numbers, for programs


def all_checks(storage: str | None) -> Iterator[Check]:
    """Every check, in an order in which the first problem explains the later ones; slow ones come as they are done."""
    yield python()
    yield packages()
    yield compiler()
    yield from gpus(run_probe())
    yield ray_head()
    yield ray_session()
    yield from ray_token()
    yield commands_on_path()
    yield storage_folder(storage)
    yield compile_cache()
    yield corpus()


def python() -> Check:
    """Which Python runs this."""
    return Check(name="Python", level="ok", seen=f"{sys.version.split()[0]} in {sys.prefix}")


def packages() -> Check:
    """The packages that decide numbers."""
    versions: dict[str, str] = {}
    missing: list[str] = []
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    seen = ", ".join(f"{name} {version}" for name, version in versions.items())
    if missing:
        advice = f"install the project with its dependencies: {sys.executable} -m pip install -e ."
        return Check(name="packages", level="problem", seen=f"missing: {', '.join(missing)}", advice=advice)
    return Check(name="packages", level="ok", seen=seen, values=versions)


def compiler() -> Check:
    """torch.compile builds C++ against Python's headers."""
    wanted = os.environ.get("CXX") or "g++"
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [
        *([] if shutil.which(wanted) else [f"the compiler {wanted}"]),
        *([] if header.is_file() else [f"{header}"]),
    ]
    if not missing:
        return Check(name="compiler", level="ok", seen=f"{shutil.which(wanted)}, {header}")
    advice = "on Debian or Ubuntu: sudo apt-get install g++ python3-dev; without them only compile.mode none works"
    return Check(name="compiler", level="problem", seen=f"missing: {' and '.join(missing)}", advice=advice)


def run_probe() -> dict[str, Any]:
    """What nanochat.machine.gpu_probe prints; where it cannot, {"error": why}. Whatever it has started ends with it."""
    command = [sys.executable, "-m", "nanochat.machine.gpu_probe"]
    pipe = subprocess.PIPE
    probe = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True)
    try:
        out, err = probe.communicate(timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"the measurement did not end within {PROBE_TIMEOUT_S} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(probe.pid, signal.SIGKILL)
        probe.wait()
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": (err.strip().splitlines()[-1:] or [f"exit code {probe.returncode}"])[0]}


def gpus(probe: dict[str, Any]) -> list[Check]:
    """torch and the GPUs, from what the probe has measured."""
    if "error" in probe:
        advice = (
            "see what it says: python -m nanochat.machine.gpu_probe; after an Xid in dmesg the node needs a restart"
        )
        return [Check(name="torch", level="problem", seen=probe["error"], advice=advice)]
    build = f"built for CUDA {probe['cuda_build']}" if probe["cuda_build"] else "built without CUDA"
    driver = f"driver {probe['driver']}" if probe["driver"] else "no NVIDIA driver"
    torch = Check(name="torch", level="ok", seen=f"{probe['torch']}, {build}, {driver}")
    found = probe["gpus"]
    if not found:
        return [torch, _no_gpu(probe)]
    checks = [torch, _gpu_speeds(found)]
    if len(found) > 1:
        checks.append(_all_reduce(probe["all_reduce_gb_per_s"], len(found)))
    return [*checks, _kernels(probe["no_faster_kernels"])]


def _no_gpu(probe: dict[str, Any]) -> Check:
    if probe["num_driver_gpus"] and os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        return Check(
            name="GPUs",
            level="problem",
            seen=f"the driver has {probe['num_driver_gpus']}, torch sees none",
            advice=f"install a torch that is built for driver {probe['driver']} (nvidia-smi shows its CUDA version)",
        )
    return Check(
        name="GPUs",
        level="warning",
        seen="none",
        advice="what works here: --preset tiny, sweeps/smoke.py, and every verb over stored experiments",
    )


def _gpu_speeds(found: list[dict[str, Any]]) -> Check:
    """One line for all: their speeds, and by name those that are slow or busy."""
    speeds = {gpu["index"]: gpu["bf16_tflop_per_s"] for gpu in found if gpu["bf16_tflop_per_s"] is not None}
    names = ", ".join(dict.fromkeys(gpu["name"] for gpu in found))
    middle = median(speeds.values()) if speeds else 0.0
    slow = {i: 100 * (1 - speed / middle) for i, speed in speeds.items() if speed < middle * (1 - SLOW_GPU_PCT / 100)}
    busy = [gpu for gpu in found if gpu["is_busy"]]
    seen = f"{len(found)} x {names}" if len(found) > 1 else names
    if speeds:
        seen += f"; bf16 matmul {' '.join(f'{speed:.0f}' for speed in speeds.values())} TFLOP/s"
    advice = [
        *(f"GPU {i} is {pct:.1f} % under the median: look at its clocks and temperature" for i, pct in slow.items()),
        *(f"GPU {gpu['index']} is in use ({_by_whom(gpu)}), so it was not measured" for gpu in busy),
    ]
    values = {"bf16_tflop_per_s": {str(i): speed for i, speed in speeds.items()}, "slow": list(slow)}
    level = "warning" if advice else "ok"
    return Check(name="GPUs", level=level, seen=seen, advice="; ".join(advice) or None, values=values)


def _kernels(problems: list[str]) -> Check:
    """Which kernels a run gets on these GPUs. torch's own give the same results more slowly, so nothing is wrong."""
    if problems:
        return Check(name="kernels", level="ok", seen="torch's own", advice="; ".join(problems))
    return Check(name="kernels", level="ok", seen="faster ones (QuACK, FlashAttention-4)")


def _by_whom(gpu: dict[str, Any]) -> str:
    pids = ", ".join(map(str, gpu["pids"]))
    return f"process {pids}" if pids else f"{gpu['used_mib']:.0f} MiB are taken"


def _all_reduce(gb_per_s: float | None, num_gpus: int) -> Check:
    if gb_per_s is None:
        return Check(name="all-reduce", level="warning", seen="not measured, because GPUs are in use")
    seen = f"{gb_per_s:.0f} GB/s over {num_gpus} GPUs"
    return Check(name="all-reduce", level="ok", seen=seen, values={"gb_per_s": gb_per_s})


def ray_head() -> Check:
    """Whether a launch here would meet another cluster."""
    from sweeps.engine.cluster.checks import foreign_heads

    address, heads = os.environ.get("RAY_ADDRESS"), foreign_heads()
    if address:
        return Check(name="Ray", level="ok", seen=f"RAY_ADDRESS says {address}: launches run there")
    if not heads:
        return Check(name="Ray", level="ok", seen="no head runs here: a launch starts a private cluster")
    return Check(
        name="Ray",
        level="warning",
        seen=f"a head runs here: {', '.join(heads)}",
        advice=f"say where a launch is to run: --address {heads[0]}, or --address local",
        values={"heads": heads},
    )


def ray_session() -> Check:
    """A private cluster needs a folder with a short path in which no other user can rename things."""
    from sweeps.engine.cluster.private import default_session_parent
    from sweeps.spec.errors import UsageError

    try:
        return Check(
            name="session", level="ok", seen=f"a private cluster keeps its session in {default_session_parent()}"
        )
    except UsageError as error:
        seen, _, advice = str(error).rpartition("; ")
        return Check(name="session", level="problem", seen=seen, advice=advice)


def ray_token() -> list[Check]:
    """The token for shared clusters, if this user has one: Ray writes it so that everybody can read it."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return []
    if not mode & 0o077:
        return [Check(name="token", level="ok", seen=f"{path} is closed to other users")]
    seen = f"{path} has mode {mode:04o}: other users can run jobs as this one on clusters that ask for it"
    return [Check(name="token", level="warning", seen=seen, advice=f"chmod 600 {shlex.quote(str(path))}")]


def commands_on_path() -> Check:
    """A job's entrypoint is looked up by PATH, so that must lead to this environment."""
    own = Path(sys.prefix, "bin").resolve()
    found = {name: shutil.which(name) for name in ("python", "ray", "nanochat-sweep")}
    strange = [
        f"{name} is {place or 'not found'}"
        for name, place in found.items()
        if place is None or Path(place).parent.resolve() != own
    ]
    if not strange:
        return Check(name="PATH", level="ok", seen=f"python, ray and nanochat-sweep are those of {own}")
    advice = f"activate the environment, or give jobs the whole path: {own}/nanochat-sweep"
    return Check(name="PATH", level="warning", seen="; ".join(strange), advice=advice)


def storage_folder(option: str | None) -> Check:
    """Whether experiments can be written, and how much room there is."""
    from sweeps.records.conditional_puts import check_conditional_puts
    from sweeps.records.home import storage_root
    from sweeps.records.store import Store
    from sweeps.spec.errors import UsageError

    advice = "choose another place with --storage or NANOCHAT_SWEEP_STORAGE"
    try:
        store = Store(storage_root(option))
        folder = store.local_path()
        if folder is None or folder.is_dir():
            probe = f"doctor-{os.getpid()}.tmp"
            store.write(probe, b"")
            store.delete(probe)
            if folder is None:
                check_conditional_puts(store)
        elif not os.access(_nearest(folder), os.W_OK | os.X_OK) or not _nearest(folder).is_dir():
            raise PermissionError(f"{folder} cannot be made in {_nearest(folder)}")
    except (OSError, UsageError) as error:
        return Check(name="storage", level="problem", seen=f"it cannot be written: {error}", advice=advice)
    return Check(name="storage", level="ok", seen=store.uri) if folder is None else _room("storage", folder, advice)


def compile_cache() -> Check:
    """Where compiled graphs are kept, and whether others could put code there."""
    from nanochat.data.corpus import cache_folder
    from nanochat.machine.caches import compiled_folders, why_unsafe

    for variable, folder in compiled_folders(cache_folder()).items():
        reason = why_unsafe(folder)
        if reason is not None:
            advice = f"chmod 700 {shlex.quote(str(folder))}, or set {variable} to a folder that only you can write"
            return Check(name="graphs", level="problem", seen=f"{folder} is not safe: {reason}", advice=advice)
    graphs = compiled_folders(cache_folder())["TORCHINDUCTOR_CACHE_DIR"]
    return _room("graphs", graphs, "choose another place with TORCHINDUCTOR_CACHE_DIR")


def corpus() -> Check:
    """Whether the text in the package can be prepared; does it if it was not done before."""
    from nanochat.config import ConfigError
    from nanochat.data.cache import cache_folder
    from nanochat.data.corpus import prepare_embedded
    from nanochat.data.tokenizer import load

    try:
        prepared = prepare_embedded()
        tokenizer = load(prepared)
    except ConfigError as error:
        return Check(name="data", level="problem", seen=str(error))
    seen = f"{prepared.name} with {len(prepared.train_shards) + 1} shards in {cache_folder()}, "
    return Check(name="data", level="ok", seen=seen + f"a tokenizer of {tokenizer.vocab_size:,} ids")


def _room(name: str, folder: Path, advice: str) -> Check:
    free_gib = shutil.disk_usage(_nearest(folder)).free / 2**30
    seen = f"{folder}, {free_gib:,.0f} GiB free"
    values = {"free_gib": round(free_gib, 1)}
    if free_gib >= LOW_DISK_GIB:
        return Check(name=name, level="ok", seen=seen, values=values)
    level = "problem" if free_gib < NO_DISK_GIB else "warning"
    return Check(name=name, level=level, seen=seen, advice=f"make room, or {advice}", values=values)


def _nearest(folder: Path) -> Path:
    """The folder, or the part of its path that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
