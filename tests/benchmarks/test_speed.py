"""Speed benchmarks: correct rivals, contestants that agree, and reasons for missing figures."""

import json
import sys
import time

import pytest
import torch

pytestmark = pytest.mark.usefixtures("benchmarks")


def test_full_attention_is_attention():
    from attention_rivals import HEADS, FullAttention

    layer, tokens = FullAttention(16), torch.randn(2, 7, 16)
    q, k, v = (x.view(2, 7, HEADS, 2).transpose(1, 2) for x in layer.qkv(tokens).chunk(3, dim=2))
    weights = (q @ k.mT / 2**0.5).softmax(dim=3)
    wanted = layer.out((weights @ v).transpose(1, 2).reshape(2, 7, 16))
    torch.testing.assert_close(layer(tokens), wanted)


def test_nystrom_with_a_landmark_for_every_token_is_full_attention():
    from attention_rivals import FullAttention, NystromAttention

    torch.manual_seed(0)
    full, nystrom = FullAttention(16).double(), NystromAttention(16).double()
    with torch.no_grad():
        full.qkv.weight[:16] = full.qkv.weight[16:32]  # equal queries and keys, so that the weights have an inverse
    nystrom.load_state_dict(full.state_dict(), strict=False)
    torch.nn.init.zeros_(nystrom.skip.weight)
    tokens = 6 * torch.randn(1, nystrom.landmarks, 16, dtype=torch.float64)
    got, wanted, values = nystrom(tokens), full(tokens), full.out(full.qkv(tokens)[..., 32:])
    assert (got - wanted).norm() < 0.02 * (values - wanted).norm()


def test_nystrom_takes_any_length():
    from attention_rivals import NystromAttention

    layer = NystromAttention(16)
    assert [layer(torch.randn(1, length, 16)).shape[1] for length in (1, 8, 21)] == [1, 8, 21]


@pytest.mark.parametrize("name", ["cpu", "chunked", "pscan"])
def test_contestants_compute_the_same_scan(name):
    from contestants import NotHereError, build

    def gradients(which):
        return build({"kind": "scan", "name": which, "length": 37, "channels": 8, "backward": True})()

    try:
        got = gradients(name)
    except NotHereError as reason:
        pytest.skip(str(reason))
    for one, wanted in zip(got, gradients("reference"), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["ME-Mamba", "Nystrom", "full attention"])
def test_a_training_step_of_each_model(name):
    from contestants import build

    build({"kind": "model", "name": name, "length": 40, "d_model": 32})()


@pytest.mark.parametrize("name", ["cpu", "full attention"])
def test_products_are_those_of_the_formulas(name, capsys):
    """The backward pass has twice the products of the forward pass; attention has two, and five backwards."""
    from race import _products_here

    L, D, E, R, M = 12, 16, 32, 1, 33
    block = 3 * (4 * L * D * E + 2 * L * E * M + 2 * L * R * E + 2 * L * E * D) + 2 * L * R * E  # recomputed steps
    wanted = {"cpu": 4 * block, "full attention": 2 * (3 * 8 * L * D**2 + (2 + 5) * 2 * L**2 * D)}
    _products_here({"kind": "layers", "name": name, "length": L, "d_model": D})
    assert json.loads(capsys.readouterr().out) == {"operations": wanted[name]}


def test_figures_become_ratios_and_words_stay_words():
    from race import Measured
    from speed_page import bytes_of_tensors, gigaflops, ratios, table

    cells = ratios([Measured(0.02, 5), Measured(0.3, 5), Measured(None, reason="over 9 s"), None])
    assert cells == ["20", "300 (15)", "over 9 s", "-"]
    assert bytes_of_tensors(Measured(4e6), 2e6) == "4 (2.0)"
    assert gigaflops(Measured(2.54e9)) == "2.5"
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_what_would_explode_is_not_tried():
    from race import Measured
    from scan_speed import _too_much

    assert _too_much("full attention", 4_000, [Measured(0.5)], [Measured(1e6)]) == ""
    assert _too_much("full attention", 4_000, [Measured(5.0)], [Measured(1e6)]) == "would take 80 s"
    assert _too_much("Nystrom", 4_000, [Measured(5.0)], [Measured(1e6)]) == ""
    assert _too_much("Nystrom", 4_000, [Measured(5.0)], [Measured(1e14)]) == "would need 400000 GB"
    assert _too_much("Nystrom", 4_000, [Measured(None, reason="over 9 s")], [Measured(None)]) == "over 9 s"


def test_after_the_deadline_nothing_is_started():
    from race import Clock, peak_memory, race

    late, contestant = Clock(time.monotonic()), {"kind": "scan"}
    assert race([contestant], threads=1, seconds=5, clock=late)[0].reason == "out of time"
    assert peak_memory(contestant, threads=1, clock=late).reason == "out of time"


@pytest.mark.ci_slow
def test_a_race_and_a_peak_of_memory():
    from race import Clock, peak_memory, race

    clock = Clock(time.monotonic() + 200)
    scan = {"kind": "scan", "name": "chunked", "length": 2000, "channels": 64, "backward": True}
    small, large, absent = race(
        [{**scan, "length": 50}, scan, {**scan, "name": "mamba_ssm reference"}], threads=1, seconds=2, clock=clock
    )
    assert small.count > 1
    assert 0 < small.value < large.value
    assert absent.value is None
    assert absent.reason == "mamba-ssm cannot be imported"
    if sys.platform == "linux":
        peak = peak_memory(scan, threads=1, clock=clock)
        gradients = 4 * 2000 * (3 * 64 + 2 * 16)
        assert gradients < peak.value < 100 * gradients, peak


def test_the_tables_of_a_gpu(monkeypatch, capsys):
    """Rows for which time is left, a dash for a slow scan that is not tried, and the memory of the race."""
    import gpu_speed
    from race import Clock, Measured

    def race(contestants, **_):
        by_name = {"triton": Measured(0.002, 9, peak=4 * 512 * contestants[0]["length"]), "chunked": Measured(0.5, 9)}
        return [by_name.get(c["name"], Measured(None, reason="not installed")) for c in contestants]

    monkeypatch.setattr(gpu_speed, "race", race)
    text = gpu_speed.scans(Clock(time.monotonic() + 100))
    assert "| 4096 x 512 | both | 2 | not installed | 500 (250) |" in text
    assert "| 65536 x 512 | forward | 2 | not installed | - |" in text
    assert "| 65536 x 512 | 134.2 | 134 (1.0) | not installed | - |" in text
    assert "| 4096 x 512" not in gpu_speed.scans(Clock(time.monotonic()))
    assert "out of time before (1024, 512), " in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    import gpu_speed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_speed.py"])
    with pytest.raises(SystemExit, match="1"):
        gpu_speed.main()
    assert "finds no CUDA device; for a processor: make bench" in capsys.readouterr().err
