"""Where the features of an edited region come from: places of the picture that are painted alike, taken in one piece.

The rearranger moves whole layouts and blends what it moves: an eye that is only shifted comes out smeared. An edit
leaves most of the picture as it is, so a coherent match is possible: each cell is matched with the place whose painted
surroundings resemble its own, and neighbours agree on where they come from, as in PatchMatch (Barnes et al. 2009). A
shifted eye is then fetched as one eye, and a new lock of hair from within the hair.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FINE = 2  # pixels of the masks per cell and side: features are fetched at half cells too
WINDOW = 9  # pixels: side of the surroundings that are compared
SPREAD = WINDOW / 4  # of the Gaussian that weighs them
FAR = 0.05  # cost of fetching from the other end of the picture; one for surroundings that share nothing is about 2
OTHER = 0.5  # cost of a place whose own part is another one
APART = 0.75  # cost of fetching from elsewhere than all neighbours do, by `TOLERATED` pixels or more
TOLERATED = 4
OUTSIDE = 0.25  # weight of neighbours beyond the region, which stay where they are
ROUNDS = 12
_NEIGHBOURS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
_AT_ONCE = 256  # cells compared with all places at a time


def coherent_match(own: torch.Tensor, wanted: torch.Tensor, region: torch.Tensor, classes: int) -> torch.Tensor:
    """Where each cell of a region is fetched from; cells beyond it stay.

    Args:
        own: what the picture shows, labels int64 ``[2 r, 2 r]`` in [0, classes).
        wanted: what it is to show, likewise.
        region: cells to fetch, bool ``[r, r]``.

    Returns float32 ``[r, r, 2]``: positions (y, x) in [-1, 1], as `correspondence` has them. Nothing is random.
    """
    r, side = region.shape[0], own.shape[0]
    cells = region.nonzero()  # [n, 2]
    problem = _Problem(own, wanted, cells * FINE + FINE // 2, classes)
    offset = problem.nearest()
    around = [(cells + torch.tensor(step, device=own.device)).clamp(0, r - 1) for step in _NEIGHBOURS]
    inside = torch.stack([region[at[:, 0], at[:, 1]] for at in around]).float()
    weight = inside * (1 - OUTSIDE) + OUTSIDE  # [8, n]
    for _ in range(ROUNDS):
        field = torch.zeros(r, r, 2, dtype=offset.dtype, device=own.device)
        field[cells[:, 0], cells[:, 1]] = offset
        theirs = torch.stack([field[at[:, 0], at[:, 1]] for at in around])  # [8, n, 2]
        best, least = offset, problem.cost(offset) + _apart(offset, theirs, weight)
        for candidate in theirs:
            cost = problem.cost(candidate) + _apart(candidate, theirs, weight)
            better = cost < least - 1e-6
            best, least = torch.where(better[:, None], candidate, best), torch.where(better, cost, least)
        if torch.equal(best, offset):
            break
        offset = best
    position = _pixels(r, own.device).reshape(r, r, 2) * FINE + FINE // 2
    position[cells[:, 0], cells[:, 1]] += offset
    return position.float() / side * 2 - 1


class _Problem:
    """What it costs to fetch cells from places, each cell by itself. Offsets are in pixels of the masks."""

    def __init__(self, own: torch.Tensor, wanted: torch.Tensor, centres: torch.Tensor, classes: int) -> None:
        self.side, self.centres = own.shape[0], centres  # [n, 2]
        number = self._number(centres)
        self.seen, self.asked = surroundings(own, classes), surroundings(wanted, classes)[number]
        self.own, self.wanted = own.flatten(), wanted.flatten()[number]

    def nearest(self) -> torch.Tensor:
        """The offset ``[n, 2]`` that costs each cell least."""
        pixels, found = _pixels(self.side, self.own.device), []
        for rows in torch.arange(len(self.centres), device=self.own.device).split(_AT_ONCE):
            cost = torch.cdist(self.asked[rows], self.seen).square()
            cost += FAR * torch.cdist(self.centres[rows].float(), pixels.float()).div(self.side).square()
            cost += OTHER * (self.own[None] != self.wanted[rows, None])
            found.append(pixels[cost.argmin(dim=1)])
        return torch.cat(found) - self.centres if found else self.centres

    def cost(self, offset: torch.Tensor) -> torch.Tensor:
        """``[n]`` for offsets ``[n, 2]``; infinite outside the picture."""
        at = self.centres + offset
        number = self._number(at.clamp(0, self.side - 1))
        cost = (self.asked - self.seen[number]).square().sum(dim=1)
        cost += FAR * (offset / self.side).square().sum(dim=1) + OTHER * (self.own[number] != self.wanted)
        return cost.masked_fill(((at < 0) | (at >= self.side)).any(dim=1), torch.inf)

    def _number(self, at: torch.Tensor) -> torch.Tensor:
        return at[:, 0] * self.side + at[:, 1]


def _apart(offset: torch.Tensor, theirs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cost ``[n]`` of offsets ``[n, 2]`` that differ from those of the eight neighbours, ``[8, n, 2]``."""
    distance = (offset[None] - theirs).abs().sum(dim=2).clamp(max=TOLERATED) / TOLERATED
    return APART * (distance * weight).mean(dim=0)


def _pixels(side: int, device: torch.device) -> torch.Tensor:
    """(row, column) of all pixels, ``[side * side, 2]``."""
    at = torch.arange(side, device=device)
    return torch.cartesian_prod(at, at)


def surroundings(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """What lies around each pixel of labels ``[s, s]``: float32 ``[s * s, D]``, compared by squared distance.

    The distance is the weighted share of the window that differs, twice; beyond the rim the picture goes on.
    """
    pad = WINDOW // 2
    planes = F.one_hot(labels, classes).permute(2, 0, 1).float()[None]
    windows = F.unfold(F.pad(planes, (pad,) * 4, mode="replicate"), WINDOW).view(classes, WINDOW * WINDOW, -1)
    at = torch.arange(WINDOW, device=labels.device) - pad
    weight = torch.exp(-(at[:, None].square() + at[None].square()) / (2 * SPREAD**2)).flatten()
    return (windows * (weight / weight.sum()).sqrt()[None, :, None]).flatten(0, 1).T.contiguous()


def fetch(maps: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Maps ``[1, C, r, r]`` fetched from positions ``[r, r, 2]``, (y, x) in [-1, 1]; bilinear between cells."""
    grid = position.flip(-1)[None].to(maps.dtype)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
