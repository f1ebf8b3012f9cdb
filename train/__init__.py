"""The trainer: ``python -m train.tsm``, its loop, its recipes, and the CPU loader that DALI is measured against."""

import os

# Before PyTorch is loaded: by default its threads spin while they wait for each other, and on the CPU they would take
# the cores from the processes that decode. With two threads on two busy cores a step took more than twice as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
