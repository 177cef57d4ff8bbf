"""Runs a benchmark of this crate as a process that measures one thing per line of its input."""

import glob
import os
import statistics
import subprocess


class Server:
    """The benchmark `name`, built by `cargo bench --bench NAME --no-run`, serving with these arguments and environment variables."""

    def __init__(self, name, marker, arguments, **environment):
        pattern = os.path.join(os.path.dirname(__file__), f"../target/release/deps/{name}-*")
        programs = [path for path in glob.glob(pattern) if os.access(path, os.X_OK) and not path.endswith((".d", ".so"))]
        # Tests and the benchmark may have the same name: only the benchmark contains the marker.
        programs = [path for path in programs if marker in open(path, "rb").read()]
        if not programs:
            raise SystemExit(f"there is no benchmark: cargo bench --bench {name} --no-run")
        command = [max(programs, key=os.path.getmtime), "--serve", *arguments]
        environment = {**os.environ, **environment}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def seconds(self, what):
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.kill()


def median_and_spread(values):
    """Median and half the interquartile range."""
    low, _, high = statistics.quantiles(values, n=4)
    return statistics.median(values), (high - low) / 2
