from __future__ import annotations

import pytest
import torch
from test_inference import close, make, some_ws

from sis_rearrange.errors import InputError
from sis_rearrange.gpu_synthesis import CapturedGraph, capture_synthesis, reduced_synthesis
from sis_rearrange.inference import SynthesisGraph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
TOLERANCE = {torch.float16: 3e-3, torch.bfloat16: 3e-2}  # of the image range


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_reduced_precision_stays_close(dtype):
    generator = make()
    ws = some_ws(generator)
    found, wanted = reduced_synthesis(generator, dtype)(ws), generator.synthesis(ws)
    difference = (found - wanted).abs().max() / (wanted.max() - wanted.min())
    assert found.dtype == torch.float32 and 0 < difference < TOLERANCE[dtype]


def test_nothing_overflows():
    """Weights and styles far beyond what float16 holds: demodulation takes them out again."""
    generator = make()
    for _, block, _ in generator.synthesis.blocks():
        block.conv1.weight.data.mul_(3e4)
        block.conv1.affine.weight.data.mul_(3e4)
        block.conv1.affine.bias.data.mul_(3e4)
    ws = some_ws(generator)
    found, wanted = reduced_synthesis(generator, torch.float16)(ws), generator.synthesis(ws)
    assert (found - wanted).abs().max() < 3e-3 * (wanted.max() - wanted.min())


def test_how_many_blocks_are_reduced():
    generator = make()
    types = [
        [block.conv1.weight.dtype for block in SynthesisGraph(generator, dtype=torch.bfloat16, num_reduced=n).blocks]
        for n in (0, 1, 4, 9)
    ]
    assert [row.count(torch.bfloat16) for row in types] == [0, 1, 4, 4] and types[1][-1] == torch.bfloat16
    assert close(
        reduced_synthesis(generator, torch.bfloat16, 0)(some_ws(generator)), generator.synthesis(some_ws(generator))
    )


def test_other_types_and_devices_are_refused():
    with pytest.raises(InputError, match="float64"):
        reduced_synthesis(make(), torch.float64)
    with pytest.raises(InputError, match="CUDA device; the examples are on 'cpu'"):
        capture_synthesis(make(), batch=1)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, *TOLERANCE], ids=str)
def test_a_captured_graph_gives_what_the_module_gives(dtype):
    generator = make().to(torch.device("cuda"))
    ws = some_ws(generator).to(torch.device("cuda"))
    run = capture_synthesis(generator, 2, dtype)
    wanted = reduced_synthesis(generator, dtype)(ws)
    first = run(ws)
    other = run(-ws)
    assert (first - wanted).abs().max() < 1e-3 * (wanted.max() - wanted.min())
    assert not torch.equal(first, other) and torch.equal(run(ws), first)


@needs_gpu
def test_a_captured_graph_has_one_shape():
    x = torch.zeros(2, 3, device=torch.device("cuda"))
    with pytest.raises(ValueError, match=r"captured for torch.float32 \[2, 3\]"):
        CapturedGraph(torch.nn.Linear(3, 3).to(x.device), x)(x[:1])
