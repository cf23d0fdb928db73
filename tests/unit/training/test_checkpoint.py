"""Checkpoints: usable without other files, free of code, and refused when damaged."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from fixtures.federation import GENES_ONLY, Federation, tiny

from memamba_core.errors import CheckpointError
from memamba_core.training.checkpoint import (
    Checkpoint,
    ModelFile,
    code_digest,
    initial_model,
    load_arrays,
    load_checkpoint,
    model_from,
    save_checkpoint,
    weights_of,
)
from server.federation.handshake import perform_handshake


@pytest.fixture(scope="module")
def checkpoint():
    federation = Federation(tiny(*GENES_ONLY))
    agreement = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement
    experiment = federation.config.experiment
    weights = {
        name: array + np.float32(0.1) for name, array in weights_of(initial_model(experiment, agreement)).items()
    }
    return Checkpoint(weights, experiment, agreement, 7, code_digest())


@pytest.fixture
def folder(tmp_path, checkpoint):
    save_checkpoint(tmp_path, "model", checkpoint)
    return tmp_path


def edit(folder, change):
    path = folder / "model.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_everything_comes_back(folder, checkpoint):
    back = load_checkpoint(folder)
    assert back.weights.keys() == checkpoint.weights.keys()
    for name, array in checkpoint.weights.items():
        assert back.weights[name].dtype == np.float32
        np.testing.assert_array_equal(back.weights[name], array)
    assert back.experiment == checkpoint.experiment
    assert back.agreement.digest() == checkpoint.agreement.digest()
    assert (back.server_round, back.code) == (7, code_digest())
    model = back.build()
    assert not model.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, torch.from_numpy(checkpoint.weights[name]), rtol=0, atol=0)


def test_the_json_file_is_the_published_record(folder, checkpoint):
    about = json.loads((folder / "model.json").read_text())
    assert list(about) == ["format", "experiment", "agreement", "scaling", "server_round", "digests"]
    assert ModelFile.model_validate(about).model_dump(mode="json") == about
    assert (about["format"], about["server_round"], about["digests"]["code"]) == (1, 7, code_digest())


def test_two_files_and_no_pickle(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    blob = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(blob[:8], "little")
    json.loads(blob[8 : 8 + length])  # the whole header is JSON, the rest numbers
    assert b"torch" not in blob[: 8 + length]


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def flip(folder):
    path = folder / "model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(bytes(blob))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.json").unlink(),
        lambda folder: (folder / "model.json").write_text("{"),
        lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
        lambda folder: (folder / "model.json").write_text("[]"),
        lambda folder: edit(folder, lambda a: a.update(format=99)),
        lambda folder: edit(folder, lambda a: a.pop("agreement")),
        lambda folder: edit(folder, lambda a: a.update(scaling=[])),
        lambda folder: edit(folder, lambda a: a.update(digests=None)),
        lambda folder: edit(folder, lambda a: a["scaling"].update({"gene-center": ["x"]})),
        lambda folder: edit(folder, lambda a: a["experiment"].update(surprise=1)),
        lambda folder: edit(folder, lambda a: a["experiment"]["agreement"].update(scaled_clip=4.0)),
        lambda folder: edit(folder, lambda a: a["experiment"]["model"].update(d_model=-1)),
        lambda folder: edit(folder, lambda a: a["agreement"].update(time_bin_edges=[1.0, 2.0, 3.0])),
        lambda folder: edit(folder, lambda a: a.update(server_round="last")),
    ],
    ids=[
        "truncated weights",
        "flipped bit",
        "no weights",
        "no json",
        "half json",
        "not text",
        "a list",
        "format",
        "no agreement",
        "scaling a list",
        "no digests",
        "text for numbers",
        "unknown setting",
        "other setting",
        "impossible setting",
        "other bins",
        "a round that is no number",
    ],
)
def test_damage_is_a_checkpoint_error(folder, damage):
    damage(folder)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_weights_of_another_run_are_not_taken_for_these(folder, checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    changed = {name: array + np.float32(1) for name, array in checkpoint.weights.items()}
    save_checkpoint(other, "model", dataclasses.replace(checkpoint, weights=changed))
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"not the file that model\.json describes"):
        load_checkpoint(folder)


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_weights_that_are_not_the_models_are_named(checkpoint, change):
    weights = dict(checkpoint.weights)
    name = next(iter(weights))
    if change == "drop":
        del weights[name]
    elif change == "add":
        weights[name := "head.9.weight"] = np.zeros(1, np.float32)
    else:
        weights[name] = weights[name].reshape(-1, 1, 1)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        model_from(weights, checkpoint.experiment, checkpoint.agreement)


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_arrays(path)


def test_weights_are_copies(checkpoint):
    model = initial_model(checkpoint.experiment, checkpoint.agreement)
    weights = weights_of(model)
    before = {name: array.copy() for name, array in weights.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for name, array in before.items():
        np.testing.assert_array_equal(weights[name], array)
