"""The same seed, the same picture, whatever the batch it is made in: of the shipped pack, on every backend."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange.features import sample_ws
from sis_rearrange.inference import accelerate
from sis_rearrange.ops import winograd
from sis_rearrange.pack import load_pack
from sis_rearrange.stylegan2 import Generator, MappingNetwork
from sis_rearrange.tensors import seeded_normal, to_uint8

SEEDS = range(64)


def pictures(generator: Generator, batch: int) -> torch.Tensor:
    """uint8 pictures of all seeds, so many at a time."""
    starts = range(0, len(SEEDS), batch)
    with torch.no_grad():
        made = [generator.synthesis(sample_ws(generator, SEEDS[start : start + batch])) for start in starts]
    return torch.from_numpy(to_uint8(torch.cat(made)))


@pytest.mark.parametrize("backend", ["native", "openvino", "torch"])
def test_batches_of_one_and_of_eight(backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    if backend == "native" and winograd.backend().library is None:
        pytest.skip(winograd.backend().why)
    generator = accelerate(load_pack("toonhead").generator(), backend)
    try:
        one, eight = pictures(generator, 1), pictures(generator, 8)
    finally:
        accelerate(generator, "torch")
    if backend != "torch":
        assert torch.equal(one, eight)
        return
    difference = (one.int() - eight.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 3e-4  # a few dozen of 786,432 values


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_ws_have_the_same_bits_in_any_batch(threads, c_dim):
    torch.manual_seed(0)
    mapping = MappingNetwork(16, c_dim, 48, 4, num_layers=3)
    mapping.w_avg.normal_()
    z, c = seeded_normal(range(90), [16]), torch.eye(3)[torch.arange(90) % 3] if c_dim else None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.no_grad():
            whole = mapping(z, c, truncation_psi=0.7)
            for count in (1, 2, 40):  # 90 rows of 48 numbers are enough for the native ops
                parts = [slice(n, n + count) for n in range(0, 90, count)]
                found = [mapping(z[n], None if c is None else c[n], truncation_psi=0.7) for n in parts]
                assert torch.equal(torch.cat(found), whole)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(mapping(z, c, truncation_psi=0.7), whole)  # with gradients


def test_no_samples_and_no_gradients():
    mapping = MappingNetwork(4, 0, 8, 2, num_layers=2)
    with torch.no_grad():
        assert mapping(torch.zeros(0, 4)).shape == (0, 2, 8)
