"""To open the run folder of somebody else must not run code that lies in it.

Hydra imports and calls whatever a ``_target_`` names. Here all names in a configuration are looked at before anything
is imported. Allowed at each place are classes of the kind that belongs there, from packages known to be harmless.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from omegaconf import DictConfig, ListConfig, OmegaConf

from lsa_lightning.runs.installed import require_installed
from lsa_lightning.runs.kinds import KINDS, Kind
from lsa_lightning.utils.checks import refuse, sequence, text

GET_CLASS = "hydra.utils.get_class"
NOTHING = Kind("data", {})
OTHER_NAMES = {"timm.create_model": "timm.models.create_model"}  # the rest of timm is no place for models


@dataclass(frozen=True)
class Named:
    """An object that a configuration names.

    Attributes:
        place: dotted key of its node.
        kind: what may stand there.
        target: the dotted name.
        package: the part of it that is allowed there.
    """

    place: str
    kind: Kind
    target: str
    package: str


@dataclass(frozen=True)
class Trust:
    """What a user allows besides the classes of :data:`~lsa_lightning.runs.kinds.KINDS`.

    Args:
        names: packages, whose classes and functions may stand anywhere, and resolvers such as ``oc.env``.
        everything: allow everything.

    Example:
        >>> foreign = OmegaConf.create({"model": {"_target_": "os.system", "command": "true"}})
        >>> Trust().check(foreign, {"model": "model"})
        Traceback (most recent call last):
        ValueError: model: expected a LightningModule, got 'os.system'; if you trust whoever made this run, ...
    """

    names: tuple[str, ...] = ()
    everything: bool = False

    @classmethod
    def of(cls, value: Any) -> Trust:
        """What the key ``trust`` of a command says: ``all``, a list of names, or null.

        Raises:
            ValueError: for something else.

        Example:
            >>> Trust.of(["my_package"])
            Trust(names=('my_package',), everything=False)
        """
        if value == "all":
            return cls(everything=True)
        if value is None or (isinstance(value, list | ListConfig) and not value):
            return cls()
        if isinstance(value, str):
            refuse("trust", "trust", "all, or a list of packages such as [my_package]", value)
        return cls(tuple(sequence("trust", "trust", value, text)))

    def check(self, config: DictConfig, places: Mapping[str, str | None]) -> None:
        """Refuse ``config`` if what is to be used of it could run code that is not allowed.

        Nothing is made, and nothing outside of the allowed packages is imported. Afterwards Hydra may instantiate what
        lies at ``places``, and what was checked as data may be put into other configurations.

        Args:
            config: what was read from a file.
            places: all that will be used of it: by dotted key, the name of a kind, or None for data. ``*`` is any key;
                what is not there is passed over. For all of a job, see :data:`~lsa_lightning.runs.kinds.JOB`.

        Raises:
            ValueError: with the place, what is there, and how to allow it.
        """
        if self.everything:
            return
        tree = self._resolved(config, places)
        used = [(place, value, kind) for path, kind in places.items() for place, value in _at(tree, path)]
        named = [each for place, value, kind in used for each in self._named(value, place, kind)]
        for each in named:
            require_installed(each.target, each.place)
        for each in named:
            self._check_object(each)

    def _resolved(self, config: DictConfig, places: Iterable[str]) -> Any:
        """Plain containers; where interpolations are used at all, every one of the configuration must be harmless."""
        tree = OmegaConf.to_container(config, resolve=False)
        used = [value for path in places for _, value in _at(tree, path)]
        if not any("${" in value for _, value in _texts(used)):  # lsa-train saves none but those of the environment
            return tree
        resolvers = "|".join([r"oc\.select", r"lsa\.\w+", *map(re.escape, self.names)])
        harmless = re.compile(rf"\$\{{\s*(?:[\w.\[\]-]+\s*\}}|(?:{resolvers})\s*:)")
        for place, value in _texts(tree):
            if value.count("${") != len(harmless.findall(value)):
                resolver = re.search(r"\$\{\s*([\w.]+)\s*:", value)
                _refuse(place, "a plain value", value, None if resolver is None else resolver[1])
        return OmegaConf.to_container(config, resolve=True)

    def _named(self, value: Any, place: str, name: str | None) -> Iterator[Named]:
        """All that ``value`` names, however deep, if its names are allowed."""
        if isinstance(value, str) and "${" in value:  # put together from parts: it would be resolved the next time
            _refuse(place, "a plain value", value)
        if isinstance(value, dict) and "_target_" in value:
            yield from self._object(value, place, name)
        else:
            for key, child in _children(value):
                yield from self._named(child, f"{place}.{key}", name)

    def _object(self, node: dict[Any, Any], place: str, name: str | None) -> Iterator[Named]:
        """What a node names, and what its arguments name."""
        kind = NOTHING if name is None else KINDS[name]
        is_class = node["_target_"] == GET_CLASS and set(node) == {"_target_", "path"}
        named = self._name(node["path" if is_class else "_target_"], place, kind)
        yield named
        for key, value in node.items():
            if named.package not in self.names and not (is_class or _is_allowed(key, value, kind)):
                _refuse(f"{place}.{key}", f"nothing that leads out of {named.target}", value, _top(named.target))
            if key != "_target_":
                yield from self._named(value, f"{place}.{key}", kind.arguments.get(key, kind.rest))

    def _name(self, target: Any, place: str, kind: Kind) -> Named:
        if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
            _refuse(place, f"{kind.what}, by its dotted name", target)
        target = OTHER_NAMES.get(target, target)
        package = next((package for package in (*self.names, *kind.bases) if _is_in(target, package)), None)
        if package is None:
            _refuse(place, kind.what, target, _top(target))
        return Named(place, kind, target, package)

    def _check_object(self, named: Named) -> None:
        """Import what is named, and look at what it really is."""
        found = _located(named)
        if named.package in self.names:
            return
        bases = tuple(_attribute(base) for base in named.kind.bases[named.package])
        is_one = isinstance(found, type) and issubclass(found, bases)
        if not (is_one or (named.kind.builders and _builds_a_model(found))):
            _refuse(named.place, named.kind.what, named.target, _top(named.target))


NOBODY = Trust()
"""What is allowed where the user says nothing."""


def _at(node: Any, path: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Place and value of what lies at a dotted path; where an interpolation hides it, that one."""
    head, _, rest = path.partition(".")
    if not path or (isinstance(node, str) and "${" in node):
        yield place, node
    elif isinstance(node, dict):
        for key in node if head == "*" else {head} & node.keys():
            yield from _at(node[key], rest, f"{place}.{key}" if place else str(key))


