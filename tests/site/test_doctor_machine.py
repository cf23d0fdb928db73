"""Doctor: disks that are full, files that others can change, and settings that leave everything to the coordinator."""

import errno
import os
import shutil
import subprocess
import types

import pytest
import yaml

from client import cli
from client.doctor import disk, permissions
from client.doctor.disk import bytes_of_a_run, check_space
from client.doctor.finding import Level
from client.doctor.permissions import check_permissions
from client.doctor.policy import check_policy
from client.exit_codes import ExitCode
from client.keys import SiteKeys
from memamba_core.config.site import load_site_config

CONFIG = {
    "name": "site-01",
    "data": {"root": "data", "clinical": {"file": "clinical.csv"}, "genomics": {"file": "genomics.csv"}},
    "state": "state",
    "coordinator": {"address": "localhost:8443"},
}


@pytest.fixture
def site(tmp_path):
    """A site with keys and a state folder, in a folder of its own; tables are not needed."""
    folder = tmp_path / "site"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "site.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "ca.crt").write_text("certificate")
    SiteKeys(folder / "keys").generate()
    (folder / "state" / "runs" / "first").mkdir(parents=True)
    (folder / "state" / "egress.jsonl").write_text("")
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)
    return folder


def load(folder, **changes):
    (folder / "site.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    return load_site_config(folder / "site.yaml")


def examine_permissions(folder):
    return list(check_permissions(folder / "site.yaml", load_site_config(folder / "site.yaml")))


TRUSTED = ["site.yaml", "ca.crt", "keys", "keys/node.key", "keys/node.pub", "keys/runtime.secret", "state"]


def test_files_that_only_their_owner_can_change(site):
    (finding,) = examine_permissions(site)
    assert finding.level is Level.OK
    assert finding.text == (
        "only their owners can change site.yaml, the CA file, the keys folder, the node key, the public key, the "
        "runtime secret, the state folder"
    )


@pytest.mark.parametrize("name", [*TRUSTED, "state/egress.jsonl", "state/runs/first", "."])
def test_what_everybody_can_change_is_an_error(site, name):
    path = site / name
    path.chmod(path.stat().st_mode | 0o002)
    findings = examine_permissions(site)
    assert findings
    assert {finding.level for finding in findings} == {Level.ERROR}
    named = str(path.absolute())
    assert any(finding.text.startswith(named) and "every user" in finding.text for finding in findings)
    command, _, _ = findings[0].remedy.partition(",")
    subprocess.run(command, shell=True, check=True)
    assert examine_permissions(site)[0].level is Level.OK, "the remedy is the remedy"


@pytest.mark.parametrize("command", ["run", "connect", "train"])
@pytest.mark.parametrize("name", [*TRUSTED, "state/egress.jsonl", "."])
def test_a_client_does_not_start_with_files_that_everybody_can_change(site, name, command, monkeypatch, caplog):
    """A person who can write `site.yaml` lifts every limit."""
    started = []
    monkeypatch.setattr(cli, "open_logs", lambda *_: None)
    for part in ("connector", "executor", "together"):
        monkeypatch.setattr(f"client.service.run_{part}", lambda *_: started.append(True))
    load(site, approve="ask")
    path = site / name
    before = path.stat().st_mode
    path.chmod(before | 0o002)
    with pytest.raises(SystemExit) as end:
        cli.main([command, str(site / "site.yaml")])
    said = caplog.text
    assert (end.value.code, started) == (ExitCode.MISTAKE, [])
    assert "can be changed by every user" in said or "every user of this machine (mode 757) can replace" in said
    assert f"chmod go-w {path.absolute()}" in said
    path.chmod(before | 0o020)
    monkeypatch.setattr("client.doctor.permissions._is_private_group", lambda *_: False)
    with pytest.raises(SystemExit) as end:
        cli.main([command, str(site / "site.yaml")])
    assert (end.value.code, started) == (ExitCode.DONE, [True])
    assert "WARNING" in caplog.text


@pytest.mark.parametrize("name", TRUSTED)
def test_what_another_group_can_change_is_an_error(site, name, monkeypatch):
    path = site / name
    path.chmod(path.stat().st_mode | 0o020)
    group = types.SimpleNamespace(gr_name="researchers", gr_mem=[])
    monkeypatch.setattr(permissions.grp, "getgrgid", lambda _: group)
    (finding, *_) = examine_permissions(site)
    assert finding.level is Level.ERROR
    assert "the group researchers" in finding.text


@pytest.mark.parametrize(("members", "level"), [([], Level.OK), (["root-of-others"], Level.ERROR)])
def test_the_private_group_of_the_owner_may_write(site, monkeypatch, members, level):
    path = site / "site.yaml"
    path.chmod(0o664)
    user = types.SimpleNamespace(pw_name="fed", pw_gid=path.stat().st_gid)
    group = types.SimpleNamespace(gr_name="fed", gr_mem=members)
    monkeypatch.setattr(permissions.pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(permissions.grp, "getgrgid", lambda _: group)
    assert examine_permissions(site)[0].level is level


def test_a_folder_above_in_which_others_can_replace_files(site):
    site.parent.chmod(0o777)
    (finding,) = examine_permissions(site)
    assert finding.level is Level.ERROR
    assert finding.text.startswith(f"{site.parent}: every user of this machine (mode 777) can replace what lies in it")
    site.parent.chmod(0o1777)
    assert examine_permissions(site)[0].level is Level.OK, "the sticky bit protects the files of others"


def test_the_target_of_a_link_counts(site, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    shutil.move(site / "site.yaml", elsewhere / "real.yaml")
    (site / "site.yaml").symlink_to(elsewhere / "real.yaml")
    config = load_site_config(site / "site.yaml")
    assert next(check_permissions(site / "site.yaml", config)).level is Level.OK
    (elsewhere / "real.yaml").chmod(0o666)
    assert next(check_permissions(site / "site.yaml", config)).level is Level.ERROR
    (elsewhere / "real.yaml").chmod(0o644)
    elsewhere.chmod(0o777)
    assert next(check_permissions(site / "site.yaml", config)).level is Level.ERROR


def test_many_loose_entries_are_counted(site):
    for number in range(5):
        (site / "state" / f"{number}.json").write_text("")
        (site / "state" / f"{number}.json").chmod(0o666)
    findings = examine_permissions(site)
    assert len(findings) == 4
    assert findings[-1].text == "2 more entries of the state folder like these"


def volume(config, *, free=100.0, files=10_000, total_files=20_000):
    """Return numbers of a volume; `free` counts runs."""
    block = 4096
    return types.SimpleNamespace(
        f_bavail=int(free * bytes_of_a_run(config)) // block, f_frsize=block, f_files=total_files, f_favail=files
    )


@pytest.mark.parametrize(
    ("numbers", "level", "text"),
    [
        ({}, Level.OK, "are free; a run may need"),
        ({"free": 2}, Level.WARNING, "each run keeps its final model"),
        ({"free": 0.9}, Level.ERROR, "GB are free for"),
        ({"free": 0}, Level.ERROR, "0.0 GB are free for"),
        ({"files": 3}, Level.ERROR, "3 more files (inodes) fit"),
        ({"files": 0, "total_files": 0}, Level.OK, "are free"),
    ],
)
def test_space_of_the_volume(site, monkeypatch, numbers, level, text):
    config = load(site)
    monkeypatch.setattr(disk.os, "statvfs", lambda _: volume(config, **numbers))
    monkeypatch.setattr(disk, "_reserve", lambda *_: None)
    (finding,) = check_space(config, site / "state")
    assert finding.level is level
    assert text in finding.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_quota_shows_when_space_is_reserved(site, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    config = load(site)
    monkeypatch.setattr(disk.os, "posix_fallocate", refuse)
    (finding,) = check_space(config, site / "state")
    assert finding.level is Level.ERROR
    assert os.strerror(code) in finding.text


def test_a_file_system_that_reserves_nothing_is_no_error(site, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(disk.os, "posix_fallocate", refuse)
    config = load(site, limits={"max_parameters": 1_000})
    (finding,) = check_space(config, site / "state")
    assert finding.level is not Level.ERROR


def test_a_reserved_file_leaves_nothing(site):
    config = load(site, limits={"max_parameters": 1_000})
    before = sorted(site.rglob("*"))
    list(check_space(config, site / "state"))
    assert sorted(site.rglob("*")) == before


def test_a_smaller_model_needs_less(site):
    assert bytes_of_a_run(load(site)) == 700_000_000
    assert bytes_of_a_run(load(site, limits={"max_parameters": 1_000_000})) == 112_000_000


@pytest.mark.ci_slow
def test_a_disk_that_is_really_full(site):
    """A volume of 150 MB, with a site that needs 112 MB: free, then filled."""
    state = site / "state"
    mount = ["mount", "-t", "tmpfs", "-o", "size=150m,mode=700,nr_inodes=1000", "tmpfs", str(state)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a volume needs root")
    try:
        config = load(site, limits={"max_parameters": 1_000_000})
        assert [f.level for f in check_space(config, state)] == [Level.WARNING]
        with (state / "large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 60_000_000)
        (finding,) = check_space(config, state)
        assert finding.level is Level.ERROR
        assert "0.1 GB are free" in finding.text
        (state / "large").unlink()
        for number in range(900):
            (state / str(number)).touch()
        (finding,) = check_space(config, state)
        assert "(inodes)" in finding.text
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        (None, Level.OK, "limits.settings is absent"),
        ([], Level.WARNING, "refuses nearly every run"),
        (["*"], Level.WARNING, "contains `*`"),
        (["federation.num_rounds", "*"], Level.WARNING, "contains `*`"),
        (["federation", "training.gradient_clip<=1.0"], Level.OK, "federation, training.gradient_clip<=1.0"),
    ],
)
def test_settings_that_a_run_may_choose(site, settings, level, text):
    limits = {} if settings is None else {"settings": settings}
    finding = next(check_policy(load(site, limits=limits)))
    assert finding.level is level
    assert text in finding.text


@pytest.mark.parametrize(
    ("approve", "level"),
    [("ask", Level.OK), ("listed", Level.OK), ("automatic", Level.WARNING), (None, Level.ERROR)],
)
def test_the_approval_of_runs(site, approve, level):
    config = types.SimpleNamespace(limits=load(site).limits, approve=approve)
    assert [f.level for f in check_policy(config) if f.check == "approval"] == [level]
