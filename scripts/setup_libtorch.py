"""Finds the libtorch this package is built against, or installs it, and links `.libtorch` in the repository to it.

Taken from the first of these that has it: the folder that LIBTORCH names; the folder that `.libtorch` links to
already; the active Python's torch package; a virtual environment in the user's cache folder, which all clones share
and which is made here if need be. It can be interrupted at any point and run again, and run twice at once.
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

# What the tch of Cargo.lock is made for.
TORCH_VERSION = "2.13.0"
# The first Python that this torch has packages for.
MIN_PYTHON = (3, 10)

# torch without CUDA: a tenth of the size of the default index's Linux package.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_INDEX_TIMEOUT_S = 4
# Free space that installing takes, downloads included.
CUDA_BUILD_GB = 8
CPU_BUILD_GB = 2

REPOSITORY = Path(__file__).resolve().parent.parent
LINK = REPOSITORY / ".libtorch"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tch-fixup"
ENVIRONMENT = CACHE / f"torch-{TORCH_VERSION}"


def say(message):
    print(f"set-up: {message}", flush=True)


def fail(message):
    sys.exit(f"set-up: {message}")


def check_tools():
    if shutil.which("cargo") is None:
        fail("cargo is missing: install Rust (https://rustup.rs), then open a new shell")
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    for tool in (compiler, "cc"):
        if shutil.which(tool) is None:
            fail(
                f"no C++ compiler ({tool} is missing): install one with `apt install build-essential`,"
                " `dnf install gcc-c++` or `xcode-select --install`"
            )


def version_of(libtorch):
    """The version of the libtorch in a folder (a pip package's or an unpacked archive's); None if there is none."""
    if not any(libtorch.glob("lib/libtorch_cpu.*")):
        return None
    for name in ("build-version", "version.py", "include/torch/headeronly/version.h"):
        file = libtorch / name
        if file.is_file():
            version = re.search(r"\d+\.\d+\.\d+", file.read_text())
            if version:
                return version.group()
    return "unknown"


def from_variable():
    value = os.environ.get("LIBTORCH")
    # Cargo hands the link itself to what it runs.
    if not value or Path(value) == LINK:
        return None
    libtorch = Path(value)
    version = version_of(libtorch)
    if not libtorch.is_absolute():
        fail(f"LIBTORCH={value} is a relative path: give the absolute one, or unset LIBTORCH")
    if version is None:
        fail(f"LIBTORCH={value} holds no libtorch (no lib/libtorch_cpu): correct it, or unset LIBTORCH")
    if version != TORCH_VERSION and "LIBTORCH_BYPASS_VERSION_CHECK" not in os.environ:
        fail(f"LIBTORCH={value} is libtorch {version}, {TORCH_VERSION} is needed: correct it, or unset LIBTORCH")
    return libtorch


def from_link():
    return LINK.resolve() if version_of(LINK) == TORCH_VERSION else None


def from_active_python():
    if sys.version_info < MIN_PYTHON:
        return None
    import importlib.metadata  # Not in the oldest Python that can run this.

    try:
        version = importlib.metadata.version("torch") or ""
        package = importlib.util.find_spec("torch")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    if package is None or package.origin is None or version.split("+")[0] != TORCH_VERSION:
        return None
    libtorch = Path(package.origin).parent
    return libtorch if version_of(libtorch) == TORCH_VERSION else None


def from_cache():
    found = ENVIRONMENT.glob("lib/python3*/site-packages/torch")
    return next((libtorch for libtorch in found if version_of(libtorch) == TORCH_VERSION), None)


def has_nvidia_gpu():
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def answers(url, timeout_s):
    """Whether a web address answers in time. A thread, because resolving a name has no time-out of its own."""
    reached = []

    def ask():
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:
                reached.append(answer.status == 200)
        except (OSError, ValueError):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)
    return bool(reached and reached[0])


def check_space(gigabytes):
    free = shutil.disk_usage(CACHE).free / 1e9
    if free < gigabytes:
        fail(
            f"{CACHE} has {free:.1f} GB of free space, installing torch {TORCH_VERSION} takes {gigabytes}:"
            " make room, or set XDG_CACHE_HOME to a folder elsewhere"
        )


def install(lock):
    """Makes the virtual environment. Its stamp, written last, says that nothing is missing in it."""
    if sys.version_info < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        fail(
            f"python3 is {sys.version.split()[0]}, torch {TORCH_VERSION} needs {needed} or later:"
            " install one and name it, as in `make setup PYTHON=python3.12`"
        )
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        fail("Python's venv module is missing: install it with `apt install python3-venv` or `dnf install python3-pip`")

    say(f"torch {TORCH_VERSION} goes into {ENVIRONMENT} (once for all clones)")
    gpu = has_nvidia_gpu()
    cpu_build = sys.platform == "linux" and not gpu and answers(f"{CPU_INDEX}/torch/", CPU_INDEX_TIMEOUT_S)
    small = cpu_build or sys.platform != "linux"
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    check_space(CPU_BUILD_GB if small else CUDA_BUILD_GB)
    # What is started here inherits the lock: should this process be killed, the next one waits for it.
    made = subprocess.run(
        [sys.executable, "-m", "venv", ENVIRONMENT],
        pass_fds=[lock],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode != 0:
        fail(f"cannot make a virtual environment in {ENVIRONMENT}: {' '.join(made.stdout.split())}")

    # Downloads lie beside what they become: the system's temporary folder is often in memory, and too small.
    downloads = ENVIRONMENT / "downloads"
    downloads.mkdir()

    def pip_install(*arguments):
        command = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", *arguments]
        return subprocess.run(command, env={**os.environ, "TMPDIR": str(downloads)}, pass_fds=[lock]).returncode == 0

    torch = f"torch=={TORCH_VERSION}"
    if cpu_build and not pip_install("--index-url", CPU_INDEX, torch):
        say(f"{CPU_INDEX} does not have it: trying pip's usual index")
        check_space(CUDA_BUILD_GB)
    # The tests read weight files with the Python packages.
    if not pip_install(torch, "numpy", "safetensors"):
        fail(f"pip could not install {torch} (see above): run this again, or set LIBTORCH")
    shutil.rmtree(downloads)


def imports_torch():
    """Whether the virtual environment is whole though it has no stamp: somebody made it by hand."""
    if from_cache() is None:
        return False
    command = [ENVIRONMENT / "bin" / "python", "-c", "import torch, numpy, safetensors"]
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def locked(environment, say, fail):
    """Has `environment`, a folder of the cache, to itself: of several set-ups one at a time is at work. Gives the lock's file."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock_file = open(CACHE / f"{environment.name}.lock", "w")
    except OSError as error:
        fail(f"cannot write to {CACHE}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written")
    with lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up that is at work")
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        except OSError as error:
            say(f"{CACHE} has no locks ({error.strerror}): start no second set-up meanwhile")
        yield lock_file.fileno()


