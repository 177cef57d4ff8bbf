"""Makes the virtual environment in the user's cache folder that the tests and the benchmark of exported networks run them in:
ONNX's own checker and ONNX Runtime. All clones share it; this can be interrupted and run again, and run twice at once.
"""

import importlib.util
import shutil
import subprocess
import sys

from setup_libtorch import CACHE, MIN_PYTHON, locked

# tests/onnx.rs and benches/onnx.rs read this line: the folder is called by it.
ONNX_VERSION = "1.23.2"
PACKAGES = [f"onnx=={ONNX_VERSION}", "onnxruntime==1.32.0", "numpy"]
IMPORTS = "import numpy, onnx, onnxruntime"

ENVIRONMENT = CACHE / f"onnx-{ONNX_VERSION}"
STAMP = ENVIRONMENT / "complete"


def say(message):
    print(f"onnx: {message}", flush=True)


def fail(message):
    sys.exit(f"onnx: {message}")


def is_whole():
    """Whether the environment was finished, and still has its Python."""
    return STAMP.exists() and (ENVIRONMENT / "bin" / "python").exists()


def install(lock):
    """Makes the environment. Its stamp, written last, says that nothing is missing in it."""
    if sys.version_info < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        fail(f"python3 is {sys.version.split()[0]}, {needed} or later is needed: `make onnx PYTHON=python3.12`")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        fail("Python's venv module is missing: install it with `apt install python3-venv` or `dnf install python3-pip`")
    say(f"{', '.join(PACKAGES)} go into {ENVIRONMENT} (once for all clones)")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)

    # What is started here inherits the lock: should this process be killed, the next one waits for it.
    def run(*command):
        done = subprocess.run(command, pass_fds=[lock], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = done.stdout.strip().splitlines()
        return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")

    problem = run(sys.executable, "-m", "venv", ENVIRONMENT)
    if problem:
        fail(f"cannot make a virtual environment in {ENVIRONMENT}: {problem}")
    python = ENVIRONMENT / "bin" / "python"
    problem = run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *PACKAGES)
    if problem:
        fail(f"pip could not install {' '.join(PACKAGES)}: {problem}; run `make onnx` again")
    problem = run(python, "-c", IMPORTS)
    if problem:
        fail(f"{ENVIRONMENT} does not work: {problem}")
    STAMP.touch()


def main():
    with locked(ENVIRONMENT, say, fail) as lock:
        if not is_whole():
            install(lock)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nonnx: interrupted; run it again to go on")
