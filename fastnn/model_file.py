"""Model files: one safetensors file, data only, checked before anything is made of it.

Tensor "theta" (P,) of the network's dtype; the metadata names the format, its version, that of the fastnn that wrote
it (not in the oldest files), the network, a SHA-256 of theta and one of the metadata themselves. An optimizer may lie
beside it (fastnn/saved_optimizer.py). Nothing in the file names code: activations, costs and dtypes are looked up in
fastnn's tables. Written to a temporary file beside the target and moved over it, so that a crash or a full disk leaves
the old file as it was. The name is written as it is given: it ends in .safetensors or in nothing that is the ending of
another format (.h5, .pt, .npz), which it would promise; lr0.01 is a name. `load` goes by the content alone, so it reads
a model of any name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from . import activations, costs, files, saved_optimizer
from .backends import Backend, get_backend
from .errors import ModelFileError, natural_number, positive_integer
from .layout import Layout
from .network import Network
from .optimizers import Optimizer
from .options import PRECISIONS, warn_of_precision
from .version import __version__, is_version, written_by

__all__ = ["FORMAT_VERSION", "check_name", "load", "resume", "save"]

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
CHECKSUM = "metadata_sha256"  # of all other metadata
WRITER = "fastnn_version"
# of other formats, without the dot: models, arrays, tables, texts, pictures, archives
FOREIGN = {
    "pt", "pth", "pkl", "pickle", "dill", "joblib", "onnx", "ort", "h5", "hdf5", "hdf", "keras", "tflite", "pb", "bin",
    "ckpt", "gguf", "mlmodel", "pdparams", "npz", "npy", "mat", "csv", "tsv", "parquet", "feather", "arrow", "xlsx",
    "json", "yaml", "yml", "toml", "xml", "txt", "md", "html", "py", "ipynb", "png", "jpg", "jpeg", "svg", "pdf",
    "zip", "gz", "bz2", "xz", "zst", "tar", "tgz", "7z",
}  # fmt: skip
# what a description that is not right may raise, where it is taken for what it should be
_UNUSABLE = (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError)
_FIELDS = {"sizes", "hidden", "output", "cost", "l2", "dtype", "precision", "scale", "epochs_trained"}


def save(net: Network, path: str | os.PathLike[str], *, optimizer: Optimizer | None = None) -> None:
    """Write `net` to `path`, replacing a file there in one move; with `optimizer` its state too, for `resume`.

    Raises
    ------
    TypeError
        `path` is not a path; or the optimizer is none of fastnn's, or has a schedule of your own.
    ValueError
        The name ends as files of another format do (any other is taken as it is), or it is there and no regular file,
        but a device or a pipe; or the optimizer carries the state of another network.
    OSError
        The folder does not exist or cannot be written, or the disk is full; a file already there is untouched.
    """
    path = _as_path(path)
    if not path.is_dir():  # which is said below, whatever it is called
        check_name("path=", path)
    from safetensors.numpy import save as serialise

    tensors = {"theta": np.array(net.backend.to_numpy(net.theta))}  # a copy: another thread may be training
    network = {
        "sizes": list(net.sizes),
        "hidden": [g.config() for g in net.hidden],
        "output": net.output.config(),
        "cost": net.cost,
        "l2": net.l2,
        "dtype": net.dtype.name,
        "precision": net.precision,
        "scale": net.scale,
        "epochs_trained": net.epochs_trained,
    }
    if any(net.dropout):  # of the format's first version only where it is used, so that others are read as before
        network["dropout"] = list(net.dropout)
    metadata = {
        "format": "fastnn",
        "version": str(FORMAT_VERSION),
        WRITER: __version__,
        "network": json.dumps(network),
        "preprocessing": json.dumps(net.preprocessing, allow_nan=False),
        "theta_sha256": hashlib.sha256(tensors["theta"].tobytes()).hexdigest(),
    }
    if optimizer is not None:
        metadata["optimizer"], state = saved_optimizer.description(net, optimizer)
        tensors |= state
    metadata[CHECKSUM] = _checksum(metadata)
    _replace(path, _in_order(serialise(tensors, metadata=metadata)))


def _checksum(metadata: dict[str, str]) -> str:
    described = sorted((name, text) for name, text in metadata.items() if name != CHECKSUM)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _in_order(content: bytes) -> bytes:
    """The same file with its header sorted: safetensors writes it in an order that changes from one time to the next,
    and the same model should give the same bytes.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:begin]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # data begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[begin:]


