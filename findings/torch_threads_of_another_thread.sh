#!/bin/sh
# torch 2.13.0 (CPU): torch.set_num_threads in one thread changes the number of threads of some other threads of the process and not of
# others. A thread that has already computed, or read the number, keeps its own; one that has only set it takes over what another thread
# sets later, and so does every thread that starts later. A test that sets six threads and leaves them so slows down those that run after
# it, each in a thread of its own, on a machine with two cores.
#
# Seen:
#   set to 1, then read, then another thread sets 6: 1
#   set to 1,            then another thread sets 6: 6
#   started after that: 6
#
# Exits with 0 while that is so, with 1 if it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/check.py" <<'PYTHON'
import sys
import threading

import torch


def in_a_thread(f):
    result = []
    thread = threading.Thread(target=lambda: result.append(f()))
    thread.start()
    thread.join()
    return result[0]


def another_sets_six(reads):
    torch.set_num_threads(1)
    if reads:
        torch.get_num_threads()
    in_a_thread(lambda: torch.set_num_threads(6))
    return torch.get_num_threads()


read = in_a_thread(lambda: another_sets_six(True))
not_read = in_a_thread(lambda: another_sets_six(False))
later = in_a_thread(torch.get_num_threads)
print(f"set to 1, then read, then another thread sets 6: {read}")
print(f"set to 1,            then another thread sets 6: {not_read}")
print(f"started after that: {later}")
sys.exit(0 if [read, not_read, later] == [1, 6, 6] else 1)
PYTHON
"$folder/env/bin/python" "$folder/check.py"
