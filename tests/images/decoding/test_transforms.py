"""Lists of transforms: what training draws, what inference repeats."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trialrun.engine.inputs.augment import augment_batch
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.decoding.transforms import (
    TransformStep,
    compute_side_after,
    parse_step,
    read_transforms,
    select_fixed_steps,
    split_at_random_step,
)
from trialrun.runs.training.plan import plan_training

KNOWN: list[list[object]] = [
    ["Resize", 40],
    ["CenterCrop", 32],
    ["Pad", [2, 3]],
    ["ColorJitter", {"brightness": 0.4}],
    ["RandomResizedCrop", {"size": 24, "scale": [0.5, 1.0]}],
    ["RandomCrop", 20],
    ["RandomHorizontalFlip", {}],
    ["RandomVerticalFlip", 0.5],
    ["RandomRotation", 10],
    ["RandomAffine", {"degrees": 5, "translate": [0.1, 0.1]}],
    ["RandomPerspective", 0.2],
]


def steps_of(*entries: Sequence[object]) -> tuple[TransformStep, ...]:
    """Steps out of their JSON pairs."""
    return tuple(parse_step(entry) for entry in entries)


def batch(num_images: int, size: int) -> torch.Tensor:
    """Noise, (N, 3, S, S) uint8."""
    noise = np.random.default_rng(3).integers(0, 256, (num_images, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(noise)


def encoded_png(image: Image.Image) -> bytes:
    """A PNG file's bytes."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_ancestors_directory_is_read(azure: Path) -> None:
    """A TransformationDirectory written by Init Image Transformation."""
    steps = read_transforms(str(azure / "transformation_directory"))
    assert [step.name for step in steps] == ["Resize", "CenterCrop", "RandomHorizontalFlip"]
    assert compute_side_after(select_fixed_steps(steps)) == 224


def test_every_known_transform_is_drawn_for_each_image_alone() -> None:
    """A batch of all of them in any order and size gives every image the same pixels."""
    steps = steps_of(*KNOWN)
    pixels = batch(4, 48)

    def drawn(positions: list[int]) -> torch.Tensor:
        return augment_batch(
            pixels[positions],
            np.asarray(positions),
            augment="none",
            epoch=2,
            random_seed=9,
            size=32,
            steps=steps,
        )

    whole = drawn([0, 1, 2, 3])
    assert whole.shape == (4, 3, 32, 32)
    assert torch.equal(drawn([3, 1]), whole[[3, 1]])
    assert not torch.equal(whole[0], pixels[0, :, :32, :32])


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "strong"])
def test_images_with_a_margin_come_out_at_their_size(augment: str) -> None:
    """Whatever was stored, the network sees its own size, and the same draws every time."""
    pixels, positions = batch(6, 37), np.arange(6)

    def drawn(chosen: list[int]) -> torch.Tensor:
        return augment_batch(
            pixels[chosen],
            positions[chosen],
            augment=augment,
            epoch=1,
            random_seed=1,
            size=32,
        )

    whole = drawn([0, 1, 2, 3, 4, 5])
    assert whole.shape == (6, 3, 32, 32)
    assert whole.dtype == torch.uint8
    assert torch.equal(drawn([4, 0]), whole[[4, 0]])


def test_inference_repeats_the_fixed_steps_alone() -> None:
    """Resize, CenterCrop and Pad are kept in model.json, and read back the same."""
    steps = select_fixed_steps(steps_of(*KNOWN))
    assert [step.name for step in steps] == ["Resize", "CenterCrop", "Pad"]
    preprocessing = Preprocessing(36, steps=steps)
    again = Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))
    data = encoded_png(Image.fromarray(batch(1, 50)[0].permute(1, 2, 0).numpy()))
    pixels = preprocessing.pixels(data)
    assert pixels.shape == (3, 36, 36)
    assert torch.equal(again.pixels(data), pixels)


def test_a_model_cannot_bring_other_steps() -> None:
    """model.json is read strictly: no chance, no unknown name, no unknown value."""
    good = Preprocessing(8).to_json()
    for wrong in (
        {"steps": [["RandomCrop", 4]]},
        {"steps": [["Compose", {}]]},
        {"steps": [["Resize", 10**9]]},
        {"steps": "Resize"},
        {"loader": "os.system"},
    ):
        with pytest.raises(ValueError, match=r".+"):
            Preprocessing.from_json({**good, **wrong})


def test_the_pack_holds_what_comes_before_chance() -> None:
    """The steps are cut before the first that draws."""
    kept, drawn = split_at_random_step(steps_of(["Resize", 64], ["RandomCrop", 32], ["Pad", 2]))
    assert [step.name for step in kept] == ["Resize"]
    assert [step.name for step in drawn] == ["RandomCrop", "Pad"]
    assert compute_side_after(drawn) == 36


