"""What all tests share: one thread for each process."""

import os

# Two workers with two threads each on two cores spend their time waiting for each other; set before torch is imported.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