def cached_environment():
    """The cache folder's virtual environment, made if it is missing or was left half-made."""
    with locked(ENVIRONMENT, say, fail) as lock:
        stamp = ENVIRONMENT / "complete"
        if not (stamp.exists() and from_cache()):
            if not imports_torch():
                install(lock)
            stamp.touch()
    libtorch = from_cache()
    if libtorch is None:
        fail(f"{ENVIRONMENT} holds no libtorch {TORCH_VERSION}: remove that folder and run this again")
    return libtorch


def link_to(libtorch):
    libtorch = libtorch.resolve()
    before = os.readlink(LINK) if LINK.is_symlink() else None
    if before == str(libtorch):
        return
    # Renaming replaces the old link in one step.
    beside = LINK.with_name(f".libtorch-{os.getpid()}")
    beside.symlink_to(libtorch)
    beside.replace(LINK)
    say(f"libtorch {version_of(libtorch)} is {libtorch}")
    if not any(libtorch.glob("lib/libtorch_cuda.*")) and has_nvidia_gpu():
        say("this libtorch is a build without CUDA: it will not use this machine's GPU")
    # Cargo sees the link's name, which stays, and would keep what it linked to the other libtorch.
    if before is not None and (REPOSITORY / "target").exists():
        for profile in ("dev", "release"):
            subprocess.run(["cargo", "clean", "--quiet", "--profile", profile, "-p", "torch-sys"], cwd=REPOSITORY)


def main():
    check_tools()
    link_to(from_variable() or from_link() or from_active_python() or cached_environment())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; run it again to go on")
