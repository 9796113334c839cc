"""What the join needs of this installation and this machine, asked for before a crawl is fetched for it."""

from __future__ import annotations

from importlib.util import find_spec

from toolkit.config import Config
from toolkit.errors import UserError


def special(config: Config) -> bool:
    """Return whether the join needs more than any installation and any machine has."""
    return config.dedup.backend == "faiss" or config.dedup.device == "cuda"


def equipped(config: Config) -> None:
    """Raise UserError where the join could not run here; on a cluster, GPUs are where the jobs are: not looked for."""
    if config.dedup.backend == "faiss" and find_spec("faiss") is None:
        raise UserError(
            "dedup.backend is faiss, and FAISS is not installed. Install it with `pip install danqing-toolkit[faiss]`, "
            "or set dedup.backend to exact, which misses no edge."
        )
    if config.dedup.device != "cuda":
        return
    if find_spec("torch") is None:
        raise UserError(
            "dedup.device is cuda, and PyTorch is not installed. Install it with `pip install danqing-toolkit[torch]`, "
            "or set dedup.device to auto."
        )
    if config.executor.kind != "slurm" and not _gpu():
        raise UserError(
            "dedup.device is cuda, and PyTorch finds no GPU on this machine, or was built without CUDA. Set "
            "dedup.device to auto, or use executor slurm with the option gres for the stages dedup and merge in the "
            "site file."
        )


def _gpu() -> bool:
    import torch  # which takes seconds to load

    return torch.cuda.is_available()
