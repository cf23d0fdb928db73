"""Roster: one key per name and one name per key; written rosters are read back, damaged ones are named."""

import datetime as dt
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from memamba_core.errors import ConfigError
from memamba_core.io.node_key import fingerprint, normalise_public_key, public_key_pem
from server.admin.roster import Roster, load_roster, save_roster

NOW = dt.datetime(2026, 3, 1, 9, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=30)


def public_key(key=None):
    key = key or ec.generate_private_key(ec.SECP384R1())
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@pytest.fixture(scope="module")
def keys():
    return [normalise_public_key(public_key().encode(), "node.pub") for _ in range(3)]


def test_sites_are_listed_by_name_and_read_back(keys, tmp_path):
    roster = Roster().enroll("st-elsewhere", keys[0], NOW).enroll("county", keys[1], LATER)
    assert roster.names == ("county", "st-elsewhere")
    save_roster(roster, tmp_path / "roster.yaml")
    assert load_roster(tmp_path / "roster.yaml") == roster


def test_a_name_that_is_taken(keys):
    roster = Roster().enroll("county", keys[0], NOW)
    with pytest.raises(ConfigError, match=r"with this key .* nothing was changed"):
        roster.enroll("county", keys[0], LATER)
    with pytest.raises(ConfigError, match="by telephone and add --replace"):
        roster.enroll("county", keys[1], LATER)
    with pytest.raises(ConfigError, match="differ in capital letters"):
        roster.enroll("County", keys[1], LATER)


def test_a_key_belongs_to_one_site(keys):
    roster = Roster().enroll("county", keys[0], NOW)
    with pytest.raises(ConfigError, match="county and mercy have the same key"):
        roster.enroll("mercy", keys[0], NOW)


@pytest.mark.parametrize("name", ["", "-x", "../up", "a b", "é", "x" * 65, "a/b"])
def test_a_name_that_cannot_be_one(keys, name):
    with pytest.raises(ConfigError, match="name"):
        Roster().enroll(name, keys[0], NOW)


def test_a_key_is_replaced(keys):
    roster = Roster().enroll("county", keys[0], NOW).enroll("mercy", keys[2], NOW)
    site = roster.replace_key("county", keys[1], LATER).get("county")
    assert (site.public_key, site.enrolled, site.key_since) == (keys[1], NOW, LATER)
    with pytest.raises(ConfigError, match="nothing was replaced"):
        roster.replace_key("county", keys[0], LATER)
    with pytest.raises(ConfigError, match="not enrolled; enrolled are: county, mercy"):
        roster.replace_key("unknown", keys[1], LATER)
    with pytest.raises(ConfigError, match="county and mercy have the same key"):
        roster.replace_key("county", keys[2], LATER)


def test_a_site_is_removed(keys):
    roster = Roster().enroll("county", keys[0], NOW)
    assert roster.remove("county") == Roster()
    with pytest.raises(ConfigError, match="enrolled are: county"):
        roster.remove("mercy")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sites: 3\n",
        "sites: [{name: a}]\n",
        "hospitals: []\n",
        "sites: [{name: a, public_key: junk, enrolled: 2026-01-01T00:00:00Z, key_since: 2026-01-01T00:00:00Z}]\n",
    ],
)
def test_a_damaged_roster_is_named(text, tmp_path):
    path = tmp_path / "roster.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"roster\.yaml"):
        load_roster(path)


def test_a_private_key_is_never_shown(tmp_path):
    secret = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    with pytest.raises(ConfigError, match="PRIVATE key") as refused:
        normalise_public_key(secret, "node.key")
    assert secret.decode().splitlines()[1] not in str(refused.value)


@pytest.mark.parametrize(
    "key",
    [
        public_key(ec.generate_private_key(ec.SECP256R1())),
        public_key(ed25519.Ed25519PrivateKey.generate()),
        public_key(rsa.generate_private_key(65537, 2048)),
        "ecdsa-sha2-nistp384 AAAA",
        f"{public_key()}\n{public_key()}",
        "\xff\xfe",
        "x" * 20_000,
    ],
    ids=["P-256", "Ed25519", "RSA", "cut", "two keys", "bytes", "huge"],
)
def test_other_keys_are_refused(key):
    with pytest.raises(ConfigError, match=r"expected the node\.pub that `flower-client keygen` wrote"):
        normalise_public_key(key.encode("latin-1"), "node.pub")


def test_one_key_in_many_spellings_is_one(keys):
    key = keys[0]
    pem = public_key_pem(key)
    for spelling in (
        f"{key} dr.who@ward\r\n".encode(),
        b"\xef\xbb\xbf" + key.encode(),
        pem,
        pem.replace(b"\n", b"\r\n"),
    ):
        assert normalise_public_key(spelling, "node.pub") == key


def test_the_fingerprint_is_that_of_ssh_keygen(keys, tmp_path):
    (tmp_path / "node.pub").write_text(keys[0] + "\n")
    try:
        said = subprocess.run(["ssh-keygen", "-lf", tmp_path / "node.pub"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not here")
    assert said.stdout.split()[1] == fingerprint(keys[0])
