"""Tests of the choice of device, precision and memory layout."""

from pathlib import Path

import pytest
import torch

from trialrun.engine.compute import processor
from trialrun.engine.compute.precision import (
    ComputeConfig,
    resolve_compute,
    supports_precision,
)
from trialrun.errors import InvalidParameterError
from trialrun.models.zoo.networks import build_network
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.session import resolve_rank_compute


@pytest.mark.parametrize(("device", "layout"), [("cpu", "NHWC"), ("cuda", "NHWC"), ("mps", "NCHW")])
def test_layout_follows_from_the_device(device: str, layout: str) -> None:
    """Channels last, except on MPS."""
    chosen = ComputeConfig(torch.device(device), "fp32").for_network(torch.nn.Conv2d(3, 8, 3))
    assert chosen.layout == layout


def use_cpuinfo(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file with this text stand in for /proc/cpuinfo."""
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", path)


def test_cpuinfo_holds_the_fields_of_the_first_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields of further processors do not replace those of the first one."""
    use_cpuinfo("model name\t: A: 1\nflags\t\t: fpu\n\nmodel name\t: B\n", tmp_path, monkeypatch)
    cpuinfo = processor.read_cpuinfo()
    assert (cpuinfo["model name"], cpuinfo["flags"]) == ("A: 1", "fpu")


def test_without_cpuinfo_there_are_no_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems than Linux have no such file; fp32 is then the choice."""
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "missing")
    assert processor.read_cpuinfo() == {}
    assert not processor.has_fast_bf16()


@pytest.mark.parametrize(
    ("vendor", "flags", "chosen"),
    [
        ("AuthenticAMD", "avx512f avx512_bf16", "bf16"),
        ("GenuineIntel", "avx512f avx512_bf16 amx_tile amx_bf16", "bf16"),
        ("GenuineIntel", "avx512f avx512_bf16", "fp32"),
        ("AuthenticAMD", "avx2", "fp32"),
    ],
)
def test_bf16_is_chosen_if_the_processor_multiplies_it_faster(
    vendor: str, flags: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMX and AMD's AVX-512 are faster than fp32; Intel's AVX-512 alone is slower."""
    cpuinfo = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\n"
    use_cpuinfo(cpuinfo, tmp_path, monkeypatch)
    assert resolve_compute("cpu", "auto").precision == chosen


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        ("resnet18", "bf16"),
        ("densenet121", "bf16"),
        ("convnext_tiny", "bf16"),
        ("regnet_y_400mf", "bf16"),
        ("mobilenet_v2", "fp32"),
        ("mobilenet_v3_small", "fp32"),
        ("efficientnet_b0", "fp32"),
        ("shufflenet_v2_x1_0", "fp32"),
        ("mnasnet1_0", "fp32"),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 1000])
def test_auto_depends_on_the_network(
    model: str, chosen: str, num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depthwise networks use fp32 even if the processor multiplies bf16 faster."""
    cpuinfo = "vendor_id\t: AuthenticAMD\nflags\t\t: avx512f avx512_bf16\n"
    use_cpuinfo(cpuinfo, tmp_path, monkeypatch)
    with torch.device("cpu" if model.startswith("regnet") else "meta"):
        network = build_network(model, num_classes, image_size=None)
    assert resolve_compute("cpu", "auto").for_network(network).precision == chosen
    assert resolve_compute("cpu", "bf16").for_network(network).precision == "bf16"


def test_rank_without_its_own_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks on one GPU would deadlock."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_compute("auto", "fp32", local_rank=1).device == torch.device("cuda", 1)
    with pytest.raises(InvalidParameterError, match="local rank 2 has no GPU: this machine has 2"):
        resolve_compute("cuda", "fp32", local_rank=2)


def test_one_gpu_for_several_ranks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`device=cuda:1` under torchrun is an error before the ranks connect."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    plan = plan_training({"train_data": "sample:digits", "device": "cuda:1"})
    with pytest.raises(InvalidParameterError, match="a single device for 2 ranks"):
        resolve_rank_compute(plan)


@pytest.mark.parametrize("model", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_gradients_have_the_strides_of_their_parameters(model: str) -> None:
    """Fused optimizers read memory in order: different strides would mix up values."""
    network = build_network(model, 2, image_size=64).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    network(images).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name


def test_tf32_applies_to_cuda_only() -> None:
    """OneDNN on a CPU still computes in fp32."""
    resolve_compute("cpu", "fp32", tf32=True)
    assert torch.backends.cuda.matmul.allow_tf32
    on_cpu = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    assert on_cpu in ("none", "ieee")
    resolve_compute("cpu", "fp32", tf32=False)
    assert not torch.backends.cuda.matmul.allow_tf32


def test_missing_device_is_an_error() -> None:
    """A device is checked before anything is computed."""
    with pytest.raises(InvalidParameterError, match="cuda:77"):
        resolve_compute("cuda:77", "auto")
    with pytest.raises(InvalidParameterError, match="not a device"):
        resolve_compute("abacus", "auto")
    with pytest.raises(InvalidParameterError, match="fp16"):
        resolve_compute("cpu", "fp16")


@pytest.mark.parametrize(
    ("device", "precision", "is_supported"),
    [("cpu", "fp32", True), ("cpu", "fp16", False), ("cuda", "fp16", True), ("mps", "bf16", False)],
)
def test_devices_support_some_precisions(device: str, precision: str, is_supported: bool) -> None:
    """CPUs have no fp16, and MPS no fast bf16."""
    assert supports_precision(torch.device(device), precision) is is_supported
