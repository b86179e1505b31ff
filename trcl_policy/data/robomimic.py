"""robomimic's HDF5 files, read.

    data                attributes total, env_args (JSON)
    data/demo_i         attributes num_samples, model_file, ...
    data/demo_i/obs/<key>, next_obs/<key>, actions, rewards, dones, states
    mask/<filter>       names of demonstrations

Vectors among the observations become ``observation.state``, one after another, pictures
``observation.images.<camera>``; what is left keeps a name of its own. Names, order, sizes, masks and attributes are
kept in the provenance under ``robomimic``, so that the way back restores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data import hdf5
from trcl_policy.data.contents import Choices, Contents, Field, camera_key, invented_success, single_task
from trcl_policy.data.layout import ACTION, IMAGES, STATE, SUCCESS

DOCUMENT = "trcl"
NAMES = {
    "actions": ACTION,
    "rewards": "next.reward",
    "dones": "next.done",
    "states": "simulator.state",
    "success": SUCCESS,
}
Part = tuple[str, int, str]  # path in the demonstration, entries of a row, type


class RobomimicSource:
    """A robomimic file that is read.

    Args:
        path: the file.
        choices: what the user says.

    Raises:
        ValueError: damaged, or not what the choices ask for; one line.
        FileError: can't be read.
    """

    def __init__(self, path: Path, choices: Choices) -> None:
        self._file = hdf5.open_hdf5(path)
        try:
            self._read(path, choices)
        except BaseException:
            self._file.close()
            raise

    def _read(self, path: Path, choices: Choices) -> None:
        data = hdf5.group(self._file, "data")
        document = hdf5.read_json(self._file[DOCUMENT][()], DOCUMENT) if DOCUMENT in self._file else {}
        masks = _masks(self._file, data, set(document.get("masks", ())))
        names = _demos(data, masks, choices.mask, path)
        self._demos, other = [], set()
        for name in names:
            arrays, rest = hdf5.arrays(hdf5.group(data, name))
            self._demos.append(arrays)
            other |= set(rest)
        self.losses = tuple(f"{entry} of the demonstrations, which holds no numbers" for entry in sorted(other))
        paths = _common(self._demos, names, path)
        lengths = [_length(hdf5.group(data, name), arrays) for name, arrays in zip(names, self._demos, strict=True)]
        derived = set(document.get("derived", ()))
        self._layout = _layout({key: found for key, found in paths.items() if key not in derived}, choices, document)
        fields = _fields(self._layout, paths)
        self._success = self._rule(fields, lengths)
        fields.setdefault(SUCCESS, Field(np.dtype(bool), ()))
        self.contents = self._contents(data, names, masks, lengths, fields, document, choices, path)

    def _rule(self, fields: Mapping[str, Field], lengths: Sequence[int]) -> str:
        """Return where ``success`` comes from: ``stored``, ``rewards`` (all 0 or 1) or ``end``."""
        if SUCCESS in fields:
            return "stored"
        if "rewards" in self._demos[0]:
            rewards = [hdf5.read(demo["rewards"], 0, n) for demo, n in zip(self._demos, lengths, strict=True)]
            if all(np.isin(values, (0, 1)).all() for values in rewards) and any(values.any() for values in rewards):
                return "rewards"
        return "end"

    def _contents(
        self,
        data: Any,
        names: list[str],
        masks: Mapping[str, list[str]],
        lengths: list[int],
        fields: Mapping[str, Field],
        document: Mapping[str, Any],
        choices: Choices,
        path: Path,
    ) -> Contents:
        """Return the contents; tasks come from our own document, or are the one that env_args names."""
        attributes = [hdf5.attributes(hdf5.group(data, name)) for name in names]
        attempts = tuple(int(entry.get("attempt", -1)) for entry in attributes)
        if document:
            tasks = tuple(document["task_names"])
            unknown = sorted({str(entry.get("task")) for entry in attributes} - set(tasks))
            if unknown:
                raise ValueError(f"attribute task must be one of {list(tasks)}, got {unknown[0]} in {path}")
            numbers = tuple(tasks.index(entry["task"]) for entry in attributes)
            hertz = tuple(document["control_frequency"])
            return Contents(fields, tuple(lengths), numbers, attempts, tasks, hertz, document["provenance"])
        outer = hdf5.attributes(data)
        env = hdf5.read_json(outer["env_args"], "attribute env_args of data") if "env_args" in outer else {}
        found = (env.get("env_kwargs") or {}).get("control_freq")
        name, frequency = single_task(choices, str(env.get("env_name") or path.stem), found, f"{path} (env_args)")
        kept = {
            "env_args": outer.get("env_args"),
            "attributes": {key: value for key, value in outer.items() if key not in ("env_args", "total")},
            "demos": names,
            "demo_attributes": _table([_without(entry, "num_samples") for entry in attributes]),
            "masks": {mask: [demo for demo in demos if demo in set(names)] for mask, demos in masks.items()},
            "layout": {key: [list(part) for part in parts] for key, parts in self._layout.items()},
            "success_from": self._success,
        }
        provenance = {"source": path.name, "robomimic": kept}
        return Contents(fields, tuple(lengths), (0,) * len(lengths), attempts, (name,), (frequency,), provenance)

    def rows(self, key: str, episode: int, start: int, stop: int) -> NDArray:
        """Return rows [start, stop) of an episode; raises ValueError where they can't be read."""
        demo = self._demos[episode]
        if key == SUCCESS and self._success == "rewards":
            return hdf5.read(demo["rewards"], start, stop) > 0
        if key == SUCCESS and self._success == "end":
            return invented_success(self.contents.lengths[episode], start, stop)
        parts = [hdf5.read(demo[path], start, stop) for path, _, _ in self._layout[key]]
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate(parts, axis=1)
        return joined.astype(self.contents.fields[key].dtype, copy=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _masks(file: Any, data: Any, made: set[str]) -> dict[str, list[str]]:
    """Return the file's filters but those that our export added; raises ValueError where one names no demonstration."""
    if "mask" not in file:
        return {}
    found = hdf5.group(file, "mask")
    masks = {name: hdf5.strings(found[name]) for name in found if hdf5.is_array(found[name])}
    for name, demos in masks.items():
        missing = sorted(set(demos) - set(data))
        if missing:
            raise ValueError(f"mask/{name} must name demonstrations of the file, got {missing[0]} ({file.filename})")
    return {name: demos for name, demos in masks.items() if name not in made}


def _demos(data: Any, masks: Mapping[str, list[str]], mask: str | None, path: Path) -> list[str]:
    """Return the names of the demonstrations that are asked for, in robomimic's order: by number."""
    if mask is not None and mask not in masks:
        raise ValueError(f"mask must be one of {sorted(masks)}, got {mask!r}, which {path} does not have")
    names = list(data) if mask is None else masks[mask]
    wrong = [name for name in names if not name.startswith("demo_") or not name[5:].isdecimal()]
    if wrong or not names:
        raise ValueError(f"data must hold groups demo_0, demo_1, ..., got {wrong[0] if wrong else 'none'} in {path}")
    return sorted(set(names), key=lambda name: int(name[5:]))


def _length(demo: Any, arrays: Mapping[str, Any]) -> int:
    """Return a demonstration's number of rows; raises ValueError where its arrays disagree."""
    length = int(demo.attrs.get("num_samples", arrays["actions"].shape[0]))
    for item in arrays.values():
        if item.shape[0] != length:
            raise ValueError(f"{item.name} must have num_samples = {length} rows, got {item.shape[0]}")
    return length


def _common(demos: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> dict[str, Field]:
    """Return type and row shape of every array; raises ValueError where demonstrations disagree."""
    first = {key: _field(item) for key, item in demos[0].items()}
    if "actions" not in first:
        raise ValueError(f"data/{names[0]} must hold actions, got {', '.join(first) or 'nothing'} in {path}")
    for name, demo in zip(names, demos, strict=True):
        if set(demo) != set(first):
            odd = sorted(set(demo) ^ set(first))[0]
            raise ValueError(f"demonstrations must hold the same arrays, got {odd} not in all of them ({path})")
        for key, item in demo.items():
            if _field(item) != first[key]:
                wanted = first[key]
                raise ValueError(
                    f"data/{name}/{key} must have rows of {wanted.dtype} {wanted.shape} as in {names[0]}, "
                    f"got {item.dtype} {item.shape[1:]} ({path})"
                )
    return first


def _field(item: Any) -> Field:
    return Field(item.dtype.newbyteorder("="), item.shape[1:])


def _layout(paths: Mapping[str, Field], choices: Choices, document: Mapping[str, Any]) -> dict[str, list[Part]]:
    """Return, by name in the store, the arrays of a demonstration that make it up."""
    layout: dict[str, list[Part]] = {}
    known = document.get("layout", {})
    placed = set()
    for key, parts in known.items():
        if all(part[0] in paths for part in parts):
            layout[key] = [(part[0], int(part[1]), str(part[2])) for part in parts]
            placed |= {part[0] for part in parts}
    rest = {path: found for path, found in paths.items() if path not in placed}
    if not known:
        chosen = _chosen(rest, choices)
        for prefix, group in (("", "obs"), ("next.", "next_obs")):
            parts = [f"{group}/{name}" for name in chosen]
            if parts and all(path in rest for path in parts):
                layout[f"{prefix}{STATE}"] = [_part(path, rest.pop(path)) for path in parts]
    for path, found in rest.items():
        key = choices.keys.get(path) or name_in_store(path, found)
        if key in layout:
            raise ValueError(f"arrays must have names of their own in the store, got {key} twice, also from {path}")
        layout[key] = [_part(path, found)]
    return {key: parts for key, parts in layout.items() if key not in choices.drop}


def _part(path: str, found: Field) -> Part:
    return path, int(np.prod(found.shape)), found.to_json()[0]


def _chosen(paths: Mapping[str, Field], choices: Choices) -> list[str]:
    """Return the observation keys that make up ``observation.state``, in order."""
    vectors = [
        path.removeprefix("obs/")
        for path, found in paths.items()
        if path.startswith("obs/") and len(found.shape) == 1 and found.dtype.kind == "f" and path not in choices.keys
    ]
    if not choices.observation_keys:
        return sorted(vectors)
    for key in choices.observation_keys:
        if key not in vectors:
            raise ValueError(f"observation-keys must be among {', '.join(sorted(vectors))}, got {key}")
    return list(dict.fromkeys(choices.observation_keys))


def name_in_store(path: str, found: Field) -> str:
    """Return the store's name of an array of a demonstration."""
    group, _, name = path.partition("/")
    if found.is_picture and group in ("obs", "next_obs"):
        camera = camera_key(name.removesuffix("_image").replace("/", "."))
        return camera if group == "obs" else f"next.{camera}"
    if path == "success" and found.dtype != bool:
        return "demo.success"
    return NAMES.get(path, path.replace("/", "."))


def path_in_demo(key: str) -> str:
    """Return where an array of the store lies in a demonstration where nothing else is known."""
    back = {name: path for path, name in NAMES.items()}
    if key in back:
        return back[key]
    group, name = ("next_obs", key.removeprefix("next.")) if key.startswith("next.observation") else ("obs", key)
    if name == STATE:
        return f"{group}/state"
    if name.startswith(f"{IMAGES}."):
        return f"{group}/{name.removeprefix(f'{IMAGES}.')}_image"
    for prefix in ("obs.", "next_obs."):
        if key.startswith(prefix):
            return f"{prefix[:-1]}/{key.removeprefix(prefix)}"
    return key


def _fields(layout: Mapping[str, list[Part]], paths: Mapping[str, Field]) -> dict[str, Field]:
    """Return type and row shape by name in the store; parts of several types take the type that holds all of them."""
    fields = {key: paths[parts[0][0]] for key, parts in layout.items()}
    for key, parts in layout.items():
        if len(parts) > 1:
            dtype = np.result_type(*[paths[path].dtype for path, _, _ in parts])
            fields[key] = Field(dtype, (sum(size for _, size, _ in parts),))
    return fields


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return attributes of demonstrations with every value once: long ones, such as model files, repeat."""
    values: list[Any] = []
    places: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for name, value in row.items():
            if value not in values:
                values.append(value)
            places.setdefault(name, [-1] * len(rows))[number] = values.index(value)
    return {"values": values, "of": places}


def _without(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}
