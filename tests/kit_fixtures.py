"""From a coordinator's kit to a hospital that is ready to run, for tests that go through the commands."""

import os
import subprocess
import zipfile

import yaml
from deployment_fixtures import FLOORS

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def call(*command, timeout_s=300, env=ENVIRONMENT, **options):
    """Output of a command that must succeed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, env=env, **options
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def unpack_kit(kit, exported, folder, root=None):
    """A hospital's folder, from the coordinator's kit and a folder of `flower-simulate export-sites`.

    Args:
        kit: zip file.
        exported: the hospital's data.
        folder: to unpack into.
        root: what `site.yaml` calls the data's folder; None: as it is.
    """
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(folder)
    (site,) = folder.iterdir()
    settings = yaml.safe_load((site / "site.yaml").read_text(encoding="utf-8"))
    data = yaml.safe_load((exported / "site.yaml").read_text(encoding="utf-8"))["data"]
    settings |= {"data": {**data, "root": root or str(exported)}, "disclosure": FLOORS, "device": "cpu", "threads": 1}
    (site / "site.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return site
