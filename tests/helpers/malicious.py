"""Configurations that run code when Hydra instantiates them: each leaves a file behind where it does."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = "package_of_somebody"
"""A module that runs code when it is imported, and has a class and a function."""


class Trap:
    """Files to be made use of by an attacker, and the file that tells that code ran.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sprung_file = folder / "code_ran"
        self.code = f"open({str(self.sprung_file)!r}, 'w').close()"
        self.command = f"touch {self.sprung_file}"
        self.pickle = folder / "weights.pth"
        self.pickle.write_bytes(pickle.dumps(_Touch(self.command)))
        self.script = folder / f"{PACKAGE}.py"
        self.script.write_text(
            f"{self.code}\nimport os\nfrom torch import nn\nclass Net(nn.Module): pass\ndef build(): return Net()\n"
        )
        (folder / "hubconf.py").write_text(f"{self.code}\ndef net(): return None\n")

    @property
    def is_sprung(self) -> bool:
        return self.sprung_file.exists()

    def reset(self) -> None:
        """As if no code had run."""
        self.sprung_file.unlink(missing_ok=True)
        sys.modules.pop(PACKAGE, None)


class _Touch:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def call(target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """A node of Hydra's."""
    return {"_target_": target, **({"_args_": list(args)} if args else {}), **kwargs}


def _opened(trap: Trap) -> dict[str, Any]:
    return call("builtins.open", str(trap.pickle), "rb")


MODEL = {"_target_": "lsa_lightning.RobustClassifier"}
MLP = {"_target_": "lsa_lightning.models.MLP"}
PGD = {"_target_": "lsa_lightning.attacks.PGD"}

CALLS: dict[str, tuple[str, Callable[[Trap], Any]]] = {
    "os.system": ("model", lambda t: call("os.system", t.command)),
    "posix.system": ("model.backbone", lambda t: call("posix.system", t.command)),
    "os.popen": ("data", lambda t: call("os.popen", t.command)),
    "os.spawnlp": ("measure", lambda t: call("os.spawnlp", 0, "touch", "touch", str(t.sprung_file))),
    "subprocess.run": ("data.dataset_cls", lambda t: call("subprocess.run", ["touch", str(t.sprung_file)])),
    "subprocess.Popen": ("model.normalize", lambda t: call("subprocess.Popen", t.command, shell=True)),
    "subprocess.check_output": ("data.augment", lambda t: call("subprocess.check_output", t.command, shell=True)),
    "subprocess.getoutput": ("model.optimizer", lambda t: call("subprocess.getoutput", t.command)),
    "builtins.exec": ("model.scheduler", lambda t: call("builtins.exec", t.code)),
    "builtins.eval": ("model", lambda t: call("builtins.eval", t.code)),
    "builtins.open": ("threat.norm", lambda t: call("builtins.open", str(t.sprung_file), "w")),
    "builtins.__import__": ("threat.eps", lambda _: call("builtins.__import__", PACKAGE)),
    "importlib.import_module": ("data", lambda _: call("importlib.import_module", PACKAGE)),
    "runpy.run_path": ("model.backbone.hidden.0", lambda t: call("runpy.run_path", str(t.script))),
    "pickle.load": ("model.backbone", lambda t: call("pickle.load", _opened(t))),
    "pickle.loads": ("measure", lambda t: call("pickle.loads", t.pickle.read_bytes())),
    "torch.load": ("model.backbone", lambda t: call("torch.load", str(t.pickle), weights_only=False)),
    "torch.hub.load": ("model", lambda t: call("torch.hub.load", str(t.folder), "net", source="local")),
    "torch.serialization.load": (
        "evaluation.eps.0",
        lambda t: call("torch.serialization.load", str(t.pickle), weights_only=False),
    ),
    "numpy.load": ("attack.norm", lambda t: call("numpy.load", str(t.pickle), allow_pickle=True)),
    "pandas.read_pickle": ("callbacks.atlr.attack.eps", lambda t: call("pandas.read_pickle", str(t.pickle))),
    "joblib.load": ("regularizer.measure", lambda t: call("joblib.load", str(t.pickle))),
    "pathlib.Path.touch": (
        "threat.bounds.1",
        lambda t: call("pathlib.Path.touch", call("pathlib.Path", str(t.sprung_file))),
    ),
    "shutil.copy": ("model.backbone", lambda t: call("shutil.copy", str(t.script), str(t.sprung_file))),
    "timeit.timeit": ("analysis.measure", lambda t: call("timeit.timeit", t.code, number=1)),
    "cProfile.run": ("model.normalize", lambda t: call("cProfile.run", t.code, str(t.folder / "profile"))),
    "code.InteractiveInterpreter": (
        "model",
        lambda t: call(
            "code.InteractiveInterpreter.runsource", call("code.InteractiveInterpreter"), t.code, symbol="exec"
        ),
    ),
    "logging.config.dictConfig": (
        "data",
        lambda t: call(
            "logging.config.dictConfig",
            {"version": 1, "filters": {"f": {"()": "os.system", "command": t.command}}},
            _convert_="all",
        ),
    ),
    "functools.partial": ("model.optimizer", lambda t: call("functools.partial", call("os.system", t.command))),
    "hydra.utils.instantiate": ("model", lambda t: call("hydra.utils.instantiate", call("os.system", t.command))),
    "hydra.utils.call": (
        "data.augment",
        lambda t: call("hydra.utils.call", {"_target_": "os.system", "command": t.command}, _recursive_=False),
    ),
    "hydra.utils.get_class": (
        "data.dataset_cls",
        lambda _: call("hydra.utils.get_class", path=f"{PACKAGE}.Net"),
    ),
    "hydra.utils.get_method": ("model.normalize", lambda _: call("hydra.utils.get_method", path=f"{PACKAGE}.build")),
    "hydra.utils.get_object": ("data.root", lambda _: call("hydra.utils.get_object", f"{PACKAGE}.build")),
    "a class of a package": ("model.backbone", lambda _: call(f"{PACKAGE}.Net")),
    "a function of a package": ("model", lambda _: call(f"{PACKAGE}.build")),
    "a partial of a package": ("model.optimizer", lambda _: call(f"{PACKAGE}.Net", _partial_=True)),
    "in a list in a mapping": ("data.sizes", lambda t: [{"a": [call("os.popen", t.command)]}]),
    "an argument of an attack": ("measure.attack", lambda t: call("os.popen", t.command)),
    "through torch.nn": ("model.backbone", lambda t: call("torch.nn.modules.module.torch.os.system", t.command)),
    "through lsa_lightning": ("data", lambda t: call("lsa_lightning.cli.train.sys.modules", t.command)),
    "through torch.hub": (
        "model.backbone",
        lambda t: call("torch.nn.modules.module.torch.hub.load", str(t.folder), "net", source="local"),
    ),
    "through timm": (
        "model.backbone",
        lambda t: call("timm.models._helpers.torch.load", str(t.pickle), weights_only=False),
    ),
    "timm.checkpoint_path": (
        "model.backbone",
        lambda t: call("timm.create_model", model_name="resnet10t", checkpoint_path=str(t.pickle)),
    ),
    "timm from a folder": (
        "model.backbone",
        lambda t: call("timm.create_model", model_name=f"local-dir:{t.folder}", pretrained=True),
    ),
    "timm from a repository": (
        "model.backbone",
        lambda _: call("timm.create_model", model_name="hf-hub:somebody/net", pretrained=True),
    ),
    "timm.pretrained_cfg": (
        "model.backbone",
        lambda t: call("timm.models.resnet10t", pretrained=True, pretrained_cfg={"file": str(t.pickle)}),
    ),
    "timm.load_checkpoint": (
        "model.normalize",
        lambda t: call("timm.models.load_state_dict", str(t.pickle), weights_only=False),
    ),
    "torchvision from a file": (
        "model.backbone",
        lambda t: call("torchvision.models.resnet18", weights=str(t.pickle)),
    ),
    "torchvision.get_model": ("model.backbone", lambda _: call("torchvision.models.get_model", name="resnet18")),
    "another data set": ("data.dataset_cls", lambda _: call("hydra.utils.get_class", path="torchvision.datasets.LSUN")),
    "a data set made": ("data.dataset_cls", lambda t: call("torchvision.datasets.FakeData", size=1)),
    "another kind": ("model", lambda t: call("lightning.pytorch.callbacks.ModelCheckpoint", dirpath=str(t.folder))),
    "another kind of ours": ("model.backbone", lambda _: PGD),
    "arguments by position": ("model.backbone", lambda _: {**MLP, "_args_": [2]}),
    "a name that is no text": ("model", lambda t: {"_target_": ["os.system"], "command": t.command}),
    "a name from a number": ("model", lambda _: {"_target_": 3}),
    "a name without a module": ("model.backbone", lambda _: call("MLP")),
    "a name put together": ("model", lambda t: {"_target_": "${part}.system", "command": t.command}),
    "the environment": ("data.root", lambda _: "${oc.env:PATH}"),
    "the environment, behind": ("data.root", lambda _: "${secret}"),
    "a resolver put together": ("data.root", lambda _: "${${resolver}.env:PATH}"),
    "resolved twice": ("data.root", lambda _: "${dollar}{oc.env:PATH}"),
    "escaped": ("data.root", lambda _: "\\${oc.env:PATH}"),
    "oc.create": ("model", lambda _: "${oc.create:'{_target_: os.getpid}'}"),
    "hydra": ("threat.eps", lambda _: "${hydra:runtime.cwd}"),
}
"""By name: where it stands in a configuration of lsa-train, and what stands there."""

RUN_BY_HYDRA = (
    "a class of a package",
    "a function of a package",
    "a partial of a package",
    "builtins.open",
    "hydra.utils.get_class",
    "hydra.utils.get_method",
    "hydra.utils.get_object",
    "joblib.load",
    "numpy.load",
    "pandas.read_pickle",
    "pathlib.Path.touch",
    "shutil.copy",
    "through timm",
    "through torch.hub",
    "timm.load_checkpoint",
    "torch.hub.load",
    "torch.load",
    "torch.serialization.load",
)
"""Those that a Hydra of its own list of forbidden names (1.3.8) goes on to run."""

ELSEWHERE = {"part": "os", "secret": "${oc.env:PATH}", "resolver": "oc", "dollar": "$"}
"""Other entries of the configuration, which some of :data:`CALLS` use."""


def put(tree: Any, place: str, value: Any) -> None:
    """Set what lies at a dotted place of plain containers."""
    head, _, rest = place.partition(".")
    if isinstance(tree, list):
        tree[int(head)] = _within(tree[int(head)], rest, value)
    else:
        tree[head] = _within(tree.get(head), rest, value)


def _within(node: Any, place: str, value: Any) -> Any:
    if not place:
        return value
    new = [0.5, 1.0] if place.partition(".")[0].isdigit() else {}
    node = node if isinstance(node, type(new)) and node else new
    put(node, place, value)
    return node
