"""The domain pack: one folder with everything a domain needs, verified by hash, read by every command.

Each weight file carries ``{"kind": ..., "args": {constructor arguments}, ...}``, from which the builders of `Pack`
make the network again. torch and the network modules are imported where they are used, so that looking at a pack is
quick. What stands in ``domain.json`` and how the folder is checked: see ``pack_files``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import write_bytes
from sis_rearrange.pack_files import (
    DRAWING_FOLDER,
    INFO_FILE,
    add_file,
    create_pack,
    files_hash,
    find_pack,
    inside,
    pack_names,
    read_checked,
    read_info,
    unfinished_folder,
    unlisted,
    update_info,
)

if TYPE_CHECKING:
    import torch

    from sis_rearrange.conditions.palette import Palette
    from sis_rearrange.encoder import Encoder
    from sis_rearrange.mapper import SemanticMapper
    from sis_rearrange.proxy import ProxyClusters
    from sis_rearrange.rearranger import Rearranger
    from sis_rearrange.stylegan2 import Discriminator, Generator
    from sis_rearrange.unet import UNet

__all__ = [
    "Pack",
    "add_file",
    "copy_pack",
    "create_pack",
    "load_pack",
    "mapper_file",
    "pack_names",
    "update_info",
    "verify_pack",
    "write_component",
    "write_manifest",
]

MANIFEST_FILE = "manifest.json"
GENERATOR = "generator.safetensors"
DISCRIMINATOR = "discriminator.safetensors"
PROXY = "proxy.safetensors"
REARRANGER = "rearranger.safetensors"
UNLABELLED = "rearranger-unlabelled.safetensors"  # no part label took part in its training: what few-shot scores need
SEGMENTER = "segmenter.safetensors"
JUDGE = "judge.safetensors"
ENCODER = "encoder.safetensors"
MAPPER_FOLDER = "mappers"
MAX_UNSAVED = 16_000_000  # numbers in buffers that are computed instead of saved, such as coordinates

Network = TypeVar("Network", bound="torch.nn.Module")


def mapper_file(condition: str) -> str:
    """The relative path of the mapper of a condition."""
    return f"{MAPPER_FOLDER}/{condition}.safetensors"


@dataclass(eq=False)
class Pack:
    """An opened pack. ``info`` is ``domain.json``; ``hash`` is the hex sha256 over the names and hashes of its files.

    The builders return networks on the CPU in eval mode whose parameters need no gradient. They are cached: two calls
    give the same object, so whoever trains one or moves it to another device takes a ``copy.deepcopy`` of it.
    """

    path: Path
    info: dict[str, Any]
    hash: str
    rearranger_file: str = REARRANGER
    _built: dict[str, Any] = field(default_factory=dict, repr=False)
    _configs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The pack's name."""
        return str(self.info["name"])

    @property
    def short_hash(self) -> str:
        """The first 12 hex digits of ``hash``, for file metadata and for people."""
        return self.hash[:12]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the part classes, in label order."""
        return tuple(self.info["classes"])

    @property
    def resolution(self) -> int:
        """The side of the generator's pictures in pixels."""
        return int(self.info["resolution"])

    @property
    def size(self) -> int:
        """The sizes of all listed files in bytes, added up."""
        return sum(int(entry["bytes"]) for entry in self.info["files"].values())

    def conditions(self) -> tuple[str, ...]:
        """The conditions this pack has a mapper for, sorted."""
        mappers = (PurePosixPath(name) for name in self.info["files"])
        return tuple(sorted(p.stem for p in mappers if p.parent.name == MAPPER_FOLDER and p.suffix == ".safetensors"))

    def drawings(self) -> tuple[str, ...]:
        """The relative paths of the drawings the pack ships, sorted; open them with ``file``."""
        return tuple(sorted(name for name in self.info["files"] if name.startswith(f"{DRAWING_FOLDER}/")))

    def file(self, relpath: str) -> Path:
        """The path of a listed file inside the pack's folder; ``InputError`` where it is not one."""
        if relpath not in self.info["files"]:
            raise InputError(f"{self.path}: has no {relpath}{nearest(relpath, self.info['files'])}")
        return inside(self.path, relpath)

    def read(self, relpath: str) -> bytes:
        """The bytes of a listed file, checked against its hash."""
        self.file(relpath)
        return read_checked(self.path, relpath, self.info["files"][relpath])

    def component_config(self, relpath: str) -> dict[str, Any]:
        """The ``{"kind", "args", ...}`` a weight file carries, with whatever its writer noted beside them."""
        if relpath not in self._configs:
            from sis_rearrange.weights import decode_weights

            self._configs[relpath] = decode_weights(self.read(relpath), str(self.path / relpath))[0]
        return self._configs[relpath]

    def generator(self) -> Generator:
        """The StyleGAN2 generator (its moving average)."""
        from sis_rearrange.stylegan2 import Generator

        return self._network(GENERATOR, "generator", Generator)

    def discriminator(self) -> Discriminator:
        """The discriminator that belongs to the generator."""
        from sis_rearrange.stylegan2 import Discriminator

        return self._network(DISCRIMINATOR, "discriminator", Discriminator)

    def proxy(self) -> ProxyClusters:
        """The clustering that gives a feature map its proxy mask."""
        from sis_rearrange.proxy import ProxyClusters

        return self._network(PROXY, "proxy", ProxyClusters)

    def rearranger(self) -> Rearranger:
        """The rearranger."""
        from sis_rearrange.rearranger import Rearranger

        return self._network(self.rearranger_file, "rearranger", Rearranger)

    def unlabelled(self) -> Pack:
        """This pack with the rearranger that no part labels have helped, where it holds one beside the usual one."""
        return replace(self, rearranger_file=UNLABELLED) if UNLABELLED in self.info["files"] else self

    def mapper(self, condition: str) -> SemanticMapper:
        """The semantic mapper of a condition; ``InputError`` with the nearest name where there is none."""
        from sis_rearrange.mapper import SemanticMapper

        known = self.conditions()
        if condition not in known:
            raise InputError(
                f"pack {self.name!r} has no mapper for the condition {condition!r}"
                f"{nearest(condition, known)}; it has {', '.join(known) or 'none'}"
            )
        return self._network(mapper_file(condition), "mapper", SemanticMapper)

    def segmenter(self) -> UNet:
        """The part segmenter that labels the generator's samples."""
        from sis_rearrange.unet import UNet

        return self._network(SEGMENTER, "unet", UNet)

    def encoder(self) -> Encoder:
        """The encoder from a picture to the ws that an inversion starts from."""
        from sis_rearrange.encoder import Encoder

        return self._network(ENCODER, "encoder", Encoder)

    def judge(self) -> UNet:
        """The part segmenter used for scoring only; nothing trains against it."""
        from sis_rearrange.unet import UNet

        return self._network(JUDGE, "unet", UNet)

    def palette(self) -> Palette | None:
        """The class names and colours of the domain's part masks; None for a pack that names no parts."""
        from sis_rearrange.conditions.palette import Palette

        if not self.classes:
            return None
        colours = tuple((int(r), int(g), int(b)) for r, g, b in self.info["palette"])
        # Tables of others have classes of one colour; whoever made the pack was told
        shared = tuple(name for k, name in enumerate(self.classes) if colours[k] in colours[:k])
        return Palette(self.classes, colours, shared=shared)

    def _network(self, relpath: str, kind: str, make: Callable[..., Network]) -> Network:
        if relpath not in self._built:
            if relpath not in self.info["files"]:
                raise InputError(f"pack {self.name!r} has no {relpath}; train that part first, or use a complete pack")
            self._built[relpath], self._configs[relpath] = self._build(relpath, kind, make)
        built: Network = self._built[relpath]
        return built

    def _build(self, relpath: str, kind: str, make: Callable[..., Network]) -> tuple[Network, dict[str, Any]]:
        import torch

        from sis_rearrange.weights import decode_weights

        where = str(self.path / relpath)
        config, state = decode_weights(self.read(relpath), where)
        if config.get("kind") != kind or not isinstance(config.get("args"), dict):
            raise InputError(f"{where}: holds a {config.get('kind')!r}, where a {kind!r} belongs; write it again")
        try:
            with torch.device("meta"):  # shapes alone: a forged configuration could ask for terabytes
                planned = make(**config["args"])
            numbers = sum(tensor.numel() for tensor in (*planned.parameters(), *planned.buffers()))
            if numbers > sum(tensor.numel() for tensor in state.values()) + MAX_UNSAVED:
                raise ValueError(f"it asks for {numbers:,} numbers, far more than the file holds")
            # Initial values are drawn, then overwritten: leave no trace. Networks are kept, and may be trained later:
            # their tensors must not be inference tensors, whoever asks first
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                network = make(**config["args"])
                network.load_state_dict(state, strict=True)
        except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where}: its configuration and weights do not fit this version ({reason}); train that part again"
            ) from error
        return network.eval().requires_grad_(False), config