@pytest.mark.parametrize(
    "content",
    [
        '{"Resize": 3}',
        '[["Lambda", "os.system"]]',
        '[["Resize", "big"]]',
        '[["Resize", 0]]',
        '[["Resize", {}]]',
        '[["Resize", {"interpolation": 2}]]',
        '[["RandomHorizontalFlip", 2]]',
        '[["CenterCrop", [1, 2, 3]]]',
        '[[["a"], 1]]',
        '[["ColorJitter", {"brightness": -1}]]',
        '[["ColorJitter", {"brightness": [2, 1]}]]',
        '[["ColorJitter", {"hue": 0.6}]]',
        '[["RandomResizedCrop", {"size": 24, "scale": 5}]]',
        '[["RandomResizedCrop", {"size": 24, "scale": null}]]',
        '[["RandomResizedCrop", {"size": 24, "ratio": [0, 1]}]]',
        '[["RandomRotation", -10]]',
        '[["RandomRotation", [1, 2, 3]]]',
        '[["RandomRotation", {"degrees": 5, "center": 3}]]',
        '[["RandomAffine", {"degrees": 5, "translate": [0.1, 1.1]}]]',
        '[["RandomAffine", {"degrees": 5, "shear": [1, 2, 3]}]]',
        '[["RandomHorizontalFlip", null]]',
        '[["RandomVerticalFlip", [0.5]]]',
        '[["RandomPerspective", 2]]',
        '[["Pad", {"padding": 2, "fill": [1, 2]}]]',
        f'[["Pad", 1{"0" * 400}]]',
        '[["Pad", 4096], ["Pad", 4096]]',
        '[["Resize", [4096, 4096]], ["Pad", 4096]]',
        "[" * 100_000,
        "[[]]",
        "not json",
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, content: str) -> None:
    """One line says which entry, before anything is trained."""
    path = tmp_path / "transforms.json"
    path.write_text(content)
    with pytest.raises(InvalidParameterError, match="transforms="):
        plan_training({"transforms": str(path)})


ACCEPTED: list[list[object]] = [
    ["Resize", [20, 30]],
    ["Pad", {"padding": [1, 2, 3, 4], "fill": [1, 2, 3]}],
    ["Pad", {"padding": [1], "fill": None}],
    ["ColorJitter", {"brightness": [0, 2], "contrast": None, "hue": [-0.5, 0.5]}],
    ["ColorJitter", {"saturation": 3, "hue": 0.5}],
    ["RandomResizedCrop", {"size": [24, 20], "scale": [0, 1.2], "ratio": [1, 1]}],
    ["RandomCrop", {"size": 20, "padding": None, "pad_if_needed": True, "fill": 3}],
    ["RandomCrop", {"size": [60], "padding": [1, 2], "pad_if_needed": True}],
    ["RandomRotation", {"degrees": [-5, 5], "expand": True, "fill": None}],
    ["RandomRotation", {"degrees": 5, "center": [3, 4], "fill": [1]}],
    ["RandomAffine", {"degrees": 0, "scale": [0.5, 2], "shear": [1, 2, -3, 4], "fill": 9}],
    ["RandomAffine", {"degrees": [1, 2], "translate": None, "scale": None, "shear": 3}],
    ["RandomAffine", {"degrees": 1, "shear": [-3, 3], "center": None}],
    ["RandomPerspective", {"distortion_scale": 1, "p": 1, "fill": [1, 2, 3]}],
]


@pytest.mark.parametrize("entry", ACCEPTED, ids=str)
def test_what_is_taken_torchvision_takes(entry: list[object]) -> None:
    """A list that passes the check fails in no epoch."""
    for epoch in range(3):
        drawn = augment_batch(
            batch(2, 48),
            np.arange(2),
            augment="none",
            epoch=epoch,
            random_seed=9,
            size=32,
            steps=steps_of(entry),
        )
        assert drawn.shape == (2, 3, 32, 32)


def test_an_image_that_padding_makes_too_large_is_skipped() -> None:
    """It is refused by its size, before the memory is asked for."""
    long = encoded_png(Image.new("L", (60_000, 10)))
    with pytest.raises(UndecodableError, match="too large to be padded"):
        Preprocessing(8, steps=steps_of(["Pad", 1000])).pixels(long)


def test_a_pickled_list_is_refused(tmp_path: Path) -> None:
    """An older TransformationDirectory holds code, which is not run."""
    (tmp_path / "_meta.yaml").write_text("type: TransformationDirectory\ntransform_type: Pickle\n")
    (tmp_path / "_transforms.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidParameterError, match="Pickle: a pickle may run code"):
        read_transforms(str(tmp_path))


def test_transforms_and_augment_exclude_each_other(tmp_path: Path) -> None:
    """One takes the other's place."""
    (tmp_path / "t.json").write_text('[["Resize", 32]]')
    with pytest.raises(InvalidParameterError, match="both set"):
        plan_training({"transforms": str(tmp_path / "t.json"), "augment": "flip"})
