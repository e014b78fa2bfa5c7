"""Sets of pictures against sets of pictures, in the features of a network: Fréchet distance, KID, precision, recall.

torch-fidelity computes the metrics. The network is Inception (torch-fidelity's, as FID and KID are defined) where its
weights are on this machine, and the pack's judge everywhere. Their metrics have different names, ``inception_*`` and
``judge_*``: numbers of the two say nothing about each other. Nothing is ever downloaded.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import BATCH
from sis_rearrange.evaluation.outcome import hash_of
from sis_rearrange.metrics import Interval, mean_interval, share_interval
from sis_rearrange.unet import UNet
from sis_rearrange.weights import read_weights, sha256

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names it in torch's cache
INCEPTION_LAYER = "2048"
KID_SUBSETS = 100
KID_BLOCKS = 10  # disjoint ones, for the interval
NEIGHBOURS = 3  # whose distance is the radius of a picture's ball
MISSING = "torch-fidelity is not installed; pip install 'sis_rearrange[eval]'"


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into features."""

    prefix: str  # of its metrics' names
    sha256: str  # of its weights, or of the file they came in
    preprocessing: str
    features: Callable[[torch.Tensor], torch.Tensor]  # uint8 [N, 3, H, W] -> float32 [N, F]

    def all(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features ``[N, F]`` of batches of pictures uint8 ``[n, 3, H, W]``; TypeError for another type."""
        found = []
        for images in batches:
            if images.dtype != torch.uint8:
                raise TypeError(f"pictures are uint8 here, so that their range is no question; got {images.dtype}")
            with torch.inference_mode():
                found += [self.features(part) for part in images.split(BATCH)]
        return torch.cat(found)


def need_fidelity() -> None:
    """InputError where torch-fidelity is missing: better before the measurements than after."""
    try:
        import torch_fidelity.metric_prc  # noqa: F401
    except ImportError:
        raise InputError(MISSING) from None


def judge_extractor(judge: UNet) -> Extractor:
    """The judge's bottleneck features."""

    def features(images: torch.Tensor) -> torch.Tensor:
        return judge.features(images.float() / 127.5 - 1)

    return Extractor("judge", hash_of(judge), "uint8, at the generator's resolution, no resizing; to [-1, 1]", features)


def inception_extractor(file: Path | None = None) -> Extractor | str:
    """Inception's pool features; or, in one line, why they cannot be had.

    Args:
        file: torch-fidelity's weights; None: the ones in torch's cache, if they are there.

    Raises InputError for a file that is given and cannot be used.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE if file is None else Path(file)
    if file is None and not path.is_file():
        return (
            f"inception_*: no weights; give torch-fidelity's {INCEPTION_FILE} with --inception (nothing is downloaded)"
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        if file is not None:
            raise InputError(MISSING) from None
        return f"inception_*: {MISSING}"
    _, state = read_weights(path)  # no code of the file runs; the library gets what was read
    plain = io.BytesIO()
    torch.save(state, plain)
    plain.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", [INCEPTION_LAYER], feature_extractor_weights_path=plain)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is not torch-fidelity's {INCEPTION_FILE} ({reason})") from None
    resize = (
        f"uint8, resized to {network.INPUT_IMAGE_SIZE} px as TensorFlow 1 does (bilinear, no antialias); to [-1, 1]"
    )
    return Extractor("inception", sha256(path), resize, lambda images: network(images)[0])


def set_scores(
    extractor: Extractor, features: torch.Tensor, reals: torch.Tensor, name: str
) -> tuple[dict[str, float], dict[str, Interval]]:
    """KID, precision and recall of pictures with these features against real ones (both ``[N, F]``); Inception's FID.

    Returns the scores and the intervals of those that have one. Names are ``<extractor>_<metric>_<name>``. Precision is
    the share of pictures inside a real one's ball, recall the other way round (Kynkäänniemi et al. 2019).

    Raises InputError where torch-fidelity is not installed, ValueError for fewer than `KID_BLOCKS` * 2 pictures.
    """
    need_fidelity()
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kernel_mmd, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    count = min(len(features), len(reals))
    if count < 2 * KID_BLOCKS:
        raise ValueError(f"{count} pictures are too few to compare sets: give {2 * KID_BLOCKS} or more")
    size = max(2, count // 4)
    kid = kid_features_to_metric(
        features, reals, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=0, verbose=False
    )
    prc = prc_features_to_metric(features, reals, prc_neighborhood=NEIGHBOURS, prc_batch_size=10000, verbose=False)
    head = extractor.prefix
    scores = {
        f"{head}_kid_{name}": kid[KEY_METRIC_KID_MEAN],
        f"{head}_precision_{name}": prc[KEY_METRIC_PRECISION],
        f"{head}_recall_{name}": prc[KEY_METRIC_RECALL],
    }
    if head == "inception":  # the judge's Fréchet distance has a name of its own in protocol main
        statistics = [fid_features_to_statistics(x) for x in (features, reals)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of imaginary parts that are dropped
            scores[f"{head}_fid_{name}"] = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    block = math.ceil(count / KID_BLOCKS)
    # picture i may have been drawn after real picture i: such a pair in one block would look like likeness of the sets
    pairs = zip(features[:count].split(block), reals[:count].roll(block, 0).split(block), strict=True)
    blocks = [kernel_mmd(a.numpy(), b.numpy(), verbose=False) for a, b in pairs if len(a) > 1]
    intervals = {
        f"{head}_kid_{name}": mean_interval(blocks, f"disjoint blocks of {block}"),
        f"{head}_precision_{name}": share_interval(scores[f"{head}_precision_{name}"], len(features)),
        f"{head}_recall_{name}": share_interval(scores[f"{head}_recall_{name}"], len(reals)),
    }
    return scores, intervals