def check_name(argument: str, path: Path) -> None:
    """Refuses a name that promises another format; `argument` is what stands before it in the message.

    Raises
    ------
    ValueError
        It ends as files of another format do, or almost in .safetensors.
    """
    ending = path.suffix.lower()
    slip = ending != SUFFIX and difflib.get_close_matches(ending, [SUFFIX], cutoff=0.8)
    if slip or ending[1:] in FOREIGN:
        raise ValueError(
            f"{argument}{str(path)!r}: a model file is written as safetensors, so its name must end in {SUFFIX!r} or "
            "in no ending of another format, "
            f"got {path.suffix!r}; for example {str(path.with_suffix('')).removesuffix(SUFFIX) + SUFFIX!r}"
        )


def _as_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(
            f"path must be a str or os.PathLike, the name of a model file, got {path!r} ({type(path).__name__})"
        )
    return Path(path)


def _replace(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: the folder {str(path.parent)!r} does not exist")
    if path.is_dir():
        raise IsADirectoryError(
            f"path={str(path)!r} is a folder; give a file name such as {str(path / 'model.safetensors')!r}"
        )
    if path.exists() and not path.is_file():  # moved over /dev/null, the model would be the end of it
        raise ValueError(
            f"path={str(path)!r} is not a regular file but a device, pipe or socket; give the name of a file"
        )
    files.replace(path, content, durable=True)


def load(path: str | os.PathLike[str], *, backend: str | Backend = "auto") -> Network:
    """The network of a model file, on the engine asked for. The content counts, not the name.

    Raises
    ------
    TypeError
        `path` is not a path.
    FileNotFoundError
        No such file.
    ModelFileError
        Not a fastnn model, damaged, from a newer version, or describing what this version does not know.
    BackendUnavailable
        The engine asked for by name cannot run here.

    Warns
    -----
    UserWarning
        The engine does not know the precision in which the network was trained; parameters are float32 in any.
    """
    path, tensors, metadata = _opened(path, backend)
    return _network(path, tensors, metadata, backend)


def resume(path: str | os.PathLike[str], *, backend: str | Backend = "auto") -> tuple[Network, Optimizer]:
    """The network and the optimizer of a file that `net.save(path, optimizer=rule)` wrote, to train further.

    With the same data and arguments of `fit`, on the same engine, machine and number of threads, the result is the
    same bit for bit as without the pause. Epochs go on where they were; one that was interrupted begins again.

    Raises
    ------
    TypeError, FileNotFoundError, ModelFileError, BackendUnavailable
        As `load`; ModelFileError also for a file without an optimizer.

    Warns
    -----
    UserWarning
        As `load`.
    """
    path, tensors, metadata = _opened(path, backend)
    if "optimizer" not in metadata:
        raise ModelFileError(
            f"path={str(path)!r} holds a network without an optimizer; net.save(path, optimizer=rule) keeps one, and "
            "fastnn.load reads the network"
        )
    net = _network(path, tensors, metadata, backend)
    try:
        state = {name: vector for name, vector in tensors.items() if name != "theta"}
        return net, saved_optimizer.restored(net, metadata["optimizer"], state)
    except _UNUSABLE as error:
        raise _unusable(path, error, metadata) from error


def _unusable(path: Path, error: Exception, metadata: dict[str, str]) -> ModelFileError:
    return ModelFileError(f"path={str(path)!r} is not a usable fastnn model: {error}{written_by(metadata.get(WRITER))}")


def _opened(path: Any, backend: str | Backend) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """The path, and what is in the file."""
    path = _as_path(path)
    if not path.is_file():
        with_suffix = path.with_name(path.name + SUFFIX) if path.name else path
        folder = " but a folder" if path.name and path.is_dir() else ""
        raise FileNotFoundError(
            f"path={str(path)!r}: no such model "
            f"file{f'; did you mean {str(with_suffix)!r}?' if with_suffix.is_file() else folder}"
        )
    get_backend(backend)  # an unknown or unavailable engine is not the file's fault
    return path, *_read(path)


def _network(path: Path, tensors: dict[str, Any], metadata: dict[str, str], backend: str | Backend) -> Network:
    theta = tensors["theta"]
    try:
        config = _config(metadata)
        precision = config["precision"]
        engine = get_backend(backend, parameters=theta.size)
        if precision in PRECISIONS and precision not in engine.precisions:
            warn_of_precision(precision, engine, f"path={str(path)!r}: ")
            precision = "fp32"
        sizes = tuple(positive_integer("sizes", size) for size in config["sizes"])
        if theta.shape != (Layout(sizes).size,):
            raise ValueError(f"theta has shape {theta.shape}, sizes {list(sizes)} need ({Layout(sizes).size},)")
        if theta.dtype.name != config["dtype"]:
            raise ValueError(f"theta is {theta.dtype}, the file says {config['dtype']!r}")
        if hashlib.sha256(theta.tobytes()).hexdigest() != metadata["theta_sha256"]:
            raise ValueError("the checksum of theta does not match; the file is damaged")
        costs.named(config["cost"])
        net = Network(
            sizes,
            hidden=[activations.from_config(g) for g in config["hidden"]],
            output=activations.from_config(config["output"]),
            cost=config["cost"],
            init=theta,
            l2=config["l2"],
            dropout=config.get("dropout", 0.0),
            backend=backend,
            dtype=config["dtype"],
            precision=precision,
        )
        net.scale = config["scale"]
        net.epochs_trained = natural_number("epochs_trained", config["epochs_trained"])
        net.preprocessing = json.loads(metadata["preprocessing"])
        if not isinstance(net.preprocessing, (dict, type(None))):
            raise ValueError(f"the preprocessing must be an object or null, got {type(net.preprocessing).__name__}")
        net._written_by = metadata.get(WRITER)
    except _UNUSABLE as error:
        raise _unusable(path, error, metadata) from error
    return net


def _read(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Tensors by name, theta among them and else an optimizer's alone, and the metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            names = list(file.keys())
            if metadata.get("format") != "fastnn":
                raise ModelFileError(
                    f"path={str(path)!r} is a safetensors file but not a fastnn model (tensors: {', '.join(names[:5])})"
                )
            others = [name for name in names if not name.startswith(saved_optimizer.PREFIX)]
            if others != ["theta"] or (len(names) > 1 and "optimizer" not in metadata):
                raise ModelFileError(
                    f"path={str(path)!r} is not a usable fastnn model: it must hold the tensor 'theta', and beside "
                    f"it an optimizer's alone, got {names[:5]}"
                )
            return {name: np.array(file.get_tensor(name)) for name in names}, metadata
    except (SafetensorError, TypeError, AttributeError) as error:  # of a dtype that NumPy has not
        raise ModelFileError(
            f"path={str(path)!r} is not a model file, or is damaged: {error}; a model file is safetensors, written by "
            "net.save or fastnn train"
        ) from error


def _config(metadata: dict[str, str]) -> dict[str, Any]:
    if metadata.get("version") != str(FORMAT_VERSION):
        raise ValueError(
            f"format version {metadata.get('version')!r}, this fastnn reads version {FORMAT_VERSION}; install a newer "
            "fastnn"
        )
    if metadata[CHECKSUM] != _checksum(metadata):
        raise ValueError("the checksum of its description does not match; the file is damaged")
    if WRITER in metadata and not is_version(metadata[WRITER]):
        raise ValueError(f"{WRITER} {metadata[WRITER][:40]!r} is no version")
    config = json.loads(metadata["network"])
    if isinstance(config, dict) and (newer := sorted(set(config) - {"dropout"} - _FIELDS)):
        raise ValueError(f"it was written by a newer fastnn, which describes networks by {', '.join(newer)} too")
    if not isinstance(config, dict) or set(config) - {"dropout"} != _FIELDS:
        raise ValueError(f"the network description must have the fields {sorted(_FIELDS)}")
    return config