def load_pack(name_or_path: str | Path, verify: bool = True) -> Pack:
    """Open a pack by name in ``pretrained/`` or by path, and check every file against its hash (``verify``).

    Raises ``InputError`` for an unknown name, a folder that is no pack, an unknown format, a missing, changed or
    unlisted file, and a path that leads out of the folder. Without ``verify`` each file is checked once it is used.
    """
    path = find_pack(name_or_path)
    info = read_info(path)
    if verify:
        for relpath, entry in sorted(info["files"].items()):
            read_checked(path, relpath, entry)
        for relpath in unlisted(path, info):
            raise InputError(f"{path}: {relpath} is not listed in {INFO_FILE}; remove it, or write it as a component")
    return Pack(path, info, files_hash(info))


def copy_pack(pack: Pack, out: str | Path, without: Collection[str] = (), **changes: Any) -> Pack:
    """A copy of a pack in the folder ``out``, which gives it its name; it appears whole or not at all.

    Args:
        without: files that the copy does not get.
        changes: ``domain``, ``classes`` or ``palette``, where they differ.

    Raises InputError where ``out`` holds something already, is no name for a pack, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; choose another folder or remove it")
    facts = {key: pack.info[key] for key in ("domain", "classes", "palette", "resolution", "licences")} | changes
    with unfinished_folder(out) as folder:
        create_pack(folder, out.resolve().name, **facts)
        for relpath in sorted(set(pack.info["files"]) - set(without)):
            add_file(folder, relpath, pack.read(relpath), pack.info["provenance"].get(relpath))
    return load_pack(out)


def verify_pack(name_or_path: str | Path) -> list[str]:
    """Every problem of a pack, one line each, ``[]`` for a sound one: hashes, weights that decode, manifest entry."""
    from sis_rearrange.weights import decode_weights

    try:
        path = find_pack(name_or_path)
        info = read_info(path)
    except InputError as error:
        return [str(error)]
    problems = []
    for relpath, entry in sorted(info["files"].items()):
        try:
            data = read_checked(path, relpath, entry)
            if relpath.endswith(".safetensors"):
                decode_weights(data, str(path / relpath))
        except InputError as error:
            problems.append(str(error))
    problems += [f"{path}: {relpath} is not listed in {INFO_FILE}" for relpath in unlisted(path, info)]
    return problems + _manifest_problems(path, info)


def write_component(
    pack_dir: str | Path,
    relpath: str,
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    half: bool = True,
) -> None:
    """Write one network's weights into a pack, with where they are from.

    ``config`` is ``{"kind": ..., "args": {constructor arguments}, ...}``; what stands beside these two is kept for
    ``Pack.component_config``. ``provenance`` is JSON-able: the ``command``, the ``seed``, the ``minutes`` it took.
    """
    from sis_rearrange.weights import encode_weights

    if not relpath.endswith(".safetensors"):
        raise ValueError(f"a component is a .safetensors file, not {relpath!r}")
    if not isinstance(config.get("kind"), str) or not isinstance(config.get("args"), Mapping):
        raise ValueError("config must be {'kind': str, 'args': {constructor arguments}, ...}")
    add_file(pack_dir, relpath, encode_weights(state, config, half), provenance)


def write_manifest(root: str | Path) -> dict[str, dict[str, Any]]:
    """Index the packs in a folder as ``manifest.json``: ``{name: {"hash": ..., "bytes": ...}}``, which is returned."""
    root = Path(root)
    packs = [load_pack(info.parent) for info in sorted(root.glob(f"*/{INFO_FILE}"))]
    manifest = {pack.path.name: {"hash": pack.hash, "bytes": pack.size} for pack in packs}
    write_bytes(root / MANIFEST_FILE, (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return manifest


def _manifest_problems(path: Path, info: Mapping[str, Any]) -> list[str]:
    manifest = path.resolve().parent / MANIFEST_FILE
    if not manifest.is_file():
        return []
    try:
        entry = json.loads(manifest.read_text(encoding="utf-8")).get(path.resolve().name, {})
        listed = str(entry.get("hash"))
    except (ValueError, AttributeError, OSError):
        return [f"{manifest}: is not a readable manifest"]
    own = files_hash(info)
    return [] if listed == own else [f"{manifest}: lists another hash ({listed[:12]}) than the pack has ({own[:12]})"]
