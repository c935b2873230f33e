"""What a checkpoint restores, in its folder `state`: the network's weights, and the states of the other parts by name.

    model.safetensors; optimizer, lr_scheduler, average-0, ... as NAME.json and NAME.safetensors (state_files.py)

Version 0.1.0 left the parts to accelerate, which wrote pickles: optimizer.bin and custom_checkpoint_N.pkl. Those are
still read, but nothing in them is run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_model, save_model
from torch import nn

from training.files import read_json_object
from training.pickles import UnsafeFile, read_pickle, refuse_code
from training.state_files import read_state, tensor_names, to_json, write_state

WEIGHTS = "model.safetensors"
ALWAYS = ("optimizer", "lr_scheduler", "average-0")  # parts that every run has


class Part(Protocol):
    """Anything with a state, as torch's optimizers and schedulers are."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


@dataclass(frozen=True)
class RunState:
    """The network of a run, and its other parts by name."""

    network: nn.Module
    parts: dict[str, Part]

    def check(self) -> None:
        """Raise ValueError if the state of a part cannot be saved."""
        for name, part in self.parts.items():
            to_json(part.state_dict(), name, {})

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.network, str(folder / WEIGHTS))
        for name, part in self.parts.items():
            write_state(folder, name, part.state_dict())

    def load(self, folder: Path) -> None:
        """Restore what `save`, or version 0.1.0, wrote into `folder`.

        Raises:
            ValueError: a file is missing, damaged or asks for code to be run, or is of a run with other parts.
        """
        states = read_parts(folder)
        if states.keys() != self.parts.keys():
            ours, theirs = (", ".join(sorted(names)) for names in (self.parts, states))
            raise ValueError(f"{folder} is of a run with other flags: it holds {theirs}; this run has {ours}")
        self._load_weights(folder / WEIGHTS)
        for name, part in self.parts.items():
            try:
                part.load_state_dict(states[name])
            except (ValueError, KeyError, RuntimeError) as error:
                raise ValueError(f"{name} in {folder} does not fit this run: {_first_line(error)}") from error

    def _load_weights(self, path: Path) -> None:
        launched = all(name.startswith("module.") for name in tensor_names(path))  # 0.1.0, by one of several processes
        network = nn.ModuleDict({"module": self.network}) if launched else self.network
        try:
            load_model(network, str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not fit this network: {_first_line(error)}") from error


def read_parts(folder: Path) -> dict[str, Any]:
    """The states of all parts in a folder, by name, in either format.

    Raises:
        UnsafeFile: a file asks for code to be run, whether it would be read or not.
        ValueError: a file is missing or damaged; it names the file.
    """
    refuse_code(folder)
    if (folder / "optimizer.bin").is_file() or (folder / "custom_checkpoint_0.pkl").is_file():
        return _read_pickled_parts(folder)
    found = sorted(path.stem for path in folder.glob("*.json"))
    return {name: read_state(folder, name) for name in dict.fromkeys([*ALWAYS, *found])}


def _read_pickled_parts(folder: Path) -> dict[str, Any]:
    """Of 0.1.0: the optimizer, then learning rate, averages and, without averaged parameters, a history."""
    states = {"optimizer": read_pickle(folder / "optimizer.bin")}
    states["lr_scheduler"] = read_pickle(folder / "custom_checkpoint_0.pkl")
    count = max(len(list(folder.glob("custom_checkpoint_*.pkl"))), 2)
    for index in range(1, count):
        state = read_pickle(folder / f"custom_checkpoint_{index}.pkl")
        states[f"average-{index - 1}" if "shadow_params" in state else "history"] = state
    if (folder / "scaler.pt").is_file():
        states["scaler"] = read_pickle(folder / "scaler.pt")
    return states


def damage(checkpoint: Path) -> str | None:
    """What is missing or damaged in a checkpoint, by its file; None if a run can go on from it.

    Raises:
        UnsafeFile: a file asks for code to be run.
    """
    refuse_code(checkpoint)
    try:
        record = read_json_object(checkpoint / "training.json")
        if not isinstance(record.get("steps"), int):
            return f"{checkpoint / 'training.json'} names no steps"
        tensor_names(checkpoint / "state" / WEIGHTS)
        read_parts(checkpoint / "state")
    except UnsafeFile:
        raise
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def check_finite(network: nn.Module, what: str) -> None:
    """Raise FloatingPointError, naming `what` and the first such parameter, unless all parameters are finite."""
    for name, value in network.named_parameters():
        if not bool(value.isfinite().all()):
            raise FloatingPointError(f"{what} must be finite, {name} is not")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
