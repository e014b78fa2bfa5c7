"""The benchmarks: the baseline is right, ratios point the right way, the page says what the figures say."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import machine
import op_works
import page
import pairs
import pytest
import run
import scaling
import torch
import works
from click.testing import CliRunner
from official import OfficialSynthesis

from sis_rearrange.errors import InputError
from sis_rearrange.stylegan2 import Generator

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    net = Generator(12, 0, 16, 32, channel_base=256, channel_max=24, num_layers=2).eval().requires_grad_(False)
    for name, parameter in net.synthesis.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
        elif name.endswith("bias"):
            parameter.normal_()
    return net


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Graphs compiled here leave nothing in the user's cache; the native ops are loaded from there first."""
    works.ops.backend()
    monkeypatch.setenv("SIS_CACHE", str(tmp_path / "cache"))


def row(**changes) -> pairs.Row:
    return pairs.Row(**{**vars(pairs.row_of("w", "a", [0.2, 0.4], "b", [0.1, 0.1], difference=2e-6)), **changes})


# ---------------------------------------------------------------- the baseline


@pytest.mark.parametrize("batch", [1, 3])
def test_the_official_arithmetic_gives_our_picture(generator, batch):
    ws = torch.randn(batch, generator.num_ws, 16)
    ours, theirs = generator.synthesis(ws), OfficialSynthesis(generator)(ws)
    assert theirs.shape == (batch, 3, 32, 32)
    assert (ours - theirs).abs().max() < 1e-4


def test_the_official_arithmetic_uses_every_weight(generator):
    """Each has a part in the picture, and with any of them changed the pictures still agree."""
    ws = torch.randn(1, generator.num_ws, 16)
    plain = OfficialSynthesis(generator)(ws)
    for name in generator.synthesis.state_dict():
        if not name.endswith("resample_filter"):
            changed = copy.deepcopy(generator)
            changed.synthesis.state_dict()[name].add_(0.1)
            theirs = OfficialSynthesis(changed)(ws)
            assert (theirs - changed.synthesis(ws)).abs().max() < 1e-4, name
            assert (theirs - plain).abs().max() > 1e-4, name


def test_random_networks_use_noise_and_bias():
    net = works.random_generator(8, channel_max=8, w_dim=8).synthesis
    ws = torch.randn(1, net.num_ws, 8)
    assert not torch.allclose(net(ws), net(ws, noise_mode="none"))
    assert net.b8.conv0.bias.abs().max() > 0 and net.b8.conv0.affine.bias.eq(1).all()
    assert torch.equal(works.random_generator(8, channel_max=8, w_dim=8).synthesis(ws), net(ws))


# ---------------------------------------------------------------- pairs


def test_half_the_time_is_a_ratio_of_two():
    calls = {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.01), "same": lambda: time.sleep(0.02)}
    fast, same = pairs.compare("sleep", calls, rounds=5)
    assert (fast.baseline, fast.ours, same.ours) == ("slow", "fast", "same")
    assert fast.ratio == pytest.approx(2, rel=0.35) and same.ratio == pytest.approx(1, rel=0.3)
    assert fast.low <= fast.ratio <= fast.high and fast.rounds == 5
    assert fast.baseline_value >= 20 and fast.ours_value >= 10 and fast.unit == "ms"


