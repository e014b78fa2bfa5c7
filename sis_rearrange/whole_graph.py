"""The facade's work as whole, traceable paths, and their runner: plain torch, or one engine graph for one call.

A drawing takes `DrawingToPicture`: mapper, restriction to the look's clusters, rearranger and G2. A given proxy mask
takes `MaskToPicture`, the same without the mapper. What depends on the look alone comes in ready made, so a new drawing
never runs G1 or the source's mask encoder again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torch.nn as nn

from sis_rearrange import engine
from sis_rearrange.features import SplitGenerator
from sis_rearrange.inference import SynthesisGraph
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.proxy import within_reach
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.tensors import one_hot

EARNS = 100  # pictures in one run from which starting the engine pays, where its graphs are not cached yet

Tensors = tuple[torch.Tensor, ...]
Decoder = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Source:
    """One look, or a batch of M looks, with everything the paths need of it."""

    ws: torch.Tensor  # [M, num_ws, w_dim]
    feature_map: torch.Tensor  # [M, C, r, r]
    skip: torch.Tensor  # [M, 3, r, r]
    labels: torch.Tensor  # [M, r, r] int64: its proxy mask
    mask: torch.Tensor  # [M, K, r, r]: the same, one-hot
    code: torch.Tensor  # [M, width, r, r]: the mask as the rearranger encodes it
    seed: int | None = None  # where it came from a seed
    psi: float | None = None
    name: str | None = None  # of the picture, where it was inverted
    tuned: tuple[SplitGenerator, Paths] | None = None  # what shows it, where the generator was tuned to it

    @property
    def title(self) -> str:
        """What people call it: "seed 7", or the name of the inverted picture without its ending."""
        return f"seed {self.seed}" if self.name is None else Path(self.name).stem

    def expand(self, count: int) -> Source:
        """The look repeated for ``count`` targets; a batch must have that size already."""
        if self.ws.shape[0] == count:
            return self
        if self.ws.shape[0] != 1:
            raise ValueError(f"{self.ws.shape[0]} sources for {count} targets: give one, or one for each")
        repeated = {
            name: getattr(self, name).expand(count, -1, -1, -1) for name in ("feature_map", "skip", "mask", "code")
        }
        flat = {name: getattr(self, name).expand(count, -1, -1) for name in ("ws", "labels")}
        return replace(self, **repeated, **flat)


class MaskToPicture(nn.Module):
    """Rearranger and G2: proxy masks to pictures in a look."""

    def __init__(self, rearranger: Rearranger, g2: Decoder) -> None:
        super().__init__()
        self.rearranger, self.g2 = rearranger, g2  # g2: (feature_map, skip, ws) to images

    def forward(
        self,
        mask: torch.Tensor,  # [N, K, r, r], one-hot or soft: the layout asked for
        ws: torch.Tensor,  # [N, num_ws, w_dim] of the look, as all below
        feature_map: torch.Tensor,  # [N, C, r, r]
        skip: torch.Tensor,  # [N, 3, r, r]
        source_mask: torch.Tensor,  # [N, K, r, r]
        source_code: torch.Tensor,  # [N, width, r, r]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images ``[N, 3, H, W]``, correspondence ``[N, 2, r, r]`` and class mass ``[N, r, r]``."""
        moved = self.rearranger(feature_map, skip, source_mask, mask, source_code=source_code)
        return self.g2(moved.feature_map, moved.skip, ws), moved.correspondence, moved.class_mass


