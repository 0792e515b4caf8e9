"""One thread, here and in the processes that tests start: their tensors are small, and threads would only wait."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
