"""Coordinator's folder: created completely or not at all, for its owner only, used by one run at a time."""

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from memamba_core.config.coordinator import CoordinatorConfig, RunSettings, check_address, load_coordinator_config
from memamba_core.errors import ConfigError, FolderBusyError
from memamba_core.io.node_key import normalise_public_key
from server.admin import folder as folder_module
from server.admin.folder import Holder, create_folder, open_folder
from server.status import describe_run, stop_run

CONFIG = CoordinatorConfig(addresses=("coordinator.example.org", "2001:db8::1"), port=9443)


@pytest.fixture
def folder(tmp_path):
    return create_folder(tmp_path / "federation", CONFIG)


def test_a_new_folder_is_opened_with_its_settings(folder):
    opened = open_folder(folder.path)
    assert opened == folder
    assert opened.roster().names == ()
    assert opened.check() == ()


def test_nobody_else_can_look_into_it(folder):
    for path in (folder.path, folder.pki.folder, folder.runs, folder.state):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.runtime_secret.stat().st_mode) == 0o600
    folder.path.chmod(0o755)
    assert any("other users can read the folder" in warning for warning in folder.check())


@pytest.mark.parametrize("key", ["ca_key", "server_key"])
def test_a_key_that_others_can_read_is_refused(folder, key):
    path = getattr(folder.pki, key)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        open_folder(folder.path)


def test_what_is_there_is_left_alone(folder, tmp_path):
    with pytest.raises(ConfigError, match="folder of a federation exists already"):
        create_folder(folder.path, CONFIG)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        create_folder(tmp_path / "notes", CONFIG)
    with pytest.raises(ConfigError, match="is a file"):
        create_folder(tmp_path / "notes" / "a.txt", CONFIG)
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["a.txt"]
    with pytest.raises(ConfigError, match=r"no coordinator\.yaml"):
        open_folder(tmp_path / "notes")


def test_a_volume_of_its_own_may_be_made_a_federation(tmp_path):
    volume = tmp_path / "volume"
    (volume / "lost+found").mkdir(parents=True)
    create_folder(volume, CONFIG)
    assert open_folder(volume).config == CONFIG


@pytest.mark.parametrize("existed", [True, False])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, existed):
    path = tmp_path / "federation"
    if existed:
        path.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_roster", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        create_folder(path, CONFIG)
    assert path.exists() == existed
    assert not existed or not list(path.iterdir())


def test_one_run_at_a_time(folder):
    assert folder.holder() is None
    with folder.hold():
        assert folder.holder() == Holder(os.getpid(), socket.gethostname())
        path = f"__import__('pathlib').Path({str(folder.path)!r})"
        program = f"from server.admin.folder import open_folder; open_folder({path})"
        command = [sys.executable, "-c", program + ".hold().__enter__()"]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert FolderBusyError.__name__ in other.stderr
        assert f"in process {os.getpid()}" in other.stderr
    assert folder.holder() is None
    with folder.hold():
        pass


def test_a_run_of_another_container_is_not_ended_by_its_number(folder):
    """A container has its own process ids: on this machine the same id means an unrelated program."""
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        with folder.hold():
            (folder.state / "run.lock").write_text(f"{innocent.pid} elsewhere\n")
            assert f"process {innocent.pid} of elsewhere" in describe_run(folder)
            with pytest.raises(ConfigError, match=f"process {innocent.pid} of elsewhere; expected a process of this"):
                stop_run(folder)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_no_change_of_the_roster_is_lost(folder, tmp_path):
    """Sites are enrolled at the same time from several terminals."""
    keys = []
    for number in range(6):
        path = tmp_path / f"node-{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", path], check=True)
        keys.append(normalise_public_key(path.with_suffix(".pub").read_bytes(), "node.pub"))
    now = folder_module.dt.datetime.now(folder_module.dt.UTC)
    threads = [
        threading.Thread(target=folder.change_roster, args=(lambda r, n=n, k=k: r.enroll(f"site-{n}", k, now),))
        for n, k in enumerate(keys)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.roster().names == tuple(f"site-{n}" for n in range(6))


@pytest.mark.parametrize(
    ("address", "checked"),
    [
        ("Coordinator.Example.ORG", "coordinator.example.org"),
        ("192.0.2.7", "192.0.2.7"),
        ("[2001:DB8::1]", "2001:db8::1"),
    ],
)
def test_an_address_is_put_in_its_usual_form(address, checked):
    assert check_address(address) == checked


@pytest.mark.parametrize(
    "address",
    ["https://a.org", "a.org:8443", "a.org/x", "0.0.0.0", "::", "ä.org", "-a", "a..b", "1.2.3", "a_b", "", "x" * 254],
)
def test_an_address_that_cannot_be_in_a_certificate(address):
    with pytest.raises(ValueError, match="got"):
        check_address(address)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"addresses": []}, "at least one"),
        ({"addresses": ["a.org", "A.org"]}, "twice"),
        ({"addresses": ["a.org"], "port": 0}, "port"),
        ({"addresses": ["a.org"], "port": 18000}, "loopback_port=18000"),
        ({"addresses": ["a.org"], "listen_host": "eth0"}, "IP address of this machine"),
        ({"addresses": ["a.org"], "prot": 8443}, "unknown setting 'prot'"),
    ],
)
def test_settings_that_cannot_be(settings, words, tmp_path):
    path = tmp_path / "coordinator.yaml"
    path.write_text(str(settings))
    with pytest.raises(ConfigError, match=words):
        load_coordinator_config(path)


def test_the_address_for_a_site():
    assert CONFIG.address_for_sites() == "coordinator.example.org:9443"
    assert CONFIG.address_for_sites("2001:db8::1") == "[2001:db8::1]:9443"
    with pytest.raises(ConfigError, match="not in the server certificate"):
        CONFIG.address_for_sites("elsewhere.example.org")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sites": ["a", "a"]}, "each once"),
        ({"sites": [""]}, "sites"),
        ({"sites": ["a"], "min_sites": 2}, "only 1 sites are named"),
        ({"resume": "r", "name": "n"}, "resume takes name, fold and signatures"),
        ({"resume": "../r"}, "resume"),
        ({"wait_s": 0}, "wait_s"),
    ],
)
def test_settings_of_a_run_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        RunSettings.parse(settings, "run")
