"""Kit of a site: all files that it needs to join, as one zip file without any secret (`flower-server kit NAME`)."""

import json
import zipfile
from pathlib import Path
from string import Template

from memamba_core.config.base import Settings
from memamba_core.config.site import SiteName
from memamba_core.errors import ConfigError
from memamba_core.io.atomic import write_atomically
from memamba_core.wire.protocol import package_version

from .folder import FederationFolder

__all__ = ["kit_files", "write_kit"]

_TEMPLATES = Path(__file__).parent / "templates"
_CONTAINERS = Path(__file__).resolve().parents[2] / "deploy" / "site"  # the same path in a checkout and in the image
_EPOCH = (1980, 1, 1, 0, 0, 0)  # earliest time that zip can store: equal kits have equal bytes
_MODE = 0o644 << 16


class _Name(Settings):
    name: SiteName


def kit_files(folder: FederationFolder, name: str, host: str | None = None) -> dict[str, bytes]:
    """Build the files of a site's kit, by file name.

    Args:
        folder: folder of the federation.
        name: name of the site, which need not be enrolled yet, because its key is made with the files of the kit.
        host: address by which the site reaches the coordinator; None: the first of `addresses`.

    Raises:
        ConfigError: the name is not a valid site name, or the server certificate lacks `host`.
    """
    name = _Name.parse({"name": name}, "kit").name
    containers = {path.name: path.read_bytes() for path in sorted(_CONTAINERS.glob("*")) if path.is_file()}
    words = {
        "name": json.dumps(name),  # quoted for YAML: 123 and yes are valid names
        "plain_name": name,
        "address": folder.config.address_for_sites(host),
        "version": package_version(),
        "authority": folder.pki.authority_fingerprint(),
        "files": "".join(f"| `{file}` | to run it in containers |\n" for file in containers),
    }
    return {
        "GUIDE.md": _fill("GUIDE.md.template", words),
        "ca.crt": folder.pki.ca_certificate.read_bytes(),
        "site.yaml": _fill("site.yaml.template", words),
        **containers,
    }


def write_kit(folder: FederationFolder, name: str, host: str | None = None, output: Path | None = None) -> Path:
    """Write a kit as `NAME.zip`, with its files in a folder `NAME`.

    Args:
        folder: folder of the federation.
        name: name of the site.
        host: as in `kit_files`.
        output: file to write; None: `kits/NAME.zip`.

    Raises:
        ConfigError: as `kit_files`, or the file cannot be written.
    """
    files = kit_files(folder, name, host)
    path = output or folder.kits / f"{name}.zip"
    try:
        with write_atomically(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in files.items():
                about = zipfile.ZipInfo(f"{name}/{file}", _EPOCH)
                about.external_attr = _MODE
                archive.writestr(about, content, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _fill(template: str, words: dict[str, str]) -> bytes:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(words).encode()
