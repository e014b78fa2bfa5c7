"""The facade: fix the look once, then ask for many layouts.

A *source* gives the look (see `sources`). A *target* is the layout that somebody drew, as a proxy mask (see `readers`).
`Synthesizer.synthesize` takes one drawing to one picture; `Synthesizer.rearrange` is the batched tensor method. What
runs the networks is `whole_graph.Paths`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions import Palette
from sis_rearrange.conditions.palette import UNPAINTED
from sis_rearrange.cycle import Cycle, Looks
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit
from sis_rearrange.inversion import Inversion
from sis_rearrange.pack import SEGMENTER, Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.readers import Readers
from sis_rearrange.refinement import refinement
from sis_rearrange.sampling import DEFAULT_PSI, metadata, on_device, pick_device
from sis_rearrange.sources import Sources
from sis_rearrange.targets import Layouts, Pictures, Result, Target, check_refine
from sis_rearrange.tensors import assert_shape, one_hot, to_uint8
from sis_rearrange.variants import BANK, variations
from sis_rearrange.whole_graph import Source, confidence


class Synthesizer:
    """Paint drawings in a chosen look.

    Networks stay as the pack built them on the CPU; on another device they are copies. Nothing here needs gradients.
    """

    source: Source | None

    def __init__(
        self,
        pack: Pack,
        device: str | torch.device = "auto",
        backend: str = "auto",  # "torch", "openvino" (CPU only), or "auto": OpenVINO where it is there, torch elsewhere
        painted: Palette | None = None,  # what masks and scribbles are painted in; None: the pack's own palette
    ) -> None:
        self.pack, self.device = pack, pick_device(device)
        self.sources = Sources(pack, self.device, backend)
        self.proxy, self.split, self.paths = self.sources.proxy, self.sources.split, self.sources.paths
        self.readers = Readers(self.sources, painted)
        self.proxy_palette = self.readers.proxy_palette
        self.source = None
        self._layouts: torch.Tensor | None = None

    @property
    def backend(self) -> str:
        """What runs the networks: "torch" or "openvino"."""
        return self.paths.backend

    @property
    def conditions(self) -> tuple[str, ...]:
        """What `synthesize` takes as condition with this pack."""
        return self.readers.conditions

    # ---------------------------------------------------------------- the look

    def set_source(
        self,
        seed: int | None = None,
        ws: torch.Tensor | None = None,
        psi: float = DEFAULT_PSI,
        inversion: Inversion | None = None,
    ) -> Source:
        """Fix the look: of a seed's sample (truncated with ``psi``), of ws ``[num_ws, w_dim]``, or of an inversion.

        An inversion that was tuned brings its own generator, for this source alone. Raises InputError unless exactly
        one of the three is given and can be used.
        """
        if sum(given is not None for given in (seed, ws, inversion)) != 1:
            raise InputError("set_source takes a seed, ws or an inversion, one of the three")
        if seed is not None:
            self.source = self.sources.of_seed(seed, psi)
        elif ws is not None:
            self.source = self.sources.of_ws(ws)
        elif inversion is not None:
            self.source = self.sources.of_inversion(inversion)
        return self._wanted(None)

    def encode_source(self, ws: torch.Tensor) -> Source:
        """The looks of ws ``[M, num_ws, w_dim]``, for `rearrange`; `set_source` is the friendly form."""
        return self.sources.encode(ws)

    def source_image(self, source: Source | None = None) -> Image.Image:
        """The sample that gives the look (the one set last, or another), as it comes from the generator."""
        return self.sources.image(self._wanted(source))

    # ---------------------------------------------------------------- the layout

    def read(self, drawing: Any, condition: str, fit: str = "pad") -> Target:
        """Read a drawing once, to be painted in any number of looks; arguments and errors as `synthesize`."""
        psi = None if self.source is None else self.source.psi
        return self.readers.read(drawing, condition, fit, DEFAULT_PSI if psi is None else psi)

    def proxy_image(self, labels: torch.Tensor | np.ndarray) -> Image.Image:
        """A proxy mask ``[r, r]`` as an index picture in the clusters' colours; "proxy" reads it back."""
        return self.proxy_palette.to_image(labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels)

    # ---------------------------------------------------------------- the picture

    def synthesize(
        self,
        drawing: Any,
        condition: str,
        fit: str = "pad",
        source: Source | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
        refine: int = 0,
    ) -> Result:
        """One drawing to one picture in the look set last (or ``source``).

        Clusters that the look lacks give way to the next best that it has; a painted mask is taken to the letter.

        Args:
            drawing: a path, PIL image or array. For "exemplar": the seed of a sample, its ws, a `Source`, an
                `Inversion` or its file, or a picture (which is inverted), whose proxy mask becomes the layout. For
                "proxy": labels in [0, K), as an integer array ``[h, w]`` or as an index or palette PNG, of any size.
            condition: one of `conditions`.
            fit: how a drawing that is not square is made so: "pad" and "stretch" are undone on the result, "crop" not.
            samples: how many layouts are wanted, the likeliest among them; see `Result.samples` and `vary`.
            temperature: how far the others go, see `vary`.
            seed: of the others.
            refine: steps that bring the parts in the picture nearer to those drawn, see `refine`; 6 are enough.

        Raises InputError for a drawing, condition or fit that cannot be used, and where no source is set.
        """
        check_refine(refine, condition)
        if samples != 1:
            layouts = Layouts(samples, temperature, seed)
            targets = self.vary(self.read(drawing, condition, fit), layouts)
            first, *others = (self.paint(self.refine(target, refine, source), source) for target in targets)
            return replace(first, alternatives=tuple(others))
        source = self._wanted(source)
        self.readers.check(condition, fit)
        if refine or condition not in self.pack.conditions():
            return self.paint(self.refine(self.read(drawing, condition, fit), refine, source), source)
        x, how = self.readers.file(drawing, condition, fit)
        reader, mapper = self.readers.halves(condition)
        image, labels, sure, moved = self.sources.paths_of(source).draw(mapper, x.to(self.device), source)
        return self._result(condition, source, image, labels, sure, moved, reader.show(x[0]), how)

    def paint(self, target: Target, source: Source | None = None) -> Result:
        """A layout that `read` returned, in the look set last or in ``source``."""
        source = self._wanted(source)
        labels = self.labels_for(target, source)
        logits = target.logits if target.mapped else None
        sure = torch.ones(labels.shape) if logits is None else confidence(logits, labels, target.temperature)
        image, moved, _ = self.sources.paths_of(source).paint(one_hot(labels, self.proxy.K), source)
        result = self._result(target.condition, source, image, labels, sure, moved, target.drawing, target.fit)
        if target.layout is not None:
            result.metadata["layout"] = target.layout
        if target.refined:
            result.metadata["refine"] = str(target.refined)
        return result

    def vary(self, target: Target, layouts: Layouts) -> list[Target]:
        """Layouts that a drawing leaves open: the target itself, the likeliest, and others drawn at random.

        What the mapper is sure of stays; the rest follows layouts of the generator's samples that suit the drawing.
        At temperature 0 nothing varies. Layout number n depends on seed, temperature and n alone, and is the same for
        every look (as far as the look has its clusters). See `sis_rearrange.variants`.

        Raises InputError for more than one layout of targets that leave nothing open: exemplars and proxy masks.
        """
        if layouts.samples == 1:
            return [target]
        if target.logits is None or not target.mapped:
            raise InputError(f"condition {target.condition!r} says where everything is: one sample is all there is")
        if self._layouts is None:
            self._layouts = self.sources.layouts(BANK)
        targets = [target]
        settings = layouts.samples - 1, layouts.seed, layouts.temperature, target.temperature
        for number, found in enumerate(variations(target.logits, self._layouts, *settings).split(1), start=2):
            labels = (target.logits + found).argmax(dim=1)
            name = f"sample {number}, seed {layouts.seed}, temperature {layouts.temperature:g}"
            targets.append(replace(target, labels=labels, variation=found, layout=name))
        return targets

    def refine(self, target: Target, steps: int, source: Source | None = None) -> Target:
        """The target with a layout that shows the drawn parts better in one look, the one set last or ``source``.

        The pack's segmenter reads the parts off the picture; see `sis_rearrange.refinement`. A step takes as long as
        several pictures. 0 steps: the target as it is.

        Raises InputError for other numbers of steps than 0 to `MAX_REFINE`, for conditions that do not say which part
        is where, for a drawing without a part, and for a pack without a segmenter.
        """
        check_refine(steps, target.condition)
        if steps == 0:
            return target
        if SEGMENTER not in self.pack.info["files"]:
            raise InputError(f"refine: pack {self.pack.name!r} has no {SEGMENTER}, which reads the parts off pictures")
        assert target.parts is not None and target.logits is not None  # as all targets of these conditions
        if not (target.parts != UNPAINTED).any():
            raise InputError("refine: the strokes are too thin to say which part is where; paint thicker ones")
        source = self._wanted(source)
        segmenter = on_device(self.pack.segmenter(), self.device)
        cycle = Cycle(self.sources.split_of(source), self.sources.rearranger, segmenter)
        given = target.logits if target.variation is None else target.logits + target.variation
        with torch.inference_mode(False):
            # copies: tensors of inference mode cannot take part in a gradient
            looks = Looks(*(x.clone() for x in (source.ws, source.feature_map, source.skip, source.labels)))
            change = refinement(cycle, given.clone(), looks, target.parts.to(self.device).clone(), steps)
        variation = change if target.variation is None else target.variation + change
        return replace(target, variation=variation, refined=steps)

    def labels_for(self, target: Target, source: Source | None = None) -> torch.Tensor:
        """The target's proxy mask ``[1, r, r]`` for a source: clusters that it lacks give way to the next best."""
        if target.logits is None:
            return target.labels
        logits = target.logits if target.variation is None else target.logits + target.variation
        return within_reach(logits, self._wanted(source).labels).argmax(dim=1)

    @torch.inference_mode()
    def rearrange(self, target_masks: torch.Tensor, source: Source | None = None) -> Pictures:
        """Paint proxy masks, labels ``[N, r, r]`` int64 or one-hot or soft ``[N, K, r, r]``.

        ``source`` holds one look for all, or one for each of the N; None: the look set last.
        """
        masks = target_masks.to(self.device)
        if masks.ndim == 3:
            masks = one_hot(masks, self.proxy.K)
        assert_shape(masks, [None, self.proxy.K, self.proxy.resolution, self.proxy.resolution])
        source = self._wanted(source).expand(masks.shape[0])
        images, correspondence, class_mass = self.sources.paths_of(source).paint(masks.float(), source)
        return Pictures(images, masks.argmax(dim=1), correspondence, class_mass)

    def _result(
        self,
        condition: str,
        source: Source,
        image: torch.Tensor,
        labels: torch.Tensor,
        sure: torch.Tensor,
        correspondence: torch.Tensor,
        drawing: Image.Image,
        fit: Fit,
    ) -> Result:
        """The first of a batch, as people want it."""
        return Result(
            image=fit.undo(Image.fromarray(to_uint8(image)[0])),
            proxy_mask=labels[0].cpu().numpy(),
            source_proxy_mask=source.labels[0].cpu().numpy(),
            correspondence=np.ascontiguousarray(correspondence[0].permute(1, 2, 0).cpu().numpy()),
            confidence=sure[0].cpu().numpy(),
            drawing=drawing,
            metadata=metadata(self.pack, source.seed, source.psi, condition, self.backend),
        )

    def _wanted(self, source: Source | None) -> Source:
        found = self.source if source is None else source
        if found is None:
            raise InputError("no source is set; call set_source(seed=...) first")
        return found