def test_contenders_take_turns_and_warm_up_does_not_count():
    order = []
    seconds = pairs.time_rounds({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3, warm_up=1)
    assert "".join(order) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    with pytest.raises(ValueError, match="one round"):
        pairs.time_rounds({"a": list}, rounds=0)


def test_ratios_are_formed_round_by_round():
    """A slow spell that hits both in one round leaves no trace in the ratio."""
    found = pairs.row_of("w", "a", [2.0, 20.0, 2.0], "b", [1.0, 10.0, 1.0])
    assert (found.ratio, found.low, found.high) == (2, 2, 2) and found.baseline_value == 2000
    swinging = pairs.row_of("w", "a", [1.0, 2.0, 3.0], "b", [1.0, 1.0, 1.0])
    assert (swinging.low, swinging.ratio, swinging.high) == (1.5, 2, 2.5)
    assert pairs.quartiles([3.0]) == (3, 3, 3)


def test_differences_are_shares_of_the_range():
    baseline = torch.tensor([-1.0, 0.0, 3.0])
    assert pairs.largest_difference(baseline + torch.tensor([0, 0.4, -0.1]), baseline) == pytest.approx(0.1)
    assert pairs.largest_difference(torch.ones(2), torch.ones(2)) == 0
    assert pairs.largest_difference(torch.tensor(5.0), torch.tensor(4.0)) == 0.25
    assert pairs.largest_difference(torch.ones(2), torch.zeros(2)) == 1
    with pytest.raises(ValueError, match="cannot be compared"):
        pairs.largest_difference(torch.ones(1), torch.ones(2))


def test_tables():
    cells = pairs.row_cells(row(ratio=1.234, low=1.2, high=1.3))
    assert cells == ["w", "a: 300 ms", "b: 100 ms", "1.23", "1.20-1.30", "2e-06"]
    assert pairs.row_cells(row(rounds=1, difference=None))[4:] == ["", ""]
    assert pairs.markdown_table(["x", "y"], [["1", "22"]]) == "| x | y |\n|---|---|\n| 1 | 22 |"
    assert pairs.text_table(["x", "yy"], [["111", "2"]]) == "x    yy\n111  2"
    texts = ["0.0123", "1.20", "12.3", "123", "99999"]
    assert [pairs.number(v) for v in (0.01234, 1.2, 12.34, 123.4, 99999.0)] == texts


# ---------------------------------------------------------------- works at tiny sizes


def test_synthesis_rows_compare_every_backend(generator, own_cache):
    found = works.synthesis_rows(generator, 2, rounds=2, work="tiny")
    names = [r.ours for r in found]
    assert names[0].endswith(" (default)") and "torch" in " ".join(names) and len(set(names)) == len(names)
    assert {r.baseline for r in found} == {works.OFFICIAL}
    assert all(r.ratio > 0 and r.rounds == 2 and r.difference < 1e-3 for r in found)


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    found = works.measure_memory(8, "official", str(tmp_path))
    assert set(found) == {"first", "later"} and all(1 < megabytes < 1000 for megabytes in found.values())
    with pytest.raises(works.NotMeasured, match="quantum"):
        works.measure_memory(8, "quantum", str(tmp_path))


def test_peak_memory_sees_what_is_freed_again():
    before = machine.resident_memory()
    peak = machine.peak_memory(lambda: torch.ones(16 * 2**20).sum())  # 67 MB
    assert peak - before == pytest.approx(67, abs=20)


OP_CALLS = op_works.op_calls([(2, 3, 8)]) | op_works.filter_calls([(2, 16, 24)])


@pytest.mark.parametrize("name", OP_CALLS)
def test_ops_give_the_same_natively(name):
    inputs, call = OP_CALLS[name]
    native = "native" if op_works.ops.backend()[0] == "native" else "auto"
    for backward in (False, True):
        reference = op_works.op_call(call, inputs, "ref", backward)()
        assert len(reference) == (1 + len(inputs) if backward else 1)
        for ours, theirs in zip(op_works.op_call(call, inputs, native, backward)(), reference, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["rearranger", "proxy labelling"])
def test_baselines_of_the_scaling_tables_compute_the_same(name):
    point = scaling.Point(tap=8, channels=12, K=4, batch=2)
    with torch.inference_mode():
        theirs, ours = (call() for call in scaling.SUBJECTS[name].contenders(point).values())
    torch.testing.assert_close(ours.flatten(), theirs.flatten(), atol=1e-4, rtol=1e-4)


def test_scaling_tables():
    base = scaling.Point(tap=8, channels=12, K=4)
    tables = scaling.measure(["rearranger", "proxy labelling"], quick=True, base=base)
    assert list(tables)[:2] == ["rearranger, tap", "rearranger, batch"] and len(tables) == 7
    table = tables["rearranger, tap"]
    assert [r["size"] for r in table["rows"]] == [8, 16]
    assert table["fixed"] == {"channels": 12, "K": 4, "batch": 1}
    text = page.scaling_table(table, markdown=False).splitlines()
    assert text[0].split()[:3] == ["tap", "baseline", "ours"] and text[2].startswith("16 ")
    json.dumps(tables)


# ---------------------------------------------------------------- the command and the page


@pytest.fixture
def written(generator, own_cache, tmp_path, monkeypatch):
    """A folder that `run.main` wrote with one tiny work and one that cannot be measured."""

    def missing(quick: bool) -> list[pairs.Row]:
        raise works.NotMeasured("no such thing here")

    tiny = works.Work(1, lambda quick: works.synthesis_rows(generator, 1, 2, "tiny synthesis"))
    other = works.Work(1, lambda quick: [row(work="another work")])
    monkeypatch.setattr(run, "WORKS", {"tiny": tiny, "other": other, "missing": works.Work(1, missing)})
    result = CliRunner().invoke(
        run.main, ["--quick", "--only", "tiny", "--only", "missing", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "minutes on two idle cores" in result.output.splitlines()[0] and "tiny synthesis" in result.output
    return tmp_path / "out"


def test_one_command_writes_figures_plot_and_page(written):
    document = page.read(written)
    (first, *_) = page.rows_of(document["run"])
    assert first.work == "tiny synthesis" and first.rounds == 2
    assert document["run"]["left_out"]["missing"] == "no such thing here"
    assert document["run"]["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    text = (written / page.PAGE).read_text()
    assert text == page.render(document)
    assert "tiny synthesis" in text and "no such thing here" in text and "on a GPU" in text and "quick run" in text
    assert (written / page.PICTURES / page.BARS).read_bytes().startswith(b"\x89PNG")
    assert not [p for p in written.rglob("*") if p.name.startswith(".")]


def test_sections_stand_side_by_side(written):
    tables = scaling.measure(["proxy labelling"], quick=True, base=scaling.Point(tap=8, channels=12, K=4))
    page.update(written, "scaling", {"machine": machine.describe(), "quick": True, "tables": tables})
    text = (written / page.PAGE).read_text()
    assert "tiny synthesis" in text and "### Proxy labelling, tap" in text
    assert (written / page.PICTURES / page.CURVES).exists()


def test_figures_of_unlike_runs_are_not_mixed(written):
    described = machine.describe()
    assert "tiny" in run.keep_others(written, {**described, "load": 99.0}, quick=True)["works"]
    for other, quick in (({**described, "threads": 99}, True), (described, False)):
        with pytest.raises(InputError, match="name another --out"):
            run.keep_others(written, other, quick)
    assert run.keep_others(written / "nowhere", described, quick=True)["works"] == {}


def test_a_work_measured_again_leaves_the_others_as_they_were(written):
    before = page.read(written)["run"]
    assert before["left_out"] == {"missing": "no such thing here", "other": "not run"}
    result = CliRunner().invoke(run.main, ["--quick", "--only", "other", "--out", str(written)])
    after = page.read(written)["run"]
    assert result.exit_code == 0 and list(after["works"]) == ["tiny", "other"]
    assert after["works"]["tiny"] == before["works"]["tiny"]
    assert after["left_out"] == {"missing": "no such thing here"}


def test_an_unknown_work_is_one_line(tmp_path):
    result = CliRunner().invoke(run.main, ["--only", "synthesis-265", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "did you mean 'synthesis-256'" in result.output
    assert not list(tmp_path.iterdir())


def test_damaged_figures_are_a_clean_error(tmp_path):
    (tmp_path / page.DATA).write_text("[1, 2")
    with pytest.raises(InputError, match="not the figures of a benchmark"):
        page.read(tmp_path)


def test_the_page_in_docs_is_that_of_its_figures():
    document = page.read(DOCS)
    assert {"run", "scaling"} <= set(document)
    assert (DOCS / page.PAGE).read_text() == page.render(document)
    assert (DOCS / page.PICTURES / page.BARS).exists() and (DOCS / page.PICTURES / page.CURVES).exists()
