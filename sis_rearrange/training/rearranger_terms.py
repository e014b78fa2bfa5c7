"""The loss terms of the rearranger's training on a piece of a step, and what each of them averages over."""

from __future__ import annotations

import torch

from sis_rearrange import losses
from sis_rearrange.critic import Critic
from sis_rearrange.features import SplitGenerator
from sis_rearrange.proxy import MIN_CELLS, ProxyClusters
from sis_rearrange.rearranger import Rearranged, Rearranger
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.rearranger_batch import Layouts, Piece
from sis_rearrange.training.rearranger_config import RearrangerConfig
from sis_rearrange.training.scale import Scale
from sis_rearrange.unet import UNet


class Terms:
    """The terms that are switched on. Networks but the rearranger are frozen here."""

    def __init__(
        self,
        split: SplitGenerator,
        proxy: ProxyClusters,
        net: Rearranger,
        guide: Guide | None,
        segmenter: UNet | None,
        critic: Critic | None,
        config: RearrangerConfig,
        scale: Scale,
    ) -> None:
        self.split, self.proxy, self.net, self.guide = split, proxy, net, guide
        self.segmenter, self.critic, self.config, self.scale = segmenter, critic, config, scale

    def __call__(
        self, piece: Piece, part_weights: torch.Tensor | None, adversarial: bool
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Unweighted terms, and the images ``[own + N, 3, H, W]``: after own masks, then after the donors'.

        ``part_weights [P]``: of the part classes over the whole batch. A piece without own masks has 0 for their terms.
        """
        weights, count, batch = self.config.weights, piece.own, piece.batch
        moved, images, target = self.both_ways(piece)
        source_mask, target_mask = one_hot(batch.labels, self.proxy.K), one_hot(target, self.proxy.K)
        own, other = slice(0, count), slice(count, None)
        scale = self.net.scale()
        terms: dict[str, torch.Tensor] = {}
        if weights.self_feature:
            terms["self_feature"] = images.new_zeros(())
            if count:
                terms["self_feature"] = losses.feature_reconstruction(
                    moved.feature_map[own], batch.feature_map[own], self.net.feature_std
                )
        if weights.self_image:
            terms["self_image"] = images.new_zeros(())
            if count:
                terms["self_image"] = losses.image_reconstruction(images[own], batch.image[own])
        if weights.agreement:
            logits = self.proxy.logits(moved.feature_map)
            terms["agreement"] = losses.proxy_agreement(logits, target, self.config.relax, self.config.sharpness)
        if weights.attention:
            reachable = losses.cells_reachable(torch.cat([source_mask[own], source_mask]), target_mask)
            terms["attention"] = losses.attention_mass(moved.class_mass, reachable)
        if moved.carried.shape[1]:
            asked = torch.cat([batch.guide[own], piece.donors.guide])
            mass = (moved.carried * self.finer(asked)).sum(dim=1)
            terms["guide"] = losses.attention_mass(mass, _reachable_guide(piece.sources, piece.donors, count))
        here, there = self.finer(batch.guide), self.finer(piece.donors.guide)
        if weights.style:
            new = torch.cat([moved.feature_map[other], moved.skip[other]], dim=1) / scale
            old = torch.cat([batch.feature_map, batch.skip], dim=1) / scale
            terms["style"] = losses.style_statistics(new, there, old, here)
        if weights.colour:
            terms["colour"] = losses.class_colours(images[other], there, batch.image, here)
        if weights.parts:
            assert self.segmenter is not None and piece.donors.parts is not None
            with self.scale.autocast():
                seen = self.segmenter(images[other].clamp(-1, 1))
            terms["parts"] = losses.parts_shown(seen.float(), piece.donors.parts, part_weights)
        if weights.part_colour:
            here, there = self._part_masks(piece.sources), self._part_masks(piece.donors)
            terms["part_colour"] = losses.class_colours(images[other], there, batch.image, here)
        if adversarial:
            assert self.critic is not None
            with self.scale.autocast():
                opinion = self.critic(images[other], target_mask[other])
            terms["adversarial"] = losses.adversarial(opinion.float())
        return terms, images

    def both_ways(self, piece: Piece) -> tuple[Rearranged, torch.Tensor, torch.Tensor]:
        """Rearranged features, images and target labels: first after own masks, then after the donors'."""
        batch, own = piece.batch, piece.own

        def sources(t: torch.Tensor) -> torch.Tensor:
            return torch.cat([t[:own], t])

        mask, donor_mask = one_hot(batch.labels, self.proxy.K), one_hot(piece.donors.labels, self.proxy.K)
        follow = self.guide is not None and self.config.weights.guide > 0
        guide = self.finer(batch.guide) if follow else None
        with self.scale.autocast():
            code = self.net.encode(mask)
            moved = self.net(
                sources(batch.feature_map),
                sources(batch.skip),
                sources(mask),
                torch.cat([mask[:own], donor_mask]),
                sources(code),
                torch.cat([code[:own], self._codes_of_donors(code, donor_mask)]),
                None if guide is None else sources(guide),
            )
            images = self.split.g2(moved.feature_map, moved.skip, sources(batch.ws))
        return moved, images.float(), torch.cat([batch.labels[:own], piece.donors.labels])

    def _codes_of_donors(self, code: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
        """Of a whole batch the donors are the samples themselves, moved on by one: their codes are known."""
        return code.roll(1, 0) if len(code) == self.config.batch else self.net.encode(donor_mask)

    def finer(self, labels: torch.Tensor) -> torch.Tensor:
        """One-hot masks of guide classes, or of the proxy clusters where there are none."""
        return one_hot(labels, self.proxy.K if self.guide is None else self.guide.num_classes)

    def _part_masks(self, layouts: Layouts) -> torch.Tensor:
        """One-hot masks ``[N, P, H, W]`` of what the segmenter sees in samples."""
        assert self.segmenter is not None and layouts.parts is not None
        return one_hot(layouts.parts, self.segmenter.out_channels)

    def part_weights(self, layouts: Layouts) -> torch.Tensor | None:
        """Of the part classes in the whole batch, see `losses.parts_shown`."""
        if layouts.parts is None or self.segmenter is None:
            return None
        return losses.part_weights(layouts.parts, self.segmenter.out_channels)

    def counts(
        self, sources: Layouts, donors: Layouts, own: int, part_weights: torch.Tensor | None
    ) -> dict[str, float]:
        """How much each term averages over: samples, cells, classes, or weights of pixels."""
        n = len(sources.labels)
        masks = one_hot(sources.labels, self.proxy.K), one_hot(donors.labels, self.proxy.K)
        reachable = losses.cells_reachable(torch.cat([masks[0][:own], masks[0]]), torch.cat([masks[0][:own], masks[1]]))
        finer = self.proxy.K if self.guide is None else self.guide.num_classes
        shared = _shared_classes(sources.guide, donors.guide, finer)
        counts: dict[str, float] = {"self_feature": own, "self_image": own, "agreement": own + n, "adversarial": n}
        counts |= {"attention": float(reachable.sum()), "style": shared, "colour": shared}
        counts["guide"] = float(_reachable_guide(sources, donors, own).sum())
        if part_weights is not None and donors.parts is not None:
            counts["parts"] = float(part_weights[donors.parts].double().sum())
            assert sources.parts is not None
            counts["part_colour"] = _shared_classes(sources.parts, donors.parts, len(part_weights))
        return counts


def _shared_classes(one: torch.Tensor, two: torch.Tensor, classes: int) -> float:
    """How many classes of labels ``[N, h, w]`` both have enough cells of, over all samples."""
    areas = [torch.stack([each.flatten().bincount(minlength=classes) for each in labels]) for labels in (one, two)]
    return float((torch.minimum(*areas) >= MIN_CELLS).sum())


def _reachable_guide(sources: Layouts, donors: Layouts, own: int) -> torch.Tensor:
    """Cells whose guide class occurs in the source within the asked cluster: bool ``[own + N, r, r]``."""
    have = (torch.cat([sources.labels[:own], sources.labels]), torch.cat([sources.guide[:own], sources.guide]))
    want = (torch.cat([sources.labels[:own], donors.labels]), torch.cat([sources.guide[:own], donors.guide]))
    return losses.jointly_reachable(have, want)
