"""Keys of a site: generated once, readable by their owner only, in the format of Flower and ssh-keygen."""

import shutil
import stat
import subprocess

import pytest

from client.keys import SiteKeys
from memamba_core.errors import ConfigError


@pytest.fixture
def keys(tmp_path):
    made = SiteKeys(tmp_path / "keys")
    made.generate()
    return made


def test_the_private_files_are_for_their_owner_alone(keys):
    assert {path.name for path in keys.folder.iterdir()} == {"node.key", "node.pub", "runtime.secret"}
    for path in (keys.private, keys.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700


def test_what_was_made_can_be_loaded(keys):
    private = keys.load_private()
    assert private.curve.name == "secp384r1"
    assert len(keys.load_secret()) == 32
    assert keys.fingerprint().startswith("SHA256:")


def test_the_fingerprint_is_that_of_ssh_keygen(keys):
    program = shutil.which("ssh-keygen")
    if program is None:
        pytest.skip("ssh-keygen is not installed")
    shown = subprocess.run([program, "-lf", keys.public], capture_output=True, text=True, check=True).stdout
    assert keys.fingerprint() in shown.split()


def test_keys_are_not_made_twice(keys):
    before = keys.private.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        keys.generate()
    assert keys.private.read_bytes() == before


@pytest.mark.parametrize("rest", ["node.pub", "runtime.secret"])
def test_a_leftover_stops_new_keys(keys, rest):
    for path in keys.folder.iterdir():
        if path.name != rest:
            path.unlink()
    with pytest.raises(ConfigError, match="exists already"):
        keys.generate()
    assert [path.name for path in keys.folder.iterdir()] == [rest]


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(keys, mode):
    """The coordinator and ssh do the same."""
    for path, load in ((keys.private, keys.load_private), (keys.secret, keys.load_secret)):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=rf"other users can read it \(mode {mode:o}\). Run chmod 600 {path}"):
            load()
        path.chmod(0o400)
        load()


def test_two_pairs_differ(tmp_path):
    assert SiteKeys(tmp_path / "a").generate() != SiteKeys(tmp_path / "b").generate()


@pytest.mark.parametrize(
    ("spoil", "load", "word"),
    [
        (
            lambda keys: keys.private.unlink(),
            SiteKeys.load_private,
            r"No such file or directory\. Generate the keys with `flower-client keygen`",
        ),
        (lambda keys: keys.private.write_bytes(keys.public.read_bytes()), SiteKeys.load_private, "private key"),
        (lambda keys: keys.secret.unlink(), SiteKeys.load_secret, "flower-client keygen"),
        (lambda keys: keys.secret.write_bytes(b"short"), SiteKeys.load_secret, "has 5 bytes; expected 32"),
        (lambda keys: keys.public.unlink(), SiteKeys.fingerprint, "flower-client keygen"),
    ],
)
def test_a_spoiled_key_is_named(keys, spoil, load, word):
    spoil(keys)
    with pytest.raises(ConfigError, match=word):
        load(keys)


def test_a_key_of_another_kind_is_refused(keys, tmp_path):
    program = shutil.which("ssh-keygen")
    if program is None:
        pytest.skip("ssh-keygen is not installed")
    keys.private.unlink()
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "", "-f", keys.private], check=True)
    with pytest.raises(ConfigError, match="generate a new pair"):
        keys.load_private()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        SiteKeys(tmp_path / "file" / "keys").generate()