def _texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Place and value of every text, however deep."""
    if isinstance(node, str):
        yield place, node
    for key, child in _children(node):
        yield from _texts(child, f"{place}.{key}" if place else str(key))


def _children(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, dict):
        return node.items()
    return enumerate(node) if isinstance(node, list) else ()


def _is_allowed(key: Any, value: Any, kind: Kind) -> bool:
    """Whether an argument, or a key of Hydra's, can do no harm."""
    if key in ("_target_", "_convert_"):
        return isinstance(value, str)
    if key == "_partial_":
        return value is False or (value is True and kind.partial)
    return key not in ("_args_", "_recursive_") and kind.allows(str(key), value)


def _located(named: Named) -> Any:
    """What Hydra will find by this name; all steps on the way must lie in the allowed package."""
    path = named.package
    try:
        found: Any = import_module(path)
        for part in named.target.removeprefix(f"{named.package}.").split("."):
            path = f"{path}.{part}"
            if isinstance(found, ModuleType) and not hasattr(found, part):
                import_module(path)
            found = getattr(found, part)
            origin = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
            if not _is_in(f"{origin}.", named.package):
                _refuse(named.place, f"{named.kind.what} that {named.package} defines", f"{path} of {origin}", origin)
    except (ImportError, AttributeError) as error:
        msg = f"{named.place}: expected {named.kind.what}, got {named.target}, which cannot be found: {error}"
        raise ValueError(msg) from error
    return found


def _attribute(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def _builds_a_model(found: Any) -> bool:
    """Whether it is a function that torchvision or timm has in its own list of model builders."""
    if _is_in(found.__module__, "torchvision.models"):
        models = import_module("torchvision.models")
        return any(models.get_model_builder(name) is found for name in models.list_models())
    if _is_in(found.__module__, "timm.models"):
        models, name = import_module("timm.models"), getattr(found, "__name__", "")
        return found is models.create_model or (models.is_model(name) and models.model_entrypoint(name) is found)
    return False


def _is_in(name: str, package: str) -> bool:
    return name.startswith(f"{package}.")


def _top(target: str) -> str:
    return target.partition(".")[0]


def _refuse(place: str, expected: str, got: Any, name: str | None = None) -> NoReturn:
    allowed = "trust=all" if name is None else f"trust=[{name}] or trust=all"
    msg = f"{place}: expected {expected}, got {got!r}; if you trust whoever made this run, {allowed} allows it"
    raise ValueError(msg)