class DrawingToPicture(nn.Module):
    """Mapper, restriction to the look's clusters, rearranger and G2: conditions to pictures in a look."""

    def __init__(self, mapper: SemanticMapper, paint: MaskToPicture) -> None:
        super().__init__()
        self.mapper, self.paint = mapper, paint

    def forward(
        self,
        x: torch.Tensor,  # [N, channels, R, R]: the condition
        source_labels: torch.Tensor,  # [N, r, r] int64 of the look, as all below
        ws: torch.Tensor,  # [N, num_ws, w_dim]
        feature_map: torch.Tensor,  # [N, C, r, r]
        skip: torch.Tensor,  # [N, 3, r, r]
        source_mask: torch.Tensor,  # [N, K, r, r]
        source_code: torch.Tensor,  # [N, width, r, r]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images ``[N, 3, H, W]``, proxy labels and the mapper's confidence ``[N, r, r]``, correspondence."""
        logits = self.mapper(x)
        labels = within_reach(logits, source_labels).argmax(dim=1)
        mask = one_hot(labels, self.mapper.K)
        image, correspondence, _ = self.paint(mask, ws, feature_map, skip, source_mask, source_code)
        return image, labels, confidence(logits, labels, self.mapper.temperature), correspondence


def confidence(logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The mapper's probability ``[N, r, r]`` of labels, from its logits ``[N, K, r, r]`` and its temperature."""
    return (logits / temperature).softmax(dim=1).gather(1, labels[:, None])[:, 0]


class Paths:
    """The paths of one pack on one device.

    The engine runs batches picture by picture: two threads are busy with one picture already (no slower than a torch
    batch), no batch size needs a graph of its own, and a picture does not depend on the batch it is in.
    """

    def __init__(
        self,
        key: str,  # names the weights: the pack's hash
        split: SplitGenerator,
        rearranger: Rearranger,
        backend: str = "auto",  # or "torch", "openvino"; InputError as `engine.resolve`
        device: str | torch.device = "cpu",
    ) -> None:
        self.backend, self.why = engine.resolve(backend, device)
        self._may_fall_back = backend == "auto"
        self._key, self._split, self._rearranger = f"{key}-{_code_hash()}", split, rearranger
        self._paint: MaskToPicture | None = None
        self._modules: dict[str, nn.Module] = {}
        self._graphs: dict[str, Callable[..., Tensors]] = {}

    def map(self, mapper: SemanticMapper, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, K, r, r]`` of conditions ``[N, channels, R, R]``."""
        return self._run(f"map-{mapper.condition}", lambda: mapper, x)[0]

    def paint(self, mask: torch.Tensor, source: Source) -> Tensors:
        """As `MaskToPicture`; ``source`` of the batch's size."""
        look = source.ws, source.feature_map, source.skip, source.mask, source.code
        return self._run("paint", self._painter, mask, *look)

    def draw(self, mapper: SemanticMapper, x: torch.Tensor, source: Source) -> Tensors:
        """As `DrawingToPicture`; ``source`` of the batch's size."""
        look = source.labels, source.ws, source.feature_map, source.skip, source.mask, source.code
        return self._run(f"draw-{mapper.condition}", lambda: DrawingToPicture(mapper, self._painter()), x, *look)

    def _painter(self) -> MaskToPicture:
        if self._paint is None:
            tap = self._split.tap.resolution
            g2 = self._split.g2 if self.backend == "torch" else SynthesisGraph(self._split.generator, 2 * tap)
            self._paint = MaskToPicture(self._rearranger, g2)
        return self._paint

    @torch.inference_mode()
    def _run(self, name: str, make: Callable[[], nn.Module], *inputs: torch.Tensor) -> Tensors:
        if name not in self._modules:
            self._modules[name] = make().eval()
        count = inputs[0].shape[0]
        graph = self._graph(name, tuple(x[:1] for x in inputs)) if count and self.backend != "torch" else None
        if graph is None:
            return _as_tuple(self._modules[name](*inputs))
        rows = [graph(*(x[n : n + 1] for x in inputs)) for n in range(count)]
        return rows[0] if count == 1 else tuple(torch.cat(column) for column in zip(*rows, strict=True))

    def _graph(self, name: str, inputs: Tensors) -> Callable[..., Tensors] | None:
        """The engine's graph for one picture; None where "auto" meets a network that the engine cannot run."""
        if name not in self._graphs:
            try:
                self._graphs[name] = engine.compile_graph(self._modules[name], inputs, self._key, name)
            except RuntimeError as error:
                if not self._may_fall_back:
                    raise
                self.backend, self.why = "torch", str(error)
                return None
        return self._graphs[name]


def for_run(backend: str, pictures: int) -> str:
    """The backend of a command that makes so many pictures: "auto" starts the engine only where it has time to pay."""
    return "torch" if backend == "auto" and pictures < EARNS else backend


def _as_tuple(found: torch.Tensor | Tensors) -> Tensors:
    return (found,) if isinstance(found, torch.Tensor) else found


@cache
def _code_hash() -> str:
    """Hash of the package's own modules: a graph in the cache goes stale when what it was traced from changes."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
